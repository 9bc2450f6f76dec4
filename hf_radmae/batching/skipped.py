"""The list of skipped images, one format for loading, preparing, training and embedding; too many are an error.

Its columns are split, index (the row of the split), image and reason. The split is "none" for what a source's layout
leaves out (a file that no metadata names): such files are counted, but are no fault of an image.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hf_radmae.images.remote import Place
from hf_radmae.images.storage import whole_file

FIELDS = ("split", "index", "image", "reason")
NO_SPLIT = "none"


def skipped_image(image: str, reason: str, split: str = NO_SPLIT, index: int = -1) -> dict[str, Any]:
    """An entry of the list; bytes of a name that are not UTF-8 are written as `\\xNN`."""
    name = os.fsencode(image).decode("utf-8", "backslashreplace")
    return {"split": split, "index": index, "image": name, "reason": reason}


def write_skipped(path: str | Place, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole list, with its header even where it is empty."""
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def read_skipped(path: str | Path) -> list[dict[str, Any]]:
    """The entries of a list in their order; a last line that was cut off is left out."""
    if not Path(path).exists():
        return []
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, FIELDS) if row["reason"] is not None and row["image"] != "image"]
    return [{**row, "index": int(row["index"] or -1)} for row in rows]


class TooManySkippedError(ValueError):
    """More images are unusable than the run accepts: the data is wrong, not an image."""


class SkippedImages:
    """Appends every unusable image once to a CSV file, and raises when their share passes a limit.

    One process of a run writes the file, with what a trainer gathers from the others; a resumed run appends to it.

    Args:
        path: the CSV file, made with the first entry.
        total: images of the run, which the share is taken of.
        max_share: the largest share that a run accepts.
    """

    def __init__(self, path: str | Path, total: int, max_share: float = 0.01):
        self.path, self.total, self.max_share = Path(path), total, max_share
        rows = self.rows()
        self._seen = {row["image"] for row in rows}
        self._faulty = sum(row["split"] != NO_SPLIT for row in rows)

    def __len__(self) -> int:
        return len(self._seen)

    def rows(self) -> list[dict[str, Any]]:
        """What the file lists, one row an image, in the order of their names."""
        rows = {row["image"]: row for row in read_skipped(self.path)}
        return [rows[image] for image in sorted(rows)]

    def add(self, records: Iterable[Mapping[str, Any]], *, write: bool = True) -> None:
        """Lists the images that are new; without `write` it only counts them.

        Raises:
            TooManySkippedError: the share of unusable images is above the limit.
        """
        new = {record["image"]: record for record in records if record["image"] not in self._seen}
        if not new:
            return
        self._seen.update(new)
        self._faulty += sum(record.get("split") != NO_SPLIT for record in new.values())
        if write:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, FIELDS, restval="", extrasaction="ignore", lineterminator="\n")
                if file.tell() == 0:
                    writer.writeheader()
                writer.writerows(new.values())
        if self._faulty > self.max_share * self.total:
            last = next(reversed(new.values()))
            raise TooManySkippedError(
                f"{self._faulty} of {self.total} images cannot be used: more than the accepted share of "
                f"{self.max_share:g}. They are listed with the reason in {self.path}; the last is {last['image']}: "
                f"{last['reason']}. "
                "Mend or remove them, or accept more with --max_skipped_share."
            )
