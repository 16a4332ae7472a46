"""Tests with generated checkpoints that have the file names, keys and shapes of the original OrthoHash."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from orthohash_triton.models.original import AlexNet, Standardised, load_original
from orthohash_triton.train import HashModel

BITS, CLASSES, FEATURES = 16, 10, 12


def backbone() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, FEATURES))


class OriginalNetwork(nn.Module):
    """A network whose parts have the names of the original implementation, around any backbone."""

    def __init__(self, features: nn.Module, width: int, codebook: torch.Tensor) -> None:
        super().__init__()
        for name, part in features.named_children():
            self.add_module(name, part)
        self.ce_fc = nn.Module()
        self.ce_fc.centroids = nn.Parameter(codebook.clone(), requires_grad=False)
        self.hash_fc = nn.Sequential(nn.Linear(width, BITS, bias=False), nn.BatchNorm1d(BITS))
        with torch.no_grad():
            self.hash_fc[1].running_mean.normal_()
            self.hash_fc[1].running_var.uniform_(0.5, 2)
            self.hash_fc[1].weight.normal_()


@pytest.fixture
def codebook() -> torch.Tensor:
    return torch.bernoulli(torch.full((CLASSES, BITS), 0.5)) * 2 - 1


@pytest.fixture
def network(codebook: torch.Tensor) -> OriginalNetwork:
    return OriginalNetwork(backbone(), FEATURES, codebook).eval()


@pytest.fixture
def folder(tmp_path: Path, network: OriginalNetwork, codebook: torch.Tensor) -> Path:
    for name in ("models", "outputs", "optims"):
        (tmp_path / name).mkdir()
    torch.save(network.state_dict(), tmp_path / "models" / "best.pth")
    torch.save(codebook, tmp_path / "outputs" / "codebook.pth")
    (tmp_path / "config.json").write_text(json.dumps({"arch": "mine", "arch_kwargs": {"nbit": BITS, "nclass": CLASSES}, "s": 8}))
    return tmp_path


def test_head_and_codebook(folder: Path, network: OriginalNetwork, codebook: torch.Tensor) -> None:
    original = load_original(folder)
    features = torch.randn(50, FEATURES)
    assert torch.equal(original.head(features), network.hash_fc(features))
    assert original.codebook.dtype == torch.int8
    assert torch.equal(original.codebook.float(), codebook)
    assert sorted(original.backbone) == ["1.bias", "1.weight"]
    assert original.unused == ()
    assert original.config["s"] == 8
    assert not original.is_alexnet
    assert "12 features -> 16 bits, with batch norm" in str(original)


def test_the_whole_network(folder: Path, network: OriginalNetwork) -> None:
    images = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8)
    fresh = backbone()
    model = load_original(folder).model(Standardised(fresh), (3, 4, 4))
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    standardised = (images / 255 - mean[:, None, None]) / std[:, None, None]
    expected = network.hash_fc(network.get_submodule("1")(standardised.flatten(1)))
    torch.testing.assert_close(model.continuous_codes(images), expected.detach(), rtol=1e-5, atol=1e-5)
    assert isinstance(model, HashModel)
    assert not model.training


@pytest.mark.slow
def test_the_original_alexnet(tmp_path: Path, codebook: torch.Tensor) -> None:
    """The names and shapes of torchvision's AlexNet without its last layer, written out from its definition."""
    shapes = {
        "features.0": (64, 3, 11, 11), "features.3": (192, 64, 5, 5), "features.6": (384, 192, 3, 3),
        "features.8": (256, 384, 3, 3), "features.10": (256, 256, 3, 3), "fc.1": (4096, 9216), "fc.4": (4096, 4096),
    }  # fmt: skip
    with torch.device("meta"):
        assert {f"{name}.weight": torch.Size(shape) for name, shape in shapes.items()} == {
            name: tensor.shape for name, tensor in AlexNet().state_dict().items() if name.endswith("weight")
        }
    network = OriginalNetwork(AlexNet(), 4096, codebook)
    torch.save(network.state_dict(), tmp_path / "best.pth")
    original = load_original(tmp_path / "best.pth")
    assert original.is_alexnet
    model = original.model(sample_shape=(3, 64, 64))
    assert model.encode(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)).shape == (2, BITS // 8)


def test_weights_for_torchvision_names(folder: Path) -> None:
    """torchvision's AlexNet has classifier.* where the original has fc.*"""
    path = folder / "models" / "best.pth"
    state = torch.load(path, weights_only=True)
    state = {key.replace("1.", "fc.1.") if key in ("1.weight", "1.bias") else key: tensor for key, tensor in state.items()}
    torch.save(state, path)

    class Network(nn.Module):
        out_features = FEATURES

        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(48, FEATURES))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.classifier(images)

    network = Network()
    load_original(folder).model(network, (3, 4, 4))
    assert torch.equal(network.classifier[1].weight, state["fc.1.weight"])


