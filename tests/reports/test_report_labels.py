"""Labels of reports on images: joined by exam, body part and side, never in place of a label by hand, weighed."""

import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_radmae import label_reports, load_radiographs
from hf_radmae.batching.bucketing import bucketed
from hf_radmae.classification.data import LabelledRadiographs
from hf_radmae.classification.labels import fit_labels
from hf_radmae.shards.anonymous import kept_labels
from hf_radmae.sources.report_labels import against_hand, by_hand_where_any, with_report_labels

TEXTS = {
    "e1": "Distale Radiusfraktur links.",
    "e2": "Keine Fraktur.",
    "e3": "Fragliche Fissur der Ulna.",
    "e4": "Gips.",
    "e5": "Keine Rippenfraktur.",
}


@pytest.fixture
def labels(tmp_path):
    rows = label_reports(list(TEXTS.values()), ["fracture"])
    path = tmp_path / "labels.parquet"
    pq.write_table(pa.Table.from_pylist([{"id": name} | row for name, row in zip(TEXTS, rows, strict=True)]), path)
    return path


def rows(**columns) -> datasets.Dataset:
    count = len(next(iter(columns.values())))
    images = [{"bytes": b"", "path": f"/data/p/e{row + 1}/s/{row}.png"} for row in range(count)]
    return datasets.Dataset.from_dict({"image": images, **columns})


def joined(data: datasets.Dataset, path) -> dict[str, list]:
    found, _ = with_report_labels(datasets.DatasetDict({"train": data}), path)
    return {name: list(found["train"][name]) for name in ("fracture", "fracture_source")}


@pytest.mark.parametrize("column", ["exam", "report_id", "accession_number", "id"])
def test_what_is_missing_is_filled_and_says_from_where(labels, column):
    data = rows(**{column: list(TEXTS)}, fracture=[None, "yes", None, "", "unsure"])
    found = joined(data, labels)
    assert found["fracture"] == ["yes", "yes", "unsure", "", "unsure"]
    assert found["fracture_source"] == ["report", "hand", "report", None, "hand"]


@pytest.mark.parametrize(
    ("feature", "given", "expected"),
    [
        (datasets.ClassLabel(names=["NO", "YES", "Unsure"]), [None, 1, None, None, None], [1, 1, 2, None, 0]),
        (datasets.ClassLabel(names=["no", "yes"]), [-1, 1, -1, -1, -1], [1, 1, -1, -1, 0]),
        (datasets.Value("int64"), [None, 1, None, None, 0], [1, 1, None, None, 0]),
        (datasets.Value("float32"), [float("nan"), 1.0, None, None, 0.0], [1.0, 1.0, None, None, 0.0]),
        (datasets.Value("bool"), [None, True, None, None, False], [True, True, None, None, False]),
        (datasets.Value("string"), [None, "YES", None, None, "NO"], ["YES", "YES", "unsure", None, "NO"]),
        (datasets.Value("string"), [None, "1", None, None, "0"], ["1", "1", None, None, "0"]),
    ],
)
def test_a_column_of_any_kind_keeps_its_kind(labels, feature, given, expected):
    data = rows(exam=list(TEXTS)).add_column("fracture", given, feature=feature)
    found, _ = with_report_labels(datasets.DatasetDict({"train": data}), labels)
    assert found["train"].features["fracture"] == feature
    assert [*found["train"]["fracture"]] == expected


def test_a_selection_is_filled_by_its_own_rows_and_the_folder_names_the_exam(labels):
    data = rows(note=list("abcde")).select([4, 0, 1])
    found = joined(data, labels)
    assert found == {"fracture": ["no", "yes", "no"], "fracture_source": ["report"] * 3}


@pytest.mark.parametrize(
    ("part", "side", "filled"),
    [
        ("wrist", "L", "yes"),
        ("HANDGELENK", "links", "yes"),
        ("forearm", None, "yes"),
        ("wrist", "R", None),
        ("chest", None, None),
        ("THORAX", "", None),
        (None, None, "yes"),
    ],
)
def test_a_report_labels_no_image_of_another_part_or_side(labels, part, side, filled):
    data = rows(exam=["e1", "e2"], body_part=[part, "hand"], laterality=[side, None])
    assert joined(data, labels)["fracture"][0] == filled


