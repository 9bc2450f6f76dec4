"""Folders of Parquet files -> rows by split: prepared shards, copies of a Hub data set, tables with images in them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from hf_radmae.batching.skipped import skipped_image
from hf_radmae.images.remote import Place, locate, parquet_file
from hf_radmae.images.storage import StorageError, steady
from hf_radmae.sources.folder import Source, chosen_files, split_of, words_say_splits
from hf_radmae.sources.scan import Scan, absolute, local_copy, sort_files, suffix_of, walk
from hf_radmae.sources.table_file import TableError

FOOTER = b"hf_radmae"
"""The entry of a Parquet file's footer by which this package marks the shards that it wrote."""


def holds_parquet(folder: str | Place) -> bool:
    """True for a Parquet file, and a folder with some that are not only tables of metadata."""
    path = locate(folder)
    if path.is_file():
        return _is_table(path.name)
    return any(file.stem.lower() != "metadata" for file in path.rglob("*") if _is_table(file.name))


def read_footer(path: str | Place) -> pq.FileMetaData:
    """What the footer of a Parquet file says.

    Raises:
        StorageError: the storage does not answer.
    """

    def read() -> pq.FileMetaData:
        with parquet_file(path) as file:
            return pq.read_metadata(file)

    return steady(read, str(path))


def read_parquet(folder: str | Place, *, data_files: Any = None, **options: Any) -> tuple[Source, set[str]]:
    """Rows of all Parquet files below a folder; the split is that of a file's name or of a folder.

    `train-00000-of-00002.parquet`, `test.parquet` and `validation/a.parquet` say a split; other files are in train,
    and beside files that say one they are listed. Where no name is train's so, any word counts (`set_train.parquet`).

    Args:
        folder: searched with its sub-folders; or one file. Remote files are copied into the cache of `datasets`.
        data_files: split -> file, glob pattern, or list of them, in place of all that.
        **options: of `datasets.load_dataset`.

    Returns:
        The rows, and the splits all of whose files this package wrote.

    Raises:
        FileNotFoundError: there is no Parquet file.
        TableError: a file that cannot be read, or files with other columns than the first.
    """
    listed: list[dict[str, Any]] = []
    others: Counter[str] = Counter()
    chosen: dict[str, list[str]] = defaultdict(list)
    root = absolute(folder)
    if data_files is None and root.is_file():
        chosen["train"] = [str(root)]
    elif data_files is not None:
        chosen = chosen_files(data_files)
    else:
        found = Scan(root)
        every = list(walk(str(found.root), found))
        files = sorted((file for file in every if _is_table(file.name)), key=lambda file: file.name)
        if not files:
            raise FileNotFoundError(f"{folder}: there is no Parquet file in this folder")
        sort_files((file for file in every if not _is_table(file.name)), found)
        others = found.others + Counter(f".{suffix_of(file.name)}" for file in found.metadata)
        listed = [skipped_image(name, reason) for name, reason in found.listed]
        listed += [skipped_image(file.name, "is beside Parquet files: move it away") for file in found.images]
        given = _splits_of([file.name for file in files])
        named = sorted({split for split in given.values() if split})
        for file in files:
            split = given[file.name]
            if named and split is None:
                listed.append(
                    skipped_image(file.name, f"says no split, and there are files of {', '.join(named)}: rename it")
                )
            else:
                chosen[split or "train"].append(file.path)
    footers = _footers([path for part in chosen.values() for path in part])
    with ThreadPoolExecutor(16) as pool:
        copies = {split: [*map(str, pool.map(local_copy, part))] for split, part in chosen.items()}
    loaded = datasets.load_dataset("parquet", data_files=copies, **options)
    splits = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    count = sum(len(rows) for rows in splits.values())
    ours = {path for path, footer in footers.items() if FOOTER in (footer.metadata or {})}
    trusted = {split for split, part in chosen.items() if ours.issuperset(part)}
    expected = sum(footer.num_rows for footer in footers.values())
    return Source(splits, listed, expected + len(listed), count, others), trusted


def _is_table(name: str) -> bool:
    return name.lower().endswith(".parquet") and not any(part.startswith(".") for part in name.split("/"))


def _splits_of(names: Sequence[str]) -> dict[str, str | None]:
    """The split that the first word of each file's name says, else a folder, else, see `words_say_splits`, any word."""
    parts = {}
    for name in names:
        *folders, base = name.split("/")
        stem = base[: -len(".parquet")]
        parts[name] = [re.split(r"[^a-z]+", stem.lower())[0], *folders, stem]
    words = words_say_splits(parts.values())
    return {name: split_of(part, words=words) for name, part in parts.items()}


def _footers(paths: list[str]) -> dict[str, pq.FileMetaData]:
    """Path -> footer; raises for a file that is damaged or has other columns."""

    def read(path: str) -> pq.FileMetaData:
        try:
            return read_footer(path)
        except StorageError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise TableError(f"{path} is no readable Parquet file ({type(error).__name__}); export it again") from error

    with ThreadPoolExecutor(16) as pool:
        footers = dict(zip(paths, pool.map(read, paths), strict=True))
    columns = {path: footer.schema.to_arrow_schema().names for path, footer in footers.items()}
    for path, names in columns.items():
        if {*names} != {*columns[paths[0]]}:
            raise TableError(
                f"{path}: its columns are {', '.join(names)}, those of {paths[0]} {', '.join(columns[paths[0]])}; give "
                "files of one kind, each kind in a folder of its own"
            )
    return footers
