"""A folder (or a zip) of images -> rows by split, with the columns of its metadata files; every file is accounted for.

The layout is that of `datasets`' `imagefolder`: sub-folders `train`, `validation`, `test` (or, where none is called
train, `train_images` and `test_images`) are splits, `metadata.csv` (`.tsv`, `.jsonl`, `.parquet`) next to the images or
above them holds columns, and without one the folders' names are labels. What that reader drops without a word is here a
row, or is listed with the reason.
"""

from __future__ import annotations

import glob
import os
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets.fingerprint import Hasher

from hf_radmae.batching.skipped import skipped_image
from hf_radmae.images.remote import Place, is_url, locate
from hf_radmae.sources.patients import folder_patient, means_patient
from hf_radmae.sources.scan import Found, Scan, scan, sort_files
from hf_radmae.sources.table_file import TableError, column_names, read_table

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Name of a folder, or a word of it or of a Parquet file's name, in lower case -> split."""
_FILE_NAMES = ("filename", "filepath", "imagepath", "imagename", "imagefile", "path", "image", "file")


@dataclass
class Source:
    """Rows of a source before their sizes are known.

    Attributes:
        splits: split -> rows, the column `image` undecoded.
        listed: split, index, image and reason of what is no row.
        found: number of images found, by which the ledger is checked.
        files: number of different images among the rows.
        others: suffix -> number of files that are no images.
        unit: what `found` counts.
        names: split -> the name of each row's file below the folder, where there are files.
    """

    splits: dict[str, datasets.Dataset]
    listed: list[dict[str, Any]] = field(default_factory=list)
    found: int = 0
    files: int = 0
    others: Counter[str] = field(default_factory=Counter)
    unit: str = "images"
    names: dict[str, list[str]] = field(default_factory=dict)


def read_folder(
    folder: str | Place,
    *,
    data_files: Mapping[str, Any] | Sequence[str] | str | None = None,
    drop_labels: bool | None = None,
) -> Source:
    """Rows of the images below a folder, or in a zip.

    Args:
        folder: see this module's first lines; a path or a URL.
        data_files: split -> file, glob pattern, or list of them, in place of what the folders' names say.
        drop_labels: whether folders' names are no labels; by default they are where they differ, all images are at one
            depth, no folder is a patient's and there is no metadata file.

    Raises:
        FileNotFoundError: there is no image.
        TableError: a metadata file that cannot be read.
    """
    chosen = None if data_files is None else chosen_files(data_files)
    found = scan(folder) if chosen is None else _scan_of(chosen)
    tables = _tables(found.metadata)
    listed = [skipped_image(name, reason) for name, reason in found.listed]
    rows: dict[str, list[tuple[Found, dict[str, Any]]]] = defaultdict(list)
    folders = {file.name: file.name.split("/")[:-1] for file in found.images}
    words = chosen is None and words_say_splits(folders.values())
    if chosen is None:
        given = {name: split_of(parts, words=words) for name, parts in folders.items()}
    else:
        given = {path.lstrip("/"): split for split, paths in chosen.items() for path in paths}
    any_split = any(given[file.name] is not None for file in found.images)
    files = 0
    for file in found.images:
        split = given[file.name]
        if any_split and split is None:
            named = ", ".join(sorted({split for split in given.values() if split}))
            listed.append(
                skipped_image(file.name, f"is in no split's folder, and there are folders of {named}: move it")
            )
            continue
        entries = _entries_of(file, tables)
        if entries is None:
            listed.append(skipped_image(file.name, "is in no metadata file: add a row, or move the image away"))
            continue
        files += 1
        rows[split or "train"] += [(file, entry) for entry in entries]
    for table in tables:
        listed += table.unused()
    if not rows:
        first = f"; the first of {len(listed)} listed: {listed[0]['image']}: {listed[0]['reason']}" if listed else ""
        others = ", ".join(f"{count} {suffix}" for suffix, count in found.others.items()) or "no other file"
        usable = " that can be used" if found.images else ""
        raise FileNotFoundError(f"{folder}: there is no image{usable} in this folder ({others}){first}")
    columns = _columns(tables)
    labels = None if tables or drop_labels else _labels(rows, forced=drop_labels is False, words=words)
    splits = {split: _dataset(part, columns, tables, labels, split) for split, part in rows.items()}
    names = {split: [file.name for file, _ in part] for split, part in rows.items()}
    table_rows = sum(1 for entry in listed if entry.get("row"))
    listed = [{name: value for name, value in entry.items() if name != "row"} for entry in listed]
    images = len(found.images) + len(found.listed) + table_rows
    return Source(splits, listed, images, files, found.others, "files", names)


