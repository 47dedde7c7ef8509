"""HTTP requests to images, and what is refused."""

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from keras_cvt.eval_transform import EvalTransform
from keras_cvt.preprocessing import pil

if TYPE_CHECKING:
    from starlette.requests import Request

# What browsers and cameras write. Pillow reads more, some by other programs.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP")


class RefusedError(Exception):
    """A request is answered with an error.

    Attributes:
        status: The HTTP status.
        headers: Headers of the answer.
    """

    def __init__(self, status: int, message: str, **headers: str):
        super().__init__(message)
        self.status = status
        self.headers = headers


async def read_body(request: "Request", max_bytes: int) -> bytes:
    """Return the body of a request. No more than `max_bytes` are kept.

    Raises:
        RefusedError: If it has more bytes, or is a form.
    """
    kind = request.headers.get("content-type", "")
    if kind.startswith("multipart/"):
        raise RefusedError(
            415,
            "Expected the image's bytes as the body, as `curl --data-binary "
            f"@photo.jpg` sends them. Received: Content-Type {kind:.40}",
        )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(max_bytes, int(length))
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            raise _too_large(max_bytes, len(body))
    return bytes(body)


def _too_large(max_bytes, received):
    return RefusedError(
        413, f"Expected at most {max_bytes:,} bytes. Received: {received:,} bytes"
    )


def read_image(content: bytes, transform: EvalTransform, max_pixels: int) -> np.ndarray:
    """Return an image file as `keras_cvt.preprocess_input` does.

    Args:
        content: The file's bytes.
        transform: How it is resized and cropped.
        max_pixels: Most pixels that are decoded. Pillow's limit holds as well.

    Returns:
        float32 (height, width, 3) of 0-255.

    Raises:
        ValueError: If it is no image, cannot be read, or has too many pixels.
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:
            kind, (width, height) = opened.format, opened.size
    except UnidentifiedImageError:
        raise ValueError(
            f"Expected an image file ({', '.join(FORMATS)}). Received: "
            f"{len(content):,} bytes that begin with {content[:12]!r}"
        ) from None
    except Exception:  # the readers of the formats raise many types
        kind, width, height = FORMATS[0], 0, 0  # `read_rgb` says what is wrong
    if kind not in FORMATS:
        raise ValueError(
            f"Expected an image file ({', '.join(FORMATS)}). Received: {kind}"
        )
    if width * height > max_pixels:
        raise ValueError(
            f"Expected an image of at most {max_pixels:,} pixels. Received: {height} x "
            f"{width} pixels"
        )
    try:
        return pil.transform_pil(pil.read_rgb(io.BytesIO(content)), transform)
    except ValueError as error:
        if "Received: " in str(error):
            raise
        raise ValueError(f"{error}. Received: {len(content):,} bytes") from error
