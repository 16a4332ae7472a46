"""The configurations of every kernel that a launcher can choose. `make compile-matrix` compiles them.

Each family calls its launchers on meta tensors, for all values that a `plan` depends on: numbers of bits, shapes, kinds of
labels, dtypes, options. Some numbers are compile-time constants that do not choose a tile (words of a code, codes of a span,
sizes that are multiples of 16). Of these only the largest is kept for each choice, and also the smallest if words unroll a loop.
Shapes go up to the largest ones, so that sums that exceed 32 bits are found.
"""

import functools
import heapq
import importlib
import itertools
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from orthohash_triton.kernels import (
    _filed,
    average_precision,
    batch_norm,
    cosine_codebook_loss,
    hamming_distance,
    hamming_histogram,
    hamming_range,
    hamming_self_join,
    hamming_topk,
    householder,
    mean,
    pack_codes,
    pairwise_likelihood_loss,
)
from orthohash_triton.kernels._distances import UNROLLED_WORDS
from orthohash_triton.kernels._scan import Scan
from orthohash_triton.kernels.filing import Filing

from orthohash_triton import kernels as package
from tests.compiled import DEVICES, Launch, collect_launches

TARGETS = list(DEVICES)

KERNELS = [importlib.import_module(f"{package.__name__}.{module.name}")
           for module in pkgutil.iter_modules(package.__path__) if not module.ispkg]  # fmt: skip

# Compile-time constants that do not choose a tile.
_RANGED = ("WORDS", "WIDTH", "SPAN", "UNCOUNTED", "LARGEST")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def launches(target: str, part: str | None = None) -> list[Launch]:
    """Return the launches to compile for `target`. `part` is "training", "search", the name of a family, or None for all."""
    return [launch for found in launches_by_family(target, part).values() for launch in found]


def launches_by_family(target: str, part: str | None = None) -> dict[str, list[Launch]]:
    """Return the same by the name of the family; a launch that several families make belongs to the first of them."""
    known: set[str] = set()
    by_family = {}
    for name, families in FAMILIES.items():
        for family in families:
            if part in (None, name, family.__name__):
                found = _launches(target, family)
                by_family[family.__name__] = [launch for launch in found if launch.key not in known]
                known.update(launch.key for launch in found)
    return by_family


@functools.cache
def _launches(target: str, family: Callable[[], None]) -> list[Launch]:
    """Return the launches of one family."""
    return list({launch.key: launch for launch in _ends_of_ranges(collect_launches(target, family))}.values())


def _ends_of_ranges(found: Iterable[Launch]) -> list[Launch]:
    groups: dict[Any, list[Launch]] = {}
    for launch in found:
        groups.setdefault(repr(_choice(launch)), []).append(launch)
    kept = []
    for group in groups.values():
        kept.append(_with_sizes_of(max(group, key=_place_in_range), group))
        if kept[-1].constexprs.get("WORDS", 0) > 1 and "GROUP" in kept[-1].constexprs:  # loops over short codes are unrolled
            kept.append(min(group, key=_place_in_range))
    return kept


def _with_sizes_of(launch: Launch, group: Iterable[Launch]) -> Launch:
    """Add the sizes of the launches in `group`, which differ only in numbers being 1 or multiples of 16; return `launch`."""
    names = [name for name, _ in next(iter(launch.sizes))[1]]
    for other in group:
        if "i64" in launch.signature.values() or "i64" not in other.signature.values():
            for grid, arguments in set(other.sizes):
                known = dict(arguments)
                launch.add_size((grid, tuple((name, known.get(name, 1)) for name in names)))
    return launch


def _choice(launch: Launch) -> tuple[Any, ...]:
    """Return the choices that were made for a launch, without the sizes of its arguments."""
    constexprs = {name: value for name, value in launch.constexprs.items() if name not in _RANGED}
    types = {name: "" if _is_number(launch, name) else kind for name, kind in launch.signature.items()}
    # If a kernel lists numbers that it is not specialised on, the alignment of the other numbers is a choice.
    meant = any(parameter.do_not_specialize for parameter in launch.source().fn.params)
    names = list(types)
    aligned = [names[place] for (place,) in launch.attributes if meant and not types[names[place]].startswith("*")]
    unrolled = launch.constexprs.get("WORDS", 0) <= UNROLLED_WORDS.value
    wide = launch.constexprs.get("WORDS") == launch.constexprs.get("WIDTH")
    return launch.module, launch.kernel, types, constexprs, aligned, *launch.options.items(), unrolled, wide


