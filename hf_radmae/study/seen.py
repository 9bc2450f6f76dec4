"""Which images a checkpoint was trained on: a list of hashes beside it, so that a study never tests on them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets

from hf_radmae.images.storage import write_whole

FILE = "seen_images.txt"
PART = 32_768  # bytes that are read at the start, in the middle and at the end: the first ones may all be border


def image_hashes(rows: datasets.Dataset) -> list[str]:
    """Sixteen hex digits of each image that is there: of its length and parts of it, whatever its name and folder."""
    return [found for row in rows.select_columns(["image"]) if (found := _hash(row["image"])) is not None]


def save_seen(rows: Iterable[datasets.Dataset], folder: str | Path) -> Path:
    """Writes the hashes of images that a checkpoint in the folder has seen, in order of the hash. It stays local."""
    path = Path(folder, FILE)
    write_whole(path, "\n".join(sorted({h for part in rows for h in image_hashes(part)})) + "\n")
    return path


def check_unseen(checkpoint: str | Path, test: datasets.Dataset) -> bool:
    """Whether the checkpoint's list was there and holds none of the test images; False where there is no list.

    Raises:
        ValueError: the checkpoint was trained on test images.
    """
    path = Path(checkpoint, FILE)
    if not path.is_file():
        return False
    known = set(path.read_text(encoding="utf-8").split())
    seen = sum(found in known for found in image_hashes(test))
    if seen:
        raise ValueError(
            f"{checkpoint} was trained on {seen} of the {len(test)} test images of this study: take another "
            "checkpoint, or the --split_seed that it was trained with"
        )
    return True


def _hash(image: dict[str, Any]) -> str | None:
    """None of a file that is no longer there."""
    data = image.get("bytes")
    try:
        with io.BytesIO(data) if data is not None else Path(image["path"]).open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            found = hashlib.sha256(size.to_bytes(8, "big"))
            for place in (0, size // 2, max(0, size - PART)):
                file.seek(place)
                found.update(file.read(PART))
    except FileNotFoundError:
        return None
    return found.hexdigest()[:16]
