"""Ops for both worlds: a `torch.library` op for torch.compile, the plain function (or autograd.Function) for eager calls.

Both share one forward and one backward. Eager calls go round the dispatcher's Python layers because those cost about as much as
a small search or a small loss.
"""

from collections.abc import Callable
from typing import Any

import torch


def registered(name: str, forward: Callable[..., Any], *, fake: Callable[..., Any]) -> Callable[..., Any]:
    """Register `forward` as op `orthohash::name`; the schema comes from its annotations, all arguments are positional.

    Eager calls go straight to `forward`: the dispatcher's Python layers cost more than a small search.
    """
    op = torch.library.custom_op(f"orthohash::{name}", forward, mutates_args=())
    op.register_fake(fake)

    def call(*args: Any) -> Any:
        return op(*args) if torch.compiler.is_compiling() else forward(*args)

    call.op = op  # type: ignore[attr-defined]
    return call


def differentiable(
    name: str,
    forward: Callable[..., Any],
    *,
    fake: Callable[..., Any],
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
) -> Callable[..., Any]:
    """Register `forward` as op `orthohash::name`; the schema comes from its annotations, all arguments are positional."""
    op = torch.library.custom_op(f"orthohash::{name}", forward, mutates_args=())
    op.register_fake(fake)
    op.register_autograd(backward, setup_context=setup_context)
    members = {"forward": staticmethod(forward), "setup_context": staticmethod(setup_context), "backward": staticmethod(backward)}
    eager = type(f"{name}_function", (torch.autograd.Function,), members)

    def call(*args: Any) -> Any:
        return op(*args) if torch.compiler.is_compiling() else eager.apply(*args)  # type: ignore[attr-defined]

    call.op = op  # type: ignore[attr-defined]
    return call


def refuse_double_backward(op: str) -> None:
    """Call first in a backward: under create_graph=True, and only there, gradients are recorded while it runs."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{op} has no second derivative: its backward was called with create_graph=True. "
            'Use impl="reference" for gradient penalties and other double-backward uses'
        )
