"""Tests of the page in headless Chromium: clicks, keys, uploads of images, light and dark colours."""

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("sklearn")
pytest.importorskip("PIL")

import uvicorn
from PIL import Image

from orthohash_triton.browse._app import make_app
from orthohash_triton.browse._server import listen
from orthohash_triton.data import digits
from orthohash_triton.runs.run import Run
from tests.pages import Watched, until


@pytest.fixture(scope="module")
def address(digits_run: Run) -> Iterator[str]:
    """Yield the address of a server that runs in a thread of this process."""
    with listen(0) as listening:
        server = uvicorn.Server(uvicorn.Config(make_app(digits_run), log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """Yield the opened page. Afterwards assert that it logged no unexpected errors and requested nothing from other addresses."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    watched = Watched(page)
    page.watched = watched
    page.goto(address)
    page.wait_for_selector(".tile")
    yield page
    assert watched.complaints == []
    assert all(url.startswith((address, f"blob:{address}")) for url in watched.requests)
    page.close()


@pytest.fixture
def seven(tmp_path: Path) -> Path:
    """Return the file of a gallery image of the digit 7."""
    gallery = digits.load_splits(0).gallery
    position = int((gallery.labels == 7).nonzero()[0])
    Image.fromarray(gallery.inputs[position].numpy()).save(tmp_path / "seven.png")
    return tmp_path / "seven.png"


def shown(page: Any, name: str) -> None:
    until(page, "name => document.getElementById('query-name').textContent === name", name)
    until(page, "!document.body.classList.contains('busy')")


def test_a_click_searches(page: Any) -> None:
    assert page.title() == "OrthoHash, 16 bits"
    assert page.locator(".tile").count() == 24
    widths = "[...document.querySelectorAll('#results img')].map(image => image.naturalWidth)"
    until(page, f"{widths}.filter(width => width > 0).length >= 12")  # visible images are loaded
    chosen = page.locator(".tile").nth(3)
    name = chosen.locator(".caption").inner_text()
    chosen.click()
    shown(page, name)
    assert page.locator(".tile").count() == 24
    assert " ms" in page.locator("#status").inner_text()
    assert page.locator(".tile.right").count() + page.locator(".tile.wrong").count() == 24
    assert page.locator("#key").is_visible()
    assert "#id=" in page.url
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 100
    page.go_back()
    page.wait_for_selector("#query", state="hidden")
    assert page.locator("#results-name").inner_text() == "Select an image to search for"


def test_an_image_of_ones_own(page: Any, seven: Path) -> None:
    page.locator("#file").set_input_files(seven)
    shown(page, "seven.png")
    assert "encoding: " in page.locator("#status").inner_text()
    assert page.locator(".tile .caption").first.inner_text() == "0 7"
    assert page.locator(".tile .mark").count() == 0  # the class of an upload is unknown
    assert page.locator("#query-picture img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 8
    page.locator("#k").fill("5")
    until(page, "document.querySelectorAll('.tile').length === 5")
    assert page.locator("#query-name").inner_text() == "seven.png"  # the image is searched again


def test_dropping_and_pasting(page: Any, seven: Path) -> None:
    for event, kind in (("drop", "DragEvent"), ("paste", "ClipboardEvent")):
        page.evaluate(
            """([event, kind, content]) => {
                const files = new DataTransfer();
                files.items.add(new File([new Uint8Array(content)], `${event}.png`, { type: "image/png" }));
                const field = event === "drop" ? "dataTransfer" : "clipboardData";
                document.body.dispatchEvent(new window[kind](event, { [field]: files, bubbles: true, cancelable: true }));
            }""",
            [event, kind, list(seven.read_bytes())],
        )
        shown(page, f"{event}.png")
        assert page.locator(".tile").count() == 24


def test_what_is_no_image_is_said_to_be_none(page: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not at all")
    page.locator("#file").set_input_files(tmp_path / "broken.jpg")
    page.wait_for_selector("#error:visible")
    assert "is not a readable image" in page.locator("#error").inner_text()
    assert page.watched.complaints.pop().startswith("Failed to load resource: the server responded with a status of 422")
    (tmp_path / "notes.txt").write_text("text")
    page.locator("#file").set_input_files(tmp_path / "notes.txt")
    until(page, "document.getElementById('error').textContent.startsWith('notes.txt is not an image')")
    (tmp_path / "huge.png").write_bytes(b"\0" * (21 * 2**20))
    page.locator("#file").set_input_files(tmp_path / "huge.png")
    until(page, "document.getElementById('error').textContent.startsWith('huge.png has 21 MiB; at most 20')")
    page.locator(".tile").first.click()
    page.wait_for_selector("#error", state="hidden")
    assert page.locator("#query").is_visible()


def test_keys(page: Any) -> None:
    page.keyboard.press("ArrowRight")
    places = "[...document.querySelectorAll('.tile')].indexOf(document.activeElement)"
    assert page.evaluate(places) == 0
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    columns = page.evaluate("getComputedStyle(document.getElementById('results')).gridTemplateColumns.split(' ').length")
    assert columns > 3
    assert page.evaluate(places) == columns + 1
    name = page.locator(".tile").nth(columns + 1).locator(".caption").inner_text()
    page.keyboard.press("Enter")
    shown(page, name)
    until(page, f"{places} === 0")  # the focus moves to the first neighbour
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "class"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == ""
    page.keyboard.press("Escape")
    page.wait_for_selector("#query", state="hidden")
    before = page.locator("#results").inner_text()
    page.keyboard.press("r")
    until(page, "before => document.getElementById('results').innerText !== before", before)


def test_one_class(page: Any) -> None:
    page.locator("#class").select_option(label="4 (145)")
    until(page, "[...document.querySelectorAll('.caption')].every(caption => caption.textContent === '4')")
    assert "class=4" in page.url
    page.reload()
    page.wait_for_selector(".tile")
    assert page.locator("#class").input_value() == "4"  # the class is part of the address


def test_light_and_dark(page: Any) -> None:
    def brightness() -> float:
        return float(np.asarray(Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("L")).mean())

    light = brightness()
    page.locator("#theme").click()
    assert brightness() < 80 < 180 < light


def test_it_fits_a_telephone(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    page.locator(".tile").first.click()
    page.wait_for_selector("#query:visible")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_policy_is_enforced(page: Any) -> None:
    """A script that found its way into the page could neither run nor reach another host."""
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.ran = true' }))")
    assert page.evaluate("window.ran === undefined")
    assert page.evaluate("fetch('http://127.0.0.2:9/').then(() => 'sent', () => 'refused')") == "refused"
    end = time.monotonic() + 20
    while len(page.watched.complaints) < 2 and time.monotonic() < end:
        page.wait_for_timeout(20)
    assert len(page.watched.complaints) >= 2
    assert all("Content Security Policy" in text or "violates" in text for text in page.watched.complaints)
    page.watched.complaints.clear()
    page.watched.requests = [url for url in page.watched.requests if "127.0.0.2" not in url]
