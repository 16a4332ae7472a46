"""Export of a model as one ONNX graph that computes packed codes from samples.

    input    images    uint8 [N, H, W] (grey) or [N, 3, H, W]; with channels_last uint8 [N, H, W, 3]
         or  features  float32 [N, D]
    output   codes             uint8 [N, ceil(bits / 8)], as `HashModel.encode`: bit j of byte i is dimension 8i + j
    output   continuous_codes  float32 [N, bits], as `HashModel.continuous_codes`; for re-ranking, computed only if requested

The caller resizes the images. The graph does everything else, in evaluation mode: scaling, backbone, head, signs, and packing by
32-bit integer arithmetic. Its metadata are bits, bit_order, sample_shape, channels_last and class_names.

PyTorch and ONNX Runtime sum in different orders, so a value that is 0 up to rounding can get the other sign. (PyTorch itself does
this for another batch size.) `compare_onnx` counts such bits.
"""

import copy
import json
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__
from .._base import checks
from .._base.extras import install
from .._base.files import atomic_write
from .._base.reading import naming, reader
from ..data.images import ImageFiles
from ..ops.pack_codes import pack_codes
from .model import HashModel

OPSET = 18
OPSETS = range(18, 24)
ROUNDING = 1e-3
"""Largest difference that counts as rounding, relative to the root mean square of the continuous codes.

Rounding errors are far smaller, and the differences of a wrong graph are far larger.
"""

_CHECKED = 8  # samples of noise for the check, if batches can have any size
_LARGEST_FIXED_BATCH = 2**16  # one batch of noise is computed before the file is written
_LARGEST_BATCH = 2**31 - 1  # torch.export of attention adds a guard that excludes 2**63 - 1
_LARGEST = 2**31 - 2**20  # bytes: the limit of protobuf for one file


@dataclass(frozen=True)
class OnnxAgreement:
    """The differences between the codes of an ONNX graph and those of the model that it was exported from.

    Attributes:
        samples: number of samples that were compared.
        bits: length of one code.
        differing_bits: number of bits that differ, of samples * bits.
        differing_samples: number of samples with at least one such bit.
        largest_value_differing: largest absolute continuous code, computed by PyTorch, of a bit that differs; 0 if none does.
        largest_difference: largest absolute difference between two continuous codes.
        scale: root mean square of the continuous codes.

    Example:
        >>> from orthohash_triton.models.onnx_export import OnnxAgreement
        >>> agreement = OnnxAgreement(1000, 64, 2, 2, 1e-7, 5e-7, 1.0)
        >>> agreement.identical, agreement.within_rounding
        (False, True)
        >>> print(agreement)
        2 of 64,000 bits of 1,000 samples differ, at absolute values up to 1.0e-07; values differ by at most 5.0e-07, ...
    """

    samples: int
    bits: int
    differing_bits: int
    differing_samples: int
    largest_value_differing: float
    largest_difference: float
    scale: float

    @property
    def identical(self) -> bool:
        """Whether all codes are equal."""
        return self.differing_bits == 0

    @property
    def within_rounding(self) -> bool:
        """Whether all continuous codes are equal up to rounding, so that bits differ only where a value is close to 0."""
        return self.largest_difference <= ROUNDING * self.scale

    def __str__(self) -> str:
        total = f"{self.samples * self.bits:,} bits of {self.samples:,} samples"
        values = f"values differ by at most {self.largest_difference:.1e}, their root mean square is {self.scale:.2g}"
        if self.identical:
            return f"all {total} are equal; {values}"
        where = f"at absolute values up to {self.largest_value_differing:.1e}"
        return f"{self.differing_bits:,} of {total} differ, {where}; {values}"


