"""The archive as a data set: the same from table and folders, clean, honest splits, hashed ids, pixels unopened."""

import csv
import json
import multiprocessing
import resource
import stat
import subprocess
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pytest
from tiny_dicom import IDENTIFIERS, write_dicom

import hf_radmae.sources.mri.builder as mri
from hf_radmae.images.dicom import read_header, read_radiograph
from hf_radmae.sources.mri.builder import MRI
from hf_radmae.sources.mri.cleaning import CleaningRules, pixel_rule
from hf_radmae.sources.mri.tree import read_headers, read_tree
from hf_radmae.sources.phantom.archive import write_archive
from hf_radmae.sources.splits import audit_splits
from hf_radmae.sources.table_file import TableError

PARTS = ("HAND", "KNIE", "THORAX")
HEADER = ("patientid", "path", "pixelarr_shape", "inverted", "bodypart", "fracture", "foreignmaterial")
DIRT = {  # rule -> name suffix, elements of the header
    "duplicates": ("[1]", {}),
    "no_pixels": ("5", {"drop": ("PixelData",)}),
    "drawing": ("6", {"ImageType": ["DERIVED", "SECONDARY", "DRAWING"]}),
    "width": ("7", {"Columns": 650}),
    "three_dimensions": ("8", {"NumberOfFrames": 4}),
    "max_side": ("9", {"Rows": 4000}),
}


