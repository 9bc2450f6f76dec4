"""The archive's folders and DICOM headers -> the same index as from its table, without decoding a pixel.

Files usually lie at `<PART>/<patient>/<exam>/<series>/<SOP uid>`. In any other layout the patient is that of the
header, else of a folder such as `patient001`, and the exam is the header's study, else the file's folder. Listing and
headers are read by threads, because on network storage nearly all of the time is latency.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from datasets.utils import tqdm
from pydicom import dcmread

from hf_radmae.images.dicom import DicomError, NoPixelsError, read_header, yes_or_no
from hf_radmae.images.storage import StorageError, steady, storage_fault
from hf_radmae.sources.identity import HEAD, read_head, read_identity
from hf_radmae.sources.mri.body_parts import BodyParts
from hf_radmae.sources.mri.table import INDEX_SCHEMA
from hf_radmae.sources.patients import connected_groups, folder_patient, normalise_patient, one_spelling
from hf_radmae.sources.scan import IMAGE_SUFFIXES, OTHER_SUFFIXES, Scan, is_hidden, suffix_of, walk

Item = TypeVar("Item")
Result = TypeVar("Result")

_PICTURE = (
    *("Rows", "Columns", "NumberOfFrames", "PhotometricInterpretation", "BitsStored", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept", "PresentationLUTShape", "ImageType"),
)
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


class HeaderFacts(NamedTuple):
    """What the index takes from one header; `problem` is empty, or says why the file cannot be read.

    `dimensions` is 0 without pixels, 2 for one grey picture and 3 for several frames or colours. `sop`, `person` and
    `study` are the identifiers as they stand, empty where the header has none. The last two are YES, NO or None.
    """

    height: int = 0
    width: int = 0
    dimensions: int = 0
    inverted: bool = False
    body_part: str = ""
    drawing: bool = False
    problem: str = ""
    sop: str = ""
    person: str = ""
    study: str = ""
    burned_in_annotation: str | None = None
    patient_identity_removed: str | None = None


def read_tree(folder: str | Path, *, exclude: Iterable[str] = (), threads: int = 32) -> tuple[list[str], Scan]:
    """List the archive's files, linked folders too.

    Args:
        folder: the archive.
        exclude: names in the archive's root that hold no images.
        threads: folders that are listed at once.

    Returns:
        The paths relative to `folder` of what may be an image, sorted; and what is none: files counted by suffix, and
        those listed with a reason.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: the storage does not answer.
    """
    result = Scan(Path(folder))
    paths = []
    for file in walk(str(folder), result, exclude=exclude, threads=threads):
        base = file.name.rsplit("/", 1)[-1]
        suffix = suffix_of(base)
        if is_hidden(file.name) or (suffix in OTHER_SUFFIXES and suffix not in IMAGE_SUFFIXES):
            result.others[f".{suffix}" if suffix else "hidden"] += 1
        elif not file.path.startswith(f"{folder}/"):  # unpacked from a zip
            result.listed.append((file.name, "is in a zip: unpack it"))
        elif not _is_utf8(file.name):
            result.listed.append((file.name, "has a name that is not UTF-8: rename the file"))
        else:
            paths.append(file.name)
    if not paths:
        more = f"; {len(result.listed)} were listed, the first: {result.listed[0]}" if result.listed else ""
        raise FileNotFoundError(
            f"{folder}: no file at <PART>/<patient>/<exam>/<series>/<SOP uid>, or elsewhere below it, that may be an "
            f"image{more}; check data_dir"
        )
    return sorted(paths), result


def read_headers(folder: str | Path, paths: list[str], *, threads: int = 32) -> list[HeaderFacts]:
    """Read the header of every file, in the order of `paths`; a file that is no radiograph says why in `problem`.

    Raises:
        StorageError: the storage does not answer.
    """
    return threaded(lambda path: _header(f"{folder}/{path}"), paths, threads, "headers")


def missing_files(folder: str | Path, paths: list[str], *, threads: int = 32) -> np.ndarray:
    """Return the rows (1 is the first) whose file does not exist.

    Raises:
        StorageError: the storage does not answer.
    """
    exists = threaded(lambda path: _is_file(f"{folder}/{path}"), paths, threads, "checking files")
    return np.flatnonzero(~np.array(exists, bool)) + 1


def index_tree(paths: list[str], headers: list[HeaderFacts], body_parts: BodyParts) -> pa.Table:
    """Return the index of files that have no table: sizes from the headers, ids from folders and headers."""
    folders = [path.split("/")[:-1] for path in paths]
    columns = {name: [getattr(header, name) for header in headers] for name in HeaderFacts._fields}
    known = {
        name: code for name in {f for parts in folders for f in parts} if (code := body_parts.codes([name])[0]) >= 0
    }
    codes = np.array([next((known[name] for name in parts if name in known), -1) for parts in folders])
    spelled = np.array(body_parts.codes(columns["body_part"]))
    codes = np.where(codes >= 0, codes, spelled)
    unknown = pa.nulls(len(paths), pa.int32())
    patients, exams = _owners(folders, paths, headers)
    values = {
        **columns,
        "path": paths,
        "patient": patients,
        "exam": exams,
        "body_part": pa.array(codes, pa.int32(), mask=codes < 0),
        "fracture": unknown,
        "foreign_material": unknown,
        "duplicate": pa.nulls(len(paths), pa.bool_()),
    }
    return pa.table([pa.array(values[field.name], field.type) for field in INDEX_SCHEMA], schema=INDEX_SCHEMA)


def copies_of(
    folder: str | Path, paths: list[str], sops: Sequence[str] | None, *, threads: int = 32
) -> list[list[int]]:
    """Groups of files that are copies of each other; of each group the one to keep stands first.

    Copies have the same SOP Instance UID and the same stored pixels. Neither a name nor a UID alone makes one: devices
    name all their files alike, and careless anonymisers give all files one UID. A name without a trailing `[n]` is
    kept, else the first.

    Args:
        folder, paths: the files.
        sops: their UIDs; None reads those of files that share a name but for a trailing `[n]`.
        threads: files that are read at once.

    Raises:
        StorageError: the storage does not answer.
    """
    stems = [_stem(path) for path in paths]
    if sops is None:
        rows = _repeated(stems)
        found = threaded(lambda row: read_identity(f"{folder}/{paths[row]}"), rows, threads, "identities")
        uids = [""] * len(paths)
        for row, identity in zip(rows, found, strict=True):
            uids[row] = identity.sop if identity else ""
    else:
        uids = list(sops)
    rows = sorted({*_repeated(uids), *(row for row in _repeated(stems) if not uids[row])})
    digests = threaded(lambda row: _pixel_digest(f"{folder}/{paths[row]}"), rows, threads, "copies")
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, digest in zip(rows, digests, strict=True):
        if digest:
            groups[uids[row], digest].append(row)
    result = [same for same in groups.values() if len(same) > 1]
    for same in result:
        same.sort(key=lambda row: (stems[row] != paths[row].rsplit("/", 1)[-1], row))
    return result


def threaded(function: Callable[[Item], Result], items: Sequence[Item], threads: int, label: str) -> list[Result]:
    """Return the function's results in the order of the items, with a progress bar."""
    results: list[Result] = []
    with ThreadPoolExecutor(threads) as pool, tqdm(total=len(items), desc=label, leave=False) as progress:
        for start in range(0, len(items), 4096):  # `map` submits everything at once, a kilobyte each
            batch = items[start : start + 4096]
            results += pool.map(function, batch)
            progress.update(len(batch))
    return results


