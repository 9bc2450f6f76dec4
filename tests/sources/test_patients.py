"""Patients are found however they are written, and no patient, file or copy of one is in two splits."""

import itertools
import logging
import shutil

import datasets
import numpy as np
import pytest
from damaged import encode, radiograph
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_dicom import tiny_dicom

from hf_radmae.sources.belonging import NO_PATIENT
from hf_radmae.sources.load import load_radiographs
from hf_radmae.sources.near import DISTANCE, close_pairs
from hf_radmae.sources.patients import (
    folder_patient,
    image_groups,
    known_share,
    means_patient,
    normalise_patient,
    resampled,
)

pytestmark = pytest.mark.usefixtures("own_cache")

PERSONS = ("patient", "Patient", "PATIENT", "subject", "Subject", "participant", "paciente")
KINDS = ("", "id", "hashed", "ID", "Id", "identifier", "number", "Nr", "key", "name")
JOINS = ("", " ", "_", "-", ".", "  ")
_content = itertools.count()


def write(folder, patients, column: str | None = None, per_image: int = 1, name="{row}.png", copies=(), seed=None):
    """An image per patient and row, each another one, with a metadata.csv where there is a column."""
    first = next(_content) * 10_000
    lines = []
    for row, patient in enumerate(patients):
        path = folder / name.format(row=row, patient=patient)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(radiograph(24, 20, seed=first + row), "PNG"))
        lines += [f'{path.relative_to(folder)},"{patient}",{i}' for i in range(per_image)]
    if column is not None:
        (folder / "metadata.csv").write_text("\n".join([f"file_name,{column},reader", *lines]) + "\n", encoding="utf-8")


def splits_of(loaded, key) -> dict:
    where: dict = {}
    for split, rows in loaded.items():
        for row in rows:
            where.setdefault(key(row), set()).add(split)
    return where


def file_of(row) -> str:
    return row["image"]["path"]


@given(st.sampled_from(PERSONS), st.sampled_from(KINDS), st.sampled_from(JOINS), st.sampled_from(["", " ", "  "]))
@settings(max_examples=200, deadline=None)
def test_a_column_of_patients_is_found_in_any_spelling(person, kind, join, space):
    camel = person + kind[:1].upper() + kind[1:]
    for name in (person + join + kind, kind + "_" + person if kind else person, camel, (person + join + kind).upper()):
        assert means_patient(space + name + space), name


@pytest.mark.parametrize(
    "name",
    [
        *("Patient Age", "patient_sex", "PatientPosition", "patient_orientation", "age", "path", "pathology", "label"),
        *("study_id", "image_id", "name", "impatient", "patch_id", "number", "subjective", "pattern", "person_count"),
    ],
)
def test_a_column_of_something_else_is_none_of_patients(name):
    assert not means_patient(name)


@given(st.integers(0, 10**6), st.sampled_from(["", "P", "pat", "Patient"]), st.sampled_from(["", " ", "-", "_"]))
@settings(max_examples=100, deadline=None)
def test_one_patient_has_one_key_however_written(number, letters, join):
    ways = [
        f"{letters}{join if letters else ''}{number}",
        f" {letters.lower()}{number} ",
        f"{letters.upper()}{number:09d}",
    ]
    ways += [number, float(number), f"{number}.0", np.int64(number), f"{number}".encode()] * (not letters)
    assert len({normalise_patient(way) for way in ways}) == 1
    assert normalise_patient(f"{letters}{number + 1}") != normalise_patient(ways[0])


@pytest.mark.parametrize(
    "value", [None, "", "  ", "nan", "NaN", float("nan"), "N/A", "None", "unknown", "ANONYMOUS", "-"]
)
def test_nobody_has_no_key(value):
    assert normalise_patient(value) is None


SPELLINGS = (
    *(lambda n: f"P{n}", lambda n: f"P{n} ", lambda n: f" p{n:05d}", lambda n: f"p-{n}"),
    lambda n: f"P {n}",
)
SITES = (*(lambda n: f"Site1-P{n:04d}", lambda n: f"site1_p{n} "), lambda n: f"SITE1 P{n}")


