"""Tests of the side file: it is read, mapped, and noticed when it does not fit; answers are right in any case."""

import json
import os
import struct
import warnings

import faiss
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from orthohash_triton.ops.hamming_topk import hamming_topk
from orthohash_triton.search import HammingIndex, _plan, _planner
from orthohash_triton.search.index import cell_of
from tests.kills import kill_at_every_call, needs_fork
from tests.search.galleries import codes, made


@pytest.fixture(autouse=True)
def structures_are_used(monkeypatch, one_thread):
    monkeypatch.setattr(_planner, "way_cost", lambda way, *facts: float(way != "filing"))
    monkeypatch.setattr(_plan, "TRIED_OF_SCAN", np.inf)


def trained(count=400, width=8, seed=0):
    return made("trained", count, width, np.random.default_rng(seed))[0]


def saved(path, gallery, **options):
    index = HammingIndex(8 * gallery.shape[1])
    index.add(gallery)
    index.build(**options)
    index.save(path)
    return index


def structures_of(index):
    return cell_of(index).gallery.structures


def same_answers(index, gallery):
    queries = np.concatenate([gallery[::50], codes(5, 8 * gallery.shape[1])])
    distances, ids = index.search(queries, 20)
    expected = hamming_topk(queries, gallery, 20)
    assert np.array_equal(distances, expected[0])
    assert np.array_equal(ids, expected[1])


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("radius", [None, 3])
def test_structures_are_saved_and_loaded(tmp_path, mmap, radius):
    gallery, path = trained(), tmp_path / "i.ibxf"
    index = saved(path, gallery, radius=radius)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = HammingIndex.load(path, mmap=mmap)
    assert structures_of(loaded).describe() == structures_of(index).describe()
    assert loaded.explain(gallery[:3], 5).plan == "filing"
    assert (structures_of(loaded).file is not None) == mmap
    same_answers(loaded, gallery)
    same_answers(loaded.copy(), gallery)
    if mmap:
        loaded.to("cpu")
        assert structures_of(loaded).file is None
    loaded.add(gallery[:7])
    assert loaded.explain(gallery[:3], 5).tail == 7
    same_answers(loaded, np.concatenate([gallery, gallery[:7]]))
    assert np.array_equal(faiss.vector_to_array(faiss.read_index_binary(str(path)).xb).reshape(gallery.shape), gallery)


def test_the_file_has_the_format_of_safetensors(tmp_path):
    saved(tmp_path / "i.ibxf", trained(), radius=2)
    tensors = load_file(tmp_path / "i.ibxf.oht")
    assert {"filing.entries", "filing.positions", "lookup.rows"} <= set(tensors)
    assert sorted(tensors["filing.positions"].tolist()) == list(range(400))


def test_a_tail_is_saved_with_the_structures_before_it(tmp_path):
    gallery, path = trained(), tmp_path / "i.ibxf"
    index = saved(path, gallery[:300])
    index.add(gallery[300:])
    index.save(path)
    loaded = HammingIndex.load(path)
    assert loaded.explain(gallery[:3], 5).tail == 100
    same_answers(loaded, gallery)


def test_without_structures_the_old_side_file_is_removed(tmp_path):
    gallery, path = trained(), tmp_path / "i.ibxf"
    index = saved(path, gallery)
    index.save(path, structures=False)
    assert not (tmp_path / "i.ibxf.oht").exists()
    assert structures_of(HammingIndex.load(path)) is None
    index.save(path)
    assert structures_of(HammingIndex.load(path, structures=False)) is None
    index.remove_ids(list(range(400)))
    index.save(path)
    assert not (tmp_path / "i.ibxf.oht").exists()


def foreign(path):
    saved(path.with_name("other"), trained(seed=1))
    os.replace(path.with_name("other.oht"), path.with_name("i.ibxf.oht"))


def another_width(path):
    saved(path.with_name("other"), trained(width=4))
    os.replace(path.with_name("other.oht"), path.with_name("i.ibxf.oht"))


def edited(name, value):
    def edit(path):
        side = path.with_name("i.ibxf.oht")
        data = side.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + length])
        header["__metadata__"][name] = value
        text = json.dumps(header).encode()
        side.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return edit


def truncated(path):
    side = path.with_name("i.ibxf.oht")
    side.write_bytes(side.read_bytes()[:-100])


