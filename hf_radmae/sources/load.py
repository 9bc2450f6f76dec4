"""Any source of radiographs as one `DatasetDict`: sizes known, splits honest, pixels unopened."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from tqdm.auto import tqdm

from hf_radmae.images.image import ImageError, image_size
from hf_radmae.sources.splits import split_by_patient

logger = logging.getLogger(__name__)

BUILDERS = {
    "phantom": "hf_radmae.sources.phantom:Phantom",
    "irma": "hf_radmae.sources.irma.builder:IRMA",
    "mri": "hf_radmae.sources.mri.builder:MRI",
}
GROUP_COLUMNS = ("patient", "patient_id", "near_dup_group")
"""Columns whose equal values keep images in one split: patients, and groups of near duplicates."""
FRACTIONS = (0.8, 0.1, 0.1)
"""Shares of train, validation and test where a source has no splits of its own."""
PROCESSES = min(os.cpu_count() or 1, 8)
"""Processes that build a data set and measure its images before a run: more gain little, and storage is shared."""


def load_radiographs(
    name: str,
    data_dir: str | None = None,
    *,
    num_proc: int | None = None,
    seed: int = 42,
    **options: Any,
) -> tuple[datasets.DatasetDict, list[dict[str, Any]]]:
    """Loads a data set by name and brings it into the form that `RadiographDataset` takes.

    Args:
        name: "phantom", "irma", "mri", "imagefolder", "parquet", or the id of a data set on the Hub.
        data_dir: the local folder, where the source needs one.
        num_proc: processes that build the data set.
        seed: of the split, where the source has none of its own.
        **options: handed to the builder (phantom: `num_images`, `scale`; irma: `config_name`; ...).

    Returns:
        The splits train, validation and test, then any more that the source has (IRMA's `test_2009`), each with the
        columns `image` (undecoded), `height` and `width`, and `image_id` where no file's path tells images apart; and
        the images that were left out because their header cannot be read: index, image, reason.

    Raises:
        ValueError: there is no image column, or `data_dir` is missing.
        FileNotFoundError: `data_dir` does not exist.
    """
    if name in ("imagefolder", "parquet", "irma", "mri") and data_dir is None:
        raise ValueError(f"--dataset {name} reads a local folder: say which with --data_dir")
    if data_dir is not None and not Path(data_dir).is_dir():
        raise FileNotFoundError(f"--data_dir {data_dir}: there is no such folder")
    if name in BUILDERS:
        arguments = {**options, **({"data_dir": data_dir} if data_dir else {})}
        module, _, builder_class = BUILDERS[name].partition(":")
        builder = getattr(import_module(module), builder_class)(**arguments)
        builder.download_and_prepare(num_proc=num_proc)
        loaded = builder.as_dataset()
        known_sizes = True
    else:
        loaded = datasets.load_dataset(name, data_dir=data_dir, num_proc=num_proc, **options)
        known_sizes = name == "parquet"  # prepared shards; a folder's table may speak of the originals
    skipped: list[dict[str, Any]] = []
    splits = {}
    for split, rows in loaded.items():
        rows = _named(split, _undecoded(rows))
        if not (known_sizes and {"height", "width"} <= set(rows.column_names)):
            rows = _with_sizes(rows, skipped)
        splits[split] = rows
    return _complete_splits(splits, seed), skipped


def _undecoded(rows: datasets.Dataset) -> datasets.Dataset:
    """The same rows with the image column called `image` and its pixels left encoded."""
    images = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    if not images:
        raise ValueError(f"no column holds images; the columns are {', '.join(rows.column_names)}")
    column = "image" if "image" in images else images[0]
    if column != "image":
        rows = rows.rename_column(column, "image")
    return rows.cast_column("image", datasets.Image(decode=False))


def _named(split: str, rows: datasets.Dataset) -> datasets.Dataset:
    """Adds the `image_id` split/row, where neither a column of that name nor a local file's path tells images apart."""
    paths = pc.struct_field(rows.data.column("image"), "path").to_pylist()
    if "image_id" in rows.column_names or all(path and os.path.isabs(path) for path in paths):
        return rows
    return rows.add_column("image_id", [f"{split}/{row}" for row in range(len(rows))])


def _with_sizes(rows: datasets.Dataset, skipped: list[dict[str, Any]]) -> datasets.Dataset:
    """Adds `height` and `width` from the headers, and leaves out (and lists) what has no readable one."""

    def size(index: int) -> tuple[int, int] | dict[str, Any]:
        row = images[index]
        image, name = row["image"], row["image_id"] if named else row["image"]["path"]
        try:
            return image_size(image, name)
        except ImageError as error:
            return {"index": index, "image": name, "reason": error.reason}
        except FileNotFoundError:
            return {"index": index, "image": name, "reason": "is missing: no such file"}

    named = "image_id" in rows.column_names
    images = rows.select_columns(["image", "image_id"] if named else ["image"])
    with ThreadPoolExecutor(16) as pool:  # threads hide the latency of network storage; a header costs no computation
        found = list(tqdm(pool.map(size, range(len(rows))), total=len(rows), desc="sizes", unit="image", leave=False))
    good = [index for index, entry in enumerate(found) if isinstance(entry, tuple)]
    skipped += [entry for entry in found if isinstance(entry, dict)]
    if not good:
        raise ValueError(f"none of the {len(rows)} images can be read; the first: {skipped[-len(rows)]}")
    rows = rows.remove_columns([name for name in ("height", "width") if name in rows.column_names]).select(good)
    for axis, name in enumerate(("height", "width")):
        rows = rows.add_column(name, np.array([found[index][axis] for index in good], dtype=np.int32))
    return rows


def _complete_splits(splits: dict[str, datasets.Dataset], seed: int) -> datasets.DatasetDict:
    """Train, validation, test and the source's others; of the three a missing one is taken from train by groups."""
    renamed = {"valid": "validation", "val": "validation", "dev": "validation"}
    splits = {renamed.get(name, name): rows for name, rows in splits.items()}
    if "train" not in splits:
        raise ValueError(f"there is no split 'train', only {', '.join(splits)}")
    missing = [name for name in ("validation", "test") if name not in splits]
    if missing:
        train = splits["train"]
        shares = dict(zip(("train", "validation", "test"), FRACTIONS, strict=True))
        wanted = {"train": shares["train"]} | {name: shares[name] for name in missing}
        fractions = {name: share / sum(wanted.values()) for name, share in wanted.items()}
        parts = split_by_patient(image_groups(train), fractions=fractions, seed=seed)
        splits |= {name: train.select(np.flatnonzero(parts == name)) for name in wanted}
    return datasets.DatasetDict(
        {name: splits[name] for name in dict.fromkeys(("train", "validation", "test", *splits))}
    )


def image_groups(rows: datasets.Dataset) -> np.ndarray:
    """Numbers the images that belong together, int64 (rows,): those that share a value in any of `GROUP_COLUMNS`."""
    return connected_groups([rows[name] for name in GROUP_COLUMNS if name in rows.column_names], len(rows))


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
    return np.array([root(row) for row in range(length)])
