"""Exact clipping by the global norm with the optimizer inside the sweep: no two layers' gradients exist together.

A gradient can be clipped only when the norm of all of it is known, and an optimizer that runs inside the sweep spends
each layer's gradient before the next one is there. So the sweep is taken in its two halves:

    B    down the network for the deltas; nothing else is kept
    N    ‖dW‖² of each layer from residuals and delta: Σ (X Xᵀ) ∘ (Δ Δᵀ) over its n rows where these are fewer than the
         sizes of W, else of a dW that is made and dropped
    W    layer by layer: dW once more, scaled by min(1, c / √Σ‖dW‖²), into the optimizer, and gone

Costs one more pass of small products than an ordinary step, and the memory of the greatest layer's gradient instead of
all. The layers of a Repeat take their turns in a loop that writes each one's new parameters over the old. (Lv et al.,
*Full Parameter Fine-Tuning for Large Language Models with Limited Resources*, 2023, find the norm by a second backward
pass.)
"""

import math
from functools import partial, singledispatch
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jbp.combinators import Graph, Parallel, Repeat, Residual, Serial
from jbp.errors import LayerError, at, show
from jbp.layer import Layer
from jbp.layers.linear.dense import Dense, Logits
from jbp.numerics import is_float, wide
from jbp.params import buffers, trainable
from jbp.sweep import initialize, lost, must_be_layer
from jbp.train.step import Metrics, State, Step, copied, finite, given, must_be_optimizer, optimized, sound


def start(net: Layer, optimizer: optax.GradientTransformation, key: Any, x: Any, *, params: Any = None) -> State:
    """The state before the first step, the optimizer's part being a tuple of one state for each layer.

    `params` are as of `jbp.train.start`.

    >>> net, x = Serial(Dense(4), Dense(1)), jnp.ones((2, 3))
    >>> state = jbp.train.inside.start(net, optax.sgd(0.1), jax.random.key(0), x)
    >>> len(state.optimizer)
    2
    """
    must_be_optimizer(net, optimizer)
    params = given(initialize(net, key, x), params)
    state = tuple(_first(layer, optimizer, p) for layer, p in _parts(net, params))
    return copied(State(params, state, jnp.zeros((), jnp.int32)))


def step(net: Layer, loss: Layer, optimizer: optax.GradientTransformation, max_norm: float) -> Any:
    """f(state, x, *targets) -> (state, metrics), compiled, taking over the memory of the state that it is given.

    It moves the parameters as `optax.chain(optax.clip_by_global_norm(max_norm), optimizer)` would. The optimizer is run
    for each layer by itself, so it must treat them so: sgd, adam, adamw, lion and most others do; what looks at all
    gradients together, another clip_by_global_norm say, does not. The layers inside of a Tied or of another combinator
    than Serial, Parallel, Graph, Residual and Repeat count as one, as does what a Repeat repeats. metrics has the loss,
    the `norm` before clipping, and `finite`: where it is false the state comes back untouched. That is where the loss,
    the norm, a buffer or what the optimizer would make of a gradient of ones is NaN or Inf. Of the last one number in
    each array is looked at, so that nothing is held twice: a schedule that is NaN shows in all of them.

    Raises LayerError if max_norm is not positive, if the state is not one of this module's `start`, and if it was given
    away to a step before.

    >>> from jbp.train import inside
    >>> net, x, y = Dense(1), jnp.ones((2, 3)), jnp.ones((2, 1))
    >>> loss, optimizer = MeanSquaredError(), optax.sgd(0.1)
    >>> state = inside.start(net, optimizer, jax.random.key(0), x)
    >>> state, metrics = inside.step(net, loss, optimizer, max_norm=1.0)(state, x, y)
    >>> sorted(metrics)
    ['finite', 'loss', 'norm']
    """
    if not isinstance(max_norm, int | float) or isinstance(max_norm, bool) or not 0 < max_norm < math.inf:
        raise LayerError(net, f"got max_norm={max_norm!r}; expected a positive number. Try max_norm=1.0.")
    must_be_layer("net", net)
    must_be_layer("loss", loss)
    must_be_optimizer(net, optimizer)

    def moved(layer, scale, value, params, state, residuals, delta):
        if isinstance(layer, Repeat):

            def one(i, done):
                at_i = partial(jax.tree.map, lambda a: lax.dynamic_index_in_dim(a, i, keepdims=False))
                return _written(done, moved(layer.layer, scale, value, *at_i(done), *at_i((residuals, delta))), i)

            with at(layer):
                return lax.fori_loop(0, layer.times, one, (params, state))
        grads = jax.tree.map(lambda g: g * scale.astype(g.dtype), layer.gradient(residuals, delta))
        return optimized(optimizer, grads, state, layer.advance(params, residuals), value=value, grad=grads)

    def run(state: State, x: Any, *target: Any) -> tuple[State, Metrics]:
        output, residuals = net.forward(state.params, x)
        value, dy = lost(loss, output, *target)
        _, delta = net.backward(state.params, residuals, dy)

        parts = _parts(net, state.params, residuals, delta)
        if not isinstance(state.optimizer, tuple) or len(state.optimizer) != len(parts):
            raise LayerError(
                net,
                f"got an optimizer's state {show(state.optimizer)}; expected a tuple of {len(parts)}, one for each "
                "layer. Make it with jbp.train.inside.start.",
            )
        squares = [squared_norm(layer, r, d).astype(value.dtype) for layer, _, r, d in parts]
        norm = jnp.sqrt(sum(squares, jnp.zeros((), value.dtype)))
        good = finite((value, norm))
        for (layer, p, r, _), s in zip(parts, state.optimizer, strict=True):
            advanced = layer.advance(p, r)
            good = good & sound(buffers(p), buffers(advanced)) & _foreseen(layer, optimizer, value, s, advanced)
        scale = jnp.where(norm < max_norm, 1, max_norm / norm)

        turn = jnp.zeros((), value.dtype)  # 0, and known only when the layer before is done
        params, states = [], []
        for (layer, p, r, d), s in zip(reversed(parts), reversed(state.optimizer), strict=True):
            # A cond, for with a select of every array XLA copies the optimizer's state first.
            new, new_state = lax.cond(
                good, partial(moved, layer, scale, value), lambda p, s, *_: (p, s), p, s, r, _after(d, turn)
            )
            turn = _turn(turn, trainable(new))
            params.append(new)
            states.append(new_state)
        params = _whole(net, reversed(params))
        steps = state.steps + good.astype(state.steps.dtype)
        return State(params, tuple(reversed(states)), steps), {"loss": value, "norm": norm, "finite": good}

    return Step(net, jax.jit(run, donate_argnums=0))