def test_validation_and_test_are_scored_by_hand_where_there_are_labels_by_hand(labels):
    part = rows(exam=list(TEXTS), fracture=[None, "yes", None, None, None])
    bare = rows(exam=list(TEXTS))
    splits, notes = with_report_labels(datasets.DatasetDict(train=part, validation=part, test=bare), labels)
    assert notes == [
        "fracture: train 1 by hand, 3 from reports; validation 1 by hand, 3 from reports; "
        "test 0 by hand, 4 from reports"
    ]
    splits, notes = by_hand_where_any(splits)
    assert list(splits["train"]["fracture"]) == ["yes", "yes", "unsure", None, "no"]
    assert list(splits["validation"]["fracture"]) == [None, "yes", None, None, None]
    assert list(splits["validation"]["fracture_source"]) == [None, "hand", None, None, None]
    assert list(splits["test"]["fracture"]) == ["yes", "no", "unsure", None, "no"]
    assert len(notes) == 2 and "scored by the 1 labels by hand" in notes[0] and "no fracture is by hand" in notes[1]


def test_a_file_that_does_not_fit_is_refused(labels, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file, which hf-radmae label-reports writes"):
        joined(rows(exam=["e1"]), tmp_path / "none.parquet")
    with pytest.raises(ValueError, match=r"no image has one of its 5 ids \(the first: e1\)"):
        joined(datasets.Dataset.from_dict({"image": [{"bytes": b"", "path": "/x/y.png"}], "exam": ["z"]}), labels)
    with pytest.raises(ValueError, match=r"column fracture: expected yes and no .* found \{'wrist'\}"):
        joined(rows(exam=["e1", "e2"], fracture=["wrist", None]), labels)
    pq.write_table(pa.table({"id": ["e1"], "fracture": ["yes"]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="expected the output of hf-radmae label-reports"):
        joined(rows(exam=["e1"]), tmp_path / "other.parquet")


def test_a_folder_of_images_takes_labels_of_reports_and_keeps_its_split(tmp_path):
    rng = np.random.default_rng(0)
    texts = ["Radiusfraktur.", "Keine Fraktur."]
    for row in range(30):
        folder = tmp_path / "images" / f"exam{row}"
        folder.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (24, 32), np.uint8)).save(folder / "a.png")
    found = label_reports([texts[row % 2] for row in range(30)], ["fracture"])
    table = pa.Table.from_pylist([{"id": f"exam{row}"} | answers for row, answers in enumerate(found)])
    pq.write_table(table, tmp_path / "labels.parquet")
    plain, _ = load_radiographs("imagefolder", str(tmp_path / "images"))
    filled, _ = load_radiographs(
        "imagefolder", str(tmp_path / "images"), report_labels=str(tmp_path / "labels.parquet")
    )
    for split, part in filled.items():
        assert [image["path"] for image in part["image"]] == [image["path"] for image in plain[split]["image"]]
        numbers = [int(image["path"].split("exam")[1].split("/")[0]) for image in part["image"]]
        assert list(part["fracture"]) == ["no" if number % 2 else "yes" for number in numbers]
        assert set(part["fracture_source"]) == {"report"}
    json.dumps(filled["train"].features.to_dict())


PARTS = ["wrist", "chest", "knee", None]
SIDES = ["left", "right", "both", None]


@given(
    st.lists(
        st.tuples(st.sampled_from(["yes", "no", "unsure", None]), st.sampled_from(PARTS), st.sampled_from(SIDES)),
        max_size=3,
    ),
    st.lists(st.tuples(st.sampled_from(PARTS), st.sampled_from(SIDES)), min_size=1, max_size=4),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_label_comes_from_reports_of_the_same_exam_part_and_side_and_from_no_other(tmp_path, reports, images):
    """Far parts and opposite sides get nothing, unknown ones and both sides exclude nothing, disagreement is unsure."""
    table = [("exam", *report) for report in reports] + [("other", "yes", None, None)]
    columns = ("id", "fracture", "fracture_body_part", "fracture_side")
    rows_of = [dict(zip(columns, row, strict=True)) | {"fracture_rule": "stated"} for row in table]
    pq.write_table(pa.Table.from_pylist(rows_of), tmp_path / "labels.parquet")
    exams = ["exam"] * len(images) + ["other"]
    parts, sides = ([*column, None] for column in zip(*images, strict=True))
    data = rows(exam=exams, body_part=parts, laterality=sides)
    data = data.cast_column("body_part", datasets.Value("string")).cast_column("laterality", datasets.Value("string"))
    found = joined(data, tmp_path / "labels.parquet")
    for (part, side), answer, source in zip(images, found["fracture"], found["fracture_source"], strict=False):
        fit = {
            said
            for said, of_part, of_side in reports
            if said and (not part or not of_part or part == of_part) and {side, of_side} != {"left", "right"}
        }
        assert answer == (None if not fit else fit.pop() if len(fit) == 1 else "unsure")
        assert source == ("report" if answer else None)


@pytest.mark.parametrize("name", ["{stem}", "{stem}.png", "s/{stem}.png", "e{exam}/s/{stem}.png"])
def test_a_report_is_named_as_the_image_in_any_table_is(tmp_path, name):
    found = label_reports(["Radiusfraktur.", "Keine Fraktur."], ["fracture"])
    table = [{"id": name.format(stem=row, exam=row + 1)} | answers for row, answers in enumerate(found)]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "labels.parquet")
    assert joined(rows(note=["a", "b"]), tmp_path / "labels.parquet")["fracture"] == ["yes", "no"]


@pytest.mark.parametrize("images", [["007", "0008"], [7, 8], [7.0, 8.0], ["7", "8"]])
@pytest.mark.parametrize("ids", [["007", "0008"], ["7", "8"], ["7.0", "8.0"]])
def test_numbers_are_one_id_with_and_without_leading_zeros(tmp_path, images, ids):
    found = label_reports(["Radiusfraktur.", "Keine Fraktur."], ["fracture"])
    table = [{"id": name} | answers for name, answers in zip(ids, found, strict=True)]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "labels.parquet")
    assert joined(rows(study_id=images), tmp_path / "labels.parquet")["fracture"] == ["yes", "no"]


