from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from orthohash_triton.data import Dataset, text
from tests.tolerances import sum_error, tolerance

needs_wordllama = pytest.mark.skipif(find_spec("wordllama") is None, reason="wordllama is not installed")

TEXTS = ["Open Free Fiasco Firmware Flasher", "", "editor", "naïve 文字 and a much longer sentence, with commas"]


@needs_wordllama
def test_embedding_is_the_normalised_mean_of_the_token_rows() -> None:
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    tokenizer_file, weights_file = text._wordllama_files()
    table = load_file(weights_file)["embedding.weight"].double()
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    embedded = text.embed(TEXTS)
    assert embedded.shape == (4, 256)
    assert embedded.dtype == torch.float32
    for row, one in zip(embedded.double(), TEXTS, strict=True):
        ids = tokenizer.encode(one, add_special_tokens=False).ids
        mean = sum((table[i] for i in ids), torch.zeros(256, dtype=torch.float64)) / max(len(ids), 1)
        length = mean.norm().clamp(min=1e-12)
        size = table[ids].abs().mean(0) / length if ids else 0.0
        bounds = tolerance(max(len(ids), 1), size, sides=1)
        bounds["rtol"] += sum_error(256)  # of the length
        torch.testing.assert_close(row, mean / length, **bounds)
        if len(ids) > 1:  # the bounds notice a token that is missing
            with pytest.raises(AssertionError):
                torch.testing.assert_close(row, mean / length - table[ids[0]] / len(ids) / length, **bounds)


@needs_wordllama
def test_a_text_is_embedded_alone_as_in_company() -> None:
    together = text.embed(TEXTS)
    for row, one in zip(together, TEXTS, strict=True):
        assert torch.equal(row, text.embed([one])[0])
    assert text.embed([]).shape == (0, 256)


def test_without_wordllama(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(text.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'text features need wordllama: pip install "'):
        text.embed(["a"])
    monkeypatch.setattr(text.importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    with pytest.raises(FileNotFoundError, match=r"l2_supercat_tokenizer_config.json is missing.*wordllama 0\.4\.0\.post1"):
        text.embed(["a"])


def test_cache_is_built_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not" / "there"))
    dataset = Dataset(torch.eye(3), torch.tensor([0, 1, 1]), ("a", "b"), "toy")
    built = []

    def build() -> Dataset:
        built.append(1)
        return dataset

    first, second = (text.cached("toy.npz", build) for _ in range(2))
    assert built == [1]
    assert [path.name for path in text.cache_folder().iterdir()] == ["toy.npz"]
    for one in (first, second):
        assert torch.equal(one.inputs, dataset.inputs)
        assert (one.name, one.class_names) == ("toy", ("a", "b"))


def test_nothing_is_cached_when_building_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def build() -> Dataset:
        raise FileNotFoundError("no source")

    with pytest.raises(FileNotFoundError, match="no source"):
        text.cached("toy.npz", build)
    assert list(tmp_path.rglob("*.npz")) == []


def test_cache_folder_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert text.cache_folder() == tmp_path / ".cache" / "orthohash-triton"
