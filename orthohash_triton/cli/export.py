"""`orthohash export`: write the model of a run as a pretrained model or as an ONNX graph."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ._command import Command, CommandParser, add_dataset
from ._output import print_json

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.onnx_export import OnnxAgreement
    from ..runs.run import Run

Format = Literal["pretrained", "onnx"]


def _add_options(parser: CommandParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument("model", type=Path, metavar="RUN", help="run folder")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="PATH", help="folder for the pretrained model, or file for the ONNX graph"
    )
    parser.add_argument(
        "--format", choices=get_args(Format),
        help="pretrained: safetensors and JSON for HashModel.from_pretrained; onnx: one graph from images to packed codes "
        "(onnx if PATH ends with .onnx, otherwise pretrained)",
    )  # fmt: skip
    add_dataset(parser)
    onnx = parser.add_argument_group("options of the format onnx")
    onnx.add_argument("--opset", type=int, metavar="N", help="version of the ONNX operator set, 18 to 23 (18)")
    onnx.add_argument("--batch-size", type=int, metavar="N", help="fixed number of samples per call (any number)")
    onnx.add_argument("--channels-last", action="store_true", help="take RGB images as [N, H, W, 3]")
    onnx.add_argument(
        "--check", type=int, metavar="N",
        help="compare the codes of N samples of the data set between ONNX Runtime and PyTorch, bit by bit; the exit status is 1 "
        "if they differ by more than rounding (8 samples of noise are always compared)",
    )  # fmt: skip


def _run(options: argparse.Namespace) -> int:
    """Write the model in the chosen format."""
    from ..runs import load_run

    if options.format == "onnx" and options.out.suffix != ".onnx":
        raise ValueError(f"--out {options.out}: the file name of an ONNX graph must end in .onnx")
    onnx = (options.format or ("onnx" if options.out.suffix == ".onnx" else "pretrained")) == "onnx"
    for name in ("opset", "batch_size", "channels_last", "check"):
        if not onnx and getattr(options, name):
            raise ValueError(f"--{name.replace('_', '-')} applies to ONNX only; add --format onnx, or end the path with .onnx")
    if options.check is not None and options.check < 1:
        raise ValueError(f"--check must be at least 1; got {options.check}")
    run = load_run(options.model, dataset=options.dataset)
    return _export_onnx(options, run) if onnx else _export_pretrained(options, run)


def _export_pretrained(options: argparse.Namespace, run: "Run") -> int:
    """Write the model as a pretrained model, print its path and return the exit status."""
    from ..runs.export import export_run

    export_run(run, options.out)
    if options.json:
        print_json({"pretrained": str(options.out), "bits": run.model.bits})
    else:
        print(f"{options.out}: codes of {run.model.bits} bits\nopen it with HashModel.from_pretrained({str(options.out)!r})")
    return 0


def _export_onnx(options: argparse.Namespace, run: "Run") -> int:
    """Write the model as an ONNX graph, compare its codes if asked, and return 1 if they differ by more than rounding."""
    from ..models.onnx_export import OPSET, compare_onnx, export_onnx

    samples = None if options.check is None else _samples(run, options.check)
    export_onnx(
        run.model, options.out, opset=OPSET if options.opset is None else options.opset, batch_size=options.batch_size,
        channels_last=options.channels_last, class_names=run.class_names,
    )  # fmt: skip
    figures: dict[str, Any] = {"onnx": str(options.out), "bits": run.model.bits, "bytes": options.out.stat().st_size}
    agreement = None
    if samples is not None:
        agreement = compare_onnx(run.model, options.out, samples)
        figures["check"] = {"identical": agreement.identical, "within_rounding": agreement.within_rounding, **asdict(agreement)}
    if options.json:
        print_json(figures)
    else:
        print(f"{options.out}: codes of {run.model.bits} bits, {figures['bytes']:,} bytes")
        if agreement is not None:
            print(f"checked: {agreement}{_verdict(agreement)}")
    return 0 if agreement is None or agreement.within_rounding else 1


def _verdict(agreement: "OnnxAgreement") -> str:
    if agreement.identical:
        return ""
    return ": within rounding" if agreement.within_rounding else ": more than rounding; do not use this graph"


def _samples(run: "Run", count: int) -> "Tensor":
    """Return the first `count` samples of the data set of the run: queries, then the gallery."""
    import torch

    from ..runs.data_sets import load_data_set

    splits = load_data_set(run)
    query, gallery = splits.query.inputs[:count], splits.gallery.inputs[: max(count - len(splits.query), 0)]
    found = torch.cat([query, gallery])
    if len(found) < count:
        raise ValueError(f"--check {count}: the data set {run.config.dataset} has {len(found)} samples; use at most that number")
    return found


COMMAND = Command(
    name="export",
    summary="write the model of a run for use in other programs",
    examples="""
        orthohash export runs/fashion --out models/fashion
        orthohash export runs/fashion --out fashion.onnx
        orthohash export runs/fashion --out fashion.onnx --check 1000""",
    add_options=_add_options,
    run=_run,
    help_order=120,
)
