"""Mean of a loss over the rows that have a label, in one launch."""

import torch
import triton
import triton.language as tl

from .launch import launch

BLOCK_M = 4096  # rows of a step


def labelled_mean(
    losses: torch.Tensor,  # float32 [N], contiguous
    labelled: torch.Tensor,  # class ids int64 [N]; or bool or float [N], above 0 for a row with a label
    ignore_index: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean over the labelled rows and its derivative by each loss, two float32 scalars.

    Without a labelled row the mean is NaN and the derivative is finite.

    One program computes both, so the sums have a fixed order.
    """
    mean, scale = (torch.empty((), dtype=torch.float32, device=losses.device) for _ in range(2))
    launch(
        _labelled_mean_kernel, (1,), losses, labelled, mean, scale, len(losses), labelled.stride(0), ignore_index,
        IDS=labelled.dtype == torch.int64, BLOCK_M=BLOCK_M, num_warps=8,
    )  # fmt: skip
    return mean, scale


@triton.jit(do_not_specialize=["ignore_index"])
def _labelled_mean_kernel(
    # losses [N], labels [N]; out: float32 scalars.
    losses_ptr, labelled_ptr, mean_ptr, scale_ptr,
    n_rows, labelled_stride, ignore_index,
    IDS: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Sum the losses, count the rows with a label, and divide. There is one program."""
    total = tl.zeros((BLOCK_M,), tl.float64)
    count = tl.zeros((BLOCK_M,), tl.int32)
    for first in range(0, n_rows, BLOCK_M):
        row = first + tl.arange(0, BLOCK_M)
        inside = row < n_rows
        at = labelled_ptr + row.to(tl.int64) * labelled_stride
        if IDS:
            has_label = inside & (tl.load(at, mask=inside, other=ignore_index) != ignore_index)
        else:
            has_label = tl.load(at, mask=inside, other=0) > 0
        total += tl.load(losses_ptr + row, mask=inside, other=0.0)
        count += has_label.to(tl.int32)
    number = tl.sum(count, 0).to(tl.float64)
    tl.store(mean_ptr, tl.sum(total, 0) / number)
    tl.store(scale_ptr, 1.0 / tl.maximum(number, 1.0))
