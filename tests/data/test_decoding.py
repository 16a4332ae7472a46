"""Tests of the decoder of one image: formats, transparency, orientation, limits of pixels and memory."""

import ast
import io
import os
import struct
import subprocess
import sys
import textwrap
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orthohash_triton import data
from orthohash_triton.data import decoding, folders
from orthohash_triton.data._budget import MemoryBudget
from orthohash_triton.data.images import ImageFiles, open_images
from orthohash_triton.models import HashModel
from orthohash_triton.runs.samples import PictureFiles
from tools.modules import ROOT

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n%%EOF\n"


def png(depth: int, colour_type: int, row: bytes, width: int, transparent: bytes) -> io.BytesIO:
    """Return a PNG file of one row with the chunk tRNS, which Pillow cannot write in every mode."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour_type, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + header + chunk(b"tRNS", transparent) + pixels + chunk(b"IEND", b""))


def exif(orientation: int, numerator: int, denominator: int) -> bytes:
    """Return EXIF data with an orientation and a resolution, as cameras write it."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0) + struct.pack("<HHII", 0x011A, 5, 1, 38)
    directory = struct.pack("<H", 2) + entries + struct.pack("<I", 0)
    return b"Exif\0\0" + b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<II", numerator, denominator)


def jpeg_with(marker: bytes) -> bytes:
    """Return a JPEG image of 16 x 8 pixels, black on the left and white on the right, with an APP1 segment."""
    halves = np.zeros((8, 16), np.uint8)
    halves[:, 8:] = 255
    file = io.BytesIO()
    Image.fromarray(halves).save(file, "JPEG")
    content = file.getvalue()
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(marker) + 2) + marker + content[2:]


# ---- formats ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a program in the place of Ghostscript, and return the file that it creates when it is started."""
    called, programs = tmp_path / "called", tmp_path / "bin"
    programs.mkdir()
    (programs / "gs").write_text(f'#!/bin/sh\necho "$@" >> "{called}"\n[ "$1" = --version ] && exit 0\nexit 1\n')
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return called