def export_onnx(
    model: HashModel,
    path: str | Path,
    *,
    opset: int = OPSET,
    batch_size: int | None = None,
    channels_last: bool = False,
    class_names: Sequence[str] = (),
    check: bool = True,
) -> None:
    """Write `model` as an ONNX graph. The inputs and outputs of the graph are described at the top of this module.

    A file at `path` is replaced after everything else has succeeded.

    Args:
        model: a model on any device and in any mode; it is not changed.
        opset: version of ONNX's operators, 18 to 23.
        batch_size: fixed number of samples N of a batch; None allows batches of any size.
        channels_last: whether the graph takes RGB images as uint8 [N, H, W, 3], the layout of Pillow. OpenCV has the same layout
            in the order BGR.
        class_names: stored in the metadata of the graph.
        check: whether to run the graph in ONNX Runtime on noise and to compare it with the model before the file is written.

    Raises:
        ValueError: an argument is out of range; the backbone cannot be exported; the graph is too large for one file; or the
            check finds that the graph does not compute the codes of the model.
        ImportError: onnx, onnxscript or onnxruntime is not installed.

    Example:
        >>> import torch
        >>> from orthohash_triton.models import HashModel
        >>> from orthohash_triton.models.onnx_export import compare_onnx, export_onnx
        >>> model = HashModel("features", 16, (8,)).eval()
        >>> export_onnx(model, "model.onnx")
        >>> compare_onnx(model, "model.onnx", torch.randn(20, 8)).within_rounding
        True
    """
    opset = checks.integer("export_onnx", "opset", opset, minimum=OPSETS.start, maximum=OPSETS.stop - 1)
    if batch_size is not None:
        batch_size = checks.integer("export_onnx", "batch_size", batch_size, minimum=1, maximum=_LARGEST_FIXED_BATCH)
    if channels_last and (len(model.sample_shape) != 3 or model.sample_shape[0] != 3):
        raise ValueError(
            f"export_onnx: channels_last is for RGB images; the model takes samples {list(model.sample_shape)}. Omit it"
        )
    graph = _graph(model, opset, batch_size, channels_last)
    _describe(graph, model, channels_last, class_names)
    serialized = graph.SerializeToString()
    if check:
        samples = _noise(model, batch_size or _CHECKED)
        agreement = _compare(model, _session(serialized), samples, batch_size or _CHECKED, channels_last, Path(path))
        if not agreement.within_rounding:
            raise ValueError(
                f"export_onnx: the graph does not compute what the model does: {agreement}. "
                f"Try another opset, or report it with the backbone ({type(model.backbone).__name__})"
            )
    with atomic_write(path) as file:
        file.write(serialized)


