import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from orthohash_triton import data
from orthohash_triton.data import _rows, lists
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
    assert (train.labels.tolist(), query.labels.tolist()) == ([0, 1], [2])
    assert train.class_names == query.class_names == ("0", "4", "5")


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
        ("images/0.png 0 1\nimages/1.png 0 1 0\n", "as many labels as the first, 2; got 3 in 'images/1.png 0 1 0'"),
        ("images/0.png 0 2\n", "labels must be zeros and ones, or -1 and 1, one for each of 2 classes; got 2"),
        ("\n\n", "is empty"),
        (b"\xff\xfe\x00", r"all\.txt is not a readable text file \(it is not text in UTF-16"),
        (
            b"images/0.png 0 1\n\x00\x01",
            r"all\.txt is not a readable text file \(it holds zero bytes\).*Save it as text in UTF-8",
        ),
        ("images/0.png -1 0 1\n", "or -1 and 1, one for each of 3 classes; got -1, 0 and 1"),
        ("images/0.png -1\nimages/1.png 1\n", "a label must be the number of a class, at least 0; got -1"),
        ("images/0.png 0.5 1\n", "labels must be whole numbers; got 0.5 in 'images/0.png 0.5 1'"),
        ("images/0.png 1e3\n", "labels must be whole numbers; got 1e3"),
        (f"images/0.png {'9' * 30}\n", "labels must be whole numbers; got 999999"),
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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_encodings(photos: Path, encoding: str, newline: str) -> None:
    (photos / "images" / "0.png").rename(photos / "images" / "ü\u2028.png")
    (photos / "all.txt").write_bytes(newline.join(["images/ü\u2028.png 0 1", "images/1.png 1 0", ""]).encode(encoding))
    listing = lists.read(photos / "all.txt")["all"]
    assert [path.name for path in listing.paths] == ["ü\u2028.png", "1.png"]
    assert listing.labels.tolist() == [1, 0]


def test_names_that_are_not_unicode(photos: Path) -> None:
    name = b"images/B\xe4r.png"
    os.rename(photos / "images" / "0.png", os.fsencode(photos) + b"/" + name)
    (photos / "all.txt").write_bytes(name + b" 1\nimages/1.png 0\n")
    assert os.fsencode(lists.read(photos / "all.txt")["all"].paths[0]).endswith(name)


@pytest.mark.parametrize(
    ("content", "labels", "names"),
    [
        ("images/0.png -1 1\nimages/1.png 1 -1\n", [1, 0], ("0", "1")),
        ("images/0.png -1 1\nimages/1.png 1 1\n", [[False, True], [True, True]], ("0", "1")),
        ("images/0.png 0.0 1.0\nimages/1.png 1. 0\n", [1, 0], ("0", "1")),
        ("images/0.png 3.0\nimages/1.png 1\n", [1, 0], ("1", "3")),
        ("# path label\nimages/0.png 3\n#images/9.png 7\n  # images/9.png 9\nimages/1.png +3\n", [0, 0], ("3",)),
        (f"images/0.png 1\n# {'long ' * 200}\nimages/1.png 0\n", [1, 0], ("0", "1")),
        ("\"images/0.png\" 1\n'images/1.png' 0\n", [1, 0], ("0", "1")),
        ("images/0.png 900000000000000000\nimages/1.png 1\n", [1, 0], ("1", "900000000000000000")),
    ],
)
def test_lists_as_people_write_them(photos: Path, content: str, labels: list, names: tuple[str, ...]) -> None:
    (photos / "all.txt").write_text(content)
    listing = lists.read(photos / "all.txt")["all"]
    assert [path.name for path in listing.paths] == ["0.png", "1.png"]
    assert listing.labels.tolist() == labels
    assert listing.class_names == names


