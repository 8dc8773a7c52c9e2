"""Recursive networks: a cell that makes a parent of two children, over batches of binary trees given as arrays."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jbp.cases import Case, f, i
from jbp.errors import LayerError, at, floats, known, show, take
from jbp.fields import Size
from jbp.layer import Layer
from jbp.layers.recurrent.cell import advance, folds, gradient, same_state
from jbp.numerics import Static, along, counting, leading, outer, scan, shared, time_first


@dataclass(frozen=True)
class Recursive(Layer):
    """s_p = cell(s_left, s_right) for each inner node p of a binary tree, children before parents.

        (ds_left, ds_right) += what the cell returns for ds_p, parents first      dθ = Σ_p the cell's gradient

    Input: (leaves, children). Nodes are numbered: 0 to l − 1 are the leaves, l + j is the inner node j, and
    children[:, j] are the numbers of its two children, each below l + j. A child −1 is none, a state of zeros; a node
    of two of them is padding, whose state is zero. Trees of fewer nodes are padded in front, so that the root is the
    last node: y[:, −1]. One scan runs over the inner nodes of all trees at once; the weight gradient is one product
    over all nodes outside of it (cell.py). Keeps children and what the cell keeps. Parameters are the cell's. Shapes:
    leaves (b, l, ...), one array or a tuple like the cell's state, children (b, m, 2) of integers, y (b, l + m, ...):
    the states of all nodes, leaves first. A binary Tree-LSTM is `Serial(Parallel(LSTMLeaf(h), Identity()),
    Recursive(LSTMNode()))`. (Goller & Küchler, *Learning Task-Dependent Distributed Representations by Backpropagation
    Through Structure*, 1996.) Raises LayerError for children out of order where they can be known; inside of jit they
    give NaN.

    >>> leaves = jnp.ones((1, 3, 4))
    >>> nodes = jnp.array([[[0, 1], [3, 2]]])  # node 3 joins leaves 0 and 1, node 4 that and leaf 2
    >>> net, x = Recursive(TensorNode()), (leaves, nodes)
    >>> net(net.init(jax.random.key(0), x), x).shape
    (1, 5, 4)
    """

    cell: Layer

    as_one: ClassVar[bool] = True

    def _parts(self, x):
        pair: Any = x if isinstance(x, tuple | list) and len(x) == 2 else (x, None)
        leaves, children = pair
        arrays = jax.tree.leaves(leaves)
        sizes = {tuple(v.shape[:2]) for v in arrays}
        fits = (
            hasattr(children, "dtype")
            and jnp.issubdtype(children.dtype, jnp.integer)
            and len(children.shape) == 3
            and children.shape[2] == 2
            and len(sizes) == 1
            and all(len(v.shape) > 1 and v.shape[0] == children.shape[0] for v in arrays)
        )
        if not fits:
            raise LayerError(
                self,
                f"got x {show(x)}; expected the tuple (leaves, children): leaves (b, l, ...) and integers (b, m, 2), "
                "the numbers of the two children of each inner node. Leaves are counted first, from 0.",
            )
        for v in arrays:
            floats(self, v, "(batch, leaves, ...)", least=2)
        length = arrays[0].shape[1]
        if known(children) and children.size:
            seen, ends = np.asarray(children), length + np.arange(children.shape[1])
            if (seen < -1).any() or (seen >= ends[None, :, None]).any():
                raise LayerError(
                    self,
                    f"got children between {seen.min()} and {seen.max()}, some below −1 or not before their parent; "
                    f"expected each child of inner node j below {length} + j. Sort the nodes, children before parents.",
                )
        return leaves, counting(children), length

    def init(self, key, x, /):
        leaves, _, _ = self._parts(x)
        one = jax.tree.map(lambda v: jax.ShapeDtypeStruct((v.shape[0], *v.shape[2:]), v.dtype), leaves)
        with at(self, ".cell"):
            return self.cell.init(key, (one, one))

    def forward(self, params, x, /):
        leaves, children, length = self._parts(x)
        b, m, _ = children.shape

        def step(nodes, now):
            j, children = now

            def child(k):
                def read(v):
                    got = _of_each(v, k)
                    wrong = _like((k >= j) | (k < -1), got)
                    return jnp.where(wrong, jnp.nan, got)

                return jax.tree.map(read, nodes)

            pair = child(children[:, 0]), child(children[:, 1])
            with at(self, ".cell"):
                state, r = self.cell.forward(params, pair)
            same_state(self, pair[0], state)
            state = _real(children, state)
            return jax.tree.map(lambda v, s: v.at[j].set(s), nodes, state), r

        def room(v):
            return jnp.concatenate([time_first(v), jnp.zeros((m, b, *v.shape[2:]), v.dtype)])

        order = length + jnp.arange(m, dtype=children.dtype)
        nodes, residuals = scan(step, jax.tree.map(room, leaves), (order, time_first(children)))
        one = jax.tree.map(lambda v: jax.ShapeDtypeStruct((b, *v.shape[2:]), v.dtype), leaves)
        return jax.tree.map(time_first, nodes), (children, residuals, Static(folds(self.cell, params, (one, one))))

    def backward(self, params, residuals, dy, /):
        children, residuals, _ = residuals
        m = children.shape[1]

        def step(dnodes, now):
            j, children, r = now
            with at(self, ".cell"):
                down, delta = self.cell.backward(params, r, _real(children, jax.tree.map(lambda v: v[j], dnodes)))
            for side, d in enumerate(down):
                dnodes = jax.tree.map(partial(_more_for_each, children[:, side]), dnodes, d)
            return dnodes, delta

        dy = jax.tree.map(time_first, dy)
        length = jax.tree.leaves(dy)[0].shape[0] - m
        order = length + jnp.arange(m, dtype=children.dtype)
        dnodes, delta = scan(step, dy, (order, time_first(children), residuals), reverse=True)
        return (jax.tree.map(lambda v: time_first(v[:length]), dnodes), None), delta

    def gradient(self, residuals, delta, /):
        _, residuals, folded = residuals
        with at(self, ".cell"):
            return gradient(self.cell, folded.value, residuals, delta)

    def advance(self, params, residuals, /):
        return advance(self.cell, params, residuals[1])

    def reference(self, params, x, /):
        leaves, children, length = self._parts(x)
        nodes = [jax.tree.map(lambda v, k=k: v[:, k], leaves) for k in range(length)]
        nothing = jax.tree.map(lambda v: jnp.zeros((v.shape[0], *v.shape[2:]), v.dtype), leaves)
        for j in range(children.shape[1]):

            def child(k):
                def chosen(*states):  # the one whose number it is, of those that are there
                    found = sum(jnp.where(_like(k == n, s), s, 0) for n, s in enumerate(states, -1))
                    return jnp.where(_like((k < -1) | (k >= len(states) - 1), found), jnp.nan, found)

                return jax.tree.map(chosen, nothing, *nodes)

            state = self.cell.reference(params, (child(children[:, j, 0]), child(children[:, j, 1])))
            nodes.append(_real(children[:, j], state))
        if not nodes:
            return leaves
        return jax.tree.map(lambda *states: jnp.stack(states, 1), *nodes)


def _of_each(v, k):
    """v[k_b, b] for each example b of nodes v (n, b, ...), 0 where there is no such node."""

    def one(v, *at):
        return v.at[at].get(mode="fill", fill_value=0, wrap_negative_indices=False)

    # by vmap where devices share the examples, so that each reads its own; else not, for vmap turns all of v round
    return jax.vmap(one, (1, 0))(v, k) if shared(v) else one(v, k, jnp.arange(len(k)))


def _more_for_each(k, v, d):
    """v with d_b added to v[k_b, b], if there is such a node."""

    def one(v, d, *at):
        return v.at[at].add(d, mode="drop", wrap_negative_indices=False)

    return jax.vmap(one, (1, 0, 0), 1)(v, d, k) if shared(v) else one(v, d, k, jnp.arange(len(k)))


def _like(flags, v):
    """Flags (b,) with v's rank."""
    return flags.reshape(-1, *(1,) * (v.ndim - 1))


