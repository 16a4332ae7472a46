"""Tests of sources, which yield samples in order, batch by batch."""

import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orthohash_triton import data
from orthohash_triton.data import Dataset, Source, open_source


def dataset(name: str = "toy", **changes) -> Dataset:
    return Dataset(torch.arange(14.0).view(7, 2), torch.arange(7) % 2, ("a", "b"), name, **changes)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of images whose red channel is their number; 2.png is empty, and 6.png is in no class folder."""
    for i, place in enumerate(["train/a"] * 4 + ["query/b"]):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 6), (i, 0, 0)).save(tmp_path / place / f"{i}.png")
    (tmp_path / "train" / "b").mkdir()
    Image.new("RGB", (6, 6), (5, 0, 0)).save(tmp_path / "train" / "b" / "5.png")
    (tmp_path / "train" / "a" / "2.png").write_bytes(b"")
    Image.new("RGB", (6, 6), (6, 0, 0)).save(tmp_path / "train" / "6.png")
    return tmp_path


def contents(source: Source, batch_size: int, start: int = 0) -> tuple[list[int], list[int]]:
    """Return the first value of each sample, and the positions of those that were skipped."""
    batches = list(source.batches(batch_size, start=start))
    values = [int(row.flatten()[0]) for batch in batches for row in batch.inputs]
    return values, [position for batch in batches for position in batch.skipped]


@pytest.mark.parametrize("batch_size", [1, 2, 100])
@pytest.mark.parametrize("start", [0, 1, 4, 7])
def test_batches_start_anywhere(batch_size: int, start: int, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", dataset().inputs.numpy())
    for source in (dataset(), tmp_path / "x.npy"):
        assert contents(open_source(source, (2,)), batch_size, start) == (list(range(0, 14, 2))[start:], [])


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_images_that_cannot_be_decoded_keep_their_position(photos: Path, batch_size: int) -> None:
    source = open_source(photos, (3, 4, 4))
    assert [path.name for path in source.paths] == ["0.png", "1.png", "2.png", "3.png", "5.png", "6.png", "4.png"]
    assert source.skipped == ()
    assert source.labels.int().tolist() == [[1, 0]] * 4 + [[0, 1], [0, 0], [0, 1]]
    assert contents(source, batch_size) == ([0, 1, 3, 5, 6, 4], [2])
    assert contents(source, batch_size, start=2) == ([3, 5, 6, 4], [2])
    assert contents(open_source(photos, (3, 4, 4), split="query"), batch_size) == ([4], [])
    with pytest.raises(ValueError, match=r"2\.png cannot be read as an image \(the file is empty\)"):
        contents(open_source(photos, (3, 4, 4), on_error="raise"), batch_size)


def test_shapes(photos: Path) -> None:
    assert next(open_source(photos, (1, 4, 4)).batches(2)).inputs.shape == (2, 4, 4)
    with pytest.raises(ValueError, match="toy has features of 2 numbers; the model takes features of 3 numbers"):
        open_source(dataset(), (3,))
    with pytest.raises(ValueError, match="has images; the model takes features of 2 numbers"):
        open_source(photos, (2,))
    with pytest.raises(ValueError, match="scikit-learn digits has grey images of 8 x 8; the model takes RGB images of 8 x 8"):
        open_source("digits", (3, 8, 8))


def test_fingerprints_tell_sources_apart(photos: Path, tmp_path: Path) -> None:
    def fingerprint(source: object, shape: tuple[int, ...] = (2,)) -> str:
        return open_source(source, shape).fingerprint()

    again = dataset()
    assert fingerprint(again) == fingerprint(dataset())
    assert len({fingerprint(one) for one in (dataset(), dataset("other"), dataset().subset(torch.arange(6)))}) == 3
    path = photos / "train" / "a" / "0.png"
    before = fingerprint(photos, (3, 4, 4))
    assert fingerprint(photos, (3, 4, 4)) == before
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))  # another file of the same size
    changed = fingerprint(photos, (3, 4, 4))
    assert changed != before
    path.write_bytes(b"shorter")
    assert fingerprint(photos, (3, 4, 4)) not in (before, changed)


def test_samples_without_labels(tmp_path: Path) -> None:
    for i in range(3):
        Image.new("RGB", (6, 6), (i, 0, 0)).save(tmp_path / f"{i}.png")
    source = open_source(tmp_path, (3, 4, 4))
    assert source.labels is None
    assert source.class_names == ()
    unlabelled = Dataset(torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64), (data.UNLABELLED,), "toy")
    assert open_source(unlabelled, (2,)).labels is None
    assert open_source(dataset(), (2,)).class_names == ("a", "b")


def test_a_source_is_taken_as_it_is() -> None:
    source = open_source(dataset(), (2,))
    assert open_source(source, (2,)) is source


def test_every_image_of_a_folder(tmp_path: Path) -> None:
    """A folder beside the images hides none of them, whatever it holds."""
    for i in range(5):
        Image.new("RGB", (6, 6), (i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "thumbs").mkdir()
    Image.new("RGB", (6, 6), (9, 0, 0)).save(tmp_path / "thumbs" / "9.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "thumbs")
    source = open_source(tmp_path, (3, 4, 4))
    assert contents(source, 4) == ([0, 1, 2, 3, 4, 9], [])
    assert source.labels is None


@pytest.mark.parametrize("name", ["x.jfif", "x.JPE", "x", "x.jpg.download", "x.jpg"])
def test_a_single_image_by_any_name(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (6, 6), (200, 200, 200)).save(tmp_path / name, "JPEG")
    source = open_source(str(tmp_path / name), (3, 4, 4))
    assert len(source) == 1
    assert contents(source, 1)[0] == [200]
    with pytest.raises(ValueError, match="has no part 'query'; it has all"):
        open_source(tmp_path / name, (3, 4, 4), split="query")


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("no image")
    with pytest.raises(ValueError, match="notes is no data set of a known kind"):
        open_source(tmp_path / "notes", (3, 4, 4))
    (tmp_path / "x.svg").write_text("<svg/>")
    with pytest.raises(ValueError, match=r"x\.svg cannot be read: \.svg files are not decoded\. Convert it to JPEG or PNG"):
        open_source(tmp_path / "x.svg", (3, 4, 4))


def test_mistyped_names(tmp_path: Path) -> None:
    (tmp_path / "beach.jpg").touch()
    for name, suggestion in {"beach.jgp": f"; did you mean {tmp_path / 'beach.jpg'}?", "zzz": "."}.items():
        with pytest.raises(FileNotFoundError, match=re.escape(f"{name} does not exist{suggestion}")):
            open_source(tmp_path / name, (3, 4, 4))
    with pytest.raises(FileNotFoundError, match=r"digts does not exist; did you mean digits\?"):
        open_source("digts", (1, 8, 8))
    with pytest.raises(FileNotFoundError, match=r"nowhere/beach\.jpg does not exist\. Expected"):
        open_source(tmp_path / "nowhere" / "beach.jpg", (3, 4, 4))


def test_a_path_in_another_normal_form(tmp_path: Path) -> None:
    for form, other in (("NFC", "NFD"), ("NFD", "NFC")):
        folder = tmp_path / form / unicodedata.normalize(form, "café")
        folder.mkdir(parents=True)
        Image.new("RGB", (6, 6), (7, 0, 0)).save(folder / unicodedata.normalize(form, "é.png"))
        asked = tmp_path / form / unicodedata.normalize(other, "café")
        for source in (asked, asked / unicodedata.normalize(other, "é.png")):
            assert contents(open_source(source, (3, 4, 4)), 1)[0] == [7]
        assert len(data.load_splits(asked, size=4).gallery) == 1
