"""An archive of DICOM radiographs, with a table or without -> one clean, labelled index, and counts of what was done.

No pixel is decoded. The index is a `pyarrow.Table` of `INDEX_SCHEMA` with raw ids, which stay in memory.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_radmae.reports.join import speaks_of
from hf_radmae.reports.labels import label_reports
from hf_radmae.reports.text import decode
from hf_radmae.sources.mri.body_parts import BodyParts
from hf_radmae.sources.mri.cleaning import CleaningRules, clean_index
from hf_radmae.sources.mri.table import ANSWERS, HEADER_ANSWERS, LABELS, read_table
from hf_radmae.sources.mri.tree import (
    HeaderFacts,
    copies_of,
    index_tree,
    missing_files,
    read_headers,
    read_tree,
    threaded,
)
from hf_radmae.sources.patients import connected_groups
from hf_radmae.sources.table_file import TableError, refuse_pickle

Verify = Literal["none", "files", "headers"]
TABLES = ("table.csv", "table.parquet")


@dataclass
class Counts:
    """What happened on the way to the index; nothing in it names a patient, but `listed` names files, with reasons."""

    indexed: int = 0
    others: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int | None] = field(default_factory=dict)
    inverted_mismatches: int | None = None
    size_mismatches: int | None = None
    unknown_body_part: int = 0
    exams_without_report: int | None = None
    listed: list[tuple[str, str]] = field(default_factory=list)


def find_table(data_dir: Path, table: str | None) -> Path | None:
    """Return the table to read: the named one, with "auto" the one in the archive's root, None for the tree.

    Raises:
        FileNotFoundError: the named table is not there.
        TableError: two tables, or only a pickle.
    """
    if table is None:
        return None
    if table != "auto":
        path = data_dir / Path(table).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such table; give one, or table=None to read the folders")
        return path
    found = [data_dir / name for name in TABLES if (data_dir / name).is_file()]
    if len(found) > 1:
        raise TableError(f"{data_dir} holds {' and '.join(TABLES)}; name one with table=...")
    for pickle in () if found else sorted(data_dir.glob("table.p*kl*")):
        refuse_pickle(pickle)
    return found[0] if found else None


def build_index(
    data_dir: Path,
    table: Path | None,
    *,
    body_parts: BodyParts,
    rules: CleaningRules,
    verify: Verify = "files",
    reports: Path | None = None,
    threads: int = 32,
) -> tuple[pa.Table, Counts]:
    """Index an archive, clean the index, and fill labels that the table does not have from the reports.

    Args:
        data_dir: the archive's folder.
        table: its table; None reads the folders and every header.
        body_parts: what spellings of body parts mean.
        rules: what is dropped.
        verify: with a table, what to look at in the files: "none", "files" (each exists), or "headers" (sizes,
            inversion, drawings and missing body parts from each header, which wins over the table).
        reports: folder of `<exam>.txt`.
        threads: files that are read at once.

    Returns:
        The index of the images that stay, and the counts.

    Raises:
        FileNotFoundError, TableError: as `read_table` and `read_tree` do, and for files of the table that are missing.
        ValueError: nothing is left.
    """
    counts = Counts()
    if table is None:
        exclude = [] if reports is None else [reports.name]
        paths, found = read_tree(data_dir, exclude=exclude, threads=threads)
        counts.others, counts.listed = dict(found.others), list(found.listed)
        headers = read_headers(data_dir, paths, threads=threads)
        index = index_tree(paths, headers, body_parts)
    else:
        index = read_table(table, body_parts)
        paths = index["path"].to_pylist() if verify != "none" else []
        if len(missing := missing_files(data_dir, paths, threads=threads)):
            first = ", ".join(map(str, missing[:5]))
            raise TableError(
                f"{table}, column path: {len(missing)} rows ({first}) name files that are not in {data_dir}; "
                "restore the files or remove the rows (verify='none' does not look)"
            )
        headers = read_headers(data_dir, paths, threads=threads) if verify == "headers" else []
        index = _correct(index, headers, body_parts, counts) if headers else index
    counts.indexed = len(index)
    readable = np.array([not header.problem for header in headers] or [True] * len(index), bool)
    counts.listed += [(paths[row], headers[row].problem) for row in np.flatnonzero(~readable)]
    index = index.filter(pa.array(readable))
    if paths and rules.duplicates:
        paths = index["path"].to_pylist()
        sops = [header.sop for header in headers if not header.problem] if headers else None
        index = _without_copies(index, copies_of(data_dir, paths, sops, threads=threads))
    dropped_by, dropped = clean_index(index, rules)
    counts.dropped = {"unreadable": int((~readable).sum()), **dropped}
    left_out = index["path"].filter(pa.array(dropped_by != "")).to_pylist()
    reasons = [f"is dropped by the rule {rule}" for rule in dropped_by[dropped_by != ""]]
    counts.listed += zip(left_out, reasons, strict=True)
    index = index.filter(pa.array(dropped_by == ""))
    if len(index) == 0:
        raise ValueError(f"{table or data_dir}: no image is left of {counts.indexed}; dropped: {counts.dropped}")
    index = _with_sources(index)
    if reports is not None:
        index = _fill_labels(index, reports, body_parts, threads, counts)
    counts.unknown_body_part = index["body_part"].null_count
    return index, counts


def read_report(folder: Path, exam: str) -> str | None:
    """Return the text of an exam's report, in whatever encoding; None where there is none."""
    try:
        return decode((folder / f"{exam}.txt").read_bytes())
    except FileNotFoundError:
        return None


