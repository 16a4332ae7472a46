"""Tests of the JSON interface of `orthohash browse`: correct answers, and clear errors for invalid requests."""

import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("starlette")
pytest.importorskip("httpx")
pytest.importorskip("PIL")
pytest.importorskip("sklearn")

from PIL import Image
from starlette.requests import Request
from starlette.testclient import TestClient

from orthohash_triton.browse import _app, _uploads
from orthohash_triton.browse._app import make_app
from orthohash_triton.browse._engine import Engine
from orthohash_triton.data import digits
from orthohash_triton.runs.run import Run
from orthohash_triton.runs.samples import open_samples
from orthohash_triton.search import HammingIndex
from tests.pages import features_file, image_folder, make_run

PNG = {"content-type": "image/png"}


def client_of(run: Run) -> TestClient:
    return TestClient(make_app(run), base_url="http://127.0.0.1:8765")


@pytest.fixture(scope="module")
def client(digits_run: Run) -> TestClient:
    return client_of(digits_run)


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def test_what_is_searched(client: TestClient) -> None:
    info = client.get("/api/info").json()
    assert info["title"] == "OrthoHash, 16 bits"
    assert (info["dataset"], info["gallery"], info["bits"], info["max_k"]) == ("digits", 1438, 16, 200)
    assert [entry["name"] for entry in info["classes"]] == list("0123456789")
    assert sum(entry["count"] for entry in info["classes"]) == 1438
    assert info["pictures"] is info["takes_images"] is True


def test_neighbours_are_those_of_the_index(client: TestClient, digits_run: Run) -> None:
    found = client.get("/api/search?id=17&k=30").json()
    distances, ids = digits_run.index.search(digits_run.index.codes[17:18], 31)
    expected = [pair for pair in zip(ids[0].tolist(), distances[0].tolist(), strict=True) if pair[0] != 17][:30]
    assert [(n["id"], n["distance"]) for n in found["neighbours"]] == expected
    labels = digits_run.gallery_labels
    assert [n["same_class"] for n in found["neighbours"]] == [bool(labels[i] == labels[17]) for i, _ in expected]
    assert [n["classes"] for n in found["neighbours"]] == [[str(int(labels[i]))] for i, _ in expected]
    assert found["query"] == {"id": 17, "classes": [str(int(labels[17]))], "file": None}
    assert 0 < found["milliseconds"]["search"] < 10_000


def test_one_class_only(client: TestClient, digits_run: Run) -> None:
    found = client.get("/api/search?id=17&k=200&class=4").json()
    of_class = (digits_run.gallery_labels == 4).nonzero().flatten().tolist()
    assert {n["id"] for n in found["neighbours"]} == set(of_class) - {17}
    drawn = client.get("/api/random?count=20&class=4").json()["items"]
    assert len({item["id"] for item in drawn} & set(of_class)) == 20


def test_random_images_differ(client: TestClient) -> None:
    one, other = (client.get("/api/random?count=50").json()["items"] for _ in range(2))
    assert len({item["id"] for item in one}) == 50
    assert one != other