@pytest.mark.skipif(os.name != "posix", reason="the program is a shell script")
def test_postscript_never_reaches_ghostscript(ghostscript: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos" / "a"
    photos.mkdir(parents=True)
    for i in range(9):
        Image.new("RGB", (8, 8)).save(photos / f"{i}.png")
    names = ["evil.jpg", "evil.eps", "evil.ps", "evil", "evil.tif"]
    for name in names:
        (photos / name).write_bytes(EPS)
    dataset = folders.load(photos.parent, size=8)
    reasons = {path.name: why for path, why in dataset.skipped}
    assert reasons == {
        "evil.jpg": "PostScript, which is a program and is not decoded",
        "evil.tif": "PostScript, which is a program and is not decoded",
        "evil.eps": ".eps files are not decoded",
        "evil.ps": ".ps files are not decoded",
    }
    model = HashModel("pixels", 8, (3, 8, 8))
    for name in names:
        with pytest.raises(ValueError, match=r"PostScript|not decoded|no data set of a known kind"):
            next(data.open_source(photos / name, (3, 8, 8), on_error="raise").batches(1))
        with pytest.raises(ValueError, match="PostScript"):
            model.encode(photos / name)
        assert PictureFiles([str(photos / name)]).image(0) is None
        with pytest.raises(Image.UnidentifiedImageError):
            decoding.decode(io.BytesIO(EPS), 8, grey=False)
    assert not ghostscript.exists()


def test_only_the_decoder_opens_images() -> None:
    """One place restricts the formats and the pixels."""
    opening = []
    for path in sorted((ROOT / "orthohash_triton").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open"):
                opening.append(path.relative_to(ROOT / "orthohash_triton").as_posix())
    assert opening == ["data/decoding.py"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pillow-heif"),
        (b"\xff\x0a" + b"\0" * 30, "pillow-jxl-plugin"),
        (b"%PDF-1.7\n", "a PDF document, which is not decoded"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "a drawing in SVG, which is not decoded"),
    ],
)
def test_the_reason_names_the_format(tmp_path: Path, content: bytes, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_formats", lambda: ("PNG", "JPEG"))  # whatever plug-ins are installed
    (tmp_path / "x.heic").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.heic \(.*{reason}"):
        open_images([tmp_path / "x.heic"], size=4)


def test_plugins_decode_what_pillow_cannot(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.new("RGB", (64, 64), (200, 30, 60))).save(tmp_path / "x.heic")
    pixels = decoding.decode(tmp_path / "x.heic", 4, grey=False)
    assert np.abs(pixels[:, 0, 0].astype(int) - (200, 30, 60)).max() < 6


@pytest.mark.parametrize(
    ("suffix", "form"),
    [("jfif", "JPEG"), ("jpe", "JPEG"), ("JPG", "JPEG"), ("avif", "AVIF"), ("jp2", "JPEG2000"), ("j2k", "JPEG2000"),
     ("webp", "WEBP"), ("pnm", "PPM"), ("qoi", "QOI"), ("apng", "PNG")],
)  # fmt: skip
def test_suffixes_in_folders(tmp_path: Path, suffix: str, form: str) -> None:
    Image.init()
    if form not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {form}")
    Image.new("RGB", (16, 16), (200, 200, 200)).save(tmp_path / f"x.{suffix}", form)
    dataset = folders.load(tmp_path, size=4)
    assert dataset.skipped == ()
    assert (dataset.inputs.int() - 200).abs().max() < 4


# ---- pixels ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "colour_type", "row", "transparent", "expected"),
    [
        (1, 0, bytes([0b10000000]), struct.pack(">H", 0), [255, 255]),
        (1, 0, bytes([0b10000000]), struct.pack(">H", 1), [255, 0]),
        (2, 0, bytes([0b01100000]), struct.pack(">H", 1), [255, 170]),
        (4, 0, bytes([0x12]), struct.pack(">H", 1), [255, 34]),
        (8, 0, bytes([1, 2]), struct.pack(">H", 1), [255, 2]),
        (8, 0, bytes([1, 2]), struct.pack(">H", 300), [1, 2]),
        (16, 0, struct.pack(">HH", 0x1234, 0x1235), struct.pack(">H", 0x1234), [255, 0x12]),
        (8, 2, bytes([1, 2, 3, 9, 9, 9]), struct.pack(">HHH", 1, 2, 3), [255, 9]),
        (16, 2, struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x0900, 0x0900, 0x0900),
         struct.pack(">3H", 0x1234, 0x5678, 0x9ABC), [255, 9]),
    ],
)  # fmt: skip
def test_a_transparent_value_is_white(depth: int, colour_type: int, row: bytes, transparent: bytes, expected: list) -> None:
    with decoding.open_image(png(depth, colour_type, row, 2, transparent)) as image:
        pixels = decoding.image_array(image, (1, 2), grey=False)
    assert pixels[0, 0].tolist() == expected
    assert pixels[2, 0].tolist() == expected


@pytest.mark.parametrize("numbers", [(0, 0), (72, 1), (0, 1), (2**32 - 1, 0)])
def test_orientation_beside_values_that_are_no_numbers(numbers: tuple[int, int]) -> None:
    """Cameras write the rational number 0/0 for what they do not know."""
    pixels = decoding.decode(io.BytesIO(jpeg_with(exif(6, *numbers))), 8, grey=True)
    assert (pixels[:3] < 60).all()  # the left side is above
    assert (pixels[5:] > 200).all()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("damage", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\xff" * 40])
def test_damaged_exif_is_no_orientation(damage: bytes) -> None:
    pixels = decoding.decode(io.BytesIO(jpeg_with(damage)), 8, grey=True)
    assert (pixels[:, :3] < 60).all()
    assert (pixels[:, 5:] > 200).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "P"])
