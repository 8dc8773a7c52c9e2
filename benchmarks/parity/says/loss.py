"""Losses: the terms of each, and PyTorch's reductions by `Each`, `Sum` and the mean."""

from typing import Any

import torch
from torch import nn

from benchmarks.parity.comparison import Unsaid, call
from benchmarks.parity.says.axes import last, only
from benchmarks.parity.says.linear import linear
from jbp import layers, losses


def reduced(m: Any, loss: Any, axes: int = 1) -> Any:
    """The loss by the module's `reduction`; its own forward is the mean."""
    if m.reduction == "batchmean":
        return losses.PerExample(loss) if axes else losses.Sum(loss)
    return {"mean": loss, "sum": losses.Sum(loss), "none": losses.Each(loss)}[m.reduction]


def weighed(m: Any, loss: Any, x: tuple, w: Any) -> Any:
    """With PyTorch's `weight`: of elements, and not counted in the mean."""
    if w is None:
        return call(reduced(m, loss), (), x)
    return call(reduced(m, losses.Weighted(loss, normalize=False)), (), (*x, w.expand(x[0].shape)))


def plain(make: Any) -> Any:
    """A loss of (prediction, target)."""
    return lambda m, *x: call(reduced(m, make(m), x[0].dim()), (), x)


def classes(m: Any, z: torch.Tensor) -> torch.Tensor:
    """Scores with the classes, PyTorch's second axis, last; a single row as a batch of one, if it must."""
    return z if z.dim() == 1 else last(z)


def class_weights(m: Any) -> dict[str, Any]:
    return {} if m.weight is None else {"weights": tuple(m.weight.tolist())}


def negative_log_likelihood(m, z, target):
    loss = losses.NLL(ignore=m.ignore_index, **class_weights(m))
    return call(reduced(m, loss), (), (classes(m, z), target))


def _options(m: Any, target: torch.Tensor) -> dict[str, Any]:
    options = class_weights(m) | ({"smoothing": m.label_smoothing} if m.label_smoothing else {})
    soft = target.is_floating_point() or m.ignore_index is None
    return options if soft else options | {"ignore": m.ignore_index}


def cross_entropy(m, z, target):
    loss = losses.SoftmaxCrossEntropy(**_options(m, target))
    target = classes(m, target) if target.is_floating_point() else target
    return call(reduced(m, loss), (), (classes(m, z), target))


def linear_cross_entropy(m, x, target):
    options = _options(m, target)
    if not m.out_features:
        layer = losses.LinearCrossEntropy(m.num_classes, bias=m.linear.bias is not None, **options)
        return call(reduced(m, layer), only(w=m.linear.weight.T, b=m.linear.bias), (x, target))
    z = linear(m.linear, x).reshape(*x.shape[:-1], m.num_classes, *m.out_features)
    target = last(target) if target.is_floating_point() else target
    return call(reduced(m, losses.SoftmaxCrossEntropy(**options)), (), (last(z), target))


def ctc(m, z, target, lengths, target_lengths):
    """PyTorch has time first, and labels of all examples in one vector or padded with anything."""
    counts = [int(n) for n in target_lengths]
    rows = target.split(counts) if target.dim() == 1 else [row[:n] for row, n in zip(target, counts, strict=True)]
    labels = torch.full((len(rows), max(counts)), m.blank, dtype=torch.int64)
    for i, row in enumerate(rows):
        labels[i, : len(row)] = row
    loss = losses.CTC(m.blank, per_label=m.reduction == "mean", zero_infinity=m.zero_infinity)
    frames = torch.tensor([int(n) for n in lengths])
    return call(reduced(m, loss), (), (z.transpose(0, 1), labels, frames), compiled=True)


def binary(m, p, target):
    return weighed(m, losses.BinaryCrossEntropy(given="probabilities"), (p, target), m.weight)


def binary_of_scores(m, z, target):
    if m.pos_weight is not None and m.pos_weight.dim() > 1:
        raise Unsaid("pos_weight of several axes")
    yes = None if m.pos_weight is None else m.pos_weight.tolist()
    yes = tuple(yes) if isinstance(yes, list) else yes
    return weighed(m, losses.BinaryCrossEntropy(yes), (z, target), m.weight)


def divergence(m, q, p):
    return call(reduced(m, losses.KLDiv(m.log_target), q.dim()), (), (q, p))


def multi_label_margin(m, z, labels):
    z, labels = (v if v.dim() else v[None] for v in (z, labels))
    return call(reduced(m, losses.MultiLabelMargin()), (), (z, labels))


def multi_margin(m, z, labels):
    z = z[None] if z.dim() == labels.dim() else z
    return call(reduced(m, losses.MultiMargin(m.p, m.margin, **class_weights(m))), (), (z, labels))


def multi_label_soft_margin(m, z, target):
    loss = losses.MultiLabelSoftMargin(**class_weights(m))
    return call(reduced(m, loss), (), (z, target.to(z.dtype)))


def pairwise(m, a, b):
    return call(layers.PairwiseDistance(m.norm, m.eps, m.keepdim), (), tuple(torch.broadcast_tensors(a, b)))


def triplet(m, *x):
    distance = layers.PairwiseDistance(m.p, m.eps)
    return call(reduced(m, losses.TripletMargin(m.margin, distance, m.swap)), (), x)


SAYS = {
    nn.L1Loss: plain(lambda m: losses.MeanAbsoluteError()),
    nn.MSELoss: plain(lambda m: losses.MeanSquaredError()),
    nn.HuberLoss: plain(lambda m: losses.Huber(m.delta)),
    nn.SmoothL1Loss: plain(lambda m: losses.SmoothL1(m.beta)),
    nn.KLDivLoss: divergence,
    nn.PoissonNLLLoss: plain(lambda m: losses.PoissonNLL(m.log_input, m.full, m.eps)),
    nn.GaussianNLLLoss: plain(lambda m: losses.GaussianNLL(m.full, m.eps)),
    nn.CosineEmbeddingLoss: plain(lambda m: losses.CosineEmbedding(m.margin)),
    nn.MarginRankingLoss: plain(lambda m: losses.MarginRanking(m.margin)),
    nn.HingeEmbeddingLoss: plain(lambda m: losses.HingeEmbedding(m.margin)),
    nn.SoftMarginLoss: plain(lambda m: losses.SoftMargin()),
    nn.MultiLabelMarginLoss: multi_label_margin,
    nn.MultiMarginLoss: multi_margin,
    nn.MultiLabelSoftMarginLoss: multi_label_soft_margin,
    nn.TripletMarginLoss: triplet,
    nn.NLLLoss: negative_log_likelihood,
    nn.CrossEntropyLoss: cross_entropy,
    nn.CTCLoss: ctc,
    nn.BCELoss: binary,
    nn.BCEWithLogitsLoss: binary_of_scores,
    nn.PairwiseDistance: pairwise,
    nn.CosineSimilarity: lambda m, *x: call(layers.CosineSimilarity(m.eps), (), x),
}
if hasattr(nn, "LinearCrossEntropyLoss"):
    SAYS[nn.LinearCrossEntropyLoss] = linear_cross_entropy
