"""The names of mistakes, out of the arrays that came and the truth."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from verify.diagnose import fits
from verify.laws.law import Breach

KINDS = fits.factor, fits.transpose, fits.reversal, fits.off_by_one, fits.part, fits.row, fits.term, fits.rounding


def sample(change, *shape, seed=0):
    truth = np.random.default_rng(seed).normal(size=shape)
    case = SimpleNamespace(floats=(truth,), ordinary=True)
    return Breach("dense", 0, 1.0, "", (case, "noise", (truth,)), (change(truth), truth))  # pyright: ignore


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("change", [np.transpose, np.negative, np.ones_like, lambda t: t + 1], ids=["t", "-", "1", "+"])
def test_samples_of_several_ranks_have_a_name_or_none(kind, change):
    shapes = (), (4,), (4, 4), (4, 4, 4)
    for several in itertools.permutations(shapes, 3):
        assert isinstance(kind([sample(change, *shape, seed=k) for k, shape in enumerate(several)]), str)


@pytest.mark.parametrize(
    ("kind", "change", "name"),
    [
        (fits.factor, lambda t: -t, "sign"),
        (fits.transpose, lambda t: t.T, "transpose of axes 0 and 1"),
        (fits.reversal, lambda t: t[::-1], "reversed along axis 0"),
        (fits.off_by_one, lambda t: np.roll(t, 1, 0), "off by one along axis 0"),
        (fits.part, lambda t: np.concatenate([t[:-1], -t[-1:]]), "sign, last along axis 0 only"),
        (fits.term, lambda t: t + t.mean(0, keepdims=True), "missing term, the same along axis 0"),
    ],
)
def test_what_was_changed_is_named(kind, change, name):
    assert kind([sample(change, 4, 4), sample(change, 5, 5, seed=1)]) == name
