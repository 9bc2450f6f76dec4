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
