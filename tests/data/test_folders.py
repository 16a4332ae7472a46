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


def test_unreadable_files_are_skipped_and_listed(photos: Path, capsys: pytest.CaptureFixture) -> None:
    (photos / "dog" / "3.png").write_bytes((photos / "dog" / "3.png").read_bytes()[:40])
    (photos / "cat" / "0.jpg").write_text("not an image")
    dataset = folders.load(photos, size=4)
    assert len(dataset) == 12 - 1
    assert dataset.labels.tolist() == [0] * 6 + [1] * 5
    assert photos / "dog" / "3.png" not in dataset.paths
    assert dataset.inputs[:, 0, 0, 0].tolist() == [*range(100, 106), 10, 11, 12, 14, 15]
    assert [path for path, _ in dataset.skipped] == [photos / "cat" / "0.jpg", photos / "dog" / "3.png"]
    assert {reason for _, reason in dataset.skipped} == {"not an image of a known format"}
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "2 of 13 files skipped" in err
    assert "0.jpg (not an image of a known format)" in err
    with pytest.raises(ValueError, match=r"cat/0\.jpg cannot be read as an image"):
        data.load_splits(str(photos), on_error="raise")


def test_a_class_that_loses_its_last_image(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png", 1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.png").touch()
    for read in (folders.load, folders.load_splits):
        with pytest.raises(ValueError, match=r"no image of class b can be read .*b/1\.png \(the file is empty\)"):
            read(tmp_path)


def test_images_beside_class_folders_are_skipped(photos: Path, capsys: pytest.CaptureFixture) -> None:
    picture(photos / "cover.jpg", 1)
    dataset = folders.load(photos, size=4)
    assert len(dataset) == 12
    assert dataset.skipped == ((photos / "cover.jpg", "next to the class folders, in none of them"),)
    assert "1 of 13 files skipped" in capsys.readouterr().err


def test_hidden_files_and_folders_are_left_alone(photos: Path, capsys: pytest.CaptureFixture) -> None:
    picture(photos / "cat" / ".thumbnails" / "1.png", 1)
    (photos / "cat" / "._1.jpg").write_bytes(b"what macOS leaves on other disks")
    assert len(folders.load(photos, size=4)) == 12
    assert capsys.readouterr().err == ""


def test_a_link_that_leads_nowhere_is_listed(photos: Path) -> None:
    (photos / "cat" / "gone.png").symlink_to(photos / "elsewhere.png")
    assert folders.load(photos, size=4).skipped == ((photos / "cat" / "gone.png", "no such file or directory"),)


def test_a_folder_without_classes(tmp_path: Path) -> None:
    for i in range(5):
        picture(tmp_path / f"{i}.png", i)
    train, gallery, query = data.load_splits(str(tmp_path), size=4)
    assert not train.is_labelled
    assert train.class_names == ("unlabelled",)
    assert [path.name for path in gallery.paths] == [f"{i}.png" for i in range(5)]
    assert len(query) == 0


def test_parts_under_other_names(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("val", 2), ("test", 1), ("database", 4)):
        for i in range(count):
            picture(tmp_path / part / "a" / f"{i}.png", i)
    train, gallery, query = data.load_splits(str(tmp_path), size=4)
    assert [len(part) for part in (train, gallery, query, train.validation)] == [3, 4, 1, 2]


def test_parts_that_do_not_make_a_split(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a" / "1.png", 1)
    picture(tmp_path / "val" / "a" / "1.png", 1)
    with pytest.raises(
        ValueError, match=r"has no query part; it has train, validation\. Name one of its parts query or queries or"
    ):
        data.load_splits(str(tmp_path))
    picture(tmp_path / "query" / "a" / "1.png", 1)
    picture(tmp_path / "test" / "a" / "1.png", 1)
    with pytest.raises(ValueError, match="has both query and test, two names of one part"):
        data.load_splits(str(tmp_path))


def test_classes_called_like_parts(tmp_path: Path) -> None:
    for vehicle in ("train", "tram"):
        picture(tmp_path / vehicle / "1.png", 1)
    assert folders.load(tmp_path, size=4).class_names == ("train", "tram")


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        folders.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no images"):
        folders.load(tmp_path)
    for name in ("cat", "dog", "empty"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="has no images"):
        folders.load(tmp_path)
    picture(tmp_path / "cat" / "1.png", 1)
    with pytest.raises(ValueError, match=r"has class folders without images: dog, empty\. Remove them"):
        data.load_splits(str(tmp_path))


def test_options_that_a_folder_does_not_take(photos: Path) -> None:
    with pytest.raises(ValueError, match="label_column, root cannot be set for a folder of images"):
        data.load_splits(str(photos), root="x", label_column="y")
    with pytest.raises(ValueError, match="digits: label_column, root cannot be set for this named data set; it accepts no"):
        data.load_splits("digits", root="x", label_column="y")


def test_resizing_keeps_the_picture(tmp_path: Path) -> None:
    halves = np.zeros((20, 20), np.uint8)
    halves[:, 10:] = 200
    (tmp_path / "a").mkdir()
    Image.fromarray(halves).save(tmp_path / "a" / "1.png")
    small = folders.load(tmp_path, size=4, grey=True).inputs[0]
    assert small[:, 0].eq(0).all()
    assert small[:, 3].eq(200).all()
    assert small.dtype == torch.uint8


def test_a_class_that_loses_its_last_image_of_one_part(tmp_path: Path) -> None:
    """This is an error in the training set, but not in the queries."""
    for part in ("train", "query"):
        for name in "ab":
            picture(tmp_path / part / name / "1.png", 1)
    (tmp_path / "query" / "b" / "1.png").write_bytes(b"")
    assert folders.load_splits(tmp_path, size=4).query.labels.tolist() == [0]
    (tmp_path / "train" / "b" / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"train: no image of class b can be read .*train/b/1\.png"):
        folders.load_splits(tmp_path, size=4)