def _without_copies(index: pa.Table, groups: list[list[int]]) -> pa.Table:
    """Mark the copies within a patient, and make one patient of those that share a picture."""
    patients = index["patient"].to_pylist()
    duplicate = np.zeros(len(index), bool)
    shared: list[str | None] = [None] * len(index)
    for number, group in enumerate(groups):
        seen = set()
        for row in group:
            duplicate[row] = patients[row] in seen
            seen.add(patients[row])
            shared[row] = str(number)
    if any(len({patients[row] for row in group}) > 1 for group in groups):
        joined = connected_groups([patients, shared], len(index))
        first: dict[int, str] = {}
        for group_of, patient in zip(joined.tolist(), patients, strict=True):
            if patient is not None and patient < first.get(group_of, "\U0010ffff"):
                first[group_of] = patient
        patients = [first.get(group_of) for group_of in joined.tolist()]
    for name, values in (("duplicate", pa.array(duplicate)), ("patient", pa.array(patients, pa.string()))):
        index = index.set_column(index.schema.get_field_index(name), name, values)
    return index


def _correct(index: pa.Table, headers: list[HeaderFacts], body_parts: BodyParts, counts: Counts) -> pa.Table:
    """Replace what the table says by what the headers say, and count where they differ."""
    known = np.array([not header.problem and header.dimensions > 0 for header in headers], bool)

    def column(name: str) -> np.ndarray:
        return np.where(known, [getattr(header, name) for header in headers], index[name].to_numpy())

    new = {name: column(name) for name in ("height", "width", "inverted")}
    counts.inverted_mismatches = int((new["inverted"] != index["inverted"].to_numpy()).sum())
    differ = [new[name] != index[name].to_numpy() for name in ("height", "width")]
    counts.size_mismatches = int((differ[0] | differ[1]).sum())
    new["dimensions"] = np.array([header.dimensions for header in headers])
    new["drawing"] = np.array([header.drawing for header in headers])
    new |= {name: np.array([getattr(header, name) for header in headers], object) for name in HEADER_ANSWERS}
    spelled = np.array(body_parts.codes([header.body_part for header in headers]))
    new["body_part"] = pc.coalesce(index["body_part"], pa.array(spelled, pa.int32(), mask=spelled < 0))
    for name, values in new.items():
        place = index.schema.get_field_index(name)
        index = index.set_column(place, index.schema.field(name), pa.array(values, index.schema.field(name).type))
    return index


def _with_sources(index: pa.Table) -> pa.Table:
    """Add a column `<label>_source` for each label: all of them are by hand so far."""
    for name in LABELS.values():
        source = pc.if_else(pc.is_valid(index[name]), pa.scalar("hand"), pa.scalar(None, pa.string()))
        index = index.append_column(f"{name}_source", source)
    return index


def _fill_labels(index: pa.Table, reports: Path, body_parts: BodyParts, threads: int, counts: Counts) -> pa.Table:
    """Fill the labels that are null from the exam's report, on pictures of the body part that it speaks of."""
    lacking = pc.or_(*(pc.is_null(index[name]) for name in LABELS.values()))
    exams = pc.unique(index["exam"].filter(lacking)).to_pylist()
    texts = threaded(lambda exam: read_report(reports, exam), exams, threads, "reports")
    counts.exams_without_report = sum(text is None for text in texts)
    found = dict(zip(exams, label_reports(texts, list(LABELS.values())), strict=True))
    parts = [None if code is None else body_parts.names[code] for code in index["body_part"].to_pylist()]
    for name in LABELS.values():
        codes: list[int | None] = []
        for exam, part in zip(index["exam"].to_pylist(), parts, strict=True):
            said = found.get(exam, {})
            fits = said.get(name) and speaks_of(said[f"{name}_body_part"], None, part)
            codes.append(ANSWERS.index(said[name]) if fits else None)
        read = pa.chunked_array([pa.array(codes, pa.int32())])
        new = pc.and_(pc.is_null(index[name]), pc.is_valid(read))
        source = pc.if_else(new, pa.scalar("report"), index[f"{name}_source"])
        for column, values in ((name, pc.coalesce(index[name], read)), (f"{name}_source", source)):
            index = index.set_column(index.schema.get_field_index(column), column, values)
    return index