def _owners(
    folders: list[list[str]], paths: list[str], headers: list[HeaderFacts]
) -> tuple[list[str | None], list[str]]:
    """The patient (None where nothing says it) and the exam of each file."""
    usual = [len(parts) == 4 for parts in folders]
    spelled = [
        parts[1] if is_usual else folder_patient(path)
        for parts, path, is_usual in zip(folders, paths, usual, strict=True)
    ]
    spellings = one_spelling([*(header.person for header in headers)]) | one_spelling(spelled)
    persons = [normalise_patient(header.person) for header in headers]
    named = [normalise_patient(name) for name in spelled]
    persons = _telling(persons, named)
    mixed = defaultdict(set)
    for person, name in zip(persons, named, strict=True):
        if person is not None and name is not None:
            mixed[name].add(person)
    if mixed and sum(len(found) > 1 for found in mixed.values()) > len(mixed) / 2:  # folders of years, wards, ...
        named = [None if person is not None else name for person, name in zip(persons, named, strict=True)]
    keys = [name if person is None else person for person, name in zip(persons, named, strict=True)]
    places = [key or "/".join(parts) for key, parts in zip(keys, folders, strict=True)]
    studies = _telling([header.study or None for header in headers], places)
    exams = [
        parts[2] if is_usual else study or "/".join(parts)
        for parts, study, is_usual in zip(folders, studies, usual, strict=True)
    ]
    groups = connected_groups([named, persons, studies], len(paths)).tolist()
    first: dict[int, str] = {}
    for known in (named, persons):
        for group, key in zip(groups, known, strict=True):
            if key is not None:
                first.setdefault(group, key)
    return [spellings.get(first.get(group)) for group in groups], exams