def test_an_image_of_the_gallery_brought_from_outside_finds_itself(client: TestClient) -> None:
    gallery = digits.load_splits(0).gallery
    for position in (0, 500):
        answer = client.post("/api/search?k=200", content=encoded(gallery.inputs[position].numpy()), headers=PNG)
        found = answer.json()
        assert answer.status_code == 200
        assert found["query"] is None
        assert found["neighbours"][0]["distance"] == 0
        assert position in [n["id"] for n in found["neighbours"] if n["distance"] == 0]
        assert all("same_class" not in n for n in found["neighbours"])  # the class of an upload is unknown
        assert found["milliseconds"].keys() == {"encode", "search"}


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_every_usual_format(client: TestClient, form: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    answer = client.post("/api/search?k=3", content=encoded(pixels, form), headers={"content-type": "application/octet-stream"})
    assert answer.status_code == 200
    assert len(answer.json()["neighbours"]) == 3


def test_pictures_are_those_of_the_gallery(client: TestClient) -> None:
    answer = client.get("/api/image/17")
    assert answer.headers["content-type"] == "image/png"
    shown = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert (shown == digits.load_splits(0).gallery.inputs[17].numpy()).all()


@pytest.mark.parametrize(
    ("address", "status", "message"),
    [
        ("/api/search", 400, "id must be an integer from 0 to 1437; got nothing"),
        ("/api/search?id=1438", 400, "id must be an integer from 0 to 1437; got 1438"),
        ("/api/search?id=-1", 400, "got -1"),
        ("/api/search?id=1e3", 400, "got 1e3"),
        ("/api/search?id=٣", 400, "id must be an integer"),
        ("/api/search?id=" + "9" * 5000, 400, "id must be an integer"),
        ("/api/search?id=1&k=0", 400, "k must be an integer from 1 to 200; got 0"),
        ("/api/search?id=1&k=201", 400, "got 201"),
        ("/api/search?id=1&class=10", 400, "class must be an integer from 0 to 9; got 10"),
        ("/api/random?count=x", 400, "count must be an integer"),
        ("/api/image/1438", 400, "id must be an integer"),
        ("/api/image/..%2F..%2Fetc%2Fpasswd", 404, "Not Found"),
        ("/api/image/%2Fetc%2Fpasswd", 404, "Not Found"),
        ("/static/../_app.py", 404, "Not Found"),
        ("/_app.py", 404, "Not Found"),
    ],
)
def test_bad_questions(client: TestClient, address: str, status: int, message: str) -> None:
    answer = client.get(address)
    assert answer.status_code == status
    assert message in answer.json()["error"]


def large_png(side: int) -> bytes:
    return encoded(np.zeros((side, side), np.uint8))


@pytest.mark.parametrize(
    ("content", "headers", "status", "message"),
    [
        (b"", PNG, 422, "the upload is not a readable image (it is empty)"),
        (b"hello, I am a picture", PNG, 422, "the upload is not a readable image (21 bytes); send BMP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", PNG, 422, "the upload is not a readable image"),
        (encoded(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))[:2000], PNG, 422, "damaged"),
        (b"GIF89a", PNG, 422, "the upload is not a readable image"),
        (b"x", {"content-type": "text/plain"}, 415, "got text/plain"),
        (b"a=1", {"content-type": "application/x-www-form-urlencoded"}, 415, "send the image itself with its type"),
        (b"x", {}, 415, "got no Content-Type"),
        (b"\0" * (_uploads.MAX_BYTES + 1), PNG, 413, "at most 20 MiB are accepted"),
    ],
    ids=["empty", "text", "postscript", "damaged", "header", "plain", "form", "untyped", "huge"],
)
def test_bad_uploads(client: TestClient, content: bytes, headers: dict, status: int, message: str) -> None:
    answer = client.post("/api/search?k=3", content=content, headers=headers)
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert client.get("/api/search?id=0&k=1").status_code == 200  # the server still answers


