from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orthohash_triton import data
from orthohash_triton.data import folders


def picture(path: Path, value: int, mode: str = "RGB", size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 255)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(6):
        picture(tmp_path / "dog" / f"{i}.png", 10 + i)
        picture(tmp_path / "cat" / "deep" / f"{i}.PNG", 100 + i)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def test_classes_and_files_in_alphabetical_order(photos: Path) -> None:
    dataset = folders.load(photos, size=4)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.inputs.shape == (12, 3, 4, 4)
    assert dataset.labels.tolist() == [0] * 6 + [1] * 6
    assert dataset.inputs[:, 0, 0, 0].tolist() == [*range(100, 106), *range(10, 16)]  # the red channel holds what was written
    assert dataset.inputs[0, :, 1, 2].tolist() == [100, 0, 255]
    assert dataset.paths[6] == photos / "dog" / "0.png"


def test_grey_and_colour_files_in_one_folder(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "grey.png", 77, mode="L")
    picture(tmp_path / "a" / "colour.png", 77)
    assert folders.load(tmp_path, size=5, grey=True).inputs.shape == (2, 5, 5)
    assert folders.load(tmp_path, size=5).inputs[1, :, 0, 0].tolist() == [77, 77, 77]


def test_split_by_seed(photos: Path) -> None:
    train, gallery, query = data.load_splits(str(photos), size=4, query_fraction=0.5)
    assert train is gallery
    assert query.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert not set(query.paths) & set(gallery.paths)


def test_split_by_folders(tmp_path: Path) -> None:
    for part, classes in (("train", "ab"), ("query", "b"), ("gallery", "ab")):
        for name in classes:
            picture(tmp_path / part / name / "1.png", 1)
    train, gallery, query = folders.load_splits(tmp_path, size=4)
    assert query.labels.tolist() == [1]  # b is class 1 of the training set
    assert gallery.paths[0] == tmp_path / "gallery" / "a" / "1.png"
    assert train.class_names == query.class_names == ("a", "b")


def test_a_class_that_training_lacks(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a" / "1.png", 1)
    picture(tmp_path / "query" / "zebra" / "1.png", 1)
    with pytest.raises(ValueError, match="classes that the training set lacks: zebra"):
        folders.load_splits(tmp_path, size=4)


def test_an_unreadable_file_is_named(photos: Path) -> None:
    (photos / "dog" / "3.png").write_bytes((photos / "dog" / "3.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"dog/3\.png cannot be read as an image"):
        folders.load(photos)


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        folders.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no sub-folders"):
        folders.load(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(ValueError, match="has no images"):
        folders.load(tmp_path)


def test_resizing_keeps_the_picture(tmp_path: Path) -> None:
    halves = np.zeros((20, 20), np.uint8)
    halves[:, 10:] = 200
    (tmp_path / "a").mkdir()
    Image.fromarray(halves).save(tmp_path / "a" / "1.png")
    small = folders.load(tmp_path, size=4, grey=True).inputs[0]
    assert small[:, 0].eq(0).all()
    assert small[:, 3].eq(200).all()
    assert small.dtype == torch.uint8
