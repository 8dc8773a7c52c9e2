"""One call for strangers: right rules pass, wrong ones fail, and the report says why."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from audited import audit
from jax import lax

import verify
from corpus import common, entry

pytestmark = pytest.mark.usefixtures("lenient")

STANDARD = {  # what shows only at other sizes, in low precision, or in how it is called
    "tile_tail",
    "batch_of_one",
    "last_call_wins",
    "python_branch",
    "bfloat16_accumulation",
    "low_precision_only",
    "dtype_of_cotangent",
    "max_to_the_first",
    "layer_norm_",
    "cross_entropy_",
    "gather_",
    "accumulates_in_float32",
}


RIGHT = [
    "linear_", "softmax_", "layer_norm_", "cross_entropy_", "relu_", "relu_with_half_at_zero", "max_to_the_first",
    "unit_", "gather_", "softplus_", "accumulates_in_float32", "variance_in_one_pass", "several_outputs",
    "product_of_rows", "jvp_rule", "tanh_", "scaled_by_python_number",
]  # fmt: skip
WRONG = [
    "factor_two", "sign", "mean_instead_of_sum", "forgotten_leaf", "transposed", "weights_not_transposed",
    "norm_missing_term", "softmax_wrong_axis", "one_per_mille", "last_row_zero", "shifted_by_one",
    "one_element_1e_9", "xent_not_divided", "xent_wrong_batch", "cotangent_ignored", "jvp_rule_wrong",
    "ties_all_get_it", "nan_at_zero_row", "exp_overflows", "tile_tail", "batch_of_one", "clipped_cotangent",
    "duplicate_ids", "first_id", "stale_cache", "last_call_wins", "bfloat16_accumulation", "low_precision_only",
    "saturated", "small_values", "square_only", "python_branch", "integers_only", "dtype_of_cotangent",
    "masked_rows_leak", "forward_differs", "raises_in_the_backward_pass", "product_divides",
]  # fmt: skip


def at_its_level(name):
    return audit(name, "standard" if name in STANDARD else "quick")


LONG = {"cross_entropy_", "layer_norm_", "bfloat16_accumulation", "batch_of_one", "low_precision_only"}


def marked(names):
    """Every second one, and those that take ten seconds and more, for the slow tests."""
    late = [i % 2 or name in LONG for i, name in enumerate(names)]
    return [pytest.param(name, marks=[pytest.mark.slow] * bool(slow)) for name, slow in zip(names, late, strict=True)]


@pytest.mark.parametrize("name", marked(RIGHT))
def test_right_rules_pass(name):
    report = at_its_level(name)
    assert report.verdict == "pass", str(report)
    assert any(c.fate == "killed" for c in report.canaries)


@pytest.mark.parametrize("name", marked(WRONG))
def test_wrong_rules_fail(name):
    report = at_its_level(name)
    assert report.verdict == "fail", str(report)
    with pytest.raises(verify.AuditError, match="FAIL"):
        report.raise_if_failed()


@pytest.mark.parametrize(
    ("name", "where", "diagnosis"),
    [
        ("factor_two", "w", "constant factor 2"),
        ("sign", "x", "sign"),
        ("forgotten_leaf", "b", "zero"),
        ("one_per_mille", "x", "constant factor 1.001"),
        ("one_element_1e_9", "x", r"one element \[1, 2\]"),
        ("shifted_by_one", "x", "off by one along axis 1"),
        ("transposed", "w", "transpose of axes 0 and 1"),
        ("last_row_zero", "x", "zero, last along axis 0 only"),
        ("exp_overflows", "x", "overflow"),
        ("nan_at_zero_row", "x", "division by zero"),
        ("clipped_cotangent", "x", "not linear in the cotangent"),
        ("norm_missing_term", "x", r"missing term: through argument \d of \w+ \(norms.py"),
    ],
)
def test_kind_of_mistake(name, where, diagnosis):
    findings = at_its_level(name).errors
    assert any(f.where == where and re.match(diagnosis, f.diagnosis) for f in findings), findings
    assert not any(f.where not in (where, "") for f in findings), findings


def _layer_norm(x):
    c = x - x.mean(-1, keepdims=True)
    return c * lax.rsqrt((c * c).mean(-1, keepdims=True) + 1e-5)


def _recurrent(w, u, x):
    def step(h, x):
        h = jnp.tanh(x @ w + h @ u)
        return h, h

    return lax.scan(step, jnp.zeros((2, 3)), x)[1]


def _one_step_back(r, d):
    """As if no state came from the step before."""
    w, u, x = r
    h = _recurrent(w, u, x)
    e = d * (1 - h * h)
    return jnp.einsum("tbi,tbj->ij", x, e), jnp.einsum("tbi,tbj->ij", h[:-1], e[1:]), e @ w.T


def _norm_back(minus):
    def bwd(r, d):
        h = _layer_norm(r[0])
        s = lax.rsqrt(r[0].var(-1, keepdims=True) + 1e-5)
        return (s * (d - minus(d, h)),)

    return bwd


def _mean(v):
    return v.mean(-1, keepdims=True)


@pytest.mark.parametrize(
    ("plain", "bwd", "args", "diagnosis"),
    [
        (_layer_norm, _norm_back(lambda d, h: _mean(d)), [(3, 4)], "missing term: through"),
        (_layer_norm, _norm_back(lambda d, h: _mean(d) - h * _mean(d * h)), [(3, 4)], "sign of a term: through"),
        (_layer_norm, _norm_back(lambda d, h: 0.0), [(3, 4)], r"missing term: through.*, and through"),
        (_recurrent, _one_step_back, [(4, 3), (3, 3), (5, 2, 4)], "missing term: through argument 0 of dot_general"),
        (lambda x: jnp.tanh(x), lambda r, d: (d * (1 - r[0] ** 2),), [(3, 4)], "wrong residual: an input"),
        (lambda x, g: jnp.tanh(x) + jnp.sin(g), lambda r, d: (d * (1 - r[0] ** 2), d * jnp.cos(r[1])),
         [(3, 4), (3, 4)], "wrong residual: an input"),
        (lambda x, w: jnp.sin(x @ w), lambda r, d: ((e := d * jnp.cos(r[0] @ r[1])) @ r[1], r[0].T @ e),
         [(2, 4), (4, 4)],
         "transpose of axes 0 and 1 of argument 1 of dot_general"),
        (lambda x, w: x @ w, lambda r, d: (d @ r[1].T, jnp.outer(r[0][0], d[0])), [(2, 3), (3, 4)],
         "missing sum: the first along axis 0 alone of output 0"),
        (lambda a, b: (a * a @ b).sum(1), lambda r, d: (f := 2 * d[:, None] * (r[0] * r[1].sum(1)), f),
         [(4, 4), (4, 4)], "swapped with the gradient of a"),
    ],
)  # fmt: skip
def test_what_is_amiss_inside(plain, bwd, args, diagnosis):
    f = jax.custom_vjp(plain)
    f.defvjp(lambda *args: (plain(*args), args), bwd)
    report = verify.check(f, *(common.example(*shape) for shape in args), reference=plain, level="quick")
    said = [f.diagnosis for f in report.errors if f.law == "dense"]
    assert said
    assert all(re.match(diagnosis, d) for d in said), said


@pytest.mark.slow
def test_factor_of_a_size_is_told_from_a_number_by_other_sizes():
    f, plain, args = entry("mean_instead_of_sum").make()
    finding = next(f for f in verify.check(f, *args, reference=plain).errors if f.law == "dense")
    assert finding.diagnosis == "factor of a size: 1 / leaf 0.shape[0]"


def test_report_is_readable_and_json():
    f, plain, args = entry("sign").make()
    report = verify.check(f, *args, reference=plain, level="quick")
    text = str(report)
    assert "FAIL" in text
    assert "float64 vjp of the reference" in text
    assert "zeros" in text
    told = json.loads(report.to_json())
    assert told["verdict"] == "fail"
    assert told["findings"][0]["where"] == "x"


def square_rule(bwd):
    return common.rule(lambda x: x * x, lambda x: (x * x, x), bwd)


def test_without_a_reference_its_own_forward_is_differentiated():
    good, bad = square_rule(lambda x, d: (2 * x * d,)), square_rule(lambda x, d: (x * d,))
    x = common.example(3, 4)
    report = verify.check(good, x, level="quick")
    assert (report.verdict, report.oracle) == ("pass", "own forward")
    assert verify.check(bad, x, level="quick").verdict == "fail"


def test_rules_inside_loops_and_branches_are_stripped():
    inner = square_rule(lambda x, d: (3 * x * d,))

    def f(x):
        y, _ = lax.scan(lambda c, _: (inner(c) * 0.5, None), x, None, length=2)
        return jax.checkpoint(inner)(y) + lax.cond(x.sum() > 0, inner, jnp.sin, x)

    report = verify.check(f, common.example(3, 4), level="quick")
    assert (report.verdict, report.oracle) == ("fail", "own forward")


def root(factor):
    """A square root by Newton's steps in a while loop, which has no reverse mode of its own."""

    def newton(x):
        return lax.while_loop(lambda s: (s[1] < 40).all(), lambda s: (0.5 * (s[0] + x / s[0]), s[1] + 1), (x, 0))[0]

    return common.rule(newton, lambda x: (newton(x),) * 2, lambda y, d: (factor * d / y,))


