import gc
import os
import stat
import struct
import sys

import numpy as np
import pytest

from orthohash_triton.search import HammingIndex, _folder, faiss_io
from orthohash_triton.search.index import cell_of
from tests.kills import kill_at_every_call, needs_fork
from tests.search.galleries import codes, filled

HEADER = struct.Struct("<4siiqBiQ")


def test_layout_by_hand(tmp_path):
    index = HammingIndex(16)
    index.add(np.array([[1, 2], [3, 4], [5, 6]], np.uint8))
    index.save(tmp_path / "index")
    expected = b"IBxF\x10\0\0\0\x02\0\0\0\x03\0\0\0\0\0\0\0\x01\x01\0\0\0\x06\0\0\0\0\0\0\0\x01\x02\x03\x04\x05\x06"
    assert (tmp_path / "index").read_bytes() == expected


@pytest.mark.parametrize(("count", "bits"), [(0, 64), (1, 8), (300, 72), (70_000, 64)])
def test_round_trip(tmp_path, count, bits):
    filled(count, bits).save(tmp_path / "index")
    loaded = HammingIndex.load(tmp_path / "index")
    assert (loaded.bits, loaded.ntotal) == (bits, count)
    np.testing.assert_array_equal(loaded.codes, codes(count, bits))
    loaded.add(codes(2, bits, seed=1))
    assert loaded.ntotal == count + 2


@pytest.mark.parametrize(("count", "bits"), [(0, 64), (300, 24), (300, 128)])
def test_faiss_reads_and_writes_the_same_file(tmp_path, count, bits):
    faiss = pytest.importorskip("faiss")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    index = filled(count, bits)
    index.save(ours)
    opened = faiss.read_index_binary(str(ours))
    assert (opened.d, opened.ntotal) == (bits, count)
    faiss.write_index_binary(opened, str(theirs))
    assert ours.read_bytes() == theirs.read_bytes()
    loaded = HammingIndex.load(theirs)
    if count:
        queries = codes(20, bits, seed=1)
        expected = opened.search(queries, 30)
        for answer in (index.search(queries, 30), loaded.search(queries, 30)):
            for part, right in zip(answer, expected, strict=True):
                np.testing.assert_array_equal(part, right)


def with_ids(count=300, bits=64):
    return filled(count, bits, identities(count))


def identities(count):
    return np.random.default_rng(5).permutation(4 * count)[:count] * 2 - 2 * count  # even ids are never -1


def test_layout_with_ids_by_hand(tmp_path):
    index = HammingIndex(8)
    index.add_with_ids(np.array([[1], [2]], np.uint8), [-2, 2**40])
    index.save(tmp_path / "index")
    head = b"\x08\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\x01\x01\0\0\0"
    payload = b"\x02\0\0\0\0\0\0\0\x01\x02"
    ids = b"\x02\0\0\0\0\0\0\0\xfe\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\x01\0\0"
    assert (tmp_path / "index").read_bytes() == b"IBM2" + head + b"IBxF" + head + payload + ids


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize(("count", "bits"), [(0, 64), (1, 8), (301, 72)])
def test_round_trip_with_ids(tmp_path, count, bits, mmap):
    with_ids(count, bits).save(tmp_path / "index")
    loaded = HammingIndex.load(tmp_path / "index", mmap=mmap)
    np.testing.assert_array_equal(loaded.codes, codes(count, bits))
    np.testing.assert_array_equal(loaded.ids, identities(count))
    loaded.to("cpu").add_with_ids(codes(2, bits, seed=1), [-10, -11])
    assert loaded.ntotal == count + 2
    np.testing.assert_array_equal(loaded.reconstruct(-11), codes(2, bits, seed=1)[1])


