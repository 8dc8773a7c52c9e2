"""python -m docs.tools.figures [NAME ...]: the figures of the documentation, drawn from what the library computes.

They are SVG files in docs/figures, committed, with no background and the text in `currentColor`: on the site they are
part of the page and take its colours; alone they follow the reader's light or dark setting.
"""

import re
import sys
from collections.abc import Callable
from math import cos, pi, sin, sqrt
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

import jbp
from docs.tools.recorded import held
from jbp import Graph, Repeat, Residual, Serial, layers, losses
from jbp.layers import GELU, Add, Conv, Dense, Flatten, LayerNorm, MaxPool, ReLU
from jbp.layers.activation.elementwise import Elementwise
from jbp.losses import MeanSquaredError, SoftmaxCrossEntropy
from jbp.readers import deltas, per_example
from jbp.readers.picture import Drawing

HERE = Path(__file__).parents[1] / "figures"
INK = "#123456"  # stands for currentColor
BLUE, ORANGE, GREEN, RED = "#4477dd", "#dd7722", "#229966", "#cc4455"  # readable on white and on black
STYLE = "<style>@media (prefers-color-scheme: dark) {svg {color: #ddd}}</style>"


def aim():
    """Twelve shots of the tutorial's gun, and how its two settings move."""
    g, target, c, degrees = 9.81, 900.0, 5.0, 30.0
    shots = []
    for _ in range(12):
        v, theta = 40 * sqrt(c), degrees * pi / 180
        x = v * v * sin(2 * theta) / g
        shots.append((c, degrees, v, theta, x))
        error_v, error_theta = (x - target) * 2 * v * sin(2 * theta) / g, (x - target) * 2 * v * v * cos(2 * theta) / g
        c -= 2e-5 * error_v * 20 / sqrt(c)
        degrees -= 2e-5 * error_theta * pi / 180
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), width_ratios=(2, 1))
    for k, (_, _, v, theta, x) in enumerate(shots):
        along = np.linspace(0, x, 100)
        high = along * np.tan(theta) - g * along**2 / (2 * (v * np.cos(theta)) ** 2)
        left.plot(along, high, color=BLUE, alpha=0.25 + 0.75 * k / 11, linewidth=1.2)
    left.plot([target], [0], marker="^", color=RED, markersize=10, clip_on=False)
    left.annotate("target", (target, 0), (target + 12, 22), color=RED)
    left.annotate("first shot", (520, 115), (250, 170), arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.6})
    left.set(xlabel="metres from the gun", ylabel="metres up", xlim=(0, 980), ylim=(0, 200))
    numbers = np.arange(1, 13)
    right.plot(numbers, [abs(s[4] - target) for s in shots], "o-", color=BLUE, markersize=4)
    right.set(xlabel="shot", ylabel="metres off", yscale="log", xticks=(1, 4, 8, 12))
    return fig


def deltas_by_depth():
    """The root mean square of delta in each layer of deep networks, at the start."""
    x = jax.random.normal(jax.random.key(0), (64, 64))
    target = jax.random.normal(jax.random.key(1), (64, 64))
    kinds = {
        "sigmoid": (layers.Sigmoid(), 1.0, BLUE, "o-"),
        "tanh": (layers.Tanh(), 1.0, GREEN, "s-"),
        "ReLU, weights √2 larger": (layers.ReLU(), 2**0.5, ORANGE, "^-"),
        "tanh, weights 2 times larger": (layers.Tanh(), 2.0, RED, "v-"),
    }
    fig, axis = plt.subplots(figsize=(8, 3.6))
    for name, (activation, scale, colour, marker) in kinds.items():
        net = Serial(*[layers.Dense(64), activation] * 20)
        params = jax.tree.map(lambda w, scale=scale: w * scale, net.init(jax.random.key(2), x))
        _, _, delta = jax.jit(deltas(net, MeanSquaredError()))(params, x, target)
        sizes = [float(jnp.sqrt(jnp.mean(d**2))) for d in delta[::2]]
        axis.plot(range(1, 21), np.array(sizes) / sizes[-1], marker, color=colour, markersize=4, label=name)
    axis.set(xlabel="layer", ylabel="error, relative to the last layer's", yscale="log", xticks=(1, 5, 10, 15, 20))
    axis.legend(frameon=False, loc="lower right")
    return fig


