"""Compares the encodings that an image in a prepared shard could have.

    OMP_NUM_THREADS=1 python scripts/benchmarks/encodings.py --json encodings.json

brings generated 16-bit radiographs, or those of --images FOLDER, to training resolution in 8 and 16 bit and prints for
each encoding the kB per image, alone and within a shard's zstd, and how many images one core encodes, decodes, and
makes ready (decoded, scaled to 0..1, resized) per second. Expected: uncompressed PGM decodes several times faster than
anything lossless else, and takes twice the disk of PNG; PNG level 6 is no smaller than run lengths, and slow to write.
"""

import argparse
import io
import json
import time
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from hf_radmae.images.fitting import as_tensor, fit_image
from hf_radmae.images.image import read_image
from hf_radmae.shards.shrink import PrepareOptions, encode, shrink, target_size
from hf_radmae.sources.phantom import generate


def saved(**options: Any) -> Callable[[np.ndarray], bytes]:
    """An encoder of Pillow's."""

    def save(pixels: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, **options)
        return file.getvalue()

    return save


ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {
    "PGM, uncompressed": partial(encode, encoding="pgm"),
    "TIFF, uncompressed": saved(format="TIFF"),
    "PNG level 0": saved(format="PNG", compress_level=0),
    "PNG level 1": saved(format="PNG", compress_level=1),
    "PNG level 6": saved(format="PNG", compress_level=6),
    "PNG run lengths": saved(format="PNG", compress_level=1, compress_type=zlib.Z_RLE),
    "WebP lossless": saved(format="WEBP", lossless=True, method=0),
    "JPEG quality 95": saved(format="JPEG", quality=95),
}


def per_second(run: Callable[[], Iterable[Any]], count: int, repeats: int = 3) -> float:
    """Images per second of this process's own time, the best of some passes over `count` images."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        for _ in run():
            pass
        best = min(best, time.process_time() - start)
    return count / best


def ready(file: bytes, shape: tuple[int, int]) -> torch.Tensor:
    """An image as a training batch takes it."""
    return fit_image(as_tensor(read_image(file)), shape)


def compare_encodings(pictures: list[np.ndarray], side: int, shape: tuple[int, int]) -> list[dict[str, Any]]:
    """A row per encoding and depth: kB per image, alone and in a shard, and images per second."""
    rows = []
    for bits in (8, 16):
        options = PrepareOptions(longest_side=side)
        small = [shrink(p, target_size(p.shape[0], p.shape[1], options), bits, "image") for p in pictures]
        for name, encoder in ENCODERS.items():
            if bits == 16 and name.startswith(("WebP", "JPEG")):
                continue
            files = [encoder(pixels) for pixels in small]
            sizes = [len(b"".join(files)), len(pa.compress(b"".join(files), "zstd", asbytes=True))]
            row: dict[str, Any] = {"encoding": name, "bits": bits}
            row |= {key: size / len(files) / 1e3 for key, size in zip(("kB", "kB_in_shard"), sizes, strict=True)}
            rates = {
                "encoded": partial(map, encoder, small),
                "decoded": partial(map, read_image, files),
                "ready": partial(map, partial(ready, shape=shape), files),
            }
            rows.append(row | {key: per_second(run, len(files)) for key, run in rates.items()})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--images", type=Path, help="folder of image files, searched at every depth (default: generated images)")
    option("--count", type=int, default=24, help="images to take (default: 24)")
    option("--side", type=int, default=512, help="longest side of the prepared images in pixels (default: 512)")
    option("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()

    torch.set_num_threads(1)
    if args.images:
        files = sorted(path for path in args.images.rglob("*") if path.is_file())
        pictures = [read_image(file) for file in files[:: max(1, len(files) // args.count)][: args.count]]
    else:
        pictures = [image.pixels() for image in generate(args.count)]
    rows = compare_encodings(pictures, args.side, (args.side // 8 * 7,) * 2)
    print(f"| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print(
            "|", " | ".join(f"{value:.0f}" if isinstance(value, float) else str(value) for value in row.values()), "|"
        )
    if args.json:
        figures = {"encodings": rows, "side": args.side, "count": len(pictures), "generated": args.images is None}
        args.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
