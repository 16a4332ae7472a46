"""OrthoHash: softmax over the cosines to fixed class codes, with a batch norm that balances the bits."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..codebooks import make_codebook
from ..nn import HashHead, OrthoHashLoss
from ._method import Method, Objective, Task, not_negative, option


@dataclass(frozen=True)
class Options:
    """Options of OrthoHash."""

    margin: float = option(0.2, "margin of the loss, on the cosine of the true class")
    margin_type: Literal["cosine", "angular"] = option(
        "cosine", "cosine (subtract the margin from the cosine) or angular (add it to the angle)"
    )
    scale: float | None = option(None, "scale of the logits; the default is the square root of the bits (released code: 8)")
    label_smoothing: float = option(0.0, "share of the target that is distributed over all classes")
    codebook: str = option("auto", "construction of the class codes: auto, hadamard, bernoulli, max_hamming, minimum_distance")

    def __post_init__(self) -> None:
        not_negative("orthohash", self, "margin", "label_smoothing")


class OrthoHash(Objective):
    """An objective: `OrthoHashLoss` of the latent vectors and the batch norm of the head."""

    per_sample = True

    def __init__(self, task: Task, options: Options) -> None:
        super().__init__()
        codebook = make_codebook(task.num_classes, task.bits, method=options.codebook, seed=task.seed)  # type: ignore[arg-type]
        self.criterion = OrthoHashLoss(
            codebook, scale=options.scale, margin=options.margin, margin_type=options.margin_type,
            label_smoothing=options.label_smoothing,
        )  # fmt: skip

    def class_codes(self) -> Tensor:
        return self.criterion.codebook

    def forward(self, latent: Tensor, target: Tensor, rows: Tensor, head: HashHead) -> Tensor:
        return self.criterion(latent, target, head.batch_norm)


METHOD = Method(
    name="orthohash",
    title="OrthoHash",
    paper="Hoe et al., One Loss for All: Deep Hashing with a Single Cosine Similarity based Learning Objective, NeurIPS 2021",
    url="https://arxiv.org/abs/2109.14449",
    year=2021,
    summary="softmax over the cosines to fixed orthogonal codes, with a margin; batch norm balances the bits",
    objective=OrthoHash,
    options=Options,
    batch_norm=True,
    lr=1e-2,
)
