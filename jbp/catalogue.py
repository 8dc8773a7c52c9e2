"""Every case of every layer, the combinators' too. Audits, random networks and benchmarks find layers here.

The cases of a family stand at the end of its file; here are those that need more than one family. Random networks put a
layer wherever an array with as many axes as one of its inputs arrives and the layer accepts it. Simpler layers come
first: a failing network shrinks towards the head of the list.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jbp
from jbp import combinators, credit, layers, losses
from jbp.cases import ANY, Case, f, i
from jbp.curvature.diagonal import diagonal
from jbp.curvature.products import ggn, hessian, joined
from jbp.layer import Estimator, Layer
from jbp.readers.per_example import swept
from jbp.readers.push import push
from jbp.train import inside, start, step


@dataclass(frozen=True)
class Form:
    """A way to make a layer out of others: `build(*networks)`, one for each of `keeps`.

    keeps[k] says whether network k must have an output shaped like its input.
    """

    name: str
    build: Callable[..., Layer]
    keeps: tuple[bool, ...]


@dataclass(frozen=True)
class Catalogue:
    """What random networks are made of. `serial(*layers)` joins layers in a row; `names` is what their reprs need.

    `with_loss(net, loss, n)` takes (x, t_1, ..., t_n) and gives the loss of (net's output, t_1, ..., t_n).
    """

    layers: tuple[Case, ...]
    forms: tuple[Form, ...]
    losses: tuple[Case, ...]
    serial: Callable[..., Layer]
    with_loss: Callable[[Layer, Layer, int], Layer]
    names: Mapping[str, Any]
    estimators: tuple[Case, ...] = ()  # their backward pass is not that of their definition: audited, but in no network
    function: Callable[[Layer], Callable[..., Any]] | None = None  # f(params, x) -> (y, advanced) of a layer
    further: Mapping[str, Callable[..., Any]] = field(default_factory=dict)  # (layer, params, x, dy) -> two equal trees
    curvature: Mapping[str, Callable[..., Any]] = field(default_factory=dict)  # (layer, params, x, target, v) -> M v

    def __repr__(self):
        return "jbp.catalogue.catalogue()"  # and not hundreds of lines


def _elman(n: int) -> Layer:
    return jbp.Serial(layers.Concatenate(), layers.Dense(n), layers.Tanh(), layers.FanOut())


def _normed(n: int) -> Layer:
    return jbp.Serial(layers.Concatenate(), layers.Dense(n), layers.BatchNorm(), layers.FanOut())


def _leaf(a: Layer) -> Layer:
    return jbp.Serial(a, layers.LSTMLeaf(2))


def _balanced(n: int) -> Layer:
    """The loss of what experts add to the network's output, and of their balance, which goes along beside it."""
    experts = jbp.Serial(layers.Select(0), layers.MixtureOfExperts(layers.Dense(n), 3, 2, None))
    output = jbp.Serial(layers.WithTotal(), jbp.Residual(experts))
    return jbp.Serial(jbp.Parallel(output, layers.Identity()), losses.Penalized(losses.Huber(), 0.5))


def _headed() -> Layer:
    """Two losses of one prediction, each under its name."""
    both = layers.FanOut(("near", "far"))
    return jbp.Serial(jbp.Parallel(both, both), losses.Total(near=losses.Huber(), far=(losses.LogCosh(), 0.3)))


def _every_one() -> Layer:
    """One loss of two outputs that have the same target."""
    return jbp.Serial(jbp.Parallel(layers.FanOut(), layers.Identity()), credit.EachOutput(losses.MeanSquaredError()))


LAYERS = (
    *(case for case in layers.CASES if not isinstance(case.layer, Estimator)),
    Case(layers.Bidirectional(layers.Dropout(0.3)), f(2, 5, 3)),
    Case(layers.Lengths(jbp.Serial(layers.Elman(3), layers.GRU(2))), (f(2, 5, 3), i(2, below=6))),
    Case(jbp.Serial(layers.GRU(3), layers.MinimalGRU(2)), f(2, 5, 3)),
    Case(layers.Recurrent(_elman(3), 3), f(2, 5, 3)),
    Case(layers.Recurrent(_normed(2), 2), f(3, 4, 1)),
    Case(jbp.Serial(jbp.Parallel(layers.LSTMLeaf(2), layers.Identity()), layers.Recursive(layers.LSTMNode())),
         (f(2, 3, 5), i(2, 3, 2, below=3))),
    Case(
        jbp.Serial(
            body=layers.FanOut(("right", "left")),
            heads=jbp.Parallel(right=layers.Dense(2), left=layers.Tanh()),
            joined=layers.Concatenate(),
        ),
        *ANY,
    ),
    Case(
        jbp.Serial(
            jbp.Graph(
                seen=(layers.Dense(3), "x"),
                both=(layers.Concatenate(), "seen", "x"),
                left=(layers.Tanh(), "seen"),
                right=(layers.Dense(2), "both"),
                outputs=("right", "both", "left", "x"),
            ),
            layers.Concatenate(),
        ),
        *ANY,
    ),
    Case(
        jbp.Graph(
            words=(layers.Embedding(5, 4), "ids"),
            found=(layers.MultiHeadAttention(2), {"x": "words", "mask": "mask"}),
            y=(layers.Add(), "found", "words"),
        ),
        {"ids": i(2, 3, below=5), "mask": i(2, 3, below=2)},
    ),
    Case(layers.MixtureOfExperts(layers.Dense(3), 2), f(3, 5), f(2, 3, 5)),
    Case(
        layers.MixtureOfExperts(jbp.Serial(layers.Dense(8), layers.Tanh(), layers.Dense(5)), 3, k=2, capacity=0.8),
        f(2, 5, 5),
        (f(2, 5, 5), i(2, 5, below=2)),
    ),
    Case(jbp.Serial(layers.MixtureOfExperts(layers.Dense(5), 3, 2, None), layers.Select(0)), *ANY),
    Case(jbp.Remat(layers.Embedding(5, 2)), i(2, 3, below=5)),
    Case(jbp.TimeDistributed(layers.Conv(2, (2,))), f(2, 3, 5, 2)),
    Case(jbp.Reversible(layers.Dense(1), layers.Tanh()), f(3, 2), f(2, 3, 2)),  # halves that differ: not so in a form
    Case(jbp.Reversible(layers.Sin(), layers.LayerNorm(), times=2), f(2, 3, 8), f(2, 1, 3, 8)),
    Case(jbp.LowRankAdapter(layers.Dense(3), ("w",), 1), f(3, 5)),
    Case(jbp.LowRankAdapter(layers.MultiHeadAttention(2, dropout=0.3), ("q", "v", "o"), 2), f(2, 3, 4)),
    Case(jbp.LowRankAdapter(jbp.Repeat(jbp.Serial(layers.Conv(2, (3,)), layers.LSTM(2)), 2), ((0, "w"), "u"), 1, 2.0),
         f(2, 5, 2)),
    Case(jbp.Sublayer(layers.MultiHeadAttention(2), ("x",), ("mask",), residual=True),
         f(2, 3, 4), {"x": f(2, 3, 4), "other": f(2)}),
    Case(jbp.Sublayer(layers.MultiHeadAttention(1), ("x", ("source", "memory")), ("mask", ("bias", "more")), into=None),
         {"x": f(2, 3, 2), "memory": f(2, 5, 3), "more": f(1, 1, 3, 5), "mask": i(2, 5, below=2), "other": f(2)}),
    Case(jbp.Serial(layers.MaxPool(2, return_indices=True), layers.MaxUnpool(2)), f(2, 4, 3), f(1, 2, 4, 2)),
    Case(jbp.Serial(layers.MaxPool(3, 1, "SAME", return_indices=True), layers.Select(0)), f(1, 2, 3, 2)),
    Case(jbp.Serial(layers.AdaptiveMaxPool(2, return_indices=True), layers.Select(0)), f(1, 4, 3)),
    Case(jbp.Serial(layers.ElmanCell(3), layers.Select(0)), (f(2, 5), f(2, 3))),
    Case(jbp.Serial(layers.GRUCell(3), layers.Select(0)), (f(2, 5), f(2, 3))),
    Case(jbp.Serial(layers.MinimalGRUCell(3), layers.Select(1)), (f(2, 5), f(2, 3))),
    Case(jbp.Serial(layers.LSTMCell(3), layers.Select(0)), (f(2, 5), (f(2, 3), f(2, 3)))),
)  # fmt: skip

FORMS = (
    Form("Residual", jbp.Residual, (True,)),
    Form("Remat", jbp.Remat, (False,)),
    Form("Keep", lambda a: combinators.Keep(a, memory="host"), (False,)),
    Form("Frozen", jbp.Frozen, (False,)),
    Form("Parallel, Add", lambda a, b: _joined(a, b, layers.Add()), (True, True)),
    Form("Parallel, Concatenate", lambda a, b: _joined(a, b, layers.Concatenate()), (True, True)),
    Form("Parallel, Bilinear", lambda a, b: _joined(a, b, layers.Bilinear(3)), (True, True)),
    Form("Parallel, Concatenate on axis 1", lambda a, b: _joined(a, b, layers.Concatenate(1)), (True, True)),
    Form(  # the halves are x twice
        "Reversible", lambda a, b: jbp.Serial(layers.FanOut(), layers.Concatenate(), jbp.Reversible(a, b)), (True, True)
    ),
    Form("TimeDistributed", lambda a: jbp.TimeDistributed(a, 1), (False,)),  # with more axes its inside sees less
    Form("Passing, MemoryHop", lambda a, b: _asked(a, b), (True, True)),
    Form(
        "Parallel, LSTMNode",
        lambda a, b: jbp.Serial(_joined(_leaf(a), _leaf(b), layers.LSTMNode()), layers.Select(0)),
        (True, True),
    ),
    Form("Tied", lambda a, b: jbp.Tied(jbp.Serial(a, b, a), (((0,), (2,)),)), (True, True)),
    Form("Graph", lambda a, b: jbp.Graph(a=(a, "x"), b=(b, "a"), y=(layers.Add(), "a", "x", "b", "a")), (True, True)),
    Form("Repeat", lambda a: jbp.Repeat(a, 3), (True,)),
)

LOSSES = (
    *losses.CASES,
    Case(_balanced(2), (f(3, 2), f(3, 2)), (f(2, 3, 2), f(2, 3, 2))),
    Case(_balanced(5), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5))),
    Case(_balanced(8), (f(3, 8), f(3, 8))),
    Case(_headed(), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5))),
    Case(_every_one(), (f(3, 5), f(3, 5)), (f(2, 3, 5), f(2, 3, 5))),
    *credit.LOSSES,
)


