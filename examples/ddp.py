"""Train in several processes with DistributedDataParallel; the result equals that of one process with the whole batch.

Run: torchrun --nproc-per-node 2 examples/ddp.py [--quick]

For any number of processes the script prints the losses of one process (`python examples/ddp.py`) up to rounding. The fused loss
shares the batch-norm statistics between the processes, and the mean of their gradients is the gradient of the whole batch.
On GPUs, oht.nn.OrthoHashLoss does so automatically for a head converted by nn.SyncBatchNorm.convert_sync_batchnorm.
"""

import argparse
import gc
import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import orthohash_triton as oht
from orthohash_triton.data import digits

BITS, BATCH = 32, 64  # the batch is that of all processes together


class Hashing(nn.Module):
    """A backbone and a hash head: images [N, 8, 8] -> latent [N, BITS]."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU())
        self.head = oht.nn.HashHead(256, BITS)

    def forward(self, images: Tensor) -> Tensor:
        return self.head.latent(self.backbone(images))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five steps instead of ten epochs")
    quick = parser.parse_args().quick

    distributed = "RANK" in os.environ  # torchrun sets this variable
    if distributed:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank, processes = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")

    torch.manual_seed(0)  # every process needs the same weights and the same order of samples
    network = Hashing().to(device)
    model = DistributedDataParallel(network) if distributed else network
    norm, codebook = network.head.batch_norm, oht.make_codebook(num_classes=10, bits=BITS).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    data = digits.load_splits().train
    images, labels = data.inputs.float() / 255, data.labels
    batches = [rows for _ in range(1 if quick else 10) for rows in torch.randperm(len(images)).split(BATCH)[:-1]]
    for step, rows in enumerate(batches[: 5 if quick else None]):
        mine = rows[rank::processes]  # parts of equal size, so that the mean of their means is the mean of the batch
        loss = oht.orthohash_loss(
            model(images[mine].to(device)), labels[mine].to(device), codebook,
            norm.running_mean, norm.running_var, norm.weight, norm.bias,
            process_group=dist.group.WORLD if distributed else None,  # share the statistics between all processes
        )  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach() / processes
        if distributed:
            dist.all_reduce(mean)
        if rank == 0 and (quick or step % 50 == 0):
            print(f"step {step}: loss {mean.item():.7f}")
    if distributed:
        del model, loss  # PyTorch can abort at exit if a DistributedDataParallel outlives its group
        gc.collect()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
