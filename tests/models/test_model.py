"""Tests of HashModel, which encodes samples as a Dataset stores them."""

from pathlib import Path

import pytest
import torch
from torch import nn

from orthohash_triton import pack_codes
from orthohash_triton.data.images import ImageFiles
from orthohash_triton.train import HashModel

GREY = torch.randint(0, 256, (10, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> HashModel:
    model = HashModel("small-cnn", 20, (1, 8, 8))
    with torch.no_grad():
        model.train()(model.prepare(GREY))
    return model


def test_a_backbone_by_name_or_as_a_module() -> None:
    assert HashModel("mlp", 8, (5,)).head.linear.in_features == 512
    assert HashModel(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), 8, (1, 8, 8)).head.linear.in_features == 3
    with pytest.raises(ValueError, match="backbone must be one of"):
        HashModel("vgg-of-tomorrow", 8, (1, 8, 8))


def test_codes_are_signs_of_the_continuous_codes(model: HashModel) -> None:
    values = model.continuous_codes(GREY)
    assert values.shape == (10, 20)
    assert torch.equal(model.encode(GREY), pack_codes(values))
    model.eval()
    assert torch.equal(values, model(GREY[:, None] / 255))


def test_encoding_is_in_evaluation_mode_and_leaves_the_mode(model: HashModel) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.encode(GREY)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_layers_that_the_caller_froze_stay_frozen(model: HashModel) -> None:
    model.backbone.eval()
    for ask in (model.encode, model.features, model.continuous_codes):
        ask(GREY)
        assert model.training
        assert model.head.training
        assert not any(part.training for part in model.backbone.modules())


def test_batches_change_nothing_and_may_be_none(model: HashModel) -> None:
    torch.testing.assert_close(model.continuous_codes(GREY, batch_size=3), model.continuous_codes(GREY))
    assert model.encode(GREY[:0]).shape == (0, 3)
    assert model.features(GREY[:0]).shape == (0, 256)


def test_other_samples_are_refused(model: HashModel) -> None:
    with pytest.raises(ValueError, match=r"takes samples of shape \[8, 8\]; got inputs \[10, 7, 8\]"):
        model.encode(GREY[:, 1:])


def test_images_that_stay_in_their_files(model: HashModel, tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image")
    paths = [tmp_path / f"{i}.png" for i in range(len(GREY))]
    for path, image in zip(paths, GREY, strict=True):
        Image.fromarray(image.numpy()).save(path)
    files = ImageFiles(paths, size=8, grey=True)
    assert torch.equal(model.encode(files, batch_size=4), model.encode(GREY, batch_size=4))
    assert torch.equal(model.encode(files.subset(torch.arange(0))), model.encode(GREY[:0]))
