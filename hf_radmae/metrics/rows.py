"""Metrics whose references are rows of a table of labels: what `bootstrap_interval` resamples are then images.

A row may hold several labels, of which some are missing, and images without a label are told by their rows alone.
"""

from collections.abc import Callable

import numpy as np

from hf_radmae.metrics.bootstrap import Metric


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
