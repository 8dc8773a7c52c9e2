"""The tasks of a day, as programs of at most sixty lines over the public API, at tiny sizes."""

from pathlib import Path

import pytest

from examples.tasks import finetune, heads, join, look, own_layer, private, released, text

pytestmark = pytest.mark.usefixtures("lenient")


def test_each_is_short():
    files = [path for path in Path(text.__file__).parent.glob("*.py") if path.name != "__init__.py"]
    assert files
    assert {path.name: n for path in files if (n := len(path.read_text().splitlines())) > 60} == {}


def test_text_of_any_length_saved_and_read_in_a_fresh_process():
    assert text.main(steps=200) > 0.8


def test_a_layer_of_ones_own_and_the_same_broken():
    right, wrong, found = own_layer.main()
    assert (right.verdict, wrong.verdict) == ("pass", "fail")
    assert {leaf.name for leaf in found.leaves if leaf.error > 1e-9} == {"params[0]['w']", "params[0]['b']", "x"}


def test_fine_tuning_with_adapters_a_new_head_and_rates_by_part():
    before, after = finetune.main(steps=60)
    assert after < before / 2


def test_private_training():
    epsilon, accuracy = private.main()
    assert epsilon <= 3.0
    assert accuracy > 0.9


def test_two_inputs_to_two_heads():
    before, after = heads.main(steps=40)
    assert after < before / 2


def test_inside_of_flax_and_equinox():
    for train in (join.in_flax, join.in_equinox):
        loss, steps = train(20)
        assert steps == 20
        assert loss < 1


def test_a_released_function_and_its_page():
    code, page = released.main()
    assert code == 0
    assert "<html" in page
    assert "softplus" in page


def test_looking(tmp_path):
    _, found = look.main(tmp_path, steps=20)
    assert found.agrees
    assert (tmp_path / "training.png").stat().st_size > 1000
    assert "blocks Repeat × 3" in (tmp_path / "net.svg").read_text()
