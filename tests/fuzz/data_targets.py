"""The readers that are fuzzed, with small valid files of each kind."""

import contextlib
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from orthohash_triton import HammingIndex
from orthohash_triton.data import Dataset, fashion_mnist, features, images, lists, manifest, wordnet, wordnet_nouns
from orthohash_triton.data.listing import Listing
from tests.fuzz.readers import Target

ROWS = 12

# pyarrow reserves the memory of a page, up to 2**31 bytes, as the page claims, before it reads the page. What is not written
# takes no memory of the machine.
PARQUET_BYTES = 2**31 + 2**26


def no_check(result: Any) -> None:
    """Accept every result."""


# ---- features ------------------------------------------------------------------------------------------------------------------


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "features": rng.normal(size=(ROWS, 4)).astype(np.float32),
        "labels": np.arange(ROWS) % 3,
        "groups": np.arange(ROWS) // 2,
        "class_distance": (1 - np.eye(3)).astype(np.float32),
    }


def make_npz(folder: Path) -> None:
    np.savez(folder / "x.npz", **arrays(), class_names=np.array(["cat", "dog", "emu"]), name=np.array("toy"))


def make_compressed_npz(folder: Path) -> None:
    labels = np.eye(3, dtype=bool)[np.arange(ROWS) % 3]
    np.savez_compressed(folder / "x.npz", features=arrays()["features"].astype(np.float64), labels=labels)


def make_safetensors(folder: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays().items()}
    save_file(tensors | {"labels": torch.eye(3).bool()[tensors["labels"]]}, folder / "x.safetensors")


def make_npy(folder: Path) -> None:
    np.save(folder / "x.npy", arrays()["features"])
    np.save(folder / "x.labels.npy", arrays()["labels"].astype(np.uint8))


def check_dataset(dataset: Any) -> None:
    """Check that every part of a data set fits the others, and that its features can be used."""
    assert isinstance(dataset, Dataset)
    inputs = dataset.inputs
    assert isinstance(inputs, torch.Tensor)
    assert inputs.ndim == 2
    assert inputs.shape[1] > 0
    assert bool(inputs.isfinite().all())
    check_labels(dataset.labels, len(inputs), len(dataset.class_names))
    assert all(type(name) is str for name in dataset.class_names)
    assert dataset.groups is None or dataset.groups.shape == (len(inputs),)
    classes = len(dataset.class_names)
    assert dataset.class_distance is None or dataset.class_distance.shape == (classes, classes)


def check_labels(labels: torch.Tensor, rows: int, classes: int) -> None:
    assert len(labels) == rows
    if labels.ndim == 2:
        assert labels.dtype == torch.bool
        assert labels.shape[1] == classes
    else:
        assert labels.dtype == torch.int64
        assert bool(((labels >= 0) & (labels < max(classes, 1))).all())


def features_target(name: str, make: Callable[[Path], None], file: str, *readers: str) -> Target:
    words = (b"features", b"labels", b"class_names", b"'<f8'", b"'|O'", b"'<U3'", b"'>i2'", b"(0, 1099511627776)", b"F16", b"I64")
    own = ("data.features.load", "data.features._read_part", *readers)
    return Target(name, make, lambda folder: features.load(folder / file), own, check=check_dataset, words=words)


FEATURES = [
    features_target("npz", make_npz, "x.npz", "_base.formats.read_npz"),
    features_target("npz, compressed", make_compressed_npz, "x.npz", "_base.formats.read_npz"),
    features_target("safetensors", make_safetensors, "x.safetensors", "_base.formats.read_tensors"),
    features_target("npy", make_npy, "x.npy", "_base.formats.read_npy"),
    Target(
        "unlabelled rows", make_npz, lambda folder: features.load_unlabelled(folder / "x.npz"), ("data.features.load_unlabelled",)
    ),
    Target(
        "mapped rows",
        make_npy,
        lambda folder: np.array(features.open_rows(folder / "x.npy")[:3]),
        ("data.features.open_rows",),
        files=("x.npy",),
    ),
]


# ---- lists of images -----------------------------------------------------------------------------------------------------------


def make_pictures(folder: Path) -> None:
    for row in range(ROWS):
        (folder / f"{row}.jpg").touch()


def make_csv(folder: Path) -> None:
    make_pictures(folder)
    rows = [f"{row}.jpg,{'cat;indoors' if row % 2 else 'dog'},{('train', 'query')[row % 2]}" for row in range(ROWS)]
    (folder / "m.csv").write_text("\n".join(["path,label,split", *rows]))


