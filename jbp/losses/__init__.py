"""Losses: layers from (prediction, target) to one number. Each file ends with the cases that audits draw from."""

from jbp.losses import (
    classification,
    contrastive,
    cross_entropy,
    ctc,
    divergence,
    linear_cross_entropy,
    penalized,
    policy,
    regression,
    sampled,
    wrapped,
)
from jbp.losses.classification import BinaryCrossEntropy, Hinge, KullbackLeibler
from jbp.losses.contrastive import InfoNCE, Triplet
from jbp.losses.cross_entropy import SoftmaxCrossEntropy
from jbp.losses.ctc import CTC
from jbp.losses.divergence import StandardNormalDivergence
from jbp.losses.linear_cross_entropy import LinearCrossEntropy
from jbp.losses.loss import Each, Loss, PerExample, Sum, Weighted
from jbp.losses.penalized import Penalized
from jbp.losses.policy import ClippedPolicy, PolicyGradient
from jbp.losses.regression import (
    GaussianNegativeLogLikelihood,
    Huber,
    LogCosh,
    MeanAbsoluteError,
    MeanSquaredError,
)
from jbp.losses.sampled import NegativeSampling

__all__ = [
    "CTC",
    "BinaryCrossEntropy",
    "ClippedPolicy",
    "Each",
    "GaussianNegativeLogLikelihood",
    "Hinge",
    "Huber",
    "InfoNCE",
    "KullbackLeibler",
    "LinearCrossEntropy",
    "LogCosh",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "NegativeSampling",
    "Penalized",
    "PerExample",
    "PolicyGradient",
    "SoftmaxCrossEntropy",
    "StandardNormalDivergence",
    "Sum",
    "Triplet",
    "Weighted",
]

CASES = (
    *regression.CASES,
    *classification.CASES,
    *cross_entropy.CASES,
    *linear_cross_entropy.CASES,
    *contrastive.CASES,
    *sampled.CASES,
    *policy.CASES,
    *ctc.CASES,
    *divergence.CASES,
    *penalized.CASES,
    *wrapped.CASES,
)
