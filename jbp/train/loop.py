"""The loop: batches in, a state and its history out, with a progress bar and a stop at the first NaN."""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import optax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from jbp.errors import LayerError
from jbp.layer import Layer
from jbp.train.step import Measure, State, take_step
from jbp.train.watch import cause

History = list[dict[str, float]]


class Diverged(ArithmeticError):  # noqa: N818
    """NaN or Inf in training. `step` (from 1), `batch`, and `state`, which is that before the step: nothing is lost."""

    def __init__(self, message: str, step: int, state: State, batch: Any):
        super().__init__(message)
        self.step, self.state, self.batch = step, state, batch


def fit(
    net: Layer,
    loss: Layer,
    optimizer: optax.GradientTransformation,
    state: State,
    batches: Iterable[tuple[Any, ...]],
    *,
    steps: int | None = None,
    check: Callable[[Any], dict[str, Any]] | None = None,
    every: int | None = None,
    title: str = "training",
    console: Console | None = None,
    **measures: Measure,
) -> tuple[State, History]:
    """(state, history) after one step for each of the batches, tuples (x, *targets), or for the first `steps` of them.

    history has one row a step: the number of the step since `start`, its loss, the norm of its gradient, its
    `measures`, functions of (output, *targets) such as `accuracy`. Every `every` steps and at the end, `check(params)`,
    if given, adds what it finds to the row, the accuracy on held-out data say, and a line is printed. The state that is
    given is taken over, as by `step`.

    Raises Diverged at the first NaN or Inf, with the step and the layer that made it, and ValueError if there are no
    batches. Any other error that passes through here, Ctrl-C too, leaves with `error.state` and `error.history`.
    """
    run = jax.jit(take_step(net, loss, optimizer, measures), donate_argnums=0)
    history: History = []
    pending, good = None, jnp.ones((), bool)
    total = steps if steps is not None else len(batches) if hasattr(batches, "__len__") else None  # pyright: ignore[reportArgumentType]
    begun = int(state.steps)

    def settle():
        """Read what the step before has measured. By now the device has its next step, and does not wait for us."""
        nonlocal pending
        if pending is None:
            return
        batch, metrics = pending
        pending, number = None, begun + len(history) + 1
        row = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not row.pop("finite"):
            try:
                why = cause(net, loss, state.params, batch)
            except LayerError as error:
                why = str(error)
            raise Diverged(
                f"Step {number}: NaN or Inf in training, loss {row['loss']}. {why} "
                "The error has the batch, and in .state the state before this step.",
                number,
                state,
                batch,
            )
        history.append({"step": number} | row)
        bar.update(task, advance=1, said=_said(row))

    def look():
        if check is not None:
            found = {name: float(value) for name, value in check(state.params).items()}
            history[-1].update(found)
        bar.console.print(f"{title}: step {history[-1]['step']:.0f}, {_said(history[-1])}", highlight=False)

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, TextColumn("{task.fields[said]}"), console=console, transient=True) as bar:
        task = bar.add_task(title, total=total, said="compiling")
        try:
            for batch in islice(batches, steps):
                state, metrics = run(state, good, *batch)
                good = metrics["finite"]
                settle()
                pending = batch, metrics
                if every and (len(history) + 1) % every == 0:
                    settle()
                    look()
            settle()
            if not history:
                raise ValueError("fit: got no batches; expected one (x, target) or more. Is the iterator used up?")
            if not every or len(history) % every:
                look()
        except BaseException as error:
            vars(error).update(state=state, history=history)
            raise
    return state, history


def _said(row: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in ("step", "norm"))
