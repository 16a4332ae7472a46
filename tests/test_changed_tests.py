"""Tests that `make check` chooses the tests that a change needs."""

import pytest

from tools.changed_tests import CORE, chosen_tests
from tools.modules import ROOT


@pytest.mark.parametrize(
    ("changed", "chosen"),
    [
        ("kernels/hamming_topk.py", "tests/ops/test_hamming_topk.py"),
        ("kernels/cpu/householder.py", "tests/ops/test_householder.py"),
        ("orthohash_triton/ops/pairwise_likelihood_loss.py", "tests/ops/test_pairwise_likelihood_loss.py"),
        ("orthohash_triton/rotations.py", "tests/test_rotations.py"),
        ("orthohash_triton/search/index.py", "tests/search/test_index.py"),  # through orthohash_triton.HammingIndex
        ("tests/tolerances.py", "tests/test_tolerances.py"),
        ("tests/docs/test_build.py", "tests/docs/test_build.py"),
        ("tools/missing.py", "tests/test_missing.py"),
        ("bench/pack_codes.py", "tests/test_bench.py"),
    ],
)
def test_a_change_chooses_its_tests(changed: str, chosen: str) -> None:
    assert chosen in chosen_tests([changed])


def test_a_page_chooses_the_core_only() -> None:
    assert chosen_tests(["README.md"]) == sorted(CORE)


def test_one_module_does_not_choose_everything() -> None:
    everything = list((ROOT / "tests").rglob("test_*.py"))
    assert len(chosen_tests(["orthohash_triton/ops/pack_codes.py"])) < len(everything) / 2


def test_the_core_exists() -> None:
    assert all((ROOT / path).is_file() for path in CORE)
