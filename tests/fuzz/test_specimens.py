"""Damaged files that readers once let through to an error of a parser, each with the reader that now names the file."""

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orthohash_triton import data
from orthohash_triton.cli import _config_files
from orthohash_triton.models import HashModel, original
from orthohash_triton.runs import load_run
from orthohash_triton.runs.code_files import read_codes
from orthohash_triton.runs.samples import open_samples
from tests.fuzz import model_targets


def npy(header: str) -> bytes:
    """Return a .npy file with a header and a few values."""
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode() + b"\0" * 64


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'shape': (4, 4\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 4)}\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4)}\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4)}\n",  # fewer values than the file has
        "{'descr': '<U0', 'fortran_order': False, 'shape': (1099511627776,)}\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 0)}\n",
        "{'descr': '|O', 'fortran_order': False, 'shape': (8,)}\n",
        "(" * 200 + "\n",
    ],
)
@pytest.mark.parametrize("read", [data.features.load, data.features.open_rows, read_codes])
def test_headers_of_npy_files(tmp_path: Path, header: str, read: Callable[[Path], Any]) -> None:
    (tmp_path / "x.npy").write_bytes(npy(header))
    with pytest.raises(ValueError, match=r"x\.npy is not a readable \.npy file"):
        read(tmp_path / "x.npy")


def write_archive(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)


def test_a_member_that_is_no_array(tmp_path: Path) -> None:
    write_archive(tmp_path / "x.npz", features=b"x")
    with pytest.raises(ValueError, match=r"x\.npz is not a readable \.npz file \(its member 'features' is not an array"):
        data.load_splits(tmp_path / "x.npz")


def test_a_damaged_stream(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", features=np.random.default_rng(0).normal(size=(100, 9)))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[60:90] = b"\xff" * 30
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.npz is not a readable \.npz file"):
        data.load_splits(tmp_path / "x.npz")


def test_an_archive_that_expands_without_end(tmp_path: Path) -> None:
    """A directory may claim any size. What the bytes cannot become is refused before memory is allocated."""
    np.savez_compressed(tmp_path / "x.npz", features=np.ones((4, 2), np.float32))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    entry = content.rfind(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 2**32 - 2)
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.npz .* claims 4,294,967,294 bytes in"):
        data.load_splits(tmp_path / "x.npz")


@pytest.mark.parametrize("arrays", [dict(groups=np.ones((4, 4))), dict(class_names=np.array("x"))], ids=str)
def test_arrays_of_another_kind(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "x.npz", features=np.ones((4, 2), np.float32), labels=[0, 0, 1, 1], **arrays)
    with pytest.raises(ValueError, match=r"x\.npz"):
        data.load_splits(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors"])
def test_truth_values_that_are_neither(tmp_path: Path, name: str) -> None:
    """Computing with them has undefined results."""
    values = {"features": np.ones((4, 2), np.float32), "labels": np.eye(4, dtype=bool)}
    if name == "x.npz":
        np.savez(tmp_path / name, **values)
    else:
        from safetensors.torch import save_file

        save_file({key: torch.from_numpy(value) for key, value in values.items()}, tmp_path / name)
    good, bad = values["labels"].tobytes(), b"\2" * 16
    if name == "x.npz":  # whose members have checksums
        with zipfile.ZipFile(tmp_path / name) as archive:
            members = {member: archive.read(member).replace(good, bad) for member in archive.namelist()}
        write_archive(tmp_path / name, **members)
    else:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes().replace(good, bad))
    with pytest.raises(ValueError, match=r"truth values .*are not all 0 or 1"):
        data.load_splits(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({1: torch.zeros(2)}, "has the key 1"),
        ({"hash_fc.0.weight": torch.zeros(16, 4), "hash_fc.1.weight": [1]}, "is not a state_dict"),
    ],
    ids=["integer key", "list"],
)
def test_checkpoints_of_the_original(tmp_path: Path, content: dict, reason: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=rf"x\.pth .*{reason}"):
        original.load_original(tmp_path / "x.pth")


