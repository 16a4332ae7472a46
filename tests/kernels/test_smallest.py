"""Tests of the selection of the k smallest integers of each row, against a stable sort."""

import pytest
import torch

pytest.importorskip("triton")

from orthohash_triton.kernels import _smallest

LARGEST = 65
MISSING = 2**31 - 1, -1

# Rows that need one program, with an incomplete block; several programs; one after several launches; and all values of a row.
ROWS = {"a part": (700, 7), "one value": (900, 1), "parts": (9000, 40), "many parts": (13_000, 1000), "levels": (40_000, 1000),
        "all": (1024, 1024)}  # fmt: skip


def few_values(count: int, values: int, device: torch.device) -> torch.Tensor:
    """Return three rows with many ties. All values of the first row are equal."""
    rows = torch.randint(0, values, (3, count), dtype=torch.int16, device=device)
    rows[0] = values - 1
    return rows


def smallest(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values and positions of the k smallest, in ascending order; equal values are ordered by position."""
    ordered, places = values.int().sort(dim=1, stable=True)
    return ordered[:, :k], places[:, :k]


@pytest.fixture
def scale(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> int:
    """Without a GPU, let a program hold an eighth of the values, because the interpreter sorts a thousand in seconds."""
    factor = 1 if device.type == "cuda" else 8
    for name in ("HELD", "ORDERED", "_VALUES_PER_WARP"):
        monkeypatch.setattr(_smallest, name, getattr(_smallest, name) // factor)
    return factor


@pytest.mark.kernel
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("values", [3, LARGEST + 1])
def test_nearest_first(rows, values, scale, device):
    (count, k), span = (-(-size // scale) for size in ROWS[rows]), 2048 // scale
    row = few_values(count, values, device)
    chosen = (torch.randint(1, 9, (3, k), device=device).cumsum(1) + 2**30).int()
    limits = torch.tensor([LARGEST, 2, 2**31 - 1], dtype=torch.int32, device=device)
    ordered, places = smallest(row, k)
    ids = chosen.gather(1, places // span).long() * span + places % span
    left = _smallest.candidates(row, LARGEST, k)
    assert left.shape[1] <= _smallest.HELD
    for limit in (None, limits):
        found = ordered < (LARGEST if limit is None else limit.clamp(max=LARGEST)[:, None])
        distances, positions = torch.empty_like(chosen), torch.empty_like(ids)
        _smallest.nearest_first(left, LARGEST, chosen, span, limit, distances, positions)
        assert torch.equal(distances, torch.where(found, ordered, MISSING[0]))
        assert torch.equal(positions, torch.where(found, ids, MISSING[1]))


@pytest.mark.kernel
@pytest.mark.parametrize("k", [1, 300, 5000])
def test_first_smallest(k, device):
    row = few_values(5000, 20, device)
    places, found = (torch.empty(3, k, dtype=dtype, device=device) for dtype in (torch.int32, torch.int16))
    _smallest.first_smallest(row, LARGEST, places, found)
    expected = smallest(row, k)[1].sort(dim=1).values
    assert torch.equal(places, expected.int())
    assert torch.equal(found, row.gather(1, expected))


def test_keys_of_32_bits():
    """A key holds a slot and a distance up to the largest one plus 1; otherwise torch sorts."""
    assert _smallest.ordered_at_once(1024, 2**21 - 3)
    assert not _smallest.ordered_at_once(1024, 2**21 - 2)
    assert not _smallest.ordered_at_once(513, 2**21)
    assert _smallest.ordered_at_once(512, 2**21)
    assert not _smallest.ordered_at_once(1025, 64)


@pytest.mark.parametrize(("count", "k"), [(100, 3), (4096, 1000), (4097, 1), (10**6, 1024)])
def test_bytes(count, k, monkeypatch):
    """The memory that a search plans with is at least the memory allocated at a time, which holds the answers of two launches."""
    allocated = []

    def allocate(_, *shape, dtype):
        allocated.append(dtype.itemsize * shape[1])
        return torch.empty(shape, dtype=dtype, device="meta")

    monkeypatch.setattr(torch.Tensor, "new_empty", allocate)
    monkeypatch.setattr(_smallest, "launch", lambda *args, **kwargs: None)
    left = _smallest.candidates(torch.empty(1, count, dtype=torch.int16, device="meta"), LARGEST, k)
    assert left.shape[1] <= _smallest.HELD
    assert sum(allocated[:2]) <= _smallest.candidate_bytes(count, k)
