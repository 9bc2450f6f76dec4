"""Intervals by resampling patients: a resample is a row of weights, so a metric scores all resamples at once.

A metric here is a function `metric(references, predictions, weights)`: weights (resamples, images) say how often each
image was drawn, None means once, and the result has one entry per resample. Images of a patient are drawn together,
since they are not independent (Field and Welsh 2007, cluster bootstrap), and within their class, so that every resample
holds every class.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

logger = logging.getLogger(__name__)

Metric = Callable[..., np.ndarray]
"""A score of (references, predictions, weights=None), for each row of image weights.

Where its attribute `of_numbers` is true, references are numbers that may be negative; else negative ones are missing.
"""


class Interval(NamedTuple):
    """An estimate and the ends of its interval: floats, or arrays for a metric with many values."""

    value: Any
    low: Any
    high: Any

    def named(self, name: str) -> dict[str, Any]:
        """The estimate under a name, and the ends under "*_low" and "*_high", as results hold them."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def is_missing(labels: Sequence | np.ndarray, *, numbers: bool = False) -> np.ndarray:
    """True where a label is None, NaN, an empty text or a negative number (-1, -100); bool of their shape.

    Of `numbers` to predict, negative ones are labels too.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind == "O":
        return np.array([v is None or v != v or v == "" or (not numbers and _is_negative(v)) for v in labels], bool)
    if labels.dtype.kind in "US":
        return labels == ""
    return np.isnan(labels) | (False if numbers else labels < 0)


def _is_negative(value: Any) -> bool:
    return isinstance(value, Real | Decimal) and value < 0


def patient_weights(
    groups: Sequence | np.ndarray, n: int, seed: int, strata: Sequence | np.ndarray | None = None
) -> np.ndarray:
    """How often each image is drawn when whole groups are drawn with replacement; float32 (n, images).

    Args:
        groups: (images,) keys of patients.
        n: number of resamples.
        seed: of the resampling.
        strata: (images,) classes. Groups are drawn within the class that most of their images have, as many as it has;
            None draws from all groups at once.
    """
    keys, group = np.unique(np.asarray(groups), return_inverse=True)
    stratum = np.zeros(len(keys), np.int64)
    if strata is not None:
        names, codes = np.unique(np.asarray(strata), return_inverse=True)
        counts = np.zeros((len(keys), len(names)), np.int64)
        np.add.at(counts, (group, codes), 1)
        stratum = counts.argmax(1)
    rng, drawn = np.random.default_rng(seed), np.zeros((n, len(keys)), np.float32)
    for value in np.unique(stratum):
        members = np.flatnonzero(stratum == value)
        drawn[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=n)
    return drawn[:, group]


def bootstrap_interval(
    metric: Metric,
    references: Sequence | np.ndarray,
    predictions: Sequence | np.ndarray,
    *,
    groups: Sequence | np.ndarray | None = None,
    strata: Sequence | np.ndarray | None = None,
    runs: int = 0,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The metric and its percentile bootstrap interval.

    In simulations a 95 % interval holds the true value 93 to 94 times in 100 with 80 patients, 91 times with five or
    ten draws that differ as much as patients do, 88 times with three such seeds, and 81 times with two draws.

    Args:
        metric: a function as in this module's first lines, `balanced_accuracy` for one.
        references: (images,) true labels, or (images, labels) of several; images without any are left out, and their
            number is logged.
        predictions: (images, ...) what the metric compares with them, after `runs` axes of models.
        groups: (images,) patient keys. None takes each image as a patient of its own.
        strata: (images,) classes whose numbers stay fixed, see `patient_weights`.
        runs: leading axes of `predictions`: 1 for models trained on several draws of the labels, 2 for several seeds
            of a pre-training and then draws. The value is the mean over them, and each axis is resampled with the
            patients, so that the interval holds all these uncertainties.
        n: number of resamples.
        level: share of the resamples inside the interval.
        seed: of the resampling. Equal seeds on equal images give equal resamples.

    Raises:
        ValueError: lengths differ, or no image has a label.
    """
    options: dict[str, Any] = {"groups": groups, "strata": strata, "runs": runs, "n": n, "seed": seed}
    return _interval(*_resample(metric, references, np.asarray(predictions), **options), level)


