"""The generated archive: headers say how to get the pixels back, and table, tree and reports agree."""

import csv
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_rescale

from hf_radmae.reports.labels import label_reports
from hf_radmae.sources.phantom import Archive, write_archive
from hf_radmae.sources.phantom.cohort import generate
from hf_radmae.sources.phantom.dicom import DIRT, Header, spoil
from hf_radmae.sources.phantom.people import person, uid, visit
from hf_radmae.sources.phantom.reports import ANATOMY, findings, phrases, write_report
from hf_radmae.sources.phantom.streams import Purpose, stream

OPTIONS = {"num_images": 70, "seed": 3, "scale": 0.02, "dirt": 0.15, "compressed": 0.2}


def check_answers(reports: list[str], stated: list[tuple[str, str]]) -> None:
    """Their texts were written apart from the rules that read them, which therefore err on some."""
    read = label_reports(reports, ["fracture", "foreign_material"])
    for place, label in enumerate(("fracture", "foreign_material")):
        pairs = [(truth[place], row[label], row[f"{label}_evidence"]) for truth, row in zip(stated, read, strict=True)]
        wrong = [pair for pair in pairs if pair[0] != pair[1]]
        assert len(wrong) <= 0.1 * len(pairs), wrong
        assert len([pair for pair in wrong if {*pair[:2]} == {"yes", "no"}]) <= 0.03 * len(pairs), wrong


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Archive:
    return write_archive(tmp_path_factory.mktemp("archive"), **OPTIONS)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_bytes_do_not_depend_on_the_number_of_processes(archive, tmp_path):
    other = write_archive(tmp_path, **OPTIONS, num_proc=2)
    assert contents(tmp_path) == contents(archive.folder)
    assert other.identifiers == archive.identifiers


def test_the_stated_luts_give_the_generated_pixels_back(archive):
    """Rescale, then mirror MONOCHROME1 within the bits that are stored."""
    for file in archive.files:
        if file.dirt in ("", "duplicate", "drawing"):
            dataset = pydicom.dcmread(archive.folder / file.path)
            pixels = apply_rescale(dataset.pixel_array, dataset)
            if dataset.PhotometricInterpretation == "MONOCHROME1":
                pixels = 2**dataset.BitsStored - 1 - pixels.astype(int)
            assert np.array_equal(pixels, file.image.pixels()), file.path


def test_presentation_lut_shape_and_photometric_interpretation_say_the_same(archive):
    for file in archive.files:
        dataset = pydicom.dcmread(archive.folder / file.path)
        if "PresentationLUTShape" in dataset:
            inverse = dataset.PresentationLUTShape == "INVERSE"
            assert inverse == (dataset.PhotometricInterpretation == "MONOCHROME1") == (file.row[3] == "True")


def test_headers_are_mixed_as_in_the_hospital():
    images = generate(3000)
    headers = []
    for number, image in enumerate(images):
        rng = stream(Purpose.FILE, number)
        headers.append(Header.draw(image, "HAND", uid(rng), uid(rng), rng))
    assert np.mean([header.inverted for header in headers]) == pytest.approx(0.129, abs=0.02)
    assert {header.voi for header in headers} == {"none", "window", "lut"}
    assert {(header.modality, header.inverted) for header in headers} == {(m, i) for m in ("DX", "CR") for i in (0, 1)}
    assert 0.02 < np.mean([header.rescaled for header in headers]) < 0.2


