"""The protocol: what a layer is, and the laws that it keeps. Read this file first.

A layer is a frozen dataclass of configuration, its fields checked when it is made (fields.py). Its pure methods are the
four equations of backpropagation (Nielsen, *Neural Networks and Deep Learning*, ch. 2), and what comes in is arrays
(arrays.py). `delta` is its error where its parameters sit: `dy` for Dense, the gate errors of every step for an LSTM, a
tuple of deltas for a combinator.

Laws. Transpose: (gradient(residuals, delta), dx) is the vector-Jacobian product of forward's first output. Linear in dy
are backward and gradient. Closure: a combinator of layers is a layer. Frugality: residuals hold no weights, and nothing
that is cheap to recompute. `reference` is the definition. The cotangent of an integer, a key or a `Buffer` is None.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

from jbp.arrays import at_the_door
from jbp.fields import arguments, check, laid_out, on_lines, written

Tree = Any


class Layer:
    """A function with parameters and its derivative. Subclass it as a frozen dataclass: `forward`, `backward`, ..."""

    # What others ask of a layer, and `verify` by the same names.
    estimator: Any = False  # its backward pass is not the transpose, on purpose; "nonlinear": nor is it linear in dy
    autodiff = False  # its backward pass is jax.vjp of somebody else's function
    advances: Any = None  # whether `advance` moves buffers of its own; None: if it has one, and no layers inside
    as_one = False  # who runs networks layer by layer compiles it with the layers inside: a loop, much arithmetic
    sealed = False  # it asks more of the layers inside than a layer has: nothing may be put in their place
    reads: Any = ()  # the axes along which it takes together what lies there, from x's shape: the examples' may be one
    couples: Any = ""  # why examples in a batch are not each by itself: for who takes a batch in parts
    singly: Any = False  # what it couples is what it says of the batch: of each example by itself it makes the same
    cuts: Any = ()  # its places among layers of which devices have some features each: first, between, last, ...
    both_ways = False  # its output at a time depends on what comes later

    def init(self, key: Any, x: Tree, /) -> Tree:
        """The parameters for inputs shaped like x, a pytree of arrays or of jax.ShapeDtypeStruct."""
        return ()

    def forward(self, params: Tree, x: Tree, /) -> tuple[Tree, Tree]:
        """(y, residuals). BP1: the output, and what the backward pass needs."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, params: Tree, residuals: Tree, dy: Tree, /) -> tuple[Tree, Tree]:
        """(dx, delta). BP2: the error, one layer further down."""
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def gradient(self, residuals: Tree, delta: Tree, /) -> Tree:
        """dparams. BP3 and BP4: what the error says about the parameters."""
        return ()

    def __call__(self, params: Tree, x: Tree, /, has_aux: bool = False) -> Tree:
        """y, or (y, advanced) with has_aux, for `jax.grad`: its derivative is this layer's own backward pass."""
        from jbp.bridge import as_function  # which is made of layers

        return as_function(self, has_aux)(params, x)

    def pull(self, params: Tree, residuals: Tree, dy: Tree, /) -> tuple[Tree, Tree]:
        """(dx, dparams): both halves at once, the ordinary backward pass. No delta outlives its layer."""
        dx, delta = self.backward(params, residuals, dy)
        return dx, self.gradient(residuals, delta)

    def advance(self, params: Tree, residuals: Tree, /) -> Tree:
        """The parameters with their buffers moved on by one step: the next key, the next running mean."""
        return params

    def part(self, count: int, x: Tree = None, /) -> "Layer | None":
        """What one of `count` devices has of a layer that is first or alone, given all of x. None if it has none."""

    def evaluation(self) -> "Layer":
        """The network to use once training is over. It takes the same parameters."""
        return map_children(lambda label, child: child.evaluation(), self)

    def reference(self, params: Tree, x: Tree, /) -> Tree:
        """What the layer means, in plain jax.numpy and without any custom rule: `jax.grad` of this is the oracle."""
        return self.forward(params, x)[0]

    __post_init__ = check
    _arguments = arguments  # what its repr shows, a program: the call that makes it
    __repr__ = written
    __rich_repr__ = laid_out  # the same for rich
    _repr_pretty_ = on_lines  # and for notebooks

    def __init_subclass__(cls) -> None:
        cls.__repr__ = cls.__repr__  # the inherited one, set here: @dataclass makes its own only where none is
        cls._repr_pretty_ = cls._repr_pretty_  # IPython takes a class's own __repr__ before an inherited one of these
        at_the_door(cls)


class Estimator(Layer):
    """A layer whose backward pass is, on purpose, not the transpose of its forward (feedback alignment, rounding)."""

    estimator = True


def map_children(change: Callable[[str, Layer], Layer], layer: Any) -> Any:
    """The combinator over changed children, each given with its label: '' for the field `layer`, '[i]' or '.name' for
    one of `layers`, '.field' for another.

    >>> jbp.layer.map_children(lambda label, child: Remat(child), Serial(Dense(8), Tanh()))
    Serial(Remat(Dense(8)), Remat(Tanh()))
    """
    called = getattr(layer, "names", ())

    def changed(label, value):
        if isinstance(value, tuple):
            named = called and not label
            return tuple(changed(f".{called[i]}" if named else f"{label}[{i}]", v) for i, v in enumerate(value))
        return change(label, value) if isinstance(value, Layer) else value

    names = [f.name for f in fields(layer)] if is_dataclass(layer) and not getattr(layer, "sealed", False) else []
    new = {n: changed("" if n in ("layer", "layers") else f".{n}", getattr(layer, n)) for n in names}
    return replace(layer, **new) if new else layer  # pyright: ignore[reportArgumentType]
