"""Tests that CPU kernels work without a writable cache folder, and in threads that outlive the main thread."""

import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from orthohash_triton.kernels.cpu import _compiler

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows uses other cache folders")


def run(script: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)


def test_without_a_place_for_a_cache(monkeypatch):
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    _compiler._warn_of_no_cache.cache_clear()
    with pytest.warns(RuntimeWarning, match="no folder where compiled CPU kernels can be kept.*NUMBA_CACHE_DIR") as warned:
        double, triple = (_compiler.compiler()(function) for function in (lambda x: 2 * x, lambda x: 3 * x))
    _compiler._warn_of_no_cache.cache_clear()
    assert len(warned) == 1
    assert (double(4), triple(4)) == (8, 12)


def test_other_errors_of_the_compiler_are_not_hidden(monkeypatch):
    def fails(**options):
        raise RuntimeError("no LLVM")

    monkeypatch.setattr(_compiler.numba, "njit", fails)
    with pytest.raises(RuntimeError, match="no LLVM"):
        _compiler.compiler()(np.sum)


def test_searches_work_after_the_main_thread_has_ended():
    """Python starts no new threads after the main thread has ended."""
    found = run("""
        import threading, numpy as np, torch, orthohash_triton as oht

        torch.set_num_threads(2)
        gallery = np.random.default_rng(0).integers(0, 256, (300_000, 8), dtype=np.uint8)

        def serve():
            threading.main_thread().join()
            print(oht.hamming_topk(gallery[:64], gallery, 1)[1].tolist() == [[i] for i in range(64)])

        threading.Thread(target=serve).start()
    """)
    assert found.stdout == "True\n"


def test_machine_code_is_made_anew_when_another_file_changes(tmp_path, monkeypatch):
    """Functions of other files are compiled into it, and Numba looks at the file of the function itself only."""
    file = tmp_path / "module_of_one_function.py"
    file.write_text("def double(x):\n    return 2 * x\n")

    def hits(checksum: int) -> int:
        monkeypatch.setattr(_compiler, "_checksum_of_sources", lambda: checksum)
        spec = importlib.util.spec_from_file_location(file.stem, file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        double = _compiler.compiler()(module.double)
        assert double(4) == 8
        return sum(double.stats.cache_hits.values())

    monkeypatch.setitem(sys.modules, file.stem, None)
    assert [hits(1), hits(1), hits(2), hits(2)] == [0, 1, 0, 1]


def test_the_checksum_follows_every_source():
    read = []
    _compiler._checksum_of_sources.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(Path()), "read_bytes", lambda path: read.append(path.name) or path.name.encode())
        _compiler._checksum_of_sources()
    _compiler._checksum_of_sources.cache_clear()
    assert {"_bits.py", "_compiler.py", "hamming_topk.py"} <= set(read)
