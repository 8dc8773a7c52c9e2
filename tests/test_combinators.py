"""Combinators are layers: the laws hold of each, of each inside another, and of what they do to buffers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import audit, draw, parameters, reverse

from jbp import (
    Buffer,
    Frozen,
    Graph,
    LayerError,
    Parallel,
    Remat,
    Repeat,
    Residual,
    Reversible,
    Serial,
    Tied,
    TimeDistributed,
    buffers,
    merge,
    trainable,
)
from jbp.cases import f, i
from jbp.catalogue import NAMES
from jbp.layer import Layer
from jbp.layers import (
    Add,
    BatchNorm,
    BatchNormInference,
    Concatenate,
    Conv,
    Dense,
    Dropout,
    Embedding,
    FanOut,
    GlobalMaxPool,
    Identity,
    LayerNorm,
    Logits,
    Select,
    StochasticDepth,
    Tanh,
)
from jbp.sweep import advancing

NOISY = Serial(Dense(4), Dropout(0.5), Tanh(), BatchNorm())  # every kind of state, and it keeps (..., 4)

NETS = {
    "nothing": (Serial(), f(3, 4)),
    "Serial": (Serial(Dense(4), Tanh(), Serial(Dense(2), Tanh())), f(3, 5)),
    "Parallel of a pytree": (Parallel(Dense(2), Parallel(Tanh(), Dense(3))), (f(3, 4), (f(2, 2), f(1, 5)))),
    "fan out and join": (
        Serial(FanOut(3), Parallel(Dense(3), Identity(), Serial(Dense(2), Tanh())), Concatenate()),
        f(3, 4),
    ),
    "names": (
        Serial(
            first=Serial(NOISY, FanOut(("b", "a"))),
            sides=Parallel(b=Dense(4), a=Tied(Serial(x=Dense(4), y=Dense(4)), ((("x",), ("y",)),))),
            sum=Add(),
            last=Repeat(Frozen(Serial(one=Dense(4), two=BatchNorm())), 2),
        ),
        f(3, 4),
    ),
    "Graph": (
        Graph(
            a=(NOISY, "x"),
            b=(Add(), "a", "x"),
            c=(Graph(d=(Dense(4), "left"), e=(Add(), "d", "right", "left")), {"left": "b", "right": "a"}),
            f=(Tied(Graph(one=(Dense(4), "x"), two=(Dense(4), "x")), ((("one",), ("two",)),)), "c"),
            outputs=("f", "x", "a"),
        ),
        f(3, 4),
    ),
    "Graph in Repeat": (Repeat(Graph(a=(NOISY, "x"), b=(Dense(4), "x"), y=(Add(), "a", "b", "x")), 2), f(3, 4)),
    "Graph of named inputs": (
        Graph(
            words=(Embedding(5, 4), "ids"),
            seen=(NOISY, "picture"),
            both=(Concatenate(), "words", "seen"),
            head=(Dense(2), "both"),
            outputs=("head", "seen"),
        ),
        {"ids": i(3, below=5), "picture": f(3, 4)},
    ),
    "Add": (Serial(FanOut(), Parallel(NOISY, Dense(4)), Add()), f(3, 4)),
    "Residual": (Residual(NOISY), f(3, 4)),
    "Residual of a pytree": (Residual(Parallel(Dense(4), Tanh())), (f(3, 4), f(2, 1))),
    "Repeat": (Repeat(Residual(NOISY), 3), f(3, 4)),
    "Repeat without parameters": (Repeat(Tanh(), 2), f(3, 4)),
    "Repeat once": (Repeat(Dense(4), 1), f(3, 4)),
    "Repeat of Repeat": (Repeat(Repeat(Serial(Dense(4), Tanh()), 2), 3), f(3, 4)),
    "Repeat of Remat": (Repeat(Remat(Residual(NOISY)), 3), f(3, 4)),
    "Reversible": (Reversible(NOISY, Serial(Dense(4), Tanh())), f(3, 8)),
    "Reversible of one": (Reversible(NOISY), f(3, 8)),
    "Reversible of three": (Reversible(Dense(4), NOISY, Tanh()), f(2, 3, 8)),
    "Reversible of halves of one": (Reversible(Dense(1), Dropout(0.2)), f(3, 2)),
    "Reversible again and again": (Reversible(NOISY, Serial(Dense(4), Tanh()), times=3), f(3, 8)),
    "Reversible of one, twice": (Reversible(NOISY, times=2), f(3, 8)),
    "Reversible in Repeat": (Repeat(Reversible(Dense(4), NOISY), 2), f(3, 8)),
    "Reversible in Reversible": (Reversible(Reversible(NOISY, Tanh()), Dense(8)), f(3, 16)),
    "TimeDistributed": (TimeDistributed(Serial(Dense(3), NOISY)), f(2, 3, 5)),
    "TimeDistributed of pictures": (TimeDistributed(Serial(Conv(2), GlobalMaxPool())), f(2, 3, 4, 3, 1)),
    "TimeDistributed of a pytree": (TimeDistributed(Parallel(Dense(2), Tanh()), 3), (f(1, 2, 3, 2), f(1, 2, 3))),
    "TimeDistributed in Repeat": (Repeat(TimeDistributed(NOISY), 2), f(2, 3, 4)),
    "named inputs": (
        Serial(Select("a", "b"), Parallel(Embedding(5, 4), Dense(4)), Concatenate(0)),
        {"a": i(3, below=5), "b": f(2, 3), "label": i(2, below=2), "weight": f(3)},
    ),
    "stochastic depth": (Residual(Serial(NOISY, StochasticDepth(0.4))), f(5, 4)),
    "Remat of Repeat": (Remat(Repeat(NOISY, 2)), f(3, 4)),
    "Remat": (Remat(NOISY), f(3, 4)),
    "Repeat of a pytree": (Repeat(Parallel(Dense(4), NOISY), 2), (f(3, 4), f(2, 4))),
    "Tied": (Tied(Serial(Dense(4), Tanh(), Dense(4)), (((0,), (2,)),)), f(3, 4)),
    "Tied in three places": (Tied(Serial(Dense(4), Dense(4), Dense(4)), (((0,), (1,)), ((0,), (2,)))), f(3, 4)),
    "Tied in part": (Tied(Serial(Dense(4), Tanh(), Dense(4)), (((0, "w"), (-1, "w")),)), f(3, 4)),
    "Tied with buffers": (Tied(Serial(NOISY, Tanh(), NOISY), (((0,), (2,)),)), f(3, 4)),
    "Tied inside Repeat": (Repeat(Tied(Serial(NOISY, Tanh(), NOISY), (((0,), (2,)),)), 2), f(3, 4)),
    "Tied table": (
        Tied(Serial(Embedding(5, 4), LayerNorm(), Logits(5)), (((0, "e"), (2, "e")),)),
        i(2, 3, below=5),
    ),
    "Frozen": (Serial(Dense(3), Frozen(Serial(Dense(4), BatchNorm(), Dropout(0.2))), Dense(2)), f(3, 4)),
    "Frozen in Repeat": (Repeat(Frozen(NOISY), 2), f(3, 4)),
    "Repeat in Frozen": (Frozen(Repeat(NOISY, 2)), f(3, 4)),
}  # fmt: skip


EACH = pytest.mark.parametrize(("net", "spec"), NETS.values(), ids=NETS)


@EACH
def test_the_backward_pass_is_that_of_the_definition(net, spec):
    audit(net, draw(spec))


@EACH
def test_a_network_is_a_program(net, spec):
    rebuilt = eval(repr(net), dict(NAMES))
    assert rebuilt == net
    assert hash(rebuilt) == hash(net)


@EACH
def test_advance_moves_every_buffer_and_nothing_else(net, spec):
    x = draw(spec)
    params = parameters(net, x)
    moved = jax.jit(lambda p, x: net.advance(p, net.forward(p, x)[1]))(params, x)
    assert jax.tree.structure(moved) == jax.tree.structure(params)
    for old, new in zip(jax.tree.leaves(trainable(params)), jax.tree.leaves(trainable(moved)), strict=True):
        np.testing.assert_array_equal(old, new)
    old, new = (jax.tree_util.tree_leaves_with_path(buffers(tree)) for tree in (params, moved))
    state = ("'key'", "'mean'", "'variance'", "'steps'")
    for (path, a), (_, b) in zip(old, new, strict=True):
        if any(s in jax.tree_util.keystr(path) for s in state):
            a, b = (jax.random.key_data(v) if jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else v for v in (a, b))
            assert (a != b).any(), jax.tree_util.keystr(path)


@pytest.mark.parametrize(("net", "spec"), list(NETS.values())[1:], ids=list(NETS)[1:])
def test_evaluation_takes_the_same_parameters_and_is_still(net, spec):
    x = draw(spec)
    params = parameters(net, x)
    y, residuals = net.forward(params, x)
    params = net.advance(params, residuals)
    still = net.evaluation()
    assert not advancing(still)
    assert still == net or advancing(net)
    z, residuals = still.forward(params, x)
    assert jax.tree.structure(z) == jax.tree.structure(y)
    _, grads = still.pull(params, residuals, z)
    assert jax.tree.structure(grads) == jax.tree.structure(trainable(params))


def test_each_place_of_a_tie_and_each_step_of_a_repeat_has_buffers_of_its_own():
    layer = Serial(Dense(4), Dropout(0.5))
    net = Repeat(Tied(Serial(layer, Tanh(), layer), (((0,), (2,)),)), 2)
    x = draw(f(3, 4))
    params = parameters(net, x)
    keys = [np.asarray(jax.random.key_data(params[place][1]["key"].value)) for place in (0, 2)]
    drawn = {row.tobytes() for key in keys for row in key}
    assert len(drawn) == 4
    assert params[2][0] == {"w": None, "b": None}


def test_an_evaluated_batch_norm_uses_what_training_left():
    net, x = Serial(BatchNorm(momentum=0.0), Dense(2)), draw(f(7, 4))
    params = parameters(net, x)
    params = net.advance(params, net.forward(params, x)[1])
    y, _ = net.forward(params, x)
    assert net.evaluation().layers[0] == BatchNormInference()
    np.testing.assert_allclose(net.evaluation().forward(params, x)[0], y, rtol=1e-12)


def test_freezing_is_marking():
    net, x = Serial(Dense(4), Tanh(), Dense(2)), draw(f(3, 5))
    params = parameters(net, x)
    frozen = Serial(Frozen(net.layers[0]), *net.layers[1:])
    _, (grads, dx), _ = reverse(frozen, (Buffer(params[0]), *params[1:]), x, jnp.ones((3, 2)))
    _, (whole, dx_whole), _ = reverse(net, params, x, jnp.ones((3, 2)))
    assert grads[0] is None
    np.testing.assert_array_equal(dx, dx_whole)
    np.testing.assert_array_equal(grads[2]["w"], whole[2]["w"])


def _temporary(net, x):
    """Bytes of working memory of a compiled loss and gradient, on this machine."""
    params = parameters(net, x, dtype="float32")

    def run(params, x):
        y, residuals = net.forward(params, x)
        return y.sum(), net.pull(params, residuals, jnp.ones_like(y))

    return jax.jit(run).lower(params, x).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.usefixtures("optimized")
def test_remat_keeps_its_input_alone_and_runs_again():
    body = Residual(Serial(LayerNorm(), Dense(256), Tanh(), Dense(16)))
    x = draw(f(64, 16), dtype="float32")
    params = parameters(Remat(body), x, dtype="float32")
    assert Remat(body).forward(params, x)[1] is x
    plain, again = (_temporary(Repeat(layer, 24), x) for layer in (body, Remat(body)))
    print(f"working memory of 24 blocks: {plain} bytes, {again} with Remat")
    assert again < plain / 4
    unrolled = [_temporary(Serial(*[layer] * 12), x) for layer in (body, Remat(body))]
    print(f"working memory of 12 blocks in a row: {unrolled[0]} bytes, {unrolled[1]} with Remat")
    assert unrolled[1] < unrolled[0] / 4


@pytest.mark.usefixtures("optimized")
@pytest.mark.slow
def test_the_memory_of_a_reversible_stack_does_not_grow_with_depth():
    x = draw(f(64, 32), dtype="float32")
    f_and_g = [Serial(LayerNorm(), Dense(64), Tanh(), Dense(16))] * 2

    def beyond(net):  # gradients leave as outputs, they are not working memory
        assert [v.shape for v in jax.tree.leaves(net.forward(parameters(net, x, dtype="float32"), x)[1])] == [x.shape]
        return _temporary(net, x)

    scanned = [beyond(Reversible(*f_and_g, times=times)) for times in (3, 24)]
    unrolled = [beyond(Reversible(*f_and_g * n)) for n in (3, 12)]
    plain = [_temporary(Repeat(Residual(Serial(LayerNorm(), Dense(64), Tanh(), Dense(32))), n), x) for n in (3, 24)]
    print(f"working memory of 3 and 24 blocks: {scanned}; without: {plain}; of 3 and 12 blocks in a row: {unrolled}")
    assert scanned[1] < 1.1 * scanned[0]
    assert unrolled[1] < 1.5 * unrolled[0]
    assert plain[1] > 4 * plain[0]


@pytest.mark.parametrize("times", [None, 20])
def test_a_reversible_stack_gives_its_input_back_but_for_rounding(times):
    net = Reversible(*[Serial(LayerNorm(), Dense(4), Tanh())] * 2, times=times)
    for dtype, eps in (("float64", 1e-14), ("float32", 1e-5)):
        x = draw(f(5, 8), dtype=dtype)
        params = parameters(net, x, dtype=dtype)
        y = net.forward(params, x)[0]
        assert abs(y - x).max() > 0.1
        np.testing.assert_allclose(net.inputs(params, y), x, atol=eps * (times or 1))


def test_stochastic_depth_leaves_out_whole_examples():
    layer, x = StochasticDepth(0.4), draw(f(2000, 3, 2)) + 10
    y = layer.forward(layer.init(jax.random.key(0), x), x)[0]
    dropped = (y == 0).all((1, 2))
    np.testing.assert_array_equal(y[~dropped], x[~dropped] / (1 - 0.4))
    assert abs(dropped.mean() - 0.4) < 0.05


def test_a_repeat_is_one_loop_each_way_however_often():
    def text(times, way):
        net, x = Repeat(Serial(Dense(4), Tanh()), times), draw(f(3, 4))
        params = parameters(net, x)
        dy = jnp.ones((3, 4))
        forward = jax.make_jaxpr(net.forward)(params, x)
        residuals = net.forward(params, x)[1]
        return str(forward if way == "forward" else jax.make_jaxpr(net.pull)(params, residuals, dy))

    for way in ("forward", "pull"):
        short, long = text(2, way), text(50, way)
        assert short.count("scan[") == long.count("scan[") == 1
        assert short.count("\n") == long.count("\n")


def test_pull_in_a_repeat_stores_no_deltas():
    net, x = Repeat(Serial(Dense(4), Tanh()), 5), draw(f(3, 4))
    params = parameters(net, x)
    _, residuals = net.forward(params, x)
    apart = jax.make_jaxpr(net.backward)(params, residuals, jnp.ones((3, 4)))
    together = jax.make_jaxpr(net.pull)(params, residuals, jnp.ones((3, 4)))
    assert (5, 3, 4) in {v.aval.shape for v in apart.jaxpr.outvars}
    assert (5, 3, 4) not in {v.aval.shape for v in together.jaxpr.outvars}


def test_scan_over_stacked_parameters_is_the_same_as_layers_in_a_row():
    body, x = Serial(Dense(4), Tanh()), draw(f(3, 4))
    stacked = parameters(Repeat(body, 3), x)
    row = tuple(jax.tree.map(lambda p, k=k: p[k], stacked) for k in range(3))
    one, two = Repeat(body, 3), Serial(body, body, body)
    y, (grads, dx), _ = reverse(one, stacked, x, jnp.ones((3, 4)))
    z, (each, dz), _ = reverse(two, row, x, jnp.ones((3, 4)))
    np.testing.assert_allclose(y, z, rtol=1e-14)
    np.testing.assert_allclose(dx, dz, rtol=1e-12)
    np.testing.assert_allclose(grads[0]["w"], jnp.stack([g[0]["w"] for g in each]), rtol=1e-12)


def test_every_path_into_a_subtree_can_be_tied():
    net = Tied(Serial(Serial(Dense(4), Tanh()), Serial(Dense(4), Tanh())), (((0,), (1,)),))
    params = audit(net, draw(f(3, 4)))
    assert params[1] == ({"w": None, "b": None}, ())
    assert merge(trainable(params), buffers(params)) is not params


def test_layers_of_any_origin_join():
    class Twice(Layer):
        def forward(self, params, x, /):
            return 2 * x, ()

        def backward(self, params, residuals, dy, /):
            return 2 * dy, ()

    audit(Serial(Twice(), Dense(2)), draw(f(3, 4)))


NAMED = Serial(encoder=Serial(Dense(4), Tanh()), middle=Residual(Dense(4)), head=Dense(2))


def test_layers_inside_are_found_by_place_slice_and_name():
    net = Serial(Dense(4), Tanh(), Dense(2))
    assert (net[0], net[-1], len(net), list(net)) == (Dense(4), Dense(2), 3, [Dense(4), Tanh(), Dense(2)])
    assert net[1:] == Serial(Tanh(), Dense(2))
    assert NAMED["head"] == NAMED[2] == Dense(2)
    assert NAMED[:2] == Serial(encoder=NAMED["encoder"], middle=NAMED["middle"])
    assert Serial()
    assert Parallel(a=Tanh(), b=Dense(1))[::-1] == Parallel(b=Dense(1), a=Tanh())
    with pytest.raises(KeyError, match="'tail'; the layers of this Serial are"):
        NAMED["tail"]
    with pytest.raises(IndexError):
        net[3]


def test_parameters_lie_under_the_names():
    x = draw(f(3, 5))
    params = parameters(NAMED, x)
    assert set(params) == {"encoder", "middle", "head"}
    assert repr(NAMED) == ("Serial(encoder=Serial(Dense(4), Tanh()), middle=Residual(Dense(4)), head=Dense(2))")
    assert eval(repr(NAMED), NAMES) == NAMED != Serial(*NAMED)
    inside = NAMED["encoder"](params["encoder"], x)
    y = NAMED["head"](params["head"], NAMED["middle"](params["middle"], inside))
    np.testing.assert_allclose(NAMED(params, x), y, rtol=1e-14)
    part = NAMED[1:]
    np.testing.assert_allclose(part({k: params[k] for k in ("middle", "head")}, inside), y, rtol=1e-14)
    y, residuals = NAMED.forward(params, x)
    _, delta = NAMED.backward(params, residuals, y)
    assert all(set(tree) == set(params) for tree in (residuals, delta, NAMED.gradient(residuals, delta)))


def test_a_named_parallel_takes_and_gives_a_dict():
    net = Parallel(image=Dense(2), text=Tanh())
    x = {"text": draw(f(3)), "image": draw(f(3, 4))}
    params = parameters(net, x)
    y = net(params, x)
    np.testing.assert_allclose(y["text"], np.tanh(x["text"]), rtol=1e-14)
    np.testing.assert_allclose(y["image"], x["image"] @ params["image"]["w"] + params["image"]["b"][None], rtol=1e-14)
    with pytest.raises(LayerError, match=r"got inputs \(float.*expected a dict with 'image', 'text', one for each"):
        net.forward(params, (x["image"], x["text"]))


def test_errors_show_the_name():
    params = NAMED.init(jax.random.key(0), draw(f(3, 5)))
    with pytest.raises(LayerError, match=r"^Serial\.encoder\.Serial\[0\]: Dense\(4\): got "):
        NAMED.forward(params, draw(f(3, 6)))
    with pytest.raises(LayerError, match=r"got parameters \(\); expected a dict with 'encoder', 'middle', 'head', one"):
        NAMED.forward((), draw(f(3, 5)))
    with pytest.raises(LayerError, match=r"got 2 layers and the names head; expected a name for each, or none\. Write"):
        Serial(Dense(2), head=Dense(3))
    with pytest.raises(LayerError, match=r"got the name 'a b'; expected one that Python takes\. Try"):
        Serial(**{"a b": Dense(3)})