def _real(children: Any, tree: Any) -> Any:
    """The tree (b, ...) with zeros for nodes that are padding."""
    return jax.tree.map(lambda v: jnp.where(_like((children != -1).any(-1), v), v, 0), tree)


def _pair(layer, x, what):
    """A pair of things of one structure, all of one shape and dtype."""
    arrays = jax.tree.leaves(x)
    if not isinstance(x, tuple | list) or len(x) != 2 or len({(v.shape, v.dtype) for v in arrays}) != 1:
        raise LayerError(
            layer, f"got x {show(x)}; expected {what}, all of one shape and dtype. Put it inside of a Recursive."
        )
    floats(layer, arrays[0], "(..., features)")
    return x


def _bias(layer, size):
    return {"b": (size,)} if layer.bias else {}


def _bias_sum(layer, dz):
    return {"b": dz.sum(leading(dz))} if layer.bias else {}


def _narrow(params, dtype):
    """Parameters in the dtype that is computed with."""
    return [p.astype(dtype) for p in params]


@dataclass(frozen=True)
class TensorNode(Layer):
    """p = tanh(a V a + a W + b) with a = (l | r), (a V a)_o = Σ a_i V_ijo a_j: the cell of a neural tensor network.

        dz = dp (1 − p²)      da_i = Σ_jo (V_ijo + V_jio) a_j dz_o + Σ_o W_io dz_o      (dl | dr) = da
        dV_ijo = Σ a_i a_j dz_o      dW = aᵀ dz      db = Σ dz

    delta is dz. Keeps a and p. Shapes: l, r, p (..., d), V (2d, 2d, d), W (2d, d), b (d,). (Socher et al., *Recursive
    Deep Models for Semantic Compositionality Over a Sentiment Treebank*, 2013, §4.) W starts at half of (I; I) and a
    little noise, so that a parent is at first about the mean of its children. Raises LayerError unless x is (l, r).

    >>> node, x = TensorNode(), (jnp.ones((2, 4)), jnp.ones((2, 4)))
    >>> node(node.init(jax.random.key(0), x), x).shape
    (2, 4)
    """

    bias: bool = True

    def _shapes(self, x):
        d = x[0].shape[-1]
        return {"v": (2 * d, 2 * d, d), "w": (2 * d, d)} | _bias(self, d)

    def init(self, key, x, /):
        left, _ = _pair(self, x, "a pair of children (l, r)")
        shapes, d, dtype = self._shapes(x), left.shape[-1], left.dtype
        one, two = jax.random.split(key)
        v = jax.random.normal(one, shapes["v"], dtype) * (0.1 / max(d, 1))
        w = jax.random.normal(two, shapes["w"], dtype) * 0.1 * max(d, 1) ** -0.5
        params = {"v": v, "w": w + jnp.tile(jnp.eye(d, dtype=dtype) / 2, (2, 1))}
        return params | {"b": jnp.zeros(d, dtype)} if self.bias else params

    def forward(self, params, x, /):
        left, right = _pair(self, x, "a pair of children (l, r)")
        v, w, *b = _narrow(take(self, params, left.dtype, **self._shapes(x)), left.dtype)
        a = jnp.concatenate([left, right], -1)
        z = jnp.einsum("...i,ijo,...j->...o", a, v, a) + a @ w
        p = jnp.tanh(z + along(b[0], z) if self.bias else z)
        return p, (a, p)

    def backward(self, params, residuals, dp, /):
        a, p = residuals
        (v, w), dz = _narrow((params["v"], params["w"]), a.dtype), dp * (1 - p * p)
        da = jnp.einsum("ijo,...j,...o->...i", v + v.swapaxes(0, 1), a, dz) + dz @ w.T
        return tuple(jnp.split(da, 2, -1)), dz.astype(params["w"].dtype)

    def gradient(self, residuals, dz, /):
        a, _ = residuals
        v = jnp.einsum("...i,...j,...o->ijo", *(2 * [a.astype(dz.dtype)]), dz)
        return {"v": v, "w": outer(a, dz)} | _bias_sum(self, dz)

    def reference(self, params, x, /):
        a = jnp.concatenate(x, -1)
        outputs = [((a @ params["v"][:, :, o]) * a).sum(-1) for o in range(params["w"].shape[-1])]
        z = a @ params["w"] + (along(params["b"], a) if self.bias else 0)
        return jnp.tanh((jnp.stack(outputs, -1) if outputs else jnp.zeros_like(z)) + z)