def pairs(found: Iterable[Launch]) -> list[Launch]:
    """Return few launches that cover all pairs of choices: any two choices that occur together in `found` do so in the result.

    The selection is greedy: the launch with the most pairs that are not covered yet comes next; among equals the largest one.
    """
    by_kernel: dict[tuple[str, str], list[tuple[Launch, set[tuple[str, str]]]]] = {}
    for launch in sorted(found, key=_place_in_range, reverse=True):
        module, kernel, types, constexprs, *rest = _choice(launch)
        choices = map(str, [*types.items(), *constexprs.items(), *enumerate(rest)])
        by_kernel.setdefault((module, kernel), []).append((launch, set(itertools.combinations(choices, 2))))
    return [launch for candidates in by_kernel.values() for launch in _cover(candidates)]


def _cover(candidates: Sequence[tuple[Launch, set[tuple[str, str]]]]) -> Iterator[Launch]:
    """Yield launches until all pairs are covered. The new pairs of a launch only become fewer, so old counts are upper bounds."""
    covered: set[tuple[str, str]] = set()
    queue = [(-len(shown), place) for place, (_, shown) in enumerate(candidates)]
    heapq.heapify(queue)
    while queue:
        place = heapq.heappop(queue)[1]
        launch, shown = candidates[place]
        new = len(shown - covered)
        if new and queue and (-new, place) > queue[0]:
            heapq.heappush(queue, (-new, place))
        elif new:
            covered |= shown
            yield launch


def _place_in_range(launch: Launch) -> list[int]:
    """Return a sort key that grows with constants, 64-bit numbers, and numbers that are neither 1 nor multiples of 16."""
    wide = sum(_is_number(launch, name) and kind == "i64" for name, kind in launch.signature.items())
    ones = sum(_is_number(launch, name) and kind == "constexpr" for name, kind in launch.signature.items())
    return [*(launch.constexprs.get(name, 0) for name in _RANGED), wide, -ones - len(launch.attributes)]


def _is_number(launch: Launch, name: str) -> bool:
    """Return whether an argument is a number but not a stride; strides of 1 describe the layout of a tensor."""
    if name in launch.constexprs or name.endswith("stride"):
        return False
    place = (list(launch.signature).index(name),)
    return launch.signature[name] in ("i32", "i64") or launch.constants.get(place, 0) == 1


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _codes(rows: int, words: int) -> torch.Tensor:
    return meta(rows, 4 * words, dtype=torch.uint8)


# The plan of a search depends on these: one query, few, and batches on both sides of every tile; galleries that are small
# relative to k, need every length of a span, or have more codes than 32 bits can count.
WORDS = [*range(1, 10), *range(12, 18), 20, 32, 33, 64, 128]
SEARCHES = [
    *itertools.product((1, 2, 3, 4, 8, 9, 31), (9_999, 1_000_000, 2**33), (1, 100)),
    *itertools.product((32, 64, 100, 5_000), (1_000_000, 2**33), (100, 1_000)),
    *itertools.product((1, 32), (10_000, 1_000_000), (1_000, 6_000)),
    *itertools.product((1, 1_000), (10**8, 10**9), (1, 10)),
]


def searches() -> None:
    for words, (queries, gallery, k), masked in itertools.product(WORDS, SEARCHES, (False, True)):
        hamming_topk.hamming_topk(
            _codes(queries, words),
            _codes(gallery, words),
            meta(gallery, dtype=torch.bool) if masked else None,
            meta(queries, dtype=torch.int32) if masked else None,
            meta(queries, k, dtype=torch.int32),
            meta(queries, k, dtype=torch.int64),
        )


RANGE_ANSWER = 1_000  # codes in the answer
RANGES = list(itertools.product((1, 2, 3, 128), (1, 9, 256), (10**5, 2**33)))


def ranges() -> None:
    for (words, queries, gallery), masked in itertools.product(RANGES, (False, True)):
        mask = meta(gallery, dtype=torch.bool) if masked else None
        scan = Scan(_codes(queries, words), _codes(gallery, words), mask)
        limits = meta(queries, dtype=torch.int32)
        lims, slots = hamming_range.places(scan, limits)
        hamming_range.in_order(scan, limits, lims, slots, RANGE_ANSWER, 32 * words)


