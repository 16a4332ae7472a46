"""Tests that links of the pages lead to files of the repository or to known hosts. The site's build checks internal links."""

import re
from urllib.parse import urlsplit

import pytest

from tests.docs import pages

# Hosts that pages may link to.
HOSTS = {"arxiv.org", "example.org", "github.com", "keepachangelog.com", "pytorch.org", "semver.org"}


def links(path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", path.read_text())


@pytest.mark.parametrize("path", pages.PAGES, ids=pages.name)
def test_links_lead_somewhere(path):
    for link in links(path):
        parts = urlsplit(link)
        if parts.netloc:
            assert parts.scheme == "https"
            assert parts.netloc in HOSTS
        else:
            assert not parts.path or (path.parent / parts.path).exists(), link
