"""Each reason not to count a difference saves a right rule, and lets no wrong one through."""

import json

import pytest

import verify
from corpus import entry
from verify.__main__ import main
from verify.report.report import Report
from verify.tolerance import waivers

pytestmark = pytest.mark.usefixtures("lenient")
PAIRS = {  # a right rule that it saves, and a wrong one that it must not
    waivers.UNPROMISED: ("pooled_by_sorted_segments", "xent_minus_one_label"),
    waivers.OTHER: ("folded_angle", "sign_flipped_below_zero"),
    waivers.KINK: ("clip_closed_interval", "pool_ties"),
    waivers.INFINITE: ("median_of_even_rows", "nan_at_zero_row"),
    waivers.DIGITS: ("log_sigmoid_vs_naive", "exp_overflows"),
    waivers.LOOP: ("alignments_summed", "rk4_adjoint_euler"),
    waivers.MACHINE: ("bf16_matmul_f32_accum", "low_precision_only"),
}


def audited(name, level="quick"):
    f, plain, args = entry(name).make()
    return verify.check(f, *args, reference=plain, level=level)


@pytest.mark.parametrize("name", PAIRS)
def test_a_waiver_saves_a_right_rule_and_no_wrong_one(name, monkeypatch):
    saved, wrong = PAIRS[name]
    level = "standard" if name == waivers.MACHINE else "quick"
    report = audited(saved, level)
    assert report.verdict == "pass", str(report)
    assert name in {f.waiver for f in report.findings}
    assert audited(wrong, level).verdict == "fail"
    left = tuple((why, holds) for why, holds in waivers.REASONS if why.waiver != name)
    if name not in (waivers.KINK, waivers.MACHINE):  # which laws have for themselves
        monkeypatch.setattr(waivers, "REASONS", left)
        assert audited(saved, level).verdict == "fail"


@pytest.mark.parametrize(
    ("name", "saved"), [(waivers.LOOP, "kepler_anomaly_implicit"), (waivers.INFINITE, "segment_lse_from_output")]
)
def test_a_reason_saves_a_right_rule(name, saved, monkeypatch):
    assert audited(saved).verdict == "pass"
    monkeypatch.setattr(waivers, "REASONS", tuple((why, f) for why, f in waivers.REASONS if why.waiver != name))
    assert audited(saved).verdict == "fail"


def test_second_derivatives_are_compared_along_where_the_numbers_live():
    assert audited("mirrored_at_unit_normal", "standard").verdict == "pass"


def test_another_size_of_each_axis_goes_forward_in_between():
    report = audited("feature_mean_width_remembered_outside", "standard")
    assert [f.law for f in report.errors] == ["eager"]


def test_a_report_has_one_line_for_what_does_not_count():
    report = audited("mean_of_segments")
    (line,) = (line for line in str(report).splitlines() if "not counted" in line)
    assert "not counted: at " in line
    assert "W01 (verify explain W01;" in line
    assert "a negative one" not in str(report).partition("inputs:")[0]
    assert "a negative one in 0 ([8, 4] [8]) [W01]" in report.details()
    assert Report.from_json(report.to_json()) == report
    (told, *_) = (f for f in json.loads(report.to_json())["findings"] if f["waiver"] == "W01")
    assert told["inputs"] == ["a negative one in 0 ([8, 4] [8])"]


def test_explain_tells_what_is_meant(capsys):
    assert main(["explain"]) == 0
    said = capsys.readouterr().out
    assert all(f"{w.name}  {w.title}" in said and w.otherwise in said for w in waivers.WAIVERS)
    assert main(["explain", "w03"]) == 0
    assert "a kink or a jump" in capsys.readouterr().out
    assert main(["explain", "W99"]) == 2
    assert "got W99; expected some of W01, W02" in capsys.readouterr().err


def test_there_are_few_of_them_and_each_has_its_pair():
    assert len(waivers.WAIVERS) <= 12
    assert [w.name for w in waivers.WAIVERS] == list(PAIRS)
    assert {why.waiver for why, _ in waivers.REASONS} <= set(PAIRS)
