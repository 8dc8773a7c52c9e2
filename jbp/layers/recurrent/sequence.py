"""What layers that run through time share: the inputs that they take, states, and sequences of their own lengths."""

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jbp.errors import LayerError, floats, known, show, take
from jbp.layer import Layer
from jbp.numerics import Static, along, counting, outer, scan, time_first

NAMES = ("x", "lengths", "state")


class OverTime(Layer):
    """A layer that takes x (b, t, ...), (x, lengths), (x, state) or {"x": x, "lengths": n, "state": s} of these.

    None is as if it were left out.

    With lengths each example is as if it were alone: y is 0 after its end, whatever stands there in x (NaN too), and a
    final state is the one at its end. `return_state` says whether it gives (y, final state) in place of y.
    """

    return_state: bool


def opened(layer: Layer, x: Any) -> tuple[Any, Any, Any, Static]:
    """(x, state or None, lengths or None, form): what `layer` was given, and how, for `closed`."""
    named: Any = {"x": x}
    if isinstance(x, dict):
        named = x
    elif isinstance(x, tuple | list) and len(x) == 2:
        whole = hasattr(x[1], "dtype") and jnp.issubdtype(x[1].dtype, jnp.integer)
        named = {"x": x[0], ("lengths" if whole else "state"): x[1]}
    if "x" not in named or set(named) - set(NAMES) or not hasattr(named["x"], "dtype"):
        raise LayerError(
            layer,
            f"got x {show(x)}; expected x (b, t, ...), the pair (x, lengths) or (x, state), or a dict of "
            "'x' with 'lengths' or 'state'. Lengths are integers (b,).",
        )
    form = tuple(named) if isinstance(x, dict) else len(named)
    x, lengths = named["x"], named.get("lengths")
    return x, named.get("state"), None if lengths is None else ends(layer, x, lengths), Static(form)


def closed(form: Static, dx: Any, dstate: Any) -> Any:
    """The cotangent of what `opened` was given: lengths have none."""
    if isinstance(form.value, tuple):
        return {name: {"x": dx, "state": dstate}.get(name) for name in form.value}
    return dx if form.value == 1 else (dx, dstate)


def joined(x: Any, state: Any, lengths: Any) -> Any:
    """What a layer inside is given of these: the plainest form."""
    if state is None:
        return x if lengths is None else (x, lengths)
    return (x, state) if lengths is None else {"x": x, "lengths": lengths, "state": state}


def parted(d: Any, state: Any, lengths: Any) -> tuple[Any, Any]:
    """(dx, dstate) out of the cotangent of `joined(x, state, lengths)`."""
    if state is None and lengths is None:
        return d, None
    return (d["x"], d["state"]) if isinstance(d, dict) else d


def ends(layer: Layer, x: Any, lengths: Any) -> Any:
    """Lengths (b,) after a check of them, in a dtype that can count x's steps, none beyond these."""
    if (
        not hasattr(lengths, "dtype")
        or not jnp.issubdtype(lengths.dtype, jnp.integer)
        or lengths.shape != x.shape[:1]
        or len(x.shape) < 2
    ):
        raise LayerError(
            layer,
            f"got x {show(x)} and lengths {show(lengths)}; expected the pair (x, lengths): x (b, t, ...) and an "
            "integer for each example, (b,). For sequences that are all of one length leave them out.",
        )
    if known(lengths) and lengths.size:
        seen, t = np.asarray(lengths), x.shape[1]
        if seen.min() < 0 or seen.max() > t:
            raise LayerError(
                layer,
                f"got lengths between {seen.min()} and {seen.max()}; expected 0 <= lengths <= {t}, the size of x. "
                "Count the steps of each example.",
            )
    if isinstance(lengths, jax.ShapeDtypeStruct):
        return lengths
    return jnp.clip(counting(lengths), 0, x.shape[1])  # inside of jit: what is out of range is the nearest in range