def test_finite_differences_where_nothing_else_goes():
    x = jnp.abs(common.example(5)) + 0.5
    report = verify.check(root(0.5), x, level="quick")
    assert (report.verdict, report.oracle) == ("pass", "finite differences"), str(report)
    assert verify.check(root(0.501), x, level="quick").verdict == "fail"


def test_pair():
    def fwd(x, i):
        return x[i] ** 2, (x, i)

    def bwd(r, d):
        x, i = r
        return jnp.zeros_like(x).at[i].add(2 * x[i] * d), None

    args = common.example(6), common.ids(6, 4)
    assert verify.check(verify.pair(fwd, bwd), *args, level="quick").verdict == "pass"
    wrong = verify.pair(fwd, lambda r, d: (bwd(r, d)[0] * 2, None))
    assert verify.check(wrong, *args, level="quick").verdict == "fail"
    short = verify.pair(fwd, lambda r, d: (bwd(r, d)[0],))
    report = verify.check(short, *args, level="quick")
    assert report.verdict == "fail"
    assert "expected a tuple of 2" in str(report)


def test_reference_that_is_the_subject_or_has_rules_is_said():
    f = square_rule(lambda x, d: (2 * x * d,))
    report = verify.check(f, common.example(3), reference=f, level="quick")
    assert "the reference is the subject itself" in str(report)
    report = verify.check(entry("relu_").make()[0], common.example(3, 4), reference=jax.nn.relu, level="quick")
    assert report.verdict == "pass", str(report)
    assert "the reference calls JAX's own custom rules (relu)" in str(report)
    report = verify.check(f, common.example(3), reference=lambda x: f(x) + 0, level="quick")
    assert "the reference calls custom rules (f)" in str(report)


