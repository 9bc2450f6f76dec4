"""What a column of labels means: classes, several yes-or-no labels, or a number, and how a network encodes it.

* A column of text, truth values, whole numbers or `ClassLabel` holds one class per image.
* Several columns of yes and no, joined by commas, or one column of lists of names: any number of labels per image.
* A column of fractions holds a number to predict; whole numbers, such as ages in years, need `task="regression"`.

An image has no label where a column holds None, NaN, an empty text or "unsure", and of classes and yes-or-no labels
where it holds a negative number; numbers to predict may be negative. Such images are left out and counted. A list
column has no label at None, and none of the names at an empty list.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import isinf
from typing import Any, Literal, get_args

import datasets
import numpy as np
import torch
from transformers import PreTrainedConfig

from hf_radmae.batching.columns import arrow_column
from hf_radmae.metrics.bootstrap import is_missing

logger = logging.getLogger(__name__)

Task = Literal["single_label_classification", "multi_label_classification", "regression"]
"""Transformers' names, as its configurations hold them under `problem_type`."""
ANSWERS = {"yes": 1.0, "true": 1.0, "1": 1.0, "no": 0.0, "false": 0.0, "0": 0.0}
UNSURE = "unsure"


@dataclass(frozen=True)
class Labels:
    """The task of a network: what its outputs stand for.

    Attributes:
        columns: that the labels are read from.
        task: one of transformers' problem types.
        names: classes, or the labels that an image may have several of, in the order of the outputs.
        mean, std: of the training images' numbers (regression), by which the network's output is moved and scaled.
    """

    columns: tuple[str, ...]
    task: Task
    names: tuple[str, ...]
    mean: float = 0.0
    std: float = 1.0

    def config(self) -> dict[str, Any]:
        """The options of a transformers configuration that say the same."""
        return {
            "problem_type": self.task,
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: number for number, name in enumerate(self.names)},
            "label_columns": list(self.columns),
            "label_scale": [self.mean, self.std],
        }

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Labels:
        """The labels that a network's configuration was made with."""
        task: Any = config.problem_type
        if task not in get_args(Task) or not hasattr(config, "label_columns"):
            raise ValueError("the model does not know its labels: make it with build_classifier")
        names: Any = config.id2label
        return cls(tuple(config.label_columns), task, tuple(names[n] for n in sorted(names)), *config.label_scale)

    def read(self, rows: datasets.Dataset) -> np.ndarray:
        """The labels of rows as they are compared: names (images,), NaN or 0 and 1 (images, names), numbers (images,).

        A name is a text, None where the label is missing. It need not be one of `names`.

        Raises:
            ValueError: a column does not exist, with those that do; or its values do not suit the task.
        """
        _check_columns(rows, self.columns)
        columns = [_values(rows, column, numbers=self.task == "regression") for column in self.columns]
        if self.task == "single_label_classification":
            if lists := [value for value in columns[0] if isinstance(value, list)]:
                raise ValueError(f"column {self.columns[0]}: expected one class per image, found the list {lists[0]}")
            return np.array([None if value is None else _name(value) for value in columns[0]], dtype=object)
        if self.task == "regression":
            return np.array([np.nan if v is None else _number(v, self.columns[0]) for v in columns[0]], np.float64)
        if len(columns) == 1:
            return np.array([_listed(value, self.names) for value in columns[0]], np.float64)
        answers = [[_answer(v, c) for v in values] for c, values in zip(self.columns, columns, strict=True)]
        return np.array(answers, np.float64).T

    def known(self, truth: np.ndarray) -> np.ndarray:
        """True where an image has a label, or one at least of several; bool (images,)."""
        if truth.ndim == 2:
            return ~np.isnan(truth).all(1)
        return np.array([value is not None for value in truth]) if truth.dtype.kind == "O" else ~np.isnan(truth)

    def encode(self, truth: np.ndarray) -> torch.Tensor:
        """What the loss takes: int64 (images,) with -1, or float32 (images[, names]) with NaN, where there is no label.

        A class that is not among `names` (training lacks it) is -1 too: no loss is taken of it, and it is always wrong.
        """
        if self.task == "single_label_classification":
            numbers = {name: number for number, name in enumerate(self.names)}
            return torch.tensor([numbers.get(name, -1) for name in truth], dtype=torch.int64)
        return torch.from_numpy((truth - self.mean) / self.std).float()


