"""Every op against its reference and its named peers, timed with pytest-benchmark.

    pytest bench/ --benchmark-only                 # all ops: on the CPU, and on the GPU if there is one
    pytest bench/ --benchmark-only -k topk         # one op; see bench/README.md for saving and comparing runs

One group is one op at one shape on one device. The answer of a peer is compared with ours before it is timed. On a GPU a call
ends with a synchronisation of the device.
"""

import pytest
import torch

from bench._micro import Microbenchmark, Unavailable, all_microbenchmarks

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
CASES = [
    pytest.param(op, shape, device, peer, id=f"{op.op}-{'x'.join(map(str, shape))}-{device}-{peer}")
    for op in all_microbenchmarks()
    for shape in op.shapes
    for device in DEVICES
    for peer in op.peers
]


@pytest.mark.parametrize(("op", "shape", "device", "peer"), CASES)
def test_op(benchmark, op: Microbenchmark, shape: tuple[int, ...], device: str, peer: str) -> None:
    sizes = ", ".join(f"{axis} {size:,}" for axis, size in zip(op.axes, shape, strict=True))
    benchmark.group = f"{op.op}: {sizes}, {device}"
    benchmark.extra_info |= {"peer": peer, "threads": torch.get_num_threads(), **dict(zip(op.axes, shape, strict=True))}
    benchmark.name = peer
    try:
        call = op.check(peer, shape, device)
    except Unavailable as reason:
        pytest.skip(str(reason))
    benchmark(call)