def protocol():
    """Values forward, errors backward, gradients beside."""
    fig, axis = plt.subplots(figsize=(9, 3))
    axis.set(xlim=(-0.1, 9.3), ylim=(-0.95, 1.65))
    axis.axis("off")
    box = {"boxstyle": "round,pad=0.02,rounding_size=0.12", "linewidth": 1.2, "facecolor": "none", "edgecolor": INK}

    def arrow(start, end, colour, text, beside=(0.0, 0.09)):
        axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, color=colour, linewidth=1.4))
        x, y = (start[0] + end[0]) / 2 + beside[0], (start[1] + end[1]) / 2 + beside[1]
        where = ("left", "center") if beside[0] else ("center", "bottom")
        axis.text(x, y, text, color=colour, ha=where[0], va=where[1])

    for k, name in enumerate(("a layer", "a layer", "a loss")):
        x = 1.0 + 2.9 * k
        axis.add_patch(FancyBboxPatch((x, 0), 1.9, 1.25, **box))
        axis.text(x + 0.95, 1.42, name, ha="center", color=INK)
        axis.text(x + 0.95, 1.0, "forward", ha="center", va="center", color=BLUE)
        axis.text(x + 0.95, 0.25, "backward", ha="center", va="center", color=RED)
        arrow((x + 0.55, 0.87), (x + 0.55, 0.39), INK, "residuals", (0.1, 0.0))
        arrow((x - 1.0, 1.0), (x - 0.04, 1.0), BLUE, ("x", "y", "y")[k])
        arrow((x - 0.04, 0.25), (x - 1.0, 0.25), RED, ("dx", "dy", "dy")[k])
        if k < 2:
            arrow((x + 0.95, -0.04), (x + 0.95, -0.55), GREEN, "delta", (0.1, 0.0))
            axis.text(x + 0.95, -0.62, "gradient: dW, db", ha="center", va="top", color=GREEN)
    return fig


def activations():
    """Every elementwise activation and the slope that its backward pass multiplies by."""
    every = [getattr(layers, name) for name in layers.activation.__all__]
    kinds = [cls() for cls in every if issubclass(cls, Elementwise)]
    x = jnp.linspace(-4, 4, 161)
    columns = 6
    rows = -(-len(kinds) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(9, 1.5 * rows), sharex=True)
    for axis, layer in zip(axes.flat, kinds, strict=False):
        y, kept = layer.forward((), x)
        dx, _ = layer.backward((), kept, jnp.ones_like(x))
        axis.axhline(0, color=INK, linewidth=0.4, alpha=0.5)
        axis.plot(x, dx, color=ORANGE, linewidth=1.1)
        axis.plot(x, y, color=BLUE, linewidth=1.4)
        axis.set_title(type(layer).__name__, fontsize=9, color=INK)
        axis.set(ylim=(-2, 3), xticks=(-3, 0, 3), yticks=(-1, 0, 1, 2))
        axis.tick_params(labelsize=7)
    for axis in list(axes.flat)[len(kinds) :]:
        axis.axis("off")
    return fig


def losses_by_prediction():
    """Losses of one prediction, and the error that they return."""
    right, one = jnp.zeros(1), jnp.ones(1)
    kinds = {
        "MeanSquaredError()": (losses.MeanSquaredError(), right),
        "MeanAbsoluteError()": (losses.MeanAbsoluteError(), right),
        "Huber()": (losses.Huber(), right), "LogCosh()": (losses.LogCosh(), right),
        "Quantile(0.8)": (losses.Quantile(0.8), right), "Hinge(), t = 1": (losses.Hinge(), one),
        "SoftMargin(), t = 1": (losses.SoftMargin(), one),
        "BinaryCrossEntropy(), t = 1": (losses.BinaryCrossEntropy(), one),
    }  # fmt: skip
    p = jnp.linspace(-3, 3, 121)[:, None]
    fig, axes = plt.subplots(2, 4, figsize=(9, 3.6), sharex=True, sharey=True)
    for axis, (name, (loss, target)) in zip(axes.flat, kinds.items(), strict=True):

        def both(p, loss=loss, target=target):
            y, residuals = loss.forward((), (p, target))
            return y, loss.backward((), residuals, jnp.ones(()))[0][0]

        y, dp = jax.vmap(both)(p)
        axis.axhline(0, color=INK, linewidth=0.4, alpha=0.5)
        axis.plot(p, dp, color=ORANGE, linewidth=1.1)
        axis.plot(p, y, color=BLUE, linewidth=1.4)
        axis.set_title(name, fontsize=8, color=INK)
        axis.set(ylim=(-2.5, 4), xticks=(-2, 0, 2))
        axis.tick_params(labelsize=7)
    return fig


