"""Tests of objectives on one batch: every option has an effect, and the loss equals the formula of the docstring."""

import math
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import nn

from orthohash_triton import class_similarity, make_codebook, methods, semantic_hierarchy_loss
from orthohash_triton.methods import Objective, Task
from orthohash_triton.nn import HashHead

BITS, CLASSES, ROWS = 16, 5, 20
CLASS_IDS = torch.arange(ROWS) % CLASSES
OTHERS = torch.rand(ROWS, CLASSES, generator=torch.Generator().manual_seed(1)) < 0.3
MULTI_HOT = nn.functional.one_hot(CLASS_IDS, CLASSES).bool() | OTHERS
LEARNED = [name for name in methods.names() if methods.get(name).learned]

# A value other than the default of each option, by method. Multi-hot labels where the option has no effect on class ids.
OTHER: dict[str, dict[str, Any]] = {
    "csq": {"codebook": "bernoulli", "quantization": "l2", "quantization_weight": 1.0},
    "dhn": {"quantization_weight": 1.0, "pairs": "equal"},
    "dpsh": {"quantization_weight": 1.0, "pairs": "equal"},
    "hashnet": {"alpha": 0.1, "similarity": "any", "growth": 5.0, "stages": 1},
    "mds": {"pair_weight": 3.0, "pairs_from": 0.9, "bank": 2, "quantization_weight": 1.0},
    "orthohash": {"margin": 0.4, "margin_type": "angular", "scale": 3.0, "label_smoothing": 0.3, "codebook": "bernoulli"},
    "shc": {"quantization_weight": 1.0},
    "shrewd": {"kl_weight": 1.0},
}
CASES = [(name, option.name) for name in LEARNED for option in fields(methods.get(name).options)]


def logits() -> torch.Tensor:
    """Return logits of a classifier that confuses neighbouring classes."""
    return torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(3))


def make(name: str, labels: torch.Tensor, *, seed: int = 0, distance: torch.Tensor | None = None, **options: Any) -> Objective:
    method = methods.get(name)
    return method.objective(Task(labels, CLASSES, BITS, seed, distance, logits), method.make_options(options))


def loss(objective: Objective, labels: torch.Tensor) -> float:
    """Return the loss of a batch in the middle of a training of ten steps."""
    torch.manual_seed(0)
    head = HashHead(4, BITS, batch_norm=True)
    objective.begin_step(5, 10)
    return float(objective(torch.randn(ROWS, BITS), labels, torch.arange(ROWS), head).detach())


@pytest.mark.parametrize(("name", "option"), CASES)
def test_every_option_has_an_effect(name: str, option: str) -> None:
    assert option in OTHER[name], f"add a value of the option {option} of the method {name} to OTHER"
    labels = MULTI_HOT if option == "similarity" else CLASS_IDS
    usual = loss(make(name, labels), labels)
    assert math.isfinite(usual)
    assert loss(make(name, labels, **{option: OTHER[name][option]}), labels) != usual
    assert loss(make(name, labels), labels) == usual  # only the option changes the loss


@pytest.mark.parametrize("name", LEARNED)
def test_every_method_takes_several_labels(name: str) -> None:
    assert math.isfinite(loss(make(name, MULTI_HOT), MULTI_HOT))


@pytest.mark.parametrize(
    ("name", "options"), [("orthohash", {"codebook": "bernoulli"}), ("csq", {"codebook": "bernoulli"}), ("mds", {})]
)
def test_class_codes_depend_on_the_seed(name: str, options: dict) -> None:
    codes = [make(name, CLASS_IDS, seed=seed, **options).class_codes() for seed in (0, 0, 1)]
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])


def test_class_codes_of_mds_and_shc() -> None:
    assert torch.equal(make("mds", CLASS_IDS).class_codes(), make_codebook(CLASSES, BITS, method="minimum_distance", seed=0))
    similarity = class_similarity(logits(), CLASS_IDS)
    semantic = make_codebook(CLASSES, BITS, method="semantic", seed=0, similarity=similarity)
    assert torch.equal(make("shc", CLASS_IDS).class_codes(), semantic)


def test_csq_breaks_ties_of_several_labels_by_the_seed() -> None:
    """The mean of two centres is 0 where they differ, and is replaced by a random sign."""
    pairs = torch.zeros(ROWS, CLASSES, dtype=torch.bool)
    pairs[:, :2] = True
    assert loss(make("csq", pairs, seed=0), pairs) == loss(make("csq", pairs, seed=0), pairs)
    assert loss(make("csq", pairs, seed=0), pairs) != loss(make("csq", pairs, seed=1), pairs)


def test_shc_needs_a_sample_of_every_class() -> None:
    for labels in (torch.zeros(ROWS, dtype=torch.int64), MULTI_HOT & (torch.arange(CLASSES) == 0)):
        with pytest.raises(ValueError, match=r"method 'shc': every class needs a sample .*; 4 of 5 have none, class 1 first"):
            make("shc", labels)


def test_hashnet_is_its_formula() -> None:
    torch.manual_seed(0)
    latent = torch.randn(ROWS, BITS)
    objective = make("hashnet", CLASS_IDS)
    objective.begin_step(5, 10)  # stage 25 of 50
    z = torch.tanh(math.sqrt(1 + 50 * 25 / 50) * latent.double())
    theta, similar = 10 / BITS * z @ z.T, CLASS_IDS[:, None] == CLASS_IDS
    terms = nn.functional.softplus(theta) - similar * theta
    weights = torch.where(similar, similar.numel() / similar.sum(), similar.numel() / (~similar).sum())
    expected = float((weights * terms).mean())
    assert float(objective(latent, CLASS_IDS, CLASS_IDS, None)) == pytest.approx(expected, rel=1e-5)


def test_shrewd_is_the_loss_of_tanh_codes() -> None:
    torch.manual_seed(0)
    latent = torch.randn(ROWS, BITS)
    near = 1 - torch.eye(CLASSES)
    near[0, 1] = near[1, 0] = 0.2
    for given, distance in ((None, 1 - torch.eye(CLASSES)), (near, near)):
        objective = make("shrewd", CLASS_IDS, distance=given)
        torch.manual_seed(1)  # the loss draws random codes
        found = objective(latent, CLASS_IDS, CLASS_IDS, None)
        torch.manual_seed(1)
        assert torch.equal(found, semantic_hierarchy_loss(torch.tanh(latent), CLASS_IDS, distance, kl_weight=0.01))
    assert loss(make("shrewd", CLASS_IDS, distance=near), CLASS_IDS) != loss(make("shrewd", CLASS_IDS), CLASS_IDS)


def test_lsh_depends_on_the_seed_and_pca_does_not() -> None:
    features = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    for name, same in (("lsh", False), ("pca", True)):
        weights = [methods.get(name).fit(features, 8, seed).linear.weight for seed in (0, 1)]
        assert torch.equal(*weights) is same
