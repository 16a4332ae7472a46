"""The command line: orthohash train | methods | compare | features | encode | index | search | evaluate | demo | doctor."""

import argparse
import json
import sys
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal

from . import __version__

# Each command imports what it needs, so that one works where the extras of another are not installed.

_USER_ERRORS = (ValueError, OSError, ImportError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Answers the exit status: 0; 1 where a check failed; 2 for a mistake of the user's, told in one line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser(arguments).parse_args(arguments)
    try:
        return options.run(options) or 0
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        sys.stderr.close()
        return 0
    except _USER_ERRORS as error:
        print(f"orthohash {options.command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """`arguments` name the method, whose options `train` takes too."""
    parser = argparse.ArgumentParser("orthohash", description="Learn binary codes for images, and search them.")
    parser.add_argument("--version", action="version", version=f"orthohash-triton {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = _command(commands, "train", _train, "train a hashing network and index its gallery", """
        orthohash train --bits 64 --out runs/fashion
        orthohash train --dataset photos/ --backbone efficientnet-lite0 --backbone-lr-scale 0 --epochs 20 --out runs/photos
        orthohash train --dataset features.npz --bits 32 --out runs/features
        orthohash train --method dhn --quantization-weight 0.1 --rotate itq --out runs/dhn
        orthohash train --method hashnet --help""")  # fmt: skip
    train.add_argument("--out", required=True, type=Path, metavar="RUN", help="folder of the run")
    _add_config_options(train)
    _add_method_options(train, _named_method(arguments))

    _command(commands, "methods", _methods, "list the methods and rotations, with their papers", """
        orthohash methods
        orthohash methods --json""")  # fmt: skip

    compare = _command(commands, "compare", _compare, "train all methods on one data set and compare their codes", """
        orthohash compare --dataset digits --epochs 5 --out runs/digits-comparison
        orthohash compare --dataset fashion-mnist --epochs 3 --validation 0.1 --out runs/comparison
        orthohash compare --methods orthohash csq pca --lengths 32 --rotations none itq --out runs/three""")  # fmt: skip
    compare.add_argument("--out", required=True, type=Path, help="folder of the cells, the table and the figures")
    compare.add_argument("--methods", nargs="+", metavar="NAME", help="of `orthohash methods` (all)")
    compare.add_argument(
        "--lengths", nargs="+", type=int, default=[16, 32, 64], metavar="BITS", help="lengths of the codes (16 32 64)"
    )
    compare.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="seeds of the training (0 1 2)")
    compare.add_argument("--rotations", nargs="+", default=["none"], metavar="NAME", help="none, itq, householder (none)")
    _add_config_options(compare, without=("method", "bits", "seed", "rotate"))

    features = _command(commands, "features", _features, "compute the features of a backbone once, to train heads on", """
        orthohash features --dataset fashion-mnist --backbone efficientnet-lite0 --out features/fashion
        orthohash train --dataset features/fashion --backbone mlp --out runs/fashion""")  # fmt: skip
    features.add_argument("--out", required=True, type=Path, help="folder of train.npz, query.npz (and gallery.npz)")
    _add_config_options(features, only=("dataset", "backbone", "image_size", "query_fraction", "seed", "threads", "device"))

    encode = _command(commands, "encode", _encode, "turn images or features into packed codes", """
        orthohash encode runs/photos holiday/ --out holiday.npy
        orthohash encode runs/fashion fashion-mnist:test --out queries.npy""")  # fmt: skip
    encode.add_argument("model", type=Path, metavar="RUN", help="run folder")
    encode.add_argument("source", help=_SOURCES)
    encode.add_argument("--out", required=True, type=Path, help="uint8 .npy file [N, bits/8], in the order of the source")

    index = _command(commands, "index", _index, "make an index file (FAISS IndexBinaryFlat) of codes", """
        orthohash index holiday.npy --out holiday.ibxf
        orthohash index runs/fashion --out gallery.ibxf""")  # fmt: skip
    index.add_argument("source", type=Path, help=".npy file of packed codes, or a run folder (its gallery)")
    index.add_argument("--out", required=True, type=Path, help="index file")

    search = _command(commands, "search", _search, "find the nearest codes", """
        orthohash search runs/photos holiday/beach.jpg -k 5
        orthohash search holiday.ibxf queries.npy -k 10 --limit 100 --json""")  # fmt: skip
    search.add_argument("index", type=Path, help="index file, or a run folder (its gallery)")
    search.add_argument("queries", help=f".npy file of packed codes; with a run folder also {_SOURCES}")
    search.add_argument("-k", type=int, default=10, help="neighbours per query (%(default)s)")
    search.add_argument("--limit", type=int, default=10, metavar="N", help="search for the first N queries only (%(default)s)")

    evaluate = _command(
        commands,
        "evaluate",
        _evaluate,
        "mAP and precision of a run on its data set's queries",
        """
        orthohash evaluate runs/fashion --json""",
    )
    evaluate.add_argument("model", type=Path, metavar="RUN", help="run folder")

    demo = _command(commands, "demo", _demo, "train, index and search Fashion-MNIST at 16, 32 and 64 bits", """
        orthohash demo
        orthohash demo --quick --out runs/quick""")  # fmt: skip
    demo.add_argument("--quick", action="store_true", help="scikit-learn's digits for two epochs: seconds instead of minutes")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the results (%(default)s)")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--threads", type=int, help="CPU threads")

    doctor = _command(commands, "doctor", _doctor, "versions, devices, and a check of every op against its reference", """
        orthohash doctor
        orthohash doctor --selftest                       # everything, in Markdown to paste into an issue
        orthohash doctor --selftest --device cuda --json""")  # fmt: skip
    doctor.add_argument(
        "--selftest", action="store_true",
        help="every implementation on a grid of cases, twice, with timings; half a minute on a CPU, a minute or two on a GPU",
    )  # fmt: skip
    doctor.add_argument("--device", default="all", metavar="NAME", help="cpu, cuda, cuda:1, ... (%(default)s)")
    return parser


_SOURCES = (
    "an image, a folder of images, a .npz or .safetensors file of features, or fashion-mnist:train, fashion-mnist:test, digits"
)


def _command(commands: Any, name: str, run: Callable, summary: str, examples: str) -> argparse.ArgumentParser:
    lines = [line.strip() for line in examples.strip().splitlines()]
    parser = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n  " + "\n  ".join(lines), formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.set_defaults(run=run)
    return parser


def _add_config_options(
    parser: argparse.ArgumentParser, *, only: Sequence[str] | None = None, without: Sequence[str] = ()
) -> None:
    """One option per field of TrainConfig; the method's own come from `_add_method_options`."""
    from .train.trainer import TrainConfig

    chosen = [field for field in fields(TrainConfig) if field.name not in ("options", *without)]
    _add_fields(parser, [field for field in chosen if only is None or field.name in only])


def _named_method(arguments: Sequence[str]) -> Any:
    """The method that `arguments` name; the default one where they name none, or one that does not exist."""
    from . import methods
    from .train.trainer import TrainConfig

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--method", default=TrainConfig.method)
    name = parser.parse_known_args(arguments)[0].method
    return methods.get(name if name in methods.names() else TrainConfig.method)


def _add_method_options(parser: argparse.ArgumentParser, method: Any) -> None:
    group = parser.add_argument_group(f"options of the method {method.name}", f"{method.summary}. {method.paper}")
    _add_fields(group, fields(method.options))


def _add_fields(parser: Any, chosen: Sequence[Any]) -> None:
    from . import methods

    for field in chosen:
        name, text = "--" + field.name.replace("_", "-"), field.metadata["help"].replace("%", "%%")
        if field.type is bool:
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=field.default, help=text)
            continue
        default = "" if field.default is None else " (%(default)s)"
        choices = methods.names() if field.name == "method" else None
        parser.add_argument(
            name, type=_plain_type(field.type), default=field.default, help=text + default, metavar=_metavar(field.type),
            choices=choices,
        )  # fmt: skip


def _plain_type(annotation: Any) -> type:
    """int from int | None."""
    if isinstance(annotation, types.UnionType):
        return next(member for member in typing.get_args(annotation) if member is not type(None))
    return annotation


def _metavar(annotation: Any) -> str:
    return {int: "N", float: "X", str: "NAME"}[_plain_type(annotation)]


def _train(options: argparse.Namespace) -> None:
    from . import data
    from .train import save_run, train
    from .train.evaluation import evaluate_run

    config = _config(options, method_options=True)
    splits = _splits(config, data)
    trained = train(config, splits.train)
    run = save_run(options.out, config, trained, splits.gallery)
    figures = evaluate_run(run, splits.query)
    if options.json:
        _print_json({"run": str(options.out), "epochs": [asdict(epoch) for epoch in trained.history], "evaluation": figures})
        return
    if trained.history:
        columns = ["epoch", "loss", "bits as the codeword's", "validation mAP", "learning rate", "seconds"]
        _print_table("Training", columns, [
            [str(e.epoch), f"{e.loss:.4f}", _cell(e.bit_accuracy, ".3f"), _cell(e.validation_map, ".4f"), f"{e.lr:.2g}",
             f"{e.seconds:.1f}"] for e in trained.history
        ])  # fmt: skip
    _print_figures([{"method": _title(config), **figures}], f"{splits.query.name} against {splits.gallery.name}")
    print(f"run folder: {options.out}")


def _config(options: argparse.Namespace, *, method_options: bool) -> Any:
    from . import methods
    from .train.trainer import TrainConfig

    values = {field.name: getattr(options, field.name) for field in fields(TrainConfig) if hasattr(options, field.name)}
    if method_options:
        own = {field.name: getattr(options, field.name) for field in fields(methods.get(options.method).options)}
        values["options"] = own
    return TrainConfig(**values)


def _title(config: Any) -> str:
    from . import methods

    return methods.get(config.method).title + ("" if config.rotate == "none" else f" + {config.rotate}")


def _methods(options: argparse.Namespace) -> None:
    from . import methods

    known = [methods.get(name) for name in methods.names()]
    listed: list[dict[str, Any]] = [{
        "name": method.name, "title": method.title, "learned": method.learned, "summary": method.summary, "paper": method.paper,
        "url": method.url, "lr": method.lr if method.learned else None,
        "options": {field.name: {"default": field.default, "help": field.metadata["help"]} for field in fields(method.options)},
    } for method in known]  # fmt: skip
    rotations = [{"name": name, "summary": summary, "paper": paper} for name, (summary, paper) in _ROTATIONS.items()]
    if options.json:
        _print_json({"methods": listed, "rotations": rotations})
        return
    rows = [[m["name"], m["summary"], m["paper"]] for m in [*listed, *rotations]]
    _print_table("Methods (--method) and rotations (--rotate)", ["name", "what it does", "paper"], rows, justify="left")


_ROTATIONS = {
    "itq": (
        "orthogonal rotation that brings the codes nearest to +-1, in closed form, alternating",
        "Gong and Lazebnik, Iterative Quantization: A Procrustean Approach to Learning Binary Codes, CVPR 2011",
    ),
    "householder": (
        "rotation as a product of Householder reflections, by gradient descent (H2Q)",
        "Schwengber et al., Deep Hashing via Householder Quantization, 2023, arXiv 2311.04207",
    ),
}


def _compare(options: argparse.Namespace) -> None:
    from . import data
    from .compare import compare, table

    config = _config(options, method_options=False)
    splits = _splits(config, data)
    rows = compare(
        config, splits, options.out, names=options.methods, bits=options.lengths, seeds=options.seeds, rotations=options.rotations
    )
    if options.json:
        _print_json(rows)
        return
    columns, cells = table(rows)
    _print_table(f"{splits.query.name} against {splits.gallery.name}", columns, cells)
    print(f"written: {options.out / 'results.md'}, results.csv, results.json and the figures beside them")


def _splits(config: Any, data: Any) -> Any:
    return data.load_splits(config.dataset, size=config.image_size, query_fraction=config.query_fraction, seed=config.seed)


def _features(options: argparse.Namespace) -> None:
    from . import data
    from .train.features import compute_features

    config = _config(options, method_options=False)
    splits = _splits(config, data)
    parts = {"train": splits.train, "query": splits.query}
    if splits.gallery is not splits.train:
        parts["gallery"] = splits.gallery
    options.out.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        data.features.save(options.out / f"{name}.npz", compute_features(part, config, title=name))
    if options.json:
        _print_json({"features": str(options.out), **{name: len(part) for name, part in parts.items()}})
    else:
        print(f"{options.out}: " + ", ".join(f"{len(part):,} {name}" for name, part in parts.items()))


def _encode(options: argparse.Namespace) -> None:
    import numpy as np

    from ._files import atomic_write
    from .train import load_run

    run = load_run(options.model)
    codes = run.model.encode(_inputs(run, options.source)[0]).numpy()
    with atomic_write(options.out) as file:
        np.save(file, codes)
    _report(options, {"codes": str(options.out), "count": len(codes), "bits": 8 * codes.shape[1]})


def _index(options: argparse.Namespace) -> None:
    from .search import HammingIndex
    from .train import load_run

    if options.source.is_dir():
        index = load_run(options.source).index
    else:
        codes = _read_codes(options.source)
        index = HammingIndex(8 * codes.shape[1])
        index.add(codes)
    index.save(options.out)
    _report(options, {"index": str(options.out), "count": index.ntotal, "bits": index.bits})


def _search(options: argparse.Namespace) -> None:
    from .search import HammingIndex
    from .train import load_run

    if options.limit < 1:
        raise ValueError(f"--limit must be at least 1; got {options.limit}")
    run = load_run(options.index) if options.index.is_dir() else None
    index = run.index if run else HammingIndex.load(options.index, mmap=True)
    if options.queries.endswith(".npy"):
        queries, names = _read_codes(Path(options.queries)), None
    elif run:
        inputs, names = _inputs(run, options.queries)
        queries = run.model.encode(inputs[: options.limit])
    else:
        raise ValueError(
            f"an index file alone cannot encode {options.queries}; give a .npy file of codes, or a run folder for the index"
        )
    total = len(names) if names else len(queries)
    queries = queries[: options.limit]
    distances, ids = index.search(queries, options.k)
    answers: list[dict[str, Any]] = [
        {
            "query": names[i] if names else str(i),
            "neighbours": [_neighbour(run, *pair) for pair in zip(d, j, strict=True) if pair[1] != -1],
        }
        for i, (d, j) in enumerate(zip(distances.tolist(), ids.tolist(), strict=True))
    ]
    if options.json:
        _print_json({"queries": total, "results": answers})
        return
    rows = [
        [
            answer["query"] if rank == 0 else "",
            str(rank + 1),
            str(n["distance"]),
            str(n["id"]),
            n.get("class", ""),
            n.get("path", ""),
        ]
        for answer in answers
        for rank, n in enumerate(answer["neighbours"])
    ]
    _print_table(
        f"{len(answers)} of {total} queries in {index.ntotal:,} codes", ["query", "rank", "distance", "id", "class", "file"], rows
    )


def _neighbour(run: Any, distance: int, id: int) -> dict[str, Any]:
    found: dict[str, Any] = {"id": id, "distance": distance}
    if run:
        found["class"] = ", ".join(run.class_names[i] for i in _classes(run.gallery_labels[id]))
        if run.gallery_paths:
            found["path"] = run.gallery_paths[id]
    return found


def _classes(label: Any) -> list[int]:
    """The class ids of one label: a class id, or a multi-hot row."""
    return label.nonzero().flatten().tolist() if label.ndim else [int(label)]


def _evaluate(options: argparse.Namespace) -> None:
    from . import data
    from .train import load_run
    from .train.evaluation import evaluate_run

    run = load_run(options.model)
    splits = _splits(run.config, data)
    if splits.gallery.labels.tolist() != run.gallery_labels.tolist():
        raise ValueError(f"the data set {run.config.dataset} is not the one that {run.path} was trained on; train again")
    figures = evaluate_run(run, splits.query)
    if options.json:
        _print_json(figures)
    else:
        _print_figures([{"method": _title(run.config), **figures}], f"{splits.query.name} against {splits.gallery.name}")


def _demo(options: argparse.Namespace) -> None:
    from .demo import demo

    results = demo(options.out, quick=options.quick, seed=options.seed, threads=options.threads)
    if options.json:
        _print_json(results)
        return
    _print_figures(results["rows"], f"{results['dataset']['name']}: {results['dataset']['queries']:,} queries, "
                                   f"{results['dataset']['gallery']:,} in the gallery")  # fmt: skip
    print(f"{results['seconds']:.0f} s in all; written: {options.out / 'results.json'}, {options.out / 'neighbours.png'}")


def _doctor(options: argparse.Namespace) -> int:
    from .doctor import as_markdown, examine

    report = examine(options.device, selftest=options.selftest, progress=lambda line: print(line, file=sys.stderr, flush=True))
    if options.json:
        _print_json(report)
    else:
        print(as_markdown(report))
    return 0 if report["ok"] else 1


def _inputs(run: Any, source: str) -> tuple[Any, list[str]]:
    """What `source` names, in the shape that the run's model takes, and a name for each sample."""
    from .data import digits, fashion_mnist, features, folders

    path = Path(source)
    if source == "digits":
        inputs = digits.load().inputs
    elif source.startswith("fashion-mnist:"):
        inputs = fashion_mnist.load(source.partition(":")[2]).inputs
    elif path.suffix in features.EXTENSIONS:
        inputs = features.load_unlabelled(path)
    elif path.exists():
        files = folders.image_files(path) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"{path} has no images")
        if len(run.model.sample_shape) != 3:
            raise ValueError(f"the run {run.path} takes features, not images; give a .npz or .safetensors file")
        return folders.read_images(files, size=run.model.sample_shape[-1], grey=run.model.sample_shape[0] == 1), [
            str(f) for f in files
        ]
    else:
        raise FileNotFoundError(f"{source} does not exist; expected {_SOURCES}")
    return inputs, [f"{source} {i}" for i in range(len(inputs))]


