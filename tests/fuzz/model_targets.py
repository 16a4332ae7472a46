"""The readers of models, runs, checkpoints and settings that are fuzzed, with small valid files of each kind."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from orthohash_triton import compare
from orthohash_triton._base.file_set import FileSet, replacing
from orthohash_triton.cli import _config_files
from orthohash_triton.data import Dataset, Skipped, images, text
from orthohash_triton.models import HashModel, original
from orthohash_triton.models.onnx_export import compare_onnx
from orthohash_triton.models.pretrained import load_pretrained
from orthohash_triton.runs import encoding, load_run, save_run
from orthohash_triton.runs.partial_codes import PartialCodes
from orthohash_triton.runs.samples import open_samples
from orthohash_triton.train import TrainConfig, train
from orthohash_triton.train.checkpoint import Checkpoints, checkpoint_settings
from tests.fuzz.data_targets import ROWS, check_index
from tests.fuzz.readers import Target
from tests.notes import edit_note, forget_files


def dataset() -> Dataset:
    labels = torch.arange(ROWS) % 3
    return Dataset(torch.randn(ROWS, 4) + 3 * torch.eye(3, 4)[labels], labels, ("cat", "dog", "emu"), "toy")


# ---- runs ----------------------------------------------------------------------------------------------------------------------


def make_run(folder: Path) -> None:
    torch.manual_seed(0)
    data = dataset()
    config = TrainConfig(bits=16, epochs=1, batch_size=6, backbone="mlp", threads=1, dataset="nowhere")
    run = save_run(folder, config, train(config, data, progress=False), data)
    run.add_evaluation({"map_at_all": 0.5, "queries_per_second": 100.0})
    run.add_queries(run.index.codes[:3], data.labels[:3], [Path(f"q{row}.jpg") for row in range(3)])
    (folder / "paths.json").write_text(json.dumps([f"{row}.jpg" for row in range(ROWS)]))
    forget_files(folder / "config.json")  # with their checksums no damaged file would reach its reader


def read_run(folder: Path) -> object:
    run = load_run(folder)
    return run, open_samples(run)


def check_model(model: HashModel) -> None:
    """Check that a model computes codes, unless its weights have become NaN, which no reader can know to be wrong."""
    inputs = torch.zeros(2, *model.sample_shape)
    if bool(model.continuous_codes(inputs).isfinite().all()):
        assert model.encode(inputs).shape == (2, 2)


def check_run(found: Any) -> None:
    run, samples = found
    check_index(run.index)
    assert run.index.ntotal == len(run.gallery_labels)
    assert run.gallery_paths is None or all(type(path) is str for path in run.gallery_paths)
    check_model(run.model)
    assert samples.query is None or samples.query.codes.shape == (len(samples.query.labels), 2)


RUN_WORDS = (
    b"format",
    b"sample_shape",
    b"epochs",
    b"evaluation",
    b"class_names",
    b"timm:resnet18",
    b"small-cnn",
    b"pixels",
    b"BOOL",
)


# ---- checkpoints ---------------------------------------------------------------------------------------------------------------


RESUMED = replace(dataset(), inputs=torch.zeros(ROWS, 4))


def make_checkpoint(folder: Path) -> None:
    config = TrainConfig(bits=16, dataset="toy", threads=1)
    checkpoints = Checkpoints(folder, config, RESUMED)
    network = nn.Linear(4, 16)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "batch": 0, "history": []}
    checkpoints.save("codes", lambda: state)


def read_checkpoint(folder: Path) -> object:
    checkpoints = Checkpoints(folder, TrainConfig(bits=16, dataset="toy", threads=1), RESUMED, resume=True)
    return checkpoint_settings(folder), checkpoints.position


def state_dict() -> dict[str, torch.Tensor]:
    return {
        "module.hash_fc.0.weight": torch.randn(8, 6),
        "module.hash_fc.1.weight": torch.ones(8),
        "module.hash_fc.1.bias": torch.zeros(8),
        "module.hash_fc.1.running_mean": torch.zeros(8),
        "module.hash_fc.1.running_var": torch.ones(8),
        "module.hash_fc.1.num_batches_tracked": torch.tensor(3),
        "module.ce_fc.centroids": torch.ones(3, 8),
        "module.features.0.weight": torch.randn(2, 3),
    }


def make_original(folder: Path) -> None:
    for name in ("models", "outputs"):
        (folder / name).mkdir()
    torch.save(state_dict(), folder / "models" / "best.pth")
    torch.save(torch.ones(3, 8), folder / "outputs" / "codebook.pth")
    (folder / "config.json").write_text(json.dumps({"arch": "alexnet", "arch_kwargs": {"nbit": 8, "nclass": 3}, "s": 8.0}))


def make_old_original(folder: Path) -> None:
    (folder / "models").mkdir()
    torch.save(state_dict(), folder / "models" / "best.pth", _use_new_zipfile_serialization=False)


def check_original(found: Any) -> None:
    features = found.head.linear.in_features
    assert found.head(torch.zeros(2, features)).shape == (2, found.head.linear.out_features)


# ---- models --------------------------------------------------------------------------------------------------------------------


def make_pretrained(folder: Path) -> None:
    model = HashModel("mlp", 16, (4,)).eval()
    model.save_pretrained(folder, codebook=torch.ones(3, 16, dtype=torch.int8), class_names=("cat", "dog", "emu"))
    forget_files(folder / "config.json")


def check_pretrained(found: Any) -> None:
    check_model(found.model)
    assert found.codebook is None or found.codebook.shape[1] == 16


def onnx_model() -> HashModel:
    model = HashModel("features", 8, (4,), batch_norm=False).eval()
    with torch.no_grad():
        model.head.linear.weight.copy_(torch.linspace(-1, 1, 32).reshape(8, 4))
    return model


def make_onnx(folder: Path) -> None:
    """Write a graph like that of `export_onnx`, which itself takes seconds."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx_model()
    weight = model.head.linear.weight.detach().numpy().T.copy()
    nodes = [
        helper.make_node("MatMul", ["features", "weight"], ["continuous_codes"]),
        helper.make_node("Greater", ["continuous_codes", "zero"], ["bits"]),
        helper.make_node("Cast", ["bits"], ["integers"], to=TensorProto.INT32),
        helper.make_node("MatMul", ["integers", "place"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["codes"], to=TensorProto.UINT8),
    ]
    constants = {"weight": weight, "zero": np.float32(0), "place": 2 ** np.arange(8, dtype=np.int32)[:, None]}
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 4])],
        [
            helper.make_tensor_value_info("codes", TensorProto.UINT8, ["batch", 1]),
            helper.make_tensor_value_info("continuous_codes", TensorProto.FLOAT, ["batch", 8]),
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    written = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(written, {"bits": "8", "sample_shape": "[4]", "channels_last": "false"})
    onnx.save(written, folder / "m.onnx")


def read_onnx(folder: Path) -> object:
    return compare_onnx(onnx_model(), folder / "m.onnx", torch.linspace(-1, 1, 12).reshape(3, 4))


def make_words(folder: Path) -> None:
    """Write a tokenizer and a table of embeddings like those of wordllama."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "small": 1, "cat": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file({"embedding.weight": torch.randn(3, 5)}, folder / "weights.safetensors")


def read_words(folder: Path) -> object:
    return text.embed_with(folder / "tokenizer.json", folder / "weights.safetensors", ["a small cat", "", "cat"])


# ---- encodings in progress, settings, comparisons ------------------------------------------------------------------------------

KEY = {"model": "a", "source": "b"}


def make_partial(folder: Path) -> None:
    partial = PartialCodes(folder / "x.npy", KEY, 2, ROWS, resume=False)
    with partial:
        partial.add(torch.zeros(5, 2, dtype=torch.uint8), {})
    edit_note(folder / "x.npy.partial.json")


def make_set(folder: Path) -> None:
    with replacing(folder / "note.json", {"bits": 8}) as files:
        for name in ("codes", "skipped.json"):
            with files.create(name) as file:
                file.write(images.skipped_as_json([Skipped(Path("1.jpg"), "it is empty")]))


def read_set(folder: Path) -> object:
    files = FileSet(folder / "note.json")
    return [files.path(name).read_bytes() for name in files]


def read_skipped(folder: Path) -> object:
    return encoding._read_skipped(folder / "skipped.json")


def read_partial(folder: Path) -> object:
    return PartialCodes(folder / "x.npy", KEY, 2, ROWS, resume=True)


def check_partial(partial: Any) -> None:
    assert 0 <= partial.count <= partial.done


def make_settings(folder: Path) -> None:
    (folder / "s.toml").write_text('dataset = "photos/"\nbits = 32\nlr = 5e-4\n\n[options]\nquantization_weight = 0.1\n')
    (folder / "s.yaml").write_text("dataset: photos/\nbits: 32\nlr: 5e-4\noptions:\n  quantization_weight: 0.1\n")
    (folder / "s.json").write_text('{"dataset": "photos/", "bits": 32, "options": {"quantization_weight": 0.1}}')


def check_settings(settings: Any) -> None:
    assert isinstance(settings, dict)
    assert all(type(name) is str for name in settings)


def make_comparison(folder: Path) -> None:
    (folder / "cells").mkdir()
    row = {"method": "lsh", "title": "LSH", "rotation": "none", "bits": 16, "seed": 0, "map_at_all": 0.5, "train_seconds": 1.0}
    profile = {"method": "lsh", "title": "LSH", "rotation": "none", "bits": 16, "codes": "00ff01ff", "labels": [0, 1]}
    cell = {"seed": 0, "rows": [row], "profiles": [profile], "epochs": []}
    (folder / "cells" / "lsh-16-0.json").write_text(json.dumps(cell))
    (folder / "setting.json").write_text(json.dumps({"dataset": "toy", "class_names": ["cat", "dog"], "epochs": 1}))


def read_comparison(folder: Path) -> object:
    cell = compare._read_cell(folder / "cells" / "lsh-16-0.json")
    return compare.summary(cell["rows"]), compare._read_setting(folder / "setting.json")


TARGETS = [
    Target(
        "run folder",
        make_run,
        read_run,
        (
            "runs._run_files._open",
            "runs._run_files._read_metrics",
            "runs._run_files._read_names",
            "runs.run._config",
            "_base.formats.read_tensors",
        ),
        check=check_run,
        words=RUN_WORDS,
        inputs=40,
    ),
    Target(
        "checkpoint",
        make_checkpoint,
        read_checkpoint,
        ("train.checkpoint._read_content",),
        words=(b"numpy.core", b"cos\nsystem\n"),
    ),
    Target(
        "checkpoint of the original",
        make_original,
        lambda folder: original.load_original(folder),
        ("models.original._head", "models.original._codebook"),
        check=check_original,
        words=(b"arch_kwargs", b"nbit", b"hash_fc.0.weight"),
    ),
    Target(
        "old checkpoint of the original",
        make_old_original,
        lambda folder: original.load_original(folder),
        ("models.original._head",),
        check=check_original,
    ),
    Target(
        "pretrained folder",
        make_pretrained,
        load_pretrained,
        ("_base.formats.read_tensors",),
        files=("config.json", "model.safetensors", "codebook.safetensors"),
        check=check_pretrained,
        words=RUN_WORDS,
    ),
    Target("onnx graph", make_onnx, read_onnx, ("models.onnx_export._read_session",)),
    Target("embeddings of words", make_words, read_words, ("data.text.embed_with",), words=(b"WordLevel", b"vocab", b"BPE")),
    Target("file set", make_set, read_set, ("_base.file_set.checksum_of_file",), words=(b"new-1", b"../", b"removed", b"crc32")),
    Target("skipped files", make_set, read_skipped, ("runs.encoding._read_skipped",), files=("skipped.json",)),
    Target("encoding in progress", make_partial, read_partial, ("runs.partial_codes._read_note",), check=check_partial),
    *(
        Target(
            f"settings, {kind}",
            make_settings,
            lambda folder, kind=kind: _config_files.read(folder / f"s.{kind}"),
            ("cli._config_files.read",),
            files=(f"s.{kind}",),
            check=check_settings,
            words=(b"&a", b"*a", b"<<: *a", b"[[a]]", b"2020-01-01", b"? ", b"!!binary x", b"inf"),
        )
        for kind in ("toml", "yaml", "json")
    ),
    Target("comparison", make_comparison, read_comparison, ("compare._read_cell", "compare._read_setting")),
]