def test_a_bomb_is_refused_before_it_is_decoded(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    small_file = large_png(8000)  # 64 million pixels
    assert len(small_file) < 200_000
    monkeypatch.setattr(_uploads, "decode", lambda *_, **__: pytest.fail("decoded"))
    answer = client.post("/api/search", content=small_file, headers=PNG)
    assert answer.status_code == 413
    assert "8,000 x 8,000 pixels" in answer.json()["error"]
    assert "50,000,000" in answer.json()["error"]


def test_bodies_are_read_within_a_budget_of_memory(digits_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads beyond the budget wait, unread, until another one is answered."""
    import anyio

    monkeypatch.setattr(_app, "BODY_BYTES", 2 * _uploads.MAX_BYTES)
    reading: list[None] = []
    most: list[int] = []

    async def body(request: Request) -> bytes:
        reading.append(None)
        most.append(len(reading))
        await anyio.sleep(0.01)
        reading.pop()
        return encoded(np.zeros((8, 8), np.uint8))

    monkeypatch.setattr(_app, "read_body", body)
    app = make_app(digits_run)
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def upload_several() -> None:
        scope = {
            "type": "http", "method": "POST", "path": "/api/search", "raw_path": b"/api/search", "query_string": b"k=1",
            "scheme": "http", "headers": [(b"host", b"127.0.0.1:8765"), (b"content-type", b"image/png")], "http_version": "1.1",
        }  # fmt: skip
        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(app, dict(scope), receive, send)

    anyio.run(upload_several)
    assert statuses == [200] * 6
    assert max(most) == 2


def test_a_body_of_unknown_length_is_cut_off(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_uploads, "MAX_BYTES", 1000)

    def parts() -> Iterator[bytes]:
        for _ in range(50):
            yield b"x" * 100

    answer = client.post("/api/search", content=parts(), headers=PNG)
    assert answer.status_code == 413


def test_a_body_that_does_not_come_is_given_up(digits_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import anyio

    monkeypatch.setattr(_uploads, "SECONDS", 0.05)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await anyio.sleep(60)
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/api/search", "raw_path": b"/api/search", "query_string": b"",
        "scheme": "http", "headers": [(b"host", b"127.0.0.1:8765"), (b"content-type", b"image/png")], "http_version": "1.1",
    }  # fmt: skip
    anyio.run(make_app(digits_run), scope, receive, send)
    assert sent[0]["status"] == 408
    assert b"did not arrive" in sent[1]["body"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "192.168.0.7"])
def test_other_names_for_this_machine_are_refused(client: TestClient, host: str) -> None:
    """A page elsewhere may have its name resolve to 127.0.0.1 (DNS rebinding)."""
    assert client.get("/api/info", headers={"host": host}).status_code == 400
    assert client.get("/", headers={"host": host}).status_code == 400


def test_scripts_of_other_pages_are_refused(client: TestClient) -> None:
    picture = encoded(np.zeros((8, 8), np.uint8))
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:8765"):
        assert client.post("/api/search", content=picture, headers={**PNG, "origin": origin}).status_code == 403
    own = client.post("/api/search", content=picture, headers={**PNG, "origin": "http://127.0.0.1:8765"})
    assert own.status_code == 200
    assert "access-control-allow-origin" not in own.headers


@pytest.mark.parametrize("address", ["/", "/browse.js", "/api/info", "/api/image/0", "/nothing", "/api/search?id=x"])
def test_every_answer_keeps_the_page_to_itself(client: TestClient, address: str) -> None:
    headers = client.get(address).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"


def test_many_at_once(digits_run: Run) -> None:
    """Searches, encodings and pictures from many threads equal those requested one at a time."""

    client, picture = client_of(digits_run), encoded(digits.load_splits(0).gallery.inputs[3].numpy())

    def ask(i: int) -> Any:
        if i % 3 == 0:
            return client.post("/api/search?k=5", content=picture, headers=PNG).json()["neighbours"]
        return client.get(f"/api/search?id={i % 7}&k=5").json()["neighbours"]

    with client, ThreadPoolExecutor(8) as pool:  # all requests share one event loop, as in a server
        alone = [ask(i) for i in range(21)]
        assert list(pool.map(ask, range(21), timeout=60)) == alone


def test_features_have_no_pictures_and_take_none(tmp_path: Path) -> None:
    labels = np.eye(3, dtype=np.int64)[np.arange(60) % 3]
    labels[::5] = 1  # samples of every class
    labels[1] = 0  # a sample of no class
    run = make_run(tmp_path / "run", features_file(tmp_path / "f.npz", labels, ["a", "b", "c"]), method="lsh", evaluated=False)
    client = client_of(run)
    info = client.get("/api/info").json()
    assert (info["pictures"], info["takes_images"]) == (False, False)
    assert "features, not on images" in client.post("/api/search", content=b"x", headers=PNG).json()["error"]
    assert client.get("/api/image/0").status_code == 404
    found = client.get("/api/search?id=0&k=20").json()
    mine = run.gallery_labels[0]
    assert [n["same_class"] for n in found["neighbours"]] == [
        bool((run.gallery_labels[n["id"]] & mine).any()) for n in found["neighbours"]
    ]


def test_images_in_files_are_served_by_id_alone(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "photos", ["cat", "dog"])
    run = make_run(tmp_path / "run", folder, method="lsh", bits=8, evaluated=False)
    client = client_of(run)
    item = client.get("/api/search?id=0&k=1").json()["query"]
    assert item["file"] == Path((run.gallery_paths or ("",))[0]).name
    answer = client.get("/api/image/0")
    assert Image.open(io.BytesIO(answer.content)).size == (24, 16)
    Path((run.gallery_paths or ("",))[1]).unlink()
    missing = client.get("/api/image/1")
    assert missing.status_code == 404
    assert "its file is missing" in missing.json()["error"]
    assert str(tmp_path) not in client.get("/api/search?id=0&k=5").text  # folders of the machine are not published
    colour = np.full((30, 50, 3), (40, 120, 220), np.uint8)
    assert client.post("/api/search?k=2", content=encoded(colour, "JPEG"), headers=PNG).status_code == 200


def test_an_empty_gallery_is_refused(digits_run: Run, tmp_path: Path) -> None:
    from dataclasses import replace

    from orthohash_triton import HammingIndex

    empty = replace(digits_run, index=HammingIndex(16), gallery_labels=torch.empty(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="must hold at least one code"):
        make_app(empty)


def test_a_body_that_announces_too_much_is_not_read() -> None:
    import anyio
    from starlette.requests import Request

    async def receive() -> dict:
        raise AssertionError("the body was read")

    headers = [(b"content-type", b"image/png"), (b"content-length", str(_uploads.MAX_BYTES + 1).encode())]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    with pytest.raises(_uploads.Refused, match="at most 20 MiB are accepted") as refused:
        anyio.run(_uploads.read_body, request)
    assert refused.value.status == 413


def test_searches_take_turns(digits_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every threading layer of Numba lets two threads start parallel regions at once."""
    engine = Engine(digits_run, open_samples(digits_run))
    search, active, most = HammingIndex.search, [], []

    def slow(*arguments: object, **options: object) -> object:
        active.append(None)
        most.append(len(active))
        time.sleep(0.02)
        try:
            return search(*arguments, **options)
        finally:
            active.pop()

    monkeypatch.setattr(HammingIndex, "search", slow)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda position: engine.search_id(position, 3, None), range(8)))
    assert [answer["query"]["id"] for answer in found] == list(range(8))
    assert most == [1] * 8
