"""Which images a checkpoint was trained on: a list of hashes beside it, so that no table is of images that it has seen.

A hash is perceptual: an image is known again when it was renamed, re-encoded, scaled, or stored at another depth. One
that was cropped, turned or mirrored is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import datasets
import numpy as np
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_radmae.images.storage import write_whole
from hf_radmae.models.starts import MAE_FOLDER
from hf_radmae.sources.near import DISTANCE, perceptual_hashes

FILE = "seen_images.txt"


def image_hashes(rows: datasets.Dataset) -> np.ndarray:
    """`perceptual_hash` of each image that can be read, as bytes: uint8 (images, 32)."""
    hashes = perceptual_hashes(row["image"] for row in rows.select_columns(["image"]))
    return np.packbits(np.array([bits for bits in hashes if bits is not None], bool).reshape(-1, 256), axis=1)


def save_seen(rows: Iterable[datasets.Dataset], folder: str | Path, start: str | Path | None = None) -> Path:
    """Writes the hashes of images that a checkpoint in the folder has seen, in their order. The list stays local.

    Args:
        rows: the images that it was trained and chosen on.
        folder: of the checkpoint.
        start: the checkpoint that it was continued from; what that has seen is added.
    """
    known = None if start is None else read_seen(start)
    parts = [*map(image_hashes, rows), *([] if known is None else [known])]
    path = Path(folder, FILE)
    write_whole(path, "".join(f"{line}\n" for line in sorted({row.tobytes().hex() for part in parts for row in part})))
    return path


def read_seen(checkpoint: str | Path) -> np.ndarray | None:
    """The list of a checkpoint, or of the run whose folder it lies in, uint8 (images, 32); None without."""
    folder = Path(checkpoint).resolve()
    if folder.name == MAE_FOLDER or folder.name.startswith(PREFIX_CHECKPOINT_DIR):
        folder = folder if Path(folder, FILE).is_file() else folder.parent
    if not Path(folder, FILE).is_file():
        return None
    lines = Path(folder, FILE).read_text(encoding="utf-8").split()
    if any(len(line) != 64 for line in lines):
        return None  # of a version of this package whose hashes were others
    return np.frombuffer(bytes.fromhex("".join(lines)), np.uint8).reshape(-1, 32)


def check_unseen(checkpoint: str | Path, test: datasets.Dataset) -> bool:
    """Whether the checkpoint's list was there and holds none of the test images; False where there is no list.

    Raises:
        ValueError: the checkpoint was trained on test images.
    """
    seen = count_seen(checkpoint, test)
    if seen:
        raise ValueError(
            f"{checkpoint} was trained on {seen} of the {len(test)} test images, or on images that look the same: take "
            "another checkpoint, or the --split_seed that it was trained with; with --near_duplicates images that look "
            "the same stay in one split"
        )
    return seen is not None


def count_seen(checkpoint: str | Path, rows: datasets.Dataset) -> int | None:
    """How many of the images the checkpoint's list holds; None where there is no list."""
    known = read_seen(checkpoint)
    if known is None:
        return None
    words = known.view(np.uint64)
    return sum(bool((np.bitwise_count(words ^ row).sum(1) <= DISTANCE).any()) for row in image_hashes(rows).view("u8"))
