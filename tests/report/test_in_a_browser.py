"""Tests of the report in headless Chromium: it loads nothing else, logs no errors, and decodes every picture."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jinja2")
pytest.importorskip("sklearn")
pytest.importorskip("PIL")

from PIL import Image

from orthohash_triton.report import write_report
from orthohash_triton.runs.run import Run
from tests.pages import Watched


@pytest.fixture(scope="module")
def report(digits_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(digits_run, path, queries=3)
    return path


def opened(browser: Any, report: Path, **settings: Any) -> tuple[Any, Watched]:
    page = browser.new_page(**settings)
    watched = Watched(page)
    page.goto(report.as_uri())
    return page, watched


def pixels(page: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB"), np.int64)


def test_it_shows_everything_and_fetches_nothing(browser: Any, report: Path) -> None:
    page, watched = opened(browser, report, viewport={"width": 1280, "height": 900}, color_scheme="light")
    widths = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
    assert len(widths) == 11 * (3 + 3) + 1  # and the sheet of small pictures for the map
    assert min(widths) > 0
    assert page.locator("svg[role=img]").count() == 11
    assert page.evaluate("[...document.querySelectorAll('svg[role=img]')].every(svg => svg.getBoundingClientRect().height > 100)")
    assert len(np.unique(pixels(page).reshape(-1, 3), axis=0)) > 200  # the page is not blank
    page.keyboard.press("End")
    page.wait_for_timeout(100)
    assert watched.complaints == []
    assert [url for url in watched.requests if not url.startswith("data:")] == [report.as_uri()]
    page.close()


def test_light_and_dark(browser: Any, report: Path) -> None:
    page, _ = opened(browser, report, color_scheme="dark")
    dark = pixels(page)
    page.get_by_role("button", name="Switch to the light theme").click()
    light = pixels(page)
    assert dark.mean() < 70
    assert light.mean() > 185
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"  # the chosen theme
    page.close()


def test_text_stands_out_from_its_ground(browser: Any, report: Path) -> None:
    for scheme in ("light", "dark"):
        page, _ = opened(browser, report, color_scheme=scheme)
        ink, soft, card, right, wrong, accent = page.evaluate("""["ink", "soft", "card", "right", "wrong", "accent"].map(name => {
            const probe = document.body.appendChild(document.createElement("b"));
            probe.style.color = `var(--${name})`;
            return getComputedStyle(probe).color.match(/\\d+/g).map(Number);
        })""")
        assert contrast(ink, card) > 7
        assert min(contrast(colour, card) for colour in (soft, right, wrong, accent)) > 4.5  # WCAG 2, AA
        page.close()


def contrast(one: list[int], other: list[int]) -> float:
    """Return the contrast ratio of two colours as WCAG 2 defines it."""

    def luminance(colour: list[int]) -> float:
        values = [c / 255 for c in colour[:3]]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def hover(mark: Any) -> None:
    """Move the pointer over `mark` after scrolling has ended, because a scroll, which may come one frame late, hides the tip."""
    mark.scroll_into_view_if_needed()
    mark.page.evaluate("new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    mark.hover(force=True)


def test_tips_and_keys(browser: Any, report: Path) -> None:
    page, watched = opened(browser, report, viewport={"width": 1280, "height": 900})
    tip = page.locator("#tip")
    assert tip.is_hidden()
    hover(page.locator("figure:has(h3:text-is('Distances')) .band").nth(5))
    assert tip.inner_text().startswith("distance 5")
    assert "same class:" in tip.inner_text()
    hover(page.locator("figure:has(h3:text-is('Neighbourhoods (t-SNE)')) circle[data-row]").last)
    assert tip.locator("i").is_visible()  # the picture of the point
    page.locator("[data-lights]").first.focus()
    assert page.locator(".chart.dimmed .cloud.lit").count() == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.lights") == "1"
    page.locator("summary").first.press("Enter")
    assert page.locator("details[open] table").first.is_visible()
    assert watched.complaints == []
    page.close()


def test_it_fits_a_telephone(browser: Any, report: Path) -> None:
    page, _ = opened(browser, report, viewport={"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()
