"""Compilation of the kernels for GPUs that this machine need not have.

`compile_launches(target, call)` runs `call` with an executor that compiles each launch for `target` instead of running it, and
returns one `Compiled` per distinct launch, with the resources that the tool chain reports. Meta tensors are sufficient.
`collect_launches` only records the launches, so that duplicates are found before anything is compiled.
"""

import importlib
import operator
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from orthohash_triton.kernels.launch import Device
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tests.launches import Call, instead_of_launches
from tests.overflow import overflows

# A GPU of each architecture that kernels are compiled for.
DEVICES = {
    device.architecture: device
    for device in (
        Device("sm_80", 108),
        Device("sm_86", 84),
        Device("sm_89", 128),
        Device("sm_90", 132),
        Device("sm_100", 148),
        Device("sm_120", 170),
        Device("gfx90a", 110, warp_size=64),
        Device("gfx942", 304, warp_size=64),
        Device("gfx950", 256, warp_size=64),
        Device("gfx1100", 96),
    )
}
# Limit of the dynamic shared memory of one block, in bytes.
SHARED_LIMIT = {"sm_80": 166_912, "sm_86": 101_376, "sm_89": 101_376, "sm_90": 232_448, "sm_100": 232_448, "sm_120": 101_376,
                "gfx90a": 65_536, "gfx942": 65_536, "gfx950": 163_840, "gfx1100": 65_536}  # fmt: skip
MOST_THREADS = 1024  # per block
MOST_REGISTERS = {"cuda": 255, "hip": 512}  # per thread; AMD counts vector and accumulation registers
MOST_PROGRAMS = (2**31 - 1, 65_535, 65_535)  # per axis of a grid

_POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float64: "*fp64", torch.int8: "*i8",
             torch.uint8: "*u8", torch.int16: "*i16", torch.int32: "*i32", torch.int64: "*i64", torch.bool: "*i1"}  # fmt: skip

Size = tuple[tuple[int, ...], tuple[tuple[str, int], ...]]  # grid and integer arguments


def gpu_target(name: str) -> GPUTarget:
    if name not in DEVICES:
        raise ValueError(f"target: must be one of {', '.join(DEVICES)}; got {name!r}")
    device = DEVICES[name]
    return GPUTarget(device.backend, int(name[3:]) if device.backend == "cuda" else name, device.warp_size)


@dataclass(frozen=True)
class Compiled:
    """The compiled code of one launch, and the resources that it needs."""

    kernel: str
    target: str
    asm: dict[str, Any]
    shared: int  # bytes of dynamic shared memory
    registers: int  # per thread
    spilled: int  # bytes per thread that are in memory because registers ran out
    constexprs: dict[str, Any]
    warps: int = 4
    sizes: frozenset[Size] = frozenset()  # sizes of the launches that share this code

    @property
    def code(self) -> str:
        return self.asm["ptx" if self.target.startswith("sm_") else "amdgcn"]

    @property
    def threads(self) -> int:
        return self.warps * gpu_target(self.target).warp_size

    def contains(self, pattern: str) -> bool:
        return re.search(pattern, self.code) is not None

    def sass(self) -> str:
        """Return the disassembled machine code of an NVIDIA target."""
        return _cuda_tool("nvdisasm", "-c", self.asm["cubin"])

    def defects(self) -> list[str]:
        """Return the defects that no kernel may have, in words such as "spills 8 bytes"."""
        found = []
        if self.spilled:
            found.append(f"spills {self.spilled} bytes")
        if self.registers > (most := MOST_REGISTERS[gpu_target(self.target).backend]):
            found.append(f"takes {self.registers} registers, limit {most}")
        if self.shared > (limit := SHARED_LIMIT[self.target]):
            found.append(f"takes {self.shared} bytes of shared memory, limit {limit}")
        if self.threads > MOST_THREADS:
            found.append(f"has {self.threads} threads, limit {MOST_THREADS}")
        if self.contains(r"\b(atom|red)\.|(global|flat|buffer)_atomic|\bds_(add|sub|min|max|and|or|xor|inc|dec|cmpst|wrxchg)_"):
            found.append("has atomics")
        for grid, arguments in sorted(self.sizes):
            if any(programs > most for programs, most in zip(grid, MOST_PROGRAMS, strict=False)):
                found.append(f"is launched over the grid {grid}, limit {MOST_PROGRAMS}")
            found += [f"overflows 32 bits: {what}" for what in overflows(self.asm["ttir"], grid, dict(arguments))]
        return list(dict.fromkeys(found))

    def check_budget(self) -> None:
        """Assert that the code has none of the defects that no kernel may have."""
        found = self.defects()
        assert not found, f"{self.kernel} on {self.target} {', '.join(found)}: {self.constexprs}"


