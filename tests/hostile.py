"""Two hundred inputs that are no radiograph, with the name of what is wrong with each."""

import base64
import gzip
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from damaged import damaged_files, encode, radiograph
from PIL import Image
from tiny_dicom import tiny_dicom

SIGNATURES = {
    "png": b"\x89PNG\r\n\x1a\n",
    "jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    "tiff": b"II*\x00\x08\x00\x00\x00",
    "gif": b"GIF89a",
    "webp": b"RIFF\xff\xff\x00\x00WEBPVP8 ",
    "bmp": b"BM\xff\xff\x00\x00",
    "dicom": bytes(128) + b"DICM",
    "jp2": b"\x00\x00\x00\x0cjP  \r\n\x87\n",
    "pgm": b"P5\n4000 4000\n255\n",
    "mp4": b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00",
    "avi": b"RIFF\xff\xff\x00\x00AVI LIST",
    "mkv": b"\x1aE\xdf\xa3",
    "pdf": b"%PDF-1.7\n",
    "html": b"<!doctype html><html><body>Not found",
    "pickle": b"\x80\x04\x95",
    "elf": b"\x7fELF\x02\x01",
}
"""How files of a kind begin; what follows here is noise."""


def png_bomb(side: int) -> bytes:
    """A square PNG of `side` pixels, all black and whole: some thousand bytes for each million of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, row = zlib.compressobj(1), bytes(side + 1)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return SIGNATURES["png"] + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def contents() -> Iterator[tuple[str, bytes]]:
    """Names and contents of files."""
    rng = np.random.default_rng(0)
    yield from ((name, content) for name, (content, _) in damaged_files().items())
    for kind, signature in SIGNATURES.items():
        for size in (0, 7, 40, 500, 5000):
            yield f"noise_{size}.{kind}", signature + rng.bytes(size)
    picture = radiograph(64, 64)
    whole = {kind: encode(picture, kind) for kind in ("PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP", "PPM")}
    whole["DICOM"] = tiny_dicom(picture.astype(np.uint16))
    for kind, content in whole.items():
        for share in (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
            yield f"cut_{share}.{kind.lower()}", content[: int(share * len(content))]
    for rows, columns in ((0, 64), (64, 0), (60_000, 60_000), (65_535, 65_535), (1, 1), (2, 4000), (4000, 2)):
        yield f"dicom_{rows}x{columns}.dcm", tiny_dicom(picture.astype(np.uint16), Rows=rows, Columns=columns)
    wrong = {"NumberOfFrames": 3, "BitsAllocated": 13, "BitsStored": 40, "SamplesPerPixel": 7, "HighBit": 40}
    for element, value in (wrong | {"PhotometricInterpretation": "HSV"}).items():
        yield f"dicom_{element}.dcm", tiny_dicom(picture.astype(np.uint16), **{element: value})
    for syntax in (b"1.2.840.10008.1.2.5", b"1.2.840.10008.1.2.2"):  # run lengths and big endian, and it is neither
        yield f"dicom_{syntax.decode()}.dcm", whole["DICOM"].replace(b"1.2.840.10008.1.2.1", syntax)
    for missing in ("PixelData", "Rows", "BitsAllocated", "PhotometricInterpretation"):
        yield f"dicom_without_{missing}.dcm", tiny_dicom(picture.astype(np.uint16), drop=(missing,))
    yield "constant.dcm", tiny_dicom(np.full((64, 64), 9, np.uint16))
    yield "black_bomb.png", png_bomb(11_000)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("../../scan.png", bytes(20_000_000))
    yield "bomb.zip", archive.getvalue()
    yield "bomb.gz", gzip.compress(bytes(20_000_000))
    frames = [Image.fromarray(radiograph(64, 64, seed)) for seed in range(3)]
    for kind in ("TIFF", "GIF", "WEBP", "PNG"):
        yield f"animated.{kind.lower()}", encode(frames[0], kind, save_all=True, append_images=frames[1:])


def hostile_inputs(folder: Path) -> list[tuple[str, Any]]:
    """(name, input), most of them files that are written to the folder."""
    found: list[tuple[str, Any]] = []
    for name, content in contents():
        (folder / name).write_bytes(content)
        found.append((name, str(folder / name)))
        if len(content) < 2000:
            found.append((f"bytes of {name}", content))
    with (folder / "sparse.dcm").open("wb") as file:
        file.truncate(2**36)
    found.append(("64 gigabytes of zeros", str(folder / "sparse.dcm")))
    os.mkfifo(folder / "pipe")
    places = (
        "/dev/zero",
        "/dev/stdin",
        "../../../../etc/passwd",
        "/etc/shadow",
        "/proc/self/mem",
        "file:///etc/passwd",
    )
    found += [(place, place) for place in (*places, "", ".", "\0", "a" * 5000, str(folder), str(folder / "pipe"))]
    found += [(url, url) for url in ("http://127.0.0.1:9/scan.png", "http://[", "https://", "ftp://127.0.0.1/scan.png")]
    noise = base64.b64encode(np.random.default_rng(1).bytes(500)).decode()
    data_urls = ("data:image/png;base64,", "data:image/png;base64,%%%", f"data:image/png;base64,{noise}", noise)
    found += [(f"data {number}", text) for number, text in enumerate(data_urls)]
    hole = radiograph(64, 64).astype(np.float32)
    hole[1, 2] = np.nan
    arrays = {
        "nan": hole,
        "infinite": np.where(np.isnan(hole), np.inf, hole),
        "text": np.full((64, 64), "a"),
        "objects": np.full((64, 64), None),
        "complex": np.ones((64, 64), complex),
        "no pixels": np.zeros((0, 64), np.uint8),
        "a line": np.arange(64),
        "a number": np.array(3),
        "a volume": np.random.default_rng(2).random((64, 64, 64)),
        "five dimensions": np.zeros((1, 2, 3, 4, 5)),
        "all equal": np.ones((64, 64)),
    }
    found += list(arrays.items())
    found += [("tensor with nan", torch.from_numpy(hole)), ("half with nan", torch.from_numpy(hole).bfloat16())]
    found += [("a dict", {"text": "hello"}), ("a set", {1, 2}), ("a number", 3.5), ("true", True)]
    return found
