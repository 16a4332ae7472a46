"""The web application: a page with its style and script, and a JSON interface.

    GET  /api/info                          the gallery: title, number of items, classes
    GET  /api/random?count=24&class=3       random gallery items
    GET  /api/search?id=17&k=24&class=3     neighbours of a gallery item
    POST /api/search?k=24&class=3           neighbours of the image in the body (Content-Type: image/...)
    GET  /api/image/17                      the image of a gallery item

The optional `class` restricts the results to one class. Errors have a 4xx status and the body {"error": sentence}.
"""

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import report
from ..runs.run import Run
from ..runs.samples import open_samples
from ._engine import Engine
from ._uploads import BODY_BYTES, MAX_BYTES, Refused, decode_upload, read_body

HOSTS = ("127.0.0.1", "localhost")
_HERE = Path(__file__).parent / "static"
_THEME = Path(report.__file__).parent / "templates"
_FILES = {  # no other files are served
    "/": (_HERE / "page.html", "text/html"),
    "/theme.css": (_THEME / "theme.css", "text/css"),
    "/theme.js": (_THEME / "theme.js", "text/javascript"),
    "/browse.css": (_HERE / "browse.css", "text/css"),
    "/browse.js": (_HERE / "browse.js", "text/javascript"),
    "/icon.svg": (_HERE / "icon.svg", "image/svg+xml"),
}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_DEFAULT_K = _DEFAULT_COUNT = 24
_DECODERS = 2  # uploads decoded at the same time
_CACHE = {"cache-control": "private, max-age=3600"}


def make_app(run: Run) -> Starlette:
    """Return the ASGI application that serves the gallery of `run`.

    Raises:
        ValueError: the gallery is empty.
    """
    if run.index.ntotal == 0:
        raise ValueError(f"browse: the gallery of {run.path} must hold at least one code; got none. Train again")
    api = _Api(Engine(run, open_samples(run)))
    routes = [
        *(Route(path, _file(*served)) for path, served in _FILES.items()),
        Route("/api/info", api.info),
        Route("/api/random", api.random),
        Route("/api/search", api.search, methods=["GET"]),
        Route("/api/search", api.upload, methods=["POST"]),
        Route("/api/image/{id}", api.image),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(_Headers), Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS)), Middleware(_SameOrigin)],
        exception_handlers={Refused: _refused, HTTPException: _http_error, 500: _own_error},
    )


class _Json(JSONResponse):
    """A JSON response in ASCII, which can hold names that are not Unicode."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


class _Api:
    """The handlers of the JSON interface."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._decoders = anyio.CapacityLimiter(_DECODERS)
        self._bodies = anyio.CapacityLimiter(BODY_BYTES // MAX_BYTES)  # further uploads wait for their turn, unread

    async def info(self, request: Request) -> Response:
        return _Json({**self._engine.description, "max_bytes": MAX_BYTES})

    async def random(self, request: Request) -> Response:
        count = _integer(request, "count", _DEFAULT_COUNT, 1, self._engine.largest_k)
        return _Json({"items": await run_in_threadpool(self._engine.random, count, self._class(request))})

    async def search(self, request: Request) -> Response:
        position = _integer(request, "id", None, 0, len(self._engine) - 1)
        return _Json(await run_in_threadpool(self._engine.search_id, position, *self._arguments(request)))

    async def upload(self, request: Request) -> Response:
        if not self._engine.takes_images:
            raise Refused(422, "this run was trained on features, not on images: search by a gallery item")
        arguments = self._arguments(request)
        async with self._bodies:
            content = await read_body(request)

            def answer() -> dict[str, Any]:
                return self._engine.search_image(decode_upload(content, self._engine.sample_shape), *arguments)

            return _Json(await anyio.to_thread.run_sync(answer, limiter=self._decoders))

    async def image(self, request: Request) -> Response:
        position = _checked("id", request.path_params["id"], 0, len(self._engine) - 1)
        picture = await run_in_threadpool(self._engine.picture, position)
        if picture is None:
            raise Refused(404, f"there is no image of item {position}: its file is missing or cannot be read")
        return Response(picture.bytes, media_type=picture.media_type, headers=_CACHE)

    def _arguments(self, request: Request) -> tuple[int, int | None]:
        return _integer(request, "k", min(_DEFAULT_K, self._engine.largest_k), 1, self._engine.largest_k), self._class(request)

    def _class(self, request: Request) -> int | None:
        last = len(self._engine.description["classes"]) - 1
        return None if not request.query_params.get("class") else _integer(request, "class", None, 0, last)


def _integer(request: Request, name: str, default: int | None, low: int, high: int) -> int:
    given = request.query_params.get(name)
    if given is None and default is not None:
        return default
    return _checked(name, given or "", low, high)


def _checked(name: str, given: str, low: int, high: int) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", given) or not low <= int(given) <= high:
        raise Refused(400, f"{name} must be an integer from {low} to {high}; got {given[:40] or 'nothing'}")
    return int(given)


def _file(path: Path, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return FileResponse(path, media_type=media_type, headers={"cache-control": "no-cache"})

    return answer


def _refused(request: Request, error: Exception) -> Response:
    return _Json({"error": str(error)}, getattr(error, "status", 400))


def _http_error(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 400)
    return _Json({"error": f"{request.method} {request.url.path}: {getattr(error, 'detail', error)}"}, status)


def _own_error(request: Request, error: Exception) -> Response:
    return _Json({"error": "the server failed to process this request; see the output of orthohash browse"}, 500)


class _Headers:
    """Middleware that adds security headers to every response, which isolate the page from other pages."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in _HEADERS.items())]
            await send(message)

        await self._app(scope, receive, send_with_headers)


class _SameOrigin:
    """Middleware that refuses requests sent by scripts of other pages."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
            origin = headers.get("origin")
            if origin is not None and origin != f"{scope['scheme']}://{headers.get('host', '')}":
                await _Json({"error": "requests from other pages are refused"}, 403)(scope, receive, send)
                return
        await self._app(scope, receive, send)
