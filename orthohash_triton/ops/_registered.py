"""Ops with two ways to be called: a `torch.library` op for torch.compile, a function or autograd.Function for eager calls.

Both share one forward and one backward. Eager calls avoid the Python layers of the dispatcher, which take about as long as a
small search or a small loss.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch


class Op:
    """A callable that runs the registered op while torch.compile traces, and the equivalent function `eager` otherwise."""

    def __init__(self, op: torch.library.CustomOpDef, eager: Callable[..., Any]) -> None:
        self.op = op
        self.eager = eager

    def __call__(self, *args: Any) -> Any:
        return self.op(*args) if torch.compiler.is_compiling() else self.eager(*args)

    def in_backward(self, ctx: Any, *args: Any) -> Any:
        """Call the op in the backward of a `differentiable`, where torch.compile does not report that it traces."""
        return self(*args) if getattr(ctx, "eager", False) else self.op(*args)


def registered(name: str, forward: Callable[..., Any], *, fake: Callable[..., Any]) -> Op:
    """Register `forward` as op `orthohash::name`, with the schema of its annotations; all arguments are positional."""
    op = torch.library.custom_op(f"orthohash::{name}", forward, mutates_args=())
    op.register_fake(fake)
    return Op(op, forward)


def differentiable(
    name: str,
    forward: Callable[..., Any],
    *,
    fake: Callable[..., Any],
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
    leading: int,
    outputs: int,
) -> Op:
    """Register `forward` with gradients for some of the first `leading` arguments, all of them tensors or None.

    `backward` returns one gradient, or None, for each of these. Outputs beyond the first `outputs` are kept for the backward and
    not returned to callers.
    """

    # A Function with `setup_context` inspects its signature at every call, which takes longer than a small loss, and `apply`
    # examines every argument, so arguments without a gradient are passed as one tuple.
    def forward_in_context(ctx: Any, *args: Any) -> Any:
        inputs = (*args[:leading], *args[leading])
        ctx.eager = True
        output = forward(*inputs)
        setup_context(ctx, inputs, output)
        return output[:outputs]

    def backward_of_leading(ctx: Any, *upstream: Any) -> Any:
        return *backward(ctx, *upstream), None

    members = {"forward": staticmethod(forward_in_context), "backward": staticmethod(backward_of_leading)}
    function: Any = type(f"{name}_function", (torch.autograd.Function,), members)

    def eager(*args: Any) -> Any:
        if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in args[:leading]):
            return function.apply(*args[:leading], args[leading:])
        return forward(*args)[:outputs]

    def backward_of_all(ctx: Any, *upstream: Any) -> Any:
        return *backward(ctx, *upstream), *[None] * (arguments - leading)

    arguments = len(inspect.signature(forward).parameters)
    known = registered(name, forward, fake=fake)
    known.op.register_autograd(backward_of_all, setup_context=setup_context)
    return Op(known.op, eager)


def refuse_double_backward(op: str) -> None:
    """Raise RuntimeError if the backward of `op` runs under create_graph=True, that is, while gradients are recorded."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{op} has no second derivative: its backward was called with create_graph=True. "
            'Use impl="reference" for gradient penalties and other double-backward uses'
        )
