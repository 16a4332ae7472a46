"""Tests of HashModel, which encodes samples as a Dataset stores them, and images of any form."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from orthohash_triton import pack_codes
from orthohash_triton.data import folders
from orthohash_triton.data.images import ImageFiles
from orthohash_triton.models._inputs import as_samples
from orthohash_triton.train import HashModel

GREY = torch.randint(0, 256, (10, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> HashModel:
    model = HashModel("small-cnn", 20, (1, 8, 8), padded=True)
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
    paths = [tmp_path / f"{i}.png" for i in range(len(GREY))]
    for path, image in zip(paths, GREY, strict=True):
        Image.fromarray(image.numpy()).save(path)
    files = ImageFiles(paths, size=8, grey=True)
    assert torch.equal(model.encode(files, batch_size=4), model.encode(GREY, batch_size=4))
    assert torch.equal(model.encode(files.subset(torch.arange(0))), model.encode(GREY[:0]))


# ---- images, files, arrays and lists ---------------------------------------------------------------------------------------


@pytest.fixture
def colour() -> HashModel:
    torch.manual_seed(0)
    return HashModel("pixels", 24, (3, 8, 8), batch_norm=False)


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def test_one_image_in_any_form(colour: HashModel, photo: np.ndarray, tmp_path: Path) -> None:
    """Every form of one image has the code of its file, which is that of a data set."""
    Image.fromarray(photo).save(tmp_path / "x.png")
    stored = folders.load(tmp_path, size=8).inputs
    expected = colour.encode(stored)
    path = tmp_path / "x.png"
    with Image.open(path) as opened:
        forms = {
            "path": path, "text": str(path), "array": photo, "pillow": Image.fromarray(photo), "opened": opened,
            "read-only": np.asarray(opened), "several": photo[None], "tensors": [torch.from_numpy(photo).permute(2, 0, 1)],
            "list": [photo], "tuple": (path,), "opaque": np.dstack([photo, np.full((20, 30), 255, np.uint8)]),
            "backwards": photo[::-1][::-1], "stored": stored.numpy(),
        }  # fmt: skip
        for name, form in forms.items():
            assert torch.equal(colour.encode(form), expected), name
    assert torch.equal(colour.continuous_codes(path), colour.continuous_codes(stored))
    assert torch.equal(colour.features([path]), colour.features(stored))


def test_lists_of_any_size(colour: HashModel, photo: np.ndarray, tmp_path: Path) -> None:
    sizes = [(8, 8), (20, 30), (3, 5), (1, 1), (40, 9)]
    images = [photo[:height, :width] if height <= 20 else np.tile(photo, (2, 1, 1))[:height, :width] for height, width in sizes]
    paths = []
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    expected = colour.encode(ImageFiles(paths, size=8))
    for batch_size in (1, 2, 100):
        assert torch.equal(colour.encode(paths, batch_size=batch_size), expected)
        assert torch.equal(colour.encode(images, batch_size=batch_size), expected)
        mixed = [str(paths[0]), images[1], Image.fromarray(images[2]), paths[3], torch.from_numpy(images[4]).permute(2, 0, 1)]
        assert torch.equal(colour.encode(mixed, batch_size=batch_size), expected)
    assert colour.encode([]).shape == (0, 3)
    Image.fromarray(np.tile(photo, (30, 20, 1))).save(tmp_path / "large.jpg")  # a file that is decoded at a fraction of its size
    alone, among = (as_samples(form, (3, 8, 8)) for form in (tmp_path / "large.jpg", [tmp_path / "large.jpg", photo]))
    assert torch.equal(next(alone.split(1))[0], next(among.split(2))[0])


def test_grey_models_and_grey_images(model: HashModel, colour: HashModel, photo: np.ndarray) -> None:
    grey = np.asarray(Image.fromarray(photo).convert("L"))
    for form in (grey, grey[..., None], Image.fromarray(photo), [torch.from_numpy(grey.copy())]):
        assert torch.equal(model.encode(form), model.encode(grey))
    assert torch.equal(model.encode(GREY.numpy()), model.encode(GREY))
    assert torch.equal(colour.encode(grey), colour.encode(np.dstack([grey] * 3)))
    clear = np.dstack([photo, np.zeros((20, 30), np.uint8)])
    assert torch.equal(colour.encode(clear), colour.encode(np.full((9, 9, 3), 255, np.uint8)))


def test_samples_that_are_not_square() -> None:
    model = HashModel("pixels", 8, (1, 4, 8), batch_norm=False)
    halves = np.zeros((10, 40), np.uint8)
    halves[:, 20:] = 200
    stored = torch.zeros(1, 4, 8, dtype=torch.uint8)
    stored[..., 4:] = 200
    (inputs,) = as_samples(halves, (1, 4, 8)).split(1)
    assert inputs.shape == (1, 4, 8)
    assert (inputs[..., :3] == 0).all()
    assert (inputs[..., 5:] == 200).all()
    assert model.encode(halves).shape == (1, 1)


def test_features_as_arrays_and_lists() -> None:
    model = HashModel("features", 16, (6,))
    rows = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    expected = model.encode(rows)
    for form in (rows.numpy(), rows.double().numpy(), rows.numpy().astype(">f4"), list(rows.numpy()), list(rows), rows.tolist()):
        assert torch.equal(model.encode(form), expected)
    assert model.encode([]).shape == (0, 2)
    for wrong in ([np.zeros(5)], ["a"], [None], [Path("x.jpg")]):
        with pytest.raises(ValueError, match=r"inputs\[0\] must be a vector of 6 numbers; got "):
            model.encode(wrong)
    for wrong in (np.array(["a"]), "x.jpg", None, np.zeros((5, 6), complex)):
        with pytest.raises(TypeError, match=r"the model takes features, float32 \[N, 6\]"):
            model.encode(wrong)
    with pytest.raises(ValueError, match=r"takes samples of shape \[6\]; got inputs \[2, 7\]"):
        model.encode(np.zeros((2, 7)))


def test_what_is_no_image(colour: HashModel, photo: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"bad\.jpg cannot be read as an image \(not an image of a known format\)"):
        colour.encode([photo, tmp_path / "bad.jpg"])
    with pytest.raises(ValueError, match=r"bad\.jpg cannot be read as an image"):
        colour.encode(tmp_path / "bad.jpg")
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg does not exist; expected an image file"):
        colour.encode([tmp_path / "bad.jpg", tmp_path / "gone.jpg"])
    with pytest.raises(ValueError, match=r"is a folder; pass its files, or encode it with orthohash_triton\.runs\.encode_to"):
        colour.encode(tmp_path)
    for wrong in (None, 3, [photo, 3], {"image": photo}, b"\x89PNG"):
        with pytest.raises(TypeError, match=r"(?s)inputs\[[01]\] is not an image; got .*Pass samples as a data set stores them"):
            colour.encode(wrong)
    for wrong in (photo.astype(np.float32) / 255, photo.transpose(2, 0, 1), np.zeros((2, 2, 2, 2, 2), np.uint8), photo[:, :, :2]):
        with pytest.raises(ValueError, match=r"inputs\[0\]: an array of one image must be uint8 \[height, width\]"):
            colour.encode(wrong)
    with pytest.raises(ValueError, match=r"inputs\[1\]: a tensor of one image must be uint8 \[H, W\] or \[channels, H, W\]"):
        colour.encode([photo, torch.zeros(20, 30, 3, dtype=torch.uint8)])
    with pytest.raises(ValueError, match=r"inputs\[0\] has no pixels"):
        colour.encode(photo[:0])
    with pytest.raises(ValueError, match="pass them as a tensor"):
        HashModel("pixels", 8, (2, 8, 8)).encode([photo])
