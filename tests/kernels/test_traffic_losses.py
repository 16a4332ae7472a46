"""Tests of the memory of the loss kernels: bytes allocated, and bytes moved by their loads and stores."""

import math

import pytest
import torch

pytest.importorskip("triton")

from orthohash_triton.kernels import cosine_codebook_loss as kernel
from orthohash_triton.kernels import launch
from orthohash_triton.kernels._device import A100

from tests.launches import instead_of_launches


def tensors(rows, classes, bits, kind, device):
    """Return the launcher's arguments, without gradients of lse."""

    def empty(*shape, dtype=torch.float32):
        return torch.zeros(shape, dtype=dtype, device=device)

    target, columns, values = empty(rows, dtype=torch.int64), None, None
    if kind == "dense":
        target = empty(rows, classes) if device == "cpu" else torch.empty(1, device=device).expand(rows, classes)
    if kind == "sparse":
        target, columns, values = empty(rows + 1, dtype=torch.int64), empty(3 * rows, dtype=torch.int64), empty(3 * rows)
    codes = kernel.Prepared(empty(classes, math.ceil(bits / 32), dtype=torch.int32), empty(bits))
    outputs = empty(rows), empty(rows), empty(rows, bits), empty(0, bits)
    return empty(rows, bits), None, None, None, None, target, columns, values, codes, *outputs


def run(arguments, p_terms=2):
    kernel.cosine_codebook_loss(
        *arguments, p_terms=p_terms, scale=8.0, margin=0.2, angular=False, label_smoothing=0.0, ignore_index=-100,
        need_grad=True, need_lse_grad=False,
    )  # fmt: skip


def bytes_of(*values):
    return sum(t.nbytes for t in values if isinstance(t, torch.Tensor))


@pytest.mark.parametrize("kind", ["ids", "sparse"])
@pytest.mark.parametrize("p_terms", [1, 2])
@pytest.mark.parametrize("bits", [64, 512, 2048])
@pytest.mark.parametrize("rows", [64, 1024])
def test_scratch_does_not_grow_with_the_classes(rows, bits, p_terms, kind, monkeypatch):
    arguments = tensors(rows, 1_000_000, bits, kind, "meta")
    allocated = []
    allocate = torch.empty

    def counting(*shape, **keywords):
        fresh = allocate(*shape, **keywords)
        allocated.append(fresh.nbytes)
        return fresh

    monkeypatch.setattr(kernel.torch, "empty", counting)
    with instead_of_launches(lambda call: None):
        run(arguments, p_terms)
    tiles = kernel.plan(rows, 1_000_000, bits, kind, True, True, A100)
    partials = tiles.splits * rows * (bits + 2 * tiles.k_blocks) * 4
    chunk = rows * (tiles.chunk * 4 + bits * 4) if tiles.chunked else 0
    assert sum(allocated) == partials + chunk
    assert chunk <= max(4 * kernel.SCRATCH, 8 * rows * bits) + 4 * rows * bits
    assert partials <= 2**29
    assert sum(allocated) < rows * 1_000_000  # less than one byte per logit


@pytest.mark.kernel
@pytest.mark.parametrize(("rows", "processors"), [(64, 0), (40, 108)])
def test_loads_and_stores_are_inputs_outputs_and_partials(rows, processors, device, monkeypatch):
    """Each split reads the rows, and each block of rows reads the codes. Repeated reads, which L2 serves, are counted too."""
    classes, bits = 1472, 64
    counts = {}
    run_kernel = launch._executor

    def counting(jitted, *args, **keywords):
        counts[jitted.fn.__name__] = run_kernel(jitted, *args, **keywords)

    if run_kernel is None:
        pytest.skip("needs an executor that counts loads and stores")
    arguments = tensors(rows, classes, bits, "ids", "cpu")
    arguments[0].normal_()
    gpu = A100._replace(multiprocessors=processors)
    monkeypatch.setattr(kernel, "FEW_CLASSES", 256 if processors else classes)
    tiles = kernel.plan(rows, classes, bits, "ids", True, True, gpu)
    splits, row_blocks = tiles.splits, math.ceil(rows / tiles.block_m)
    with launch.executor(counting, gpu):
        run(arguments)
    if not all(hasattr(stats, "get") for stats in counts.values()) or not counts:
        pytest.skip("needs an executor that counts loads and stores")
    v, *_, target, _, _, codes, loss, _, grad, _ = arguments
    moved = {name: 32 * (stats["global_ld_sectors"] + stats["global_st_sectors"]) for name, stats in counts.items()}
    expected = splits * bytes_of(v, target) + row_blocks * bytes_of(codes.words) + splits * (bytes_of(grad) + 2 * bytes_of(loss))
    if processors == 0:  # also writes outputs as large as a partial, and reads the rows' own codes, one sector per word
        assert set(moved) == {"_sweep_kernel"}
        expected += 32 * rows * codes.words.shape[1]
    assert expected <= moved["_sweep_kernel"] <= 1.1 * expected, (moved, expected)
