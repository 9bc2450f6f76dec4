"""The list of images that had to be set aside, and the one clear error when they are too many."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from hf_radmae.batching.dataset import Skipped

FIELDS = ("index", "image", "reason")


class TooManySkippedError(ValueError):
    """More images are unusable than the run accepts: the data is wrong, not an image."""


class SkippedImages:
    """Appends every unusable image once to a CSV file, and raises when their share passes a limit.

    Every process of a run appends to the same file; a resumed run goes on with it. Each process counts what it saw
    itself and what the file held at the start.

    Args:
        path: the CSV file, made with the first entry; columns index, image, reason.
        total: images of the run, which the share is taken of.
        max_share: the largest share that a run goes on with.
    """

    def __init__(self, path: str | Path, total: int, max_share: float = 0.01):
        self.path, self.total, self.max_share = Path(path), total, max_share
        self._seen = {row["image"] for row in self.rows()}

    def __len__(self) -> int:
        return len(self._seen)

    def rows(self) -> list[dict[str, str]]:
        """What the file lists, one row an image, in the order of their names."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            whole = [
                row for row in csv.DictReader(file, FIELDS) if row["reason"] is not None
            ]  # the last may be cut off
        rows = {row["image"]: {field: row[field] for field in FIELDS} for row in whole}
        rows.pop("image", None)  # the header line
        return [rows[image] for image in sorted(rows)]

    def add(self, records: Iterable[Skipped]) -> None:
        """Lists the images that are new.

        Raises:
            TooManySkippedError: the share of unusable images is above the limit.
        """
        new = {record["image"]: record for record in records if record["image"] not in self._seen}
        if not new:
            return
        self._seen.update(new)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS)
            if file.tell() == 0:
                writer.writeheader()
            writer.writerows(new.values())
        if len(self) > self.max_share * self.total:
            last = next(reversed(new.values()))
            raise TooManySkippedError(
                f"{len(self)} of {self.total} images cannot be used: more than the accepted share of "
                f"{self.max_share:g}. They are listed with the reason in {self.path}; the last is {last['image']}: "
                f"{last['reason']}. "
                "Mend or remove them, or accept more with --max_skipped_share."
            )