@dataclass(frozen=True)
class LSTMLeaf(Layer):
    """c = i g, h = o tanh c with i, o = σ(·), g = tanh(·) of x W + b: the state (h, c) of a leaf of a Tree-LSTM.

        k = dc + dh o (1 − tanh² c)      dz = (k g i(1−i), dh tanh c o(1−o), k i (1−g²))
        dx = dz Wᵀ      dW = xᵀ dz      db = Σ dz

    delta is dz. Keeps x and the gates. Shapes: x (..., i), W (i, 3d), b (3d,), gates in the order i, o, g, h and c
    (..., d). (Tai et al., *Improved Semantic Representations From Tree-Structured LSTM Networks*, 2015, §3.2, without
    children.)

    >>> leaf, x = LSTMLeaf(4), jnp.ones((2, 3))
    >>> h, c = leaf(leaf.init(jax.random.key(0), x), x)
    >>> h.shape
    (2, 4)
    """

    features: Size
    bias: bool = True

    def _shapes(self, x):
        return {"w": (x.shape[-1], 3 * self.features)} | _bias(self, 3 * self.features)

    def init(self, key, x, /):
        n = floats(self, x, "(..., features)").shape[-1]
        w = jax.random.normal(key, (n, 3 * self.features), x.dtype) * max(n, 1) ** -0.5
        return {"w": w, "b": jnp.zeros(3 * self.features, x.dtype)} if self.bias else {"w": w}

    def forward(self, params, x, /):
        w, *b = _narrow(take(self, params, floats(self, x, "(..., features)").dtype, **self._shapes(x)), x.dtype)
        z = x @ w
        i, o, g = jnp.split(z + along(b[0], z) if self.bias else z, 3, -1)
        i, o, g = lax.logistic(i), lax.logistic(o), jnp.tanh(g)
        return (o * jnp.tanh(i * g), i * g), (x, i, o, g)

    def backward(self, params, residuals, dy, /):
        (_, i, o, g), (dh, dc) = residuals, dy
        t = jnp.tanh(i * g)
        k = dc + dh * o * (1 - t * t)
        dz = jnp.concatenate([k * g * i * (1 - i), dh * t * o * (1 - o), k * i * (1 - g * g)], -1)
        return dz @ params["w"].astype(dz.dtype).T, dz.astype(params["w"].dtype)

    def gradient(self, residuals, dz, /):
        return {"w": outer(residuals[0], dz)} | _bias_sum(self, dz)

    def reference(self, params, x, /):
        z = x @ params["w"] + (along(params["b"], x) if self.bias else 0)
        d = self.features
        c = jax.nn.sigmoid(z[..., :d]) * jnp.tanh(z[..., 2 * d :])
        return jax.nn.sigmoid(z[..., d : 2 * d]) * jnp.tanh(c), c