def chosen_files(data_files: Mapping[str, Any] | Sequence[str] | str) -> dict[str, list[str]]:
    """Split -> the absolute paths that its file, glob pattern or list of them names; without splits all is train.

    Raises:
        FileNotFoundError: a split without a file.
        ValueError: a file in two splits.
    """
    splits = data_files if isinstance(data_files, Mapping) else {"train": data_files}
    result: dict[str, list[str]] = {}
    split_by_path: dict[str, str] = {}
    for split, patterns in splits.items():
        patterns = [patterns] if isinstance(patterns, str | os.PathLike) else patterns
        if remote := [pattern for pattern in patterns if is_url(pattern)]:
            raise ValueError(f"data_files: {remote[0]} is a URL: give its folder with --data_dir")
        found = {path for pattern in patterns for path in glob.glob(os.path.abspath(pattern), recursive=True)}
        result[str(split)] = sorted(path for path in found if os.path.isfile(path))
        if not result[str(split)]:
            raise FileNotFoundError(f"data_files of {split}: no file is at {', '.join(map(str, patterns))}")
        for path in result[str(split)]:
            if (other := split_by_path.setdefault(path, str(split))) != split:
                raise ValueError(f"data_files: {path} is in {other} and in {split}; name each file once")
    return result


def _scan_of(chosen: Mapping[str, Sequence[str]]) -> Scan:
    """Chosen files, as `scan` gives them."""
    result = Scan(Path("/"))
    paths = sorted(path for paths in chosen.values() for path in paths)
    states = [os.stat(path) for path in paths]
    files = [Found(p, p.lstrip("/"), s.st_size, s.st_mtime_ns) for p, s in zip(paths, states, strict=True)]
    sort_files(files, result)
    return result


def split_of(folders: Sequence[str], *, words: bool = False) -> str | None:
    """The split that the first of some folders (or zips) stands for by its name, else by a word of it if so asked."""
    for folder in folders:
        if split := SPLIT_NAMES.get(folder.strip().lower().removesuffix(".zip")):
            return split
    every = [word for folder in folders for word in re.findall("[a-z]+", folder.lower())] if words else []
    return next((SPLIT_NAMES[word] for word in every if word in SPLIT_NAMES), None)


def words_say_splits(names: Iterable[Sequence[str]]) -> bool:
    """True where no folder is called as the split train is, but words of names say it and another: `train_images`."""
    names = list(names)
    if "train" in {split_of(parts) for parts in names}:
        return False
    return {"train"} < {split_of(parts, words=True) for parts in names} - {None}


