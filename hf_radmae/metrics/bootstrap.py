"""Intervals by resampling patients: a resample is a row of weights, so a metric scores all resamples at once.

A metric here is a function `metric(references, predictions, weights)`: weights (resamples, images) say how often each
image was drawn, None means once, and the result has one entry per resample. Images of a patient are drawn together,
since they are not independent (Field and Welsh 2007, cluster bootstrap).
"""

import logging
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

logger = logging.getLogger(__name__)


class Metric(Protocol):
    """A score of predictions, for each row of image weights."""

    def __call__(
        self, references: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None
    ) -> np.ndarray: ...


class Interval(NamedTuple):
    """An estimate and the ends of its interval: floats, or arrays for a metric with many values."""

    value: Any
    low: Any
    high: Any


def is_missing(labels: Sequence | np.ndarray) -> np.ndarray:
    """True where a label is None, NaN, an empty text or a negative number (-1, -100); bool (images,)."""
    labels = np.asarray(labels)
    if labels.dtype.kind == "O":
        return np.array([v is None or v != v or v == "" or (not isinstance(v, str) and v < 0) for v in labels], bool)
    if labels.dtype.kind in "US":
        return labels == ""
    return np.isnan(labels) | (labels < 0)


def patient_weights(groups: Sequence | np.ndarray, n: int, seed: int) -> np.ndarray:
    """How often each image is drawn when whole groups are drawn with replacement; float32 (n, images)."""
    keys, group = np.unique(np.asarray(groups), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(keys), np.full(len(keys), 1 / len(keys)), size=n)
    return drawn.astype(np.float32)[:, group]


def bootstrap_interval(
    metric: Metric,
    references: Sequence | np.ndarray,
    predictions: Sequence | np.ndarray,
    *,
    groups: Sequence | np.ndarray | None = None,
    over_draws: bool = False,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The metric and its percentile bootstrap interval.

    Args:
        metric: a function as in this module's first lines, `balanced_accuracy` for one.
        references: (images,) true labels; images without a label are left out, and their number is logged.
        predictions: (images, ...) what the metric compares with them; with `over_draws` (draws, images, ...).
        groups: (images,) patient keys. None takes each image as a patient of its own.
        over_draws: predictions come from models trained on several draws of the labels. The value is then the mean
            over draws, and the draws are resampled with the patients, so that the interval holds both uncertainties.
        n: number of resamples.
        level: share of the resamples inside the interval.
        seed: of the resampling. Equal seeds on equal images give equal resamples.

    Raises:
        ValueError: lengths differ, or no image has a label.
    """
    predictions = np.asarray(predictions)
    references, draws, groups = _prepare(references, predictions if over_draws else predictions[None], groups)
    values, resampled = _resample(metric, references, draws, patient_weights(groups, n, seed), seed)
    return _interval(values, resampled, level)


def paired_interval(
    metric: Metric,
    references: Sequence | np.ndarray,
    predictions: Sequence | np.ndarray,
    baseline: Sequence | np.ndarray,
    *,
    groups: Sequence | np.ndarray | None = None,
    over_draws: bool = False,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The metric's difference `predictions - baseline` and its interval, both scored on the same resamples.

    Two models on the same images, and trained on the same draws with `over_draws`, err together: the interval of
    their difference is narrower than their own intervals tell. Arguments as in `bootstrap_interval`.
    """
    predictions, baseline = np.asarray(predictions), np.asarray(baseline)
    if predictions.shape != baseline.shape:
        raise ValueError(f"a pair needs equal shapes, got predictions {predictions.shape}, baseline {baseline.shape}")
    if not over_draws:
        predictions, baseline = predictions[None], baseline[None]
    known, both, groups = _prepare(references, np.concatenate([predictions, baseline]), groups)
    weights = patient_weights(groups, n, seed)
    value, resampled = _resample(metric, known, both[: len(predictions)], weights, seed)
    base_value, base_resampled = _resample(metric, known, both[len(predictions) :], weights, seed)
    return _interval(value - base_value, resampled - base_resampled, level)


def drop_missing(references: Sequence | np.ndarray, *arrays: Any) -> tuple[np.ndarray, ...]:
    """The references that have a label, and the same images of the other arrays; logs how many were left out."""
    references = np.asarray(references)
    for array in arrays:
        if len(array) != len(references):
            raise ValueError(
                f"{len(references)} references, but {len(array)} predictions or groups: one for each image"
            )
    known = ~is_missing(references)
    if not known.any():
        raise ValueError(
            f"none of the {len(references)} images has a label (None, NaN, an empty text and negative numbers are none)"
        )
    if not known.all():
        logger.info("%d of %d images have no label and are left out", (~known).sum(), len(known))
    return (_plain(references[known]), *(np.asarray(array)[known] for array in arrays))


def _plain(labels: np.ndarray) -> np.ndarray:
    """Labels in a sortable dtype: what is left of an object array once its None are gone."""
    return np.array(labels.tolist()) if labels.dtype.kind == "O" else labels


def _prepare(
    references: Sequence | np.ndarray, draws: np.ndarray, groups: Sequence | np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    groups = np.arange(len(references)) if groups is None else np.asarray(groups)
    by_image = np.moveaxis(draws, 1, 0) if draws.ndim > 1 else draws
    references, by_image, groups = drop_missing(references, by_image, groups)
    return references, np.moveaxis(by_image, 0, 1), groups


def _resample(
    metric: Metric, references: np.ndarray, draws: np.ndarray, weights: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The mean over draws of the metric (...), and of each resample of patients and draws (n, ...)."""
    value = np.mean([metric(references, draw)[0] for draw in draws], axis=0)
    chunks = np.array_split(weights, max(1, weights.size // 2**24))
    by_draw = np.stack([np.concatenate([metric(references, draw, chunk) for chunk in chunks]) for draw in draws], 1)
    shares = patient_weights(np.arange(len(draws)), len(weights), seed + 1).astype(np.float64) / len(draws)
    return value, np.einsum("rd,rd...->r...", shares, by_draw)


def _interval(value: np.ndarray, resampled: np.ndarray, level: float) -> Interval:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")  # undefined in every resample: NaN, as its value
        low, high = np.nanquantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    if np.ndim(value):
        return Interval(value, low, high)
    return Interval(float(value), float(low), float(high))
