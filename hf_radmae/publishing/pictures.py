"""Images as pixels alone: what an encoded image holds beside them is not written again."""

import io
import re
import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image, UnidentifiedImageError

_PGM = re.compile(rb"P5\n([1-9]\d{0,4}) ([1-9]\d{0,4})\n(255|65535)\n")
_PNG = b"\x89PNG\r\n\x1a\n"


def pixels_alone(content: bytes) -> bytes:
    """An encoded image written anew.

    A PGM and a grey or RGB PNG keep their samples bit for bit; a PNG of a palette or with transparency becomes grey or
    RGB. A JPEG is decoded and encoded with the standard tables of its quality (95 where it has others), which changes
    grey values by rounding.

    Raises:
        ValueError: it is no whole image of these three kinds, or a PGM or PNG has something behind its pixels.
    """
    if content[:2] == b"P5":
        return _pgm(content)
    if content[:8] == _PNG:
        return _png(content)
    if content[:3] == b"\xff\xd8\xff":
        return _jpeg(content)
    raise ValueError("an image that is neither PGM, PNG nor JPEG")


def _pgm(content: bytes) -> bytes:
    sizes = _PGM.match(content)
    if sizes is None:
        raise ValueError("a PGM with a comment, or another header than P5, width, height, 255 or 65535")
    samples = int(sizes[1]) * int(sizes[2]) * (2 if sizes[3] == b"65535" else 1)
    if len(content) != sizes.end() + samples:
        raise ValueError("something beside the pixels of a PGM, or a PGM that is cut off")
    return content


def _png(content: bytes) -> bytes:
    """The same compressed rows between a header and an end of fixed length, if that is all there is to the image."""
    header, stream = b"", []
    for kind, data in _chunks(content):
        if kind == b"IHDR":
            header = data
        elif kind == b"IDAT":
            stream.append(data)
    if len(header) != 13:
        raise ValueError("a PNG without a header of 13 bytes")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", header)
    if (colour, depth) not in ((0, 8), (0, 16), (2, 8), (2, 16)) or interlace or compression or filtering:
        return _from_pixels(_decoded(content, "PNG"), "PNG")
    length = 1 + width * depth // 8 * (3 if colour == 2 else 1)
    if width * height > Image.MAX_IMAGE_PIXELS:  # type: ignore[operator]  # a number unless someone removes the limit
        raise ValueError(f"a PNG of {width}x{height}")
    packed = b"".join(stream)
    reader = zlib.decompressobj()
    try:
        rows = reader.decompress(packed, height * length + 1)
    except zlib.error as error:
        raise ValueError("a PNG that is damaged") from error
    if len(rows) != height * length or not reader.eof or reader.unused_data or reader.unconsumed_tail:
        raise ValueError("a PNG that is cut off, or has something behind its pixels")
    if (np.frombuffer(rows, np.uint8)[::length] > 4).any():
        raise ValueError("a PNG that is damaged")
    return _PNG + b"".join(_chunk(kind, data) for kind, data in ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")))


def _chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    found, position, kind = [], 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content.ljust(position + 8, b"\0"), position)
        chunk = content[position : position + 12 + length]
        if len(chunk) < 12 + length or struct.pack(">I", zlib.crc32(chunk[4:-4])) != chunk[-4:]:
            raise ValueError("a PNG that is cut off or damaged")
        found.append((kind, chunk[8:-4]))
        position += 12 + length
    return found


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _jpeg(content: bytes) -> bytes:
    image = _decoded(content, "JPEG")
    tables = getattr(image, "quantization", {})
    return _from_pixels(image, "JPEG", quality=_qualities().get(tuple(tables.get(0, ())), 95))


@cache
def _qualities() -> dict[tuple[int, ...], int]:
    """The standard tables of every quality, as Pillow reads them."""
    found = {}
    for quality in range(1, 101):
        file = io.BytesIO()
        Image.new("L", (8, 8)).save(file, "JPEG", quality=quality)
        found[tuple(Image.open(file).quantization[0])] = quality  # type: ignore[attr-defined]  # of JPEG images
    return found


def _decoded(content: bytes, kind: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content), formats=[kind])
        image.load()
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"a {kind} that is damaged") from error
    return image


def _from_pixels(image: Image.Image, kind: str, **options: int) -> bytes:
    """An image from its samples, so that nothing that Pillow read beside them is written."""
    pixels = np.asarray(image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB"))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()