def missing(targets: torch.Tensor) -> float:
    """What stands for a label that is missing, in targets as `Labels.encode` gives them."""
    return float("nan") if targets.is_floating_point() else -1


def is_known(targets: torch.Tensor) -> torch.Tensor:
    """True where targets hold a label; bool of their shape."""
    return ~targets.isnan() if targets.is_floating_point() else targets >= 0


def fit_labels(rows: datasets.Dataset, label: str, task: Task | None = None) -> Labels:
    """The labels that training rows hold.

    Args:
        rows: of the whole training split, so that draws of a few of them share their classes.
        label: a column, or several joined by commas.
        task: where the column's type does not tell; see this module's first lines.

    Raises:
        ValueError: a column does not exist, holds nothing to tell apart, or values that do not suit the task.
    """
    columns = tuple(column.strip() for column in label.split(","))
    _check_columns(rows, columns)
    task = task or _guess(rows, columns)
    if task == "multi_label_classification":
        lists = [] if len(columns) > 1 else [value for value in _values(rows, columns[0]) if isinstance(value, list)]
        names = {_name(name) for names in lists for name in names}
        labels = Labels(columns, task, tuple(sorted(names, key=_order)) or columns)
        answers = labels.read(rows)
        for who, answer in (("no", 1), ("every", 0)):
            if empty := [name for name, found in zip(labels.names, answers.T, strict=True) if answer not in found]:
                raise ValueError(
                    f"{who} training image has the label {', '.join(empty)}: leave it out, or give others too"
                )
    elif len(columns) > 1:
        raise ValueError(f"{label}: several columns make a multi-label task, not {task}")
    elif task == "regression":
        numbers = Labels(columns, task, columns).read(rows)
        mean, std = (float(f(numbers)) if not np.isnan(numbers).all() else 0.0 for f in (np.nanmean, np.nanstd))
        labels = Labels(columns, task, columns, mean, std)
        if not std:
            raise ValueError(f"column {label}: expected training images with different numbers")
        below = numbers[numbers < 0]
        if len(below) and (below == below[0]).all() and below[0].is_integer():
            logger.warning(
                "column %s: %d training images have %g, which is a number to predict; where it means that the number "
                "is missing, leave these cells empty",
                *(label, len(below), below[0]),
            )
    else:
        classes = {name for name in Labels(columns, task, ()).read(rows) if name is not None}
        labels = Labels(columns, task, tuple(sorted(classes, key=_order)))
        if len(classes) < 2:
            found = ", ".join(classes) or "no label"
            raise ValueError(f"column {label}: expected two classes or more in {len(rows)} training images: {found}")
        spellings: dict[Any, list[str]] = {}
        for name in labels.names:
            plain = " ".join(name.casefold().split())
            spellings.setdefault(ANSWERS.get(plain, plain), []).append(name)
        if alike := [" and ".join(names) for names in spellings.values() if len(names) > 1]:
            logger.warning(
                "column %s: %s are different classes; if not, write each in one way", label, "; ".join(alike)
            )
    return labels


def rows_where(rows: Mapping[str, Any], column: str, value: str) -> dict[str, np.ndarray]:
    """Split -> bool (images,), the rows whose column holds a value, compared as texts.

    Raises:
        ValueError: the column does not exist, or no row of any split has the value; with what there is.
    """
    value = unicodedata.normalize("NFC", value)
    texts = {split: Labels((column,), "single_label_classification", ()).read(part) for split, part in rows.items()}
    seen = {text for part in texts.values() for text in part if text is not None}
    if value not in seen:
        raise ValueError(f"no image has {column}={value}; {column} holds {', '.join(sorted(seen)[:20])}")
    return {split: part == value for split, part in texts.items()}


