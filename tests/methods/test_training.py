"""Tests that every method, trained for seconds, learns, is saved and restored, and minimises its formula."""

import copy
import dataclasses
import functools
import math
from pathlib import Path

import pytest
import torch

from orthohash_triton import methods, metrics
from orthohash_triton.data import Dataset
from orthohash_triton.ops.pack_codes import unpack_codes
from orthohash_triton.runs import load_run, save_run
from orthohash_triton.train import HashModel, TrainConfig, train
from orthohash_triton.train import trainer as trainer_module
from orthohash_triton.train.trainer import Trained

BITS, CLASSES, WIDTH = 16, 5, 24
CONFIG = TrainConfig(dataset="blobs", backbone="mlp", bits=BITS, epochs=6, batch_size=50, threads=1, lr=1e-2)
LEARNED = [name for name in methods.names() if methods.get(name).learned]
FITTED = [name for name in methods.names() if not methods.get(name).learned]


def blobs(n: int = 500, *, multilabel: bool = False, seed: int = 1, class_distance: torch.Tensor | None = None) -> Dataset:
    """Return overlapping Gaussian classes. Samples with several labels lie around the sum of the centres."""
    centres = 1.3 * torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    member = torch.nn.functional.one_hot(labels, CLASSES).bool()
    if multilabel:
        member |= torch.rand(n, CLASSES, generator=generator) < 0.1
    inputs = member.float() @ centres + torch.randn(n, WIDTH, generator=generator)
    names = tuple("abcde")
    return Dataset(inputs, member if multilabel else labels, names, "blobs", class_distance=class_distance)


@functools.cache
def trained_on_blobs(name: str, *, multilabel: bool = False, **changes: object) -> Trained:
    """Train a method with CONFIG and `changes`, once for all tests, which must not change the result."""
    return train(dataclasses.replace(CONFIG, method=name, **changes), blobs(multilabel=multilabel), progress=False)


def mean_average_precision(model: HashModel, query: Dataset, gallery: Dataset) -> float:
    return metrics.mean_average_precision(model.encode(query.inputs), model.encode(gallery.inputs), query.labels, gallery.labels)


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_method_beats_what_is_not_learned(name: str, multilabel: bool) -> None:
    gallery, query = blobs(multilabel=multilabel), blobs(100, multilabel=multilabel, seed=2)
    trained = trained_on_blobs(name, multilabel=multilabel)
    assert len(trained.history) == CONFIG.epochs
    assert all(math.isfinite(epoch.loss) for epoch in trained.history)
    fitted = trained_on_blobs("pca", multilabel=multilabel, lr=None, backbone="auto")
    assert mean_average_precision(trained.model, query, gallery) > mean_average_precision(fitted.model, query, gallery) + 0.1
    again = train(dataclasses.replace(CONFIG, method=name), gallery, progress=False)
    assert [epoch.loss for epoch in again.history] == [epoch.loss for epoch in trained.history]


def has_class_codes(name: str) -> bool:
    """Return whether the objective of a method has codes of the classes."""
    method = methods.get(name)
    labels = torch.arange(50) % CLASSES
    logits = torch.randn(50, CLASSES, generator=torch.Generator().manual_seed(0))
    task = methods.Task(labels, CLASSES, BITS, 0, None, lambda: logits)
    return method.objective(task, method.make_options({})).class_codes() is not None


WITH_CLASS_CODES = [name for name in LEARNED if has_class_codes(name)]


def test_methods_of_both_kinds_are_tested() -> None:
    assert {"orthohash", "csq", "mds", "shc"} <= set(WITH_CLASS_CODES)
    assert {"dhn", "hashnet", "dpsh", "shrewd"} <= set(LEARNED) - set(WITH_CLASS_CODES)


@pytest.mark.parametrize("name", WITH_CLASS_CODES)
def test_codes_come_to_the_class_codes(name: str) -> None:
    data, trained = blobs(), trained_on_blobs(name)
    assert trained.codebook is not None
    assert trained.codebook.shape == (CLASSES, BITS)
    assert trained.history[-1].bit_accuracy > 0.9
    codes = unpack_codes(trained.model.encode(data.inputs), BITS).float()
    assert ((codes @ trained.codebook.float().T).argmax(1) == data.labels).float().mean() > 0.9


@pytest.mark.parametrize("name", [name for name in methods.names() if name not in WITH_CLASS_CODES])
def test_methods_without_class_codes_say_so(name: str) -> None:
    trained = trained_on_blobs(name, epochs=1, backbone="auto")
    assert trained.codebook is None
    assert all(epoch.bit_accuracy is None for epoch in trained.history)