def test_an_old_checkpoint_that_is_cut_off(tmp_path: Path) -> None:
    torch.save({"hash_fc.0.weight": torch.zeros(16, 4)}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "x.pth").write_bytes((tmp_path / "x.pth").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"x\.pth is not a readable checkpoint"):
        original.load_original(tmp_path / "x.pth")


def test_settings_of_the_original_that_are_a_list(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    torch.save({"hash_fc.0.weight": torch.zeros(16, 4)}, tmp_path / "models" / "best.pth")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json must hold settings by name"):
        original.load_original(tmp_path)


def edited(path: Path, change: Callable[[Any], object]) -> None:
    """Change the contents of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    content.pop("crc32", None)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("config.json", lambda path: path.write_bytes(b"[" * 100_000)),
        ("config.json", lambda path: edited(path, lambda content: content.pop("custom_backbone"))),
        ("config.json", lambda path: edited(path, lambda content: content["config"].update(epochs="20"))),
        ("config.json", lambda path: edited(path, lambda content: content.update(class_names=5))),
        ("metrics.json", lambda path: path.write_text('{"epochs": 3}')),
        ("paths.json", lambda path: path.write_text('{"1.jpg": 1}')),
        ("queries.safetensors", lambda path: path.write_bytes(b"abc")),
        ("query_paths.json", lambda path: path.write_text("[1, 2, 3]")),
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-5])),
    ],
)
def test_run_folders(tmp_path: Path, name: str, damage: Callable[[Path], object]) -> None:
    model_targets.make_run(tmp_path)
    damage(tmp_path / name)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        open_samples(load_run(tmp_path))


@pytest.mark.parametrize("change", [dict(bits=2**40), dict(sample_shape=[2**40])], ids=str)
def test_a_run_of_absurd_size(tmp_path: Path, change: dict[str, Any]) -> None:
    """The sizes in config.json are compared with the weights before a model of that size is built."""
    model_targets.make_run(tmp_path)
    edited(tmp_path / "config.json", lambda content: (content if "sample_shape" in change else content["config"]).update(change))
    with pytest.raises(ValueError, match=r"model\.safetensors|config\.json"):
        load_run(tmp_path)


def test_a_run_with_an_unknown_backbone(tmp_path: Path) -> None:
    model_targets.make_run(tmp_path)
    edited(tmp_path / "config.json", lambda content: content["config"].update(backbone="resnet-of-tomorrow"))
    with pytest.raises(ValueError, match=r"config\.json .*backbone must be"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    "change", [dict(class_names=5), dict(bits=2**40), dict(sample_shape=[2**40]), dict(backbone=[1]), dict(backbone="x")], ids=str
)
def test_pretrained_folders(tmp_path: Path, change: dict[str, Any]) -> None:
    model_targets.make_pretrained(tmp_path)
    edited(tmp_path / "config.json", lambda content: content.update(change))
    with pytest.raises(ValueError, match=str(tmp_path)):
        HashModel.from_pretrained(tmp_path)


def test_the_note_of_an_encoding_with_another_key(tmp_path: Path) -> None:
    model_targets.make_partial(tmp_path)
    edited(tmp_path / "x.npy.partial.json", lambda content: content.update(key=5))
    with pytest.raises(ValueError, match=r"x\.npy\.partial\.json is not a readable note"):
        model_targets.read_partial(tmp_path)


def test_settings_whose_references_multiply(tmp_path: Path) -> None:
    """A few references to references are billions of values, which no message may show."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (tmp_path / "s.yaml").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"s\.yaml is not a readable YAML file \(its references"):
        _config_files.read(tmp_path / "s.yaml")
    (tmp_path / "s.yaml").write_text("bits: &a [*a]")
    with pytest.raises(ValueError, match=r"s\.yaml is not a readable YAML file"):
        _config_files.read(tmp_path / "s.yaml")
    (tmp_path / "s.yaml").write_text("#" * 2**17)
    with pytest.raises(ValueError, match=r"s\.yaml has 131,072 bytes; expected a file of settings"):
        _config_files.read(tmp_path / "s.yaml")