@pytest.mark.slow
def test_rules_of_jax_itself_are_trusted_within_others_and_judged_alone():
    """At equal arguments the formula of logaddexp has another derivative than its rule, which is right."""

    def pair(x, y):
        return jnp.logaddexp(x, y) ** 2

    def bwd(r, d):
        x, y = r
        g = 2 * d * jnp.logaddexp(x, y)
        return g * jax.nn.sigmoid(x - y), g * jax.nn.sigmoid(y - x)

    args = common.example(5), common.example(5, seed=1)
    rule = common.rule(pair, lambda x, y: (pair(x, y), (x, y)), bwd)
    for reference in (pair, None):
        report = verify.check(rule, *args, reference=reference)
        assert report.verdict == "pass", str(report)
    assert verify.check(jax.nn.relu, args[0], level="quick").oracle == "own forward"


def test_a_function_without_a_rule_is_not_passed_on_its_own_word():
    assert verify.check(jnp.sin, common.example(3), level="quick").verdict == "inconclusive"


def test_nothing_to_audit():
    assert verify.check(lambda i: i + 1, common.ids(3, 4)).verdict == "inconclusive"
    with pytest.raises(verify.SubjectError, match="expected a function, a layer"):
        verify.check(3, common.example(3))
    with pytest.raises(verify.SubjectError, match="expected one of"):
        verify.check(jnp.sin, common.example(3), level="loud")


def test_a_subject_that_raises_is_a_finding():
    def f(x):
        raise ValueError("no such thing")

    report = verify.check(f, common.example(3))
    assert report.verdict == "fail"
    assert "no such thing" in report.findings[0].message


def test_a_reference_without_finite_gradient_proves_nothing():
    f = square_rule(lambda x, d: (2 * x * d,))
    report = verify.check(f, common.example(3, 4), reference=lambda x: x * x + jnp.sqrt(0 * x) * 0, level="quick")
    assert report.verdict == "inconclusive"


def test_global_settings_are_left_alone():
    before = jax.config.read("jax_enable_x64")
    seen = []

    def plain(x):
        seen.append(x.dtype)
        return x * x

    verify.check(square_rule(lambda x, d: (2 * x * d,)), common.example(3), reference=plain, level="quick")
    assert np.dtype("float64") in seen
    assert jax.config.read("jax_enable_x64") == before


def test_mixed_dtypes_and_keys():
    def plain(x, w, key):
        keep = jax.random.bernoulli(key, 0.5, x.shape)
        return jnp.where(keep, x, 0) @ w.astype(x.dtype)

    def fwd(x, w, key):
        return plain(x, w, key), (x, w, key)

    def bwd(r, d):
        x, w, key = r
        keep = jax.random.bernoulli(key, 0.5, x.shape)
        dw = jnp.where(keep, x, 0).T @ d
        return jnp.where(keep, d @ w.astype(d.dtype).T, 0), dw.astype(w.dtype), None

    f = common.rule(plain, fwd, bwd)
    args = common.example(4, 5).astype(jnp.bfloat16), common.example(5, 3), jax.random.key(0)
    report = verify.check(f, *args, reference=plain, level="quick")
    assert report.verdict == "pass", str(report)
