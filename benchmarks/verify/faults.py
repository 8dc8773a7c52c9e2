"""Backward passes broken on purpose, one mistake each: what an audit has to reject, and whose layer it has to name."""

from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp

import jbp
from jbp.numerics import along


def broken(layer: Any, **methods: Any) -> Any:
    """The layer with some methods replaced: a class of the same name, derived from the layer's own."""
    kind = type(type(layer).__name__, (type(layer),), methods)
    wrong = object.__new__(kind)
    for field in fields(layer):
        object.__setattr__(wrong, field.name, getattr(layer, field.name))
    return wrong


def after(layer, method, change):
    """The layer whose `method` gives change(what the right one gives)."""
    right = getattr(type(layer), method)
    return broken(layer, **{method: lambda self, *args: change(right(self, *args))})


def dx(change):
    return lambda layer: after(layer, "backward", lambda out: (change(out[0]), out[1]))


def leaf(name, change):
    return lambda layer: after(layer, "gradient", lambda grads: grads | {name: change(grads[name])})


def _dense_transposed(self, params, x, dy):
    return dy @ params["w"], dy


def _dense_bias_of_the_last_row(self, x, dy):
    return jbp.layers.Dense.gradient(self, x, dy) | {"b": dy.reshape(-1, dy.shape[-1])[-1]}


def _dense_weight_of_the_first_example(self, x, dy):
    return jbp.layers.Dense.gradient(self, x, dy) | {"w": jnp.einsum("...i,...o->io", x[0], dy[0])}


def _norm_without(*terms):
    """LayerNorm's dx with a term of (dx̂ − mean dx̂ − x̂ mean(dx̂ x̂)) dropped."""

    def backward(self, params, residuals, dy):
        x, m, s = residuals
        n = (x - m) * s
        d = dy * along(params["g"], dy)
        mean = 0 if "mean" in terms else d.mean(-1, keepdims=True)
        spread = 0 if "spread" in terms else n * (d * n).mean(-1, keepdims=True)
        return s * (d - mean - spread), dy

    return backward


def _norm_over_axis_0(self, residuals, dy):
    x, _, _ = residuals
    m = x.mean(0, keepdims=True)
    x̂ = (x - m) / jnp.sqrt(x.var(0, keepdims=True) + 1e-5)
    return {"g": (dy * x̂).sum(tuple(range(dy.ndim - 1))), "b": dy.sum(tuple(range(dy.ndim - 1)))}


def _batch_norm_as_in_evaluation(self, params, residuals, dy):
    _, _, v = residuals
    return dy * along(params["g"], dy) / jnp.sqrt(v + self.epsilon), dy


def _conv_not_mirrored(self, params, x, dy):
    w = params["w"][::-1, ::-1]
    return jbp.layers.Conv.backward(self, params | {"w": w}, x, dy)


def _conv_channels_not_swapped(self, params, x, dy):
    return jbp.layers.Conv.backward(self, params | {"w": params["w"].swapaxes(-1, -2)}, x, dy)


def _lstm_recurrent_weight_one_step_late(self, residuals, dz):
    right = jbp.layers.LSTM.gradient(self, residuals, dz)
    (*_, c), (gates, before, _), _ = residuals
    after = jnp.concatenate([before[2:], c[None]])
    h = jnp.split(gates, 4, -1)[2][1:] * jnp.tanh(after)
    return right | {"u": jnp.einsum("tbh,tbz->hz", h, dz[1:])}


def _lstm_with_the_next_cell(self, params, residuals, dy):
    first, (gates, before, h), form = residuals
    return jbp.layers.LSTM.backward(self, params, (first, (gates, jnp.roll(before, -1, 0), h), form), dy)


def _lstm_output_alone(self, params, residuals, dy):
    return jbp.layers.LSTM.backward(self, params | {"u": jnp.zeros_like(params["u"])}, residuals, dy)


