"""Builders of LLVM IR for vector instructions that Numba does not offer."""

from llvmlite import ir
from numba.core import cgutils

LANES = 32  # codes in one vector: a 256-bit register of bytes

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
BYTES, WORDS, QUAD = ir.VectorType(I8, LANES), ir.VectorType(I64, LANES), ir.VectorType(I64, 4)


def pointer(builder: ir.IRBuilder, address: ir.Value, byte_offset: ir.Value, element: ir.Type) -> ir.Value:
    """Return a pointer to `element` at `address` + `byte_offset`."""
    return builder.inttoptr(builder.add(address, byte_offset), element.as_pointer())


def constant(value: int) -> ir.Constant:
    """Return a 64-bit constant."""
    return ir.Constant(I64, value)


def byte_constant(value: int) -> ir.Constant:
    """Return a vector of LANES equal bytes."""
    return ir.Constant(BYTES, [value] * LANES)


def splat(builder: ir.IRBuilder, value: ir.Value, vector: ir.Type) -> ir.Value:
    """Return a vector whose lanes all hold `value`."""
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(I32, 0))
    zeros = ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), zeros)


def zeroed(builder: ir.IRBuilder, vector: ir.Type, count: int) -> list[ir.Value]:
    """Allocate `count` vectors of zeros on the stack, and return their addresses."""
    places = [cgutils.alloca_once(builder, vector) for _ in range(count)]
    for place in places:
        builder.store(ir.Constant(vector, None), place)
    return places


def call(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
    """Call the LLVM intrinsic `name`."""
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, [a.type for a in arguments]), name)
    return builder.call(function, arguments)


def prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Prefetch the cache line at `address`, an integer."""
    read, keep, data = ir.Constant(I32, 0), ir.Constant(I32, 3), ir.Constant(I32, 1)
    call(builder, "llvm.prefetch.p0i8", ir.VoidType(), builder.inttoptr(address, I8.as_pointer()), read, keep, data)


def opaque(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Hide `value` from LLVM's optimiser, which would otherwise compute a mask lane by lane."""
    barrier = ir.InlineAsm(ir.FunctionType(value.type, [value.type]), "", "=r,0")
    return builder.call(barrier, [value])
