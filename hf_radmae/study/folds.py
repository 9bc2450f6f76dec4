"""AUROC by the number of labels, five folds over images: the protocol of the published curve on FracAtlas.

The published numbers are those of CXR-Foundation embeddings with logistic regression on FracAtlas' fracture label, as
its authors state them; they are printed beside ours, which have other images in the folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from hf_radmae.metrics import auroc
from hf_radmae.probing.heads import linear_probe

COUNTS = (10, 25, 50, 100, 250, 500)
PUBLISHED = (0.555, 0.578, 0.607, 0.683, 0.785, 0.820, 0.882)  # at COUNTS, then with all labels of a fold


def fold_curve(
    features: Mapping[str, np.ndarray],
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    counts: Sequence[int] = COUNTS,
    folds: int = 5,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Mean and standard deviation over folds of the AUROC of logistic regression on so many labels.

    Each fold is scored by a head that was solved on random images of the other folds, both classes among them.

    Args:
        features: model -> (images, width).
        labels: int (images,), 0 and 1, negative where missing.
        groups: (images,) equal for images that must be in one fold.
        counts: labels that are used; larger ones than a fold leaves are left out, and all labels come last.
        folds, seed: of the folds and the draws, which all models share.

    Returns:
        Rows with "model", "labels" (a number, or "all"), "auroc" and "std".
    """
    known = np.flatnonzero(labels >= 0)
    truth, rng = labels[known], np.random.default_rng(seed)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    scores: dict[tuple[str, int | str], list[float]] = {}
    for train, test in splitter.split(known, truth, groups[known]):
        order = rng.permutation(train)
        first = [order[truth[order] == value][0] for value in (0, 1)]
        order = np.concatenate([first, order[~np.isin(order, first)]])  # both classes, then at random
        draws = [order[:count] for count in counts if count < len(order)] + [order]
        names: list[int | str] = [count for count in counts if count < len(order)] + ["all"]
        for model, found in features.items():
            part = found[known]
            probe = linear_probe(part, truth, draws)
            for name, scored in zip(names, probe.probabilities(part[test]), strict=True):
                scores.setdefault((model, name), []).append(float(auroc(truth[test], scored)[0]))
    return [
        {"model": model, "labels": name, "auroc": float(np.mean(found)), "std": float(np.std(found))}
        for (model, name), found in scores.items()
    ]