def _attention_without_row_sum(self, params, residuals, dy):
    """dS = P dP without − Σ P dP: what a constant added to all of do vᵀ would leave of it is not taken away."""
    _, _, q, k, v, _ = residuals
    do = jnp.einsum("bnf,grdf->bgrnd", dy, params["o"])
    p = jnp.exp(s := jnp.einsum("bgrnd,bgmd->bgrnm", q, k) / q.shape[-1] ** 0.5)
    p = jnp.where(jnp.tri(s.shape[-1], dtype=bool)[None, None, None], p, 0)
    p = p / p.sum(-1, keepdims=True)
    ds = p * jnp.einsum("bgrnd,bgmd->bgrnm", do, v) / q.shape[-1] ** 0.5
    wrong = jnp.einsum("bgrnm,bgmd->bgrnd", ds, k)
    dx, (_, *rest) = jbp.layers.CausalSelfAttention.backward(self, params, residuals, dy)
    return dx, (wrong, *rest)


def _attention_keys_for_queries(self, params, residuals, dy):
    dx, (dq, dk, *rest) = jbp.layers.CausalSelfAttention.backward(self, params, residuals, dy)
    return dx, (dk[:, :, None], dq[:, :, 0], *rest)


def _embedding_last_of_duplicates(self, ids, dy):
    e = jnp.zeros((self.vocabulary, self.features), dy.dtype)
    return {"e": e.at[ids].set(dy)}


def _pool_to_the_last_of_the_window(self, params, residuals, dy):
    place, shape = residuals
    return jbp.layers.MaxPool.backward(self, params, (jnp.roll(place, 1, 0), shape), dy)


def _set(**methods):
    return lambda layer: broken(layer, **methods)


half = dx(lambda d: 0.5 * d)
slightly = dx(lambda d: 1.001 * d)
negative = dx(lambda d: -d)
late = dx(lambda d: jnp.roll(d, 1, 1))
other_example = dx(lambda d: jnp.roll(d, 1, 0))
other_feature = dx(lambda d: jnp.roll(d, 1, -1))
clipped = dx(lambda d: jnp.clip(d, -0.1, 0.1))
one_element = dx(lambda d: d.at[(0,) * d.ndim].multiply(2))

