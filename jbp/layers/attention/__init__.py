"""Attention, positions in it, and memory."""

from jbp.layers.attention import linear, memory, multihead, rotary
from jbp.layers.attention.linear import LinearAttention
from jbp.layers.attention.memory import MemoryHop
from jbp.layers.attention.multihead import CausalSelfAttention, MultiHeadAttention
from jbp.layers.attention.rotary import Rotary

__all__ = ["CausalSelfAttention", "LinearAttention", "MemoryHop", "MultiHeadAttention", "Rotary"]

CASES = (
    *multihead.CASES,
    *linear.CASES,
    *memory.CASES,
    *rotary.CASES,
)
