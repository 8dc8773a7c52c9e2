"""Pipelines on eight virtual devices beside one: run by tests/test_scale.py in a process of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import draw, parameters

from jbp import Repeat, Residual, Serial, recipes, value_and_grad
from jbp.cases import f, i
from jbp.layers import Dense, Tanh
from jbp.losses import SoftmaxCrossEntropy
from jbp.pipeline import Pipeline

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_cpu_enable_async_dispatch", False)  # two programs with collectives starve each other on 2 cores
LABELS = SoftmaxCrossEntropy(ignore=0)  # of so unequal many in each micro-batch that a mean of means is wrong
X, T = draw(f(16, 3), 0), draw(i(16, below=5), 1)
MLP = Serial(Dense(4), Repeat(Residual(Serial(Dense(4), Tanh())), 8), Tanh(), Dense(5))
GPT = recipes.gpt(16, 5, 8, 8, 2)
WORDS, NEXT = draw(i(16, 5, below=16), 0), draw(i(16, 5, below=3), 1)


def along(*sizes, names=("stage", "data")):
    return tuple(zip(names, sizes, strict=False))


def near(got, wanted, most=1e-12):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        if jnp.issubdtype(b.dtype, jnp.floating):
            scale = max(1e-3, float(jnp.abs(b).max()))
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=most * scale, err_msg=str(path))


def both(net, loss, batch, plan):
    """(loss, output, gradient) by the plan and by one device."""
    params = parameters(net, batch[0])
    (value, aux), grads = jax.jit(plan.value_and_grad(net, loss))(params, *plan.put(net, batch))
    wanted, there = value_and_grad(net, loss, has_aux=True)(params, *batch)
    return (value, aux.output, grads), (wanted[0], wanted[1].output, there)


@pytest.mark.parametrize(
    ("name", "mesh", "micro"),
    [("GPipe", along(4), 4), ("1F1B", along(2, 4), 4), ("ZB-H1", along(8), 2), ("ZB-V", along(4, 2), 8)],
)
def test_every_schedule_is_one_device(name, mesh, micro):
    near(*both(MLP, LABELS, (X, T), Pipeline(mesh, micro=micro, schedule=name)))


@pytest.mark.parametrize(("name", "mesh"), [("1F1B", along(2)), ("ZB-H1", along(8)), ("ZB-V", along(4, 2))])
def test_embeddings_tied_to_logits_are_summed_once(name, mesh):
    near(*both(GPT, LABELS, (WORDS, NEXT), Pipeline(mesh, micro=4, schedule=name)))
