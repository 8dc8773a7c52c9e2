"""Sampling of images, point clouds, sparse and ragged operations."""

import jax
import jax.numpy as jnp

from corpus.common import example, integers, keeping, right, rule, uniform, written, wrong

# sampling -------------------------------------------------------------------------------------------------------------


def _corners(image, x, y):
    x0, y0 = jnp.floor(x), jnp.floor(y)
    i, j = x0.astype(jnp.int32), y0.astype(jnp.int32)
    return x - x0, y - y0, [(i, j), (i + 1, j), (i, j + 1), (i + 1, j + 1)]


def _bilinear(image, x, y, corners):
    u, v, at = corners
    a, b, c, e = (image.at[j, i].get(mode="fill", fill_value=0) for i, j in at)
    u, v = u[:, None], v[:, None]
    return a * (1 - u) * (1 - v) + b * u * (1 - v) + c * (1 - u) * v + e * u * v


def _bilinear_back(image, corners, d):
    u, v, at = corners
    a, b, c, e = (image.at[j, i].get(mode="fill", fill_value=0) for i, j in at)
    du = (d * ((b - a) * (1 - v)[:, None] + (e - c) * v[:, None])).sum(-1)
    dv = (d * ((c - a) * (1 - u)[:, None] + (e - b) * u[:, None])).sum(-1)
    di = jnp.zeros_like(image)
    for (i, j), w in zip(at, ((1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v), strict=True):
        di = di.at[j, i].add(w[:, None] * d, mode="drop")
    return di, du, dv


def _border(image, x, y):
    x, y = jnp.clip(x, 0.0, image.shape[1] - 1.0), jnp.clip(y, 0.0, image.shape[0] - 1.0)
    return _bilinear(image, x, y, _corners(image, x, y))


_IXY = lambda: (example(4, 5, 2), uniform(0.1, 3.9, 6, seed=1), uniform(0.1, 2.9, 6, seed=2))  # noqa: E731


@wrong("judge 12", "a point outside of the image")
def grid_sample_border_keeps_slope():
    """The places are clipped to the image before sampling, but their gradient does not pass the clipping."""

    def bwd(r, d):
        image, x, y = r
        x, y = jnp.clip(x, 0.0, image.shape[1] - 1.001), jnp.clip(y, 0.0, image.shape[0] - 1.001)
        return _bilinear_back(image, _corners(image, x, y), d)

    return keeping(_border, bwd), _border, _IXY()


@right("judge 12")
def grid_sample_border_clipped():
    """The slopes of the clipping are its own: one half on the border itself, none beyond."""

    def slope(x, n):
        return jnp.where((x > 0) & (x < n - 1), 1.0, jnp.where((x == 0) | (x == n - 1), 0.5, 0.0))

    def bwd(r, d):
        image, x, y = r
        h, w = image.shape[:2]
        inside = jnp.clip(x, 0.0, w - 1.0), jnp.clip(y, 0.0, h - 1.0)
        di, dx, dy = _bilinear_back(image, _corners(image, *inside), d)
        return di, dx * slope(x, w), dy * slope(y, h)

    return keeping(_border, bwd), _border, _IXY()


def _nearest(x, places):
    n, m = x.shape[0], places.shape[0]
    return x[jnp.arange(m) * n // m] + places[:, None]


@wrong("judge 12", "an output length that is no multiple of the input's")
def nearest_upsampling_whole_factor():
    """The gradient is summed over equal groups by a whole factor, though the forward pass allows any ratio."""

    def bwd(r, d):
        x, places = r
        factor = -(-places.shape[0] // x.shape[0])
        group = jnp.arange(places.shape[0]) // factor
        return jax.ops.segment_sum(d, group, x.shape[0]), d.sum(1)

    return keeping(_nearest, bwd), _nearest, (example(4, 3), example(8, seed=1))


@right("judge 12")
def nearest_resizing_any_ratio():
    """The gradient is summed over what shares a source; the output may be longer or shorter than the input."""

    def bwd(r, d):
        x, places = r
        n, m = x.shape[0], places.shape[0]
        first = -(-jnp.arange(n + 1) * m // n)
        sums = jnp.concatenate([jnp.zeros_like(d[:1]), jnp.cumsum(d, 0)])[first]
        return sums[1:] - sums[:-1], d.sum(1)

    return keeping(_nearest, bwd), _nearest, (example(4, 3), example(7, seed=1))


# point clouds ---------------------------------------------------------------------------------------------------------


def _nearest_squares(x, y):
    return ((x[:, None] - y[None]) ** 2).sum(-1).min(1)


@wrong("judge 12", "two points with the same nearest neighbour")
def chamfer_neighbours_overwritten():
    """The gradients of points that share a nearest neighbour overwrite one another there."""

    def fwd(x, y):
        squares = ((x[:, None] - y[None]) ** 2).sum(-1)
        return squares.min(1), (x, y, squares.argmin(1))

    def bwd(r, d):
        x, y, i = r
        g = 2 * d[:, None] * (x - y[i])
        return g, jnp.zeros_like(y).at[i].set(-g)

    x = example(6, 3, scale=3.0)
    return written(fwd, bwd), _nearest_squares, (x, x[::-1] + 0.1 * example(6, 3, seed=1))


@right("judge 12")
def chamfer_neighbours_shared():
    """Equally near neighbours share evenly, as in a minimum."""

    def bwd(r, d):
        x, y = r
        away = x[:, None] - y[None]
        squares = (away * away).sum(-1)
        near = squares == squares.min(1, keepdims=True)
        g = 2 * (d[:, None] * near / near.sum(1, keepdims=True))[:, :, None] * away
        return g.sum(1), -g.sum(0)

    return keeping(_nearest_squares, bwd), _nearest_squares, (example(5, 3), example(6, 3, seed=1))


def _neighbour_sum(x, w, neighbours):
    there = neighbours >= 0
    return jnp.where(there[:, :, None], jnp.tanh(x[jnp.where(there, neighbours, 0)] @ w), 0.0).sum(1)


@wrong("judge 12", "missing neighbours, filled up with -1")
def neighbour_messages_padding_wraps():
    """Missing neighbours of index -1 are not masked in the backward pass and stand for the last point."""

    def bwd(r, d):
        x, w, neighbours = r
        source = x[neighbours]
        g = d[:, None] * (1 - jnp.tanh(source @ w) ** 2)
        return jnp.zeros_like(x).at[neighbours].add(g @ w.T), jnp.einsum("nki,nkj->ij", source, g), None

    neighbours = jnp.asarray([[1, 3], [0, 2], [4, 1], [2, 0], [3, 1]], jnp.int32)
    return keeping(_neighbour_sum, bwd), _neighbour_sum, (example(5, 3), example(3, 2, seed=1), neighbours)


@wrong("judge 12")
def quaternion_length_divided_twice():
    """The gradient through the quaternion's normalisation is divided by its length twice."""

    def turn(q, p):
        w, v = q[:, :1], q[:, 1:]
        t = 2 * jnp.cross(v, p)
        return p + w * t + jnp.cross(v, t)

    def plain(q, p):
        return turn(q / jnp.sqrt((q * q).sum(-1, keepdims=True)), p)

    def bwd(r, d):
        q, p = r
        n = jnp.sqrt((q * q).sum(-1, keepdims=True))
        u = q / n
        g, dp = jax.vjp(turn, u, p)[1](d)
        return (g - u * (g * u).sum(-1, keepdims=True)) / n**2, dp

    return keeping(plain, bwd), plain, (example(4, 4), example(4, 3, seed=1))


# sparse and ragged ----------------------------------------------------------------------------------------------------


def _coordinates_product(values, x, rows, columns):
    terms = values[:, None] * x.at[columns].get(mode="fill", fill_value=0)
    return jnp.zeros((4, x.shape[1]), x.dtype).at[rows].add(terms, mode="drop")


@wrong("judge 12", "entries of padding, whose row is the number of rows")
def sparse_product_padding_clamped():
    """Entries that pad the matrix, of a row beyond the last, get a gradient as if they were in the last row."""

    def bwd(r, d):
        values, x, rows, columns = r
        g = d.at[rows].get(mode="clip")
        dx = jnp.zeros_like(x).at[columns].add(values[:, None] * d.at[rows].get(mode="fill", fill_value=0))
        return (g * x.at[columns].get(mode="fill", fill_value=0)).sum(-1), dx, None, None

    args = example(7), example(5, 2, seed=1), integers(0, 0, 1, 2, 2, 3, 3), integers(1, 4, 0, 2, 3, 1, 4)
    return keeping(_coordinates_product, bwd), _coordinates_product, args


@right("judge 12")
def compressed_rows_product():
    """Row pointers, among them empty rows; the row of each entry by binary search."""

    def plain(values, x, columns, pointers):
        place = jnp.arange(values.shape[0])[None]
        own = (place >= pointers[:-1, None]) & (place < pointers[1:, None])
        return jnp.where(own, values * x[columns], 0.0).sum(1)

    def fwd(values, x, columns, pointers):
        sums = jnp.concatenate([jnp.zeros(1, values.dtype), jnp.cumsum(values * x[columns])])
        return sums[pointers[1:]] - sums[pointers[:-1]], (values, x, columns, pointers)

    def bwd(r, d):
        values, x, columns, pointers = r
        rows = jnp.searchsorted(pointers, jnp.arange(values.shape[0]), side="right") - 1
        g = jnp.where((rows >= 0) & (rows < d.shape[0]), d.at[rows].get(mode="clip"), 0.0)
        return g * x[columns], jnp.zeros_like(x).at[columns].add(g * values), None, None

    args = example(6), example(5, seed=1), integers(3, 0, 3, 4, 1, 3), integers(0, 2, 2, 5, 6)
    return written(fwd, bwd), plain, args


def _segment_lse(x, segments):
    own = segments[None] == jnp.arange(3)[:, None]
    top = jax.lax.stop_gradient(jnp.where(own, x, -jnp.inf).max(1))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    total = jnp.where(own, jnp.exp(jnp.where(own, x - top[:, None], 0.0)), 0.0).sum(1)
    return jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1.0)) + top, 0.0)


@wrong("judge 12", "segments of very different magnitude")
def segment_lse_common_maximum():
    """The backward pass subtracts the maximum of all segments, and a segment far below it underflows to nothing."""

    def bwd(r, d):
        x, segments = r
        e = jnp.exp(x - x.max())
        return e / jnp.maximum(jax.ops.segment_sum(e, segments, 3), 1e-30)[segments] * d[segments], None

    return keeping(_segment_lse, bwd), _segment_lse, (example(7), integers(2, 0, 1, 0, 2, 2, 1))


@right("judge 12")
def segment_lse_from_output():
    """The shares are made from the outputs alone; empty segments give zero."""

    def bwd(r, d):
        x, segments, y = r
        own = segments[None] == jnp.arange(3)[:, None]
        return d @ jnp.where(own, jnp.exp(x - y[:, None]), 0.0), None

    f = rule(_segment_lse, lambda x, s: (_segment_lse(x, s), (x, s, _segment_lse(x, s))), bwd)
    return f, _segment_lse, (example(7), integers(2, 0, 2, 0, 2, 2, 0))


@right("judge 12")
def edge_softmax_of_graph():
    """Attention over incoming edges, gradients of both ends' features by scattering; nodes may lack edges."""

    def plain(h, s, src, dst):
        n = h.shape[0]
        nodes = jnp.arange(n)
        count = ((dst == nodes[:, None])[:, None] & (src == nodes[:, None])[None]).sum(-1)
        z = jnp.where(count > 0, s[None, :] + s[:, None], -jnp.inf)
        top = jax.lax.stop_gradient(jnp.maximum(z.max(-1, keepdims=True), -1e30))
        e = count * jnp.exp(z - top)
        return e @ h / jnp.maximum(e.sum(-1, keepdims=True), 1e-30)

    def fwd(h, s, src, dst):
        n = h.shape[0]
        known = (src >= 0) & (src < n) & (dst >= 0) & (dst < n)
        src, dst = jnp.where(known, src, n), jnp.where(known, dst, n)
        z = s.at[src].get(mode="clip") + s.at[dst].get(mode="clip")
        e = jnp.exp(z - jax.ops.segment_max(z, dst, n + 1)[dst])
        p = jnp.where(known, e / jax.ops.segment_sum(e, dst, n + 1)[dst], 0.0)
        terms = p[:, None] * h.at[src].get(mode="clip")
        return jax.ops.segment_sum(terms, dst, n), (h, s, src, dst, p)

    def bwd(r, d):
        h, s, src, dst, p = r
        n = h.shape[0]
        g = d.at[dst].get(mode="fill", fill_value=0)
        dp = (g * h.at[src].get(mode="clip")).sum(-1)
        dz = p * (dp - jax.ops.segment_sum(p * dp, dst, n + 1)[dst])
        ds = jnp.zeros_like(s).at[src].add(dz, mode="drop").at[dst].add(dz, mode="drop")
        return jnp.zeros_like(h).at[src].add(p[:, None] * g, mode="drop"), ds, None, None

    args = example(5, 2), example(5, seed=1), integers(0, 1, 2, 3, 4, 0), integers(1, 2, 1, 0, 1, 2)
    return written(fwd, bwd), plain, args
