"""The loop: batches in, a state and its history out, with a progress bar and a stop at the first NaN."""

import faulthandler
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
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
from jbp.train.looks import Best, found, less, on_validation
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
STDERR = 2  # the descriptor, for sys.stderr has none in a notebook


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
    skips: int = 0,
    timeout: float | None = None,
    log: Callable[[dict[str, float]], Any] | None = None,
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

    `log` is called with every row when it is complete, one step late, with the "seconds" that its step took beside what
    is in the history: `jbp.train.lines(path)`, or a function of yours, which hands it to TensorBoard.

    With a `sweep` the gradient is that of another rule than backpropagation, as of `step`.

    With a `plan` training is spread over devices as it says; make the state with start(..., plan=plan). Losses and
    measures are read from the device once in `reads` steps, one step late, so that it never waits; so many batches are
    held, and NaN is told so much later, though nothing has moved since. Of several processes the first alone prints.

    With `saves`, of `jbp.saves`, the state is saved every so many steps, at the end, and at SIGTERM, which then ends
    the process with 0. `steps` and history count what went before, if state and batches are those of `resume`. With
    `best` or `patience` the best state is saved too and kept, and known after a `resume`.

    With `skips` so many unsound steps in a row are skipped, as are none otherwise: their batch moves nothing, and their
    row has "skipped" 1. With a `timeout`, in seconds, the process ends with 1 and the stacks of all threads where for
    so long no step, look or save has come to its end (compilation is within the first), so that whoever has started it
    can start it anew.

    The state that is given is taken over, as by `step`. A batch of another size, the last one perhaps, costs one
    compilation, and a line says so. Called again with the same net, loss, optimizer and measures
    (functions that are the same objects), fit compiles nothing.

    Raises Diverged at the first NaN or Inf that is not skipped, with the step and the layer that made it; LayerError if
    there are no batches, if one has another tree than the first, and if the state is that of another optimizer or was
    given away. These and any other error that passes through here, the data's or Ctrl-C, leave with `error.state`, from
    which training can go on, and `error.history`, a row for every step that was taken.

    >>> net, x, y = Dense(1), jnp.ones((2, 3)), jnp.ones((2, 1))
    >>> loss, optimizer = MeanSquaredError(), optax.sgd(0.1)
    >>> state = jbp.train.start(net, optimizer, jax.random.key(0), x)
    >>> state, history = jbp.train.fit(net, loss, optimizer, state, [(x, y)] * 20)
    training: step 20, loss 0
    >>> history[-1]["step"], history[-1]["loss"] < 1e-6
    (20, True)
    """
    whole = {
        "steps": (steps, 1),
        "every": (every, 1),
        "patience": (patience, 1),
        "reads": (reads, 1),
        "skips": (skips, 0),
    }
    for name, (number, least) in whole.items():
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < least):
            raise LayerError(net, f"got {name}={number!r}; expected a whole number, {least} or more. Or leave it out.")
    if not isinstance(batches, Iterable):
        raise LayerError(
            net, f"got batches {show(batches)}; expected an iterable of (x, *targets). Write [(x, target)]."
        )
    for name, given, what in (("check", check, "the parameters"), ("best", best, "a row"), ("log", log, "a row")):
        if given is not None and not callable(given):
            raise LayerError(net, f"got {name}={show(given)}; expected a function of {what}, or None. Leave it out.")
    if timeout is not None and (not isinstance(timeout, int | float) or isinstance(timeout, bool) or not timeout > 0):
        raise LayerError(net, f"got timeout={show(timeout)}; expected seconds, more than 0, or None. Leave it out.")
    if patience is not None and every is None:
        raise LayerError(
            net, "got patience without every; expected both. Write every=100 to look after each hundred steps, say."
        )
    if validation is not None:
        check = partial(on_validation, check, net, loss, list(validation), measures)
    keep = None if best is None and patience is None else Best(net, best or less, patience)
    run = compiled(net, loss, optimizer, True, plan, sweep, skips, **measures)
    training = _Training(net, loss, optimizer, state, run, reads, skips, log)
    if saves is not None and not isinstance(batches, Batches):
        batches = Batches(batches)
    earlier, before = (batches.history, batches.begun["taken"]) if isinstance(batches, Batches) else ([], 0)
    if steps is not None:
        steps = max(steps - before, 0)
    writer = saves.open(net, training.begun, batches) if saves is not None else None
    if writer is not None and keep is not None:
        keep.take_up(writer.batches.best)
        steps = 0 if keep.over else steps
    total = steps if steps is not None else length(batches)

    def say(text):
        bar.console.print(f"{title}: {text}", highlight=False, soft_wrap=True)

    def look():
        training.settle()
        row = training.history[-1]
        if check is not None:
            row.update(found(net, check(copied(training.state.params))))
        say(f"step {row['step']:.0f}, {_said(row)}")
        return keep is not None and keep.is_better(row, training.state)

    def save():
        training.settle()
        assert writer is not None
        writer.save(training.state, [*earlier, *training.history], None if keep is None else keep.told())

    def alive():
        if timeout is not None:
            faulthandler.dump_traceback_later(timeout, exit=True, file=STDERR)

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
            alive()
            looked = 0
            for batch in islice(batches, steps):
                news = training.look_at(batch)
                if news:
                    say(news)
                training.step(batch)
                better = False
                if training.taken == total or (every and (before + training.taken) % every == 0):
                    better, looked = look(), training.taken
                asked = writer is not None and training.asked()
                if writer is not None and (asked or better or writer.due(training.number)):
                    save()
                if asked and writer is not None:
                    writer.close()
                    say(f"told to end: saved at step {training.number}")
                    raise SystemExit(0)
                training.tell(but=1)
                if training.history:
                    bar.update(task, completed=len(training.history), said=_said(training.history[-1]))
                alive()
                if keep is not None and keep.over:
                    say(f"nothing better in {patience} looks; the best was at step {keep.step:.0f}")
                    break
            if not training.taken and not earlier:
                raise LayerError(
                    net, "got no batches; expected one (x, target) or more. Is the iterator used up? Make it anew."
                )
            if training.taken > looked:
                look()
            training.tell()
            if steps is not None and training.taken < steps and not (keep and keep.over):
                say(f"the batches ended after {training.taken} of {steps} steps")
            if writer is not None:
                save()
            state = training.state if keep is None else keep.chosen(training.state, writer.read if writer else None)
            if writer is not None:
                writer.close()
        return state, [*earlier, *training.history]
    except BaseException as error:
        training.leave(error, earlier)
        if writer is not None:
            with suppress(Exception):  # the error that led here is the one to be seen
                writer.close()
        raise
    finally:
        if timeout is not None:
            faulthandler.cancel_dump_traceback_later()


class _Training:
    """A state on its way, the rows of the steps that it has taken, and the steps whose rows are not read yet."""

    def __init__(
        self, net: Layer, loss: Layer, optimizer: Any, state: State, run: Any, reads: int, skips: int, log: Any
    ):
        self.net, self.loss, self.optimizer, self.state, self.run = net, loss, optimizer, state, run
        self.reads, self.skips, self.log = reads, skips, log if jax.process_index() == 0 else None
        self.told, self.clock = 0, time.perf_counter()
        must_be_state(net, state)
        if given_away(state):
            raise spent(net)
        self.begun = int(state.steps)
        self.history: History = []
        self.unread: list[tuple[int, Any, Any]] = []
        self.left: Any = jnp.asarray(skips, jnp.int32)  # unsound steps that may follow; below 0 none is taken any more
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
            self.state, metrics = self.run(self.state, self.left, *batch)
            self.unread.append((number, batch, metrics))
        except (ValueError, RuntimeError) as error:
            if "deleted" in str(error) and given_away(self.state):
                raise spent(self.net) from error
            raise
        finally:
            self.leaving = None
        self.left = metrics["left"]
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
                sound = row.pop("finite")
                if row.pop("left") < 0:
                    raise self._diverged(number, batch, row["loss"])
                self.history.append({"step": number} | row | ({"skipped": 1.0 - sound} if self.skips else {}))
            self.unread.pop(0)

    def tell(self, but: int = 0) -> None:
        """Give the log the rows that it has not had, but for those of the last steps, with the seconds of each."""
        rows = self.history[self.told : self.taken - but]
        if self.log is None or not rows:
            return
        self.told += len(rows)
        now = time.perf_counter()
        seconds, self.clock = (now - self.clock) / len(rows), now
        for row in rows:
            self.log(row | {"seconds": seconds})

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
        if not isinstance(error, Diverged):
            # the last step was not sound, or never ran: the state is before it
            with suppress(ArithmeticError, RuntimeError):
                self.settle()
            vars(error).update(history=[*earlier, *self.history])
        with suppress(Exception):  # the error that led here is the one to be seen
            self.tell()

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


def _said(row: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in ("step", "norm"))
