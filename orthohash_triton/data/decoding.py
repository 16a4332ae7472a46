"""Decoding of one image. Everything in this package that opens an image file does so here.

Every image becomes uint8, grey or RGB. It is rotated according to its EXIF orientation, transparent pixels are drawn over white,
16-bit values are reduced to their upper byte, and the first frame of an animation is used. Decoding draws no random numbers.

Only formats are opened whose decoders start no other program; Pillow would run Ghostscript for PostScript, whatever the name of
the file. The number of pixels is limited, and threads wait until there is memory for the image that they decode.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .._base.extras import install
from .._base.file_names import FileFinder
from ._budget import MemoryBudget, return_memory

FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "JXL", "PNG", "PPM", "QOI", "TIFF", "WEBP")
"""The formats that are decoded, as Pillow names them, if this Pillow or an installed plug-in can."""

SUFFIXES = frozenset({
    ".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx",
    ".jxl", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tif", ".tiff", ".webp",
})  # fmt: skip
"""Suffixes of the files that are taken for images, in small letters."""

OTHER_SUFFIXES = frozenset({
    ".ai", ".arw", ".cr2", ".cr3", ".dng", ".emf", ".eps", ".exr", ".hdr", ".ico", ".nef", ".orf", ".pcx", ".ps", ".psd", ".raf",
    ".rw2", ".svg", ".tga", ".wmf", ".xcf",
})  # fmt: skip
"""Suffixes of pictures in formats that are not decoded."""

MAX_PIXELS = 178_956_970
"""Number of pixels above which an image is not decoded; Pillow's own limit."""

DECODING_BYTES = 2**30
"""Memory for the images that all threads of the process decode at the same time."""

_PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_jxl": None, "pillow_avif": None}  # package, and how it is activated
_PIXEL_BYTES = {"AVIF": 16, "HEIF": 16, "JPEG2000": 24, "JXL": 16, "WEBP": 16}  # of the decoder's buffers and the result
_OTHER_PIXEL_BYTES = 8
_COEFFICIENT_BYTES = 6  # a progressive JPEG is kept as coefficients of all its pixels, whatever the size that is decoded
_LARGE = 2**26  # bytes above which memory is returned to the system after decoding
_STRIP_PIXELS = 2**22  # pixels that are converted at a time
_TURNS = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90",
}  # fmt: skip
_SIGNATURES = (  # (offset, first bytes, what the file is)
    (0, b"%!PS", "PostScript, which is a program and is not decoded"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript, which is a program and is not decoded"),
    (0, b"%PDF", "a PDF document, which is not decoded"),
    (0, b"<svg", "a drawing in SVG, which is not decoded"),
    (4, b"ftypavi", "an AVIF image, which needs Pillow with AVIF support"),
    (4, b"ftyphe", "a HEIC image, which needs the package pillow-heif"),
    (4, b"ftypm", "a HEIF image, which needs the package pillow-heif"),
    (0, b"\xff\x0a", "a JPEG XL image, which needs the package pillow-jxl-plugin"),
    (4, b"JXL ", "a JPEG XL image, which needs the package pillow-jxl-plugin"),
)
_budget = MemoryBudget(DECODING_BYTES)


class TooManyPixels(ValueError):
    """The error of an image with more pixels than the limit."""


def pillow() -> Any:
    """Return the module PIL.Image.

    Raises:
        ImportError: Pillow is not installed.

    Example:
        >>> from orthohash_triton.data import decoding
        >>> decoding.pillow().__name__
        'PIL.Image'
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(f"reading images needs Pillow: {install('pillow', extra='train')}") from error
    return Image


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Return those of FORMATS that this Pillow and the installed plug-ins can decode."""
    Image = pillow()
    Image.init()
    for package, register in _PLUGINS.items():
        with suppress(ImportError):
            plugin = import_module(package)
            if register is not None:
                getattr(plugin, register)()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def open_image(file: Path | BinaryIO, *, max_pixels: int = MAX_PIXELS) -> Iterator[Any]:
    """Open an image and yield it as a PIL image whose pixels are not decoded yet.

    Args:
        file: a path, or a binary file. A path may be in another Unicode normal form than the name of the file.
        max_pixels: number of pixels above which the image is refused. A value above the default raises Pillow's own limit
            (`PIL.Image.MAX_IMAGE_PIXELS`) too, for the whole process.

    Raises:
        ImportError: Pillow is not installed.
        TooManyPixels: the image has more than `max_pixels`.
        PIL.UnidentifiedImageError: it has no format of FORMATS.
        OSError: the file cannot be read.
        Exception: any other exception of Pillow, for a damaged file.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> from orthohash_triton.data import decoding
        >>> file = io.BytesIO()
        >>> Image.new("L", (9, 6)).save(file, "PNG")
        >>> with decoding.open_image(file) as image:
        ...     image.size
        (9, 6)
    """
    Image = pillow()
    if max_pixels > MAX_PIXELS and Image.MAX_IMAGE_PIXELS is not None and max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)  # Pillow refuses twice this number
    if isinstance(file, Path):
        file = FileFinder().find(file)
    try:
        opened = Image.open(file, formats=_formats())
    except Image.DecompressionBombError as error:
        raise _too_large(f"it has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels", max_pixels) from error
    with opened as image:
        width, height = image.size
        if width * height > max_pixels:
            raise _too_large(f"it has {width:,} x {height:,} pixels", max_pixels)
        _mend_transparency(image)
        yield image


