"""Metadata alone, without a pixel: shape and size of the file, and columns such as its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

STEPS = 8  # of each size, of equally many training images: a head is linear, and few sizes are common
MOST_VALUES = 50  # a column with more texts names images rather than groups of them


def metadata_features(
    rows: Mapping[str, Any], labels: np.ndarray, columns: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Logarithms of height, width and their ratio, in steps too, and one column for each value of the given columns.

    A column of which every value goes with one class only is the label by another name, and is left out; of several
    labels at once one of them is enough.

    Args:
        rows: split -> data set with the columns `height` and `width`.
        labels: int (training images,), or (training images, labels) of several at once, -1 where missing.
        columns: those that there are, are used; values that the training images lack count as unknown.
    """
    found = {}
    used = [name for name in columns if all(name in part.column_names for part in rows.values())]
    values = {name: sorted({str(v) for v in rows["train"][name] if v is not None}) for name in used}
    for name in [*used]:
        texts = np.array([str(v) for v in rows["train"][name]])
        if len(values[name]) > MOST_VALUES or any(
            _decides(texts, values[name], label) for label in labels.reshape(len(texts), -1).T
        ):
            used.remove(name)
    for split in sorted(rows, key=lambda name: name != "train"):  # training first: its steps are those of all
        part = rows[split]
        sizes = np.log(np.stack([np.asarray(part[axis], float) for axis in ("height", "width")], 1).clip(1))
        numbers = np.concatenate([sizes, sizes[:, :1] - sizes[:, 1:]], axis=1)
        if split == "train":
            edges = [np.unique(np.quantile(column, np.linspace(0, 1, STEPS + 1)[1:-1])) for column in numbers.T]
        steps = [column[:, None] > cut for column, cut in zip(numbers.T, edges, strict=True)]
        parts = [numbers, *steps]
        parts += [np.array([str(v) for v in part[name]])[:, None] == np.array(values[name]) for name in used]
        name = " and ".join(["size", *used]).replace("+", " ")  # which joins poolings
        found[split] = {name: np.concatenate(parts, axis=1).astype(np.float32)}
    return found


def _decides(texts: np.ndarray, values: Sequence[str], label: np.ndarray) -> bool:
    """Whether each value of a column (images,) goes with one class of a label (images,) that has two or more."""
    found = [np.unique(label[(texts == value) & (label >= 0)]) for value in values]
    return len(np.unique(label[label >= 0])) > 1 and all(len(classes) < 2 for classes in found)
