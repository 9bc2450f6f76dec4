"""Who an image is of, as far as its row, its folder or its DICOM header says, and which images belong together.

The key is the column `patient`: text, the same for one patient however it was written, null where it is not known.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike

from hf_radmae.batching.columns import arrow_column
from hf_radmae.images.remote import is_url, locate, open_file
from hf_radmae.images.storage import StorageError, steady

PATIENT = "patient"
SAME_CONTENT = "same_content"
GROUP_COLUMNS = (PATIENT, "near_dup_group", SAME_CONTENT)
"""Columns whose equal values keep images in one split: patients, near duplicates, and copies of one file."""

_PERSONS = (
    *("patient", "patienten", "paciente", "paziente", "subject", "participant", "proband", "person", "pat", "subj"),
)
_KINDS = (
    *("id", "ids", "identifier", "number", "no", "nr", "num", "nummer", "key", "code", "name", "hash", "uid", "pk"),
    *("pseudonym", "ref", "study", "anon", "anonymous", "anonymized", "anonymised", "deid", "deidentified", "the"),
    *(
        "unique",
        "orig",
        "original",
        "index",
        "idx",
        "empi",
        "mrn",
        "hashed",
        "pseudo",
        "pseudonymized",
        "pseudonymised",
    ),
    *("of", "du"),
)
_ALONE = {"mrn", "empi", "empi_id", "pid", "patid", "patnr", "patno", "medical record number", "empi anon", "ptid"}
_FOLDER = re.compile(r"(?:patients?|pat|subjects?|subj|sub|participants?|proband|person|p)[-_ .]?\d+", re.IGNORECASE)
_NUMBERED = re.compile(r"(?:(?P<word>[^\W\d_]+)[\s_.-]*)?0*(?P<number>\d+)(?:\.0+)?")
_UNKNOWN = {"", "nan", "none", "null", "<na>", "n/a", "na", "-", "?"}
_UNKNOWN |= {"unknown", "anonymous", "anonymized", "anonymised", "anon"}


def normalise_patient(value: Any) -> str | None:
    """The key of a patient: spaces, case, leading zeros and `.0` do not matter; None where the value names nobody.

    `"P007 "`, `"P-007"` and `"p7"` are one key, `"7"`, `7.0` and `"007"` another, `"A-P007"` and `"a_p7"` a third.
    """
    if value is None or isinstance(value, bool) or value != value:
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    text = " ".join(unicodedata.normalize("NFKC", str(value)).casefold().split())
    if text in _UNKNOWN:
        return None
    whole = _number(text)
    parts = [part for part in re.split(r"[\s_-]+", text) if part]
    return whole or (" ".join(_number(part) or part for part in parts) if len(parts) > 1 else text)


def _number(text: str) -> str | None:
    """A number, or a word and a number, without what does not matter; None for any other text."""
    match = _NUMBERED.fullmatch(text)
    return f"{match['word'] or ''}{match['number']}" if match else None


def one_spelling(values: Iterable[str | None]) -> dict[str | None, str]:
    """Key of a patient -> the first, in the alphabet, of its spellings among some values."""
    found: dict[str | None, str] = {}
    for value in sorted({value for value in values if value is not None}):
        if (key := normalise_patient(value)) is not None:
            found.setdefault(key, value)
    return found


def means_patient(column: str) -> bool:
    """True for a column's name that says, in any spelling, that it holds the patient: `Patient ID`, `patientId`, ..."""
    humps = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", column.strip())
    return any(_means_patient(re.sub(r"[^a-z0-9]+", " ", name.casefold()).split()) for name in (humps, column))


def _means_patient(words: list[str]) -> bool:
    if " ".join(words) in _ALONE or "".join(words) in _ALONE:
        return True
    split = [part for word in words for part in _parts(word)]
    return any(word in _PERSONS for word in split) and all(word in (*_PERSONS, *_KINDS) for word in split)


def _parts(word: str) -> list[str]:
    """`patientid` -> patient, id; any other word alone."""
    for person in sorted(_PERSONS, key=len, reverse=True):
        if word.startswith(person) and word[len(person) :] in _KINDS:
            return [person, word[len(person) :]]
    return [word]


def folder_patient(name: str) -> str | None:
    """The patient that the folders of a file's name say, as `patient00001/study1/image1.png` or `sub-01/1.png`."""
    for folder in reversed(name.split("/")[:-1]):
        if _FOLDER.fullmatch(folder.strip()):
            return normalise_patient(folder)
    return None


def patient_columns(names: Sequence[str], named: str | None = None) -> list[str]:
    """The columns that hold the patient: the named one, else those whose name means it, `patient` first.

    Raises:
        ValueError: the named column does not exist.
    """
    if named is not None:
        found = [name for name in names if name.strip() == named.strip()]
        if not found:
            raise ValueError(f"--patient_column {named}: there is no such column; there are {', '.join(names)}")
        return found
    return sorted((name for name in names if means_patient(name)), key=lambda name: (name != PATIENT, name))


def patient_keys(columns: Sequence[Sequence[Any]]) -> list[str | None]:
    """One key per row from one or several columns of patients.

    Rows that share a value in any of the columns have the same key: the first value known of their patient.

    Args:
        columns: (columns, rows) values as they stand in the source.
    """
    keys = [[normalise_patient(value) for value in column] for column in columns]
    if len(keys) == 1:
        return keys[0]
    first = [next((key for key in row if key is not None), None) for row in zip(*keys, strict=True)]
    groups = connected_groups(keys, len(first))
    return [None if key is None else first[group] for key, group in zip(first, groups, strict=True)]


