"""What training on eight accelerators takes, by their own compilers and without them: memory, products, collectives.

    python -m benchmarks.accelerators                    four networks on 8 × TPU v5e and 8 × H100, ten minutes
    python -m benchmarks.accelerators --chip H100
    python -m benchmarks.accelerators --only GPT
    python -m benchmarks.accelerators --output benchmarks/results/accelerators.json

Of loss and gradient on one device of eight. Temporary is what the compiler takes beside arguments and results; FLOPs
are those of its products and convolutions, the body of a loop as often as it runs; collectives are what the device
receives. The rows: `jit`, state and batch spread and all else left to the compiler, as an engineer tries first;
`jax.grad` of the same layers, each of which gathers its weights; our sweep of these; with the next block gathered
ahead; with layers cut in four, and with tokens cut between them; with tokens cut in four and keys and values that go
round. No times: there is no accelerator here, and a
schedule is a promise.

The compilers are packages, of the versions that jax[tpu] and jax[cuda12] of the JAX that is installed name: libtpu;
jax-cuda12-plugin, jax-cuda12-pjrt and nvidia-cuda-nvcc-cu12. Those of CUDA want JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from benchmarks.__main__ import written
from jbp import Layer, Repeat, Residual, Serial, layers, recipes
from jbp.losses import SoftmaxCrossEntropy
from jbp.sweep import initialize, inside
from jbp.train import Plan
from jbp.train.parts import parted
from jbp.train.pieces import gathered, is_piece
from jbp.train.step import State
from verify.run.hlo import COLLECTIVES, done

LOSS = SoftmaxCrossEntropy()
H100 = """platform_name: "CUDA" device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 8 } runtime_version { major: 12 minor: 9 }
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 registers_per_block_limit: 65536
  registers_per_core_limit: 65536 memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84978434048 cuda_compute_capability { major: 9 minor: 0 }
}"""
CHIPS: dict[str, dict[str, Any]] = {  # as `topologies.get_topology_desc` has them: eight of each
    "TPU v5e": {"platform": "tpu", "topology_name": "v5e:2x4"},
    "H100": {"platform": "cuda", "topology_name": "h100", "topology": "1x1x8", "target_config": H100},
}
NEEDS = {"TPU v5e": "libtpu", "H100": "jax-cuda12-plugin jax-cuda12-pjrt nvidia-cuda-nvcc-cu12"}
Shape = jax.ShapeDtypeStruct
Way = Callable[..., Any]


@lru_cache
def chips(kind: str) -> tuple[Any, ...]:
    """Eight, as their compiler knows them."""
    return tuple(topologies.get_topology_desc(**CHIPS[kind]).devices)


@dataclass(frozen=True)
class There(Plan):
    """A plan for devices that are not here."""

    kind: str = "TPU v5e"

    def on(self) -> Mesh:
        axes = (AxisType.Auto,) * len(self.sizes)
        return Mesh(np.array(chips(self.kind)[: self.devices]).reshape(self.sizes), self.names, axis_types=axes)


DATA, TENSOR = (("data", 8),), (("data", 2), ("tensor", 4))


def networks() -> Iterator[tuple[str, Layer, Any, Any]]:
    """(name, network, x, target), in shapes."""
    words = Shape((16, 512), "int32")
    yield "GPT, 8 blocks of 512", recipes.gpt(8192, 512, 512, 8, 8), words, words
    block = Residual(Serial(layers.Dense(4096), layers.GELU(), layers.Dense(1024)))
    mlp = Serial(layers.Dense(1024), Repeat(block, 8), layers.Dense(16))
    yield "MLP, 8 blocks of 1024", mlp, Shape((16384, 256), "float32"), Shape((16384,), "int32")
    lstm = recipes.recurrent_language_model(8192, layers.LSTM(1024), 512)
    yield "LSTM of 1024", lstm, Shape((512, 128), "int32"), Shape((512, 128), "int32")
    pictures = Shape((1024, 32, 32, 3), "float32"), Shape((1024,), "int32")
    yield "ResNet, norms of groups", _resnet(), *pictures


def _resnet():
    def block(n):
        row = (layers.Conv(n, (3, 3)), layers.GroupNorm(8), layers.ReLU())
        return Residual(Serial(*row, *row[:2]))

    body = Repeat(block(128), 6)
    return Serial(layers.Conv(128, (3, 3)), body, layers.ReLU(), layers.GlobalAveragePool(), layers.Dense(16))


def value(net: Layer, params: Any, x: Any, target: Any) -> Any:
    """The loss, to be differentiated by JAX: no rule of ours is met on the way."""
    return LOSS.forward((), (net.forward(params, x)[0], target))[0]


def by_jit(net: Layer, plan: Plan) -> Way:
    return lambda params, x, target: jax.value_and_grad(lambda p: value(net, p, x, target))(params)


def by_jax_grad(net: Layer, plan: Plan) -> Way:
    """jax.grad of the forward pass on each device: each layer's weights gathered, and what is kept of them kept."""
    run = gathered(net, "data", plan.devices)

    def swept(params, x, target):
        marks = plan._marks(net, params, x)
        tree, where = jax.tree.structure(params), plan._where(net, marks)
        specs = tree.unflatten(where)

        def here(params, x, target):
            own = jax.tree.structure(marks).unflatten(jax.tree.leaves(params))
            loss, grads = jax.value_and_grad(lambda p: value(run, p, x, target))(own)
            whole = jax.tree.map(lambda g: g if is_piece(g) else lax.psum(g, "data"), grads, is_leaf=is_piece)
            return lax.pmean(loss, "data"), tree.unflatten(jax.tree.leaves(whole))

        along = PartitionSpec("data")
        return jax.shard_map(
            here, mesh=plan.on(), in_specs=(specs, along, along), out_specs=(PartitionSpec(), specs), check_vma=False
        )(params, x, target)

    return swept


