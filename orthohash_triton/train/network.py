"""The module that is trained: from a batch of samples to its loss."""

from torch import Tensor, nn

from ..data import Dataset
from ..methods import Objective
from ..models.model import HashModel
from .augmentation import make_augmentation
from .config import TrainConfig
from .distributed import Processes
from .optimization import autocast


class LossNetwork(nn.Module):
    """Backbone, head and objective as one module that returns the loss of a batch.

    It is one module so that DistributedDataParallel can share the gradients of everything that is trained.
    """

    def __init__(self, model: HashModel, objective: Objective, data: Dataset, config: TrainConfig, processes: Processes) -> None:
        super().__init__()
        self.backbone = None if config.backbone_lr_scale == 0 else model.backbone  # None if `data` has features of the backbone
        self.head, self.objective = model.head, objective
        self.prepare, self.labels, self.config, self.processes = model.prepare, data.labels, config, processes
        self.augmentation = make_augmentation(
            config.augment if data.is_images else "none",
            flip=config.flip, crop_padding=config.crop_padding, sample_shape=data.sample_shape,
        )  # fmt: skip
        # If False, every process computes the loss of the whole batch, from the latents of all processes.
        self.loss_of_a_share = objective.per_sample and not data.is_multilabel

    @property
    def norms_of_the_whole_batch(self) -> tuple[nn.Module | None, ...]:
        """Batch norms whose input already contains the rows of all processes."""
        return () if self.loss_of_a_share else (self.head.batch_norm,)

    def forward(self, inputs: Tensor, rows: Tensor, position: int) -> Tensor:
        """Return the loss of a batch.

        Args:
            inputs: this process's samples of the batch.
            rows: positions [B] in the training set of the samples of all processes.
            position: number of batches since the training began.
        """
        processes, count = self.processes, len(rows)
        mine = processes.share(count)
        samples = self.augmentation(self.prepare(inputs), count, mine)
        with processes.own_randomness(self.config.seed, position), autocast(self.config, processes.device):
            latent = self.head.latent(samples if self.backbone is None else self.backbone(samples))
        latent = latent.float()
        if self.loss_of_a_share:
            rows = rows[mine]
            weight = len(rows) * processes.count / count  # because gradients are averaged over the processes
        else:
            latent, weight = processes.whole(latent, count), 1.0
        return self.objective(latent, self.labels[rows].to(latent.device), rows, self.head) * weight


def parameter_groups(model: HashModel, objective: Objective, config: TrainConfig, lr: float) -> list[dict]:
    """Return the optimizer's groups: the head, the backbone at its share of `lr`, and the objective's own parameters at `lr`."""
    head = {"params": list(model.head.parameters()), "lr": lr}
    backbone = {"params": list(model.backbone.parameters()), "lr": lr * config.backbone_lr_scale}
    own = {"params": [parameter for parameter in objective.parameters() if parameter.requires_grad], "lr": lr}
    optional = [backbone] if backbone["lr"] else []
    return [head, *(group for group in (*optional, own) if group["params"])]
