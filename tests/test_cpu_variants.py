"""Tests that `make test-cpus` names existing tests, and skips variants that the processor cannot run."""

import os

import pytest

from tools import cpu_variants


@pytest.mark.parametrize("path", sorted({*cpu_variants.NUMERICAL, *cpu_variants.SHORT}))
def test_the_tests_exist(path: str) -> None:
    assert (cpu_variants.ROOT / path).exists()


def test_variants_run_or_say_why_not(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def run(command, cwd, env, check):
        seen[env["NUMBA_CACHE_DIR"].rpartition(os.sep)[2]] = env.get("ATEN_CPU_CAPABILITY")
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(cpu_variants.subprocess, "run", run)
    monkeypatch.setattr(cpu_variants, "processor_flags", lambda: {*cpu_variants._AVX2})
    assert cpu_variants.main(["--short"]) == 0
    assert seen == {"baseline": "default", "avx2": "avx2", "native": os.environ.get("ATEN_CPU_CAPABILITY")}
    assert "avx512: skipped: this processor lacks avx512bw, avx512cd" in capsys.readouterr().out


def test_a_failure_is_reported(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_variants, "run", lambda *_: 1)
    assert cpu_variants.main(["--variant", "baseline"]) == 1
    assert capsys.readouterr().out.endswith("\nbaseline: FAILED (pytest ended with 1)\n")
