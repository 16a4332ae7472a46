"""MDS: softmax over the cosines to centres that maximise the minimum distance, and a term of same-class pairs."""

from dataclasses import dataclass

from torch import Tensor

from ..codebooks import make_codebook
from ..nn import HashHead
from ..ops.minimum_distance_loss import minimum_distance_loss
from ._method import Bank, Method, Objective, Task, not_negative, option


@dataclass(frozen=True)
class Options:
    """Options of MDS."""

    pair_weight: float = option(1.0, "weight of the term of same-class pairs (beta of the released code)")
    pairs_from: float = option(0.1, "fraction of the steps after which that term begins (the released code: epoch 10)")
    bank: int = option(4096, "number of training samples, drawn at random in every step, that a batch is paired with")
    quantization_weight: float = option(1e-4, "weight of (|u| - 1)^2")

    def __post_init__(self) -> None:
        not_negative("mds", self, "pair_weight", "pairs_from", "quantization_weight")
        if self.bank < 1:
            raise ValueError(f"method 'mds': bank must be at least 1; got {self.bank}")


class MinimalDistanceSeparated(Objective):
    """An objective: `minimum_distance_loss` with the centres of `make_codebook(method="minimum_distance")`.

    The bank holds the most recent codes of training samples. The released code stores outputs of a momentum encoder instead.
    """

    codebook: Tensor

    def __init__(self, task: Task, options: Options) -> None:
        super().__init__()
        centres = make_codebook(task.num_classes, task.bits, method="minimum_distance", seed=task.seed)
        self.register_buffer("codebook", centres)
        self.bank = Bank(task.labels, task.bits)
        self.options = options
        self.pairs = False

    def class_codes(self) -> Tensor:
        return self.codebook

    def begin_step(self, step: int, steps: int) -> None:
        self.pairs = step >= self.options.pairs_from * steps

    def forward(self, latent: Tensor, target: Tensor, rows: Tensor, head: HashHead) -> Tensor:
        self.bank.update(rows, latent)
        bank, labels = self.bank.entries(self.options.bank) if self.pairs else (None, None)
        return minimum_distance_loss(
            latent, target, self.codebook, bank, labels,
            pair_weight=self.options.pair_weight, quantization_weight=self.options.quantization_weight,
        )  # fmt: skip


METHOD = Method(
    name="mds",
    title="MDS",
    paper="Wang et al., Deep Hashing with Minimal-Distance-Separated Hash Centers, CVPR 2023",
    url="https://openaccess.thecvf.com/content/CVPR2023/html/"
    "Wang_Deep_Hashing_With_Minimal-Distance-Separated_Hash_Centers_CVPR_2023_paper.html",
    year=2023,
    summary="softmax over the cosines to centres of the largest minimum distance, plus same-class pairs",
    objective=MinimalDistanceSeparated,
    options=Options,
    lr=3e-3,
)
