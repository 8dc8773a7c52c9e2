"""How wrong a right answer may be, and how small a mistake is still found."""

import jax.numpy as jnp
import pytest
from audited import audit

import verify
from corpus import common, entry

LITTLE_TO_GO_BY = [  # nearly all of an element's gradient comes in one draw; it is zero where dy is constant
    pytest.param("streaming_logsumexp", common.example(5, 21, scale=8, seed=8), marks=pytest.mark.slow),
    ("softmax_in_bfloat16", common.example(4, 6, seed=1).astype(jnp.bfloat16)),
]

pytestmark = pytest.mark.usefixtures("lenient")


def softmax_with(change):
    def bwd(y, d):
        return (change(y * (d - (y * d).sum(-1, keepdims=True))),)

    return common.rule(common.softmax, lambda x: (common.softmax(x),) * 2, bwd)


def only(dtype, factor):
    """One element wrong by a factor, in one dtype only."""
    return lambda g: g.at[1, 2].multiply(factor) if g.dtype == dtype else g


@pytest.mark.parametrize(
    ("dtype", "factor", "level"),
    [("float64", 1 + 1e-9, "quick"), ("float32", 1 + 1e-4, "quick"), ("bfloat16", 1.05, "standard")],
)
def test_detection_floor(dtype, factor, level):
    report = verify.check(
        softmax_with(only(jnp.dtype(dtype), factor)), common.example(4, 6), reference=common.softmax, level=level
    )
    assert report.verdict == "fail", str(report)


def test_ill_conditioned_rules_are_not_flagged():
    """A variance far from the mean: the reference itself loses digits, and the budget sees it."""

    def plain(x):
        return (x * x).mean(-1) - x.mean(-1) ** 2

    def bwd(x, d):
        return (2 * d[..., None] * (x - x.mean(-1, keepdims=True)) / x.shape[-1],)

    f = common.rule(plain, lambda x: (plain(x), x), bwd)
    report = verify.check(f, 1e3 + common.example(4, 6), reference=plain, level="quick")
    assert report.verdict == "pass", str(report)


def test_huge_dynamic_range():
    x = common.example(4, 6) * 10.0 ** jnp.arange(-12, 12).reshape(4, 6)
    f, plain, _ = entry("tanh_").make()
    report = verify.check(f, x, reference=plain, level="quick")
    assert report.verdict == "pass", str(report)


@pytest.mark.parametrize(("name", "x"), LITTLE_TO_GO_BY)
def test_what_tells_little_in_half_precision_is_not_flagged(name, x):
    f, plain, _ = entry(name).make()
    report = verify.check(f, x, reference=plain)
    assert report.verdict == "pass", str(report)


def test_kinks_accept_any_subgradient_but_not_two_of_them():
    assert "kink" in {f.law for f in audit("relu_with_half_at_zero", "quick").findings}
    assert audit("max_to_the_first", "quick").verdict == "pass"
    assert audit("ties_all_get_it", "quick").verdict == "fail"


def test_each_element_of_the_output_chooses_its_side_of_a_kink():
    """Also beside an output that has no elements; but what no side of any of them has is a mistake."""

    def plain(x, w):
        return jnp.maximum(x @ w, 0), x[:0]

    def with_slope(at_zero):
        def bwd(r, d):
            x, w = r
            z = x @ w
            down = d[0] * jnp.where(z == 0, at_zero, z > 0)
            return down @ w.T, x.T @ down

        return common.rule(plain, lambda x, w: (plain(x, w), (x, w)), bwd)

    args = common.example(3, 4), common.example(4, 5, seed=1)
    for at_zero, verdict in ((1.0, "pass"), (0.3, "pass"), (2.0, "fail")):
        report = verify.check(with_slope(at_zero), *args, reference=plain, level="quick")
        assert report.verdict == verdict, str(report)
