"""Moves that translations share: PyTorch has channels first, jbp last; some samples have no batch axis."""

from typing import Any

import torch

from benchmarks.parity.comparison import call


def last(x: torch.Tensor) -> torch.Tensor:
    return x.movedim(1, -1)


def first(x: torch.Tensor) -> torch.Tensor:
    return x.movedim(-1, 1)


def spatial(x: torch.Tensor, rank: int, function: Any) -> Any:
    """function of x with a batch axis and channels last; its outputs as PyTorch has them, without batch if x was."""
    alone = x.dim() == rank + 1
    y = function(last(x[None] if alone else x))
    back = lambda v: first(v)[0] if alone else first(v)  # noqa: E731
    return tuple(map(back, y)) if isinstance(y, tuple) else back(y)


def channels(x: torch.Tensor, rank: int, layer: Any, params: Any = ()) -> Any:
    """The layer on channels last."""
    return spatial(x, rank, lambda x: call(layer, params, x))


def rank_of(m: Any) -> int:
    """1, 2 or 3, from the name of the class: Conv2d."""
    return int(type(m).__name__[-2])


def each(value: Any, rank: int) -> tuple:
    """One number for every spatial axis as a tuple."""
    return tuple(value) if isinstance(value, tuple | list) else (value,) * rank


def only(**named: Any) -> dict[str, Any]:
    """Those that are not None: parameters that a module may lack."""
    return {name: p for name, p in named.items() if p is not None}