@pytest.mark.parametrize(("count", "bits"), [(0, 64), (301, 24), (300, 128)])
def test_faiss_reads_and_writes_the_same_file_with_ids(tmp_path, count, bits):
    faiss = pytest.importorskip("faiss")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    index = with_ids(count, bits)
    index.save(ours)
    opened = faiss.read_index_binary(str(ours))
    assert type(opened) is faiss.IndexBinaryIDMap2
    assert opened.ntotal == count
    faiss.write_index_binary(opened, str(theirs))
    assert ours.read_bytes() == theirs.read_bytes()
    one_way = faiss.IndexBinaryIDMap(faiss.IndexBinaryFlat(bits))
    one_way.add_with_ids(codes(count, bits), identities(count))
    faiss.write_index_binary(one_way, str(theirs))
    loaded = HammingIndex.load(theirs)
    if count:
        queries = codes(20, bits, seed=1)
        expected = opened.search(queries, 30)
        for answer in (
            index.search(queries, 30),
            loaded.search(queries, 30),
            HammingIndex.from_faiss(one_way).search(queries, 30),
        ):
            for part, right in zip(answer, expected, strict=True):
                np.testing.assert_array_equal(part, right)
        np.testing.assert_array_equal(opened.reconstruct(int(identities(count)[7])), index.reconstruct(identities(count)[7]))


def test_faiss_objects_with_ids():
    faiss = pytest.importorskip("faiss")
    theirs = with_ids().to_faiss()
    assert isinstance(theirs, faiss.IndexBinaryIDMap2)
    gc.collect()  # the flat index inside must stay alive
    back = HammingIndex.from_faiss(theirs)
    np.testing.assert_array_equal(back.codes, codes(300))
    np.testing.assert_array_equal(back.ids, identities(300))


@pytest.mark.parametrize(
    ("ids", "message"),
    [([4, 5, 4, 9, 9], "ids must be unique; ids 4, 9 are given more than once"), ([1, -1], "ids must not hold -1")],
)
def test_ids_that_faiss_takes_and_this_does_not(tmp_path, ids, message):
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexBinaryIDMap2(faiss.IndexBinaryFlat(64))
    index.add_with_ids(codes(len(ids)), np.array(ids))
    path = tmp_path / "index"
    faiss.write_index_binary(index, str(path))
    with pytest.raises(ValueError, match=f"index file {path}: {message}"):
        HammingIndex.load(path)
    with pytest.raises(ValueError, match=f"IndexBinaryIDMap2: {message}"):
        HammingIndex.from_faiss(index)
    mapped = HammingIndex.load(path, mmap=True)  # not read until the ids are looked up
    for look in (lambda: mapped.reconstruct(4), lambda: mapped.to("cpu"), mapped.copy):
        with pytest.raises(ValueError, match=f"index file {path}: {message}"):
            look()


@pytest.mark.parametrize("count", [0, 50])
def test_faiss_objects(count):
    faiss = pytest.importorskip("faiss")
    index = filled(count)
    theirs = index.to_faiss()
    assert isinstance(theirs, faiss.IndexBinaryFlat)
    back = HammingIndex.from_faiss(theirs)
    np.testing.assert_array_equal(back.codes, codes(count))
    back.add(codes(1))
    assert theirs.ntotal == count


def test_other_faiss_indexes_are_named(tmp_path):
    faiss = pytest.importorskip("faiss")
    flat = faiss.IndexBinaryFlat(64)
    others = {
        "IBwF": faiss.IndexBinaryIVF(flat, 64, 4),
        "IBHf": faiss.IndexBinaryHNSW(64, 8),
        "IBHh": faiss.IndexBinaryHash(64, 8),
        "IBHm": faiss.IndexBinaryMultiHash(64, 2, 8),
        "IBFf": faiss.IndexBinaryFromFloat(faiss.IndexFlatL2(64)),
    }
    path = tmp_path / "index"
    for fourcc, index in others.items():
        faiss.write_index_binary(index, str(path))
        with pytest.raises(ValueError, match=rf"{path} is a binary .*\('{fourcc}'\); expected a flat binary index \('IBxF'\)"):
            HammingIndex.load(path)
        with pytest.raises(ValueError, match=rf"from_faiss: {type(index).__name__} is a binary .*\('{fourcc}'\)"):
            HammingIndex.from_faiss(index)
    for inner, message in (
        (others["IBwF"], r"a binary IVF index \('IBwF'\)"),
        (faiss.IndexBinaryIDMap(flat), r"another id map \('IBMp'\)"),
    ):
        faiss.write_index_binary(faiss.IndexBinaryIDMap2(inner), str(path))
        for mmap in (False, True):
            with pytest.raises(ValueError, match=rf"{path}: the index in its id map is {message}; expected a flat binary"):
                HammingIndex.load(path, mmap=mmap)
    faiss.write_index(faiss.IndexFlatL2(64), str(path))
    with pytest.raises(ValueError, match=r"is a FAISS index over float vectors \('IxF2'\)"):
        HammingIndex.load(path)
    with pytest.raises(TypeError, match=r"index must be a faiss\.IndexBinaryFlat; got IndexFlatL2"):
        HammingIndex.from_faiss(faiss.IndexFlatL2(64))


