"""A model of the cost of an NVIDIA kernel's machine code: its main loop, the instructions by pipe, and the clocks per pipe.

The model covers throughput only, from compiled code that is not run: it ignores latency, occupancy and memory, and assumes that
pipes overlap.
"""

import re
from collections import Counter
from dataclasses import dataclass

# Lanes (of 32 in a warp) that each pipe processes per clock and multiprocessor: NVIDIA's CUDA C++ programming guide, the table of
# arithmetic throughput, for sm_80, sm_90 and sm_100 alike; "memory" is shared memory's 128 bytes a clock.
RATES = {"popc": 16, "mufu": 16, "alu": 64, "fma": 64, "shuffle": 32, "memory": 32, "issue": 128}
# The same for float32; sm_80 has half of the rate of the others.
FLOAT_RATE = {"sm_80": 64, "sm_90": 128, "sm_100": 128}
# Multiply-adds of int8, and of fp16 into float32, per clock and multiprocessor: dense peaks of the data sheets.
INT8_RATE = {"sm_80": 2048, "sm_90": 4096, "sm_100": 8192}
FP16_RATE = {"sm_80": 1024, "sm_90": 2048, "sm_100": 4096}

_POPC = ("POPC",)
_MMA = ("IMMA", "IGMMA")
_TENSOR = (*_MMA, "HMMA", "HGMMA", "UTCIMMA", "UTCHMMA")
_FMA = ("IMAD",)
_MUFU = ("MUFU",)
_FLOAT = ("FADD", "FMUL", "FFMA", "FADD2", "FMUL2", "FFMA2", "HADD2", "HMUL2", "HFMA2")
_SHUFFLE = ("SHFL", "REDUX", "VOTE")
_MEMORY = ("LDG", "STG", "LDS", "STS", "LDSM", "STSM", "LDL", "STL", "ATOMS", "LDGSTS", "LDTM", "STTM")
_ISSUE_ONLY = ("BRA", "BAR", "NOP", "EXIT", "CALL", "WARPSYNC", "BSSY", "BSYNC", "DEPBAR", "LDGDEPBAR", "WARPGROUP", "MEMBAR",
               "FENCE", "LDC", "ULDC", "R2UR", "S2R", "S2UR", "CS2R")  # fmt: skip


@dataclass(frozen=True)
class Stretch:
    """A run of instructions, without their predicates: "LOP3.LUT R1, R2, ..."."""

    start: int
    instructions: tuple[str, ...]

    @property
    def end(self) -> int:
        return self.start + len(self.instructions)

    def count(self, *names: str) -> int:
        return sum(_name(instruction) in names for instruction in self.instructions)

    def contains(self, other: "Stretch") -> bool:
        return self.start <= other.start and other.end <= self.end and self != other

    def multiply_adds(self) -> int:
        """Return the int8 multiply-adds of one warp."""
        return sum(map(_multiply_adds, self.instructions))


def main_loop(sass: str) -> tuple[Stretch, Stretch]:
    """Return the innermost loop with the most matrix products or popcounts, and its longest part that a branch skips.

    Among loops with equally many the shortest is taken, because longer ones handle incomplete ends; among loops without any, the
    longest.
    """
    instructions, branches = _parse(sass)
    last = max(at for at, instruction in enumerate(instructions) if _name(instruction) == "EXIT")  # code after it only waits
    found = [Stretch(to, tuple(instructions[to : at + 1])) for at, to in branches if to < at < last]
    innermost = [loop for loop in found if not any(loop.contains(other) for other in found)]

    def worth(loop: Stretch) -> tuple[int, ...]:
        work = (loop.multiply_adds(), loop.count(*_TENSOR), loop.count(*_POPC))
        length = loop.end - loop.start
        return (*work, -length if any(work) else length)

    loop = max(innermost, key=worth)
    passed = [Stretch(at + 1, tuple(instructions[at + 1 : to])) for at, to in branches if loop.start <= at < to <= loop.end]
    return loop, max(passed, key=lambda part: len(part.instructions), default=Stretch(loop.end, ()))


def _parse(sass: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Return the instructions, and the branches as pairs of positions (from, to)."""
    labels, instructions = {}, []
    for line in sass.splitlines():
        if label := re.match(r"\s*(\.L\w+):", line):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?(.*?)\s*;", line):
            instructions.append(instruction[1])
    targets = [(at, re.match(r"BRA.*`\((\.L\w+)\)", instruction)) for at, instruction in enumerate(instructions)]
    return instructions, [(at, labels[target[1]]) for at, target in targets if target]


def cycles(instructions: Counter[str], target: str) -> dict[str, float]:
    """Return the clocks for which a warp's `instructions` (see `mix`; "fp16" counts multiply-adds) occupy each pipe."""
    busy = {pipe: 32 * instructions[pipe] / rate for pipe, rate in RATES.items()}
    busy["float"] = 32 * instructions["float"] / FLOAT_RATE[target]
    return busy | {"mma": instructions["multiply-adds"] / INT8_RATE[target] + instructions["fp16"] / FP16_RATE[target]}


def mix(part: Stretch) -> Counter[str]:
    """Count the instructions of `part` by pipe.

    "issue" counts all instructions, "memory" accesses of 32 bits, and "multiply-adds" those of matrix products.
    """
    counts: Counter[str] = Counter(issue=len(part.instructions))
    for instruction in part.instructions:
        name = _name(instruction)
        if name in _MEMORY:
            width = re.search(r"\.(64|128)\b", instruction.split()[0])
            counts["memory"] += int(width[1]) // 32 if width else 1
        elif name in _TENSOR:
            counts["multiply-adds"] += _multiply_adds(instruction)
        elif pipe := next((pipe for pipe, names in _PIPES.items() if name in names), None):
            counts[pipe] += 1
        elif name not in _ISSUE_ONLY and not name.startswith("U"):  # the uniform datapath has a separate pipe
            counts["alu"] += 1
    return counts


_PIPES = {"popc": _POPC, "fma": _FMA, "mufu": _MUFU, "float": _FLOAT, "shuffle": _SHUFFLE}


def _name(instruction: str) -> str:
    return re.split(r"[.\s]", instruction, maxsplit=1)[0]


def _multiply_adds(instruction: str) -> int:
    if shape := re.match(r"IGMMA\.(\d+)x(\d+)x(\d+)", instruction):
        return int(shape[1]) * int(shape[2]) * int(shape[3]) // 4  # four warps share one
    if shape := re.match(r"IMMA\.(16)(8)(16|32)\.", instruction):
        return int(shape[1]) * int(shape[2]) * int(shape[3])
    return 0
