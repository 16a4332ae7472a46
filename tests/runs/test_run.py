import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from orthohash_triton.data import UNLABELLED, Dataset, Splits, digits
from orthohash_triton.runs import Run, load_run, save_run
from orthohash_triton.runs.data_sets import is_gallery_of
from orthohash_triton.runs.evaluation import evaluate_codes, evaluate_run
from orthohash_triton.runs.run import Queries, make_way
from orthohash_triton.train import TrainConfig, train

from ..kills import kill_at_every_call, needs_fork
from ..notes import edit_note, forget_files

CONFIG = TrainConfig(dataset="digits", bits=16, epochs=1, batch_size=64, flip=False, threads=1)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return digits.load_splits()


@pytest.fixture(scope="module")
def trained(splits: Splits):
    return train(CONFIG, splits.train, progress=False)


@pytest.fixture
def run(tmp_path: Path, trained, splits: Splits) -> Run:
    return save_run(tmp_path / "run", CONFIG, trained, splits.gallery)


def test_what_was_saved_is_what_is_loaded(run: Run, splits: Splits) -> None:
    loaded = load_run(run.path)
    assert loaded.config == CONFIG
    assert loaded.class_names == splits.gallery.class_names
    assert torch.equal(loaded.codebook, run.codebook)
    assert torch.equal(loaded.gallery_labels, splits.gallery.labels)
    assert torch.equal(loaded.index.codes, run.model.encode(splits.gallery.inputs))
    assert torch.equal(loaded.model.encode(splits.query.inputs), run.model.encode(splits.query.inputs))
    assert loaded.metrics["epochs"][0]["loss"] == run.metrics["epochs"][0]["loss"]


def test_the_index_opens_in_faiss_and_the_weights_in_safetensors(run: Run) -> None:
    faiss = pytest.importorskip("faiss")
    index = faiss.read_index_binary(str(run.path / "index.ibxf"))
    assert (index.ntotal, index.d) == (run.index.ntotal, 16)
    assert "head.linear.weight" in load_file(run.path / "model.safetensors")
    assert load_file(run.path / "codebook.safetensors")["codebook"].dtype == torch.int8


def test_evaluation_is_kept(run: Run, splits: Splits) -> None:
    figures = evaluate_codes(run.index, run.model.encode(splits.query.inputs), splits.query.labels, run.gallery_labels)
    run.add_evaluation(figures)
    assert load_run(run.path).metrics["evaluation"] == figures
    assert figures["bytes_per_image"] == 2
    assert 0.5 < figures["map_at_all"] <= 1  # one epoch on the digits is far better than chance, 0.1


def test_queries_are_kept(run: Run, splits: Splits, trained) -> None:
    evaluate_run(run, splits.query)
    kept = load_file(run.path / "queries.safetensors")
    assert torch.equal(kept["codes"], run.model.encode(splits.query.inputs))
    assert torch.equal(kept["labels"], splits.query.labels)
    assert not (run.path / "query_paths.json").exists()
    files = [Path(f"{i}.jpg") for i in range(len(splits.query))]
    evaluate_run(run, dataclasses.replace(splits.query, paths=tuple(files)))
    assert json.loads((run.path / "query_paths.json").read_text()) == [str(file) for file in files]
    save_run(run.path, CONFIG, trained, splits.gallery)  # replaces the run, so its figures no longer apply
    assert not (run.path / "queries.safetensors").exists()
    assert not (run.path / "query_paths.json").exists()
    with pytest.raises(ValueError, match="holiday has no labels; an evaluation needs the labels of the queries"):
        evaluate_run(run, Dataset(splits.query.inputs, 0 * splits.query.labels, (UNLABELLED,), "holiday"))