def _too_large(found: str, max_pixels: int) -> TooManyPixels:
    return TooManyPixels(f"{found}; at most {max_pixels:,} are decoded, because a small file can hold any number of them")


def _mend_transparency(image: Any) -> None:
    """Give the transparent value of a PNG image the range of the pixels.

    Pillow scales grey pixels of fewer than 8 bits, and reduces colours of 16 bits, but not the value that is transparent.
    """
    value = image.info.get("transparency")
    if image.format != "PNG" or image.mode not in ("1", "L", "RGB") or value is None or not image.tile:
        return
    raw = image.tile[0][3]
    if image.mode == "1":
        mended: Any = 255 if value else 0
    elif image.mode == "L":
        mended = value * {"L;2": 85, "L;4": 17}.get(raw, 1)
    else:
        mended = tuple(part >> 8 for part in value) if raw == "RGB;16B" else value
    if max(mended if isinstance(mended, tuple) else (mended,)) > 255:  # no pixel has this value
        del image.info["transparency"]
    else:
        image.info["transparency"] = mended


def is_image(file: Path) -> bool:
    """Return whether the content of the file at `file` begins like an image of a format that can be decoded.

    Raises:
        ImportError: Pillow is not installed.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from orthohash_triton.data import decoding
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "1").write_text("no image") and decoding.is_image(Path(folder) / "1")
        False
    """
    pillow()
    try:
        with open_image(file):
            return True
    except TooManyPixels:
        return True
    except Exception:  # Pillow documents no common base of the errors of its decoders
        return False