def like(flags: Any, v: Any) -> Any:
    """Flags (...) with as many axes as v."""
    return flags.reshape(*flags.shape, *(1,) * (v.ndim - flags.ndim))


def until(x: Any, lengths: Any) -> Any:
    """x (b, t, ...), or a tree of such, with zeros from the end of each example on; x itself without lengths."""
    if lengths is None:
        return x

    def cut(v):
        return jnp.where(like(_steps(v, lengths) < lengths[:, None], v), v, 0)

    return jax.tree.map(cut, x)


def reversed_until(x: Any, lengths: Any) -> Any:
    """x (b, t, ...) with the steps of each example in reverse up to its end, and what follows where it was."""
    if lengths is None:
        return jnp.flip(x, 1)
    t = _steps(x, lengths)
    order = jnp.where(t < lengths[:, None], lengths[:, None] - 1 - t, t)
    return jnp.take_along_axis(x, like(order, x), 1)


def _steps(x, lengths):
    return jnp.arange(x.shape[1], dtype=lengths.dtype)[None]


def forth(step: Any, state: Any, xs: Any, lengths: Any = None) -> tuple[Any, Any]:
    """lax.scan over xs (t, b, ...). With lengths the state of an example stays from its end on."""
    if lengths is None:
        return scan(step, state, xs)

    def frozen(state, now):
        t, x = now
        new, out = step(state, x)
        return jax.tree.map(lambda a, b: jnp.where(like(t < lengths, a), a, b), new, state), out

    return scan(frozen, state, (_counted(xs, lengths), xs))


def back(step: Any, carry: Any, xs: Any, dlast: Any = None, lengths: Any = None) -> tuple[Any, Any]:
    """lax.scan over xs in reverse, the backward pass of `forth`: dlast, the final state's cotangent, joins at the end.

    It has the structure of the carry, with None for what is no cotangent.
    """

    def with_last(carry, here):
        def plus(c, d):
            return c if d is None else c + (d if here is None else jnp.where(like(here, d), d, 0))

        return jax.tree.map(plus, carry, dlast)

    if dlast is None:
        return scan(step, carry, xs, reverse=True)
    if lengths is None:
        return scan(step, with_last(carry, None), xs, reverse=True)

    def joining(carry, now):
        t, x = now
        return step(with_last(carry, lengths == t + 1), x)

    carry, out = scan(joining, carry, (_counted(xs, lengths), xs), reverse=True)
    return with_last(carry, lengths == 0), out


def _counted(xs, lengths):
    return jnp.arange(jax.tree.leaves(xs)[0].shape[0], dtype=lengths.dtype)


def checked_state(layer: Layer, state: Any, zero: Any) -> Any:
    """The given state after a check that it is like the zero state, or that one if none was given."""
    if state is None:
        return zero
    state = tuple(state) if isinstance(state, list) else state
    if show(state) != show(zero):
        raise LayerError(
            layer,
            f"got the state {show(state)}; expected {show(zero)}. "
            "Leave the state out to begin at zero, or pass the final state of a layer of the same sizes.",
        )
    return state


