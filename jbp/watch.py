"""What training is doing: sizes of values, errors and gradients by layer, dead and saturated units, rank, noise.

    watch = Watch(net, loss, (x, label))
    fit(net, loss, optimizer, state, batches, check=watch, every=100)
    print(watch.said())
    watch.figure().savefig("watch.svg")

Readings of one sweep over a batch that is kept for it (`jbp.readers.observe`), and the spread of its examples'
gradients (`jbp.readers.per_example`). The training step is as it was; a look costs two or three steps.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbp.errors import LayerError, show
from jbp.layer import Layer
from jbp.layers.activation.elementwise import Elementwise
from jbp.numerics import is_float, wide
from jbp.params import trainable
from jbp.readers.observe import Seen, observe
from jbp.readers.per_example import per_example
from jbp.train.step import norm

__all__ = ["Look", "Watch", "noise_scale"]


def _array(v: Any) -> bool:
    return hasattr(v, "dtype") and is_float(v) and v.ndim > 1 and v.size > 0


def _rms(v: Any) -> Any:
    return jnp.sqrt(jnp.mean(jnp.square(wide(v)))) if _array(v) else None


def _dead(seen: Seen) -> Any:
    if not (_array(seen.y) and isinstance(seen.layer, Elementwise)):
        return None
    return jnp.all(seen.dx == 0, range(seen.y.ndim - 1)).mean(dtype=jnp.float32) if _array(seen.dx) else None


def _saturated(seen: Seen) -> Any:
    if not (isinstance(seen.layer, Elementwise) and _array(seen.y) and seen.dx.shape == seen.dy.shape):
        return None
    came = jnp.abs(seen.dy) > 0
    return jnp.sum(came & (jnp.abs(seen.dx) < 0.1 * jnp.abs(seen.dy))) / jnp.maximum(came.sum(), 1)


def _rank(seen: Seen) -> Any:
    if not _array(seen.y) or not seen.gradient:
        return None
    y = wide(seen.y).reshape(-1, seen.y.shape[-1])
    y = y - y.mean(0, keepdims=True)
    gram = y @ y.T if y.shape[0] < y.shape[1] else y.T @ y
    whole, squares = jnp.trace(gram), jnp.square(gram).sum()
    return whole * whole / jnp.maximum(squares, jnp.finfo(squares.dtype).tiny) / min(y.shape)


def _relative(seen: Seen) -> Any:
    if not jax.tree.leaves(seen.gradient):
        return None
    size = norm(trainable(seen.params))
    return norm(seen.gradient) / jnp.maximum(size, jnp.finfo(size.dtype).tiny)


READINGS = {
    "activation": lambda seen: _rms(seen.y),  # the root mean square of what comes out of a layer
    "error": lambda seen: _rms(seen.dy),  # that of the error at its output
    "gradient": _relative,  # the norm of its gradient, in norms of its weights
    "dead": _dead,  # the share of units of an activation that let no error through, for no example
    "saturated": _saturated,  # the share of an activation's values where its slope is under 0.1
    "rank": _rank,  # (Σλ)² / Σλ² of its outputs' covariance, as a share of what it could be
}


def noise_scale(norms: Any, mean: Any) -> tuple[Any, Any]:
    """(tr Σ, |G|²): the spread of the examples' gradients, and the square of their true mean, free of bias.

    norms (b,) are the norms of b examples' gradients, `mean` that of their mean. tr Σ / |G|² is the gradient noise
    scale: the batch at which noise and signal are alike, beyond which larger batches pay less and less. |G|² comes out
    about 0, or below, where b examples do not tell the direction. (McCandlish et al., *An Empirical Model of
    Large-Batch Training*, 2018, §2.2 and appendix A.1.)

    >>> spread, square = jbp.watch.noise_scale(jnp.array([3.0, 5.0]), jnp.array(4.0))  # gradients 3 and 5 of one number
    >>> float(spread), float(square)
    (2.0, 15.0)
    """
    b = norms.shape[0]
    spread = (jnp.mean(jnp.square(norms)) - jnp.square(mean)) * b / max(b - 1, 1)
    return spread, jnp.square(mean) - spread / b


@dataclass(frozen=True)
class Look:
    """One look at a network in training."""

    layers: dict[str, dict[str, Any]]  # {path: {reading: value}}, in a Repeat (times,)
    felt: Any  # the share of each feature of the first layer's input in what the loss feels of it, or None
    loss: float
    noise: float  # the gradient noise scale, in examples; inf where no direction is to be told
    moved: float | None  # how far the parameters went since the last look, in norms of theirs
    turned: float | None  # the cosine between the gradients of this look and the last


class Watch:
    """Looks at a network in training: give it to `fit` as `check`, with `every`.

    `batch` is (x, *targets), held for this purpose; some hundred examples tell enough. To the row of history it adds
    the noise scale, the greatest share of dead and of saturated units, how far parameters moved and whether the
    gradient turned. `looks` has all of them, layer by layer; `said()` tells in words what looks ill, `figure` draws
    layers × looks. Raises LayerError where a layer does.

    >>> net, x = Serial(Dense(8), ReLU(), Dense(1)), jnp.arange(12.0).reshape(6, 2)
    >>> watch = jbp.watch.Watch(net, MeanSquaredError(), (x, jnp.ones((6, 1))))
    >>> row = watch(net.init(jax.random.key(0), x))
    >>> sorted(row)
    ['dead', 'noise scale', 'saturated']
    >>> sorted(watch.looks[0].layers["[1]"])
    ['activation', 'dead', 'error', 'saturated']
    """

    def __init__(self, net: Layer, loss: Layer, batch: tuple[Any, ...]):
        if not isinstance(batch, tuple | list) or not batch:
            raise LayerError(net, f"got the batch {show(batch)}; expected a tuple (x, *targets). Write (x, label).")
        self.net, self.loss, self.batch = net, loss, tuple(batch)
        self.looks: list[Look] = []
        self._last: Any = None
        self._sweep = jax.jit(self._swept)

    def _swept(self, params, *batch):
        found = observe(self.net, self.loss, **READINGS, felt=self._felt)(params, *batch)
        try:
            each = per_example(self.net, self.loss)(params, *batch)
            noise = noise_scale(each.norms, norm(each.weighted(jnp.ones_like(each.norms) / each.norms.size)))
        except LayerError:  # what mixes the examples has no gradient of each
            noise = (jnp.nan, jnp.nan)
        return found.value, found.found, found.gradient, noise

    @staticmethod
    def _felt(seen):
        """Of the first layer: how much of the error each feature of the input takes."""
        if not _array(seen.dx) or not _array(seen.x):
            return None
        share = jnp.square(wide(seen.dx * seen.x)).sum(range(seen.dx.ndim - 1))
        return share / jnp.maximum(share.sum(), jnp.finfo(share.dtype).tiny)

    def __call__(self, params: Any) -> dict[str, float]:
        value, layers, gradient, noise = jax.device_get(self._sweep(params, *self.batch))
        felt = [found.pop("felt", None) for found in layers.values()][:1]
        weights = jax.device_get(trainable(params))
        moved = turned = None
        if self._last is not None:
            before, g = self._last
            moved = _norm(jax.tree.map(np.subtract, weights, before)) / max(_norm(before), 1e-30)
            turned = _dot(gradient, g) / max(_norm(gradient) * _norm(g), 1e-30)
        self._last = weights, gradient
        spread, square = map(float, noise)
        scale = float("nan") if spread != spread else spread / square if square > 0 else float("inf")
        self.looks.append(Look(layers, felt[0] if felt else None, float(value), scale, moved, turned))
        row = {"noise scale": scale, "moved": moved, "turned": turned}
        row |= {name: self._most(name) for name in ("dead", "saturated")}
        return {name: value for name, value in row.items() if value is not None}

    def _most(self, reading: str) -> float | None:
        found = [np.max(each[reading]) for each in self.looks[-1].layers.values() if reading in each]
        return float(max(found)) if found else None

    def table(self, reading: str) -> tuple[list[str], np.ndarray]:
        """(the layers, their values at each look (layers, looks)); each time of a Repeat is a layer."""
        rows: dict[str, list[float]] = {}
        for look in self.looks:
            for path, found in look.layers.items():
                for i, value in enumerate(np.ravel(found.get(reading, []))):
                    rows.setdefault(path if np.ndim(found[reading]) == 0 else f"{path} {i}", []).append(float(value))
        return list(rows), np.array(list(rows.values()))

    def said(self) -> list[str]:
        """What looks ill, in words, each with the figures that say so; nothing where all looks well.

        Questions to ask of a network that does not learn: do values keep their size from layer to layer, errors
        too? Do units answer? Do steps agree? Do examples? Is one input all that is looked at? The first look is best
        taken before training: watch(state.params).
        """
        found = [line for ask in _QUESTIONS if (line := ask(self))]
        return found or [line for line in [_no_signal(self)] if line]

    def figure(self) -> Any:
        """A matplotlib figure of every reading, layers from below to above, looks from left to right."""
        from matplotlib.figure import Figure

        shown = [(name, *self.table(name)) for name in READINGS]
        shown = [(name, rows, values) for name, rows, values in shown if len(rows)]
        picture = Figure(figsize=(4 * ((len(shown) + 1) // 2), 5.6), layout="constrained")
        for axis, (name, rows, values) in zip(np.ravel(picture.subplots(2, -(-len(shown) // 2))), shown, strict=False):
            sizes = name in ("activation", "error", "gradient")
            drawn = np.log10(np.maximum(values, 1e-12)) if sizes else values
            image = axis.imshow(
                drawn, aspect="auto", origin="lower", vmin=None if sizes else 0, vmax=None if sizes else 1
            )
            axis.set_yticks(range(len(rows)), rows, fontsize=7)
            axis.set(title=f"{name}, log10" if sizes else name, xlabel="look")
            picture.colorbar(image, ax=axis)
        for axis in picture.axes:
            axis.set_visible(axis.has_data())
        return picture


def _dot(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return float(sum(np.vdot(np.asarray(u, np.float64), np.asarray(v, np.float64)) for u, v in pairs))


def _norm(tree):
    return _dot(tree, tree) ** 0.5


def _ends(watch, reading, look):
    """(the first value, the last) of a reading over the layers that have it, at one look."""
    rows, values = watch.table(reading)
    return (values[0, look], values[-1, look], rows[0], rows[-1]) if len(rows) > 1 else (1.0, 1.0, "", "")


def _rate(watch):
    looks = watch.looks
    if len(looks) < 2:
        return None
    if not np.isfinite(looks[-1].loss) or looks[-1].loss > 2 * looks[0].loss:
        return f"learning rate: the loss went from {looks[0].loss:.3g} to {looks[-1].loss:.3g}; take a smaller one"
    still = np.median([look.moved for look in looks[1:]])
    if still < 1e-4 and looks[-1].loss > 0.9 * looks[0].loss:
        return f"learning rate: parameters move by {still:.1e} of their norm from look to look; take a larger one"
    turns = np.median([look.turned for look in looks[1:]])
    if len(looks) > 3 and turns < -0.3:
        return f"learning rate: the gradient turns round from look to look, cosine {turns:.2f}; take a smaller one"
    return None


def _initialization(watch):
    first, last, low, high = _ends(watch, "activation", 0)
    if not 0.01 < last / max(first, 1e-30) < 100:
        way = "grow" if last > first else "shrink"
        return f"initialization: at the first look values {way} from {first:.2g} at {low} to {last:.2g} at {high}"
    return None


def _dead_units(watch):
    rows, values = watch.table("dead")
    if not len(rows) or values[:, -1].max() <= 0.5:
        return None
    worst = values[:, -1].argmax()
    since = "since the first look" if values[worst, 0] > 0.5 else "which died in training; take a smaller learning rate"
    return f"dead units: {values[worst, -1]:.0%} of {rows[worst]} let no error through, {since}"


def _vanishing(watch):
    first, last, low, high = _ends(watch, "error", -1)
    if first < 1e-3 * last and not _dead_units(watch):
        return f"vanishing error: {last:.2g} at {high}, but {first:.2g} at {low}"
    return f"exploding error: {last:.2g} at {high}, and {first:.2g} at {low}" if first > 1e3 * last else None


def _saturated_units(watch):
    rows, values = watch.table("saturated")
    if not len(rows) or values[:, -1].max() <= 0.9 or _dead_units(watch):
        return None
    worst = values[:, -1].argmax()
    return f"saturation: {values[worst, -1]:.0%} of the values of {rows[worst]} are where its slope is under 0.1"


def _leak(watch):
    felt = watch.looks[-1].felt
    if felt is not None and felt.size >= 4 and felt.max() > 0.5:
        return f"a leak, perhaps: feature {felt.argmax()} of the input takes {felt.max():.0%} of what the loss feels"
    return None


def _no_signal(watch):
    noise = np.median([look.noise for look in watch.looks[len(watch.looks) // 2 :]])
    b = jax.tree.leaves(watch.batch)[0].shape[0]
    if len(watch.looks) > 2 and noise > b / 2 and watch.looks[-1].loss > 0.85 * watch.looks[0].loss:
        return (
            f"no signal: the gradients of {b} examples hardly agree (noise scale {noise:.3g}), and the loss does "
            "not fall. Do the labels belong to the inputs?"
        )
    return None


_QUESTIONS = _rate, _initialization, _dead_units, _vanishing, _saturated_units, _leak
