# pyright: strict
"""Losses: layers from (prediction, target) to one number. Each file ends with the cases that audits draw from.

A loss is the mean of its terms, Σ l / Σ n: one term a row of scores, of embeddings, of a sequence, or one an element,
and n what it counts, 1 unless labels are ignored or weighed (loss.py). Around any loss:

    Each(loss)                     the terms one by one
    Sum(loss)                      their sum
    PerExample(loss)               the mean over examples of sums of their terms; or of means, with "mean"
    Weighted(loss)                 on (..., w): the weighted mean, w for examples or terms, a mask for example
    Weighted(loss, normalize=False)     w counts in the sum alone, as PyTorch's `weight` and Keras's `sample_weight`

    Total(kind=loss, size=(loss, 0.3))      on dicts, of several outputs by name, with weights

They go into one another, `Each(PerExample(Weighted(loss), "mean"))`. `loss.count(params, x)` is Σ n: means over parts
of a batch are to be weighed with it.

Where nothing counts, in an empty batch or one of ignored labels alone, a loss is 0 and so is its gradient. What is left
out, by the label to ignore or a weight of 0, has no influence whatever it holds, NaN too. A score of −∞ is a class that
cannot be: it takes part where something asks for it alone, and then the loss is infinite; 0 · ∞ is 0 where a formula
has that limit. Sums are taken in float32 at least, labels of any integer dtype compared in int32 at least. The loss has
the dtype of the prediction.
"""

from jbp.losses import (
    classification,
    contrastive,
    cross_entropy,
    ctc,
    divergence,
    linear_cross_entropy,
    margins,
    overlap,
    penalized,
    policy,
    preference,
    regression,
    sampled,
    total,
    wrapped,
)
from jbp.losses.classification import BinaryCrossEntropy, Hinge, KLDiv, KullbackLeibler
from jbp.losses.contrastive import CosineEmbedding, InfoNCE, SigmoidContrastive, Triplet, TripletMargin
from jbp.losses.cross_entropy import NLL, SoftmaxCrossEntropy
from jbp.losses.ctc import CTC
from jbp.losses.divergence import StandardNormalDivergence
from jbp.losses.linear_cross_entropy import LinearCrossEntropy
from jbp.losses.loss import Each, Loss, PerExample, Sum, Weighted
from jbp.losses.margins import (
    Focal,
    HingeEmbedding,
    MarginRanking,
    MultiLabelMargin,
    MultiLabelSoftMargin,
    MultiMargin,
    SoftMargin,
)
from jbp.losses.overlap import Dice, Jaccard
from jbp.losses.penalized import Penalized
from jbp.losses.policy import ClippedPolicy, PolicyGradient
from jbp.losses.preference import DPO, GRPO, KTO, ORPO
from jbp.losses.regression import (
    GaussianNegativeLogLikelihood,
    GaussianNLL,
    Huber,
    LogCosh,
    MeanAbsoluteError,
    MeanSquaredError,
    PoissonNLL,
    Quantile,
    SmoothL1,
)
from jbp.losses.sampled import NegativeSampling
from jbp.losses.total import Total

__all__ = [
    "CTC", "DPO", "GRPO", "KTO", "NLL", "ORPO", "BinaryCrossEntropy", "ClippedPolicy", "CosineEmbedding", "Dice",
    "Each", "Focal", "GaussianNLL", "GaussianNegativeLogLikelihood", "Hinge", "HingeEmbedding", "Huber", "InfoNCE",
    "Jaccard", "KLDiv", "KullbackLeibler", "LinearCrossEntropy", "LogCosh", "Loss", "MarginRanking",
    "MeanAbsoluteError", "MeanSquaredError", "MultiLabelMargin", "MultiLabelSoftMargin", "MultiMargin",
    "NegativeSampling", "Penalized", "PerExample", "PoissonNLL", "PolicyGradient", "Quantile", "SigmoidContrastive",
    "SmoothL1", "SoftMargin", "SoftmaxCrossEntropy", "StandardNormalDivergence", "Sum", "Total", "Triplet",
    "TripletMargin", "Weighted",
]  # fmt: skip

CASES = (
    *regression.CASES,
    *classification.CASES,
    *margins.CASES,
    *cross_entropy.CASES,
    *linear_cross_entropy.CASES,
    *overlap.CASES,
    *contrastive.CASES,
    *sampled.CASES,
    *policy.CASES,
    *preference.CASES,
    *ctc.CASES,
    *divergence.CASES,
    *penalized.CASES,
    *total.CASES,
    *wrapped.CASES,
)
