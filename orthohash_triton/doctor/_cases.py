"""The grid of the self-test: every op, with the shapes, dtypes, labels and options that lead its implementations different ways.

No round numbers where there is a choice: tails of tiles are where kernels err. Problems are small enough for the references on a
CPU. A GPU spends its time here on compiling, and compiles anew for every dtype, option and divisibility of a size by 16: its
cases combine what they can, and the others are left to the CPU.
"""

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from ..metrics import average_precision, ndcg
from ..ops.central_similarity_loss import central_similarity_loss, tie_breaker
from ..ops.cosine_codebook_loss import cosine_codebook_loss
from ..ops.hamming_distance import hamming_distance
from ..ops.hamming_histogram import hamming_histogram
from ..ops.hamming_range import hamming_range
from ..ops.hamming_topk import hamming_topk
from ..ops.householder import householder_apply, householder_product
from ..ops.minimum_distance_loss import minimum_distance_loss
from ..ops.orthohash_loss import orthohash_loss
from ..ops.pack_codes import pack_codes, unpack_codes
from ..ops.pairwise_likelihood_loss import pairwise_likelihood_loss
from ..ops.quantization_loss import quantization_loss
from ..ops.semantic_hierarchy_loss import semantic_hierarchy_loss
from ..reference.average_precision import average_precision as average_precision_by_hand
from ..reference.central_similarity_loss import central_similarity_loss as central_by_hand
from ..reference.gains import ndcg as ndcg_by_hand
from ..reference.hamming_distance import hamming_distance as distance_by_hand
from ..reference.minimum_distance_loss import minimum_distance_loss as minimum_distance_by_hand
from ..reference.quantization_loss import quantization_loss as quantization_by_hand
from ..reference.semantic_hierarchy_loss import semantic_hierarchy_loss as hierarchy_by_hand

Inputs = dict[str, Tensor]
Outputs = tuple[Tensor, ...]

FLOAT64 = 1e-9
FLOAT32 = 5e-6  # tensor cores add up in float32, but cut off where others round
ONE_PART = 3e-4  # precision "high"
IGNORED = -100


@dataclass(frozen=True)
class Case:
    """One op on one problem."""

    op: str
    label: str
    make: Callable[[Generator], Inputs]
    run: Callable[[Inputs, str], Outputs]  # with an implementation: "cpu", "triton", "reference"
    tolerance: float | None = None  # of the largest number, beyond the error of the reference; None: all numbers are equal
    plain: bool = False  # torch on every device, without implementations to choose from
    only: str | None = (
        None  # "cpu": on a GPU, others check it and it would be compiled again; "gpu": slow on a CPU, of no use there
    )

    def runs_on(self, device: str) -> bool:
        return self.only is None or (self.only == "cpu") == (device == "cpu")

    def inputs(self) -> Inputs:
        """The same ones always, in host memory."""
        return self.make(Generator().manual_seed(zlib.crc32(f"{self.op} {self.label}".encode())))


def cases() -> list[Case]:
    """The grid, op by op."""
    return [
        *_packing(),
        *_searches(),
        *_metrics(),
        *_codebook_losses(),
        *_orthohash_losses(),
        *_pairwise_losses(),
        *_rotations(),
        *_plain_losses(),
    ]


def first_cases() -> list[Case]:
    """The first case of every op: a quick check."""
    first: dict[str, Case] = {}
    for case in cases():
        first.setdefault(case.op, case)
    return list(first.values())


def _on_cpu(*some: Case) -> list[Case]:
    return [replace(case, only="cpu") for case in some]


def _on_gpu(*some: Case) -> list[Case]:
    return [replace(case, only="gpu") for case in some]


def _normal(generator: Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=generator).to(dtype)


def _ids(generator: Generator, rows: int, classes: int) -> Tensor:
    """With a row that is ignored, where there is room."""
    ids = torch.randint(0, classes, (rows,), generator=generator)
    ids[2:3] = IGNORED
    return ids


def _multi_hot(generator: Generator, rows: int, classes: int) -> Tensor:
    """bool, with a row that has no class, where there is room; about three classes a row."""
    target = torch.rand(rows, classes, generator=generator) < 3 / classes
    target[:, -1] |= torch.rand(rows, generator=generator) < 0.2
    target[0, 0] = True
    target[2:3] = False
    return target


