"""The loader of MNIST's original files, on small made ones: whole, compressed, and damaged in every way."""

import gzip

import numpy as np
import pytest

from examples import data

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (5, 4, 3), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1, 9], np.uint8)


def packed(array, kind=8):
    return bytes((0, 0, kind, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(packed(IMAGES))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(packed(LABELS))
    return tmp_path


def same(found):
    for x, label in found:
        assert (x.shape, x.dtype, label.dtype) == ((5, 4, 3, 1), "float32", "int32")
        np.testing.assert_array_equal(np.rint(x[..., 0] * 255), IMAGES)
        assert 0 <= x.min() <= x.max() <= 1
        assert label.tolist() == LABELS.tolist()


def test_plain_files(folder):
    same(data.images(folder))


def test_compressed_files_and_the_other_spelling(folder):
    for file in list(folder.iterdir()):
        file.with_name(file.name.replace("-idx", ".idx") + ".gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    same(data.images(folder))


def test_a_compressed_file_without_its_ending(folder):
    file = folder / "train-images-idx3-ubyte"
    file.write_bytes(gzip.compress(file.read_bytes()))
    same(data.images(folder))


WHOLE = packed(IMAGES)
DAMAGE = {
    "an error page": (b"<!DOCTYPE html><p>404", "begins with 3c 21 44 4f"),
    "empty": (b"", "begins with nothing"),
    "labels in its place": (packed(LABELS), "begins with 00 00 08 01; expected 00 00 08 03"),
    "integers": (packed(IMAGES, kind=12), "begins with 00 00 0c 03"),
    "cut off": (WHOLE[:-1], r"has 75 bytes; expected 76 for sizes \[5, 4, 3\]"),
    "cut off in the head": (WHOLE[:9], "has 9 bytes; expected 16 for the head"),
    "too long": (WHOLE + b"\0", "has 77 bytes; expected 76"),
    "no images": (packed(IMAGES[:0]), "has 16 bytes"),
    "sizes beyond all bounds": (WHOLE[:4] + b"\xff" * 12 + WHOLE[16:], "for sizes"),
    "compressed and cut off": (gzip.compress(WHOLE)[:-9], "cannot be decompressed"),
    "compressed and changed": (gzip.compress(WHOLE)[:-8] + bytes(8), "cannot be decompressed"),
    "compressed rubbish": (b"\x1f\x8b" + bytes(30), "cannot be decompressed"),
    "fewer images than labels": (packed(IMAGES[:3]), "train has 3 images and 5 labels"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_by_name(folder, damage):
    content, words = DAMAGE[damage]
    (folder / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(data.Damaged, match=words) as error:
        data.images(folder)
    assert str(folder) in str(error.value)


def test_labels_that_are_no_digits(folder):
    (folder / "t10k-labels-idx1-ubyte").write_bytes(packed(LABELS + 1))
    with pytest.raises(data.Damaged, match="t10k go up to 10"):
        data.images(folder)


def test_a_missing_file(folder):
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(data.Damaged, match="has no t10k-labels-idx1-ubyte"):
        data.images(folder)
    with pytest.raises(data.Damaged, match="has no train-images"):
        data.images(folder / "nowhere")


def test_without_a_folder_there_are_scikit_learns_digits():
    (x, label), (held_x, held_label) = data.images()
    assert (x.shape, held_x.shape) == ((1297, 8, 8, 1), (500, 8, 8, 1))
    assert set(label) == set(held_label) == set(range(10))
    assert not {row.tobytes() for row in x} & {row.tobytes() for row in held_x}
