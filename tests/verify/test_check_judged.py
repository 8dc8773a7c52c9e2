"""What judges wrote who had not seen the auditor: the mistakes that it once missed, the right rules that it flagged.

The most telling ones; `python -m benchmarks.verify.corpus` audits them all.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from audited import audit

import verify
from benchmarks.verify.false_alarms import some
from corpus import entry

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("lenient")


@pytest.mark.parametrize(
    ("name", "level"),
    [
        pytest.param("softmax_axis1_in_backward", "standard", marks=pytest.mark.slow),
        ("zero_sum_cotangent_shortcut", "quick"),
        ("zero_float_coefficient_ignored", "quick"),
        ("cumprod_divides_by_x", "quick"),
        pytest.param("kernel_races_for_the_sum", "standard", marks=pytest.mark.slow),
        pytest.param("what_the_stride_leaves_over", "standard", marks=pytest.mark.slow),
        pytest.param("squares_in_half_precision", "standard", marks=pytest.mark.slow),
        pytest.param("clipped_to_what_came_before", "standard", marks=pytest.mark.slow),
        pytest.param("lengths_whose_squares_overflow", "standard", marks=pytest.mark.slow),
        pytest.param("probabilities_kept_in_half_precision", "standard", marks=pytest.mark.slow),
        pytest.param("begins_where_it_ended", "standard", marks=pytest.mark.slow),
        ("settings_in_a_queue", "quick"),
        ("axis_counted_from_the_end", "quick"),
        ("permuted_once_more", "quick"),
        ("at_a_border_to_the_left", "quick"),
        ("heads_folded_in_the_other_order", "standard"),
        pytest.param("a_column_summed_as_a_row", "standard", marks=pytest.mark.slow),
        pytest.param("total_in_the_dtype_of_the_weights", "standard", marks=pytest.mark.slow),
        pytest.param("batches_counted_twice", "standard", marks=pytest.mark.slow),
        ("what_is_free_shifts_the_rates", "quick"),
        pytest.param("transposed_once_for_each_sum", "standard", marks=pytest.mark.slow),
        pytest.param("force_without_a_slope", "standard", marks=pytest.mark.slow),
        ("holes_counted_as_numbers", "quick"),
        pytest.param("mean_over_no_rows", "standard", marks=pytest.mark.slow),
        ("all_units_open_at_zero_twice", "quick"),
        ("as_many_segments_as_columns", "quick"),
        pytest.param("masks_in_a_pool_of_four", "standard", marks=pytest.mark.slow),
        pytest.param("counts_what_went_forth_last", "standard", marks=pytest.mark.slow),
        ("unfolded_as_the_last_one_was", "standard"),
        ("echo_with_no_delay", "quick"),
        ("matrix_power_of_the_inverse", "quick"),
        pytest.param("softsign_scaled_up_in_the_backward_pass", "standard", marks=pytest.mark.slow),
    ],
)
def test_mistakes_are_found(name, level):
    report = audit(name, level)
    assert report.verdict == "fail", str(report)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("labels_that_sum_to_one", marks=pytest.mark.slow),
        "folded_angle",
        pytest.param("pooled_by_sorted_segments", marks=pytest.mark.slow),
        pytest.param("nearest_of_both_sides", marks=pytest.mark.slow),
        pytest.param("mixture_of_as_many_shares", marks=pytest.mark.slow),
        pytest.param("gaussians_of_square_factors", marks=pytest.mark.slow),
        pytest.param("slabs_of_three_axes", marks=pytest.mark.slow),
        pytest.param("filter_response_with_learned_threshold", marks=pytest.mark.slow),
    ],
)
def test_right_rules_pass_where_their_example_lives(name):
    """Second derivatives along what keeps rows that sum to one; no index beyond a setting that counts; values at which
    the function itself is not its definition; one row beside many, where other counts are refused; one of several
    vectors that go together; an axis that is as long as another, or of one size but where it is broadcast; second
    derivatives where the first follow another side of a kink."""
    report = audit(name, "standard")
    assert report.verdict == "pass", str(report)


def test_what_a_scale_below_zero_does_is_told_where_the_example_shows_nothing_of_it():
    """Scales, bounds and counts are positive, and rules may rely on it: no error, but no silence either."""
    report = audit("magnitude_of_a_scalar", "quick")
    assert report.verdict == "pass", str(report)
    assert any("the example shows nothing of the kind" in str(f) for f in report.findings), str(report)


@pytest.mark.parametrize("name", ["quotient_rounded_towards_zero", "near_face_is_the_low_one"])
def test_what_the_largest_array_does_below_zero_is_a_mistake(name):
    """It is no scale, and that its example lies above zero may be chance."""
    report = audit(name, "quick")
    assert report.verdict == "fail", str(report)
    assert all("below zero" in f.message for f in report.findings if f.severity == "error"), str(report)


def test_what_is_wrong_at_another_rank_alone_is_told():
    """A definition may take it by accident: no error, but no silence either."""
    report = audit("statistics_of_two_axes", "standard")
    assert report.verdict == "pass", str(report)
    assert any("another rank" in str(f) for f in report.findings), str(report)


def test_what_fits_a_kind_by_chance_is_not_named():
    """What came is the cotangent times two: the gradient of any call before, and the one row of which it consists."""
    report = audit("slope_beyond_the_ends", "standard")
    (error,) = [f for f in report.findings if f.severity == "error"]
    assert error.diagnosis == "unknown", str(report)


@pytest.mark.parametrize("name", ["accumulates_in_float32", "reads_in_float32"])
def test_what_keeps_but_float32_of_float64_is_told(name):
    """Many kernels do on purpose, in both passes: no error, but whoever works in float64 has to know."""
    report = audit(name, "quick")
    assert report.verdict == "pass", str(report)
    assert any("it rounds to float32 inside" in str(f) for f in report.findings), str(report)


def test_what_keeps_but_float32_in_the_backward_pass_alone_is_a_mistake():
    report = audit("float64_through_float32", "quick")
    assert {(f.law, f.diagnosis) for f in report.errors} == {("precision", "precision loss")}, str(report)
    assert "the forward pass does not" in str(report)


def test_a_forward_that_is_not_the_function_is_a_mistake_at_any_value():
    f, plain, args = entry("forward_that_clips").make()
    report = verify.check(f, *args, reference=plain, level="quick")
    assert any(x.law == "value" for x in report.errors), str(report)


@pytest.mark.parametrize(
    "name",
    [
        "relu_one_at_zero",
        "log_sigmoid_vs_naive",
        "negative_binomial_nll",
        "linear_interp_sorted_knots",
        "kernel_sums_one_after_another",
        "distances_with_themselves",
        pytest.param("labels_that_sum_to_one", marks=pytest.mark.slow),
        "linear_relu_at_a_border",
        "weights_of_eight_bits",
        "alignments_summed",
        "density_between_two_ends",
        "pages_up_to_a_length",
        "mixture_with_scales_as_logarithms",
        "labels_beside_a_marker",
        "margin_to_the_first_of_the_best",
        "between_bounds_that_learn",
        "levels_with_a_step_of_their_own",
        "layer_open_at_zero",
        "first_of_the_least_and_of_the_largest",
        "rotation_by_its_series",
        "two_layers_open_at_zero",
        "median_shared_by_equals",
        "tents_up_to_one",
    ],
)
def test_right_rules_pass(name):
    report = audit(name, "quick")
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
import corpus, verify
f, plain, args = corpus.entry("host_sums_over_the_batch").make()
report = verify.check(f, *args, reference=plain)
assert report.verdict == "fail", str(report)
assert any(x.law == "sharded" and x.severity == "note" for x in report.findings), str(report)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)
