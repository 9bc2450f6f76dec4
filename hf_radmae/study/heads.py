"""Heads on the features of one model: every pooling and head on the same draws, as candidates that a table scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hf_radmae.models.modeling_radiograph_vit import cells_of
from hf_radmae.probing.heads import (
    AttentiveProbe,
    LinearProbe,
    attentive_probe,
    linear_probe,
    propagated_probe,
    searched_probe,
)
from hf_radmae.study.tasks import TaskLabels

Kind = Literal["ours", "rival", "elsewhere"]
Splits = Mapping[str, Mapping[str, np.ndarray]]
NETWORK_POOLINGS = ("cls", "mean", "mean+max+std", "grid", "grid+max+std")
"""Of a network's tokens, see `pool_tokens`."""
ATTENTIVE_CELLS = 4  # along each side, the fewest that an attentive head looks at


@dataclass(frozen=True)
class Candidate:
    """A model with one pooling and one head.

    Attributes:
        model: its name in tables.
        kind: "ours", a "rival" that saw no image before, or a network that was pre-trained "elsewhere".
        head: "linear", "propagated", "searched" (the best of several learning rates), "attentive" (looks at each cell
            of a grid) or "trained" (the whole network).
        pooling: of its features.
        validation: float (seeds, draws, validation images, classes), probabilities; of several labels at once the
            probability of each, (seeds, draws, images, labels).
        test: the same of the test images.
        unlabelled: training images whose features are used without their labels.
        views: images that passed through the network in training on labels, 0 for a head on frozen features.
    """

    model: str
    kind: Kind
    head: str
    pooling: str
    validation: np.ndarray
    test: np.ndarray
    unlabelled: int = 0
    views: int = 0


def candidates(
    model: str,
    kind: Kind,
    runs: Sequence[Splits],
    labels: TaskLabels,
    draws: Sequence[np.ndarray],
    poolings: Sequence[str],
    *,
    propagate: bool = True,
    class_weights: str = "none",
    rates: Sequence[float] = (),
) -> list[Candidate]:
    """Solves every pooling and head of a model.

    A pooling of 4 x 4 cells or more, "grid4" and up by itself, has an attentive head too; of several labels never.

    Args:
        model, kind: see `Candidate`.
        runs: the features of each seed of the pre-training, split -> pooling -> (images, width), NaN where unreadable.
        labels: of the task; images without features have none.
        draws: training rows whose labels are used.
        poolings: keys of the features, or several joined by "+"; those that lack are left out.
        propagate: whether labels are spread to the unlabelled training images too; of several labels at once never.
        class_weights: of `linear_probe`.
        rates: learning rates of `searched_probe`, a head of its own where there are any; of several labels never.
    """
    found = []
    for pooling in poolings:
        if not set(pooling.split("+")) <= set(runs[0]["train"]):
            continue
        varies = bool(np.nanmax(np.nanstd(joined(runs[0]["train"], pooling), axis=0)) > 0)
        cells = cells_of(pooling)
        attentive = cells >= ATTENTIVE_CELLS and pooling != "flat"
        further = (
            {"propagated": propagate, "searched": bool(rates), "attentive": attentive}
            if varies and not labels.multi
            else {}
        )
        for head in ("linear", *(name for name, wanted in further.items() if wanted)):
            scored, unlabelled = [], 0
            for run in runs:
                split = {name: joined(run[name], pooling) for name in ("train", "validation", "test")}
                seen = np.flatnonzero(~np.isnan(split["train"]).any(1))
                unlabelled = len(seen) - min(map(len, draws)) if head == "propagated" else 0
                scored.append(_probabilities(split, labels, draws, head, seen, class_weights, rates, cells))
            validation, test = (np.stack(part).astype(np.float32) for part in zip(*scored, strict=True))
            found.append(Candidate(model, kind, head, pooling, validation, test, unlabelled))
    return found


def parts_of(poolings: Sequence[str]) -> list[str]:
    """What poolings are joined of, each part once."""
    return list(dict.fromkeys(part for pooling in poolings for part in pooling.split("+")))


def joined(features: Mapping[str, np.ndarray], pooling: str) -> np.ndarray:
    """The features of poolings that are joined by "+", side by side."""
    return np.concatenate([features[name] for name in pooling.split("+")], axis=1)


def _probabilities(
    split: Mapping[str, np.ndarray],
    labels: TaskLabels,
    draws: Sequence[np.ndarray],
    head: str,
    seen: np.ndarray,
    class_weights: str,
    rates: Sequence[float],
    cells: int,
) -> list[np.ndarray]:
    """Of the images of validation and test, (draws, images, classes), or (draws, images, labels) of several labels."""
    train, values = np.nan_to_num(split["train"]), labels.values["train"]
    queries = [np.nan_to_num(split[name]) for name in ("validation", "test")]
    if labels.multi:
        probes = [linear_probe(train, column, draws, class_weights=class_weights) for column in values.T]
        return [np.stack([probe.probabilities(part)[..., 1] for probe in probes], -1) for part in queries]
    probe: LinearProbe | AttentiveProbe
    if head == "propagated":
        probe = propagated_probe(train, values, draws, unlabelled=seen)
    elif head == "searched":
        known = labels.values["validation"] >= 0
        choice = queries[0][known], labels.values["validation"][known]
        probe = searched_probe(train, values, draws, validation=choice, rates=rates, class_weights=class_weights)
    elif head == "attentive":
        probe = attentive_probe(train, values, draws, tokens=cells**2, class_weights=class_weights)
    else:
        probe = linear_probe(train, values, draws, class_weights=class_weights)
    return [_in_columns(probe, part, len(labels.classes)) for part in queries]


def _in_columns(probe: LinearProbe | AttentiveProbe, features: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities in the columns of the task's classes; one that training lacks has 0."""
    found = probe.probabilities(features)
    wide = np.zeros((*found.shape[:2], classes), np.float32)
    wide[..., probe.classes] = found
    return wide
