"""What the fields of a layer may hold: annotations that are checked when a layer is made.

    features: Size            rate: Rate = 0.5            padding: Literal["SAME", "VALID"] = "SAME"

`Layer.__post_init__` holds every field against its annotation: the type, and that numbers are finite and in range.
NumPy's and JAX's scalars become Python's, lists become tuples, and the words of a Literal may come in any case, so that
layers stay hashable and their repr is a program. A field that does not fit raises LayerError with its name, what came
and what was expected. `checked` asks the same of a function's arguments. `written` is the repr, `on_lines` the same for
notebooks, a line for each layer where one line is too short.
"""

import math
import types
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import lru_cache, wraps
from inspect import Parameter, signature
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from jbp.errors import LayerError, known

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Range:
    """low ≤ number ≤ high; `open` names the ends that are left out: "low", "high" or "both"."""

    low: float = -math.inf
    high: float = math.inf
    open: str = ""

    def holds(self, value: Any) -> bool:
        above = value > self.low if self.open in ("low", "both") else value >= self.low
        return above and (value < self.high if self.open in ("high", "both") else value <= self.high)

    def broken(self, value: Any) -> str:
        """What value is not."""
        return f"at most {self.high:.10g}" if value > self.high and not self.open else str(self)

    def __str__(self):
        low = f"more than {self.low:g}" if self.open in ("low", "both") else f"{self.low:g} or more"
        high = f"less than {self.high:g}" if self.open in ("high", "both") else f"at most {self.high:g}"
        return " and ".join([low] * (self.low > -math.inf) + [high] * (self.high < MOST))


@dataclass(frozen=True)
class Hint:
    """What to do where a value does not fit, in words of the layer's own: the last sentence of the error."""

    text: str


@dataclass(frozen=True)
class Floating:
    """Of a string: that it names a floating-point dtype. Dtypes and NumPy's types become their names."""


MOST = 2**31 - 1  # XLA counts elements of an axis in 32 bits here and there, and an array as long fills any machine
LARGEST = float(np.finfo(np.float32).max)
Size = Annotated[int, Range(1, MOST)]
Count = Annotated[int, Range(0, MOST)]
Positive = Annotated[float, Range(0, open="low")]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Rate = Annotated[float, Range(0, 1, open="high")]
Inside = Annotated[float, Range(0, 1, open="both")]
DType = Annotated[str, Floating()]


class MisfitError(ValueError):
    """What was expected."""


def is_layer(value: Any) -> bool:
    """Whether value has the methods of a layer, whoever wrote it: a class of layers is none."""
    names = "init", "forward", "backward", "gradient"
    return not isinstance(value, type) and all(callable(getattr(value, name, None)) for name in names)


def _any_layer(hint: type) -> bool:
    """Whether it is `Layer` that is asked for, and no kind of layers in particular."""
    return hasattr(hint, "forward") and hint.__bases__ == (object,)


def check(layer: Any) -> None:
    """Each field of the layer as its annotation has it, or a LayerError that names the field."""
    for f, hint in _hints(type(layer)):
        value = getattr(layer, f.name)
        fitting = _fitting(type(layer), f.name, value, hint, f.default)
        if fitting is not value:
            object.__setattr__(layer, f.name, fitting)


@dataclass(frozen=True, repr=False)
class Verbatim:
    """A text that is shown without quotes."""

    text: str

    def __repr__(self):
        return self.text