def _read_codes(path: Path) -> Any:
    import numpy as np
    import torch

    try:
        codes = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is not a .npy file ({error}); expected packed codes as `orthohash encode` writes them"
        ) from error
    if not isinstance(codes, np.ndarray) or codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] == 0:
        came = f"{codes.dtype} {list(codes.shape)}" if isinstance(codes, np.ndarray) else "an archive"
        raise ValueError(f"{path} must hold packed codes, uint8 [N, bits/8]; got {came}. Make them with `orthohash encode`")
    return torch.from_numpy(codes)


def _report(options: argparse.Namespace, figures: dict[str, Any]) -> None:
    if options.json:
        _print_json(figures)
    else:
        where, count = next(iter(figures.values())), figures["count"]
        print(f"{where}: {count:,} codes of {figures['bits']} bits")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


_FIGURES = ["method", "bits", "mAP@1000", "mAP@all", "precision, radius ≤ 2", "bytes per image", "queries per second"]
_FOOTER = (
    "mAP: ties in the order (distance, gallery position), divided by the relevant images found, 0 for a query that finds none. "
    "Queries per second: the 100 nearest, all queries at once, this machine."
)


def _print_figures(rows: list[dict[str, Any]], title: str) -> None:
    """The table of retrieval figures."""
    _print_table(title, _FIGURES, [[
        row["method"],
        _cell(row["bits"], "d"),
        _cell(row["map_at_1000"], ".4f"),
        _cell(row["map_at_all"], ".4f"),
        _cell(row["precision_at_radius_2"], ".4f"),
        _cell(row["bytes_per_image"], ",d"),
        _cell(row["queries_per_second"], ",.0f"),
    ] for row in rows], caption=_FOOTER)  # fmt: skip


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _print_table(
    title: str, columns: list[str], rows: list[list[str]], caption: str | None = None, justify: Literal["left", "right"] = "right"
) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else justify)
    for row in rows:
        table.add_row(*row)
    # A terminal tells its width; a file or a pipe takes what the table needs.
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
