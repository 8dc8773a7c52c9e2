"""The real data of the examples: scikit-learn's sets, Python's own sources, MNIST for who has its files."""

import gzip
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import train_test_split

from jbp.credit import labelled

Pair = tuple[np.ndarray, np.ndarray]


class Damaged(ValueError):  # noqa: N818
    """A file of data is missing, or is not what it should be. The message says which file and what is wrong."""


def images(folder: Path | None = None) -> tuple[Pair, Pair]:
    """((x, label) for training, (x, label) held out): handwritten digits, x (n, h, w, 1) between 0 and 1.

    With a folder, MNIST's original files in it, 28×28 pixels. Without, scikit-learn's 1797 images of 8×8 pixels, of
    which 500, the same ones always, are held out.
    """
    if folder is not None:
        return mnist(folder)
    x, label = load_digits(return_X_y=True)
    x, label = (x.reshape(-1, 8, 8, 1) / 16).astype("float32"), label.astype("int32")
    return _split(x, label, 500)


def table(load: Callable[..., Any], held_out: int, classes: bool = True) -> tuple[Pair, Pair]:
    """((x, y) for training, (x, y) held out) of one of scikit-learn's tables, such as `load_wine`.

    x (n, features) has mean 0 and variance 1 in each column of the training part; y (n,) is the class, or with
    classes=False a number.
    """
    x, y = load(return_X_y=True)
    training, held = _split(x.astype("float32"), y.astype("int32" if classes else "float32"), held_out)
    mean, deviation = training[0].mean(0), training[0].std(0)
    return ((training[0] - mean) / deviation, training[1]), ((held[0] - mean) / deviation, held[1])


def text(most: int = 4_000_000) -> Pair:
    """(training, held out): the characters of the standard library's modules, below 128; others are read as "?".

    Every tenth of its files, in alphabetical order, is held out.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    files = sorted(folder.glob("*.py")) + sorted(folder.glob("[a-z]*/*.py"))
    texts = [file.read_bytes() for file in files if "site-packages" not in file.parts and "test" not in file.parts]
    parts = [b"".join(t for i, t in enumerate(texts) if (i % 10 == 0) == held_out) for held_out in (False, True)]
    training, held_out = (np.frombuffer(part[:most], np.uint8).astype("int32") for part in parts)
    if len(held_out) < 10_000:
        raise Damaged(f"{folder} has no Python sources to learn from; expected this interpreter's standard library.")
    return np.where(training < 128, training, ord("?")), np.where(held_out < 128, held_out, ord("?"))


def _split(x: np.ndarray, y: np.ndarray, held_out: int) -> tuple[Pair, Pair]:
    classes = y if y.dtype.kind == "i" else None
    x, held_x, y, held_y = map(np.asarray, train_test_split(x, y, test_size=held_out, random_state=0, stratify=classes))
    return (x, y), (held_x, held_y)


def minibatches(*arrays: np.ndarray, size: int, seed: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Rows of the arrays without end, `size` of them at a time, every epoch in a new order."""
    random = np.random.default_rng(seed)
    while True:
        order = random.permutation(len(arrays[0]))
        for i in range(0, len(order) - size + 1, size):
            yield tuple(a[order[i : i + size]] for a in arrays)


