"""Classification scores that need no network: functions of image weights, and `evaluate` modules around them.

The functions take `(references, predictions, weights)` as `bootstrap_interval` wants it and return one row per
resample. The modules are created directly: `BalancedAccuracy().compute(predictions=..., references=...,
groups=patients, bootstrap=1000)`. Labels are integers or strings; images without a reference are left out and counted.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from hf_radmae.metrics.bootstrap import Metric, bootstrap_interval, drop_missing, is_missing


def accuracy(references: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Share of right images, (resamples,)."""
    hits = np.asarray(references) == np.asarray(predictions)
    weights = _weights(references, weights)
    return (weights @ hits.astype(np.float32)).astype(np.float64) / weights.sum(1, dtype=np.float64)


def balanced_accuracy(references: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean recall of the classes that the references hold, (resamples,)."""
    return np.nanmean(per_class(references, predictions, weights)[:, 1], axis=1)


def macro_f1(references: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean F1 of the classes that references or predictions hold, (resamples,)."""
    return np.nanmean(per_class(references, predictions, weights)[:, 2], axis=1)


def per_class(references: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Precision, recall, F1 and number of images of each class in order, (resamples, 4, classes).

    A class that nothing predicts has no precision, a class without images no recall: NaN, not 0.
    """
    classes = np.union1d(references, predictions)
    true = (np.asarray(references)[:, None] == classes).astype(np.float32)
    predicted = (np.asarray(predictions)[:, None] == classes).astype(np.float32)
    weights = _weights(references, weights)
    counts = (weights @ indicator for indicator in (true * predicted, true, predicted))
    hits, support, chosen = (count.astype(np.float64) for count in counts)  # whole numbers, exact in float32
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([hits / chosen, hits / support, 2 * hits / (support + chosen), support], axis=1)


def confusion_matrix(references: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Images by true class (rows) and predicted class (columns), (resamples, classes, classes)."""
    classes = np.union1d(references, predictions)
    pairs = np.searchsorted(classes, references) * len(classes) + np.searchsorted(classes, predictions)
    seen, position = np.unique(pairs, return_inverse=True)
    weights = _weights(references, weights)
    counts = np.zeros((len(weights), len(classes) ** 2), dtype=np.float32)
    counts[:, seen] = weights @ (position[:, None] == np.arange(len(seen))).astype(np.float32)
    return counts.reshape(-1, len(classes), len(classes))


def auroc(references: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve, (resamples,): that of two classes, or the mean of each class against the rest.

    Args:
        references: (images,) labels. With scores for C classes they are column numbers 0 to C - 1.
        predictions: (images,) scores of the greater of two labels, or (images, C). Ties count a half (Mann-Whitney).

    Raises:
        ValueError: the references hold fewer than two classes, or a label without a column.
    """
    references, scores = np.asarray(references), np.asarray(predictions, dtype=np.float64)
    present, counts = np.unique(references, return_counts=True)
    found = ", ".join(f"{label}: {count} images" for label, count in zip(present, counts, strict=True))
    if len(present) < 2:
        raise ValueError(f"AUROC compares two classes or more, but the references hold only {found}")
    if scores.ndim == 1:
        if len(present) > 2:
            raise ValueError(f"one score per image is for two classes, but the references hold {found}")
        scores, present = scores[:, None], present[1:]
    elif not np.isin(present, np.arange(scores.shape[1])).all():
        raise ValueError(f"scores have columns 0 to {scores.shape[1] - 1}, but the references hold {found}")
    weights = _weights(references, weights)
    columns = [0] if scores.shape[1] == 1 else [int(label) for label in present]
    areas = [_area(references == label, scores[:, c], weights) for label, c in zip(present, columns, strict=True)]
    return np.nanmean(areas, axis=0)


def _area(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted share of (positive, negative) pairs in the right order; NaN where a resample lacks one of them."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    weights, positive = weights[:, order].astype(np.float64), positive[order]
    above = np.add.reduceat(weights * positive, starts, axis=1)  # by distinct score
    below = np.add.reduceat(weights * ~positive, starts, axis=1)
    pairs = (above * (below.cumsum(1) - below / 2)).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return pairs / (above.sum(1) * below.sum(1))


def _weights(references: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    return np.ones((1, len(references)), dtype=np.float32) if weights is None else weights


class RadiographMetric(evaluate.Metric):
    """Base of this package's `evaluate` modules: leaves out missing labels, adds an interval on request."""

    key: str
    score: Metric
    description: str
    label_types: Sequence[str] = ("int64", "string")
    prediction_types: Sequence[Any] | None = None

    def _info(self) -> evaluate.MetricInfo:
        predictions = self.prediction_types or [datasets.Value(label) for label in self.label_types]
        pairs = [
            datasets.Features({"predictions": prediction, "references": datasets.Value(label)})
            for label in self.label_types
            for prediction in predictions
            if self.prediction_types or prediction.dtype == label
        ]
        return evaluate.MetricInfo(description=self.description, citation="", inputs_description="", features=pairs)

    def _compute(
        self,
        predictions: Sequence,
        references: Sequence,
        groups: Sequence | None = None,
        bootstrap: int = 0,
        level: float = 0.95,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Scores under the module's key; with `bootstrap` resamples of `groups` also `*_low` and `*_high`."""
        known, predicted = drop_missing(references, _array(predictions))
        result = self._named(self.key, self.score(known, predicted)[0], known, predicted)
        if bootstrap:
            _, low, high = bootstrap_interval(
                self.score, references, _array(predictions), groups=groups, n=bootstrap, level=level, seed=seed
            )
            result |= self._named(f"{self.key}_low", low, known, predicted)
            result |= self._named(f"{self.key}_high", high, known, predicted)
        return result | {"images": len(known), "left_out": int(is_missing(references).sum())}

    def _named(self, key: str, values: Any, references: np.ndarray, predictions: np.ndarray) -> dict[str, Any]:
        """The entries of the result that hold `values`."""
        return {key: float(values)}


class Accuracy(RadiographMetric):
    """Top-1 accuracy."""

    key, score, description = "accuracy", staticmethod(accuracy), "Share of right images."


class BalancedAccuracy(RadiographMetric):
    """Mean recall over the classes of the references."""

    key, score, description = "balanced_accuracy", staticmethod(balanced_accuracy), "Mean recall over classes."


class MacroF1(RadiographMetric):
    """Mean F1 over the classes of references or predictions."""

    key, score, description = "macro_f1", staticmethod(macro_f1), "Mean F1 over classes."


class AUROC(RadiographMetric):
    """Area under the ROC curve, of two classes or one against the rest."""

    key, score, description = "auroc", staticmethod(auroc), "Area under the ROC curve."
    prediction_types = (datasets.Value("float64"), datasets.Sequence(datasets.Value("float64")))


class PerClass(RadiographMetric):
    """Precision, recall, F1 and images of each class, as rows of a table."""

    key, score, description = "per_class", staticmethod(per_class), "Precision, recall, F1 and images by class."

    def _named(self, key: str, values: Any, references: np.ndarray, predictions: np.ndarray) -> dict[str, Any]:
        classes = np.union1d(references, predictions).tolist()
        names = ("class", "precision", "recall", "f1", "images")
        return {key: [dict(zip(names, row, strict=True)) for row in zip(classes, *values.tolist(), strict=True)]}


class ConfusionMatrix(RadiographMetric):
    """Images by true class (rows) and predicted class (columns), with the order of the classes."""

    key, score, description = "confusion_matrix", staticmethod(confusion_matrix), "Images by true and predicted class."

    def _named(self, key: str, values: Any, references: np.ndarray, predictions: np.ndarray) -> dict[str, Any]:
        return {key: np.asarray(values).tolist(), "classes": np.union1d(references, predictions).tolist()}


def _array(predictions: Sequence) -> np.ndarray:
    return np.asarray(list(predictions))