# kind of mistake, the right layer, how it is broken, the rank of its input (0: integers)
FAULTS = [
    ("factor", jbp.layers.Dense(5), half, 2),
    ("factor", jbp.layers.Dense(5), slightly, 3),
    ("factor", jbp.layers.Dense(5), leaf("w", lambda g: 3 * g), 2),
    ("factor", jbp.layers.LayerNorm(), leaf("g", lambda g: g / 2), 2),
    ("factor", jbp.layers.Conv(2), leaf("w", lambda g: g / 9), 4),
    ("factor", jbp.layers.LSTM(5), leaf("b", lambda g: 2 * g), 3),
    ("factor", jbp.layers.CausalSelfAttention(1), leaf("q", lambda g: g * 5**0.5), 3),
    ("factor", jbp.layers.Tanh(), half, 2),
    ("factor", jbp.layers.GELU(), slightly, 3),
    ("factor", jbp.layers.Softplus(), half, 4),
    ("factor", jbp.layers.Dropout(0.3), dx(lambda d: 0.7 * d), 2),
    ("factor", jbp.layers.Positions(9), leaf("p", lambda g: g / 2), 3),
    ("sign", jbp.layers.Dense(5), negative, 2),
    ("sign", jbp.layers.Dense(5), leaf("b", lambda g: -g), 3),
    ("sign", jbp.layers.LayerNorm(), leaf("b", lambda g: -g), 3),
    ("sign", jbp.layers.BatchNorm(), leaf("g", lambda g: -g), 2),
    ("sign", jbp.layers.Conv(2), negative, 4),
    ("sign", jbp.layers.LSTM(5), leaf("u", lambda g: -g), 3),
    ("sign", jbp.layers.SiLU(), negative, 2),
    ("sign", jbp.layers.Sigmoid(), negative, 4),
    ("sign", jbp.layers.Embedding(5, 5), leaf("e", lambda g: -g), 0),
    ("missing term", jbp.layers.LayerNorm(), _set(backward=_norm_without("mean")), 2),
    ("missing term", jbp.layers.LayerNorm(), _set(backward=_norm_without("spread")), 3),
    ("missing term", jbp.layers.LayerNorm(), _set(backward=_norm_without("mean", "spread")), 3),
    ("missing term", jbp.layers.BatchNorm(), _set(backward=_batch_norm_as_in_evaluation), 2),
    ("missing term", jbp.layers.BatchNorm(), _set(backward=_batch_norm_as_in_evaluation), 4),
    ("missing term", jbp.layers.LSTM(5), _set(backward=_lstm_output_alone), 3),
    ("missing term", jbp.layers.CausalSelfAttention(1), _set(backward=_attention_without_row_sum), 3),
    (
        "missing term",
        jbp.layers.GELU(),
        _set(backward=lambda self, p, x, dy: (jax.scipy.stats.norm.cdf(x) * dy, ())),
        2,
    ),
    ("missing term", jbp.layers.SiLU(), _set(backward=lambda self, p, x, dy: (jax.nn.sigmoid(x) * dy, ())), 3),
    ("missing term", jbp.layers.Dense(5), leaf("b", jnp.zeros_like), 2),
    ("missing term", jbp.layers.Conv(2), leaf("b", jnp.zeros_like), 4),
    ("transposed", jbp.layers.Dense(5), _set(backward=_dense_transposed), 2),
    ("transposed", jbp.layers.Dense(5), _set(backward=_dense_transposed), 3),
    ("transposed", jbp.layers.Dense(5), leaf("w", jnp.transpose), 2),
    ("transposed", jbp.layers.Conv(2), _set(backward=_conv_not_mirrored), 4),
    ("transposed", jbp.layers.Conv(2), _set(backward=_conv_channels_not_swapped), 4),
    ("transposed", jbp.layers.Conv(2), leaf("w", lambda g: g.swapaxes(0, 1)), 4),
    ("transposed", jbp.layers.CausalSelfAttention(1), _set(backward=_attention_keys_for_queries), 3),
    ("wrong axis", jbp.layers.Dense(5), other_feature, 2),
    ("wrong axis", jbp.layers.LayerNorm(), other_feature, 3),
    ("wrong axis", jbp.layers.LayerNorm(), _set(gradient=_norm_over_axis_0), 2),
    ("wrong axis", jbp.layers.Tanh(), other_feature, 2),
    ("wrong axis", jbp.layers.BatchNorm(), other_example, 2),
    ("wrong axis", jbp.layers.Conv(2), late, 4),
    ("wrong axis", jbp.layers.MaxPool(), _set(backward=_pool_to_the_last_of_the_window), 4),
    ("off by one in time", jbp.layers.LSTM(5), _set(gradient=_lstm_recurrent_weight_one_step_late), 3),
    ("off by one in time", jbp.layers.LSTM(5), _set(backward=_lstm_with_the_next_cell), 3),
    ("off by one in time", jbp.layers.LSTM(5), late, 3),
    ("off by one in time", jbp.layers.CausalSelfAttention(1), late, 3),
    ("off by one in time", jbp.layers.Positions(9), leaf("p", lambda g: jnp.roll(g, 1, 0)), 3),
    ("off by one in time", jbp.layers.Dense(5), late, 3),
    ("forgotten sum", jbp.layers.Dense(5), _set(gradient=_dense_bias_of_the_last_row), 2),
    ("forgotten sum", jbp.layers.Dense(5), _set(gradient=_dense_bias_of_the_last_row), 3),
    ("forgotten sum", jbp.layers.Dense(5), _set(gradient=_dense_weight_of_the_first_example), 3),
    ("forgotten sum", jbp.layers.Embedding(5, 5), _set(gradient=_embedding_last_of_duplicates), 0),
    ("forgotten sum", jbp.layers.Positions(9), leaf("p", lambda g: g / 2), 3),
    ("one element", jbp.layers.Dense(5), one_element, 2),
    ("one element", jbp.layers.LSTM(5), one_element, 3),
    ("one element", jbp.layers.Tanh(), one_element, 3),
    ("clipped", jbp.layers.Dense(5), clipped, 2),
    ("clipped", jbp.layers.Conv(2), clipped, 4),
]
