"""Layers as modules of Flax, Equinox and Haiku, over many steps, beside the same model of theirs; theirs as layers."""

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from oracle import assert_near, audit, draw

import jbp
from jbp import LayerError, Residual, Serial
from jbp.bridge import equinox as our_equinox, linen as our_linen, nnx as our_nnx
from jbp.bridge.foreign import Lambda
from jbp.cases import f, i
from jbp.layers import BatchNorm, Dense, Dropout, Embedding, Tanh

KEY, STEPS, RATE = jax.random.key(0), 30, 0.3
X = jax.random.normal(KEY, (8, 3), "float32")
T = jnp.sin(X[:, :1] * 2)
NET = Serial(hidden=Dense(5), norm=BatchNorm(), act=Tanh(), out=Dense(1))
pytestmark = pytest.mark.usefixtures("lenient")


def test_flax_nnx_beside_its_own_model():
    class Theirs(nnx.Module):
        def __init__(self, rngs):
            self.hidden, self.out = nnx.Linear(3, 5, rngs=rngs), nnx.Linear(5, 1, rngs=rngs)
            self.norm = nnx.BatchNorm(5, momentum=0.9, epsilon=1e-5, rngs=rngs)

        def __call__(self, x):
            return self.out(jnp.tanh(self.norm(self.hidden(x))))

    ours, theirs = our_nnx.Module(NET, X, rngs=nnx.Rngs(0)), Theirs(nnx.Rngs(1))
    for name, layer in (("hidden", theirs.hidden), ("out", theirs.out)):
        layer.kernel.set_value(ours.params[f"{name}/w"].get_value())
        layer.bias.set_value(ours.params[f"{name}/b"].get_value())

    @nnx.jit
    def step(model, optimizer):
        value, grads = nnx.value_and_grad(lambda model: ((model(X) - T) ** 2).mean())(model)
        optimizer.update(model, grads)
        return value

    losses = []
    for model in (ours, theirs):
        optimizer = nnx.Optimizer(model, optax.sgd(RATE), wrt=nnx.Param)
        losses.append([float(step(model, optimizer)) for _ in range(STEPS)])
        model.eval()
    np.testing.assert_allclose(*losses, rtol=2e-4)
    assert losses[0][-1] < losses[0][0] / 2
    np.testing.assert_allclose(ours(X), theirs(X), rtol=1e-3, atol=1e-5)  # by the statistics of thirty steps
    assert ours.buffers.get_value()["norm"]["steps"].value == STEPS


def test_flax_linen_beside_its_own_model():
    class Theirs(linen.Module):
        @linen.compact
        def __call__(self, x, deterministic=False):
            x = linen.BatchNorm(deterministic, momentum=0.9)(linen.Dense(5)(x))
            return linen.Dense(1)(jnp.tanh(x))

    def train(model, variables, collection):
        def value(params, rest):
            y, moved = model.apply({"params": params, **rest}, X, mutable=[collection])
            return ((y - T) ** 2).mean(), moved

        params, rest, losses = variables["params"], {collection: variables[collection]}, []
        step = jax.jit(jax.value_and_grad(value, has_aux=True))
        for _ in range(STEPS):
            (loss, rest), grads = step(params, rest)
            params = jax.tree.map(lambda p, g: p - RATE * g, params, grads)
            losses.append(float(loss))
        return losses, model.apply({"params": params, **rest}, X, deterministic=True)

    ours = our_linen.Module(NET)
    first = ours.init(KEY, X)
    w = first["params"]["layer"]
    theirs = Theirs().init(KEY, X)
    named = {"Dense_0": w["hidden"], "Dense_1": w["out"]}
    dense = {name: {"kernel": layer["w"], "bias": layer["b"]} for name, layer in named.items()}
    one, y = train(ours, first, "buffers")
    two, z = train(Theirs(), {**theirs, "params": {**theirs["params"], **dense}}, "batch_stats")
    np.testing.assert_allclose(one, two, rtol=2e-4)
    np.testing.assert_allclose(y, z, rtol=1e-3, atol=1e-5)


