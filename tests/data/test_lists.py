from pathlib import Path

import pytest
from PIL import Image

from orthohash_triton import data
from orthohash_triton.data import lists
from orthohash_triton.data.listing import drop_missing, unlabelled


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with images/0.png to 9.png, whose red channel is their number."""
    (tmp_path / "images").mkdir()
    for i in range(10):
        Image.new("RGB", (6, 6), (i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def write(path: Path, labels: dict[int, str]) -> Path:
    """Write a list with one line for each image of `labels`, and return its path."""
    path.write_text("".join(f"images/{i}.png {text}".strip() + "\n" for i, text in labels.items()))
    return path


def load(path: Path, **options) -> data.Splits:
    return data.load_splits(str(path), size=4, query_fraction=0.5, **options)


def reds(dataset: data.Dataset) -> list[int]:
    return dataset.inputs[:, 0, 0, 0].tolist()


def test_a_folder_of_lists(photos: Path) -> None:
    write(photos / "train.txt", {0: "1 0 0", 1: "0 1 0"})
    write(photos / "database.txt", {0: "1 0 0", 1: "0 1 0", 2: "0 0 1"})
    write(photos / "test.txt", {3: "0 0 1"})
    train, gallery, query = load(photos)
    assert [reds(part) for part in (train, gallery, query)] == [[0, 1], [0, 1, 2], [3]]
    assert [part.labels.tolist() for part in (train, gallery, query)] == [[0, 1], [0, 1, 2], [2]]
    assert train.class_names == ("0", "1", "2")
    (photos / "database.txt").unlink()
    assert load(photos).gallery is not gallery
    assert reds(load(photos).gallery) == [0, 1]


def test_several_classes_in_one_list_make_all_multi_hot(photos: Path) -> None:
    write(photos / "train.txt", {0: "1 0", 1: "0 1"})
    write(photos / "test.txt", {2: "1 1", 3: "0 0"})
    train, _, query = load(photos)
    assert train.labels.tolist() == [[True, False], [False, True]]
    assert query.labels.tolist() == [[True, True], [False, False]]


def test_one_list_is_split_by_a_seed(photos: Path) -> None:
    train, gallery, query = load(write(photos / "all.txt", {i: "1 0" if i % 2 else "0 1" for i in range(8)}))
    assert train is gallery
    assert sorted(reds(gallery) + reds(query)) == list(range(8))
    assert query.labels.tolist() == [1 - red % 2 for red in reds(query)]


def test_numbers_of_classes(photos: Path) -> None:
    write(photos / "train.txt", {0: "0", 1: "4"})
    write(photos / "test.txt", {2: "5"})
    train, _, query = load(photos)
    assert (train.labels.tolist(), query.labels.tolist()) == ([0, 4], [5])
    assert len(train.class_names) == 6


def test_files_alone_are_unlabelled(photos: Path) -> None:
    train = load(write(photos / "all.txt", dict.fromkeys(range(4), ""))).train
    assert not train.is_labelled
    assert reds(train) == [0, 1, 2, 3]


def test_names_with_spaces_and_numbers(photos: Path) -> None:
    (photos / "images" / "0.png").rename(photos / "images" / "IMG 2024 1.png")
    (photos / "all.txt").write_text("images/IMG 2024 1.png 0 1\n\n  images/1.png\t0  1 \nimages/2.png 1 0\n")
    listing = lists.read(photos / "all.txt")["all"]
    assert [path.name for path in listing.paths] == ["IMG 2024 1.png", "1.png", "2.png"]
    assert listing.labels.tolist() == [1, 1, 0]


def test_root(photos: Path) -> None:
    (photos / "lists").mkdir()
    path = write(photos / "lists" / "all.txt", {0: "0 1", 1: "0 1"})
    with pytest.raises(FileNotFoundError, match=r"all\.txt names 2 of 2 files that do not exist: .*lists/images/0\.png.*root"):
        load(path)
    assert len(load(path, root=photos).train) == 1
    path.write_text(f"{photos}/images/3.png 0 1\n../images/4.png 0 1\n")
    assert sorted(reds(load(path).train) + reds(load(path).query)) == [3, 4]


def test_missing_files(photos: Path) -> None:
    path = write(photos / "all.txt", dict.fromkeys(range(8, 12), "0 1"))
    with pytest.raises(FileNotFoundError, match="2 of 4 files that do not exist"):
        load(path)
    train, gallery, query = load(path, on_missing="skip")
    assert len(gallery) + len(query) == 2
    assert [path.name for path, _ in train.skipped] == ["10.png", "11.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("images/0.png 0 1\nimages/1.png 0 1 0\n", "as many labels as the first, 2; got 3 in line 2"),
        ("images/0.png 0 2\n", "labels must be zeros and ones, one for each of 2 classes; got 2"),
        ("\n\n", "is empty"),
        (b"\xff\xfe\x00", "is not a readable list of image files"),
    ],
)
def test_bad_lists(photos: Path, content: str | bytes, message: str) -> None:
    (photos / "all.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        load(photos / "all.txt")


def test_lists_that_do_not_belong_together(photos: Path) -> None:
    write(photos / "train.txt", {0: "0 1"})
    write(photos / "test.txt", {0: "0 1 0"})
    with pytest.raises(ValueError, match=r"the same number of labels per line; got 2 in train\.txt, 3 in test\.txt"):
        load(photos)
    write(photos / "query.txt", {0: "0 1"})
    with pytest.raises(ValueError, match=r"has both query\.txt and test\.txt, two names of one part"):
        load(photos)


def test_no_lists(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no train\.txt and test\.txt"):
        lists.read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"x\.txt does not exist; expected a list"):
        lists.read(tmp_path / "x.txt")


def test_files_that_were_left_out_before_stay_listed(photos: Path) -> None:
    earlier = data.Skipped(photos / "earlier.png", "the file is empty")
    rows = tuple(photos / "images" / name for name in ("0.png", "gone.png"))
    listing = drop_missing(unlabelled("photos", rows, [earlier]), "skip")
    assert listing.paths == rows[:1]
    assert [path.name for path, _ in listing.skipped] == ["earlier.png", "gone.png"]


def test_a_file_whose_name_is_a_number(tmp_path: Path) -> None:
    """The first word is the file, even if it could be a label."""
    for name in ("2024", "2025"):
        (tmp_path / name).touch()
    (tmp_path / "all.txt").write_text("2024 0 1\n2025 1 0\n")
    listing = lists.read(tmp_path / "all.txt")["all"]
    assert [path.name for path in listing.paths] == ["2024", "2025"]
    assert listing.labels.tolist() == [1, 0]
