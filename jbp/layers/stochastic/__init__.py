"""Layers that draw random numbers, and estimators of what has no derivative."""

from jbp.layers.stochastic import dropout, estimator, spiking, variational
from jbp.layers.stochastic.dropout import AlphaDropout, Dropout, DropoutInference, StochasticDepth
from jbp.layers.stochastic.estimator import (
    GradientReversal,
    GumbelSoftmax,
    GumbelSoftmaxInference,
    StraightThroughOneHot,
    StraightThroughRound,
    StraightThroughSign,
)
from jbp.layers.stochastic.spiking import LeakyIntegrateAndFire
from jbp.layers.stochastic.variational import (
    Reparameterize,
    ReparameterizeInference,
)

__all__ = [
    "AlphaDropout",
    "Dropout",
    "DropoutInference",
    "GradientReversal",
    "GumbelSoftmax",
    "GumbelSoftmaxInference",
    "LeakyIntegrateAndFire",
    "Reparameterize",
    "ReparameterizeInference",
    "StochasticDepth",
    "StraightThroughOneHot",
    "StraightThroughRound",
    "StraightThroughSign",
]

CASES = (
    *dropout.CASES,
    *estimator.CASES,
    *spiking.CASES,
    *variational.CASES,
)
