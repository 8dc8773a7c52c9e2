"""What an entry of the corpus is; examples and ways to write a rule that all families share."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl


@dataclass(frozen=True)
class Entry:
    """One rule: `make()` gives (f, plain definition, example arguments), anew at each call.

    `mistake` says in words what is wrong, and is None where the rule is right; `edge` says what has to be tried for it
    to show, and is None where it shows at any ordinary input. `since` is the set with which it came: "own" for those
    written beside the auditor, "judge 7" for the seventh set of people who had not seen it.
    """

    name: str
    make: Callable[[], tuple[Any, Any, tuple]]
    mistake: str | None
    edge: str | None
    since: str

    @property
    def family(self) -> str:
        return self.make.__module__.rpartition(".")[2]


def right(since: str) -> Callable[[Callable], Entry]:
    return lambda make: Entry(make.__name__, make, None, None, since)


def wrong(since: str, edge: str | None = None) -> Callable[[Callable], Entry]:
    """What is wrong is the first sentence of the function's docstring, or else its name."""

    def entry(make):
        told = " ".join((inspect.getdoc(make) or "").split()).partition(". ")[0].rstrip(".")
        return Entry(make.__name__, make, told or make.__name__.replace("_", " "), edge, since)

    return entry


# examples -------------------------------------------------------------------------------------------------------------


def example(*shape, seed=0, scale=1.0, mean=0.0):
    return jnp.asarray(mean + scale * np.random.default_rng(seed).normal(size=shape), jnp.float32)


def uniform(low, high, *shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, shape), jnp.float32)


def ids(high, *shape, seed=3):
    return jnp.asarray(np.random.default_rng(seed).integers(0, high, size=shape), jnp.int32)


def integers(*v):
    return jnp.asarray(np.array(v, dtype=np.int32))


def floats(*v):
    return jnp.asarray(np.array(v, dtype=np.float32))


def complex_example(seed, *shape):
    """Complex numbers."""
    r = np.random.default_rng(seed)
    return jnp.asarray((r.normal(size=shape) + 1j * r.normal(size=shape)).astype(np.complex64))


def positive(*shape):
    return jnp.abs(example(*shape)) + 0.1


def simplex(*shape, seed=0):
    return softmax(example(*shape, seed=seed))


def probabilities(seed, *shape):
    return jax.nn.softmax(example(*shape, seed=seed), -1)


def spd(n):
    a = example(n, n)
    return a @ a.T + jnp.eye(n)


def definite(seed, n):
    a = np.random.default_rng(seed).normal(size=(n, n))
    return jnp.asarray((a @ a.T + n * np.eye(n)).astype(np.float32))


X = lambda: (example(4, 6),)  # noqa: E731
XWB = lambda: (example(5, 6), example(6, 4, seed=1), example(4, seed=2))  # noqa: E731
XGB = lambda: (example(5, 6), 1 + 0.3 * example(6, seed=1), example(6, seed=2))  # noqa: E731
ZL = lambda: (example(5, 7), ids(7, 5))  # noqa: E731
EI = lambda: (example(9, 3), jnp.asarray([4, 0, 7, 2, 5], jnp.int32))  # noqa: E731
MASK = jnp.asarray(np.random.default_rng(5).random((4, 6)) < 0.6)
LENGTHS = jnp.asarray([3, 6, 2, 5], jnp.int32)


# rules of functions ---------------------------------------------------------------------------------------------------


def rule(plain, fwd, bwd):
    """A function with a custom VJP. `plain` itself stays without one."""

    @jax.custom_vjp
    def f(*args):
        return plain(*args)

    f.defvjp(fwd, bwd)
    return f


def written(fwd, bwd, *settings):
    """The function of `fwd`'s first result with a custom VJP; `settings` are the places of what has no gradient."""

    @partial(jax.custom_vjp, nondiff_argnums=settings)
    def f(*args):
        return fwd(*args)[0]

    f.defvjp(fwd, bwd)
    return f


def keeping(plain, bwd, *settings):
    """`plain` with a custom VJP whose residuals are its arguments without the settings, a tuple."""
    kept = lambda args: tuple(a for i, a in enumerate(args) if i not in settings)  # noqa: E731
    return written(lambda *args: (plain(*args), kept(args)), bwd, *settings)


def elementwise(plain, derivative, *args):
    """f = plain with dx = d · derivative(x)."""
    return rule(plain, lambda x: (plain(x), x), lambda x, d: (d * derivative(x),)), plain, args or X()


def square(bwd, *args):
    return rule(lambda x: x * x, lambda x: (x * x, x), bwd), lambda x: x * x, args or X()


def kernel(body, like, *args, **options):
    """A Pallas kernel, interpreted, whose output is like `like`."""
    like = jax.ShapeDtypeStruct(like.shape, like.dtype)
    return pl.pallas_call(body, out_shape=like, interpret=True, **options)(*args)


# plain definitions, and their backward passes -------------------------------------------------------------------------


def softmax(x):
    e = jnp.exp(x - lax.stop_gradient(x.max(-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


def softmax_back(y, d):
    return y * (d - (y * d).sum(-1, keepdims=True))


def nll(z, y):
    """Each row's cross-entropy; labels that are no class have none of the classes."""
    return -(jax.nn.log_softmax(z) * jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype)).sum(-1)


def nll_slope(z, y):
    return softmax(z) - jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype)


def cross_entropy(z, labels):
    return jnp.mean(jax.nn.logsumexp(z, -1) - jnp.take_along_axis(z, labels[:, None], -1)[:, 0])


def gather(e, i):
    return e[i]


def decayed(a, b, h):
    """h = a h + b, every h."""

    def step(h, ab):
        h = ab[0] * h + ab[1]
        return h, h

    return lax.scan(step, h, (a, b))[1]


def linear(x, w, b):
    return x @ w + b


def linear_fwd(x, w, b):
    return linear(x, w, b), (x, w)


def linear_bwd(r, d):
    x, w = r
    return d @ w.T, x.T @ d, d.sum(0)


def linear_with_back(bwd):
    return rule(linear, linear_fwd, bwd), linear, XWB()


def triangular(a, b, **options):
    return jax.scipy.linalg.solve_triangular(a, b, **options)


# dtypes and shapes ----------------------------------------------------------------------------------------------------
SINGLE = jnp.float32
NO_GRADIENT = jax.dtypes.float0


def wide(x):
    """x in float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, SINGLE))


def unbroadcast(g, shape):
    """Sum g down to shape, the transpose of broadcasting."""
    g = jnp.sum(g, axis=tuple(range(g.ndim - len(shape))))
    ones = tuple(i for i, s in enumerate(shape) if s == 1 and g.shape[i] != 1)
    return jnp.sum(g, axis=ones, keepdims=True)
