"""Device functions that the kernels of the codebook loss share: normalised rows, codes of classes, the margin.

Shapes use N rows, C classes and K bits. BLOCK_M rows, BLOCK_N classes and BLOCK_K bits are processed at once.
"""

import triton
import triton.language as tl

ROW_SCALE = tl.constexpr(256.0)  # |v^| <= 1; with this factor the low half of an entry is a normal fp16 number
# Rows shorter than 1e-35 get the gradient of a row of this length, because that of a shorter one would overflow.
MAX_INVERSE_NORM = tl.constexpr(1e35)
SINE_FLOOR = tl.constexpr(1e-6)  # below this sin^2(theta), the derivative of sin(theta) is taken as 0, as in the reference


@triton.jit
def load_unit_rows(v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, row, bit, in_rows, n_bits, n_weight, n_bias,
                   HAS_NORM: tl.constexpr):  # fmt: skip
    """Load whole rows, batch-normalised if HAS_NORM; return v^ = v / |v| [BLOCK_M, BLOCK_K] and 1 / |v| [BLOCK_M].

    Both are zero outside the input.
    """
    v = load_rows(v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, row, bit, in_rows, n_bits, n_weight, n_bias, HAS_NORM)
    scale = row_scale(tl.max(tl.abs(v), 1))
    v *= scale[:, None]
    inverse_norm = inverse_root(tl.sum(v * v, 1))
    return v * inverse_norm[:, None], unscaled(inverse_norm, scale)


@triton.jit
def row_scale(largest):
    """Return the power of two that brings numbers of at most `largest` to 1 .. 2, so that their squares stay within float32.

    A power of two changes no digit. It is 2^126 for `largest` below 2^-126, and 2^-126 from 2^126 on, for infinity too.
    """
    biased = tl.minimum(tl.maximum(largest.to(tl.int32, bitcast=True) >> 23, 1), 253)  # the exponent of `largest`
    return ((254 - biased) << 23).to(tl.float32, bitcast=True)


@triton.jit
def unscaled(inverse_norm, scale):
    """Return 1 / |v|, given that of the scaled row, but at most MAX_INVERSE_NORM."""
    return tl.minimum(inverse_norm * scale, MAX_INVERSE_NORM)


@triton.jit
def load_rows(v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, row, bit, in_rows, n_bits, n_weight, n_bias,
              HAS_NORM: tl.constexpr):  # fmt: skip
    """Load the entries `bit` of the rows `row` in float32, batch-normalised if HAS_NORM; zero outside the input.  [BLOCK_M, bits]

    n_weight and n_bias are n_bits, or 0 without a weight or a bias.
    """
    in_bits = bit < n_bits
    inside = in_rows[:, None] & in_bits[None, :]
    v = tl.load(v_ptr + row[:, None] * n_bits + bit[None, :], mask=inside, other=0.0).to(tl.float32)
    if HAS_NORM:
        mean = tl.load(mean_ptr + bit, mask=in_bits, other=0.0).to(tl.float32)
        factor = tl.load(rstd_ptr + bit, mask=in_bits, other=0.0).to(tl.float32)
        factor *= tl.load(weight_ptr + bit, mask=bit < n_weight, other=1.0).to(tl.float32)
        v = (v - mean[None, :]) * factor[None, :]
        v += tl.load(bias_ptr + bit, mask=bit < n_bias, other=0.0).to(tl.float32)[None, :]
        v = tl.where(inside, v, 0.0)
    return v


@triton.jit
def inverse_root(square):
    """Return 1 / sqrt(square), or 0 if square is 0, because a zero row has neither a direction nor a gradient."""
    return tl.where(square == 0.0, 0.0, 1.0 / tl.sqrt(square))


@triton.jit
def load_codes(words_ptr, c, in_classes, first_bit, WORDS: tl.constexpr, BLOCK_N: tl.constexpr, TILE_K: tl.constexpr):
    """Unpack TILE_K bits, starting at first_bit, of the codes of classes c to +-1 in fp16.  [BLOCK_N, TILE_K]"""
    TILE_WORDS: tl.constexpr = (TILE_K + 31) // 32
    word = first_bit // 32 + tl.arange(0, TILE_WORDS)
    inside = in_classes[:, None] & (word < WORDS)[None, :]
    packed = tl.load(words_ptr + c.to(tl.int64)[:, None] * WORDS + word[None, :], mask=inside, other=0)  # [BLOCK_N, TILE_WORDS]
    PER_WORD: tl.constexpr = TILE_K // TILE_WORDS
    # Placing the bit in the sign of fp16's 1.0 is cheaper than a conversion from an integer.
    bit = (packed[:, :, None] >> tl.arange(0, PER_WORD)[None, None, :]) << 15
    return tl.reshape(((bit & 0x8000) ^ 0xBC00).to(tl.int16).to(tl.float16, bitcast=True), (BLOCK_N, TILE_K))


@triton.jit
def apply_margin(cosine, margin, cos_margin, sin_margin, past_pi_cosine, angular):
    """Return the cosine of a positive class after its margin, and the slope d shifted / d cosine.

    The additive margin gives cos(theta) - margin. The angular one gives cos(theta + margin), continued by a straight line where
    theta + margin exceeds pi, which is where the cosine is below past_pi_cosine = cos(pi - margin). `angular` may be a
    constant or a number: where the margin is applied once per row, a branch costs nothing.
    """
    shifted = cosine - margin
    slope = tl.full(cosine.shape, 1.0, tl.float32)
    if angular:
        square = 1.0 - cosine * cosine
        sine = tl.sqrt(tl.maximum(square, SINE_FLOOR))
        angular_slope = cos_margin + tl.where(square > SINE_FLOOR, sin_margin * cosine / sine, 0.0)
        past_pi = cosine < past_pi_cosine
        shifted = tl.where(past_pi, cosine - margin * sin_margin, cosine * cos_margin - sine * sin_margin)
        slope = tl.where(past_pi, 1.0, angular_slope)
    return shifted, slope
