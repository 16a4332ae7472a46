import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orthohash_triton.data import Dataset, ImageFiles, folders, images, split_stratified
from orthohash_triton.data.images import open_images
from orthohash_triton.train import TrainConfig, train


def solid(path: Path, colour, mode: str = "RGB", size: tuple[int, int] = (12, 10), **settings) -> Path:
    Image.new(mode, size, colour).save(path, **settings)
    return path


def decoded(path: Path, *, size: int = 4, grey: bool = False) -> torch.Tensor:
    return open_images([path], size=size, grey=grey).inputs[0]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [solid(tmp_path / f"{i}.png", (i, 255 - i, 7)) for i in range(10)]


# ---- ImageFiles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grey", [False, True])
def test_image_files_stand_for_a_tensor(files: list[Path], grey: bool) -> None:
    whole = open_images(files, size=3, grey=grey).inputs
    lazy = open_images(files, size=3, grey=grey, in_memory=0).inputs
    assert isinstance(whole, torch.Tensor)
    assert isinstance(lazy, ImageFiles)
    assert (lazy.shape, lazy.ndim, lazy.dtype, len(lazy)) == (whole.shape, whole.ndim, torch.uint8, 10)
    rows = torch.tensor([7, 0, 7])
    for chosen in (rows, slice(2, 9, 3), slice(0), whole.flatten(1)[:, 0] > 4, [3, 1], 5):
        assert torch.equal(lazy[chosen], whole[chosen])
    for parts, right in ((lazy.split(4), whole.split(4)), (lazy.batches([rows, rows[:0]]), (whole[rows], whole[:0]))):
        for part, expected in zip(parts, right, strict=True):
            assert torch.equal(part, expected)
    assert torch.equal(lazy.subset(rows)[:], whole[rows])
    with pytest.raises(IndexError):
        lazy[torch.tensor([10])]


def test_memory_is_what_decides(files: list[Path]) -> None:
    assert isinstance(open_images(files, size=4, in_memory=10 * 3 * 4 * 4).inputs, torch.Tensor)
    assert isinstance(open_images(files, size=4, in_memory=10 * 3 * 4 * 4 - 1).inputs, ImageFiles)


def test_only_a_few_batches_are_decoded_ahead(tmp_path: Path) -> None:
    asked = []

    def batches():
        for i in range(20):
            asked.append(i)
            yield [solid(tmp_path / f"{i}.png", i)]

    stream = images.decode_batches(batches(), size=2, grey=False)
    first = next(stream)
    assert first.images[0, 0, 0, 0] == 0
    assert len(asked) <= 4
    stream.close()
    assert len(asked) <= 4


def test_a_file_that_goes_away_later(files: list[Path]) -> None:
    lazy = open_images(files, size=3, in_memory=0).inputs
    files[4].unlink()
    assert len(lazy[:4]) == 4
    with pytest.raises(
        ValueError, match=r"4\.png cannot be read as an image \(no such file or directory\); remove or replace it"
    ):
        lazy[3:6]


