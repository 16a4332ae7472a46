"""Tests of the training recipe on data for which a training takes a second."""

import copy
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from orthohash_triton import methods
from orthohash_triton.data import UNLABELLED, Dataset, digits
from orthohash_triton.data.images import ImageFiles
from orthohash_triton.ops.pack_codes import unpack_codes
from orthohash_triton.train import HashModel, TrainConfig, train, validation
from orthohash_triton.train.validation import Validation

from .data import blobs, pictures, weights

QUICK = TrainConfig(dataset="digits", bits=16, epochs=2, batch_size=64, flip=False, threads=1)


def test_separable_classes_get_their_codewords() -> None:
    trained = train(dataclasses.replace(QUICK, epochs=10, batch_size=32), blobs(), progress=False)
    assert [epoch.epoch for epoch in trained.history] == list(range(1, 11))
    assert trained.history[-1].loss < trained.history[0].loss
    assert trained.history[-1].bit_accuracy > trained.history[0].bit_accuracy
    codes = unpack_codes(trained.model.encode(blobs().inputs), 16).float()
    assert torch.equal((codes @ trained.codebook.float().T).argmax(1), blobs().labels)
    assert not trained.model.training


def test_same_seed_same_bits_and_other_seed_other_weights() -> None:
    data = digits.load_splits().train.subset(torch.arange(200))
    state = torch.random.get_rng_state()
    first, again, other = (train(dataclasses.replace(QUICK, seed=seed), data, progress=False) for seed in (5, 5, 6))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(map(torch.equal, weights(first.model), weights(again.model)))
    assert [e.loss for e in first.history] == [e.loss for e in again.history]
    assert not torch.equal(first.model.head.linear.weight, other.model.head.linear.weight)


def test_backbone_learns_at_its_share_of_the_rate_and_both_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []

    class Recorded(torch.optim.Adam):
        def step(self, closure=None):
            rates.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "Adam", Recorded)
    data = digits.load_splits().train.subset(torch.arange(330))  # five full batches of 64, and one of 10 that is dropped
    trained = train(dataclasses.replace(QUICK, lr=0.5), data, progress=False)
    assert torch.tensor(rates).allclose(torch.tensor([[0.5, 0.05]] * 8 + [[0.05, 0.005]] * 2))
    assert trained.history[-1].lr == pytest.approx(0.05)


def test_patience_ends_the_training_and_the_best_epoch_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.3, 0.5, 0.5, 0.4, 0.9])
    seen = []

    def judge(validation, model):
        seen.append(copy.deepcopy(model.state_dict()))
        return next(scores)

    monkeypatch.setattr(Validation, "judge", judge)
    config = dataclasses.replace(QUICK, epochs=9, validation=0.2, patience=2)
    trained = train(config, blobs(), progress=False)
    assert [epoch.validation_map for epoch in trained.history] == [0.3, 0.5, 0.5, 0.4]
    assert all(map(torch.equal, weights(trained.model), seen[2].values()))  # the later of two equal epochs
    with pytest.raises(ValueError, match="patience needs held-out samples; set validation"):
        train(dataclasses.replace(config, validation=0.0), blobs(), progress=False)


