"""Any radiograph as a grey array at its full bit depth, or one named error: PNG, JPEG, TIFF, DICOM, PIL, arrays.

Pillow's `convert("L")` and `convert("RGB")` clip 16-bit images to white, and a viewer's readers hide damage. Here a
16-bit file stays 16 bit, and whatever cannot be a radiograph (damaged, constant, a strip of pixels) raises
`ImageError`, so that a caller can set it aside by name.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from hf_radmae.images.dicom import read_header, read_radiograph

MIN_SIDE = 8
"""Shortest side in pixels that still shows anatomy."""
MAX_ASPECT = 20.0
"""Longest side over shortest side; the archive's worst radiograph (a full spine) is at 14."""
MAX_PIXELS = 2**27
"""Pixels that are decoded at most, ten times the largest detector: a header that declares more is not believed."""

MAX_BYTES = 2 * MAX_PIXELS
"""Bytes of a file that are read at most: the largest image that is decoded, uncompressed in 16 bit."""
_FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "GIF", "WEBP", "PPM")
"""What Pillow may take a file for: radiographs come as these, and others (EPS) start programs."""

_PGM = re.compile(rb"P5\n(\d{1,6}) (\d{1,6})\n(255|65535)\n")
"""The header of a portable grey map without comments, 8 or 16 bit."""

_DAMAGE = (
    *(OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError),
    *(TypeError, IndexError),  # a TIFF without dimensions and a GIF cut within a block, both met while counting frames
)
"""What Pillow's decoders raise for damaged files (UnidentifiedImageError is an OSError)."""

ImageSource = str | Path | bytes | Mapping[str, Any] | Image.Image | np.ndarray


