import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from orthohash_triton import data
from orthohash_triton.data import Dataset, features


def write(path: Path, n: int = 20, **changes) -> Path:
    arrays = {"features": np.arange(3 * n, dtype=np.float64).reshape(n, 3), "labels": np.arange(n, dtype=np.int32) % 4} | changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def test_npz(tmp_path: Path) -> None:
    dataset = features.load(write(tmp_path / "x.npz", class_names=np.array(["a", "b", "c", "d"])))
    assert dataset.inputs.dtype == torch.float32
    assert dataset.inputs[1].tolist() == [3, 4, 5]
    assert dataset.labels[:6].tolist() == [0, 1, 2, 3, 0, 1]
    assert dataset.class_names == ("a", "b", "c", "d")
    assert dataset.sample_shape == (3,)


def test_safetensors_in_half_precision(tmp_path: Path) -> None:
    save_file(
        {"features": torch.ones(4, 2, dtype=torch.float16), "labels": torch.tensor([0, 2, 0, 2])}, tmp_path / "x.safetensors"
    )
    dataset = features.load(tmp_path / "x.safetensors")
    assert dataset.inputs.dtype == torch.float32
    assert dataset.class_names == ("0", "2")


def test_unlabelled(tmp_path: Path) -> None:
    assert features.load_unlabelled(write(tmp_path / "x.npz", labels=None)).shape == (20, 3)


def test_splits_by_seed_and_by_files(tmp_path: Path) -> None:
    _, gallery, query = data.load_splits(str(write(tmp_path / "x.npz", n=48)), query_fraction=0.25)
    assert (len(gallery), len(query)) == (36, 12)  # 3 of the 12 of each class are held out
    folder = tmp_path / "parts"
    folder.mkdir()
    write(folder / "train.npz", n=8)
    write(folder / "query.npz", n=2)
    train, gallery, query = data.load_splits(str(folder))
    assert (len(train), len(gallery), len(query)) == (8, 8, 2)
    assert query.class_names == train.class_names == ("0", "1", "2", "3")
    (folder / "query.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"has none of query\.npz, query\.safetensors, query\.npy"):
        data.load_splits(str(folder))


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float32])
def test_multi_hot_labels(tmp_path: Path, dtype: type) -> None:
    labels = np.zeros((20, 3), dtype)
    labels[0, 1] = labels[19, 2] = 1
    dataset = features.load(write(tmp_path / "x.npz", labels=labels))
    assert dataset.is_multilabel
    assert dataset.labels.nonzero().tolist() == [[0, 1], [19, 2]]
    assert dataset.class_names == ("0", "1", "2")
    save_file({"features": dataset.inputs, "labels": torch.from_numpy(labels)}, tmp_path / "x.safetensors")
    assert torch.equal(features.load(tmp_path / "x.safetensors").labels, dataset.labels)


@pytest.mark.parametrize("labels", [torch.tensor([0, 2, 1]), torch.tensor([[True, False, True], [False] * 3, [True] * 3])])
def test_saved_features_read_back(tmp_path: Path, labels: torch.Tensor) -> None:
    distance = 1 - torch.eye(3)
    names = ("a", "b", "c d")
    dataset = Dataset(torch.rand(3, 2), labels, names, "toy", class_distance=distance, groups=torch.tensor([4, 4, 5]))
    features.save(tmp_path / "x.npz", dataset)
    back = features.load(tmp_path / "x.npz")
    assert (back.name, back.class_names) == ("toy", names)
    for key in ("inputs", "labels", "class_distance", "groups"):
        assert torch.equal(getattr(back, key), getattr(dataset, key))
    with pytest.raises(ValueError, match=r"a path ending in \.npz"):
        features.save(tmp_path / "x.safetensors", dataset)


def test_class_distance_tells_the_number_of_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz", class_distance=1 - np.eye(6), groups=np.zeros(20, np.int32))
    dataset = features.load(path)
    assert len(dataset.class_names) == 6
    assert dataset.class_distance.dtype == torch.float32
    assert dataset.groups.dtype == torch.int64


