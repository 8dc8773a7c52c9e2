"""One forward and one reverse sweep over a network and its loss."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jbp.arrays import shape, taken
from jbp.errors import LayerError, check_cotangent, show
from jbp.layer import Layer, map_children


class Aux(NamedTuple):
    """What a sweep has beside loss and gradient: the network's output, and the parameters with advanced buffers.

    >>> net, x = BatchNorm(), jnp.array([[0.0], [2.0]])
    >>> params = net.init(jax.random.key(0), x)
    >>> (value, aux), grads = value_and_grad(net, MeanSquaredError(), has_aux=True)(params, x, jnp.zeros((2, 1)))
    >>> aux.output.shape, aux.params["mean"]
    ((2, 1), Buffer(value=Array([0.1], dtype=float32)))
    """

    output: Any
    params: Any


class Sweep(Protocol):
    """Another way to a gradient, as `step` and `fit` take it: a frozen value, `sweep=Private(...)`.

    `step` is the number of steps taken, from which random numbers can be drawn.
    """

    def value_and_grad(self, net: Layer, loss: Layer, /) -> Callable[..., Any]:
        """f(params, x, *targets, step) -> ((loss, Aux(output, params)), gradient)."""
        ...


def value_and_grad(net: Layer, loss: Layer, has_aux: bool = False) -> Callable[..., Any]:
    """f(params, x, target) -> (value, grads), as `jax.value_and_grad` would, by the hand-written sweep.

    loss is a layer from (output, target) to a scalar. grads has the shape of `trainable(params)`. With has_aux, f
    returns ((value, Aux(output, params)), grads), and a network with buffers that advance (Dropout's key, BatchNorm's
    statistics) must be asked so, for its next step needs the advanced parameters:

        (value, aux), grads = value_and_grad(net, loss, has_aux=True)(params, x, target)
        updates, state = optimizer.update(grads, state, trainable(params))
        params = apply_updates(aux.params, updates)

    Raises LayerError where a layer does, if the network advances and has_aux is not set, if the loss is not a number,
    and if the cotangent of the loss does not fit the network's output.

    >>> net, x, target = Dense(1), jnp.array([[1.0, 2.0]]), jnp.array([[1.0]])
    >>> params = {"w": jnp.array([[1.0], [1.0]]), "b": jnp.zeros(1)}
    >>> value_and_grad(net, MeanSquaredError())(params, x, target)
    (Array(4., dtype=float32), {'w': Array([[4.],
           [8.]], dtype=float32), 'b': Array([4.], dtype=float32)})
    """
    must_be_layer("net", net)
    must_be_layer("loss", loss)
    must_advance(net, has_aux, "aux.params")

    def swept(params, x, *target):
        output, residuals = net.forward(params, x)
        value, dy = lost(loss, output, *target)
        _, grads = net.pull(params, residuals, dy)
        if not has_aux:
            return value, grads
        return (value, Aux(output, net.advance(params, residuals))), grads

    return swept


def deltas(net: Layer, loss: Layer) -> Callable[..., Any]:
    """f(params, x, target) -> (value, residuals, delta): a sweep that stops before the gradients (B without W).

    >>> net, x = Serial(Dense(4), Tanh(), Dense(1)), jnp.ones((3, 2))
    >>> params = net.init(jax.random.key(0), x)
    >>> value, residuals, delta = jbp.readers.deltas(net, MeanSquaredError())(params, x, jnp.zeros((3, 1)))
    >>> jax.tree.map(jnp.shape, delta)
    ((3, 4), (), (3, 1))
    """
    must_be_layer("net", net)
    must_be_layer("loss", loss)

    def f(params, x, *target):
        output, residuals = net.forward(params, x)
        value, dy = lost(loss, output, *target)
        return value, residuals, net.backward(params, residuals, dy)[1]

    return f


def lost(loss: Layer, output: Any, *target: Any) -> tuple[Any, Any]:
    """(the loss, what it sends down for the output), after a check of both."""
    value, kept = loss.forward((), (output, *target))
    must_be_scalar(loss, value)
    (dy, *_), _ = loss.backward((), kept, jnp.ones((), value.dtype))
    check_cotangent(loss, output, dy)
    return value, dy


def must_be_layer(name: str, layer: Any) -> None:
    """An error unless it is a layer: a class of layers is none, nor is a function."""
    if not isinstance(layer, Layer):
        made = isinstance(layer, type) and issubclass(layer, Layer)
        other = "Lambda(lambda x: f(*x)) of jbp.bridge.foreign is any function f(output, *targets) as one."
        remedy = f"Write {layer.__name__}(...)." if made else f"Look for one in jbp.layers and jbp.losses. {other}"
        raise LayerError(layer, f"got {type(layer).__name__} as {name}; expected a layer. {remedy}")


def must_be_scalar(loss: Layer, value: Any) -> None:
    """An error unless the loss has given one number."""
    if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise LayerError(loss, f"got a loss {show(value)}; expected a scalar. Take the mean inside the loss.")


def must_advance(net: Layer, has_aux: bool, where: str) -> None:
    """An error if the network has buffers that advance and nobody asks for them: it would stand still."""
    moving = advancing(net)
    if moving and not has_aux:
        raise LayerError(
            net,
            f"got has_aux=False, but {moving[0]!r} has buffers that advance; expected has_aux=True, which "
            f"returns the advanced parameters as {where}. For evaluation use net.evaluation().",
        )


def advancing(net: Layer) -> list[Layer]:
    """The layers inside that move their buffers on at each step."""
    inner = children(net)
    combines = inner or getattr(net, "layers", None) == ()  # a combinator, perhaps an empty one, passes `advance` on
    own = net.advances if net.advances is not None else not combines and type(net).advance is not Layer.advance
    return [net] * own + [layer for _, child in inner for layer in advancing(child)]


def children(net: Layer) -> list[tuple[str, Layer]]:
    """The layers directly inside a combinator, with the labels by which errors call them."""
    found = []
    map_children(lambda label, child: found.append((label, child)) or child, net)
    return found


def stem(path: str, layer: Layer) -> str:
    """What the labels of a layer's children are put behind, to have their paths."""
    return f"{path}{'.' * bool(path)}{type(layer).__name__}"


def inside(value: Any) -> Iterator[Layer]:
    """A layer and all layers in its fields."""
    if isinstance(value, tuple | list):
        for each in value:
            yield from inside(each)
    if isinstance(value, Layer):
        yield value
        for f in fields(value) if is_dataclass(value) else ():
            yield from inside(getattr(value, f.name))


def initialize(net: Layer, key: Any, x: Any) -> Any:
    """net.init with the arrays of x looked at for their shapes only."""
    must_be_layer("net", net)
    return net.init(key, jax.eval_shape(lambda x: x, taken(net, "x", x, shape)))
