"""The mean of a loss over the rows that have a label, in one launch."""

import torch
import triton
import triton.language as tl

from .launch import launch

ROWS = 4096  # at once


def labelled_mean(
    losses: torch.Tensor,  # float32 [N], contiguous
    labelled: torch.Tensor,  # class ids int64 [N]; or what is above 0 for a row with a label, bool or float [N]
    ignore_index: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean, float32 scalar, NaN without a labelled row; and what gradients of the losses are to be multiplied with to be
    those of the mean, float32 scalar, finite even then. One program: its sums have one fixed order."""
    mean, scale = (torch.empty((), device=losses.device) for _ in range(2))
    launch(
        _labelled_mean_kernel, (1,), losses, labelled, mean, scale, len(losses), labelled.stride(0), ignore_index,
        IDS=labelled.dtype == torch.int64, ROWS=ROWS, num_warps=8,
    )  # fmt: skip
    return mean, scale


@triton.jit(do_not_specialize=["ignore_index"])
def _labelled_mean_kernel(
    losses_ptr, labelled_ptr, mean_ptr, scale_ptr,  # [N], [N], out: scalars
    n_rows, labelled_stride, ignore_index,
    IDS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    total = tl.zeros((ROWS,), tl.float64)
    count = tl.zeros((ROWS,), tl.int32)
    for first in range(0, n_rows, ROWS):
        row = first + tl.arange(0, ROWS)
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