def others_of(faiss):
    """Return trained binary indexes of FAISS of other kinds, without codes."""
    ivf = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(64), 64, 4)
    ivf.train(codes(300))
    return [
        ivf,
        faiss.IndexBinaryHNSW(64, 8),
        *([faiss.IndexBinaryHNSWCagra(64, 8)] if hasattr(faiss, "IndexBinaryHNSWCagra") else []),
        faiss.IndexBinaryMultiHash(64, 2, 8),
        faiss.IndexBinaryFromFloat(faiss.IndexFlatL2(64)),
    ]


def converted(faiss, path):
    """Return the index that a reader of the message about the file `path` gets by doing what it says."""
    with pytest.raises(ValueError, match=r"Get its codes.*, with index = ") as told:
        HammingIndex.load(path)
    names = {"faiss": faiss, "np": np, "index": faiss.read_index_binary(str(path)), "made": HammingIndex(64)}
    _, python, last = str(told.value).split("`")
    exec(python, names)
    exec(f"made.{last.partition('into a HammingIndex with ')[2]}", names)
    return names["made"]


def test_how_to_convert_other_faiss_indexes(tmp_path):
    """The Python line in each error message returns the codes that were added."""
    faiss = pytest.importorskip("faiss")
    added, path = codes(300), tmp_path / "index"
    for other in others_of(faiss):
        other.add(added)
        faiss.write_index_binary(other, str(path))
        made = converted(faiss, path)
        np.testing.assert_array_equal(made.reconstruct_batch(np.arange(300)), added)


def test_how_to_convert_other_faiss_indexes_with_ids(tmp_path):
    """An inverted file keeps ids of its own; the others have them in an id map. Some lists of the inverted file are empty."""
    faiss = pytest.importorskip("faiss")
    added, path = codes(300), tmp_path / "index"
    ids = np.random.default_rng(0).permutation(2**40 + np.arange(300))
    ivf = others_of(faiss)[0]
    ivf.add_with_ids(added[:2], ids[:2])
    assert min(ivf.invlists.list_size(i) for i in range(ivf.nlist)) == 0
    faiss.write_index_binary(ivf, str(path))
    np.testing.assert_array_equal(converted(faiss, path).reconstruct_batch(ids[:2]), added[:2])
    for other in others_of(faiss):
        outer = faiss.IndexBinaryIDMap2(other)
        outer.add_with_ids(added, ids)
        faiss.write_index_binary(outer, str(path))
        np.testing.assert_array_equal(converted(faiss, path).reconstruct_batch(ids), added)


def test_without_faiss(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"HammingIndex\.to_faiss needs faiss\. Install it with: pip install .faiss-cpu"):
        filled(1).to_faiss()
    with pytest.raises(ImportError, match=r"HammingIndex\.from_faiss needs faiss"):
        HammingIndex.from_faiss(None)


def header(fourcc=b"IBxF", bits=64, code_size=8, count=2, trained=1, metric=1, payload=16):
    return HEADER.pack(fourcc, bits, code_size, count, trained, metric, payload)


