import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from orthohash_triton import data
from orthohash_triton.data import Splits, manifest


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with images/0.png to 7.png, whose red channel is their number."""
    (tmp_path / "images").mkdir()
    for i in range(8):
        Image.new("RGB", (6, 6), (i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def write(path: Path, columns: dict) -> Path:
    """Write the table `columns` in the format of the extension of `path`, and return the path."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
        return path
    delimiter = "\t" if path.suffix == ".tsv" else ","
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join(delimiter.join(map(str, row)) for row in [list(columns), *rows]) + "\n")
    return path


def files(count: int = 8) -> list[str]:
    return [f"images/{i}.png" for i in range(count)]


def reds(dataset: data.Dataset) -> list[int]:
    return dataset.inputs[:, 0, 0, 0].tolist()


def load(path: Path, **options) -> Splits:
    return data.load_splits(str(path), size=4, query_fraction=0.5, **options)


@pytest.mark.parametrize("extension", ["csv", "tsv", "parquet"])
def test_split_by_a_seed(photos: Path, extension: str) -> None:
    path = write(photos / f"m.{extension}", {"path": files(), "label": ["dog", "cat"] * 4})
    train, gallery, query = load(path)
    assert train is gallery
    assert train.class_names == ("cat", "dog")
    assert sorted(reds(gallery) + reds(query)) == list(range(8))
    for part in (gallery, query):
        assert part.labels.tolist() == [1 - red % 2 for red in reds(part)]
        assert [path.name for path in part.paths] == [f"{red}.png" for red in reds(part)]


@pytest.mark.parametrize("extension", ["csv", "parquet"])
def test_split_by_a_column(photos: Path, extension: str) -> None:
    parts = ["train", "Train", "test", "database", "database", "query", "val", "train"]
    path = write(
        photos / f"m.{extension}", {"id": range(8), "path": files(), "split": parts, "label": [3, 20, 3, 3, 20, 100, 3, 3]}
    )
    train, gallery, query = load(path)
    assert [reds(part) for part in (train, gallery, query, train.validation)] == [[0, 1, 7], [3, 4], [2, 5], [6]]
    assert train.class_names == query.class_names == ("3", "20", "100")  # by their values
    assert query.labels.tolist() == [0, 2]


def test_without_a_gallery_the_training_set_is_it(photos: Path) -> None:
    path = write(photos / "m.csv", {"path": files(3), "label": ["a", "a", "a"], "split": ["train", "train", "query"]})
    train, gallery, query = load(path)
    assert gallery is train
    assert train.validation is None
    assert reds(query) == [2]


@pytest.mark.parametrize("labels", [["b; a", "c", "a", "b"], ["b|a", "c", "a", "b"]])
def test_several_labels(photos: Path, labels: list[str]) -> None:
    split = ["train", "train", "train", "query"]
    for extension in ("csv", "parquet"):
        path = write(photos / f"m.{extension}", {"path": files(4), "labels": labels, "split": split})
        train, _, query = load(path)
        assert train.class_names == ("a", "b", "c")
        assert train.labels.tolist() == [[True, True, False], [False, False, True], [True, False, False]]
        assert query.labels.tolist() == [[False, True, False]]


def test_lists_of_labels(photos: Path) -> None:
    split = ["train", "train", "query"]
    path = write(photos / "m.parquet", {"path": files(3), "labels": [[10, 9], [], [9]], "split": split})
    train = load(path).train
    assert train.class_names == ("9", "10")
    assert train.labels.tolist() == [[True, True], [False, False]]
    path = write(photos / "m.parquet", {"path": files(3), "labels": [["y"], ["x"], ["x"]], "split": split})
    assert load(path).train.labels.tolist() == [1, 0]  # one each: class ids


def test_labels_as_pandas_writes_them(photos: Path) -> None:
    columns = {"path": files(3), "split": ["train", "train", "query"]}
    path = write(photos / "m.parquet", columns | {"label": pa.array([2.0, 1.0, 2.0])})
    assert load(path).train.class_names == ("1", "2")
    path = write(photos / "m.parquet", columns | {"label": pa.array(["u", "v", "u"]).dictionary_encode()})
    assert load(path).train.class_names == ("u", "v")


