"""jbp: neural networks in JAX whose backward pass is written by hand."""

from jbp.bridge import as_function
from jbp.combinators import Frozen, Parallel, Remat, Repeat, Residual, Serial, Tied
from jbp.errors import LayerError
from jbp.layer import Estimator, Layer
from jbp.layers.activation import (
    ELU,
    GELU,
    SELU,
    GELUTanh,
    HardTanh,
    LeakyReLU,
    LogSigmoid,
    Mish,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Sin,
    Softplus,
    Softsign,
    Tanh,
)  # fmt: skip
from jbp.layers.attention import CausalSelfAttention
from jbp.layers.conv import Conv
from jbp.layers.dense import Dense, Logits
from jbp.layers.dropout import Dropout, DropoutInference
from jbp.layers.embedding import Embedding, Positions
from jbp.layers.loss import MeanSquaredError, SoftmaxCrossEntropy
from jbp.layers.norm import BatchNorm, BatchNormInference, LayerNorm
from jbp.layers.pool import GlobalAveragePool, MaxPool
from jbp.layers.recurrent import LSTM
from jbp.layers.shape import Add, Concatenate, FanOut, Flatten, Identity
from jbp.params import Buffer, apply_updates, buffers, cast, merge, trainable
from jbp.sweep import Aux, value_and_grad

__all__ = [
    "ELU", "GELU", "LSTM", "SELU", "Add", "Aux", "BatchNorm", "BatchNormInference", "Buffer", "CausalSelfAttention",
    "Concatenate", "Conv", "Dense", "Dropout", "DropoutInference", "Embedding", "Estimator", "FanOut", "Flatten",
    "Frozen", "GELUTanh", "GlobalAveragePool", "HardTanh", "Identity", "Layer", "LayerError", "LayerNorm", "LeakyReLU",
    "LogSigmoid", "Logits", "MaxPool", "MeanSquaredError", "Mish", "Parallel", "Positions", "ReLU", "ReLU6", "Remat",
    "Repeat", "Residual", "Serial", "SiLU", "Sigmoid", "Sin", "SoftmaxCrossEntropy", "Softplus", "Softsign", "Tanh",
    "Tied", "apply_updates", "as_function", "buffers", "cast", "merge", "trainable", "value_and_grad",
]  # fmt: skip
