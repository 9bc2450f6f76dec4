"""Metrics whose references are rows of a table of labels: what `bootstrap_interval` resamples are then images.

A row may hold several labels, of which some are missing, and images without a label have a row too.
"""

from collections.abc import Callable

import numpy as np

from hf_radmae.metrics.bootstrap import Metric
from hf_radmae.metrics.classification import (
    accuracy,
    auroc,
    average_precision,
    balanced_accuracy,
    brier,
    sensitivity_at_specificity,
)

ORDERS = {"auroc": auroc, "average_precision": average_precision, "sensitivity": sensitivity_at_specificity}


def label_metrics(truth: np.ndarray, classes: int = 0) -> dict[str, Metric]:
    """The scores of classifiers by name: references are rows of `truth`, predictions the probabilities of those rows.

    Several labels have the mean of each score over labels, of classes there is the Brier score too.

    Args:
        truth: (images,) class numbers, or (images, labels) 0 and 1; negative or NaN where missing.
        classes: columns of the probabilities of class numbers. A class beyond them is always wrong, and scores of an
            order are then left out, as they are of a single class.
    """

    def decided(metric: Callable) -> Callable:
        return lambda t, s, w=None: metric(t, s.argmax(-1) if s.ndim == 2 else (s >= 0.5).astype(np.int64), w)

    base: dict[str, Callable] = {"balanced_accuracy": decided(balanced_accuracy), "accuracy": decided(accuracy)}
    if truth.ndim == 2:
        return {name: mean_over_labels(metric, truth, answers=2) for name, metric in (base | ORDERS).items()}
    present = np.unique(truth[truth >= 0])
    base |= ORDERS if len(present) > 1 and present[-1] < classes else {}
    return {name: of_rows(metric, truth) for name, metric in (base | {"brier": brier}).items()}


def of_rows(metric: Callable, truth: np.ndarray) -> Metric:
    """The metric of `truth[references]`."""
    return lambda references, predictions, weights=None: metric(truth[references], predictions, weights)


def mean_over_labels(metric: Callable, truth: np.ndarray, answers: int = 1) -> Metric:
    """The mean of a metric over several labels, each on the images where it is known; NaN where there is none.

    Args:
        metric: of one label's answers, 0 and 1, and the predictions in its column.
        truth: (images, labels) 0 and 1, NaN or negative where missing.
        answers: so many different ones have to be known of a label, or it is left out: 2 for a score of an order.
    """

    def score(references: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        values = []
        for label, here in enumerate(truth[references].T):
            known = here >= 0
            if len(np.unique(here[known])) >= answers:
                part = None if weights is None else weights[:, known]
                values.append(metric(here[known].astype(np.int64), predictions[known, label], part))
        return np.nanmean(values, axis=0) if values else np.full(1 if weights is None else len(weights), np.nan)

    return score
