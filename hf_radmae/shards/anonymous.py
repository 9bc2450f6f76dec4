"""What may leave an archive: keyed hashes in place of ids, and columns of an allow-list."""

import hashlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from hf_radmae.batching.columns import arrow_column
from hf_radmae.images.remote import Place, is_url, locate
from hf_radmae.reports.reading import ANSWERS
from hf_radmae.sources.mri.table import HEADER_ANSWERS
from hf_radmae.sources.patients import means_patient
from hf_radmae.sources.pseudonyms import pseudonyms
from hf_radmae.sources.report_labels import HAND, REPORT

GROUPS = {
    "patient": "patient",
    "patient_id": "patient",
    **{name: name for name in ("exam", "near_dup_group", "same_content")},
}
"""Columns of a source that are ids -> the column that holds their keyed hashes."""
IDENTIFYING = {*GROUPS, "image", "image_id", "path", "file_name", "report"}
"""Columns that are never copied."""


def hashed_ids(split: str, rows: datasets.Dataset, key: bytes, root: str | Place | None) -> pa.Table:
    """The ids of a split's rows as keyed hashes: `image_id`, and those of `GROUPS` that the source has.

    An image without an id is identified by its path below `root`, else by split and row.
    """
    if "image_id" in rows.column_names:
        names = _texts(rows, "image_id")
    else:
        images = rows.select_columns(["image"]).with_format("arrow")
        paths = [path for batch in images.iter(4096) for path in _paths(batch)]
        names = pa.chunked_array(
            [[_below(path, root) or f"{split}/{row}" for row, path in enumerate(paths)]], pa.string()
        )
    columns = {"image_id": pseudonyms(names, key, b"image_id")}
    for column, name in GROUPS.items():
        if column in rows.column_names and name not in columns:
            columns[name] = pseudonyms(_texts(rows, column), key, name.encode())
    return pa.table(columns)


def anonymous_entry(entry: Mapping[str, Any], key: bytes, root: str | Place | None) -> dict[str, Any]:
    """An entry of the list of skipped images with the image's id hashed.

    The image is named as the rows are: by its id, else by its path. Readers begin a reason with the path where they
    opened the file themselves.
    """
    name = str(entry["image"])
    identity = pseudonyms(pa.chunked_array([[_below(name, root) or name]]), key, b"image_id")[0].as_py()
    reason = str(entry["reason"]).replace(name, "").lstrip(": ")
    return {"split": entry.get("split", "source"), "index": int(entry["index"]), "image": identity, "reason": reason}


def kept_labels(splits: Mapping[str, datasets.Dataset], wanted: list[str] | None) -> list[str]:
    """The columns to copy: the wanted ones, by default those of classes, truth values, and labels joined from reports.

    Where a label is from (`<label>_source`) and what its report says (`<label>_report`) go with it; a column of that
    name which holds anything else stays.

    Raises:
        ValueError: a wanted column is not there, or would identify someone.
    """
    features = next(iter(splits.values())).features
    free = [name for name in features if name not in IDENTIFYING and not means_patient(name)]
    if wanted is None:
        labels = [name for name in free if name not in HEADER_ANSWERS]  # those are columns of every shard
        wanted = [
            name for name in labels if isinstance(features[name], datasets.ClassLabel) or _is_truth(features[name])
        ]
        joined = (name for name in labels if _holds(splits, f"{name}_source", (HAND, REPORT)) and name not in wanted)
        wanted += [name for name in joined if _holds(splits, name, ANSWERS)]
    elif unknown := [name for name in wanted if name not in free]:
        raise ValueError(f"labels {', '.join(unknown)} are no columns, or hold ids: choose of {', '.join(free)}")
    provenance = [(f"{name}_source", (HAND, REPORT)) for name in wanted] + [
        (f"{name}_report", ANSWERS) for name in wanted
    ]
    return wanted + [name for name, known in provenance if name not in wanted and _holds(splits, name, known)]


def _holds(splits: Mapping[str, datasets.Dataset], name: str, known: Collection[str]) -> bool:
    """Whether a column of texts is there that holds nothing but known words."""
    for rows in splits.values():
        if name not in rows.column_names or getattr(rows.features[name], "dtype", "") not in ("string", "large_string"):
            return False
        values = pc.unique(arrow_column(rows, name)).to_pylist()
        if {value.lower() for value in values if value} - {*known}:
            return False
    return True


def fingerprint(ids: Mapping[str, pa.Table], splits: Mapping[str, datasets.Dataset], labels: list[str]) -> str:
    """A digest of the ids and labels of all rows: of what an archive holds, but for its pixels."""
    state = hashlib.blake2b(digest_size=16)
    for split, rows in splits.items():
        state.update(f"{split} {len(rows)} {labels}\n".encode())
        for column in ids[split].columns:
            state.update("\n".join(map(str, column.to_pylist())).encode())
        for name in labels:
            state.update("\n".join(map(str, arrow_column(rows, name).to_pylist())).encode())
    return state.hexdigest()


def _paths(batch: pa.Table) -> list[str | None]:
    return pc.struct_field(batch["image"], "path").to_pylist()


def _below(path: str | None, root: str | Place | None) -> str | None:
    """A file's path below the archive's folder, so that the archive may move; None for what is no file's path."""
    if path and is_url(path):
        return path.removeprefix(f"{locate(root)}/") if root else path
    if not path or not os.path.isabs(path):
        return None
    base = Path(str(root)).expanduser().absolute() if root else Path("/")
    return Path(path).relative_to(base).as_posix() if Path(path).is_relative_to(base) else path


def _texts(rows: datasets.Dataset, name: str) -> pa.ChunkedArray:
    """A column as texts, null where it is empty."""
    values = [None if value is None or value == "" else str(value) for value in arrow_column(rows, name).to_pylist()]
    return pa.chunked_array([pa.array(values, pa.string())])


def _is_truth(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype == "bool"
