"""Cleaning: each rule drops what it names and nothing else, each image is counted once, and every rule can be off."""

from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pytest

from hf_radmae.sources.mri.cleaning import CleaningRules, clean_index, pixel_rule

OFF = CleaningRules(**{rule.name: None for rule in fields(CleaningRules)})
ROWS = {  # rule that drops it -> path, height, width, dimensions, drawing
    "": ("A/1/1/1/uid1", 2000, 1500, 2, False),
    "duplicates": ("A/1/1/1/uid1[2]", 2000, 1500, 2, False),
    "no_pixels": ("A/1/1/1/uid2", 0, 0, 0, False),
    "drawing": ("A/1/1/1/uid3", 2000, 1500, 2, True),
    "width": ("A/1/1/1/uid4", 2000, 650, 2, False),
    "three_dimensions": ("A/1/1/1/uid5", 2000, 1500, 3, False),
    "max_side": ("A/1/1/1/uid6", 3073, 1500, 2, False),
}


def index(rows) -> pa.Table:
    return pa.table(
        dict(zip(("path", "height", "width", "dimensions", "drawing"), zip(*rows, strict=True), strict=True))
    )


@pytest.mark.parametrize("rule", list(ROWS)[1:])
def test_a_rule_drops_what_it_names_and_nothing_else(rule):
    keep, dropped = clean_index(index(ROWS.values()), replace(OFF, **{rule: getattr(CleaningRules(), rule)}))
    assert dropped == {rule: 1}
    assert [name for name, kept in zip(ROWS, keep, strict=True) if not kept] == [rule]


def test_all_rules_together_count_every_image_once():
    rows = [*ROWS.values(), ("A/1/1/1/uid7", 4000, 650, 3, True)]
    keep, dropped = clean_index(index(rows), CleaningRules())
    assert keep.tolist() == [True] + [False] * 7
    assert dropped == {"duplicates": 1, "no_pixels": 1, "drawing": 2, "width": 1, "three_dimensions": 1, "max_side": 1}


def test_the_limits_themselves_stay():
    keep, _ = clean_index(
        index([("A/1/1/1/a", 3072, 3072, 2, False), ("A/1/1/1/b", 650, 651, 2, False)]), CleaningRules()
    )
    assert keep.all()


@pytest.mark.parametrize("names", [["u", "u[1]", "u[2]"], ["u[2]", "u", "u[1]"], ["u[1]", "u[2]"], ["x/u[1]", "u"]])
def test_of_duplicates_the_one_without_a_number_stays_else_the_first(names):
    keep, dropped = clean_index(index([(f"A/1/1/{name}", 9, 9, 2, False) for name in names]), CleaningRules())
    assert np.flatnonzero(keep).tolist() == [names.index("u") if "u" in names else 0]
    assert dropped["duplicates"] == len(names) - 1


def test_a_rule_that_could_not_be_applied_says_so():
    table = index([("A/1/1/1/a", 9, 9, 2, None)]).cast(
        pa.schema(
            [
                ("path", pa.string()),
                *((n, pa.int64()) for n in ("height", "width", "dimensions")),
                ("drawing", pa.bool_()),
            ]
        )
    )
    keep, dropped = clean_index(table, CleaningRules())
    assert keep.all() and dropped["drawing"] is None


@pytest.mark.parametrize(
    ("pixels", "rule"),
    [([[0, 1000]], "maximum"), ([[0, 1001]], None), ([[0, 0, 0, 0] * 4 + [1600]], "mean"), ([[0, 2000]], None)],
)
def test_pixel_rules_drop_unexposed_and_black_pictures(pixels, rule):
    pixels = np.array(pixels, np.uint16)
    assert pixel_rule(pixels, CleaningRules()) == rule
    assert pixel_rule(pixels, OFF) is None


def test_the_mean_of_a_large_picture_does_not_overflow():
    assert pixel_rule(np.full((3000, 3000), 65535, np.uint16), CleaningRules()) is None