def head(fourcc, bits=64, code_size=8, count=2):
    return struct.pack("<4siiqBi", fourcc, bits, code_size, count, 1, 1)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is truncated: it has 0 bytes, the header alone takes 33"),
        (b"IBx", "is truncated: it has 3 bytes"),
        (header()[:32], "is truncated: it has 32 bytes"),
        (header() + b"x" * 15, "is truncated: it has 48 bytes; expected 49 for 2 codes of 64 bits"),
        (header() + b"x" * 17, "is damaged: it has 50 bytes; expected 49"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 50, "is not a FAISS binary index .it starts with "),
        (header(bits=60) + b"x" * 16, "is damaged: its header says 60 bits in 8 bytes a code"),
        (header(bits=0, code_size=0, payload=0), "is damaged: its header says 0 bits"),
        (header(bits=-8, code_size=-1), "is damaged: its header says -8 bits"),
        (header(code_size=4) + b"x" * 16, "is damaged: its header says 64 bits in 4 bytes a code"),
        (header(bits=2**30, code_size=2**27, count=0, payload=0), "holds codes of 1073741824 bits; codes of up to 8388600 bits"),
        (header(count=-2) + b"x" * 16, "is damaged: its header says -2 codes of 8 bytes in a payload of 16 bytes; expected 0"),
        (header(count=3) + b"x" * 16, "is damaged: its header says 3 codes of 8 bytes in a payload of 16 bytes; expected 24"),
        (header(count=2**60, payload=2**63), r"is truncated: it has 33 bytes; expected"),
        (head(b"IBM2"), ": the index in its id map is truncated: it has 25 bytes"),
        (
            head(b"IBM2") + header() + b"x" * 16,
            r"is truncated: it has 74 bytes; expected 98 for 2 codes of 64 bits and their ids",
        ),
        (
            head(b"IBM2", count=3) + header() + b"x" * 40,
            "is damaged: its id map is of 3 codes of 64 bits, the index in it of 2 of 64",
        ),
        (
            head(b"IBM2", 72, 9) + header() + b"x" * 40,
            "is damaged: its id map is of 2 codes of 72 bits, the index in it of 2 of 64",
        ),
        (head(b"IBMp") + header() + b"x" * 16 + b"\3" + b"\0" * 23, "is damaged: it has 2 codes and 3 ids"),
        (head(b"IBM2") + header(bits=60) + b"x" * 40, ": the index in its id map is damaged: its header says 60 bits"),
    ],
)
def test_damaged_files(tmp_path, content, message, mmap):
    path = tmp_path / "broken.index"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"index file {path} ?{message}"):
        HammingIndex.load(path, mmap=mmap)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("make", [filled, with_ids])
def test_every_truncation_is_noticed(tmp_path, make, mmap):
    path = tmp_path / "index"
    make(3).save(path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="is truncated"):
            HammingIndex.load(path, mmap=mmap)


def test_a_class_derived_from_the_index_loads_its_own_kind(tmp_path):
    class Catalogue(HammingIndex):
        pass

    filled(3).save(tmp_path / "index")
    for mmap in (False, True):
        assert type(Catalogue.load(tmp_path / "index", mmap=mmap)) is Catalogue


def test_missing_file_and_folder(tmp_path):
    for mmap in (False, True):
        with pytest.raises(FileNotFoundError, match=r"there is no index file .*nothing"):
            HammingIndex.load(tmp_path / "nothing", mmap=mmap)
    with pytest.raises(FileNotFoundError, match=r"does not exist\. Create it first"):
        filled(1).save(tmp_path / "nowhere" / "index")


def test_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "index"
    filled(70_000).save(path)  # more than a buffer of the file object holds
    layout = faiss_io._layout

    def shrink(*arguments):
        found = layout(*arguments)
        os.truncate(path, 100)
        return found

    monkeypatch.setattr(faiss_io, "_layout", shrink)
    with pytest.raises(ValueError, match="became shorter while it was read"):
        HammingIndex.load(path)


