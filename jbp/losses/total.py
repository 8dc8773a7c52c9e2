"""Several losses by name, with a weight for each: the loss of a network with several outputs."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from jbp.cases import Case, f, i
from jbp.compose import Several, a_tuple
from jbp.errors import LayerError, at, show
from jbp.layer import Layer
from jbp.losses.cross_entropy import SoftmaxCrossEntropy
from jbp.losses.divergence import StandardNormalDivergence
from jbp.losses.loss import Loss, Weighted, or_one
from jbp.losses.regression import Huber, MeanSquaredError
from jbp.numerics import Static


@dataclass(frozen=True, init=False)
class Total(Several):
    """y = Σ wᵢ fᵢ(predictionᵢ, targetᵢ)      dpredictionᵢ, dtargetᵢ = what fᵢ returns for wᵢ dy

    `Total(kind=SoftmaxCrossEntropy(), size=(MeanSquaredError(), 0.3))` of (predictions, targets), dicts with these
    names; each is a loss, or a loss with its weight. A tuple is several targets, (labels, weights) for a Weighted.
    Without a target a loss gets the prediction alone, the latent code for a StandardNormalDivergence, or a number that
    the network makes: `penalty=(Identity(), 0.1)`. total["kind"] is a loss inside, `measures()` has all, for `fit`.

    Keeps what they keep. Parameters are a dict of theirs, or () where they have none. y has the widest of their dtypes.
    Inside of `jax.shard_map`, with the axes of the mesh that `over` names, the mean over devices is that of the whole
    batch: wᵢ is n times what of the i-th loss's labels is on this one of n devices. Raises LayerError for other names.

    >>> loss = Total(kind=SoftmaxCrossEntropy(), size=(MeanSquaredError(), 0.5))
    >>> prediction = {"kind": jnp.zeros((1, 2)), "size": jnp.array([[3.0]])}
    >>> target = {"kind": jnp.array([1]), "size": jnp.array([[1.0]])}
    >>> loss(loss.init(jax.random.key(0), (prediction, target)), (prediction, target))
    Array(2.693, dtype=float32)
    """

    weights: tuple[float, ...]
    over: tuple[str, ...] = ()
    couples: ClassVar[Any] = "each of its losses counts by itself"

    def __init__(self, *, layers: Any = (), names: Any = (), weights: Any = (), over: Any = (), **losses: Any):
        pairs = [loss if isinstance(loss, tuple | list) else (loss, 1.0) for loss in losses.values()]
        for name, pair in zip(losses, pairs, strict=True):
            if len(pair) != 2:
                raise LayerError(
                    type(self), f"got {name}={pair!r}; expected a loss, or a loss and its weight. Write (loss, 0.3)."
                )
        given = {"layers": layers, "names": names, "weights": weights, "over": over}
        layers, names, weights, over = (a_tuple(type(self), name, value) for name, value in given.items())
        super().__init__(layers=(*layers, *(loss for loss, _ in pairs)), names=(*names, *losses))
        object.__setattr__(self, "weights", (*weights, *(weight for _, weight in pairs)))
        object.__setattr__(self, "over", over)
        self.__post_init__()
        if not self.names or len(self.weights) != len(self.names):
            raise LayerError(
                type(self),
                f"got {len(self.names)} names and {len(self.weights)} weights; expected one loss or more, by name. "
                "Write Total(kind=SoftmaxCrossEntropy(), size=(MeanSquaredError(), 0.3)).",
            )

    def _arguments(self):
        for name, loss, weight in zip(self.names, self.layers, self.weights, strict=True):
            yield name, loss if weight == 1 else (loss, weight)
        if self.over:
            yield "over", self.over

    def __getitem__(self, key: Any) -> Layer:
        if isinstance(key, slice):
            raise KeyError(f"{key}; a Total has no slices, but total['{self.names[0]}']")
        return super().__getitem__(key)

    def parts(self, tree: Any, what: str = "parameters", /) -> tuple[Any, ...]:
        return ((),) * len(self) if isinstance(tree, tuple) and not tree else super().parts(tree, what)

    def given(self, x: Any) -> list[tuple[Any, ...]]:
        """(prediction, its targets) for each loss."""
        if not isinstance(x, tuple | list) or len(x) not in (1, 2):
            raise LayerError(
                self,
                f"got x {show(x)}; expected dicts (predictions, targets). Make the network a Graph, which gives one.",
            )
        predictions, targets = x[0], x[1] if len(x) == 2 else {}
        if not isinstance(predictions, dict) or set(predictions) != set(self.names):
            raise LayerError(
                self,
                f"got predictions {show(predictions)}; expected a dict with {', '.join(map(repr, self.names))}. Give "
                "the outputs of the network these names.",
            )
        if not isinstance(targets, dict) or not set(targets) <= set(self.names):
            raise LayerError(
                self,
                f"got targets {show(targets)}; expected a dict with names out of {', '.join(map(repr, self.names))}. "
                "Give each target under the name of its output.",
            )
        return [
            (p, *_tuple(targets[name])) if name in targets else p
            for name, p in zip(self.names, self.parts(predictions), strict=True)
        ]

    def measures(self) -> dict[str, Any]:
        """Each loss by itself, for the history: `fit(net, total, ..., **total.measures())` has "kind loss", ..."""
        return {f"{name} loss": _Measure(self, i) for i, name in enumerate(self.names)}

    def init(self, key, x, /):
        params = []
        for n, (loss, given) in enumerate(zip(self.layers, self.given(x), strict=True)):
            with at(self, self.label(n)):
                params.append(loss.init(jax.random.fold_in(key, n), given))
        return self.whole(params) if jax.tree.leaves(params) else ()

    def forward(self, params, x, /):
        values, kept = [], []
        for (label, loss, p), given in zip(self._each(parameters=params), self.given(x), strict=True):
            with at(self, label):
                value, r = loss.forward(p, given)
                if jnp.shape(value) != ():
                    raise LayerError(
                        loss, f"got a loss {show(value)}; expected a scalar. Take the mean inside the loss."
                    )
            values.append(value)
            kept.append(r)
        several = tuple(tuple((name, isinstance(t, tuple | list)) for name, t in targets.items()) for targets in x[1:])
        weights, known = self._here(kept), Static((tuple(v.dtype for v in values), several, params == ()))
        return _sum(weights, values), (self.whole(kept), weights if self.over else (), known)

    def _here(self, kept):
        """The losses' weights, times what of their labels is on this device."""
        if not self.over:
            return self.weights
        devices = lax.axis_size(self.over)

        def weight(w, loss, r):
            count = loss.counted(r) if isinstance(loss, Loss) else 1
            if isinstance(count, int):
                return jnp.asarray(w)
            whole = lax.psum(count, self.over)
            return w * devices * jnp.where(whole == 0, 0, count / or_one(whole))

        return tuple(map(weight, self.weights, self.layers, kept))

    def _down(self, way, params, residuals, dy):
        kept, weights, known = residuals
        dtypes, several, bare = known.value
        sent, down = {}, []
        each = zip(
            self._each(parameters=params, residuals=kept), self.names, weights or self.weights, dtypes, strict=True
        )
        for (label, loss, p, r), name, w, dtype in each:
            with at(self, label):
                sent[name], found = getattr(loss, way)(p, r, (jnp.asarray(w, dy.dtype) * dy).astype(dtype))
            down.append(found)
        targets = dict(several[0]) if several else {}
        dpredictions = {name: d[0] if name in targets else d for name, d in sent.items()}
        dtargets = {name: tuple(sent[name][1:]) if tuples else sent[name][1] for name, tuples in targets.items()}
        return (dpredictions, dtargets)[: 1 + len(several)], () if bare else self.whole(down)

    def backward(self, params, residuals, dy, /):
        return self._down("backward", params, residuals, dy)

    def pull(self, params, residuals, dy, /):
        return self._down("pull", params, residuals, dy)

    def gradient(self, residuals, delta, /):
        return () if residuals[2].value[2] else super().gradient(residuals[0], delta)

    def advance(self, params, residuals, /):
        return () if residuals[2].value[2] else super().advance(params, residuals[0])

    def reference(self, params, x, /):
        each = zip(self.layers, self.parts(params), self.given(x), strict=True)
        return _sum(self.weights, [loss.reference(p, given) for loss, p, given in each])