def test_numbers_with_leading_zeros_are_words(photos: Path) -> None:
    path = write(photos / "m.csv", {"path": files(4), "label": ["007", "7", "007", "7"]})
    assert load(path).train.class_names == ("007", "7")


def test_without_labels(photos: Path) -> None:
    train, _, query = load(write(photos / "m.csv", {"path": files()}))
    assert not train.is_labelled
    assert (len(train), len(query)) == (8, 0)


def test_columns_of_other_names_and_a_root(photos: Path) -> None:
    columns = {
        "file": [f"{i}.png" for i in range(4)],
        "tags": ["a", "b", "a;b", "a"],
        "part": ["train", "train", "train", "test"],
    }
    (photos / "tables").mkdir()
    path = write(photos / "tables" / "m.csv", columns | {"label": "qqqq"})
    options = {"path_column": "file", "label_column": "tags", "split_column": "part", "root": photos / "images"}
    train, _, query = load(path, **options)
    assert reds(train) == [0, 1, 2]
    assert train.class_names == ("a", "b")
    assert train.is_multilabel
    absolute = write(photos / "tables" / "n.csv", columns | {"file": [photos / "images" / name for name in columns["file"]]})
    assert reds(load(absolute, path_column="file", label_column="tags", split_column="part").query) == reds(query) == [3]


def test_missing_files(photos: Path, capsys: pytest.CaptureFixture) -> None:
    names = [*files(4), *(f"gone/{i}.png" for i in range(5))]
    path = write(photos / "m.csv", {"path": names, "label": ["a"] * 9})
    expected = r"m\.csv names 5 of 9 files that do not exist: .*gone/0\.png, .*gone/1\.png, .*gone/2\.png and 2 more\. Pass.*root"
    with pytest.raises(FileNotFoundError, match=expected):
        load(path)
    train, gallery, query = load(path, on_missing="skip")
    assert len(gallery) + len(query) == 4
    assert [path.name for path, _ in train.skipped] == [f"{i}.png" for i in range(5)]
    assert {reason for _, reason in train.skipped} == {"no such file"}
    assert "5 of 9 files skipped" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="2 of 2 files that do not exist"):
        load(write(photos / "m.csv", {"path": ["x.png", "y.png"]}), on_missing="skip")


def test_corrupt_and_missing_files_together(photos: Path) -> None:
    (photos / "images" / "1.png").write_bytes(b"")
    path = write(photos / "m.csv", {"path": [*files(4), "gone.png"], "label": ["a"] * 5})
    train, gallery, query = load(path, on_missing="skip")
    assert sorted(reds(gallery) + reds(query)) == [0, 2, 3]
    assert [path.name for path, _ in train.skipped] == ["gone.png", "1.png"]
    with pytest.raises(ValueError, match=r"1\.png cannot be read as an image"):
        load(path, on_missing="skip", on_error="raise")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"file": files(2), "label": "ab"},
            r"must have one column 'path'; it has the columns file, label\. Expected path, label",
        ),
        ({"path": ["images/0.png", ""], "label": "ab"}, r"rows without a path: 2 \(the first is 1\)"),
        ({"path": files(3), "label": ["a", "", ""]}, r"rows without a label: 2, 3 \(the first is 1\), and none has several"),
        ({"path": files(2), "label": "ab", "split": ["train", "tset"]}, "column 'split' must name a part.*got 'tset'"),
        ({"path": files(2), "label": "ab", "split": ["train", "val"]}, r"has no query part; it has train, validation"),
        ({"path": files(2), "label": "ab", "split": ["query", "val"]}, r"has no train part; it has query, validation"),
    ],
)
@pytest.mark.parametrize("extension", ["csv", "parquet"])
def test_bad_tables(photos: Path, columns: dict, message: str, extension: str) -> None:
    columns = {name: list(values) for name, values in columns.items()}
    with pytest.raises(ValueError, match=rf"m\.{extension}.*{message}"):
        load(write(photos / f"m.{extension}", columns))


