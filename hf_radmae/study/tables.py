"""What models score on the test images, with intervals, and the difference to the best rival: one table everywhere.

Of each model and head the pooling is chosen on the validation images, and so are the best of ours and the best rival.
The number of these images is in the table. Intervals resample test images, whole patients where they are known, within
their classes unless an image has several labels, and with them the draws of the labels and the seeds of the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, get_args

import numpy as np

from hf_radmae.metrics import (
    IRMAError,
    bootstrap_interval,
    confusion_matrix,
    label_metrics,
    paired_interval,
    reliability,
)
from hf_radmae.metrics.bootstrap import Interval, Metric
from hf_radmae.study.heads import Candidate, Kind
from hf_radmae.study.tasks import TaskLabels

IRMA_COLUMN = "irma_code"
EMPTY: dict[str, Any] = {"rows": [], "poolings": [], "headline": None, "elsewhere": None, "classes": {}}
"""What a table without models holds."""


def score_table(
    found: Sequence[Candidate], labels: TaskLabels, patients: np.ndarray, *, n: int = 1000, details: bool = True
) -> dict[str, Any]:
    """The rows of a table and what they say of the pre-training.

    Args:
        found: models with their poolings and heads, all on the same draws.
        patients: (test images,) keys.
        n: resamples.
        details: whether the best model and the best rival are shown by class as well.

    Returns:
        "metrics", the first of which decides; "rows", one for each model and head, with the pooling that validates
        best, its scores and the ends of their intervals under "*_low", "*_high"; "poolings", all others without
        intervals; "headline", the best of ours minus the best rival: "ours", "rival" and the same scores; "elsewhere",
        likewise against the best network that was pre-trained elsewhere; "classes", recall, confusion and reliability
        of the best two. A score that is undefined is None.
    """
    metrics, choose = (metrics_of(labels, split) for split in ("test", "validation"))
    primary = primary_metric(labels, metrics.keys() & choose.keys())
    places = {split: labels.rows(split) for split in ("validation", "test")}
    chosen_on, truth = (labels.values[split][rows] for split, rows in places.items())
    options: dict[str, Any] = {"groups": patients[places["test"]], "runs": 2, "n": n}
    if not labels.multi:
        options["strata"] = truth

    def mean_over_runs(metric: Metric, truth: np.ndarray, runs: np.ndarray) -> float:
        return float(np.nanmean([metric(truth, run) for run in runs.reshape(-1, *runs.shape[2:])]))

    def test(candidate: Candidate) -> np.ndarray:
        return candidate.test[:, :, places["test"]]

    valid = [mean_over_runs(choose[primary], chosen_on, c.validation[:, :, places["validation"]]) for c in found]
    order = sorted(range(len(found)), key=lambda i: -valid[i])
    best: dict[tuple[str, str], int] = {}
    for i in order:
        best.setdefault((found[i].model, found[i].head), i)
    rows, poolings = [], []
    for i, candidate in enumerate(found):
        row: dict[str, Any] = {name: getattr(candidate, name) for name in ("model", "kind", "head", "pooling", "views")}
        row |= {"unlabelled": candidate.unlabelled, "validation": valid[i], "seeds": len(candidate.test)}
        row["chosen_on"] = len(chosen_on)
        if best[candidate.model, candidate.head] == i:
            scores = {m: bootstrap_interval(metric, truth, test(candidate), **options) for m, metric in metrics.items()}
            rows.append(_finite(row | _named(scores)))
        else:
            poolings.append(_finite(row | {primary: mean_over_runs(metrics[primary], truth, test(candidate))}))
    table: dict[str, Any] = {"metrics": [primary, *(name for name in metrics if name != primary)]}
    table |= EMPTY | {"rows": rows, "poolings": poolings}
    first = {kind: next((found[i] for i in order if found[i].kind == kind), None) for kind in get_args(Kind)}
    ours = first["ours"]
    for name, kind in (("headline", "rival"), ("elsewhere", "elsewhere")):
        if ours is not None and (other := first[kind]) is not None:
            shown = (primary,) if name == "elsewhere" else metrics
            pairs = {m: paired_interval(metrics[m], truth, test(ours), test(other), **options) for m in shown}
            table[name] = _finite({"ours": title(ours), "rival": title(other)} | _named(pairs))
    if details and not labels.multi:
        table["classes"] = {
            title(candidate): _by_class(test(candidate), truth)
            for candidate in (ours, first["rival"])
            if candidate is not None
        }
    return table


def title(candidate: Candidate) -> str:
    """A model with its pooling and head, as texts name it."""
    heads = {"propagated": ", propagated labels", "searched": ", best learning rate", "attentive": ", attentive"}
    return candidate.model + (f", {candidate.pooling}" if candidate.pooling else "") + heads.get(candidate.head, "")


def primary_metric(labels: TaskLabels, scored: Set[str]) -> str:
    """What decides: AUROC for two classes, or several labels at once; balanced accuracy for more.

    Where validation or test hold one class only, which has no AUROC, it is balanced accuracy.

    Args:
        labels: of the task.
        scored: names of the metrics that both splits have.
    """
    return "auroc" if (labels.multi or len(labels.classes) == 2) and "auroc" in scored else "balanced_accuracy"


def metrics_of(labels: TaskLabels, split: str) -> dict[str, Metric]:
    """The metrics of a task on a split."""
    found = label_metrics(labels.values[split], len(labels.classes))
    if labels.task.columns == IRMA_COLUMN and not labels.multi:
        codes, error = np.array(labels.classes), IRMAError(codes=labels.classes)
        found["irma_error"] = lambda t, s, w=None: error(codes[t], codes[s.argmax(-1)], w)
    return found


def _by_class(runs: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Recall and confusion over all runs (seeds, draws, images, classes), and reliability: of the classes in order."""
    runs = runs.reshape(-1, *runs.shape[2:])
    matrix = np.mean([confusion_matrix(truth, run.argmax(1), runs.shape[2]) for run in runs], axis=0)
    images = matrix.sum(1)
    return {
        "recall": [hits / count if count else None for hits, count in zip(matrix.diagonal(), images, strict=True)],
        "confusion": matrix.round(2).tolist(),
        "reliability": reliability(np.tile(truth, len(runs)), np.concatenate(runs)),
    }


def _named(scores: Mapping[str, Interval]) -> dict[str, float]:
    return {key: value for name, interval in scores.items() for key, value in interval.named(name).items()}


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}
