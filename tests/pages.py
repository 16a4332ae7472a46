"""Small runs and a headless browser, shared by the tests of the report and of browsing."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orthohash_triton.runs import load_run, save_run
from orthohash_triton.runs.evaluation import evaluate_run
from orthohash_triton.runs.run import Run
from orthohash_triton.train import TrainConfig, train

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync --no-first-run"


def make_run(out: Path, dataset: object, *, evaluated: bool = True, **settings: Any) -> Run:
    """Train on `dataset` for a few seconds, and return the run as opened from its folder."""
    quick = {"bits": 16, "epochs": 1, "batch_size": 64, "threads": 1, "image_size": 16}
    config = TrainConfig(dataset=str(dataset), **quick | settings)
    splits = config.load_splits()
    save_run(out, config, train(config, splits.train, progress=False), splits.gallery)
    run = load_run(out)
    if evaluated:
        evaluate_run(run, splits.query)
    return run


def features_file(path: Path, labels: np.ndarray, names: list[str]) -> Path:
    """Write features [N, 24] with well separated classes, and labels [N] or [N, C], to `path`, and return it."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.as_tensor(labels)
    hot = rows.float() if rows.ndim == 2 else torch.nn.functional.one_hot(rows, len(names)).float()
    features = hot @ torch.randn(len(names), 24, generator=generator) + 0.3 * torch.randn(len(hot), 24, generator=generator)
    np.savez(path, features=features.numpy(), labels=labels, class_names=np.array(names))
    return path


def image_folder(path: Path, names: list[str], each: int = 8, mode: str = "RGB") -> Path:
    """Write `each` images of 24 x 16 pixels for each of the classes `names`, with noise around one colour per class."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for number, name in enumerate(names):
        (path / name).mkdir(parents=True)
        for i in range(each):
            base = np.array([40 + 170 * (number % 2), 120, 220 - 150 * (number % 2)])
            pixels = (base + generator.integers(-30, 30, (16, 24, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).convert(mode).save(path / name / f"{i}.png")
    return path


@pytest.fixture(scope="module")  # an open browser occupies the event loop of the thread, which other tests need
def browser() -> Iterator[Any]:
    """Yield headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS.split())
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return an evaluated run of two epochs on scikit-learn's digits. Folders that import this fixture share the run."""
    pytest.importorskip("sklearn")
    path = tmp_path_factory.getbasetemp() / "digits-run"
    if (path / "metrics.json").is_file() and "evaluation" in json.loads((path / "metrics.json").read_text()):
        return load_run(path)
    return make_run(path, "digits", epochs=2, validation=0.1)


class Watched:
    """The error and warning messages of a page, and the addresses that it requested."""

    def __init__(self, page: Any) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))


def until(page: Any, condition: str, argument: Any = None, seconds: float = 20) -> None:
    """Wait until a JavaScript `condition` holds, by polling from Python: the page's policy forbids evaluation in the page."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition, argument):
        assert time.monotonic() < end, f"{condition} did not come true in {seconds} s"
        page.wait_for_timeout(20)
