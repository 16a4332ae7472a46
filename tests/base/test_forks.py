"""Tests that a forked process can use the package after its parent has used the threads of PyTorch."""

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")

PREPARED = textwrap.dedent("""
    import os, signal, sys
    import numpy as np
    import torch
    import orthohash_triton as oht
    from orthohash_triton.models import HashModel
    from orthohash_triton.search import Rerank

    torch.set_num_threads(3)
    floats = torch.randn(40_000, 64, generator=torch.Generator().manual_seed(0))
    codes = oht.pack_codes(floats)
    few, labels, model = codes[:500], torch.arange(40_000) % 5, HashModel("features", 64, (64,))
    index = oht.HammingIndex(64)
    index.add_with_ids(codes, torch.arange(40_000).flip(0))
    index.save(sys.argv[1])
    # Made before the fork, because PyTorch itself would wait for its threads before the first call of the package.
    mask, every, new, odd = codes[:, 0] > 9, torch.arange(40_000), torch.arange(40_000, 80_000), torch.arange(80_000) % 2 == 1

    def mapped():
        index = oht.HammingIndex.load(sys.argv[1], mmap=True)
        index.chunk_bytes = 80_000
        return index

    def changed():
        index.add_with_ids(codes, new)
        index.remove_ids(odd)
        return index.copy().codes

    def parallel():
        return (floats * 2).sum()  # large enough for the threads of PyTorch

    CALLS = {
        "pack_codes": lambda: oht.pack_codes(floats),
        "unpack_codes": lambda: oht.unpack_codes(codes, 64),
        "from_packbits": lambda: oht.from_packbits(codes),
        "hamming_distance": lambda: oht.hamming_distance(few, few),
        "hamming_distance in PyTorch": lambda: oht.hamming_distance(few[:100], few, impl="reference"),
        "hamming_topk": lambda: oht.hamming_topk(few, codes, 100)[1],
        "hamming_range": lambda: oht.hamming_range(few, codes, 20)[2],
        "hamming_histogram": lambda: oht.hamming_histogram(few, codes),
        "search": lambda: index.search(few, 100)[1],
        "filtered search": lambda: index.search(few, 100, mask, ids=range(30_000), exclude_ids=range(10, 20_000))[1],
        "range_search": lambda: index.range_search(few, 20)[2],
        "reconstruct": lambda: index.reconstruct_batch(every),
        "search in a file": lambda: mapped().search(few, 100)[1],
        "range_search in a file": lambda: mapped().range_search(few, 20)[2],
        "rerank by codes": lambda: index.search(few, 100, rerank=Rerank(floats[:500]))[1],
        "rerank by vectors": lambda: index.search(few, 100, rerank=Rerank(floats[:500], floats, metric="cosine"))[1],
        "changes": changed,
        "metrics": lambda: oht.metrics.mean_average_precision(few, codes, labels[:500], labels),
        "a loss": lambda: oht.cosine_codebook_loss(floats, labels, oht.make_codebook(5, 64)),
        "a model": lambda: model.encode(floats),
    }
""")

IN_CHILDREN = textwrap.dedent("""
    expected = {name: torch.as_tensor(call()).clone() for name, call in CALLS.items() if name != "changes"}
    parallel()
    children = {}
    for name, call in CALLS.items():
        if (child := os.fork()) == 0:
            signal.alarm(60)
            found = torch.as_tensor(call())
            parallel()
            right = name == "changes" or torch.equal(found, expected[name])
            os._exit(0 if right and torch.get_num_threads() == 1 else 1)
        children[child] = name
    statuses = {name: os.waitpid(child, 0)[1] for child, name in children.items()}
    print({name: os.waitstatus_to_exitcode(status) for name, status in statuses.items() if status} or "all right")
""")


def run(script, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "3"}
    command = [sys.executable, "-c", PREPARED + script, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_a_forked_process_may_call_everything(tmp_path):
    """Each call happens in a process of its own, which is ended by a signal (-14) if it waits for ever."""
    assert run(IN_CHILDREN, tmp_path / "index.ibxf") == "all right"


def test_searches_of_a_forked_process_use_the_threads_of_the_parent(tmp_path):
    script = textwrap.dedent("""
        from orthohash_triton.kernels.forks import thread_count

        for threads in (3, 1):
            torch.set_num_threads(threads)
            if (child := os.fork()) == 0:
                index.search(few, 1)
                print(torch.get_num_threads(), thread_count(), flush=True)
                os._exit(0)
            os.waitpid(child, 0)
    """)
    assert run(script, tmp_path / "index.ibxf").splitlines() == ["1 3", "1 1"]
