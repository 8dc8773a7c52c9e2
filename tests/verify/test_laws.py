"""Each law has a canary, and on an ordinary subject every canary dies by its own law."""

import pytest

import verify
from corpus import common, entry
from verify.laws.table import LAWS

pytestmark = pytest.mark.usefixtures("lenient")


def test_every_law_has_a_canary_that_dies():
    f, plain, args = entry("linear_").make()
    report = verify.check(f, *args, reference=plain)
    killed = {c.law for c in report.canaries if c.fate == "killed"}
    # only layers have halves; here are no settings, symbolic zeros or Pallas kernels, and seldom more devices than one
    assert killed >= {law.name for law in LAWS} - {"halves", "settings", "parts", "sharded", "spread", "kernels"}
    assert not [c for c in report.canaries if c.fate == "survived"]
    for name in ("zero", "sign", "x1.01", "one element", "shifted"):
        dead = {c.where for c in report.canaries if (c.law, c.name, c.fate) == ("dense", name, "killed")}
        assert dead == {"x", "w", "b"}


def laws_broken(name, level="quick"):
    f, plain, args = entry(name).make()
    return {f.law: f.message for f in verify.check(f, *args, reference=plain, level=level).errors}


def test_each_law_says_what_it_saw():
    assert "off by" in laws_broken("sign")["dense"]
    assert "is not linear in the cotangent" in laws_broken("clipped_cotangent")["linear"]
    assert "is not zero for a zero cotangent" in laws_broken("cotangent_ignored")["zero"]
    assert "one operation at a time" in laws_broken("last_call_wins", "standard")["eager"]
    assert "the definition's own gradient allows" in laws_broken("bfloat16_accumulation")["precision"]
    assert "not finite where the truth is" in laws_broken("exp_overflows")["finite"]
    assert "the forward differs" in laws_broken("forward_differs")["value"]
    assert "not written yet" in laws_broken("raises_in_the_backward_pass")["runs"]


def test_a_gradient_that_is_zero_everywhere_is_said():
    """The bias below a normalization: nothing but rounding in both, neither an alarm nor silence."""

    def plain(x, b):
        z = x + b
        return z - z.mean(0, keepdims=True)

    def bwd(r, d):
        dx = d - d.mean(0, keepdims=True)
        return dx, dx.sum(0)

    f = common.rule(plain, lambda x, b: (plain(x, b), None), bwd)
    report = verify.check(f, common.example(5, 3), common.example(3, seed=1), reference=plain, level="quick")
    assert report.verdict == "pass", str(report)
    assert "its gradient is zero, but for rounding" in str(report)
