# pyright: strict
"""Every layer, by family; each family file ends with the cases that audits and random networks draw from."""

from jbp.layers import (
    activation,
    attention,
    conv,
    distance,
    embedding,
    energy,
    experts,
    linear,
    norm,
    pool,
    recurrent,
    statespace,
    stochastic,
    structure,
)
from jbp.layers.activation import *
from jbp.layers.attention import *
from jbp.layers.conv import *
from jbp.layers.distance import *
from jbp.layers.embedding import *
from jbp.layers.energy import *
from jbp.layers.experts import *
from jbp.layers.linear import *
from jbp.layers.norm import *
from jbp.layers.pool import *
from jbp.layers.recurrent import *
from jbp.layers.statespace import *
from jbp.layers.stochastic import *
from jbp.layers.structure import *

__all__: list[str] = []
__all__ += linear.__all__
__all__ += activation.__all__
__all__ += norm.__all__
__all__ += stochastic.__all__
__all__ += structure.__all__
__all__ += conv.__all__
__all__ += pool.__all__
__all__ += embedding.__all__
__all__ += recurrent.__all__
__all__ += statespace.__all__
__all__ += attention.__all__
__all__ += distance.__all__
__all__ += experts.__all__
__all__ += energy.__all__

CASES = (
    *linear.CASES,
    *activation.CASES,
    *norm.CASES,
    *stochastic.CASES,
    *structure.CASES,
    *conv.CASES,
    *pool.CASES,
    *embedding.CASES,
    *recurrent.CASES,
    *statespace.CASES,
    *attention.CASES,
    *distance.CASES,
    *experts.CASES,
    *energy.CASES,
)