def test_epochs_are_judged_on_samples_of_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders are listed class by class, so the first samples would be of one class."""
    monkeypatch.setattr(validation, "GALLERY", 120)
    data = blobs()
    in_order = data.subset(data.labels.argsort(stable=True))
    judge = Validation(in_order, data)
    assert len(judge.gallery) == 120
    assert torch.equal(judge.gallery.labels.unique(), data.labels.unique())
    assert torch.equal(judge.gallery.labels, Validation(in_order, data).gallery.labels)
    assert validation.sample_of(data, len(data)) is data


def test_samples_that_the_source_sets_aside_are_the_validation_set() -> None:
    parts = blobs(), blobs(n=30)
    data = dataclasses.replace(parts[0], validation=parts[1])
    trained = train(dataclasses.replace(QUICK, validation=0.5), data, progress=False)
    alone = train(QUICK, parts[0], progress=False)
    assert [epoch.loss for epoch in trained.history] == [epoch.loss for epoch in alone.history]  # trained on all samples
    assert trained.history[-1].validation_map == pytest.approx(1, abs=0.1)


def test_images_in_files_teach_what_images_in_memory_do(tmp_path: Path) -> None:
    """Threads decode the files ahead of the steps."""
    image = pytest.importorskip("PIL.Image")
    data = pictures()
    files = [tmp_path / f"{number}.png" for number in range(len(data))]
    for file, pixels in zip(files, data.inputs.numpy(), strict=True):
        image.fromarray(pixels).save(file)
    on_disk = dataclasses.replace(data, inputs=ImageFiles(files, size=8, grey=True), paths=tuple(files))
    for changes in ({"validation": 0.2}, {"backbone_lr_scale": 0.0}):
        config = dataclasses.replace(QUICK, batch_size=32, **changes)
        first, second = (train(config, source, progress=False) for source in (data, on_disk))
        assert all(map(torch.equal, weights(first.model), weights(second.model)))


def test_samples_without_labels_are_for_methods_without() -> None:
    data = Dataset(blobs().inputs, torch.zeros(300, dtype=torch.int64), (UNLABELLED,), "photos")
    with pytest.raises(ValueError, match="'orthohash' learns from labels, but photos has none; choose one of pca, lsh"):
        train(QUICK, data, progress=False)
    assert train(dataclasses.replace(QUICK, method="pca"), data, progress=False).model.encode(data.inputs).shape == (300, 2)


def test_a_frozen_backbone_stays_as_it_was() -> None:
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.BatchNorm1d(30))
    before = [tensor.clone() for tensor in backbone.state_dict().values()]
    data = digits.load_splits().train.subset(torch.arange(200))
    trained = train(dataclasses.replace(QUICK, backbone_lr_scale=0, epochs=5), data, backbone=backbone, progress=False)
    assert trained.model.backbone is backbone
    assert all(map(torch.equal, before, backbone.state_dict().values()))
    assert trained.history[-1].loss < trained.history[0].loss


def test_the_loss_is_the_mean_over_full_batches_of_the_formula() -> None:
    """One step from a known state is compared with explicit batch norm, cosine, margin and cross entropy."""
    data = blobs(n=32)
    trained = train(dataclasses.replace(QUICK, epochs=1, batch_size=32, lr=1e-12), data, progress=False)  # weights unchanged
    latent = trained.model.head.linear(data.inputs).double()
    v = (latent - latent.mean(0)) / (latent.var(0, unbiased=False) + 1e-5).sqrt()
    codebook = trained.codebook.double()
    cosine = nn.functional.normalize(v) @ nn.functional.normalize(codebook).T
    logits = math.sqrt(16) * (cosine - 0.2 * nn.functional.one_hot(data.labels, 3))
    assert trained.history[0].loss == pytest.approx(nn.functional.cross_entropy(logits, data.labels).item(), rel=1e-5)


def test_a_batch_larger_than_the_data_is_an_error() -> None:
    with pytest.raises(ValueError, match="batch_size 64 is larger than the number of training samples \\(10\\)"):
        train(QUICK, blobs(n=10), progress=False)


@pytest.mark.parametrize("device", ["tpu3", "cuda:77", "meta:meta"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(ValueError, match=f"device '{device}' cannot be used"):
        train(dataclasses.replace(QUICK, device=device), blobs(), progress=False)


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    data = blobs()
    data.inputs[5, 5] = math.nan
    with pytest.raises(ValueError, match=r"the loss became nan in epoch 1; the data contain NaN, or lr 0\.01 is too high"):
        train(QUICK, data, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 12}, "bits must be a multiple of 8"),
        ({"bits": 0}, "bits must be between 1 and 65536"),
        ({"bits": 8 * 10**12}, "bits must be between 1 and 65536"),
        ({"image_size": 10**7}, "image_size must be between 1 and 16384"),
        ({"crop_padding": 10**9}, "crop_padding must be between 0 and 16384"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": math.nan}, "lr must be positive"),
        ({"options": {"margin": -0.1}}, "margin must not be negative"),
        ({"options": {"warmth": 3}}, "method 'orthohash' has no option warmth"),
        ({"method": "orthohush"}, "method must be one of"),
        ({"rotate": "pca"}, "rotate must be one of 'none', 'itq', 'householder'"),
        ({"validation": 1.0}, r"validation must be a share of the training set, in \[0, 1\)"),
        ({"lr_decay_at": 0.0}, "lr_decay_at"),
        ({"crop_padding": -1}, "crop_padding must be between 0 and"),
        ({"threads": 0}, "threads must be between 1 and 1024"),
        ({"threads": 10**6}, "threads must be between 1 and 1024"),
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"checkpoint_every": -1}, "checkpoint_every must be at least 0"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"clip_grad_norm": 0.0}, "clip_grad_norm must be positive"),
        ({"warmup": -1.0}, "warmup must not be negative"),
        ({"ema": 1.0}, r"ema must be the decay of a moving average, in \(0, 1\); got 1.0"),
        ({"optimizer": "lion"}, "optimizer must be one of 'adam', 'adamw', 'sgd'"),
        ({"schedule": "linear"}, "schedule must be one of 'step', 'cosine', 'constant'"),
        ({"precision": "fp8"}, "precision must be one of 'fp32', 'bf16', 'fp16'"),
        ({"augment": "heavy"}, "augment must be one of 'none', 'light', 'strong'"),
    ],
)
def test_bad_configuration(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**change)
    with pytest.raises(TypeError, match="bits must be an integer"):
        TrainConfig(bits=16.0)


def test_scalars_of_numpy_and_torch_are_numbers_in_a_configuration() -> None:
    given = {
        "lr": np.float32(0.5),
        "ema": torch.tensor(0.5),
        "bits": np.int64(16),
        "epochs": torch.tensor(2),
        "flip": np.bool_(True),
    }
    config = TrainConfig(**given, options={"margin": np.float32(0.5)})
    assert config == TrainConfig(lr=0.5, ema=0.5, bits=16, epochs=2, flip=True, options={"margin": 0.5})
    assert json.loads(json.dumps(dataclasses.asdict(config))) == dataclasses.asdict(config)
    options = methods.get("hashnet").make_options({"alpha": np.float32(0.5), "stages": np.int64(3)})
    assert (type(options.alpha), type(options.stages)) == (float, int)
    with pytest.raises(TypeError, match=r"TrainConfig: lr must be a number; got str"):
        TrainConfig(lr="0.1")  # type: ignore[arg-type]


def test_encoding_streams_and_keeps_the_mode() -> None:
    data = digits.load_splits().query
    model = HashModel(nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20)), 24, data.sample_shape)
    model.train()
    whole, pieces = model.encode(data.inputs), model.encode(data.inputs, batch_size=37)
    assert model.training
    assert torch.equal(whole, pieces)
    assert whole.shape == (len(data), 3)
    with torch.no_grad():
        positive = model.eval()(model.prepare(data.inputs)) > 0
    assert torch.equal(whole[:, 1] >> 2 & 1, positive[:, 10].byte())
    assert model.encode(data.inputs[:0]).shape == (0, 3)
    with pytest.raises(ValueError, match=r"takes samples of shape \[8, 8\]; got inputs \[2, 9, 9\]"):
        model.encode(torch.zeros(2, 9, 9, dtype=torch.uint8))


@pytest.mark.parametrize("method", ["orthohash", "csq", "mds", "shc", "dhn"])
def test_a_batch_without_a_label_has_no_loss(method: str) -> None:
    """Half of the rows have no class: some batches of four have none at all."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(80, 4, generator=generator) < 0.3) & (torch.rand(80, 1, generator=generator) < 0.4)
    data = Dataset(torch.randn(80, 12, generator=generator), labels, tuple("abcd"), "sparse")
    config = TrainConfig(dataset="x", method=method, bits=8, epochs=3, batch_size=4, threads=1)
    trained = train(config, data, progress=False)
    assert all(math.isfinite(epoch.loss) for epoch in trained.history)
    assert all(tensor.isfinite().all() for tensor in weights(trained.model))


def test_one_class_cannot_be_learned() -> None:
    for labels in (torch.zeros(64, dtype=torch.int64), torch.rand(64, 1) < 0.5):
        with pytest.raises(ValueError, match=r"all samples of one belong to one class, 'cat'; give labels of at least two"):
            train(QUICK, Dataset(torch.randn(64, 8), labels, ("cat",), "one"), progress=False)