def known_share(rows: Any, places: ArrayLike | None = None) -> float:
    """The share of images whose patient is known, 0 to 1, of one split or of several.

    Args:
        rows: rows with `column_names`, or a mapping of split to them.
        places: of one split the rows that count.
    """
    parts = list(rows.values()) if isinstance(rows, Mapping) else [rows]
    known = total = 0
    for part in parts:
        values = arrow_column(part, PATIENT).to_pylist() if PATIENT in part.column_names else [None] * len(part)
        has_one = np.array([normalise_patient(value) is not None for value in values], bool)
        chosen = has_one if places is None else has_one[np.asarray(places)]
        known, total = known + int(chosen.sum()), total + len(chosen)
    return known / total if total else 0.0


def count_patients(splits: Mapping[str, Any]) -> dict[str, int] | None:
    """The patients of each split, None unless the patient of every image is known."""
    if known_share(splits) < 1:
        return None
    return {split: len(np.unique(image_groups(rows))) for split, rows in splits.items()}


def resampled(rows: Any, places: ArrayLike | None = None) -> str:
    """What intervals are over, in words: "patients" only where every image has one; arguments as `known_share`."""
    share = known_share(rows, places)
    if share == 1:
        return "patients"
    if share == 0:
        return "images"
    return f"patients ({share:.1%} of the images; the others, of unknown patients, one by one)"


def image_groups(rows: datasets.Dataset) -> np.ndarray:
    """Numbers the images that belong together, int64 (rows,): those that share a value in any of `GROUP_COLUMNS`."""
    columns = [arrow_column(rows, name).to_pylist() for name in GROUP_COLUMNS if name in rows.column_names]
    return connected_groups(columns, len(rows))


def connected_groups(columns: Iterable[Sequence[Any]], length: int) -> np.ndarray:
    """Numbers the groups of rows that share a value in any of the columns, directly or over other rows.

    Missing values (None, NaN, "") join nothing.

    Returns:
        int64 (length,): equal for rows of one group.
    """
    parent = list(range(length))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for column in columns:
        first: dict[Any, int] = {}
        for row, value in enumerate(column):
            if value is None or value == "" or value != value:
                continue
            parent[root(row)] = root(first.setdefault(value, row))
    return np.array([root(row) for row in range(length)], dtype=np.int64)


def same_content(images: pa.ChunkedArray, *, threads: int = 16) -> list[str | None]:
    """For each image that is there more than once a digest of its bytes, None for all others.

    Only files of equal length are looked at: first at a few thousand bytes of each, then, where those agree, whole.

    Args:
        images: structs of `bytes` and `path`, as `datasets.Image(decode=False)` holds them.

    Raises:
        StorageError: the storage does not answer.
    """
    table = images.combine_chunks() if isinstance(images, pa.ChunkedArray) else images
    contents, paths = pc.struct_field(table, "bytes"), pc.struct_field(table, "path").to_pylist()
    inside = pc.binary_length(contents).to_pylist()
    read = _Reader(contents, paths)
    with ThreadPoolExecutor(threads) as pool:
        places = [row for row, size in enumerate(inside) if size is None and paths[row]]
        outside = dict(zip(places, pool.map(lambda row: _size(paths[row]), places), strict=True))
        candidates: dict[Any, list[int]] = defaultdict(list)
        for row, size in enumerate(inside):
            size = outside.get(row) if size is None else size
            if size:  # empty and missing files are no copies of each other
                candidates[size].append(row)
        result: list[str | None] = [None] * len(paths)
        for digest in (read.sample, read.whole):
            rows = [row for found in candidates.values() if len(found) > 1 for row in found]
            distinct = {paths[row] if inside[row] is None else row: row for row in rows}  # a file is read once
            digests = dict(zip(distinct, pool.map(digest, distinct.values()), strict=True))
            before, candidates = candidates, defaultdict(list)
            for size, found in before.items():
                for row in found if len(found) > 1 else ():
                    value = digests[paths[row] if inside[row] is None else row]
                    if value is not None:
                        candidates[size, value].append(row)
    for (_, value), found in candidates.items():
        for row in found if len(found) > 1 else ():
            result[row] = value
    return result


class _Reader:
    """Digests of the bytes of a row's image, or of the file that it names."""

    def __init__(self, contents: pa.Array, paths: list[str | None]):
        self.contents, self.paths = contents, paths

    def sample(self, row: int) -> str | None:
        return self._digest(row, 4096)

    def whole(self, row: int) -> str | None:
        return self._digest(row, None)

    def _digest(self, row: int, size: int | None) -> str | None:
        content = self.contents[row]
        if content.is_valid:
            data = content.as_buffer()
            if size is not None and data.size > 2 * size:
                return _hexdigest(data[:size], data[data.size - size :])
            return _hexdigest(data)
        path = self.paths[row]
        try:
            return steady(lambda: _file_digest(str(path), size), str(path))
        except StorageError:
            raise
        except OSError:  # listed where its size is read
            return None


def _file_digest(path: str, size: int | None) -> str:
    if size is None and is_url(path):
        return _hexdigest(locate(path).read_bytes())
    with open_file(path) as file:
        if size is None:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
        length = file.seek(0, os.SEEK_END)
        file.seek(0)
        if length <= 2 * size:
            return _hexdigest(file.read())
        start = file.read(size)
        file.seek(length - size)
        return _hexdigest(start, file.read())


def _hexdigest(*parts: Any) -> str:
    state = hashlib.blake2b()
    for part in parts:
        state.update(part)
    return state.hexdigest()[:32]


def _size(path: str | None) -> int | None:
    try:
        return steady(lambda: locate(str(path)).stat().st_size, str(path))
    except StorageError:
        raise
    except OSError:
        return None
