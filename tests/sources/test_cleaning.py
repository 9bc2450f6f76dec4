"""Cleaning: each rule drops what it names and nothing else, each image is counted once, and every rule can be off."""

from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_radmae.sources.mri.cleaning import CleaningRules, clean_index, pixel_rule

OFF = CleaningRules(**{rule.name: None for rule in fields(CleaningRules)})
ROWS = {  # rule that drops it -> duplicate, height, width, dimensions, drawing
    "": (False, 2000, 1500, 2, False),
    "duplicates": (True, 2000, 1500, 2, False),
    "no_pixels": (False, 0, 0, 0, False),
    "drawing": (False, 2000, 1500, 2, True),
    "width": (False, 2000, 650, 2, False),
    "three_dimensions": (False, 2000, 1500, 3, False),
    "max_side": (False, 3073, 1500, 2, False),
}


def index(rows) -> pa.Table:
    return pa.table(
        dict(zip(("duplicate", "height", "width", "dimensions", "drawing"), zip(*rows, strict=True), strict=True))
    )


@pytest.mark.parametrize("rule", list(ROWS)[1:])
def test_a_rule_drops_what_it_names_and_nothing_else(rule):
    by, dropped = clean_index(index(ROWS.values()), replace(OFF, **{rule: getattr(CleaningRules(), rule)}))
    assert dropped == {rule: 1}
    assert {name: found for name, found in zip(ROWS, by, strict=True) if found} == {rule: rule}


def test_all_rules_together_count_every_image_once():
    rows = [*ROWS.values(), (False, 4000, 650, 3, True)]
    by, dropped = clean_index(index(rows), CleaningRules())
    assert by.tolist() == [*ROWS, "drawing"]
    assert dropped == {"duplicates": 1, "no_pixels": 1, "drawing": 2, "width": 1, "three_dimensions": 1, "max_side": 1}


def test_the_limits_themselves_stay():
    by, _ = clean_index(index([(False, 3072, 3072, 2, False), (False, 650, 651, 2, False)]), CleaningRules())
    assert by.tolist() == ["", ""]


@pytest.mark.parametrize(("column", "rule"), [("drawing", "drawing"), ("duplicate", "duplicates")])
def test_a_rule_that_could_not_be_applied_says_so(column, rule):
    table = index([(False, 9, 9, 2, False)])
    table = table.set_column(table.schema.get_field_index(column), column, pa.nulls(1, pa.bool_()))
    by, dropped = clean_index(table, CleaningRules())
    assert by.tolist() == [""] and dropped[rule] is None


@pytest.mark.parametrize(
    ("pixels", "rule"),
    [([[0, 1000]], "maximum"), ([[0, 1001]], None), ([[0, 0, 0, 0] * 4 + [1600]], "mean"), ([[0, 2000]], None)],
)
def test_pixel_rules_drop_unexposed_and_black_pictures(pixels, rule):
    pixels = np.array(pixels, np.uint16)
    assert pixel_rule(pixels, CleaningRules()) == rule
    assert pixel_rule(pixels, OFF) is None


@given(st.integers(1, 16), st.sampled_from(["uint16", "float32"]), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_picture_that_uses_its_range_stays_and_an_unexposed_one_goes_at_every_depth(bits, dtype, seed):
    """The limits are shares of the range up to 12 bits, and absolute beyond, where archives store 12 bits in 16."""
    top = 2**bits - 1
    rng = np.random.default_rng(seed)
    used = rng.integers(0, top + 1, (40, 40)).astype(dtype)
    used.flat[0] = top
    assert pixel_rule(used, CleaningRules(), bits) is None
    limit = int(1000 * min(top, 4095) / 4095)
    assert pixel_rule(np.full((4, 4), limit, dtype), CleaningRules(mean=None), bits) == "maximum"
    assert pixel_rule(np.full((4, 4), limit + 1, dtype), CleaningRules(mean=None), bits) is None
    black = np.zeros((64, 64), dtype)
    black[0, 0] = top  # a label on black
    assert pixel_rule(black, CleaningRules(), bits) == "mean"


@pytest.mark.parametrize("scale", [1e-4, 1.0, 37.0])
@pytest.mark.parametrize("offset", [-1.5, 0.0, 12.25])
def test_optical_densities_have_no_limit_of_grey_and_are_dropped_where_nearly_all_is_background(scale, offset):
    rng = np.random.default_rng(0)
    assert pixel_rule((rng.random((50, 50)) * scale + offset).astype(np.float32), CleaningRules()) is None
    empty = np.full((64, 64), offset + 0.01 * scale, np.float32)
    empty[0, 0] = offset + 3.21 * scale
    assert pixel_rule(empty, CleaningRules()) == "mean"


def test_the_mean_of_a_large_picture_does_not_overflow():
    assert pixel_rule(np.full((3000, 3000), 65535, np.uint16), CleaningRules()) is None
