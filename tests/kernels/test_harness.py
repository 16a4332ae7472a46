"""Tests of the checks of compiled kernels: each small kernel has one defect, which its check must report.

The defects are a spill, a load outside its tensor, an atomic addition, an offset that exceeds 32 bits, a block and a grid that
are too large for any GPU, and code without the instructions that the kernel was written for.
"""

import os

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl
from orthohash_triton.kernels import launch

from tests.compiled import collect_launches, compile_launches, gpu_target
from tests.overflow import overflows

# Interpreted functions do not compile; the executor of --executor runs compiled code.
compiling = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="compiling needs a process without TRITON_INTERPRET"
)


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def defects(target, kernel, grid, *args, **constexprs):
    (compiled,) = compile_launches(target, lambda: launch.launch(kernel, grid, *args, **constexprs))
    return compiled.defects()


@triton.jit
def _row_sums(x, sums, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sum rows without a defect."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    tile = tl.load(x + (row[:, None] * columns + column[None, :]), mask=inside, other=0.0)
    tl.store(sums + row, tl.sum(tile, axis=1), mask=row < rows)


@triton.jit(do_not_specialize=["rows"])
def _row_sums_of_any_number(x, sums, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    _row_sums(x, sums, rows, columns, ROWS, COLUMNS)


@triton.jit
def _row_sums_in_32_bits(x, sums, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDENED: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    at = row[:, None] * columns + column[None, :]
    if WIDENED:
        at = at.to(tl.int64)  # the product has overflowed already
    tile = tl.load(x + at, mask=inside, other=0.0)
    tl.store(sums + row, tl.sum(tile, axis=1), mask=row < rows)


@triton.jit
def _row_sums_unmasked(x, sums, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    tile = tl.load(x + (row[:, None] * columns + column[None, :]))
    tl.store(sums + row, tl.sum(tile, axis=1), mask=row < rows)


@triton.jit
def _row_sums_added_atomically(x, sums, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    tile = tl.load(x + (row[:, None] * columns + column[None, :]), mask=inside, other=0.0)
    tl.atomic_add(sums + row, tl.sum(tile, axis=1), mask=row < rows)


@triton.jit
def _centred(x, out, SIZE: tl.constexpr):
    """Hold a row in registers while it is summed."""
    at = tl.arange(0, SIZE)
    row = tl.load(x + at)
    tl.store(out + at, row - tl.sum(row, axis=0))


@triton.jit
def _product(x, y, out, SIDE: tl.constexpr, DEPTH: tl.constexpr):
    """Hold both whole factors in shared memory."""
    side, depth = tl.arange(0, SIDE), tl.arange(0, DEPTH)
    product = tl.dot(tl.load(x + (side[:, None] * DEPTH + depth[None, :])), tl.load(y + (depth[:, None] * SIDE + side[None, :])))
    tl.store(out + (side[:, None] * SIDE + side[None, :]), product)


TARGETS = ["sm_80", "gfx942"]


@compiling
@pytest.mark.parametrize("target", TARGETS)
def test_a_sound_kernel_has_no_defect(target):
    assert defects(target, _row_sums, (2**16,), meta(2**20, 4_096), meta(2**20), 2**20, 4_096, ROWS=16, COLUMNS=64) == []


@compiling
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("widened", [False, True])
def test_an_offset_that_leaves_32_bits(widened, target):
    how = dict(ROWS=16, COLUMNS=4_096, WIDENED=widened)
    found = defects(target, _row_sums_in_32_bits, (2**16,), meta(2**20, 4_096), meta(2**20), 2**20, 4_096, **how)
    assert found
    assert all(defect.startswith("overflows 32 bits") for defect in found)
    assert defects(target, _row_sums_in_32_bits, (2**15,), meta(2**19, 4_096), meta(2**19), 2**19, 4_096, **how) == []


# Two loops whose values have the same name, as Triton prints them.
LOOPS = """
  %step = arith.constant {first} : i32
  %c4096 = arith.constant 4096 : i32
  scf.for %i = %c0 to %n step %c1  : i32 {{
    %place_1 = arith.muli %i, %{one} : i32
    %p = tt.addptr %x, %place_1 : !tt.ptr<f32>, i32
  }}
  scf.for %j = %c0 to %n step %c1  : i32 {{
    %place_1 = arith.muli %j, %{other} : i32
    %p = tt.addptr %x, %place_1 : !tt.ptr<f32>, i32
  }}
"""


@pytest.mark.parametrize(("one", "other"), [("c4096", "step"), ("step", "c4096"), ("step", "step")])
def test_values_of_one_name_in_two_loops(one, other):
    found = overflows(LOOPS.format(first=1, one=one, other=other), (1,), {"n": 2**20, "c0": 0, "c1": 1})
    assert len(found) == ("c4096" in (one, other))
    assert all(defect.startswith("place_1 = arith.muli ") for defect in found)


@compiling
@pytest.mark.parametrize("target", TARGETS)
def test_an_atomic(target):
    found = defects(target, _row_sums_added_atomically, (10,), meta(160, 50), meta(160), 160, 50, ROWS=16, COLUMNS=64)
    assert found == ["has atomics"]


@compiling
@pytest.mark.parametrize(("target", "size"), [("sm_80", 2**14), ("gfx942", 2**15)])
def test_a_spill(target, size):
    found = defects(target, _centred, (1,), meta(size), meta(size), SIZE=size, num_warps=1)
    assert any(defect.startswith("spills ") for defect in found)


@compiling
def test_too_much_shared_memory():
    factors = [meta(16, 2_048, dtype=torch.float16) for _ in range(2)]
    (found,) = defects("sm_86", _product, (1,), *factors, meta(16, 16), SIDE=16, DEPTH=2_048)
    assert found.endswith("bytes of shared memory, limit 101376")
    assert defects("sm_90", _product, (1,), *factors, meta(16, 16), SIDE=16, DEPTH=2_048) == []


@compiling
def test_too_many_threads_for_waves_of_64():
    case = meta(160, 50), meta(160), 160, 50
    assert defects("gfx942", _row_sums, (10,), *case, ROWS=16, COLUMNS=64, num_warps=32) == ["has 2048 threads, limit 1024"]
    assert defects("sm_80", _row_sums, (10,), *case, ROWS=16, COLUMNS=64, num_warps=32) == []


@compiling
def test_a_grid_that_no_gpu_takes():
    found = defects("sm_80", _row_sums, (1, 65_536), meta(160, 50), meta(160), 160, 50, ROWS=16, COLUMNS=64)
    assert found == ["is launched over the grid (1, 65536), limit (2147483647, 65535, 65535)"]


@compiling
@pytest.mark.parametrize(
    ("target", "warps", "blocks", "registers"),
    [("sm_80", 4, 2, 255), ("sm_80", 8, 2, 128), ("sm_90", 16, 1, 128), ("sm_90", 4, None, None), ("gfx942", 8, 2, None)],
)
def test_min_blocks_per_sm_limits_the_registers(target, warps, blocks, registers):
    """Only NVIDIA's compiler has the option."""

    def run():
        shape = dict(ROWS=1, COLUMNS=64, num_warps=warps)
        launch.launch(_row_sums, (9,), meta(9, 64), meta(9), 9, 64, min_blocks_per_sm=blocks, **shape)

    (seen,) = collect_launches(target, run)
    assert seen.most_registers == registers
    assert seen.options.get("maxnreg") == registers


@compiling
def test_numbers_that_a_kernel_is_not_specialised_on_are_one_configuration():
    def run():
        for rows in (1, 9, 16):
            for kernel in (_row_sums, _row_sums_of_any_number):
                launch.launch(kernel, (9,), meta(9, 64), meta(9), rows, 64, ROWS=1, COLUMNS=64)

    kernels = [seen.kernel for seen in collect_launches("sm_80", run)]
    assert kernels.count("_row_sums") == 3
    assert kernels.count("_row_sums_of_any_number") == 1


def test_an_unknown_architecture():
    with pytest.raises(ValueError, match=r"target: must be one of sm_80, .*; got 'sm_81'"):
        gpu_target("sm_81")


@pytest.mark.kernel
def test_a_load_outside_its_tensor(device):
    """An executor that checks bounds reports the load; otherwise values next to the tensor appear in the result."""
    rows, columns = 17, 50
    memory = torch.full((2 * rows, columns), float("nan"), device=device)
    memory[:rows] = 1.0
    x = memory[:rows].clone() if checks_bounds() else memory[:rows]
    sums = torch.zeros(rows, device=device)
    launch.launch(_row_sums, (2,), x, sums, rows, columns, ROWS=16, COLUMNS=64)
    assert sums.tolist() == [columns] * rows
    if checks_bounds():
        with pytest.raises(Exception, match="out-of-bounds"):
            launch.launch(_row_sums_unmasked, (2,), x, sums, rows, columns, ROWS=16, COLUMNS=64)
    else:
        launch.launch(_row_sums_unmasked, (2,), x, sums, rows, columns, ROWS=16, COLUMNS=64)
        assert sums.isnan().any()


def checks_bounds():
    return launch._executor is not None


def test_a_launch_asks_for_fused_multiply_adds():
    """Triton 3.10 uses them only on request."""
    asked = {}

    class Kernel:
        def __getitem__(self, grid):
            return lambda *args, **options: asked.update(options)

    launch.launch(Kernel(), (1,), torch.zeros(1))
    assert asked["enable_fp_fusion"] is True
