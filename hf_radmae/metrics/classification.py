"""Classification scores as functions `(references, predictions, weights)`, one value per row of weights.

`bootstrap_interval` calls them so. Labels are integers or strings. Scores of images (images, classes) belong to labels
that are column numbers; scores (images,) are of the greater of two labels.
"""

from collections.abc import Callable

import numpy as np

from hf_radmae.metrics.bootstrap import Metric


def accuracy(references: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Share of right images, (resamples,)."""
    hits = np.asarray(references) == np.asarray(predictions)
    weights = image_weights(references, weights)
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
    weights = image_weights(references, weights)
    counts = (weights @ indicator for indicator in (true * predicted, true, predicted))
    hits, support, chosen = (count.astype(np.float64) for count in counts)  # whole numbers, exact in float32
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([hits / chosen, hits / support, 2 * hits / (support + chosen), support], axis=1)


def confusion_matrix(references: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Images by true class number (rows) and predicted class number (columns), (classes, classes)."""
    pairs = np.asarray(references) * classes + np.asarray(predictions)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def auroc(references: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve, (resamples,): that of two classes, or the mean of each class against the rest.

    Ties count a half (Mann-Whitney).

    Raises:
        ValueError: the references hold fewer than two classes, or a label without a column.
    """
    return _mean_over_classes(_area, references, predictions, weights)


def average_precision(references: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean precision over the thresholds, weighted by the recall that each adds, (resamples,).

    Of two classes it is that of the greater label, of more the mean of each against the rest. Raises as `auroc`.
    """
    return _mean_over_classes(_precision, references, predictions, weights)


def sensitivity_at_specificity(
    references: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None, specificity: float = 0.9
) -> np.ndarray:
    """The largest share of found positives at a threshold that clears so many negatives, (resamples,).

    Of two classes the positives are those of the greater label, of more the mean of each against the rest. Raises as
    `auroc`.
    """

    def found(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
        above, below = _by_threshold(positive, score, weights)
        allowed = below / below[:, -1:] <= 1 - specificity + 1e-9
        return np.where(allowed, above / above[:, -1:], 0).max(1)

    return _mean_over_classes(found, references, predictions, weights)


def brier(references: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean squared error of probabilities (images, classes), summed over the classes, (resamples,) from 0 to 2.

    With two classes it is twice the score of one probability (Brier 1950 defines the sum).
    """
    truth = np.asarray(references)[:, None] == np.arange(np.shape(predictions)[1])
    errors = np.square(predictions - truth).sum(1)
    weights = image_weights(references, weights)
    return (weights @ errors) / weights.sum(1)


def reliability(references: np.ndarray, predictions: np.ndarray, bins: int = 10) -> list[dict[str, float]]:
    """How often the predicted class is right, by bins of its probability: "confidence", "accuracy" and "images".

    Args:
        references: (images,) column numbers.
        predictions: (images, classes) probabilities.
        bins: of equal width over 0..1; empty ones are left out.
    """
    confidence, right = predictions.max(1), predictions.argmax(1) == references
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        {
            "confidence": float(confidence[place == b].mean()),
            "accuracy": float(right[place == b].mean()),
            "images": int((place == b).sum()),
        }
        for b in np.unique(place)
    ]


def label_metrics(truth: np.ndarray, classes: int = 0) -> dict[str, Metric]:
    """The scores of classifiers by name, of probabilities (images, classes or labels).

    Several labels have the mean of each score over labels, of classes there is the Brier score too.

    Args:
        truth: (images,) class numbers, or (images, labels) 0 and 1; negative or NaN where missing.
        classes: columns of the probabilities of class numbers. A class beyond them is always wrong, and scores of an
            order are then left out, as they are of a single class.
    """

    def decided(metric: Callable) -> Metric:
        return lambda t, s, w=None: metric(t, s.argmax(-1) if s.ndim == 2 else (s >= 0.5).astype(np.int64), w)

    found = {"balanced_accuracy": decided(balanced_accuracy), "accuracy": decided(accuracy)}
    orders = {"auroc": auroc, "average_precision": average_precision, "sensitivity": sensitivity_at_specificity}
    if truth.ndim == 2:
        return {name: mean_over_labels(metric) for name, metric in (found | orders).items()}
    present = np.unique(truth[truth >= 0])
    return found | (orders if len(present) > 1 and present[-1] < classes else {}) | {"brier": brier}


def mean_over_labels(metric: Metric) -> Metric:
    """The mean of a metric over several labels, each on the images where it is known; NaN where there is none.

    Its references (images, labels) are 0 and 1, NaN or negative where missing; its predictions have a column for each
    label. A label of which only one answer is known is left out.
    """

    def score(references: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        values = []
        for label, here in enumerate(references.T):
            known = here >= 0
            if len(np.unique(here[known])) > 1:
                part = None if weights is None else weights[:, known]
                values.append(metric(here[known].astype(np.int64), predictions[known, label], part))
        return np.nanmean(values, axis=0) if values else np.full(1 if weights is None else len(weights), np.nan)

    return score


def _mean_over_classes(
    score: Callable, references: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None
) -> np.ndarray:
    """The mean over classes of a score of (positive, scores, weights); of two classes that of the greater one."""
    references, scores = np.asarray(references), np.asarray(predictions, dtype=np.float64)
    present, counts = np.unique(references, return_counts=True)
    found = ", ".join(f"{label}: {count} images" for label, count in zip(present, counts, strict=True))
    if len(present) < 2:
        raise ValueError(f"this score compares two classes or more, but the references hold only {found}")
    if scores.ndim == 1:
        if len(present) > 2:
            raise ValueError(f"one score per image is for two classes, but the references hold {found}")
        scores, pairs = scores[:, None], [(present[1], 0)]
    elif not np.isin(present, np.arange(scores.shape[1])).all():
        raise ValueError(f"scores have columns 0 to {scores.shape[1] - 1}, but the references hold {found}")
    elif scores.shape[1] == 2:
        pairs = [(1, 1)]
    else:
        pairs = [(label, int(label)) for label in present]
    weights = image_weights(references, weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = [score(references == label, scores[:, column], weights) for label, column in pairs]
        return np.nanmean(values, axis=0)


def _by_threshold(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight of positives, and of negatives, with at least each distinct score, the greatest first."""
    order = np.argsort(-score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=np.inf))
    weights, positive = weights[:, order].astype(np.float64), positive[order]
    above, below = (np.add.reduceat(weights * part, starts, axis=1).cumsum(1) for part in (positive, ~positive))
    return above, below


def _area(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of (positive, negative) pairs in the right order; NaN where a resample lacks one of them."""
    above, below = _by_threshold(positive, score, weights)
    steps = np.diff(above, axis=1, prepend=0)
    right = below[:, -1:] - below + np.diff(below, axis=1, prepend=0) / 2
    return (steps * right).sum(1) / (above[:, -1] * below[:, -1])


def _precision(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    above, below = _by_threshold(positive, score, weights)
    total = above + below
    precision = np.where(total > 0, above / np.where(total > 0, total, 1), 0)
    return (np.diff(above, axis=1, prepend=0) * precision).sum(1) / above[:, -1]


def image_weights(references: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """The weights of a metric, (resamples, images): where there are none every image counts once."""
    return np.ones((1, len(references)), dtype=np.float32) if weights is None else weights
