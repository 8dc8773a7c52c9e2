"""What is kept from call to call, and what differs once it is compiled."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy import special as jsp

from corpus.common import XWB, X, example, floats, keeping, rule, softmax, square, written, wrong

# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own", edge="a second call")
def stale_cache():
    """The residual is kept outside, and what is kept is the first."""
    kept = {}

    def fwd(x):
        kept.setdefault(x.shape, np.asarray(x))
        return x * x, None

    def bwd(_, d):
        return (2 * jnp.asarray(kept[d.shape]) * d,)

    return rule(lambda x: x * x, fwd, bwd), lambda x: x * x, X()


@wrong("own", edge="calls whose backward passes come later")
def last_call_wins():
    """The residual is kept outside, and what is kept is the last."""
    kept = {}

    def fwd(x):
        kept["x"] = x
        return x * x, None

    def bwd(_, d):
        return (2 * kept["x"] * d,)

    return rule(lambda x: x * x, fwd, bwd), lambda x: x * x, X()


@wrong("own", edge="no compilation")
def python_branch():
    """Compiled it is right, one operation at a time it is not."""

    def bwd(x, d):
        return (2 * x * d if isinstance(x, jax.core.Tracer) else x * d,)

    return rule(lambda x: x * x, lambda x: (x * x, x), bwd), lambda x: x * x, X()


@wrong("own")
def forward_differs():
    def fwd(x):
        return x * x * (1 + 1e-6), x

    return rule(lambda x: x * x, fwd, lambda x, d: (2 * x * d,)), lambda x: x * x, X()


@wrong("own")
def raises_in_the_backward_pass():
    def bwd(x, d):
        raise ValueError("not written yet")

    return rule(lambda x: x * x, lambda x: (x * x, x), bwd), lambda x: x * x, X()


@wrong("own", edge="a transformation")
def eager_value_branch():
    def bwd(x, d):
        try:
            flip = bool(d.sum() < 0)
        except jax.errors.ConcretizationTypeError:
            flip = False
        return (2 * x * (jnp.abs(d) if flip else d),)

    return square(bwd)


@wrong("own", edge="a transformation")
def only_compiles_not():
    def bwd(x, d):
        return (2 * x * d if d.sum() < 1e9 else x * d,)

    return square(bwd)


@wrong("own", edge="another call or setting")
def every_second_trace():
    calls = []

    def bwd(x, d):
        calls.append(1)
        return (2 * x * d if len(calls) % 2 else 2.5 * x * d,)

    return square(bwd)


@wrong("own", edge="another call or setting")
def first_slope_is_kept():
    """The rule remembers the slope of its first call, a setting that is not differentiated."""
    kept = {}

    @partial(jax.custom_vjp, nondiff_argnums=(1,))
    def f(x, slope):
        return jnp.where(x > 0, x, slope * x)

    def bwd(slope, x, d):
        return (jnp.where(x > 0, d, kept.setdefault("slope", slope) * d),)

    f.defvjp(lambda x, slope: (f(x, slope), x), bwd)
    return f, lambda x, slope: jnp.where(x > 0, x, slope * x), (example(4, 6), 0.1)


@wrong("own", edge="another call or setting")
def cached_by_shape():
    kept = {}

    def bwd(r, d):
        w = kept.setdefault(r[1].shape, None if isinstance(r[1], jax.core.Tracer) else np.asarray(r[1]))
        w = r[1] if w is None else jnp.asarray(w)
        return d @ w.T, r[0].T @ d

    return rule(lambda x, w: x @ w, lambda x, w: (x @ w, (x, w)), bwd), lambda x, w: x @ w, XWB()[:2]


@wrong("judge 1", edge="a transformation or another call")
def settings_in_a_queue():
    """The setting of a call waits in a queue for the backward pass, which comes in the other order: f(f(x, 2), 3)."""
    waiting = []

    def plain(x, s):
        return jnp.sin(s * x)

    def f(x, s):
        def fwd(x):
            waiting.append(s)
            return plain(x, s), x

        def bwd(x, d):
            s = waiting.pop(0)
            return (d * s * jnp.cos(s * x),)

        return rule(lambda x: plain(x, s), fwd, bwd)(x)

    return f, plain, (example(7), 1.5)


@wrong("judge 2", edge="calls without compilation after a larger cotangent")
def clipped_to_what_came_before():
    """Scaled by the largest cotangent of the call before: history is kept where nothing is traced."""
    history = {}

    def bwd(r, d):
        x, w = r
        most = jnp.abs(d).max()
        if not isinstance(most, jax.core.Tracer):
            most, history["most"] = history.get("most", most), most
        scaled = jnp.clip(d / most, -1, 1)
        return scaled @ w.T * most, x.T @ scaled * most

    return keeping(jnp.matmul, bwd), jnp.matmul, (example(4, 3), example(3, 5, seed=1))


@wrong("judge 2", edge="a call after one that did not end")
def begins_where_it_ended():
    """A fixed point in the backward pass starts from that of the call before, and an infinite one never leaves."""
    last = {}

    def plain(w, b):
        return jnp.linalg.solve(jnp.eye(len(b), dtype=b.dtype) - 0.5 * softmax(w), b)

    def bwd(r, d):
        w, z = r
        p, pull = jax.vjp(softmax, w)
        u = lax.fori_loop(0, 80, lambda _, u: d + 0.5 * p.T @ u, last.get("u", jnp.zeros_like(d)).astype(d.dtype))
        if not isinstance(u, jax.core.Tracer):
            last["u"] = u
        return pull(0.5 * jnp.outer(u, z))[0], u

    def fwd(w, b):
        z = plain(w, b)
        return z, (w, z)

    return written(fwd, bwd), plain, (example(5, 5), example(5, seed=1))


@wrong("judge 4", edge="another matrix of the same sum")
def transposed_once_for_each_sum():
    """Kept from call to call under the sum of the matrix, which others have too."""
    known = {}

    def plain(a, x):
        return jnp.tanh(a @ x)

    def bwd(r, d):
        a, x = r
        d = d * (1 - plain(a, x) ** 2)
        turned = a.T if isinstance(a, jax.core.Tracer) else known.setdefault((a.shape, round(float(a.sum()), 3)), a.T)
        return jnp.outer(d, x), turned @ d

    return keeping(plain, bwd), plain, (example(4, 4), example(4, seed=1))


@wrong("judge 7", edge="another call before the backward pass")
def counts_what_went_forth_last():
    """A mean whose backward pass divides by a count that the last forward pass left behind: it need not be its own."""
    last = {}

    def plain(x, y):
        return jnp.log(jnp.cosh(x - y)).mean()

    def fwd(x, y):
        last["count"] = x.size
        return plain(x, y), (x, y)

    def bwd(r, d):
        slope = d * jnp.tanh(r[0] - r[1]) / last["count"]
        return slope, -slope

    return written(fwd, bwd), plain, (example(4, 6), example(4, 6, seed=1))


@wrong("judge 7", edge="another call before the backward pass")
def unfolded_as_the_last_one_was():
    """A sum over a grid whose backward pass unfolds rows to the height of the last grid that went forth."""
    last = {}

    def plain(x):
        return jnp.sin(x).sum(0)

    def fwd(x):
        last["height"] = x.shape[0]
        return plain(x), x.ravel()

    def bwd(flat, d):
        return (d * jnp.cos(flat.reshape(last["height"], d.shape[0])),)

    return written(fwd, bwd), plain, (example(4, 6),)


@wrong("judge 11", edge="under jit")
def erf_series_when_traced():
    """erf; numbers at hand get the exact slope, traced ones a short series.
    Re-creates: "different gradient under jit"."""

    def plain(x):
        return jsp.erf(x)

    def bwd(res, g):
        (x,) = res
        t = x * x
        e = 1 - t + t * t / 2 - t**3 / 6 if isinstance(x, jax.core.Tracer) else jnp.exp(-t)
        return (g * e * np.asarray(2 / np.sqrt(np.pi), x.dtype),)

    return keeping(plain, bwd), plain, (floats(0.5, -2.0, 1.5),)


@wrong("judge 11", edge="a later call with another matrix of the same shape")
def solve_cached_factor():
    """Linear solve; the backward keeps the inverse by shape between calls.
    Re-creates: "stale cache in autograd function ctx"."""
    cache = {}

    def plain(a, b):
        return jnp.linalg.solve(a, b)

    f = jax.custom_vjp(plain)

    def fwd(a, b):
        x = plain(a, b)
        return x, (a, x)

    def bwd(res, g):
        a, x = res
        if isinstance(a, jax.core.Tracer):
            lam = jnp.linalg.solve(a.T, g)
        else:
            if (a.shape, a.dtype) not in cache:
                cache[a.shape, a.dtype] = np.linalg.inv(np.asarray(a)).T
            lam = jnp.asarray(cache[a.shape, a.dtype]) @ g
        return -jnp.outer(lam, x), lam

    f.defvjp(fwd, bwd)
    return f, plain, (example(3, 3, seed=186) + 3 * jnp.eye(3, dtype=jnp.float32), example(3, seed=187))


@wrong("judge 11", edge="after several calls")
def scaler_after_calls():
    """arctan with a loss scaler that doubles every fourth backward and is not
    undone. Re-creates: "GradScaler growth interval inside custom op"."""
    state = {"n": 0, "scale": 1.0}

    def plain(x):
        return jnp.arctan(x)

    def bwd(res, g):
        (x,) = res
        state["n"] += 1
        if state["n"] % 4 == 0:
            state["scale"] *= 2
        return (g * state["scale"] / (1 + x * x),)

    return keeping(plain, bwd), plain, (example(5, seed=190),)