def attention():
    """The weights with which each place looks at the others, for equal scores, under what may be seen."""
    n = 12
    kinds = {
        "Attention()": layers.Attention(), "causal=True": layers.Attention(causal=True),
        "causal=True, window=4": layers.Attention(causal=True, window=4),
        "alibi=True, head 1 of 4": layers.Attention(causal=True, alibi=True),
    }  # fmt: skip
    q, values = jnp.zeros((1, 4, n, 2)), jnp.eye(n)[None, None].repeat(4, 1)  # values that say where they are from
    looks = {name: layer.forward((), (q, q, values))[0][0, 0] for name, layer in kinds.items()}  # of the first head
    return shaded(looks, "key", "query")


def shaded(kinds, xlabel, ylabel):
    """Matrices side by side, each as squares: blue above zero, orange below."""
    fig, axes = plt.subplots(1, len(kinds), figsize=(9, 2.6))
    most = max(np.abs(matrix).max() for matrix in kinds.values())
    for axis, (name, matrix) in zip(axes, kinds.items(), strict=True):
        matrix = np.asarray(matrix)
        shade = np.sqrt(np.abs(matrix) / most)
        for i, j in zip(*np.nonzero(shade > 0.03), strict=True):
            colour = BLUE if matrix[i, j] > 0 else ORANGE
            axis.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, color=colour, alpha=float(shade[i, j]), linewidth=0))
        rows, columns = matrix.shape
        axis.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal")
        axis.set(xticks=sorted({0, columns // 2, columns - 1}), yticks=sorted({0, rows // 2, rows - 1}))
        axis.set_title(name, fontsize=9, color=INK)
        axis.set_xlabel(xlabel, fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0].set_ylabel(ylabel, fontsize=8)
    return fig


def sent_back(layer, x, params=None):
    """dx for an error of one at each number of the output in turn, (outputs, *x.shape)."""
    params = layer.init(jax.random.key(0), x) if params is None else params
    y, residuals = layer.forward(params, x)
    errors = jnp.eye(y.size).reshape(y.size, *y.shape)
    return jax.vmap(lambda dy: layer.backward(params, residuals, dy)[0])(errors)


def convolutions():
    """Where the error of each output goes: the transposed matrix of a convolution, with a kernel of 1, 2, 3."""
    x, kernel = jnp.zeros((1, 12, 1)), jnp.array([1.0, 2.0, 3.0])[:, None, None]
    kinds = {
        "Conv(1, 3)": layers.Conv(1, (3,), bias=False),
        "dilation=2": layers.Conv(1, (3,), dilation=2, bias=False),
        'stride=2, "VALID"': layers.Conv(1, (3,), stride=2, padding="VALID", bias=False),
        "ConvTranspose(1, 3, stride=2)": layers.ConvTranspose(1, (3,), stride=2, bias=False),
    }
    return shaded({name: sent_back(f, x, {"w": kernel})[..., 0, :, 0] for name, f in kinds.items()}, "input", "output")


def pools():
    """Where the error of each output goes."""
    x = jax.random.normal(jax.random.key(1), (1, 12, 1))
    kinds = {
        "MaxPool(2)": layers.MaxPool(2),
        "MaxPool(3, stride=1)": layers.MaxPool(3, 1),
        "AveragePool(3)": layers.AveragePool(3),
        "AdaptiveAveragePool(5)": layers.AdaptiveAveragePool(5),
    }
    return shaded({name: sent_back(f, x)[..., 0, :, 0] for name, f in kinds.items()}, "input", "output")


def normalized():
    """Which numbers the error of one number reaches: those that share its mean and variance."""
    x = jax.random.normal(jax.random.key(2), (4, 3, 6))  # examples, places, features
    kinds = {
        "BatchNorm()": layers.BatchNorm(),
        "LayerNorm()": layers.LayerNorm(),
        "GroupNorm(2)": layers.GroupNorm(2),
        "InstanceNorm()": layers.InstanceNorm(),
    }
    one = 1 * 18 + 1 * 6 + 2  # in the second example, at the second place, the third feature
    found = {name: sent_back(f, x)[one].reshape(12, 6) for name, f in kinds.items()}
    return shaded(found, "feature", "example and place")


def through_time():
    """How much of an error at the last step reaches the input of each step before, at the start."""
    x = jax.random.normal(jax.random.key(3), (1, 40, 8))
    kinds = {
        "Elman(32)": (layers.Elman(32), RED), "GRU(32)": (layers.GRU(32), GREEN), "LSTM(32)": (layers.LSTM(32), BLUE),
        "DiagonalStateSpace(16)": (layers.DiagonalStateSpace(16), ORANGE),
    }  # fmt: skip
    fig, axis = plt.subplots(figsize=(8, 3))
    for name, (layer, colour) in kinds.items():
        params = layer.init(jax.random.key(0), x)
        y, residuals = layer.forward(params, x)
        dx, _ = layer.backward(params, residuals, jnp.zeros_like(y).at[:, -1].set(1.0))
        size = np.linalg.norm(np.asarray(dx[0]), axis=-1)[::-1]
        axis.plot(range(40), size / size[0], color=colour, label=name)
    axis.set(xlabel="steps before the last", ylabel="error, relative to the last step's", yscale="log", ylim=(1e-8, 3))
    axis.legend(frameon=False, loc="lower left", fontsize=9)
    return fig


def places():
    """What SinusoidalPositions adds, place by place."""
    waves = layers.SinusoidalPositions().forward((), jnp.zeros((1, 48, 16)))[0][0]
    fig, axis = plt.subplots(figsize=(9, 2.4))
    for k, colour in ((0, BLUE), (4, GREEN), (8, ORANGE), (12, RED)):
        axis.plot(waves[:, k], color=colour, label=f"feature {k}")
    axis.set(xlabel="place", xlim=(0, 47), ylim=(-1.1, 1.1))
    axis.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.22), fontsize=9)
    return fig


def estimators():
    """What goes forward in blue, and in orange the slope that the backward pass takes for its derivative."""
    x = jnp.linspace(-2.5, 2.5, 201)
    fires = layers.LeakyIntegrateAndFire()
    kinds = {
        "StraightThroughRound()": layers.StraightThroughRound(), "StraightThroughSign()": layers.StraightThroughSign(),
        "GradientReversal()": layers.GradientReversal(), "LeakyIntegrateAndFire()": fires,
    }  # fmt: skip
    fig, axes = plt.subplots(1, 4, figsize=(9, 2.2), sharex=True, sharey=True)
    for axis, (name, layer) in zip(axes, kinds.items(), strict=True):
        given = x[:, None, None] if layer is fires else x  # each number an example of one step
        params = layer.init(jax.random.key(0), given)
        y, residuals = layer.forward(params, given)
        dx, _ = layer.backward(params, residuals, jnp.ones_like(y))
        axis.axhline(0, color=INK, linewidth=0.4, alpha=0.5)
        axis.plot(x, dx.ravel(), color=ORANGE, linewidth=1.1)
        axis.plot(x, y.ravel(), color=BLUE, linewidth=1.4)
        axis.set_title(name, fontsize=9, color=INK)
        axis.set(ylim=(-2.6, 2.6), xticks=(-2, 0, 2), yticks=(-2, 0, 2))
        axis.tick_params(labelsize=7)
    return fig


def resized():
    """Six numbers made thirty."""
    x = jnp.array([0.0, 1.0, 0.3, 0.5, -0.6, 0.2])
    kinds = {"nearest": RED, "linear": GREEN, "cubic": BLUE}
    fig, axis = plt.subplots(figsize=(8, 2.4))
    at = (np.arange(30) + 0.5) / 5 - 0.5
    for mode, colour in kinds.items():
        y = layers.Resize(30, mode=mode).forward((), x[None, :, None])[0]
        axis.plot(at, y[0, :, 0], ".-", color=colour, linewidth=1.1, markersize=4, label=f"Resize(30, {mode!r})")
    axis.plot(range(6), x, "o", color=INK, markersize=5, label="x")
    axis.legend(frameon=False, loc="upper right", fontsize=9)
    axis.set(xlabel="place")
    return fig


def norms():
    """Examples with wrong labels stand out by the norm of their gradient, after some training."""
    import optax

    from jbp.train import fit, start

    key, other = jax.random.split(jax.random.key(3))
    x = jax.random.normal(key, (400, 2))
    true = (x[:, 0] * x[:, 1] > 0).astype(int)
    wrong = jax.random.bernoulli(other, 0.05, (400,))
    label = jnp.where(wrong, 1 - true, true)
    net = Serial(layers.Dense(16), layers.Tanh(), layers.Dense(2))
    loss, optimizer = SoftmaxCrossEntropy(), optax.adam(0.02)
    state, _ = fit(net, loss, optimizer, start(net, optimizer, jax.random.key(4), x), [(x, label)] * 150)
    size = np.asarray(per_example(net, loss)(state.params, x, label).norms)
    fig, axis = plt.subplots(figsize=(8, 2.8))
    bins = np.linspace(0, size.max(), 40)
    axis.hist(size[~np.asarray(wrong)], bins, color=BLUE, label="right label", alpha=0.85)
    axis.hist(size[np.asarray(wrong)], bins, color=RED, label="wrong label", alpha=0.85)
    axis.set(xlabel="norm of the example's gradient", ylabel="examples", yscale="log")
    axis.legend(frameon=False)
    return fig


def watch():
    """Layers × looks of a training: ten layers of tanh, which are slow to begin."""
    import optax

    from jbp.train import fit, start
    from jbp.watch import Watch

    x = jax.random.normal(jax.random.key(0), (2048, 16))
    label = (x[:, 0] * x[:, 1] > 0).astype(int) + 2 * (x[:, 2] > 0)
    net = Serial(*[layers.Dense(32), layers.Tanh()] * 6, layers.Dense(4))
    loss, optimizer = SoftmaxCrossEntropy(), optax.adam(3e-3)
    state, look = start(net, optimizer, jax.random.key(1), x), Watch(net, loss, (x[:256], label[:256]))
    look(state.params)
    batches = [(x[256:], label[256:])] * 400
    fit(net, loss, optimizer, state, batches, check=look, every=20)
    return look.figure()


def credit():
    """What the rules of credit reach on digits in clutter, a dot a run, and where their errors point, from records."""
    found = held("results/credit.json")
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), width_ratios=(1, 1.3))
    hard = [r for r in found if r["task"] != "digits"]
    for k, r in enumerate(hard):
        left.barh(k, np.mean(r["accuracy"]), color=BLUE if k else ORANGE, alpha=0.6)
        left.plot(r["accuracy"], [k] * len(r["accuracy"]), ".", color=INK, markersize=3)
    left.set(yticks=range(len(hard)), yticklabels=[r["rule"] for r in hard], xlabel="held-out accuracy, in clutter")
    left.invert_yaxis()
    colors = matplotlib.colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
    curves = [r for r in found if r["task"] == "digits" and "along" in r]
    for r, color in zip(curves, colors, strict=False):
        right.plot(*zip(*r["along"], strict=True), color=color, label=r["rule"], linewidth=1.3)
    right.axhline(90, color=INK, linewidth=0.6, linestyle="--")
    right.set(xlabel="step", ylabel="degrees from the true gradient, first layer, digits", ylim=(0, 95))
    right.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
    return fig


