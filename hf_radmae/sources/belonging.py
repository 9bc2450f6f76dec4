"""Which rows belong together (patients, copies of files, near duplicates), and splits that keep them together."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_radmae.batching.columns import arrow_column
from hf_radmae.sources.folder import SPLIT_NAMES
from hf_radmae.sources.identity import read_identity
from hf_radmae.sources.near import near_duplicate_groups
from hf_radmae.sources.patients import (
    GROUP_COLUMNS,
    PATIENT,
    SAME_CONTENT,
    connected_groups,
    folder_patient,
    image_groups,
    means_patient,
    normalise_patient,
    patient_columns,
    patient_keys,
    same_content,
)
from hf_radmae.sources.scan import IMAGE_SUFFIXES
from hf_radmae.sources.splits import split_by_patient

FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}
"""Shares of train, validation and test where a source has no splits of its own."""
NO_PATIENT = "no patient column: split by image"
_MOST_CLASSES = 100
_SPLIT_COLUMNS = {"split", "subset", "partition", "fold", "set", "dataset"}
_DICOM = {"dcm", "dicom", "dic", "ima"}


def with_groups(
    splits: Mapping[str, datasets.Dataset],
    names: Mapping[str, Sequence[str]],
    *,
    patient_column: str | None = None,
    own: bool = False,
    near_duplicates: bool = False,
) -> tuple[dict[str, datasets.Dataset], list[str]]:
    """Add the columns by which rows belong together: `patient`, `same_content` and `near_dup_group`.

    The patient is that of a column whose name means it, else of a folder such as `patient00001`, else of the DICOM
    header. A column with one value for all rows tells no patients apart and is not used.

    Args:
        splits: split -> rows.
        names: split -> the path of each row's image, for sources that read files; may be missing.
        patient_column: the column to use.
        own: rows that this package's builders or shards gave: their `patient` is taken as it is, else `patient_id`.
        near_duplicates: also group images that look alike, over all splits.

    Returns:
        The rows, and what to tell the user.

    Raises:
        ValueError: `patient_column` does not exist.
    """
    whole = dict(splits)
    notes: list[str] = []
    every = dict.fromkeys(name for rows in whole.values() for name in rows.column_names)
    columns = patient_columns(list(every), patient_column)
    if not own or patient_column is not None or PATIENT not in every:
        columns, one_value = _telling(whole, columns, named=own or patient_column is not None)
        if one_value:
            notes.append(f"column {', '.join(one_value)} has one value for all images: not taken for the patient")
        whole, source = _with_patients(whole, columns, names, own=own)
        total = sum(len(rows) for rows in whole.values())
        known = sum(value is not None for rows in whole.values() for value in _values_or_none(rows, PATIENT))
        if known:
            share = "" if known == total else f", known of {known} of {total} images"
            notes.append(f"patients by {source}{share}")
        else:
            notes.append(NO_PATIENT)
    if not own:
        whole = _with_column(whole, SAME_CONTENT, _over_all(whole, same_content))
    if near_duplicates:
        groups = near_duplicate_groups(row["image"] for rows in whole.values() for row in rows.select_columns("image"))
        found = _with_column(whole, "near_dup_group", groups)
        notes.append(f"{sum(group is not None for group in groups)} images look like another one: kept together")
        whole = found
    return whole, notes


def complete_splits(
    splits: Mapping[str, datasets.Dataset], seed: int, *, allow_shared_patients: bool = False
) -> tuple[datasets.DatasetDict, list[str]]:
    """Train, validation, test and the source's others; of the three a missing one is drawn from train by groups.

    What is drawn is stratified by the columns of classes: rare ones are in every split.

    Args:
        splits: the source's; `train` must be there.
        seed: of the draw.
        allow_shared_patients: say it where groups are in two of the source's splits, in place of an error.

    Returns:
        The splits, and what to tell the user.

    Raises:
        ValueError: there is no split `train`, or a patient or a file is in two splits.
    """
    renamed = {name: SPLIT_NAMES.get(name.lower(), name) for name in splits}
    counts = Counter(renamed.values())
    splits = {renamed[name] if counts[renamed[name]] == 1 else name: rows for name, rows in splits.items()}
    if "train" not in splits:
        raise ValueError(f"there is no split 'train', only {', '.join(splits)}")
    notes = []
    if [*splits] == ["train"] and (column := _split_column(splits["train"])):
        splits = _by_column(splits["train"], column)
        notes.append(f"splits by column {column}")
    if shared := shared_groups(splits):
        if not allow_shared_patients:
            raise ValueError(
                f"the source's splits share patients or files: {shared}. Split again, or take them as they are with "
                "--allow_shared_patients"
            )
        notes.append(f"the source's splits share patients or files, as allowed: {shared}")
    if missing := [name for name in ("validation", "test") if name not in splits]:
        train = splits["train"]
        wanted = {"train": FRACTIONS["train"]} | {name: FRACTIONS[name] for name in missing}
        fractions = {name: share / sum(wanted.values()) for name, share in wanted.items()}
        groups = image_groups(train)
        if (count := len(np.unique(groups))) < len(wanted):
            notes.append(f"{len(train)} images are {count} groups (patients or copies): all are in train")
            parts = np.array(["train"] * len(train), dtype=object)
        else:
            parts = split_by_patient(groups, label_strata(train), fractions, seed)
        splits |= {name: _of_split(train.select(np.flatnonzero(parts == name)), name) for name in wanted}
    order = dict.fromkeys(("train", "validation", "test", *splits))
    return datasets.DatasetDict({name: splits[name] for name in order}), notes


def _split_column(rows: datasets.Dataset) -> str | None:
    """The column that says the split of every row, train and others."""
    names = [name for name in rows.column_names if name.strip().lower() in _SPLIT_COLUMNS]
    every = {*SPLIT_NAMES.values()}
    return next((name for name in names if {"train"} < set(_splits_in(rows, name)) <= every), None)


def _splits_in(rows: datasets.Dataset, column: str) -> list[str | None]:
    feature, values = rows.features[column], arrow_column(rows, column).to_pylist()
    if isinstance(feature, datasets.ClassLabel):
        values = [None if value is None or value < 0 else feature.names[value] for value in values]
    return [SPLIT_NAMES.get(str(value).strip().lower()) for value in values]


def _by_column(rows: datasets.Dataset, column: str) -> dict[str, datasets.Dataset]:
    said = np.array(_splits_in(rows, column))
    return {str(name): _of_split(rows.select(np.flatnonzero(said == name)), str(name)) for name in np.unique(said)}


def shared_groups(splits: Mapping[str, datasets.Dataset]) -> str:
    """What two splits have in common, in words with its first names; empty where nothing is."""
    texts = []
    for column in GROUP_COLUMNS:
        where: dict[Any, dict[str, int]] = defaultdict(dict)
        for split, rows in splits.items():
            if column in rows.column_names:
                for row, value in enumerate(arrow_column(rows, column).to_pylist()):
                    if value is not None and value != "":
                        where[value].setdefault(split, row)
        if found := {value: places for value, places in where.items() if len(places) > 1}:
            first = []
            for value, places in [*found.items()][:5]:
                rows_at = " and ".join(f"{split} ({_image(splits[split], row)})" for split, row in places.items())
                first.append(f"{value} in {rows_at}" if column != SAME_CONTENT else rows_at)
            kind = {SAME_CONTENT: "copies of one file", "near_dup_group": "near duplicates"}.get(column, f"{column}s")
            texts.append(f"{len(found)} {kind}: {'; '.join(first)}{' ...' * (len(found) > 5)}")
    return ". ".join(texts)


def label_strata(rows: datasets.Dataset) -> np.ndarray | None:
    """The columns of classes as (rows, columns), None where there is none.

    They are `ClassLabel` and truth columns, and columns of texts or whole numbers with few values, each of ten rows on
    average, that are no ids.
    """
    columns = []
    for name, feature in rows.features.items():
        if name in (*GROUP_COLUMNS, "image", "image_id", "height", "width") or means_patient(name):
            continue
        dtype = getattr(feature, "dtype", "")
        if not (isinstance(feature, datasets.ClassLabel) or dtype in ("bool", "string") or dtype.startswith("int")):
            continue
        values = arrow_column(rows, name).to_pylist()
        known = {value for value in values if value is not None and value != ""}
        if 2 <= len(known) <= min(_MOST_CLASSES, max(2, len(rows) // 10)):
            columns.append([None if value is None else str(value) for value in values])
    if not columns:
        return None
    strata = np.empty((len(rows), len(columns)), dtype=object)
    for place, column in enumerate(columns):
        strata[:, place] = column
    return strata


def _telling(splits: Mapping[str, datasets.Dataset], columns: list[str], *, named: bool) -> tuple[list[str], list[str]]:
    """The columns that tell patients apart, and those with one value for several rows."""
    telling, one_value = [], []
    for column in columns:
        values = [value for rows in splits.values() for value in _values_or_none(rows, column)]
        known = {key for value in values if (key := normalise_patient(value)) is not None}
        if named or len(known) > 1 or (known and len(values) == 1):
            telling.append(column)
        elif known:
            one_value.append(column)
    return telling, one_value


def _with_patients(
    splits: Mapping[str, datasets.Dataset], columns: list[str], names: Mapping[str, Sequence[str]], *, own: bool
) -> tuple[dict[str, datasets.Dataset], str]:
    """The rows with the column `patient`, where any is known, and what it is from."""
    length = sum(len(rows) for rows in splits.values())
    keys: list[str | None] = [None] * length
    sources = []
    if columns:
        values = [[v for rows in splits.values() for v in _values_or_none(rows, c)] for c in columns]
        keys = patient_keys(values)
        sources.append(f"column {', '.join(columns)}")
    if not own and any(key is None for key in keys):
        for found, source in ((_by_folder(splits, names), "folder"), (_by_header(splits, keys), "DICOM header")):
            more = [key is None and other is not None for key, other in zip(keys, found, strict=True)]
            if any(more):
                keys = [other if key is None else key for key, other in zip(keys, found, strict=True)]
                sources.append(source)
    if not any(key is not None for key in keys):
        return {s: r.remove_columns(PATIENT) if PATIENT in r.features else r for s, r in splits.items()}, ""
    return _with_column(splits, PATIENT, keys), " and ".join(sources)


def _values_or_none(rows: datasets.Dataset, column: str) -> list:
    return arrow_column(rows, column).to_pylist() if column in rows.column_names else [None] * len(rows)


def _by_folder(splits: Mapping[str, datasets.Dataset], names: Mapping[str, Sequence[str]]) -> list[str | None]:
    paths = (name for split, rows in splits.items() for name in names.get(split) or _paths(rows))
    found = [folder_patient(path) for path in paths]
    known = {key for key in found if key is not None}
    return [None if key is None else f"folder {key}" for key in found] if len(known) > 1 else [None] * len(found)


def _by_header(splits: Mapping[str, datasets.Dataset], keys: Sequence[str | None]) -> list[str | None]:
    """Hashed patients, else studies, of DICOM files; none where all have the same."""
    images = _images(splits)
    contents, paths = pc.struct_field(images, "bytes"), pc.struct_field(images, "path").to_pylist()
    inside = np.asarray(pc.equal(pc.binary_slice(contents, 128, 132), b"DICM").fill_null(False))

    def look(row: int) -> tuple[str, str]:
        if inside[row]:
            identity = read_identity(contents[row].as_py())
        elif not contents[row].is_valid and _may_be_dicom(paths[row]):
            identity = read_identity(str(paths[row]))
        else:
            return "", ""
        return (identity.patient, identity.study) if identity else ("", "")

    rows = [row for row, key in enumerate(keys) if key is None]
    with ThreadPoolExecutor(16) as pool:
        found = dict(zip(rows, pool.map(look, rows), strict=True))
    patients = {row: key for row, (patient, _) in found.items() if (key := normalise_patient(patient)) is not None}
    if len(set(patients.values())) < 2:  # removed, or the same text for all
        patients = {}
    named = [patients.get(row) for row in range(len(keys))]
    studies = [found[row][1] or None if row in found else None for row in range(len(keys))]
    if not patients and len({study for study in studies if study}) < 2:
        return [None] * len(keys)
    groups = connected_groups([named, studies], len(keys))
    known = [bool(patient or study) for patient, study in zip(named, studies, strict=True)]
    first = {group: (named[row] or studies[row]) for row, group in reversed([*enumerate(groups)]) if known[row]}
    return [
        f"dicom {hashlib.blake2b(str(first[group]).encode(), digest_size=8).hexdigest()}" if is_known else None
        for group, is_known in zip(groups, known, strict=True)
    ]


def _may_be_dicom(path: str | None) -> bool:
    suffix = str(path).rsplit(".", 1)[-1].lower()
    return path is not None and (suffix in _DICOM or suffix not in IMAGE_SUFFIXES)


def _over_all(splits: Mapping[str, datasets.Dataset], function: Any) -> list[str | None]:
    return function(_images(splits))


def _images(splits: Mapping[str, datasets.Dataset]) -> pa.ChunkedArray:
    chunks = [chunk for rows in splits.values() for chunk in arrow_column(rows, "image").chunks]
    kind = next(iter(splits.values())).features.arrow_schema.field("image").type
    return pa.chunked_array([chunk.cast(kind) for chunk in chunks], kind)


def _paths(rows: datasets.Dataset) -> list[str]:
    return [path or "" for path in pc.struct_field(arrow_column(rows, "image"), "path").to_pylist()]


def _image(rows: datasets.Dataset, row: int) -> str:
    """What to call an image in a message."""
    one = rows.select_columns([name for name in ("image", "image_id") if name in rows.column_names])[row]
    return str((one["image"] or {}).get("path") or one.get("image_id") or f"row {row}")


def _with_column(
    splits: Mapping[str, datasets.Dataset], name: str, values: Sequence[str | None]
) -> dict[str, datasets.Dataset]:
    """The rows with a column of texts over all splits; without it where all values are None."""
    if all(value is None for value in values):
        return dict(splits)
    result, start = {}, 0
    for split, rows in splits.items():
        part = pa.array(values[start : start + len(rows)], pa.string())
        start += len(rows)
        rows = rows.remove_columns(name) if name in rows.column_names else rows
        result[split] = rows.add_column(name, part, feature=datasets.Value("string"))  # type: ignore[arg-type]
    return result


def _of_split(rows: datasets.Dataset, split: str) -> datasets.Dataset:
    rows.info.splits = None
    rows._split = datasets.NamedSplit(split)
    return rows
