"""Attention, positions in it, and memory."""

from jbp.layers.attention import core, linear, memory, multihead, rotary
from jbp.layers.attention.core import Attention
from jbp.layers.attention.linear import LinearAttention
from jbp.layers.attention.memory import MemoryHop
from jbp.layers.attention.multihead import CausalSelfAttention, MultiHeadAttention
from jbp.layers.attention.rotary import Rotary

__all__ = ["Attention", "CausalSelfAttention", "LinearAttention", "MemoryHop", "MultiHeadAttention", "Rotary"]

CASES = (
    *multihead.CASES,
    *core.CASES,
    *linear.CASES,
    *memory.CASES,
    *rotary.CASES,
)