def test_ids_that_only_zeros_tell_apart_are_taken_as_they_are(tmp_path):
    found = label_reports(["Radiusfraktur.", "Keine Fraktur."], ["fracture"])
    table = [{"id": name} | answers for name, answers in zip(["007", "7"], found, strict=True)]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "labels.parquet")
    data = rows(study_id=["7", "007", "0007"])
    assert joined(data, tmp_path / "labels.parquet")["fracture"] == ["no", "yes", None]


def test_a_column_of_texts_is_read_in_place_and_leaves():
    data = rows(befund=["Radiusfraktur.", None, "No fracture.", "Keine Fraktur."], fracture=[None, "yes", None, "yes"])
    found, _ = with_report_labels(datasets.DatasetDict({"train": data}), "befund")
    assert list(found["train"]["fracture"]) == ["yes", "yes", "no", "yes"]
    assert list(found["train"]["fracture_source"]) == ["report", "hand", "report", "hand"]
    assert "befund" not in found["train"].column_names


def test_reports_are_measured_on_images_that_have_a_label_by_hand_too(labels):
    data = rows(exam=list(TEXTS), fracture=["yes", "yes", "no", "no", None])
    splits, _ = with_report_labels(datasets.DatasetDict({"train": data}), labels)
    assert list(splits["train"]["fracture_report"]) == ["yes", "no", "unsure", None, "no"]
    measured = against_hand(splits)["labels"]["fracture"]
    assert measured["compared"] == 3 and measured["flips"] == 1 and measured["recall"] == 0.5
    assert against_hand(datasets.DatasetDict({"train": data})) is None


def test_where_a_label_is_from_goes_into_shards_and_a_column_that_holds_more_does_not(labels):
    splits, _ = with_report_labels(datasets.DatasetDict({"train": rows(exam=list(TEXTS), site=list("abcde"))}), labels)
    assert kept_labels(splits, None) == ["fracture", "fracture_source", "fracture_report"]
    assert kept_labels(splits, ["site", "fracture"]) == ["site", "fracture", "fracture_source", "fracture_report"]
    names = ["Dr. Meier", "report", None, "hand", "hand"]
    splits["train"] = splits["train"].remove_columns("fracture_source").add_column("fracture_source", names)
    assert kept_labels(splits, ["fracture"]) == ["fracture", "fracture_report"]


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_training_drops_what_reports_leave_unsure_and_weighs_the_rest(labels, weight):
    data = rows(exam=list(TEXTS), fracture=[None, "yes", None, "no", None], height=[32] * 5, width=[32] * 5)
    part = with_report_labels(datasets.DatasetDict(train=data), labels)[0]["train"]
    assert list(part["fracture"]) == ["yes", "yes", "unsure", "no", "no"]
    images = bucketed({"train": part}, patch_size=8, max_tokens=16, batch_size=4, binning="square", background="keep")
    found = LabelledRadiographs(images.parts["train"], fit_labels(part, "fracture", None), report_label_weight=weight)
    assert found.labels.names == ("no", "yes") and found.targets.tolist() == [1, 1, -1, 0, 0]
    assert found.label_weights[found.bin_ids >= 0].tolist() == [weight, 1.0, 1.0, weight]
    assert len(found) == 4 and found.sources() == {"hand": 2, "report": 2}
