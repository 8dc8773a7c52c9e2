"""What is measured: layers alone, whole networks, depth, training steps, and how each grows with its size."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

import jbp
from benchmarks import peers
from benchmarks.contests import Contest, backward_pass, both_passes, clipped, gradient, integers, normal, training
from jbp import recipes

CE, MSE = jbp.losses.SoftmaxCrossEntropy(), jbp.losses.MeanSquaredError()


@dataclass(frozen=True)
class Workload:
    """A contest by name, made when its turn comes. `aim` is the ratio of times to reach, `quick`: in the short form.

    `why` says what stands in the way of an aim that is missed on CPUs, and what was tried. `grows` is (what grows, how
    large it is here), for the cost curves.
    """

    name: str
    group: str
    make: Callable[[], Contest]
    aim: float | None = None
    quick: bool = False
    grows: tuple[str, int] | None = None
    why: str = ""


POINTWISE = (
    "two thirds of the backward pass are xᵀδ, whose long axis is the one that is summed over. XLA's fast kernel does "
    "not take it (1.1 ms; the product for dx, of as many FLOPs, 0.4 ms). Tried: x transposed first, in 2 to 128 parts, "
    "a batch or in a loop, several places side by side: 0.8 ms at best, with x written down once more. With x "
    "transposed for nothing it would be 0.76 ms, and the ratio 0.27"
)
ROWS = (
    "it is bound by memory: a program that only adds and multiplies x and δ into two such arrays takes half of "
    "jax.grad's time. Tried: exponentials from log Σ exp, sums as products with ones, blocks of rows in a loop"
)
CONVOLUTIONS = (
    "four fifths of the time are XLA's kernels for 3×3 convolutions, which both sides call, and a fifth the system "
    "giving out blocks over 32 MiB for each call. Tried for the kernel's gradient: patches side by side, a product "
    "for each place, rows of patches, an example at a time: faster for small images of 32 channels and more, twice as "
    "slow for others, with up to eight times the memory"
)


def block(features: int, heads: int = 8) -> jbp.Serial:
    """A transformer's block with the norms first."""
    feed = jbp.Serial(
        jbp.layers.LayerNorm(), jbp.layers.Dense(4 * features), jbp.layers.GELU(), jbp.layers.Dense(features)
    )
    return jbp.Serial(
        jbp.Residual(jbp.Serial(jbp.layers.LayerNorm(), jbp.layers.CausalSelfAttention(heads))), jbp.Residual(feed)
    )


def mlp(width: int = 1024, depth: int = 4) -> jbp.Serial:
    return jbp.Serial(*[jbp.layers.Dense(width), jbp.layers.ReLU()] * depth, jbp.layers.Dense(10))


def deep(times: int, wrap: Callable[[jbp.Layer], jbp.Layer] = lambda layer: layer) -> jbp.Repeat:
    feed = jbp.Serial(jbp.layers.LayerNorm(), jbp.layers.Dense(256), jbp.layers.GELU(), jbp.layers.Dense(128))
    return jbp.Repeat(wrap(jbp.Residual(feed)), times)


def _scanned(net: jbp.Repeat) -> Callable[[Any, Any], Any]:
    """What a user writes for a deep network: a scan over its layers."""
    return lambda params, x: lax.scan(lambda x, p: (net.layer.reference(p, x), None), x, params)[0]


def _windows(how: Any, start: float, window: int, stride: int, padding: str = "VALID") -> Callable[[Any, Any], Any]:
    sizes, strides = (1, window, window, 1), (1, stride, stride, 1)
    return lambda params, x: lax.reduce_window(x, start, how, sizes, strides, padding)


