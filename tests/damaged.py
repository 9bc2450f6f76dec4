"""Files that cannot be radiographs, each broken in another way, and encoders for those that can."""

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def encode(picture: np.ndarray | Image.Image, file_format: str, **options: Any) -> bytes:
    """The picture as a file of a Pillow format."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    stream = BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def radiograph(height: int = 48, width: int = 40, seed: int = 0) -> np.ndarray:
    """Noise on a gradient, uint8, its darkest pixel 0 and its brightest 255."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    picture = y / height * rng.uniform(0.3, 1) + x / width * rng.uniform(0.3, 1) + rng.uniform(0, 0.3, y.shape)
    return np.rint(255 * (picture - picture.min()) / np.ptp(picture)).astype(np.uint8)


def bomb(side: int) -> bytes:
    """A PNG of a few bytes whose header declares a square of `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def damaged_files() -> dict[str, tuple[bytes, str]]:
    """File name -> what it holds, and a pattern of the reason for which it is refused."""
    good = radiograph()
    png, jpeg = encode(good, "PNG"), encode(good, "JPEG")
    frames = [Image.fromarray(radiograph(seed=seed)) for seed in range(2)]
    with_nan = good.astype(np.float32)
    with_nan[3, 4] = np.nan
    return {
        "empty.png": (b"", "is empty"),
        "text.png": (b"patient did not show up\n" * 20, "no image of a known format"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "damaged: .*truncated"),
        "half.png": (png[: len(png) // 2], "damaged: .*truncated"),
        "header.png": (png[:18] + bytes(8) + png[26:], "no image of a known format"),
        "constant.png": (encode(np.full((48, 40), 7, np.uint8), "PNG"), "constant: every pixel is 7"),
        "pixel.png": (encode(np.ones((1, 1), np.uint8), "PNG"), "1x1 pixels: the shortest side"),
        "long.png": (encode(radiograph(8, 400), "PNG"), "8x400 pixels: longer than 20 times"),
        "frames.tif": (encode(frames[0], "TIFF", save_all=True, append_images=frames[1:]), "2 frames"),
        "frames.gif": (encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), "2 frames"),
        "nan.tif": (encode(with_nan, "TIFF"), "NaN or infinite"),
        "bomb.png": (bomb(12_000), "declares 12000x12000 pixels"),
        "larger_bomb.png": (bomb(30_000), "decompression bomb"),
    }


def write_damaged(folder: Path) -> Iterator[Path]:
    """Writes the damaged files into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (content, _) in damaged_files().items():
        path = folder / name
        path.write_bytes(content)
        yield path