@pytest.mark.parametrize("rotate", ["none", "itq"])
@pytest.mark.parametrize("name", ["orthohash", "hashnet", "pca"])
def test_a_run_comes_back(tmp_path: Path, name: str, rotate: str) -> None:
    changes = {"epochs": 1, "rotate": rotate, "backbone": "auto"}
    config, data, trained = dataclasses.replace(CONFIG, method=name, **changes), blobs(), trained_on_blobs(name, **changes)
    save_run(tmp_path, config, trained, data)
    run = load_run(tmp_path)
    assert run.config == config
    assert (run.codebook is None) == (name != "orthohash")
    assert torch.equal(run.model.encode(data.inputs), trained.model.encode(data.inputs))
    assert (run.model.head.batch_norm is None) == (name != "orthohash" or rotate != "none")


def test_another_method_in_the_same_folder_leaves_no_old_codebook(tmp_path: Path) -> None:
    for name in ("orthohash", "dhn"):
        config = dataclasses.replace(CONFIG, method=name, epochs=1, backbone="auto")
        save_run(tmp_path, config, trained_on_blobs(name, epochs=1, backbone="auto"), blobs())
    assert load_run(tmp_path).codebook is None


def test_a_rotation_is_fitted_to_the_codes_and_costs_nothing() -> None:
    config = dataclasses.replace(CONFIG, method="dpsh", options={"quantization_weight": 0.0})
    data = blobs()
    plain = train(config, data, progress=False).model
    rotated = train(dataclasses.replace(config, rotate="itq"), data, progress=False).model
    before, after = plain.continuous_codes(data.inputs), rotated.continuous_codes(data.inputs)
    assert torch.allclose(before.norm(dim=1), after.norm(dim=1), rtol=1e-4)
    angle = [torch.nn.functional.cosine_similarity(x, x.sign(), dim=1).mean() for x in (before, after)]
    assert angle[1] > angle[0]  # nearer to their signs
    assert {name for name, _ in rotated.head.named_parameters()} == {"linear.weight", "linear.bias"}


def objective(name: str, labels: torch.Tensor, **options: object) -> methods.Objective:
    def none() -> torch.Tensor:
        raise AssertionError("no classifier is needed")

    method = methods.get(name)
    task = methods.Task(labels, CLASSES, BITS, 0, None, none)
    return method.objective(task, method.make_options(options))