def test_a_new_training_makes_way_only_if_it_is_told_to(run: Run) -> None:
    with pytest.raises(FileExistsError, match="holds a finished run: choose another folder, or add --overwrite"):
        make_way(run.path)
    make_way(run.path, overwrite=True)
    assert load_run(run.path).config == CONFIG  # the old run remains until a new one replaces it
    (run.path / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(FileExistsError, match=r"holds an unfinished training: resume it with --resume .*, or add --overwrite"):
        make_way(run.path)
    make_way(run.path, overwrite=True)
    assert not (run.path / "checkpoint.pt").exists()
    make_way(run.path / "new")


def test_a_backbone_of_ones_own_is_asked_for(tmp_path: Path, splits: Splits) -> None:
    def backbone() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12))

    trained = train(CONFIG, splits.train, backbone=backbone(), progress=False)
    save_run(tmp_path, CONFIG, trained, splits.gallery, custom_backbone=True)
    with pytest.raises(ValueError, match=r"load_run\(path, backbone=\.\.\.\)"):
        load_run(tmp_path)
    loaded = load_run(tmp_path, backbone=backbone())
    assert torch.equal(loaded.model.encode(splits.query.inputs), trained.model.encode(splits.query.inputs))
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit"):
        load_run(tmp_path, backbone=nn.Sequential(nn.Flatten(), nn.Linear(64, 13)))


