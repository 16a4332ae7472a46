"""Tests that the Python blocks of the pages run in order, and that the parser accepts their command lines."""

import contextlib
import io
import re
import shlex
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn

from orthohash_triton import HammingIndex, compare, make_codebook, methods, pack_codes
from orthohash_triton.cli import make_parser
from orthohash_triton.train import TrainConfig, checkpoint
from tests.docs import pages
from tests.processes import run_script

WITH_PYTHON = [path for path in pages.PAGES if any("title=" not in b.options for b in pages.blocks(path, "python"))]
SCRIPTS = [(path, block) for path in pages.PAGES for block in pages.blocks(path, "python") if "title=" in block.options]
COMMANDS = [(path, line) for path in pages.PAGES for line in dict.fromkeys(pages.commands(path))]

CLASSES = 100


def names() -> dict[str, object]:
    """Return the variables that the pages use without defining them."""
    random, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    images = torch.rand(32, 3, 8, 8, generator=generator)
    target = torch.randint(CLASSES, (32,), generator=generator)
    catalogue = HammingIndex(64)
    catalogue.add_with_ids(random.integers(0, 256, (5, 8), dtype=np.uint8), range(5000, 5005))
    gallery_vectors, query_vectors = random.standard_normal((300, 64)), random.standard_normal((4, 64))
    return {
        "num_classes": CLASSES,
        "images": images,
        "target": target,
        "features": torch.randn(32, 512, generator=generator),
        "multi_hot": (torch.rand(32, CLASSES, generator=generator) < 0.05).float(),
        "loader": [(images, target)] * 2,
        "backbone": nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 512)),
        "gallery_codes": pack_codes(gallery_vectors),
        "query_codes": pack_codes(query_vectors),
        "gallery_labels": random.integers(0, 10, 300),
        "query_labels": random.integers(0, 10, 4),
        "gallery_vectors": gallery_vectors,
        "query_vectors": query_vectors,
        "ubinary_embeddings": np.packbits(gallery_vectors > 0, axis=1),
        "embeddings": (np.packbits(gallery_vectors > 0, axis=1) - 128).astype(np.int8),
        "published": random.random(300) < 0.5,
        "article_numbers": random.permutation(1000)[:300],
        "other_catalogue": catalogue,
        "ivf": inverted_file(gallery_vectors),
    }


def inverted_file(vectors):
    """Return a binary inverted file of FAISS with the signs of `vectors`, or None if FAISS is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    ivf = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(64), 64, 4)
    ivf.train(pack_codes(vectors))
    ivf.add(pack_codes(vectors))
    return ivf


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Enter an empty folder with the files that the scripts read; unregister the methods of a page afterwards.

    Figures of a comparison are not drawn, because they are slow and have their own tests.
    """
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    np.save("codes.npy", random.integers(0, 256, (300, 8), dtype=np.uint8))
    np.save("queries.npy", random.integers(0, 256, (4, 8), dtype=np.uint8))
    (tmp_path / "runs").mkdir()
    write_original(tmp_path / "logs" / "run")
    monkeypatch.setattr(methods, "_registry", methods._registry.copy())
    monkeypatch.setattr(compare, "draw_comparison", lambda *_: None)
    return tmp_path


def write_original(folder):
    """Write a run folder of the original OrthoHash, without a backbone."""
    norm = nn.BatchNorm1d(64).state_dict()
    codebook = make_codebook(CLASSES, 64).float()
    state = {"hash_fc.0.weight": torch.randn(64, 512), **{f"hash_fc.1.{key}": tensor for key, tensor in norm.items()}}
    (folder / "models").mkdir(parents=True)
    (folder / "outputs").mkdir()
    torch.save({**state, "ce_fc.centroids": codebook}, folder / "models" / "best.pth")
    torch.save(codebook, folder / "outputs" / "codebook.pth")


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("path", WITH_PYTHON, ids=pages.name)
def test_python_of_a_page_runs(path, folder):
    if path.name == "faiss.md":
        pytest.importorskip("faiss")
    known = names()
    for block in pages.blocks(path, "python"):
        if "title=" not in block.options:
            code = "\n" * (block.line - 1) + block.code  # a traceback then shows the line of the page
            exec(compile(code, str(path), "exec", dont_inherit=True), known)


@pytest.mark.parametrize(("path", "block"), SCRIPTS, ids=lambda value: getattr(value, "name", None) or value.options)
def test_scripts_run(path, block, folder):
    """The first line of a script is the command that starts it, such as `torchrun --nproc-per-node=2 train.py`."""
    script = block.options.partition('title="')[2].partition('"')[0]
    (folder / script).write_text(block.code)
    command = block.code.splitlines()[0]
    processes, named = re.fullmatch(r"# torchrun --nproc-per-node=(\d+) (\S+)", command).groups()
    assert named == script
    run_script(folder / script, processes=int(processes), folder=folder)


def write_settings(path, folder):
    """Write the configuration files that a page shows, and a run folder, for `--config`."""
    for block in pages.blocks(path, "toml"):
        (folder / block.options.partition('title="')[2].partition('"')[0]).write_text(block.code)
    (folder / "runs" / "photos").mkdir()
    (folder / "runs" / "photos" / "config.json").write_text('{"format": 1, "config": {"bits": 32}}')


@pytest.mark.parametrize(("path", "line"), COMMANDS, ids=lambda value: getattr(value, "name", value))
def test_command_lines_parse(path, line, folder, monkeypatch):
    write_settings(path, folder)
    monkeypatch.setattr(checkpoint, "checkpoint_settings", lambda folder: asdict(TrainConfig()))  # settings of a stopped training
    words = shlex.split(line, comments=True)
    arguments = words[1:] if words[0] == "orthohash" else words[words.index("-m") + 2 :]
    arguments = arguments[: next((i for i, word in enumerate(arguments) if word in ("|", ">", "&&")), None)]
    said = io.StringIO()
    status = 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            make_parser().parse_args(arguments)
        except SystemExit as ended:  # --help exits
            status = ended.code
    assert status == 0, f"{pages.name(path)}: {line}\n{said.getvalue()}"


def test_pages_contain_blocks_and_commands():
    assert len(WITH_PYTHON) >= 10
    assert len(SCRIPTS) >= 1
    assert len(COMMANDS) >= 30
