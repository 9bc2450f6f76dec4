"""What the models of a study score, in rows: each with its interval, on the same patients and the same draws."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hf_radmae.metrics import IRMAError, accuracy, balanced_accuracy
from hf_radmae.metrics.bootstrap import Metric
from hf_radmae.probing import score_rows
from hf_radmae.study.tasks import TaskLabels

IRMA_COLUMN = "irma_code"
PAPER_COLUMN, PAPER_FRACTION = "body_region", 0.01
METRIC_NAMES = {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy", "irma_error": "IRMA error"}

# Top-1 accuracy on IRMA's body regions with all labels and with 1 % of them (80 images), all from ImageNet weights
# ("Pilot Study For Large-Scale Radiograph Pre-training").
PAPER = {
    "ResNet, supervised": (0.9912, 0.4408),
    "ViT, supervised": (0.9685, 0.7908),
    "MAE probe, flattened": (0.9604, 0.8300),
    "MAE probe, mean": (0.9688, 0.8312),
    "MAE probe, CLS": (0.9692, 0.8458),
}


def table(
    labels: TaskLabels,
    predictions: Mapping[str, Sequence | np.ndarray],
    patients: np.ndarray,
    differences: Sequence[tuple[str, str]],
) -> list[dict[str, Any]]:
    """Rows of test scores for the models and for the differences of two; None where a score is undefined.

    Args:
        labels: of the task.
        predictions: model -> class numbers (draws, test images), or (draws, test images, labels).
        patients: (test images,) keys.
        differences: pairs of models; those that are not both among the predictions are left out.
    """
    arrays = {model: np.asarray(predicted) for model, predicted in predictions.items()}
    metrics, truth = metrics_of(labels)
    pairs = [pair for pair in differences if set(pair) <= set(arrays)]
    rows = score_rows(arrays, truth, pairs, metrics=metrics, patients=patients)
    return [{k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()} for row in rows]


def majority(labels: TaskLabels, draws: Sequence[np.ndarray]) -> np.ndarray:
    """The most frequent class of each draw as the prediction of all test images."""
    train, test = labels.values["train"], labels.values["test"]
    if labels.multi:
        common = np.array([(train[draw] == 1).mean(0) > 0.5 for draw in draws], dtype=np.int64)
    else:
        common = np.array([np.bincount(train[draw]).argmax() for draw in draws])
    return np.broadcast_to(common[:, None], (len(draws), *test.shape))


def metrics_of(labels: TaskLabels) -> tuple[dict[str, Metric], np.ndarray]:
    """The metrics of a task, and what they take as references."""
    truth = labels.values["test"]
    metrics: dict[str, Metric] = {"balanced_accuracy": balanced_accuracy, "accuracy": accuracy}
    if labels.multi:
        return {name: _mean_over_labels(metric, truth) for name, metric in metrics.items()}, np.arange(len(truth))
    if labels.task.columns == IRMA_COLUMN:
        codes = np.array(labels.classes)
        score: Callable = IRMAError(codes=labels.classes).score
        metrics["irma_error"] = lambda true, predicted, weights=None: score(codes[true], codes[predicted], weights)
    return metrics, truth


def _mean_over_labels(metric: Metric, truth: np.ndarray) -> Metric:
    """The mean of a metric over labels, each on the images where it is known; references are row numbers."""

    def score(references: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        values = []
        for label in range(truth.shape[1]):
            known = truth[references, label] >= 0
            part = None if weights is None else weights[:, known]
            values.append(metric(truth[references[known], label], predictions[known, label], part))
        return np.nanmean(values, axis=0)

    return score