ESTIMATORS = (
    *(case for case in layers.CASES if isinstance(case.layer, Estimator)),
    *(
        Case(combinators.Keep(jbp.Serial(layers.Dense(8), layers.LayerNorm(), layers.Tanh()), dtype, least=1), f(3, 5))
        for dtype in ("bfloat16", "float8", "int8")
    ),
    *credit.CASES,
)

NAMES = {
    name: vars(home)[name] for home in (layers, losses, credit, combinators, jbp) for name in home.__all__
}  # what a repr needs


def catalogue() -> Catalogue:
    """What `verify` finds under this package's entry point."""
    function = partial(jbp.as_function, has_aux=True)
    return Catalogue(LAYERS, FORMS, LOSSES, jbp.Serial, _with_loss, NAMES, ESTIMATORS, function, FURTHER, CURVATURE)


def _examples(layer: Layer, params: Any, x: Any, dy: Any) -> tuple[Any, Any] | None:
    """Norms and a weighted sum of the examples' gradients, out of one sweep, and of the gradient of each by itself.

    What draws random numbers draws others for one example: the network is asked as it is in evaluation.
    """
    net, leaves = layer.evaluation(), jax.tree.leaves((x, dy))
    if not leaves[0].ndim or len({v.shape[:1] for v in leaves}) > 1:
        return None
    b = leaves[0].shape[0]
    weights = jnp.linspace(-1, 2, b, dtype=leaves[0].dtype if jnp.issubdtype(leaves[0].dtype, jnp.floating) else None)
    try:
        found = swept(net, params, x, lambda y: (jnp.zeros(b), dy))
    except jbp.LayerError:  # of what mixes the examples
        return None

    def alone(x, dy):
        x, dy = jax.tree.map(lambda v: v[None], (x, dy))
        return net.pull(params, net.forward(params, x)[1], dy)[1]

    each = jax.vmap(alone)(x, dy)
    squares = [jnp.square(g).sum(range(1, g.ndim)) for g in jax.tree.leaves(each)]
    total = jax.tree.map(lambda g: jnp.tensordot(weights.astype(g.dtype), g, 1), each)
    return (found.norms**2, found.weighted(weights)), (sum(squares, jnp.zeros(b)), total)


