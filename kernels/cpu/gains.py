"""Sums of the gains of relevant items along rankings of packed codes on a CPU, from the ranks of _ranks.py.

The grade of an item is the number of classes that it shares with the query where labels are sets, otherwise 1 if it has the
query's class and 0 if not.
"""

import numpy as np

from ._bits import compiled, popcount
from ._ranges import over_ranges
from ._ranks import ITEMS, fill_nearer, lay_out_gallery, lay_out_queries, ranked_batches, sum_lanes
from ._sliced import LANES, STEP


def ranked_gains(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_labels: np.ndarray,
    gallery_labels: np.ndarray,
    shared: bool,
    ks: np.ndarray,
    gains: np.ndarray,
    discounts: np.ndarray,
    discounted: np.ndarray,
    gained: np.ndarray,
    counts: np.ndarray,
    sums: np.ndarray,
    grades: np.ndarray,
) -> None:
    """Rank the gallery for each query in the order (distance, row), and fill in the sums for metrics of graded relevance.

    ks: int64 [L], ranks that count; gains: float64 [G+1], one per grade, 0 for grade 0; discounts: float64 [max(ks)], of each
    rank. discounted, gained: float64 [L, Q], the gains at the first k ranks, summed with their discount and without. counts:
    int64 [Q, K+1], items at each distance; sums: float64 [Q, K+1], their gains; grades: int64 [Q, G+1], items of each grade.
    """
    laid_queries = lay_out_queries(queries, query_labels)
    laid_gallery = lay_out_gallery(gallery, gallery_labels, shared)

    def run(start: int, stop: int) -> None:
        """Fill the results of the queries start .. stop - 1."""
        for batch in ranked_batches(laid_queries, laid_gallery, start, stop):
            ranked = (batch.counts, batch.relevant, batch.notes, batch.places, batch.first_notes)
            graded = (
                batch.lists,
                batch.starts,
                batch.entries,
                laid_queries.labels[batch.start : batch.stop],
                laid_gallery.labels,
            )
            order = laid_queries.order[batch.start : batch.stop]
            results = (discounted, gained, counts, sums, grades)
            _sum_batch(*ranked, *graded, shared, len(gallery), order, ks, gains, discounts, *results)

    over_ranges(run, len(queries))


@compiled
def _sum_batch(
    counters,
    relevant_counters,
    notes,
    places,
    first_notes,
    lists,
    starts,
    entries,
    query_labels,
    labels,
    shared,
    gallery,
    order,
    ks,
    gains,
    discounts,
    discounted,
    gained,
    counts,
    sums,
    grades,
):
    """Sum gains and count items for the queries of one batch; see `ranked_gains`."""
    nearer = np.empty(counters.shape[1], np.uint64)
    found = np.ones(gallery, np.int32)
    for i in range(order.size):
        q, begin, end = order[i], first_notes[i], first_notes[i + 1]
        fill_nearer(counters[i], relevant_counters[i], nearer)
        if shared:
            _fill_grades(query_labels[i], labels, starts[lists[i]], entries, found)
        for j in range(ks.size):
            discounted[j, q], gained[j, q] = _gain_sums(
                notes[begin:end], places[begin:end], nearer, found, ks[j], gains, discounts
            )
        for distance in range(counts.shape[1]):
            counts[q, distance] = sum_lanes(counters[i], distance)
        sums[q] = 0.0
        grades[q] = 0
        grades[q, 0] = gallery - (end - begin)
        for note in range(end - begin):
            sums[q, places[begin + note] // LANES] += gains[found[note]]
            grades[q, found[note]] += 1


@compiled
def _fill_grades(query_labels, labels, starts, entries, found):
    """Fill `found` with the grade of each relevant item of a query."""
    for step in range(starts.size - 1):
        for entry in range(starts[step], starts[step + 1]):
            grade = 0
            for word in range(query_labels.size):
                grade += popcount(labels[word, step * STEP + entries[entry]] & query_labels[word])
            found[entry - starts[0]] = grade


@compiled
def _gain_sums(notes, places, nearer, found, k, gains, discounts):
    discounted = 0.0
    gained = 0.0
    for note in range(notes.size):
        items = np.int64((notes[note] + nearer[places[note]]) & ITEMS)
        if items < k:
            gain = gains[found[note]]
            discounted += gain * discounts[items]
            gained += gain
    return discounted, gained