class _Metadata:
    """A table that says more of the images in its folder and below, by the column `file_name`."""

    def __init__(self, file: Found, text: Iterable[str] = ()):
        self.name, self.path = file.name, locate(file.path)
        self.folder = posixpath.dirname(file.name)
        table, self.lines = read_table(self.path, text=[*_text_columns(self.path), *text])
        self.column = _file_column(self.path, table.column_names)
        names = ["image_of_source" if name == "image" != self.column else name for name in table.column_names]
        self.table = table.rename_columns(names)
        self.by_name: dict[str, list[int]] = defaultdict(list)
        self.problems: list[tuple[int, str, str]] = []
        self.used: set[int] = set()
        for row, value in enumerate(table[self.column].to_pylist()):
            name = "" if value is None else str(value).replace("\\", "/").strip()
            if not name:
                self.problems.append((row, "", "has no file_name"))
                continue
            if is_url(name):
                name = name.removeprefix(f"{self.path.parent}/")
            elif posixpath.isabs(name):
                name = posixpath.relpath(name, self.path.parent.as_posix())
            full = _spelled(posixpath.normpath(posixpath.join(self.folder, name)))
            if full.startswith("../"):
                self.problems.append((row, name, "leads out of the folder: write it relative to the table"))
                continue
            self.by_name[full].append(row)

    @property
    def columns(self) -> list[str]:
        return [name for name in self.table.column_names if name != self.column]

    def rows_of(self, name: str) -> list[int]:
        rows = self.by_name.get(name, [])
        self.used.update(rows)
        return rows

    def unused(self) -> list[dict[str, Any]]:
        """Entries of the rows that name no file."""
        entries = [
            skipped_image(f"{self.name}, line {self.lines[row]}{': ' * bool(name)}{name}", reason)
            for row, name, reason in self.problems
        ]
        for name, rows in self.by_name.items():
            for row in rows:
                if row not in self.used:
                    where = f"{self.name}, line {self.lines[row]}"
                    entries.append(skipped_image(name, f"is missing: {where} names it, and there is no such image"))
        return [{**entry, "row": True} for entry in entries]


def _tables(files: Sequence[Found]) -> list[_Metadata]:
    """The tables; a column that is text in one is read as text in all, so that `1.0` and `True` keep their spelling."""
    tables = [_Metadata(file) for file in files]
    kinds: dict[str, set[bool]] = defaultdict(set)
    for table in tables:
        for name in table.columns:
            kind = table.table.schema.field(name).type
            if not pa.types.is_null(kind):
                kinds[name].add(pa.types.is_string(kind) or pa.types.is_large_string(kind))
    mixed = [name for name, texts in kinds.items() if len(texts) > 1]
    return [_Metadata(file, mixed) for file in files] if mixed else tables


def _spelled(name: str) -> str:
    """A file's name with letters of one part: some systems write `ü` as two."""
    return unicodedata.normalize("NFC", name)


def _text_columns(path: Place) -> list[str]:
    """The columns of a table that are names or ids, which stay text."""
    if path.suffix.lower() in (".parquet", ".jsonl"):
        return []
    return [name for name in column_names(path) if _canonical(name) in _FILE_NAMES or means_patient(name)]


def _file_column(path: Place, names: Sequence[str]) -> str:
    if "file_name" in names:
        return "file_name"
    for wanted in _FILE_NAMES:
        found = [name for name in names if _canonical(name) == wanted]
        if len(found) == 1:
            return found[0]
    raise TableError(
        f"{path}: no column file_name among {', '.join(names)[:200]}; name the column that holds each image's path so"
    )


