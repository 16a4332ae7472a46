"""Models and data sources that commands accept."""

from pathlib import Path
from typing import TYPE_CHECKING

from .._base import run_folder

if TYPE_CHECKING:
    from ..train import HashModel

SOURCES = (
    "an image, a folder, manifest (.csv, .parquet) or list (.txt) of images, features (.npy, .npz, .safetensors), "
    "fashion-mnist:train, fashion-mnist:test, digits, debian-packages, wordnet-nouns"
)


def load_model(folder: Path) -> "HashModel":
    """Load the model of a run folder, or of a folder written by `HashModel.save_pretrained`."""
    from ..runs import load_run
    from ..runs.run import holds_run
    from ..train import HashModel

    if (folder / run_folder.CONFIG).is_file() and not holds_run(folder):
        return HashModel.from_pretrained(folder)
    return load_run(folder).model
