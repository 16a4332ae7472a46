"""What the command line reads."""

from pathlib import Path
from typing import Any

SOURCES = (
    "an image, a folder, manifest (.csv, .parquet) or list (.txt) of images, features (.npy, .npz, .safetensors), "
    "fashion-mnist:train, fashion-mnist:test, digits, debian-packages, wordnet-nouns"
)


def splits_of(config: Any) -> Any:
    """The training set, queries and gallery of the data set that `config` names."""
    return config.load_splits()


def load_model(folder: Path) -> Any:
    """The model of a run folder, or of a folder that `HashModel.save_pretrained` wrote."""
    from ..runs import load_run
    from ..train import HashModel

    if (folder / "config.json").is_file() and not (folder / "index.ibxf").is_file():
        return HashModel.from_pretrained(folder)
    return load_run(folder).model
