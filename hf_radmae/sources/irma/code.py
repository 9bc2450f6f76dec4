"""The IRMA code, TTTT-DDD-AAA-BBB: its grammar, its four axes, and the published names of their values.

An axis is a path down a tree, one character 0-9a-z per level: anatomical 943 is lower extremity (9), knee (94) and a
part of the knee that the published table does not name (943). A 0 means unspecified and ends the path.

Source of grammar and names (`irma_codes.csv`): Lehmann, Schubert, Keysers, Kohnen, Wein, "The IRMA code for unique
classification of medical images", Proc. SPIE 5033 (2003), 440-451, doi:10.1117/12.480677, tables of the four axes,
whose authors welcome other use of the code; spelling made uniform, and of the technical axis only the modalities and
the x-ray branch. The codes of ImageCLEFmed 2009 go beyond these tables (943, 12f, 112d): such values keep their digits.
"""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

BODY_REGIONS = {
    "2": "cranium",
    "3": "spine",
    "4": "upper_extremity",
    "5": "chest",
    "6": "breast",
    "7": "abdomen",
    "8": "pelvis",
    "9": "lower_extremity",
}
"""First anatomical character -> body region, in the order of the class ids. 1 is the whole body, 0 unspecified."""

_GRAMMAR = re.compile(r"([0-9a-z]{4})-([0-9a-z]{3})-([0-9a-z]{3})-([0-9a-z]{3})")


class IRMACode(NamedTuple):
    """A code split into its axes: modality, orientation of the body, region examined, organ system."""

    technical: str
    directional: str
    anatomical: str
    biological: str

    @property
    def body_region(self) -> str | None:
        """One of the values of `BODY_REGIONS`; None for the whole body and where the code names no region."""
        return BODY_REGIONS.get(self.anatomical[0])

    @property
    def is_whole_body(self) -> bool:
        """Whether the anatomical axis starts with 1."""
        return self.anatomical[0] == "1"


def parse_code(code: str) -> IRMACode:
    """Splits a code into its axes.

    Raises:
        ValueError: the code does not read TTTT-DDD-AAA-BBB, or continues after a 0.
    """
    match = _GRAMMAR.fullmatch(code)
    if match is None:
        raise ValueError(f"{code!r} does not read TTTT-DDD-AAA-BBB in the characters 0-9a-z")
    parsed = IRMACode(*match.groups())
    for axis, value in parsed._asdict().items():
        if re.search("0[^0]", value):
            raise ValueError(f"{code!r} continues after a 0 (unspecified) on its {axis} axis, {value}")
    return parsed


def axis_name(axis: str, value: str) -> str:
    """The readable name of one axis, from the general to the special.

    `axis_name("anatomical", "411")` is "upper extremity, hand, finger", `axis_name("anatomical", "943")` "lower
    extremity, knee, 943", and a value of zeros "unspecified".

    Args:
        axis: a field of `IRMACode`.
        value: the characters of that axis.
    """
    names = _names(axis)
    path = value.rstrip("0")
    found: list[str] = []
    for level in range(1, len(path) + 1):
        if path[:level] not in names:
            found.append(path)
            break
        found.append(names[path[:level]])
    return ", ".join(found) or "unspecified"


@cache
def _names(axis: str) -> dict[str, str]:
    with Path(__file__).with_name("irma_codes.csv").open(encoding="utf-8", newline="") as file:
        names = {row["code"]: row["name"] for row in csv.DictReader(file) if row["axis"] == axis}
    if not names:
        raise ValueError(f"{axis!r} is no axis of the IRMA code: expected one of {', '.join(IRMACode._fields)}")
    return names
