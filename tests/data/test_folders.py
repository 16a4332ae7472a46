import os
import shutil
import unicodedata
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


# ---- where images are searched ---------------------------------------------------------------------------------------------


def names(listing) -> list[str]:
    return [path.name for path in listing.paths]


def test_hidden_and_system_folders_are_counted(photos: Path, capsys: pytest.CaptureFixture) -> None:
    picture(photos / "cat" / ".thumbnails" / "1.png", 1)
    picture(photos / "@eaDir" / "deep" / "1.jpg", 1)
    picture(photos / "@eaDir" / "deep" / "2.jpg", 1)
    picture(photos / "__MACOSX" / "cat" / "1.png", 1)
    (photos / "#recycle").mkdir()
    (photos / "cat" / "._1.jpg").write_bytes(b"what macOS leaves on other disks")
    for dataset in (folders.load(photos, size=4), folders.load(photos, size=4, every_image=True)):
        assert len(dataset) == 12
        assert dataset.class_names == ("cat", "dog")
        assert {path.name: why for path, why in dataset.skipped} == {
            "@eaDir": "a hidden or system folder with 2 images",
            "__MACOSX": "a hidden or system folder with 1 image",
            ".thumbnails": "a hidden or system folder with 1 image",
        }
    assert "3 folders skipped" in capsys.readouterr().err


def test_a_folder_of_thumbnails_does_not_hide_the_images(tmp_path: Path) -> None:
    for i in range(5):
        picture(tmp_path / f"{i}.jpg", i)
    picture(tmp_path / "thumbs" / "0.jpg", 0)
    assert folders.list_images(tmp_path, every_image=True).class_names == ("unlabelled",)
    assert names(folders.list_everything(tmp_path)) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "0.jpg"]
    for read in (folders.list_images, folders.list_parts, data.load_splits):
        with pytest.raises(
            ValueError, match=r"has 5 images next to the class folders \(thumbs\) and only 1 in them, so that most"
        ):
            read(tmp_path)
    (tmp_path / "thumbs" / "0.jpg").unlink()
    for every_image in (False, True):
        assert len(folders.list_images(tmp_path, every_image=every_image)) == 5


def test_empty_folders_stop_nothing(photos: Path, tmp_path: Path) -> None:
    (photos / "empty").mkdir()
    (photos / "notes" / "deep").mkdir(parents=True)
    (photos / "notes" / "deep" / "read.me").touch()
    listing = folders.list_images(photos)
    assert listing.class_names == ("cat", "dog")
    assert [(path.name, why) for path, why in listing.skipped] == [
        ("empty", "a folder without images"), ("notes", "a folder without images"),
    ]  # fmt: skip
    assert folders.list_images(photos, every_image=True).skipped == ()


def test_images_without_a_class_where_labels_are_not_needed(photos: Path) -> None:
    picture(photos / "cover.jpg", 1)
    listing = folders.list_images(photos, every_image=True)
    assert names(listing)[-1] == "cover.jpg"
    assert listing.labels.dtype == torch.bool
    assert listing.labels.sum(0).tolist() == [6, 6]
    assert listing.labels[-1].tolist() == [False, False]
    splits = data.load_splits(photos, size=4, every_image=True, query_fraction=0.5)
    assert len(splits.gallery) + len(splits.query) == 13
    assert splits.query.labels.any(1).all()


def test_linked_folders(tmp_path: Path) -> None:
    """Images of linked folders are found, each once in a class, and links that lead back end."""
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    picture(elsewhere / "deep" / "1.png", 1)
    picture(photos / "a" / "2.png", 2)
    picture(photos / "b" / "3.png", 3)
    for link, target in {
        "a/more": elsewhere, "a/up": photos, "a/top": tmp_path, "a/b": photos / "b",
        "b/self": photos / "b", "c": elsewhere, "d": photos / "a", "e": photos, "a/3.png": photos / "b" / "3.png",
    }.items():  # fmt: skip
        (photos / link).symlink_to(target)
    listing = folders.list_images(photos)
    assert [(path.relative_to(photos).as_posix(), listing.class_names[label]) for path, label in
            zip(listing.paths, listing.labels.tolist(), strict=True)] == [
        ("a/2.png", "a"), ("a/3.png", "a"), ("b/3.png", "b"), ("c/deep/1.png", "c"),
    ]  # fmt: skip
    assert {path.name: why for path, why in listing.skipped} == {"d": "a link to a", "e": "a link to a folder above it"}
    (photos / "c").unlink()
    (photos / "a" / "again").symlink_to(elsewhere / "deep")
    assert len(folders.list_images(photos)) == 4  # now the image is found through a/again or a/more
    (photos / "loop").symlink_to(photos / "loop")
    assert len(folders.list_everything(photos)) == 4


