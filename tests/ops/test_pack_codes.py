import numpy as np
import pytest
import torch

import orthohash_triton as oht
from orthohash_triton.ops.pack_codes import from_packbits, pack_codes, unpack_codes
from orthohash_triton.reference.pack_codes import from_packbits as reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool]
# One code; bits that fill half a byte; widths around a word; more rows and bytes than one tile of the kernel.
SHAPES = [(1, 1), (3, 12), (37, 64), (5, 33), (130, 101)]


def values(shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    if dtype.is_floating_point:
        return torch.randn(shape).to(dtype)
    return torch.randint(0, 2, shape).bool() if dtype == torch.bool else torch.randint(-1, 2, shape).to(dtype)


def check_against_reference(dtype: torch.dtype, shape: tuple[int, int], device: torch.device, impl: str) -> None:
    x = values(shape, dtype).to(device)
    for source in (x, x.T.contiguous().T, torch.cat([x, x], 1)[:, : shape[1]]):  # also rows that are not contiguous
        packed = pack_codes(source, impl=impl)
        assert packed.dtype == torch.uint8
        assert torch.equal(packed, pack_codes(x, impl="reference"))
    signs = unpack_codes(packed, shape[1], impl=impl)
    assert signs.dtype == torch.int8
    assert torch.equal(signs, torch.where(x > 0 if dtype != torch.bool else x, 1, -1).to(torch.int8))


def test_reference_by_hand():
    x = torch.tensor([[1.0, -1.0, 0.0, 2.0, float("nan"), -0.0, 3.0, -5.0, 0.5]])
    assert pack_codes(x, impl="reference").tolist() == [[0b01001001, 0b1]]
    assert unpack_codes(torch.tensor([[0b01001001, 0b1]], dtype=torch.uint8), 9, impl="reference").tolist() == [
        [1, -1, -1, 1, -1, -1, 1, -1, 1]
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_cpu(dtype, shape):
    check_against_reference(dtype, shape, torch.device("cpu"), "cpu")


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("dtype", "shape"), [*zip(DTYPES, [(130, 101), (37, 64), (5, 33), (3, 12), (9, 65), (1, 1)], strict=True)], ids=str
)
def test_kernel(dtype, shape, device):
    check_against_reference(dtype, shape, device, "triton")


@pytest.mark.parametrize("impl", ["cpu", "reference", pytest.param("triton", marks=pytest.mark.kernel)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8], ids=str)
def test_threshold_and_nan(dtype, impl, device):
    """0.1 is rounded to a different number in each of these dtypes. A value equal to it is not above it."""
    x = torch.tensor([[0.1, 0.2, 0.0, -1.0]], dtype=torch.float64).to(dtype).to(device)
    assert pack_codes(x, threshold=0.1, impl=impl).tolist() == [[0b0010 if dtype.is_floating_point else 0]]
    if dtype.is_floating_point:
        assert pack_codes(x.masked_fill(x > 0.15, float("nan")), threshold=-0.5, impl=impl).tolist() == [[0b0101]]


@pytest.mark.parametrize("impl", ["cpu", "reference", pytest.param("triton", marks=pytest.mark.kernel)])
def test_threshold_is_compared_in_the_dtype_of_x(impl, device):
    """A float64 value and a threshold that only differ in float64 are not equal. An int8 value is compared in float32."""
    above = np.nextafter(0.1, 1.0)
    x = torch.tensor([[0.1, above, np.nextafter(0.1, 0.0), 1 + 1e-12]], dtype=torch.float64, device=device)
    assert pack_codes(x, threshold=0.1, impl=impl).tolist() == [[0b1010]]
    assert pack_codes(x, threshold=above, impl=impl).tolist() == [[0b1000]]
    assert pack_codes(x, threshold=1.0, impl=impl).tolist() == [[0b1000]]
    one = torch.ones(1, 1, dtype=torch.int8, device=device)
    assert pack_codes(one, threshold=1 - 1e-12, impl=impl).tolist() == [[0]]  # as in torch, where 1 - 1e-12 is 1 in float32


def test_numpy_in_numpy_out():
    x = np.random.default_rng(0).standard_normal((37, 20)).astype(np.float32)
    packed = pack_codes(x)
    assert isinstance(packed, np.ndarray)
    assert np.array_equal(packed, np.packbits(x > 0, axis=1, bitorder="little"))
    assert np.array_equal(unpack_codes(packed, 20), np.where(x > 0, 1, -1))
    assert np.array_equal(from_packbits(np.packbits(x > 0, axis=1)), packed)


def test_from_packbits_reverses_every_byte():
    every = torch.arange(256, dtype=torch.uint8).view(32, 8)
    assert from_packbits(every).flatten().tolist() == [int(f"{byte:08b}"[::-1], 2) for byte in range(256)]
    assert torch.equal(reference(every), from_packbits(every))


def test_from_packbits_of_signed_bytes():
    """Binary embeddings of sentence-transformers are int8: packbits - 128, by the line of `quantize_embeddings` that is here."""
    x = np.random.default_rng(0).standard_normal((37, 24)).astype(np.float32)
    embeddings = (np.packbits(x > 0).reshape(len(x), -1) - 128).astype(np.int8)
    assert np.array_equal(from_packbits(embeddings, signed=True), pack_codes(x))
    every = torch.arange(-128, 128, dtype=torch.int8).view(32, 8)
    assert torch.equal(from_packbits(every, signed=True), from_packbits((every.int() + 128).to(torch.uint8)))
    assert torch.equal(reference(every, signed=True), from_packbits(every, signed=True))
    assert from_packbits(every.T, signed=True).shape == (8, 32)  # not contiguous


CODES = torch.zeros(3, 2, dtype=torch.uint8)
EMBEDDINGS = torch.zeros(3, 2, dtype=torch.int8)


@pytest.mark.parametrize("given", [EMBEDDINGS, EMBEDDINGS.numpy()], ids=["tensor", "array"])
@pytest.mark.parametrize(
    "call",
    [
        lambda x: oht.hamming_distance(x, CODES),
        lambda x: oht.hamming_topk(CODES, x, 1),
        lambda x: oht.hamming_range(x, x, 1),
        lambda x: oht.hamming_histogram(x, CODES),
        lambda x: unpack_codes(x, 16),
        lambda x: oht.HammingIndex(16).add(x),
        lambda x: oht.HammingIndex(16).search(x, 1),
        lambda x: oht.metrics.mean_average_precision(x, CODES, torch.zeros(3).long(), torch.zeros(3).long()),
    ],
    ids=["distance", "topk", "range", "histogram", "unpack", "add", "search", "metrics"],
)
def test_what_int_8_codes_probably_are(call, given):
    with pytest.raises(TypeError, match=r"got int8 \[3, 2\].*binary embeddings of int8 .*from_packbits\(codes, signed=True\)"):
        call(given)


def test_nothing_to_pack():
    packed = pack_codes(torch.empty(0, 12))
    assert packed.shape == (0, 2)
    assert unpack_codes(packed, 12).shape == (0, 12)


@pytest.mark.parametrize("op", ["pack", "unpack"])
def test_registered_op(op):
    from orthohash_triton.ops import pack_codes as module

    x = torch.randn(5, 12)
    if op == "pack":
        torch.library.opcheck(module._pack.op, (x, 0.0, "auto"))
        compiled = torch.compile(lambda x: pack_codes(x), fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), pack_codes(x))
    else:
        torch.library.opcheck(module._unpack.op, (pack_codes(x), 12, "auto"))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: pack_codes([1.0]), TypeError, "x must be a tensor.*got list"),
        (lambda: pack_codes(torch.ones(2, 8, dtype=torch.int64)), TypeError, "got int64.*Convert it with"),
        (lambda: pack_codes(torch.ones(8)), ValueError, r"x must be a tensor \[N, K\].*got float32 \[8\]"),
        (lambda: pack_codes(torch.ones(3, 0)), ValueError, "at least one dimension"),
        (lambda: pack_codes(torch.ones(3, 8), threshold="0"), TypeError, "threshold must be a number; got str"),
        (lambda: pack_codes(torch.ones(3, 8), threshold=float("nan")), ValueError, "threshold must be a number; got nan"),
        (
            lambda: pack_codes(torch.tensor([[1.0, 2.0], [float("nan"), 0.0]]), refuse_nan=True),
            ValueError,
            "x has NaN in 1 of 2 rows, first in row 1",
        ),
        (lambda: pack_codes(torch.ones(3, 8), impl="cuda"), ValueError, "impl must be one of auto, triton, cpu, reference"),
        (lambda: unpack_codes(torch.ones(3, 2), 16), TypeError, "packed must be .*uint8; got float32"),
        (lambda: unpack_codes(torch.ones(3, 2, dtype=torch.uint8), 8), ValueError, "8 bits take 1 bytes.*between 9 and 16"),
        (lambda: unpack_codes(torch.ones(3, 2, dtype=torch.uint8), 17), ValueError, "17 bits take 3 bytes"),
        (lambda: unpack_codes(torch.ones(3, 2, dtype=torch.uint8), 0), ValueError, "bits must be at least 1; got 0"),
        (lambda: unpack_codes(torch.ones(3, 2, dtype=torch.uint8), 12.0), TypeError, "bits must be an integer; got float"),
        (lambda: from_packbits(torch.ones(3, 2)), TypeError, "packed must be .*uint8"),
        (
            lambda: from_packbits(EMBEDDINGS),
            TypeError,
            r"packed must be .*uint8; got int8 .*Pass signed=True if 128 was subtracted",
        ),
        (lambda: from_packbits(EMBEDDINGS.numpy()), TypeError, "Pass signed=True if 128 was subtracted"),
        (lambda: from_packbits(CODES, signed=True), TypeError, r"packed must be .*int8; got uint8 .*leave out signed=True"),
        (lambda: from_packbits(EMBEDDINGS, signed=1), TypeError, "signed must be True or False; got int 1"),
        (lambda: from_packbits(CODES[0]), ValueError, r"packed must be a tensor \[N, bits/8\] of uint8; got uint8 \[2\]"),
        (lambda: from_packbits(CODES[:, :0]), ValueError, "packed has codes of zero bits"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
