"""Uploaded images, which are untrusted: they are read with limits on bytes, time and pixels."""

import io
import warnings

import anyio
import torch
from starlette.requests import Request
from torch import Tensor

from ..data.decoding import TooManyPixels, decode, open_image

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 50_000_000
SECONDS = 30.0
BODY_BYTES = 128 * 2**20  # memory for the bodies of all requests; `data.decoding` limits the memory of decoded images
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # formats that every Pillow decodes, for messages


class Refused(Exception):
    """An error that refuses a request, with an HTTP status and a message that says why and what to do."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def read_body(request: Request) -> bytes:
    """Return the body of a request.

    Raises:
        Refused: the content type is not an image, the body is larger than MAX_BYTES, or it takes longer than SECONDS.
    """
    sent_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (sent_type.startswith("image/") or sent_type == "application/octet-stream"):
        raise Refused(415, f"send the image itself with its type, image/jpeg for example; got {sent_type or 'no Content-Type'}")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > MAX_BYTES:
        raise Refused(413, _too_large(int(announced)))
    parts, total = [], 0
    try:
        with anyio.fail_after(SECONDS):
            async for part in request.stream():
                total += len(part)
                if total > MAX_BYTES:
                    raise Refused(413, _too_large(total))
                parts.append(part)
    except TimeoutError:
        raise Refused(408, f"the image did not arrive within {SECONDS:.0f} seconds; try again") from None
    return b"".join(parts)


def _too_large(size: int) -> str:
    return f"the file has {size / 2**20:,.1f} MiB or more; at most {MAX_BYTES // 2**20} MiB are accepted. Send a smaller image"


def decode_upload(content: bytes, sample_shape: tuple[int, ...]) -> Tensor:
    """Decode an image as the model accepts it: uint8 [1, H, W] for grey, [1, 3, H, W] for RGB.

    Raises:
        Refused: the image has an unknown format, is damaged, or has more than MAX_PIXELS.
    """
    from PIL import Image

    channels, _, side = sample_shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit is lower than Pillow's
        try:
            with open_image(io.BytesIO(content), max_pixels=MAX_PIXELS):
                pass
        except TooManyPixels as error:
            raise Refused(413, f"the image is too large: {error}. Send a smaller image") from error
        except Exception as error:  # every decoder of Pillow raises its own types
            raise Refused(422, f"the upload is not a readable image ({_kind(content)}); send {', '.join(_FORMATS)}") from error
        try:
            array = decode(io.BytesIO(content), side, grey=channels == 1, max_pixels=MAX_PIXELS)
        except Exception as error:
            raise Refused(422, "the image is damaged and cannot be decoded; save it again and retry") from error
    return torch.from_numpy(array.copy())[None]


def _kind(content: bytes) -> str:
    return f"{len(content):,} bytes" if content else "it is empty"