def _transposed(params, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    w = jnp.flip(params["w"], (0, 1))
    return lax.conv_transpose(x, w, (2, 2), "VALID", dimension_numbers=numbers) + params["b"]


def _linear_cross_entropy(params, x):
    h, labels = x
    scores = h @ params["w"] + params["b"]
    return optax.losses.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


def layers() -> Iterator[Workload]:
    """Forward and backward pass of each, and the backward pass by itself where that is what the layer is about."""
    images = partial(normal, 16, 32, 32, 64)

    def conv(name, layer, aim=1.02, quick=False, x=images, plain=None):
        why = POINTWISE if name == "1×1" else ""
        yield Workload(f"convolution {name}", "layer", lambda: both_passes(layer, x(), plain), aim, quick, why=why)
        alone = f"convolution {name}, backward pass"
        yield Workload(alone, "layer", lambda: backward_pass(layer, x(), plain), aim, why=why)

    yield from conv("1×1", jbp.layers.Conv(64, (1, 1)), 0.2, True)
    yield from conv("3×3", jbp.layers.Conv(64), quick=True)
    yield from conv("5×5", jbp.layers.Conv(64, (5, 5)))
    yield from conv("3×3, stride 2", jbp.layers.Conv(64, stride=2))
    yield from conv("3×3, dilation 2", jbp.layers.Conv(64, dilation=2))
    yield from conv("3×3, depthwise", jbp.layers.Conv(64, groups=64), 0.15, True)
    yield from conv("3×3, 4 groups", jbp.layers.Conv(64, groups=4), 0.95, x=partial(normal, 4, 16, 16, 64))
    up = jbp.layers.ConvTranspose(64, stride=2, padding="VALID")
    yield from conv("3×3, transposed, stride 2", up, 0.95, x=partial(normal, 16, 16, 16, 64), plain=_transposed)

    def pool(name, layer, aim, plain, quick=False):
        yield Workload(name, "layer", lambda: both_passes(layer, images(), plain), aim, quick)
        yield Workload(f"{name}, backward pass", "layer", lambda: backward_pass(layer, images(), plain), aim)

    average = _windows(lax.add, 0.0, 2, 2)
    yield from pool("max pooling 2×2", jbp.layers.MaxPool(), 0.1, _windows(lax.max, -jnp.inf, 2, 2), True)
    overlapping = jbp.layers.MaxPool((3, 3), stride=2, padding="SAME")
    yield from pool("max pooling 3×3, stride 2", overlapping, 0.2, _windows(lax.max, -jnp.inf, 3, 2, "SAME"))
    yield from pool("average pooling 2×2", jbp.layers.AveragePool(), 1.02, lambda params, x: average(params, x) / 4)

    rows = partial(normal, 4096, 512)
    for name, layer, x in (
        ("batch norm", jbp.layers.BatchNorm(), images),
        ("group norm", jbp.layers.GroupNorm(8), images),
        ("layer norm", jbp.layers.LayerNorm(), rows),
        ("RMS norm", jbp.layers.RMSNorm(), rows),
        ("softmax", jbp.layers.Softmax(), rows),
        ("log-softmax", jbp.layers.LogSoftmax(), rows),
        ("SwiGLU", jbp.layers.SwiGLU(), partial(normal, 4096, 1024)),
        ("GELU", jbp.layers.GELU(), rows),
    ):
        aim, why = (0.4, ROWS) if name == "softmax" else (1.02, "")
        yield Workload(name, "layer", lambda layer=layer, x=x: both_passes(layer, x()), aim, name == "softmax", why=why)
    softmax = partial(backward_pass, jbp.layers.Softmax())
    yield Workload("softmax, backward pass", "layer", lambda: softmax(rows()), 0.4, why=ROWS)
    words = partial(integers, 8192, 8, 256)
    yield Workload("embedding", "layer", lambda: both_passes(jbp.layers.Embedding(8192, 256), words()), 1.02)

    song = partial(normal, 16, 128, 64)
    yield Workload("LSTM", "layer", lambda: both_passes(jbp.layers.LSTM(128), song()), 0.65, True)
    yield Workload("GRU", "layer", lambda: both_passes(jbp.layers.GRU(128), song()), 0.8)
    scan = jbp.layers.SelectiveStateSpace(16)
    yield Workload("selective state space", "layer", lambda: both_passes(scan, normal(4, 256, 64)), 1.02)
    for n in (512, 1024, 2048, 4096):
        yield Workload(
            f"causal attention, n = {n}",
            "layer",
            lambda n=n: both_passes(jbp.layers.CausalSelfAttention(4), normal(1, n, 256)),
            0.35 if n == 2048 else 0.6,
            n == 1024,
            ("attention: length", n),
        )
    for vocabulary in (32_000, 50_257):
        yield Workload(
            f"linear + cross-entropy, {vocabulary} words",
            "layer",
            lambda v=vocabulary: both_passes(
                jbp.losses.LinearCrossEntropy(v), (normal(1024, 256), integers(v, 1024)), _linear_cross_entropy
            ),
            1.0,
        )


def networks() -> Iterator[Workload]:
    """The value of the loss and the whole gradient."""
    labels = partial(integers, 10)
    text = partial(integers, 96, 16, 128)

    def add(name, net, x, target, aim, quick=False, why=""):
        return Workload(name, "network", lambda: gradient(net, CE, x(), target()), aim, quick, why=why)

    yield add("MLP 4×1024", mlp(), partial(normal, 256, 784), partial(labels, 256), 1.0, True)
    yield add("LeNet", recipes.lenet(dropout=0.0), partial(normal, 64, 28, 28, 1), partial(labels, 64), 0.8, True)
    small = recipes.resnet(width=16, stages=3, blocks=1)
    for side, batch in ((32, 32), (64, 8)):
        images = partial(normal, batch, side, side, 3)
        yield add(f"ResNet, {side}×{side}", small, images, partial(labels, batch), 0.8, side == 32, CONVOLUTIONS)
    for cell in (jbp.layers.LSTM(128), jbp.layers.GRU(128)):
        net = recipes.recurrent_language_model(96, cell)
        yield add(f"{type(cell).__name__} language model", net, text, partial(text, seed=1), 0.8)
    patches = jbp.layers.Conv(128, (4, 4), stride=4), jbp.layers.Reshape((64, 128))
    vit = jbp.Serial(
        *patches,
        jbp.layers.Positions(64),
        block(128),
        block(128),
        jbp.layers.LayerNorm(),
        jbp.layers.Take(0),
        jbp.layers.Dense(10),
    )
    yield add("vision transformer", vit, partial(normal, 16, 32, 32, 3), partial(labels, 16), 0.8)
    for n in (512, 1024, 2048, 4096):
        x, target = partial(normal, 1, n, 256), partial(normal, 1, n, 256, seed=1)
        yield Workload(
            f"transformer block, n = {n}",
            "network",
            lambda x=x, target=target: gradient(block(256), MSE, x(), target()),
            0.6,
            n == 1024,
            ("transformer block: length", n),
        )


def depth() -> Iterator[Workload]:
    """Many layers in one scan, which is also how the peer's are written; and the gradient's memory when clipping."""
    x = partial(normal, 256, 128)
    for times in (24, 96):
        plain, remat = deep(times), deep(times, jbp.Remat)

        def checkpointed(params, x, layer=plain.layer):
            one = jax.checkpoint(layer.reference)
            return lax.scan(lambda x, p: (one(p, x), None), x, params)[0]

        yield Workload(f"Repeat, {times} layers", "depth", lambda n=plain: both_passes(n, x(), _scanned(n)), 1.02)
        yield Workload(
            f"Repeat of Remat, {times} layers",
            "depth",
            lambda n=remat, f=checkpointed: both_passes(n, x(), f),
            1.02,
        )
        half = jbp.Serial(jbp.layers.LayerNorm(), jbp.layers.Dense(128), jbp.layers.GELU(), jbp.layers.Dense(64))
        pairs = jbp.Reversible(half, half, times=times // 2)

        def alternating(params, x, half=half):
            def pair(x, p):
                a, b = jnp.split(x, 2, -1)
                a = a + half.reference(p[0], b)
                return jnp.concatenate([a, b + half.reference(p[1], a)], -1), None

            return lax.scan(pair, x, params)[0]

        yield Workload(
            f"Reversible, {times} layers", "depth", lambda n=pairs, f=alternating: both_passes(n, x(), f), None
        )
    for layers in (16, 64):
        net = jbp.Serial(*[jbp.layers.Dense(512), jbp.layers.Tanh()] * layers)
        yield Workload(
            f"clipping and Adam in the sweep, {layers} layers",
            "depth",
            lambda net=net: clipped(net, normal(32, 512), normal(32, 512, seed=1)),
            1.05,
            layers == 16,
        )
    repeated = jbp.Repeat(jbp.Serial(jbp.layers.Dense(512), jbp.layers.Tanh()), 64)
    yield Workload(
        "clipping and Adam in the sweep, Repeat of 64 layers",
        "depth",
        lambda: clipped(repeated, normal(32, 512), normal(32, 512, seed=1)),
        1.05,
    )


def steps() -> Iterator[Workload]:
    """Whole training steps with Adam, beside those of other libraries."""
    text = integers(96, 16, 129)

    def add(name, net, x, target, quick=False):
        return Workload(
            f"training step, {name}", "training", lambda: training(net, CE, x(), target(), peers.of(name)), 1.0, quick
        )

    labels = partial(integers, 10)
    yield add("MLP", mlp(), partial(normal, 256, 784), partial(labels, 256), True)
    lenet = recipes.lenet(dropout=0.0)
    yield add("LeNet", lenet, partial(normal, 64, 28, 28, 1), partial(labels, 64))
    resnet = recipes.resnet(width=16, stages=3, blocks=1)
    yield add("ResNet", resnet, partial(normal, 32, 32, 32, 3), partial(labels, 32))
    lstm = recipes.recurrent_language_model(96, jbp.layers.LSTM(128))
    yield add("LSTM", lstm, lambda: text[:, :-1], lambda: text[:, 1:])
    words = integers(96, 2, 513)
    gpt = jbp.Serial(
        jbp.layers.Embedding(96, 128),
        jbp.layers.Positions(512),
        block(128, 4),
        block(128, 4),
        jbp.layers.LayerNorm(),
        jbp.layers.Dense(96),
    )
    yield add("GPT", gpt, lambda: words[:, :-1], lambda: words[:, 1:])


def growth() -> Iterator[Workload]:
    """One network in four sizes, along batch, width and depth; attention's lengths are among the layers."""
    for batch in (32, 64, 128, 256):
        yield _grown("batch", batch, mlp(512), batch, 512)
    for width in (128, 256, 512, 1024):
        yield _grown("width", width, mlp(width), 64, width)
    for layers in (2, 4, 8, 16):
        yield _grown("depth", layers, mlp(256, layers), 64, 256)


def _grown(what, size, net, batch, inputs):
    x, labels = partial(normal, batch, inputs), partial(integers, 10, batch)
    return Workload(
        f"MLP, {what} {size}",
        "growth",
        lambda: gradient(net, CE, x(), labels()),
        grows=(f"MLP: {what}", size),
    )


def workloads() -> list[Workload]:
    return [*layers(), *networks(), *depth(), *steps(), *growth()]