def _signs(generator: Generator, rows: int, bits: int) -> Tensor:
    return torch.randint(0, 2, (rows, bits), generator=generator, dtype=torch.int8) * 2 - 1


def _codes(generator: Generator, rows: int, bits: int, distinct: int = 256) -> Tensor:
    """Packed codes; few `distinct` bytes make many codes equal, and many distances too."""
    return torch.randint(0, distinct, (rows, bits // 8), generator=generator, dtype=torch.uint8)


def _step(loss: Tensor, *leaves: Tensor) -> Outputs:
    """The loss and the gradients of `leaves`; losses of rows count differently, so that a row in another's place is seen."""
    weights = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype, device=loss.device).view(loss.shape)
    return loss.detach(), *torch.autograd.grad((loss * weights).sum(), leaves)


def _upstream(result: Tensor) -> Tensor:
    """A gradient for `result` that every dtype holds exactly."""
    return (torch.arange(result.numel(), device=result.device) % 5 - 2).to(result.dtype).view(result.shape)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _packing() -> list[Case]:
    def pack(rows: int, bits: int, dtype: torch.dtype, threshold: float = 0.0) -> Case:
        def make(generator: Generator) -> Inputs:
            x = _normal(generator, rows, bits)
            x[0, 0] = threshold  # equal is not above
            return {"x": x > 0 if dtype == torch.bool else x.to(dtype)}

        def run(given: Inputs, impl: str) -> Outputs:
            return (pack_codes(given["x"], threshold=threshold, impl=impl),)

        above = f" above {threshold}" if threshold else ""
        return Case("pack_codes", f"{rows} x {bits}, {_name(dtype)}{above}", make, run)

    def unpack(rows: int, bits: int) -> Case:
        def make(generator: Generator) -> Inputs:
            return {"packed": _codes(generator, rows, (bits + 7) // 8 * 8)}

        def run(given: Inputs, impl: str) -> Outputs:
            return (unpack_codes(given["packed"], bits, impl=impl),)

        return Case("unpack_codes", f"{rows} x {bits}", make, run)

    return [
        pack(37, 100, torch.float32),
        pack(301, 2048, torch.bfloat16),
        *_on_cpu(pack(1, 8, torch.float32, 0.25), pack(37, 13, torch.bool), pack(37, 100, torch.float16)),
        unpack(37, 100),
        *_on_cpu(unpack(301, 2048)),
    ]


def _searches() -> list[Case]:
    def problem(queries: int, gallery: int, bits: int, distinct: int) -> Callable[[Generator], Inputs]:
        def make(generator: Generator) -> Inputs:
            codes = _codes(generator, queries + gallery, bits, distinct)
            return {
                "queries": codes[:queries],
                "gallery": codes[queries:],
                "mask": torch.rand(gallery, generator=generator) < 0.3,
                "radius": torch.randint(0, bits // 2, (queries,), generator=generator),
            }

        return make

    def case(
        op: str, function: Callable[..., Any], size: tuple[int, int, int], what: str = "", *, distinct: int = 256,
        masked: bool = False, radii: bool = False, **keywords: Any,
    ) -> Case:  # fmt: skip
        def run(given: Inputs, impl: str) -> Outputs:
            further = {"mask": given["mask"]} if masked else {}
            further |= {"radius": given["radius"]} if radii else {}
            found = function(given["queries"], given["gallery"], **keywords, **further, impl=impl)
            return found if isinstance(found, tuple) else (found,)

        queries, gallery, bits = size
        label = f"{queries:,} x {gallery:,} x {bits}"
        options = [f"{name}={value}" for name, value in keywords.items()]
        return Case(op, ", ".join([label, *options, *([what] if what else [])]), problem(*size, distinct), run)

    def distance(*size: int) -> Case:
        return case("hamming_distance", hamming_distance, size)  # type: ignore[arg-type]

    def topk(*size: int, **keywords: Any) -> Case:
        return case("hamming_topk", hamming_topk, size, **keywords)  # type: ignore[arg-type]

    def range_(*size: int, **keywords: Any) -> Case:
        return case("hamming_range", hamming_range, size, **keywords)  # type: ignore[arg-type]

    def histogram(*size: int, **keywords: Any) -> Case:
        return case("hamming_histogram", hamming_histogram, size, **keywords)  # type: ignore[arg-type]

    return [
        distance(37, 1009, 64),
        distance(5, 333, 2048),
        *_on_cpu(distance(1, 1, 8)),
        topk(33, 20_011, 64, k=7),  # many queries, many codes: by tensor cores on NVIDIA
        topk(33, 5003, 64, k=7, distinct=2, what="ties"),
        topk(1, 5003, 64, k=7),  # one query: bound by memory
        topk(9, 5003, 64, k=7, distinct=2, what="ties"),  # some queries: bound by popcount
        topk(37, 1009, 64, k=1100, distinct=2, masked=True, what="ties, masked, more than there are"),  # by counting
        *_on_cpu(topk(33, 5003, 64, k=7, masked=True, what="masked"), topk(9, 5003, 2048, k=5), topk(37, 1009, 64, k=100)),
        range_(37, 1009, 8, radius=2),
        range_(37, 1009, 8, inclusive=True, radii=True, what="a radius for each query"),
        *_on_cpu(range_(37, 1009, 64, radius=26), range_(37, 1009, 64, inclusive=True, radii=True, masked=True, what="masked")),
        histogram(37, 5003, 64),
        histogram(37, 5003, 64, distinct=2, what="ties"),
        *_on_cpu(histogram(3, 333, 2048)),
    ]


@contextmanager
def _everything_by(impl: str) -> Iterator[None]:
    """Calls that leave the choice open take `impl`, for metrics cannot be told; whatever the environment says else."""
    before = os.environ.get("ORTHOHASH_IMPL")
    os.environ["ORTHOHASH_IMPL"] = impl
    try:
        yield
    finally:
        if before is None:
            del os.environ["ORTHOHASH_IMPL"]
        else:
            os.environ["ORTHOHASH_IMPL"] = before


def _metrics() -> list[Case]:
    def case(name: str, multi_hot: bool, **keywords: Any) -> Case:
        def make(generator: Generator) -> Inputs:
            codes = _codes(generator, 9 + 1009, 64, distinct=4)  # ties
            labels = _multi_hot(generator, 9 + 1009, 13) if multi_hot else _ids(generator, 9 + 1009, 13)
            return {"queries": codes[:9], "gallery": codes[9:], "mine": labels[:9], "theirs": labels[9:]}

        def run(given: Inputs, impl: str) -> Outputs:
            queries, gallery, mine, theirs = given.values()
            if impl != "reference":
                ours = average_precision if name == "average_precision" else ndcg
                with _everything_by(impl):
                    return (torch.as_tensor(ours(queries, gallery, mine, theirs, **keywords), dtype=torch.float64),)
            grades = (mine.double() @ theirs.double().T).long() if multi_hot else (mine[:, None] == theirs).long()
            distances = distance_by_hand(queries, gallery)
            if name == "ndcg":
                return (ndcg_by_hand(distances, grades, **keywords).mean(),)
            return (average_precision_by_hand(distances, grades > 0, **keywords),)

        options = [f"{name}={value}" for name, value in keywords.items()]
        label = ", ".join(["9 x 1,009 x 64", "multi-hot" if multi_hot else "class ids", *options])
        return Case(name, label, make, run, FLOAT64)

    return [
        case("average_precision", False, k=100),
        *_on_cpu(
            case("average_precision", True),
            case("average_precision", False, k=100, ties="expected"),
        ),
        case("ndcg", True, k=100),
        *_on_cpu(case("ndcg", False, ties="expected")),
    ]


def _codebook_inputs(
    rows: int, classes: int, bits: int, dtype: torch.dtype, kind: str, name: str = "v"
) -> Callable[[Generator], Inputs]:
    def make(generator: Generator) -> Inputs:
        codebook, ids = _signs(generator, classes, bits), _ids(generator, rows, classes)
        v = _normal(generator, rows, bits)
        v[::2] += codebook[ids[::2].clamp(min=0)]  # half of the rows near their code
        given = {name: v.to(dtype), "codebook": codebook, "target": ids}
        if kind != "ids":
            weights = _multi_hot(generator, rows, classes) * torch.rand(rows, classes, generator=generator)
            given["target"] = weights
        if kind == "sparse":
            starts = torch.nn.functional.pad((weights > 0).sum(1).cumsum(0), (1, 0))
            given |= {"target": starts, "columns": weights.nonzero()[:, 1], "values": weights[weights > 0]}
        return given

    return make


def _target_of(given: Inputs) -> Any:
    return (given["target"], given["columns"], given["values"]) if "columns" in given else given["target"]


_KINDS = {"ids": "class ids", "dense": "soft targets", "sparse": "sparse targets"}


def _described(size: tuple[int, ...], dtype: torch.dtype, kind: str, keywords: dict[str, Any]) -> str:
    options = [f"{name}={round(value, 2) if isinstance(value, float) else value}" for name, value in keywords.items()]
    return ", ".join(
        [" x ".join(f"{n:,}" for n in size), _KINDS[kind], *([] if dtype == torch.float32 else [_name(dtype)]), *options]
    )


def _codebook_losses() -> list[Case]:
    def case(
        *size: int, dtype: torch.dtype = torch.float32, kind: str = "ids", precision: str = "highest", **keywords: Any
    ) -> Case:
        keywords.setdefault("reduction", "none")

        def run(given: Inputs, impl: str) -> Outputs:
            v = _leaf(given["v"])
            found = cosine_codebook_loss(v, _target_of(given), given["codebook"], precision=precision, impl=impl, **keywords)
            if not keywords.get("return_lse"):
                return _step(found, v)
            loss, lse = found
            return lse.detach(), *_step(loss + 0.5 * lse, v)

        shown = keywords | ({} if precision == "highest" else {"precision": precision})
        rows, classes, bits = size
        return Case(
            "cosine_codebook_loss", _described(size, dtype, kind, shown), _codebook_inputs(rows, classes, bits, dtype, kind), run,
            FLOAT32 if precision == "highest" else ONE_PART,
        )  # fmt: skip

    return [
        # Few classes: one launch on a GPU.
        case(37, 101, 64),
        case(37, 101, 64, dtype=torch.bfloat16, reduction="sum", label_smoothing=0.1),
        case(37, 101, 64, reduction="mean", margin_type="angular", margin=0.35),
        case(37, 101, 64, kind="dense", return_lse=True),
        # Sparse targets, and more classes than one part holds: a second launch that merges.
        case(37, 101, 64, kind="sparse"),
        case(256, 10_000, 128, reduction="mean"),  # as the headline
        # A codebook in chunks, whose dot products are in memory: two of them; one without the low halves.
        *_on_gpu(
            case(263, 15_984, 520, kind="dense", reduction="mean"),
            case(5, 12_007, 2048, precision="high", scale=8.0),
        ),
        *_on_cpu(
            case(1, 2, 8),
            case(37, 101, 64, dtype=torch.float16, kind="dense"),
            case(37, 101, 64, dtype=torch.float16, kind="sparse", label_smoothing=0.1),
            case(67, 10_007, 128, margin_type="angular", label_smoothing=0.1),
            case(37, 1001, 520, kind="dense", reduction="mean"),
            case(5, 1001, 2048, margin_type="angular", return_lse=True),
        ),
    ]


def _orthohash_losses() -> list[Case]:
    def case(
        rows: int, classes: int, bits: int, dtype: torch.dtype = torch.float32, kind: str = "ids", affine: bool = True,
        **keywords: Any,
    ) -> Case:  # fmt: skip
        def make(generator: Generator) -> Inputs:
            given = _codebook_inputs(rows, classes, bits, dtype, kind, "latent")(generator)
            given["latent"] = 3 * given["latent"] + torch.linspace(-2, 2, bits).to(dtype)
            given |= {"mean": _normal(generator, bits), "var": 0.5 + torch.rand(bits, generator=generator)}
            if affine:
                given |= {"weight": 1 + 0.1 * _normal(generator, bits), "bias": 0.1 * _normal(generator, bits)}
            return given

        def run(given: Inputs, impl: str) -> Outputs:
            leaves = [_leaf(given["latent"]), *(_leaf(given[name]) for name in ("weight", "bias") if affine)]
            mean, var = given["mean"].clone(), given["var"].clone()
            loss = orthohash_loss(
                leaves[0],
                _target_of(given),
                given["codebook"],
                mean,
                var,
                *leaves[1:],
                precision="highest",
                impl=impl,
                **keywords,
            )
            return *_step(loss, *leaves), mean, var

        shown = keywords | ({} if affine else {"affine": False})
        return Case("orthohash_loss", _described((rows, classes, bits), dtype, kind, shown), make, run, FLOAT32)

    return [
        case(301, 101, 64),
        case(301, 101, 64, training=False),
        case(37, 101, 64, torch.bfloat16, affine=False, reduction="sum"),
        *_on_cpu(
            case(37, 101, 64, reduction="none", label_smoothing=0.1),
            case(37, 101, 64, torch.float16, kind="dense", reduction="sum"),
            case(67, 10_007, 128, affine=False),
        ),
    ]


def _pairwise_losses() -> list[Case]:
    def case(
        rows: int,
        columns: int | None,
        bits: int,
        *,
        dtype: torch.dtype = torch.float32,
        multi_hot: bool = False,
        bank_learns: bool = False,
        **keywords: Any,
    ) -> Case:
        def labels(generator: Generator, count: int) -> Tensor:
            return _multi_hot(generator, count, 70) if multi_hot else _ids(generator, count, 7)

        def make(generator: Generator) -> Inputs:
            given = {"z": _normal(generator, rows, bits, dtype=dtype), "target": labels(generator, rows)}
            if columns is not None:
                bank = _normal(generator, columns, bits)
                bank[0], bank[-1] = 10 * bank[0], 0.01 * bank[-1]
                given |= {"bank": bank.to(dtype), "bank_target": labels(generator, columns)}
            return given

        def run(given: Inputs, impl: str) -> Outputs:
            z, bank = _leaf(given["z"]), given.get("bank")
            leaves = [z]
            if bank is not None and bank_learns:
                bank = _leaf(bank)
                leaves.append(bank)
            loss = pairwise_likelihood_loss(
                z, given["target"], bank, given.get("bank_target"), alpha=10 / bits, impl=impl, **keywords
            )
            return _step(loss, *leaves)

        shape = f"{rows:,} with {'itself' if columns is None else f'{columns:,}'} x {bits}"
        what = [
            "multi-hot" if multi_hot else "class ids",
            *(["both learn"] if bank_learns else []),
            *([] if dtype == torch.float32 else [_name(dtype)]),
        ]
        options = [f"{name}={value}" for name, value in keywords.items()]
        return Case("pairwise_likelihood_loss", ", ".join([shape, *what, *options]), make, run, FLOAT32)

    return [
        case(80, 1008, 64, bank_learns=True),
        case(
            37, 1009, 64, dtype=torch.bfloat16, multi_hot=True, positive_weight="balanced", similarity="jaccard", reduction="none"
        ),
        case(5, 333, 300, similarity="squared_cosine"),
        *_on_cpu(
            case(1, 1, 8, reduction="none"),
            case(67, None, 64, positive_weight=3.5, reduction="none"),
            case(37, 1009, 64, dtype=torch.float16, reduction="sum"),
            case(37, 1009, 64, multi_hot=True, similarity="squared_cosine", bank_learns=True),
            case(5, 333, 300, positive_weight="balanced", bank_learns=True),
        ),
    ]


def _rotations() -> list[Case]:
    def case(rows: int, count: int, bits: int, dtype: torch.dtype = torch.float32) -> Case:
        def make(generator: Generator) -> Inputs:
            return {"x": _normal(generator, rows, bits, dtype=dtype), "vectors": _normal(generator, count, bits)}

        def run(given: Inputs, impl: str) -> Outputs:
            x, vectors = _leaf(given["x"]), _leaf(given["vectors"])
            y = householder_apply(x, vectors, impl=impl)
            return y.detach(), *torch.autograd.grad(y, (x, vectors), _upstream(y))

        what = f"{rows} x {bits}, {count} reflections" + ("" if dtype == torch.float32 else f", {_name(dtype)}")
        return Case("householder_apply", what, make, run, FLOAT32)

    def product(count: int, bits: int) -> Case:
        def run(given: Inputs, impl: str) -> Outputs:
            vectors = _leaf(given["vectors"])
            matrix = householder_product(vectors, impl=impl)
            return matrix.detach(), *torch.autograd.grad(matrix, vectors, _upstream(matrix))

        def make(generator: Generator) -> Inputs:
            return {"vectors": _normal(generator, count, bits)}

        return Case("householder_product", f"{bits} x {bits}, {count} reflections", make, run, FLOAT32)

    return [
        case(70, 64, 64),
        case(70, 130, 130, torch.bfloat16),
        *_on_cpu(case(70, 130, 130), case(37, 3, 64), case(37, 64, 64, torch.float16)),
        product(24, 24),
    ]


def _plain_losses() -> list[Case]:
    def quantization(kind: str) -> Case:
        def run(given: Inputs, impl: str) -> Outputs:
            z = _leaf(given["z"])
            return _step((quantization_by_hand if impl == "reference" else quantization_loss)(z, kind), z)

        label = f"37 x 64, {kind}"
        return Case("quantization_loss", label, lambda generator: {"z": _normal(generator, 37, 64)}, run, FLOAT32, plain=True)

    def central(kind: str, quantization: str) -> Case:
        def run(given: Inputs, impl: str) -> Outputs:
            u, keywords = _leaf(given["u"]), {"quantization_weight": 0.1, "quantization": quantization}
            if impl == "reference":
                ties = tie_breaker(64, 0, u.device)
                return _step(central_by_hand(u, given["target"], given["codebook"], ties, **keywords), u)  # type: ignore[arg-type]
            return _step(central_similarity_loss(u, given["target"], given["codebook"], **keywords), u)  # type: ignore[arg-type]

        make = _codebook_inputs(37, 101, 64, torch.float32, kind, "u")
        return Case("central_similarity_loss", f"37 x 101 x 64, {_KINDS[kind]}, {quantization}", make, run, FLOAT32, plain=True)

    def minimum_distance(banked: bool) -> Case:
        def make(generator: Generator) -> Inputs:
            given = _codebook_inputs(37, 101, 64, torch.float32, "ids", "u")(generator)
            return given | {"bank": _normal(generator, 333, 64), "bank_target": _ids(generator, 333, 101)}

        def run(given: Inputs, impl: str) -> Outputs:
            if impl == "reference":
                given = {name: tensor.cpu() for name, tensor in given.items()}
            u, bank = _leaf(given["u"]), (given["bank"], given["bank_target"]) if banked else ()
            loss = minimum_distance_by_hand if impl == "reference" else minimum_distance_loss
            return _step(loss(u, given["target"], given["codebook"], *bank), u)

        label = "37 x 101 x 64" + (", bank of 333" if banked else "")
        return Case("minimum_distance_loss", label, make, run, FLOAT32, plain=True)

    def hierarchy() -> Case:
        def make(generator: Generator) -> Inputs:
            distance = torch.rand(13, 13, generator=generator)
            return {
                "z": torch.tanh(_normal(generator, 37, 24)),
                "target": torch.randint(0, 13, (37,), generator=generator),
                "distance": (distance + distance.T).fill_diagonal_(0) / 2,
                "draws": _signs(generator, 41, 24).float(),
            }

        def run(given: Inputs, impl: str) -> Outputs:
            z, target, distance, draws = _leaf(given["z"]), given["target"], given["distance"], given["draws"]
            if impl != "reference":
                return _step(semantic_hierarchy_loss(z, target, distance, binary_target=draws, scale=0.02), z)
            z, distance, draws = (x.cpu() for x in (z, distance[target[:, None], target[None]], draws))
            z = _leaf(z)
            return _step(hierarchy_by_hand(z, distance, draws, scale=0.02), z)

        return Case("semantic_hierarchy_loss", "37 x 24, 13 classes", make, run, FLOAT32, plain=True)

    return [
        *(quantization(kind) for kind in ("log_cosh", "l1", "l2", "cosine")),
        central("ids", "log_cosh"), central("dense", "l2"),
        minimum_distance(True), minimum_distance(False),
        hierarchy(),
    ]  # fmt: skip
