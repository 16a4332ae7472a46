"""Fixtures that the tests of several commands share."""

from pathlib import Path

import numpy as np
import pytest

from orthohash_triton import cli

from . import TRAIN


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder, next to a file codes.npy of 12 codes. Tests must not change it."""
    path = tmp_path_factory.mktemp("run") / "digits"
    assert cli.main(["train", *TRAIN, "--out", str(path), "--quiet"]) == 0
    np.save(path.parent / "codes.npy", np.arange(24, dtype=np.uint8).reshape(12, 2))
    return path
