"""Losses: the terms of each, and PyTorch's reductions by `Each`, `Sum` and the mean."""

from typing import Any

from torch import nn

from benchmarks.parity.comparison import Unsaid, call
from benchmarks.parity.says.axes import last
from jbp import losses


def reduced(m: Any, loss: Any) -> Any:
    """The loss by the module's `reduction`; its own forward is the mean."""
    if m.reduction == "batchmean":
        return losses.PerExample(loss)
    return {"mean": loss, "sum": losses.Sum(loss), "none": losses.Each(loss)}[m.reduction]


def weighed(m: Any, loss: Any, x: tuple, w: Any) -> Any:
    """With PyTorch's `weight`: of elements, and not counted in the mean."""
    if w is None:
        return call(reduced(m, loss), (), x)
    return call(reduced(m, losses.Weighted(loss, normalize=False)), (), (*x, w))


def plain(make: Any) -> Any:
    """A loss of (prediction, target)."""
    return lambda m, *x: call(reduced(m, make(m)), (), x)


def classes(m, z):
    """Scores with the classes, PyTorch's second axis, last; a single row as a batch of one, if it must."""
    return z if z.dim() == 1 else last(z)


def class_weights(m: Any) -> dict[str, Any]:
    return {} if m.weight is None else {"weights": tuple(m.weight.tolist())}


def negative_log_likelihood(m, z, target):
    loss = losses.NegativeLogLikelihood(ignore=m.ignore_index, **class_weights(m))
    return call(reduced(m, loss), (), (classes(m, z), target))


def cross_entropy(m, z, target):
    options = class_weights(m) | ({"smoothing": m.label_smoothing} if m.label_smoothing else {})
    if target.is_floating_point():
        target = classes(m, target)
    else:
        options["ignore"] = m.ignore_index
    return call(reduced(m, losses.SoftmaxCrossEntropy(**options)), (), (classes(m, z), target))


def linear_cross_entropy(m, x, target):
    raise NotImplementedError


def ctc(m, z, target, lengths, target_lengths):
    raise NotImplementedError


def binary(m, p, target):
    return weighed(m, losses.BinaryCrossEntropy(of="probabilities"), (p, target), m.weight)


def binary_of_scores(m, z, target):
    if m.pos_weight is not None:
        raise Unsaid("pos_weight")
    return weighed(m, losses.BinaryCrossEntropy(), (z, target), m.weight)


SAYS = {
    nn.L1Loss: plain(lambda m: losses.MeanAbsoluteError()),
    nn.MSELoss: plain(lambda m: losses.MeanSquaredError()),
    nn.HuberLoss: plain(lambda m: losses.Huber(m.delta)),
    nn.SmoothL1Loss: plain(lambda m: losses.SmoothL1(m.beta)),
    nn.NLLLoss: negative_log_likelihood,
    nn.CrossEntropyLoss: cross_entropy,
    nn.CTCLoss: ctc,
    nn.BCELoss: binary,
    nn.BCEWithLogitsLoss: binary_of_scores,
}
if hasattr(nn, "LinearCrossEntropyLoss"):
    SAYS[nn.LinearCrossEntropyLoss] = linear_cross_entropy
