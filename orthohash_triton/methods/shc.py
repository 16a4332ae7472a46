"""SHC: CSQ's loss with centres whose distances follow the class similarities of a classifier."""

from dataclasses import dataclass

from ..codebooks import class_similarity, make_codebook
from ._method import Method, Objective, Task, not_negative, option
from .csq import CentralSimilarity


@dataclass(frozen=True)
class Options:
    """Options of SHC."""

    quantization_weight: float = option(1e-4, "weight of the quantisation term")

    def __post_init__(self) -> None:
        not_negative("shc", self, "quantization_weight")


def _objective(task: Task, options: Options) -> Objective:
    """Train a classifier, make centres from its class similarities, and return CSQ's objective with these centres."""
    _require_samples(task)  # an error here costs less than one after the classifier is trained
    similarity = class_similarity(task.class_logits(), task.labels)
    codebook = make_codebook(task.num_classes, task.bits, method="semantic", seed=task.seed, similarity=similarity)
    return CentralSimilarity(codebook, "l2", options.quantization_weight, task.seed)


def _require_samples(task: Task) -> None:
    """Raise ValueError if a class has no training sample."""
    counts = task.labels.sum(0) if task.labels.ndim == 2 else task.labels.bincount(minlength=task.num_classes)
    empty = (counts == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"method 'shc': every class needs a sample to learn from; {len(empty)} of {task.num_classes} have none, class "
            f"{empty[0]} first. Leave those classes out, or add samples of them"
        )


METHOD = Method(
    name="shc",
    title="SHC",
    paper="Chen et al., Deep Hashing with Semantic Hash Centers for Image Retrieval, ACM TOIS 2025",
    url="https://arxiv.org/abs/2507.08404",
    year=2025,
    summary="CSQ's loss towards centres whose distances follow the class similarities of a classifier",
    objective=_objective,
    options=Options,
    lr=3e-3,
)
