"""The instructions that the compiled code of a kernel must contain: tensor core operations, or bit counts."""

from tests.compiled import Compiled

_FP16 = {"sm_80": r"mma\.sync.*f32\.f16\.f16", "sm_90": r"wgmma.*f32\.f16\.f16|mma\.sync.*f32\.f16\.f16",
         "sm_100": r"tcgen05\.mma.*kind::f16|mma\.sync.*f32\.f16\.f16", "gfx1100": r"v_wmma_f32_16x16x16_f16",
         "gfx9": r"v_mfma_f32_\w*f16"}  # fmt: skip
_INT8 = {"sm_80": r"mma\.sync.*s8\.s8", "sm_90": r"wgmma\.mma_async.*s8\.s8", "sm_100": r"tcgen05\.mma.*i8",
         "gfx9": r"v_mfma_i32"}  # fmt: skip
_POPCOUNT = {"sm_": r"popc\.b32", "gfx": r"v_bcnt_u32_b32"}
_FAMILY = {"sm_86": "sm_80", "sm_89": "sm_80", "sm_120": "sm_80", "gfx90a": "gfx9", "gfx942": "gfx9", "gfx950": "gfx9"}


def expected(compiled: Compiled) -> str | None:
    """Return a pattern of the instructions that the compiled code must contain, or None if nothing is required."""
    patterns = _expected_instructions(compiled)
    if patterns is None:
        return None
    target = _FAMILY.get(compiled.target, compiled.target)
    return patterns.get(target) or patterns[compiled.target[:3]]


def _expected_instructions(compiled: Compiled) -> dict[str, str] | None:
    kernel, constants = compiled.kernel, compiled.constexprs
    if kernel == "_nearest_by_dot":
        return _INT8
    if kernel in ("_nearest_by_popcount", "_span_distances", "_distances", "_sum_precisions", "_count", "_write"):
        return _POPCOUNT
    if kernel in ("_apply_kernel", "_outer_kernel", "_dots_kernel"):
        return _FP16
    if kernel == "_sweep_kernel" and (constants.get("NEED_GRAD", True) or "v_ptr" in compiled.asm["ttir"]):
        return _FP16
    return None
