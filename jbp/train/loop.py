"""The loop: batches in, a state and its history out, with a progress bar and a stop at the first NaN."""

import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from importlib.util import find_spec
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import optax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from jbp.errors import LayerError, show
from jbp.layer import Layer
from jbp.sweep import Sweep
from jbp.train.data import Batches, length
from jbp.train.plan import Plan, working
from jbp.train.step import (
    Measure,
    Spread,
    State,
    compiled,
    copied,
    given_away,
    must_be_batch,
    must_be_state,
    shapes,
    spent,
)
from jbp.train.watch import cause

History = list[dict[str, float]]


class Diverged(ArithmeticError):  # noqa: N818
    """NaN or Inf in training. `step` (from 1), `batch`, `state`, which is that before the step, and `history`."""

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
    validation: Iterable[tuple[Any, ...]] | None = None,
    best: Callable[[dict[str, float]], float] | None = None,
    patience: int | None = None,
    plan: Plan | None = None,
    sweep: Sweep | None = None,
    saves: Any = None,
    reads: int = 1,
    title: str = "training",
    console: Console | None = None,
    **measures: Measure,
) -> tuple[State, History]:
    """(state, history) after one step for each of the batches, tuples (x, *targets), or for the first `steps` of them.

    history has one row a step: the number of the step since `start`, its loss, the norm of its gradient, its
    `measures`, functions of (output, *targets) such as `accuracy`. Every `every` steps and at the end, `check(params)`,
    if given, adds what it finds to the row, the accuracy on held-out data say, and a line is printed; the parameters
    are its own, a copy. `validation` is a list of batches that do not train: the row gets their "validation loss" and
    measures, of the network as it is when training is over.

    With `best`, a function of the row of which more is better, the state that comes back is that for which it was best,
    and with `patience` training ends after so many of these looks without a better one; then `best` is the loss, that
    of validation if there is one, unless it is given.

    With a `sweep` the gradient is that of another rule than backpropagation, as of `step`.

    With a `plan` training is spread over devices as it says; make the state with start(..., plan=plan). Losses and
    measures are read from the device once in `reads` steps, one step late, so that it never waits; so many batches are
    held, and NaN is told so much later, though nothing has moved since. Of several processes the first alone prints.

    With `saves`, of `jbp.saves`, the state is saved every so many steps, at the end, and at SIGTERM, which then ends
    the process with 0. `steps` and history count what went before, if state and batches are those of `resume`.

    The state that is given is taken over, as by `step`. A batch of another size, the last one perhaps, costs one
    compilation, and a line says so. Called again with the same net, loss, optimizer and measures
    (functions that are the same objects), fit compiles nothing.

    Raises Diverged at the first NaN or Inf, with the step and the layer that made it; LayerError if there are no
    batches, if one has another tree than the first, and if the state is that of another optimizer or was given away.
    These and any other error that passes through here, the data's or Ctrl-C, leave with `error.state`, from which
    training can go on, and `error.history`, a row for every step that was taken.

    >>> net, x, y = Dense(1), jnp.ones((2, 3)), jnp.ones((2, 1))
    >>> loss, optimizer = MeanSquaredError(), optax.sgd(0.1)
    >>> state = jbp.train.start(net, optimizer, jax.random.key(0), x)
    >>> state, history = jbp.train.fit(net, loss, optimizer, state, [(x, y)] * 20)
    training: step 20, loss 0
    >>> history[-1]["step"], history[-1]["loss"] < 1e-6
    (20, True)
    """
    for name, number in (("steps", steps), ("every", every), ("patience", patience), ("reads", reads)):
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
            raise LayerError(net, f"got {name}={number!r}; expected a whole number, 1 or more. Or leave it out.")
    if not isinstance(batches, Iterable):
        raise LayerError(
            net, f"got batches {show(batches)}; expected an iterable of (x, *targets). Write [(x, target)]."
        )
    if check is not None and not callable(check):
        raise LayerError(net, f"got check={show(check)}; expected a function of the parameters, or None. Leave it out.")
    if patience is not None and every is None:
        raise LayerError(
            net, "got patience without every; expected both. Write every=100 to look after each hundred steps, say."
        )
    if validation is not None:
        check = partial(_and_validation, check, net, loss, list(validation), measures)
    keep = None if best is None and patience is None else _Best(net, best or _less, patience)
    run = compiled(net, loss, optimizer, True, plan, sweep, **measures)
    training = _Training(net, loss, optimizer, state, run, reads)
    if saves is not None and not isinstance(batches, Batches):
        batches = Batches(batches)
    earlier = batches.history if isinstance(batches, Batches) else []
    if isinstance(batches, Batches) and steps is not None:
        steps = max(steps - batches.begun["taken"], 0)
    writer = None if saves is None else saves.open(net, training.begun, batches)
    total = steps if steps is not None else length(batches)

    def say(text):
        bar.console.print(f"{title}: {text}", highlight=False, soft_wrap=True)

    def look():
        row = training.history[-1]
        if check is not None:
            row.update(_found(net, check(copied(training.state.params))))
        say(f"step {row['step']:.0f}, {_said(row)}")
        return keep is not None and keep.has_seen(row, training.state)

    if console is None:
        widgets = find_spec("ipywidgets")  # without them a notebook is given lines, as a file is
        console = Console(quiet=jax.process_index() > 0, force_jupyter=None if widgets else False)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    live = console.is_terminal or console.is_jupyter
    bar = Progress(*columns, TextColumn("{task.fields[said]}"), console=console, transient=True, disable=not live)
    try:
        with bar, training.interruptible(), training.terminable(writer is not None), working(plan):
            task = bar.add_task(title, total=total, said="compiling")
            for batch in islice(batches, steps):
                news = training.look_at(batch)
                if news:
                    say(news)
                training.step(batch)
                over = False
                if every and training.taken % every == 0:
                    training.settle()
                    over = look()
                asked = writer is not None and training.asked()
                if writer is not None and (asked or writer.due(training.number)):
                    training.settle()
                    writer.save(training.state, [*earlier, *training.history])
                if asked and writer is not None:
                    writer.close()
                    say(f"told to end: saved at step {training.number}")
                    raise SystemExit(0)
                if training.history:
                    bar.update(task, completed=len(training.history), said=_said(training.history[-1]))
                if over:
                    say(f"nothing better in {patience} looks; the best was at step {keep.step:.0f}" if keep else "")
                    break
            training.settle()
            if not training.history and not earlier:
                raise LayerError(
                    net, "got no batches; expected one (x, target) or more. Is the iterator used up? Make it anew."
                )
            if training.history and (not every or training.taken % every):
                look()
            if steps is not None and training.taken < steps and not (keep and keep.over):
                say(f"the batches ended after {training.taken} of {steps} steps")
            if writer is not None:
                writer.save(training.state, [*earlier, *training.history])
                writer.close()
        return (keep.state if keep and keep.state else training.state), [*earlier, *training.history]
    except BaseException as error:
        training.leave(error, earlier)
        if writer is not None:
            with suppress(Exception):  # the error that led here is the one to be seen
                writer.close()
        raise


