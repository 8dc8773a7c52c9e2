"""Mistakes that show only in one way of calling, at one setting or in one dtype; right rules that look suspicious.

One entry for each law and kind of input; `python -m benchmarks.verify.corpus` audits them all.
"""

import jax
import jax.numpy as jnp
import pytest
from audited import audit

import verify
from corpus import common

pytestmark = pytest.mark.usefixtures("lenient")


@pytest.mark.parametrize(
    ("name", "law", "diagnosis"),
    [
        ("relu6_without_six", "dense", "only far out"),
        ("variance_from_squares", "precision", ""),
        ("minus_zero", "dense", "only at ties or zeros"),
        ("scale_as_a_python_number", "dense", "constant factor 0.5"),
        ("nothing_masked", "dense", ""),
        ("complex_not_conjugated", "dense", ""),
        ("second_output_ignored", "dense", "missing term: the cotangent of output 1"),
        ("no_threshold_below_zero", "dense", ""),
        ("a_sum_of_softmax_without_its_mean", "dense", ""),
        ("two_numbers_of_three", "dense", ""),
    ],
)
def test_values_and_settings(name, law, diagnosis):
    errors = audit(name, level="quick").errors
    assert any(f.law == law and f.diagnosis.startswith(diagnosis) for f in errors), errors


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("beyond_512", "dense"),
        pytest.param("square_weights_not_transposed", "dense", marks=pytest.mark.slow),
        pytest.param("empty_batch", "finite", marks=pytest.mark.slow),
        pytest.param("bias_broadcast_over_rows", "dense", marks=pytest.mark.slow),
        ("big_constant_in_half", "precision"),
        pytest.param("xent_saves_lse_half", "precision", marks=pytest.mark.slow),
        ("batched_input_alone", "vmap"),
        ("second_derivative_stopped", "twice"),
        ("symbolic_zeros_swapped", "parts"),
        ("last_call_wins", "leaks"),
    ],
)
def test_sizes_dtypes_and_transforms(name, law):
    report = audit(name)
    assert law in {f.law for f in report.errors}, str(report)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("clip_open_at_its_ends", marks=pytest.mark.slow),
        pytest.param("logit_of_probabilities", marks=pytest.mark.slow),
        pytest.param("scale_of_ones_is_positive", marks=pytest.mark.slow),
        pytest.param("additive_mask", marks=pytest.mark.slow),
        pytest.param("pointers_of_rows", marks=pytest.mark.slow),
        pytest.param("labels_of_minus_one_are_ignored", marks=pytest.mark.slow),
        pytest.param("quadratic_form", marks=pytest.mark.slow),
        "slope_as_a_setting",
        pytest.param("symbolic_zeros", marks=pytest.mark.slow),
        "complex_square",
        "a_threshold_for_each_channel",
        "points_of_three_numbers",
        "a_sum_that_is_always_one",
    ],
)
def test_right_rules_that_look_suspicious_pass(name):
    report = audit(name)
    assert report.verdict == "pass", str(report)


def test_what_cannot_be_called_is_said():
    def keywords(x, *, scale):
        return x * scale

    says = r"cannot be called.*missing a required (keyword-only )?argument: 'scale'.*partial"
    with pytest.raises(verify.SubjectError, match=says):
        verify.check(keywords, common.example(3))
    with pytest.raises(verify.SubjectError, match="expected a function of the same arguments"):
        verify.check(jnp.sin, common.example(3), reference=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(verify.SubjectError, match="another structure than the example"):
        verify.check(jnp.sin, common.example(3), reference=jnp.sin, captured=[(common.example(3), common.example(3))])


@pytest.mark.parametrize(
    ("f", "args", "text"),
    [
        (lambda x: (x > 0).sum(), (common.example(3),), "no output has a gradient"),
        (lambda x: x, (jnp.zeros((0, 3)),), "the example is empty"),
        (lambda x: x, (jnp.full(3, jnp.nan),), "no finite element"),
    ],
)
def test_nothing_to_compare_is_never_a_pass(f, args, text):
    report = verify.check(f, *args, reference=f, level="quick")
    assert report.verdict == "inconclusive"
    assert text in str(report)


def test_captured_arguments_are_tried():
    """Wrong only next to 77.7, which nobody would think of."""
    f, plain, args = common.elementwise(jnp.sin, lambda x: jnp.where(jnp.abs(x - 77.7) < 0.01, 0, jnp.cos(x)))
    assert verify.check(f, *args, reference=plain, level="quick").verdict == "pass"
    report = verify.check(f, *args, reference=plain, level="quick", captured=[(jnp.full((2, 3), 77.7),)])
    assert "captured 0" in str(report.errors[0])


def test_a_survivor_says_what_it_needs():
    blind = common.rule(lambda x: 0 * x, lambda x: (0 * x, x), lambda x, d: (0 * d,))
    report = verify.check(blind, common.example(3), reference=lambda x: 0 * x, level="quick")
    assert report.verdict == "inconclusive", str(report)
    assert "needed: " in str(report)


def test_a_second_derivative_that_is_not_there_is_a_note():
    report = audit("not_twice")
    assert report.verdict == "pass", str(report)
    assert any(f.law == "twice" and f.severity == "note" for f in report.findings), str(report)


@pytest.mark.skipif(jax.device_count() > 1, reason="there are devices to spread over")
def test_what_was_skipped_is_said():
    report = audit("relu_", level="quick")
    assert "vmap" in report.tried["skipped"]


def test_a_function_that_looks_at_its_values_may_refuse_others():
    """Labels of 1 and -1: outside of jit, where they can be seen, others are refused. They are never called for."""

    def plain(z, t):
        return jnp.maximum(0, 1 - t * z).sum()

    def looked(t):
        if not isinstance(t, jax.core.Tracer) and not (abs(t) == 1).all():
            raise ValueError("expected labels of 1 and -1")

    @jax.custom_vjp
    def hinge(z, t):
        return forward(z, t)[0]

    def forward(z, t):
        looked(t)
        return plain(z, t), (z, t)

    def backward(kept, dy):
        z, t = kept
        inside = (t * z < 1) * dy
        return -t * inside, -z * inside

    hinge.defvjp(forward, backward)
    labels = jnp.asarray([[1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]], "float32")
    report = verify.check(hinge, common.example(2, 3), labels, reference=plain, level="quick")
    assert report.verdict == "pass", report


def sinc(x):
    safe = jnp.where(x == 0, 1.0, x)
    return jnp.where(x == 0, 1 - x * x / 6, jnp.sin(safe) / safe)


@pytest.mark.parametrize(("slope", "verdict"), [(-1 / 3, "pass"), (0.0, "fail")])
def test_second_derivatives_at_one_point(slope, verdict):
    """sinc'(0) = 0 and sinc''(0) = −1/3, of which a rule that says 0 at 0 knows nothing."""

    @jax.custom_jvp
    def f(x):
        return sinc(x)

    @f.defjvp
    def _(primals, tangents):
        (x,), (v,) = primals, tangents
        safe = jnp.where(x == 0, 1.0, x)
        return f(x), v * jnp.where(x == 0, slope * x, (jnp.cos(safe) - jnp.sin(safe) / safe) / safe)

    report = verify.check(f, jnp.array([0.3, -1.2, 2.0, 0.7]), reference=sinc)
    assert report.verdict == verdict, report
    assert {e.law for e in report.errors} == ({"twice"} if verdict == "fail" else set())
