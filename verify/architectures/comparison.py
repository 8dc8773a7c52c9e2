"""One network and its loss on one batch of yours: each leaf of the gradient against jax.grad of the definition."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from verify import thresholds as th
from verify.architectures.protocol import is_float, is_none, join, split
from verify.run.options import has_keys, quick_options
from verify.subject.subject import is_estimator


@dataclass(frozen=True)
class Leaf:
    """max |by hand − by jax.grad| of one leaf, in units of the greatest element by jax.grad."""

    name: str
    error: float

    def __str__(self):
        return f"{self.error:8.1e}  {self.name}"


@dataclass(frozen=True, repr=False)
class Comparison:
    """The leaves of a gradient, the largest error first, and whether all are near enough. Prints as a list."""

    leaves: tuple[Leaf, ...]
    estimator: bool = False  # a layer inside says that its backward pass is on purpose another one

    @property
    def worst(self) -> Leaf:
        return self.leaves[0]

    @property
    def agrees(self) -> bool:
        return all(leaf.error <= th.ALONG for leaf in self.leaves)

    def __str__(self):
        shown = [str(leaf) for leaf in self.leaves[:10]] + ["..."] * (len(self.leaves) > 10)
        verdict = "agrees with jax.grad" if self.agrees else "disagrees with jax.grad"
        why = " (it has an estimator inside, whose backward pass is another on purpose)" * self.estimator
        return "\n".join([f"{verdict}{why}; error, leaf:", *shown])

    __repr__ = __str__


def compare(net: Any, loss: Any, params: Any, x: Any, *targets: Any) -> Comparison:
    """The hand-written gradient of loss(net(params, x), *targets) beside jax.grad of the definitions, leaf by leaf.

    In float64, on the numbers given: parameters as trained, a batch as it comes. One compilation, without optimization:
    seconds for networks of ordinary size. Leaves are called "params[0]['w']", and "x" is the error that the first layer
    returns. A leaf's unit is a thousandth of that of the greatest at least, for the gradient of a bias ahead of a
    BatchNorm, say, is zero, and only rounding. `verify.locate` finds the layer at fault in a random network, and
    `verify.check` audits one layer with inputs of an adversary's.

    >>> net, x, y = Dense(1), jnp.ones((2, 3)), jnp.ones((2, 1))
    >>> comparison = verify.compare(net, MeanSquaredError(), net.init(jax.random.key(0), x), x, y)
    >>> comparison.agrees
    True
    """
    with jax.enable_x64(True):
        params, x, targets = jax.tree.map(_wide, (params, x, targets))

        def both(params, x, targets):
            y, residuals = net.forward(params, x)
            value, kept = loss.forward((), (y, *targets))
            (dy, *_), _ = loss.backward((), kept, jnp.ones((), value.dtype))
            dx, dparams = net.pull(params, residuals, dy)
            moves, rest = split((params, x))

            def definition(moves):
                params, x = join(moves, rest)
                return loss.reference((), (net.reference(params, x), *targets))

            true = jax.grad(definition)(moves)
            return (dparams, dx), true

        ours, true = jax.jit(both, compiler_options=quick_options(has_keys(params)))(params, x, targets)
        return Comparison(_leaves(ours, true), is_estimator(net) or is_estimator(loss))


def _wide(leaf):
    return jnp.asarray(leaf, jnp.float64) if hasattr(leaf, "dtype") and is_float(leaf) else leaf


def _leaves(ours, true):
    flat, tree = jax.tree.flatten_with_path(true, is_leaf=is_none)
    mine, errors = tree.flatten_up_to(ours), []
    least = 1e-3 * max((float(np.abs(a).max(initial=0)) for _, a in flat if a is not None), default=0)
    for ((side, *rest), a), b in zip(flat, mine, strict=True):
        name = ("params", "x")[side.idx] + jax.tree_util.keystr(tuple(rest))
        if a is None and b is None:
            continue
        if a is None or b is None or a.shape != b.shape:
            errors.append(Leaf(name, np.inf))
        else:
            gap, scale = float(np.abs(a - b).max(initial=0)), max(float(np.abs(a).max(initial=0)), least)
            errors.append(Leaf(name, gap / scale if scale else np.inf if gap else 0.0))
    return tuple(sorted(errors, key=lambda leaf: -np.nan_to_num(leaf.error, nan=np.inf)))