def test_parts_with_labels_of_two_kinds(tmp_path: Path) -> None:
    write(tmp_path / "train.npz")
    write(tmp_path / "query.npz", labels=np.eye(20, dtype=bool))
    with pytest.raises(ValueError, match=r"labels of one kind.*train.npz \[20\].*query.npz \[20, 20\]"):
        features.load_splits(tmp_path)
    write(tmp_path / "train.npz", labels=np.eye(20, dtype=bool), class_distance=1 - np.eye(20))
    train, _, query = features.load_splits(tmp_path)
    assert torch.equal(query.class_distance, train.class_distance)
    assert len(train.class_distance) == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None, "label": np.zeros(20)}, "lacks the key 'labels'; it has features, label"),
        ({"features": None}, "lacks the key 'features'; it has labels"),
        ({"features": np.zeros((20, 3), np.int64)}, "features must be floating"),
        ({"features": np.zeros(20)}, r"features must be floating \[N, D\]; got float64 \[20\]"),
        ({"labels": np.zeros(19, np.int64)}, r"labels must be integers \[20\]"),
        ({"labels": np.zeros(20)}, "labels must be integers"),
        ({"labels": np.full((20, 2), 2)}, r"labels \[N, C\] must be zeros and ones; got values from 2 to 2"),
        ({"labels": np.zeros((20, 2, 1))}, r"labels must be integers \[20\].*or zeros and ones \[20, C\]"),
        ({"class_distance": np.eye(4)}, "zero on the diagonal"),
        ({"labels": np.full(20, -1)}, "labels must be class ids of at least 0; got -1"),
        (
            {"labels": np.full(20, 4), "class_names": np.array(list("abcd"))},
            r"labels must lie in \[0, 4\), because class_names.*got 4",
        ),
        ({"labels": np.full(20, 4), "class_distance": 1 - np.eye(4)}, "because class_distance has as many; got 4"),
        ({"labels": np.ones((20, 3), complex)}, "labels must be integers"),
        ({"class_names": np.array("x")}, r"class_names must be text \[C\].*got <U1 \[\]"),
        ({"class_names": np.ones(4)}, r"class_names must be text \[C\]"),
        ({"name": np.ones(2)}, "name must be one text; got float64"),
        ({"groups": np.ones(20)}, r"groups must be integers or text \[20\]"),
        ({"groups": np.ones(19, int)}, r"groups must be integers or text \[20\]"),
        ({"class_distance": np.ones(4)}, r"class_distance must be numbers \[C, C\]"),
        ({"class_distance": np.array(list("ab"))}, r"class_distance must be numbers \[C, C\]"),
        ({"group": np.zeros(20, int)}, "has the key 'group', which probably is 'groups'. Rename it"),
        ({"Class_Names": np.array(list("abcd"))}, "has the key 'Class_Names', which probably is 'class_names'"),
        ({"classes": np.array(list("abcd"))}, "has the key 'classes', which probably is 'class_names'"),
        ({"features": np.full((20, 3), np.nan)}, "NaN or infinity"),
    ],
)
def test_bad_arrays(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        features.load(write(tmp_path / "x.npz", **changes))


@pytest.mark.parametrize("extension", ["npz", "safetensors", "npy"])
def test_foreign_files(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"x.{extension}"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        features.load(path)
    path.write_bytes(b"something else entirely")
    with pytest.raises(ValueError, match=f"is not a readable .{extension} file"):
        features.load(path)


def test_other_extensions(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"expected a \.npz, \.safetensors or \.npy file; got \.csv"):
        features.load(tmp_path / "x.csv")


def write_npy(path: Path, features: np.ndarray, labels: np.ndarray | None = None) -> Path:
    np.save(path, features)
    if labels is not None:
        np.save(path.with_suffix(".labels.npy"), labels)
    return path


def test_npy_with_labels_beside_it(tmp_path: Path) -> None:
    rows = np.arange(40, dtype=np.float16).reshape(20, 2)
    path = write_npy(tmp_path / "x.npy", rows, np.arange(20, dtype=np.uint8) % 4)
    dataset = features.load(path)
    assert dataset.inputs.dtype == torch.float32
    assert dataset.inputs.tolist() == rows.tolist()
    assert dataset.labels.tolist() == [0, 1, 2, 3] * 5
    assert len(data.load_splits(str(path), query_fraction=0.2).query) == 4
    np.save(tmp_path / "others.npy", np.tile(np.eye(5, 3, dtype=np.int64), (4, 1)))
    other = data.load_splits(str(path), labels=tmp_path / "others.npy", query_fraction=0.2)
    assert other.train.is_multilabel
    assert len(other.train.class_names) == 3


def test_features_alone_are_unlabelled(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", features=np.ones((5, 3)))
    for path in (write_npy(tmp_path / "x.npy", np.ones((5, 3))), tmp_path / "x.npz"):
        train, gallery, query = data.load_splits(str(path))
        assert not train.is_labelled
        assert train.class_names == ("unlabelled",)
        assert len(gallery) == 5
        assert len(query) == 0


def test_rows_stay_in_the_file(tmp_path: Path) -> None:
    path = write_npy(tmp_path / "x.npy", np.ones((5, 3)))
    assert isinstance(features.open_rows(path), np.memmap)
    assert features.open_rows(write(tmp_path / "x.npz")).shape == (20, 3)


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (np.ones((5, 3)), np.zeros(4, np.int64), r"x\.labels\.npy: labels must be integers \[5\], one per row"),
        (np.ones((5, 3), np.int32), None, r"x\.npy: features must be floating \[N, D\]; got int32 \[5, 3\]"),
        (np.full((5, 3), np.inf), None, "NaN or infinity"),
        (np.full((5, 3), 1e300), None, "NaN or infinity"),  # outside the range of float32
    ],
)
def test_bad_npy(tmp_path: Path, rows: np.ndarray, labels: np.ndarray | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        features.load(write_npy(tmp_path / "x.npy", rows, labels))


def test_archives_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    class Recorded(zipfile.ZipFile):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            opened.append(self)

    write(tmp_path / "x.npz")
    monkeypatch.setattr(zipfile, "ZipFile", Recorded)
    features.load(tmp_path / "x.npz")
    features.open_rows(tmp_path / "x.npz")
    features.load_unlabelled(tmp_path / "x.npz")
    assert len(opened) == 3
    assert all(archive.fp is None for archive in opened)


def test_npy_that_is_an_archive(tmp_path: Path) -> None:
    write(tmp_path / "x.npz").rename(tmp_path / "x.npy")
    with pytest.raises(ValueError, match=r"x\.npy is an archive of arrays; give it a name that ends in \.npz"):
        features.load(tmp_path / "x.npy")


def test_parts_without_labels_or_queries(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("query", 0), ("validation", 2)):
        np.savez(tmp_path / f"{part}.npz", features=np.ones((count, 3)))
    train, gallery, query = features.load_splits(tmp_path)
    assert gallery is train
    assert (len(train), len(query), len(train.validation)) == (4, 0, 2)
    assert not train.is_labelled


def test_labels_that_are_names(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, 2), np.float32))
    np.save(tmp_path / "x.labels.npy", np.array(["cat", "dog", "cat"]))
    with pytest.raises(
        ValueError, match=r"x\.labels\.npy: labels must be integers.*got <U3 \[3\]\. Number names with numpy\.unique"
    ):
        features.load(tmp_path / "x.npy")


