"""Other indexes for near codes: how each is built, searched, and how much of the right answer it finds."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Nearest = tuple[np.ndarray, np.ndarray]  # distances and ids [Q, k]
Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # lims [Q + 1], distances and ids [M], in the order (distance, id)

EXACT = ("faiss flat", "usearch exact", "pynear VPTree")  # peers whose distances are those of the scan
ORDERED = ("faiss flat",)  # of these, peers whose ids are too


class Built(NamedTuple):
    """An index of a peer, and what it cost."""

    search: Callable[[], Any]
    build_s: float
    bytes_per_code: float | str = ""


class NotHere(Exception):
    """A peer is not installed, or its index would take too long to build; the message says so."""


def nearest(peer: str, gallery: np.ndarray, queries: np.ndarray, k: int) -> Built:
    """Return the index of a peer that finds the k nearest codes of each query with one thread.

    Raises:
        NotHere: the peer cannot run here.
    """
    try:
        return _NEAREST[peer](gallery, queries, k)
    except ImportError as error:
        raise NotHere(f"{error.name or error} is not installed") from None


def _faiss_flat(gallery: np.ndarray, queries: np.ndarray, k: int) -> Built:
    import faiss

    index, seconds = _timed(lambda: _added(faiss.IndexBinaryFlat(8 * gallery.shape[1]), gallery))
    return Built(lambda: index.search(queries, k), seconds, gallery.shape[1])


def _faiss_hnsw(gallery: np.ndarray, queries: np.ndarray, k: int) -> Built:
    import faiss

    _at_most("faiss HNSW", len(gallery), 200_000)
    index, seconds = _timed(lambda: _added(faiss.IndexBinaryHNSW(8 * gallery.shape[1], 32), gallery))
    index.hnsw.efSearch = max(64, k)
    return Built(lambda: index.search(queries, k), seconds, _file_bytes(index))


def _faiss_ivf(gallery: np.ndarray, queries: np.ndarray, k: int) -> Built:
    import faiss

    _at_most("faiss IVF", len(gallery), 2_000_000)
    bits, lists = 8 * gallery.shape[1], max(16, int(len(gallery) ** 0.5))
    quantizer = faiss.IndexBinaryFlat(bits)
    index = faiss.IndexBinaryIVF(quantizer, bits, lists)

    def fill() -> Any:
        index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 64
        index.train(gallery[: 64 * lists])
        return _added(index, gallery)

    _, seconds = _timed(fill)
    index.nprobe = 8
    built = Built(lambda: index.search(queries, k), seconds, _file_bytes(index))
    index.of_quantizer = quantizer  # the index does not keep it alive
    return built


def _faiss_multihash(gallery: np.ndarray, queries: np.ndarray, k: int) -> Built:
    index, seconds = _timed(lambda: _multihash(gallery, 0))
    return Built(lambda: index.search(queries, k), seconds)


def _usearch_exact(gallery: np.ndarray, queries: np.ndarray, k: int) -> Built:
    from usearch.index import MetricKind, ScalarKind, search

    _at_most("usearch exact", len(gallery) * len(queries), 20_000_000)  # it holds 16 bytes per pair

    def run() -> Nearest:
        found = search(gallery, queries, k, MetricKind.Hamming, exact=True, threads=1, dtype=ScalarKind.B1)
        return np.atleast_2d(found.distances).astype(np.int32), np.atleast_2d(found.keys).astype(np.int64)

    return Built(run, 0.0, gallery.shape[1])


def _usearch_hnsw(gallery: np.ndarray, queries: np.ndarray, k: int) -> Built:
    from usearch.index import Index

    _at_most("usearch HNSW", len(gallery), 100_000)
    index = Index(ndim=8 * gallery.shape[1], metric="hamming", dtype="b1", expansion_search=max(64, k))
    _, seconds = _timed(lambda: index.add(np.arange(len(gallery)), gallery, threads=1))

    def run() -> Nearest:
        found = index.search(queries, k, threads=1)
        return np.atleast_2d(found.distances).astype(np.int32), np.atleast_2d(found.keys).astype(np.int64)

    return Built(run, seconds, round(index.memory_usage / len(gallery), 1))


def _pynear_vptree(gallery: np.ndarray, queries: np.ndarray, k: int) -> Built:
    import pynear

    _at_most("pynear VPTree", len(gallery), 200_000)
    _at_most("pynear VPTree", len(gallery) * len(queries), 20_000_000)
    index = getattr(pynear, f"VPTreeBinaryIndex{8 * gallery.shape[1]}")()
    _, seconds = _timed(lambda: index.set(gallery))

    def run() -> Nearest:
        ids, distances = index.searchKNN(queries, k)
        return np.sort(np.array(distances, np.int32), axis=1), np.array(ids)

    return Built(run, seconds)


def _pynear_mih(gallery: np.ndarray, queries: np.ndarray, k: int) -> Built:
    import pynear

    _at_most("pynear MIH", len(gallery), 1_000_000)
    index = pynear.MIHBinaryIndex(gallery.shape[1] // 2)
    _, seconds = _timed(lambda: index.set(gallery))

    def run() -> Nearest:
        ids, distances = index.searchKNN(queries, k, 8)
        padded = np.full((len(queries), k), 2**31 - 1, np.int32)
        for row, found in zip(padded, distances, strict=True):
            row[: len(found)] = np.sort(found)[:k]
        return padded, np.array([len(row) for row in ids])

    return Built(run, seconds)


_NEAREST = {
    "faiss flat": _faiss_flat,
    "faiss HNSW": _faiss_hnsw,
    "faiss IVF": _faiss_ivf,
    "faiss MultiHash": _faiss_multihash,
    "usearch exact": _usearch_exact,
    "usearch HNSW": _usearch_hnsw,
    "pynear VPTree": _pynear_vptree,
    "pynear MIH": _pynear_mih,
}
NEAREST = tuple(_NEAREST)


def within(peer: str, gallery: np.ndarray, queries: np.ndarray, radius: int) -> Built:
    """Return the index of a peer that finds all codes nearer than `radius`; `in_order` sorts its answer.

    Raises:
        NotHere: the peer cannot run here.
    """
    import faiss

    if peer == "faiss flat":
        index, seconds = _timed(lambda: _added(faiss.IndexBinaryFlat(8 * gallery.shape[1]), gallery))
        return Built(lambda: index.range_search(queries, radius), seconds, gallery.shape[1])
    if peer == "faiss MultiHash":
        index, seconds = _timed(lambda: _multihash(gallery, radius - 1))
        return Built(lambda: index.range_search(queries, radius), seconds)
    raise ValueError(f"unknown peer {peer}")


WITHIN = ("faiss flat", "faiss MultiHash")


def in_order(answer: Found) -> Found:
    """Return the answer with the results of each query in the order (distance, row)."""
    lims, distances, ids = (part.astype(np.int64) for part in answer)
    query = np.repeat(np.arange(len(lims) - 1), np.diff(lims))
    order = np.lexsort((ids, distances, query))
    return lims, distances[order], ids[order]


def recall(distances: np.ndarray, right: np.ndarray) -> float:
    """Return the share of an answer's k codes that are as near as the k-th right one; equal distances count as right."""
    return float((distances <= right[:, -1:]).mean())


def same(answers: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(np.asarray(ours), np.asarray(theirs)) for ours, theirs in zip(answers, right, strict=True))


def _multihash(gallery: np.ndarray, radius: int) -> Any:
    """Return an IndexBinaryMultiHash that finds all codes within `radius`: one of its tables differs in nflip bits or fewer.

    Tables of about log2(N) bits have lists of about one code. Fewer, wider tables need more flips of their bits.
    """
    import faiss

    bits = 8 * gallery.shape[1]
    width = max(8, min(24, (len(gallery) - 1).bit_length()))
    tables = bits // width
    index = faiss.IndexBinaryMultiHash(bits, tables, width)
    index.nflip = radius // tables
    return _added(index, gallery)


def _added(index: Any, gallery: np.ndarray) -> Any:
    index.add(gallery)
    return index


def _file_bytes(index: Any) -> float:
    import faiss

    return round(faiss.serialize_index_binary(index).nbytes / index.ntotal, 1)


def _at_most(peer: str, size: int, limit: int) -> None:
    if size > limit:
        raise NotHere(f"{peer} would take too long or too much memory: {size:,} is more than {limit:,}")


def _timed(build: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    built = build()
    return built, round(time.process_time() - started, 3)