@pytest.fixture(scope="session")
def archive(tmp_path_factory) -> Path:
    """60 images of 30 patients in the archive's folders, with a table and reports; every third one is MONOCHROME1."""
    root = tmp_path_factory.mktemp("archive")
    random = np.random.default_rng(0)
    rows = []
    for number in range(60):
        part, patient, exam = PARTS[number // 2 % 3], f"PAT{number // 2:04d}", f"EX{number // 2:04d}"
        path = f"{part}/{patient}/{exam}/S{number}/1.2.276.{number}"
        shape = tuple(int(side) for side in random.integers(20, 40, 2))
        photometric = "MONOCHROME1" if number % 3 == 0 else "MONOCHROME2"
        pixels = random.integers(0, 4096, shape).astype(np.uint16)
        write_dicom(root / path, pixels, PhotometricInterpretation=photometric, PatientID=patient)
        rows.append((patient, path, shape, number % 3 == 0, part, ("YES", "NO", "")[number // 2 % 3], ""))
    write_table(root, rows)
    (root / "reports").mkdir()
    for number in range(0, 30, 2):
        text = f"Patient PAT{number:04d} Mustermann\n\nBefund: Keine Fraktur. Liegende Schraube.\n"
        (root / "reports" / f"EX{number:04d}.txt").write_text(text, encoding="utf-8")
    return root


def write_table(root: Path, rows) -> None:
    with (root / "table.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])


def read_rows(root: Path) -> list[list[str]]:
    with (root / "table.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def prepare(root: Path, cache: Path, **options) -> tuple[datasets.Dataset, MRI]:
    """Return all splits in the order of their paths, with a column `split`, and the builder."""
    builder = MRI(data_dir=str(root), cache_dir=str(cache), **options)
    builder.download_and_prepare()
    splits = [part.add_column("split", [name] * len(part)) for name, part in builder.as_dataset().items()]
    rows = datasets.concatenate_datasets(splits)
    order = np.argsort([image["path"] for image in rows["image"]])
    return rows.select(order), builder


def dirty(archive: Path, folder: Path) -> Path:
    """Return a copy of the archive with one file for every rule, and one that cannot be read."""
    subprocess.run(["cp", "-r", str(archive), str(folder)], check=True)
    series = folder / "HAND/PAT0000/EX0000/S0"
    for suffix, elements in DIRT.values():
        write_dicom(series / f"1.2.276.0{suffix}", **elements)
    (series / "1.2.276.0[1]").write_bytes((series / "1.2.276.0").read_bytes())
    (folder / "HAND/PAT0000/EX0000/S0/1.2.276.text").write_text("no DICOM")
    (folder / "HAND/PAT0000/notes.txt").write_text("misplaced")
    return folder


def test_table_and_folders_give_the_same_images_and_the_true_sizes(archive, tmp_path):
    by_table, _ = prepare(archive, tmp_path)
    by_tree, builder = prepare(archive, tmp_path, table=None)
    same = ["image", "height", "width", "body_part", "inverted", "patient", "exam"]
    assert by_table.select_columns(same).to_list() == by_tree.select_columns(same).to_list()
    assert builder.report()["indexed"] == len(by_tree) == 60
    for row in by_tree:
        header = read_header(row["image"]["path"])
        assert row["image"]["bytes"] is None
        assert (row["height"], row["width"], row["inverted"]) == (header.rows, header.columns, header.inverted)
    assert read_radiograph(by_tree[0]["image"]["path"]).pixels.shape == (by_tree[0]["height"], by_tree[0]["width"])


def test_every_rule_drops_its_file_and_is_counted_and_can_be_off(archive, tmp_path):
    root = dirty(archive, tmp_path / "dirty")
    rows, builder = prepare(root, tmp_path / "on", table=None)
    report = builder.report()
    assert report["dropped"] == dict.fromkeys(["unreadable", *DIRT], 1) and len(rows) == 60
    assert report["others"] == {".txt": 1, ".csv": 1} and report["indexed"] == 67
    listed = {Path(entry["image"]).name.removeprefix("1.2.276."): entry["reason"] for entry in builder.skipped()}
    assert "is no DICOM file" in listed.pop("text")
    assert listed == {f"0{suffix}": f"is dropped by the rule {rule}" for rule, (suffix, _) in DIRT.items()}
    rows, builder = prepare(root, tmp_path / "off", table=None, cleaning=CleaningRules(drawing=False, width=None))
    assert len(rows) == 62 and not {"drawing", "width"} & set(builder.report()["dropped"])
    by_name = prepare(root, tmp_path / "off", table=None, cleaning={"drawing": False, "width": None})[1]
    assert by_name.cache_dir == builder.cache_dir


def test_the_split_is_by_patient_repeatable_and_written_down(archive, tmp_path):
    rows, builder = prepare(archive, tmp_path / "one")
    again, _ = prepare(archive, tmp_path / "two", hash_key="other")
    assert rows["split"] == again["split"]
    audit = audit_splits(rows["patient"], rows["split"])
    assert audit == builder.report()["splits"] and set(audit) == {"train", "validation", "test"}
    with (Path(builder.cache_dir) / "splits.csv").open() as file:
        written = {row["patient"]: row["split"] for row in csv.DictReader(file)}
    assert written == dict(zip(rows["patient"], rows["split"], strict=True))
    assert prepare(archive, tmp_path / "one", seed=1)[0]["split"] != rows["split"]


def test_ids_are_hashed_with_a_key_that_stays_with_its_owner(archive, tmp_path):
    rows, _ = prepare(archive, tmp_path / "one")
    assert len(set(rows["patient"])) == len(set(rows["exam"])) == 30
    key = tmp_path / "one" / "mri_hash.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert prepare(archive, tmp_path / "one", seed=3)[0]["patient"] == rows["patient"]
    given = [prepare(archive, tmp_path / name, hash_key="secret")[0]["patient"] for name in ("two", "three")]
    assert given[0] == given[1] != rows["patient"]
    kept = "".join(str(rows.remove_columns("image").to_dict()).split())
    kept += "".join(path.read_text() for path in (tmp_path / "one").rglob("*") if path.suffix in (".json", ".csv"))
    assert not any(f"PAT{number:04d}" in kept or f"EX{number:04d}" in kept for number in range(30))
    assert not any(secret in kept for secret in IDENTIFIERS.values())


def test_headers_correct_the_table_and_the_differences_are_counted(archive, tmp_path):
    root = dirty(archive, tmp_path / "wrong")
    rows = read_rows(root)
    rows[0][3] = "False" if rows[0][3] == "True" else "True"
    rows[1][2] = "(77, 88)"
    rows += [["PAT0000", f"HAND/PAT0000/EX0000/S0/1.2.276.0{DIRT['drawing'][0]}", "(6, 8)", "False", "HAND", "", ""]]
    write_table(root, rows)
    true, _ = prepare(archive, tmp_path / "true")
    trusting, builder = prepare(root, tmp_path / "trust")
    assert (len(trusting), builder.report()["dropped"]["drawing"], builder.report()["inverted_mismatches"]) == (
        61,
        None,
        None,
    )
    checked, builder = prepare(root, tmp_path / "check", verify="headers")
    report = builder.report()
    assert (report["inverted_mismatches"], report["size_mismatches"], report["dropped"]["drawing"]) == (1, 1, 1)
    for column in ("height", "width", "inverted"):
        assert checked[column] == true[column]


def test_reports_fill_the_labels_that_the_table_lacks_and_their_text_stays_out(archive, tmp_path):
    rows, builder = prepare(archive, tmp_path)
    assert builder.report()["exams_without_report"] == 15
    for number, row in enumerate(sorted(rows, key=lambda row: int(row["image"]["path"].rsplit(".", 1)[1]))):
        exam = number // 2
        assert row["foreign_material"] == (1 if exam % 2 == 0 else None)
        assert row["fracture"] == (1, 0, 0 if exam % 2 == 0 else None)[exam % 3]
    assert "report" not in rows.column_names
    with_text, _ = prepare(archive, tmp_path, include_reports=True)
    assert sum(text is not None and "Befund" in text for text in with_text["report"]) == 30
    without, _ = prepare(archive, tmp_path, reports=None)
    assert set(without["foreign_material"]) == {None}


def test_the_body_part_is_that_of_the_folder_else_of_the_header_else_null(tmp_path):
    for number in range(12):
        folder, spelled = (("Fuß rechts", "HAND"), ("DIVERSE", "HÜFTE LI"), ("DIVERSE", "SONSTIGES"))[number % 3]
        path = tmp_path / "tree" / folder / f"P{number}/E{number}/S/1.{number}"
        pixels = np.arange(48, dtype=np.uint16).reshape(6, 8) + number
        write_dicom(path, pixels, BodyPartExamined=spelled, SpecificCharacterSet="ISO_IR 192")
    rows, builder = prepare(tmp_path / "tree", tmp_path / "cache")
    names = rows.features["body_part"].names
    found = {row["image"]["path"].rsplit(".", 1)[1]: row["body_part"] for row in rows}
    assert [found[str(number)] for number in range(3)] == [names.index("foot"), names.index("pelvis"), None]
    assert builder.report()["unknown_body_part"] == 4


def test_threads_hide_the_latency_of_the_storage(archive, monkeypatch):
    paths, _ = read_tree(archive, exclude=["reports"])

    waiting: list[int] = []

    def slow(path):
        waiting.append(len(under_way) + 1)
        under_way.add(path)
        time.sleep(0.1)
        under_way.remove(path)
        return read_header(path)

    under_way: set = set()
    monkeypatch.setattr("hf_radmae.sources.mri.tree.read_header", slow)
    headers = read_headers(archive, paths, threads=20)
    assert len(waiting) == len(paths) and max(waiting) > 10
    assert [header.height for header in headers] == [read_header(archive / path).rows for path in paths]


def test_shards_and_streaming_give_the_same_rows(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(mri, "ROWS_PER_SHARD", 7)
    rows, _ = prepare(archive, tmp_path / "one")
    stream = MRI(data_dir=str(archive), cache_dir=str(tmp_path / "one")).as_streaming_dataset()
    for name, part in stream.items():
        streamed = sorted(row["image"]["path"] for row in part)
        assert streamed == [row["image"]["path"] for row in rows if row["split"] == name]


def test_streaming_draws_the_key_where_it_belongs(archive, tmp_path, monkeypatch):
    """`datasets` replaces `open` in the module of a builder that streams, for the rest of the process."""
    monkeypatch.chdir(tmp_path)
    stream = MRI(data_dir=str(archive), cache_dir=str(tmp_path / "cache")).as_streaming_dataset()
    streamed = {row["image"]["path"]: row["patient"] for part in stream.values() for row in part}
    rows, _ = prepare(archive, tmp_path / "cache")
    assert streamed == {row["image"]["path"]: row["patient"] for row in rows}
    assert len((tmp_path / "cache" / "mri_hash.key").read_text()) == 64
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_changed_table_or_option_is_prepared_anew_and_an_unchanged_one_is_not(archive, tmp_path):
    root = dirty(archive, tmp_path / "copy")
    first = MRI(data_dir=str(root), cache_dir=str(tmp_path)).cache_dir
    assert MRI(data_dir=str(root), cache_dir=str(tmp_path), threads=2).cache_dir == first
    for options in ({"seed": 1}, {"hash_key": "a"}, {"cleaning": CleaningRules(width=None)}, {"table": None}):
        assert MRI(data_dir=str(root), cache_dir=str(tmp_path), **options).cache_dir != first
    write_table(root, read_rows(root)[:-1])
    assert MRI(data_dir=str(root), cache_dir=str(tmp_path)).cache_dir != first


MISUSE = [
    ({"data_dir": None}, None, ValueError, "data_dir is missing: MRI reads a local archive"),
    ({"data_dir": "missing"}, None, FileNotFoundError, "there is no such folder; check data_dir"),
    ({"table": "other.csv"}, None, FileNotFoundError, "other.csv: there is no such table; give one, or table=None"),
    ({"cleaning": {"wide": 650}}, None, ValueError, "cleaning rules wide are unknown: choose of duplicates, no_pixels"),
    ({"verify": "all"}, None, ValueError, "verify='all': expected 'none', 'files' or 'headers'"),
    (
        {},
        lambda root: (root / "table.csv").rename(root / "table.pkl"),
        TableError,
        "is a pickle, which can run any code",
    ),
    ({}, lambda root: (root / "table.parquet").touch(), TableError, "holds table.csv and table.parquet; name one"),
    (
        {},
        lambda root: (root / read_rows(root)[3][1]).unlink(),
        TableError,
        r"column path: 1 rows \(4\) name files that are",
    ),
    ({}, lambda root: write_table(root, []), TableError, "has a header and no rows"),
    ({}, lambda root: write_table(root, read_rows(root)[:4]), ValueError, "2 patients cannot fill 3 splits"),
    ({"cleaning": CleaningRules(max_side=10)}, None, ValueError, "no image is left of 60; dropped: .*'max_side': 60"),
    ({"include_reports": True, "reports": "texts"}, None, FileNotFoundError, "but no folder reports='texts'"),
    (
        {"data_dir": "empty"},
        lambda root: (root.parent / "empty").mkdir(),
        FileNotFoundError,
        "no file at <PART>/<patient>",
    ),
]


@pytest.mark.parametrize(("options", "change", "kind", "text"), MISUSE)
def test_what_cannot_be_read_is_refused_with_what_to_do(archive, tmp_path, monkeypatch, options, change, kind, text):
    monkeypatch.chdir(tmp_path)
    root = dirty(archive, tmp_path / "copy")
    if change:
        change(root)
    with pytest.raises(kind, match=text):
        MRI(**{"data_dir": str(root), "cache_dir": str(tmp_path / "cache"), **options}).download_and_prepare()


def generate_table(path: Path, images: int) -> None:
    """Write a table of an archive with 4.9 images per patient and sizes, parts and labels in realistic shares."""
    random = np.random.default_rng(0)
    patient = np.sort(random.integers(0, images // 5, images))
    part = random.choice(["HAND", "KNIE", "THORAX", "BECKEN", "SCHULTER", "FUSS", "HWS", "ELLENBOGEN"], images)
    rows, columns = random.integers(246, 3073, images), random.integers(219, 3072, images)
    fracture = random.choice(["YES", "NO", "Unsure", ""], images, p=[0.1, 0.5, 0.05, 0.35])
    with path.open("w") as file:
        file.write(",".join(HEADER) + "\n")
        for n in range(images):
            place = f"{part[n]}/{patient[n]}/{patient[n]}{n % 3}/{n // 2}/1.2.276.0.7230010.3.1.4.8323329.{n}"
            file.write(f'{patient[n]},{place},"({rows[n]}, {columns[n]})",{n % 8 == 0},{part[n]},{fracture[n]},\n')


def measure(folder: Path) -> tuple[float, int, dict]:
    """Return the CPU seconds that a prepared table takes, the peak memory in bytes, and the builder's report."""
    start = time.process_time()
    builder = MRI(data_dir=str(folder), cache_dir=str(folder / "cache"), verify="none")
    builder.download_and_prepare()
    seconds = time.process_time() - start
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, builder.report()


def check_report(report: dict, images: int) -> None:
    dropped = sum(count or 0 for count in report["dropped"].values())
    assert sum(part["images"] for part in report["splits"].values()) == images - dropped


def test_a_table_of_100_000_rows_is_indexed_cleaned_split_and_audited_in_seconds(tmp_path):
    generate_table(tmp_path / "table.csv", 100_000)
    seconds, _, report = measure(tmp_path)
    check_report(report, 100_000)
    assert seconds < 10


@pytest.mark.slow
def test_a_table_of_640_000_rows_is_indexed_cleaned_split_and_audited_in_2_gigabytes(tmp_path):
    generate_table(tmp_path / "table.csv", 640_000)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # its peak is its own
        _, memory, report = pool.submit(measure, tmp_path).result()
    check_report(report, 640_000)
    assert memory < 2e9


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """A generated archive with every kind of dirt, and reports with negations, doubts and follow-ups."""
    return write_archive(tmp_path_factory.mktemp("generated") / "archive", 150, seed=5, scale=0.04, dirt=0.2)


def test_the_generated_archive_is_cleaned_of_exactly_what_was_spoilt(generated, tmp_path):
    rows, builder = prepare(generated.folder, tmp_path, verify="headers")
    spoilt = Counter(file.dirt.replace("duplicate", "duplicates") for file in generated.files)
    report = builder.report()
    pixel_rules = {"maximum", "mean"}
    assert {rule: count for rule, count in report["dropped"].items() if count} == {
        rule: count for rule, count in spoilt.items() if rule and rule not in pixel_rules
    }
    assert (report["inverted_mismatches"], report["size_mismatches"], report["unknown_body_part"]) == (0, 0, 0)
    assert prepare(generated.folder, tmp_path, table=None)[1].report()["dropped"] == report["dropped"]
    dirt = {str(generated.folder / file.path): file.dirt for file in generated.files}
    for row in rows:
        path = row["image"]["path"]
        assert (pixel_rule(read_radiograph(path).pixels, CleaningRules()) or "") == dirt[path]


def test_reports_of_the_generated_archive_give_the_labels_of_its_table(generated, tmp_path):
    told, _ = prepare(generated.folder, tmp_path)
    read, _ = prepare(generated.folder, tmp_path, table=None)
    known = {row["image"]["path"]: row for row in told}
    assert len(read) > 80
    for label, least in {"body_part": 1.0, "fracture": 0.85, "foreign_material": 0.9}.items():
        right = [row[label] == known[row["image"]["path"]][label] for row in read]
        assert np.mean(right) >= least, label  # the reports were written apart from the rules


def test_no_identifier_of_the_generated_archive_is_in_any_column_but_the_path(generated, tmp_path):
    rows, builder = prepare(generated.folder, tmp_path)
    kept = str(rows.remove_columns("image").to_dict()) + json.dumps(builder.report())
    kept += (Path(builder.cache_dir) / "splits.csv").read_text()
    assert [text for text in generated.identifiers if len(text) > 3 and text in kept] == []