def make_parquet_manifest(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    make_pictures(folder)
    table = pa.table({
        "path": [f"{row}.jpg" for row in range(ROWS)],
        "label": [["cat", "indoors"] if row % 2 else ["dog"] for row in range(ROWS)],
        "split": [("train", "query")[row % 2] for row in range(ROWS)],
    })  # fmt: skip
    pq.write_table(table, folder / "m.parquet")


def make_list(folder: Path) -> None:
    make_pictures(folder)
    (folder / "l.txt").write_text("\n".join(f"{row}.jpg {row % 2} {int(row > 3)} 0" for row in range(ROWS)))


def make_class_list(folder: Path) -> None:
    make_pictures(folder)
    (folder / "l.txt").write_text("\n".join(f"{row}.jpg {row % 3}" for row in range(ROWS)))


def check_listings(parts: Any) -> None:
    for listing in parts.values():
        assert isinstance(listing, Listing)
        check_labels(listing.labels, len(listing.paths), len(listing.class_names))


def read_manifest(file: str) -> Callable[[Path], object]:
    return lambda folder: manifest.read(folder / file, on_missing="skip")


LISTS = [
    Target(
        "csv",
        make_csv,
        read_manifest("m.csv"),
        ("data._tables.open_table", "_base.text_files.read_text"),
        files=("m.csv",),
        check=check_listings,
        words=(b"path", b"labels", b"split", b"train", b"val", b"|", b'"', b"\t"),
    ),
    Target(
        "parquet manifest",
        make_parquet_manifest,
        read_manifest("m.parquet"),
        ("data._tables.open_table", "_base.formats.read_parquet"),
        files=("m.parquet",),
        check=check_listings,
        words=(b"PAR1", b"path", b"label"),
        free_bytes=PARQUET_BYTES,
    ),
    *(
        Target(
            name,
            make,
            lambda folder: lists.read(folder / "l.txt", on_missing="skip"),
            ("data.lists._read_lines",),
            files=("l.txt",),
            check=check_listings,
            words=(b"-1", b"#", b"0 1 0", b"1.0"),
        )
        for name, make in (("list", make_list), ("list of class ids", make_class_list))
    ),
]


# ---- images and named data sets ------------------------------------------------------------------------------------------------


def make_images(folder: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    for suffix in ("png", "jpg", "gif", "bmp", "tiff", "webp", "ppm"):
        Image.fromarray(pixels).save(folder / f"x.{suffix}")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(folder / "deep.png")
    Image.fromarray(pixels).quantize(8).save(folder / "palette.png", transparency=0)


def read_images(folder: Path) -> object:
    return images.open_images(sorted(folder.iterdir()), size=4, on_error="raise")


def check_images(opened: Any) -> None:
    assert opened.inputs.shape[1:] == (3, 4, 4)
    assert opened.inputs.dtype == torch.uint8


def make_idx(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name, values in (
        ("t10k-images-idx3-ubyte.gz", rng.integers(0, 256, (ROWS, 28, 28), np.uint8)),
        ("t10k-labels-idx1-ubyte.gz", rng.integers(0, 10, ROWS, np.uint8)),
    ):
        header = np.array([2048 + values.ndim, *values.shape], ">i4").tobytes()
        (folder / name).write_bytes(gzip.compress(header + values.tobytes()))
    (folder / "train-images-idx3-ubyte.gz").touch()  # by which the folder is found


def check_fashion(dataset: Any) -> None:
    assert dataset.inputs.shape == (len(dataset), 28, 28)
    assert dataset.inputs.dtype == torch.uint8
    check_labels(dataset.labels, len(dataset), 10)


def make_wordnet(folder: Path) -> None:
    from tests.data.test_wordnet_nouns import write_database

    write_database(folder)


def read_wordnet(folder: Path) -> object:
    database = wordnet.WordNet(folder)
    found = database.offset("dog.n.01")
    nouns = wordnet_nouns.read_nouns(folder / "data.noun")
    classes = wordnet_nouns.cut(nouns, 2, 4)
    return database.name(found), database.gloss("dog.n.01"), list(database.parents(["dog.n.01"])), classes


DATA_SETS = [
    Target("images", make_images, read_images, (), check=check_images),
    Target(
        "fashion-mnist",
        make_idx,
        lambda folder: fashion_mnist.load("test", folder),
        ("data.fashion_mnist._read_idx",),
        files=("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
        check=check_fashion,
    ),
    Target("wordnet", make_wordnet, read_wordnet, ("data.wordnet_nouns.read_nouns",), words=(b"@", b" | ", b"@i", b"n 1 0 1 0")),
]


# ---- codes and indexes ---------------------------------------------------------------------------------------------------------


def codes() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (ROWS, 2), np.uint8)


def make_codes(folder: Path) -> None:
    np.save(folder / "c.npy", codes())
    (folder / "c.npy.paths.txt").write_text("".join(f"{row}.jpg\n" for row in range(ROWS)))


def index_of(ids: bool) -> HammingIndex:
    index = HammingIndex(16)
    if ids:
        index.add_with_ids(codes(), np.arange(ROWS) * 7)
    else:
        index.add(codes())
    return index


def make_side_file(folder: Path) -> None:
    index = index_of(ids=False)
    index.build(radius=2)
    index.save(folder / "i.ibxf")


def read_side_file(mmap: bool) -> Callable[[Path], object]:
    return lambda folder: HammingIndex.load(folder / "i.ibxf", mmap=mmap, structures=folder / "i.ibxf.oht")


def make_parquet_codes(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "path": pa.array([f"{row}.jpg" for row in range(ROWS)]),
        "code": pa.array([row.tobytes() for row in codes()], pa.binary(2)),
        "label": pa.array(["cat", "dog"] * (ROWS // 2)),
    }
    pq.write_table(pa.table(columns), folder / "c.parquet")


def check_codes(found: Any) -> None:
    check_index(found.index)
    for part in (found.paths, found.labels):
        assert part is None or len(part) == len(found.index)


def check_index(index: Any) -> None:
    """Check that an index can be searched, and that every result is one of its codes."""
    assert index.codes.shape == (index.ntotal, index.bits // 8)
    if index.ntotal:
        distances, _ = index.search(index.codes[:1], 1)
        assert int(distances[0, 0]) == 0


def read_codes(file: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        from orthohash_triton.runs.code_files import read_codes

        return read_codes(folder / file)

    return read


def make_manifest_of_shards(folder: Path) -> None:
    with process_group():
        from orthohash_triton import ShardedHammingIndex

        ShardedHammingIndex.from_shard(index_of(ids=True)).save(folder)


def read_shards(folder: Path) -> object:
    with process_group():
        from orthohash_triton import ShardedHammingIndex

        return ShardedHammingIndex.load(folder)


@contextlib.contextmanager
def process_group() -> Any:
    """Start a group of this process alone, which ends with the block."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def check_shards(index: Any) -> None:
    """Check that nothing has changed, because codes and ids have checksums."""
    assert (index.ntotal, index.bits) == (ROWS, 16)
    assert np.array_equal(index.shard.codes, codes())
    assert index.shard.ids.tolist() == list(range(0, 7 * ROWS, 7))


HEADER_WORDS = (b"IBxF", b"IBM2", b"IBMp", b"IBwF", b"IxF2")

INDEXES = [
    Target(
        "codes, npy",
        make_codes,
        read_codes("c.npy"),
        ("runs.code_files._read_lines",),
        check=check_codes,
    ),
    Target(
        "codes, parquet",
        make_parquet_codes,
        read_codes("c.parquet"),
        ("runs.code_files._read_parquet", "_base.formats.read_parquet"),
        check=check_codes,
        words=(b"PAR1", b"code", b"path"),
        free_bytes=PARQUET_BYTES,
    ),
    *(
        Target(
            f"index, {'with' if ids else 'without'} ids, {'mapped' if mmap else 'read'}",
            lambda folder, ids=ids: index_of(ids).save(folder / "i.ibxf"),
            lambda folder, mmap=mmap: HammingIndex.load(folder / "i.ibxf", mmap=mmap),
            ("search.faiss_io.MappedFile.__init__" if mmap else "search.faiss_io.read",),
            check=check_index,
            words=HEADER_WORDS,
        )
        for ids in (False, True)
        for mmap in (False, True)
    ),
    *(
        Target(
            f"side file, {'mapped' if mmap else 'read'}",
            make_side_file,
            read_side_file(mmap),
            ("search._side_file.read",),
            files=("i.ibxf.oht",),
            check=check_index,
            words=(b"filing.positions", b"lookup.rows", b"I32", b"I64", b"covered", b"content"),
        )
        for mmap in (False, True)
    ),
    Target(
        "sharded index",
        make_manifest_of_shards,
        read_shards,
        ("search._folder.read_manifest", "search._folder._parsed", "search._folder.open_shard"),
        check=check_shards,
        inputs=50,
        words=(b"checksums", b"shard-0-of-1-00000000.ibxf"),
    ),
]