@dataclass
class Launch:
    """The facts about a launch that its compilation depends on, as plain values that can be sent to other processes."""

    module: str
    kernel: str
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    warps: int
    stages: int
    most_registers: int | None  # per thread; None lets the compiler choose
    constexprs: dict[str, Any]
    sizes: set[Size] = field(default_factory=set)

    @property
    def key(self) -> str:
        """Text that is equal for launches that run the same code."""
        return repr((self.module, self.kernel, self.signature, self.constants, self.attributes, self.options))

    @property
    def options(self) -> dict[str, int]:
        """Options of the compiler."""
        limit = {} if self.most_registers is None else {"maxnreg": self.most_registers}
        return {"num_warps": self.warps, "num_stages": self.stages, **limit}

    def add_size(self, size: Size) -> None:
        """Remember `size` unless it is within a known size, and forget the known sizes that are within it."""
        if size not in self.sizes and not any(_within(size, known) for known in self.sizes):
            self.sizes = {known for known in self.sizes if not _within(known, size)} | {size}

    def source(self) -> ASTSource:
        kernel = getattr(importlib.import_module(self.module), self.kernel)
        return ASTSource(kernel, self.signature, constexprs=self.constants, attrs=self.attributes)

    def compile(self, target: str) -> Compiled:
        result = triton.compile(self.source(), target=gpu_target(target), options=self.options)
        registers, spilled = _resources(target, result.asm)
        return Compiled(self.kernel, target, result.asm, result.metadata.shared, registers, spilled, self.constexprs,
                        self.warps, frozenset(self.sizes))  # fmt: skip


def _within(size: Size, other: Size) -> bool:
    """Return whether every number of `size` is at most the same number of `other`."""
    (grid, arguments), (other_grid, other_arguments) = size, other
    return all(map(operator.le, grid, other_grid)) and all(
        value <= other_value for (_, value), (_, other_value) in zip(arguments, other_arguments, strict=True)
    )


class _Collector:
    """The distinct launches that were noted.

    A launcher that takes a large problem in chunks launches one kernel thousands of times, with numbers that lead to the same
    code. Such launches are recognised by a key that is cheap to compute, and only their sizes are looked at.
    """

    def __init__(self) -> None:
        self.found: dict[str, Launch] = {}
        self._known: dict[Any, tuple[Launch, list[str]]] = {}  # the launch of each key, and which arguments are integers in it

    def note(self, call: Call) -> None:
        function = call.kernel.fn
        constants = tuple(call.constexprs.items()), tuple(map(type, call.constexprs.values()))  # True equals 1
        options = call.warps, call.stages, call.most_registers
        key = function, options, constants, tuple(map(_distinction, call.args, _specialised(function, call.kernel)))
        if key not in self._known:
            self._known[key] = self._launch_of(call, options)
        seen, integers = self._known[key]
        values = call.named | call.constexprs
        seen.add_size((call.grid, tuple((name, values[name]) for name in integers)))

    def _launch_of(self, call: Call, options: tuple[Any, ...]) -> tuple[Launch, list[str]]:
        parameters = call.kernel.params
        values = {parameter.name: parameter.default for parameter in parameters} | call.named | call.constexprs
        kinds = tuple(_kind(parameter, values[parameter.name]) for parameter in parameters)
        arguments = _specialise(call.kernel, kinds, values)
        new = Launch(call.kernel.fn.__module__, call.name, *arguments, *options, call.constexprs)
        integers = [parameter.name for parameter, kind in zip(parameters, kinds, strict=True) if kind[0] in ("i32", "i64")]
        return self.found.setdefault(new.key, new), integers


_specialised_of: dict[Any, tuple[bool, ...]] = {}


def _specialised(function: Any, kernel: Any) -> tuple[bool, ...]:
    """Return whether each parameter is specialised on. The key is the function, because hashing a kernel takes long."""
    if function not in _specialised_of:
        _specialised_of[function] = tuple(not parameter.do_not_specialize for parameter in kernel.params)
    return _specialised_of[function]


def _distinction(value: Any, specialised: bool) -> Any:
    """Return a value that is different for arguments of different kinds (see `_kind`)."""
    if isinstance(value, torch.Tensor):
        return value.dtype
    if type(value) is int:
        return -(2**31) <= value < 2**31, specialised and value == 1, specialised and value % 16 == 0
    return type(value), value  # a Boolean, a float or None


def collect_launches(target: str, call: Callable[[], Any]) -> list[Launch]:
    """Return the distinct launches of `call`, planned for a GPU of `target`; none of them runs."""
    collector = _Collector()
    gpu_target(target)  # raises an error for an unknown target
    with instead_of_launches(collector.note, DEVICES[target]):
        call()
    return list(collector.found.values())


def compile_launches(target: str, call: Callable[[], Any]) -> list[Compiled]:
    return [seen.compile(target) for seen in collect_launches(target, call)]


def _kind(parameter: Any, value: Any) -> tuple[Any, ...]:
    """Return what the compiled code depends on: ("constexpr", value), or (type, whether it is known to be a multiple of 16).

    As in Triton's launcher, None and 1 become constants, and aligned pointers and multiples of 16 get an attribute. Numbers that
    a kernel is not specialised on get neither.
    """
    if parameter.is_constexpr:
        return "constexpr", value, type(value)  # True and 1 are equal, and compile to different code
    if isinstance(value, torch.Tensor):
        return _POINTERS[value.dtype], True
    if value is None:
        return "constexpr", None
    if isinstance(value, float):
        return "fp32", False
    specialised = not parameter.do_not_specialize
    if specialised and type(value) is int and value == 1:
        return "constexpr", 1
    return "i32" if -(2**31) <= value < 2**31 else "i64", specialised and value % 16 == 0


def _specialise(kernel: Any, kinds: tuple[tuple[Any, ...], ...], values: dict[str, Any]) -> tuple[dict, dict, dict]:
    """Return (signature, constants, attributes) of a launch as Triton's launcher derives them."""
    signature, constants, attributes = {}, {}, {}
    for position, (parameter, (kind, *rest)) in enumerate(zip(kernel.params, kinds, strict=True)):
        signature[parameter.name] = kind
        if kind == "constexpr":
            constants[(position,)] = values[parameter.name]
        elif rest[0]:
            attributes[(position,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


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