class _Training:
    """A state on its way, the rows of the steps that it has taken, and the steps whose rows are not read yet."""

    def __init__(self, net: Layer, loss: Layer, optimizer: Any, state: State, run: Any, reads: int):
        self.net, self.loss, self.optimizer, self.state, self.run = net, loss, optimizer, state, run
        self.reads = reads
        must_be_state(net, state)
        if given_away(state):
            raise spent(net)
        self.begun = int(state.steps)
        self.history: History = []
        self.unread: list[tuple[int, Any, Any]] = []
        self.good = jnp.ones((), bool)
        self.first, self.known, self.said, self.ending = None, set(), False, False
        self.leaving: State | None = None  # the state that a step is about to take over
        self.interrupt: Callable[[], Any] | None = None  # Ctrl-C that came when it had

    @property
    def number(self) -> int:
        """The number of the step last taken, since `start`."""
        return self.begun + self.taken

    @property
    def taken(self) -> int:
        """How many steps were taken."""
        return len(self.history) + len(self.unread)

    def look_at(self, batch: Any) -> str | None:
        """What is worth saying of a batch. An error if it is no batch, or not one like the first."""
        structure, sizes = shapes(batch)
        if (structure, sizes) in self.known:
            return None
        must_be_batch(self.net, batch)
        self.known.add((structure, sizes))
        if self.first is None:
            self.first = batch
        if structure != jax.tree.structure(self.first):
            raise LayerError(
                self.net,
                f"got the batch {show(batch)} after {show(self.first)}; expected one tree for all. "
                "Give every batch the same inputs and targets.",
            )
        if len(self.known) == 1 or self.said:
            return None
        self.said = True
        return f"a batch of another size, {show(batch)} after {show(self.first)}; each new size is compiled once"

    def step(self, batch: Any) -> None:
        """Start a step, and read what the one before has measured: the device has its next, and does not wait."""
        number = self.begun + self.taken + 1
        if isinstance(self.run, Spread):  # so that all processes can look at the whole of it, if it makes a NaN
            batch = self.run.plan.put(self.net, batch)
        self.leaving = self.state
        try:
            self.state, metrics = self.run(self.state, self.good, *batch)
            self.unread.append((number, batch, metrics))
        except (ValueError, RuntimeError) as error:
            if "deleted" in str(error) and given_away(self.state):
                raise spent(self.net) from error
            raise
        finally:
            self.leaving = None
        self.good = metrics["finite"]
        if self.interrupt is not None:
            self.interrupt()
        if len(self.unread) > self.reads:
            self.settle(but=1)

    def settle(self, but: int = 0) -> None:
        """Read the rows of the steps taken, but for the last few. Raises Diverged at the first that was not sound."""
        for leaf in jax.tree.leaves([metrics for *_, metrics in self.unread[: len(self.unread) - but]]):
            leaf.copy_to_host_async()
        while len(self.unread) > but:
            number, batch, metrics = self.unread[0]
            if number > self.begun + len(self.history):  # else Ctrl-C came between the row and its removal
                row = {name: float(value) for name, value in jax.device_get(metrics).items()}
                if not row.pop("finite"):
                    raise self._diverged(number, batch, row["loss"])
                self.history.append({"step": number} | row)
            self.unread.pop(0)

    def _diverged(self, number, batch, loss):
        try:
            why = cause(self.net, self.loss, self.optimizer, self.state, batch)
        except LayerError as error:
            why = str(error)
        return Diverged(
            f"Step {number}: NaN or Inf in training, loss {loss}. {why} "
            "The error has the batch, and in .state the state before this step.",
            number,
            self.state,
            batch,
        )

    def leave(self, error: BaseException, earlier: History) -> None:
        """Give the error the state, from which training can go on, and a row for every step that led to it."""
        vars(error).update(state=self.state, history=[*earlier, *self.history])
        if isinstance(error, Diverged):
            return
        with suppress(
            ArithmeticError, RuntimeError
        ):  # the last step was not sound, or never ran: the state is before it
            self.settle()
        vars(error).update(history=[*earlier, *self.history])

    def asked(self) -> bool:
        """Whether the process was told to end. Of several processes all say so after the same step."""
        if jax.process_count() == 1:
            return self.ending
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(self.number)

    @contextmanager
    def terminable(self, saves: bool) -> Iterator[None]:
        """SIGTERM inside is only noted, where there is a save to make first. Several processes leave it to JAX."""
        if not saves or jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, lambda number, frame: setattr(self, "ending", True))
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C inside waits, where a step has taken over the state, until the new one is at hand: microseconds."""
        before = signal.getsignal(signal.SIGINT)
        if not callable(before) or threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number, frame):
            if self.leaving is not None and given_away(self.leaving):
                self.interrupt = partial(before, number, frame)
            else:
                before(number, frame)

        signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class _Best:
    """The best state of those looked at, a copy, and whether patience has come to its end."""

    def __init__(self, net: Layer, value: Callable[[dict[str, float]], float], patience: int | None):
        self.net, self.of, self.patience, self.since, self.over = net, value, patience, 0, False
        self.value, self.step = -math.inf, 0.0
        self.state: State | None = None

    def has_seen(self, row: dict[str, float], state: State) -> bool:
        """Whether to stop after this row."""
        try:
            value = float(self.of(row))
        except (KeyError, TypeError, ValueError) as error:
            raise LayerError(
                self.net,
                f"got {type(error).__name__} ({error}) from best(row); expected a number, more being better. Write "
                f"lambda row: row[...] with one of {', '.join(row)}.",
            ) from error
        if self.state is None or value > self.value:
            self.value, self.step, self.state, self.since = value, row["step"], copied(state), 0
        else:
            self.since += 1
        self.over = self.patience is not None and self.since >= self.patience
        return self.over


def _less(row: dict[str, float]) -> float:
    """That there is less loss, is better."""
    return -row.get("validation loss", row["loss"])


def _and_validation(check, net, loss, batches, measures, params):
    """What `check` finds, and the loss and measures of batches that do not train, weighed by what counts in them."""
    found, totals, counts = _found(net, check(params)) if check else {}, {}, {}
    run = _validated(net, loss, tuple(measures.items()))
    for batch in batches:
        values, count = jax.device_get(run(params, *batch))
        for name, value in values.items():
            weight = float(count) if name == "loss" else len(jax.tree.leaves(batch[0])[0])
            totals[name] = totals.get(name, 0.0) + weight * float(value)
            counts[name] = counts.get(name, 0.0) + weight
    return found | {f"validation {name}": total / max(counts[name], 1e-30) for name, total in totals.items()}


@lru_cache(maxsize=16)
def _validated(net, loss, measures):
    quiet = net.evaluation()

    def run(params, x, *targets):
        y, _ = quiet.forward(params, x)
        value, _ = loss.forward((), (y, *targets))
        count = loss.count((), (y, *targets)) if hasattr(loss, "count") else jax.tree.leaves(x)[0].shape[0]
        return {"loss": value} | {name: measure(y, *targets) for name, measure in measures}, count

    return jax.jit(run)


def _found(net: Layer, found: Any) -> dict[str, float]:
    """What `check` has found, after a check that it is numbers with names."""
    try:
        return {name: float(value) for name, value in found.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise LayerError(
            net,
            f"got {show(found)} from check(params); expected a dict of numbers. Return {{'accuracy': value}}, say.",
        ) from error


def _said(row: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in ("step", "norm"))
