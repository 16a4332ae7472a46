"""The connections of the server: limits on their number and on the time that each may take.

uvicorn closes a connection that is silent after an answer, but waits for ever for the first request of a connection, and refuses
all requests while more connections are open than it allows. Browsers open connections that they may never use.
"""

import asyncio
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 64  # connections that are open at the same time
REQUEST_SECONDS = 10.0  # from the start of a connection, or from the last answer, until the next request has arrived
EXCHANGE_SECONDS = 60.0  # from the arrival of the header of a request until the answer has been sent


def make_server(app: ASGIApp) -> uvicorn.Server:
    """Return a server of `app` whose connections are limited in number and time."""
    return uvicorn.Server(uvicorn.Config(
        app, http=BoundedProtocol, log_level="warning", access_log=False, lifespan="off", server_header=False,
        timeout_keep_alive=5, timeout_graceful_shutdown=1, limit_concurrency=CONNECTIONS + 1,
    ))  # fmt: skip


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with a deadline for each request and each answer.

    If more than CONNECTIONS connections are open, the one that has waited longest for a request is closed.
    """

    _deadline: asyncio.TimerHandle

    @property
    def is_busy(self) -> bool:
        """True while a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        """Register the connection, and close another one if there are too many."""
        super().connection_made(transport)
        self._set_deadline()
        if len(self.connections) > CONNECTIONS:
            self._close_longest_waiting()

    def data_received(self, data: bytes) -> None:
        """Process `data`; when they complete the header of a request, the deadline becomes that of its answer."""
        was_busy = self.is_busy
        super().data_received(data)
        if self.is_busy and not was_busy:
            self._set_deadline()

    def on_response_complete(self) -> None:
        """Wait for the next request of the connection."""
        super().on_response_complete()
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._deadline.cancel()
        super().connection_lost(exc)

    def _set_deadline(self) -> None:
        if hasattr(self, "_deadline"):
            self._deadline.cancel()
        self._deadline = self.loop.call_later(EXCHANGE_SECONDS if self.is_busy else REQUEST_SECONDS, self.transport.abort)

    def _close_longest_waiting(self) -> None:
        waiting = [other for other in self.connections if isinstance(other, BoundedProtocol) and not other.is_busy]
        closed = min(waiting, key=lambda other: other._deadline.when())  # never empty: the new connection waits
        closed.transport.abort()
        self.connections.discard(closed)  # at once, because the limit counts the members of this set