def _inside(layer: Layer, params: Any, x: Any, dy: Any) -> tuple[Any, Any] | None:
    """A step with clipping and the optimizer inside of the sweep, and one with both after it."""
    y = jax.eval_shape(lambda: layer.forward(params, x)[0])
    if not isinstance(y, jax.ShapeDtypeStruct) or not jnp.issubdtype(y.dtype, jnp.floating):
        return None
    loss, rule, key = losses.MeanSquaredError(), optax.sgd(0.1, momentum=0.9), jax.random.key(0)
    after = optax.chain(optax.clip_by_global_norm(0.5), rule)
    found = []
    for begin, move in (
        (inside.start(layer, rule, key, x), inside.step(layer, loss, rule, 0.5)),
        (start(layer, after, key, x), step(layer, loss, after)),
    ):
        state, metrics = move(replace(begin, params=params), x, dy)
        found.append((jbp.trainable(state.params), metrics["loss"], metrics["norm"]))
    return found[0], found[1]


def _tangents(layer: Layer, params: Any, x: Any, dy: Any) -> tuple[Any, Any] | None:
    """⟨dy, J v⟩ and ⟨Jᵀ dy, v⟩ for a direction v of the inputs and the parameters."""
    down = layer.pull(params, layer.forward(params, x)[1], dy)
    v = jax.tree.map(lambda d: jnp.cos(jnp.arange(d.size, dtype=d.dtype)).reshape(d.shape), down)
    dots = [jax.tree.map(jnp.vdot, *pair) for pair in ((dy, push(layer)(params, x, *v)[1]), (down, v))]
    up, below = (sum(jax.tree.leaves(each), jnp.zeros(())) for each in dots)
    return up, below


