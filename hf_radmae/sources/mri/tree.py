"""The archive's folders and DICOM headers -> the same index as from its table, without decoding a pixel.

Files lie at `<PART>/<patient>/<exam>/<series>/<SOP uid>`. Listing and headers are read by threads, because on network
storage nearly all of the time is latency.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from datasets.utils import tqdm

from hf_radmae.images.dicom import DicomError, NoPixelsError, read_header
from hf_radmae.sources.mri.body_parts import BodyParts
from hf_radmae.sources.mri.table import INDEX_SCHEMA

Item = TypeVar("Item")
Result = TypeVar("Result")


class HeaderFacts(NamedTuple):
    """What the index takes from one header; `problem` is empty, or says why the file cannot be read.

    `dimensions` is 0 without pixels, 2 for one grey picture and 3 for several frames or colours.
    """

    height: int = 0
    width: int = 0
    dimensions: int = 0
    inverted: bool = False
    body_part: str = ""
    drawing: bool = False
    problem: str = ""


def read_tree(folder: str | Path, *, exclude: Iterable[str] = (), threads: int = 32) -> tuple[list[str], int]:
    """List the archive's files.

    Args:
        folder: the archive.
        exclude: names in the archive's root that hold no images.
        threads: folders that are listed at once.

    Returns:
        The paths relative to `folder` that have all five parts, sorted, and the number of files elsewhere below a PART.

    Raises:
        FileNotFoundError: no file lies where images are expected.
    """
    root = str(folder)
    parts = [entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name not in {*exclude}]
    patients = [f"{part}/{entry.name}" for part in parts for entry in os.scandir(f"{root}/{part}") if entry.is_dir()]
    listed = threaded(lambda patient: _files(root, patient), patients, threads, "listing")
    found = [path for paths in listed for path in paths]
    paths = sorted(path for path in found if path.count("/") == 4)
    if not paths:
        raise FileNotFoundError(f"{root}: no file at <PART>/<patient>/<exam>/<series>/<SOP uid>; check data_dir")
    return paths, len(found) - len(paths)


def read_headers(folder: str | Path, paths: list[str], *, threads: int = 32) -> list[HeaderFacts]:
    """Read the header of every file, in the order of `paths`; a file that is no radiograph says why in `problem`."""
    return threaded(lambda path: _header(f"{folder}/{path}"), paths, threads, "headers")


def missing_files(folder: str | Path, paths: list[str], *, threads: int = 32) -> np.ndarray:
    """Return the rows (1 is the first) whose file does not exist."""
    exists = threaded(lambda path: os.path.isfile(f"{folder}/{path}"), paths, threads, "checking files")
    return np.flatnonzero(~np.array(exists, bool)) + 1


def index_tree(paths: list[str], headers: list[HeaderFacts], body_parts: BodyParts) -> pa.Table:
    """Return the index of files that have no table: sizes from the headers, ids from the folders, labels null."""
    folders = [path.split("/") for path in paths]
    parts = np.array(body_parts.codes([folder[0] for folder in folders]))
    columns = {name: [getattr(header, name) for header in headers] for name in HeaderFacts._fields}
    spelled = np.array(body_parts.codes(columns["body_part"]))
    codes = np.where(parts >= 0, parts, spelled)
    unknown = pa.nulls(len(paths), pa.int32())
    values = {
        **columns,
        "path": paths,
        "patient": [folder[1] for folder in folders],
        "exam": [folder[2] for folder in folders],
        "body_part": pa.array(codes, pa.int32(), mask=codes < 0),
        "fracture": unknown,
        "foreign_material": unknown,
    }
    return pa.table([pa.array(values[field.name], field.type) for field in INDEX_SCHEMA], schema=INDEX_SCHEMA)


def threaded(function: Callable[[Item], Result], items: Sequence[Item], threads: int, label: str) -> list[Result]:
    """Return the function's results in the order of the items, with a progress bar."""
    results: list[Result] = []
    with ThreadPoolExecutor(threads) as pool, tqdm(total=len(items), desc=label, leave=False) as progress:
        for start in range(0, len(items), 4096):  # `map` submits everything at once, a kilobyte each
            batch = items[start : start + 4096]
            results += pool.map(function, batch)
            progress.update(len(batch))
    return results


def _files(root: str, folder: str) -> list[str]:
    """Return the files below a folder, relative to the root."""
    found = []
    for place, _, names in os.walk(f"{root}/{folder}"):
        relative = os.path.relpath(place, root).replace(os.sep, "/")
        found += [f"{relative}/{name}" for name in names]
    return found


def _header(path: str) -> HeaderFacts:
    try:
        header = read_header(path)
    except NoPixelsError:
        return HeaderFacts()
    except DicomError as error:
        return HeaderFacts(problem=error.reason)
    flat = header.frames == 1 and not header.photometric.startswith(("RGB", "YBR"))
    drawing = "DRAWING" in header.image_type
    return HeaderFacts(header.rows, header.columns, 2 if flat else 3, header.inverted, header.body_part, drawing)
