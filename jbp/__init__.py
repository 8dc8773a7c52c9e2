"""jbp: neural networks in JAX whose backward pass is written by hand."""

from jbp import recipes as recipes
from jbp.bridge import as_function
from jbp.combinators import Frozen, Parallel, Passing, Remat, Repeat, Residual, Serial, Tied, TimeDistributed
from jbp.errors import LayerError
from jbp.layer import Estimator, Layer
from jbp.layers.activation import (
    CELU,
    ELU,
    GELU,
    SELU,
    GELUTanh,
    HardSigmoid,
    HardSwish,
    HardTanh,
    LeakyReLU,
    LogSigmoid,
    Mish,
    PReLU,
    ReLU,
    ReLU2,
    ReLU6,
    Sigmoid,
    SiLU,
    Sin,
    Softplus,
    Softsign,
    Tanh,
)  # fmt: skip
from jbp.layers.average import AdaptiveAveragePool, AveragePool
from jbp.layers.boltzmann import RestrictedBoltzmann, RestrictedBoltzmannInference
from jbp.layers.cell import Recurrent
from jbp.layers.classification import BinaryCrossEntropy, Hinge, KullbackLeibler
from jbp.layers.contrastive import InfoNCE, Triplet
from jbp.layers.conv import Conv
from jbp.layers.convtranspose import ConvTranspose
from jbp.layers.ctc import CTC
from jbp.layers.dense import Dense, Logits
from jbp.layers.dropout import Dropout, DropoutInference, StochasticDepth
from jbp.layers.embedding import Embedding, EmbeddingBag, Positions, SinusoidalPositions
from jbp.layers.estimator import (
    GradientReversal,
    GumbelSoftmax,
    GumbelSoftmaxInference,
    StraightThroughOneHot,
    StraightThroughRound,
    StraightThroughSign,
)
from jbp.layers.experts import MixtureOfExperts, WithTotal
from jbp.layers.gated import GEGLU, GLU, Maxout, ReGLU, SwiGLU
from jbp.layers.groupnorm import GroupNorm, InstanceNorm
from jbp.layers.gru import GRU, Elman, MinimalGRU
from jbp.layers.lengths import Lengths
from jbp.layers.linear_attention import LinearAttention
from jbp.layers.linear_loss import LinearCrossEntropy
from jbp.layers.loss import SoftmaxCrossEntropy
from jbp.layers.lowrank import Bilinear, LoRA, LowRank, TensorProduct
from jbp.layers.memory import MemoryHop
from jbp.layers.move import Pad, Reshape, Select, Take, Transpose, Upsample
from jbp.layers.multihead import CausalSelfAttention, MultiHeadAttention
from jbp.layers.norm import BatchNorm, BatchNormInference, LayerNorm, RMSNorm, UnitNorm
from jbp.layers.penalized import Penalized
from jbp.layers.policy import ClippedPolicy, PolicyGradient
from jbp.layers.pool import GlobalAveragePool, GlobalMaxPool, MaxPool
from jbp.layers.radial import RadialBasis
from jbp.layers.recurrent import LSTM, Bidirectional
from jbp.layers.regression import GaussianNegativeLogLikelihood, Huber, LogCosh, MeanAbsoluteError, MeanSquaredError
from jbp.layers.rotary import Rotary
from jbp.layers.sampled import NegativeSampling
from jbp.layers.shape import Add, Concatenate, FanOut, Flatten, Identity
from jbp.layers.softmax import LogSoftmax, Softmax
from jbp.layers.spiking import LeakyIntegrateAndFire
from jbp.layers.statespace import DiagonalStateSpace, SelectiveStateSpace
from jbp.layers.tree import LSTMLeaf, LSTMNode, Recursive, TensorNode
from jbp.layers.variational import Reparameterize, ReparameterizeInference, StandardNormalDivergence
from jbp.layers.weights import SpectralNorm, WeightNorm
from jbp.params import Buffer, apply_updates, buffers, cast, merge, trainable
from jbp.reversible import Reversible
from jbp.sweep import Aux, value_and_grad

__all__ = [
    "CELU", "CTC", "ELU", "GEGLU", "GELU", "GLU", "GRU", "LSTM", "SELU", "AdaptiveAveragePool", "Add", "Aux",
    "AveragePool", "BatchNorm", "BatchNormInference", "Bidirectional", "Bilinear", "BinaryCrossEntropy", "Buffer",
    "CausalSelfAttention", "ClippedPolicy", "Concatenate", "Conv", "ConvTranspose", "Dense", "DiagonalStateSpace",
    "Dropout", "DropoutInference", "Elman", "Embedding", "EmbeddingBag", "Estimator", "FanOut", "Flatten", "Frozen",
    "GELUTanh", "GaussianNegativeLogLikelihood", "GlobalAveragePool", "GlobalMaxPool", "GradientReversal", "GroupNorm",
    "GumbelSoftmax", "GumbelSoftmaxInference", "HardSigmoid", "HardSwish", "HardTanh", "Hinge", "Huber", "Identity",
    "InfoNCE", "InstanceNorm", "KullbackLeibler", "LSTMLeaf", "LSTMNode", "Layer", "LayerError", "LayerNorm",
    "LeakyIntegrateAndFire", "LeakyReLU", "Lengths", "LinearAttention", "LinearCrossEntropy", "LoRA", "LogCosh",
    "LogSigmoid", "LogSoftmax", "Logits", "LowRank", "MaxPool", "Maxout", "MeanAbsoluteError", "MeanSquaredError",
    "MemoryHop", "MinimalGRU", "Mish", "MixtureOfExperts", "MultiHeadAttention", "NegativeSampling", "PReLU", "Pad",
    "Parallel", "Passing", "Penalized", "PolicyGradient", "Positions", "RMSNorm", "RadialBasis", "ReGLU", "ReLU",
    "ReLU2", "ReLU6", "Recurrent", "Recursive", "Remat", "Reparameterize", "ReparameterizeInference", "Repeat",
    "Reshape", "Residual", "RestrictedBoltzmann", "RestrictedBoltzmannInference", "Reversible", "Rotary", "Select",
    "SelectiveStateSpace", "Serial", "SiLU", "Sigmoid", "Sin", "SinusoidalPositions", "Softmax", "SoftmaxCrossEntropy",
    "Softplus", "Softsign", "SpectralNorm", "StandardNormalDivergence", "StochasticDepth", "StraightThroughOneHot",
    "StraightThroughRound", "StraightThroughSign", "SwiGLU", "Take", "Tanh", "TensorNode", "TensorProduct", "Tied",
    "TimeDistributed", "Transpose", "Triplet", "UnitNorm", "Upsample", "WeightNorm", "WithTotal", "apply_updates",
    "as_function", "buffers", "cast", "merge", "trainable", "value_and_grad",
]  # fmt: skip