def _first(layer: Layer, optimizer: optax.GradientTransformation, params: Any) -> Any:
    """The optimizer's first state for a layer, one for each repetition of a Repeat."""
    if isinstance(layer, Repeat):
        return jax.vmap(partial(_first, layer.layer, optimizer), axis_size=layer.times)(params)
    return optimizer.init(trainable(params))


def _parts(net: Layer, *trees: Any) -> list[tuple[Any, ...]]:
    """(layer, its part of each tree) for each layer that Serial, Parallel, Graph and Residual hold."""
    if isinstance(net, Serial | Parallel | Graph):
        return [part for now in zip(net.layers, *map(net.parts, trees), strict=True) for part in _parts(*now)]
    return _parts(net.layer, *trees) if isinstance(net, Residual) else [(net, *trees)]


def _whole(net: Layer, parts: Any) -> Any:
    """The tree of which `parts` are the parts."""
    if isinstance(net, Serial | Parallel | Graph):
        return net.whole([_whole(layer, parts) for layer in net.layers])
    return _whole(net.layer, parts) if isinstance(net, Residual) else next(parts)


def _foreseen(layer, optimizer, value, state, params):
    """Whether the optimizer makes finite numbers of a gradient of ones. Compiled, the others are not worked out."""
    if isinstance(layer, Repeat):
        state, params = jax.tree.map(lambda a: lax.index_in_dim(a, 0, keepdims=False), (state, params))
        return _foreseen(layer.layer, optimizer, value, state, params)
    ones = jax.tree.map(jnp.ones_like, trainable(params))
    new = optimized(optimizer, ones, state, params, value=value, grad=ones)
    return sound(_numbers((params, state)), _numbers(new))


def _numbers(tree):
    """One number of each array that has any."""
    return [lax.index_in_dim(a.reshape(-1), 0, keepdims=False) for a in jax.tree.leaves(tree) if a.size]


def _after(delta, turn):
    """delta, to be had only when `turn` is known. (Barriers do not order work on every backend; data does.)"""
    return jax.tree.map(lambda d: d + turn.astype(d.dtype) if jnp.issubdtype(d.dtype, jnp.floating) else d, delta)


def _turn(turn, params):
    """Zero as before, but not to be had before one number of each new parameter is."""
    for p in _numbers(params):
        if is_float(p):
            turn = turn + 0 * jnp.where(jnp.isfinite(p), p, 0).astype(turn.dtype)
    return turn


def _written(done, new, i):
    """`done` with `new` as the i-th of each array, one array after the other.

    The parameters come first, and read the optimizer's state as it was: in no given order XLA copies it all each time.
    """
    turn, written = jnp.zeros(()), []
    for a, v in zip(jax.tree.leaves(done), jax.tree.leaves(new), strict=True):
        written.append(lax.dynamic_update_index_in_dim(a, _after(v, turn), i, 0))
        turn = _turn(turn, written[-1])
    return jax.tree.unflatten(jax.tree.structure(done), written)


@singledispatch
def squared_norm(layer: Layer, residuals: Any, delta: Any, /) -> Any:
    """‖gradient of all parameters of the layer‖². A type with a cheaper way than to make them may register it.

    >>> net, params, x = Dense(1, bias=False), {"w": jnp.zeros((2, 1))}, jnp.array([[3.0, 4.0]])
    >>> value, residuals, delta = jbp.readers.deltas(net, MeanAbsoluteError())(params, x, jnp.ones((1, 1)))
    >>> jbp.train.inside.squared_norm(net, residuals, delta)
    Array(25., dtype=float32)
    """
    grads = [jnp.square(wide(g)).sum() for g in jax.tree.leaves(layer.gradient(residuals, delta))]
    return sum(grads[1:], grads[0]) if grads else jnp.zeros(())


@squared_norm.register(Dense)
@squared_norm.register(Logits)
def _(layer, x, dy, /):
    n, i, o = x.size // max(x.shape[-1], 1), x.shape[-1], dy.shape[-1]
    if n * (i + o) > i * o:
        return squared_norm.dispatch(Layer)(layer, x, dy)
    x, dy = wide(x).reshape(n, i), wide(dy).reshape(n, o)
    w = ((x @ x.T) * (dy @ dy.T)).sum()
    return w + jnp.square(dy.sum(0)).sum() if getattr(layer, "bias", False) else w


@squared_norm.register(Repeat)
def _(layer, residuals, delta, /):
    def step(total, now):
        return total + squared_norm(layer.layer, *now), None

    one = jax.eval_shape(partial(squared_norm, layer.layer), *jax.tree.map(lambda a: a[0], (residuals, delta)))
    return lax.scan(step, jnp.zeros((), one.dtype), (residuals, delta), length=layer.times)[0]