def edit_config(run: Run, **changes) -> None:
    edit_note(run.path / "config.json", **changes)


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not a run folder: it has no config\.json"):
        load_run(tmp_path)
    (tmp_path / "config.json").write_text('{"model": "something else"}')
    with pytest.raises(ValueError, match="was not written by orthohash train"):
        load_run(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not a readable JSON file"):
        load_run(tmp_path)


def test_a_run_that_replaces_another_has_none_of_its_files(run: Run, splits: Splits) -> None:
    """Otherwise the codebook, queries and checkpoint of the old run would be used as those of the new one."""
    run.add_queries(run.index.codes[:3], run.gallery_labels[:3], [Path("a.png"), Path("b.png"), Path("c.png")])
    (run.path / "checkpoint.pt").write_bytes(b"of the run before")
    assert {"codebook.safetensors", "queries.safetensors", "query_paths.json"} <= {path.name for path in run.path.iterdir()}
    config = dataclasses.replace(run.config, method="lsh", backbone="auto")
    save_run(run.path, config, train(config, splits.train, progress=False), splits.gallery)
    assert sorted(path.name for path in run.path.iterdir()) == [
        "config.json", "index.ibxf", "labels.safetensors", "metrics.json", "model.safetensors"
    ]  # fmt: skip
    assert load_run(run.path).codebook is None


@pytest.mark.parametrize(
    "name", ["metrics.json", "model.safetensors", "codebook.safetensors", "labels.safetensors", "index.ibxf"]
)
def test_a_missing_file_is_named(run: Run, name: str) -> None:
    (run.path / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_run(run.path)


@pytest.mark.parametrize("name", ["model.safetensors", "index.ibxf"])
def test_a_truncated_file_is_named(run: Run, name: str) -> None:
    (run.path / name).write_bytes((run.path / name).read_bytes()[:20])
    with pytest.raises(ValueError, match=rf"{name} is not the file that .*config\.json names: it has 20 bytes"):
        load_run(run.path)
    forget_files(run.path / "config.json")  # a run of before the checksums
    with pytest.raises(ValueError, match=rf"{name} is (not a readable|truncated)"):
        load_run(run.path)


def test_versions_that_do_not_fit(run: Run) -> None:
    edit_config(run, format=1)
    with pytest.raises(ValueError, match="run format 1; this version reads 2"):
        load_run(run.path)
    edit_config(run, format=2, config={"bits": 16, "warmth": 3})
    with pytest.raises(ValueError, match="settings that this version does not have: warmth"):
        load_run(run.path)


def test_a_run_of_before_a_setting_was_there(run: Run) -> None:
    config = json.loads((run.path / "config.json").read_text())["config"]
    edit_config(run, config={name: config[name] for name in ("dataset", "bits", "epochs", "batch_size", "flip", "threads")})
    assert load_run(run.path).config == CONFIG


def test_tied_weights(tmp_path: Path, splits: Splits) -> None:
    def tied() -> nn.Module:
        layer = nn.Linear(64, 64)
        return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer)

    trained = train(CONFIG, splits.train, backbone=tied(), progress=False)
    run = save_run(tmp_path / "run", CONFIG, trained, splits.gallery, custom_backbone=True)
    assert torch.equal(
        load_run(run.path, backbone=tied()).model.encode(splits.query.inputs), trained.model.encode(splits.query.inputs)
    )


def test_a_gallery_that_cannot_be_encoded_leaves_the_run(
    run: Run, trained, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("orthohash_triton.train.HashModel.encode", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        save_run(run.path, CONFIG, trained, splits.gallery)
    assert load_run(run.path).config == CONFIG


def test_a_save_that_fails_half_way_leaves_the_old_run(
    run: Run, trained, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    monkeypatch.setattr("orthohash_triton.search.HammingIndex.save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_run(run.path, CONFIG, trained, splits.gallery)
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_files_of_two_runs(run: Run, splits: Splits) -> None:
    run.index.add(run.index.codes[:1].clone())
    run.index.save(run.path / "index.ibxf")
    with pytest.raises(ValueError, match=r"index\.ibxf is not the file that .*config\.json names: it has .* bytes, expected"):
        load_run(run.path)
    forget_files(run.path / "config.json")
    with pytest.raises(ValueError, match="the files are not of one run"):
        load_run(run.path)


def test_a_folder_with_an_unfinished_training(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="a training that is not finished: resume it with `orthohash train --resume"):
        load_run(tmp_path)


def test_a_config_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json was not written by orthohash train"):
        make_way(tmp_path, overwrite=True)


def test_a_gallery_that_is_another_is_told(run: Run, splits: Splits) -> None:
    assert is_gallery_of(run, splits.gallery)
    noise = dataclasses.replace(splits.gallery, inputs=torch.randperm(256)[splits.gallery.inputs.long()].byte())
    assert not is_gallery_of(run, noise)
    assert not is_gallery_of(run, splits.gallery.subset(torch.arange(len(splits.gallery)).flip(0)))
    paths = tuple(f"/a/{i % 3}/{i}.jpg" for i in range(len(splits.gallery)))
    moved, other = (tuple(path.replace(*names) for path in paths) for names in (("/a/", "/b/c/"), ("/7.jpg", "/77777.jpg")))
    run = dataclasses.replace(run, gallery_paths=paths, data={})  # as a run of a version that stored no fingerprint
    assert is_gallery_of(run, dataclasses.replace(splits.gallery, paths=moved))
    assert not is_gallery_of(run, dataclasses.replace(noise, paths=moved))  # other images with the same names
    assert not is_gallery_of(run, dataclasses.replace(splits.gallery, paths=other))


# ---- files that fit each other, and interruptions --------------------------------------------------------------------------


def with_pictures(splits: Splits) -> Dataset:
    return dataclasses.replace(splits.gallery, paths=tuple(Path(f"{i}.png") for i in range(len(splits.gallery))))


@pytest.mark.parametrize("checksums", [True, False])
def test_names_of_images_that_are_not_those_of_the_index(tmp_path: Path, trained, splits: Splits, checksums: bool) -> None:
    """One name less, and every hit would have the name of its neighbour."""
    run = save_run(tmp_path, CONFIG, trained, with_pictures(splits))
    run.add_queries(run.index.codes[:3], run.gallery_labels[:3], ["a.png", "b.png", "c.png"])
    (tmp_path / "paths.json").write_text(json.dumps(run.gallery_paths[1:]))
    (tmp_path / "query_paths.json").write_text(json.dumps(["b.png", "c.png"]))
    if checksums:
        with pytest.raises(ValueError, match=r"paths\.json is not the file that .*config\.json names"):
            load_run(tmp_path)
        with pytest.raises(ValueError, match=r"query_paths\.json is not the file that .*config\.json names"):
            run.queries()
        return
    forget_files(tmp_path / "config.json")
    with pytest.raises(
        ValueError, match=r"paths\.json has 1,437 file names, index\.ibxf 1,438 codes; the files are not of one run"
    ):
        load_run(tmp_path)
    with pytest.raises(ValueError, match=r"query_paths\.json has 2 file names, queries\.safetensors 3 codes"):
        run.queries()
    for damaged in ({"a": 1}, [1] * run.index.ntotal):
        (tmp_path / "paths.json").write_text(json.dumps(damaged))
        with pytest.raises(
            ValueError, match=r"paths\.json is not a readable list of file names \(it must hold a list of names\)"
        ):
            load_run(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0"] * 9, r"labels\.safetensors has class ids from 0 to 9, config\.json the names of 9 classes"),
        (["0"] * 11, r"codebook\.safetensors has a codebook int8 \[10, 16\]; config\.json says 11 classes and 16 bits"),
        ("0123456789", "class_names must be a list of names; got 0123456789"),
        ([], "class_names must be a list of names"),
        ([*range(10)], "class_names must be a list of names"),
    ],
)
def test_class_names_that_are_not_those_of_the_labels(run: Run, names: object, message: str) -> None:
    edit_config(run, class_names=names)
    with pytest.raises(ValueError, match=message):
        load_run(run.path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(1438, 9, dtype=torch.bool), r"must hold class ids int64 \[N\] or bool \[N, 10\].*; got bool \[1438, 9\]"),
        (torch.zeros(1438, 10), r"must hold class ids int64 \[N\] or bool \[N, 10\].*; got float32 \[1438, 10\]"),
        (torch.full((1438,), -1), "has class ids from -1 to -1"),
    ],
)
def test_labels_that_are_none_of_the_classes(run: Run, labels: torch.Tensor, message: str) -> None:
    forget_files(run.path / "config.json")
    save_file({"gallery": labels}, run.path / "labels.safetensors")
    with pytest.raises(ValueError, match=rf"labels\.safetensors {message}"):
        load_run(run.path)


def test_flipped_bits_are_refused(run: Run) -> None:
    """A flipped bit of a weight, a code, a label or a figure changes results without any other sign."""
    for name in ("model.safetensors", "codebook.safetensors", "labels.safetensors", "index.ibxf", "metrics.json", "config.json"):
        whole = (run.path / name).read_bytes()
        damaged = bytearray(whole)
        damaged[-7] ^= 4
        (run.path / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=name):
            load_run(run.path)
        (run.path / name).write_bytes(whole)
    load_run(run.path)


@needs_fork
@pytest.mark.parametrize("what", ["save", "evaluate"])
def test_killed_at_every_call(tmp_path: Path, splits: Splits, what: str) -> None:
    """A run is the old or the new one, and the figures of an evaluation belong to its queries."""
    labels = torch.arange(6) % 2
    data = Dataset(torch.eye(6, 8), labels, ("cat", "dog"), "toy")
    config = TrainConfig(dataset="digits", method="lsh", bits=16, threads=1)
    first, second = (train(dataclasses.replace(config, seed=seed), data, progress=False) for seed in (0, 1))
    listed = dataclasses.replace(data, paths=tuple(Path(f"{i}.png") for i in range(6)))
    old = save_run(tmp_path, config, first, listed)
    new_codes = second.model.encode(data.inputs)
    old_codes = old.index.codes.clone()
    assert not torch.equal(old_codes, new_codes)
    second.model.encode = lambda inputs: new_codes  # type: ignore[method-assign]  # a forked child cannot use OpenMP

    def act() -> None:
        if what == "save":
            save_run(tmp_path, config, second, data)
        else:
            old.add_evaluation({"map": 2}, Queries(new_codes, labels, None))

    def prepare() -> None:
        if what == "save":
            save_run(tmp_path, config, first, listed)
        else:
            old.add_evaluation({"map": 1}, Queries(old_codes, labels, ["a"] * 6))

    def check() -> None:
        found = load_run(tmp_path)
        if what == "save":
            is_old = torch.equal(found.index.codes, old_codes)
            assert is_old or torch.equal(found.index.codes, new_codes)
            assert (found.gallery_paths is not None) == is_old
            weights = (first if is_old else second).model.state_dict()
            assert all(map(torch.equal, found.model.state_dict().values(), weights.values()))
        else:
            queries = found.queries()
            is_old = found.metrics["evaluation"] == {"map": 1}
            assert torch.equal(queries.codes, old_codes if is_old else new_codes)
            assert (queries.paths is not None) == is_old
        act()
        assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]

    assert kill_at_every_call(act, prepare, check) > 15