def test_a_file_and_its_neighbours(folder: Path, codebook: torch.Tensor) -> None:
    assert torch.equal(load_original(folder / "models" / "best.pth").codebook.float(), codebook)
    with pytest.raises(FileNotFoundError, match=r"last\.pth does not exist; it has best: choose with name="):
        load_original(folder, name="last")
    with pytest.raises(FileNotFoundError, match="not a folder of OrthoHash's training"):
        load_original(folder / "outputs")
    with pytest.raises(FileNotFoundError, match="expected a folder"):
        load_original(folder / "none")


def test_data_parallel_and_other_classifiers(folder: Path, network: OriginalNetwork) -> None:
    """Keys may begin with `module.`, and a learned classifier, which retrieval does not need, is listed as unused."""
    state = {key: tensor for key, tensor in network.state_dict().items() if key != "ce_fc.centroids"}
    state |= {"ce_fc.weight": torch.zeros(CLASSES, BITS), "ce_fc.bias": torch.zeros(CLASSES)}
    torch.save({f"module.{key}": tensor for key, tensor in state.items()}, folder / "models" / "best.pth")
    original = load_original(folder)
    assert original.unused == ("ce_fc.bias", "ce_fc.weight")
    assert original.codebook is not None  # the codebook of outputs/codebook.pth
    assert sorted(original.backbone) == ["1.bias", "1.weight"]
    (folder / "outputs" / "codebook.pth").unlink()
    assert load_original(folder).codebook is None


def test_parts_of_two_trainings(folder: Path, codebook: torch.Tensor) -> None:
    torch.save(-codebook, folder / "outputs" / "codebook.pth")
    with pytest.raises(ValueError, match=r"another codebook than ce_fc\.centroids"):
        load_original(folder)
    torch.save(codebook, folder / "outputs" / "codebook.pth")
    (folder / "config.json").write_text(json.dumps({"arch_kwargs": {"nbit": 64}}))
    with pytest.raises(ValueError, match=r"head of 16 bits, config\.json in the same folder says 64"):
        load_original(folder)


def test_another_architecture(folder: Path) -> None:
    original = load_original(folder)
    with pytest.raises(ValueError, match=r"not the original's AlexNet \(it has 1\.weight, 1\.bias\)"):
        original.model()
    with pytest.raises(ValueError, match=r"does not fit the backbone Sequential; of another shape: 1\.bias \[12\], not \[13\]"):
        original.model(nn.Sequential(nn.Flatten(), nn.Linear(48, 13)), (3, 4, 4))
    deeper = nn.Sequential(*backbone(), nn.ReLU(), nn.Linear(FEATURES, FEATURES))
    with pytest.raises(ValueError, match=r"missing in the checkpoint: 3\.bias, 3\.weight"):
        original.model(deeper, (3, 4, 4))
    wider = nn.Sequential(*backbone(), nn.ConstantPad1d((0, 1), 0.0))
    with pytest.raises(ValueError, match="its head takes 12 features; the backbone returns 13"):
        original.model(wider, (3, 4, 4))


def test_a_pickle_of_code_is_not_opened(folder: Path, network: OriginalNetwork) -> None:
    torch.save(network, folder / "models" / "best.pth")  # a whole module instead of a state_dict
    with pytest.raises(ValueError, match="it pickles other objects than tensors, which could run code"):
        load_original(folder)


def test_damaged_files(folder: Path) -> None:
    path = folder / "models" / "best.pth"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"not a checkpoint", b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"best\.pth is not a readable checkpoint .* It is damaged"):
            load_original(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "is not a state_dict: it holds an empty dictionary"),
        (torch.zeros(2), "is not a state_dict: it holds a Tensor"),
        ({"state_dict": {"a": torch.zeros(1)}}, "is not a state_dict: it holds a dictionary of state_dict"),
        ({"fc.weight": torch.zeros(1)}, r"no hash layer of OrthoHash: expected the key hash_fc\.0\.weight; it has fc\.weight"),
        ({"hash_fc.0.weight": torch.zeros(3)}, r"must be \[bits, features\]; got \[3\]"),
        (
            {"hash_fc.0.weight": torch.zeros(4, 3), "hash_fc.1.weight": torch.zeros(5)},
            r"hash_fc\.\* do not form a linear layer with batch norm of 4 bits",
        ),
        (
            {"hash_fc.0.weight": torch.zeros(4, 3), "ce_fc.centroids": torch.ones(2, 5)},
            r"the codebook must be \+-1 \[C, 4\], as the head has 4 bits; got \[2, 5\]",
        ),
        (
            {"hash_fc.0.weight": torch.zeros(4, 3), "ce_fc.centroids": torch.full((2, 4), 0.5)},
            r"the codebook must be \+-1 \[C, 4\]",
        ),
    ],
    ids=range(8),
)
def test_other_contents(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=message):
        load_original(tmp_path / "x.pth")


def test_a_head_without_batch_norm(tmp_path: Path) -> None:
    weight, bias = torch.randn(4, 3), torch.randn(4)
    torch.save({"hash_fc.weight": weight, "hash_fc.bias": bias}, tmp_path / "x.pth")
    head = load_original(tmp_path / "x.pth").head
    features = torch.randn(5, 3)
    assert torch.equal(head(features), nn.functional.linear(features, weight, bias))
