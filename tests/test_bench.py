"""Tests that every peer of the microbenchmarks runs at a small shape, and returns the expected answer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench._micro import OURS, Microbenchmark, Unavailable, all_microbenchmarks, compare

ALL = all_microbenchmarks()
PEERS = [pytest.param(op, peer, id=f"{op.op}-{peer}") for op in ALL for peer in op.peers]


@pytest.mark.parametrize(("op", "peer"), PEERS)
def test_peers_agree(op: Microbenchmark, peer: str) -> None:
    try:
        op.check(peer, op.smallest, "cpu")()
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("op", ALL, ids=lambda op: op.op)
def test_declaration(op: Microbenchmark) -> None:
    assert op.peers[0] == OURS
    assert len(op.peers) == len(set(op.peers)) >= 2
    assert all(len(shape) == len(op.axes) for shape in (*op.shapes, op.smallest))


def test_a_peer_that_differs_is_not_timed() -> None:
    def make(peer: str, size: int, device: str):
        return lambda: size + (peer != OURS)

    def agree(peer: str, theirs: int, ours: int) -> None:
        assert theirs == ours, f"{peer} differs"

    wrong = Microbenchmark("wrong", ("size",), [(1,)], (1,), (OURS, "peer"), make, agree)
    with pytest.raises(AssertionError, match="peer differs"):
        compare(wrong, (1,), "cpu", 1)


def test_the_command_line_prints_a_table_for_each_group() -> None:
    """`pytest bench/ --benchmark-only`, at one shape and with one round."""
    command = ["bench/", "--benchmark-only", "--benchmark-min-rounds=1", "--benchmark-max-time=0", "--benchmark-warmup=off"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # of this worker
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *command, "-k", "pack_codes-10000x64-cpu and not unpack"],
        env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "benchmark 'pack_codes: rows 10,000, bits 64, cpu': 4 tests" in done.stdout
    assert all(f"\n{peer} " in done.stdout for peer in (OURS, "reference", "numpy", "torch"))
