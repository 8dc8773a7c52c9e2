"""Tables, images and histograms, read between their points."""

import jax.numpy as jnp

from corpus.common import example, floats, keeping, right, uniform, written, wrong

# right ----------------------------------------------------------------------------------------------------------------


@right("judge 1")
def linear_interp_sorted_knots():
    """The knots must stay in order; outside of them it is constant."""

    def fwd(x, knots, values):
        i = jnp.clip(jnp.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2)
        gap = knots[i + 1] - knots[i]
        t = jnp.clip((x - knots[i]) / gap, 0, 1)
        slope = jnp.where((x >= knots[0]) & (x <= knots[-1]), (values[i + 1] - values[i]) / gap, 0)
        return values[i] * (1 - t) + values[i + 1] * t, (i, t, slope, jnp.zeros_like(knots))

    def bwd(r, d):
        i, t, slope, zero = r
        spread = lambda g: zero.at[i].add(g * (1 - t)).at[i + 1].add(g * t)  # noqa: E731
        return d * slope, spread(-d * slope), spread(d)

    knots = jnp.asarray([0, 0.7, 1.5, 2.2, 3.1, 4.0])
    return written(fwd, bwd), jnp.interp, (uniform(-0.2, 4.2, 9), knots, example(6, seed=1))


@right("judge 11")
def interp_knots():
    """np.interp with sorted knots as shown, constant outside; all three slopes."""

    def plain(x, xp, fp):
        return jnp.interp(x, xp, fp)

    def bwd(r, g):
        x, xp, fp = r
        i = jnp.clip(jnp.searchsorted(xp, x, side="right"), 1, xp.shape[0] - 1)
        h = xp[i] - xp[i - 1]
        w = (x - xp[i - 1]) / h
        out = (x < xp[0]) | (x > xp[-1])
        w = jnp.where(out, (x > xp[-1]).astype(x.dtype), w)
        s = jnp.where(out, 0, g * (fp[i] - fp[i - 1]) / h)
        dxp = jnp.zeros_like(xp).at[i].add(-s * w).at[i - 1].add(-s * (1 - w))
        dfp = jnp.zeros_like(fp).at[i].add(g * w).at[i - 1].add(g * (1 - w))
        return s, dxp, dfp

    return keeping(plain, bwd), plain, (floats(0.2, 0.5, 3.5), floats(0, 1, 3, 4), floats(1, 3, 2, 6))


@right("judge 11")
def grid_sample_border():
    """Linear sampling with border clamping. Re-creates pytorch 23925, done right."""

    def plain(img, pos):
        n = img.shape[0]
        p = jnp.clip(pos, 0, n - 1)
        i = jnp.clip(jnp.floor(p).astype(jnp.int32), 0, n - 2)
        return img[i] * (1 - (p - i)) + img[i + 1] * (p - i)

    def bwd(r, g):
        img, pos = r
        n = img.shape[0]
        p = jnp.clip(pos, 0, n - 1)
        i = jnp.clip(jnp.floor(p).astype(jnp.int32), 0, n - 2)
        t = p - i
        dp = jnp.where((pos >= 0) & (pos <= n - 1), g * (img[i + 1] - img[i]), 0)
        return jnp.zeros_like(img).at[i].add(g * (1 - t)).at[i + 1].add(g * t), dp

    return keeping(plain, bwd), plain, (floats(1, 2, 4, 3, 8), floats(0.3, 3.7, 2.5))


# wrong ----------------------------------------------------------------------------------------------------------------


@wrong("judge 1", edge="other sizes and ranks")
def gridsample_square_image_only():
    """The second coordinate is scaled by the height."""

    def at(image, uv):
        h, w = image.shape
        y, x = (uv[:, 0] + 1) / 2 * (h - 1), (uv[:, 1] + 1) / 2 * (w - 1)
        i, j = jnp.clip(jnp.floor(y), 0, h - 2).astype(int), jnp.clip(jnp.floor(x), 0, w - 2).astype(int)
        return i, j, y - i, x - j

    def plain(image, uv):
        i, j, a, b = at(image, uv)
        top = image[i, j] * (1 - b) + image[i, j + 1] * b
        return top * (1 - a) + (image[i + 1, j] * (1 - b) + image[i + 1, j + 1] * b) * a

    def bwd(r, d):
        image, uv = r
        i, j, a, b = at(image, uv)
        p, q, s, t = image[i, j], image[i, j + 1], image[i + 1, j], image[i + 1, j + 1]
        put = jnp.zeros_like(image).at[i, j].add(d * (1 - a) * (1 - b)).at[i, j + 1].add(d * (1 - a) * b)
        put = put.at[i + 1, j].add(d * a * (1 - b)).at[i + 1, j + 1].add(d * a * b)
        da, db = (s - p) * (1 - b) + (t - q) * b, (q - p) * (1 - a) + (t - s) * a
        return put, jnp.stack([d * da, d * db], -1) * (image.shape[0] - 1) / 2

    return keeping(plain, bwd), plain, (example(8, 8), uniform(-0.9, 0.9, 6, 2, seed=1))


