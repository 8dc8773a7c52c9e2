"""Each recipe takes what its docstring says and gives what it says; traced only, for the examples train them."""

import inspect

import jax
import jax.numpy as jnp
import pytest

import jbp
from jbp import recipes, trainable
from jbp.catalogue import NAMES


def f(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def i(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


LSTM = jbp.layers.LSTM(16)
CASES = {
    "single_layer": (recipes.single_layer(3), f(4, 13), [(4, 3)]),
    "logistic_regression": (recipes.logistic_regression(), f(4, 30), [(4, 1)]),
    "mlp": (recipes.mlp(7, (16, 8)), f(4, 8, 8, 1), [(4, 7)]),
    "lenet": (recipes.lenet(7, 4), f(2, 4, 5, 3), [(2, 7)]),
    "resnet": (recipes.resnet(7, 4, stages=3, blocks=2), f(2, 9, 8, 3), [(2, 7)]),
    "vision_transformer": (recipes.vision_transformer(7, 4, 6, 8, 1, 2), f(2, 8, 12, 3), [(2, 7)]),
    "reversible_network": (recipes.reversible_network(7, 4, 3), f(2, 8, 8, 1), [(2, 7)]),
    "unet": (recipes.unet(5, 4, 3), f(2, 8, 16, 3), [(2, 8, 16, 5)]),
    "gpt": (recipes.gpt(11, 9, 8, 2, 2), i(2, 9), [(2, 9, 11)]),
    "recurrent_language_model": (recipes.recurrent_language_model(11, LSTM), i(2, 9), [(2, 9, 11)]),
    "autoencoder": (recipes.autoencoder(20, (8, 4), 3), f(4, 20), [(4, 20)]),
    "variational_autoencoder": (recipes.variational_autoencoder(20, (8,), 3), f(4, 20), [(4, 20), ()]),
    "generator": (recipes.generator(12, 4), f(4, 5), [(4, 12, 12, 1)]),
    "discriminator": (recipes.discriminator(4), f(4, 12, 12, 1), [(4, 1)]),
    "deep_belief": (recipes.deep_belief(7, (8, 4)), f(4, 20), [(4, 7)]),
    "radial_basis": (recipes.radial_basis(2, 5), f(4, 20), [(4, 2)]),
    "q_network": (recipes.q_network(3), f(4, 6), [(4, 3)]),
    "policy": (recipes.policy(3), f(4, 6), [(4, 3)]),
    "critic": (recipes.critic(), f(4, 6), [(4, 1)]),
    "spiking": (recipes.spiking(7, (8,)), f(2, 5, 20), [(2, 7)]),
    "transformer_encoder_layer": (recipes.transformer_encoder_layer(8, 2), f(2, 9, 8), [(2, 9, 8)]),
    "transformer_encoder": (
        recipes.transformer_encoder(8, 2, 2, norm_first=True),
        {"x": f(2, 9, 8), "mask": i(2, 9)},
        [(2, 9, 8)],
    ),
    "transformer_decoder_layer": (
        recipes.transformer_decoder_layer(8, 2),
        {"x": f(2, 9, 8), "memory": f(2, 5, 3)},
        [(2, 5, 3), (2, 9, 8)],
    ),
    "transformer_decoder": (recipes.transformer_decoder(8, 2, 2), {"x": f(2, 9, 8), "memory": f(2, 5, 3)}, [(2, 9, 8)]),
    "transformer": (
        recipes.transformer(8, 2, 2, 2),
        {"source": f(2, 5, 8), "x": f(2, 9, 8), "source_mask": i(2, 5)},
        [(2, 9, 8)],
    ),
    "memory_network": (recipes.memory_network(11, 5, 8), (i(2, 4), i(2, 6, 4), i(2, 6)), [(2, 5)]),
}
ELSEWHERE = {
    "hopfield": "a Dense; its example makes the gradient symmetric",
    "modern_hopfield": "a MultiHeadAttention with parameters",
    "restricted_boltzmann": "it is its own loss",
    "word2vec": "it is its own loss",
    "thought_vectors": "it is its own loss",
    "recursive_tensor": "on trees",
    "tree_lstm": "on trees",
}


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_keeps_its_shapes(name):
    net, x, shapes = CASES[name]

    def whole(key, x):
        params = net.init(key, jax.eval_shape(lambda x: x, x))
        y, residuals = net.forward(params, x)
        return params, y, net.pull(params, residuals, y)[1]

    with jax.enable_x64(False):
        params, y, grads = jax.eval_shape(whole, jax.random.key(0), x)
    assert [leaf.shape for leaf in jax.tree.leaves(y)] == shapes
    same = jax.tree.map(lambda p, g: (p.shape, p.dtype) == (g.shape, g.dtype), trainable(params), grads)
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize("name", CASES)
def test_the_repr_of_a_recipe_is_a_program(name):
    net = CASES[name][0]
    assert eval(repr(net), dict(NAMES)) == net


def test_every_recipe_is_here():
    functions = {name for name, value in vars(recipes).items() if inspect.isfunction(value)}
    assert functions == CASES.keys() | ELSEWHERE.keys()
