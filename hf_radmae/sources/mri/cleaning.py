"""Cleaning rules for a clinical archive: what is no radiograph of a patient is dropped, and every rule says how many.

The rules and their limits are those of the archive of Klinikum rechts der Isar (Munich). Those of the header act on the
whole index at once; the two that need pixels are asked once an image is decoded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class CleaningRules:
    """Each rule drops images; False or None switches it off.

    Args:
        duplicates: a file whose name but for a trailing `[n]` was met before.
        no_pixels: no pixel data, or a shape without rows and columns.
        drawing: ImageType holds DRAWING (a sketch made at the console).
        width: exactly this many columns: 650, the console's screen shots.
        three_dimensions: several frames, or colour planes in the table's shape.
        max_side: a side of more pixels: 3072, the largest detector; more is stitched or scanned film.
        maximum: no grey value above this: 1000, an unexposed image.
        mean: a mean grey value of at most this: 100, a nearly black image.
    """

    duplicates: bool = True
    no_pixels: bool = True
    drawing: bool = True
    width: int | None = 650
    three_dimensions: bool = True
    max_side: int | None = 3072
    maximum: float | None = 1000
    mean: float | None = 100

    @classmethod
    def from_dict(cls, rules: Mapping[str, Any]) -> "CleaningRules":
        """Return the named rules as they are given, the others as they are by default.

        Raises:
            ValueError: there is no rule of a name.
        """
        known = [rule.name for rule in fields(cls)]
        if unknown := [name for name in rules if name not in known]:
            raise ValueError(f"cleaning rules {', '.join(unknown)} are unknown: choose of {', '.join(known)}")
        return cls(**rules)


def clean_index(index: pa.Table, rules: CleaningRules) -> tuple[np.ndarray, dict[str, int | None]]:
    """Apply the rules that need no pixels.

    Args:
        index: one row per image with the columns path, height, width, dimensions (0: no pixels) and drawing (null:
            not looked at).
        rules: which rules to apply.

    Returns:
        keep: (images,) bool.
        dropped: rule -> number of images that it was the first to drop; None for a rule that is on, but could not be
            applied because no header was read. A rule that is off is left out.
    """
    height, width, dimensions = (index[name].to_numpy() for name in ("height", "width", "dimensions"))
    drawing = index["drawing"]
    tests = {
        "duplicates": lambda: _duplicates(index["path"]),
        "no_pixels": lambda: (dimensions == 0) | (height == 0) | (width == 0),
        "drawing": lambda: drawing.fill_null(False).to_numpy(),
        "width": lambda: width == rules.width,
        "three_dimensions": lambda: dimensions > 2,
        "max_side": lambda: np.maximum(height, width) > rules.max_side,
    }
    keep = np.ones(len(index), bool)
    dropped: dict[str, int | None] = {}
    for rule, test in tests.items():
        if getattr(rules, rule) in (False, None):
            continue
        if rule == "drawing" and len(drawing) and drawing.null_count == len(drawing):
            dropped[rule] = None
            continue
        bad = test() & keep
        keep &= ~bad
        dropped[rule] = int(bad.sum())
    return keep, dropped


def pixel_rule(pixels: np.ndarray, rules: CleaningRules) -> str | None:
    """Return the rule, "maximum" or "mean", that drops a picture (rows, columns) of grey values, None to keep it."""
    if rules.maximum is not None and pixels.max() <= rules.maximum:
        return "maximum"
    if rules.mean is not None and pixels.mean(dtype=np.float64) <= rules.mean:
        return "mean"
    return None


def _duplicates(paths: pa.ChunkedArray) -> np.ndarray:
    """Return which files repeat another's name; the one without `[n]` stays, else the first."""
    names = pc.replace_substring_regex(paths, r"^.*/", "")
    stems = pc.replace_substring_regex(names, r"\[\d+\]$", "")
    codes = stems.combine_chunks().dictionary_encode().indices.to_numpy()
    suffixed = pc.not_equal(names, stems).to_numpy()
    order = np.lexsort((np.arange(len(codes)), suffixed, codes))
    repeats = np.ones(len(codes), bool)
    repeats[order[np.unique(codes[order], return_index=True)[1]]] = False
    return repeats
