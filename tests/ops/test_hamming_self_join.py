import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orthohash_triton.ops.hamming_self_join import hamming_self_join
from orthohash_triton.search import near_duplicates
from tests.ops.test_hamming_topk import near_codes, random_codes, threads


def equal_codes(count, width, device="cpu"):
    return random_codes(1, width, device).expand(count, -1)


def few_codes(count, width, device="cpu"):
    """Return codes most of which occur several times."""
    return random_codes(9, width, device)[torch.randint(0, 9, (count,), device=device)]


def planted_codes(count, width, device="cpu"):
    """Return random codes, a tenth of them with a few bits of another one flipped."""
    codes = random_codes(count, width, device)
    copies, count = count // 10, max(count, 1)
    flips = torch.zeros(copies, width, dtype=torch.uint8, device=device)
    for _ in range(3):
        flips[torch.arange(copies), torch.randint(0, width, (copies,))] ^= 1 << torch.randint(0, 8, (1,), device=device).byte()
    codes[:copies] = codes[torch.randint(0, count, (copies,), device=device)] ^ flips
    return codes


KINDS = [random_codes, near_codes, equal_codes, few_codes, planted_codes]


def check(codes, radius, *, inclusive=True, impl="cpu"):
    answer = hamming_self_join(codes, radius, inclusive=inclusive, impl=impl)
    expected = hamming_self_join(codes, radius, inclusive=inclusive, impl="reference")
    for ours, right in zip(answer, expected, strict=True):
        assert ours.dtype == right.dtype
        assert torch.equal(ours, right)
    return answer


def check_groups(codes, radius, impl="cpu"):
    groups = near_duplicates(codes, radius, impl=impl)
    assert torch.equal(groups, near_duplicates(codes, radius, impl="reference"))
    return groups


@pytest.fixture
def costs(request, monkeypatch):
    """Give the steps of the join costs that make every table, or the comparison of every pair, worth its while."""
    if request.param is not None:
        from orthohash_triton.kernels._substrings import Costs
        from orthohash_triton.kernels.cpu import _near_entries

        monkeypatch.setattr(_near_entries, "_COSTS", Costs(*request.param))


# What the machine would choose, one substring, several substrings, and every pair.
PLANS = {"chosen": None, "one substring": (1e-3, 1e-3, 1e6), "several": (1e-6, 1e3, 1e9), "every pair": (1e9, 1e9, 1e-3)}
every_plan = pytest.mark.parametrize("costs", PLANS.values(), ids=PLANS, indirect=True)


def test_reference_by_hand():
    codes = torch.tensor([[0b0011], [0b1111], [0b0111], [0b0011], [0b10000000]], dtype=torch.uint8)

    def answer(radius, **options):
        return [part.tolist() for part in hamming_self_join(codes, radius, impl="reference", **options)]

    assert answer(1) == [[[0, 2], [0, 3], [1, 2], [2, 3]], [1, 0, 1, 1]]
    assert answer(1, inclusive=False) == answer(0) == [[[0, 3]], [0]]
    assert answer(2) == [[[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]], [2, 1, 0, 1, 2, 1]]
    assert answer(0, inclusive=False) == [[], []]
    assert len(answer(8)[0]) == 10
    assert near_duplicates(codes, 1, impl="reference").tolist() == [0, 0, 0, 0, 4]
    assert near_duplicates(codes, 0, impl="reference").tolist() == [0, 1, 2, 0, 4]


# Widths of one byte, of no whole word, one word, a word and a tail, several words, and 1,024 bits.
@every_plan
@pytest.mark.parametrize("width", [1, 3, 8, 9, 32, 128])
@pytest.mark.parametrize("make", KINDS)
def test_cpu(costs, make, width):
    codes = make(90, width)
    for radius in (0, 1, 2, width, 4 * width, 8 * width - 1, 8 * width, 2**70):
        check(codes, radius)
        check_groups(codes, radius)
    check(codes, 3, inclusive=False)
    assert len(check(codes, 8 * width)[0]) == 90 * 89 // 2


@every_plan
def test_runs_longer_than_a_tile(costs):
    """Runs of equal substrings are cut into tiles of 1,024 codes; the output is written in several chunks."""
    codes = near_codes(2200, 4)
    assert len(check(codes, 5)[0]) > 10_000
    check_groups(codes, 2)


@every_plan
@pytest.mark.parametrize("make", [near_codes, few_codes])
def test_full_chunks(costs, make, monkeypatch):
    """A chunk that is full is handed on in the middle of a run and of a tile."""
    from orthohash_triton.kernels.cpu import _near_entries

    monkeypatch.setattr(_near_entries, "CHUNK", _near_entries._TILE)
    codes = make(1500, 3)
    assert len(check(codes, 8)[0]) > 100_000


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_cpu_against_brute_force(data):
    width = data.draw(st.sampled_from([1, 2, 3, 7, 8, 9, 16, 31, 32, 64, 128]), "width")
    torch.manual_seed(data.draw(st.integers(0, 1000), "seed"))
    codes = data.draw(st.sampled_from(KINDS), "codes")(data.draw(st.integers(0, 200), "rows"), width)
    radius = data.draw(st.integers(0, 8 * width + 2) | st.integers(0, 6), "radius")
    with threads(data.draw(st.sampled_from([1, 2]), "threads")):
        check(codes, radius, inclusive=data.draw(st.booleans(), "inclusive"))
        check_groups(codes, radius)


