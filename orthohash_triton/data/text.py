"""Features of texts from static word embeddings, and a cache for data sets of them.

The embeddings are the table [32000, 256] inside the wheel of `wordllama` 0.4.0.post1 (MIT licence). The loader of that package
looks for the tokenizer in a folder that the wheel does not have and then downloads it. This module therefore reads the two files
of the wheel directly and downloads nothing.
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .._base import formats
from .._base.extras import install
from .._base.reading import reader
from . import features
from .dataset import Dataset

_TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"
_WEIGHTS = "weights/l2_supercat_256.safetensors"


def embed(texts: Sequence[str]) -> Tensor:
    """Return the mean of the embeddings of each text's tokens, scaled to length 1: float32 [N, 256].

    The row of a text without tokens is zero.

    Raises:
        ImportError: wordllama or tokenizers is not installed.
        FileNotFoundError: the installed version of wordllama has other files.

    Example:
        >>> from orthohash_triton.data import text
        >>> text.embed(["a small cat", "a little cat"]).shape  # doctest: +SKIP
        torch.Size([2, 256])
    """
    return embed_with(*_wordllama_files(), texts)


@reader("tokenizer", advice=f"It is not the one of wordllama 0.4.0.post1; {install('wordllama', extra='text')}")
def embed_with(tokenizer_file: Path, weights_file: Path, texts: Sequence[str]) -> Tensor:
    """Return what `embed` returns, with a tokenizer and a table [tokens, D] `embedding.weight` from other files.

    Raises:
        ImportError: tokenizers is not installed.
        ValueError: a file is damaged.

    Example:
        >>> from orthohash_triton.data import text
        >>> text.embed_with("tokenizer.json", "weights.safetensors", ["a small cat"]).shape  # doctest: +SKIP
        torch.Size([1, 256])
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        command = install("tokenizers", "safetensors", extra="text")
        raise ImportError(f"text features need tokenizers and safetensors: {command}") from error
    table = formats.read_tensors(weights_file)["embedding.weight"].float()  # [32000, 256]
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = [torch.tensor(encoding.ids) for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    if not ids:
        return table.new_zeros(0, table.shape[1])
    lengths = torch.tensor([len(tokens) for tokens in ids])
    means = torch.nn.functional.embedding_bag(torch.cat(ids).long(), table, lengths.cumsum(0) - lengths, mode="mean")
    return torch.nn.functional.normalize(means)


def _wordllama_files() -> tuple[Path, Path]:
    """Return the files of the tokenizer and of the embeddings inside the installed wordllama."""
    spec = importlib.util.find_spec("wordllama")  # finds the folder without the cost of importing the package
    if spec is None or spec.origin is None:
        raise ImportError(f"text features need wordllama: {install('wordllama', extra='text')}")
    files = Path(spec.origin).parent / _TOKENIZER, Path(spec.origin).parent / _WEIGHTS
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is missing: text features need wordllama 0.4.0.post1. Run {install('wordllama', extra='text')}"
            )
    return files


def cached(file_name: str, build: Callable[[], Dataset]) -> Dataset:
    """Load the features in `file_name` of `cache_folder()`, or make them with `build` and write them there.

    Delete the file to make them again.

    Example:
        >>> import os, tempfile
        >>> from unittest import mock
        >>> import torch
        >>> from orthohash_triton.data import Dataset, text
        >>> def build():
        ...     print("built")
        ...     return Dataset(torch.eye(2), torch.tensor([0, 1]), ("cat", "dog"), "toy")
        >>> with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, XDG_CACHE_HOME=folder):
        ...     for _ in range(2):
        ...         print(text.cached("toy.npz", build).name)
        built
        toy
        toy
    """
    path = cache_folder() / file_name
    if path.is_file():
        return features.load(path)
    dataset = build()
    path.parent.mkdir(parents=True, exist_ok=True)
    features.save(path, dataset)
    return dataset


def cache_folder() -> Path:
    """Return $XDG_CACHE_HOME/orthohash-triton, or ~/.cache/orthohash-triton if that variable is not set.

    Example:
        >>> from orthohash_triton.data import text
        >>> text.cache_folder().name
        'orthohash-triton'
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orthohash-triton"
