"""What the examples share: figures of merit with their bars, the command line and pictures."""

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table

import verify
from examples.data import Damaged
from jbp import Layer, buffers, merge, trainable, value_and_grad
from jbp.train import accuracy

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUT = Path(__file__).parents[1] / "out"


@dataclass(frozen=True)
class Figure:
    """A figure of merit and its bar: at least so much, or at most if `low`. `why` says what is no better than that."""

    name: str
    value: float
    bar: float
    why: str
    low: bool = False

    @property
    def reached(self) -> bool:
        return self.value <= self.bar if self.low else self.value >= self.bar  # and NaN never does

    @property
    def wanted(self) -> str:
        return f"{'at most' if self.low else 'at least'} {self.bar:.4g}"


@dataclass(frozen=True)
class Outcome:
    """What an example has to show: its networks, their figures of merit, and a picture."""

    nets: Mapping[str, Layer]
    figures: list[Figure]
    picture: Path


def main(run: Callable[..., Outcome], steps: int, short: int, argv: list[str] | None = None, **options: str) -> None:
    """The command line of an example: `run(steps, seed, out)`, its figures as a table, and its outcome as a file.

    Each of the further `options` is an argument of `run`, with its help. Ends with an error if a bar is missed.
    """
    path = Path(inspect.getfile(run))
    title, line = described(inspect.getmodule(run))
    parser = argparse.ArgumentParser(prog=f"python -m examples.{path.stem}", description=line)
    parser.add_argument("--steps", type=int, help=f"training steps of each network; {steps} if not given")
    parser.add_argument("--short", action="store_true", help=f"as the gallery has it: {short} steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT / path.stem, help="the folder for what is saved")
    for name, words in options.items():
        default = inspect.signature(run).parameters[name].default
        parser.add_argument(
            f"--{name}", type=type(default) if default is not None else Path, default=default, help=words
        )
    given = vars(parser.parse_args(argv))
    out, is_short = given["out"], given.pop("short")
    given["steps"] = given["steps"] or (short if is_short else steps)
    out.mkdir(parents=True, exist_ok=True)
    begin = perf_counter()
    try:
        outcome = run(**given)
    except Damaged as error:
        parser.error(str(error))
    save(out / "outcome.json", title, line, outcome, perf_counter() - begin)
    table = Table("figure of merit", "value", "bar", "what does not reach it")
    for figure in outcome.figures:
        table.add_row(figure.name, f"{figure.value:.4g}", figure.wanted, figure.why)
    console = Console()
    console.print(table)
    console.print(f"The picture is {outcome.picture}.")
    missed = [f"{f.name} is {f.value:.4g}; expected {f.wanted}." for f in outcome.figures if not f.reached]
    sys.exit("\n".join([*missed, "Were there enough steps?"]) if missed else 0)


def described(module: Any) -> tuple[str, str]:
    """(title, the line that says what it is) from an example's docstring, which begins 'Title: the line.'"""
    title, line = module.__doc__.splitlines()[0].split(": ", 1)
    return title, line[0].upper() + line[1:]


def save(path: Path, title: str, line: str, outcome: Outcome, seconds: float) -> None:
    """The outcome as a file, for the gallery."""
    found = {
        "title": title,
        "line": line,
        "seconds": seconds,
        "nets": {name: repr(net) for name, net in outcome.nets.items()},
        "figures": [asdict(f) | {"wanted": f.wanted, "reached": f.reached} for f in outcome.figures],
        "picture": outcome.picture.name,
    }
    path.write_text(json.dumps(found, indent=1))


def held_out_accuracy(net: Layer, x: np.ndarray, label: np.ndarray) -> Callable[[Any], dict[str, Any]]:
    """A check for `fit`: the share of x whose label the network finds when training is over."""
    quiet = net.evaluation()
    found = jax.jit(lambda params, x, label: accuracy(quiet.forward(params, x)[0], label) * len(x))

    def check(params):
        parts = [slice(i, i + 1000) for i in range(0, len(x), 1000)]
        return {"held-out accuracy": sum(float(found(params, x[part], label[part])) for part in parts) / len(x)}

    return check


@contextmanager
def picture(path: Path, rows: int = 1, columns: int = 1, size: tuple[float, float] = (10, 3.8)) -> Iterator[Any]:
    """The axes of a figure, which is saved at the end: `with picture(path, columns=2) as (left, right):`"""
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained")
    try:
        yield axes
        figure.savefig(path, dpi=110, bbox_inches="tight")
    finally:
        plt.close(figure)


def curve(axes: Any, history: list[dict[str, float]], key: str, name: str | None = None) -> None:
    """What a history has under `key`: a line and its running mean, or points where it was measured now and then."""
    seen = [row for row in history if key in row]
    step, value = ([row[k] for row in seen] for k in ("step", key))
    axes.set(xlabel="step", ylabel=key)
    axes.grid(alpha=0.3)
    if len(seen) < len(history):
        axes.plot(step, value, "o-", markersize=3, label=name)
    else:
        width = max(1, len(value) // 50)
        (line,) = axes.plot(step[width - 1 :], np.convolve(value, np.full(width, 1 / width), "valid"), label=name)
        axes.plot(step, value, color=line.get_color(), alpha=0.2, linewidth=0.8)
    if name:
        axes.legend(frameon=False)


def level(axes: Any, height: float, name: str) -> None:
    """A dashed line: what a model reaches that has learnt nothing, say."""
    axes.axhline(height, color="0.5", linestyle="--", linewidth=1, label=name)
    axes.legend(frameon=False)


def page(axes: Any, text: str, title: str, width: int = 60, lines: int = 18) -> None:
    """The beginning of a text, as it stands."""
    shown = "".join(c if c.isprintable() or c == "\n" else "·" for c in text)
    cut = [line[i : i + width] for line in shown.split("\n") for i in range(0, max(1, len(line)), width)]
    axes.text(0, 1, "\n".join(cut[:lines]), family="monospace", size=7.5, va="top", parse_math=False)
    axes.set(title=title)
    axes.set_axis_off()


def mosaic(axes: Any, images: Any, columns: int, title: str = "") -> None:
    """Grey images (n, h, w) or (n, h, w, 1), or coloured ones (n, h, w, 3), side by side, `columns` in a row."""
    images = np.asarray(images, "float32")
    images = images[..., None] if images.ndim == 3 else images
    images = np.pad(images, ((0, -len(images) % columns), (0, 1), (0, 1), (0, 0)), constant_values=1)
    n, h, w, c = images.shape
    whole = images.reshape(n // columns, columns, h, w, c).swapaxes(1, 2).reshape(n // columns * h, columns * w, c)
    axes.imshow(whole[:-1, :-1].clip(0, 1), cmap="gray", vmin=0, vmax=1)
    axes.set(title=title)
    axes.set_axis_off()


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


def agreement(
    net: Layer, loss: Layer, params: Any, batch: tuple[Any, ...], name: str = "", bar: float = 1e-11
) -> Figure:
    """The figure of how far the worst leaf of the gradient is from that of jax.grad."""
    leaves = [leaf for leaf in verify.compare(net, loss, params, *batch).leaves if leaf.name.startswith("params")]
    worst = max(leaves, key=lambda leaf: leaf.error)
    why = f"a wrong gradient (worst at {worst.name})"
    return Figure(f"{name}worst leaf against jax.grad", worst.error, bar, why, low=True)


def temporary(compiled: Any) -> int:
    """Bytes of temporary memory that a compiled function asks for."""
    return compiled.memory_analysis().temp_size_in_bytes
