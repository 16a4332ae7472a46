"""Tests of galleries that are searched chunk by chunk."""

import random
import types
from collections import deque
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orthohash_triton import hamming_range, hamming_topk
from orthohash_triton.search import streaming
from orthohash_triton.search.streaming import nearest_streamed, range_streamed

FAR = 2**31 - 1


def codes(count, width=8, seed=0, values=256):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, values, (count, width), dtype=np.uint8))


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 40),
    queries=st.integers(0, 4),
    width=st.sampled_from([1, 3, 8]),
    values=st.sampled_from([1, 2, 256]),  # one value: all codes tie
    k=st.integers(1, 45),
    chunk=st.integers(5, 200),
    masked=st.booleans(),
)
def test_chunks_answer_as_one_piece(count, queries, width, values, k, chunk, masked):
    gallery, asked = codes(count, width, values=values), codes(queries, width, 1, values)
    mask = torch.from_numpy(np.random.default_rng(2).random(count) < 0.5) if masked else None
    expected = hamming_topk(asked, gallery, k, mask=mask)
    for ours, right in zip(nearest_streamed(asked, gallery, k, mask=mask, chunk_bytes=chunk), expected, strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=0)
    radius = torch.arange(queries) * 3
    expected = hamming_range(asked, gallery, radius, mask=mask)
    answer = range_streamed(asked, gallery, radius, inclusive=False, mask=mask, chunk_bytes=chunk)
    for ours, right in zip(answer, expected, strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=0)


def test_the_farthest_code_of_a_query_comes_before_the_nearest_of_the_next():
    """The distance of a code and its complement is the number of bits, the largest there is."""
    gallery = torch.tensor([[255], [0]], dtype=torch.uint8)
    lims, distances, ids = range_streamed(gallery, gallery, 8, inclusive=True, chunk_bytes=1)
    assert (lims.tolist(), distances.tolist(), ids.tolist()) == ([0, 2, 4], [0, 8, 0, 8], [0, 1, 1, 0])


@pytest.mark.kernel
def test_kernels_search_chunks(device, monkeypatch):
    monkeypatch.setenv("ORTHOHASH_IMPL", "triton")
    gallery, queries = codes(70), codes(3, seed=1)
    gallery[50:60] = gallery[:10]  # ties across chunks
    queries[0] = gallery[3]
    mask = torch.arange(70) % 3 > 0
    expected = hamming_topk(queries, gallery, 20, mask=mask, impl="reference")
    answer = nearest_streamed(queries.to(device), gallery, 20, mask=mask, chunk_bytes=8 * 32)
    for ours, right in zip(answer, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), right, rtol=0, atol=0)
    expected = hamming_range(queries, gallery, 28, inclusive=True, mask=mask, impl="reference")
    answer = range_streamed(queries.to(device), gallery, 28, inclusive=True, mask=mask, chunk_bytes=8 * 32)
    for ours, right in zip(answer, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), right, rtol=0, atol=0)


def test_later_chunks_are_searched_below_what_is_held(monkeypatch):
    limits = []
    nearest = streaming.nearest

    def spy(queries, gallery, k, **options):
        limits.append(options["limits"])
        return nearest(queries, gallery, k, **options)

    monkeypatch.setattr(streaming, "nearest", spy)
    gallery, queries = codes(9), codes(2, seed=1)
    nearest_streamed(queries, gallery, 4, chunk_bytes=8 * 3)
    assert limits[0] is None
    assert limits[1].tolist() == [FAR, FAR]  # three codes do not fill an answer of four
    assert limits[2].tolist() == hamming_topk(queries, gallery[:6], 4)[0][:, -1].tolist()


# A simulated machine whose streams run at random times after the host, to test the synchronisation.