@dataclass(frozen=True)
class LSTMNode(Layer):
    """c = i g + f_l c_l + f_r c_r, h = o tanh c with i, f, o = σ(·), g = tanh(·) of z = (h_l | h_r) U + b.

        k = dc + dh o (1 − tanh² c)      dz = (k g i(1−i), k c_l f_l(1−f_l), k c_r f_r(1−f_r), dh tanh c o(1−o),
        k i (1−g²))      (dh_l | dh_r) = dz Uᵀ      dc_l = k f_l, dc_r = k f_r      dU = (h_l | h_r)ᵀ dz      db = Σ dz

    The cell of a binary Tree-LSTM, from ((h_l, c_l), (h_r, c_r)) to (h, c). delta is dz. Keeps the children's states
    and the gates. Shapes: h and c (..., d), U (2d, 5d), b (5d,), gates in the order i, f_l, f_r, o, g; the bias of f_l
    and f_r starts at 1. (Tai et al., *Improved Semantic Representations From Tree-Structured LSTM Networks*, 2015,
    §3.2.) Raises LayerError for anything but a pair of pairs.

    >>> leaf = (jnp.ones((2, 4)), jnp.ones((2, 4)))  # h and c
    >>> node, x = LSTMNode(), (leaf, leaf)
    >>> h, c = node(node.init(jax.random.key(0), x), x)
    >>> h.shape
    (2, 4)
    """

    bias: bool = True

    def _children(self, x):
        _pair(self, x, "((h_l, c_l), (h_r, c_r))")
        for side in x:
            _pair(self, side, "((h_l, c_l), (h_r, c_r))")
        (h_l, c_l), (h_r, c_r) = x
        return jnp.concatenate([h_l, h_r], -1), c_l, c_r

    def _shapes(self, h):
        d = h.shape[-1] // 2
        return {"u": (2 * d, 5 * d)} | _bias(self, 5 * d)

    def init(self, key, x, /):
        shapes = self._shapes(h := jax.eval_shape(self._children, x)[0])
        n, d = h.shape[-1], h.shape[-1] // 2
        u = jax.random.normal(key, shapes["u"], h.dtype) * max(n, 1) ** -0.5
        return {"u": u, "b": jnp.zeros(5 * d, h.dtype).at[d : 3 * d].set(1)} if self.bias else {"u": u}

    def forward(self, params, x, /):
        h, c_l, c_r = self._children(x)
        u, *b = _narrow(take(self, params, h.dtype, **self._shapes(h)), h.dtype)
        z = h @ u
        *sigmoids, g = jnp.split(z + along(b[0], z) if self.bias else z, 5, -1)
        i, f_l, f_r, o = map(lax.logistic, sigmoids)
        g = jnp.tanh(g)
        c = i * g + f_l * c_l + f_r * c_r
        return (o * jnp.tanh(c), c), (h, c_l, c_r, jnp.concatenate([i, f_l, f_r, o, g], -1))

    def backward(self, params, residuals, dy, /):
        (_, c_l, c_r, gates), (dh, dc) = residuals, dy
        i, f_l, f_r, o, g = jnp.split(gates, 5, -1)
        t = jnp.tanh(i * g + f_l * c_l + f_r * c_r)
        k = dc + dh * o * (1 - t * t)
        forget = k * c_l * f_l * (1 - f_l), k * c_r * f_r * (1 - f_r)
        dz = jnp.concatenate([k * g * i * (1 - i), *forget, dh * t * o * (1 - o), k * i * (1 - g * g)], -1)
        dh_l, dh_r = jnp.split(dz @ params["u"].astype(dz.dtype).T, 2, -1)
        return ((dh_l, k * f_l), (dh_r, k * f_r)), dz.astype(params["u"].dtype)

    def gradient(self, residuals, dz, /):
        return {"u": outer(residuals[0], dz)} | _bias_sum(self, dz)

    def reference(self, params, x, /):
        (h_l, c_l), (h_r, c_r) = x
        d = h_l.shape[-1]
        z = h_l @ params["u"][:d] + h_r @ params["u"][d:] + (along(params["b"], h_l) if self.bias else 0)
        i, f_l, f_r, o, g = (z[..., n * d : (n + 1) * d] for n in range(5))
        c = jax.nn.sigmoid(i) * jnp.tanh(g) + jax.nn.sigmoid(f_l) * c_l + jax.nn.sigmoid(f_r) * c_r
        return jax.nn.sigmoid(o) * jnp.tanh(c), c


CASES = (
    Case(TensorNode(), (f(3, 2), f(3, 2)), (f(2, 3, 3), f(2, 3, 3))),
    Case(TensorNode(bias=False), (f(3, 2), f(3, 2))),
    Case(LSTMLeaf(2, bias=False), f(3, 5)),
    Case(LSTMLeaf(3), f(3, 5)),
    Case(LSTMNode(bias=False), ((f(3, 2), f(3, 2)), (f(3, 2), f(3, 2)))),
    Case(LSTMNode(), ((f(3, 2), f(3, 2)), (f(3, 2), f(3, 2)))),
    Case(Recursive(TensorNode()), (f(2, 3, 2), i(2, 2, 2, below=3))),
)
