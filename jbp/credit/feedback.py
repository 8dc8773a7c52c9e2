"""Feedback weights: the error goes down through other weights than those that the input goes up through.

Weight for weight, in any network: f's own backward pass with B in W's place, and f's own gradient of what arrives.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from jbp.cases import Case, f
from jbp.credit.rule import Rule, each, mapped
from jbp.errors import LayerError, at
from jbp.fields import Range
from jbp.layer import Layer
from jbp.layers.conv.convolution import Conv
from jbp.layers.linear.dense import Dense
from jbp.layers.recurrent.lstm import LSTM
from jbp.numerics import wide
from jbp.params import Buffer, trainable


class Carried(Rule):
    """dx = the error that f(B, x) would return.      dθ = f's own gradient of the error that arrives."""

    layer: Layer

    def _sent(self, params: Any) -> Any:
        """B: what stands for f's parameters in the backward pass."""
        raise NotImplementedError(f"{type(self).__name__} has no _sent")

    def backward(self, params, residuals, dy, /):
        sent = self._sent(params)
        with at(self):
            return self.layer.backward(sent, residuals, dy)


@dataclass(frozen=True)
class FeedbackAlignment(Carried):
    """y = f(θ, x).      dx = the error that f(B, x) would return, B fixed and random      dθ = f's own, of dy

    Another `backward`, the same `gradient`: for Dense dx = dy Bᵀ, dW = xᵀ dy. In an LSTM the error goes back through
    time by B too. Keeps what f keeps. Parameters: {"layer": θ, "feedback": Buffer(B)}, B drawn as θ is, with another
    key. f is any layer whose gradient is bilinear in residuals and delta, and whose residuals have all but the weights
    that its backward pass needs: affine maps, convolutions, recurrent layers. (Lillicrap et al., *Random Synaptic
    Feedback Weights Support Error Backpropagation for Deep Learning*, 2016.) Raises LayerError for parameters of
    another form.

    >>> net, x = FeedbackAlignment(Dense(3)), jnp.ones((2, 5))
    >>> params = net.init(jax.random.key(0), x)
    >>> net(params, x).shape
    (2, 3)
    """

    layer: Layer

    def init(self, key, x, /):
        forward, feedback = jax.random.split(key)
        with at(self):
            return {"layer": self.layer.init(forward, x), "feedback": Buffer(self.layer.init(feedback, x))}

    def _sent(self, params):
        return self._own(params)[1].value


@dataclass(frozen=True)
class SignSymmetry(Carried):
    """y = f(θ, x).      dx = the error that f(B, x) would return, B = s |R| sign θ      dθ = f's own, of dy

    The feedback has the signs of the weights and other sizes; s is the root of the mean of W² over each array, so that
    B is as long as W. `magnitude` says what |R| is: "uniform" 1 (uSF: where all of a layer's weights are of one size it
    is backpropagation), "batch" half-normal, drawn again in each step (brSF), "fixed" drawn once (frSF). A sign is that
    of the weight as it is now. Keeps what f keeps. Parameters: {"layer": θ, "feedback": Buffer(key)}, a key that
    `advance` splits for "batch". f as in FeedbackAlignment. (Liao, Leibo & Poggio, *How Important Is Weight Symmetry in
    Backpropagation?*, 2016; Moskovitz, Litwin-Kumar & Abbott, *Feedback Alignment in Deep Convolutional Networks*,
    2018, whose sizes are not those of W as it is now but of its start.)

    >>> net, x = SignSymmetry(Dense(2, bias=False)), jnp.ones((1, 2))
    >>> params = {"layer": {"w": jnp.array([[1.0, -7.0], [5.0, 5.0]])}, "feedback": jbp.Buffer(jax.random.key(0))}
    >>> jax.grad(lambda x: net(params, x)[0, 1])(x)
    Array([[-5.,  5.]], dtype=float32)
    """

    layer: Layer
    magnitude: Literal["uniform", "batch", "fixed"] = "uniform"

    @property
    def advances(self) -> bool:
        return self.magnitude == "batch"

    def init(self, key, x, /):
        forward, feedback = jax.random.split(key)
        with at(self):
            return {"layer": self.layer.init(forward, x), "feedback": Buffer(feedback)}

    def _sent(self, params):
        own, key = self._own(params)

        def sized(i, w):
            size = jnp.sqrt(jnp.square(wide(w)).sum() / max(w.size, 1)).astype(w.dtype)
            if self.magnitude == "uniform":
                return size * jnp.sign(w)
            return size * jnp.abs(jax.random.normal(jax.random.fold_in(key.value, i), w.shape, w.dtype)) * jnp.sign(w)

        return mapped(sized, own)

    def advance(self, params, residuals, /):
        params = super().advance(params, residuals)
        if not self.advances:
            return params
        return params | {"feedback": Buffer(jax.random.split(params["feedback"].value, 1)[0])}