def compare_onnx(
    model: HashModel,
    path: str | Path,
    inputs: Tensor | ImageFiles,
    *,
    batch_size: int = 256,
    providers: Sequence[str] = ("CPUExecutionProvider",),
) -> OnnxAgreement:
    """Run the graph at `path` on `inputs` and compare its codes with those of the model.

    Args:
        inputs: samples as a `Dataset` stores them: images uint8 [N, H, W] or [N, 3, H, W], or features float32 [N, D].
        providers: execution providers of ONNX Runtime in order of preference, for example
            ["CUDAExecutionProvider", "CPUExecutionProvider"].

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: `path` is not a graph of `export_onnx` for this model, or `inputs` is empty.
        ImportError: onnxruntime is not installed.

    Example:
        >>> import torch
        >>> from orthohash_triton.models import HashModel
        >>> from orthohash_triton.models.onnx_export import compare_onnx, export_onnx
        >>> model = HashModel("features", 16, (8,)).eval()
        >>> export_onnx(model, "model.onnx", check=False)
        >>> compare_onnx(model, "model.onnx", torch.randn(20, 8)).samples
        20
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; export_onnx writes it")
    if not len(inputs):
        raise ValueError("compare_onnx: inputs must hold at least one sample; got none")
    session, metadata = _read_session(path, providers)
    if metadata.get("sample_shape") != json.dumps(model.sample_shape) or metadata.get("bits") != str(model.bits):
        raise ValueError(
            f"{path} takes samples {metadata.get('sample_shape')} and returns {metadata.get('bits')} bits; the model takes "
            f"{list(model.sample_shape)} and returns {model.bits}. It was exported from another model"
        )
    fixed = session.get_inputs()[0].shape[0]
    if isinstance(fixed, int):
        inputs, batch_size = _whole_batches(inputs, fixed), fixed
    return _compare(model, session, inputs, batch_size, metadata["channels_last"] == "true", path)


class _Encoder(nn.Module):
    """The computation that is exported: from samples to packed codes and continuous codes."""

    def __init__(self, model: HashModel, channels_last: bool) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head
        self.bits, self.sample_shape, self.channels_last = model.bits, model.sample_shape, channels_last
        self.register_buffer("place", 2 ** torch.arange(8, dtype=torch.int32))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        if len(self.sample_shape) == 3:
            images = inputs.permute(0, 3, 1, 2) if self.channels_last else inputs
            images = images.unsqueeze(1) if self.sample_shape[0] == 1 else images
            inputs = images.float() / 255
        values = self.head(self.backbone(inputs))  # [N, bits]
        signs = nn.functional.pad((values > 0).to(torch.int32), (0, -self.bits % 8))
        codes = (signs.unflatten(1, (-1, 8)) * self.place).sum(2, dtype=torch.int32)
        return codes.to(torch.uint8), values


def _graph(model: HashModel, opset: int, batch_size: int | None, channels_last: bool) -> Any:
    """Return the exported ONNX model in memory."""
    _require_exporter()
    encoder = _Encoder(copy.deepcopy(model).cpu().float(), channels_last).eval()
    example = _as_graph_input(_noise(model, batch_size or 2), channels_last)
    dynamic = None if batch_size is not None else ({0: torch.export.Dim("batch", max=_LARGEST_BATCH)},)
    try:
        with _quiet(), torch.no_grad():
            # Captured explicitly, because some versions of torch.onnx.export fall back to tracing, which drops branches silently.
            captured = torch.export.export(encoder, (example,), dynamic_shapes=dynamic, strict=False)
            program = torch.onnx.export(
                captured, dynamo=True, opset_version=opset, dynamic_shapes=dynamic, verbose=False,
                input_names=[_input_name(model)], output_names=["codes", "continuous_codes"],
            )  # fmt: skip
    except ImportError as error:
        raise ImportError(
            f"export_onnx: PyTorch {torch.__version__} and the installed onnxscript are not compatible ({error}); upgrade it: "
            "pip install -U onnx onnxscript"
        ) from error
    except Exception as error:  # the backbone may be the caller's, so any exception is possible
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"export_onnx: the backbone {type(model.backbone).__name__} cannot be exported with opset {opset} ({reason}). "
            "Use only operations that torch.export supports: no branches on values, no shapes that depend on values"
        ) from error
    assert program is not None
    graph = program.model_proto
    size = graph.ByteSize()
    if size > _LARGEST:
        raise ValueError(
            f"export_onnx: the graph has {size:,} bytes, but an ONNX file can have at most 2 GB. Use a smaller backbone"
        )
    return graph


def _describe(graph: Any, model: HashModel, channels_last: bool, class_names: Sequence[str]) -> None:
    """Replace torch's metadata, which contain source lines and paths of the exporting program, by the metadata of the model."""
    import onnx

    parts = graph.graph
    for part in (*parts.node, *parts.input, *parts.output, *parts.value_info, *parts.initializer, *graph.functions, parts):
        del part.metadata_props[:]
    onnx.helper.set_model_props(graph, {
        "orthohash_triton": __version__,
        "bits": str(model.bits),
        "bit_order": "little",
        "sample_shape": json.dumps(model.sample_shape),
        "channels_last": json.dumps(channels_last),
        "class_names": json.dumps(list(class_names)),
    })  # fmt: skip
    onnx.checker.check_model(graph, full_check=True)


