"""Any radiograph as a grey array at its full bit depth, or one named error: PNG, JPEG, TIFF, DICOM, PIL, arrays.

Pillow's `convert("L")` and `convert("RGB")` clip 16-bit images to white, and a viewer's readers hide damage. Here a
file keeps its depth, and whatever cannot be a radiograph (damaged, constant, a strip of pixels) raises `ImageError`, so
that a caller can skip it by name. A storage that does not answer raises `StorageError`: no image is to blame.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from functools import partial
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile

from hf_radmae.images import raster
from hf_radmae.images.dicom import DicomError, read_header, read_radiograph
from hf_radmae.images.remote import Place, is_url, open_file, without_credentials
from hf_radmae.images.storage import StorageError, steady
from hf_radmae.images.streams import IncompleteError

MIN_SIDE = 8
"""Shortest side in pixels that still shows anatomy."""
MAX_ASPECT = 20.0
"""Longest side over shortest side; the archive's worst radiograph (a full spine) is at 14."""
MAX_PIXELS = 2**27
"""Pixels that are decoded at most, ten times the largest detector: a header that declares more is not believed."""

MAX_BYTES = 2 * MAX_PIXELS
"""Bytes of a file that are read at most: the largest image that is decoded, uncompressed in 16 bit."""

ImageSource = str | Place | bytes | memoryview | Mapping[str, Any] | Image.Image | np.ndarray


class ImageError(ValueError):
    """An image that cannot be used, with its name and the reason; the reason alone is in `.reason`."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.reason = reason


def read_image(source: ImageSource, name: str | None = None) -> np.ndarray:
    """Reads one radiograph as a grey array at its full bit depth, air dark and bone bright for DICOM.

    Colour becomes its luma, alpha is left out, WhiteIsZero is inverted, and the picture is upright. Of a phone's JPEG
    with several pictures the first is read, of a TIFF the largest page where the others are smaller versions of it.

    Args:
        source: a path, the encoded bytes or a view of them (8-bit PGM is not copied then), a `datasets` image row
            `{"bytes", "path"}`, a PIL image, or an array of shape (height, width), (height, width, channels) or
            (channels, height, width). Of a PIL image whose pixels Pillow has decoded already, what Pillow kept is read:
            16-bit colour has 8 bits then.
        name: what to call the image in an error; the path by default.

    Returns:
        Array (height, width) of numbers as in the file: uint8, uint16, wider or signed integers, float32, float64.

    Raises:
        ImageError: the file is damaged, empty, has several frames, is constant, too small, too long or not finite.
        FileNotFoundError: there is no such file.
        StorageError: the storage of the file does not answer.
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
            array = read_radiograph(bytes(payload)).pixels
        except DicomError as error:
            raise ImageError(name, error.reason) from error
    else:
        array = _decode(payload, name)
    check_size(array.shape[0], array.shape[1], name)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ImageError(name, "has NaN or infinite pixels")
    sparse = array[::16, ::16]  # of nearly every picture it shows that it is not constant, for a hundredth of the time
    if sparse.min() == sparse.max() and array.min() == array.max():
        raise ImageError(name, f"is constant: every pixel is {array.flat[0]}")
    return array


def image_size(source: ImageSource, name: str | None = None) -> tuple[int, int]:
    """The (height, width) in pixels from the header alone: nothing is decoded.

    Raises:
        ImageError: no image header is found, or its size cannot be a radiograph's.
        FileNotFoundError: there is no such file.
        StorageError: the storage of the file does not answer.
    """
    payload, name = _payload(source, name)
    if isinstance(payload, memoryview):
        payload = bytes(payload)
    if isinstance(payload, np.ndarray):
        height, width = _grey(payload, name).shape
    elif isinstance(payload, Image.Image):
        height, width = raster.shown_size(payload)
    elif _is_dicom(payload, name):
        try:
            header = read_header(payload)
        except DicomError as error:
            raise ImageError(name, error.reason) from error
        height, width = header.shape
    else:
        try:
            height, width = steady(partial(raster.size, payload), name)
        except raster.RasterError as error:
            raise ImageError(name, str(error)) from error
        except (FileNotFoundError, StorageError):
            raise
        except Exception as error:  # decoders raise nearly any error for damaged files
            raise ImageError(name, f"cannot be opened: {error}") from error
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


