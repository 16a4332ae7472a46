"""The server of the application, which runs on this machine until Ctrl-C."""

import errno
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress

from .._base.extras import install
from ..runs.run import Run

PORT = 8765
ADDRESS = "127.0.0.1"  # other machines cannot connect to it


def serve(run: Run, *, port: int = PORT, open_page: bool = False, say: Callable[[str], None] = print) -> None:
    """Serve the gallery of `run` on 127.0.0.1 until the process is interrupted.

    Args:
        run: a run, opened by `runs.load_run`.
        port: port from 1 to 65535; 0 selects a free one.
        open_page: open the page in the default browser.
        say: called with the address of the page when the server is ready.

    Raises:
        OSError: the port is in use, or needs more permissions.
        ImportError: starlette, uvicorn or Pillow is missing.
        ValueError: the gallery is empty, or the port is out of range.

    Example:
        >>> from orthohash_triton.browse import serve
        >>> from orthohash_triton.runs import load_run
        >>> serve(load_run("runs/fashion"), open_page=True)  # doctest: +SKIP
        http://127.0.0.1:8765/
    """
    try:
        from ._app import make_app
        from ._connections import make_server
    except ImportError as error:
        raise ImportError(f"browsing needs starlette and uvicorn: {install('starlette', 'uvicorn', extra='browse')}") from error
    if not 0 <= port < 2**16:
        raise ValueError(f"serve: port must be from 0 to 65535; got {port}")
    with listen(port) as listening:  # before the run is prepared, so that a used port is reported at once
        url = f"http://{ADDRESS}:{listening.getsockname()[1]}/"
        server = make_server(make_app(run))
        say(url)
        if open_page:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        with suppress(KeyboardInterrupt):  # uvicorn stops cleanly and raises the interrupt again
            server.run(sockets=[listening])


def listen(port: int) -> socket.socket:
    """Return a socket that listens on `port` of this machine."""
    # asyncio sets TCP_NODELAY only if the protocol is named. Without it, every answer on a kept connection is delayed by 40 ms.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform == "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((ADDRESS, port))
        listening.listen()
    except OSError as error:
        listening.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            why = "in use" if error.errno == errno.EADDRINUSE else "reserved for administrators"
            raise OSError(f"port {port} of {ADDRESS} is {why}; choose another with --port, or --port 0 for a free one") from error
        raise
    return listening
