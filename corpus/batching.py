"""Rules of batching and calls of the host."""

import jax
import jax.numpy as jnp
import numpy as np

from corpus.common import example, keeping, right, rule, softmax, softmax_back, square, written, wrong

# right ----------------------------------------------------------------------------------------------------------------


@right("judge 1")
def batching_rules_of_both_ways():
    batched = jax.custom_batching.custom_vmap

    @batched
    def gram(x):
        return x @ x.T

    @gram.def_vmap
    def _(size, where, x):
        return jnp.einsum("bij,bkj->bik", x, x), True

    @batched
    def back(x, d):
        return (d + d.T) @ x

    @back.def_vmap
    def _(size, where, x, d):
        x, d = (v if w else jnp.broadcast_to(v, (size, *v.shape)) for v, w in zip((x, d), where, strict=True))
        return (d + d.swapaxes(1, 2)) @ x, True

    f = rule(gram, lambda x: (gram(x), x), lambda x, d: (back(x, d),))
    return f, lambda x: jnp.einsum("ij,kj->ik", x, x), (example(4, 3),)


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("own", edge="a transformation")
def batching_rule_of_the_backward_pass():
    @jax.custom_batching.custom_vmap
    def back(x, d):
        return 2 * x * d

    @back.def_vmap
    def _(size, batched, x, d):
        return 2 * x * d if all(batched) else x * d, True

    return square(lambda x, d: (back(x, d),))


@wrong("own", edge="a transformation")
def batched_input_alone():
    """Wrong under vmap over x with one cotangent for all."""

    @jax.custom_batching.custom_vmap
    def back(x, d):
        return 2 * x * d

    @back.def_vmap
    def _(size, batched, x, d):
        return (2 * x * d if batched[1] else 2 * x[:1] * d + 0 * x), True

    return square(lambda x, d: (back(x, d),))


@wrong("own", edge="a transformation")
def callback_under_vmap():
    def host(d):
        d = np.asarray(d)
        return np.cumsum(d[..., ::-1], axis=0 if d.ndim > 1 else -1)[..., ::-1].astype(d.dtype)

    def bwd(_, d):
        return (jax.pure_callback(host, jax.ShapeDtypeStruct(d.shape, d.dtype), d, vmap_method="expand_dims"),)

    return rule(jnp.cumsum, lambda x: (jnp.cumsum(x), None), bwd), jnp.cumsum, (example(6),)


@wrong("judge 1", edge="a transformation or another call")
def batch_of_cotangents_alone():
    """Under vmap over the cotangent only, as jacrev has it, all of the batch share one mean."""

    @jax.custom_batching.custom_vmap
    def back(y, d):
        return softmax_back(y, d)

    @back.def_vmap
    def _(size, batched, y, d):
        if batched[1] and not batched[0]:
            return y * (d - (y * d).sum((0, -1), keepdims=True)), True
        return jax.vmap(softmax_back, [0 if b else None for b in batched])(y, d), True

    return written(lambda x: (softmax(x),) * 2, lambda y, d: (back(y, d),)), softmax, (example(7),)


@wrong("judge 1", edge="a transformation or another call")
def host_callback_sums_over_batch():
    def host(y, d):
        return (np.asarray(y) * (np.asarray(d) - (np.asarray(y) * np.asarray(d)).sum())).astype(y.dtype)

    def bwd(y, d):
        like = jax.ShapeDtypeStruct(y.shape, y.dtype)
        return (jax.pure_callback(host, like, y, d, vmap_method="expand_dims"),)

    return written(lambda x: (softmax(x),) * 2, bwd), softmax, (example(9),)


@wrong("judge 2", edge="vmap")
def host_sums_over_the_batch():
    """A backward pass in NumPy for one vector, which takes a batch for one."""

    def bwd(y, d):
        def host(y, d):
            y, d = np.asarray(y), np.asarray(d)
            return (y * (d - (d * y).sum())).astype(y.dtype)

        return (jax.pure_callback(host, jax.ShapeDtypeStruct(y.shape, y.dtype), y, d, vmap_method="broadcast_all"),)

    return written(lambda x: (softmax(x),) * 2, bwd), softmax, (example(6),)


@wrong("judge 11", edge="under vmap")
def matvec_batched_kernel():
    """Matrix times vector; the backward's outer product has a batched kernel which
    adds the batch's outer products up. Re-creates: "custom batching rule wrong"."""

    @jax.custom_batching.custom_vmap
    def outer(g, v):
        return g[:, None] * v[None]

    @outer.def_vmap
    def batched(n, which, g, v):
        g = g if which[0] else jnp.broadcast_to(g, (n, *g.shape))
        v = v if which[1] else jnp.broadcast_to(v, (n, *v.shape))
        full = jnp.einsum("bi,bj->ij", g, v)
        return jnp.broadcast_to(full / n, (n, *full.shape)), True

    def plain(a, v):
        return a @ v

    def bwd(res, g):
        a, v = res
        return outer(g, v), a.T @ g

    return keeping(plain, bwd), plain, (example(4, 3, seed=168), example(3, seed=169))


@wrong("judge 11", edge="under vmap over the first argument only")
def scaled_tanh_partial_batch():
    """tanh(w*x); the kernel's batching rule takes an unbatched weight for the first
    sample's cotangent. vmap with in_axes None."""

    @jax.custom_batching.custom_vmap
    def times(g, w):
        return g * w

    @times.def_vmap
    def batched(n, which, g, w):
        if all(which):
            return g * w, True
        if which[1]:
            return g[None] * w, True
        return jnp.broadcast_to(g[:1] * w[None], g.shape), True

    def plain(x, w):
        return jnp.tanh(w * x)

    def bwd(res, g):
        x, w = res
        d = g * (1 - jnp.tanh(w * x) ** 2)
        return times(d, w), d * x

    return keeping(plain, bwd), plain, (example(4, seed=172), example(4, seed=173))


@wrong("judge 11", edge="under vmap")
def suffix_sum_batched_axis():
    """cumsum of a vector; the batched kernel of the reversed sum runs along the
    batch. Re-creates: "vmap of scan kernel uses the wrong axis"."""

    @jax.custom_batching.custom_vmap
    def suffix(g):
        return jnp.flip(jnp.cumsum(jnp.flip(g, 0), 0), 0)

    @suffix.def_vmap
    def batched(n, which, g):
        return jnp.flip(jnp.cumsum(jnp.flip(g, 0), 0), 0), True

    def plain(x):
        return jnp.cumsum(x, 0)

    return keeping(plain, lambda res, g: (suffix(g),)), plain, (example(5, seed=709),)