@dataclass(frozen=True)
class KolenPollack(Carried):
    """y = f(θ, x).      dx = the error that f(B, x) would return      dθ = dB = f's own, of dy

    Weights and feedback learn the same, so B − W never changes but by decay: train with one that is the optimizer's
    own, as `optax.adamw` and `optax.add_decayed_weights` have it. With rate η and decay λ the difference is
    (1 − η λ)ⁿ of what it was after n steps, whatever the optimizer does with the gradient of one element, and what goes
    down becomes backpropagation. Keeps what f keeps. Parameters: {"layer": θ, "feedback": B}, B drawn as θ is, with
    another key, and trained. f as in FeedbackAlignment. (Kolen & Pollack, *Backpropagation without Weight Transport*,
    1994; Akrout et al., *Deep Learning without Weight Transport*, 2019, §4.)

    >>> net, x = KolenPollack(Dense(3)), jnp.ones((2, 5))
    >>> grads = jax.grad(lambda params: net(params, x).sum())(net.init(jax.random.key(0), x))
    >>> bool((grads["feedback"]["w"] == grads["layer"]["w"]).all())
    True
    """

    layer: Layer

    def init(self, key, x, /):
        forward, feedback = jax.random.split(key)
        with at(self):
            return {"layer": self.layer.init(forward, x), "feedback": trainable(self.layer.init(feedback, x))}

    def _sent(self, params):
        return self._own(params)[1]

    def _whole(self, grads):
        return {"layer": grads, "feedback": grads}


@dataclass(frozen=True)
class WeightMirror(Carried):
    """y = f(θ, x).      dx = the error that f(B, x) would return      dθ = f's own, of dy

        B ← B + r (E ξᵀ f(ξ) − B), in each step, with noise ξ in the place of x

    What noise does to f tells its weights: E ξᵀ ξ W = W. The mean is taken over as many rows as x has, and over the
    places of a convolution; f's bias is left out. `rate` is r. So B follows W, late and with an error that r makes
    small. Keeps x. Parameters: {"layer": θ, "feedback": Buffer({"weights": B, "key": key})}, moved on by `advance`,
    which computes f and its gradient once more. f is a Dense or a Conv. (Akrout et al., *Deep Learning without Weight
    Transport*, 2019, §3: there in phases of their own.) Raises LayerError for another f.

    >>> net, x = WeightMirror(Dense(3)), jnp.ones((100, 5))
    >>> params = net.init(jax.random.key(0), x)
    >>> for _ in range(50):
    ...     params = net.advance(params, net.forward(params, x)[1])
    >>> bool(angle(params["feedback"].value["weights"]["w"], params["layer"]["w"]) < 10)
    True
    """

    layer: Layer
    rate: Annotated[float, Range(0, 1, open="low")] = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.layer, Dense | Conv):
            raise LayerError(
                self, f"got {self.layer!r}; expected a Dense or a Conv. Write FeedbackAlignment(...) around others."
            )

    @property
    def advances(self) -> bool:
        return True

    def init(self, key, x, /):
        forward, feedback, noise = jax.random.split(key, 3)
        with at(self):
            weights = self.layer.init(feedback, x)
            return {"layer": self.layer.init(forward, x), "feedback": Buffer({"weights": weights, "key": noise})}

    def _sent(self, params):
        return self._own(params)[1].value["weights"]

    def advance(self, params, residuals, /):
        x, (own, feedback) = residuals, self._own(params)  # Dense and Conv keep x
        now, key = jax.random.split(feedback.value["key"])
        unbiased = own | {"b": jnp.zeros_like(own["b"])} if "b" in own else own
        y, kept = self.layer.forward(unbiased, jax.random.normal(now, x.shape, own["w"].dtype))
        found = self.layer.gradient(kept, y)
        counts = self.layer.gradient(jnp.ones_like(kept), jnp.ones_like(y))  # of the products in each sum
        weights = jax.tree.map(
            lambda b, g, n: b + self.rate * (g / jnp.maximum(n, 1) - b), feedback.value["weights"], found, counts
        )
        return params | {"feedback": Buffer({"weights": weights, "key": key})}