def test_a_dataset_of_image_files(files: list[Path]) -> None:
    labels = torch.arange(10) % 2
    sets = [
        Dataset(open_images(files, size=3, in_memory=budget).inputs, labels, ("a", "b"), "toy", paths=tuple(files))
        for budget in (0, 2**20)
    ]
    assert isinstance(sets[0].inputs, ImageFiles)
    for dataset in sets:
        assert dataset.is_images
        assert dataset.sample_shape == (3, 3, 3)
    rows = [torch.tensor([3, 2]), torch.tensor([9])]
    for one, other in zip(*(dataset.batches(rows) for dataset in sets), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(*(split_stratified(dataset, 0.4, seed=1) for dataset in sets), strict=True):
        assert torch.equal(one.inputs[:], other.inputs)
        assert one.paths == other.paths
    with pytest.raises(ValueError, match="paths must be one per sample, 10; got 9"):
        Dataset(sets[0].inputs, labels, ("a", "b"), "toy", paths=tuple(files[1:]))


def test_folders_of_more_than_memory_holds(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(3):
            solid(tmp_path / name / f"{i}.png", i)
    (tmp_path / "b" / "1.png").write_bytes(b"")
    dataset = folders.load(tmp_path, size=4, in_memory=0)
    assert isinstance(dataset.inputs, ImageFiles)
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1]
    assert dataset.inputs[:][:, 0, 0, 0].tolist() == [0, 1, 2, 0, 2]
    assert torch.equal(dataset.inputs[:], folders.load(tmp_path, size=4).inputs)


def test_training_from_files_is_training_from_memory(files: list[Path]) -> None:
    labels = torch.arange(10) % 2
    config = TrainConfig(bits=8, epochs=2, batch_size=4, threads=1, crop_padding=1)
    weights = []
    for in_memory in (0, 2**20):
        inputs = open_images(files, size=8, in_memory=in_memory).inputs
        model = train(config, Dataset(inputs, labels, ("a", "b"), "toy"), progress=False).model
        weights.append(model.state_dict() | {"codes": model.encode(inputs)})
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


# ---- contents of files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(tmp_path: Path, orientation: int) -> None:
    quarters = np.array([[10, 80], [150, 220]], np.uint8)
    turns = {
        1: quarters, 2: np.fliplr(quarters), 3: np.rot90(quarters, 2), 4: np.flipud(quarters),
        5: quarters.T, 6: np.rot90(quarters), 7: np.rot90(quarters.T, 2), 8: np.rot90(quarters, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.kron(turns[orientation], np.ones((16, 16), np.uint8))).save(tmp_path / "x.png", exif=exif)
    assert decoded(tmp_path / "x.png", size=8, grey=True)[::7, ::7].tolist() == quarters.tolist()


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_jpeg(tmp_path: Path, mode: str) -> None:
    colour = {"RGB": (200, 30, 60), "CMYK": (55, 225, 195, 0), "L": 90}[mode]
    path = solid(tmp_path / "x.jpg", colour, mode, (64, 64), quality=95)
    assert np.allclose(decoded(path)[:, 0, 0], (90, 90, 90) if mode == "L" else (200, 30, 60), atol=4)


def test_a_large_jpeg_keeps_its_picture(tmp_path: Path) -> None:
    halves = np.zeros((800, 800), np.uint8)
    halves[:, 400:] = 200
    Image.fromarray(halves).save(tmp_path / "x.jpg")
    small = decoded(tmp_path / "x.jpg", size=16, grey=True).int()
    assert (small[:, :7] < 3).all()
    assert ((small[:, 9:] - 200).abs() < 3).all()


@pytest.mark.parametrize(("extension", "mode"), [("png", "I;16"), ("tif", "I;16"), ("tif", "I")])
def test_sixteen_bits(tmp_path: Path, extension: str, mode: str) -> None:
    path = tmp_path / f"x.{extension}"
    values = np.full((6, 6), 0x8140, np.uint16 if mode == "I;16" else np.int32)
    Image.fromarray(values).save(path)
    assert decoded(path, grey=True).unique().tolist() == [0x81]
    assert decoded(path).unique().tolist() == [0x81]


def test_palettes_and_transparency(tmp_path: Path) -> None:
    palette = Image.new("P", (6, 6), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "opaque.png")
    palette.save(tmp_path / "clear.png", transparency=1)
    assert decoded(tmp_path / "opaque.png")[:, 0, 0].tolist() == [10, 20, 30]
    assert decoded(tmp_path / "clear.png")[:, 0, 0].tolist() == [255, 255, 255]
    assert decoded(solid(tmp_path / "rgba.png", (100, 0, 0, 0), "RGBA"))[:, 0, 0].tolist() == [255, 255, 255]
    assert decoded(solid(tmp_path / "half.png", (0, 0, 0, 128), "RGBA"))[:, 0, 0].tolist() == [127, 127, 127]
    assert decoded(solid(tmp_path / "bit.png", 1, "1"), grey=True).unique().tolist() == [255]


@pytest.mark.parametrize("extension", ["gif", "webp", "png"])
def test_animations_give_their_first_picture(tmp_path: Path, extension: str) -> None:
    frames = [Image.new("RGB", (8, 8), (value, value, value)) for value in (0, 255)]
    frames[0].save(tmp_path / f"x.{extension}", save_all=True, append_images=frames[1:], lossless=True)
    assert decoded(tmp_path / f"x.{extension}").max() == 0


# ---- files that cannot be read ---------------------------------------------------------------------------------------------


def truncated(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)).save(path, "JPEG")
    os.truncate(path, path.stat().st_size // 2)


def bomb(path: Path) -> None:
    path.write_bytes(b"P6 20000 20000 255\n")  # a header without pixels


def floating(path: Path) -> None:
    Image.new("F", (4, 4), 0.5).save(path, "TIFF")


def of_32_bits(path: Path) -> None:
    Image.fromarray(np.full((4, 4), 2**20, np.int32)).save(path, "TIFF")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (truncated, "truncated"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_text("some text"), "not an image of a known format"),
        (bomb, "more than 178,956,970 pixels; at most 178,956,970 are decoded"),
        (floating, "floating-point numbers of unknown range"),
        (of_32_bits, "not in the range of 16 bits"),
        (lambda path: path.mkdir(), "is a directory"),
        (lambda path: path.symlink_to("nowhere"), "no such file"),
    ],
)
@pytest.mark.parametrize("in_memory", [0, 2**20])
def test_skipped_or_raised(tmp_path: Path, make, reason: str, in_memory: int) -> None:
    good, bad = solid(tmp_path / "good.png", (1, 2, 3)), tmp_path / "bad.jpg"
    make(bad)
    inputs, rows, skipped = open_images([good, bad, good], size=4, in_memory=in_memory)
    assert rows.tolist() == [0, 2]
    assert inputs[:].shape == (2, 3, 4, 4)
    assert [path for path, _ in skipped] == [bad]
    with pytest.raises(ValueError, match=rf"bad\.jpg cannot be read as an image \(.*{reason}"):
        open_images([good, bad], size=4, on_error="raise", in_memory=in_memory)
    with pytest.raises(ValueError, match=rf"none of the 1 images can be read: .*bad\.jpg \(.*{reason}"):
        open_images([bad], size=4)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = solid(tmp_path / "x.png", (1, 2, 3))
    path.chmod(0)
    with pytest.raises(ValueError, match="permission denied"):
        open_images([path], size=4)


