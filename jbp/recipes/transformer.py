"""Transformers of Vaswani et al., *Attention Is All You Need*, 2017: encoder, decoder, and both.

Inputs are arrays (batch, n, width), or dicts of them and what attention looks at beside, by name.
"""

from jbp.combinators import Repeat, Serial
from jbp.combinators.sublayer import Sublayer
from jbp.fields import Size, checked
from jbp.layer import Layer
from jbp.layers.activation import ReLU
from jbp.layers.attention.multihead import MultiHeadAttention
from jbp.layers.linear.dense import Dense
from jbp.layers.norm.features import LayerNorm
from jbp.layers.stochastic.dropout import Dropout
from jbp.layers.structure.join import Identity

SELF = "mask", "bias", "segments"
CROSS = ("mask", "memory_mask"), ("bias", "memory_bias")


def _dropped(*layers: Layer, rate: float) -> tuple[Layer, ...]:
    return (*layers, Dropout(rate)) if rate else layers


def _step(layers: tuple[Layer, ...], norm: Layer, norm_first: bool, takes=(), optional=()) -> tuple[Layer, ...]:
    """x + f(norm(x)), or norm(x + f(x)), and the rest passes."""
    inside = Serial(Sublayer(norm), *layers) if norm_first else Serial(*layers)
    step = Sublayer(inside, takes, optional, residual=True)
    return (step,) if norm_first else (step, Sublayer(norm))


def _feedforward(width: int, hidden: int | None, dropout: float, activation: Layer | None, bias: bool):
    first = Dense(hidden or 4 * width, bias=bias), activation or ReLU()
    return (*_dropped(*first, rate=dropout), *_dropped(Dense(width, bias=bias), rate=dropout))


def _attention(heads: int, dropout: float, bias: bool, causal: bool = False):
    return _dropped(MultiHeadAttention(heads, causal=causal, dropout=dropout or None, bias=bias), rate=dropout)


def _stack(one, layers, norm, bias):
    """`layers` such layers in one scan, a norm after them if `norm`, and y alone of the named inputs."""
    last = LayerNorm(bias=bias) if norm else Identity()
    return Serial(Repeat(one, layers), Sublayer(last, into=None))


@checked
def transformer_encoder_layer(
    width: Size,
    heads: Size,
    hidden: Size | None = None,
    dropout: float = 0.1,
    activation: Layer | None = None,
    norm_first: bool = False,
    bias: bool = True,
    causal: bool = False,
) -> Serial:
    """Self-attention and two linear layers with an activation (ReLU) between, each beside a way around it.

    The norm comes after each, as in the paper and as PyTorch's TransformerEncoderLayer has it, or before each with
    `norm_first`. `hidden` is 4 width unless given. From x (batch, n, width), or {"x": x} with a `mask`, `bias` or
    `segments` as MultiHeadAttention takes them, to the same.

    >>> net, x = jbp.recipes.transformer_encoder_layer(8, heads=2), jnp.ones((1, 6, 8))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net.evaluation(), params, x).shape
    (1, 6, 8)
    """
    attention = _attention(heads, dropout, bias, causal)
    feedforward = _feedforward(width, hidden, dropout, activation, bias)
    first = _step(attention, LayerNorm(bias=bias), norm_first, ("x",), SELF)
    return Serial(*first, *_step(feedforward, LayerNorm(bias=bias), norm_first))


@checked
def transformer_encoder(
    width: Size,
    heads: Size,
    layers: Size = 6,
    hidden: Size | None = None,
    dropout: float = 0.1,
    activation: Layer | None = None,
    norm_first: bool = False,
    bias: bool = True,
    causal: bool = False,
    norm: bool | None = None,
) -> Serial:
    """Several `transformer_encoder_layer`s in one scan: y (batch, n, width) from what the first of them takes.

    A last norm follows if `norm`; unless given, where the norms come first. With `causal` and an embedding before it
    this is a language model.

    >>> net, x = jbp.recipes.transformer_encoder(8, heads=2), jnp.ones((1, 6, 8))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net.evaluation(), params, x).shape
    (1, 6, 8)
    """
    one = transformer_encoder_layer(width, heads, hidden, dropout, activation, norm_first, bias, causal)
    return _stack(one, layers, norm_first if norm is None else norm, bias)


