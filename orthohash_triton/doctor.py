"""A check-up to paste into a bug report: versions, devices, which implementation each op takes there, and whether it is right."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ._environment import environment
from .codebooks import make_codebook
from .ops._dispatch import choose, triton_import_error
from .ops.cosine_codebook_loss import cosine_codebook_loss
from .ops.hamming_distance import hamming_distance
from .ops.hamming_histogram import hamming_histogram
from .ops.hamming_range import hamming_range
from .ops.hamming_topk import hamming_topk
from .ops.householder import householder_apply
from .ops.orthohash_loss import orthohash_loss
from .ops.pack_codes import pack_codes, unpack_codes
from .ops.pairwise_likelihood_loss import pairwise_likelihood_loss

N, CLASSES, BITS = 37, 101, 64  # no round numbers: tails of tiles are where kernels err


@dataclass(frozen=True)
class Check:
    """One op on one device: the implementation that "auto" takes there, and how far it is from the reference."""

    op: str
    device: str
    impl: str
    tolerance: float
    error: float | None  # largest relative difference; None when the op did not run
    cause: str | None  # why it did not run

    @property
    def ok(self) -> bool:
        return self.error is not None and self.error <= self.tolerance


def examine() -> dict[str, Any]:
    """The whole report, as plain values; `ok` says whether every check passed."""
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    checks = [_check(op, torch.device(device)) for device in devices for op in _CASES]
    return {
        "environment": environment(),
        "devices": {device: _why(device) for device in devices},
        "checks": [asdict(check) | {"ok": check.ok} for check in checks],
        "ok": all(check.ok for check in checks),
    }


def as_text(report: dict[str, Any]) -> str:
    """The report in plain lines."""
    env = report["environment"]
    lines = [
        f"python {env['python']} on {env['platform']}",
        f"cpu: {env['cpu']}, {env['cores']} cores, {env['threads']} threads",
        f"gpu: {', '.join(env['gpus']) or 'none'}",
        "packages: " + ", ".join(f"{name} {version or 'missing'}" for name, version in env["packages"].items()),
        "",
        *(f"{device}: {why}" for device, why in report["devices"].items()),
        "",
        f"{'op':<24}{'device':<9}{'implementation':<16}{'against the reference'}",
    ]
    for check in report["checks"]:
        verdict = check["cause"] or f"error {check['error']:.1e}, allowed {check['tolerance']:.0e}"
        lines.append(f"{check['op']:<24}{check['device']:<9}{check['impl']:<16}{'ok  ' if check['ok'] else 'FAIL'}  {verdict}")
    lines += ["", "all checks passed" if report["ok"] else "SOME CHECKS FAILED"]
    return "\n".join(lines)


def _why(device: str) -> str:
    cause = triton_import_error()
    if device == "cpu":
        triton = "Triton is installed, for GPUs" if cause is None else f"Triton cannot be imported ({cause})"
        return f'tensors in host memory take impl="cpu"; {triton}'
    return 'tensors on a GPU take impl="triton"' if cause is None else f'impl="triton" would be taken, but cannot run: {cause}'


def _check(op: str, device: torch.device) -> Check:
    run, tolerance = _CASES[op]
    impl = "?"
    try:
        impl = choose(op, "auto", torch.empty(0, device=device))
        got, expected = run(device, "auto"), run(device, "reference")
        return Check(op, str(device), impl, tolerance, _difference(got, expected), None)
    except Exception as error:  # a report tells what broke, whatever it was
        return Check(op, str(device), impl, tolerance, None, f"{type(error).__name__}: {error}")


def _difference(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """The largest difference relative to the size of the expected tensor; NaN counts as infinitely far."""
    worst = 0.0
    for ours, reference in zip(got, expected, strict=True):
        ours, reference = ours.double(), reference.double()
        scale = reference.abs().max().clamp(min=1e-30)
        worst = max(worst, float(((ours - reference).abs() / scale).nan_to_num(float("inf")).max()))
    return worst


def _random(*shape: int, device: torch.device) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(device)


def _codes(device: torch.device) -> tuple[Tensor, Tensor]:
    codes = torch.randint(0, 256, (N + 1000, BITS // 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).to(device)
    return codes[:N], codes[N:]


def _loss_inputs(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    target = torch.randint(0, CLASSES, (N,), generator=torch.Generator().manual_seed(1)).to(device)
    return _random(N, BITS, device=device).requires_grad_(), target, make_codebook(CLASSES, BITS).to(device)


def _pack(device: torch.device, impl: str) -> tuple[Tensor, ...]:
    return (pack_codes(_random(N, BITS, device=device), impl=impl),)


def _unpack(device: torch.device, impl: str) -> tuple[Tensor, ...]:
    return (unpack_codes(_codes(device)[0], BITS, impl=impl),)


def _distance(device: torch.device, impl: str) -> tuple[Tensor, ...]:
    return (hamming_distance(*_codes(device), impl=impl),)


def _topk(device: torch.device, impl: str) -> tuple[Tensor, ...]:
    return hamming_topk(*_codes(device), 100, impl=impl)


def _range(device: torch.device, impl: str) -> tuple[Tensor, ...]:
    return hamming_range(*_codes(device), 28, impl=impl)


def _histogram(device: torch.device, impl: str) -> tuple[Tensor, ...]:
    return (hamming_histogram(*_codes(device), impl=impl),)


def _cosine(device: torch.device, impl: str) -> tuple[Tensor, ...]:
    v, target, codebook = _loss_inputs(device)
    loss = cosine_codebook_loss(v, target, codebook, precision="highest", impl=impl)
    return loss.detach(), *torch.autograd.grad(loss, v)


def _orthohash(device: torch.device, impl: str) -> tuple[Tensor, ...]:
    latent, target, codebook = _loss_inputs(device)
    weight = (1 + 0.1 * _random(BITS, device=device)).requires_grad_()
    bias = torch.zeros(BITS, device=device, requires_grad=True)
    mean, variance = torch.zeros(BITS, device=device), torch.ones(BITS, device=device)
    loss = orthohash_loss(latent, target, codebook, mean, variance, weight, bias, precision="highest", impl=impl)
    return loss.detach(), *torch.autograd.grad(loss, (latent, weight, bias)), mean, variance


def _pairwise(device: torch.device, impl: str) -> tuple[Tensor, ...]:
    z, target, _ = _loss_inputs(device)
    bank, bank_target = _random(1000, BITS, device=device).requires_grad_(), torch.arange(1000, device=device) % CLASSES
    loss = pairwise_likelihood_loss(z, target, bank, bank_target, alpha=0.5, positive_weight="balanced", impl=impl)
    return loss.detach(), *torch.autograd.grad(loss, (z, bank))


def _householder(device: torch.device, impl: str) -> tuple[Tensor, ...]:
    x, vectors = _random(N, BITS, device=device).requires_grad_(), _random(BITS, BITS, device=device).requires_grad_()
    rotated = householder_apply(x, vectors, impl=impl)
    return rotated.detach(), *torch.autograd.grad(rotated.sin().sum(), (x, vectors))


_CASES: dict[str, tuple[Callable[[torch.device, str], tuple[Tensor, ...]], float]] = {
    "pack_codes": (_pack, 0.0),
    "unpack_codes": (_unpack, 0.0),
    "hamming_distance": (_distance, 0.0),
    "hamming_topk": (_topk, 0.0),
    "hamming_range": (_range, 0.0),
    "hamming_histogram": (_histogram, 0.0),
    "cosine_codebook_loss": (_cosine, 1e-5),
    "orthohash_loss": (_orthohash, 1e-5),
    "pairwise_likelihood_loss": (_pairwise, 1e-5),
    "householder_apply": (_householder, 1e-5),
}
