"""Tests of `orthohash browse`: it prints its address or an error in one line, and ends at Ctrl-C."""

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("sklearn")

from orthohash_triton import cli
from orthohash_triton.runs.run import Run


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to another process on Windows")
def test_it_serves_until_it_is_interrupted(digits_run: Run) -> None:
    command = [sys.executable, "-m", "orthohash_triton.cli", "browse", str(digits_run.path), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"browse at (http://127\.0\.0\.1:\d+/) \(Ctrl-C stops the server\)\n", line)
        assert found, line
        with urllib.request.urlopen(f"{found[1]}api/search?id=1&k=1", timeout=30) as answer:
            assert answer.status == 200
            assert "server" not in answer.headers
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "", "")


def test_a_port_in_use(digits_run: Run, capsys: pytest.CaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["browse", str(digits_run.path), "--port", str(port)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == (
        f"orthohash browse: error: port {port} of 127.0.0.1 is in use; choose another with --port, or --port 0 for a free one\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"), [(["nowhere"], "is not a run folder"), (["{run}", "--port", "65536"], "0 to 65535")]
)
def test_mistakes(digits_run: Run, capsys: pytest.CaptureFixture, arguments: list[str], message: str) -> None:
    assert cli.main(["browse", *(argument.format(run=digits_run.path) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("module", ["starlette.applications", "uvicorn"])
def test_missing_packages(digits_run: Run, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    from orthohash_triton.browse import serve

    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "orthohash_triton.browse._app", raising=False)
    with pytest.raises(ImportError, match=r'pip install "orthohash-triton\[browse\]"'):
        serve(digits_run, port=0)


def test_only_the_files_that_are_named_are_served() -> None:
    from orthohash_triton.browse._app import _FILES

    assert all(path.is_file() for path, _ in _FILES.values())
    folder = Path(cli.__file__).parents[1] / "browse" / "static"
    assert {path for path, _ in _FILES.values() if path.parent == folder} == set(folder.iterdir())  # no unused files