def test_files_that_are_not_decoded_are_listed(photos: Path) -> None:
    for name in ("drawing.svg", "raw.NEF", "notes.txt", "movie.mp4"):
        (photos / "cat" / name).touch()
    assert {path.name: why for path, why in folders.list_images(photos).skipped} == {
        "drawing.svg": ".svg files are not decoded",
        "raw.NEF": ".nef files are not decoded",
    }


def test_files_without_an_ending(photos: Path) -> None:
    picture(photos / "cat" / "x.png", 1)
    (photos / "cat" / "x.png").rename(photos / "cat" / "0a1b")
    (photos / "cat" / "README").write_text("no image")
    assert names(folders.list_images(photos))[0] == "0a1b"
    assert "README" not in names(folders.list_images(photos))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_listed(photos: Path) -> None:
    (photos / "cat" / "deep").chmod(0)
    try:
        listing = folders.list_images(photos)
    finally:
        (photos / "cat" / "deep").chmod(0o755)
    assert listing.skipped[0] == (photos / "cat" / "deep", "permission denied")


def test_a_folder_that_cannot_be_listed(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listdir = os.listdir

    def refuse(place):
        if Path(place).name == "deep":
            raise PermissionError(13, "Permission denied")
        return listdir(place)

    monkeypatch.setattr(os, "listdir", refuse)
    (photos / "mouse" / "deep").mkdir(parents=True)
    (photos / "deep").mkdir()
    assert folders.list_images(photos).skipped == (
        (photos / "cat" / "deep", "permission denied"),
        (photos / "deep", "permission denied"),
        (photos / "mouse" / "deep", "permission denied"),
        (photos / "cat", "a folder without images"),
        (photos / "mouse", "a folder without images"),
    )


def test_classes_in_two_normal_forms(tmp_path: Path) -> None:
    for part, form in (("train", "NFD"), ("query", "NFC")):
        picture(tmp_path / part / unicodedata.normalize(form, "café") / "1.png", 1)
        picture(tmp_path / part / "tea" / "1.png", 1)
    train, _, query = folders.load_splits(tmp_path, size=4)
    assert train.class_names == query.class_names == (unicodedata.normalize("NFC", "café"), "tea")
    assert query.labels.tolist() == [0, 1]


def test_images_beside_the_parts(tmp_path: Path) -> None:
    for part in ("train", "query"):
        for i in range(2):
            picture(tmp_path / part / "a" / f"{i}.png", i)
    picture(tmp_path / "query" / "zebra" / "9.png", 9)
    picture(tmp_path / "query" / "loose.png", 9)
    picture(tmp_path / "cover.png", 9)
    picture(tmp_path / "extra" / "deep" / "8.png", 9)
    for link, target in {"old": tmp_path / "train", "more": tmp_path / "extra", "up": tmp_path}.items():
        (tmp_path / link).symlink_to(target)
    with pytest.raises(ValueError, match="classes that the training set lacks: zebra"):
        folders.list_parts(tmp_path)
    everything = folders.list_everything(tmp_path)
    assert names(everything) == ["0.png", "1.png", "0.png", "1.png", "9.png", "loose.png", "cover.png", "8.png"]
    assert everything.class_names == ("a", "zebra")
    assert everything.labels.sum(1).tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    shutil.rmtree(tmp_path / "query" / "zebra")
    parts = folders.list_parts(tmp_path)
    assert [path.name for path, _ in parts["train"].skipped] == ["cover.png", "8.png"]
    assert names(folders.list_parts(tmp_path, every_image=True)["query"]) == ["0.png", "1.png", "loose.png"]
    for i in range(5):
        picture(tmp_path / "extra" / f"{i}.png", i)
    with pytest.raises(ValueError, match="has 7 images next to the parts train, query and only 4 in them"):
        folders.list_parts(tmp_path)


def test_parts_without_classes(tmp_path: Path) -> None:
    for part in ("train", "query"):
        picture(tmp_path / part / "1.png", 1)
    assert [len(part) for part in folders.load_splits(tmp_path, size=4, every_image=True)] == [1, 1, 1]
    assert len(folders.list_everything(tmp_path)) == 2


def test_most_images_cannot_be_read(photos: Path) -> None:
    for i in range(13):
        (photos / "cat" / f"x{i}.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"13 of 25 images cannot be read, which are most of them: .*x0\.jpg"):
        folders.load(photos, size=4)
    (photos / "cat" / "x0.jpg").unlink()
    assert len(folders.load(photos, size=4)) == 12


def test_parts_in_capitals_are_no_classes(tmp_path: Path) -> None:
    for part in ("Train", "TEST"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "1.png").touch()
    parts = folders.list_parts(tmp_path)
    assert {part: listing.class_names for part, listing in parts.items()} == dict.fromkeys(("train", "query"), ("cat", "dog"))
