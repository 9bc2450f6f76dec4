"""Decodes files of images at their full depth and the right way round: TIFF, PNG, JPEG, JPEG 2000, PNM and others.

Pillow decodes what has eight bits a channel, and grey PNGs of 16. Where it cuts the depth or ignores the polarity
(TIFF, 16-bit colour, JPEG of 12 bits, JPEG 2000 of more than 8) tifffile and imagecodecs decode.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any, cast

import imagecodecs
import numpy as np
import simplejpeg
import tifffile
from PIL import ExifTags, Image

from hf_radmae.images.greyscale import to_luma
from hf_radmae.images.remote import open_file
from hf_radmae.images.streams import check_complete, check_png, decode_strictly, stream_facts

FORMATS = ("PNG", "JPEG", "JPEG2000", "BMP", "GIF", "WEBP", "PPM")
"""What Pillow may take a file for: radiographs come as these, and others (EPS) start programs."""
MAX_SAMPLE_BYTES = 2**30
"""Bytes that a TIFF's samples may take in memory: 128 million pixels of 64 bits, or of RGBA with 16."""

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OTHERS = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"%PDF": "PDF",
    b"8BPS": "Photoshop",
    b"\x1f\x8b": "gzip",
    b"PK\3\4": "zip",
    b"\x89HDF": "HDF5",
}
_PNM = re.compile(rb"P([2356])" + rb"(?:\s|#[^\n\r]*[\n\r])+(\d{1,6})" * 3 + rb"\s")
"""The header of a portable map of grey (2, 5) or colour (3, 6), as text (2, 3) or bytes."""

Check = Callable[[int, int], None]


class RasterError(ValueError):
    """A file that is no one picture of grey or colour; the text says why."""


def decode(content: bytes | memoryview, check: Check) -> np.ndarray:
    """Return the grey picture (height, width) of a file, its depth kept, white bright and upright.

    Args:
        content: the file; of a portable map with one byte a pixel the picture is a view, of others it is copied.
        check: called with height and width before anything is allocated; raises for what is not to be decoded.

    Raises:
        RasterError, IncompleteError: the file is of another kind, has several frames, or ends too early.
        Exception: what the decoders raise for damaged files, nearly anything.
    """
    if found := _PNM.match(content, 0, 4096):
        return _pnm(content, found, check)
    content = bytes(content)
    if content[:4] in _TIFF:
        with _tiff(content) as (page, turn):
            check(page.imagelength, page.imagewidth)
            return turned(_tiff_pixels(page), turn)
    facts = stream_facts(content)
    if facts is not None and (facts[3] > 8 or facts[4] in (0xC3, 0xF7)):  # bits, or one of the lossless JPEGs
        check(*facts[:2])
        return _deep_jpeg(content, facts)
    if facts is not None and (array := _plain_jpeg(content, facts, check)) is not None:
        return array
    with open_image(content) as image:
        check(image.height, image.width)
        if content[:4] == b"\x89PNG" and content[24] == 16 and content[25] != 0 and frames(image) == 1:
            return turned(grey_of(imagecodecs.png_decode(content)), orientation(image))
        if content[:4] == b"\x89PNG":
            check_png(content)
        array = from_pil(image)
    if facts is not None:  # of inks the check needs libjpeg's own picture
        check_complete(content, facts[4], array if image.mode in ("L", "RGB") else None)
    return array


def size(payload: bytes | str) -> tuple[int, int]:
    """Return (height, width) of the upright picture from the header of a file, its content or its path."""
    opened: Any = io.BytesIO(payload) if isinstance(payload, bytes) else open_file(payload)
    with opened as stream:
        head = stream.read(4096)
        if head[:4] in _TIFF:
            with _tiff(stream) as (page, turn):
                shape = page.imagelength, page.imagewidth
                return shape[::-1] if turn >= 5 else shape
        if found := _PNM.match(head):
            return int(found[3]), int(found[2])
        try:
            with open_image(stream) as image:
                return shown_size(image)
        except RasterError:
            stream.seek(0)
            if (facts := stream_facts(stream.read())) is None:
                raise
            return facts[:2]


