"""Every layer and loss inside of `jax.shard_map` with its check, traced alone: as a layer, and under `jax.grad`."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

import jbp
from jbp.cases import Array
from jbp.catalogue import LAYERS, LOSSES
from jbp.params import buffers, merge, trainable
from jbp.sweep import initialize

jax.config.update("jax_num_cpu_devices", 8)
MESH = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
KEY = jax.random.key(0)


def floats(tree):
    return [v for v in jax.tree.leaves(tree) if jnp.issubdtype(v.dtype, jnp.floating)]


def total(tree):
    return sum((v.astype(jnp.float32).sum() for v in floats(tree)), jnp.zeros((), jnp.float32))


def traced(layer, spec):
    """The two ways, over a batch eight times as large as the example's: shapes alone."""

    def shape(a):
        return jax.ShapeDtypeStruct(a.shape, jnp.float32 if a.below is None else jnp.int32)

    x = jax.tree.map(shape, spec, is_leaf=lambda a: isinstance(a, Array))
    b = next((v.shape[0] for v in jax.tree.leaves(x) if v.shape), 0)
    spread = [v.shape[:1] == (b,) for v in jax.tree.leaves(x)]
    leaves, structure = jax.tree.flatten(x)
    leaves = [
        jax.ShapeDtypeStruct((8 * b, *v.shape[1:]), v.dtype) if s else v for v, s in zip(leaves, spread, strict=True)
    ]
    whole = jax.tree.unflatten(structure, leaves)
    along = jax.tree.unflatten(structure, [PartitionSpec("data") if s else PartitionSpec() for s in spread])
    params = jax.eval_shape(lambda: initialize(layer, KEY, x))

    def swept(params, x):
        y, residuals = layer.forward(params, x)
        dy = jax.tree.map(lambda v: jnp.ones_like(v) if jnp.issubdtype(v.dtype, jnp.floating) else None, y)
        return total((y, layer.pull(params, residuals, dy)))[None]

    def graded(params, x):
        def value(trained):
            return total(jbp.as_function(layer, has_aux=True)(merge(trained, buffers(params)), x)[0])

        return jax.grad(value)(trainable(params))  # the sum over devices, for parameters are alike on all

    for f, out in ((swept, PartitionSpec("data")), (graded, PartitionSpec())):
        jax.eval_shape(jax.shard_map(f, mesh=MESH, in_specs=(PartitionSpec(), along), out_specs=out), params, whole)


LAST = {type(case.layer): case for case in (*LAYERS, *LOSSES)}  # of every kind the last


@pytest.mark.parametrize("case", LAST.values(), ids=lambda case: repr(case.layer))
def test_inside_of_shard_map_with_its_check(case):
    traced(case.layer, case.inputs[-1])


def test_the_gradient_of_what_is_alike_is_the_sum_over_devices():
    x = jnp.arange(16.0).reshape(16, 1)

    def graded(w, x):
        return jax.grad(lambda w: jbp.layers.Dense(1, bias=False)({"w": w}, x).sum())(w)

    grads = jax.shard_map(graded, mesh=MESH, in_specs=(jax.P(), jax.P("data")), out_specs=jax.P())(jnp.ones((1, 1)), x)
    assert grads == 120  # of all sixteen


def test_values_that_lie_in_other_processes_are_not_looked_at():
    class Away:
        is_fully_addressable = False

    assert not jbp.errors.known(Away())