@pytest.mark.parametrize("radius", [0, 2, 9, 16])
def test_planted_pairs_among_many(radius):
    """Random codes are far from each other, so that the join finds exactly the pairs that were planted."""
    codes = random_codes(30_000, 32)
    flips = torch.zeros(100, 32, dtype=torch.uint8)
    for bit in range(radius):
        flips[:, 2 * bit % 32] |= 1 << (bit * 2 // 32)
    codes[29_900:] = codes[100:200] ^ flips
    pairs, distances = hamming_self_join(codes, radius)
    assert torch.equal(pairs, torch.stack((torch.arange(100, 200), torch.arange(29_900, 30_000)), 1))
    assert (distances == radius).all()
    groups = torch.arange(30_000)
    groups[29_900:] = torch.arange(100, 200)
    assert torch.equal(near_duplicates(codes, radius), groups)


def test_thread_count_changes_nothing():
    codes = near_codes(4000, 8)
    answers = []
    for count in (1, 2, 3):
        with threads(count):
            answers.append((*hamming_self_join(codes, 6), near_duplicates(codes, 4)))
    assert len(answers[0][0]) > 1000
    for answer in answers[1:]:
        assert all(map(torch.equal, answers[0], answer))


def test_hashes_that_collide(monkeypatch):
    """Codes with the same key are told apart, and pairs whose keys collide in a table belong to another one."""
    from orthohash_triton.kernels.cpu import _entries, _near_entries

    def one_key(words, mask):
        return np.arange(len(words), dtype=np.uint64)

    monkeypatch.setattr(_entries, "sorted_keys", one_key)
    monkeypatch.setattr(_near_entries, "sorted_keys", one_key)
    for make in KINDS:
        for radius in (0, 2, 9):
            check(make(150, 8), radius)


def test_linked_groups():
    """A chain links codes that are far apart; equal codes are linked without a radius."""
    chain = torch.tensor([[(1 << i) - 1] for i in (0, 2, 4, 6, 8)], dtype=torch.uint8)
    assert near_duplicates(chain, 2).tolist() == [0] * 5
    assert near_duplicates(chain, 1).tolist() == [0, 1, 2, 3, 4]
    assert near_duplicates(chain, 2, inclusive=False).tolist() == [0, 1, 2, 3, 4]
    assert near_duplicates(chain[[1, 0, 1, 0]], 0).tolist() == [0, 1, 0, 1]


def test_groups_of_many_equal_codes_keep_no_pairs():
    """The pairs of 200,000 equal codes would take 400 GB."""
    codes = equal_codes(200_000, 8)
    assert not near_duplicates(codes, 3).any()
    with pytest.raises(MemoryError, match=r"hamming_self_join: .*19,999,900,000 pairs.*GiB.*free\. Lower the radius, .*near_dup"):
        hamming_self_join(codes, 0)


@pytest.mark.parametrize(
    ("make", "free", "message"),
    [
        (
            few_codes,
            10**6,
            r"about [\d,]+ pairs are expected; half of them, [\d,]+ pairs of the 3,000 codes are nearer than 3 bits",
        ),
        (few_codes, 7 * 10**6, r"hamming_self_join: [\d,]+ pairs of the 3,000 codes are nearer than 3 bits"),
        (near_codes, 7 * 10**6, r"at least [\d,]+ pairs of the 3,000 codes"),
    ],
    ids=["expected", "equal codes", "found"],
)
def test_answers_that_do_not_fit(make, free, message, monkeypatch):
    from orthohash_triton.kernels import _memory

    radius = 2 if make is few_codes else 12
    monkeypatch.setattr(_memory, "available_bytes", lambda device: free)
    with pytest.raises(MemoryError, match=message.replace("3 bits", f"{radius + 1} bits")):
        hamming_self_join(make(3000, 8), radius)
    assert len(near_duplicates(make(3000, 8), radius)) == 3000


def test_memory_of_machine_and_container(tmp_path, monkeypatch):
    from orthohash_triton.kernels import _memory

    monkeypatch.setattr(_memory, "_MEMORY_INFO", tmp_path / "meminfo")
    monkeypatch.setattr(_memory, "_GROUP", tmp_path)
    host = torch.device("cpu")
    assert _memory.available_bytes(host) is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  7 kB\n")
    assert _memory.available_bytes(host) == 7 * 1024
    for name, text in {"memory.max": "5000\n", "memory.current": "3000\n", "memory.stat": "inactive_file 1000\n"}.items():
        (tmp_path / name).write_text(text)
    assert _memory.available_bytes(host) == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert _memory.available_bytes(host) == 7 * 1024


@pytest.mark.parametrize("impl", ["cpu", "reference", pytest.param("triton", marks=pytest.mark.kernel)])
def test_nothing_to_find(impl, device):
    for codes, options in (
        (random_codes(0, 8, device), {"radius": 9}),
        (random_codes(1, 8, device), {"radius": 9}),
        (random_codes(5, 32, device), {"radius": 3}),
        (equal_codes(5, 8, device), {"radius": 0, "inclusive": False}),
    ):
        pairs, distances = hamming_self_join(codes, **options, impl=impl)
        assert (pairs.dtype, pairs.shape, distances.dtype, distances.shape) == (torch.int64, (0, 2), torch.int32, (0,))
        assert near_duplicates(codes, **options, impl=impl).tolist() == list(range(len(codes)))


# A tile has 32 rows and 64 columns: one tile, runs over several, words that are not whole.
KERNEL_CASES = {
    "one substring": (90, 8, 3, planted_codes, (1e-3, 1e-3, 1e6)),
    "several substrings": (150, 8, 9, near_codes, (1e-6, 1e3, 1e9)),
    "every pair": (100, 3, 8, near_codes, None),
    "everything": (40, 9, 72, random_codes, None),
    "equal codes": (300, 8, 0, few_codes, None),
    "equal and near codes": (130, 1, 2, few_codes, (1e-3, 1e-3, 1e6)),
}


@pytest.mark.kernel
@pytest.mark.parametrize("case", KERNEL_CASES)
def test_kernel(case, device, monkeypatch):
    from orthohash_triton.kernels import hamming_self_join as module
    from orthohash_triton.kernels._substrings import Costs

    rows, width, radius, make, costs = KERNEL_CASES[case]
    if costs is not None:
        monkeypatch.setattr(module, "_COSTS", Costs(*costs))
    codes = make(rows, width, device)
    assert len(check(codes, radius, impl="triton")[0])
    check_groups(codes, radius, impl="triton")


@pytest.mark.kernel
def test_kernel_chunks(device, monkeypatch):
    """The pairs of one table are written in several chunks of rows."""
    from orthohash_triton.kernels import hamming_self_join as module

    monkeypatch.setattr(module, "_CHUNK", 300)
    codes = near_codes(200, 8, device)
    assert len(check(codes, 20, impl="triton")[0]) > 1500
    assert len(check_groups(codes, 8, impl="triton").unique()) > 1


@pytest.mark.kernel
def test_kernel_answer_too_large_to_sort(device, monkeypatch):
    from orthohash_triton.kernels import hamming_self_join as module

    monkeypatch.setattr(module, "_LARGEST_SORT", 99)
    with pytest.raises(RuntimeError, match=r"hamming_self_join: 105 pairs or more are near enough, more than the 99 .* Lower"):
        hamming_self_join(equal_codes(15, 8, device), 1, impl="triton")
    assert len(hamming_self_join(equal_codes(14, 8, device), 1, impl="triton")[0]) == 91


def test_arrays_in_and_out():
    codes = few_codes(50, 8)
    pairs, _ = hamming_self_join(codes.numpy(), np.int64(1))
    assert isinstance(pairs, np.ndarray)
    assert np.array_equal(pairs, hamming_self_join(codes, 1)[0])
    assert isinstance(near_duplicates(codes.numpy(), 1), np.ndarray)
    # Codes that start in the middle of a word, and codes that are not contiguous.
    check(torch.cat((codes.flatten(), codes[0]))[3:-5].view(-1, 8), 20)
    check(few_codes(50, 17)[:, 1:], 20)


def test_registered_op():
    from orthohash_triton.ops import hamming_self_join as module

    codes = few_codes(50, 8)
    torch.library.opcheck(module._join.op, (codes, 20, "auto"))
    compiled = torch.compile(lambda c: hamming_self_join(c, 30), fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, compiled(codes), hamming_self_join(codes, 30)))


def test_progress(capsys):
    near_duplicates(random_codes(3000, 8), 1, progress=True)
    assert "comparing" in capsys.readouterr().err
    near_duplicates(random_codes(3000, 8), 1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("function", [hamming_self_join, near_duplicates])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"codes": torch.ones(2, 8)}, TypeError, "codes must be .*uint8; got float32"),
        ({"codes": random_codes(9, 8)[0]}, ValueError, "codes must be .*; got uint8"),
        ({"codes": random_codes(9, 0)}, ValueError, "codes has codes of zero bits"),
        (
            {"codes": random_codes(1, 1).expand(2**31, 1)},
            ValueError,
            "codes must have at most 2,147,483,647 rows; got 2,147,483,648",
        ),
        ({"radius": -1}, ValueError, "radius must be at least 0; got -1"),
        ({"radius": 2.0}, TypeError, "radius must be an integer; got float"),
        ({"impl": "gpu"}, ValueError, "impl must be one of"),
    ],
)
def test_bad_input(function, arguments, error, message):
    with pytest.raises(error, match=f"{function.__name__}: {message}"):
        function(**{"codes": random_codes(9, 8), "radius": 3} | arguments)
