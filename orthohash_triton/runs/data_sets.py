"""The data set of a run: where it is now, and whether it is still the one that the run was trained on."""

from pathlib import Path

import torch

from ..data import Dataset, Splits, places
from ..data.fingerprint import below_their_folder, fingerprint
from ..ops.pack_codes import unpack_codes
from .run import Run

COMPARED = 200  # samples whose codes are compared with the index in `is_gallery_of`
OTHER_BITS = 0.1  # largest share of differing bits; rounding changes fewer bits, other samples more


def load_data_set(run: Run) -> Splits:
    """Load the data set of `run` from where it is now (see `load_run`).

    Raises:
        FileNotFoundError: there is nothing in any of the places where the data set may be.
        ValueError: the data set cannot be read, or its gallery is not that of the run.

    Example:
        >>> from orthohash_triton.runs import save_run
        >>> from orthohash_triton.runs.data_sets import load_data_set
        >>> from orthohash_triton.train import TrainConfig, train
        >>> config = TrainConfig(dataset="digits", method="lsh", bits=16, threads=1)
        >>> splits = config.load_splits()
        >>> run = save_run("run", config, train(config, splits.train, progress=False), splits.gallery)
        >>> len(load_data_set(run).query)
        359
    """
    looked = places.tried(run.data.get("places", {}), run.path)
    if looked and not Path(run.config.dataset).exists():
        raise FileNotFoundError(f"the data set of {run.path} is not at {' or '.join(looked)}. Say where it is now with --dataset")
    splits = run.config.load_splits()
    if not is_gallery_of(run, splits.gallery):
        raise ValueError(
            f"the data set {run.config.dataset} has changed: it is not the one that {run.path} was trained on. "
            "Say where that one is with --dataset, or train again"
        )
    return splits


def is_gallery_of(run: Run, gallery: Dataset) -> bool:
    """Return whether the index of `run` has the codes of `gallery`. If not, the index may contain the current queries.

    A gallery with another fingerprint is accepted if labels and names of the files are equal, and the codes of some samples
    differ in a few bits only: images that were compressed again, or features that were computed on another machine.

    Example:
        >>> import torch
        >>> from orthohash_triton.runs import save_run
        >>> from orthohash_triton.runs.data_sets import is_gallery_of
        >>> from orthohash_triton.train import TrainConfig, train
        >>> config = TrainConfig(dataset="digits", method="lsh", bits=16, threads=1)
        >>> splits = config.load_splits()
        >>> run = save_run("run", config, train(config, splits.train, progress=False), splits.gallery)
        >>> is_gallery_of(run, splits.gallery), is_gallery_of(run, splits.query)
        (True, False)
    """
    if gallery.sample_shape != run.model.sample_shape or gallery.labels.tolist() != run.gallery_labels.tolist():
        return False
    if fingerprint(gallery) == run.data.get("fingerprint"):
        return True
    by_name = gallery.paths is not None and run.gallery_paths is not None
    if by_name and below_their_folder(gallery.paths or ()) != below_their_folder(run.gallery_paths or ()):
        return False
    if len(gallery) == 0:
        return True
    rows = torch.linspace(0, len(gallery) - 1, min(COMPARED, len(gallery))).round().long().unique()
    codes, held = (
        unpack_codes(packed, run.index.bits)
        for packed in (run.model.encode(gallery.subset(rows).inputs), run.index.codes[rows].cpu())
    )
    return float((codes != held).float().mean()) < OTHER_BITS
