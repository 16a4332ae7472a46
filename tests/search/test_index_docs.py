"""What docs/search.md shows runs as it stands."""

import re
from pathlib import Path

import numpy as np

from orthohash_triton.search import HammingIndex

DOCS = Path(__file__).parents[2] / "docs" / "search.md"


def test_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    other = HammingIndex(64)
    other.add_with_ids(random.integers(0, 256, (5, 8), dtype=np.uint8), range(5000, 5005))
    names = {
        "gallery_codes": random.integers(0, 256, (300, 8), dtype=np.uint8),
        "query_codes": random.integers(0, 256, (4, 8), dtype=np.uint8),
        "gallery_vectors": random.standard_normal((300, 64)),
        "query_vectors": random.standard_normal((4, 64)),
        "published": random.random(300) < 0.5,
        "article_numbers": random.permutation(1000)[:300],
        "other_catalogue": other,
    }
    examples = re.findall(r"```python\n(.*?)```", DOCS.read_text().partition("## Sharding")[0], re.DOTALL)
    for example in examples:
        exec(compile(example, str(DOCS), "exec"), names)
    assert len(examples) >= 7
    assert names["catalogue"].ntotal == 303
    assert names["scores"].shape == (4, 100)
