"""Timing of the headline cases against alternatives without this package, and of the memory bandwidth."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..ops.cosine_codebook_loss import cosine_codebook_loss
from ..ops.dispatch import Impl
from ..ops.hamming_topk import hamming_topk
from ..ops.pack_codes import unpack_codes
from ..ops.pairwise_likelihood_loss import pairwise_likelihood_loss
from ._check import cause_of, difference

Run = Callable[[], Tensor]  # returns what all peers must agree on

SECONDS = 1.0  # approximate time spent on the repetitions of a case
FEWEST, MOST = 3, 30
SAME = 1e-4  # relative difference allowed between two float32 results
MARGIN = 0.2
GALLERY = 1_000_000  # codes in the searched gallery
COPIED_BYTES = {"cpu": 2**28, "cuda": 2**30}  # larger than any cache


@dataclass(frozen=True)
class Headline:
    """A benchmark: a problem with our implementation and its peers. Calling them does only what is to be timed."""

    case: str
    ours: Run
    peers: dict[str, Run]
    tolerance: float


@dataclass(frozen=True)
class Timing:
    """Median times of our implementation and one peer, which are called alternately.

    Attributes:
        case, device, peer: what was measured.
        ours_ms, peer_ms: milliseconds, including the wait for the device.
        ratio: the time of the peer over ours.
        agrees: whether both results agree.
        cause: why there are no times.
    """

    case: str
    device: str
    peer: str
    ours_ms: float | None
    peer_ms: float | None
    ratio: float | None
    agrees: bool | None
    cause: str | None = None

    @property
    def ok(self) -> bool:
        """Return whether our implementation and the peer were both measured and agree."""
        return bool(self.agrees)


def timings(device: str, impl: Impl, headlines: Sequence[Callable[[str, Impl], Headline]]) -> Iterator[Timing]:
    """Yield the times of every headline case against each of its peers. A case that raises yields one row with the cause."""
    for make in headlines:
        try:
            headline = make(device, impl)
            yield from _measure(headline, device)
        except Exception as error:  # for example out of memory
            yield Timing(make.__name__.strip("_"), device, "", None, None, None, None, cause_of(error))


def _measure(headline: Headline, device: str) -> Iterator[Timing]:
    answer = headline.ours()
    agreeing = {name: difference(answer, peer()) <= headline.tolerance for name, peer in headline.peers.items()}
    ours, *others = _medians([headline.ours, *headline.peers.values()], device)
    for (name, agrees), theirs in zip(agreeing.items(), others, strict=True):
        yield Timing(headline.case, device, name, _ms(ours), _ms(theirs), round(theirs / ours, 2), agrees)


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)


def _medians(runs: list[Run], device: str) -> list[float]:
    """Return the median seconds of each run. All of them have run once before, so that nothing is compiled here."""
    taken: list[list[float]] = [[_seconds(run, device)] for run in runs]
    repeats = min(MOST, max(FEWEST, int(SECONDS / sum(seconds[0] for seconds in taken))))
    for _ in range(repeats - 1):
        for run, seconds in zip(runs, taken, strict=True):
            seconds.append(_seconds(run, device))
    return [statistics.median(seconds) for seconds in taken]


def _seconds(run: Callable[[], Any], device: str) -> float:
    wait(device)
    started = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - started


def wait(device: str) -> None:
    """Wait until the device has finished its work."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def bandwidth(device: str) -> float:
    """Return bytes per second, read and written, of the fastest of ten copies.

    Raises:
        RuntimeError: the memory for the copies is not available.
    """
    source = torch.ones(COPIED_BYTES[device.partition(":")[0]], dtype=torch.uint8, device=device)
    copy = torch.empty_like(source)
    copy.copy_(source)
    return 2 * len(source) / min(_seconds(lambda: copy.copy_(source), device) for _ in range(10))