class Machine:
    """Simulated streams of queued work, each in order, that advance at random between the steps of the host."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.streams = []
        self.current = self.stream()
        self.slow = self.chance.choice([None, 0, 1, 2])  # a stream that advances only when something waits for it

    def stream(self, device=None):
        stream = types.SimpleNamespace(work=deque())
        stream.wait_event = lambda event: self.wait(stream, event)
        self.streams.append(stream)
        return stream

    def wait(self, stream, event):
        ticket = event.ticket
        stream.work.append(lambda: ticket["done"])

    def queue(self, stream, action):
        def work():
            action()
            return True

        stream.work.append(work)
        self.idle()

    def idle(self):
        for _ in range(self.chance.randrange(6)):
            stream = self.chance.choice(self.streams)
            if self.streams.index(stream) != self.slow:
                self.step(stream)

    def step(self, stream):
        if stream.work and stream.work[0]():
            stream.work.popleft()

    def finish(self, until=lambda: False):
        while not until() and any(stream.work for stream in self.streams):
            for stream in self.streams:
                self.step(stream)

    def event(self):
        event = types.SimpleNamespace(ticket={"done": True})

        def record(stream=None):
            event.ticket = ticket = {"done": False}
            self.queue(stream or self.current, lambda: ticket.update(done=True))

        def synchronize():
            ticket = event.ticket
            self.finish(lambda: ticket["done"])

        event.record, event.synchronize = record, synchronize
        return event

    @contextmanager
    def on(self, stream):
        previous, self.current = self.current, stream
        yield
        self.current = previous

    def torch(self):
        """Return the parts of torch that the lanes use."""
        cuda = types.SimpleNamespace(
            Stream=self.stream, Event=self.event, stream=self.on, current_stream=lambda device: self.current
        )
        return types.SimpleNamespace(empty=self.memory, cuda=cuda)

    def memory(self, shape, dtype, device="pinned", pin_memory=False):
        """Return memory. On the device it was just released, and work in the queue still writes to it."""
        array = np.full(shape, 99)
        if not pin_memory:
            self.queue(self.current, lambda: array.fill(77))
        return Memory(self, array, pin_memory)


class Memory:
    """An array into which simulated streams copy."""

    dtype = device = None

    def __init__(self, machine, array, pinned=False):
        self.machine, self.array, self.pinned, self.shape = machine, array, pinned, array.shape

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        return Memory(self.machine, self.array[rows], self.pinned)

    def is_pinned(self):
        return self.pinned

    def record_stream(self, stream):
        assert stream in self.machine.streams

    def copy_(self, source, non_blocking=False):
        def copy():
            self.array[...] = source.array

        if non_blocking:
            self.machine.queue(self.machine.current, copy)
        else:
            copy()
        return self


@pytest.mark.parametrize("pinned", [False, True])
def test_transfers_wait_for_what_they_need_and_nothing_is_overwritten(monkeypatch, pinned):
    for seed in range(150):
        machine = Machine(seed)
        monkeypatch.setattr(streaming, "torch", machine.torch())
        data = np.arange(7 * 4).reshape(14, 2)
        parts = [(start, Memory(machine, data[start : start + 3], pinned)) for start in range(0, 14, 3)]
        lanes = [streaming._Lane(parts[0][1], None) for _ in range(2)]
        searched = np.zeros_like(data)
        for start, chunk in streaming.transferred(parts, lanes, None):
            machine.queue(machine.current, partial(np.copyto, searched[start : start + 3], chunk.array))
            machine.idle()
        machine.finish()
        np.testing.assert_array_equal(searched, data, err_msg=f"seed {seed}")


def test_the_next_chunk_is_under_way_while_one_is_searched():
    sent = []
    lanes = [types.SimpleNamespace(send=sent.append, receive=lambda: None, release=lambda: None) for _ in range(2)]
    parts = [(i, i) for i in range(4)]
    assert [(start, len(sent)) for start, _ in streaming.transferred(parts, lanes, None)] == [(0, 2), (1, 3), (2, 4), (3, 4)]
