"""Argument checks. Each error message names the op, the argument, the value, what was expected, and what to do."""

import math
import operator
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .quoting import quoted, short_repr

SMALLEST, LARGEST = 1e-30, 1e30  # of a factor: within these, products with it neither vanish nor overflow in float32

MOST_BITS = 8 * (2**20 - 1)  # bits of a code: kernels keep a distance and a position of 40 bits in one integer of 63 bits


def describe(value: Any) -> str:
    """Return a short description for error messages: "float32 [3, 4] on cpu" for a tensor, else the type and the value."""
    if isinstance(value, Tensor):
        return f"{dtype_name(value.dtype)} {list(value.shape)} on {value.device}"
    if isinstance(value, np.ndarray):
        return f"ndarray {value.dtype} {list(value.shape)}"
    return f"{type(value).__name__} {short_repr(value)}"


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype without the prefix "torch."."""
    return str(dtype).removeprefix("torch.")


def full_validation() -> bool:
    """Return whether ORTHOHASH_VALIDATE=1 asks for checks of values on a GPU too, each of which synchronises with the device."""
    return os.environ.get("ORTHOHASH_VALIDATE") == "1"


def has_values(tensor: Tensor) -> bool:
    """Return whether `tensor` holds numbers; it does not on the meta device, or while PyTorch traces a graph."""
    return tensor.device.type != "meta" and not torch.compiler.is_compiling() and not isinstance(tensor, FakeTensor)


def may_read_values(tensor: Tensor) -> bool:
    """Return whether the values of `tensor` may be read: on the CPU, or on a GPU if ORTHOHASH_VALIDATE=1 asks for it."""
    return has_values(tensor) and (tensor.device.type == "cpu" or full_validation())


def tensor(
    op: str, name: str, value: Any, *, dtypes: tuple[torch.dtype, ...], ndim: int, shape: str, advice: str | None = None
) -> Tensor:
    """Return `value` if it is a tensor of one of `dtypes` with `ndim` dimensions.

    Args:
        shape: the expected shape for the message, for example "[N, K]".
        advice: what the message recommends for another dtype; the default is a conversion.

    Raises:
        TypeError: `value` is no tensor or has another dtype.
        ValueError: it has another number of dimensions.
    """
    if isinstance(value, Tensor) and value.dtype in dtypes and value.ndim == ndim:
        return value
    found = f"{op}: {name} must be a tensor {shape} of {' or '.join(map(dtype_name, dtypes))}; got {describe(value)}"
    if not isinstance(value, Tensor):
        raise TypeError(found)
    if value.dtype not in dtypes:
        raise TypeError(f"{found}. {advice or f'Convert it with .to(torch.{dtype_name(dtypes[0])})'}")
    raise ValueError(found)


def same_device(op: str, name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Raise ValueError unless both tensors are on one device."""
    if value.device != other.device:
        raise ValueError(
            f"{op}: {name} is on {value.device}, {other_name} on {other.device}; "
            f"both must be on one device. Move {name} with .to({quoted(str(other.device))})"
        )


def code_advice(dtype: str) -> str:
    """Return what the message about codes of another `dtype` than uint8, such as "int8", recommends."""
    if dtype == "int8":
        return (
            "If they are binary embeddings of int8 (numpy.packbits - 128, as sentence-transformers and embedding services "
            "return them), convert them with from_packbits(codes, signed=True). If they are signs, one per bit, pack them with "
            "pack_codes"
        )
    return "Pack real numbers, signs or bools with pack_codes"


def codes(op: str, name: str, value: Any) -> Tensor:
    """Return `value` if it is a tensor of packed codes, uint8 [N, ceil(K/8)] with at least one byte per code."""
    advice = code_advice(dtype_name(value.dtype)) if isinstance(value, Tensor) else None
    checked = tensor(op, name, value, dtypes=(torch.uint8,), ndim=2, shape="[N, bits/8] of packed codes", advice=advice)
    if checked.shape[1] == 0:
        raise ValueError(f"{op}: {name} has codes of zero bits; got {describe(checked)}")
    if 8 * checked.shape[1] > MOST_BITS:
        raise ValueError(f"{op}: {name} must have codes of {MOST_BITS} bits or fewer; got {describe(checked)}")
    return checked


def code_pair(op: str, queries: Any, gallery: Any, names: tuple[str, str] = ("queries", "gallery")) -> tuple[Tensor, Tensor]:
    """Return two tensors of packed codes if they have the same width and device. `names` are the names of the arguments."""
    queries, gallery = codes(op, names[0], queries), codes(op, names[1], gallery)
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"{op}: {names[0]} have {8 * queries.shape[1]} bits, {names[1]} {8 * gallery.shape[1]}; "
            "both must be packed from the same number of bits"
        )
    same_device(op, names[0], queries, names[1], gallery)
    return queries, gallery


