"""The examples' figures of merit can be missed, and the gallery's page shows what it is given, failures too."""

import base64
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import jbp
from examples import gallery, perceptron, sentences, shared, thought
from jbp.catalogue import NAMES


@pytest.fixture(autouse=True)
def single_precision():
    """As the examples run: without the settings of the other tests."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def outcome(module, out, *arguments):
    """What an example saved, and what its command ended with."""
    with pytest.raises(SystemExit) as stop:
        shared.main(module.run, steps=30, short=30, argv=["--out", str(out), *arguments])
    found = json.loads((out / "outcome.json").read_text())
    return found | {"picture": base64.b64encode((out / found["picture"]).read_bytes()).decode()}, stop.value.code


def test_an_example_reaches_its_bar_and_is_on_the_page(tmp_path):
    found, code = outcome(perceptron, tmp_path)
    assert code == 0
    assert all(figure["reached"] for figure in found["figures"])
    page = gallery.page({"perceptron": found, "other": found | {"title": "The <other>"}})
    assert page.count(found["picture"]) == 2
    assert page.count(found["line"]) == 2
    assert "The &lt;other&gt;" in page
    assert "<other>" not in page
    assert "All bars were reached." in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_with_a_broken_gradient_it_misses_the_bar(tmp_path, monkeypatch):
    right = jbp.layers.Dense.gradient
    monkeypatch.setattr(jbp.layers.Dense, "gradient", lambda *now: jax.tree.map(lambda g: -g, right(*now)))
    found, code = outcome(perceptron, tmp_path)
    assert "held-out accuracy is" in str(code)
    page = gallery.page({"perceptron": found})
    assert "Not as they should be: perceptron." in page


def test_two_words_are_exchanged_and_nothing_else():
    words = np.array([[3, 4, 5, 6, 0], [7, 7, 8, 0, 0], [2, 2, 2, 0, 0]])
    found = sentences.exchanged(words, np.array([4, 3, 3]), np.random.default_rng(0))
    assert (found != words).sum(1).tolist() == [2, 2, 0]
    assert (np.sort(found, 1) == np.sort(words, 1)).all()
    assert (found[0, 4], found[1, 3]) == (0, 0)


def test_thoughts_of_a_topic_find_one_another(tmp_path, monkeypatch):
    """Each topic has words of its own, and no two sentences share any: what a bag of words cannot see."""
    random = np.random.default_rng(0)

    def sentence(topic, side):
        return " ".join(f"{'abcdefgh'[topic]}{side}{'stuvwxyz'[k]}" for k in random.integers(0, 8, 5))

    files = [[(sentence(k % 8, "m"), sentence(k % 8, "n")) for k in range(80)] for _ in range(20)]
    monkeypatch.setattr(thought, "neighbours", lambda: files)
    monkeypatch.setattr(thought, "BATCH", 64)
    found = thought.run(60, 0, tmp_path).figures[0]
    assert found.value > 0.85  # a stranger of the same topic, one in eight, is as good
    assert found.why == "a bag of words: 0.50"


def test_a_failure_is_on_the_page():
    page = gallery.page({"gone": {"title": "gone", "failed": "Traceback: 1 < 2"}})
    assert "1 &lt; 2" in page
    assert "Not as they should be: gone." in page


def test_the_gallery_ends_with_an_error_where_an_example_does(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "EXAMPLES", ("no_such_example",))
    with pytest.raises(SystemExit, match="no_such_example"):
        gallery.main(["--out", str(tmp_path)])
    assert "No module named examples.no_such_example" in (tmp_path / "index.html").read_text()


def test_every_example_is_in_the_gallery():
    files = [path for path in Path(gallery.__file__).parent.glob("*.py") if "\n    main(run" in path.read_text()]
    assert {path.stem for path in files} == set(gallery.EXAMPLES)


def test_no_example_has_more_than_a_hundred_lines():
    folder = Path(gallery.__file__).parent
    assert not [name for name in gallery.EXAMPLES if len((folder / f"{name}.py").read_text().splitlines()) > 100]


@pytest.mark.parametrize(("value", "reached"), [(0.9, True), (0.89, False), (float("nan"), False)])
def test_a_bar_is_reached_or_missed(value, reached):
    assert shared.Figure("", value, 0.9, "").reached is reached
    assert shared.Figure("", -value, -0.9, "", low=True).reached is reached


def test_the_repr_of_a_network_over_several_lines_is_the_same_program():
    net = jbp.recipes.resnet()
    text = gallery.wrapped(repr(net), 60)
    assert max(map(len, text.splitlines())) <= 60
    assert eval(text, dict(NAMES)) == net