def _topk(device: str, impl: Impl) -> Headline:
    """Return the search for the 100 nearest of a million codes of 64 bits, for 256 queries."""
    generator = Generator().manual_seed(0)
    queries, gallery = (
        torch.randint(0, 256, (rows, 8), generator=generator, dtype=torch.uint8).to(device) for rows in (256, GALLERY)
    )
    dtype = torch.float32 if device == "cpu" else torch.float16  # both represent these products exactly
    query_signs, signs = (unpack_codes(codes, 64).to(dtype) for codes in (queries, gallery))
    step = 32 if device == "cpu" else 256  # queries per product, which takes 128 MB on a CPU and 512 MB on a GPU

    def by_torch() -> Tensor:
        products = [(query_signs[i : i + step] @ signs.T).topk(100).values for i in range(0, len(queries), step)]
        return ((64 - torch.cat(products)) / 2).int()

    peers: dict[str, Run] = {"torch: product of +-1 and topk": by_torch}
    if device == "cpu":
        try:
            import faiss

            arrays = queries.numpy(), gallery.numpy()
            peers["faiss.knn_hamming"] = lambda: torch.from_numpy(faiss.knn_hamming(*arrays, 100)[0])
        except ImportError:
            pass
    return Headline(
        f"hamming_topk, 256 x {GALLERY:,} x 64, k=100", lambda: hamming_topk(queries, gallery, 100, impl=impl)[0], peers, 0.0
    )


def _codebook_loss(device: str, impl: Impl) -> Headline:
    """Return a training step of the codebook loss with 256 rows, 10,000 classes and 128 bits."""
    rows, classes, bits = 256, 10_000, 128
    generator = Generator().manual_seed(0)
    codebook = (torch.randint(0, 2, (classes, bits), generator=generator, dtype=torch.int8) * 2 - 1).to(device)
    target = torch.randint(0, classes, (rows,), generator=generator).to(device)
    v = (torch.randn(rows, bits, generator=generator).to(device) + codebook[target]).requires_grad_()
    floats = codebook.float()

    def four_lines() -> Tensor:
        logits = F.normalize(v) @ floats.T  # the default scale sqrt(bits) cancels the length of the code
        margin = torch.full((rows, 1), -MARGIN * math.sqrt(bits), device=device)
        loss = F.cross_entropy(logits.scatter_add(1, target[:, None], margin), target)
        return torch.autograd.grad(loss, v)[0]

    def ours() -> Tensor:
        loss = cosine_codebook_loss(v, target, codebook, margin=MARGIN, precision="highest", impl=impl)
        return torch.autograd.grad(loss, v)[0]

    return Headline(f"cosine_codebook_loss, {rows} x {classes:,} x {bits}, a step", ours, {"torch: four lines": four_lines}, SAME)


def _pairwise_loss(device: str, impl: Impl) -> Headline:
    """Return a training step of the pairwise loss of a batch with a bank of codes of 64 bits.

    The bank is smaller on a CPU, which would need many seconds for the bank of the GPU case.
    """
    rows, columns, bits, alpha = (128, 10_000, 64, 0.5) if device == "cpu" else (1024, 100_000, 64, 0.5)
    generator = Generator().manual_seed(0)
    z = torch.randn(rows, bits, generator=generator).to(device).requires_grad_()
    bank = torch.randn(columns, bits, generator=generator).to(device)
    target, bank_target = (torch.randint(0, 100, (count,), generator=generator).to(device) for count in (rows, columns))

    def four_lines() -> Tensor:
        theta = alpha * (z @ bank.T)
        similar = (target[:, None] == bank_target).to(theta.dtype)
        return torch.autograd.grad((F.softplus(theta) - similar * theta).mean(), z)[0]

    def ours() -> Tensor:
        loss = pairwise_likelihood_loss(z, target, bank, bank_target, alpha=alpha, impl=impl)
        return torch.autograd.grad(loss, z)[0]

    name = f"pairwise_likelihood_loss, {rows:,} with {columns:,} x {bits}, one step"
    return Headline(name, ours, {"torch: four lines": four_lines}, SAME)


HEADLINES = (_topk, _codebook_loss, _pairwise_loss)