def arguments(layer: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of each argument of the call that makes the layer; the name is "" where the place says it."""
    for f in fields(layer) if is_dataclass(layer) else ():
        value = getattr(layer, f.name)
        if f.default is MISSING or value != f.default:
            yield "" if f.default is MISSING else f.name, value


def written(self: Any) -> str:
    words = [f"{name}={value!r}" if name else repr(value) for name, value in self._arguments()]
    return f"{type(self).__name__}({', '.join(words)})"


def laid_out(layer: Any) -> Iterator[Any]:
    """The arguments as rich wants them, which takes a tuple for a name with a value."""
    for name, value in layer._arguments():
        yield (name, value) if name else Verbatim(repr(value)) if isinstance(value, tuple) else value


def on_lines(layer: Any, printer: Any, cycle: bool) -> None:
    """What IPython calls."""
    from rich.pretty import pretty_repr

    printer.text(pretty_repr(layer, max_width=printer.max_width))


def checked(function: F) -> F:
    """The function, with its arguments held against their annotations as fields are."""

    form = signature(function)

    @wraps(function)
    def call(*args, **more):
        given = form.bind(*args, **more)
        for name, hint in _annotations(function).items():
            if name in given.arguments:
                default = form.parameters[name].default
                default = MISSING if default is Parameter.empty else default
                given.arguments[name] = _fitting(function, name, given.arguments[name], hint, default)
        return function(*given.args, **given.kwargs)

    return call  # pyright: ignore[reportReturnType]


@lru_cache(maxsize=256)
def _annotations(function):
    return get_type_hints(function, include_extras=True)


def _fitting(owner: Any, name: str, value: Any, hint: Any, default: Any) -> Any:
    """The value as its annotation has it."""
    try:
        return _fit(value, hint)
    except MisfitError as misfit:
        remedy = _remedy(owner, name, hint, value, default)
        raise LayerError(owner, f"got {name}={_shown(value)}; expected {misfit}. {remedy}") from None


@lru_cache(maxsize=1024)
def _hints(cls):
    try:
        hints = get_type_hints(cls, include_extras=True)
    except NameError:  # annotations that name what is not to be had at run time: a layer of somebody else's
        return ()
    return tuple((f, hints[f.name]) for f in fields(cls))


def _fit(value: Any, hint: Any) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _within(value, args[0], args[1:])
    if origin in (Union, types.UnionType):
        return _one_of(value, args)
    if origin is Literal:
        if any(type(value) is type(a) and value == a for a in args):
            return value
        for word in args:  # words in any case: "same" is "SAME"
            if isinstance(value, str) and isinstance(word, str) and value.casefold() == word.casefold():
                return word
        raise MisfitError(", ".join(repr(a) for a in args[:-1]) + f" or {args[-1]!r}" if args[1:] else repr(args[0]))
    if origin is tuple:
        return _each(value, args)
    if hint in (None, type(None)):
        if value is not None:
            raise MisfitError("None")
        return None
    if hint in _SCALARS:
        return _scalar(value, hint)
    if isinstance(hint, type) and hint is not Any:
        if not isinstance(value, hint) and not (_any_layer(hint) and is_layer(value)):
            raise MisfitError(_a(hint.__name__))
        return value
    return value  # Any, a Callable, a name of its own: nothing to hold it against


SMALLEST = float(np.finfo(np.float32).tiny)


def _within(value, hint, marks):
    if Floating() in marks:
        return _dtype(value)
    ranges = [m for m in marks if isinstance(m, Range)]
    try:
        value = _fit(value, hint)
    except MisfitError as misfit:
        raise MisfitError(", ".join([str(misfit), *map(str, ranges)])) from None
    for mark in ranges:
        if not mark.holds(0 if 0 < abs(value) < SMALLEST else value):  # in float32 it is zero
            raise MisfitError(f"{_KINDS.get(hint, 'a value')}, {mark.broken(value)}")
    return value


def _one_of(value, hints):
    wanted = []
    for hint in hints:
        try:
            return _fit(value, hint)
        except MisfitError as misfit:
            wanted.append(str(misfit))
    raise MisfitError(", or ".join(dict.fromkeys(wanted)))


def _each(value, args):
    if not isinstance(value, tuple | list):
        raise MisfitError(_tuple_of(args))
    if args and args[-1] is Ellipsis:
        hints = args[:1] * len(value)
    elif len(args) == len(value):
        hints = args
    else:
        raise MisfitError(_tuple_of(args))
    try:
        fitting = tuple(_fit(v, h) for v, h in zip(value, hints, strict=True))
    except MisfitError as misfit:
        raise MisfitError(f"{_tuple_of(args)}: each {misfit}") from None
    same = isinstance(value, tuple) and all(a is b for a, b in zip(value, fitting, strict=True))
    return value if same else fitting


def _tuple_of(args):
    return "a tuple" if not args or args[-1] is Ellipsis else f"a tuple of {len(args)}"


_SCALARS = {bool: (bool, np.bool_), int: (int, np.integer), float: (float, int, np.floating, np.integer), str: (str,)}
_KINDS = {bool: "True or False", int: "a whole number", float: "a finite number", str: "a string"}


def _scalar(value, kind):
    if kind is not str and getattr(value, "shape", None) == () and hasattr(value, "dtype") and known(value):
        value = np.asarray(value)[()]  # a NumPy or JAX array of no axes
    if not isinstance(value, _SCALARS[kind]) or (kind is not bool and isinstance(value, bool | np.bool_)):
        raise MisfitError(_KINDS[kind])
    if kind is float and not abs(value) <= LARGEST:
        raise MisfitError(_KINDS[kind])
    value = value.item() if isinstance(value, np.generic) else value
    return float(value) if kind is float and abs(value) > MOST else value  # JAX takes no whole number as large


def _dtype(value):
    numpys = isinstance(value, type) and issubclass(value, np.generic)
    array = hasattr(value, "shape") and not isinstance(value, type | np.dtype)
    try:
        dtype = np.dtype(value if numpys else getattr(value, "dtype", value))
    except TypeError:
        raise MisfitError("the name of a floating-point dtype, 'float32' for example") from None
    if value is None or array or not (dtype.kind == "f" or dtype.name in ("bfloat16", "float16")):
        raise MisfitError("the name of a floating-point dtype, 'float32' for example")
    return value if isinstance(value, str) else dtype.name


def _a(name):
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _shown(value):
    if isinstance(value, type):
        return value.__name__
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _remedy(owner, name, hint, value, default):
    """What to write instead."""
    marks = [mark for part in (hint, *get_args(hint)) for mark in get_args(part)]
    hints = [mark.text for mark in marks if isinstance(mark, Hint)]
    if isinstance(value, type):
        return f"That is a class: write {value.__name__}(...)."
    if hints:
        return hints[0]
    ranges = [mark for mark in marks if isinstance(mark, Range)]
    whole = isinstance(value, float) and value.is_integer() and value > 0
    if whole and all(each.holds(value) for each in ranges):
        return f"Write {name}={int(value)}."
    if default is not MISSING:
        return f"The default is {name}={default!r}."
    if ranges:
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else 8
        nearest = min(max(number, ranges[0].low), ranges[0].high)
        if ranges[0].holds(nearest):
            return f"Write {name}={nearest:.10g}, for example."
    return f"help({owner.__name__}) says what it means."
