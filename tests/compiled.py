"""Compiling the kernels for GPUs that need not be there.

`compile_launches(target, call)` runs `call` with an executor that compiles each launch for `target` instead of running it, and
returns one `Compiled` per distinct launch, with what the tool chain says of it. Works on meta tensors.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from orthohash_triton.kernels import launch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

# Dynamic shared memory that one block may ask for, bytes, and the width of a warp.
SHARED_LIMIT = {"sm_80": 166_912, "sm_86": 101_376, "sm_89": 101_376, "sm_90": 232_448, "sm_100": 232_448, "sm_120": 101_376,
                "gfx90a": 65_536, "gfx942": 65_536, "gfx950": 163_840, "gfx1100": 65_536}  # fmt: skip

_POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float64: "*fp64", torch.int8: "*i8",
             torch.uint8: "*u8", torch.int16: "*i16", torch.int32: "*i32", torch.int64: "*i64", torch.bool: "*i1"}  # fmt: skip


def gpu_target(name: str) -> GPUTarget:
    if name.startswith("sm_"):
        return GPUTarget("cuda", int(name[3:]), 32)
    return GPUTarget("hip", name, 32 if name.startswith(("gfx10", "gfx11", "gfx12")) else 64)


@dataclass(frozen=True)
class Compiled:
    kernel: str
    target: str
    asm: dict[str, Any]
    shared: int  # bytes of dynamic shared memory
    registers: int  # per thread
    spilled: int  # bytes per thread that live in memory because registers ran out
    constexprs: dict[str, Any]

    @property
    def code(self) -> str:
        return self.asm["ptx" if self.target.startswith("sm_") else "amdgcn"]

    def contains(self, pattern: str) -> bool:
        return re.search(pattern, self.code) is not None

    def sass(self) -> str:
        """The machine code of an NVIDIA target, disassembled."""
        return _cuda_tool("nvdisasm", "-c", self.asm["cubin"])

    def check_budget(self, *, shared_counters: bool = False) -> None:
        """Assert what holds for every kernel.

        shared_counters: integers in shared memory, which is a program's own, may be added to atomically, as `tl.histogram` does:
        their sum does not depend on the order.
        """
        assert self.spilled == 0, f"{self.kernel} on {self.target} spills {self.spilled} bytes: {self.constexprs}"
        limit = SHARED_LIMIT[self.target]
        assert self.shared <= limit, (
            f"{self.kernel} on {self.target}: {self.shared} bytes of shared memory, limit {limit}: {self.constexprs}"
        )
        allowed = r"(?!\S*\.shared\S*\.add\.[us](32|64)\b)" if shared_counters else ""
        forbidden = rf"\b(atom|red)\.{allowed}|(global|flat|buffer)_atomic"
        if not shared_counters:
            forbidden += r"|\bds_(add|sub|min|max|and|or|xor|inc|dec|cmpst|wrxchg)_"
        assert not self.contains(forbidden), f"{self.kernel} on {self.target} has atomics"


def compile_launches(target: str, call: Callable[[], Any]) -> list[Compiled]:
    done: dict[Any, Compiled] = {}

    def compile_one(kernel: Any, grid: tuple[int, ...], *args: Any, num_warps: int, num_stages: int, **constexprs: Any) -> None:
        signature, constants, attrs = _specialise(kernel, args, constexprs)
        key = (kernel, *map(str, (signature, constants, attrs)), num_warps, num_stages)
        if key not in done:
            source = ASTSource(kernel, signature, constexprs=constants, attrs=attrs)
            options = {"num_warps": num_warps, "num_stages": num_stages}
            result = triton.compile(source, target=gpu_target(target), options=options)
            registers, spilled = _resources(target, result.asm)
            done[key] = Compiled(kernel.fn.__name__, target, result.asm, result.metadata.shared, registers, spilled, constexprs)

    compile_one.backend = gpu_target(target).backend
    with launch.executor(compile_one):
        call()
    return list(done.values())


def _specialise(kernel: Any, args: tuple[Any, ...], constexprs: dict[str, Any]) -> tuple[dict, dict, dict]:
    """What Triton's launcher would compile: None and 1 become constants, aligned pointers and multiples of 16 say so."""
    values = dict(zip(kernel.arg_names, args, strict=False)) | constexprs
    signature, constants, attrs = {}, {}, {}
    for position, parameter in enumerate(kernel.params):
        name = parameter.name
        value = values.get(name, parameter.default)
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[name], constants[(position,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name], attrs[(position,)] = _POINTERS[value.dtype], [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0:
                attrs[(position,)] = [["tt.divisibility", 16]]
    return signature, constants, attrs


def _resources(target: str, asm: dict[str, Any]) -> tuple[int, int]:
    if target.startswith("sm_"):
        usage = _cuda_tool("cuobjdump", "--dump-resource-usage", asm["cubin"])
        registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
        if stack and not re.search(r"\b(LDL|STL)\b", _cuda_tool("nvdisasm", "-c", asm["cubin"])):
            stack = 0  # ptxas sometimes reserves a few bytes that no instruction touches
        return registers, stack
    text = asm["amdgcn"]
    registers = int(re.search(r"\.vgpr_count:\s+(\d+)", text)[1])
    return registers, int(re.search(r"\.private_segment_fixed_size:\s+(\d+)", text)[1])


def _cuda_tool(tool: str, option: str, cubin: bytes) -> str:
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([path, option, file.name], capture_output=True, text=True, check=True).stdout
