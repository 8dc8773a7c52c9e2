"""A layer of jbp as a function of tensors, and one sample's values and gradients beside PyTorch's.

`call` puts a layer into PyTorch's graph, with the layer's own backward pass. A translation is then ordinary PyTorch
around one `call`, and PyTorch carries the gradients back through the moved axes to the module's own parameters and
inputs. What stands around `call` may move numbers but not compute with them: `Moves` raises Unsaid otherwise.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import jbp

TOLERANCE = 1e-9


class Unsaid(Exception):  # noqa: N818 (it is no error of the program's)
    """Why a sample cannot be said in jbp."""


@partial(jax.jit, static_argnums=0)
def _forward(layer, params, x):
    return layer.forward(params, x)


@partial(jax.jit, static_argnums=0)
def _pull(layer, params, residuals, dy):
    return layer.pull(params, residuals, dy)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, ours, *leaves):
        with _disable_current_modes(), jax.disable_jit(not ours.compiled):
            params, x = jax.tree.unflatten(ours.tree, [array(t) for t in leaves])
            y, ctx.residuals = _forward(ours.layer, params, x)
            ours.advanced = ours.layer.advance(params, ctx.residuals) if ours.advance else None
            ctx.ours, ctx.params = ours, params
            found, ours.outputs = jax.tree.flatten(y)
            found = [torch.from_numpy(np.array(v)) for v in found]
            ctx.mark_non_differentiable(*[v for v in found if not v.is_floating_point()])
            ctx.like = [v.is_floating_point() for v in found]
            return tuple(found)

    @staticmethod
    def backward(ctx, *dys):
        ours = ctx.ours
        dys = [array(dy) if real else None for dy, real in zip(dys, ctx.like, strict=True)]
        dy = jax.tree.unflatten(ours.outputs, dys)
        with jax.disable_jit(not ours.compiled):
            dx, dparams = _pull(ours.layer, ctx.params, ctx.residuals, dy)
        grads = ours.flatten((dparams, dx))
        return (None, *(None if g is None else torch.from_numpy(np.array(g)) for g in grads))


@dataclass
class _Ours:
    layer: Any
    tree: Any
    count: list[int]
    advance: bool
    compiled: bool
    outputs: Any = None
    advanced: Any = None

    def flatten(self, grads):
        """A gradient for each leaf; None in place of a Buffer, an integer or a key stands for all its leaves."""
        found = jax.tree.leaves(grads, is_leaf=lambda g: g is None)
        return [None if g is None else g for g, n in zip(found, self.count, strict=True) for _ in range(n)]


def array(tensor: torch.Tensor | jax.Array) -> jax.Array:
    """The numbers of a tensor; a JAX array (a random key) as it is."""
    if isinstance(tensor, jax.Array):
        return tensor
    return jnp.asarray(tensor.detach().resolve_conj().contiguous().numpy())


def call(layer: Any, params: Any, x: Any, advance: bool = False, compiled: bool = False) -> Any:
    """layer(params, x) of trees of tensors; with `advance` a pair, with the parameters moved on by one step.

    Not `compiled` unless said, for that takes longer than the few small steps of most samples.
    """
    is_buffer = lambda p: isinstance(p, jbp.Buffer)  # noqa: E731
    count = [len(jax.tree.leaves(p)) for p in jax.tree.leaves((params, x), is_leaf=is_buffer)]
    leaves, tree = jax.tree.flatten((params, x))
    ours = _Ours(layer, tree, count, advance, compiled)
    found = _Layer.apply(ours, *leaves)
    y = jax.tree.unflatten(ours.outputs, found)
    if not advance:
        return y
    return y, jax.tree.map(lambda v: torch.from_numpy(np.array(v)), ours.advanced)


MOVES = {
    "view", "_unsafe_view", "_reshape_alias", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "slice",
    "select", "split", "split_with_sizes", "split_with_sizes_copy", "cat", "stack", "clone", "detach", "alias",
    "unbind", "flip", "_to_copy", "lift_fresh", "zeros", "zeros_like", "full", "full_like", "empty", "copy_", "index",
    "index_select", "repeat", "roll", "arange", "new_zeros", "new_full", "ones", "ones_like", "new_ones", "new_empty",
    "logical_not", "bitwise_not", "logical_and", "bitwise_and", "logical_or", "bitwise_or", "constant_pad_nd",
    "diag_embed", "item", "_local_scalar_dense", "unfold", "as_strided", "empty_strided", "fill_", "new_empty_strided",
    "slice_backward", "select_backward", "fill", "ge", "all",
}  # fmt: skip


class Moves(TorchDispatchMode):
    """Lets numbers be moved, masks be negated, and nothing else but what `allowed` names."""

    more: ClassVar[set[str]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name not in MOVES | self.more:
            raise Unsaid(f"the translation computes: {name}")
        return func(*args, **(kwargs or {}))


@contextmanager
def allowed(*names: str) -> Iterator[None]:
    """Lets a translation compute by these operations, where two of PyTorch's parameters make one of ours."""
    Moves.more.update(names)
    try:
        yield
    finally:
        Moves.more.difference_update(names)


@dataclass
class Compared:
    """One sample: `fault` where it disagrees, `unsaid` where it cannot be said, `worst` the largest error.

    `theirs` is set where PyTorch's gradient is not that of PyTorch's own values, by differences, and ours is.
    """

    fault: str = ""
    unsaid: str = ""
    worst: float = 0.0
    theirs: str = ""