def _diagonal(layer: Layer, params: Any, x: Any, dy: Any) -> tuple[Any, Any] | None:
    """The diagonal of the Gauss-Newton matrix, out of the squares of examples, and of the matrix written out."""
    net, loss = layer.evaluation(), losses.MeanSquaredError()
    if not 0 < sum(leaf.size for leaf in jax.tree.leaves(jbp.trainable(params))) <= MOST or not hasattr(dy, "shape"):
        return None
    try:
        found = diagonal(net, loss, "exact")(params, x, dy)
        matrix = ggn(net, loss)(params, x, dy).dense()
    except jbp.LayerError:  # of what mixes the examples, or does not give one array of them
        return None
    return joined(found), jnp.diagonal(matrix)


def _product(matrix: Any, layer: Layer, params: Any, x: Any, target: Any, v: Any) -> Any:
    """What a matrix of the mean squared error makes of v; None where the layer does not allow it."""
    try:
        whole = matrix(layer, losses.MeanSquaredError())(params, x, target)
        return whole @ jax.tree.unflatten(jax.tree.structure(jbp.trainable(params)), jax.tree.leaves(v))
    except jbp.LayerError:
        return None


MOST = 60  # trained numbers of a network whose matrix is written out
CURVATURE = {"Hessian": partial(_product, hessian), "Gauss-Newton": partial(_product, ggn)}
FURTHER = {"per-example norms and sums": _examples, "clipping and the optimizer inside of the sweep": _inside,
           "tangents": _tangents, "diagonal of the curvature": _diagonal}  # fmt: skip


def _joined(a: Layer, b: Layer, join: Layer) -> Layer:
    return jbp.Serial(layers.FanOut(), jbp.Parallel(a, b), join)


def _asked(a: Layer, b: Layer) -> Layer:
    """Two hops over what b makes of a sequence, asked with the mean of what a makes of it."""
    query = jbp.Serial(a, layers.GlobalAveragePool())
    hops = jbp.Passing(layers.MemoryHop()), layers.MemoryHop(linear=True)
    return jbp.Serial(layers.FanOut(), jbp.Parallel(query, b), *hops)


def _with_loss(net: Layer, loss: Layer, targets: int) -> Layer:
    return jbp.Serial(jbp.Parallel(net, *[layers.Identity()] * targets), loss)