def test_strips_are_the_whole(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large image is converted strip by strip, with the same result."""
    noise = np.random.default_rng(0).integers(0, 256, (37, 23, 4), np.uint8)
    image = Image.fromarray(noise[..., :2].copy().view(np.uint16)[..., 0]) if mode == "I;16" else Image.fromarray(noise)
    image = image.quantize(40) if mode == "P" else image.convert(mode)
    if mode == "P":
        image.info["transparency"] = bytes(range(0, 240, 6))
    whole = [decoding.image_array(image, (37, 23), grey=grey) for grey in (False, True)]
    monkeypatch.setattr(decoding, "_STRIP_PIXELS", 100)
    for grey, expected in zip((False, True), whole, strict=True):
        np.testing.assert_array_equal(decoding.image_array(image, (37, 23), grey=grey), expected)


def test_an_image_of_the_caller_is_not_changed() -> None:
    image = Image.open(io.BytesIO(jpeg_with(exif(6, 1, 1))))
    for _ in range(2):
        assert decoding.image_array(image, (4, 4), grey=True)[0].max() < 60
        assert image.size == (16, 8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Image.fromarray(np.full((20, 30), 0x8140, np.uint16)),
        lambda: Image.new("RGBA", (20, 30), (100, 0, 0, 0)),
        lambda: Image.new("LA", (20, 30), (10, 128)),
        lambda: Image.new("RGB", (20, 30), (1, 2, 3)),
        lambda: Image.new("1", (20, 30), 1),
    ],
)
def test_what_is_shown_is_what_is_encoded(tmp_path: Path, make) -> None:
    make().save(tmp_path / "x.png")
    shown = PictureFiles([str(tmp_path / "x.png")]).image(0)
    assert shown.mode == "RGB"
    assert max(shown.size) == 30
    encoded = decoding.decode(tmp_path / "x.png", 1, grey=False)[:, 0, 0]
    assert shown.getpixel((3, 3)) == tuple(encoded.tolist())


def test_pictures_are_upright_and_small(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(jpeg_with(exif(6, 0, 0)))
    assert PictureFiles([str(tmp_path / "x.jpg")]).image(0).size == (8, 16)
    Image.new("L", (3000, 1000)).save(tmp_path / "large.png")
    assert PictureFiles([str(tmp_path / "large.png")]).image(0).size == (256, 85)
    assert PictureFiles([str(tmp_path / "large.png")], max_pixels=2_999_999).image(0) is None


# ---- limits ----------------------------------------------------------------------------------------------------------------


def test_a_limit_of_pixels(tmp_path: Path) -> None:
    for i, width in enumerate((20, 21)):
        Image.new("L", (width, 20), 7).save(tmp_path / f"{i}.png")
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    opened = open_images(paths, size=4, max_pixels=400)
    assert opened.rows.tolist() == [0]
    assert opened.skipped[0].reason == (
        "it has 21 x 20 pixels; at most 400 are decoded, because a small file can hold any number of them"
    )
    with pytest.raises(ValueError, match="21 x 20 pixels"):
        ImageFiles(paths, size=4, max_pixels=400).subset(torch.tensor([1, 0]))[:]
    assert [len(part.skipped) for part in data.load_splits(tmp_path, size=4, max_pixels=400)] == [1, 1, 1]
    source = data.open_source(tmp_path, (3, 4, 4), max_pixels=400)
    assert list(next(source.batches(2)).skipped) == [1]
    with pytest.raises(ValueError, match="max_pixels must be at least 1; got 0"):
        open_images(paths, size=4, max_pixels=0)


def test_a_higher_limit_replaces_that_of_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 200)
    Image.new("L", (20, 20), 7).save(tmp_path / "x.png")
    with pytest.raises(decoding.TooManyPixels, match="more than 200 pixels; at most 200 are decoded"):
        decoding.decode(tmp_path / "x.png", 4, grey=True, max_pixels=200)
    assert decoding.decode(tmp_path / "x.png", 4, grey=True, max_pixels=800).max() == 7


@pytest.mark.parametrize(("total", "most"), [(10**9, 2), (1, 1)])
def test_threads_share_a_budget(tmp_path: Path, total: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With memory for one image only one is decoded at a time; with memory for all, several are."""
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path in paths:
        Image.new("L", (20, 20), 7).save(path)
    together, running, lock, meeting = [], 0, threading.Lock(), threading.Barrier(2)
    upright = decoding._upright

    def observed(image):
        nonlocal running
        with lock:
            running += 1
            together.append(running)
        if most > 1:
            meeting.wait(timeout=60)  # six images meet in pairs
        result = upright(image)
        with lock:
            running -= 1
        return result

    monkeypatch.setattr(decoding, "_budget", MemoryBudget(total))
    monkeypatch.setattr(decoding, "_upright", observed)
    monkeypatch.setattr("orthohash_triton.data.images._THREADS", 4)
    assert len(open_images(paths, size=4).rows) == 6
    assert max(together) >= most if most > 1 else max(together) == 1


def test_shares_of_the_budget_are_returned() -> None:
    budget = MemoryBudget(100)
    with pytest.raises(KeyError), budget.share(60):
        raise KeyError
    with budget.share(1000), pytest.raises(AssertionError):  # larger than the budget, and alone
        assert budget._taken == 0
    with budget.share(50), budget.share(50):
        assert budget._taken == 100
    assert budget._taken == 0


def test_memory_is_reserved_for_what_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JPEG images are decoded at a fraction of their size, unless they are progressive."""
    shares = []

    class Noted(MemoryBudget):
        def share(self, size):
            shares.append(size)
            return super().share(size)

    monkeypatch.setattr(decoding, "_budget", Noted(10**9))
    for name, settings in {"x.png": {}, "x.jpg": {}, "p.jpg": {"progressive": True}, "x.webp": {}}.items():
        Image.new("RGB", (800, 800)).save(tmp_path / name, **settings)
        decoding.decode(tmp_path / name, 50, grey=False)
    assert shares == [8 * 800**2, 8 * 100**2, 8 * 100**2 + 6 * 800**2, 16 * 800**2]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_large_images_take_the_memory_of_one(tmp_path: Path) -> None:
    """Threads that decode one large image after the other do not keep the memory of each."""
    pixels, count = 6000 * 6000, 6
    Image.new("RGBA", (6000, 6000)).save(tmp_path / "0.png", compress_level=1)
    for i in range(1, count):
        (tmp_path / f"{i}.png").hardlink_to(tmp_path / "0.png")
    script = f"""
        import pathlib, re
        from orthohash_triton.data import decoding, images
        def peak():
            return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
        decoding._budget.total, images._THREADS = 1, {count}
        paths = sorted(pathlib.Path({str(tmp_path)!r}).glob("*.png"))
        before = peak()
        images.open_images(paths, size=8)
        print(peak() - before)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1.5 * 8 * pixels  # two images of 4 bytes per pixel, and half as much for everything else
