"""AUROC by the number of labels, five folds over images: the protocol of a published curve on FracAtlas.

The published numbers are those of CXR-Foundation embeddings with logistic regression on FracAtlas' fracture label, as
its authors state them. They are shown beside ours for that label of that data set alone, whose folds hold other images.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from hf_radmae.metrics import auroc
from hf_radmae.probing.heads import linear_probe
from hf_radmae.study.tasks import Task

FOLDS = 5
COUNTS = (10, 25, 50, 100, 250, 500)
PUBLISHED = (0.555, 0.578, 0.607, 0.683, 0.785, 0.820, 0.882)  # at COUNTS, then with all labels of a fold


def fold_curve(
    features: Mapping[tuple[str, str], np.ndarray],
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    counts: Sequence[int] = COUNTS,
    folds: int = FOLDS,
    seed: int = 0,
    class_weights: str = "none",
) -> list[dict[str, Any]]:
    """Mean and standard deviation over folds of the AUROC of logistic regression on so many labels.

    Each fold is scored by a head that was solved on random images of the other folds, both classes among them.

    Args:
        features: (model, pooling) -> (images, width).
        labels: int (images,), 0 and 1, negative where missing.
        groups: (images,) equal for images that must be in one fold.
        counts: labels that are used; those that any fold does not leave are left out, and all labels come last.
        folds, seed: of the folds and the draws, which all models share.
        class_weights: of `linear_probe`.

    Returns:
        Rows with "model", "pooling", "labels" (a number, or "all"), "auroc" and "std".

    Raises:
        ValueError: as `split_folds`.
    """
    known = np.flatnonzero(labels >= 0)
    truth, rng = labels[known], np.random.default_rng(seed)
    scores: dict[tuple[str, str, int | str], list[float]] = {}
    parts = split_folds(truth, groups[known], folds, seed)
    counts = [count for count in counts if 2 <= count < min(len(train) for train, _ in parts)]
    names: list[int | str] = [*counts, "all"]
    for train, test in parts:
        order = rng.permutation(train)
        first = [order[truth[order] == value][0] for value in (0, 1)]
        order = np.concatenate([first, order[~np.isin(order, first)]])  # both classes, then at random
        draws = [order[:count] for count in counts] + [order]
        for model, found in features.items():
            part = found[known]
            probe = linear_probe(part, truth, draws, class_weights=class_weights)
            for name, scored in zip(names, probe.probabilities(part[test]), strict=True):
                scores.setdefault((*model, name), []).append(float(auroc(truth[test], scored)[0]))
    return [
        {"model": model, "pooling": pooling, "labels": name, "auroc": float(np.mean(s)), "std": float(np.std(s))}
        for (model, pooling, name), s in scores.items()
    ]


def split_folds(
    labels: np.ndarray, groups: np.ndarray, folds: int = FOLDS, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The rows of training and test of each fold: groups whole, classes as even as that allows.

    Args:
        labels: int (images,), 0 and 1.
        groups: (images,) equal for images that must be in one fold.

    Raises:
        ValueError: a fold would lack a class to train on or to score on.
    """
    have = [len(np.unique(groups[labels == value])) for value in (0, 1)]
    if min(have) >= folds:
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        found = list(splitter.split(labels, labels, groups))
        if all(len(np.unique(labels[part])) == 2 for fold in found for part in fold):
            return found
    images = np.bincount(labels, minlength=2)
    raise ValueError(
        f"{folds} folds need both classes in each of them: the first class has {images[0]} images of {have[0]} groups "
        f"(patients with their near duplicates), the second one {images[1]} of {have[1]}. Expected {folds} groups of "
        "each class at least, and none with most of its images"
    )


def published(task: Task, sources: Iterable[str | None]) -> list[float]:
    """The published curve at `COUNTS` and all labels, for fractures on FracAtlas alone; else empty.

    Args:
        sources: the data set that each labelled image is from.
    """
    names = {re.sub("[^a-z]", "", str(source).lower()) for source in sources}
    return list(PUBLISHED) if names == {"fracatlas"} and "fracture" in f"{task.name} {task.columns}".lower() else []