def paired_interval(
    metric: Metric,
    references: Sequence | np.ndarray,
    predictions: Sequence | np.ndarray,
    baseline: Sequence | np.ndarray,
    *,
    runs: int = 0,
    level: float = 0.95,
    **options: Any,
) -> Interval:
    """The metric's difference `predictions - baseline` and its interval, both scored on the same resamples.

    Two models on the same images, and trained on the same draws, err together: the interval of their difference is
    narrower than their own intervals suggest. Arguments as in `bootstrap_interval`; the two may differ in the length of
    the first axis of runs, the seeds. Where it is the same, seed k of one is resampled with seed k of the other: an
    untrained network is the start of the pre-trained one of its seed, and of unrelated seeds the expected variance of
    the difference is the same. Where it differs, there are no pairs.
    """
    first, second = np.asarray(predictions), np.asarray(baseline)
    if first.shape[max(runs - 1, 0) :] != second.shape[max(runs - 1, 0) :]:
        raise ValueError(f"a pair needs equal shapes, got predictions {first.shape}, baseline {second.shape}")
    value, resampled = _resample(metric, references, first, runs=runs, **options)
    base_value, base_resampled = _resample(metric, references, second, runs=runs, **options)
    return _interval(value - base_value, resampled - base_resampled, level)


def drop_missing(references: Sequence | np.ndarray, *arrays: Any, numbers: bool = False) -> tuple[np.ndarray, ...]:
    """The references that have a label, and the same images of the other arrays; logs how many were left out."""
    references = np.asarray(references)
    for array in arrays:
        if len(array) != len(references):
            raise ValueError(
                f"{len(references)} references, but {len(array)} predictions or groups: one for each image"
            )
    known = ~is_missing(references, numbers=numbers)
    known = np.asarray(known.any(axis=tuple(range(1, known.ndim))))  # of several labels one is enough
    if not known.any():
        negative = "" if numbers else " and negative numbers"
        raise ValueError(
            f"none of the {len(references)} images has a label (None, NaN, empty texts{negative} are none)"
        )
    if not known.all():
        logger.info("%d of %d images have no label and are left out", (~known).sum(), len(known))
    return (_plain(references[known]), *(np.asarray(array)[known] for array in arrays))


def _plain(labels: np.ndarray) -> np.ndarray:
    """Labels in a sortable dtype: what is left of an object array once its None are gone."""
    return np.array(labels.tolist()) if labels.dtype.kind == "O" else labels


def _resample(
    metric: Metric,
    references: Sequence | np.ndarray,
    predictions: np.ndarray,
    *,
    groups: Sequence | np.ndarray | None = None,
    strata: Sequence | np.ndarray | None = None,
    runs: int = 0,
    n: int = 1000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The mean over runs of the metric (...), and of each resample of patients and runs (n, ...)."""
    shape, count = predictions.shape[:runs], len(references)
    by_image = np.moveaxis(predictions.reshape(-1, *predictions.shape[runs:]), 1, 0)
    groups = np.arange(count) if groups is None else np.asarray(groups)
    kept = [by_image, groups, *([] if strata is None else [np.asarray(strata)])]
    numbers = getattr(metric, "of_numbers", False)
    references, by_image, groups, *fixed = drop_missing(references, *kept, numbers=numbers)
    flat = np.moveaxis(by_image, 0, 1)
    value = np.mean([metric(references, run)[0] for run in flat], axis=0)
    weights = patient_weights(groups, n, seed, *fixed)
    chunks = np.array_split(weights, max(1, weights.size // 2**24))
    found = np.stack([np.concatenate([metric(references, run, chunk) for chunk in chunks]) for run in flat], 1)
    found = found.reshape(n, *shape, *found.shape[2:])
    for axis in reversed(range(runs)):  # the draws first: their seed is the same for every model
        size, rng = shape[axis], np.random.default_rng(seed + 1 + runs - axis)
        # One run less than there are: as many as there are would make the variance of their mean too small by that
        # share (Rao and Wu 1988), which matters for few.
        share = rng.multinomial(max(size - 1, 1), np.full(size, 1 / size), size=n) / max(size - 1, 1)
        found = (np.moveaxis(found, 1 + axis, -1) * share.reshape(n, *[1] * (found.ndim - 2), size)).sum(-1)
    return value, found


def _interval(value: np.ndarray, resampled: np.ndarray, level: float) -> Interval:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")  # undefined in every resample: NaN, as its value
        low, high = np.nanquantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    if np.ndim(value):
        return Interval(value, low, high)
    return Interval(float(value), float(low), float(high))
