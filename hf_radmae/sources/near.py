"""Images that look alike, by perceptual hashes: for archives without patients, and for re-exports.

A hash has 256 bits: which of the lowest frequencies of a small picture are above their median (`phash` of the library
imagehash gives the same). The distance of two hashes is the number of bits that differ.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from hf_radmae.images.image import ImageError, read_image
from hf_radmae.images.storage import StorageError, storage_fault

HASH_SIZE = 16
"""Side of the square of frequencies: 256 bits."""
DISTANCE = 15
"""Most bits by which hashes of near duplicates differ."""
_BANDS = DISTANCE + 1  # of which two such hashes agree in at least one


def near_duplicate_groups(images: Iterable[Any], *, threads: int = 4) -> list[str | None]:
    """For each image the group of those that look alike, None where there is no other.

    Args:
        images: rows of an undecoded image column.
        threads: images that are decoded at once.
    """
    hashes = perceptual_hashes(images, threads)
    known = [row for row, bits in enumerate(hashes) if bits is not None]
    pairs = close_pairs(np.array([hashes[row] for row in known], dtype=bool).reshape(len(known), HASH_SIZE**2))
    joined = connected_components(coo_matrix((np.ones(len(pairs)), pairs.T), (len(known), len(known))), False)[1]
    counts = np.bincount(joined, minlength=1)
    groups: list[str | None] = [None] * len(hashes)
    for place, row in enumerate(known):
        if counts[joined[place]] > 1:
            groups[row] = f"near {joined[place]}"
    return groups


def perceptual_hashes(images: Iterable[Any], threads: int = 4) -> list[np.ndarray | None]:
    """`perceptual_hash` of each image, so many at once."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(perceptual_hash, images))


def perceptual_hash(image: Any) -> np.ndarray | None:
    """Bits (256,) of an image, None where it cannot be read."""
    try:
        pixels = read_image(image).astype(np.float32)
    except (ImageError, FileNotFoundError) as error:
        if fault := storage_fault(error):
            raise StorageError(fault.errno, str(fault)) from error
        return None
    low, high = np.percentile(pixels, (1, 99))
    scaled = np.clip((pixels - low) / max(high - low, 1e-6), 0, 1) * 255
    side = (4 * HASH_SIZE, 4 * HASH_SIZE)
    small = np.asarray(Image.fromarray(scaled.astype(np.uint8)).resize(side, Image.Resampling.LANCZOS), np.float64)
    lowest = dctn(small)[:HASH_SIZE, :HASH_SIZE]
    return (lowest > np.median(lowest)).ravel()


def close_pairs(bits: np.ndarray) -> np.ndarray:
    """The pairs of hashes (n, 256) that differ in at most `DISTANCE` bits, int (pairs, 2).

    Two of them agree in one of 16 bands of 16 bits (Manku et al. 2007), so that only those are compared.
    """
    packed = np.packbits(bits, axis=1)
    bands = packed.reshape(len(bits), _BANDS, -1)
    found: set[tuple[int, int]] = set()
    for band in range(_BANDS):
        rows_of: dict[bytes, list[int]] = defaultdict(list)
        for row, value in enumerate(bands[:, band]):
            rows_of[value.tobytes()].append(row)
        for rows in rows_of.values():
            for place, row in enumerate(rows[:-1]):
                others = np.array(rows[place + 1 :])
                distance = np.bitwise_count(packed[others] ^ packed[row]).sum(1)
                found.update((row, int(other)) for other in others[distance <= DISTANCE])
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 2)