def open_image(source: bytes | Any) -> Image.Image:
    """Open a file by Pillow, its pixels not yet decoded."""
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with warnings.catch_warnings():  # Pillow warns of large images; the caller refuses them
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(stream, formats=FORMATS)
    except Image.UnidentifiedImageError:
        stream.seek(0)
        head = stream.read(16)
        if not head:
            raise RasterError("is empty: 0 bytes") from None
        other = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), None)
        other = "HEIC or AVIF" if head[4:8] == b"ftyp" else other
        if other:
            raise RasterError(f"is a {other} file, which is not read: export it as PNG, TIFF or DICOM") from None
        raise RasterError("is no image of a known format, and no DICOM file (no DICM at byte 128)") from None


def from_pil(image: Image.Image) -> np.ndarray:
    """Return the upright grey pixels of an image that Pillow opened."""
    if (count := frames(image)) > 1:
        raise RasterError(f"has {count} frames: a radiograph has one")
    turn = orientation(image)
    grey = image if image.mode in ("L", "I", "F") or image.mode.startswith("I;16") else image.convert("L")
    array = np.asarray(grey)  # decodes; 1, LA, P, RGB, RGBA, CMYK and YCbCr have eight bits a channel
    return turned(array.astype(np.uint16, copy=False) if grey.mode.startswith("I;16") else array, turn)


