"""What a classifier's outputs are worth: scores for each kind of task, with intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import datasets
import numpy as np
import torch

from hf_radmae.classification.labels import Labels
from hf_radmae.metrics.bootstrap import Metric, bootstrap_interval
from hf_radmae.metrics.classification import label_metrics, macro_f1
from hf_radmae.metrics.regression import mean_absolute_error, r2


@dataclass(frozen=True)
class Predictions:
    """What a network says of the labelled images of a split.

    Attributes:
        labels: the task.
        rows: int64 (images,), ascending: the split's rows that have a label and could be read.
        truth: as `Labels.read` gives it: names (images,), NaN or 0 and 1 (images, names), numbers (images,).
        scores: float32 (images, names), probabilities; of a regression the numbers that are predicted, (images, 1).
    """

    labels: Labels
    rows: np.ndarray
    truth: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, labels: Labels, rows: np.ndarray, truth: np.ndarray, logits: np.ndarray) -> Predictions:
        """From logits (images, outputs)."""
        outputs = torch.from_numpy(logits).float()
        if labels.task == "single_label_classification":
            outputs = outputs.softmax(1)
        elif labels.task == "multi_label_classification":
            outputs = outputs.sigmoid()
        else:
            outputs = outputs * labels.std + labels.mean
        return cls(labels, rows, truth, outputs.numpy())

    @property
    def predicted(self) -> np.ndarray:
        """The network's answer in the form of `truth`."""
        if self.labels.task == "single_label_classification":
            return np.array(self.labels.names)[self.scores.argmax(1)]
        if self.labels.task == "multi_label_classification":
            return (self.scores >= 0.5).astype(np.float64)
        return self.scores[:, 0].astype(np.float64)

    def save(self, path: str | PathLike[str]) -> None:
        """Write a Parquet table with the split's row number, and truth, prediction and scores of each: no patient."""
        names = self.labels.names
        table: dict[str, Any] = {"row": self.rows}
        if self.truth.ndim == 2:
            table |= {f"truth_{name}": column for name, column in zip(names, self.truth.T, strict=True)}
        else:
            table |= {"truth": self.truth.tolist(), "predicted": self.predicted.tolist()}
        if self.labels.task != "regression":
            table |= {f"score_{name}": column for name, column in zip(names, self.scores.T, strict=True)}
        datasets.Dataset.from_dict(table).to_parquet(str(path))


def score(
    predictions: Predictions, groups: Sequence | np.ndarray | None = None, bootstrap: int = 0
) -> dict[str, float]:
    """Scores of predictions, and with `bootstrap` resamples of `groups` the ends of their intervals, "*_low", "*_high".

    Of classes and of several labels those of `label_metrics`, of classes the macro F1 too; of numbers the mean absolute
    error and R². What is not defined is left out. Resamples hold as many groups of each class as there are.
    """
    labels, truth, scores = predictions.labels, predictions.truth, predictions.scores
    options: dict[str, Any] = {"groups": groups}
    if labels.task == "regression":
        metrics: dict[str, Metric] = {"mean_absolute_error": mean_absolute_error, "r2": r2}
        scores = predictions.predicted
    elif labels.task == "single_label_classification":
        options["strata"] = truth = truth.astype(str)
        unknown = sorted(set(truth) - set(labels.names))  # classes that training lacks
        numbers = {name: number for number, name in enumerate([*labels.names, *unknown])}
        truth = np.array([numbers[name] for name in truth])
        metrics = label_metrics(truth, len(labels.names))
        metrics["macro_f1"] = lambda t, s, w=None: macro_f1(t, s.argmax(1), w)
    else:
        metrics = label_metrics(truth)
    found: dict[str, float] = {}
    for name, metric in metrics.items():
        if bootstrap:
            found |= bootstrap_interval(metric, truth, scores, n=bootstrap, **options).named(name)
        else:
            found[name] = float(metric(truth, scores)[0])
    return {name: value for name, value in found.items() if np.isfinite(value)}
