"""Step time and memory of the four example networks, by hand and by jax.grad of their plain definitions.

    python -m benchmarks.steps

Both sides are the value and the whole gradient in float32, compiled, on the same parameters and the same batch; they
run in turn, and the figure is the ratio of the medians, with the quartiles of the ratio over neighbouring runs.
Memory is XLA's temp_size_in_bytes. Below 1.00 the hand-written pass is the faster one; whatever comes out is printed.
"""

import argparse
import os
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from examples import characters, data, digits
from examples.shared import by_hand, by_jax, temporary
from jbp import Layer
from jbp.sweep import initialize


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


def networks() -> dict:
    """name -> (network, loss, x, target), as in the examples, with a batch of their data."""
    images = next(data.placed_batches(*data.images()[0], seed=0))
    text = next(characters.batches(data.text()[0], seed=0))
    return {
        "digits, MLP": (digits.NETS["MLP"], digits.LOSS, *images),
        "digits, convolutional": (digits.NETS["convolutional"], digits.LOSS, *images),
        "characters, transformer": (characters.NETS["transformer"], characters.LOSS, *text),
        "characters, LSTM": (characters.NETS["LSTM"], characters.LOSS, *text),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each network is timed")
    options = parser.parse_args()

    console, columns = Console(), {}
    device = jax.devices()[0]
    console.print(f"jax {jax.__version__}, {device.platform} {device.device_kind}, {os.cpu_count()} cores")
    for name, (net, loss, x, target) in networks().items():
        with console.status(name):
            params = initialize(net, jax.random.key(0), x)
            columns[name] = figures_of(race(net, loss, params, x, target, options.seconds))
    report(console, columns)


if __name__ == "__main__":
    main()