def pipelines():
    """The tables of four stages and eight micro-batches, F in blue, B in orange, W in green, as long as they take."""
    from jbp.pipeline import schedule

    tables = {name: schedule(name, 4, 8) for name in ("GPipe", "1F1B", "ZB-H1", "ZB-V")}
    fig, axes = plt.subplots(len(tables), 1, figsize=(9, 6.2), sharex=True)
    for axis, (name, table) in zip(axes, tables.items(), strict=True):
        for s, t, work in table:
            at, wide = (t / table.parts, s), 1 / table.parts
            colour = {"F": BLUE, "B": ORANGE, "W": GREEN}[work.kind]
            shade = 0.85 if work.part else 0.45
            axis.add_patch(
                Rectangle(at, wide, 1, facecolor=(colour, shade), edgecolor=INK, linewidth=0.3, clip_on=False)
            )
            centre = at[0] + wide / 2, s + 0.53
            axis.text(*centre, work.micro, fontsize=7 if wide == 1 else 5, ha="center", va="center")
        held = max(table.held)
        said = f"{name}: idle {table.bubble:.0%}, holds {held:g}" + " or less" * (min(table.held) < held)
        axis.set_title(said, fontsize=9, loc="left")
        axis.set(ylim=(table.stages, 0), xlim=(0, 33.2), yticks=np.arange(4) + 0.5, yticklabels=range(4))
        axis.tick_params(labelsize=7, length=0)
        axis.spines[:].set_visible(False)
        axis.set_ylabel("stage", fontsize=8)
    axes[-1].set_xlabel("time, in forward passes of a stage", fontsize=8)
    return fig


