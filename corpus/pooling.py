"""Pooling, sampling, padding, resizing, shuffling and transposed convolution."""

import jax.numpy as jnp
from jax import lax

from corpus.common import example, floats, keeping, right, unbroadcast, uniform, wrong


def _tap(x, i):
    """x[i], and 0 outside."""
    n = x.shape[0]
    return jnp.where((i >= 0) & (i < n), x[jnp.clip(i, 0, n - 1)], 0.0)


def _tap_back(x, i, d):
    return jnp.zeros_like(x).at[jnp.where(i < 0, x.shape[0], i)].add(d, mode="drop")


@wrong("judge 14", "a length that is no multiple of three")
def adaptive_pool_with_overlapping_bins():
    """Means of three bins that share rows where three doesn't divide the length; going back each row has one bin."""

    def plain(x):
        n = x.shape[0]
        return jnp.stack([x[i * n // 3 : -(-(i + 1) * n // 3)].mean(0) for i in range(3)])

    def bwd(r, d):
        (x,) = r
        n = x.shape[0]
        return (d[jnp.arange(n) * 3 // n] * (3 / n),)

    return keeping(plain, bwd), plain, (example(6, 2),)


@wrong("judge 14", "values below the floor")
def power_mean_pool_through_its_floor():
    """Values below the floor are raised to it and so have no gradient, but get that of the floor."""

    def plain(x, p):
        return (jnp.where(x > 0.1, x, 0.1) ** p).mean(1) ** (1 / p)

    def bwd(r, d):
        x, p = r
        z = jnp.where(x > 0.1, x, 0.1)
        mean = (z**p).mean(1)
        y = mean ** (1 / p)
        dx = (d * y / mean)[:, None] * z ** (p - 1) / x.shape[1]
        dp = y * ((z**p * jnp.log(z)).mean(1) / (p * mean) - jnp.log(mean) / p**2)
        return dx, unbroadcast(d * dp, p.shape)

    return keeping(plain, bwd), plain, (uniform(0.3, 2.0, 2, 5, 3), jnp.asarray(1.5, jnp.float32))


@wrong("judge 14", "points off the image")
def region_points_off_the_image():
    """Points off the image have the value zero, yet going back they count as points of its border."""

    def corners(x, points):
        points = lax.stop_gradient(points)
        size = jnp.asarray(x.shape[:2])
        inside = ((points > -1) & (points < size)).all(-1)
        points = jnp.clip(points, 0, size - 1)
        low = jnp.floor(points).astype(jnp.int32)
        return inside, points - low, low, jnp.minimum(low + 1, size - 1)

    def weighted(x, points):
        inside, f, low, high = corners(x, points)
        u, v = f[:, :1], f[:, 1:]
        (i, j), (k, m) = low.T, high.T
        return inside, [(i, j, (1 - u) * (1 - v)), (i, m, (1 - u) * v), (k, j, u * (1 - v)), (k, m, u * v)]

    def plain(x, points):
        inside, taps = weighted(x, points)
        return jnp.where(inside[:, None], sum(w * x[i, j] for i, j, w in taps), 0.0)

    def bwd(r, d):
        x, points = r
        dx = jnp.zeros_like(x)
        for i, j, w in weighted(x, points)[1]:
            dx = dx.at[i, j].add(w * d)
        return dx, jnp.zeros_like(points)

    return keeping(plain, bwd), plain, (example(4, 5, 2), uniform(0.2, 2.9, 6, 2))


@wrong("judge 14", "more than one channel after the shuffle")
def shuffled_pixels_of_one_channel():
    """Four channels become a block of pixels, the new channel being outermost; the backward pass has it innermost."""

    def plain(x):
        h, w, _ = x.shape
        return x.reshape(h, w, -1, 2, 2).transpose(0, 3, 1, 4, 2).reshape(2 * h, 2 * w, -1)

    def bwd(r, d):
        h, w, c = r[0].shape
        return (d.reshape(h, 2, w, 2, -1).transpose(0, 2, 1, 3, 4).reshape(h, w, c),)

    return keeping(plain, bwd), plain, (example(3, 2, 4),)


@wrong("judge 14", "offsets that are whole numbers, as zeros at the start of training are")
def deformed_taps_at_whole_offsets():
    """The upper neighbour is found by ceil going back, so at whole numbers both are one and the slope is zero."""

    def plain(x, offset):
        p = jnp.arange(offset.shape[0]) + offset
        low = jnp.floor(p)
        f, i = p - low, low.astype(jnp.int32)
        return (1 - f) * _tap(x, i) + f * _tap(x, i + 1)

    def bwd(r, d):
        x, offset = r
        p = jnp.arange(offset.shape[0]) + offset
        low, high = jnp.floor(p), jnp.ceil(p)
        f, i, j = p - low, low.astype(jnp.int32), high.astype(jnp.int32)
        return _tap_back(x, i, (1 - f) * d) + _tap_back(x, j, f * d), d * (_tap(x, j) - _tap(x, i))

    return keeping(plain, bwd), plain, (example(6), uniform(-0.9, 0.9, 6, seed=1))


@wrong("judge 14", "a single sample")
def replicated_border_of_one_sample():
    """The first and the last sample get what was copied from them, which overwrite each other if they are one."""

    def plain(x):
        return jnp.pad(x, ((2, 3), (0, 0)), mode="edge")

    def bwd(r, d):
        inner = d[2:-3]
        return (inner.at[0].set(d[:3].sum(0)).at[-1].set(inner[-1] + d[-3:].sum(0)),)

    return keeping(plain, bwd), plain, (example(5, 2),)


@wrong("judge 14", "points beyond the ends")
def sampling_mirrored_without_its_sign():
    """Places beyond the ends are mirrored, where the slope changes its sign, which it doesn't here."""

    def parts(x, p):
        last = x.shape[0] - 1
        p = jnp.abs(p) % (2 * last)
        p = jnp.where(p > last, 2 * last - p, p)
        i = jnp.clip(jnp.floor(p), 0, last - 1).astype(jnp.int32)
        return i, p - i

    def plain(x, p):
        i, f = parts(x, p)
        return (1 - f) * x[i] + f * x[i + 1]

    def bwd(r, d):
        x, p = r
        i, f = parts(x, p)
        return jnp.zeros_like(x).at[i].add((1 - f) * d).at[i + 1].add(f * d), d * (x[i + 1] - x[i])

    return keeping(plain, bwd), plain, (example(5), uniform(0.2, 3.8, 6, seed=1))


@right("judge 14")
def dilated_max_pool_of_the_first():
    """The largest of three taps two apart, the first one where they are equal; nothing wins from outside."""

    def winners(x):
        at = jnp.arange(x.shape[0])[:, None] + 2 * jnp.arange(3)
        taps = jnp.pad(x, ((2, 2), (0, 0)), constant_values=-jnp.inf)[at]
        return taps, taps.argmax(1)

    def plain(x):
        taps, first = winners(x)
        return jnp.take_along_axis(taps, first[:, None], 1)[:, 0]

    def bwd(r, d):
        (x,) = r
        n, c = x.shape
        row = jnp.arange(n)[:, None] + 2 * winners(x)[1]
        return (jnp.zeros((n + 4, c), d.dtype).at[row, jnp.arange(c)].add(d)[2:-2],)

    return keeping(plain, bwd), plain, (jnp.round(example(7, 3)),)


@right("judge 14")
def transposed_convolution_with_one_more():
    """A stride of two and one more sample at the end, which nothing reaches."""

    def plain(x, w):
        n, taps = x.shape[0], w.shape[0]
        y = jnp.zeros((2 * n + taps - 1, w.shape[2]), jnp.result_type(x, w))
        for t in range(taps):
            y = y.at[t : t + 2 * n - 1 : 2].add(x @ w[t])
        return y

    def bwd(r, d):
        x, w = r
        parts = [d[t : t + 2 * x.shape[0] - 1 : 2] for t in range(w.shape[0])]
        return sum(p @ w[t].T for t, p in enumerate(parts)), jnp.stack([x.T @ p for p in parts])

    return keeping(plain, bwd), plain, (example(5, 3), example(3, 3, 2, seed=1))


@right("judge 14")
def resized_with_aligned_corners():
    """Seven samples from the first to the last, between neighbours; of one sample, seven copies."""

    def parts(x):
        n = x.shape[0]
        p = jnp.arange(7, dtype=x.dtype) * (n - 1) / 6
        i = jnp.clip(jnp.floor(p).astype(jnp.int32), 0, max(n - 2, 0))
        return i, jnp.minimum(i + 1, n - 1), (p - i)[:, None]

    def plain(x):
        i, j, f = parts(x)
        return (1 - f) * x[i] + f * x[j]

    def bwd(r, d):
        (x,) = r
        i, j, f = parts(x)
        return (jnp.zeros_like(x).at[i].add((1 - f) * d).at[j].add(f * d),)

    return keeping(plain, bwd), plain, (example(4, 2),)


@right("judge 14")
def cost_volume_of_neighbours():
    """Products of each row with the other's rows before, at and after its place, and with none outside."""

    def windows(a, b):
        n, padded = a.shape[0], jnp.pad(b, ((1, 1), (0, 0)))
        return padded, jnp.stack([padded[t : t + n] for t in range(3)], 1)

    def plain(a, b):
        return (windows(a, b)[1] @ a[:, :, None])[..., 0]

    def bwd(r, d):
        a, b = r
        padded, near = windows(a, b)
        db = jnp.zeros_like(padded)
        for t in range(3):
            db = db.at[t : t + a.shape[0]].add(d[:, t, None] * a)
        return (d[:, None] @ near)[:, 0], db[1:-1]

    return keeping(plain, bwd), plain, (example(5, 3), example(5, 3, seed=1))


@right("judge 14")
def sampling_with_zeros_outside():
    """Between two samples, of which those outside are zeros; at a sample the slope is that to the next one."""

    def parts(p):
        low = jnp.floor(p)
        return p - low, low.astype(jnp.int32)

    def plain(x, p):
        f, i = parts(p)
        return (1 - f) * _tap(x, i) + f * _tap(x, i + 1)

    def bwd(r, d):
        x, p = r
        f, i = parts(p)
        return _tap_back(x, i, (1 - f) * d) + _tap_back(x, i + 1, f * d), d * (_tap(x, i + 1) - _tap(x, i))

    return keeping(plain, bwd), plain, (example(5), floats(-1.5, -0.3, 0.0, 1.4, 2.0, 4.0, 4.6, 7.0))