def test_labels_beside_another_kind_of_file_are_not_its_own(tmp_path: Path) -> None:
    """X.labels.npy belongs to X.npy alone."""
    np.save(tmp_path / "x.labels.npy", np.full(20, 3))
    assert features.load(write(tmp_path / "x.npz")).labels.tolist() == [0, 1, 2, 3] * 5


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.npz is not a readable \.npz file"):
        features.load(write(tmp_path / "x.npz", features=np.array([{}], dtype=object)))
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"x\.npy is not a readable \.npy file"):
        features.load(tmp_path / "x.npy")


def test_queries_of_classes_that_training_lacks(tmp_path: Path) -> None:
    """The classes are those of all parts together."""
    write(tmp_path / "train.npz", n=8)
    write(tmp_path / "query.npz", n=2, labels=np.array([5, 0]))
    train, gallery, query = features.load_splits(tmp_path)
    assert train.class_names == gallery.class_names == query.class_names == tuple("01235")
    assert query.labels.tolist() == [4, 0]


@pytest.mark.parametrize("ids", [[4, 120_000, 203_093, 4], [0, 0, 1, 2**40], [0, 0, 1, 2**62]])
def test_class_ids_with_gaps_are_numbered(ids: list[int], tmp_path: Path) -> None:
    """One wrong id costs neither time nor memory."""
    np.savez(tmp_path / "x.npz", features=np.ones((4, 2), np.float32), labels=np.array(ids))
    save_file({"features": torch.ones(4, 2), "labels": torch.tensor(ids)}, tmp_path / "x.safetensors")
    for name in ("x.npz", "x.safetensors"):
        dataset = features.load(tmp_path / name)
        assert dataset.class_names == tuple(map(str, sorted(set(ids))))
        assert [int(dataset.class_names[label]) for label in dataset.labels] == ids