def curvature():
    """The eigenvalues of a perceptron's Hessian and Gauss-Newton matrix on digits, before training and along it."""
    import optax
    from sklearn.datasets import load_digits

    from jbp.curvature import ggn, hessian, spectrum
    from jbp.train import fit, start

    data, target = load_digits(return_X_y=True)
    x, label = jnp.asarray(data / 16, jnp.float32), jnp.asarray(target)
    net, loss, optimizer = jbp.recipes.mlp(widths=(32,), dropout=0.0), SoftmaxCrossEntropy(), optax.adam(3e-3)
    state = start(net, optimizer, jax.random.key(0), x)
    fig, axes = plt.subplots(1, 3, figsize=(10, 3), sharey=True)
    names = {"Hessian": (hessian, BLUE), "Gauss-Newton": (ggn, ORANGE)}
    for axis, steps in zip(axes, (0, 20, 300), strict=True):
        if steps:
            state, _ = fit(net, loss, optimizer, state, [(x, label)] * (steps - int(state.steps)))
        for name, (make, color) in names.items():
            run = jax.jit(lambda params, make=make: spectrum(make(net, loss)(params, x, label), jax.random.key(1), 64))
            found = run(state.params)
            width = 0.02 * float(found.ends[1])
            at = jnp.linspace(float(found.ends[0]) - 4 * width, float(found.ends[1]) + 4 * width, 600)
            axis.plot(at, found.density(at, width), color=color, label=name, linewidth=1.3)
        axis.set(xlabel="eigenvalue", yscale="log", ylim=(1e-4, None), title=f"after {steps} steps")
    axes[0].set(ylabel="density")
    axes[0].legend(frameon=False)
    return fig