class ImageError(ValueError):
    """An image that cannot be used, with its name and the reason; the reason alone is in `.reason`."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.reason = reason


def read_image(source: ImageSource, name: str | None = None) -> np.ndarray:
    """Reads one radiograph as a grey array at its full bit depth, air dark and bone bright for DICOM.

    Args:
        source: a path, the encoded bytes, a `datasets` image row `{"bytes", "path"}`, a PIL image, or an array of
            shape (height, width), (height, width, channels) or (channels, height, width).
        name: what to call the image in an error; the path by default.

    Returns:
        Array (height, width) of dtype uint8, uint16, int32 or float32.

    Raises:
        ImageError: the file is damaged, empty, has several frames, is constant, too small, too long or not finite.
        FileNotFoundError: there is no such file.
    """
    payload, name = _payload(source, name)
    if isinstance(payload, str):  # in one piece: decoders seek, and network storage pays for every seek
        payload = _read_bytes(payload, name, MAX_BYTES + 1)
        if len(payload) > MAX_BYTES:
            raise ImageError(name, f"has more than {MAX_BYTES:,} bytes, which are not read")
    if isinstance(payload, np.ndarray):
        array = _grey(payload, name)
    elif isinstance(payload, Image.Image):
        array = _from_pil(payload, name)
    elif _is_dicom(payload, name):
        try:
            array = read_radiograph(payload).pixels
        except ValueError as error:
            raise ImageError(name, str(error)) from error
    else:
        array = _decode(payload, name)
    check_size(array.shape[0], array.shape[1], name)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ImageError(name, "has NaN or infinite pixels")
    if np.float32(array.min()) == np.float32(array.max()):  # what every reader computes in
        raise ImageError(name, f"is constant: every pixel is {array.flat[0]}")
    return array


def image_size(source: ImageSource, name: str | None = None) -> tuple[int, int]:
    """The (height, width) in pixels from the header alone: nothing is decoded.

    Raises:
        ImageError: no image header is found, or its size cannot be a radiograph's.
        FileNotFoundError: there is no such file.
    """
    payload, name = _payload(source, name)
    if isinstance(payload, np.ndarray):
        height, width = _grey(payload, name).shape
    elif isinstance(payload, Image.Image):
        height, width = _shown_size(payload)
    elif _is_dicom(payload, name):
        try:
            header = read_header(payload)
        except ValueError as error:
            raise ImageError(name, str(error)) from error
        height, width = header.rows, header.columns
    else:
        with _open(payload, name) as image:
            height, width = _shown_size(image)
    check_size(height, width, name)
    return height, width


def check_size(height: int, width: int, name: str) -> None:
    """Raises `ImageError` for a size that no radiograph has (see MIN_SIDE, MAX_ASPECT, MAX_PIXELS)."""
    short, long = min(height, width), max(height, width)
    if short < MIN_SIDE:
        raise ImageError(name, f"is {height}x{width} pixels: the shortest side must be at least {MIN_SIDE}")
    if long > MAX_ASPECT * short:
        raise ImageError(name, f"is {height}x{width} pixels: longer than {MAX_ASPECT:g} times its shortest side")
    if height * width > MAX_PIXELS:
        raise ImageError(name, f"declares {height}x{width} pixels: more than {MAX_PIXELS:,} are not read")


def _payload(source: ImageSource, name: str | None) -> tuple[str | bytes | Image.Image | np.ndarray, str]:
    if isinstance(source, Mapping):
        path = source.get("path")
        content: Any = source.get("bytes")
        name = name or (str(path) if path else "<row>")
        if content is None:  # empty bytes are an empty image, not a path
            content = path
        if content is None:
            raise ImageError(name, "has neither bytes nor a path")
        return _payload(content, name)
    if isinstance(source, str | Path):
        return str(source), name or str(source)
    return source, name or f"<{type(source).__name__}>"


def _read_bytes(path: str, name: str, size: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ImageError(name, f"cannot be read: {error.strerror}") from error


def _is_dicom(payload: str | bytes, name: str) -> bool:
    head = payload[:132] if isinstance(payload, bytes) else _read_bytes(payload, name, 132)
    return head[128:] == b"DICM"


def _open(payload: str | bytes, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():  # Pillow warns of large images; MAX_PIXELS refuses them
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(payload) if isinstance(payload, bytes) else payload, formats=_FORMATS)
    except UnidentifiedImageError as error:
        empty = not (payload if isinstance(payload, bytes) else _read_bytes(payload, name, 1))
        unknown = "is no image that Pillow knows, and no DICOM file (no DICM at byte 128)"
        raise ImageError(name, "is empty: 0 bytes" if empty else unknown) from error
    except _DAMAGE as error:
        raise ImageError(name, f"cannot be opened: {error}") from error


def _decode(payload: bytes, name: str) -> np.ndarray:
    if plain := _PGM.match(payload):  # what prepared shards hold: read as it is, four times faster than by Pillow
        width, height, most = (int(value) for value in plain.groups())
        check_size(height, width, name)
        dtype = np.dtype(np.uint8 if most == 255 else ">u2")
        missing = height * width * dtype.itemsize - (len(payload) - plain.end())
        if missing > 0:
            raise ImageError(name, f"is damaged: {missing} bytes of its pixels are missing")
        pixels = np.frombuffer(payload, dtype, height * width, plain.end()).reshape(height, width)
        return pixels.astype(dtype.newbyteorder("="), copy=False)
    with _open(payload, name) as image:
        return _from_pil(image, name)


def _from_pil(image: Image.Image, name: str) -> np.ndarray:
    check_size(image.height, image.width, name)
    turned = _orientation(image) != 1
    try:
        frames = getattr(image, "n_frames", 1)
        grey = image if image.mode in ("L", "I", "F") or image.mode.startswith("I;16") else image.convert("L")
        grey = ImageOps.exif_transpose(grey) if turned else grey
        array = np.asarray(grey)  # decodes; 1, LA, P, RGB, RGBA, CMYK and YCbCr have eight bits a channel
    except _DAMAGE as error:
        raise ImageError(name, f"is damaged: {error}") from error
    if frames > 1:
        raise ImageError(name, f"has {frames} frames: a radiograph has one")
    return array.astype(np.uint16, copy=False) if grey.mode.startswith("I;16") else array


def _shown_size(image: Image.Image) -> tuple[int, int]:
    turned = _orientation(image) >= 5
    return (image.width, image.height) if turned else (image.height, image.width)


def _orientation(image: Image.Image) -> int:
    """The Exif orientation, 1 (upright) to 8; 5 to 8 exchange height and width. A TIFF's is Pillow's own concern."""
    if "exif" not in image.info or image.format == "TIFF":
        return 1
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DAMAGE:
        return 1
    return found if found in range(1, 9) else 1


def _grey(array: np.ndarray, name: str) -> np.ndarray:
    """(height, width) from an array with an optional channel axis of 1, 3 or 4, first or last; channels averaged."""
    if array.ndim == 3:
        axis = 0 if array.shape[0] in (1, 3, 4) else 2
        if array.shape[axis] not in (1, 3, 4):
            raise ImageError(
                name, f"has shape {array.shape}: expected (H, W), (H, W, C) or (C, H, W) with C of 1, 3, 4"
            )
        colour = array.take(range(min(3, array.shape[axis])), axis=axis)
        array = colour.mean(axis=axis, dtype=np.float32) if colour.shape[axis] > 1 else colour.squeeze(axis)
    if array.ndim != 2 or not array.size:
        raise ImageError(name, f"has shape {array.shape}: expected (H, W), (H, W, C) or (C, H, W)")
    if array.dtype.kind not in "buif":
        raise ImageError(name, f"has dtype {array.dtype}: expected numbers")
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    return array.astype(np.float32) if array.dtype.kind == "f" else array