def _canonical(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _entries_of(file: Found, tables: Sequence[_Metadata]) -> list[dict[str, Any]] | None:
    """The rows of all tables that name a file, as (place of table, row); None where tables above it do not name it.

    A file in a zip is also known by its name without the zip.
    """
    own = _spelled(file.name)
    names = list(dict.fromkeys((own, *_without_zips(own))))
    above = [
        (place, table)
        for place, table in enumerate(tables)
        if any(name.startswith(f"{table.folder}/") or not table.folder for name in names)
        or own.startswith(f"{table.folder}/")
    ]
    if not above:
        return [{}]
    matches = {place: rows for place, table in above for name in names if (rows := table.rows_of(name))}
    if not matches:
        return None
    entries: list[dict[str, Any]] = [{}]
    for place, rows in matches.items():
        entries = [{**entry, str(place): row} for entry in entries for row in rows]
    return entries


def _without_zips(name: str) -> list[str]:
    parts = name.split("/")
    kept = [part for part in parts[:-1] if not part.lower().endswith(".zip")]
    stems = [part[:-4] if part.lower().endswith(".zip") else part for part in parts[:-1]]
    return ["/".join([*kept, parts[-1]]), "/".join([*stems, parts[-1]])]


def _columns(tables: Sequence[_Metadata]) -> list[str]:
    return list(dict.fromkeys(name for table in tables for name in table.columns))


def _labels(rows: Mapping[str, list[tuple[Found, Any]]], *, forced: bool, words: bool) -> dict[str, str] | None:
    """Name of a folder -> label, where the folders of images are labels: see `read_folder`.

    Folders of patients and of splits are none. Names that differ only in case or spaces are one label.
    """
    names = [file.name for part in rows.values() for file, _ in part]
    folders = sorted({posixpath.basename(posixpath.dirname(name)) for name in names})
    depths = {name.count("/") for name in names}
    spellings: dict[str, str] = {}
    labels = {folder: spellings.setdefault(" ".join(folder.casefold().split()), folder) for folder in folders}
    if forced:
        return labels
    other = any(split_of([folder], words=words) for folder in folders) or any(map(folder_patient, names))
    return labels if len(spellings) > 1 and len(depths) == 1 and not other else None


def _dataset(
    part: list[tuple[Found, dict[str, Any]]],
    columns: Sequence[str],
    tables: Sequence[_Metadata],
    labels: dict[str, str] | None,
    split: str,
) -> datasets.Dataset:
    """Rows with the column image (a path, nothing opened) and those of the tables."""
    paths = pa.array([file.path for file, _ in part], pa.string())
    data: dict[str, Any] = {
        "image": pa.StructArray.from_arrays([pa.nulls(len(part), pa.binary()), paths], names=["bytes", "path"])
    }
    features: dict[str, Any] = {"image": datasets.Image(decode=False)}
    for name in columns:
        pieces = []
        for place, table in enumerate(tables):
            if name in table.columns:
                rows = pa.array([entry.get(str(place)) for _, entry in part], pa.int64())
                pieces.append(table.table[name].combine_chunks().take(rows))
        data[name] = _coalesced(name, pieces, [table for table in tables if name in table.columns], paths)
        features[name] = datasets.features.features.generate_from_arrow_type(data[name].type)
    if labels is not None:
        classes = sorted({*labels.values()})
        numbers = {folder: classes.index(label) for folder, label in labels.items()}
        data["label"] = pa.array([numbers[posixpath.basename(posixpath.dirname(f.name))] for f, _ in part])
        features["label"] = datasets.ClassLabel(names=classes)
    table = pa.table(data).cast(datasets.Features(features).arrow_schema)
    return datasets.Dataset(
        datasets.table.InMemoryTable(table),
        datasets.DatasetInfo(features=datasets.Features(features)),
        split=datasets.NamedSplit(split),
        fingerprint=Hasher.hash([[(f.path, f.bytes, f.modified, e) for f, e in part], table]),
    )


def _coalesced(name: str, pieces: list[pa.Array], tables: Sequence[_Metadata], paths: pa.Array) -> pa.Array:
    """The known value of several tables' columns, as text where their types differ; two values are an error."""
    kinds = {piece.type for piece in pieces if not pa.types.is_null(piece.type)}
    if len(kinds) > 1:
        numbers = all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds)
        kind = pa.float64() if numbers else pa.string()
    else:
        kind = kinds.pop() if kinds else pa.string()
    files = ", ".join(str(table.path) for table in tables)
    try:
        pieces = [piece.cast(kind) for piece in pieces]
    except pa.ArrowException as error:
        raise TableError(f"{files}: the column {name} is of two kinds ({error}); write the same kind") from error
    result = pieces[0]
    for piece in pieces[1:]:
        if pa.types.is_primitive(kind) or pa.types.is_string(kind):
            differ = np.flatnonzero(pc.fill_null(pc.not_equal(result, piece), False))
            if len(differ):
                row = int(differ[0])
                raise TableError(
                    f"{files}: {paths[row]} has the values {result[row]} and {piece[row]} of {name}; keep one"
                )
        result = pc.coalesce(result, piece)
    return result