def test_a_column_of_something_else(photos: Path) -> None:
    path = write(photos / "m.parquet", {"path": files(2), "label": [{"x": 1}, {"x": 2}]})
    with pytest.raises(ValueError, match=r"column 'label' must hold words or integers; got struct"):
        load(path)
    path = write(photos / "m.parquet", {"path": files(2), "label": [0.5, 1.0]})
    with pytest.raises(ValueError, match=r"column 'label' must hold words or integers; got double"):
        load(path)


def test_unreadable_tables(photos: Path) -> None:
    path = photos / "m.parquet"
    path.write_text("no table")
    with pytest.raises(ValueError, match=r"m\.parquet is not a readable Parquet file"):
        load(path)
    path = photos / "m.csv"
    path.write_text("path,label\nx.png,a,b\n")
    with pytest.raises(ValueError, match=r"m\.csv is not a readable table .*2 columns, got 3"):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"m\.csv is not a readable table"):
        load(path)
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv does not exist"):
        manifest.read(photos / "nothing.csv")


def test_without_pyarrow(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(photos / "m.csv", {"path": files()})
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'manifests and Parquet files need pyarrow: pip install "'):
        load(path)


def test_names_of_images_as_people_write_them(photos: Path) -> None:
    name = 'images/a, b "c" ü.png'
    (photos / "images" / "0.png").rename(photos / name)
    (photos / "m.csv").write_text('\ufeffpath,label,split\n"images/a, b ""c"" ü.png",a,train\nimages/1.png,a,query\n', "utf-8")
    assert load(photos / "m.csv").train.paths == (photos / name,)


def test_labels_keep_their_rows_when_parts_are_chosen(photos: Path) -> None:
    path = write(photos / "m.csv", {"path": files(4), "label": "abab", "split": ["query", "train", "train", "query"]})
    parts = manifest.read(path)
    assert {name: part.labels.tolist() for name, part in parts.items()} == {"train": [1, 0], "query": [0, 1]}
    assert torch.equal(parts["train"].subset(torch.tensor([1])).labels, torch.tensor([0]))


def test_rows_of_one_file_are_one_sample(photos: Path, capsys: pytest.CaptureFixture) -> None:
    """An export with a row for each image and label."""
    path = write(photos / "m.csv", {"path": [*files(4), *files(4)], "label": ["cat", "dog"] * 2 + ["dog", "dog", "in", "in"]})
    listing = manifest.read(path)["all"]
    assert [path.name for path in listing.paths] == ["0.png", "1.png", "2.png", "3.png"]
    assert listing.class_names == ("cat", "dog", "in")
    assert [row.nonzero().flatten().tolist() for row in listing.labels] == [[0, 1], [1], [0, 2], [1, 2]]
    assert "m.csv: 4 of 8 rows name a file again; its classes were joined" in capsys.readouterr().err
    _, gallery, query = load(path)
    assert not set(gallery.paths) & set(query.paths)


def test_rows_that_repeat_without_another_label_keep_class_ids(photos: Path) -> None:
    path = write(photos / "m.csv", {"path": [*files(2), "./images/0.png"], "label": ["cat", "dog", "cat"]})
    assert manifest.read(path)["all"].labels.tolist() == [0, 1]


def test_a_query_that_is_also_in_the_gallery(photos: Path) -> None:
    columns = {"path": [*files(3), "images/0.png"], "label": list("abab"), "split": ["train", "train", "query", "query"]}
    with pytest.raises(ValueError, match=r"m\.csv: 1 files are queries and also in the part train: .*images/0\.png\. Keep one"):
        load(write(photos / "m.csv", columns))


