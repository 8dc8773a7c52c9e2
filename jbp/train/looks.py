"""Looks at a training on its way: what `check` finds, held-out loss and measures, and the best state so far."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax

from jbp.errors import LayerError, show
from jbp.layer import Layer
from jbp.losses.loss import Loss
from jbp.losses.total import Total
from jbp.train.step import State, copied


class Best:
    """The best state of those looked at, a copy, and whether patience has come to its end."""

    def __init__(self, net: Layer, value: Callable[[dict[str, float]], float], patience: int | None):
        self.net, self.of, self.patience, self.since = net, value, patience, 0
        self.value, self.step = -math.inf, 0
        self.state: State | None = None  # None where the best is that of a save

    @property
    def over(self) -> bool:
        """Whether training is to end."""
        return self.patience is not None and self.since >= self.patience

    def is_better(self, row: dict[str, float], state: State) -> bool:
        """Whether this row is better than any before. Then the state is kept."""
        try:
            value = float(self.of(row))
        except (KeyError, TypeError, ValueError) as error:
            raise LayerError(
                self.net,
                f"got {type(error).__name__} ({error}) from best(row); expected a number, more being better. Write "
                f"lambda row: row[...] with one of {', '.join(row)}.",
            ) from error
        if self.step and not value > self.value:
            self.since += 1
            return False
        self.value, self.step, self.state, self.since = value, int(row["step"]), copied(state), 0
        return True

    def told(self) -> dict[str, Any] | None:
        """What a save says of it."""
        return {"step": self.step, "value": self.value, "since": self.since} if self.step else None

    def take_up(self, told: dict[str, Any] | None) -> None:
        """Go on from what a save said."""
        if told:
            self.step, self.value, self.since = told["step"], told["value"], told["since"]

    def chosen(self, last: State, read: Callable[[int, State], State] | None) -> State:
        """The best state, or the last where none was looked at; `read` has that of a step that was saved."""
        if self.state is not None:
            return self.state
        return read(self.step, last) if read and self.step else last


def less(row: dict[str, float]) -> float:
    """That there is less loss, is better."""
    return -row.get("validation loss", row["loss"])


def on_validation(check: Any, net: Layer, loss: Layer, batches: list[Any], measures: Any, params: Any) -> Any:
    """What `check` finds, and the loss and measures of batches that do not train, weighed by what counts in them."""
    seen = found(net, check(params)) if check else {}
    run = _validated(net, loss, tuple(measures.items()))
    told = [jax.device_get(run(params, *batch)) for batch in batches]
    names = ("loss", *measures) if told else ()
    return seen | {f"validation {name}": _together([means[name] for means in told]) for name in names}


def _together(batches: list[list["Mean"]]) -> float:
    """The weighted sum of what are means over all batches."""
    value = 0.0
    for same in zip(*batches, strict=True):
        count = sum(float(mean.count) for mean in same)
        value += float(same[0].weight) * sum(float(m.count) * float(m.mean) for m in same) / max(count, 1e-30)
    return value


class Mean(NamedTuple):
    """What a loss is a sum of: its weight, the mean, and how much that counts beside those of other batches."""

    weight: Any
    mean: Any
    count: Any


def means(loss: Layer, x: Any, examples: int) -> list[Mean]:
    """The means whose weighted sum is the loss of x: one for most, one for each in a Total."""
    if isinstance(loss, Total):
        each = zip(loss.weights, loss.layers, loss.given(x), strict=True)
        return [Mean(w * weight, *more) for w, one, given in each for weight, *more in means(one, given, examples)]
    count = loss.count((), x) if isinstance(loss, Loss) else examples
    return [Mean(1.0, loss.forward((), x)[0], count)]


@lru_cache(maxsize=16)
def _validated(net, loss, measures):
    quiet = net.evaluation()

    def run(params, x, *targets):
        y, _ = quiet.forward(params, x)
        examples = jax.tree.leaves(x)[0].shape[0]
        measured = {name: [Mean(1.0, measure(y, *targets), examples)] for name, measure in measures}
        return {"loss": means(loss, (y, *targets), examples)} | measured

    return jax.jit(run)


def found(net: Layer, given: Any) -> dict[str, float]:
    """What `check` has found, after a check that it is numbers with names."""
    try:
        return {name: float(value) for name, value in given.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise LayerError(
            net,
            f"got {show(given)} from check(params); expected a dict of numbers. Return {{'accuracy': value}}, say.",
        ) from error