def _check_columns(rows: datasets.Dataset, columns: Sequence[str]) -> None:
    if missing := [column for column in columns if column not in rows.column_names]:
        raise ValueError(f"there is no column {', '.join(missing)}; the columns are {', '.join(rows.column_names)}")


def _guess(rows: datasets.Dataset, columns: Sequence[str]) -> Task:
    values = _values(rows, columns[0], numbers=True)
    if len(columns) > 1 or any(isinstance(value, list) for value in values):
        return "multi_label_classification"
    if any(isinstance(value, float) and not value.is_integer() for value in values):
        return "regression"
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, str) and value[:1] + value[-1:] == "[]" for value in known):
        raise ValueError(
            f"column {columns[0]} holds lists as texts, such as {known[0][:60]}: write them as lists, in JSON "
            "lines or Parquet, or as a yes-no column for each label"
        )
    return "single_label_classification"


def _values(rows: datasets.Dataset, column: str, *, numbers: bool = False) -> list[Any]:
    """A column's texts, numbers or lists of them, None where the label is missing, and the names of a `ClassLabel`.

    A negative number is a value where `numbers` are to be predicted, and else no label, in a column of texts too.
    """
    feature = rows.features[column]
    kind = feature.feature if isinstance(feature, datasets.List | datasets.LargeList) else feature
    names = kind.names if isinstance(kind, datasets.ClassLabel) else None
    values = [
        _names_in(value, names, column) if isinstance(value, list) else _plain(value, names, column)
        for value in arrow_column(rows, column).to_pylist()
    ]
    missing = is_missing(np.fromiter(values, object, len(values)), numbers=numbers)
    for row, value in enumerate(values):
        if isinstance(value, str):
            negative = names is None and not numbers and _NEGATIVE.fullmatch(value)
            missing[row] |= value.lower() == UNSURE or bool(negative)
    return [None if gone else value for value, gone in zip(values, missing, strict=True)]


_NEGATIVE = re.compile(r"-\d+(\.0*)?")


def _plain(value: Any, names: Sequence[str] | None, column: str) -> Any:
    """A cell, texts without spaces around them and in one form of Unicode."""
    if names is not None and value is not None:
        return names[value] if value >= 0 else None
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value).strip()
    if isinstance(value, Decimal):
        return float(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    kind = type(value).__name__
    raise ValueError(f"column {column}: expected texts, truth values, numbers or lists of names, found a {kind}")


def _names_in(cells: list[Any], names: Sequence[str] | None, column: str) -> list[Any]:
    """The names, or whole numbers in place of them, that a list holds."""
    found = [name for cell in cells if (name := _plain(cell, names, column)) not in (None, "") and name == name]
    numbers = [name for name in found if not isinstance(name, str)]
    if len({*numbers}) < len(numbers) or any(isinstance(n, bool) or not float(n).is_integer() for n in numbers):
        raise ValueError(
            f"column {column}: expected lists of names, found the vector {str(cells)[:60]}: give a yes-no column for "
            "each label, joined by commas"
        )
    return found


def _name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _number(value: Any, column: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.inf
    if isinf(number):
        raise ValueError(f"column {column}: expected numbers to predict, found {value!r}")
    return number


def _answer(value: Any, column: str) -> float:
    if value is None:
        return np.nan
    answer = ANSWERS.get(_name(value).lower())
    if answer is None:
        raise ValueError(f"column {column}: expected {', '.join(ANSWERS)}, {UNSURE} or nothing, found {value!r}")
    return answer


def _listed(value: Any, names: Sequence[str]) -> list[float]:
    if value is None:
        return [np.nan] * len(names)
    if not isinstance(value, list):
        raise ValueError(
            f"expected lists of names for a task of several labels, found {value!r}; or join yes-no columns"
        )
    return [float(name in map(_name, value)) for name in names]


def _order(name: str) -> tuple[float, str]:
    """Numbers by size, then texts."""
    try:
        return float(name), name
    except ValueError:
        return float("inf"), name
