"""Random networks of the catalogue under random plans: the gradient is that of one device, or it is refused."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings

from jbp import Serial, value_and_grad
from jbp.errors import LayerError
from jbp.layer import Layer
from jbp.layers import Dense, Tanh
from jbp.losses import MeanSquaredError
from jbp.train import Plan
from tests.storm.told import Tried
from verify.architectures.networks import EVEN, after, draw_inputs, is_one, networks

BATCH, CLOSE = 8, 1e-9
LOSS = MeanSquaredError()
END = Dense(4), Tanh(), Dense(8)  # which every plan can cut
PLANS = (
    Plan((("data", 2),)),
    Plan((("data", 4),), weights="data"),
    Plan((("data", 2),), weights="data", micro=2, ahead=True),
    Plan((("data", 1),), micro=4),
    Plan((("tensor", 2),), tensor="tensor"),
    Plan((("data", 2), ("tensor", 2)), tensor="tensor", weights="data"),
)


@dataclass(frozen=True)
class Subject:
    layer: Layer
    x: Any


def drawn(count: int, number: int) -> list[Subject]:
    """Networks of one floating array with a batch of eight, which give an array of eight and draw no numbers."""
    found: list[Subject] = []

    @seed(number)
    @settings(max_examples=20 * count, deadline=None, database=None, suppress_health_check=list(HealthCheck),
              phases=(Phase.generate,), backend=EVEN)  # fmt: skip
    @given(networks())
    def take(network):
        if len(found) == count or not is_one(network.inputs):
            return
        x = replace(network.inputs, shape=(BATCH, *network.inputs.shape[1:]))
        y = after(network.layer, x)
        if y is None or y.shape[:1] != (BATCH,):
            return
        with jax.enable_x64(True):
            like = jax.ShapeDtypeStruct(x.shape, jnp.float64)
            params = jax.eval_shape(network.layer.init, jax.random.key(0), like)
        if not any(jnp.issubdtype(p.dtype, jax.dtypes.prng_key) for p in jax.tree.leaves(params)):
            found.append(Subject(network.layer, draw_inputs(x, np.random.default_rng(network.seed), jnp.float64)))

    take()
    return found


def swept(net: Layer, plan: Plan | None, params: Any, *batch: Any) -> Any:
    """(loss, the parameters moved on, gradient)."""
    f = value_and_grad(net, LOSS, has_aux=True) if plan is None else plan.value_and_grad(net, LOSS)
    (value, aux), grads = jax.jit(f)(params, *(batch if plan is None else plan.put(net, batch)))
    return value, aux.params, grads


def far(found: Any, wanted: Any) -> float:
    """How far two trees are, against the largest number of each array."""
    apart = [0.0]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        apart.append(float(np.abs(a - b).max(initial=0) / max(1.0, float(np.abs(b).max(initial=0)))))
    return max(apart)


def plans(count: int, number: int) -> Iterator[Tried]:
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # two programs with collectives starve each other
    rng = np.random.default_rng(number)
    with jax.enable_x64(True):
        for subject in drawn(count, number):
            net, x = Serial(subject.layer, *END), subject.x
            plan = PLANS[rng.integers(len(PLANS))]
            params = net.init(jax.random.key(0), x)
            batch = x, jnp.asarray(rng.normal(size=jax.eval_shape(net.forward, params, x)[0].shape))
            what = f"{net!r} on {x.shape} under {plan!r}"
            try:
                found = swept(net, plan, params, *batch)
            except LayerError as error:
                yield Tried("refused", f"{what}: {error}")
                continue
            off = far(found, swept(net, None, params, *batch))
            yield Tried("as on one device", what, () if off <= CLOSE else (f"off by {off:.1e}",))