def by_sweep(net: Layer, plan: Plan) -> Way:
    def run(params, x, target):
        (loss, _), grads = plan.value_and_grad(net, LOSS, False)(params, x, target)
        return loss, grads

    return run


WAYS: dict[str, tuple[Callable[[Layer, Plan], Way], Plan]] = {
    "jit, state and batch spread": (by_jit, There(DATA, weights="data")),
    "jax.grad, layers gathered": (by_jax_grad, There(DATA, weights="data")),
    "our sweep": (by_sweep, There(DATA, weights="data")),
    "our sweep, ahead": (by_sweep, There(DATA, weights="data", ahead=True)),
    "our sweep, cut in four": (by_sweep, There(TENSOR, weights="data", tensor="tensor")),
    "our sweep, and tokens": (by_sweep, There(TENSOR, weights="data", tensor="tensor", sequence="tensor")),
    "our sweep, in a ring": (by_sweep, There(TENSOR, weights="data", sequence="tensor")),
}


def measured(make: Callable[[Layer, Plan], Way], plan: Plan, net: Layer, x: Any, target: Any) -> dict[str, Any]:
    """What one device takes, by its compiler."""
    params = jax.eval_shape(lambda: initialize(net, jax.random.key(0), x))
    where = plan.shardings(net, State(params, (), jnp.zeros((), jnp.int32)), x).params
    along = jax.tree.map(lambda spec: NamedSharding(plan.on(), spec), plan._along((x, target)))
    placed = jax.tree.map(lambda a, s: Shape(a.shape, a.dtype, sharding=s), params, where)
    batch = (Shape(a.shape, a.dtype, sharding=s) for a, s in zip((x, target), along, strict=True))
    run = jax.jit(make(net, plan), out_shardings=(NamedSharding(plan.on(), PartitionSpec()), where))
    lowered = run.lower(placed, *batch)
    begun = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - begun
    memory: Any = compiled.memory_analysis()
    did = done(compiled.as_text() or "")
    return {
        "temporary": memory.temp_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "flops": did.pop("flops", 0),
        "conditionals": did.pop("conditionals", 0),
        "received": {what: did[what] for what in COLLECTIVES if did[what]},
        "compile_seconds": round(seconds, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerators", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--only", default="", metavar="WORD", help="only networks whose name contains this")
    parser.add_argument("--chip", choices=CHIPS, help="for this alone")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the records here, as JSON")
    options = parser.parse_args()
    records, failed = [], False
    for chip in CHIPS if options.chip is None else [options.chip]:
        try:
            chips(chip)
        except Exception as error:  # noqa: BLE001  # jaxlib says in many ways that there is no such compiler
            print(f"no compiler for {chip} ({type(error).__name__}: {error})\nInstall it: pip install {NEEDS[chip]}")
            failed = True
            continue
        for name, net, x, target in networks():
            if options.only not in name:
                continue
            print(f"\n8 x {chip}: {name}\n{HEAD}")
            for way, (make, plan) in WAYS.items():
                if not says_something(net, plan, x):
                    continue
                record: dict[str, Any] = {"chip": chip, "network": name, "way": way, "jax": jax.__version__}
                try:
                    record |= measured(make, replace(plan, kind=chip), net, x, target)
                except Exception as error:  # noqa: BLE001  # in the table, while the others go on
                    record["failed"] = f"{type(error).__name__}: {error}".splitlines()[0]
                    failed = True
                records.append(record)
                print(line(record), flush=True)
                if options.output:
                    written(options.output, json.dumps(records, indent=1) + "\n")
    return int(failed or not records)


def says_something(net: Layer, plan: Plan, x: Any) -> bool:
    """Whether the network has what the plan is for: a Repeat to gather ahead in, what can be cut, tokens, attention."""
    if plan.sequence and (x.ndim < 2 or (x.ndim < 3 and x.dtype == "float32")):
        return False
    if plan.sequence and plan.tensor is None and not any("context" in layer.cuts for layer in inside(net)):
        return False
    ahead = not plan.ahead or gathered(net, "data", 8, ahead=True) != gathered(net, "data", 8)
    return ahead and (plan.tensor is None or parted(net, plan.tensor, 4) != net)


HEAD = f"{'':28} temporary MiB  GFLOP  gathered MiB  reduced  scattered  exchanged  cond  compile s"


def line(record: dict[str, Any]) -> str:
    if "failed" in record:
        return f"{record['way']:28} could not be compiled: {record['failed'][:160]}"
    gathered_, reduced, scattered = (record["received"].get(what, 0) for what in COLLECTIVES[:3])
    exchanged = sum(record["received"].values()) - gathered_ - reduced - scattered
    memory, gathered_, reduced, scattered, exchanged = (
        n / 2**20 for n in (record["temporary"], gathered_, reduced, scattered, exchanged)
    )
    return (
        f"{record['way']:28} {memory:13.1f} {record['flops'] / 1e9:6.1f} {gathered_:13.1f} {reduced:8.1f} "
        f"{scattered:10.1f} {exchanged:10.1f} {record['conditionals']:5} {record['compile_seconds']:10.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