def coverage():
    """What a long campaign of random networks has met, and how many disagreed, against networks audited."""
    told = held("verify/results/networks.json")
    audited = [row["networks"] for row in told["chapters"]]
    fig, axis = plt.subplots(figsize=(8, 3.6))
    kinds = {
        "layers": ("layers and losses", BLUE, "o-"),
        "forms": ("forms", GREEN, "s-"),
        "pairs": ("pairs of neighbours", ORANGE, "^-"),
    }
    for what, (name, colour, marker) in kinds.items():
        share = [100 * row[what] / told["possible"][what] for row in told["chapters"]]
        axis.plot(audited, share, marker, color=colour, markersize=4, label=name)
    axis.plot(audited, [row["disagreements"] for row in told["chapters"]], "v-", color=RED, markersize=4, clip_on=False,
              label="disagreements, their number")  # fmt: skip
    axis.set(xlabel="networks audited", ylabel="% of what is possible", xscale="log", ylim=(0, 102))
    axis.legend(frameon=False)
    return fig


def network() -> Drawing:
    """What `jbp.draw` makes of two inputs and two heads."""
    block = Residual(Serial(LayerNorm(), Dense(32), GELU()))
    net = Graph(
        seen=(Serial(Conv(8), ReLU(), MaxPool(), Flatten(), Dense(32)), "image"),
        known=(Dense(32), "facts"),
        both=(Add(), "seen", "known"),
        deep=(Repeat(block, 3), "both"),
        kind=(Dense(3), "deep"),
        size=(Dense(1), "deep"),
    )
    shapes = {"image": (32, 8, 8, 1), "facts": (32, 4)}
    return jbp.draw(net, {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()})


FIGURES: dict[str, Callable] = {
    "aim": aim, "deltas": deltas_by_depth, "protocol": protocol, "activation": activations,
    "losses": losses_by_prediction, "attention": attention, "norms": norms, "conv": convolutions, "pool": pools,
    "norm": normalized, "recurrent": through_time, "embedding": places, "stochastic": estimators, "structure": resized,
    "watch": watch, "credit": credit, "pipelines": pipelines, "curvature": curvature,
    "coverage": coverage,
}  # fmt: skip


def save(fig, path: Path) -> None:
    """As SVG that takes the colour of the text around it."""
    fig.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(fig)
    text = path.read_text()
    text = re.sub(re.escape(INK), "currentColor", text, flags=re.IGNORECASE)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>", STYLE + "<defs>", text, count=1)
    text = re.sub(r"(\.\d\d)\d+", r"\1", text)  # a hundredth of a point is finer than a screen
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")


def main() -> None:
    keys = "text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"
    matplotlib.rcParams.update(dict.fromkeys(keys, INK))
    matplotlib.rcParams.update({"svg.hashsalt": "jbp", "svg.fonttype": "none", "font.size": 10})
    matplotlib.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    matplotlib.rcParams["figure.constrained_layout.use"] = True
    HERE.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        save(draw(), HERE / f"{name}.svg")
    if not sys.argv[1:]:
        network().save(HERE / "network.svg")


if __name__ == "__main__":
    main()
