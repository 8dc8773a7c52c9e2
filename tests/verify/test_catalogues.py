"""Catalogues of one's own: named on the command line, and not by a token alone."""

import re
import sys

import pytest

from verify.__main__ import main
from verify.naming import catalogues
from verify.naming.catalogues import CatalogueError

OWN = """
from dataclasses import dataclass
from types import SimpleNamespace


import jbp
from jbp.cases import Case, f
from jbp.layer import Layer


@dataclass(frozen=True, repr=False)
class Cubed(Layer):
    factor: float = 3.0

    def forward(self, params, x, /):
        return x**3, x

    def backward(self, params, x, dy, /):
        return self.factor * dy * x**2, ()


LAYERS = (Case(Cubed({factor}), f(2, 3), f(3, 5)), Case(jbp.layers.Tanh(), f(2, 3)), Case(jbp.layers.Dense(3), f(2, 3)))
NAMES = {{"Cubed": Cubed, "Tanh": jbp.layers.Tanh, "Dense": jbp.layers.Dense, "Serial": jbp.Serial}}


def catalogue():
    return SimpleNamespace(
        layers=LAYERS, losses=(), forms=(), serial=jbp.Serial, with_loss=None, names=NAMES
    )
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a module with a catalogue, of layers that are right or wrong; gives the name of the catalogue."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(catalogues, "_allowed", set())

    def write(name, factor):
        (tmp_path / f"{name}.py").write_text(OWN.format(factor=factor))
        monkeypatch.delitem(sys.modules, name, raising=False)
        return f"{name}:catalogue"

    return write


def test_random_networks_of_a_catalogue_of_ones_own(own, capsys):
    assert main(["networks", "--catalogue", own("right_layers", 3.0), "--count", "20", "--here"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "20 random networks, 0 disagreements" in said
    assert (
        main(["layers", "--catalogue", "right_layers:catalogue", "--only", "Cubed", "--level", "quick", "--here"]) == 0
    )


def test_a_token_does_not_make_anybody_import_a_catalogue(own, capsys, monkeypatch):
    name = own("wrong_layers", 2.0)
    assert main(["networks", "--catalogue", name, "--count", "20", "--here"]) == 1
    said = capsys.readouterr().out
    assert "Cubed(factor=2.0) is at fault" in " ".join(said.split())
    (token,) = set(re.findall(r"replay +python -m verify replay (\S+)", said))
    monkeypatch.setattr(catalogues, "_allowed", set())
    assert main(["replay", token, "--here"]) == 2
    assert "add --allow wrong_layers" in capsys.readouterr().err
    assert main(["replay", token, "--here", "--allow", "wrong_layers"]) == 1


def test_what_is_no_catalogue_says_what_is_missing(own, tmp_path):
    (tmp_path / "nothing_much.py").write_text("catalogue = object()")
    own("right_layers", 3.0)
    catalogues.allow("nothing_much:catalogue")
    with pytest.raises(CatalogueError, match="without layers, losses, forms"):
        catalogues.catalogue("nothing_much:catalogue")
    with pytest.raises(CatalogueError, match="expected one that you have named"):
        catalogues.catalogue("right_layers:catalogue")
