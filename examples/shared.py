"""What the examples and benchmarks/steps.py share: the race against jax.grad, and the figure of the curves."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jbp import Layer, buffers, cast, merge, trainable, value_and_grad

OUT = Path(__file__).parents[1] / "out"


def by_hand(net: Layer, loss: Layer) -> Any:
    """(params, x, target) -> (value, gradient), by the hand-written sweep."""
    sweep = value_and_grad(net, loss, has_aux=True)

    def f(params, x, target):
        (value, _), grads = sweep(params, x, target)
        return value, grads

    return f


def by_jax(net: Layer, loss: Layer) -> Any:
    """(params, x, target) -> (value, gradient), by jax.grad of the network's plain definition."""

    def f(params, x, target):
        def value(trained):
            return loss.reference((), (net.reference(merge(trained, buffers(params)), x), target))

        return jax.value_and_grad(value)(trainable(params))

    return f


def disagreement(net: Layer, loss: Layer, params: Any, x: Any, target: Any) -> dict[str, float]:
    """For each leaf of the gradient: max |by hand − by jax| / max |by jax|, both in float64 on this one batch."""
    with jax.enable_x64(True):
        params = cast(params, "float64")
        x = x.astype("float64") if np.issubdtype(x.dtype, np.floating) else x
        ours, theirs = (jax.jit(f(net, loss))(params, x, target)[1] for f in (by_hand, by_jax))
        leaves = zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True)
        return {jax.tree_util.keystr(path): float(abs(a - b).max() / abs(b).max()) for (path, a), b in leaves}


@dataclass(frozen=True)
class Race:
    """Seconds a call, and bytes of temporary memory, of the same value and gradient by hand and by jax.grad."""

    hand: list[float]
    jax: list[float]
    hand_bytes: int
    jax_bytes: int

    @property
    def ratio(self) -> float:
        return median(self.hand) / median(self.jax)

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles of the ratio over the pairs of neighbouring repetitions."""
        low, _, high = quantiles([a / b for a, b in zip(self.hand, self.jax, strict=True)], n=4)
        return low, high


def race(net: Layer, loss: Layer, params: Any, x: Any, target: Any, seconds: float = 4.0) -> Race:
    """Both compiled, on the same inputs, in turn and each first every other time, for about so many seconds."""
    args = jax.device_put((params, x, target))
    runs = [jax.jit(f(net, loss)).lower(*args).compile() for f in (by_hand, by_jax)]

    def timed(run, calls):
        begin = perf_counter()
        for _ in range(calls):
            jax.block_until_ready(run(*args))
        return (perf_counter() - begin) / calls

    calls = max(1, round(0.02 / max(timed(run, 3) for run in runs)))
    times: list[list[float]] = [[], []]
    end = perf_counter() + seconds
    while perf_counter() < end or len(times[0]) < 8:
        for i in (0, 1) if len(times[0]) % 2 else (1, 0):
            times[i].append(timed(runs[i], calls))
    return Race(times[0], times[1], temporary(runs[0]), temporary(runs[1]))


def temporary(compiled: Any) -> int:
    """Bytes of temporary memory that a compiled function asks for."""
    return compiled.memory_analysis().temp_size_in_bytes


def report(console: Console, columns: dict[str, dict[str, str]]) -> None:
    """A table with a column for each network and a row for each quantity."""
    table = Table("", *columns)
    for quantity in next(iter(columns.values())):
        table.add_row(quantity, *(column[quantity] for column in columns.values()))
    console.print(table)


def figures_of(result: Race) -> dict[str, str]:
    low, high = result.spread
    return {
        "ms by hand": f"{1e3 * median(result.hand):.3f}",
        "ms by jax.grad": f"{1e3 * median(result.jax):.3f}",
        "ratio of times": f"{result.ratio:.2f}",
        "its quartiles": f"{low:.2f} to {high:.2f}",
        "KiB by hand": f"{result.hand_bytes / 1024:.0f}",
        "KiB by jax.grad": f"{result.jax_bytes / 1024:.0f}",
    }


def curves(
    histories: dict[str, list[dict[str, float]]], held_out: str, baselines: dict[str, float], path: Path
) -> Path:
    """A figure: the training loss of each network, and what `held_out` was at each check."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for i, (name, history) in enumerate(histories.items()):
        step, loss = ([row[key] for row in history] for key in ("step", "loss"))
        width = max(1, len(loss) // 50)
        smooth = np.convolve(loss, np.full(width, 1 / width), "valid")
        left.plot(step, loss, color=f"C{i}", alpha=0.2, linewidth=0.8)
        left.plot(step[width - 1 :], smooth, color=f"C{i}", label=name)
        seen = [row for row in history if held_out in row]
        right.plot(
            [r["step"] for r in seen], [r[held_out] for r in seen], "o-", color=f"C{i}", markersize=3, label=name
        )
    for name, height in baselines.items():
        right.axhline(height, color="0.5", linestyle="--", linewidth=1, label=name)
    losses = [row["loss"] for history in histories.values() for row in history]
    wide = max(losses) > 20 * max(min(losses), 1e-9)
    left.set(xlabel="step", ylabel="training loss", yscale="log" if wide else "linear")
    right.set(xlabel="step", ylabel=held_out)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
