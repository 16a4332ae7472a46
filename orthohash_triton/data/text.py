"""Features of texts by static word embeddings, and the cache that keeps a data set of them.

The embeddings are the 32,000 x 256 table inside the wheel of `wordllama` 0.4.0.post1 (MIT). Its own loader looks for the
tokenizer where the wheel does not have it and then wants the network, so the two files are read here directly; nothing is
downloaded.
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from . import features
from .dataset import Dataset

_TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"
_WEIGHTS = "weights/l2_supercat_256.safetensors"
_INSTALL = 'pip install "orthohash-triton[text]"'


def embed(texts: Sequence[str]) -> Tensor:
    """The mean of the embeddings of a text's tokens, scaled to length one: float32 [N, 256], zeros for a text without tokens.

    Raises:
        ImportError: wordllama or tokenizers is not installed.
        FileNotFoundError: the installed wordllama lacks the files of the version named above.
    """
    tokenizer_file, weights_file = _wordllama_files()
    try:
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ImportError(f"text features need tokenizers and safetensors: {_INSTALL}") from error
    table = load_file(weights_file)["embedding.weight"].float()  # [32000, 256]
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
    spec = importlib.util.find_spec("wordllama")  # finds the folder without importing the package and all it depends on
    if spec is None or spec.origin is None:
        raise ImportError(f"text features need wordllama: {_INSTALL}")
    files = Path(spec.origin).parent / _TOKENIZER, Path(spec.origin).parent / _WEIGHTS
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: text features need wordllama 0.4.0.post1. Run {_INSTALL}")
    return files


def cached(file_name: str, build: Callable[[], Dataset]) -> Dataset:
    """The features in `file_name` of the cache folder, or else those that `build` makes, written there for the next time.

    The folder is $XDG_CACHE_HOME/orthohash-triton, in ~/.cache where that variable is not set. Delete the file to build anew.
    """
    path = cache_folder() / file_name
    if path.is_file():
        return features.load(path)
    dataset = build()
    path.parent.mkdir(parents=True, exist_ok=True)
    features.save(path, dataset)
    return dataset


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orthohash-triton"