@checked
def transformer_decoder_layer(
    width: Size,
    heads: Size,
    hidden: Size | None = None,
    dropout: float = 0.1,
    activation: Layer | None = None,
    norm_first: bool = False,
    bias: bool = True,
    causal: bool = True,
) -> Serial:
    """`transformer_encoder_layer` with attention to an encoder's output, `memory`, in the middle; causal.

    From {"x": x (batch, n, width), "memory": (batch, m, features)} with `mask`, `bias` and `segments` of x and
    `memory_mask`, `memory_bias` of the memory, if given, to the same. PyTorch's TransformerDecoderLayer has its causal
    mask given: `causal=False` leaves it to `mask`.

    >>> net = jbp.recipes.transformer_decoder_layer(8, heads=2)
    >>> x = {"x": jnp.ones((1, 4, 8)), "memory": jnp.ones((1, 6, 8))}
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net.evaluation(), params, x)["x"].shape
    (1, 4, 8)
    """
    own, other = _attention(heads, dropout, bias, causal), _attention(heads, dropout, bias)
    feedforward = _feedforward(width, hidden, dropout, activation, bias)
    first = _step(own, LayerNorm(bias=bias), norm_first, ("x",), SELF)
    second = _step(other, LayerNorm(bias=bias), norm_first, ("x", ("source", "memory")), CROSS)
    return Serial(*first, *second, *_step(feedforward, LayerNorm(bias=bias), norm_first))


@checked
def transformer_decoder(
    width: Size,
    heads: Size,
    layers: Size = 6,
    hidden: Size | None = None,
    dropout: float = 0.1,
    activation: Layer | None = None,
    norm_first: bool = False,
    bias: bool = True,
    causal: bool = True,
    norm: bool | None = None,
) -> Serial:
    """Several `transformer_decoder_layer`s in one scan: y (batch, n, width). `norm` is as in `transformer_encoder`.

    >>> net = jbp.recipes.transformer_decoder(8, heads=2)
    >>> x = {"x": jnp.ones((1, 4, 8)), "memory": jnp.ones((1, 6, 8))}
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net.evaluation(), params, x).shape
    (1, 4, 8)
    """
    one = transformer_decoder_layer(width, heads, hidden, dropout, activation, norm_first, bias, causal)
    return _stack(one, layers, norm_first if norm is None else norm, bias)


@checked
def transformer(
    width: Size,
    heads: Size,
    encoder_layers: Size = 6,
    decoder_layers: Size = 6,
    hidden: Size | None = None,
    dropout: float = 0.1,
    activation: Layer | None = None,
    norm_first: bool = False,
    bias: bool = True,
    causal: bool = True,
) -> Serial:
    """Encoder and decoder: y (batch, n, width) from {"source": (batch, m, width), "x": (batch, n, width)}.

    The decoder sees what came before and the encoder's output of the whole source. More inputs, if given:
    `source_mask`, `source_bias`; `mask`, `bias`, `segments` of x; `memory_mask`, `memory_bias`, which the decoder looks
    at the source with (give the source's mask again). Both end in a norm, as in PyTorch's Transformer, whose causal
    mask is given, as it is here with `causal=False`.

    >>> net, x = jbp.recipes.transformer(8, heads=2), {"source": jnp.ones((1, 6, 8)), "x": jnp.ones((1, 4, 8))}
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> jax.eval_shape(net.evaluation(), params, x).shape
    (1, 4, 8)
    """
    common = hidden, dropout, activation, norm_first, bias
    encoder = transformer_encoder(width, heads, encoder_layers, *common, norm=True)
    decoder = transformer_decoder(width, heads, decoder_layers, *common, causal=causal, norm=True)
    see = Sublayer(encoder, (("x", "source"),), (("mask", "source_mask"), ("bias", "source_bias")), into="memory")
    return Serial(see, Sublayer(decoder, ("x", "memory"), (*SELF, "memory_mask", "memory_bias"), into=None))