def frames(image: Image.Image) -> int:
    """Return how many frames there are: one of a phone's JPEG (MPO), whose others are previews and depths."""
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Return (height, width) of the upright image."""
    return (image.width, image.height) if orientation(image) >= 5 else (image.height, image.width)


def orientation(image: Image.Image) -> int:
    """Return the Exif orientation, 1 (upright) to 8; 5 to 8 exchange height and width. Pillow turns TIFFs itself."""
    if "exif" not in image.info or image.format == "TIFF":
        return 1
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged Exif costs no image
        return 1
    return found if found in range(1, 9) else 1


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """Return the upright picture of one stored with an orientation (TIFF 6.0, tag 274)."""
    if orientation >= 5:
        array = array.T
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array[:, ::-1] if orientation in (2, 3, 6, 7) else array


def grey_of(samples: np.ndarray) -> np.ndarray:
    """Return the grey picture of (height, width) or (height, width, samples): grey, grey and alpha, RGB, RGBA."""
    if samples.ndim == 2:
        return samples
    count = samples.shape[2]
    if samples.ndim != 3 or not 1 <= count <= 4:
        raise RasterError(f"has samples of shape {samples.shape}: grey or RGB is read, with or without alpha")
    if count <= 2:
        return np.ascontiguousarray(samples[..., 0])
    if samples.dtype == np.uint8:  # the rounding of Pillow, as for every other file of eight bits
        return np.asarray(Image.fromarray(np.ascontiguousarray(samples[..., :3])).convert("L"))
    return to_luma(samples)


def widened(array: np.ndarray, most: int) -> np.ndarray:
    """Return values of 0 to `most` as uint8 of 0 to 255, if there are fewer than eight bits of them."""
    if most >= 255:
        return array
    return np.rint(np.arange(256) * (255 / most)).clip(0, 255).astype(np.uint8)[array]


def _deep_jpeg(content: bytes, facts: tuple[int, ...]) -> np.ndarray:
    """Return the grey pixels of JPEG 2000 or JPEG that Pillow would cut or not open."""
    marker = facts[4]
    if facts[2] == 1 and (picture := decode_strictly(content, marker)) is not None:
        return picture
    kind = {0x51: imagecodecs.jpeg2k_decode, 0xF7: imagecodecs.jpegls_decode}.get(marker, imagecodecs.jpeg8_decode)
    picture = kind(content)
    check_complete(content, marker, picture if marker not in (0x51, 0xF7) else None)
    return grey_of(picture)


def _plain_jpeg(content: bytes, facts: tuple[int, ...], check: Check) -> np.ndarray | None:
    """Return the grey pixels of a JPEG of eight bits that libjpeg-turbo decodes without a warning, else None.

    It warns of a stream that is shorter or longer than its picture, as one that is cut or overwritten is. Pillow has
    the same pixels, but does not pass the warnings on; it decodes what is left: inks, and what is warned of.
    """
    colours = {1: "GRAY", 3: "RGBX"}.get(facts[2])  # RGBX is what Pillow takes without a copy
    if colours is None or facts[4] not in (0xC0, 0xC1, 0xC2):  # baseline, extended, progressive
        return None
    check(*facts[:2])
    try:
        samples = simplejpeg.decode_jpeg(content, colours)
    except ValueError:
        return None
    grey = samples[..., 0]
    if colours != "GRAY":
        size = samples.shape[1::-1]
        grey = np.asarray(Image.frombuffer("RGBX", size, samples, "raw", "RGBX", 0, 1).convert("L"))
    if content.find(b"Exif\0\0", 0, content.find(b"\xff\xda")) < 0:
        return grey
    with open_image(content) as image:
        return turned(grey, orientation(image))


def _pnm(content: bytes | memoryview, found: re.Match[bytes], check: Check) -> np.ndarray:
    """Return the grey pixels of a portable map, its values as they are (netpbm: pgm(5), ppm(5))."""
    kind, width, height, most = (int(value) for value in found.groups())
    check(height, width)
    if not 1 <= most <= 65535:
        raise RasterError(f"declares a brightest value of {most}: expected 1 to 65535")
    count = height * width * (3 if kind in (3, 6) else 1)
    dtype = np.dtype(np.uint8 if most < 256 else ">u2")
    if kind in (5, 6):
        missing = count * dtype.itemsize - (len(content) - found.end())
        pixels = np.frombuffer(content, dtype, count, found.end()) if missing <= 0 else None
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of text that is no number, counted below
            values = np.fromstring(bytes(content[found.end() :]), np.int64, sep=" ")[:count]
        missing = count - len(values)
        pixels = values.clip(0, most).astype(dtype) if missing <= 0 else None
    if pixels is None:
        raise RasterError(f"is damaged: {missing} bytes of its pixels are missing")
    pixels = widened(pixels.astype(dtype.newbyteorder("="), copy=False), most)
    return grey_of(pixels.reshape(height, width, -1)) if kind in (3, 6) else pixels.reshape(height, width)


class _tiff:
    """Opens a TIFF and yields the page of its picture and its orientation."""

    def __init__(self, source: bytes | Any):
        stream = io.BytesIO(source) if isinstance(source, bytes) else source
        stream.seek(0)
        self.file = tifffile.TiffFile(stream)

    def __enter__(self) -> tuple[Any, int]:
        page = _picture(self.file)
        turn = page.tags.valueof(274, 1)
        return page, turn if turn in range(1, 9) else 1

    def __exit__(self, *error: object) -> None:
        self.file.close()


def _picture(file: tifffile.TiffFile) -> tifffile.TiffPage:
    """Return the page of the one picture; smaller versions of it (thumbnails, pyramids) and masks are left aside."""
    pages: list[Any] = [page for page in cast(Any, file.pages) if not page.subfiletype & 5]  # 1: reduced, 4: a mask
    if not pages:
        raise RasterError("holds thumbnails and masks only")
    if not all(isinstance(side, int) for page in pages for side in (page.imagelength, page.imagewidth)):
        raise RasterError("is damaged: its size is no number")
    picture = max(pages, key=lambda page: page.imagelength * page.imagewidth)  # the first of the largest
    height, width = picture.imagelength, picture.imagewidth

    def is_smaller(page: Any) -> bool:
        off = abs(page.imagewidth * height - page.imagelength * width)
        return page.imagelength < height and page.imagewidth < width and off <= 2 * max(height, width)

    count = 1 + sum(not is_smaller(page) for page in pages if page is not picture)
    if count == 1:
        count = max((file.imagej_metadata or {}).get("images", 1) if file.is_imagej else 1, picture.imagedepth)
    if count > 1:
        raise RasterError(f"has {count} frames: a radiograph has one")
    return picture


def _tiff_pixels(page: Any) -> np.ndarray:
    """Return the grey pixels of a TIFF's page at their depth, white bright (TIFF 6.0, sections 3 to 6 and 16)."""
    bits, photometric = page.bitspersample, page.photometric
    if 262 not in page.tags:  # which TIFF requires; libtiff takes grey for BlackIsZero
        photometric = tifffile.PHOTOMETRIC.MINISBLACK if page.samplesperpixel < 3 else tifffile.PHOTOMETRIC.RGB
    name = getattr(photometric, "name", photometric)
    if page.dtype is None or page.dtype.kind not in "buif" or not isinstance(bits, int):
        raise RasterError(f"has samples of {bits} bits in format {page.sampleformat}: numbers of 1 to 64 bits are read")
    if page.nbytes > MAX_SAMPLE_BYTES:
        raise RasterError(f"declares {page.nbytes:,} bytes of samples: more than {MAX_SAMPLE_BYTES:,} are not read")
    if name not in ("MINISWHITE", "MINISBLACK", "RGB", "PALETTE", "YCBCR", "SEPARATED"):
        raise RasterError(f"has colours {name}: export it as grey or RGB")
    _check_segments(page)
    samples = page.asarray(maxworkers=1)
    if samples.dtype == np.float16:
        samples = samples.astype(np.float32)
    if samples.ndim == 3 and page.axes == "SYX":
        samples = np.moveaxis(samples, 0, 2)
    if samples.shape[:2] != (page.imagelength, page.imagewidth):
        raise RasterError(f"has samples of shape {samples.shape} and axes {page.axes}: one picture is read")
    if samples.dtype == np.bool_:
        samples = samples.astype(np.uint8)
    colours = {"RGB": 3, "YCBCR": 3, "SEPARATED": 4}.get(name, 1)
    extra = (samples.shape[2] if samples.ndim == 3 else 1) - colours
    if extra < 0 or extra > 1:
        raise RasterError(f"has {colours + extra} samples a pixel of {name}: expected {colours}, or one more for alpha")
    if name == "PALETTE":
        return grey_of(_palette(page)[samples if samples.ndim == 2 else samples[..., 0]])
    if samples.dtype.kind == "u" and bits < 8:
        samples, bits = widened(samples, 2**bits - 1), 8
    if name == "SEPARATED":
        return _from_inks(samples, bits)
    if name == "YCBCR" and page.compression not in (6, 7):  # not converted by the decoder: Y is the luma
        return np.ascontiguousarray(samples[..., 0])
    grey = grey_of(samples if colours > 1 or samples.ndim == 2 else samples[..., 0])
    if name != "MINISWHITE":
        return grey
    if grey.dtype.kind == "f":
        return grey.max() + grey.min() - grey
    return (grey.dtype.type(2**bits - 1) - grey) if grey.dtype.kind == "u" else ~grey


def _check_segments(page: Any) -> None:
    """Refuse a file that is cut: tifffile fills what is missing with zeros."""
    end = page.parent.filehandle.size
    for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        if not start or not length or start + length > end:
            raise RasterError("is damaged: a part of its pixels is missing (truncated)")


def _palette(page: Any) -> np.ndarray:
    """Return the colours (entries, 3) of a palette: eight bits where they were written as eight."""
    colours = np.ascontiguousarray(page.colormap.T)
    if not (colours & 255).any() or not (colours % 257).any():
        return (colours >> 8).astype(np.uint8)
    return colours


def _from_inks(samples: np.ndarray, bits: int) -> np.ndarray:
    """Return the luma of cyan, magenta, yellow and black: each ink takes its share of the light."""
    if samples.dtype.kind != "u" or samples.dtype.itemsize > 2:
        raise RasterError(f"has inks of type {samples.dtype}: export it as grey or RGB")
    most = 2**bits - 1
    light = most - samples[..., :4].astype(np.float64)
    return grey_of(np.rint(light[..., :3] * light[..., 3:] / most).astype(samples.dtype))