@pytest.mark.parametrize("column", ["patient_id", "Patient ID", " PatientID", "subjectId", "participant"])
@pytest.mark.parametrize("spellings", [SPELLINGS, SITES])
@pytest.mark.parametrize("labels", [False, True])
def test_a_patient_in_many_spellings_stays_in_one_split(tmp_path, column, labels, spellings):
    patients = [spellings[row % len(spellings)](row // 5) for row in range(100)]
    write(tmp_path / "set", patients, column)
    loaded, _ = load_radiographs("imagefolder", str(tmp_path / "set"), seed=int(labels))
    where = splits_of(loaded, lambda row: int(file_of(row).rsplit("/", 1)[-1][:-4]) // 5)
    assert len(where) == 20 and all(len(found) == 1 for found in where.values())
    assert all(len(rows) for rows in loaded.values()) and known_share(loaded) == 1 and resampled(loaded) == "patients"


@pytest.mark.parametrize("name", ["patient{patient:05d}/study1/image{row}.png", "sub-{patient:02d}/x/{row}.png"])
def test_patients_as_folders(tmp_path, name):
    write(tmp_path / "set", [row // 4 for row in range(80)], name=name)
    loaded, _ = load_radiographs("imagefolder", str(tmp_path / "set"))
    where = splits_of(loaded, lambda row: folder_patient(file_of(row)))
    assert len(where) == 20 and all(len(found) == 1 for found in where.values())


@pytest.mark.parametrize("suffix", [".dcm", ""])
@pytest.mark.parametrize("element", ["PatientID", "StudyInstanceUID"])
def test_patients_of_dicom_files_are_those_of_their_headers_and_stay_out_of_the_columns(tmp_path, suffix, element):
    (tmp_path / "set").mkdir()
    for row in range(60):
        ids = {"PatientID": "", "StudyInstanceUID": f"1.9.{row}"} | {element: f"1.77{row // 4}"}
        content = tiny_dicom(radiograph(24, 20, seed=row), SOPInstanceUID=f"1.2.{row}", **ids)
        (tmp_path / "set" / f"{row}{suffix}").write_bytes(content)
    loaded, skipped = load_radiographs("imagefolder", str(tmp_path / "set"))
    where = splits_of(loaded, lambda row: int(file_of(row).rsplit("/", 1)[-1].removesuffix(suffix)) // 4)
    assert skipped == [] and len(where) == 15 and all(len(found) == 1 for found in where.values())
    assert not any("1.77" in str(value) for rows in loaded.values() for value in rows["patient"])


def test_without_patients_the_run_says_so_and_one_value_for_all_is_no_patient(tmp_path, caplog):
    for column, text in ((None, NO_PATIENT), ("patient", "column patient has one value for all images")):
        write(tmp_path / str(column), ["ward 7"] * 30, column)
        with caplog.at_level(logging.WARNING):
            loaded, _ = load_radiographs("imagefolder", str(tmp_path / str(column)))
        assert text in caplog.text and NO_PATIENT in caplog.text
        assert resampled(loaded) == "images" and all(len(rows) for rows in loaded.values())


@pytest.mark.parametrize("nobody", ["unknown", "anonymous", "N/A"])
def test_images_of_nobody_are_not_those_of_one_patient(tmp_path, nobody):
    for split in ("train", "test"):
        write(tmp_path / "set" / split, [nobody if row < 20 else f"{split}{row}" for row in range(30)], "patient_id")
    loaded, _ = load_radiographs("imagefolder", str(tmp_path / "set"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 27, "validation": 3, "test": 30}
    assert len(set(image_groups(loaded["test"]))) == 30


@pytest.mark.parametrize("column", ["patient", "patient_id"])
def test_one_value_in_two_splits_is_no_patient(tmp_path, column):
    for split in ("train", "test"):
        write(tmp_path / "set" / split, ["ward 7"] * 30, column)
    assert resampled(load_radiographs("imagefolder", str(tmp_path / "set"))[0]) == "images"


@pytest.mark.parametrize(
    "names", [("train_images", "test_images"), ("stage_2_train_images", "stage_2_test_images"), ("TRAIN", "Testing ")]
)
def test_folders_whose_names_say_a_split_among_other_words_are_splits_and_no_labels(tmp_path, names):
    for name in names:
        write(tmp_path / "set" / name, range(30))
    loaded, _ = load_radiographs("imagefolder", str(tmp_path / "set"))
    assert len(loaded["test"]) == 30 and "label" not in loaded["train"].column_names
    assert all(names[1] in file_of(row) for row in loaded["test"])


@pytest.mark.parametrize("column", ["split", "Subset"])
def test_a_column_says_the_split_and_is_audited(tmp_path, column):
    write(tmp_path / "set", range(40), "patient")
    table = (tmp_path / "set" / "metadata.csv").read_text().splitlines()
    said = ["Train", "train ", "TEST", "val"]
    rows = [f"{table[0]},{column}", *(f"{line},{said[row % 4]}" for row, line in enumerate(table[1:]))]
    (tmp_path / "set" / "metadata.csv").write_text("\n".join(rows))
    loaded, _ = load_radiographs("imagefolder", str(tmp_path / "set"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 20, "validation": 10, "test": 10}
    assert all(row[column] == "TEST" for row in loaded["test"])
    shared = (tmp_path / "set" / "metadata.csv").read_text().replace('"3"', '"2"')
    (tmp_path / "set" / "metadata.csv").write_text(shared)
    with pytest.raises(ValueError, match="share patients or files: 1 patients: 2 in "):
        load_radiographs("imagefolder", str(tmp_path / "set"))


def test_folders_of_patients_are_no_labels_and_case_makes_no_class(tmp_path):
    write(tmp_path / "a", [row // 4 for row in range(40)], name="patient{patient:03d}/study1/{row}.png")
    write(tmp_path / "a", [row // 4 for row in range(40)], name="patient{patient:03d}/study2/{row}.png")
    assert "label" not in load_radiographs("imagefolder", str(tmp_path / "a"))[0]["train"].column_names
    for folder in ("train/Normal", "train/Fracture", "test/normal", "test/FRACTURE"):
        write(tmp_path / "b" / folder, range(10))
    loaded, _ = load_radiographs("imagefolder", str(tmp_path / "b"))
    names = loaded["train"].features["label"].names
    assert [name.lower() for name in names] == ["fracture", "normal"]
    for rows in loaded.values():
        assert all(names[row["label"]].lower() == file_of(row).split("/")[-2].lower() for row in rows)


def test_two_names_of_one_split_lose_no_rows(tmp_path):
    for folder, count in (("a", 30), ("b", 5), ("c", 6)):
        write(tmp_path / folder, range(count))
    files = {"train": "a", "val": "b", "validation": "c"}
    files = {split: str(tmp_path / folder / "*.png") for split, folder in files.items()}
    loaded, _ = load_radiographs("imagefolder", str(tmp_path), data_files=files)
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 27, "validation": 6, "test": 3, "val": 5}


def test_the_share_of_known_patients_is_said(tmp_path):
    write(tmp_path / "set", [f"P{row}" if row % 4 else "" for row in range(40)], "patient_id")
    loaded, _ = load_radiographs("imagefolder", str(tmp_path / "set"))
    assert known_share(loaded) == 0.75 and resampled(loaded).startswith("patients (75.0% of the images")


def test_an_option_names_the_column(tmp_path):
    write(tmp_path / "set", [f"K{row // 4}" for row in range(80)], "Fallnummer")
    loaded, _ = load_radiographs("imagefolder", str(tmp_path / "set"), patient_column="Fallnummer")
    assert all(len(found) == 1 for found in splits_of(loaded, lambda row: row["Fallnummer"]).values())
    with pytest.raises(ValueError, match=r"--patient_column case: there is no such column; there are .*Fallnummer"):
        load_radiographs("imagefolder", str(tmp_path / "set"), patient_column="case")


@pytest.mark.parametrize("readers", [2, 5])
def test_rows_of_one_file_and_copies_of_a_file_stay_in_one_split(tmp_path, readers):
    write(tmp_path / "set", range(40), "reader_id", per_image=readers)
    lines = []
    for number in range(20):
        shutil.copy(tmp_path / "set" / f"{number}.png", tmp_path / "set" / f"copy{number}.png")
        lines.append(f"copy{number}.png,x,9")
    with (tmp_path / "set" / "metadata.csv").open("a") as file:
        file.write("\n".join(lines) + "\n")
    loaded, _ = load_radiographs("imagefolder", str(tmp_path / "set"))
    assert sum(len(rows) for rows in loaded.values()) == 40 * readers + 20
    where = splits_of(loaded, lambda row: file_of(row).rsplit("/", 1)[-1].removeprefix("copy"))
    assert len(where) == 40 and all(len(found) == 1 for found in where.values())


def test_copies_in_parquet_stay_in_one_split(tmp_path):
    contents = [encode(radiograph(24, 20, seed=row // 2), "PNG") for row in range(60)]
    rows = datasets.Dataset.from_dict({"image": [{"bytes": c, "path": None} for c in contents], "n": list(range(60))})
    (tmp_path / "set").mkdir()
    rows.cast_column("image", datasets.Image()).to_parquet(str(tmp_path / "set" / "part.parquet"))
    loaded, _ = load_radiographs("parquet", str(tmp_path / "set"))
    assert all(len(found) == 1 for found in splits_of(loaded, lambda row: row["n"] // 2).values())


@pytest.mark.parametrize("shared", ["patient", "file", "spelling", "folder"])
def test_splits_of_the_source_that_share_something_are_refused_by_name_or_taken_with_a_warning(
    tmp_path, shared, caplog
):
    column = "patient_id" if shared in ("patient", "spelling") else None
    name = "patient{patient}/{row}.png" if shared == "folder" else "{row}.png"
    write(tmp_path / "set" / "train", range(30), column, name=name)
    test = {"patient": [5, *range(100, 109)], "spelling": ["005 ", *range(100, 109)], "folder": [5, *range(100, 109)]}
    write(tmp_path / "set" / "test", test.get(shared, range(100, 110)), column, name=name)
    if shared == "file":
        shutil.copy(tmp_path / "set" / "train" / "5.png", tmp_path / "set" / "test" / "other.png")
    with pytest.raises(ValueError, match=r"splits share patients or files: 1 .*5.*--allow_shared_patients"):
        load_radiographs("imagefolder", str(tmp_path / "set"))
    with caplog.at_level(logging.WARNING):
        loaded, _ = load_radiographs("imagefolder", str(tmp_path / "set"), allow_shared_patients=True)
    assert "share patients or files, as allowed: 1 " in caplog.text
    assert len(loaded["test"]) == 10 + (shared == "file")


def test_rare_labels_are_in_every_split_that_is_drawn(tmp_path):
    for label, count in (("common", 170), ("rare", 30)):
        write(tmp_path / "set" / label, range(count))
    for seed in range(3):
        loaded, _ = load_radiographs("imagefolder", str(tmp_path / "set"), seed=seed)
        rare = [sum(value == 1 for value in rows["label"]) for rows in loaded.values()]
        assert np.abs(np.array(rare) - [24, 3, 3]).max() <= 2 and min(rare) > 0


def test_near_duplicates_stay_in_one_split_where_it_is_asked_for(tmp_path):
    (tmp_path / "set").mkdir()
    rng = np.random.default_rng(0)
    for number in range(30):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 8), dtype=np.uint8)).resize(
            (160, 180), Image.Resampling.BICUBIC
        )
        coarse.save(tmp_path / "set" / f"{number}a.png")
        coarse.resize((160, 180), Image.Resampling.BICUBIC).save(tmp_path / "set" / f"{number}b.jpg", quality=60)
    loaded, _ = load_radiographs("imagefolder", str(tmp_path / "set"), near_duplicates=True)
    where = splits_of(loaded, lambda row: file_of(row).rsplit("/", 1)[-1][:-5])
    assert len(where) == 30 and all(len(found) == 1 for found in where.values())


@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
@settings(max_examples=40, deadline=None)
def test_close_pairs_are_those_of_the_full_comparison(seed, count):
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (count, 256)).astype(bool)
    for row in range(1, count, 2):
        bits[row] = bits[row - 1] ^ (rng.permutation(256) < rng.integers(0, 2 * DISTANCE))
    distance = (bits[:, None] != bits[None]).sum(-1)
    expected = [(i, j) for i in range(count) for j in range(i + 1, count) if distance[i, j] <= DISTANCE]
    assert [tuple(pair) for pair in close_pairs(bits)] == expected