def test_names_in_quotes_keep_their_numbers(photos: Path) -> None:
    for name in ("scan 1", "it's", "'quoted"):
        (photos / "images" / name).touch()
    (photos / "all.txt").write_text("\"images/scan 1\" 2\nimages/it's 2\nimages/'quoted 3\n")
    listing = lists.read(photos / "all.txt")["all"]
    assert [path.name for path in listing.paths] == ["scan 1", "it's", "'quoted"]
    assert listing.labels.tolist() == [0, 0, 1]


def test_a_comment_that_names_a_file(photos: Path) -> None:
    (photos / "#1.png").touch()
    (photos / "all.txt").write_text("images/0.png 1\n#1.png 1\n")
    with pytest.raises(ValueError, match=r"'#1\.png 1' is a comment, but also the name of a file\. Write \./#1\.png"):
        lists.read(photos / "all.txt")
    (photos / "all.txt").write_text("images/0.png 1\n./#1.png 1\n")
    assert len(lists.read(photos / "all.txt")["all"]) == 2


def test_lines_of_one_file_are_one_sample(photos: Path, capsys: pytest.CaptureFixture) -> None:
    (photos / "all.txt").write_text("images/0.png 3\nimages/1.png 5\nimages/./0.png 5\nimages/../images/1.png 5\n")
    listing = lists.read(photos / "all.txt")["all"]
    assert [path.name for path in listing.paths] == ["0.png", "1.png"]
    assert listing.labels.tolist() == [[True, True], [False, True]]
    assert "all.txt: 2 of 4 rows name a file again; its classes were joined" in capsys.readouterr().err


def test_classes_of_a_file_are_joined_across_lists(photos: Path) -> None:
    write(photos / "train.txt", {0: "1 0 0", 1: "0 1 0"})
    write(photos / "database.txt", {0: "0 0 1", 1: "0 1 0"})
    write(photos / "test.txt", {3: "0 0 1"})
    train, gallery, _ = load(photos)
    assert train.labels.tolist() == gallery.labels.tolist() == [[True, False, True], [False, True, False]]


@pytest.mark.parametrize("part", ["train", "database", "val"])
def test_queries_in_another_part_are_refused(photos: Path, part: str) -> None:
    write(photos / "train.txt", {0: "1 0", 1: "0 1"})
    write(photos / "test.txt", {5: "0 1", 6: "0 1"})
    write(photos / f"{part}.txt", {0: "1 0", 5: "0 1"})
    with pytest.raises(ValueError, match=rf"{part}\.txt: 1 files are queries and also in the part .*images/5\.png\. Keep one"):
        load(photos)


def test_parts_in_capitals(photos: Path) -> None:
    write(photos / "Train.txt", {0: "1 0", 1: "0 1"})
    write(photos / "TEST.txt", {5: "0 1"})
    assert [len(part) for part in load(photos)] == [2, 2, 1]


def test_lines_that_are_too_long_for_a_name(photos: Path) -> None:
    (photos / "all.txt").write_text("x" * 5000)
    with pytest.raises(FileNotFoundError, match="1 of 1 files that do not exist"):
        lists.read(photos / "all.txt")


def test_labels_that_fill_the_memory_are_refused(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rows, "_MOST_ENTRIES", 11)
    (photos / "all.txt").write_text("".join(f"images/{i % 3}.png {i}\n" for i in range(4)))
    with pytest.raises(ValueError, match=r"several labels of 3 files with 4 classes need 0 GiB.*Leave out rare classes"):
        lists.read(photos / "all.txt")


@pytest.mark.parametrize(("on_disk", "listed"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_another_normal_form(tmp_path: Path, on_disk: str, listed: str) -> None:
    """macOS writes accents as characters of their own. A list made there finds the files elsewhere, and the other way round."""
    place = tmp_path / unicodedata.normalize(on_disk, "Größe")
    place.mkdir()
    (place / unicodedata.normalize(on_disk, "é.jpg")).touch()
    (tmp_path / "all.txt").write_text(unicodedata.normalize(listed, "Größe/é.jpg 1 0\n"), encoding="utf-8")
    assert lists.read(tmp_path / "all.txt")["all"].paths == (place / unicodedata.normalize(on_disk, "é.jpg"),)