def test_arrays_of_another_byte_order(tmp_path: Path) -> None:
    native = {"class_distance": (1 - np.eye(4)).astype("f4"), "groups": np.arange(20) // 2}
    swapped = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in native.items()}
    labels = (np.arange(20) % 4).astype(">i2")
    found = features.load(write(tmp_path / "x.npz", features=np.eye(20, 3, dtype=">f8"), labels=labels, **swapped))
    expected = features.load(write(tmp_path / "y.npz", features=np.eye(20, 3), **native))
    for key in ("inputs", "labels", "class_distance", "groups"):
        assert torch.equal(getattr(found, key), getattr(expected, key))
    rows = write_npy(tmp_path / "z.npy", np.eye(20, 3, dtype=">f4"), np.eye(20, 5, dtype=">i4"))
    assert torch.equal(features.load(rows).inputs, expected.inputs)
    assert features.load(rows).is_multilabel


def test_names_as_bytes(tmp_path: Path) -> None:
    names = np.array(["Bär".encode(), b"cat", b"dog", b"emu"])
    dataset = features.load(write(tmp_path / "x.npz", class_names=names, name=np.array(b"zoo")))
    assert (dataset.class_names, dataset.name) == (("Bär", "cat", "dog", "emu"), "zoo")


def test_groups_may_have_names(tmp_path: Path) -> None:
    dataset = features.load(write(tmp_path / "x.npz", groups=np.array(["b", "a"] * 10)[:, None]))
    assert dataset.groups.tolist() == [1, 0] * 10


def test_one_part_without_labels(tmp_path: Path) -> None:
    write(tmp_path / "train.npz")
    write(tmp_path / "query.npz", labels=None)
    with pytest.raises(ValueError, match=r"labels of one kind.*train.npz \[20\], .*query.npz none"):
        features.load_splits(tmp_path)


def test_parts_with_other_class_names(tmp_path: Path) -> None:
    write(tmp_path / "train.npz", class_names=np.array(list("abcd")))
    write(tmp_path / "query.npz", class_names=np.array(list("bacd")))
    with pytest.raises(ValueError, match=r"query\.npz: class_names differ from those of .*train\.npz"):
        features.load_splits(tmp_path)
    write(tmp_path / "query.npz", class_names=np.array(list("abcde")))
    assert features.load_splits(tmp_path).train.class_names == tuple("abcde")


def test_other_names_of_parts(tmp_path: Path) -> None:
    write(tmp_path / "Train.npz")
    write(tmp_path / "test.npz", n=8)
    write(tmp_path / "database.npz", n=12)
    assert [len(part) for part in data.load_splits(str(tmp_path))] == [20, 12, 8]
    write_npy(tmp_path / "train.npy", np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"has both Train\.npz and train\.npy, two files of one part; keep one"):
        data.load_splits(str(tmp_path))
