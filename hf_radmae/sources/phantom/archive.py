"""A generated clinical archive: 16-bit DICOM files in a hospital's tree, with its table and a German report per exam.

The tree is `<PART>/<patient>/<exam>/<series>/<SOP uid>` without a suffix; duplicates end in `[1]`. Every identifier in
headers, paths and reports is invented and listed, so that a test can search for leaks.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from hf_radmae.batching.processes import processes
from hf_radmae.sources.phantom.cohort import FREQUENCIES, generate
from hf_radmae.sources.phantom.dicom import DIRT, RLE, Header, spoil, write_dicom
from hf_radmae.sources.phantom.people import identifiers, person, uid, visit
from hf_radmae.sources.phantom.radiograph import PhantomImage
from hf_radmae.sources.phantom.reports import findings, write_report
from hf_radmae.sources.phantom.streams import Purpose, stream

COLUMNS = ("patientid", "path", "pixelarr_shape", "inverted", "bodypart", "fracture", "foreignmaterial")
ARCHIVE_FREQUENCIES = {region: share for region, share in FREQUENCIES.items() if region != "breast"}
DUPLICATES = 0.02  # share of files that are there twice

# Part -> folder, and how headers and the table spell it.
SPELLINGS = {
    "skull": ("SCHAEDEL", ("SKULL", "SCHÄDEL", "HEAD", "Schädel")),
    "cervical_spine": ("WIRBELSAEULE", ("CSPINE", "HWS", "C SPINE")),
    "thoracic_spine": ("WIRBELSAEULE", ("TSPINE", "BWS", "T SPINE")),
    "lumbar_spine": ("WIRBELSAEULE", ("LSPINE", "LWS", "L SPINE")),
    "chest": ("THORAX", ("CHEST", "THORAX", "Thorax")),
    "breast": ("MAMMA", ("BREAST", "MAMMA")),
    "abdomen": ("ABDOMEN", ("ABDOMEN", "BAUCH")),
    "pelvis": ("BECKEN", ("PELVIS", "BECKEN", "Becken")),
    "hand": ("HAND", ("HAND", "Hand", "FINGER")),
    "wrist": ("HAND", ("WRIST", "HANDGELENK")),
    "forearm": ("UNTERARM", ("FOREARM", "UNTERARM")),
    "elbow": ("ELLENBOGEN", ("ELBOW", "ELLENBOGEN")),
    "upper_arm": ("OBERARM", ("HUMERUS", "OBERARM")),
    "shoulder": ("SCHULTER", ("SHOULDER", "SCHULTER")),
    "foot": ("FUSS", ("FOOT", "FUSS", "FUß")),
    "ankle": ("FUSS", ("ANKLE", "SPRUNGGELENK")),
    "lower_leg": ("UNTERSCHENKEL", ("LOWER LEG", "UNTERSCHENKEL")),
    "knee": ("KNIE", ("KNEE", "KNIE", "Knie")),
    "thigh": ("OBERSCHENKEL", ("FEMUR", "OBERSCHENKEL")),
    "hip": ("BECKEN", ("HIP", "HÜFTE", "HUEFTE")),
}


@dataclass(frozen=True)
class ArchiveFile:
    """One file: its generated `image`, `path` relative to the archive, row of the table, and what is wrong with it.

    `dirt` is empty for a good radiograph, "duplicate", or one of the kinds that cleaning rules must find.
    """

    image: PhantomImage
    path: str
    row: tuple[str, ...]
    dirt: str


@dataclass(frozen=True)
class Archive:
    """What was written: the folder, its files in the table's order, and all texts that identify a person or device."""

    folder: Path
    files: list[ArchiveFile]
    identifiers: frozenset[str]


def write_archive(
    folder: str | Path,
    num_images: int,
    *,
    seed: int = 0,
    scale: float = 1.0,
    frequencies: Mapping[str, float] = ARCHIVE_FREQUENCIES,
    dirt: float = 0.0,
    compressed: float = 0.0,
    num_proc: int = 1,
) -> Archive:
    """Write a generated archive with `table.csv` and `reports/<exam>.txt`; the bytes do not depend on `num_proc`.

    Args:
        folder: an empty or new folder.
        num_images: how many images, before duplicates are added.
        seed, scale, frequencies: as for `generate`; the hospital has no mammography by default.
        dirt: share of images that a cleaning rule must drop, of all kinds in turn.
        compressed: share of files in RLE instead of Explicit VR Little Endian.
        num_proc: processes that draw and write.

    Raises:
        FileExistsError: the folder holds something.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; give a new folder for the generated archive")
    (folder / "reports").mkdir()
    cohort = generate(num_images, seed=seed, scale=scale, frequencies=frequencies)
    patients = [list(images) for _, images in groupby(cohort, key=lambda image: image.patient)]
    write = partial(_write_patient, folder, dirt, compressed)
    with processes(num_proc) as in_processes:
        written = in_processes(write, patients)
    files = [file for found, _ in written for file in found]
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(file.row for file in files)
    return Archive(folder, files, frozenset[str]().union(*(texts for _, texts in written)))


def _write_patient(folder: Path, dirt: float, compressed: float, images: list[PhantomImage]):
    """Write one patient's files and reports; return the files and the identifiers."""
    seed, patient = images[0].seed, images[0].patient
    who, texts, files = person(seed, patient), set[str](), list[ArchiveFile]()
    before, was_broken = None, False
    for number, group in groupby(images, key=lambda image: image.exam):
        exam = list(group)
        when = visit(seed, patient, number)
        texts |= identifiers(who, when)
        report = write_report(exam, was_broken, who, when, before)
        (folder / "reports" / f"{when.exam}.txt").write_text(report, encoding="utf-8")
        before, was_broken = when, findings(exam[0]).fracture == "YES"
        for image in exam:
            rng = stream(Purpose.FILE, seed, patient, number, image.image)
            fault = str(rng.choice(DIRT)) if rng.random() < dirt else ""
            part, spellings = SPELLINGS[image.part]
            header = Header.draw(image, str(rng.choice(spellings)), uid(rng), uid(rng), rng)
            texts |= {header.series_uid, header.sop_uid}
            path = f"{part}/{who.patient_id}/{when.exam}/{header.series_uid}/{header.sop_uid}"
            pixels = spoil(image.pixels(), fault)
            syntax = RLE if rng.random() < compressed else None
            (folder / path).parent.mkdir(parents=True)
            write_dicom(folder / path, pixels, image, header, who, when, drawing=fault == "drawing", syntax=syntax)
            shape = "()" if pixels is None else str(pixels.shape)
            stated = findings(image)
            labels = (header.body_part, stated.fracture, stated.foreign_material)
            row = (who.patient_id, path, shape, str(header.inverted), *labels)
            files.append(ArchiveFile(image, path, row, fault))
            if rng.random() < DUPLICATES:
                (folder / f"{path}[1]").write_bytes((folder / path).read_bytes())
                files.append(ArchiveFile(image, f"{path}[1]", (row[0], f"{path}[1]", *row[2:]), "duplicate"))
    return files, texts