def test_equinox_beside_its_own_model():
    net = Serial(one=Dense(5), norm=BatchNorm(), drop=Dropout(0.0), act=Tanh(), two=Dense(1))
    model, state = eqx.nn.make_with_state(our_equinox.Module)(net, X, key=KEY)
    params = model.params
    own = jax.tree.map(jnp.array, params)

    def plain(p, x):  # batch normalization as Equinox users write it
        h = x @ p["one"]["w"] + p["one"]["b"]
        h = (h - h.mean(0)) / jnp.sqrt(h.var(0) + net["norm"].epsilon) * p["norm"]["g"] + p["norm"]["b"]
        return jnp.tanh(h) @ p["two"]["w"] + p["two"]["b"]

    @eqx.filter_jit
    def step(model, state):
        def value(model, state):
            y, state = model(X, state)
            return ((y - T) ** 2).mean(), state

        (loss, state), grads = eqx.filter_value_and_grad(value, has_aux=True)(model, state)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -RATE * g, grads)), state, loss

    theirs = jax.jit(jax.value_and_grad(lambda p: ((plain(p, X) - T) ** 2).mean()))
    for _ in range(STEPS):
        model, state, loss = step(model, state)
        wanted, grads = theirs(own)
        own = jax.tree.map(lambda p, g: p - RATE * g, own, grads)
        np.testing.assert_allclose(loss, wanted, rtol=1e-3)
    assert state.get(model.index)["norm"]["steps"].value == STEPS
    quiet = eqx.nn.inference_mode(model)
    y, after = quiet(X, state)
    assert_near(after.get(model.index)["norm"], state.get(model.index)["norm"], 0)
    assert abs(y - T).mean() < 0.3


def test_haiku_over_many_steps():
    hk = pytest.importorskip("haiku")
    from jbp.bridge import haiku as our_haiku

    f = hk.transform_with_state(lambda x, deterministic=False: our_haiku.Module(NET)(x, deterministic))
    params, state = f.init(KEY, X)
    losses = []
    for _ in range(3):
        (loss, state), grads = jax.value_and_grad(
            lambda p, state: (lambda y, s: (((y - T) ** 2).mean(), s))(*f.apply(p, state, None, X)), has_aux=True
        )(params, state)
        params = jax.tree.map(lambda p, g: p - RATE * g, params, grads)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert state["module"]["buffers"]["norm"]["steps"].value == 3


@pytest.mark.parametrize(
    ("layer", "spec"),
    [
        (Lambda(jnp.sin), f(3, 4)),
        (Residual(Lambda(lambda x: jnp.cumsum(x, 0) ** 2)), f(3, 4)),
        (jbp.Repeat(Lambda(lambda p, x: x @ p, lambda key, x: jnp.eye(4) * 0.5), 2), f(3, 4)),
        (Serial(Embedding(5, 2), Lambda(lambda x: jnp.sort(x, -1)), Dense(2)), i(3, below=5)),
        (Lambda(lambda x: x[0] * x[1].astype(x[0].dtype)), (f(3), i(3, below=4))),
    ],
    ids=["sin", "in Residual", "in Repeat", "in Serial", "integers"],
)
def test_a_function_of_somebody_elses_is_a_layer(layer, spec):
    with jax.enable_x64(True):
        audit(layer, draw(spec))


def test_a_foreign_module_is_a_layer_and_says_so(tmp_path):
    model = eqx.nn.MLP(4, 2, 3, 1, key=KEY)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def run(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    net = Serial(Dense(4), Lambda(run, lambda key, x: jax.tree.leaves(params)))
    assert "test_modules.test_a_foreign_module" in repr(net)
    assert net[1].autodiff
    assert "Lambda(" in str(jbp.summary(Lambda(jnp.sin), X))
    with pytest.raises(LayerError, match=r"got f=int; expected a function\. Write Lambda"):
        Lambda(3)
    jbp.save(tmp_path / "p", Serial(Lambda(jnp.sin), Dense(2)), Dense(2).init(KEY, X))
    assert jbp.load(tmp_path / "p", net=Serial(Lambda(jnp.sin), Dense(2)))[0][0] == Lambda(jnp.sin)