@pytest.mark.parametrize("pairs", ["equal", "balanced"])
def test_dhn_is_its_formula(pairs: str) -> None:
    torch.manual_seed(0)
    latent, labels = torch.randn(20, BITS), torch.arange(20) % CLASSES
    z = torch.tanh(latent.double())
    theta, similar = z @ z.T, labels[:, None] == labels
    terms = torch.log1p(theta.exp()) - similar * theta
    if pairs == "balanced":
        terms = torch.where(similar, terms * similar.numel() / similar.sum(), terms * similar.numel() / (~similar).sum())
    expected = terms.mean() + 0.3 * torch.cosh(z.abs() - 1).log().sum(1).mean()
    assert float(objective("dhn", labels, pairs=pairs)(latent, labels, labels, None)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("pairs", ["equal", "balanced"])
def test_dpsh_is_its_formula(pairs: str) -> None:
    """The second batch has other samples than the first, and is compared with the codes of the first."""
    torch.manual_seed(0)
    labels = torch.arange(20) % CLASSES
    first, second = torch.randn(2, 10, BITS).unbind()
    dpsh = objective("dpsh", labels, pairs=pairs)
    dpsh(first, labels[:10], torch.arange(10), None)
    found = dpsh(second, labels[10:], torch.arange(10, 20), None)
    theta = second.double() @ torch.cat([first, second]).double().T / 2
    similar = labels[10:, None] == labels
    terms = torch.nn.functional.softplus(theta) - similar * theta
    if pairs == "balanced":
        terms = torch.where(similar, terms * similar.numel() / similar.sum(), terms * similar.numel() / (~similar).sum())
    expected = terms.mean() + 0.1 * (second.double().abs() - 1).square().mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_hashnet_sharpens_and_keeps_beta_in_its_state() -> None:
    objective = copy.deepcopy(trained_on_blobs("hashnet").objective)
    assert objective.state_dict()["beta"] == pytest.approx(math.sqrt(1 + 50 * 49 / 50))  # step 59 of 60: stage 49 of 50
    objective.begin_step(0, 60)
    assert objective.beta == 1


def test_dpsh_remembers_every_sample() -> None:
    objective = trained_on_blobs("dpsh", epochs=1, backbone="auto").objective
    assert (objective.bank.codes.abs().sum(1) > 0).all()  # 500 samples in ten full batches
    assert torch.equal(objective.bank.entries()[1], blobs().labels)


def test_a_bank_holds_what_was_seen() -> None:
    bank = methods.Bank(torch.tensor([3, 4, 5]), 2)
    assert bank.entries()[0].shape == (0, 2)
    codes = torch.tensor([[1.0, 2.0]], requires_grad=True)
    bank.update(torch.tensor([1]), codes)
    found, labels = bank.entries()
    assert found.tolist() == [[1, 2]]
    assert labels.tolist() == [4]
    assert not found.requires_grad
    bank.update(torch.tensor([0, 2]), torch.ones(2, 2))
    some, labels = bank.entries(2)
    assert len(some) == 2
    assert len(set(labels.tolist()) & {3, 4, 5}) == 2
    assert torch.equal(bank.entries()[0], torch.tensor([[1.0, 1.0], [1.0, 2.0], [1.0, 1.0]]))


def test_mds_takes_pairs_from_its_share_of_the_steps_on() -> None:
    objective = copy.deepcopy(trained_on_blobs("mds").objective)
    objective.begin_step(9, 100)
    assert not objective.pairs
    objective.begin_step(10, 100)
    assert objective.pairs


def test_shrewd_follows_the_hierarchy() -> None:
    """Only classes 0 and 1 are near each other, and so are only their codes."""
    distance = 1 - torch.eye(CLASSES)
    distance[0, 1] = distance[1, 0] = 0.2
    data = blobs(class_distance=distance)
    model = train(dataclasses.replace(CONFIG, method="shrewd", epochs=20), data, progress=False).model
    codes = unpack_codes(model.encode(data.inputs), BITS).float()
    mean = torch.stack([codes[data.labels == label].mean(0) for label in range(CLASSES)])
    apart = torch.cdist(mean, mean, p=1)
    near = apart[0, 1]
    assert all(near < 0.7 * apart[i, j] for i in range(CLASSES) for j in range(i) if (i, j) != (1, 0))


def test_shc_trains_a_classifier_on_a_backbone_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier that shared the backbone would start the hashing network from trained weights."""
    made = []
    make_backbone = trainer_module.make_backbone

    def recorded(*args, **keywords):
        made.append(make_backbone(*args, **keywords))
        return made[-1]

    monkeypatch.setattr(trainer_module, "make_backbone", recorded)
    trained = train(dataclasses.replace(CONFIG, method="shc", epochs=1), blobs(), progress=False)
    assert len(made) == 2
    assert trained.model.backbone is made[0]


def test_the_best_epoch_is_chosen_on_samples_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.3, 0.9, 0.5])
    weights = []

    def score(*args, **keywords) -> float:
        return next(scores)

    from orthohash_triton.train import validation

    judge = validation.Validation.judge

    def recorded(self, model):
        weights.append(model.head.linear.weight.clone())
        seen.append((len(self.gallery), len(self.held_out)))
        return judge(self, model)

    seen = []
    monkeypatch.setattr(validation, "mean_average_precision", score)
    monkeypatch.setattr(validation.Validation, "judge", recorded)
    config = dataclasses.replace(CONFIG, epochs=3, validation=0.2)
    trained = train(config, blobs(), progress=False)
    assert [epoch.validation_map for epoch in trained.history] == [0.3, 0.9, 0.5]
    assert seen == [(400, 100)] * 3
    assert torch.equal(trained.model.head.linear.weight, weights[1])


@pytest.mark.parametrize("name", FITTED)
def test_fitted_methods_refuse_an_untrained_backbone(name: str) -> None:
    with pytest.raises(ValueError, match=f"method '{name}' trains no backbone, and 'mlp' has random weights before training"):
        train(dataclasses.replace(CONFIG, method=name), blobs(), progress=False)


@pytest.mark.parametrize("name", FITTED)
def test_fitted_methods_take_pixels(name: str) -> None:
    from orthohash_triton.data import digits

    splits = digits.load_splits()
    config = TrainConfig(dataset="digits", method=name, bits=BITS)
    model = train(config, splits.train, progress=False).model
    assert model.head.linear.weight.shape == (BITS, 64)
    assert mean_average_precision(model, splits.query, splits.gallery) > 0.15  # chance is 0.1