def _payload(source: ImageSource, name: str | None) -> tuple[str | bytes | memoryview | Image.Image | np.ndarray, str]:
    if isinstance(source, Mapping):
        path = source.get("path")
        content: Any = source.get("bytes")
        name = name or (str(path) if path else "<row>")
        if content is None:  # empty bytes are an empty image, not a path
            content = path
        if content is None:
            raise ImageError(name, "has neither bytes nor a path")
        return _payload(content, name)
    if isinstance(source, str) and is_url(source):
        source = without_credentials(source)
    if isinstance(source, str | Place):
        return str(source), name or str(source)
    return source, name or f"<{type(source).__name__}>"


def _read_bytes(path: str, name: str, size: int) -> bytes:
    def read() -> bytes:
        with open_file(path) as file:
            if not is_url(path):
                about = os.fstat(file.fileno())
                if stat.S_ISREG(about.st_mode) and about.st_size == 0:  # those of /proc answer EIO, as a broken mount
                    return b""
            return file.read(size)

    try:
        return steady(read, name)
    except (FileNotFoundError, StorageError):
        raise
    except OSError as error:
        raise ImageError(name, f"cannot be read: {error.strerror}") from error


def _is_dicom(payload: str | bytes | memoryview, name: str) -> bool:
    head = _read_bytes(payload, name, 132) if isinstance(payload, str) else payload[:132]
    return head[128:] == b"DICM"


def _decode(payload: bytes | memoryview, name: str) -> np.ndarray:
    try:
        return raster.decode(payload, partial(check_size, name=name))
    except ImageError:
        raise
    except (raster.RasterError, IncompleteError) as error:
        raise ImageError(name, str(error)) from error
    except Exception as error:  # decoders raise nearly any error for damaged files
        raise ImageError(name, f"is damaged: {error}") from error


def _from_pil(image: Image.Image, name: str) -> np.ndarray:
    """The pixels of a PIL image: decoded here if Pillow has only opened it, else what Pillow made of them."""
    check_size(image.height, image.width, name)
    try:
        if isinstance(image, ImageFile.ImageFile) and image.tile and image.fp is not None:
            return _decode(steady(partial(_content, image.fp), name), name)
        if image.format == "TIFF" and (wide := max(image.tag_v2.get(258, (1,)))) > 8:  # type: ignore[attr-defined]
            if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
                raise ImageError(name, f"had {wide} bits, of which Pillow kept 8: give its path or its bytes")
            if image.tag_v2.get(262) == 0:  # type: ignore[attr-defined]
                raise ImageError(name, "is WhiteIsZero, which Pillow leaves negative: give its path or its bytes")
        return raster.from_pil(image)
    except (ImageError, StorageError):
        raise
    except raster.RasterError as error:
        raise ImageError(name, str(error)) from error
    except Exception as error:  # Pillow raises nearly any error for damaged files
        raise ImageError(name, f"is damaged: {error}") from error


def _content(file: IO[bytes]) -> bytes:
    place = file.tell()
    file.seek(0)
    content = file.read(MAX_BYTES)
    file.seek(place)
    return content


def _grey(array: np.ndarray, name: str) -> np.ndarray:
    """(height, width) from an array with an optional channel axis of 1, 3 or 4, first or last; channels averaged."""
    if array.ndim == 3:
        axis = 0 if array.shape[0] in (1, 3, 4) else 2
        if array.shape[axis] not in (1, 3, 4):
            raise ImageError(
                name, f"has shape {array.shape}: expected (H, W), (H, W, C) or (C, H, W) with C of 1, 3, 4"
            )
        colour = array.take(range(min(3, array.shape[axis])), axis=axis)
        exact = np.float32 if array.dtype.itemsize <= 2 else np.float64
        array = colour.mean(axis=axis, dtype=exact) if colour.shape[axis] > 1 else colour.squeeze(axis)
    if array.ndim != 2 or not array.size:
        raise ImageError(name, f"has shape {array.shape}: expected (H, W), (H, W, C) or (C, H, W)")
    if array.dtype.kind not in "buif":
        raise ImageError(name, f"has dtype {array.dtype}: expected numbers")
    if array.dtype == np.bool_:
        return raster.widened(array.astype(np.uint8), 1)
    return array.astype(np.float32) if array.dtype.itemsize == 2 and array.dtype.kind == "f" else array