def test_the_table_lists_every_file_of_the_tree(archive):
    with (archive.folder / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {name for name in contents(archive.folder) if name.count("/") == 4}
    assert [row["path"] for row in rows] == [file.path for file in archive.files]
    assert {row["path"] for row in rows} == found and len(rows) == len(found)
    for row in rows:
        assert row["path"].split("/")[1] == row["patientid"]
        assert {row["fracture"], row["foreignmaterial"]} <= {"YES", "NO", "Unsure"}


def test_duplicates_repeat_a_file(archive):
    repeated = [file.path for file in archive.files if file.dirt == "duplicate"]
    assert repeated
    for path in repeated:
        assert (archive.folder / path).read_bytes() == (archive.folder / path.removesuffix("[1]")).read_bytes()


def test_all_that_identifies_a_person_is_listed(archive):
    names = ["PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "InstitutionName", "OperatorsName"]
    names += [
        "ReferringPhysicianName",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SOPInstanceUID",
        "StudyDate",
        "StudyID",
    ]
    for file in archive.files:
        dataset = pydicom.dcmread(archive.folder / file.path, stop_before_pixels=True)
        assert {str(dataset[name].value) for name in [*names, "DeviceSerialNumber"]} <= archive.identifiers
        assert {part.removesuffix("[1]") for part in file.path.split("/")[1:]} <= archive.identifiers


def test_reports_agree_with_the_table(archive):
    stated = {}
    for file in archive.files:
        report = (archive.folder / "reports" / f"{file.path.split('/')[2]}.txt").read_text(encoding="utf-8")
        stated[report] = file.row[5].lower(), file.row[6].lower()
    check_answers(list(stated), list(stated.values()))


def test_each_thing_is_said_in_many_ways_and_an_exam_always_alike():
    for topic, ways in phrases().items():
        assert len(set(ways)) == len(ways) and (len(ways) >= 60 or topic == "conclusions"), (topic, len(ways))
    image = generate(1)[0]
    key = [image], False, person(0, 0), visit(0, 0, 0), None
    assert write_report(*key) == write_report(*key)


def test_reports_negate_doubt_and_follow_up():
    reports, stated = [], []
    for image in generate(600):
        who, when = person(0, image.patient), visit(0, image.patient, image.exam)
        reports.append(write_report([image], image.follow_up, who, when, when if image.follow_up else None))
        stated.append((findings(image).fracture.lower(), findings(image).foreign_material.lower()))
        assert who.surname in reports[-1] and "geb. " in reports[-1]
    check_answers(reports, stated)
    text = "\n".join(reports)
    for expected in ("Kein Nachweis einer Fraktur", "uszuschließen", "Verlaufskontrolle", "bekannte"):
        assert expected in text
    assert all(name in text for name, _ in ANATOMY.values())


@pytest.mark.parametrize("kind", DIRT)
def test_each_kind_of_dirt_breaks_its_cleaning_rule(kind):
    pixels = spoil(generate(1, scale=0.05)[0].pixels(), kind)
    broken = {
        "no_pixels": lambda: pixels is None,
        "drawing": lambda: pixels.ndim == 2,  # told by ImageType
        "width": lambda: pixels.shape[1] == 650,
        "three_dimensions": lambda: pixels.ndim == 3,
        "maximum": lambda: pixels.max() <= 1000,
        "mean": lambda: pixels.mean() <= 100 and pixels.max() > 1000,
        "max_side": lambda: max(pixels.shape) > 3072,
    }
    assert broken[kind]()


def test_the_share_of_dirt_is_kept_and_good_files_pass_every_rule(archive):
    originals = [file for file in archive.files if file.dirt != "duplicate"]
    dirty = [file for file in originals if file.dirt]
    assert len(originals) == 70 and 3 <= len(dirty) <= 20
    for file in originals:
        dataset = pydicom.dcmread(archive.folder / file.path)
        assert ("DRAWING" in dataset.ImageType) == (file.dirt == "drawing")
        assert ("PixelData" not in dataset) == (file.dirt == "no_pixels")
        if not file.dirt:
            pixels = file.image.pixels()
            assert pixels.max() > 1000 and pixels.mean() > 100 and max(pixels.shape) <= 3072


def test_a_folder_in_use_is_refused(archive):
    with pytest.raises(FileExistsError, match="not empty"):
        write_archive(archive.folder, 1)