@dataclass(frozen=True)
class _Measure:
    """A function of (output, targets) that is equal to another such: `fit` compiles nothing anew."""

    total: Total
    i: int

    def __call__(self, output: Any, targets: Any = None, /) -> Any:
        given = self.total.given((output,) if targets is None else (output, targets))
        return self.total.layers[self.i].forward((), given[self.i])[0]


def _sum(weights, values):
    dtype = max((v.dtype for v in values), key=lambda dtype: jnp.finfo(dtype).bits)
    each = (jnp.asarray(w, dtype) * v.astype(dtype) for w, v in zip(weights, values, strict=True))
    return sum(each, jnp.zeros((), dtype))


def _tuple(target):
    return target if isinstance(target, tuple | list) else (target,)


CASES = (
    Case(Total(loss=MeanSquaredError()), ({"loss": f(3, 5)}, {"loss": f(3, 5)})),
    Case(
        Total(kind=SoftmaxCrossEntropy(), size=(Huber(), 0.3), code=(StandardNormalDivergence(), -0.5)),
        ({"kind": f(3, 5), "size": f(3, 2), "code": f(3, 4)}, {"kind": i(3, below=5), "size": f(3, 2)}),
    ),
    Case(
        Total(a=(Weighted(SoftmaxCrossEntropy()), 2.0), b=MeanSquaredError()),
        ({"a": f(3, 5), "b": f(2, 3)}, {"a": (i(3, below=5), f(3)), "b": f(2, 3)}),
    ),
)
