"""Search, chunk by chunk, of a gallery that is not on the searching device; results equal those of a search of it as a whole.

Each chunk is searched only below the largest distance of the current answer, so that later chunks reject nearly all codes at
once. Chunks come in the order of positions, so at equal distances the codes found earlier come first.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..ops.hamming_range import hamming_range
from ..ops.hamming_topk import MISSING_ID, nearest

# The transfer of 64 MiB over PCIe takes 1 to 3 ms: much longer than a kernel launch (about 10 us), and much shorter than the
# search of a gallery that does not fit a GPU. Four buffers of this size (two pinned, two on the device) are a small part of
# either memory.
CHUNK_BYTES = 2**26

Check = Callable[[], None]


def nearest_streamed(
    queries: Tensor,
    gallery: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    limits: Tensor | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    check: Check | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the k nearest codes, as `nearest` does, for a gallery and a mask in host memory or in a file.

    The result is on the device of the queries. `check` is called before each chunk is read.
    """
    held: tuple[Tensor, Tensor] | None = None
    for start, chunk in chunks(gallery, queries.device, chunk_bytes, check):
        if held is not None:
            reached = held[0][:, -1].contiguous()
            limits = reached if limits is None else torch.minimum(limits, reached)
        found = nearest(queries, chunk, k, mask=_part(mask, start, chunk), limits=limits)
        held = found if held is None else merged_nearest(held, found, start)
    assert held is not None  # there is at least one chunk, because an empty gallery gives one empty chunk
    return held


def range_streamed(
    queries: Tensor,
    gallery: Tensor,
    radius: int | Tensor,
    *,
    inclusive: bool,
    mask: Tensor | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    check: Check | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return all codes within a radius, as `hamming_range` does, for a gallery and a mask in host memory or in a file.

    The result is on the device of the queries. `check` is called before each chunk is read.
    """
    found = []
    for start, chunk in chunks(gallery, queries.device, chunk_bytes, check):
        lims, near, positions = hamming_range(queries, chunk, radius, inclusive=inclusive, mask=_part(mask, start, chunk))
        found.append((lims, near, positions + start if start else positions))
    return merged_ranges(found, 8 * gallery.shape[1])


def merged_ranges(found: Sequence[tuple[Tensor, Tensor, Tensor]], bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Merge answers (lims, distances, positions) of `hamming_range` for the same queries of `bits` bits.

    The positions that a query finds in one answer are smaller than those that it finds in the next one.
    """
    if len(found) == 1:
        return found[0]
    counts = [lims.diff() for lims, _, _ in found]
    rows = torch.arange(len(counts[0]), device=counts[0].device)
    owner = torch.cat([rows.repeat_interleave(count) for count in counts])
    distance = torch.cat([near for _, near, _ in found])
    order = torch.argsort(owner * (bits + 1) + distance, stable=True)
    lims = torch.cat([rows.new_zeros(1), torch.stack(counts).sum(0).cumsum(0)])
    return lims, distance[order], torch.cat([positions for _, _, positions in found])[order]


def chunks(gallery: Tensor, device: torch.device, chunk_bytes: int, check: Check | None) -> Iterator[tuple[int, Tensor]]:
    """Yield the position of the first code and the codes on `device`, for each chunk.

    The memory of a chunk is used again when the next chunk is requested. An empty gallery gives one empty chunk.
    """
    rows = max(1, chunk_bytes // gallery.shape[1])
    starts = range(0, max(len(gallery), 1), rows)
    if device == gallery.device or len(gallery) == 0:
        for start in starts:
            if check is not None:
                check()
            yield start, gallery[start : start + rows].to(device)
        return
    parts = [(start, gallery[start : start + rows]) for start in starts]
    yield from transferred(parts, [_Lane(parts[0][1], device) for _ in parts[:2]], check)


def transferred(parts: list[tuple[int, Tensor]], lanes: list[Any], check: Check | None) -> Iterator[tuple[int, Tensor]]:
    """Yield `parts` after their transfer through two `lanes` in turn: one part is searched while the next is transferred."""
    _send(parts, lanes, 0, check)
    for turn, (start, _) in enumerate(parts):
        _send(parts, lanes, turn + 1, check)
        lane = lanes[turn % 2]
        yield start, lane.receive()
        lane.release()


def _send(parts: list[tuple[int, Tensor]], lanes: list[Any], turn: int, check: Check | None) -> None:
    if turn < len(parts):
        if check is not None:
            check()
        lanes[turn % 2].send(parts[turn][1])


class _Lane:
    """A pinned host buffer, a stream and a buffer on the GPU, through which one chunk at a time is transferred.

    A gallery that is in pinned memory already is copied without the host buffer.
    """

    def __init__(self, largest: Tensor, device: torch.device) -> None:
        self._staging = None if largest.is_pinned() else torch.empty(largest.shape, dtype=largest.dtype, pin_memory=True)
        self._place = torch.empty(largest.shape, dtype=largest.dtype, device=device)
        self._stream = torch.cuda.Stream(device)
        self._place.record_stream(self._stream)
        self._sent, self._searched = torch.cuda.Event(), torch.cuda.Event()
        self.release()  # earlier work on the device may still use the memory of this buffer

    def send(self, part: Tensor) -> None:
        """Start to copy `part` after the search of the previous chunk in this lane has ended."""
        self._part = self._place[: len(part)]
        if self._staging is not None:
            self._sent.synchronize()
            part = self._staging[: len(part)].copy_(part)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._searched)
            self._part.copy_(part, non_blocking=True)
            self._sent.record()

    def receive(self) -> Tensor:
        """Return the chunk. Work on the GPU that is queued after this call waits for its transfer."""
        torch.cuda.current_stream(self._place.device).wait_event(self._sent)
        return self._part

    def release(self) -> None:
        """Let the next transfer start after all work that has been queued on the GPU until now."""
        self._searched.record(torch.cuda.current_stream(self._place.device))


def _part(mask: Tensor | None, start: int, chunk: Tensor) -> Tensor | None:
    return None if mask is None else mask[start : start + len(chunk)].to(chunk.device)


def merged_nearest(held: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor], start: int) -> tuple[Tensor, Tensor]:
    """Merge two answers, [Q, k] each: `held` has smaller positions, and the positions in `found` count from `start`."""
    k = held[0].shape[1]
    ids = torch.where(found[1] < 0, MISSING_ID, found[1] + start)
    distances, order = torch.sort(torch.cat([held[0], found[0]], dim=1), dim=1, stable=True)
    return distances[:, :k], torch.cat([held[1], ids], dim=1).gather(1, order[:, :k])
