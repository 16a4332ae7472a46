"""Construction and distances of codebooks, without a [C, C] matrix."""

import numpy as np

from ._bits import compiled, load_block, popcount
from ._ranges import over_ranges

_BLOCK = 256  # codes whose distances are computed together: the buffer stays in the first-level cache


@compiled
def _nearest_in_block(code, planes, start, stop, distances):
    """Return the smallest distance from `code` [W] to the codes [start, stop) of `planes` [W, C], at most _BLOCK of them."""
    for j in range(stop - start):
        distances[j] = 0
    for word in range(code.size):
        plane = planes[word, start:stop]
        for j in range(plane.size):
            distances[j] += popcount(plane[j] ^ code[word])
    nearest = distances[0]
    for j in range(1, stop - start):
        nearest = min(nearest, distances[j])
    return nearest


@compiled
def extend_far_codes(candidates, planes, count, min_distance, patience):
    """Append each candidate whose distance to all rows so far is at least `min_distance`: the greedy search of OrthoHash.

    candidates: uint64 [M, W], tried in order; planes: uint64 [W, C], a column per row of the codebook, filled from column
    `count` on. The search ends without further candidates, with a full codebook, or after `patience` rejections.

    Returns (count, tried, rejected).
    """
    distances = np.empty(_BLOCK, dtype=np.int64)
    tried = 0
    rejected = 0
    while tried < candidates.shape[0] and count < planes.shape[1] and rejected < patience:
        candidate = candidates[tried]
        tried += 1
        if _is_far(candidate, planes, count, min_distance, distances):
            for word in range(candidate.size):
                planes[word, count] = candidate[word]
            count += 1
        else:
            rejected += 1
    return count, tried, rejected


@compiled
def _is_far(code, planes, count, min_distance, distances):
    """Return whether `code` is at least `min_distance` from the first `count` codes."""
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        if _nearest_in_block(code, planes, start, stop, distances) < min_distance:
            return False
    return True


@compiled
def _min_distances(planes, start, stop, nearest):
    """Fill nearest[i] with the smallest distance from code i to a later code, for i in [start, stop)."""
    distances = np.empty(_BLOCK, dtype=np.int64)
    for row in range(start, stop):
        code = planes[:, row].copy()
        for block in range(row + 1, planes.shape[1], _BLOCK):
            end = min(block + _BLOCK, planes.shape[1])
            nearest[row] = min(nearest[row], _nearest_in_block(code, planes, block, end, distances))


def min_distance(codes: np.ndarray) -> int:
    """Return the smallest Hamming distance between two rows of packed codes, uint8 [C, B] with C of at least 2."""
    count, width = codes.shape
    planes = np.empty((-(-width // 8), count), dtype=np.uint64)
    load_block(codes, 0, count, planes)
    nearest = np.full(count, 8 * width, dtype=np.int64)
    # A row is compared with later rows only, so the first ranges take longest; several ranges per thread balance the work.
    over_ranges(lambda start, stop: _min_distances(planes, start, stop, nearest), count, parts_per_thread=16)
    return int(nearest.min())


_GOLDEN_RATIO = (1 + 5**0.5) / 2


@compiled
def box_admm(rows, columns, inverse, own, sum_of_others, max_product, x):
    """Find a vector of +-1 far from others: minimise <x, sum_of_others> with <x, row> <= max_product for every row but `own`.

    The lp-box ADMM of MDS with the constants of its released code: x = a = b with a in the box [-1, 1]^K and b on the sphere of
    radius sqrt(K), and slacks for the rows. rows: float64 [C, K]; columns: its transpose, contiguous; inverse: of
    2 I + rows^T rows without row `own`, [K, K]; x: float64 [K], the start, overwritten by the result, which is not rounded to
    +-1.
    """
    count, bits = rows.shape
    target = np.empty(bits)
    box, sphere = np.empty(bits), np.empty(bits)
    box_dual, sphere_dual = np.zeros(bits), np.zeros(bits)
    slack, slack_dual, products = np.zeros(count), np.zeros(count), np.empty(count)
    _multiply(columns, x, products)
    penalty = 1e-5
    while penalty < 1e7:
        for _ in range(10):
            length = 0.0
            for k in range(bits):
                box[k] = min(1.0, max(-1.0, x[k] + box_dual[k] / penalty))
                sphere[k] = x[k] + sphere_dual[k] / penalty
                length += sphere[k] * sphere[k]
            shrink = np.sqrt(bits / max(length, 1e-300))
            for k in range(bits):
                sphere[k] *= shrink
                target[k] = box[k] + sphere[k] - (box_dual[k] + sphere_dual[k] + sum_of_others[k]) / penalty
            for c in range(count):
                slack[c] = max(0.0, max_product - products[c] - slack_dual[c] / penalty)
                if c != own:
                    weight = max_product - slack[c] - slack_dual[c] / penalty
                    for k in range(bits):
                        target[k] += weight * rows[c, k]
            _multiply(inverse, target, x)
            _multiply(columns, x, products)
            widest = 0.0
            step = _GOLDEN_RATIO * penalty
            for k in range(bits):
                box_dual[k] += step * (x[k] - box[k])
                sphere_dual[k] += step * (x[k] - sphere[k])
                widest = max(widest, abs(x[k] - box[k]), abs(x[k] - sphere[k]))
            for c in range(count):
                slack_dual[c] += step * (products[c] + slack[c] - max_product)
        if widest < 1e-6:
            return
        penalty *= 1.09


@compiled
def _multiply(columns, x, out):
    """Fill `out` [M] with the sum of the rows of `columns` [K, M] times x [K]."""
    out[:] = 0.0
    for k in range(x.size):
        for c in range(out.size):
            out[c] += x[k] * columns[k, c]