@wrong("judge 1", edge="particular values")
def table_goes_on_outside():
    """Interpolation in a table over 0…1, constant outside; the slope goes on."""

    def at(x, table):
        n = table.shape[0] - 1
        u = jnp.clip(x, 0, 1) * n
        i = jnp.clip(jnp.floor(u).astype(int), 0, max(n - 1, 0))
        return n, i, jnp.minimum(i + 1, n), (u - i).astype(x.dtype)

    def plain(x, table):
        _, i, j, t = at(x, table)
        return table[i] * (1 - t) + table[j] * t

    def bwd(r, d):
        x, table = r
        n, i, j, t = at(x, table)
        return d * (table[j] - table[i]) * n, jnp.zeros_like(table).at[j].add(d * t).at[i].add(d * (1 - t))

    return keeping(plain, bwd), plain, (uniform(0.02, 0.98, 7), example(6, seed=1))


@wrong("judge 3", edge="a value on a border between bins")
def at_a_border_to_the_left():
    """A histogram's bin: its right neighbour's in the forward pass where a value lies on the border."""

    def plain(x, borders, heights):
        return heights[jnp.clip(jnp.searchsorted(borders, x, side="right") - 1, 0, len(heights) - 1)]

    def bwd(r, d):
        x, borders, heights = r
        i = jnp.clip(jnp.searchsorted(borders, x) - 1, 0, len(heights) - 1)
        return jnp.zeros_like(x), jnp.zeros_like(borders), jnp.zeros_like(heights).at[i].add(d)

    return keeping(plain, bwd), plain, (uniform(0.1, 5.9, 9), jnp.arange(7.0), example(6))


@wrong("judge 11", edge="a sample exactly on the last pixel")
def grid_sample_border_end():
    """Linear sampling with border clamping; on the last pixel the upper neighbour
    is read as zero. Re-creates: "'border' mode of grid_sample has incorrect gradients"."""

    def plain(img, pos):
        n = img.shape[0]
        p = jnp.clip(pos, 0, n - 1)
        i = jnp.clip(jnp.floor(p).astype(jnp.int32), 0, n - 2)
        t = p - i
        return img[i] * (1 - t) + img[i + 1] * t

    def bwd(res, g):
        img, pos = res
        n = img.shape[0]
        p = jnp.clip(pos, 0, n - 1)
        i = jnp.floor(p).astype(jnp.int32)
        t = p - i
        padded = jnp.concatenate([img, jnp.zeros((1,), img.dtype)])
        inside = (pos >= 0) & (pos <= n - 1)
        dpos = jnp.where(inside, g * (padded[i + 1] - padded[i]), 0)
        dimg = jnp.zeros_like(padded).at[i].add(g * (1 - t)).at[i + 1].add(g * t)[:n]
        return dimg, dpos

    return keeping(plain, bwd), plain, (floats(1, 2, 4, 3, 8), floats(0.3, 3.7, 2.5))


@wrong("judge 11", edge="outside the knots")
def interp_outside():
    """np.interp, the slope of the end segments used outside the knots.
    Re-creates: "interp gradient nonzero in the constant extrapolation"."""

    def plain(x, xp, fp):
        return jnp.interp(x, xp, fp)

    def bwd(res, g):
        x, xp, fp = res
        i = jnp.clip(jnp.searchsorted(xp, x, side="right"), 1, xp.shape[0] - 1)
        w = jnp.clip((x - xp[i - 1]) / (xp[i] - xp[i - 1]), 0, 1)
        slope = (fp[i] - fp[i - 1]) / (xp[i] - xp[i - 1])
        dxp = jnp.zeros_like(xp).at[i].add(-g * slope * w).at[i - 1].add(-g * slope * (1 - w))
        out = (x < xp[0]) | (x > xp[-1])
        gx = jnp.where(out, 0, g)
        dxp = jnp.zeros_like(xp).at[i].add(-gx * slope * w).at[i - 1].add(-gx * slope * (1 - w))
        dfp = jnp.zeros_like(fp).at[i].add(g * w).at[i - 1].add(g * (1 - w))
        return g * slope, dxp, dfp

    return keeping(plain, bwd), plain, (floats(0.2, 0.5, 3.5), floats(0, 1, 3, 4), floats(1, 3, 2, 6))
