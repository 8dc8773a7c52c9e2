"""The same networks as users of Flax NNX, Equinox and PyTorch write them, with Adam. Each is left out if not installed.

`of(name)` gives, for a library, make(x, target, size) -> step: a whole training step that holds its own state and
returns when it is done. `size` is how many numbers our network trains; a peer that is off by more than a hundredth
is another network, and an error.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Step = Callable[[], Any]
Make = Callable[[Any, Any, int], Step]


def of(name: str) -> dict[str, Make]:
    """The peers of a network, by the name of the library."""
    found = {}
    if find_spec("flax"):
        found["Flax NNX"] = lambda x, target, size: _flax(name, x, target, size)
    if find_spec("equinox"):
        found["Equinox"] = lambda x, target, size: _equinox(name, x, target, size)
    if find_spec("torch"):
        found["PyTorch eager"] = lambda x, target, size: _torch(name, x, target, size, compiled=False)
        found["PyTorch compiled"] = lambda x, target, size: _torch(name, x, target, size, compiled=True)
    return found


def _same(name: str, library: str, ours: int, theirs: int) -> None:
    if abs(theirs - ours) > 0.01 * ours:
        raise ValueError(f"{name} in {library} has {theirs} parameters where ours has {ours}: not the same network")


def _flax(name, x, target, size) -> Step:
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, width, heads, rngs):
            self.first, self.second = (nnx.LayerNorm(width, rngs=rngs) for _ in range(2))
            self.attention = nnx.MultiHeadAttention(heads, width, use_bias=False, decode=False, rngs=rngs)
            self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

        def __call__(self, x):
            x = x + self.attention(self.first(x), mask=nnx.make_causal_mask(x[..., 0]))
            return x + self.down(nnx.gelu(self.up(self.second(x)), approximate=False))

    class GPT(nnx.Module):
        def __init__(self, words, length, width, rngs):
            self.table = nnx.Embed(words, width, rngs=rngs)
            self.places = nnx.Param(0.02 * jax.random.normal(rngs.params(), (length, width)))
            self.blocks = nnx.List([Block(width, 4, rngs) for _ in range(2)])
            self.norm, self.scores = nnx.LayerNorm(width, rngs=rngs), nnx.Linear(width, words, rngs=rngs)

        def __call__(self, x):
            x = self.table(x) + self.places[None]
            for block in self.blocks:
                x = block(x)
            return self.scores(self.norm(x))

    class Stage(nnx.Module):
        """Two convolutions, each after a norm, beside the short way."""

        def __init__(self, before, width, stride, rngs):
            self.norms = nnx.List([nnx.BatchNorm(n, rngs=rngs) for n in (before, width)])
            self.convs = nnx.List(
                [nnx.Conv(before, width, (3, 3), strides=stride, rngs=rngs), nnx.Conv(width, width, (3, 3), rngs=rngs)]
            )
            self.short = nnx.Conv(before, width, (1, 1), strides=stride, rngs=rngs) if stride > 1 else None

        def __call__(self, x):
            short = self.short(x) if self.short is not None else x
            for norm, conv in zip(self.norms, self.convs, strict=True):
                x = conv(nnx.relu(norm(x)))
            return short + x

    class ResNet(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Conv(3, 16, (3, 3), rngs=rngs)
            plan = (16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)
            self.stages = nnx.List([Stage(*sizes, rngs) for sizes in plan])
            self.norm, self.last = nnx.BatchNorm(64, rngs=rngs), nnx.Linear(64, 10, rngs=rngs)

        def __call__(self, x):
            x = self.first(x)
            for stage in self.stages:
                x = stage(x)
            return self.last(nnx.relu(self.norm(x)).mean((1, 2)))

    class LeNet(nnx.Module):
        def __init__(self, rngs):
            sizes = (1, 32), (32, 32), (32, 64)
            self.convs = nnx.List([nnx.Conv(a, b, (3, 3), rngs=rngs) for a, b in sizes])
            self.last = nnx.Linear(7 * 7 * 64, 10, rngs=rngs)

        def __call__(self, x):
            one, two, three = self.convs
            x = nnx.max_pool(nnx.relu(two(nnx.relu(one(x)))), (2, 2), (2, 2))
            x = nnx.max_pool(nnx.relu(three(x)), (2, 2), (2, 2))
            return self.last(x.reshape(len(x), -1))

    rngs = nnx.Rngs(0)
    sizes = (784, 1024, 1024, 1024, 1024)
    hidden = [part for a, b in pairwise(sizes) for part in (nnx.Linear(a, b, rngs=rngs), nnx.relu)]
    model = {
        "MLP": lambda: nnx.Sequential(*hidden, nnx.Linear(1024, 10, rngs=rngs)),
        "LeNet": lambda: LeNet(rngs),
        "ResNet": lambda: ResNet(rngs),
        "LSTM": lambda: nnx.Sequential(
            nnx.Embed(96, 64, rngs=rngs),
            nnx.RNN(nnx.OptimizedLSTMCell(64, 128, rngs=rngs)),
            nnx.Linear(128, 96, rngs=rngs),
        ),
        "GPT": lambda: GPT(96, 512, 128, rngs),
    }[name]()
    _same(name, "Flax NNX", size, sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param))))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x, target):
        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(x), target).mean()

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    return lambda: jax.block_until_ready((step(model, optimizer, x, target), nnx.state(model)))


def _equinox(name, x, target, size) -> Step:
    import equinox as eqx

    keys = iter(jax.random.split(jax.random.key(0), 64))

    class Block(eqx.Module):
        first: eqx.nn.LayerNorm
        second: eqx.nn.LayerNorm
        attention: eqx.nn.MultiheadAttention
        up: eqx.nn.Linear
        down: eqx.nn.Linear

        def __init__(self, width, heads):
            self.first, self.second = eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)
            self.attention = eqx.nn.MultiheadAttention(heads, width, key=next(keys))
            self.up = eqx.nn.Linear(width, 4 * width, key=next(keys))
            self.down = eqx.nn.Linear(4 * width, width, key=next(keys))

        def __call__(self, x):
            h = jax.vmap(self.first)(x)
            x = x + self.attention(h, h, h, mask=jnp.tril(jnp.ones((len(x), len(x)), bool)))
            feed = lambda h: self.down(jax.nn.gelu(self.up(self.second(h)), approximate=False))  # noqa: E731
            return x + jax.vmap(feed)(x)

    class GPT(eqx.Module):
        table: eqx.nn.Embedding
        places: jax.Array
        blocks: list
        norm: eqx.nn.LayerNorm
        scores: eqx.nn.Linear

        def __init__(self, words, length, width):
            self.table = eqx.nn.Embedding(words, width, key=next(keys))
            self.places = 0.02 * jax.random.normal(next(keys), (length, width))
            self.blocks = [Block(width, 4) for _ in range(2)]
            self.norm, self.scores = eqx.nn.LayerNorm(width), eqx.nn.Linear(width, words, key=next(keys))

        def __call__(self, x):
            x = jax.vmap(self.table)(x) + self.places
            for block in self.blocks:
                x = block(x)
            return jax.vmap(lambda h: self.scores(self.norm(h)))(x)

    class LanguageModel(eqx.Module):
        table: eqx.nn.Embedding
        cell: eqx.nn.LSTMCell
        scores: eqx.nn.Linear

        def __call__(self, x):
            zero = jnp.zeros(self.cell.hidden_size)

            def step(state, x):
                state = self.cell(x, state)
                return state, state[0]

            _, h = jax.lax.scan(step, (zero, zero), jax.vmap(self.table)(x))
            return jax.vmap(self.scores)(h)

    def lenet():
        convs = [eqx.nn.Conv2d(a, b, 3, padding=1, key=next(keys)) for a, b in ((1, 32), (32, 32), (32, 64))]
        relu = eqx.nn.Lambda(jax.nn.relu)
        first = eqx.nn.Lambda(lambda x: jnp.moveaxis(x, -1, 0)), convs[0], relu, convs[1], relu, eqx.nn.MaxPool2d(2, 2)
        last = convs[2], relu, eqx.nn.MaxPool2d(2, 2), eqx.nn.Lambda(jnp.ravel)
        return eqx.nn.Sequential([*first, *last, eqx.nn.Linear(7 * 7 * 64, 10, key=next(keys))])

    class Stage(eqx.Module):
        norms: list
        convs: list
        short: Any

        def __init__(self, before, width, stride):
            self.norms = [eqx.nn.BatchNorm(n, "batch", mode="batch") for n in (before, width)]
            self.convs = [
                eqx.nn.Conv2d(before, width, 3, stride, 1, key=next(keys)),
                eqx.nn.Conv2d(width, width, 3, 1, 1, key=next(keys)),
            ]
            self.short = eqx.nn.Conv2d(before, width, 1, stride, key=next(keys)) if stride > 1 else None

        def __call__(self, x, state):
            short = x if self.short is None else self.short(x)
            for norm, conv in zip(self.norms, self.convs, strict=True):
                x, state = norm(x, state)
                x = conv(jax.nn.relu(x))
            return short + x, state

    class ResNet(eqx.Module):
        first: eqx.nn.Conv2d
        stages: list
        norm: eqx.nn.BatchNorm
        last: eqx.nn.Linear

        def __init__(self):
            self.first = eqx.nn.Conv2d(3, 16, 3, padding=1, key=next(keys))
            plan = (16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)
            self.stages = [Stage(*sizes) for sizes in plan]
            self.norm = eqx.nn.BatchNorm(64, "batch", mode="batch")
            self.last = eqx.nn.Linear(64, 10, key=next(keys))

        def __call__(self, x, state):
            x = self.first(jnp.moveaxis(x, -1, 0))
            for stage in self.stages:
                x, state = stage(x, state)
            x, state = self.norm(x, state)
            return self.last(jax.nn.relu(x).mean((1, 2))), state

    state = None
    if name == "ResNet":
        model, state = eqx.nn.make_with_state(ResNet)()
    else:
        model = {
            "MLP": lambda: eqx.nn.MLP(784, 10, 1024, 4, key=next(keys)),
            "LeNet": lenet,
            "LSTM": lambda: LanguageModel(
                eqx.nn.Embedding(96, 64, key=next(keys)),
                eqx.nn.LSTMCell(64, 128, key=next(keys)),
                eqx.nn.Linear(128, 96, key=next(keys)),
            ),
            "GPT": lambda: GPT(96, 512, 128),
        }[name]()
    weights = eqx.filter(model, eqx.is_inexact_array)
    _same(name, "Equinox", size, sum(p.size for p in jax.tree.leaves(weights)))
    adam = optax.adam(1e-3)

    @eqx.filter_jit
    def step(model, state, opt, x, target):
        def loss(model):
            if state is None:
                scores, moved = jax.vmap(model)(x), None
            else:
                run = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
                scores, moved = run(x, state)
            return optax.softmax_cross_entropy_with_integer_labels(scores, target).mean(), moved

        (value, moved), grads = eqx.filter_value_and_grad(loss, has_aux=True)(model)
        updates, opt = adam.update(grads, opt)
        return value, eqx.apply_updates(model, updates), moved, opt

    opt = adam.init(weights)
    return lambda: jax.block_until_ready(step(model, state, opt, x, target)[0])


def _torch(name, x, target, size, compiled) -> Step:
    torch: Any = import_module("torch")  # by name, for it is in none of the extras that the type check has
    nn, functional = torch.nn, torch.nn.functional

    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self, width, heads):
            super().__init__()
            self.heads, self.first, self.second = heads, nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
            self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x):
            b, n, f = x.shape
            parts = self.qkv(self.first(x)).view(b, n, 3, self.heads, f // self.heads).permute(2, 0, 3, 1, 4)
            seen = functional.scaled_dot_product_attention(*parts, is_causal=True)
            x = x + self.out(seen.transpose(1, 2).reshape(b, n, f))
            return x + self.feed(self.second(x))

    class GPT(nn.Module):
        def __init__(self, words, length, width):
            super().__init__()
            self.table = nn.Embedding(words, width)
            self.places = nn.Parameter(0.02 * torch.randn(length, width))
            self.rest = nn.Sequential(Block(width, 4), Block(width, 4), nn.LayerNorm(width), nn.Linear(width, words))

        def forward(self, x):
            return self.rest(self.table(x) + self.places)

    class LanguageModel(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.cell = nn.Embedding(96, 64), nn.LSTM(64, 128, batch_first=True)
            self.scores = nn.Linear(128, 96)

        def forward(self, x):
            return self.scores(self.cell(self.table(x))[0])

    class Stage(nn.Module):
        def __init__(self, before, width, stride):
            super().__init__()
            self.path = nn.Sequential(
                *(nn.BatchNorm2d(before), nn.ReLU(), nn.Conv2d(before, width, 3, stride, 1)),
                *(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1)),
            )
            self.short = nn.Conv2d(before, width, 1, stride) if stride > 1 else nn.Identity()

        def forward(self, x):
            return self.short(x) + self.path(x)

    def resnet():
        plan = (16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)
        last = nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
        return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *[Stage(*sizes) for sizes in plan], *last)

    def lenet():
        convs = [nn.Conv2d(a, b, 3, padding=1) for a, b in ((1, 32), (32, 32), (32, 64))]
        first = convs[0], nn.ReLU(), convs[1], nn.ReLU(), nn.MaxPool2d(2)
        return nn.Sequential(*first, convs[2], nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(7 * 7 * 64, 10))

    widths = (784, 1024, 1024, 1024, 1024)
    hidden = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    model = {
        "MLP": lambda: nn.Sequential(*hidden, nn.Linear(1024, 10)),
        "LeNet": lenet,
        "ResNet": resnet,
        "LSTM": LanguageModel,
        "GPT": lambda: GPT(96, 512, 128),
    }[name]()
    _same(name, "PyTorch", size, sum(p.numel() for p in model.parameters()))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    inputs, labels = (torch.from_numpy(np.array(a)) for a in (x, target))
    inputs = inputs.permute(0, 3, 1, 2).contiguous() if inputs.ndim == 4 else inputs
    labels = labels.long().reshape(-1)
    run: Any = torch.compile(model) if compiled else model

    def step():
        optimizer.zero_grad()
        scores = run(inputs.long() if not inputs.is_floating_point() else inputs)
        value = functional.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels)
        value.backward()
        optimizer.step()
        return value.item()

    return step