def tensors(tree: Any) -> list[torch.Tensor]:
    return [t for t in jax.tree.leaves(tree) if torch.is_tensor(t)]


def compare(sample: Any, say: Any) -> Compared:
    """Values, the gradients of parameters and of inputs, and buffers after the call, of one sample."""
    theirs = _side(sample.run(*sample.inputs, **sample.named), sample.run, sample)
    dys = [torch.randn_like(v) for v in theirs.values if v.is_floating_point()]
    theirs.down(dys)
    try:
        with Moves():
            y = say(sample.module, *sample.inputs, **sample.named)
    except Unsaid as reason:
        return Compared(unsaid=str(reason))
    ours = _side(y, sample.module, sample)
    if [v.shape for v in ours.values] != [v.shape for v in theirs.values]:
        shapes = [[tuple(v.shape) for v in side.values] for side in (ours, theirs)]
        return Compared(fault=f"shapes {shapes[0]}, expected {shapes[1]}")
    ours.down(dys)
    parts = {name: _error(ours.found[name], theirs.found[name]) for name in theirs.found}
    worst = max(parts.values(), default=0.0)
    wrong = {name: error for name, error in parts.items() if not error <= TOLERANCE}
    if wrong and _not_finite(sample, wrong, ours, theirs):
        return Compared("not a number", worst=worst, theirs="PyTorch gives NaN of finite inputs, where ours is finite")
    fault = ", ".join(f"{name} by {error:.1e}" for name, error in wrong.items())
    blame = wrong and all(name.startswith("gradient") for name in wrong)
    return Compared(fault, worst=worst, theirs=_blame(sample, dys, ours, theirs) if blame else "")


def _not_finite(sample, wrong, ours, theirs):
    """Whether all that differs is what is NaN or infinite of PyTorch's alone, with finite numbers given."""
    given = [t for t in tensors((sample.inputs, sample.named)) if t.is_floating_point()]
    if not all(t.isfinite().all() for t in given):
        return False
    for name in wrong:
        a, b = ours.found[name], theirs.found[name]
        seen = b.isfinite()
        if a.shape != b.shape or not a.isfinite().all() or _error(a[seen], b[seen]) > TOLERANCE:
            return False
    return True


def _blame(sample, dys, ours, theirs):
    """Both sides' derivative along a random direction beside central differences of PyTorch's values.

    Words where PyTorch is far off and ours is not, else nothing.
    """
    leaves = theirs.leaves
    way = {name: torch.randn_like(leaf) for name, leaf in leaves.items()}

    def value(t):
        with torch.no_grad():
            for name, leaf in leaves.items():
                leaf += t * way[name]
            y = [v for v in tensors(sample.run(*sample.inputs, **sample.named)) if v.is_floating_point()]
            for name, leaf in leaves.items():
                leaf -= t * way[name]
        return sum((v * dy).sum().item() for v, dy in zip(y, dys, strict=True))

    def difference(h):
        return (value(h) - value(-h)) / (2 * h)

    exact = (4 * difference(5e-5) - difference(1e-4)) / 3  # Richardson: no error below the fourth power of h
    off = {
        side: abs(sum((found[f"gradient of {n}"] * w).sum().item() for n, w in way.items()) - exact)
        for side, found in (("ours", ours.found), ("theirs", theirs.found))
    }
    if off["theirs"] > 20 * off["ours"]:
        return f"off from PyTorch's own values: its gradient by {off['theirs']:.0e}, ours by {off['ours']:.0e}"
    return ""


@dataclass
class _Side:
    values: list
    leaves: dict
    found: dict

    def down(self, dys):
        floats = [v for v in self.values if v.is_floating_point()]
        asked = [(v, dy) for v, dy in zip(floats, dys, strict=True) if v.requires_grad]
        grads = [None] * len(self.leaves)
        if asked and self.leaves:
            outs, dys = zip(*asked, strict=True)
            grads = torch.autograd.grad(outs, list(self.leaves.values()), dys, allow_unused=True)
        for (name, leaf), g in zip(self.leaves.items(), grads, strict=True):
            g = torch.zeros_like(leaf) if g is None else g
            self.found[f"gradient of {name}"] = g.to_dense() if g.is_sparse else g


def _side(y, module, sample):
    values = tensors(y)
    inputs = tensors((sample.inputs, sample.named))
    leaves = {f"input {i}": t for i, t in enumerate(inputs) if t.requires_grad}
    buffers = {}
    if isinstance(module, torch.nn.Module):
        leaves |= {name: p for name, p in module.named_parameters() if p.requires_grad}
        # a count of calls moves no value; PyTorch's counts empty batches too, and that of InstanceNorm nothing
        named = ((n, b) for n, b in module.named_buffers() if not n.endswith("num_batches_tracked"))
        buffers = {f"buffer {n}": b.clone() for n, b in named}
    return _Side(values, leaves, {f"output {i}": v.detach() for i, v in enumerate(values)} | buffers)


def _error(got, wanted):
    """The largest difference, relative to the largest number, or infinity where one is NaN alone."""
    got, wanted = got.detach().double(), wanted.detach().double()
    if got.shape != wanted.shape:
        return float("inf")
    if not got.numel():
        return 0.0
    same = (got == wanted) | (got.isnan() & wanted.isnan())
    off = torch.where(same, 0.0, (got - wanted).abs())
    finite = wanted[wanted.isfinite()]
    scale = 1 + (finite.abs().max().item() if finite.numel() else 0.0)
    worst = off.nan_to_num(nan=float("inf")).max().item()
    return worst / scale