class Steps(Layer):
    """The mathematics of one step of a recurrent network, as its layer and its cell have it.

    z are the scores of the input, x W + b. The state is an array, or a tuple of them of which the first is y. `kept` is
    what the backward pass needs of a step beside the state before it, and `seen` what it needs of the state after it.
    """

    features: int
    bias: bool
    looks_back: ClassVar[bool] = True  # whether the backward pass needs the state before a step

    def _shapes(self, i: int) -> dict[str, tuple[int, ...]]:
        raise NotImplementedError

    def _start(self, key: Any, i: int, dtype: Any) -> dict[str, Any]:
        raise NotImplementedError

    def _zero(self, batch: tuple[int, ...], dtype: Any) -> Any:
        return jnp.zeros((*batch, self.features), dtype)

    def _scores(self, params, x):
        z = x @ params["w"]
        return z + along(params["b"], z) if self.bias else z

    def _step(self, params, state, z) -> tuple[Any, Any]:
        raise NotImplementedError

    def _seen(self, new: Any) -> Any:
        return ()

    def _down(self, params, state, seen, kept, dnew) -> tuple[Any, Any]:
        raise NotImplementedError

    def _scored(self, delta):
        """The error at z, out of delta."""
        return delta

    def _sums(self, x, state, seen, kept, delta) -> dict[str, Any]:
        raise NotImplementedError

    def _meaning(self, params, state, x) -> tuple[Any, Any]:
        """(y, new state) in plain jax.numpy."""
        raise NotImplementedError

    def _named(self, params, x):
        shapes = self._shapes(x.shape[-1])
        return dict(zip(shapes, (p.astype(x.dtype) for p in take(self, params, x.dtype, **shapes)), strict=True))

    def _narrowed(self, params, dy):
        """The parameters in the dtype that is computed with, and a function that brings delta to their own."""
        own = params["w"].dtype
        return {k: p.astype(dy.dtype) for k, p in params.items()}, partial(jax.tree.map, lambda d: d.astype(own))


def output(state: Any) -> Any:
    """y, out of a state."""
    return state[0] if isinstance(state, tuple) else state


class Cell(Steps):
    """One step: (y_t, s_t) of (x_t, s_{t−1}). `Recurrent` runs it through time."""

    def _pair(self, x):
        named = isinstance(x, dict) and set(x) == {"x", "state"}
        pair: Any = (x["x"], x["state"]) if named else x
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not hasattr(pair[0], "dtype"):
            raise LayerError(
                self, f"got x {show(x)}; expected the pair (x, state). Begin with the state {show(self._example(x))}."
            )
        x, state = pair
        floats(self, x, "(..., features)")
        return x, checked_state(self, state, jax.eval_shape(lambda: self._zero(x.shape[:-1], x.dtype))), named

    def _example(self, x):
        leaves = [v for v in jax.tree.leaves(x) if hasattr(v, "dtype")]
        batch, dtype = (leaves[0].shape[:-1], leaves[0].dtype) if leaves else ((), jnp.float32)
        return jax.eval_shape(lambda: self._zero(batch, dtype))

    def start(self, x: Any, /) -> Any:
        """The state zero for x (..., features)."""
        return self._zero(x.shape[:-1], x.dtype)

    def init(self, key, x, /):
        x, _, _ = self._pair(x)
        return self._start(key, x.shape[-1], x.dtype)

    def forward(self, params, x, /):
        x, state, named = self._pair(x)
        params = self._named(params, x)
        new, kept = self._step(params, state, self._scores(params, x))
        return (output(new), new), (x, state, self._seen(new), kept, Static(named))

    def backward(self, params, residuals, dy, /):
        _, state, seen, kept, named = residuals
        dy, dnew = dy
        params, widened = self._narrowed(params, dy)
        dnew = (dnew[0] + dy, *dnew[1:]) if isinstance(dnew, tuple | list) else dnew + dy
        dstate, delta = self._down(params, state, seen, kept, dnew)
        dx = self._scored(delta) @ params["w"].T
        return ({"x": dx, "state": dstate} if named.value else (dx, dstate)), widened(delta)

    def gradient(self, residuals, delta, /):
        x, state, seen, kept, _ = residuals
        return self._sums(x, state, seen, kept, delta)

    def reference(self, params, x, /):
        x, state = (x["x"], x["state"]) if isinstance(x, dict) else x
        return self._meaning(params, state, x)


