"""The body part behind a spelling: what folders, tables and DICOM headers write, German or English, becomes one class.

`body_parts.csv` (columns spelling, body_part) is the whole rule; a lab with other classes gives a table of its own.
"""

import csv
import hashlib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

BODY_PARTS_CSV = Path(__file__).with_name("body_parts.csv")

_UMLAUTS = str.maketrans({"Ä": "AE", "Ö": "OE", "Ü": "UE", "ẞ": "SS"})
_SIDES = {
    "L",
    "R",
    "LI",
    "RE",
    "LINKS",
    "RECHTS",
    "LEFT",
    "RIGHT",
    "BDS",
    "BEIDSEITS",
    "BOTH",
    "BILATERAL",
    "SIN",
    "DEX",
}
_VIEWS = {"AP", "PA", "LAT", "SEITL", "SEITLICH", "AXIAL", "SCHRAEG", "OBLIQUE", "EBENEN", "EBENE", "IN"}


class BodyParts:
    """Maps spellings to class indices; `names` are the classes in the table's order, `digest` tells tables apart."""

    def __init__(self, path: str | Path | None = None) -> None:
        """Read the table that comes with the package, or one with the same two columns.

        Raises:
            ValueError: other columns, an empty cell, or one spelling for two parts.
        """
        path = Path(path or BODY_PARTS_CSV)
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != ["spelling", "body_part"]:
                raise ValueError(f"{path}: columns {reader.fieldnames}; expected spelling,body_part")
            rows = [(row["spelling"], row["body_part"]) for row in reader]
        self.digest = hashlib.blake2b(repr(rows).encode(), digest_size=8).hexdigest()
        self.names = list(dict.fromkeys(part for _, part in rows))
        self._index: dict[str, int] = {name.replace("_", " ").upper(): code for code, name in enumerate(self.names)}
        for number, (spelling, part) in enumerate(rows, start=2):
            if not spelling or not part:
                raise ValueError(f"{path}, line {number}: an empty cell; give a spelling and its body part")
            code = self.names.index(part)
            if self._index.setdefault(normalise(spelling), code) != code:
                raise ValueError(
                    f"{path}, line {number}: {spelling} stands for a second body part; remove one of the two"
                )

    def codes(self, spellings: Iterable[str]) -> list[int]:
        """Return the class of each spelling, -1 where the table does not have it."""
        return [self._index.get(normalise(spelling), -1) for spelling in spellings]


def normalise(spelling: str) -> str:
    """Return a spelling in upper case without umlauts, signs, numbers, side and view: "Hüfte li. ap" -> "HUEFTE"."""
    words = re.findall(r"[A-Z]+", unicodedata.normalize("NFC", spelling).upper().translate(_UMLAUTS))
    return " ".join(word for word in words if word not in _SIDES | _VIEWS)
