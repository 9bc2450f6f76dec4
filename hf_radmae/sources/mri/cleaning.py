"""Cleaning rules for a clinical archive: what is no radiograph of a patient is dropped, and every rule says how many.

The rules and their limits are those of the archive of Klinikum rechts der Isar (Munich). Those of the header act on the
whole index at once; the two that need pixels are asked once an image is decoded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa

RULE_BITS = 12
"""Depth that the limits on grey values are meant for; deeper images are held to them as they are."""


@dataclass(frozen=True)
class CleaningRules:
    """Each rule drops images; False or None switches it off.

    Args:
        duplicates: a copy of another file: the same SOP Instance UID and the same stored pixels.
        no_pixels: no pixel data, or a shape without rows and columns.
        drawing: ImageType holds DRAWING (a sketch made at the console).
        width: exactly this many columns: 650, the console's screen shots.
        three_dimensions: several frames, or colour planes in the table's shape.
        max_side: a side of more pixels: 3072, the largest detector; more is stitched or scanned film.
        maximum: no grey value above this: 1000, an unexposed image. It is meant for 12 bits and more; of an image with
            fewer it is the same share of the range, and images of fractions (optical densities) have no such rule.
        mean: a mean grey value of at most this: 100, a nearly black image. Scaled likewise; of fractions it is a share
            of the range that the image fills.
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
        index: one row per image with the columns height, width, dimensions (0: no pixels), drawing and duplicate (null:
            not looked at).
        rules: which rules to apply.

    Returns:
        rules: (images,) the rule that dropped each image, "" for those that stay.
        dropped: rule -> number of images that it was the first to drop; None for a rule that is on, but could not be
            applied because no file was looked at. A rule that is off is left out.
    """
    height, width, dimensions = (index[name].to_numpy() for name in ("height", "width", "dimensions"))
    tests = {
        "duplicates": lambda: index["duplicate"].fill_null(False).to_numpy(),
        "no_pixels": lambda: (dimensions == 0) | (height == 0) | (width == 0),
        "drawing": lambda: index["drawing"].fill_null(False).to_numpy(),
        "width": lambda: width == rules.width,
        "three_dimensions": lambda: dimensions > 2,
        "max_side": lambda: np.maximum(height, width) > rules.max_side,
    }
    dropped_by = np.full(len(index), "", dtype="U20")
    dropped: dict[str, int | None] = {}
    for rule, test in tests.items():
        if getattr(rules, rule) in (False, None):
            continue
        needs = {"drawing": "drawing", "duplicates": "duplicate"}.get(rule)
        if needs and len(index) and index[needs].null_count == len(index):
            dropped[rule] = None
            continue
        bad = test() & (dropped_by == "")
        dropped_by[bad] = rule
        dropped[rule] = int(bad.sum())
    return dropped_by, dropped


def pixel_rule(pixels: np.ndarray, rules: CleaningRules, bits: int | None = None) -> str | None:
    """Return the rule, "maximum" or "mean", that drops a picture, None to keep it.

    Args:
        pixels: (rows, columns) grey values.
        rules: of which `maximum` and `mean` are looked at; their values are those of `RULE_BITS` bits.
        bits: that a pixel has by the file's header; by default those of the pixels' type.
    """
    maximum, mean = float(pixels.max()), float(pixels.mean(dtype=np.float64))
    if pixels.dtype.kind == "f" and (pixels[::7, ::7] % 1).any():  # fractions: nothing says how far they could go
        low = float(pixels.min())
        scale, maximum, mean = (maximum - low) / (2**RULE_BITS - 1), np.inf, mean - low
    else:
        depth = bits or 8 * pixels.dtype.itemsize
        scale = (2 ** min(depth, RULE_BITS) - 1) / (2**RULE_BITS - 1)
    if rules.maximum is not None and maximum <= rules.maximum * scale:
        return "maximum"
    if rules.mean is not None and mean <= rules.mean * scale:
        return "mean"
    return None