@pytest.mark.parametrize("extension", ["csv", "parquet"])
def test_spaces_around_the_names_of_columns(photos: Path, extension: str) -> None:
    columns = {"path ": files(4), " label": ["a", "b", "a", "b"], " split": ["train", " train", "query", "query "]}
    train, _, query = load(write(photos / f"m.{extension}", columns))
    assert (reds(train), reds(query)) == ([0, 1], [2, 3])
    assert train.class_names == ("a", "b")


@pytest.mark.parametrize(
    ("column", "wanted", "option"),
    [
        *(
            (name, "label", "label_column")
            for name in ("Label", "LABELS", "class", "Classes", "class_name", "category", "lable", "tag")
        ),
        *(
            (name, "split", "split_column")
            for name in ("Split", "splits", "SPLIT ", "spilt", "part", "partition", "subset", "set")
        ),
    ],
)
def test_columns_that_are_nearly_known(photos: Path, column: str, wanted: str, option: str) -> None:
    values = ["train", "train", "query", "query"] if wanted == "split" else ["1", "2", "1", "2"]
    path = write(photos / "m.csv", {"path": files(4), column: values} | ({"label": ["x", "y"] * 2} if wanted == "split" else {}))
    name = column.strip()
    with pytest.raises(
        ValueError, match=rf"m\.csv has no column '{wanted}', but a column '{name}'. Rename it, or pass {option}='{name}'"
    ):
        load(path)
    assert load(path, **{option: name}).train.is_labelled
    assert load(path, **{option: ""}).train.is_labelled == (wanted == "split")


def test_a_path_column_of_a_similar_name_is_suggested(photos: Path) -> None:
    with pytest.raises(ValueError, match=r"the names of these columns if they differ, for example path_column='File'"):
        load(write(photos / "m.csv", {"File": files(2), "label": ["a", "b"]}))


def test_two_columns_of_labels(photos: Path) -> None:
    path = write(photos / "m.csv", {"path": files(4), "label": list("abab"), "labels": list("xxyy")})
    with pytest.raises(ValueError, match=r"has the columns labels and label; pass the one that holds the labels as label_column"):
        load(path)
    assert load(path, label_column="labels").train.class_names == ("x", "y")


@pytest.mark.parametrize("values", [(0, 1), (0.0, 1.0), (False, True)])
@pytest.mark.parametrize("extension", ["csv", "parquet"])
def test_a_column_for_each_class(photos: Path, extension: str, values: tuple) -> None:
    no, yes = values
    bits = {"cat": [yes, no, yes, no], "dog": [no, yes, yes, no]}
    split = {"split": ["train", "train", "query", "query"]}
    for options, extra in (({}, {}), ({"label_column": "dog, cat"}, {"id": range(4)})):
        path = write(photos / f"m.{extension}", {"path": files(4)} | bits | split | {k: list(v) for k, v in extra.items()})
        train, _, query = load(path, **options)
        first, second = train.class_names
        assert {first, second} == {"cat", "dog"}
        assert train.labels.tolist() == [
            [name == "cat" for name in train.class_names],
            [name == "dog" for name in train.class_names],
        ]
        assert query.labels.tolist() == [[True, True], [False, False]]


def test_a_column_for_each_class_beside_other_columns(photos: Path) -> None:
    path = write(photos / "m.csv", {"path": files(2), "id": [7, 8], "cat": [0, 1], "dog": [1, 0]})
    with pytest.raises(ValueError, match=r"but columns of zeros and ones: if they are the classes, pass label_column='cat,dog'"):
        load(path)
    assert not load(path, label_column="").train.is_labelled
    assert manifest.read(path, label_column="cat,dog")["all"].labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"column 'id' must hold zeros and ones.*got '7' in row 1"):
        load(path, label_column="id,cat")
    with pytest.raises(ValueError, match=r"must have one column 'cow'"):
        load(path, label_column="cat,cow")
    with pytest.raises(ValueError, match=r"label_column must name each column once; got cat,cat"):
        load(path, label_column="cat,cat")


def test_a_single_column_of_zeros_and_ones_is_no_label(photos: Path) -> None:
    assert not load(write(photos / "m.csv", {"path": files(2), "flash": [0, 1]})).train.is_labelled