def test_permission_denied_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments, **settings):
        raise PermissionError(13, "Permission denied")

    good = solid(tmp_path / "x.png", (1, 2, 3))
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ValueError, match=r"x\.png \(permission denied\)"):
        open_images([good], size=4)


def test_many_skipped_files_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    solid(tmp_path / "good.png", (1, 2, 3))
    for i in range(300):  # more than one chunk
        (tmp_path / f"{i:03}.jpg").touch()
    dataset = folders.load(tmp_path, size=4)
    assert len(dataset) == 1
    assert dataset.paths == (tmp_path / "good.png",)
    assert len(dataset.skipped) == 300
    err = capsys.readouterr().err
    assert err.endswith("000.jpg (the file is empty), " + f"{tmp_path}/001.jpg (the file is empty), {tmp_path}/002.jpg "
                        "(the file is empty) and 297 more\n")  # fmt: skip
    assert err.count("\n") == 1


def test_bad_arguments(files: list[Path]) -> None:
    with pytest.raises(ValueError, match="on_error must be one of 'skip', 'raise'; got 'ignore'"):
        open_images(files, size=4, on_error="ignore")
    with pytest.raises(ValueError, match="size must be"):
        open_images(files, size=0)


def test_without_pillow(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ImportError, match=r'reading images needs Pillow: pip install "'):
        open_images(files, size=4)


def test_the_list_of_skipped_files_replaces_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / images.SKIPPED_FILE
    for names in (["1.png", "2.png"], ["3.png"]):
        images.write_skipped(path, [images.Skipped(Path(name), "the file is empty") for name in names])
        assert [entry["path"] for entry in json.loads(path.read_text())] == names
    for _ in range(2):
        images.write_skipped(path, [])
        assert not path.exists()
