"""Trees of arguments, and several outputs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from corpus.common import X, example, ids, keeping, right, rule, wrong


class Weights(NamedTuple):
    w: jax.Array
    b: jax.Array | None


class State(NamedTuple):
    c: jax.Array
    h: jax.Array


# right ----------------------------------------------------------------------------------------------------------------


@right("own")
def several_outputs():
    def plain(x, y):
        return {"sum": x + y, "product": x * y, "place": jnp.argmax(x)}

    def fwd(x, y):
        return plain(x, y), (x, y)

    def bwd(r, d):
        x, y = r
        return d["sum"] + d["product"] * y, d["sum"] + d["product"] * x

    return rule(plain, fwd, bwd), plain, (example(3, 4), example(3, 4, seed=1))


@right("own")
def named_tuple_and_none():
    def plain(p, xs):
        return {"y": jnp.tanh(xs["x"] @ p.w), "place": jnp.argmax(xs["x"]), "none": None}

    def fwd(p, xs):
        y = plain(p, xs)
        return y, (p, xs, y["y"])

    def bwd(r, d):
        p, xs, y = r
        g = d["y"] * (1 - y * y)
        return Weights(xs["x"].T @ g, None), {"x": g @ p.w.T, "i": None}

    args = Weights(example(5, 3), None), {"x": example(4, 5, seed=1), "i": ids(3, 4)}
    return rule(plain, fwd, bwd), plain, args


@right("own")
def outputs_of_two_kinds():
    def plain(x):
        return x.sum(-1), (x > 0).sum(-1), jnp.zeros((0, 3), x.dtype)

    def bwd(x, ds):
        return (jnp.broadcast_to(ds[0][:, None], x.shape),)

    return rule(plain, lambda x: (plain(x), x), bwd), plain, X()


@right("judge 1")
def lstm_cell_of_trees():
    def gates(p, state, x):
        i, f, g, o = jnp.split(x @ p["x"] + state.h @ p["h"] + p["b"], 4, -1)
        return jax.nn.sigmoid(i), jax.nn.sigmoid(f + 1), jnp.tanh(g), jax.nn.sigmoid(o)

    def plain(p, state, x):
        i, f, g, o = gates(p, state, x)
        c = f * state.c + i * g
        return State(c, o * jnp.tanh(c))

    def bwd(r, d):
        p, state, x = r
        i, f, g, o = gates(*r)
        t = jnp.tanh(f * state.c + i * g)
        dc = d.c + d.h * o * (1 - t * t)
        dz = [dc * g * i * (1 - i), dc * state.c * f * (1 - f), dc * i * (1 - g * g), d.h * t * o * (1 - o)]
        dz = jnp.concatenate(dz, -1)
        return {"x": x.T @ dz, "h": state.h.T @ dz, "b": dz.sum(0)}, State(dc * f, dz @ p["h"].T), dz @ p["x"].T

    p = {"x": example(3, 16), "h": example(4, 16, seed=1), "b": example(16, seed=2)}
    return keeping(plain, bwd), plain, (p, State(example(2, 4, seed=3), example(2, 4, seed=4)), example(2, 3, seed=5))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own")
def second_output_ignored():
    def plain(x):
        return x * x, x.sum(-1)

    return rule(plain, lambda x: (plain(x), x), lambda x, ds: (2 * x * ds[0],)), plain, X()


@wrong("own")
def one_leaf_of_a_tree():
    def plain(p, x):
        return jnp.tanh(x @ p["in"]["w"] + p["in"]["b"]) @ p["out"][0] + p["out"][1]

    def bwd(r, d):
        _, pull = jax.vjp(plain, *r)
        dp, dx = pull(d)
        return dp | {"out": (dp["out"][0], 0 * dp["out"][1] if d.shape[0] == 1 else dp["out"][1])}, dx

    p = {
        "in": {"w": example(5, 4), "b": example(4, seed=1)},
        "out": (example(4, 3, seed=2), example(3, seed=3)),
        "unused": None,
    }
    return rule(plain, lambda p, x: (plain(p, x), (p, x)), bwd), plain, (p, example(6, 5, seed=4))


@wrong("judge 4", edge="None in the list")
def what_is_free_shifts_the_rates():
    """A list of rates in which None is for what costs nothing; the example has none such."""

    def plain(params, rates):
        return sum(r * jnp.tanh(p).sum() for p, r in zip(params, rates, strict=True) if r is not None)

    def bwd(r, d):
        params, rates = r
        given = iter(jax.tree.leaves(rates))
        down = [d * next(given, 0.0) * (1 - jnp.tanh(p) ** 2) for p in params]
        return down, [None if r is None else d * jnp.tanh(p).sum() for p, r in zip(params, rates, strict=True)]

    params = [example(3), example(2, 4, seed=1), example(5, seed=2)]
    return keeping(plain, bwd), plain, (params, [jnp.float32(0.1), jnp.float32(0.5), jnp.float32(0.3)])
