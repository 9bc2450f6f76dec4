"""Folders of Parquet files -> rows by split: prepared shards, copies of a Hub data set, tables with images in them."""

from __future__ import annotations

import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from hf_radmae.batching.skipped import skipped_image
from hf_radmae.images.storage import steady
from hf_radmae.sources.folder import SPLIT_NAMES, Source, split_of
from hf_radmae.sources.scan import Scan, walk
from hf_radmae.sources.table_file import TableError

FOOTER = b"hf_radmae"
"""The entry of a Parquet file's footer by which this package marks the shards that it wrote."""


def holds_parquet(folder: str | Path) -> bool:
    """True for a folder with Parquet files that are not only tables of metadata."""
    return Path(folder).is_dir() and any(path.stem != "metadata" for path in Path(folder).rglob("*.parquet"))


def written_here(path: str) -> bool:
    """True for a Parquet file whose footer says that this package wrote it."""
    return FOOTER in (steady(lambda: pq.read_metadata(path), path).metadata or {})


def read_parquet(
    folder: str | Path, *, num_proc: int | None = None, data_files: Any = None, **options: Any
) -> tuple[Source, set[str]]:
    """Rows of all Parquet files below a folder; the split is that of a file's name or of a folder.

    `train-00000-of-00002.parquet`, `test.parquet` and `validation/a.parquet` say a split; other files are in train,
    and beside files that say one they are listed.

    Args:
        folder: searched with its sub-folders.
        num_proc: processes that copy the rows into the cache of `datasets`.
        data_files: split -> files, in place of all that.
        **options: of `datasets.load_dataset`.

    Returns:
        The rows, and the splits all of whose files this package wrote.

    Raises:
        FileNotFoundError: there is no Parquet file.
        TableError: a file that cannot be read, or files with other columns than the first.
    """
    listed: list[dict[str, Any]] = []
    if data_files is None:
        found = Scan(Path(folder).expanduser().absolute())
        files = sorted((file for file in walk(str(found.root), found) if _is_table(file.name)), key=lambda f: f.name)
        listed = [skipped_image(name, reason) for name, reason in found.listed]
        if not files:
            raise FileNotFoundError(f"{folder}: there is no Parquet file in this folder")
        given = {file.name: _split_of(file.name) for file in files}
        named = sorted({split for split in given.values() if split})
        chosen: dict[str, list[str]] = defaultdict(list)
        for file in files:
            split = given[file.name]
            if named and split is None:
                listed.append(
                    skipped_image(file.name, f"says no split, and there are files of {', '.join(named)}: rename it")
                )
            else:
                chosen[split or "train"].append(file.path)
        data_files = dict(chosen)
    paths = [path for part in data_files.values() for path in part] if isinstance(data_files, dict) else []
    expected = _check(paths)
    num_proc = _processes(num_proc, data_files)
    loaded = datasets.load_dataset("parquet", data_files=data_files, num_proc=num_proc, **options)
    splits = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    count = sum(len(rows) for rows in splits.values())
    trusted = (
        {split for split, part in data_files.items() if isinstance(data_files, dict) and all(map(written_here, part))}
        if paths
        else set()
    )
    source = Source(splits, listed, (expected if paths else count) + len(listed), count)
    return source, trusted


def _is_table(name: str) -> bool:
    return name.lower().endswith(".parquet") and not any(part.startswith(".") for part in name.split("/"))


def _processes(num_proc: int | None, data_files: Any) -> int | None:
    """No more processes than the split with the fewest files has, of which `datasets` would warn."""
    if num_proc is None or not isinstance(data_files, dict):
        return num_proc
    return max(1, min([num_proc, *(len(part) for part in data_files.values())])) if data_files else num_proc


def _split_of(name: str) -> str | None:
    """The split that a file's name, or else a folder, says."""
    *folders, base = name.split("/")
    word = re.split(r"[^a-z]+", base.lower().removesuffix(".parquet"))[0]
    return SPLIT_NAMES.get(word) or split_of(folders)


def _check(paths: list[str]) -> int:
    """The number of rows that the footers say; raises for a file that is damaged or has other columns."""

    def read(path: str) -> tuple[int, list[str]]:
        try:
            metadata = steady(lambda: pq.read_metadata(path), path)
        except (pa.ArrowException, OSError) as error:
            raise TableError(f"{path} is no readable Parquet file ({type(error).__name__}); export it again") from error
        return metadata.num_rows, metadata.schema.to_arrow_schema().names

    with ThreadPoolExecutor(16) as pool:
        footers = list(pool.map(read, paths))
    for path, (_, names) in zip(paths, footers, strict=True):
        if {*names} != {*footers[0][1]}:
            raise TableError(
                f"{path}: its columns are {', '.join(names)}, those of {paths[0]} {', '.join(footers[0][1])}; give "
                "files of one kind, each kind in a folder of its own"
            )
    return sum(rows for rows, _ in footers)
