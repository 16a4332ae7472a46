"""Compile backbone, head and loss with torch.compile, without a graph break.

Run: python examples/torch_compile.py [--quick]

The ops are registered with PyTorch, so the compiler traces through them and keeps their kernels unchanged.
"""

import argparse

import torch
from torch import Tensor, nn

import orthohash_triton as oht
from orthohash_triton.data import digits


class Step(nn.Module):
    """One training step: images [N, 8, 8] and class ids [N] -> loss."""

    def __init__(self, num_classes: int, bits: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU())
        self.head = oht.nn.HashHead(256, bits)
        self.criterion = oht.nn.OrthoHashLoss(oht.make_codebook(num_classes, bits))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.criterion(self.head.latent(self.backbone(images)), labels, self.head.batch_norm)


def train(step: nn.Module, parameters: list[nn.Parameter], images: Tensor, labels: Tensor, epochs: int) -> list[float]:
    """Train, and return the loss of every step."""
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    losses = []
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64)[:-1]:
            loss = step(images[rows], labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one epoch, and no code generation: trace only")
    quick = parser.parse_args().quick
    data = digits.load_splits().train
    images, labels = data.inputs.float() / 255, data.labels

    losses = {}
    for name in ("eager", "compiled"):
        torch.manual_seed(0)
        step = Step(num_classes=10, bits=32)
        run = step
        if name == "compiled":
            run = torch.compile(step, fullgraph=True, backend="aot_eager" if quick else "inductor")
        losses[name] = train(run, list(step.parameters()), images, labels, epochs=1 if quick else 5)
        print(f"{name}: loss {losses[name][0]:.6f} at the first step, {losses[name][-1]:.6f} at the last")
    # Rounding differs between both, and Adam amplifies the difference with every step; compare the first step only.
    assert abs(losses["eager"][0] - losses["compiled"][0]) < 1e-5, "compiling must not change the loss"


if __name__ == "__main__":
    main()