@pytest.mark.parametrize(
    "labels", [[[0, 1, 0], [1, 1, 0]], [[False, True, False], [True, True, False]], [[0.0, 1, 0], [1, 1, 0]]]
)
def test_lists_of_zeros_and_ones(photos: Path, labels: list) -> None:
    listing = manifest.read(write(photos / "m.parquet", {"path": files(2), "labels": labels}))["all"]
    assert listing.labels.tolist() == [[False, True, False], [True, True, False]]
    assert listing.class_names == ("0", "1", "2")
    text = manifest.read(write(photos / "m.csv", {"path": files(2), "labels": ["0;1;0", "1|1|0"]}))["all"]
    assert torch.equal(text.labels, listing.labels)


def test_lists_of_the_classes_0_and_1(photos: Path) -> None:
    listing = manifest.read(write(photos / "m.parquet", {"path": files(3), "labels": [[0, 1], [1], [0]]}))["all"]
    assert listing.labels.tolist() == [[True, True], [False, True], [True, False]]


def test_lists_of_bytes_and_of_floats(photos: Path) -> None:
    path = write(photos / "m.parquet", {"path": files(2), "labels": [[b"cat"], [b"dog", b"cat"]]})
    assert manifest.read(path)["all"].class_names == ("cat", "dog")
    path = write(photos / "m.parquet", {"path": files(2), "labels": [[7.0], [10.0, 7.0]]})
    assert manifest.read(path)["all"].class_names == ("7", "10")
    for wrong in ([[0.5], [1.0]], [["a"], [None]]):
        with pytest.raises(ValueError, match="column 'labels' must hold lists of words or integers"):
            manifest.read(write(photos / "m.parquet", {"path": files(2), "labels": wrong}))


def test_lists_as_text_are_refused(photos: Path) -> None:
    (photos / "m.csv").write_text("path,label\nimages/0.png,\"['cat', 'dog']\"\nimages/1.png,['cat']\n")
    with pytest.raises(
        ValueError, match=r"column 'label' holds lists as text, such as \"\['cat', 'dog'\]\"; separate labels by ;"
    ):
        load(photos / "m.csv")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
@pytest.mark.parametrize("extension", ["csv", "tsv"])
def test_encodings(photos: Path, encoding: str, extension: str) -> None:
    text = "path,label\r\nimages/0.png,Bär\r\nimages/1.png,Käfer\r\n".replace(",", "\t" if extension == "tsv" else ",")
    path = photos / f"m.{extension}"
    path.write_bytes(text.encode(encoding))
    if encoding in ("utf-8-sig", "utf-16"):
        assert manifest.read(path)["all"].class_names == ("Bär", "Käfer")
    else:
        with pytest.raises(ValueError, match=rf"m\.{extension} is not a readable text file .*Save it as text in UTF-8"):
            manifest.read(path)


def test_labels_that_look_like_numbers(photos: Path) -> None:
    labels = ["--3", "5" * 5000, "٣", "-1"]
    path = write(photos / "m.csv", {"path": files(4), "label": labels})
    assert manifest.read(path)["all"].class_names == tuple(sorted(labels))


@pytest.mark.parametrize(("on_disk", "listed"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_another_normal_form(tmp_path: Path, on_disk: str, listed: str) -> None:
    place = tmp_path / unicodedata.normalize(on_disk, "Größe")
    place.mkdir()
    (place / unicodedata.normalize(on_disk, "é.jpg")).touch()
    (tmp_path / "m.csv").write_text(unicodedata.normalize(listed, "path,label\nGröße/é.jpg,a\n"), encoding="utf-8")
    assert manifest.read(tmp_path / "m.csv")["all"].paths == (place / unicodedata.normalize(on_disk, "é.jpg"),)


def test_labels_in_two_normal_forms_are_one_class(photos: Path) -> None:
    labels = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    listing = manifest.read(write(photos / "m.csv", {"path": files(2), "label": labels}))["all"]
    assert listing.class_names == (labels[0],)