def placed(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Each image in a frame that is two pixels higher and wider, anywhere in it."""
    n, h, w, c = x.shape
    frames = np.zeros((n, h + 2, w + 2, c), x.dtype)
    for frame, image, (a, b) in zip(frames, x, random.integers(0, 3, (n, 2)), strict=True):
        frame[a : a + h, b : b + w] = image
    return frames


def placed_batches(x: np.ndarray, label: np.ndarray, seed: int, size: int = 64) -> Iterator[Pair]:
    """Minibatches without end, each image in another place every time."""
    random = np.random.default_rng(seed)
    for images, labels in minibatches(x, label, size=size, seed=seed):
        yield placed(images, random), labels


def cluttered(times: int = 5) -> tuple[Pair, Pair]:
    """((x, label) for training, (x, label) held out): `images` anywhere in a frame of 12×12 pixels, each with a piece
    of another one; those for training so many times.
    """
    (x, label), (held_x, held_label) = images()
    random = np.random.default_rng(0)
    wide = np.concatenate([_clutter(x, random) for _ in range(times)])
    return (wide, np.tile(label, times)), (_clutter(held_x, random), held_label)


def _clutter(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    frames = np.zeros((len(x), 12, 12, 1), x.dtype)
    for frame, image, other in zip(frames, x, random.permutation(x), strict=True):
        (a, b), (c, d), (i, j) = random.integers(0, 9, 2), random.integers(0, 5, 2), random.integers(0, 6, 2)
        frame[a : a + 3, b : b + 3] = other[i : i + 3, j : j + 3]
        frame[c : c + 8, d : d + 8] = np.maximum(frame[c : c + 8, d : d + 8], image)
    return frames


def real_and_false(batches: Iterator[Any], blocks: int, seed: int) -> Iterator[Any]:
    """Each image with its own label written into its first ten pixels, and with a wrong one; 1 and 0 a block."""
    random = np.random.default_rng(seed)
    for x, label in batches:
        wrong = (label + random.integers(1, 10, len(label))) % 10
        real = np.repeat([1.0, 0.0], len(x)).astype(x.dtype)
        yield np.concatenate([labelled(x, v, 10) for v in (label, wrong)]), np.stack([real] * blocks, -1)


def linear(x: np.ndarray, label: np.ndarray, held_x: np.ndarray, held_label: np.ndarray) -> float:
    """The held-out accuracy of scikit-learn's linear classifier, which sees four places of each image."""
    x, label = (np.concatenate([part[:1500]] * 4) for part in (x, label))
    model = RidgeClassifier().fit(placed(x, np.random.default_rng(0)).reshape(len(x), -1), label)
    return float(model.score(held_x.reshape(len(held_x), -1), held_label))


def mnist(folder: Path) -> tuple[Pair, Pair]:
    """((x, label) for training, (x, label) held out) from MNIST's four original files, compressed or not.

    Raises Damaged with the file and what is wrong with it.
    """
    return _mnist(folder, "train"), _mnist(folder, "t10k")


def _mnist(folder: Path, part: str) -> Pair:
    x, label = (idx(_find(folder, f"{part}-{kind}"), axes) for kind, axes in (("images-idx3", 3), ("labels-idx1", 1)))
    if len(x) != len(label):
        raise Damaged(
            f"{folder}: {part} has {len(x)} images and {len(label)} labels; expected as many of both. "
            "Are the two files from one set?"
        )
    if label.max() > 9:
        raise Damaged(f"{folder}: the labels of {part} go up to {label.max()}; expected digits, 0 to 9. Is it MNIST?")
    return (x[..., None] / np.float32(255)), label.astype("int32")


def _find(folder: Path, stem: str) -> Path:
    """The file under any of the names that it goes by."""
    names = [f"{name}-ubyte{end}" for name in (stem, stem.replace("-idx", ".idx")) for end in ("", ".gz")]
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise Damaged(f"{folder} has no {names[0]}; expected that, or one of {', '.join(names[1:])}.")
    return found[0]


def idx(path: Path, axes: int) -> np.ndarray:
    """The array of bytes in an IDX file, gzipped or not: 0, 0, the type (8: bytes), the number of axes, their sizes
    as 32-bit integers, the highest byte first, and then the values.

    Raises Damaged for another beginning, and for fewer or more bytes than the sizes say.
    """
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError, zlib.error) as error:
            raise Damaged(f"{path}: it cannot be decompressed ({error}). Is it cut off? Fetch it again.") from error
    magic, head = bytes((0, 0, 8, axes)), 4 + 4 * axes
    if raw[:4] != magic:
        raise Damaged(
            f"{path} begins with {raw[:4].hex(' ') or 'nothing'}; expected {magic.hex(' ')}, an IDX file of bytes with "
            f"{axes} {'axes' if axes > 1 else 'axis'}. Is it an error page, or are images and labels exchanged?"
        )
    if len(raw) < head:
        raise Damaged(f"{path} has {len(raw)} bytes; expected {head} for the head alone. Fetch it again.")
    sizes = [int(size) for size in np.frombuffer(raw, ">u4", axes, 4)]
    wanted = head + int(np.prod(sizes, dtype=object))
    if len(raw) != wanted or not wanted > head:
        raise Damaged(
            f"{path} has {len(raw)} bytes; expected {max(wanted, head + 1)} for sizes {sizes}. "
            "Is it cut off or empty? Fetch it again."
        )
    return np.frombuffer(raw, np.uint8, offset=head).reshape(sizes)
