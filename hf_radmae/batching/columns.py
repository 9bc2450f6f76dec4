"""Columns of a data set as arrays, without a Python object for each row.

`np.asarray(rows[name])` costs 40 to 100 microseconds a row, a minute for an archive; Arrow's own arrays under 0.01.
"""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pyarrow as pa


def arrow_column(rows: Any, name: str) -> pa.ChunkedArray:
    """A column of a `datasets.Dataset` in the order of its rows, after `select` and `filter` too, or of `ShardRows`."""
    if isinstance(rows, datasets.Dataset):
        column = rows.data.column(name)
        return column if rows._indices is None else column.take(rows._indices.column(0))
    return rows.column(name)


def viewed_rows(table: pa.Table) -> list[dict[str, Any]]:
    """What `table.to_pylist()` gives, but the bytes of each image {"bytes", "path"} are a view of Arrow's memory.

    A copy, which Arrow's own scalars make too, costs as much time as cutting the patches out of it.
    """
    columns = {name: table[name].to_pylist() for name in table.column_names if name != "image"}
    columns["image"] = [image for chunk in table["image"].chunks for image in _images(chunk)]
    return [{name: columns[name][row] for name in table.column_names} for row in range(len(table))]


def _images(array: pa.StructArray) -> list[dict[str, Any]]:
    parts = dict(zip(array.type.names, array.flatten(), strict=True))  # a missing image has neither
    content, paths = parts["bytes"], parts["path"].to_pylist()
    _, places, store = content.buffers()
    kind = np.int64 if pa.types.is_large_binary(content.type) else np.int32
    ends = np.frombuffer(places, kind)[content.offset :][: len(content) + 1].tolist() if places else []
    missing = content.is_null().to_pylist()
    views = [
        None if none else memoryview(store or b"")[slice(*ends[row : row + 2])] for row, none in enumerate(missing)
    ]
    return [{"bytes": view, "path": path} for view, path in zip(views, paths, strict=True)]


def numbers(rows: Any, name: str) -> np.ndarray:
    """A column of numbers (rows,), or of lists of equally many numbers (rows, n).

    Raises:
        ValueError: a value is missing, or the lists are of different lengths.
    """
    if not isinstance(rows, datasets.Dataset) and not hasattr(rows, "column"):
        return np.asarray(rows[name])
    column = arrow_column(rows, name)
    lists = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
    flat = column.combine_chunks().flatten() if lists else column
    if missing := flat.null_count + (column.null_count if lists else 0):
        raise ValueError(f"column {name}: {missing} of {len(rows)} values are missing")
    if not lists:
        return flat.to_numpy()
    width, rest = divmod(len(flat), max(len(rows), 1))
    if rest:
        raise ValueError(f"column {name}: expected lists of one length in {len(rows)} rows, found {len(flat)} numbers")
    return flat.to_numpy(zero_copy_only=False).reshape(len(rows), width)
