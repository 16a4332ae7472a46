"""Tests of reading IDX files: small generated files, and the real ones if they are installed."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from orthohash_triton.data import fashion_mnist


def write_idx(path: Path, values: np.ndarray, magic: int | None = None) -> None:
    header = struct.pack(f">{1 + values.ndim}i", magic or 2048 + values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for stem, count in (("train", 20), ("t10k", 10)):
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28), np.uint8))
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype(np.uint8))
    return tmp_path


def test_reads_what_was_written(folder: Path) -> None:
    train, gallery, query = fashion_mnist.load_splits(folder)
    assert train is gallery
    assert train.inputs.shape == (20, 28, 28)
    assert query.inputs.shape == (10, 28, 28)
    assert torch.equal(query.labels, torch.arange(10))
    expected = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    assert np.array_equal(train.inputs.numpy(), expected)
    assert train.sample_shape == (1, 28, 28)


def test_the_environment_names_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORTHOHASH_DATA", str(folder))
    assert len(fashion_mnist.load("test")) == 10


def test_a_named_folder_without_the_files_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"fetch_fashion_mnist\.sh"):
        fashion_mnist.load("train", tmp_path)
    monkeypatch.setenv("ORTHOHASH_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        fashion_mnist.load("train")


def test_unknown_split(folder: Path) -> None:
    with pytest.raises(ValueError, match='"train" or "test"; got \'validation\''):
        fashion_mnist.load("validation", folder)


def test_wrong_magic_number(folder: Path) -> None:
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.zeros(10, np.uint8), magic=2051)
    with pytest.raises(ValueError, match="magic number 2051, expected 2049"):
        fashion_mnist.load("test", folder)


def test_fewer_values_than_the_header_promises(folder: Path) -> None:
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))
    with pytest.raises(ValueError, match=r"holds 7839 values, its header \[10, 28, 28\] promises 7840"):
        fashion_mnist.load("test", folder)


@pytest.mark.parametrize("damage", [lambda raw: raw[:50], lambda raw: b"not gzip", lambda raw: b""])
def test_damaged_gzip(folder: Path, damage) -> None:
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="t10k-images"):
        fashion_mnist.load("test", folder)


def test_images_and_labels_of_different_length(folder: Path) -> None:
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.zeros(9, np.uint8))
    with pytest.raises(ValueError, match="10 test images but 9 labels"):
        fashion_mnist.load("test", folder)


def test_the_real_files() -> None:
    try:
        fashion_mnist.find_folder()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    for split, per_class in (("train", 6000), ("test", 1000)):
        dataset = fashion_mnist.load(split)
        assert dataset.inputs.shape == (10 * per_class, 28, 28)
        assert dataset.labels.bincount().tolist() == [per_class] * 10
