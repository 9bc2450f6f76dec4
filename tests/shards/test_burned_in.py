"""What a header says about names in the picture travels with the image, and burnt-in text stays out of shards."""

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from damaged import encode, radiograph
from tiny_dicom import tiny_dicom, write_dicom

from hf_radmae.shards.prepare import prepare
from hf_radmae.shards.shrink import PrepareOptions
from hf_radmae.sources.load import load_radiographs

ANSWERS = [("YES", "NO"), ("NO", "YES"), ("", ""), ("Mustermann", "Erika")]


@pytest.mark.parametrize("keep", [False, True])
def test_burnt_in_text_is_left_out_unless_asked_for(tmp_path, keep):
    pictures = [radiograph(40, 48, seed) for seed in range(len(ANSWERS) + 1)]
    contents = [
        tiny_dicom(pixels, BurnedInAnnotation=burned, PatientIdentityRemoved=removed)
        for pixels, (burned, removed) in zip(pictures, ANSWERS, strict=False)
    ]
    contents.append(encode(pictures[-1], "PNG"))
    rows = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": content, "path": None} for content in contents],
            **{name: [side] * len(contents) for name, side in (("height", 40), ("width", 48))},
            "image_id": [str(row) for row in range(len(contents))],
        }
    ).cast_column("image", datasets.Image(decode=False))
    options = PrepareOptions(longest_side=32, keep_burned_in=keep)
    manifest = prepare({"train": rows}, tmp_path / "shards", options, key=b"key")
    (file,) = (tmp_path / "shards" / "data").iterdir()
    table = pq.read_table(file, columns=["burned_in_annotation", "patient_identity_removed"]).to_pylist()
    found = sorted((str(row["burned_in_annotation"]), str(row["patient_identity_removed"])) for row in table)
    rest = [("NO", "YES"), ("None", "None"), ("None", "None"), ("None", "None")]
    assert found == sorted([*rest, ("YES", "NO")] if keep else rest)
    assert manifest["counts"]["train"]["dropped"] == ({} if keep else {"burned_in_annotation": 1})


@pytest.mark.parametrize("keep", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "said",
    [["YES", "NO", None, "yes ", "Mustermann"], pytest.param([True, False, None, True, None], marks=pytest.mark.slow)],
)
def test_what_a_source_says_of_images_without_a_header_counts_as_much(tmp_path, keep, said):
    rows = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": encode(radiograph(40, 48, seed), "PNG"), "path": None} for seed in range(len(said))],
            **{name: [side] * len(said) for name, side in (("height", 40), ("width", 48))},
            "image_id": [str(row) for row in range(len(said))],
            "burned_in_annotation": said,
            "patient_identity_removed": said,
        }
    ).cast_column("image", datasets.Image(decode=False))
    for number in (1, 2):  # the second time of the shards of the first
        options = PrepareOptions(longest_side=32, keep_burned_in=keep or number == 1)
        prepare({"train": rows}, tmp_path / str(number), options, key=b"key")
        (file,) = (tmp_path / str(number) / "data").iterdir()
        table = pq.read_table(file, columns=["burned_in_annotation", "patient_identity_removed"]).to_pylist()
        found = sorted((str(row["burned_in_annotation"]), str(row["patient_identity_removed"])) for row in table)
        yes = [("YES", "YES")] * 2 if options.keep_burned_in else []
        assert found == sorted([("NO", "NO"), ("None", "None"), ("None", "None"), *yes])
        rows = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))
        rows = rows.cast_column("image", datasets.Image(decode=False))


@pytest.mark.parametrize("verify", ["headers", "files"])
def test_the_index_of_an_archive_has_the_answers_of_its_headers(tmp_path, verify):
    for row, (burned, removed) in enumerate(ANSWERS * 3):
        pixels = np.random.default_rng(row).integers(0, 4096, (40, 48)).astype(np.uint16)
        path = tmp_path / "archive" / "HAND" / f"p{row}" / "exam" / "series" / f"1.2.{row}"
        identity = {"PatientID": f"p{row}", "SOPInstanceUID": f"1.2.{row}"}
        write_dicom(path, pixels, BurnedInAnnotation=burned, PatientIdentityRemoved=removed, **identity)
    if verify == "files":  # with a table no header is read
        lines = [f'p{row},HAND/p{row}/exam/series/1.2.{row},"(40, 48)",False,HAND' for row in range(12)]
        header = "patientid,path,pixelarr_shape,inverted,bodypart"
        (tmp_path / "archive" / "table.csv").write_text("\n".join([header, *lines]) + "\n")
    options = {"cache_dir": str(tmp_path / "cache"), "hash_key": "any", "verify": verify}
    splits, _ = load_radiographs("mri", str(tmp_path / "archive"), **options)
    answers = [
        (row["burned_in_annotation"], row["patient_identity_removed"])
        for rows in splits.values()
        for row in rows.remove_columns("image")
    ]
    expected = [("YES", "NO"), ("NO", "YES"), (None, None), (None, None)] if verify == "headers" else [(None, None)] * 4
    assert sorted(answers, key=str) == sorted(expected * 3, key=str)