# Queries, centres and codes: one query, a batch with more centres than a program takes at a time, and the largest ones.
FILED = [(1, 10, 10**5), (1_000, 10_000, 10**8), (2**15, 512, 10**6), (1, 2**24, 2**33)]


def filed() -> None:
    """Run the steps of both searches of filed codes; a query meets and finds all codes."""
    for words, (queries, centres, codes) in itertools.product((1, 2, 3, 128), FILED):
        search = _filed.Search(_codes(queries, words), filing(codes, centres, words))
        radii = meta(queries, dtype=torch.int32)
        search.bounds(radii, 100)
        search.count(radii)
        runs = search.runs(radii)
        one, all_queries = _filed.Part(queries - 1, queries, 0, codes, codes), _filed.Part(0, queries, 0, codes, codes)
        for part in (one, all_queries):
            found = search.measure(runs, part, radii)
            search.keep_nearest(found, runs, part, radii, radii, 100)
            keys = search.keys(found, found.counts, part)  # the sums of the counts have the same shape
            for longest in (100, 1_000):
                answer = meta(queries, 2 * longest, dtype=torch.int32), meta(queries, 2 * longest, dtype=torch.int64)
                search.nearest_first(keys, meta(queries + 1, dtype=torch.int64), longest, *answer)


def filing(codes: int, centres: int, words: int) -> Filing:
    """Return a filing of distinct codes on the meta device."""
    numbers = functools.partial(meta, dtype=torch.int64)
    rings = (32 * words + 1) * centres
    positions = meta(codes, dtype=torch.int32 if codes < 2**31 else torch.int64)
    return Filing(_codes(codes, words), numbers(codes + 1), positions, _codes(centres, words), numbers(rings + 1),
                  meta(rings, dtype=torch.int32), numbers(centres + 1))  # fmt: skip


BYTES = [1, 2, 3, 6, 8, 11, 12, 14, 15, 16, 19, 20, 23, 24, 27, 28, 30, 32, 62, 64, 126, 128, 250, 255, 256, 510, 512]
HISTOGRAMS = list(itertools.product((1, 2, 5, 64), (10**6, 2**33)))


def histograms() -> None:
    for width, (queries, gallery), (words, shared) in itertools.product(BYTES, HISTOGRAMS, [(0, False), (1, False), (3, True)]):
        codes = [meta(rows, width, dtype=torch.uint8) for rows in (queries, gallery)]
        totals = [meta(queries, 8 * width + 1, dtype=torch.int64) for _ in range(2 if words else 1)]
        sets = [meta(rows, words, dtype=torch.int64) for rows in (queries, gallery)] if words else []
        hamming_histogram.hamming_histogram(*codes, totals[0], *sets, *totals[1:], shared=shared)


JOINS = [(99, 1), (10**6, 17), (2**31 - 1, 300)]  # codes in runs, substrings


def joins() -> None:
    for words, (rows, substrings) in itertools.product((1, 2, 3, 128), JOINS):
        hamming_self_join.keys_of(meta(rows, words, dtype=torch.int32), meta(words, dtype=torch.int32))
        run = hamming_self_join.Runs(
            meta(rows, words, dtype=torch.int32),
            meta(rows, dtype=torch.int32),
            meta(rows, dtype=torch.int64),
            meta(substrings, words, dtype=torch.int32),
            meta(substrings, dtype=torch.int32),
            3,
        )
        run.near()
        run.write(0, rows, meta(rows, dtype=torch.int64), RANGE_ANSWER)


_MEMORY = 2**35  # most bytes for the codes of a gallery
RANKINGS = [(10_000, 60_000), (9, 100_000), (1_000, 10**6), (1, 2**28)]