def feedback_alignment(net: Layer) -> Any:
    """The network with a FeedbackAlignment around every affine map, convolution and recurrent layer.

    >>> feedback_alignment(Serial(Dense(8), Tanh(), Dense(1)))
    Serial(FeedbackAlignment(Dense(8)), Tanh(), FeedbackAlignment(Dense(1)))
    """
    return each(FeedbackAlignment, net)


def sign_symmetry(net: Layer, magnitude: Literal["uniform", "batch", "fixed"] = "uniform") -> Any:
    """The network with a SignSymmetry around every affine map, convolution and recurrent layer.

    >>> sign_symmetry(Serial(Conv(8), ReLU(), Flatten(), Dense(1)), "fixed")
    Serial(SignSymmetry(Conv(8), magnitude='fixed'), ReLU(), Flatten(), SignSymmetry(Dense(1), magnitude='fixed'))
    """
    return each(lambda layer: SignSymmetry(layer, magnitude), net)


def kolen_pollack(net: Layer) -> Any:
    """The network with a KolenPollack around every affine map, convolution and recurrent layer: see there for decay.

    >>> kolen_pollack(Serial(LSTM(8), Dense(1)))
    Serial(KolenPollack(LSTM(8)), KolenPollack(Dense(1)))
    """
    return each(KolenPollack, net)


def weight_mirror(net: Layer, rate: float = 0.1) -> Any:
    """The network with a WeightMirror around every Dense and every Conv.

    >>> weight_mirror(Serial(Dense(8), Tanh(), Dense(1)))
    Serial(WeightMirror(Dense(8)), Tanh(), WeightMirror(Dense(1)))
    """
    return each(lambda layer: WeightMirror(layer, rate), net, (Dense, Conv))


CASES = (
    *(Case(FeedbackAlignment(layer), x) for layer, x in ((Dense(3), f(3, 5)), (Conv(3), f(2, 5, 3, 2)))),
    Case(FeedbackAlignment(LSTM(3)), f(2, 5, 3)),
    *(Case(SignSymmetry(Dense(3), m), f(3, 5)) for m in ("uniform", "batch", "fixed")),
    Case(SignSymmetry(Conv(4, (2, 3), groups=2), "batch"), f(2, 5, 3, 2)),
    Case(KolenPollack(Dense(3)), f(3, 5)),
    Case(KolenPollack(LSTM(2)), f(2, 5, 3)),
    Case(WeightMirror(Dense(3)), f(3, 5)),
    Case(WeightMirror(Conv(4, (2, 3), stride=2, groups=2), 0.3), f(2, 5, 3, 2)),
)