class Unrolled(OverTime, Steps):
    """Steps through time. Residuals: what has the batch in front, what has time in front, the form of the input.

    Here for a state of one array, which is y.
    """

    def init(self, key, x, /):
        x = floats(self, opened(self, x)[0], "(batch, time, features)", rank=3)
        return self._start(key, x.shape[-1], x.dtype)

    def forward(self, params, x, /):
        x, state, n, form = opened(self, x)
        x = until(floats(self, x, "(batch, time, features)", rank=3), n)
        params = self._named(params, x)
        if state is not None:
            checked_state(self, state, jax.eval_shape(lambda: self._zero(x.shape[:1], x.dtype)))
        h, last, ends, kept = self._through(params, time_first(x), state, n if self.return_state else None)
        y = until(time_first(h), n)
        return ((y, last) if self.return_state else y), ((x, state, n, ends), kept, form)

    def backward(self, params, residuals, dy, /):
        (_, state, n, ends), kept, form = residuals
        dy, dlast = dy if self.return_state else (dy, None)
        params, widened = self._narrowed(params, dy)
        dstate, delta = self._back(params, state, ends, kept, time_first(until(dy, n)), dlast, n)
        dx = time_first(self._scored(delta) @ params["w"].T)
        return closed(form, until(dx, n), None if state is None else dstate), widened(delta)

    def gradient(self, residuals, delta, /):
        (x, state, _, ends), kept, _ = residuals
        return self._sums(time_first(x), *self._states(state, ends, kept), delta)

    def _through(self, params, x, state, n) -> tuple[Any, Any, Any, Any]:
        """(h, final state, what is kept of the end, what is kept of each step), from the state on or from zero."""

        def step(h, z):
            h, kept = self._step(params, h, z)
            return h, (h, kept)

        start = self._zero(x.shape[1:-1], x.dtype) if state is None else state
        last, (h, kept) = forth(step, start, self._scores(params, x), n)
        return h, last, (), (h, kept)

    def _back(self, params, state, ends, kept, dy, dlast, n):
        """(error at the state before all steps, delta)."""
        before, h, kept = self._states(state, ends, kept)
        before = before if self.looks_back else None

        def step(recurrent, now):
            dy, before, h, kept = now
            return self._down(params, before, h, kept, dy + recurrent)

        return back(step, jnp.zeros(dy.shape[1:], dy.dtype), (dy, before, h, kept), dlast, n)

    def _states(self, state, ends, kept) -> tuple[Any, Any, Any]:
        """The states before all steps, what is seen of those after them, and what else is kept of each step."""
        h, kept = kept
        return earlier(h, state), self._seen(h), kept

    def reference(self, params, x, /):
        x, state, n, _ = opened(self, x)
        state = self._zero(x.shape[:1], x.dtype) if state is None else state
        steps = jnp.arange(x.shape[1])

        def step(state, now):  # in a scan: unrolled, a hundred steps take minutes to compile
            t, x = now
            if n is None:
                return self._meaning(params, state, x)[::-1]
            live = (t < n.astype(t.dtype))[:, None]
            y, new = self._meaning(params, state, jnp.where(live, x, 0))
            return jax.tree.map(lambda a, b: jnp.where(live, a, b), new, state), jnp.where(live, y, 0)

        last, y = lax.scan(step, state, (steps, time_first(x)))
        return (time_first(y), last) if self.return_state else time_first(y)


def earlier(h: Any, first: Any = None) -> Any:
    """h_{t−1} for every t: h (t, b, h) one step later, at first `first` or else zero."""
    return jnp.concatenate([jnp.zeros_like(h[:1]) if first is None else first[None][: h.shape[0]], h[:-1]])


def products(x: Any, before: Any, dz: Any) -> tuple[Any, Any]:
    """Σ xᵀ dz and Σ h_{t−1}ᵀ dz_t over all axes but the last, as one product."""
    both = outer(jnp.concatenate([x, before], -1), dz)
    return both[: x.shape[-1]], both[x.shape[-1] :]


def weights(key: Any, i: int, h: int, gates: int, dtype: Any) -> dict[str, Any]:
    """W (i, gates · h) and U (h, gates · h), normal with variance 1/i and 1/h."""
    one, two = jax.random.split(key)
    w = jax.random.normal(one, (i, gates * h), dtype) * max(i, 1) ** -0.5
    return {"w": w, "u": jax.random.normal(two, (h, gates * h), dtype) * max(h, 1) ** -0.5}
