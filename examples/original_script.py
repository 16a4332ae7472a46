"""Use our loss in a training script in the style of the original OrthoHash; two lines change.

    python examples/original_script.py --before [--quick]    run the script without the change
    python examples/original_script.py [--quick]             run it with the change: the same losses, without logits [N, C]

orthohash_triton.models.original.load_original reads the checkpoints of such scripts.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import orthohash_triton as oht
from orthohash_triton.data import digits

BITS, CLASSES, SCALE, MARGIN = 32, 10, 8.0, 0.2


class Network(nn.Module):
    """A backbone, a hash layer with batch norm, and cosines with the codebook: images -> (logits [N, C], codes [N, K])."""

    def __init__(self, codebook: Tensor) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU())
        self.hash_fc = nn.Sequential(nn.Linear(256, BITS, bias=False), nn.BatchNorm1d(BITS))
        self.register_buffer("centroids", codebook)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.hash_fc(self.features(images))
        return F.normalize(codes) @ F.normalize(self.centroids).T, codes


class MarginLoss(nn.Module):
    """Softmax cross entropy of scaled cosines, with a margin subtracted for the true class."""

    def forward(self, logits: Tensor, codes: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(SCALE * (logits - MARGIN * F.one_hot(labels, CLASSES)), labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", action="store_true", help="run the script without the change")
    parser.add_argument("--quick", action="store_true", help="five steps instead of ten epochs")
    options = parser.parse_args()
    torch.manual_seed(0)
    data = digits.load_splits().train
    images, labels = data.inputs.float() / 255, data.labels

    codebook = torch.bernoulli(torch.full((CLASSES, BITS), 0.5)) * 2 - 1
    model = Network(codebook)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    if options.before:
        criterion = MarginLoss()
    else:
        criterion = oht.nn.CosineCodebookLoss(codebook.to(torch.int8), scale=SCALE, margin=MARGIN)  # changed line 1

    batches = [rows for _ in range(1 if options.quick else 10) for rows in torch.randperm(len(images)).split(64)[:-1]]
    for step, rows in enumerate(batches[: 5 if options.quick else None]):
        logits, codes = model(images[rows])
        if options.before:
            loss = criterion(logits, codes, labels[rows])
        else:
            loss = criterion(codes, labels[rows])  # changed line 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if options.quick or step % 50 == 0:
            print(f"step {step}: loss {loss.item():.7f}")


if __name__ == "__main__":
    main()