def rankings() -> None:
    labels = [(1, False), (1, True), (2, True)]
    for width, (queries, gallery), (words, shared) in itertools.product(BYTES, RANKINGS, labels):
        gallery = min(gallery, _MEMORY // width)
        codes, of_codes = meta(gallery, width, dtype=torch.uint8), meta(gallery, words, dtype=torch.int64)
        for limits in (1, 4):
            ranking = average_precision.Rankings(queries, codes, of_codes, meta(limits, dtype=torch.int64), shared=shared)
            ranking.rank(
                meta(queries, width, dtype=torch.uint8),
                meta(queries, words, dtype=torch.int64),
                meta(limits, queries, dtype=torch.float64),
                meta(limits, queries, dtype=torch.int64),
                *(meta(queries, 8 * width + 1, dtype=torch.int64) for _ in range(2)),
            )


DISTANCES = [(99, 999), (1_024, 2**30), (2**20, 2**16)]


def distances() -> None:
    for words, (queries, gallery) in itertools.product((1, 2, 3, 128), DISTANCES):
        found = meta(queries, gallery, dtype=torch.int32)
        hamming_distance.hamming_distance(_codes(queries, words), _codes(gallery, words), found)


PACKINGS = [(999, 70), (2**30, 64), (2**22, 4_096)]


def packing() -> None:
    dtypes = (*_FLOATS, torch.float64, torch.int8, torch.bool)  # dtypes that the op accepts
    for dtype, (rows, bits) in itertools.product(dtypes, PACKINGS):
        packed = meta(rows, -(-bits // 8), dtype=torch.uint8)
        pack_codes.pack_codes(meta(rows, bits, dtype=dtype), 0.0, packed)
        pack_codes.pack_codes(meta(bits, rows, dtype=dtype).T, 0.0, packed)
        pack_codes.unpack_codes(packed, meta(rows, bits, dtype=torch.int8))


ROTATION_BITS = [8, 16, 17, 32, 50, 64, 100, 128, 300, 512, 2_048, 4_096]
ROTATED_ROWS = [60, 1_000, 2**22]


def rotations() -> None:
    for bits, rows, dtype in itertools.product(ROTATION_BITS, ROTATED_ROWS, _FLOATS):
        x, matrix = meta(rows, bits, dtype=dtype), meta(bits, bits)
        householder.apply(x, matrix, dtype)
        householder.apply(x, matrix.T, dtype)
        householder.outer(x, x, torch.float32)


VECTORS = [(1, 7), (20, 64), (4_096, 4_096)]


def reflections() -> None:
    for (count, bits), dtype in itertools.product(VECTORS, (*_FLOATS, torch.float64)):
        vectors = meta(count, bits, dtype=dtype)
        found, factor = householder.reflectors(vectors)
        householder.reflectors(meta(bits, count, dtype=dtype).T)
        householder.vectors_gradient(torch.empty_like(found), found, factor, dtype)


MEANS = [100, 2**30]


def means() -> None:
    for rows, labelled in itertools.product(MEANS, (torch.int64, torch.bool, torch.float32)):
        mean.labelled_mean(meta(rows), meta(rows, dtype=labelled), -100)


NORMALISED = list(itertools.product((250, 2**22), (50, 64, 2_048)))


def normalisation() -> None:
    for dtype, (rows, bits), affine in itertools.product(_FLOATS, NORMALISED, (False, True)):
        latent, column = meta(rows, bits, dtype=dtype), meta(bits)
        batch_norm.statistics(latent, 1, 1e-5)
        for upstream in (None, meta(), meta(rows)):
            batch_norm.sums(meta(rows, bits), upstream, latent, column, column)
            weight = column if affine else None
            batch_norm.input_gradient(meta(rows, bits), upstream, latent, column, column, weight, column, column, 0.5)


# Every BLOCK_K, with numbers of bits that fill it and that do not, and with one and several chunks of classes.
LOSS_BITS = [8, 32, 33, 64, 100, 128, 129, 256, 400, 512, 513, 600, 2_048, 4_096]
LOSS_SHAPES = [(256, 64), (256, 100), (100, 5_001), (256, 100_000), (2**20, 1_000), (1, 2**23), (2, 10**9)]
LOSS_KINDS = ["ids", "dense", "sparse"]
# The dtype of the latents, and how many of mean, 1 / deviation, weight and bias there are (all pairs); angular margin, label
# smoothing, and whether the gradients of the loss and of the log-sum-exp are needed (all pairs).
LOSS_OPTIONS = [
    (torch.float32, 0, False, 0.0, True, False),
    (torch.float32, 2, True, 0.0, True, False),
    (torch.float32, 4, False, 0.1, True, False),
    (torch.bfloat16, 0, True, 0.1, True, False),
    (torch.bfloat16, 2, False, 0.0, True, False),
    (torch.bfloat16, 4, True, 0.0, True, False),
    (torch.float16, 0, False, 0.1, True, False),
    (torch.float16, 2, True, 0.1, True, False),
    (torch.float16, 4, False, 0.0, True, False),
    (torch.float32, 4, True, 0.1, True, True),
    (torch.bfloat16, 2, False, 0.1, False, True),
    (torch.float16, 0, True, 0.0, False, False),
]


def losses() -> None:
    for bits, shape, kind, p_terms, options in itertools.product(LOSS_BITS, LOSS_SHAPES, LOSS_KINDS, (1, 2), LOSS_OPTIONS):
        run_loss(bits, *shape, kind, p_terms, *options)


def run_loss(
    bits: int, rows: int, classes: int, kind: str, p_terms: int, dtype: torch.dtype, norms: int,
    angular: bool, label_smoothing: float, need_grad: bool, need_lse_grad: bool,
) -> None:  # fmt: skip
    columns = values = None
    target = meta(rows, dtype=torch.int64)
    if kind == "dense":
        target = meta(rows, classes)
    if kind == "sparse":
        target, columns, values = meta(rows + 1, dtype=torch.int64), meta(3 * rows, dtype=torch.int64), meta(3 * rows)
    norm = [meta(bits) if i < norms else None for i in range(4)]
    codes = cosine_codebook_loss.Prepared(meta(classes, (bits + 31) // 32, dtype=torch.int32), meta(bits))
    cosine_codebook_loss.cosine_codebook_loss(
        meta(rows, bits, dtype=dtype), *norm, target, columns, values, codes,
        meta(rows), meta(rows), meta(rows, bits), meta(rows, bits),
        p_terms=p_terms, scale=bits**0.5 / 2, margin=0.2, angular=angular, label_smoothing=label_smoothing, ignore_index=-100,
        need_grad=need_grad, need_lse_grad=need_lse_grad,
    )  # fmt: skip


PAIRWISE_BITS = [8, 16, 17, 32, 64, 65, 100, 128, 200, 256, 512, 2_048, 4_096]
PAIRWISE_KINDS = ["ids", "any", "jaccard", "squared_cosine"]
PAIRWISE_SHAPES = [(100, 999), (256, 100_000), (1_024, 2**22)]
PAIRWISE_CLASSES = 70
PAIRWISE_PASSES = ["loss", "rows", "columns"]


def pairwise() -> None:
    for bits, kind, shape, pass_ in itertools.product(PAIRWISE_BITS, PAIRWISE_KINDS, PAIRWISE_SHAPES, PAIRWISE_PASSES):
        run_pairwise(bits, *shape, kind, pass_)
    for (rows, columns), dtype in itertools.product(PAIRWISE_SHAPES, (torch.bool, torch.int64)):
        run_pairwise(64, rows, columns, "any", "rows", dtype)


def run_pairwise(bits: int, rows: int, columns: int, kind: str, pass_: str, dtype: torch.dtype = torch.float32) -> None:
    """Run the launcher of a pass: the "loss", the loss and the gradient of the "rows", or the gradient of the "columns"."""
    options: dict[str, Any] = dict(alpha=0.5, positive_weight=None, balanced=True, ignore_index=-100)
    options["similarity"] = "any" if kind == "ids" else kind
    z, target = meta(columns, bits), _pairwise_target(columns, kind, dtype)
    bank, bank_target = meta(rows, bits), _pairwise_target(rows, kind, dtype)
    if pass_ == "columns":
        pairwise_likelihood_loss.column_gradient(z, target, bank, bank_target, meta(columns), meta(3), **options)
    else:
        need_grad = pass_ == "rows"
        pairwise_likelihood_loss.loss_and_gradient(bank, bank_target, z, target, reduction="mean", need_grad=need_grad, **options)


def _pairwise_target(rows: int, kind: str, dtype: torch.dtype) -> torch.Tensor:
    return meta(rows, dtype=torch.int64) if kind == "ids" else meta(rows, PAIRWISE_CLASSES, dtype=dtype)


FAMILIES = {
    "training": [losses, normalisation, means, pairwise, rotations, reflections],
    "search": [searches, ranges, filed, joins, histograms, rankings, distances, packing],
}
