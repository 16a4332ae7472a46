"""Tests of backbones from timm and torchvision, with random weights because nothing is downloaded."""

import dataclasses
import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

from orthohash_triton.models import make_backbone, model_zoo
from orthohash_triton.models.backbones import knows_nothing, out_features
from orthohash_triton.models.model_zoo import Standardised
from orthohash_triton.runs import load_run, save_run
from orthohash_triton.train import TrainConfig, train
from orthohash_triton.train.sync_batch_norm import synchronised
from tests.train.data import pictures

MODELS = [  # (name, width of the features); each family names its classifier, or takes image sizes, differently
    ("torchvision:resnet18", 512),
    ("torchvision:alexnet", 4096),
    ("torchvision:squeezenet1_1", 512),
    ("torchvision:mobilenet_v3_small", 1024),
    ("torchvision:maxvit_t", 512),
    ("timm:resnet18", 512),
    ("timm:efficientnet_b0", 1280),
    ("timm:vit_tiny_patch16_224", 192),
]


def require(name: str) -> None:
    try:
        importlib.import_module(name.partition(":")[0])
    except (ImportError, RuntimeError) as error:  # a torchvision that was built for another torch
        pytest.skip(f"cannot be imported: {error}")


def test_images_are_standardised_and_resized() -> None:
    seen = []
    probe = nn.Flatten()
    probe.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    images = torch.rand(2, 3, 10, 10)
    Standardised(probe, (0.1, 0.2, 0.3), (0.5, 1, 2), (8, 10))(images)
    expected = (images - torch.tensor([0.1, 0.2, 0.3]).reshape(3, 1, 1)) / torch.tensor([0.5, 1, 2]).reshape(3, 1, 1)
    torch.testing.assert_close(seen[0], expected)
    plain = (0, 0, 0), (1, 1, 1)
    Standardised(probe, *plain, (12, 14))(images[:, :1])
    assert seen[1].shape == (2, 3, 12, 14)
    assert torch.equal(seen[1][:, 0], seen[1][:, 2])
    Standardised(probe, *plain, (8, 8), fixed=True)(images)
    assert seen[2].shape == (2, 3, 8, 8)


def test_the_classifier_is_the_last_layer_with_a_thousand_outputs() -> None:
    network = nn.Sequential(nn.Linear(5, 1000), nn.Sequential(nn.ReLU(), nn.Linear(1000, 7), nn.Linear(7, 1000)), nn.Dropout())
    model_zoo._remove_classifier(network)
    assert network(torch.rand(2, 5)).shape == (2, 7)
    with pytest.raises(ValueError, match="Linear has no layer of 1000 classes that could be removed"):
        model_zoo._remove_classifier(nn.Linear(5, 4))


def test_a_library_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ImportError, match=r"torchvision, which cannot be imported \(operator .*\): pip install torchvision"):
        make_backbone("torchvision:resnet18", (3, 32, 32))
    with pytest.raises(ImportError, match="backbone timm:NAME needs timm"):
        make_backbone("timm:resnet18", (3, 32, 32))


def test_an_untrained_model_knows_nothing() -> None:
    assert knows_nothing("timm:resnet18", pretrained=False)
    assert not knows_nothing("timm:resnet18", pretrained=True)
    assert not knows_nothing("efficientnet-lite0", pretrained=False)
    config = TrainConfig(dataset="x", method="pca", backbone="timm:resnet18", pretrained=False, bits=8)
    with pytest.raises(ValueError, match="'timm:resnet18' has random weights before training"):
        train(config, pictures(), progress=False)


def test_features_are_not_images() -> None:
    with pytest.raises(ValueError, match=r"'timm:resnet18' does not take features \[N, 5\]"):
        make_backbone("timm:resnet18", (5,))


@pytest.mark.parametrize(("name", "width"), MODELS)
def test_models(name: str, width: int) -> None:
    require(name)
    for shape in ((3, 64, 64), (1, 32, 32)):
        backbone = make_backbone(name, shape, pretrained=False)
        assert out_features(backbone, shape) == width
        features = backbone.train()(torch.rand(2, *shape))
        assert features.shape == (2, width)
        features.sum().backward()
        assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_unknown_models(library: str) -> None:
    require(library)
    with pytest.raises(ValueError, match=rf"{library} has no model 'resnet180'; did you mean resnet18 or "):
        make_backbone(f"{library}:resnet180", (3, 32, 32), pretrained=False)


@pytest.mark.parametrize("name", ["timm:efficientnet_b0", "torchvision:resnet18"])
def test_a_run_is_opened_without_fetching_weights(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require(name)
    config = TrainConfig(dataset="x", backbone=name, pretrained=False, bits=8, epochs=1, batch_size=4, threads=1)
    data = pictures(8, channels=3, size=32)
    trained = train(config, data, progress=False)
    save_run(tmp_path, dataclasses.replace(config, pretrained=True), trained, data)  # as if the weights had been downloaded
    loaded = load_run(tmp_path)
    assert torch.equal(loaded.model.encode(data.inputs), trained.model.encode(data.inputs))


def test_batch_norms_with_an_activation_are_shared_with_it(tmp_path: Path) -> None:
    require("timm")
    import torch.distributed as dist
    from timm.layers import BatchNormAct2d

    network = nn.Sequential(BatchNormAct2d(3))
    assert {type(module) for module in make_backbone("timm:efficientnet_b0", (3, 32, 32), pretrained=False).modules()} >= {
        BatchNormAct2d
    }
    images = torch.randn(4, 3, 8, 8)
    expected = network(images)
    assert expected.min() >= 0  # the activation
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with synchronised(network):
            torch.testing.assert_close(network(images), expected)
    finally:
        dist.destroy_process_group()