def _compare(
    model: HashModel, session: Any, inputs: Tensor | ImageFiles, batch_size: int, channels_last: bool, path: Path
) -> OnnxAgreement:
    """Compare the codes of the graph in `session`, which is for the file `path`, with those of `model`, batch by batch."""
    samples = bits = rows = 0
    nearest = apart = squares = 0.0
    for batch in inputs.split(batch_size):
        values = model.continuous_codes(batch, batch_size=batch_size).numpy()  # [n, bits]
        expected = pack_codes(values)
        given = {session.get_inputs()[0].name: _as_graph_input(batch, channels_last).numpy()}
        with naming(path, "graph of export_onnx"):
            codes, others = session.run(["codes", "continuous_codes"], given)
        if codes.shape != expected.shape or codes.dtype != np.uint8 or others.shape != values.shape:
            found = f"{codes.dtype} {list(codes.shape)} and {list(others.shape)}"
            raise ValueError(
                f"{path}: the graph returns codes and values {found}; expected uint8 {list(expected.shape)} and "
                f"{list(values.shape)}. It was exported from another model"
            )
        differing = np.unpackbits(codes ^ expected, axis=1, count=model.bits, bitorder="little").astype(bool)  # [n, bits]
        samples += len(values)
        bits += int(differing.sum())
        rows += int(differing.any(1).sum())
        nearest = max(nearest, float(np.abs(values[differing]).max(initial=0)))
        apart = max(apart, float(np.nan_to_num(np.abs(values - others), nan=np.inf).max(initial=0)))
        squares += float(np.square(values, dtype=np.float64).sum())
    return OnnxAgreement(samples, model.bits, bits, rows, nearest, apart, math.sqrt(squares / (samples * model.bits)))


def _session(graph: bytes, providers: Sequence[str] = ("CPUExecutionProvider",)) -> Any:
    """Open a graph in ONNX Runtime, with as many threads as torch uses."""
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return runtime.InferenceSession(graph, options, providers=list(providers), enable_fallback=0)
    except Exception as error:  # ONNX Runtime raises many classes of errors, none of them public
        raise ValueError(f"ONNX Runtime {runtime.__version__} cannot open the graph ({error})") from error


@reader("graph of export_onnx")
def _read_session(path: Path, providers: Sequence[str]) -> tuple[Any, dict[str, str]]:
    """Open the graph in a file, and return its session and its metadata."""
    session = _session(path.read_bytes(), providers)
    metadata = session.get_modelmeta().custom_metadata_map
    if lacking := sorted({"sample_shape", "bits", "channels_last"} - metadata.keys()):
        raise ValueError(f"its metadata lack {', '.join(lacking)}")
    if len(inputs := session.get_inputs()) != 1 or not inputs[0].shape:
        raise ValueError(f"it has {len(inputs)} inputs; expected one, a batch of samples")
    return session, metadata


def _as_graph_input(batch: Tensor, channels_last: bool) -> Tensor:
    return batch.permute(0, 2, 3, 1).contiguous() if channels_last else batch


def _input_name(model: HashModel) -> str:
    return "features" if len(model.sample_shape) == 1 else "images"


def _whole_batches(inputs: Tensor | ImageFiles, batch_size: int) -> Tensor | ImageFiles:
    """Return the longest prefix of `inputs` whose length is a multiple of `batch_size`."""
    whole = len(inputs) // batch_size * batch_size
    if not whole:
        raise ValueError(
            f"compare_onnx: the graph takes batches of {batch_size}; got {len(inputs)} samples. Give at least one batch"
        )
    return inputs.subset(torch.arange(whole)) if isinstance(inputs, ImageFiles) else inputs[:whole]


def _noise(model: HashModel, count: int) -> Tensor:
    """Return `count` random samples as a `Dataset` stores them. Every call returns the same samples."""
    generator = torch.Generator().manual_seed(0)
    shape = model.sample_shape
    if len(shape) == 1:
        return torch.randn(count, *shape, generator=generator)
    return torch.randint(0, 256, (count, *(shape[1:] if shape[0] == 1 else shape)), dtype=torch.uint8, generator=generator)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's warnings and log messages, which are about optional packages and its own deprecations."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _require_exporter() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"exporting to ONNX needs onnx and onnxscript: {install('onnx', 'onnxscript', extra='export')}"
        ) from error


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"running an ONNX graph needs ONNX Runtime: {install('onnxruntime', extra='export')}, or export without the check"
        ) from error
    return onnxruntime
