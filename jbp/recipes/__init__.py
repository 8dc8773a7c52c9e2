# pyright: strict
"""Recipes: functions from a few sizes to a whole network. Each is trained on real data in examples/."""

from jbp.recipes.associative import hopfield as hopfield, modern_hopfield as modern_hopfield
from jbp.recipes.classic import logistic_regression as logistic_regression, mlp as mlp, single_layer as single_layer
from jbp.recipes.energy import deep_belief as deep_belief, restricted_boltzmann as restricted_boltzmann
from jbp.recipes.generative import (
    autoencoder as autoencoder,
    discriminator as discriminator,
    generator as generator,
    variational_autoencoder as variational_autoencoder,
)
from jbp.recipes.language import gpt as gpt, recurrent_language_model as recurrent_language_model
from jbp.recipes.radial import radial_basis as radial_basis
from jbp.recipes.reinforcement import critic as critic, policy as policy, q_network as q_network
from jbp.recipes.spiking import spiking as spiking
from jbp.recipes.transformer import (
    transformer as transformer,
    transformer_decoder as transformer_decoder,
    transformer_decoder_layer as transformer_decoder_layer,
    transformer_encoder as transformer_encoder,
    transformer_encoder_layer as transformer_encoder_layer,
)
from jbp.recipes.trees import recursive_tensor as recursive_tensor, tree_lstm as tree_lstm
from jbp.recipes.vision import (
    lenet as lenet,
    resnet as resnet,
    reversible_network as reversible_network,
    unet as unet,
    vision_transformer as vision_transformer,
)
from jbp.recipes.words import (
    memory_network as memory_network,
    thought_vectors as thought_vectors,
    word2vec as word2vec,
)
