"""Values and gradients, of inputs and parameters, in float64 beside PyTorch's own layers and losses.

Each line gives a layer, an input, and the same in PyTorch of (p, x): our parameters and inputs as tensors, so what
autograd gives for them is laid out as ours is. Where PyTorch holds a weight otherwise, the line moves its axes.
"""

from typing import Any

import jax
import numpy as np
import pytest
from oracle import cotangent, draw, is_float, parameters

import jbp
from jbp import layers, losses
from jbp.cases import Array, f, i, signs, yes

torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed: pip install '.[parity]'")
F = torch.nn.functional


def first(x):
    """Channels to the place where PyTorch has them."""
    return x.movedim(-1, 1)


def last(x):
    return x.movedim(1, -1)


def on_channels(function, **options):
    return lambda p, x: last(function(first(x), **options))


def filters(w):
    """(kernel..., i, o) as (o, i, kernel...)."""
    return w.movedim((-1, -2), (0, 1))


def conv(rank, **options):
    return lambda p, x: last(getattr(F, f"conv{rank}d")(first(x), filters(p["w"]), p["b"], **options))


def transposed(rank, groups=1, **options):
    def run(p, x):
        *kernel, inside, o = p["w"].shape  # ours: (kernel..., i / groups, o); PyTorch's: (i, o / groups, kernel...)
        w = p["w"].reshape(*kernel, inside, groups, o // groups).movedim((-2, -3, -1), (0, 1, 2)).flatten(0, 1)
        return last(getattr(F, f"conv_transpose{rank}d")(first(x), w, p["b"], groups=groups, **options))

    return run


def blocks(a, order, count):
    """The gates of the last axis in another order."""
    parts = a.chunk(count, -1)
    return torch.cat([parts[k] for k in order], -1)


def recurrent(name, order):
    def run(p, x):
        h = torch.zeros(1, x.shape[0], p["u"].shape[0], dtype=x.dtype)
        w, u, b = (blocks(p[k], order, len(order)) for k in "wub")
        c = torch.zeros_like(b)
        if "c" in p:  # the bias of the candidate's recurrent part: the last of PyTorch's three
            c = torch.cat([c[: -len(p["c"])], p["c"]])
        state = (h, h) if name == "lstm" else h
        return getattr(torch, name)(x, state, [w.T, u.T, b, c], True, 1, 0.0, False, False, True)[0]

    return run


def attention(causal=False, seen=None, score=None):
    """By scaled_dot_product_attention. seen(x) is a mask, score(p, x) what is added to the scores."""

    def run(p, x):
        named = x if isinstance(x, dict) else {"x": x[0], "source": x[1]} if isinstance(x, tuple) else {"x": x}
        x, z = named["x"], named.get("source", named["x"])
        q = torch.einsum("bnf,fgrd->bgrnd", x, p["q"]).flatten(1, 2)
        k, v = (torch.einsum("bme,egd->bgmd", z, p[n]).repeat_interleave(p["q"].shape[2], 1) for n in "kv")
        mask = seen(named) if seen else score(p, named) if score else None
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return torch.einsum("bhnd,hdf->bnf", o, p["o"].flatten(0, 1))

    return run


def whole_attention(p, x):
    """By multi_head_attention_forward, which has the projections inside."""
    w = torch.cat([p[n].flatten(1).T for n in "qkv"])
    out = p["o"].flatten(0, 2).T
    x = x.transpose(0, 1)
    y, _ = F.multi_head_attention_forward(
        x, x, x, x.shape[-1], p["q"].shape[1], w, None, None, None, False, 0.0, out, None, need_weights=False
    )
    return y.transpose(0, 1)


def distances(n, m):
    return torch.arange(m)[None] - torch.arange(n)[:, None]


def alibi(p, x):
    n, heads = x["x"].shape[1], p["q"].shape[1]
    slopes = 2.0 ** (-8 * (1 + torch.arange(heads, dtype=torch.float64)) / heads)
    return -slopes[:, None, None] * distances(n, n).abs()


def learned(p, x):
    n, most = x["x"].shape[1], p["distances"].shape[1] // 2
    return p["distances"][:, distances(n, n).clamp(-most, most) + most][None]


def spectral(p, x):
    w = p["layer"]["w"]
    return x @ (w / (p["u"] @ w @ p["v"])) + p["layer"]["b"]


def labels(x):
    return x[0].reshape(-1, x[0].shape[-1]), x[1].reshape(-1).long()


def entropy(**options):
    return lambda p, x: F.cross_entropy(*labels(x), **options)


X, IMAGE, PAIR = f(3, 4, 6), f(2, 5, 6, 4), (f(3, 5), f(3, 5))


def by_label(p, x):
    z, labels = x[0].log_softmax(-1).movedim(0, 1), x[1]
    rows = [row[row != 0] for row in labels]
    lengths = tuple(map(len, rows))
    return F.ctc_loss(z, torch.cat(rows).long(), (len(z),) * len(rows), lengths, zero_infinity=True)


SAME = {
    **{name: (getattr(layers, name)(), X, lambda p, x, g=g: g(x)) for name, g in {
        "Tanh": torch.tanh, "ReLU": F.relu, "Sigmoid": torch.sigmoid, "LeakyReLU": F.leaky_relu, "ReLU6": F.relu6,
        "SiLU": F.silu, "GELU": F.gelu, "GELUTanh": lambda x: F.gelu(x, approximate="tanh"), "Softplus": F.softplus,
        "ELU": F.elu, "SELU": F.selu, "Mish": F.mish, "Softsign": F.softsign, "LogSigmoid": F.logsigmoid,
        "HardTanh": F.hardtanh, "HardSigmoid": lambda x: (x / 6 + 0.5).clamp(0, 1),  # its own slope is 1/6 in float32
         "HardSwish": F.hardswish, "Sin": torch.sin,
        "ReLU2": lambda x: F.relu(x) ** 2, "Softmax": lambda x: F.softmax(x, -1),
        "LogSoftmax": lambda x: F.log_softmax(x, -1),
    }.items()},
    "CELU": (layers.CELU(0.25), X, lambda p, x: F.celu(x, 0.25)),  # PyTorch rounds alpha to float32
    "PReLU": (layers.PReLU(), f(3, 5), lambda p, x: F.prelu(x, next(iter(p.values())))),
    "GLU": (layers.GLU(), X, lambda p, x: F.glu(x)),
    "SwiGLU": (layers.SwiGLU(), X, lambda p, x: x[..., :3] * F.silu(x[..., 3:])),
    "GEGLU": (layers.GEGLU(), X, lambda p, x: x[..., :3] * F.gelu(x[..., 3:])),
    "Maxout": (layers.Maxout(2), X, lambda p, x: F.max_pool1d(x, 2)),
    "Dense": (layers.Dense(3), X, lambda p, x: F.linear(x, p["w"].T, p["b"])),
    "Dense, no bias": (layers.Dense(3, bias=False), X, lambda p, x: F.linear(x, p["w"].T)),
    "Bilinear": (layers.Bilinear(3), (f(4, 5), f(4, 2)), lambda p, x: F.bilinear(*x, p["w"].permute(2, 0, 1), p["b"])),
    "LayerNorm": (layers.LayerNorm(), X, lambda p, x: F.layer_norm(x, (6,), p["g"], p["b"])),
    "RMSNorm": (layers.RMSNorm(), X, lambda p, x: F.rms_norm(x, (6,), p["g"], 1e-6)),
    "BatchNorm": (
        layers.BatchNorm(), IMAGE, lambda p, x: last(F.batch_norm(first(x), None, None, p["g"], p["b"], True)),
    ),
    "GroupNorm": (layers.GroupNorm(2), IMAGE, lambda p, x: last(F.group_norm(first(x), 2, p["g"], p["b"]))),
    "InstanceNorm": (
        layers.InstanceNorm(), IMAGE, lambda p, x: last(F.instance_norm(first(x), weight=p["g"], bias=p["b"])),
    ),
    "UnitNorm": (layers.UnitNorm(0.0), X, lambda p, x: F.normalize(x, dim=-1)),
    "WeightNorm": (
        layers.WeightNorm(layers.Dense(3)), X,
        lambda p, x: x @ torch._weight_norm(p["layer"]["w"], p["g"][None], 1) + p["layer"]["b"],
    ),
    "SpectralNorm": (layers.SpectralNorm(layers.Dense(3)), X, spectral),
    "Conv": (layers.Conv(3), IMAGE, conv(2, padding=1)),
    "Conv, valid": (layers.Conv(3, (2, 3), padding="VALID"), IMAGE, conv(2)),
    "Conv, strides": (
        layers.Conv(3, (3, 2), stride=(2, 1), padding=((1, 1), (0, 0))),
        IMAGE, conv(2, stride=(2, 1), padding=(1, 0)),
    ),
    "Conv, dilation": (layers.Conv(3, (2, 2), dilation=(2, 3), padding="VALID"), IMAGE, conv(2, dilation=(2, 3))),
    "Conv, groups": (layers.Conv(6, groups=2), IMAGE, conv(2, padding=1, groups=2)),
    "Conv, depthwise": (layers.Conv(4, groups=4, padding="VALID"), IMAGE, conv(2, groups=4)),
    "Conv, one place": (layers.Conv(3, (1, 1)), IMAGE, conv(2)),
    "Conv, 1-D": (layers.Conv(3, (3,)), X, conv(1, padding=1)),
    "Conv, causal": (layers.Conv(3, (3,), padding=((2, 0),)), X, lambda p, x: conv(1)(p, F.pad(x, (0, 0, 2, 0)))),
    "Conv, 3-D": (layers.Conv(2, (2, 1, 3), stride=2, padding="VALID"), f(1, 4, 3, 5, 2), conv(3, stride=2)),
    "ConvTranspose": (layers.ConvTranspose(3, padding="VALID"), IMAGE, transposed(2)),
    "ConvTranspose, strides": (
        layers.ConvTranspose(3, (3, 2), stride=(2, 3), padding="VALID"),
        IMAGE, transposed(2, stride=(2, 3)),
    ),
    "ConvTranspose, groups": (
        layers.ConvTranspose(6, (2, 2), stride=2, padding="VALID", groups=2),
        IMAGE, transposed(2, groups=2, stride=2),
    ),
    "ConvTranspose, cut": (
        layers.ConvTranspose(3, stride=2, padding=((1, 1), (1, 1))),
        IMAGE, transposed(2, stride=2, padding=1),
    ),
    "ConvTranspose, dilation": (
        layers.ConvTranspose(2, (2, 2), dilation=2, padding="VALID"),
        IMAGE, transposed(2, dilation=2),
    ),
    "ConvTranspose, 1-D": (layers.ConvTranspose(2, (3,), stride=2, padding="VALID"), X, transposed(1, stride=2)),
    "ConvTranspose, 3-D": (layers.ConvTranspose(2, (2, 1, 2), padding="VALID"), f(1, 2, 3, 2, 2), transposed(3)),
    "MaxPool": (layers.MaxPool(), IMAGE, on_channels(F.max_pool2d, kernel_size=2)),
    "MaxPool, overlapping": (
        layers.MaxPool((3, 3), stride=1), IMAGE, on_channels(F.max_pool2d, kernel_size=3, stride=1)
    ),
    "MaxPool, padding": (
        layers.MaxPool((3, 2), stride=2, padding=((1, 1), (1, 1))), IMAGE,
        on_channels(F.max_pool2d, kernel_size=(3, 2), stride=2, padding=1),
    ),
    "MaxPool, 1-D": (layers.MaxPool((2,)), X, on_channels(F.max_pool1d, kernel_size=2)),
    "AveragePool": (layers.AveragePool((2, 3)), IMAGE, on_channels(F.avg_pool2d, kernel_size=(2, 3))),
    "AveragePool, padding": (
        layers.AveragePool((3, 3), stride=2, padding=((1, 1), (1, 1))), IMAGE,
        on_channels(F.avg_pool2d, kernel_size=3, stride=2, padding=1, count_include_pad=False),
    ),
    "AdaptiveAveragePool": (
        layers.AdaptiveAveragePool((3, 4)), IMAGE, on_channels(F.adaptive_avg_pool2d, output_size=(3, 4)),
    ),
    "GlobalAveragePool": (
        layers.GlobalAveragePool(), IMAGE, lambda p, x: F.adaptive_avg_pool2d(first(x), 1).flatten(1)
    ),
    "GlobalMaxPool": (layers.GlobalMaxPool(), IMAGE, lambda p, x: F.adaptive_max_pool2d(first(x), 1).flatten(1)),
    "Upsample": (layers.Upsample((2, 3)), IMAGE, on_channels(F.interpolate, scale_factor=(2, 3), mode="nearest")),
    "Pad": (layers.Pad(((1, 2), (-1, 0))), IMAGE, on_channels(F.pad, pad=(-1, 0, 1, 2))),
    "Pad, value": (layers.Pad(1, value=2.5), X, on_channels(F.pad, pad=(1, 1), value=2.5)),
    **{f"Pad, {mode}": (layers.Pad(((2, 1), (0, 3)), mode), IMAGE, on_channels(F.pad, pad=(0, 3, 2, 1), mode=mode))
       for mode in ("reflect", "replicate", "circular")},
    **{f"Conv, {mode}": (
        layers.Conv(3, 3, 2, 2, padding_mode=mode), IMAGE,
        lambda p, x, m=mode: last(F.conv2d(F.pad(first(x), (2, 2, 2, 2), m), filters(p["w"]), p["b"], 2)),
    ) for mode in ("reflect", "replicate", "circular")},
    "Conv, no bias": (
        layers.Conv(3, 3, padding=(1, 2), bias=False), IMAGE,
        lambda p, x: last(F.conv2d(first(x), filters(p["w"]), padding=(1, 2))),
    ),
    "ConvTranspose, output padding": (
        layers.ConvTranspose(3, (3, 2), 3, padding=(1, 0), output_padding=(2, 1)), IMAGE,
        transposed(2, stride=3, padding=(1, 0), output_padding=(2, 1)),
    ),
    "MaxPool, dilation": (
        layers.MaxPool(2, 1, (1, 0), dilation=2), IMAGE,
        on_channels(F.max_pool2d, kernel_size=2, stride=1, padding=(1, 0), dilation=2),
    ),
    "MaxPool, ceil": (
        layers.MaxPool(2, 3, 1, ceil_mode=True), IMAGE,
        on_channels(F.max_pool2d, kernel_size=2, stride=3, padding=1, ceil_mode=True),
    ),
    "MaxPool, 3-D": (layers.MaxPool(2, 1), f(1, 2, 3, 4, 2), on_channels(F.max_pool3d, kernel_size=2, stride=1)),
    "MaxPool, huge": (layers.MaxPool(257, 1, 128), f(1, 3, 2), on_channels(
        lambda x: F.max_pool1d(x, kernel_size=257, stride=1, padding=128))),
    "MaxPool and MaxUnpool": (
        jbp.Serial(layers.MaxPool(2, return_indices=True), layers.MaxUnpool(2, sizes=(5, 6))), IMAGE,
        on_channels(lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2, output_size=(5, 6))),
    ),
    "AdaptiveMaxPool": (
        layers.AdaptiveMaxPool((3, 4)), IMAGE, on_channels(F.adaptive_max_pool2d, output_size=(3, 4)),
    ),
    "AdaptiveAveragePool, one number": (
        layers.AdaptiveAveragePool(3), IMAGE, on_channels(F.adaptive_avg_pool2d, output_size=3),
    ),
    **{f"AveragePool, ceil, {count}": (
        layers.AveragePool(3, 2, 1, ceil_mode=True, count_include_pad=count), IMAGE,
        on_channels(
            F.avg_pool2d, kernel_size=3, stride=2, padding=1, ceil_mode=True, count_include_pad=count
        ),
    ) for count in (False, True)},
    "AveragePool, divisor": (
        layers.AveragePool(2, 1, divisor_override=3), IMAGE,
        on_channels(F.avg_pool2d, kernel_size=2, stride=1, divisor_override=3),
    ),
    "LPPool": (layers.LPPool(2, (2, 3), 1), IMAGE, on_channels(
        F.lp_pool2d, norm_type=2, kernel_size=(2, 3), stride=1)),
    "LPPool, any norm": (layers.LPPool(1.5, 2), X, on_channels(
        lambda x: F.lp_pool1d(x.abs(), norm_type=1.5, kernel_size=2))),
    **{f"Upsample, {mode}, {corners}": (
        layers.Upsample((2, 1.5), mode, corners), IMAGE,
        on_channels(F.interpolate, scale_factor=(2.0, 1.5), mode=mode, align_corners=corners),
    ) for mode in ("bilinear", "bicubic") for corners in (False, True)},
    **{f"Resize, {mode}, {corners}": (
        layers.Resize((3, 8), mode, corners), IMAGE,
        on_channels(F.interpolate, size=(3, 8), mode=mode, align_corners=corners),
    ) for mode in ("bilinear", "bicubic") for corners in (False, True)},
    "Resize, nearest": (layers.Resize((3, 8), "nearest"), IMAGE, on_channels(F.interpolate, size=(3, 8))),
    "Upsample, 1-D": (layers.Upsample(3, "linear"), X, on_channels(F.interpolate, scale_factor=3, mode="linear")),
    "Upsample, 3-D": (
        layers.Upsample(2, "trilinear"), f(1, 2, 3, 2, 2), on_channels(F.interpolate, scale_factor=2, mode="trilinear"),
    ),
    "PixelShuffle": (layers.PixelShuffle(2), IMAGE, on_channels(F.pixel_shuffle, upscale_factor=2)),
    "PixelUnshuffle": (layers.PixelUnshuffle(2), f(2, 4, 6, 3), on_channels(F.pixel_unshuffle, downscale_factor=2)),
    "ChannelShuffle": (layers.ChannelShuffle(2), IMAGE, on_channels(torch.nn.ChannelShuffle(2))),
    "Unfold": (layers.Unfold((2, 3), (1, 2), 1, 2), IMAGE, lambda p, x: F.unfold(
        first(x), (2, 3), dilation=2, padding=1, stride=(1, 2)).unflatten(1, (4, 6)).permute(0, 3, 2, 1).reshape(
            2, 5, 2, 24)),
    "Fold": (layers.Fold((4, 5), 2, 1, 1), f(2, 5, 6, 8), lambda p, x: last(F.fold(
        x.reshape(2, 30, 4, 2).permute(0, 3, 2, 1).flatten(1, 2), (4, 5), 2, padding=1))),
    "Flatten": (layers.Flatten(1, 2), IMAGE, lambda p, x: x.flatten(1, 2)),
    "Unflatten": (layers.Unflatten(-1, (2, -1)), X, lambda p, x: x.unflatten(-1, (2, -1))),
    "Embedding": (layers.Embedding(5, 3), i(4, 2, below=5), lambda p, x: F.embedding(x, p["e"])),
    "EmbeddingBag": (
        layers.EmbeddingBag(5, 3), i(4, 2, below=5), lambda p, x: F.embedding_bag(x, p["e"], mode="sum"),
    ),
    "EmbeddingBag, mean": (
        layers.EmbeddingBag(5, 3, "mean"), i(4, 3, below=5), lambda p, x: F.embedding_bag(x, p["e"], mode="mean"),
    ),
    "EmbeddingBag, weights": (
        layers.EmbeddingBag(5, 3), (i(4, 2, below=5), f(4, 2)),
        lambda p, x: F.embedding_bag(x[0], p["e"], mode="sum", per_sample_weights=x[1]),
    ),
    "Elman": (layers.Elman(3), X, recurrent("rnn_tanh", (0,))),
    "LSTM": (layers.LSTM(3), X, recurrent("lstm", (0, 1, 3, 2))),
    "GRU": (layers.GRU(3), X, recurrent("gru", (1, 0, 2))),
    "attention": (layers.MultiHeadAttention(2), X, whole_attention),
    "attention, scaled dot product": (layers.MultiHeadAttention(3), X, attention()),
    "attention, causal": (layers.CausalSelfAttention(2), f(2, 5, 4), attention(causal=True)),
    "attention, cross": (layers.MultiHeadAttention(2), (f(2, 5, 4), f(2, 3, 7)), attention()),
    "attention, groups": (layers.MultiHeadAttention(4, groups=2), f(2, 5, 8), attention()),
    "attention, one key head": (layers.MultiHeadAttention(4, groups=1), f(2, 5, 8), attention()),
    "attention, padding": (
        layers.MultiHeadAttention(2), {"x": f(2, 5, 4), "source": f(2, 6, 3), "mask": i(2, 6, below=2)},
        attention(seen=lambda x: (x["mask"] != 0)[:, None, None]),
    ),
    "attention, segments": (
        layers.MultiHeadAttention(2), {"x": f(2, 6, 4), "segments": i(2, 6, below=2)},
        attention(seen=lambda x: x["segments"][:, None, :, None] == x["segments"][:, None, None]),
    ),
    "attention, window": (
        layers.MultiHeadAttention(2, window=2), f(2, 5, 4),
        attention(seen=lambda x: distances(5, 5).abs() < 2),
    ),
    "attention, bias": (
        layers.MultiHeadAttention(2), {"x": f(2, 5, 4), "bias": f(1, 2, 5, 5)}, attention(score=lambda p, x: x["bias"]),
    ),
    "attention, ALiBi": (layers.MultiHeadAttention(4, alibi=True), f(2, 5, 8), attention(score=alibi)),
    "attention, distances": (layers.MultiHeadAttention(2, distances=2), f(2, 5, 4), attention(score=learned)),
    "mean squared error": (losses.MeanSquaredError(), PAIR, lambda p, x: F.mse_loss(*x)),
    "mean absolute error": (losses.MeanAbsoluteError(), PAIR, lambda p, x: F.l1_loss(*x)),
    "Huber": (losses.Huber(0.7), PAIR, lambda p, x: F.huber_loss(*x, delta=0.7)),
    "binary cross-entropy": (
        losses.BinaryCrossEntropy(), (f(4, 3), yes(4, 3)), lambda p, x: F.binary_cross_entropy_with_logits(*x),
    ),
    "hinge": (
        losses.Hinge(), (f(3, 5), signs(3, 5)),
        lambda p, x: F.hinge_embedding_loss(x[0] * x[1], -torch.ones_like(x[0])),
    ),
    "Kullback-Leibler": (
        losses.KullbackLeibler(), PAIR,
        lambda p, x: F.kl_div(x[0].log_softmax(-1), x[1].log_softmax(-1), reduction="batchmean", log_target=True),
    ),
    "Gaussian likelihood": (
        losses.GaussianNegativeLogLikelihood(), (f(4, 6), f(4, 3)),
        lambda p, x: F.gaussian_nll_loss(x[0][:, :3], x[1], x[0][:, 3:].exp(), full=True, eps=1e-300),
    ),
    "cross-entropy": (losses.SoftmaxCrossEntropy(), (f(2, 3, 5), i(2, 3, below=5)), entropy()),
    "cross-entropy, soft": (losses.SoftmaxCrossEntropy(), PAIR, lambda p, x: F.cross_entropy(*x)),
    "cross-entropy, smooth": (losses.SoftmaxCrossEntropy(0.2), (f(4, 5), i(4, below=5)), entropy(label_smoothing=0.2)),
    "cross-entropy, ignored": (losses.SoftmaxCrossEntropy(ignore=1), (f(8, 3), i(8, below=3)), entropy(ignore_index=1)),
    "cross-entropy, weights": (
        losses.SoftmaxCrossEntropy(0.1, (0.5, 2.0, 1.0)), (f(8, 3), i(8, below=3)),
        lambda p, x: entropy(weight=x[0].new_tensor([0.5, 2.0, 1.0]), label_smoothing=0.1)(p, x),
    ),
    "linear cross-entropy": (
        losses.LinearCrossEntropy(5, chunk=2), (f(7, 3), i(7, below=5)),
        lambda p, x: F.cross_entropy(x[0] @ p["w"] + p["b"], x[1].long()),
    ),
    "InfoNCE": (
        losses.InfoNCE(0.5), (f(4, 3), f(4, 3)),
        lambda p, x: F.cross_entropy(x[0] @ x[1].T / 0.5, torch.arange(4)),
    ),
    "triplet": (
        losses.Triplet(0.3), (f(5, 3),) * 3,
        lambda p, x: F.triplet_margin_with_distance_loss(
            *x, distance_function=lambda a, b: ((a - b) ** 2).sum(-1), margin=0.3),
    ),
    "pairwise distance": (layers.PairwiseDistance(3.0, 1e-3), PAIR, lambda p, x: F.pairwise_distance(*x, 3.0, 1e-3)),
    "pairwise distance, largest": (
        layers.PairwiseDistance(None, keepdim=True), PAIR,
        lambda p, x: F.pairwise_distance(*x, torch.inf, keepdim=True),
    ),
    "cosine similarity": (layers.CosineSimilarity(), PAIR, lambda p, x: F.cosine_similarity(*x, dim=-1)),
    "triplet, margin": (
        losses.TripletMargin(), (f(5, 3),) * 3, lambda p, x: F.triplet_margin_loss(*x),
    ),
    "triplet, margin, swapped": (
        losses.TripletMargin(0.5, layers.PairwiseDistance(1.0), True), (f(9, 3),) * 3,
        lambda p, x: F.triplet_margin_loss(*x, margin=0.5, p=1, swap=True),
    ),
    "cosine embedding": (
        losses.CosineEmbedding(0.1), (f(8, 3), f(8, 3), signs(8)),
        lambda p, x: F.cosine_embedding_loss(*x, 0.1),
    ),
    "margin ranking": (
        losses.MarginRanking(0.5), (f(8), f(8), signs(8)), lambda p, x: F.margin_ranking_loss(*x, margin=0.5),
    ),
    "hinge embedding": (
        losses.HingeEmbedding(0.5), (f(8), signs(8)), lambda p, x: F.hinge_embedding_loss(*x, 0.5),
    ),
    "soft margin": (losses.SoftMargin(), (f(8), Array((8,), 2, (-1, 1))), lambda p, x: F.soft_margin_loss(*x)),
    "multi-margin": (
        losses.MultiMargin(2, 0.7, (0.5, 2.0, 0.0)), (f(8, 3), i(8, below=3)),
        lambda p, x: F.multi_margin_loss(x[0], x[1].long(), 2, 0.7, x[0].new_tensor([0.5, 2.0, 0.0])),
    ),
    "multi-label margin": (
        losses.MultiLabelMargin(), (f(8, 5), i(8, 5, below=5)),
        lambda p, x: F.multilabel_margin_loss(x[0], x[1].long()),
    ),
    "multi-label soft margin": (
        losses.MultiLabelSoftMargin((0.5, 2.0, 1.0)), (f(8, 3), yes(8, 3)),
        lambda p, x: F.multilabel_soft_margin_loss(*x, x[0].new_tensor([0.5, 2.0, 1.0])),
    ),
    "smooth L1": (losses.SmoothL1(0.4), PAIR, lambda p, x: F.smooth_l1_loss(*x, beta=0.4)),
    "Poisson": (losses.PoissonNLL(), PAIR, lambda p, x: F.poisson_nll_loss(*x)),
    "Poisson, full": (
        jbp.Serial(jbp.Parallel(layers.Sigmoid(), layers.Softplus()), losses.PoissonNLL(False, True)), PAIR,
        lambda p, x: F.poisson_nll_loss(x[0].sigmoid(), F.softplus(x[1]), log_input=False, full=True),
    ),
    "Gaussian, variance": (
        jbp.Serial(jbp.Parallel(layers.Identity(), layers.Identity(), layers.Softplus()), losses.GaussianNLL(True)),
        (f(4, 3), f(4, 3), f(4, 1)), lambda p, x: F.gaussian_nll_loss(x[0], x[1], F.softplus(x[2]), full=True),
    ),
    "negative log-likelihood": (
        losses.NLL((0.5, 2.0, 0.0), 1), (f(8, 3), i(8, below=3)),
        lambda p, x: F.nll_loss(x[0], x[1].long(), x[0].new_tensor([0.5, 2.0, 0.0]), ignore_index=1),
    ),
    "KL of logarithms": (
        losses.PerExample(losses.KLDiv(log_target=True)), PAIR,
        lambda p, x: F.kl_div(*x, reduction="batchmean", log_target=True),
    ),
    "KL of probabilities": (
        jbp.Serial(jbp.Parallel(layers.Identity(), layers.Sigmoid()), losses.KLDiv()), PAIR,
        lambda p, x: F.kl_div(x[0], x[1].sigmoid(), reduction="none").mean(),
    ),
    "binary cross-entropy, weights of yes": (
        losses.BinaryCrossEntropy((0.5, 2.0, 0.0, 1.0)), (f(3, 4), yes(3, 4)),
        lambda p, x: F.binary_cross_entropy_with_logits(*x, pos_weight=x[0].new_tensor([0.5, 2.0, 0.0, 1.0])),
    ),
    "binary cross-entropy, weights of elements": (
        losses.Weighted(losses.BinaryCrossEntropy(), normalize=False), (f(3, 4), yes(3, 4), i(3, 4, below=3)),
        lambda p, x: F.binary_cross_entropy_with_logits(x[0], x[1], weight=x[2].double()),
    ),
    "binary cross-entropy of probabilities": (
        jbp.Serial(jbp.Parallel(layers.Sigmoid(), layers.Sigmoid()), losses.BinaryCrossEntropy(given="probabilities")),
        PAIR, lambda p, x: F.binary_cross_entropy(x[0].sigmoid(), x[1].sigmoid()),
    ),
    "cross-entropy, each": (
        losses.Each(losses.SoftmaxCrossEntropy(0.1, (0.5, 2.0, 1.0), 1)), (f(8, 3), i(8, below=3)),
        lambda p, x: entropy(
            weight=x[0].new_tensor([0.5, 2.0, 1.0]), label_smoothing=0.1, ignore_index=1, reduction="none")(p, x),
    ),
    "CTC, by the number of labels": (
        losses.CTC(per_label=True, zero_infinity=True), (f(3, 4, 5), i(3, 3, below=5)), by_label,
    ),
}  # fmt: skip