def _telling(ids: list[str | None], owners: Sequence[str | None]) -> list[str | None]:
    """The ids of headers without those that stand for nobody: one for all files, or one for many owners."""
    if len({*ids} - {None}) < 2:
        return [None] * len(ids)
    owners_of = defaultdict(set)
    for value, owner in zip(ids, owners, strict=True):
        if value is not None and owner is not None:
            owners_of[value].add(owner)
    many = max(3, len({*owners}) // 20)
    return [None if value is not None and len(owners_of[value]) > many else value for value in ids]


def _repeated(values: Sequence[str]) -> list[int]:
    """The places of values, other than "", that are there more than once."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, value in enumerate(values):
        if value:
            places[value].append(place)
    return sorted(place for same in places.values() if len(same) > 1 for place in same)


def _stem(path: str) -> str:
    """A file's name without a trailing `[n]`."""
    name = path.rsplit("/", 1)[-1]
    if name.endswith("]") and (start := name.rfind("[")) > 0 and name[start + 1 : -1].isdigit():
        return name[:start]
    return name


def _pixel_digest(path: str) -> str:
    """A digest of the stored pixels, empty where there are none to read."""

    def read() -> str:
        try:
            dataset = dcmread(path, specific_tags=[*_PICTURE, *_PIXELS])
            content = next(dataset[name].value for name in _PIXELS if name in dataset)
            header = " ".join(str(dataset.get(name)) for name in _PICTURE)
            state = hashlib.blake2b(header.encode(), digest_size=16)
            state.update(content)
            return state.hexdigest()
        except Exception as error:  # damaged files raise nearly every built-in exception
            if fault := storage_fault(error):
                raise fault from error
            return ""

    return steady(read, path)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_file(path: str) -> bool:
    try:
        steady(lambda: os.stat(path), path)
    except StorageError:
        raise
    except OSError:
        return False
    return os.path.isfile(path)


def _header(path: str) -> HeaderFacts:
    try:
        head = read_head(path)
    except StorageError:
        raise
    except OSError as error:
        return HeaderFacts(problem=f"cannot be read: {error.strerror}")
    if len(head) < HEAD:
        return _facts(head, head)
    facts = _facts(head, head)
    if facts.problem or not facts.dimensions:  # the header may be longer than its head
        return steady(lambda: _facts(path, head), path)
    return facts


def _facts(source: str | bytes, head: bytes) -> HeaderFacts:
    identity = read_identity(head)
    sop, person, study = identity or ("", "", "")
    try:
        header = read_header(source)
    except NoPixelsError:
        return HeaderFacts(sop=sop, person=person, study=study)
    except DicomError as error:
        if fault := storage_fault(error):
            raise fault from error
        return HeaderFacts(problem=error.reason)
    flat = header.frames == 1 and not header.photometric.startswith(("RGB", "YBR"))
    drawing = "DRAWING" in header.image_type
    shape = *header.shape, 2 if flat else 3
    answers = yes_or_no(header.burned_in_annotation), yes_or_no(header.patient_identity_removed)
    return HeaderFacts(*shape, header.inverted, header.body_part, drawing, "", sop, person, study, *answers)
