"""Parameters out of the weights of PyTorch, Flax and Keras: by name, in the layouts that layers have here.

    params = weights.from_torch(net, x, model.state_dict())
    params = weights.from_torch(net, x, weights.safetensors("model.safetensors"), {"body/0": "features.0"})
    params = weights.from_flax(net, x, variables)  # of Linen, or nnx.to_pure_dict(nnx.state(model))
    params = weights.from_keras(net, x, {w.path: w for w in model.weights})

Each layer takes the next module that is left, in the order of the network and of the file, or the one that `names` has
for its path: always, for Flax, if modules have names of their own. What a layer lacks, what no layer takes and what has
another shape is an error with its name.
"""

from jbp.weights.files import safetensors as safetensors
from jbp.weights.flax import from_flax as from_flax
from jbp.weights.keras import from_keras as from_keras
from jbp.weights.torch import from_torch as from_torch
