"""Archives of other hospitals: other layouts, names, links and headers; every file is a row or is listed."""

import numpy as np
import pytest
from damaged import radiograph
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from tiny_dicom import write_dicom

from hf_radmae.sources.load import load_radiographs
from hf_radmae.sources.mri.tree import copies_of

pytestmark = pytest.mark.usefixtures("own_cache")


LAYOUTS = {
    "part/patient/exam/series/file": "HAND/P{p}/E{p}/S/{name}",
    "one level": "{p}_{name}",
    "year/month/patient/exam/file": "2021/0{month}/{p}/E{p}/{name}",
    "year/month/day/patient/exam/series/file": "2021/0{month}/11/{p}/E{p}/S/{name}",
    "patient/file": "patient{p:04d}/{name}",
    "deep": "x/y/z/a/b/c/d/e/P{p}/{name}",
}


def archive(root, layout: str, name="IM{n:06d}", patients=24, uid="1.2.{k}", **elements) -> int:
    """Writes one to three different images of each patient; the headers name patient and study."""
    k = 0
    for p in range(patients):
        for n in range(1 + p % 3):
            path = root / layout.format(p=p, month=1 + p % 3, name=name.format(n=n, p=p, k=k))
            path.parent.mkdir(parents=True, exist_ok=True)
            ids = {"PatientID": f"ID{p}", "StudyInstanceUID": f"1.9.{p}", "SOPInstanceUID": uid.format(k=k)} | elements
            write_dicom(path, radiograph(24, 20, seed=k).astype(np.uint16) * 16, BitsStored=12, **ids)
            k += 1
    return k


def load(root):
    splits, skipped = load_radiographs("mri", str(root))
    return splits, skipped, sum(map(len, splits.values()))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("uid", ["1.2.{k}", "1.2.3"])
def test_images_named_alike_in_any_layout_are_all_rows_and_patients_stay_whole(tmp_path, layout, uid):
    name = "IM{n:06d}" if layout != "one level" else "{k}"
    count = archive(tmp_path / "a", LAYOUTS[layout], name, uid=uid)
    splits, skipped, rows = load(tmp_path / "a")
    assert (rows, skipped) == (count, [])
    where: dict = {}
    for split, part in splits.items():
        for row in part:
            where.setdefault(row["patient"], set()).add(split)
    assert len(where) == 24 and all(len(found) == 1 for found in where.values())


@pytest.mark.parametrize(
    "elements", [{"PatientID": ""}, {"PatientID": "ANONYMOUS"}, {"PatientID": "X1", "StudyInstanceUID": "1.1"}]
)
def test_headers_without_patients_leave_the_folders(tmp_path, elements):
    count = archive(tmp_path / "a", LAYOUTS["part/patient/exam/series/file"], **elements)
    splits, _, rows = load(tmp_path / "a")
    assert rows == count and len({p for part in splits.values() for p in part["patient"]}) == 24


def test_copies_are_listed_once_and_one_picture_under_two_patients_is_in_one_split(tmp_path):
    root = tmp_path / "a"
    count = archive(root, LAYOUTS["part/patient/exam/series/file"])
    first = root / "HAND/P2/E2/S/IM000000"
    (first.parent / "IM000000[1]").write_bytes(first.read_bytes())
    (first.parent / "other name").write_bytes(first.read_bytes())
    copy = dcmread(first)
    copy.PatientID, copy.StudyInstanceUID = "ID9", "1.9.9"
    copy.save_as(root / "HAND/P9/E9/S/IM000077")
    splits, skipped, rows = load(root)
    assert (rows, len(skipped)) == (count + 1, 2)
    assert {entry["image"].rsplit("/", 1)[-1] for entry in skipped} == {"IM000000[1]", "other name"}
    assert {entry["reason"] for entry in skipped} == {"is dropped by the rule duplicates"}
    found = {row["image"]["path"]: split for split, part in splits.items() for row in part}
    assert found[str(first)] == found[str(root / "HAND/P9/E9/S/IM000077")]


def test_linked_exams_odd_names_and_files_of_other_kinds_are_rows_or_listed_or_counted(tmp_path):
    root = tmp_path / "a"
    count = archive(root, LAYOUTS["part/patient/exam/series/file"])
    outside = tmp_path / "moved"
    (root / "HAND/P3/E3").rename(outside)
    (root / "HAND/P3/E3").symlink_to(outside)
    with open(bytes(root / "HAND/P4/E4/S") + b"/\xfc", "wb") as file:
        file.write((root / "HAND/P4/E4/S/IM000000").read_bytes())
    (root / "HAND/P5/E5/S/broken").symlink_to(tmp_path / "nowhere")
    (root / "HAND/P5/E5/S/empty").touch()
    (root / "HAND/P5/E5/S/DICOMDIR.txt").write_text("no image")
    _, skipped, rows = load(root)
    reasons = {entry["image"].rsplit("/", 1)[-1]: entry["reason"] for entry in skipped}
    assert rows == count and {*reasons} == {r"\xfc", "broken", "empty"}
    assert "not UTF-8" in reasons[r"\xfc"] and "link to nothing" in reasons["broken"] and "empty" in reasons["empty"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from(["a", "a[1]", "b"])), max_size=8))
@settings(max_examples=25, deadline=None)
def test_copies_are_files_of_one_uid_and_one_picture_whatever_their_names(tmp_path_factory, found):
    root = tmp_path_factory.mktemp("files")
    paths = []
    for place, (uid, picture, name) in enumerate(found):
        paths.append(f"{place}/{name}")
        (root / str(place)).mkdir()
        write_dicom(root / paths[-1], radiograph(24, 20, seed=picture), SOPInstanceUID=f"1.2.{uid}")
    groups = copies_of(root, paths, [f"1.2.{uid}" for uid, *_ in found])
    expected: dict = {}
    for place, (uid, picture, _) in enumerate(found):
        expected.setdefault((uid, picture), []).append(place)
    assert sorted(map(sorted, groups)) == sorted(same for same in expected.values() if len(same) > 1)
    for same in groups:
        assert found[same[0]][2] != "a[1]" or all(found[place][2] == "a[1]" for place in same)
