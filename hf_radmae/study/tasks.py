"""What a study asks of its images: label columns as class numbers, and the draws of labels that every model shares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import datasets
import numpy as np

from hf_radmae.batching.columns import arrow_column
from hf_radmae.classification.labels import fit_labels, rows_where
from hf_radmae.sources.patients import GROUP_COLUMNS, connected_groups
from hf_radmae.sources.splits import audit_splits, label_fraction

_GRAMMAR = re.compile(r"(?:(?P<name>[^=\[]+)=)?(?P<columns>[^=\[]+)(?:\[(?P<where>[^\]]*)\])?")


class Task(NamedTuple):
    """Labels to be predicted.

    Attributes:
        name: in tables and figures.
        columns: one of classes or of lists of labels, or several of yes and no joined by commas.
        where: columns and the texts that they must hold; the labels of other images count as missing.
    """

    name: str
    columns: str
    where: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Task:
        """`body_region`, `findings=a,b`, or `fracture=label[label_task=fracture,body_part=hip]`: of which images.

        Raises:
            ValueError: none of these forms.
        """
        match = _GRAMMAR.fullmatch(text)
        pairs = [pair.partition("=") for pair in match["where"].split(",")] if match and match["where"] else []
        where = tuple((column.strip(), value.strip()) for column, equal, value in pairs if equal)
        if match is None or (match["where"] == "") or len(where) < len(pairs) or not all(column for column, _ in where):
            raise ValueError(f"task {text!r}: expected COLUMN, NAME=COLUMN or NAME=A,B, with [COLUMN=VALUE,...] behind")
        name = " ".join((match["name"] or match["columns"]).replace(",", " ").split())
        return cls(name, match["columns"].strip(), where)


@dataclass(frozen=True)
class TaskLabels:
    """The labels of a task in all splits.

    Attributes:
        task: which.
        classes: names of the classes in order; of a multi-label task the names of its labels.
        values: split -> int64 (images,) class numbers, or (images, labels) of 0 and 1; -1 where there is no label.
        dropped: classes with too few test images -> how many; their images count as not labelled.
        kept_rare: classes, or labels, with too few test images that stay nevertheless -> how many.
    """

    task: Task
    classes: list[str]
    values: dict[str, np.ndarray]
    dropped: dict[str, int] = field(default_factory=dict)
    kept_rare: dict[str, int] = field(default_factory=dict)

    @property
    def multi(self) -> bool:
        """Whether an image may have several labels at once."""
        return self.values["train"].ndim == 2

    def rows(self, split: str) -> np.ndarray:
        """The rows of a split that have a label, or one at least of several; int (rows,)."""
        known = self.values[split] >= 0
        return np.flatnonzero(known.any(1) if self.multi else known)

    def counts(self) -> dict[str, list[int]]:
        """Split -> images of each class, or with each label."""
        if self.multi:
            return {split: (values == 1).sum(0).tolist() for split, values in self.values.items()}
        size = len(self.classes)
        return {split: np.bincount(v[v >= 0], minlength=size).tolist() for split, v in self.values.items()}

    def known(self, seen: Mapping[str, np.ndarray]) -> TaskLabels:
        """The same without the labels of images that `seen`, bool (images,) of each split, says False of."""
        values = {split: found.copy() for split, found in self.values.items()}
        for split, rows in seen.items():
            values[split][~rows] = -1
        return replace(self, values=values)

    def without_rare(self, least: int) -> TaskLabels:
        """The same without the classes of fewer than `least` test images, of which one moves every score.

        All stay where fewer than two classes would be left, and of several labels at once: `kept_rare` names them.

        Raises:
            ValueError: as `checked`.
        """
        counts = self.counts()["test"]
        kept = [number for number, count in enumerate(counts) if count >= least]
        rare = {self.classes[number]: count for number, count in enumerate(counts) if number not in kept}
        if self.multi or len(kept) < 2 or not rare:
            return replace(self, kept_rare=rare).checked()
        numbers = np.full(len(counts) + 1, -1)
        numbers[kept] = np.arange(len(kept))  # the last one is that of a missing label, -1
        values = {split: numbers[found] for split, found in self.values.items()}
        return TaskLabels(self.task, [self.classes[number] for number in kept], values, self.dropped | rare).checked()

    def checked(self) -> TaskLabels:
        """The same labels, if there are two classes to learn, and something to choose on and to score on.

        Raises:
            ValueError: training holds fewer than two classes, or no image of validation or test has a label.
        """
        name, values = self.task.name, self.values
        left = f", without classes of fewer test images than --min_test_images ({', '.join(self.dropped)})"
        left = left if self.dropped else ""
        trained = np.unique(values["train"][values["train"] >= 0])
        if not self.multi and trained.size < 2:
            names = ", ".join(self.classes[number] for number in trained) or "no label at all"
            raise ValueError(
                f"task {name}: the training images hold {names}{left}, and two classes are needed to tell apart"
            )
        for split in ("validation", "test"):
            if not len(self.rows(split)):
                raise ValueError(f"task {name}: no image of the split {split} has a label{left}")
        return self

    def one_sided(self, draw: np.ndarray) -> list[str]:
        """Of a multi-label task the labels that all training images of a draw have, or that none has."""
        if not self.multi:
            return []
        values = self.values["train"][draw]
        return [name for name, column in zip(self.classes, values.T, strict=True) if not {0, 1} <= {*column.tolist()}]

    def strata(self) -> np.ndarray:
        """What draws of training images are balanced over: names (images,), "" for an image that is not drawn.

        It is the class, or of a multi-label task the rarest label that the image has, "none" where it has none of them;
        images of which not all labels are known are not drawn.
        """
        values, names = self.values["train"], np.array([*self.classes, "none", ""])
        if not self.multi:
            return names[values]
        order = np.argsort((values == 1).sum(0), kind="stable")
        rarest = np.where((values == 1).any(1), order[(values[:, order] == 1).argmax(1)], len(self.classes))
        return names[np.where((values < 0).any(1), -1, rarest)]


def read_labels(rows: Mapping[str, datasets.Dataset], task: Task) -> TaskLabels:
    """The labels of a task as class numbers that all splits share.

    Which labels are missing, and what a column may hold, is said in `hf_radmae.classification.labels`. A class that
    training lacks has a number too: it is never predicted, and counts as wrong.

    Raises:
        ValueError: a column does not exist, holds numbers to be measured, or tells no two classes apart in training; no
            image of validation or test has a label; or no image is as `task.where` says.
    """
    fitted = fit_labels(rows["train"], task.columns)
    if fitted.task == "regression":
        raise ValueError(f"task {task.name}: column {task.columns} holds fractions, and a study predicts classes")
    found = {split: fitted.read(part) for split, part in rows.items()}
    for column, wanted in task.where:
        try:
            chosen = rows_where(rows, column, wanted)
        except ValueError as error:
            raise ValueError(f"task {task.name}: {error}") from error
        for split, part in chosen.items():
            found[split][~part] = np.nan if found[split].ndim == 2 else None
    if fitted.task == "multi_label_classification":
        values = {split: np.nan_to_num(part, nan=-1).astype(np.int64) for split, part in found.items()}
        labels = TaskLabels(task, list(fitted.names), values)
        if lacking := labels.one_sided(np.arange(len(values["train"]))):
            raise ValueError(f"task {task.name}: training needs images with {lacking[0]} and images without it")
        if len(labels.classes) == 1:  # of one name in the lists: two classes
            labels = TaskLabels(task, ["no", "yes"], {split: part[:, 0] for split, part in values.items()})
        return labels.checked()
    present = {name for part in found.values() for name in part if name is not None}
    classes = [name for name in fitted.names if name in present] + sorted(present - set(fitted.names))
    numbers = {None: -1} | {name: number for number, name in enumerate(classes)}
    values = {split: np.array([numbers[name] for name in part], dtype=np.int64) for split, part in found.items()}
    return TaskLabels(task, classes, values).checked()


def patients(rows: Mapping[str, datasets.Dataset], *, allow_shared: bool = False) -> dict[str, np.ndarray]:
    """Split -> int64 (images,), equal for images that belong together, over all splits.

    Raises:
        ValueError: a patient, or a group of near duplicates, is in more than one split, and that is not allowed.
    """
    columns = [
        [value for part in rows.values() for value in arrow_column(part, name).to_pylist()]
        for name in GROUP_COLUMNS
        if all(name in part.column_names for part in rows.values())
    ]
    split = np.repeat([*rows], [len(part) for part in rows.values()])
    groups = connected_groups(columns, len(split))
    if not allow_shared:
        audit_splits(groups, split)
    return {name: groups[split == name] for name in rows}


class Share(NamedTuple):
    """A share of the training labels, and how it is drawn."""

    fraction: float
    kind: Literal["all", "balanced", "plain"]

    def __str__(self) -> str:
        return "all" if self.kind == "all" else f"{100 * self.fraction:g} %, {self.kind} draw"


def draw_labels(labels: TaskLabels, groups: np.ndarray, share: Share, count: int) -> list[np.ndarray]:
    """The training rows whose labels are used: `count` draws, or all labelled rows once where the share is all.

    A function of labels, groups, share and the draw's number alone, so that every model of a table gets the same ones.

    Args:
        groups: (training images,) equal for images of a patient, who is drawn as a whole.
        count: number of draws.

    Raises:
        ValueError: a balanced draw would leave a class empty, or a plain one holds one class only.
    """
    strata = labels.strata()
    if share.kind == "all":
        draws = [np.flatnonzero(strata != "")]
    else:
        options = {"balanced": share.kind == "balanced"}
        draws = [label_fraction(strata, groups, share.fraction, seed, **options) for seed in range(count)]
    if empty := list(dict.fromkeys(name for draw in draws for name in labels.one_sided(draw))):
        raise ValueError(f"{share} of the labels leaves no image with, or none without, {', '.join(empty)}")
    return draws
