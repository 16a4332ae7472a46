"""CSQ: binary cross entropy between tanh codes and the hash centre of their class."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..codebooks import make_codebook
from ..nn import HashHead
from ..ops.central_similarity_loss import central_similarity_loss
from ._method import Method, Objective, Task, not_negative, option


@dataclass(frozen=True)
class Options:
    """Options of CSQ."""

    codebook: str = option(
        "auto", "construction of the centres: auto (a Hadamard matrix where one exists, as in the paper), max_hamming, ..."
    )
    quantization: Literal["log_cosh", "l2"] = option(
        "log_cosh", "kind of the quantisation term: log_cosh (the paper) or l2 (the released code)"
    )
    quantization_weight: float = option(0.05, "weight of the quantisation term (the paper's runs: 0.05 to 0.0001)")

    def __post_init__(self) -> None:
        not_negative("csq", self, "quantization_weight")


class CentralSimilarity(Objective):
    """An objective of CSQ and SHC: `central_similarity_loss` with fixed class codes `codebook`, int8 [C, K]."""

    codebook: Tensor

    def __init__(self, codebook: Tensor, quantization: Literal["log_cosh", "l2"], quantization_weight: float, seed: int) -> None:
        super().__init__()
        self.register_buffer("codebook", codebook)
        self.quantization, self.quantization_weight, self.seed = quantization, quantization_weight, seed

    def class_codes(self) -> Tensor:
        return self.codebook

    def forward(self, latent: Tensor, target: Tensor, rows: Tensor, head: HashHead) -> Tensor:
        return central_similarity_loss(
            latent, target, self.codebook,
            quantization=self.quantization, quantization_weight=self.quantization_weight, seed=self.seed,
        )  # fmt: skip


def _objective(task: Task, options: Options) -> Objective:
    """Make the centres, and return the objective of CSQ."""
    codebook = make_codebook(task.num_classes, task.bits, method=options.codebook, seed=task.seed)  # type: ignore[arg-type]
    return CentralSimilarity(codebook, options.quantization, options.quantization_weight, task.seed)


METHOD = Method(
    name="csq",
    title="CSQ",
    paper="Yuan et al., Central Similarity Quantization for Efficient Image and Video Retrieval, CVPR 2020",
    url="https://arxiv.org/abs/1908.00347",
    year=2020,
    summary="binary cross entropy of tanh codes towards Hadamard centres",
    objective=_objective,
    options=Options,
    lr=3e-3,
)