def flipped(path):
    side = path.with_name("i.ibxf.oht")
    data = bytearray(side.read_bytes())
    data[-5] ^= 1
    side.write_bytes(data)


def stale(path):
    """Replace the codes by others of the same number, as another program would."""
    index = faiss.IndexBinaryFlat(64)
    index.add(trained(seed=2))
    faiss.write_index_binary(index, str(path))


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (foreign, "belongs to codes with checksum"),
        (another_width, "belongs to 400 codes of 32 bits"),
        (edited("version", "2"), "it has version 2; this version of the package reads version 1"),
        (edited("format", "other"), "is of format 'other'"),
        (edited("count", "many"), "count must be a whole number; got 'many'"),
        (edited("covered", "500"), "covers 500 of 400 codes"),
        (truncated, "not a readable side file"),
        (flipped, "is damaged: its checksum"),
        (stale, "belongs to codes with checksum"),
    ],
)
def test_a_side_file_that_does_not_fit_is_noticed(tmp_path, mmap, change, why):
    path = tmp_path / "i.ibxf"
    saved(path, trained())
    os.utime(path, ns=(1, 1))  # so that the time of change does not tell that the codes are the same
    change(path)
    gallery = trained(seed=2) if change is stale else trained()
    with pytest.warns(RuntimeWarning, match=rf"i\.ibxf\.oht is not used: .*{why}.*save the index again") as told:
        loaded = HammingIndex.load(path, mmap=mmap)
    assert len(told) == 1
    assert structures_of(loaded) is None
    same_answers(loaded, gallery)
    with pytest.raises(ValueError, match=why):
        HammingIndex.load(path, mmap=mmap, structures=tmp_path / "i.ibxf.oht")


def test_a_side_file_that_is_asked_for_must_exist(tmp_path):
    path = tmp_path / "i.ibxf"
    saved(path, trained())
    with pytest.raises(FileNotFoundError, match=r"there is no side file .*none\.oht"):
        HammingIndex.load(path, structures=tmp_path / "none.oht")


def test_a_mapped_side_file_that_is_cut_off_is_not_read(tmp_path):
    gallery, path = trained(), tmp_path / "i.ibxf"
    saved(path, gallery)
    loaded = HammingIndex.load(path, mmap=True)
    os.truncate(tmp_path / "i.ibxf.oht", 100)
    with pytest.warns(RuntimeWarning, match="cut off while it was mapped") as told:  # noqa: PT031
        same_answers(loaded, gallery)
        same_answers(loaded, gallery)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [("filing.positions", 0, 10**6), ("filing.entry_starts", 1, -3), ("filing.ring_starts", 1, 10**9),
     ("filing.centre_rings", -1, 10**9), ("lookup.rows", (0, 0), -1), ("lookup.starts", (0, 5), 10**6),
     ("lookup.of_bits", 0, 99), ("lookup.steps", (0, 1), 60)],
)  # fmt: skip
def test_arrays_that_lead_out_of_bounds_are_refused(tmp_path, monkeypatch, name, place, value):
    """Their checksum is right, as in a file that somebody made on purpose."""
    from orthohash_triton.search import _side_file

    index = saved(tmp_path / "i.ibxf", trained(), radius=2)
    arrays = {key: part.clone() for key, part in _side_file.arrays_of(structures_of(index)).items()}
    arrays[name][place] = value
    monkeypatch.setattr(_side_file, "arrays_of", lambda structures: arrays)
    index.save(tmp_path / "i.ibxf")
    with pytest.raises(ValueError, match=r"i\.ibxf\.oht is not a readable side file"):
        HammingIndex.load(tmp_path / "i.ibxf", structures=tmp_path / "i.ibxf.oht")


@needs_fork
def test_a_killed_save_leaves_an_index_that_answers_rightly(tmp_path):
    before, after, path = trained(), trained(seed=3), tmp_path / "i.ibxf"
    old, new = saved(tmp_path / "old", before), saved(tmp_path / "new", after)
    outcomes = set()

    def check():
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # no side file belongs to other codes at any moment
            loaded = HammingIndex.load(path)
        is_new = torch.equal(loaded.codes, new.codes)
        outcomes.add((is_new, structures_of(loaded) is not None))
        same_answers(loaded, after if is_new else before)

    assert kill_at_every_call(lambda: new.save(path), lambda: old.save(path), check) > 5
    assert outcomes == {(False, True), (False, False), (True, False), (True, True)}
