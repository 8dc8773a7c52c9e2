"""What takes the examples of a batch together is known by its shapes and by what it says, for every layer there is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import draw, parameters

from jbp import LowRankAdapter, Parallel, Repeat, Residual, Serial
from jbp.alone import must_be_alone
from jbp.cases import f
from jbp.catalogue import LAYERS
from jbp.combinators import TimeDistributed
from jbp.errors import LayerError
from jbp.layers import (
    Concatenate,
    Dense,
    FanOut,
    Flatten,
    LayerNorm,
    Positions,
    SinusoidalPositions,
    Softmax,
    Take,
    Transpose,
)
from jbp.losses.loss import Loss


def first(tree):
    """The sizes of all first axes: one, if they are those of a batch."""
    return {tuple(leaf.shape[:1]) for leaf in jax.tree.leaves(tree) if leaf.shape}


CASES = [
    (case.layer, inputs)
    for case in LAYERS
    for inputs in case.inputs
    if not case.layer.couples and not isinstance(case.layer, Loss)
    if len(first(inputs)) == 1 and first(inputs) != {(1,)}
]


def depends(layer, params, x):
    """Whether what comes of the first example hangs on the others, or is not where examples are; by numbers alone."""
    y = layer.forward(params, x)[0]
    if first(y) - first(x):
        return True
    rng = np.random.default_rng(0)

    def other(a):  # the same first example among others: in another order if they are no floats
        if not a.ndim or not jnp.issubdtype(a.dtype, jnp.floating):
            return a
        return jnp.concatenate([a[:1], jnp.asarray(rng.normal(size=a[1:].shape), a.dtype)])

    again = layer.forward(params, jax.tree.map(other, x))[0]
    pairs = zip(jax.tree.leaves(y), jax.tree.leaves(again), strict=True)
    here = any(not np.allclose(a[:1], b[:1], 1e-9, 1e-9, equal_nan=True) for a, b in pairs if a.ndim)
    turned = layer.forward(params, jax.tree.map(lambda a: a[::-1] if a.ndim else a, x))[0]
    pairs = zip(jax.tree.leaves(y), jax.tree.leaves(turned), strict=True)
    return here or any(not np.allclose(a, b[::-1], 1e-9, 1e-9, equal_nan=True) for a, b in pairs if a.ndim)


def refused(layer, params, x):
    try:
        must_be_alone(layer, params, x)
    except LayerError:
        return True
    return False


@pytest.mark.parametrize(("layer", "spec"), CASES, ids=str)
def test_who_takes_examples_together_is_refused_and_nobody_else(layer, spec):
    x, layer = draw(spec), layer.evaluation()
    params = parameters(layer, x)
    assert refused(layer, params, x) == depends(layer, params, x)


ROWS, WIDER = f(4, 3), f(4, 3, 4)


@pytest.mark.parametrize(
    ("net", "spec", "mixes"),
    [
        (Serial(Dense(2), Softmax(0)), ROWS, "[1]: Softmax"),
        (Residual(Serial(Dense(3), Positions(9))), ROWS, "[1]: Positions"),
        (Serial(Flatten(), LayerNorm(axes=2)), WIDER, "[1]: LayerNorm"),
        (Serial(Transpose(1, 0, 2), Dense(2), Transpose(1, 0, 2)), WIDER, "[0]: Transpose"),
        (Serial(FanOut(), Parallel(Dense(2), Dense(2)), Concatenate(0)), ROWS, "[2]: Concatenate"),
        (Repeat(Serial(Dense(3), Softmax(-2)), 2), ROWS, "[1]: Softmax"),
        (LowRankAdapter(Serial(Dense(3), Softmax(0)), ("w",), 1), ROWS, "[1]: Softmax"),
        (Serial(Take(0, 0), Dense(2)), WIDER, "[0]: Take"),
        (TimeDistributed(Positions(20)), WIDER, "Positions"),
        (Serial(Dense(2), Softmax(1)), ROWS, ""),
        (Serial(Transpose(0, 2, 1), Positions(9), Take(0)), WIDER, ""),
    ],
)
def test_the_layer_that_mixes_is_named(net, spec, mixes):
    x = draw(spec)
    params = parameters(net, x)
    if not mixes:
        must_be_alone(net, params, x)
        return
    with pytest.raises(LayerError, match=r"of which it mixes or moves the first axis") as caught:
        must_be_alone(net, params, x)
    assert mixes in str(caught.value)
    if "Softmax" in mixes:
        must_be_alone(net, params, x, ("Softmax",))


def test_what_nobody_says_is_seen(monkeypatch):
    monkeypatch.setattr(SinusoidalPositions, "reads", ())
    layer, x = SinusoidalPositions(), draw(ROWS)
    params = parameters(layer, x)
    assert not refused(layer, params, x)
    assert depends(layer, params, x)
