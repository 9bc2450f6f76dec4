"""Scores of predicted numbers as functions `(references, predictions, weights)`, one value per row of weights."""

import numpy as np

from hf_radmae.metrics.classification import image_weights


def mean_absolute_error(
    references: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Mean distance of numbers (images,) from the true ones, (resamples,)."""
    weights = image_weights(references, weights)
    return weights @ np.abs(references - predictions) / weights.sum(1)


def r2(references: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Share of the variance of the true numbers that is explained, (resamples,); NaN where all are equal."""
    weights = image_weights(references, weights)
    mean = weights @ references / weights.sum(1)
    spread = (weights * (references - mean[:, None]) ** 2).sum(1)
    spread = np.where(spread > 1e-24 * (weights @ references**2), spread, np.nan)  # more than rounding
    return 1 - weights @ (references - predictions) ** 2 / spread


mean_absolute_error.of_numbers = r2.of_numbers = True  # type: ignore[attr-defined]  # see `Metric`
