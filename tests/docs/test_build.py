"""Tests that the site builds without warnings (including links and anchors) and loads nothing from other hosts."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest

from tests.docs import pages
from tests.docs.test_links import HOSTS

pytest.importorskip("mkdocs")
pytest.importorskip("material")
pytest.importorskip("mkdocstrings")
pytest.importorskip("latex2mathml")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=pages.ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


class Outside(HTMLParser):
    """Collects the addresses that a page loads and those that it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "a":
            self.linked.append(values.get("href") or "")
        elif tag == "link" and values.get("rel") in ("next", "prev", "canonical"):
            return
        else:
            self.loaded += [values[name] for name in ("src", "href", "srcset") if values.get(name)]


@pytest.mark.slow
def test_pages_load_nothing_from_other_hosts(site):
    built = sorted(site.rglob("*.html"))
    assert len(built) >= 40
    for page in built:
        outside = Outside(page.read_text())
        assert not [url for url in outside.loaded if urlsplit(url).netloc], page
        linked = {urlsplit(url) for url in outside.linked if urlsplit(url).netloc}
        assert {url.netloc for url in linked} <= HOSTS, page
        assert all(url.scheme == "https" for url in linked), page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", sheet.read_text()), sheet


@pytest.mark.slow
def test_formulae_figures_and_reference_are_in_the_pages(site):
    loss = (site / "concepts" / "one-pass-loss.html").read_text()
    assert loss.count("<math ") >= 20
    assert loss.count('<div class="figure"><svg role="img"') == 2
    assert "\\(" not in loss
    assert "arithmatex" not in loss
    reference = (site / "reference" / "losses.html").read_text()
    assert 'id="orthohash_triton.cosine_codebook_loss"' in reference
    settings = (site / "reference" / "train.html").read_text()
    assert "passes over the training set" in settings
    signature = settings.partition('id="orthohash_triton.train.TrainConfig"')[2].partition("Everything that decides a run")[0]
    assert "batch_size" in signature
    assert "option" not in re.sub("<[^>]*>", "", signature).replace("options", "")
    commands = (site / "reference" / "cli.html").read_text()
    assert 'id="orthohash-search"' in commands
    assert "--limit" in commands
    assert "Unreleased" in (site / "changelog.html").read_text()