def decode(file: Path | BinaryIO, size: int | tuple[int, int], *, grey: bool, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode and resize one image: uint8 [height, width] if `grey`, else [3, height, width].

    Args:
        file: see `open_image`.
        size: height and width of the result in pixels, or one number for both.
        grey: whether the result is grey.
        max_pixels: see `open_image`.

    Raises:
        TooManyPixels: the image has more than `max_pixels`.
        Exception: see `open_image`.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> from orthohash_triton.data import decoding
        >>> file = io.BytesIO()
        >>> Image.new("L", (9, 9), 10).save(file, "PNG")
        >>> decoding.decode(file, 2, grey=True).tolist()
        [[10, 10], [10, 10]]
    """
    size = (size, size) if isinstance(size, int) else size
    with _drafted(file, "L" if grey else "RGB", 2 * max(size), max_pixels) as image:
        return image_array(image, size, grey=grey)


def read_picture(file: Path | BinaryIO, side: int, *, max_pixels: int = MAX_PIXELS) -> Any:
    """Decode one image for display, with the pixels that `decode` sees: an RGB image of at most `side` x `side` pixels.

    Raises:
        TooManyPixels: the image has more than `max_pixels`.
        Exception: see `open_image`.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> from orthohash_triton.data import decoding
        >>> file = io.BytesIO()
        >>> Image.new("L", (90, 45), 10).save(file, "PNG")
        >>> picture = decoding.read_picture(file, 20)
        >>> picture.size, picture.getpixel((0, 0))
        ((20, 10), (10, 10, 10))
    """
    with _drafted(file, "RGB", 2 * side, max_pixels) as image:
        picture = _eight_bits(_upright(image), "RGB")
        if picture is image:
            picture = image.copy()  # the file of `image` is closed after this block
        picture.thumbnail((side, side))
        return picture.convert("RGB")


def image_array(image: Any, size: tuple[int, int], *, grey: bool) -> np.ndarray:
    """Convert and resize a PIL image, which is not changed: uint8 [height, width] if `grey`, else [3, height, width].

    Args:
        image: a PIL image of any mode and size.
        size: height and width of the result, in pixels.
        grey: whether the result is grey.

    Raises:
        ValueError: its pixels are floating-point numbers, or integers of more than 16 bits.
        Exception: any exception of Pillow's decoder, if the pixels are not decoded yet.

    Example:
        >>> from PIL import Image
        >>> from orthohash_triton.data import decoding
        >>> decoding.image_array(Image.new("RGBA", (9, 9)), (1, 2), grey=True).tolist()
        [[255, 255]]
    """
    mode = "L" if grey else "RGB"
    height, width = size
    small = _eight_bits(_upright(image), mode).resize((width, height), pillow().Resampling.BILINEAR)
    array = np.asarray(small.convert(mode))
    return array if grey else array.transpose(2, 0, 1)


@contextmanager
def _drafted(file: Path | BinaryIO, mode: str, side: int, max_pixels: int) -> Iterator[Any]:
    """Open an image that will be reduced to `side` pixels or fewer, and wait until there is memory to decode it."""
    with open_image(file, max_pixels=max_pixels) as image:
        width, height = image.size
        image.draft(mode, (side, side))  # JPEG decoding at a half, a quarter or an eighth of the size costs less
        size = image.size[0] * image.size[1] * _PIXEL_BYTES.get(image.format, _OTHER_PIXEL_BYTES)
        if image.info.get("progressive"):
            size += width * height * _COEFFICIENT_BYTES
        with _budget.share(size):
            try:
                yield image
            finally:
                if isinstance(file, Path):  # closing would close the file of a caller too
                    image.close()  # frees the pixels before another thread takes the share
                if size > _LARGE:
                    return_memory()


def _upright(image: Any) -> Any:
    """Return `image` rotated according to its EXIF orientation; `image` itself if it is upright.

    ImageOps.exif_transpose also writes all EXIF data again, which fails for values that cameras do write.
    """
    image.load()
    try:
        turn = _TURNS.get(image.getexif().get(0x0112))
    except Exception:  # damaged EXIF data name no orientation
        turn = None
    return image if turn is None else image.transpose(pillow().Transpose[turn])


def _eight_bits(image: Any, mode: str) -> Any:
    """Convert `image` to `mode`, "L" or "RGB". A grey image without transparency becomes "L" for both.

    Pillow's own conversion clips 16-bit values at 255 and ignores transparency.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _in_strips(image, "L", _upper_byte)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        return _in_strips(image, mode, _over_white)
    return image if image.mode in ("L", mode) else image.convert("L" if image.mode == "1" else mode)


def _in_strips(image: Any, mode: str, convert: Callable[[Any], Any]) -> Any:
    """Return `convert(image)` in `mode`, computed strip by strip, so that copies of large images do not fill the memory."""
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // max(1, width))
    if height <= rows:
        return convert(image).convert(mode)
    whole = pillow().new(mode, image.size)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(height, top + rows)))
        whole.paste(convert(strip).convert(mode), (0, top))
    return whole


def _upper_byte(image: Any) -> Any:
    """Return a grey image of 16 bits as one of 8 bits, with the transparent value as white."""
    values = np.asarray(image)
    if values.size and not 0 <= values.min() <= values.max() < 2**16:
        raise ValueError("its integer pixels are not in the range of 16 bits")
    upper = (values >> 8).astype(np.uint8)
    if isinstance(clear := image.info.get("transparency"), int):
        upper[values == clear] = 255
    return pillow().fromarray(upper)


def _over_white(image: Any) -> Any:
    """Return `image` drawn over white."""
    Image = pillow()
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))


def reason(path: Path, error: Exception) -> str:
    """Return why the file at `path`, for which `decode` raised `error`, cannot be decoded. The words begin with a small letter.

    Example:
        >>> from pathlib import Path
        >>> from orthohash_triton.data import decoding
        >>> decoding.reason(Path("1.png"), PermissionError(13, "Permission denied"))
        'permission denied'
    """
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return _content(FileFinder().find(path))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__


def _content(path: Path) -> str:
    """Return what the file at `path` holds, which is not an image that can be decoded."""
    try:
        with open(path, "rb") as file:
            first = file.read(32)
    except OSError as error:  # it was changed since it was opened as an image
        return str(error.strerror).lower()
    if not first:
        return "the file is empty"
    for offset, signature, what in _SIGNATURES:
        if first[offset:].startswith(signature):
            return what
    return "not an image of a known format"
