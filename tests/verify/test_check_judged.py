"""What judges wrote who had not seen the auditor: the mistakes that it once missed, the right rules that it flagged.

The most telling ones; `python -m benchmarks.verify.strangers` audits them all.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import zoo
import zoo_judged
import zoo_judged_right
import zoo_right

import verify
from benchmarks.verify.false_alarms import some

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("lenient")


def audit(make, level):
    f, plain, args = make()
    return verify.check(f, *args, reference=plain, level=level)


@pytest.mark.parametrize(
    ("make", "level"),
    [
        pytest.param(zoo_judged.softmax_axis1_in_backward, "standard", marks=pytest.mark.slow),
        (zoo_judged.zero_sum_cotangent_shortcut, "quick"),
        (zoo_judged.zero_float_coefficient_ignored, "quick"),
        (zoo_judged.cumprod_divides_by_x, "quick"),
        pytest.param(zoo_judged.kernel_races_for_the_sum, "standard", marks=pytest.mark.slow),
        pytest.param(zoo_judged.what_the_stride_leaves_over, "standard", marks=pytest.mark.slow),
        pytest.param(zoo_judged.squares_in_half_precision, "standard", marks=pytest.mark.slow),
        pytest.param(zoo_judged.clipped_to_what_came_before, "standard", marks=pytest.mark.slow),
        pytest.param(zoo_judged.lengths_whose_squares_overflow, "standard", marks=pytest.mark.slow),
        pytest.param(zoo_judged.probabilities_kept_in_half_precision, "standard", marks=pytest.mark.slow),
        pytest.param(zoo_judged.begins_where_it_ended, "standard", marks=pytest.mark.slow),
        (zoo_judged.settings_in_a_queue, "quick"),
        (zoo_judged.axis_counted_from_the_end, "quick"),
        (zoo_judged.permuted_once_more, "quick"),
        (zoo_judged.at_a_border_to_the_left, "quick"),
        (zoo_judged.heads_folded_in_the_other_order, "standard"),
        pytest.param(zoo_judged.a_column_summed_as_a_row, "standard", marks=pytest.mark.slow),
        pytest.param(zoo_judged.total_in_the_dtype_of_the_weights, "standard", marks=pytest.mark.slow),
        pytest.param(zoo_judged.batches_counted_twice, "standard", marks=pytest.mark.slow),
        (zoo_judged.what_is_free_shifts_the_rates, "quick"),
        pytest.param(zoo_judged.transposed_once_for_each_sum, "standard", marks=pytest.mark.slow),
        pytest.param(zoo_judged.force_without_a_slope, "standard", marks=pytest.mark.slow),
        (zoo_judged.holes_counted_as_numbers, "quick"),
        pytest.param(zoo_judged.mean_over_no_rows, "standard", marks=pytest.mark.slow),
        (zoo_judged.all_units_open_at_zero_twice, "quick"),
        (zoo_judged.as_many_segments_as_columns, "quick"),
        pytest.param(zoo_judged.masks_in_a_pool_of_four, "standard", marks=pytest.mark.slow),
        pytest.param(zoo_judged.counts_what_went_forth_last, "standard", marks=pytest.mark.slow),
        (zoo_judged.unfolded_as_the_last_one_was, "standard"),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_mistakes_are_found(make, level):
    report = audit(make, level)
    assert report.verdict == "fail", str(report)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(zoo_judged_right.labels_that_sum_to_one, marks=pytest.mark.slow),
        zoo_judged_right.folded_angle,
        pytest.param(zoo_judged_right.pooled_by_sorted_segments, marks=pytest.mark.slow),
        pytest.param(zoo_judged_right.nearest_of_both_sides, marks=pytest.mark.slow),
        pytest.param(zoo_judged_right.mixture_of_as_many_shares, marks=pytest.mark.slow),
        pytest.param(zoo_judged_right.gaussians_of_square_factors, marks=pytest.mark.slow),
        pytest.param(zoo_judged_right.slabs_of_three_axes, marks=pytest.mark.slow),
    ],
    ids=lambda make: make.__name__,
)
def test_right_rules_pass_where_their_example_lives(make):
    """Second derivatives along what keeps rows that sum to one; no index beyond a setting that counts; values at which
    the function itself is not its definition; one row beside many, where other counts are refused; one of several
    vectors that go together; an axis that is as long as another, or of one size but where it is broadcast."""
    report = audit(make, "standard")
    assert report.verdict == "pass", str(report)


def test_what_a_scale_below_zero_does_is_told_where_the_example_shows_nothing_of_it():
    """Scales, bounds and counts are positive, and rules may rely on it: no error, but no silence either."""
    report = audit(zoo_judged.magnitude_of_a_scalar, "quick")
    assert report.verdict == "pass", str(report)
    assert any("the example shows nothing of the kind" in str(f) for f in report.findings), str(report)


@pytest.mark.parametrize("make", [zoo_judged.quotient_rounded_towards_zero, zoo_judged.near_face_is_the_low_one])
def test_what_the_largest_array_does_below_zero_is_a_mistake(make):
    """It is no scale, and that its example lies above zero may be chance."""
    report = audit(make, "quick")
    assert report.verdict == "fail", str(report)
    assert all("below zero" in f.message for f in report.findings if f.severity == "error"), str(report)


def test_what_is_wrong_at_another_rank_alone_is_told():
    """A definition may take it by accident: no error, but no silence either."""
    report = audit(zoo_judged.statistics_of_two_axes, "standard")
    assert report.verdict == "pass", str(report)
    assert any("another rank" in str(f) for f in report.findings), str(report)


def test_what_fits_a_kind_by_chance_is_not_named():
    """What came is the cotangent times two: the gradient of any call before, and the one row of which it consists."""
    report = audit(zoo_judged.slope_beyond_the_ends, "standard")
    (error,) = [f for f in report.findings if f.severity == "error"]
    assert error.diagnosis == "unknown", str(report)


@pytest.mark.parametrize("make", [zoo.accumulates_in_float32, zoo_right.reads_in_float32])
def test_what_keeps_but_float32_of_float64_is_told(make):
    """Many kernels do on purpose, on both ways: no error, but whoever works in float64 has to know."""
    report = audit(make, "quick")
    assert report.verdict == "pass", str(report)
    assert any("it rounds to float32 inside" in str(f) for f in report.findings), str(report)


def test_what_keeps_but_float32_on_the_way_back_alone_is_a_mistake():
    report = audit(zoo_judged.float64_through_float32, "quick")
    assert {(f.law, f.diagnosis) for f in report.errors} == {("precision", "precision loss")}, str(report)
    assert "the forward pass does not" in str(report)


def test_a_forward_that_is_not_the_function_is_a_mistake_at_any_value():
    f, plain, args = zoo_judged.forward_that_clips()
    report = verify.check(f, *args, reference=plain, level="quick")
    assert any(x.law == "value" for x in report.errors), str(report)


@pytest.mark.parametrize(
    "make",
    [
        zoo_judged_right.relu_one_at_zero,
        zoo_judged_right.log_sigmoid_vs_naive,
        zoo_judged_right.negative_binomial_nll,
        zoo_judged_right.linear_interp_sorted_knots,
        zoo_judged_right.kernel_sums_one_after_another,
        zoo_judged_right.distances_with_themselves,
        pytest.param(zoo_judged_right.labels_that_sum_to_one, marks=pytest.mark.slow),
        zoo_judged_right.linear_relu_at_a_border,
        zoo_judged_right.weights_of_eight_bits,
        zoo_judged_right.alignments_summed,
        zoo_judged_right.density_between_two_ends,
        zoo_judged_right.pages_up_to_a_length,
        zoo_judged_right.mixture_with_scales_as_logarithms,
        zoo_judged_right.labels_beside_a_marker,
        zoo_judged_right.margin_to_the_first_of_the_best,
        zoo_judged_right.between_bounds_that_learn,
        zoo_judged_right.levels_with_a_step_of_their_own,
        zoo_judged_right.layer_open_at_zero,
        zoo_judged_right.first_of_the_least_and_of_the_largest,
        zoo_judged_right.rotation_by_its_series,
        zoo_judged_right.two_layers_open_at_zero,
        zoo_judged_right.median_shared_by_equals,
        zoo_judged_right.tents_up_to_one,
    ],
    ids=lambda make: make.__name__,
)
def test_right_rules_pass(make):
    report = audit(make, "quick")
    assert report.verdict == "pass", str(report)


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("log_determinant", 1),  # singular: its output is infinite, its gradient partly so
        ("equality_qp_layer", 5),  # singular where the definition jumps, and infinite in float32
        ("equality_qp_layer", 11),  # the definition inverts twice
        ("more_queries_than_keys", 0),  # a log-sum-exp that is far from zero
        ("scale_of_ones_is_positive", 6),  # a gradient that is far larger at one example than at the next
        ("gaussian_loglik_cholesky", 4),  # a gradient that is symmetric but for rounding
    ],
)
def test_right_rules_pass_at_examples_that_once_gave_an_alarm(name, seed):
    (row,) = some([name], seed, "quick")
    assert row["verdict"] == "pass", row["report"]


def test_devices_that_meet_are_not_made_to_wait_for_the_host():
    """XLA's CPU client would end the process after forty seconds."""
    program = """
import jax
jax.config.update("jax_num_cpu_devices", 4)
import sys
sys.path.insert(0, "tests/verify")
import verify, zoo_judged
f, plain, args = zoo_judged.host_sums_over_the_batch()
report = verify.check(f, *args, reference=plain)
assert report.verdict == "fail", str(report)
assert any(x.law == "sharded" and x.severity == "note" for x in report.findings), str(report)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)
