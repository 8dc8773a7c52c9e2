"""Private training: a step that no single example can move far, and how much it tells of one.

    how = Private(clip=1.0, noise=1.1, batch=256, padded=True)
    batches = Poisson((x, label), batch=256, steps=1000)
    state, history = fit(net, loss, optimizer, start(net, optimizer, key, x), batches, sweep=how)
    how.epsilon(examples=len(x), steps=1000, delta=1e-5)

The gradient is (Σ wᵢ gᵢ + noise · clip · z) / batch, z ~ N(0, 1), with weights that leave ‖wᵢ gᵢ‖ ≤ clip (Abadi et al.,
*Deep Learning with Differential Privacy*, 2016). One sweep makes it: norms out of residuals and deltas, then weighted
gradients (`jbp.readers.per_example`); no example's gradient is made where that is dear, and no second backward pass.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jbp.errors import LayerError, show
from jbp.fields import Count, Inside, NonNegative, Positive, Size, check, checked
from jbp.layer import Layer
from jbp.numerics import wide
from jbp.readers.per_example import PerExample, per_example
from jbp.sweep import Aux

__all__ = ["Poisson", "Private", "noise_for"]


@dataclass(frozen=True)
class Private:
    """A sweep for `jbp.train.step` and `fit`: the gradient of clipped examples with noise, as `sweep=Private(...)`.

        flat         wᵢ = min(1, c / ‖gᵢ‖)
        layer        each of L layers by itself, wᵢₗ = min(1, c / (√L ‖gᵢₗ‖)): each time of a Repeat, a Tied as one
        automatic    wᵢ = c / (‖gᵢ‖ + 0.01), for which c is but a rate (Bu et al., *Automatic Clipping*, 2023)

    `clip` is c, and `noise` the multiplier: the standard deviation of the noise on each number of the sum is noise · c.
    The sum is divided by `batch`, the number of examples that is expected, however many came. `micro` takes the batch
    in so many parts, one after the other, and adds their sums: the memory of one part, and the same gradient. With
    `padded` the last target says of each example whether it is there, as `Poisson` gives it. Noise is drawn from the
    seed and the number of the step, so that it is the same in a run that is resumed: keep the seed secret, for who
    knows it can take the noise off.

    gᵢ is the gradient of an example's own loss, so what a loss counts in a batch joins no two. Any optimizer of optax
    follows. The loss in the history is not private. Raises LayerError for a layer that mixes the examples.

    Under a `jbp.train.Plan` each device has its part of the batch, in `micro` parts; Poisson takes their `multiple`.

    >>> how = jbp.private.Private(clip=1.0, noise=0.0, batch=2)
    >>> net, x = Dense(1, bias=False), jnp.array([[1.0, 0.0], [3.0, 4.0]])
    >>> sweep = how.value_and_grad(net, MeanAbsoluteError())
    >>> (loss, aux), grads = sweep({"w": jnp.zeros((2, 1))}, x, jnp.ones((2, 1)))
    >>> grads["w"].ravel()
    Array([-0.8, -0.4], dtype=float32)
    """

    clip: Positive
    noise: NonNegative
    batch: Size
    by: Literal["flat", "layer", "automatic"] = "flat"
    micro: Size = 1
    padded: bool = False
    seed: Count = 0

    def __post_init__(self):
        check(self)

    def value_and_grad(self, net: Layer, loss: Layer, plan: Any = None) -> Any:
        """f(params, x, *targets, step) -> ((loss, Aux(output, params)), gradient), with noise of that step.

        With a `plan` each device takes its part of the batch, and noise comes once, on the sum over all of them.
        """
        sums = self._sums(net, loss)
        sums = sums if plan is None else plan.summing(net, sums)

        def f(params, *batch, step=0):
            (value, total), output, advanced = sums(params, *batch)
            return (value / self.batch, Aux(output, advanced)), self._noisy(total, step)

        return f

    def _sums(self, net, loss):
        """f(params, x, *targets) -> ((Σ losses, Σ wᵢ gᵢ), output, params moved on); `drawn` gives keys of its own."""
        sweep = per_example(net, loss)

        def f(params, x, *targets, drawn=lambda params: params):
            given = (x, *targets)
            there = None
            if self.padded:
                *given, there = given
                if jnp.shape(there) != jnp.shape(jax.tree.leaves(x)[0])[:1]:
                    raise LayerError(
                        net,
                        f"got the last target {show(there)} with padded=True; expected for each example whether it is "
                        "there, (b,). Take batches from jbp.private.Poisson, or leave padded out.",
                    )
            parts = self._parts(net, (tuple(given), there))

            def one(params, part):
                batch, there = part
                found = sweep(drawn(params), *batch)
                on = 1 if there is None else there.astype(found.losses.dtype)
                sums = (found.losses * on).sum(), found.weighted(self._weights(found, on))
                return found.net.advance(params, found.residuals), sums, found.output

            def add(carry, part):
                params, sums, output = one(carry[0], part)
                return (params, jax.tree.map(jnp.add, carry[1], sums)), output

            params, sums, output = one(params, jax.tree.map(lambda a: a[0], parts))
            if self.micro > 1:
                rest = jax.tree.map(lambda a: a[1:], parts)
                (params, sums), more = jax.lax.scan(add, (params, sums), rest)
                output = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), output, more)
                output = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), output)
            return sums, output, params

        return f

    def epsilon(self, examples: int, steps: int, delta: float) -> float:
        """ε of (ε, δ)-differential privacy after so many steps, of one example more or less.

        Each example was in each batch with probability batch / examples, by itself, as `Poisson` draws. Accounted by
        the privacy loss distributions of dp-accounting (Koskela et al., *Computing Tight Differential Privacy
        Guarantees Using FFT*, 2020). inf without noise. Raises ImportError without the extra `private`.
        """
        if not self.noise:
            return math.inf
        return _accountant().compose(_event(self.noise, self.batch, examples, steps)).get_epsilon(delta)

    def _parts(self, net, tree):
        """The arrays with a first axis of `micro` parts."""
        b = jax.tree.leaves(tree)[0].shape[0]
        if b % self.micro:
            raise LayerError(
                net,
                f"got a batch of {b} with micro={self.micro}; expected a multiple of it. Take another micro, or fill "
                "the batch up as jbp.private.Poisson does.",
            )
        return jax.tree.map(lambda a: a.reshape(self.micro, b // self.micro, *a.shape[1:]), tree)

    def _weights(self, found: PerExample, there: Any) -> Any:
        if self.by == "automatic":
            return there * self.clip / (found.norms + 0.01)
        if self.by == "flat":
            return there * _least(self.clip, found.norms)
        layers = sum(norms.size // max(found.losses.size, 1) for norms in found.norms_by_layer.values())
        return lambda norms: there * _least(self.clip / math.sqrt(layers), norms)

    def _noisy(self, total, step):
        if not self.noise:
            return jax.tree.map(lambda g: g / self.batch, total)
        leaves, tree = jax.tree.flatten(total)
        ends = np.cumsum([g.size for g in leaves])
        key = jax.random.fold_in(jax.random.key(self.seed), step)
        dtype = jnp.result_type(*(wide(g).dtype for g in leaves))
        chunk = min(1 << 16, int(ends[-1]))  # drawn in a loop it is compiled once, and no fusion draws it again

        def drawn(i):
            return jax.random.normal(jax.random.fold_in(key, i), (chunk,), dtype)

        z = jax.lax.map(drawn, jnp.arange(-(-ends[-1] // chunk))).reshape(-1)
        z = jnp.split(z[: ends[-1]], ends[:-1])

        def noisy(g, z):
            return ((wide(g) + self.noise * self.clip * z.reshape(g.shape).astype(wide(g).dtype)) / self.batch).astype(
                g.dtype
            )

        return tree.unflatten(map(noisy, leaves, z))


def _least(clip, norms):
    return jnp.minimum(1, clip / norms)  # of no gradient 1


def _event(noise, batch, examples, steps):
    import dp_accounting

    if not batch <= examples:
        raise LayerError(
            Private,
            f"got batch={batch} of {examples} examples; expected the whole data as `examples`. Write examples=len(x).",
        )
    each = dp_accounting.PoissonSampledDpEvent(batch / examples, dp_accounting.GaussianDpEvent(noise))
    return dp_accounting.SelfComposedDpEvent(each, steps)


def _accountant():
    from dp_accounting import pld

    return pld.PLDAccountant()


@checked
def noise_for(epsilon: Positive, delta: Inside, *, batch: Size, examples: Size, steps: Size) -> float:
    """The `noise` with which so many steps on so many examples are (ε, δ)-private.

    Found by dp-accounting, to 1e-3 above. Raises ImportError without the extra `private`.

    >>> round(jbp.private.noise_for(3.0, 1e-5, batch=64, examples=1024, steps=30), 2)
    0.96
    """
    import dp_accounting

    found = dp_accounting.calibrate_dp_mechanism(
        _accountant,
        lambda noise: _event(noise, batch, examples, steps),
        epsilon,
        delta,
        dp_accounting.LowerEndpointAndGuess(0.0, 1.0),
        tol=1e-3,
    )
    return float(found)


class Poisson:
    """Batches of a private training: each example is in each batch with probability batch / len(x), by itself.

        batches = Poisson((x, label), batch=256, steps=1000)

    An iterable of (x, label, there): arrays of one size, so that one program takes them all; `there` (size,) tells
    which of them are examples and not filling. There is room for what comes but once in 1e9 draws, in a multiple of
    `multiple`, the `micro` of Private. Draws follow from the seed and the number of the batch, so that a run goes on
    where it stopped: keep the seed secret. Raises LayerError for arrays of different lengths, and where a batch has no
    room.

    >>> x, there = next(iter(jbp.private.Poisson((jnp.arange(1000.0),), batch=100, steps=10)))
    >>> x.shape, bool(there.sum() < 130)
    ((166,), True)
    """

    @checked
    def __init__(self, data: Any, batch: Size, steps: Size, seed: Count = 0, multiple: Size = 1):
        self.data, self.batch, self.steps, self.seed = jax.tree.map(np.asarray, data), batch, steps, seed
        sizes = {a.shape[:1] for a in jax.tree.leaves(self.data)}
        self.examples: int = sum(next(iter(sizes), ()))
        if not isinstance(data, tuple) or len(sizes) != 1 or batch > self.examples:
            raise LayerError(
                Poisson,
                f"got data {show(data)} and batch={batch}; expected a tuple (x, *targets) of arrays of one length, the "
                "batch or longer. Write Poisson((x, label), ...).",
            )
        room = min(self.examples, math.ceil(batch + 6 * math.sqrt(batch)) + 6)
        self.size = multiple * math.ceil(room / multiple)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for step in range(self.steps):
            drawn = np.random.default_rng([self.seed, step]).random(self.examples) < self.batch / self.examples
            chosen = np.flatnonzero(drawn)
            if len(chosen) > self.size:
                raise LayerError(
                    Poisson,
                    f"got {len(chosen)} examples in a batch with room for {self.size}; expected what comes but once in "
                    "1e9 draws. Take another seed, and do not leave out examples.",
                )
            places = np.concatenate([chosen, np.zeros(self.size - len(chosen), chosen.dtype)])
            there = np.arange(self.size) < len(chosen)
            yield (*jax.tree.map(lambda a, places=places: a[places], self.data), there)
