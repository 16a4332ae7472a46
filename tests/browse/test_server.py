"""Tests of `orthohash browse`: it prints its address or an error in one line, and ends at Ctrl-C."""

import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("sklearn")

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orthohash_triton import cli
from orthohash_triton.browse import _connections
from orthohash_triton.browse._server import listen
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
    for name in ("_app", "_connections"):
        monkeypatch.delitem(sys.modules, f"orthohash_triton.browse.{name}", raising=False)
    with pytest.raises(ImportError, match=r'pip install "starlette>=.* "uvicorn>='):
        serve(digits_run, port=0)


def test_only_the_files_that_are_named_are_served() -> None:
    from orthohash_triton.browse._app import _FILES

    assert all(path.is_file() for path, _ in _FILES.values())
    folder = Path(cli.__file__).parents[1] / "browse" / "static"
    assert {path for path, _ in _FILES.values() if path.parent == folder} == set(folder.iterdir())  # no unused files


@pytest.fixture
def serving() -> Iterator[Callable[[], socket.socket]]:
    """Serve "/", which answers, and "/never", which does not, and return a function that connects to the server."""

    async def answer(request: Request) -> Response:
        return Response(status_code=204)

    async def never(request: Request) -> Response:
        import anyio

        await anyio.sleep_forever()

    server = _connections.make_server(Starlette(routes=[Route("/", answer), Route("/never", never)]))
    with ExitStack() as opened:
        listening = opened.enter_context(listen(0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield lambda: opened.enter_context(socket.create_connection(listening.getsockname(), timeout=30))
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()


ANSWERED = b"HTTP/1.1 204 No Content"  # an answer without a body


def ask(connection: socket.socket, path: str = "/") -> bytes:
    """Send a request, and return the status line of the answer, or b"" if the connection is closed instead."""
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    return first_line(connection)


def first_line(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096).partition(b"\r\n")[0]
    except ConnectionResetError:
        return b""


def test_answers_are_sent_at_once(serving: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TCP_NODELAY the system holds back the end of every answer on a kept connection, for 40 ms."""
    found = []
    made = _connections.BoundedProtocol.connection_made

    def connection_made(self: _connections.BoundedProtocol, transport: object) -> None:
        made(self, transport)
        found.append(self.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(_connections.BoundedProtocol, "connection_made", connection_made)
    assert ask(serving()) == ANSWERED
    assert found
    assert all(found)


def test_idle_connections_do_not_block_the_server(serving: Callable[[], socket.socket]) -> None:
    idle = [serving() for _ in range(_connections.CONNECTIONS + 16)]
    connection = serving()
    assert ask(connection) == ask(connection) == ANSWERED
    assert first_line(idle[0]) == b""  # those that waited longest were closed
    assert ask(idle[-1]) == ANSWERED


@pytest.mark.parametrize(("limit", "sent"), [
    ("REQUEST_SECONDS", b""),
    ("REQUEST_SECONDS", b"GET / HTTP/1.1\r\nHost:"),
    ("EXCHANGE_SECONDS", b"GET /never HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
])  # fmt: skip
def test_a_connection_that_takes_too_long_is_closed(
    limit: str, sent: bytes, serving: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connections, limit, 0.1)
    connection = serving()
    connection.sendall(sent)
    assert first_line(connection) == b""
