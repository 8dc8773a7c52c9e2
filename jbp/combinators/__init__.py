# pyright: strict
"""Layers made of layers. Each is the chain rule for one way of joining them, written once; all are layers again."""

from jbp.combinators.adapter import LowRankAdapter
from jbp.combinators.exchange import replace
from jbp.combinators.graph import Graph
from jbp.combinators.keep import Keep
from jbp.combinators.remat import Remat
from jbp.combinators.repeat import Repeat
from jbp.combinators.reversible import Reversible
from jbp.combinators.sequence import Parallel, Serial
from jbp.combinators.sublayer import Sublayer
from jbp.combinators.tied import Tied
from jbp.combinators.wrappers import Frozen, Passing, Residual, TimeDistributed, freeze

__all__ = [
    "Frozen",
    "Graph",
    "Keep",
    "LowRankAdapter",
    "Parallel",
    "Passing",
    "Remat",
    "Repeat",
    "Residual",
    "Reversible",
    "Serial",
    "Sublayer",
    "Tied",
    "TimeDistributed",
    "freeze",
    "replace",
]
