"""Run every kernel with ragged shapes through triton-viz's sanitizer, which finds loads and stores outside their tensors.

    make sanitize                     # in an environment of its own: triton-viz 3.0 works with Triton 3.6, not with 3.9
    python -m tools.sanitize --families losses,pairwise

The sanitizer runs no kernel. It treats addresses as formulas, and a solver searches for a program and an element whose address is
outside the tensor. Addresses that it cannot follow are printed, but are not failures. Values that a kernel loads come from the
tensors, which hold zeros. The exit status is 1 if an access outside a tensor is found, and 2 if the tool cannot start.
"""

import argparse
import contextlib
import io
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

SMALL: dict[str, Any] = {
    "WORDS": [1, 3, 17],
    "SEARCHES": [(1, 1_003, 2), (3, 1_003, 2), (9, 1_003, 2), (33, 1_003, 1)],
    "RANGE_ANSWER": 0,
    "RANGES": [(1, 1, 203), (3, 5, 203)],
    "BYTES": [3, 16],
    "HISTOGRAMS": [(3, 1_003)],
    "RANKINGS": [(3, 203)],
    "DISTANCES": [(17, 259)],
    "PACKINGS": [(35, 70)],
    "ROTATION_BITS": [17, 50],
    "ROTATED_ROWS": [67],
    "VECTORS": [(3, 7)],
    "MEANS": [100],
    "NORMALISED": [(131, 17)],
    "LOSS_BITS": [17, 100, 600],
    "LOSS_SHAPES": [(5, 67)],
    "PAIRWISE_BITS": [17, 100],
    "PAIRWISE_SHAPES": [(5, 67)],
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sanitizer on the selected families of kernels, print the findings, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--families", help="functions of tests/kernels/configurations.py, with commas between; all where left out"
    )
    options = parser.parse_args(arguments)
    try:
        import triton_viz  # noqa: F401
    except (ImportError, AttributeError) as error:
        print(f"sanitize: triton-viz does not work here ({error}). Do: make sanitize", file=sys.stderr)
        return 2
    from tests.kernels import configurations

    families = {family.__name__: family for part in configurations.FAMILIES.values() for family in part}
    wanted = options.families.split(",") if options.families else list(families)
    if unknown := [name for name in wanted if name not in families]:
        print(f"sanitize: --families must be of {', '.join(families)}; got {', '.join(unknown)}", file=sys.stderr)
        return 2
    if not finds_a_planted_load():
        print("sanitize: a load without its mask was planted, and triton-viz did not find it", file=sys.stderr)
        return 2
    found: dict[str, Findings] = defaultdict(Findings)
    for name in wanted:
        with sanitized(found), small_and_real():
            families[name]()
        print(f"{name}: done", flush=True)
    for kernel, findings in sorted(found.items()):
        print(f"{kernel}: {findings}")
    return 1 if any(findings.illegal for findings in found.values()) else 0


def finds_a_planted_load() -> bool:
    """Return True if triton-viz finds a load without its mask, and finds nothing in the same kernel with the mask."""
    import torch
    from orthohash_triton.kernels import launch

    from tests.kernels.test_harness import _row_sums, _row_sums_unmasked

    found: dict[str, Findings] = defaultdict(Findings)
    with sanitized(found):
        for kernel in (_row_sums, _row_sums_unmasked):
            launch.launch(kernel, (2,), torch.ones(17, 50), torch.zeros(17), 17, 50, ROWS=16, COLUMNS=64)
    masked, unmasked = found["test_harness._row_sums"], found["test_harness._row_sums_unmasked"]
    return masked.followed == 1 and not masked.illegal and bool(unmasked.illegal)


class Findings:
    """The findings of one kernel."""

    def __init__(self) -> None:
        self.followed = 0
        self.illegal: set[str] = set()
        self.unsupported: set[str] = set()

    def __str__(self) -> str:
        parts = [f"{self.followed} launches without a finding"]
        parts += [f"OUTSIDE ITS TENSOR: {access}" for access in sorted(self.illegal)]
        parts += [f"not followed: {reason}" for reason in sorted(self.unsupported)]
        return "; ".join(parts)


@contextlib.contextmanager
def sanitized(found: dict[str, Findings]) -> Iterator[None]:
    """Send launches to the sanitizer instead of running them, one launch for each set of constants and sizes."""
    from triton_viz.clients import Sanitizer
    from triton_viz.core.trace import TritonTrace

    from tests.launches import Call, instead_of_launches

    seen = set()

    def follow(call: Call) -> None:
        """Run the sanitizer on one launch and add its findings to `found`."""
        name = f"{call.kernel.fn.__module__.rpartition('.')[2]}.{call.name}"
        sizes = [(value.shape, value.dtype) if hasattr(value, "shape") else value for value in call.args]
        if (key := repr((name, call.grid, sizes, call.constexprs))) in seen:
            return
        seen.add(key)
        sanitizer = Sanitizer(abort_on_error=False)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                TritonTrace(call.kernel, sanitizer)[call.grid](*call.args, **call.constexprs)
        except Exception as error:
            found[name].unsupported.add(f"{type(error).__name__}: {' '.join(str(error).split())[-160:]}")
            return
        records = [record for record in sanitizer.records if loops(record) < 2]
        if len(records) < len(sanitizer.records):
            found[name].unsupported.add("addresses of a loop in a loop, whose index triton-viz does not bound")
        elif not records:
            found[name].followed += 1
        found[name].illegal |= {access(record) for record in records}

    with instead_of_launches(follow):
        yield


def loops(record: Any) -> int:
    """Return the number of loops whose indices occur in an address."""
    return len(set(re.findall(r"loop_i_\d+", str(record.symbolic_expr))))


def access(record: Any) -> str:
    lines = [f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in record.user_code_tracebacks]
    return f"{record.op_type.__name__.lower()} at {' < '.join(lines)} of a tensor {list(record.tensor.shape)}"


@contextlib.contextmanager
def small_and_real() -> Iterator[None]:
    """Let the families of configurations make small tensors of zeros with ragged sizes within the block."""
    import torch

    from tests.kernels import configurations

    empty = torch.empty

    def zeros(*shape: Any, **how: Any) -> torch.Tensor:
        return empty(*shape, **how).zero_()

    def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    new_empty = torch.Tensor.new_empty

    def new_zeros(self: torch.Tensor, *shape: Any, **how: Any) -> torch.Tensor:
        return new_empty(self, *shape, **how).zero_()

    with (
        mock.patch.multiple(configurations, meta=meta, **SMALL),
        mock.patch.object(torch, "empty", zeros),
        mock.patch.object(torch.Tensor, "new_empty", new_zeros),
    ):
        yield


if __name__ == "__main__":
    sys.exit(main())
