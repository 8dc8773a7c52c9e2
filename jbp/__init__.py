"""jbp: neural networks in JAX whose backward pass is written by hand."""

from jbp.bridge import as_function as as_function
from jbp.combinators import (
    Frozen as Frozen,
)
from jbp.combinators import (
    Parallel as Parallel,
)
from jbp.combinators import (
    Remat as Remat,
)
from jbp.combinators import (
    Repeat as Repeat,
)
from jbp.combinators import (
    Residual as Residual,
)
from jbp.combinators import (
    Serial as Serial,
)
from jbp.combinators import (
    Tied as Tied,
)
from jbp.errors import LayerError as LayerError
from jbp.layer import Estimator as Estimator
from jbp.layer import Layer as Layer
from jbp.layers.activation import (
    ELU as ELU,
)
from jbp.layers.activation import (
    GELU as GELU,
)
from jbp.layers.activation import (
    SELU as SELU,
)
from jbp.layers.activation import (
    GELUTanh as GELUTanh,
)
from jbp.layers.activation import (
    HardTanh as HardTanh,
)
from jbp.layers.activation import (
    Identity as Identity,
)
from jbp.layers.activation import (
    LeakyReLU as LeakyReLU,
)
from jbp.layers.activation import (
    LogSigmoid as LogSigmoid,
)
from jbp.layers.activation import (
    Mish as Mish,
)
from jbp.layers.activation import (
    ReLU as ReLU,
)
from jbp.layers.activation import (
    ReLU6 as ReLU6,
)
from jbp.layers.activation import (
    Sigmoid as Sigmoid,
)
from jbp.layers.activation import (
    SiLU as SiLU,
)
from jbp.layers.activation import (
    Sin as Sin,
)
from jbp.layers.activation import (
    Softplus as Softplus,
)
from jbp.layers.activation import (
    Softsign as Softsign,
)
from jbp.layers.activation import (
    Tanh as Tanh,
)
from jbp.layers.attention import CausalSelfAttention as CausalSelfAttention
from jbp.layers.conv import Conv as Conv
from jbp.layers.dense import Dense as Dense
from jbp.layers.dense import Logits as Logits
from jbp.layers.dropout import Dropout as Dropout
from jbp.layers.embedding import Embedding as Embedding
from jbp.layers.embedding import Positions as Positions
from jbp.layers.loss import MeanSquaredError as MeanSquaredError
from jbp.layers.loss import SoftmaxCrossEntropy as SoftmaxCrossEntropy
from jbp.layers.norm import BatchNorm as BatchNorm
from jbp.layers.norm import LayerNorm as LayerNorm
from jbp.layers.pool import GlobalAveragePool as GlobalAveragePool
from jbp.layers.pool import MaxPool as MaxPool
from jbp.layers.recurrent import LSTM as LSTM
from jbp.layers.shape import Add as Add
from jbp.layers.shape import Concatenate as Concatenate
from jbp.layers.shape import FanOut as FanOut
from jbp.layers.shape import Flatten as Flatten
from jbp.layers.shape import Identity as Identity
from jbp.params import (
    Buffer as Buffer,
)
from jbp.params import (
    apply_updates as apply_updates,
)
from jbp.params import (
    buffers as buffers,
)
from jbp.params import (
    cast as cast,
)
from jbp.params import (
    merge as merge,
)
from jbp.params import (
    trainable as trainable,
)
from jbp.sweep import Aux as Aux
from jbp.sweep import value_and_grad as value_and_grad