def gallery_mask(op: str, mask: Any, gallery: Tensor) -> Tensor | None:
    """Return `mask` if it is None or bool [N], with one entry for each row of `gallery`, on its device."""
    if mask is None:
        return None
    mask = tensor(op, "mask", mask, dtypes=(torch.bool,), ndim=1, shape="[N], one entry a gallery row,")
    if mask.shape[0] != gallery.shape[0]:
        expected = f"one entry for each of the {gallery.shape[0]} gallery rows"
        raise ValueError(f"{op}: mask must have {expected}; got {describe(mask)}")
    same_device(op, "mask", mask, "gallery", gallery)
    return mask


def integer(op: str, name: str, value: Any, *, minimum: int, maximum: int | None = None) -> int:
    """Return `value` as an int if it is an integer (of NumPy or PyTorch too) between `minimum` and `maximum`."""
    if type(value) is not int:
        try:
            if _is_no_number(value):
                raise TypeError
            value = operator.index(value)  # int() would truncate a float
        except TypeError:
            raise TypeError(f"{op}: {name} must be an integer; got {describe(value)}") from None
    if value < minimum or (maximum is not None and value > maximum):
        bounds = f"at least {minimum}" if maximum is None else f"between {minimum} and {maximum}"
        raise ValueError(f"{op}: {name} must be {bounds}; got {quoted(value)}")
    return value


def class_id(op: str, name: str, value: Any) -> int:
    """Return `value` as an int if it is an integer that an int64 tensor of class ids can hold."""
    return integer(op, name, value, minimum=-(2**63), maximum=2**63 - 1)


def number(op: str, name: str, value: Any, *, expected: str = "a number") -> float:
    """Return `value` as a float if it is a real number: of Python, a NumPy scalar, or a tensor or array without dimensions.

    The number of a tensor on a GPU is read, which waits for the device.

    Raises:
        TypeError: `value` is no number.
        ValueError: it is a tensor that requires a gradient, which it would not get.
    """
    if type(value) is float or type(value) is int:
        return float(value)
    if isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{op}: {name} gets no gradient, but it requires one. Pass {name}.item()")
    try:
        if _is_no_number(value):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"{op}: {name} must be {expected}; got {describe(value)}") from None


def _is_no_number(value: Any) -> bool:
    """Return whether `value` is something that Python converts to a number although it is a truth value, a text or an array."""
    if isinstance(value, bool | str | bytes | np.bool_):
        return True
    if isinstance(value, Tensor):
        return value.ndim > 0 or value.dtype == torch.bool or value.is_complex()
    return isinstance(value, np.ndarray) and (value.ndim > 0 or value.dtype.kind not in "iuf")


def plain(value: Any) -> Any:
    """Return a NumPy scalar, or an array or tensor without dimensions, as a number of Python. Return anything else unchanged."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray | Tensor) and value.ndim == 0):
        return value.item()
    return value


def factor(
    op: str, name: str, value: Any, *, zero: bool = False, largest: float = LARGEST, hint: str = "", alternatives: str = ""
) -> float:
    """Return `value` as a float if it is a positive number, or 0 if `zero` allows it, that float32 can multiply by.

    Args:
        largest: the largest number that is accepted.
        hint: a sentence that the message about a wrong value ends with.
        alternatives: other values that the argument takes, such as "None or ", for the message.

    Raises:
        TypeError: `value` is no number.
        ValueError: it is negative or not finite, or so large or so small that products with it overflow or vanish.
    """
    found = number(op, name, value, expected=f"{alternatives}a {'' if zero else 'positive '}number")
    hint = hint and f". {hint}"
    if not (0 <= found < math.inf if zero else 0 < found < math.inf):
        bounds = "at least 0 and finite" if zero else "positive and finite"
        raise ValueError(f"{op}: {name} must be {alternatives}{bounds}; got {found}{hint}")
    if found and not SMALLEST <= found <= largest:
        outcome = "overflow" if found > largest else "vanish"
        raise ValueError(
            f"{op}: {name} must be between {SMALLEST:g} and {largest:g}, because products with it {outcome} in float32; "
            f"got {found}{hint}"
        )
    return found


def choice(op: str, name: str, value: Any, options: tuple[str, ...]) -> str:
    """Return `value` if it is one of `options`."""
    if value not in options:
        raise ValueError(f"{op}: {name} must be one of {', '.join(map(quoted, options))}; got {quoted(value)}")
    return value
