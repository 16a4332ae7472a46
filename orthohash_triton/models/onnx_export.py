"""A model as one ONNX graph: samples in, packed codes out, for ONNX Runtime and what else reads ONNX.

    input    images    uint8 [N, H, W] (grey) or [N, 3, H, W]; with channels_last uint8 [N, H, W, 3]
         or  features  float32 [N, D]
    output   codes             uint8 [N, ceil(bits / 8)], as `HashModel.encode`: bit j of byte i is dimension 8i + j
    output   continuous_codes  float32 [N, bits], as `HashModel.continuous_codes`; for re-ranking, computed only if asked for

Images are resized before; all the rest is in the graph, in evaluation mode: scaling, backbone, head, signs, packing by 32-bit
integer arithmetic. Its metadata say bits, bit_order, sample_shape, channels_last and class_names.

PyTorch and ONNX Runtime add up in different orders, as PyTorch itself does for another batch size: a value within rounding of 0
can get the other sign. `compare_onnx` counts such bits.
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
from .._base.files import atomic_write
from ..data.images import ImageFiles
from ..ops.pack_codes import pack_codes
from .model import HashModel

OPSET = 18
OPSETS = range(18, 24)
ROUNDING = 1e-3  # of the root mean square of the continuous codes: far above what rounding does, far below what an error does

_CHECKED = 8
_LARGEST_BATCH = 2**31 - 1  # attention guards against 2**63 - 1
_LARGEST = 2**31 - 2**20  # bytes: protobuf's limit for one file


@dataclass(frozen=True)
class OnnxAgreement:
    """How the codes of an ONNX graph compare with those of the model it came from."""

    samples: int
    bits: int  # of one code
    differing_bits: int  # of samples * bits
    differing_samples: int
    largest_value_differing: float  # the greatest |continuous code|, by PyTorch, of a bit that differs; 0 if none does
    largest_difference: float  # between two continuous codes
    scale: float  # root mean square of the continuous codes

    @property
    def identical(self) -> bool:
        """Whether all codes are the same, bit for bit."""
        return self.differing_bits == 0

    @property
    def within_rounding(self) -> bool:
        """Whether the graph computes what the model does: values differ by rounding alone, and so bits only near 0."""
        return self.largest_difference <= ROUNDING * self.scale

    def __str__(self) -> str:
        total = f"{self.samples * self.bits:,} bits of {self.samples:,} samples"
        values = f"values differ by {self.largest_difference:.1e} at most, with a root mean square of {self.scale:.2g}"
        if self.identical:
            return f"all {total} are the same; {values}"
        where = f"where a value is {self.largest_value_differing:.1e} or nearer to 0"
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
    """Write `model` as the ONNX graph that this module describes. A file at `path` is replaced when all went well.

    Args:
        model: on any device, in any mode; it stays as it is.
        opset: version of ONNX's operators, 18 to 23.
        batch_size: N, if it is to be fixed; None takes batches of any size.
        channels_last: take RGB images as uint8 [N, H, W, 3], as Pillow and OpenCV hold them (in the order RGB).
        class_names: kept in the graph's metadata.
        check: run the graph in ONNX Runtime, on noise, and compare it with the model before anything is written.

    Raises:
        ValueError: an argument is out of range; the backbone cannot be exported; the graph is too large for one file; or, with
            `check`, the graph computes something else than the model.
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    opset = checks.integer("export_onnx", "opset", opset, minimum=OPSETS.start, maximum=OPSETS.stop - 1)
    if batch_size is not None:
        batch_size = checks.integer("export_onnx", "batch_size", batch_size, minimum=1)
    if channels_last and (len(model.sample_shape) != 3 or model.sample_shape[0] != 3):
        raise ValueError(
            f"export_onnx: channels_last is for RGB images; the model takes samples {list(model.sample_shape)}. Leave it out"
        )
    graph = _graph(model, opset, batch_size, channels_last)
    _describe(graph, model, channels_last, class_names)
    serialized = graph.SerializeToString()
    if check:
        samples = _noise(model, batch_size or _CHECKED)
        agreement = _compare(model, _session(serialized), samples, batch_size or _CHECKED, channels_last)
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
    """Run the graph at `path` on `inputs`, samples as a Dataset keeps them, and compare its codes with the model's.

    providers  of ONNX Runtime, best first, as ["CUDAExecutionProvider", "CPUExecutionProvider"]

    Raises:
        FileNotFoundError, ValueError: there is no graph of `export_onnx` at `path`, or no sample; or the graph takes other ones.
        ImportError: onnxruntime is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; export_onnx writes it")
    if not len(inputs):
        raise ValueError("compare_onnx: inputs must hold at least one sample; got none")
    session = _session(path.read_bytes(), providers)
    metadata = session.get_modelmeta().custom_metadata_map
    if metadata.get("sample_shape") != json.dumps(model.sample_shape) or metadata.get("bits") != str(model.bits):
        raise ValueError(
            f"{path} takes samples {metadata.get('sample_shape')} and gives {metadata.get('bits')} bits; the model takes "
            f"{list(model.sample_shape)} and gives {model.bits}. It was exported from another model"
        )
    fixed = session.get_inputs()[0].shape[0]
    if isinstance(fixed, int):
        inputs, batch_size = _whole_batches(inputs, fixed), fixed
    return _compare(model, session, inputs, batch_size, metadata["channels_last"] == "true")


class _Encoder(nn.Module):
    """What becomes the graph."""

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
    """The ONNX model, in memory."""
    _require_exporter()
    encoder = _Encoder(copy.deepcopy(model).cpu().float(), channels_last).eval()
    example = _as_graph_input(_noise(model, batch_size or 2), channels_last)
    dynamic = None if batch_size is not None else ({0: torch.export.Dim("batch", max=_LARGEST_BATCH)},)
    try:
        with _quiet(), torch.no_grad():
            # Captured here, as torch.onnx.export falls back to tracing in some versions, which forgets branches without a word.
            captured = torch.export.export(encoder, (example,), dynamic_shapes=dynamic, strict=False)
            program = torch.onnx.export(
                captured, dynamo=True, opset_version=opset, dynamic_shapes=dynamic, verbose=False,
                input_names=[_input_name(model)], output_names=["codes", "continuous_codes"],
            )  # fmt: skip
    except ImportError as error:
        raise ImportError(
            f"export_onnx: PyTorch {torch.__version__} and the installed onnxscript do not fit together ({error}); upgrade it: "
            'pip install -U "orthohash-triton[export]"'
        ) from error
    except Exception as error:  # the backbone may be the caller's: anything may go wrong in it
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"export_onnx: the backbone {type(model.backbone).__name__} cannot be exported with opset {opset} ({reason}). "
            "Keep to operations that torch.export can follow: no branches on values, no shapes that depend on them"
        ) from error
    assert program is not None
    graph = program.model_proto
    size = graph.ByteSize()
    if size > _LARGEST:
        raise ValueError(f"export_onnx: the graph takes {size:,} bytes, and one ONNX file holds 2 GB. Use a smaller backbone")
    return graph


def _describe(graph: Any, model: HashModel, channels_last: bool, class_names: Sequence[str]) -> None:
    """Metadata of the file, in place of torch's, which hold the exporting program's source lines and paths."""
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


def _compare(model: HashModel, session: Any, inputs: Tensor | ImageFiles, batch_size: int, channels_last: bool) -> OnnxAgreement:
    samples = bits = rows = 0
    nearest = apart = squares = 0.0
    for batch in inputs.split(batch_size):
        values = model.continuous_codes(batch, batch_size=batch_size).numpy()  # [n, bits]
        codes, others = session.run(
            ["codes", "continuous_codes"], {session.get_inputs()[0].name: _as_graph_input(batch, channels_last).numpy()}
        )
        expected = pack_codes(values)
        differing = np.unpackbits(codes ^ expected, axis=1, count=model.bits, bitorder="little").astype(bool)  # [n, bits]
        samples += len(values)
        bits += int(differing.sum())
        rows += int(differing.any(1).sum())
        nearest = max(nearest, float(np.abs(values[differing]).max(initial=0)))
        apart = max(apart, float(np.nan_to_num(np.abs(values - others), nan=np.inf).max(initial=0)))
        squares += float(np.square(values, dtype=np.float64).sum())
    return OnnxAgreement(samples, model.bits, bits, rows, nearest, apart, math.sqrt(squares / (samples * model.bits)))


def _session(graph: bytes, providers: Sequence[str] = ("CPUExecutionProvider",)) -> Any:
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return runtime.InferenceSession(graph, options, providers=list(providers))
    except Exception as error:  # its errors are of many classes, none of them public
        raise ValueError(f"ONNX Runtime {runtime.__version__} cannot open the graph ({error})") from error


def _as_graph_input(batch: Tensor, channels_last: bool) -> Tensor:
    return batch.permute(0, 2, 3, 1).contiguous() if channels_last else batch


def _input_name(model: HashModel) -> str:
    return "features" if len(model.sample_shape) == 1 else "images"


def _whole_batches(inputs: Tensor | ImageFiles, batch_size: int) -> Tensor | ImageFiles:
    """As many of `inputs` as fill batches of a fixed size."""
    whole = len(inputs) // batch_size * batch_size
    if not whole:
        raise ValueError(
            f"compare_onnx: the graph takes batches of {batch_size}; got {len(inputs)} samples. Give at least one batch"
        )
    return inputs.subset(torch.arange(whole)) if isinstance(inputs, ImageFiles) else inputs[:whole]


def _noise(model: HashModel, count: int) -> Tensor:
    """Samples as a Dataset keeps them; the same each time."""
    generator = torch.Generator().manual_seed(0)
    shape = model.sample_shape
    if len(shape) == 1:
        return torch.randn(count, *shape, generator=generator)
    return torch.randint(0, 256, (count, *(shape[1:] if shape[0] == 1 else shape)), dtype=torch.uint8, generator=generator)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells, as warnings and on the log, about packages that it could use and its own deprecations."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


_INSTALL = 'pip install "orthohash-triton[export]"'


def _require_exporter() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"exporting to ONNX needs onnx and onnxscript: {_INSTALL}") from error


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"running an ONNX graph needs ONNX Runtime: {_INSTALL} (or export without the check)") from error
    return onnxruntime
