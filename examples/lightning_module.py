"""Train with Lightning: training_step computes the loss, and the validation computes mAP from codes.

Needs lightning: pip install lightning
Run: python examples/lightning_module.py [--quick]
"""

import argparse

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import orthohash_triton as oht
from orthohash_triton.data import Dataset, digits


class Hashing(lightning.LightningModule):
    """A backbone, a hash head and the loss."""

    def __init__(self, num_classes: int, bits: int = 32) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU())
        self.head = oht.nn.HashHead(256, bits)
        # The codebook is a buffer, so it moves to the device and is saved in checkpoints.
        self.criterion = oht.nn.OrthoHashLoss(oht.make_codebook(num_classes, bits))
        self.found: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Return the codes, uint8 [N, bits / 8]."""
        return self.head.encode(self.backbone(images))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        images, labels = batch
        # With several GPUs use Trainer(sync_batchnorm=True); the loss then shares its statistics too.
        loss = self.criterion(self.head.latent(self.backbone(images)), labels, self.head.batch_norm)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        images, labels = batch
        self.found.append((self(images), labels))

    def on_validation_epoch_end(self) -> None:
        codes, labels = (torch.cat(parts) for parts in zip(*self.found, strict=True))
        self.found.clear()
        self.log("map", oht.metrics.mean_average_precision(codes, codes, labels, labels))  # each query also finds itself

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def loader(data: Dataset, *, train: bool) -> DataLoader:
    """Return batches of (images, class ids), shuffled for training."""
    return DataLoader(TensorDataset(data.inputs.float() / 255, data.labels), batch_size=64, shuffle=train, drop_last=train)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two epochs instead of ten")
    quick = parser.parse_args().quick
    lightning.seed_everything(0)

    train, _, query = digits.load_splits()
    trainer = lightning.Trainer(
        max_epochs=2 if quick else 10, accelerator="auto", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=not quick, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(Hashing(num_classes=10), loader(train, train=True), loader(query, train=False))
    print({name: round(float(value), 4) for name, value in trainer.callback_metrics.items()})


if __name__ == "__main__":
    main()