def to_torch(tree):
    """The arrays of a tree as tensors, the floats among them leaves of autograd's graph; Buffers without one."""
    if isinstance(tree, jbp.Buffer):
        return jax.tree.map(lambda v: v.detach(), to_torch(tree.value))
    if isinstance(tree, dict):
        return {name: to_torch(v) for name, v in tree.items()}
    if isinstance(tree, tuple | list):
        return tuple(map(to_torch, tree))
    return torch.tensor(np.asarray(tree), requires_grad=bool(is_float(tree)))


def gradient(tensor):
    if not tensor.requires_grad:
        return None
    return np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()


def close(got, wanted):
    return np.abs(np.asarray(got) - np.asarray(wanted)).max(initial=0) <= 1e-10 * (1 + np.abs(wanted).max(initial=0))


@pytest.mark.parametrize("name", SAME)
def test_values_and_gradients_are_those_of_pytorch(name):
    layer, spec, theirs = SAME[name]
    x = draw(spec)
    if isinstance(x, dict) and "mask" in x:  # a row that sees nothing is NaN in PyTorch
        x["mask"] = x["mask"].at[:, 0].set(1)
    params = parameters(layer, x)

    @jax.jit
    def ours(params, x, dy):
        y, residuals = layer.forward(params, x)
        return y, layer.pull(params, residuals, dy)

    dy = cotangent(jax.eval_shape(lambda p, x: layer.forward(p, x)[0], params, x))
    y, (dx, grads) = ours(params, x, dy)
    p, t = to_torch(params), to_torch(x)
    there = theirs(p, t)
    assert there.dtype == torch.float64
    there.backward(torch.tensor(np.asarray(dy)))
    assert close(y, there.detach().numpy()), "the values differ"
    for words, mine, tensors in (("x", dx, t), ("the parameters", grads, p)):
        mine = jax.tree.leaves(mine, is_leaf=lambda v: v is None)
        tensors = jax.tree.leaves(tensors, is_leaf=torch.is_tensor)
        for a, b in zip(mine, tensors, strict=True):
            wanted = gradient(b)
            assert a is None if wanted is None else close(a, wanted), f"the gradients of {words} differ"


def test_how_many_were_compared():
    kinds = {type(layer).__name__ for layer, *_ in SAME.values()}
    print(f"{len(SAME)} layers and losses of {len(kinds)} kinds agree with PyTorch {torch.__version__}")
    assert len(SAME) >= 90
