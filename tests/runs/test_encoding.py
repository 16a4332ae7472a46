import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from orthohash_triton import data
from orthohash_triton._base.file_set import checked, note_of
from orthohash_triton.data import Dataset, Skipped
from orthohash_triton.models.backbones import Identity, Pixels
from orthohash_triton.runs.code_files import CodeFile, holds_codes, paths_file, read_codes, save_index, skipped_file
from orthohash_triton.runs.encoding import encode_to
from orthohash_triton.runs.partial_codes import PartialCodes
from orthohash_triton.search import HammingIndex
from orthohash_triton.train import HashModel

from ..kills import kill_at_every_call, needs_fork

SIZE = 8
FORMATS = ("npy", "ibxf", "parquet")


def of_images(bits: int = 24, seed: int = 0) -> HashModel:
    torch.manual_seed(seed)
    shape = (3, SIZE, SIZE)
    return HashModel(Pixels(shape), bits, shape, batch_norm=False).eval()


def of_features(width: int = 6, bits: int = 16) -> HashModel:
    torch.manual_seed(0)
    return HashModel(Identity(width), bits, (width,), batch_norm=False).eval()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of two classes with 7 and 6 noise images, of which dog/2.jpg and dog/4.jpg cannot be read."""
    noise = np.random.default_rng(0)
    for name, count in (("cat", 7), ("dog", 6)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(noise.integers(0, 255, (9, 9, 3), np.uint8)).save(tmp_path / "photos" / name / f"{i}.jpg")
    (tmp_path / "photos" / "dog" / "2.jpg").write_text("no image")
    (tmp_path / "photos" / "dog" / "4.jpg").write_bytes(b"")
    return tmp_path / "photos"


def encode(model: HashModel, source, out: Path, **options):
    return encode_to(model, source, out, **{"batch_size": 4, "progress": False, **options})


def names(photos: Path) -> list[str]:
    """Return the names of the images that can be read, in order."""
    return [str(photos / "cat" / f"{i}.jpg") for i in range(7)] + [str(photos / "dog" / f"{i}.jpg") for i in (0, 1, 3, 5)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# ---- files written ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", FORMATS)
def test_images(photos: Path, tmp_path: Path, extension: str) -> None:
    model, out = of_images(), tmp_path / f"x.{extension}"
    written = encode(model, photos, out)
    expected = model.encode(data.folders.load(photos, size=SIZE).inputs)
    assert (written.path, written.count, written.bits) == (out, 11, 24)
    assert [path.name for path, _ in written.skipped] == ["2.jpg", "4.jpg"]
    back = read_codes(out)
    assert torch.equal(back.index.codes, expected)
    assert list(back.paths) == names(photos)
    assert json.loads(skipped_file(out).read_text()) == [
        {"path": str(photos / "dog" / "2.jpg"), "reason": "not an image of a known format"},
        {"path": str(photos / "dog" / "4.jpg"), "reason": "the file is empty"},
    ]
    beside = {out.name, note_of(out).name, skipped_file(out).name} | ({paths_file(out).name} if extension != "parquet" else set())
    assert set(contents(tmp_path)) == beside


def test_the_files_are_what_others_read(photos: Path, tmp_path: Path) -> None:
    model = of_images()
    expected = model.encode(data.folders.load(photos, size=SIZE).inputs)
    for extension in FORMATS:
        encode(model, photos, tmp_path / f"x.{extension}")
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)
    assert np.load(tmp_path / "x.npy", mmap_mode="r").flags.aligned
    np.save(tmp_path / "by-numpy.npy", expected.numpy())
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "by-numpy.npy").read_bytes()
    index = HammingIndex(24)
    index.add(expected)
    index.save(tmp_path / "ours.ibxf")
    assert (tmp_path / "x.ibxf").read_bytes() == (tmp_path / "ours.ibxf").read_bytes()
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.column_names == ["path", "code", "label"]
    assert table["code"].to_pylist() == [bytes(code) for code in expected.numpy()]
    assert table["label"].to_pylist() == ["cat"] * 7 + ["dog"] * 4


def test_several_labels_in_parquet(tmp_path: Path) -> None:
    labels = torch.tensor([[True, True], [False, False], [False, True]])
    dataset = Dataset(torch.randn(3, 6), labels, ("a", "b"), "toy")
    encode(of_features(), dataset, tmp_path / "x.parquet")
    assert pq.read_table(tmp_path / "x.parquet")["label"].to_pylist() == [["a", "b"], [], ["b"]]
    assert read_codes(tmp_path / "x.parquet").labels == ["a, b", "", "b"]


def test_unlabelled_images_have_no_labels(photos: Path, tmp_path: Path) -> None:
    encode(of_images(), photos / "cat", tmp_path / "x.parquet")
    assert pq.read_table(tmp_path / "x.parquet").column_names == ["path", "code"]
    assert read_codes(tmp_path / "x.parquet").labels is None


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_features_stay_in_their_file(tmp_path: Path, batch_size: int) -> None:
    rows = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float16)
    np.save(tmp_path / "rows.npy", rows)
    model = of_features()
    encode(model, tmp_path / "rows.npy", tmp_path / "x.npy", batch_size=batch_size)
    assert torch.equal(read_codes(tmp_path / "x.npy").index.codes, model.encode(torch.from_numpy(rows).float()))
    assert read_codes(tmp_path / "x.npy").paths is None
    assert set(contents(tmp_path)) == {"rows.npy", "x.npy", "x.npy.files.json"}


def test_sources(photos: Path, tmp_path: Path) -> None:
    (photos.parent / "m.csv").write_text(
        "path,label,split\nphotos/cat/0.jpg,cat,train\nphotos/dog/2.jpg,dog,query\nphotos/dog/1.jpg,dog,query\n"
    )
    (photos.parent / "l.txt").write_text("cat/3.jpg 1 0\ngone.jpg 0 1\n")
    dataset = data.folders.load(photos, size=SIZE, in_memory=0)
    cases = (
        (photos / "cat" / "5.jpg", {}, ["cat/5.jpg"]),
        (photos.parent / "m.csv", {}, ["cat/0.jpg", "dog/1.jpg"]),
        (photos.parent / "m.csv", {"split": "query"}, ["dog/1.jpg"]),
        (photos.parent / "l.txt", {"root": photos, "on_missing": "skip"}, ["cat/3.jpg"]),
        (dataset, {}, [str(path.relative_to(photos)) for path in dataset.paths]),
    )
    for source, options, expected in cases:
        encode(of_images(), source, tmp_path / "x.npy", overwrite=True, **options)
        assert read_codes(tmp_path / "x.npy").paths == [str(photos / name) for name in expected]
    np.savez(tmp_path / "train.npz", features=np.ones((3, 6)))
    assert encode(of_features(), tmp_path / "train.npz", tmp_path / "x.npy", overwrite=True).count == 3
    np.savez(tmp_path / "query.npz", features=np.ones((2, 6)))
    assert encode(of_features(), tmp_path, tmp_path / "x.npy", split="query", overwrite=True).count == 2


def test_what_an_earlier_encoding_left_beside_the_file_goes(photos: Path, tmp_path: Path) -> None:
    encode(of_images(), photos, tmp_path / "x.npy")
    assert skipped_file(tmp_path / "x.npy").exists()
    np.save(tmp_path / "rows.npy", np.ones((2, 6)))
    encode(of_features(), tmp_path / "rows.npy", tmp_path / "x.npy", overwrite=True)
    assert set(contents(tmp_path)) == {"rows.npy", "x.npy", "x.npy.files.json"}


def test_names_that_a_list_of_names_cannot_hold(photos: Path, tmp_path: Path) -> None:
    (photos / "cat" / "0.jpg").rename(photos / "cat" / "a\nb.jpg")
    os.rename(photos / "cat" / "1.jpg", os.fsencode(photos / "cat") + b"/\xff.jpg")
    written = encode(of_images(), photos / "cat", tmp_path / "x.npy")
    assert written.count == 6
    assert {reason for _, reason in written.skipped} == {"its name holds a line break"}
    assert len(json.loads(skipped_file(tmp_path / "x.npy").read_text())) == 1
    assert str(photos / "cat" / "\udcff.jpg") in (read_codes(tmp_path / "x.npy").paths or ())  # not UTF-8, but one line


@pytest.mark.parametrize("name", ["a\nb.jpg", "caf\ud800.jpg"])
def test_a_list_with_such_names_is_not_begun(tmp_path: Path, name: str) -> None:
    index = HammingIndex(8)
    index.add(np.zeros((2, 1), np.uint8))
    save_index(CodeFile(index, ["old", "older"], None), tmp_path / "x.ibxf")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"the name '.*' contains a line break or cannot exist"):
        save_index(CodeFile(index, ["new", name], None), tmp_path / "x.ibxf")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content", [b"notes", np.lib.format.magic(1, 0) + b"broken"])
def test_what_holds_no_codes_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    rows = tmp_path / "rows.npy"
    np.save(rows, np.ones((2, 6)))
    (tmp_path / "x.npy").write_bytes(content)
    (tmp_path / "notes.txt").write_bytes(content)
    before = contents(tmp_path)
    for out in (rows, tmp_path / "x.npy"):  # the first path is the source itself
        with pytest.raises(FileExistsError, match=rf"{out.name} is a file without codes\. Choose another name, or delete it"):
            encode(of_features(), rows, out)
    with pytest.raises(FileExistsError, match=r"notes\.txt is a file without codes"):
        save_index(CodeFile(HammingIndex(8), None, None), tmp_path / "notes.txt")
    assert contents(tmp_path) == before


def test_no_image_can_be_read(photos: Path, tmp_path: Path) -> None:
    (photos / "dog" / "4.jpg").rename(tmp_path / "photos" / "only.jpg")
    written = encode(of_images(), photos / "only.jpg", tmp_path / "x.ibxf")
    assert written.count == 0
    assert read_codes(tmp_path / "x.ibxf").index.ntotal == 0


# ---- stopping and resuming ------------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


class Stopping(torch.nn.Module):
    """A model that stops at the `last` batch; its fingerprint is that of the model that it wraps."""

    def __init__(self, model: HashModel, last: int) -> None:
        super().__init__()
        self.model, self.left = model, last
        self.backbone, self.bits, self.sample_shape = model.backbone, model.bits, model.sample_shape

    def encode(self, inputs: torch.Tensor, **options) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            raise Stop
        return self.model.encode(inputs, **options)

    def state_dict(self, *arguments, **options):
        return self.model.state_dict(*arguments, **options)


def stop(model: HashModel, source, out: Path, *, after: int, **options) -> None:
    with pytest.raises(Stop):
        encode(Stopping(model, after), source, out, **options)


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_stopped_and_resumed(photos: Path, tmp_path: Path, extension: str, after: int) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    whole.mkdir(), halved.mkdir()
    name = f"x.{extension}"
    encode(of_images(), photos, whole / name)
    stop(of_images(), photos, halved / name, after=after)
    assert set(contents(halved)) == ({f"{name}.partial", f"{name}.partial.json"} if after else set())
    assert encode(of_images(), photos, halved / name, resume=True).count == 11
    assert contents(halved) == contents(whole)


def test_stopped_again_and_again(photos: Path, tmp_path: Path) -> None:
    encode(of_images(), photos, tmp_path / "whole.npy")
    for _ in range(3):
        stop(of_images(), photos, tmp_path / "x.npy", after=1, resume=True)
    encode(of_images(), photos, tmp_path / "x.npy", resume=True)
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_what_was_written_after_the_last_note_is_done_again(photos: Path, tmp_path: Path) -> None:
    encode(of_images(), photos, tmp_path / "whole.npy")
    stop(of_images(), photos, tmp_path / "x.npy", after=1)
    with open(tmp_path / "x.npy.partial", "ab") as file:
        file.write(b"half of a batch")
    encode(of_images(), photos, tmp_path / "x.npy", resume=True)
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_codes_are_on_the_disk_before_the_note_that_counts_them(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power failure the note must not count codes that were still in memory."""
    on_disk: dict[int, int] = {}  # inode -> bytes that were flushed
    counted: list[tuple[int, int]] = []  # bytes that a note counts, bytes that were flushed before it appeared
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        fsync(descriptor)
        on_disk[os.fstat(descriptor).st_ino] = os.fstat(descriptor).st_size

    def recorded_replace(source, target) -> None:
        if str(target).endswith(".partial.json"):
            note = json.loads(Path(source).read_text())
            inode = (tmp_path / "x.npy.partial").stat().st_ino
            counted.append(((note["done"] - len(note["skipped"])) * 3, on_disk.get(inode, 0)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    encode(of_images(), photos, tmp_path / "x.npy", save_every=0.0)
    assert [needed for needed, _ in counted][-1] == 11 * 3
    assert all(needed <= flushed for needed, flushed in counted)


def test_resume_where_nothing_was_left_behind(photos: Path, tmp_path: Path) -> None:
    assert encode(of_images(), photos, tmp_path / "x.npy", resume=True).count == 11


def test_a_finished_file_stays_until_the_next_is_complete(photos: Path, tmp_path: Path) -> None:
    encode(of_images(), photos, tmp_path / "x.npy")
    before = contents(tmp_path)
    stop(of_images(), photos, tmp_path / "x.npy", after=1, overwrite=True)
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before


def test_what_was_left_behind_is_not_thrown_away(photos: Path, tmp_path: Path) -> None:
    stop(of_images(), photos, tmp_path / "x.npy", after=2)
    before = contents(tmp_path)
    expected = r"x\.npy\.partial has the codes of 8 of 13 samples.*Resume it\. Delete .*x\.npy\.partial\.json to start again"
    with pytest.raises(FileExistsError, match=expected):
        encode(of_images(), photos, tmp_path / "x.npy")
    assert contents(tmp_path) == before
    (tmp_path / "x.npy.partial.json").unlink()
    assert encode(of_images(), photos, tmp_path / "x.npy").count == 11


def test_resume_with_something_else(photos: Path, tmp_path: Path) -> None:
    stop(of_images(), photos, tmp_path / "x.npy", after=2)
    with pytest.raises(ValueError, match=r"x\.npy\.partial was made with another model and cannot be continued\. Delete"):
        encode(of_images(seed=1), photos, tmp_path / "x.npy", resume=True)
    with pytest.raises(ValueError, match="with another source"):
        encode(of_images(), photos / "cat", tmp_path / "x.npy", resume=True)
    with pytest.raises(ValueError, match="with another model and another batch size"):
        encode(of_images(bits=32), photos, tmp_path / "x.npy", resume=True, batch_size=3)
    os.utime(photos / "cat" / "3.jpg", (1, 1))
    with pytest.raises(ValueError, match="with another source"):
        encode(of_images(), photos, tmp_path / "x.npy", resume=True)


@pytest.mark.parametrize(
    "change", ["{", '{"format": 1}', "[]", '{"format": "x", "version": 1, "key": {}, "done": 0, "skipped": {}}']
)
def test_a_damaged_note(photos: Path, tmp_path: Path, change: str) -> None:
    stop(of_images(), photos, tmp_path / "x.npy", after=2)
    (tmp_path / "x.npy.partial.json").write_text(change)
    with pytest.raises(ValueError, match=r"partial\.json (is not a readable note|was written by another version).*Delete"):
        encode(of_images(), photos, tmp_path / "x.npy", resume=True)


def test_codes_that_went_missing(photos: Path, tmp_path: Path) -> None:
    stop(of_images(), photos, tmp_path / "x.npy", after=2)
    os.truncate(tmp_path / "x.npy.partial", 5)
    with pytest.raises(ValueError, match=r"x\.npy\.partial is missing or shorter than x\.npy\.partial\.json says"):
        encode(of_images(), photos, tmp_path / "x.npy", resume=True)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("extension", ["npy", "parquet"])
def test_killed_and_resumed(tmp_path: Path, extension: str) -> None:
    rows = np.random.default_rng(0).standard_normal((4000, 6)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    out = tmp_path / f"x.{extension}"
    child = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from orthohash_triton.train import HashModel
        from tests.runs.test_encoding import encode, of_features

        encoded = HashModel.encode
        def slowly(*arguments, **options):
            time.sleep(0.01)
            return encoded(*arguments, **options)

        HashModel.encode = slowly
        encode(of_features(), {str(tmp_path / "rows.npy")!r}, Path({str(out)!r}), save_every=0.0)
    """)
    with subprocess.Popen([sys.executable, "-c", child]) as process:
        note = Path(f"{out}.partial.json")
        while not (note.exists() and json.loads(note.read_text())["done"] >= 20):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=10) == -signal.SIGKILL
    assert not out.exists()
    done = json.loads(note.read_text())["done"]
    assert 20 <= done < 4000
    encode(of_features(), tmp_path / "rows.npy", out, resume=True)
    encode(of_features(), tmp_path / "rows.npy", tmp_path / f"whole.{extension}")
    assert out.read_bytes() == (tmp_path / f"whole.{extension}").read_bytes()
    assert torch.equal(read_codes(out).index.codes, of_features().encode(torch.from_numpy(rows)))


# ---- owners, finished files, interruptions -----------------------------------------------------------------------------------


def test_two_encodings_into_one_file(tmp_path: Path) -> None:
    """The second is refused from the first one's first to last moment, with and without --resume, and the first is right."""
    source, out = tmp_path / "rows.npy", tmp_path / "x.npy"
    np.save(source, np.random.default_rng(0).standard_normal((12, 6)).astype(np.float32))
    refused: list[str] = []

    class Meanwhile(Stopping):
        def encode(self, inputs: torch.Tensor, **options) -> torch.Tensor:
            def second() -> None:
                for how in ({"resume": True}, {"overwrite": True}, {}):
                    try:
                        encode(of_features(), source, out, **how)
                    except BlockingIOError as error:
                        refused.append(str(error))

            thread = threading.Thread(target=second)
            thread.start(), thread.join()
            return super().encode(inputs, **options)

    encode(Meanwhile(of_features(), 10), source, out)
    assert len(refused) == 3 * 3
    assert f"x.npy is being written by process {os.getpid()} on " in refused[0]
    encode(of_features(), source, tmp_path / "y.npy")
    assert out.read_bytes() == (tmp_path / "y.npy").read_bytes()
    assert set(contents(tmp_path)) == {source.name, out.name, note_of(out).name, "y.npy", "y.npy.files.json"}


def test_a_working_file_that_another_program_changes(tmp_path: Path) -> None:
    """Its bytes are compared with those that were written, so that no row of zeros gets into the finished file."""
    source, out = tmp_path / "rows.npy", tmp_path / "x.npy"
    np.save(source, np.ones((12, 6), np.float32))

    class Cutting(Stopping):
        def encode(self, inputs: torch.Tensor, **options) -> torch.Tensor:
            if self.left == 8:  # the third batch
                os.truncate(f"{out}.partial", 8)
            return super().encode(inputs, **options)

    with pytest.raises(ValueError, match=r"x\.npy\.partial does not have the 12 codes that were written to it"):
        encode(Cutting(of_features(), 10), source, out, save_every=0.0)
    assert not out.exists()
    with pytest.raises(ValueError, match=r"x\.npy\.partial is damaged: its codes do not have the checksum that"):
        encode(of_features(), source, out, resume=True)


def test_a_finished_file_is_replaced_only_on_request(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    first = encode(of_images(), photos, out)
    before = contents(tmp_path)
    expected = r"x\.npy is a finished file of codes: choose another name, or add --overwrite to replace it"
    for model, how in ((of_images(), {}), (of_images(seed=1), {}), (of_images(seed=1), {"resume": True})):
        with pytest.raises(FileExistsError, match=expected):
            encode(model, photos, out, **how)
    with pytest.raises(FileExistsError, match=r"x\.ibxf is a finished file of codes"):
        save_index(codes_of(2), tmp_path / "x.ibxf"), save_index(codes_of(2), tmp_path / "x.ibxf")
    save_index(codes_of(3), tmp_path / "x.ibxf", overwrite=True)
    for name in ("x.ibxf", "x.ibxf.files.json"):
        (tmp_path / name).unlink()
    again = encode(Stopping(of_images(), 0), photos, out, resume=True)  # complete: nothing is encoded again
    assert again == first
    assert contents(tmp_path) == before
    encode(of_images(seed=1), photos, out, overwrite=True)
    assert contents(tmp_path) != before


def test_what_was_allowed_to_be_replaced_may_be_when_it_is_resumed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    encode(of_images(seed=1), photos, out)
    stop(of_images(), photos, out, after=1, overwrite=True)
    encode(of_images(), photos, out, resume=True)
    encode(of_images(), photos, tmp_path / "whole.npy")
    assert out.read_bytes() == (tmp_path / "whole.npy").read_bytes()
    stop(of_images(), photos, out, after=1, overwrite=True)
    encode(of_images(), photos, out, overwrite=True)  # begins again
    assert not (tmp_path / "x.npy.partial").exists()


def test_an_interruption_between_two_values_of_the_note(photos: Path, tmp_path: Path) -> None:
    """Ctrl-C while the samples without a code are noted must not shift the codes that follow."""

    class Interrupting(dict):
        def __or__(self, other):
            raise KeyboardInterrupt

    partial = PartialCodes(tmp_path / "x.npy", {}, 3, 13, resume=False)
    with partial:
        partial.add(torch.zeros(4, 3, dtype=torch.uint8), {})
    partial = PartialCodes(tmp_path / "x.npy", {}, 3, 13, resume=True)
    partial._progress = dataclasses.replace(partial._progress, skipped=Interrupting())
    with pytest.raises(KeyboardInterrupt), partial:
        partial.add(torch.ones(2, 3, dtype=torch.uint8), {5: Skipped(Path("5.jpg"), "empty")})
    resumed = PartialCodes(tmp_path / "x.npy", {}, 3, 13, resume=True)
    assert (resumed.done, resumed.count, resumed.skipped) == (4, 4, {})


def test_a_pipe_gets_no_codes(photos: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.npy")
    with pytest.raises(ValueError, match=r"x\.npy is a device or a pipe; codes are written to a file"):
        encode(of_images(), photos, tmp_path / "x.npy")


class Known:
    """A model whose codes are known, because a forked child cannot use OpenMP."""

    def __init__(self, model: HashModel, inputs: torch.Tensor) -> None:
        self.backbone, self.bits, self.sample_shape, self.state_dict = (
            model.backbone,
            model.bits,
            model.sample_shape,
            model.state_dict,
        )
        self._codes = {bytes(row.numpy()): code for row, code in zip(inputs, model.encode(inputs), strict=True)}

    def encode(self, inputs: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.stack([self._codes[bytes(row.numpy())] for row in inputs])


@needs_fork
@pytest.mark.parametrize("extension", ["npy", "ibxf"])
@pytest.mark.parametrize("replaces", [False, True])
def test_killed_at_every_call(tmp_path: Path, extension: str, replaces: bool) -> None:
    """Afterwards there are the old codes, or none, or the new codes; --resume completes them in any case."""
    rows = torch.randn(10, 6)
    new, old = of_features(), of_features(bits=24)
    data = Dataset(rows, torch.zeros(10, dtype=torch.int64), ("any",), "toy", paths=tuple(Path(f"{i}.png") for i in range(10)))
    model, folder, out = Known(new, rows), tmp_path / "out", tmp_path / "out" / f"x.{extension}"
    expected, before = new.encode(rows), old.encode(rows[:4])
    names = [str(path) for path in data.paths]

    def act() -> None:
        encode_to(model, data, out, batch_size=4, save_every=0.0, overwrite=replaces, progress=False)

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if replaces:
            shutil.copytree(tmp_path / "old", folder, dirs_exist_ok=True)

    def check() -> None:
        if checked(out).exists():
            found = read_codes(out)
            if found.index.bits == 24:
                assert replaces
                assert torch.equal(found.index.codes, before)
                assert found.paths == names[:4]
            else:
                assert torch.equal(found.index.codes, expected)
                assert found.paths == names
        else:
            assert not replaces
        try:
            assert encode_to(model, data, out, batch_size=4, resume=True, progress=False).count == 10
        except FileExistsError as error:  # killed before it noted that it may replace the old file
            assert "finished file of codes" in str(error)  # noqa: PT017
            assert found.index.bits == 24
            act()
        assert torch.equal(read_codes(out).index.codes, expected)
        assert read_codes(out).paths == names
        assert set(contents(folder)) == {out.name, note_of(out).name, paths_file(out).name}

    (tmp_path / "old").mkdir()
    encode_to(old, data.subset(torch.arange(4)), tmp_path / "old" / out.name, progress=False)
    assert kill_at_every_call(act, prepare, check) > 30


# ---- bad input -------------------------------------------------------------------------------------------------------------


def test_corrupt_images_may_be_fatal(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dog/2\.jpg cannot be read as an image \(not an image of a known format\)"):
        encode(of_images(), photos, tmp_path / "x.npy", on_error="raise")
    assert not (tmp_path / "x.npy").exists()


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ("x.txt", ValueError, r"x\.txt must end in \.npy or \.ibxf or \.parquet; got \.txt"),
        ("x", ValueError, "got no extension"),
        ("nowhere/x.npy", FileNotFoundError, r"the folder .*nowhere does not exist\. Create it first"),
    ],
)
def test_bad_output(photos: Path, tmp_path: Path, out: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        encode(of_images(), photos, tmp_path / out)


def test_samples_of_another_shape(photos: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.ones((2, 5)))
    cases = (
        (of_features(), tmp_path / "rows.npy", "features of 5 numbers; the model takes features of 6 numbers"),
        (of_features(), photos, "has images; the model takes features of 6 numbers"),
        (of_images(), tmp_path / "rows.npy", "features of 5 numbers; the model takes RGB images of 8 x 8"),
        (of_images(), "digits", "digits has grey images of 8 x 8; the model takes RGB images"),
    )
    for model, source, message in cases:
        with pytest.raises(ValueError, match=message):
            encode(model, source, tmp_path / "x.npy")


def test_bad_sources(photos: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", features=np.ones((3, 6)))
    cases = (
        ("nowhere", {}, FileNotFoundError, "nowhere does not exist. Expected a folder"),
        (photos, {"split": "query"}, ValueError, "has no part 'query'; it has all"),
        (photos, {"root": "x"}, ValueError, "root cannot be set for a folder of images"),
        (photos, {"on_error": "ignore"}, ValueError, "on_error must be one of 'skip', 'raise'"),
        ("digits", {"split": "query"}, ValueError, "split cannot be set for a data set that is loaded"),
        (tmp_path, {}, ValueError, "has several files of features; name one of them"),
        (tmp_path / "train.npz", {"split": "query"}, ValueError, "has no part 'query'; it is one file of features"),
    )
    for source, options, error, message in cases:
        with pytest.raises(error, match=message):
            encode(of_images(), source, tmp_path / "x.npy", **options)


def test_features_that_are_no_numbers(tmp_path: Path) -> None:
    rows = np.ones((20, 6))
    rows[13, 2] = np.nan
    np.save(tmp_path / "rows.npy", rows)
    with pytest.raises(ValueError, match=r"rows\.npy: features hold NaN or infinity"):
        encode(of_features(), tmp_path / "rows.npy", tmp_path / "x.npy")


# ---- reading codes ---------------------------------------------------------------------------------------------------------


def test_files_beside_other_codes(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    encode(of_images(), photos, out)
    np.save(out, np.zeros((3, 3), np.uint8))
    with pytest.raises(ValueError, match=r"x\.npy is not the file that .*x\.npy\.files\.json names: it has .* bytes, expected"):
        read_codes(out)
    note_of(out).unlink()
    with pytest.raises(ValueError, match=r"x\.npy has 3 codes, .*x\.npy\.paths\.txt 11 files: they are not of one encoding"):
        read_codes(out)


def codes_of(count: int, names: str | None = None) -> CodeFile:
    index = HammingIndex(8)
    index.add(np.full((count, 1), count, np.uint8))
    return CodeFile(index, None if names is None else [f"{names}{row}" for row in range(count)], None)


def test_a_list_of_files_never_stands_beside_other_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OSError("disk full")

    out = tmp_path / "x.ibxf"
    save_index(codes_of(3, "old"), out)
    before = contents(tmp_path)
    for place in ("orthohash_triton.search.HammingIndex.save", "orthohash_triton.runs.code_files.add_paths"):
        with monkeypatch.context() as patched:
            patched.setattr(place, fails)
            with pytest.raises(OSError, match="disk full"):
                save_index(codes_of(3, "new"), out, overwrite=True)
        assert contents(tmp_path) == before
    save_index(codes_of(2, "new"), out, overwrite=True)
    assert read_codes(out).paths == ["new0", "new1"]
    assert set(contents(tmp_path)) == {out.name, paths_file(out).name, note_of(out).name}
    save_index(codes_of(2), out, overwrite=True)
    assert set(contents(tmp_path)) == {out.name, note_of(out).name}


def test_names_of_an_index_that_was_changed_are_not_used(tmp_path: Path) -> None:
    """As many codes as before, but not the same ones: the list would give every code the name of another image."""
    out = tmp_path / "x.ibxf"
    save_index(codes_of(3, "old"), out)
    index = HammingIndex.load(out)
    index.remove_ids([0])
    index.add(np.zeros((1, 1), np.uint8))
    index.save(out)
    assert HammingIndex.load(out).codes.tolist() == [[3], [3], [0]]
    with pytest.raises(
        ValueError, match=r"x\.ibxf\.paths\.txt was not written together with .*x\.ibxf, as x\.ibxf\.files\.json says"
    ):
        read_codes(out)
    paths_file(out).unlink()
    assert read_codes(out).paths is None


@pytest.mark.parametrize("extension", FORMATS)
def test_every_flipped_bit_is_refused(photos: Path, tmp_path: Path, extension: str) -> None:
    out = tmp_path / f"x.{extension}"
    encode(of_images(), photos, out)
    for path in (out, *([] if extension == "parquet" else [paths_file(out)])):
        whole = path.read_bytes()
        for bit in range(0, 8 * len(whole), 1 + 8 * len(whole) // 200):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match="its checksum is"):
                read_codes(out)
        path.write_bytes(whole)
    assert len(read_codes(out).index) == 11


def test_a_list_that_is_gone_is_missed(tmp_path: Path) -> None:
    save_index(codes_of(3, "old"), tmp_path / "x.ibxf")
    paths_file(tmp_path / "x.ibxf").unlink()
    with pytest.raises(FileNotFoundError, match=r"x\.ibxf\.paths\.txt is missing; .*x\.ibxf\.files\.json names it"):
        read_codes(tmp_path / "x.ibxf")


def test_files_that_hold_codes(photos: Path, tmp_path: Path) -> None:
    for extension in FORMATS:
        encode(of_images(), photos, tmp_path / f"x.{extension}")
        assert holds_codes(tmp_path / f"x.{extension}")
    index = HammingIndex(8)
    index.add_with_ids(np.zeros((2, 1), np.uint8), [5, 6])
    index.save(tmp_path / "ids.index")
    assert holds_codes(tmp_path / "ids.index")
    np.save(tmp_path / "rows.npy", np.zeros((2, 1)))
    (tmp_path / "m.csv").write_text("path\n")
    pq.write_table(pq.read_table(tmp_path / "x.parquet").select(["path"]), tmp_path / "m.parquet")
    for other in ("rows.npy", "m.csv", "m.parquet", "nothing.npy", "photos"):
        assert not holds_codes(tmp_path / other)


def test_codes_that_cannot_be_read(tmp_path: Path) -> None:
    for extension in FORMATS:
        with pytest.raises(FileNotFoundError):
            read_codes(tmp_path / f"x.{extension}")
        (tmp_path / f"x.{extension}").write_text("something else")
        with pytest.raises(ValueError, match=r"is not a|is no FAISS"):
            read_codes(tmp_path / f"x.{extension}")
    np.save(tmp_path / "x.npy", np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"must hold packed codes, uint8 \[N, bits/8\]; got float64 \[3, 3\]"):
        read_codes(tmp_path / "x.npy")
    import pyarrow as pa

    for column, message in (({"x": [1]}, "must have a column code"), ({"code": [b"ab", b"c"]}, "bytes of fixed size")):
        pq.write_table(pa.table(column), tmp_path / "x.parquet")
        with pytest.raises(ValueError, match=message):
            read_codes(tmp_path / "x.parquet")
    pq.write_table(pa.table({"code": pa.array([b"ab", None], pa.binary(2))}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="lacks the code of 1 rows"):
        read_codes(tmp_path / "x.parquet")


def test_an_archive_of_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", codes=np.zeros((3, 3), np.uint8))
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    with pytest.raises(ValueError, match=r"x\.npy is an archive of arrays"):
        read_codes(tmp_path / "x.npy")


def test_without_pyarrow(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'Parquet files need pyarrow: pip install "'):
        encode(of_images(), photos, tmp_path / "x.parquet")
    assert contents(tmp_path) == {}
    assert encode(of_images(), photos, tmp_path / "x.npy").count == 11
