"""Spellings of body parts: German and English, with sides and views, into 14 classes; other tables can be given."""

import csv

import pytest

from hf_radmae.sources.mri.body_parts import BODY_PARTS_CSV, BodyParts, normalise


def test_the_table_maps_at_least_85_distinct_spellings_to_14_body_parts():
    with BODY_PARTS_CSV.open(encoding="utf-8") as file:
        spellings = [normalise(row["spelling"]) for row in csv.DictReader(file)]
    parts = BodyParts()
    assert len(spellings) == len(set(spellings)) >= 85
    assert len(parts.names) == 14 and set(parts.codes(spellings)) == set(range(14))


@pytest.mark.parametrize(
    ("spelling", "part"),
    [
        ("Hüfte li. ap", "pelvis"),
        ("HU\u0308FTE", "pelvis"),  # the two characters that macOS writes for Ü
        ("HUEFTE", "pelvis"),
        ("Fuß re 2 Ebenen", "foot"),
        ("C-SPINE", "spine"),
        ("LWS_SEITL", "spine"),
        ("  thorax ", "chest"),
        ("UPPER_ARM", "upper_arm"),
        ("lower_leg", "lower_leg"),
        ("Handgelenk links", "hand"),
        ("Schädel", "skull"),
    ],
)
def test_case_umlauts_sides_and_views_do_not_matter(spelling, part):
    parts = BodyParts()
    assert parts.codes([spelling]) == [parts.names.index(part)]


def test_an_unknown_spelling_has_no_class():
    assert BodyParts().codes(["", "MISC", "LI", "12"]) == [-1] * 4


def test_another_table_gives_other_classes(tmp_path):
    table = tmp_path / "parts.csv"
    table.write_text("spelling,body_part\nOSG,ankle\nFUSS,foot\n", encoding="utf-8")
    parts = BodyParts(table)
    assert (parts.names, parts.codes(["osg re", "Fuß", "ankle", "HWS"])) == (["ankle", "foot"], [0, 1, 0, -1])
    assert parts.digest != BodyParts().digest


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("name,part\nOSG,ankle\n", r"columns \['name', 'part'\]; expected spelling,body_part"),
        ("spelling,body_part\nOSG,\n", "line 2: an empty cell; give a spelling and its body part"),
        ("spelling,body_part\nOSG,ankle\nosg li,foot\n", "line 3: osg li stands for a second body part; remove one"),
    ],
)
def test_a_table_that_is_ambiguous_is_refused(tmp_path, text, error):
    table = tmp_path / "parts.csv"
    table.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=error):
        BodyParts(table)