def test_save_that_fails_half_way_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "index"
    filled(3).save(path)
    before = path.read_bytes()

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        filled(5).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["index"]


@needs_fork
@pytest.mark.parametrize("checksum", [False, True])
def test_killed_at_every_call(tmp_path, checksum):
    """The file is the old or the new one, and the next save leaves nothing else behind."""
    path = tmp_path / "index"
    old, new = filled(3), filled(500)

    def check():
        assert HammingIndex.load(path).ntotal in (3, 500)
        new.save(path, checksum=checksum)
        assert HammingIndex.load(path).ntotal == 500
        assert set(os.listdir(tmp_path)) == {"index", *(["index.files.json"] if checksum else [])}

    assert kill_at_every_call(lambda: new.save(path, checksum=checksum), lambda: old.save(path, checksum=checksum), check) > 6


@needs_fork
def test_a_sharded_save_killed_at_every_call(tmp_path):
    """The folder has the old or the new index, and the next save removes the shards of the killed one."""

    def save(token, counts):
        with _folder.owning_folder(tmp_path):
            shards = [
                _folder.write_shard(tmp_path / _folder.shard_name(rank, 2, f"{token:08x}"), cell_of(filled(count)).gallery)
                for rank, count in enumerate(counts)
            ]
            _folder.write_manifest(tmp_path, _folder.Manifest(64, False, shards))
            _folder.remove_unnamed(tmp_path)

    def check():
        manifest = _folder.read_manifest(tmp_path)
        counts = [shard.codes for shard in manifest.shards]
        assert counts in ([3, 5], [30, 50])
        rows = [block.codes for block in _folder.read_part(tmp_path, manifest, 0, sum(counts))]
        np.testing.assert_array_equal(np.concatenate(rows), np.concatenate([codes(count, 64) for count in counts]))
        save(3, (4, 6))
        assert len(os.listdir(tmp_path)) == 3

    assert kill_at_every_call(lambda: save(2, (30, 50)), lambda: save(1, (3, 5)), check) > 15


def test_every_flipped_bit_is_refused(tmp_path):
    """FAISS's format has no checksum; the second file has one."""
    path = tmp_path / "index"
    filled(20).save(path, checksum=True)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"index is not the file that .* names: its checksum is"):
            HammingIndex.load(path)
    path.write_bytes(whole)
    filled(30).save(path)  # renews the second file
    assert HammingIndex.load(path).ntotal == 30
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"it has .* bytes, expected"):
        HammingIndex.load(path, mmap=True)
    (tmp_path / "index.files.json").unlink()
    assert HammingIndex.load(path).ntotal == 20


def test_every_flipped_bit_of_a_manifest_is_refused_or_harmless(tmp_path):
    shards = [_folder.write_shard(tmp_path / _folder.shard_name(0, 1, "0a"), cell_of(filled(20)).gallery)]
    _folder.write_manifest(tmp_path, _folder.Manifest(64, False, shards))
    path = tmp_path / "manifest.json"
    manifest, whole = _folder.read_manifest(tmp_path), path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = _folder.read_manifest(tmp_path)
        except ValueError as error:
            assert "manifest.json" in str(error)  # noqa: PT017
        else:
            assert found == manifest


def test_an_index_goes_into_an_open_file(tmp_path):
    with open(tmp_path / "index", "wb") as file:
        filled(3).save(file)
    assert HammingIndex.load(tmp_path / "index").ntotal == 3


@pytest.mark.skipif(os.name != "posix", reason="folders cannot be synchronised")
def test_a_save_is_on_the_disk_when_it_returns(tmp_path, monkeypatch):
    """The file is synchronised before it is renamed, and its folder afterwards."""
    events = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor):
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else f"{os.fstat(descriptor).st_size} bytes")
        fsync(descriptor)

    def record_replace(*paths):
        events.append("renamed")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    filled(3).save(tmp_path / "index")
    assert events == [f"{33 + 3 * 8} bytes", "renamed", "folder"]
