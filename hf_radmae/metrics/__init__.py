"""Scores with intervals over patients, as plain functions of arrays."""

from hf_radmae.metrics.bootstrap import Interval, bootstrap_interval, paired_interval
from hf_radmae.metrics.classification import (
    accuracy,
    auroc,
    average_precision,
    balanced_accuracy,
    brier,
    confusion_matrix,
    label_metrics,
    macro_f1,
    mean_over_labels,
    per_class,
    reliability,
    sensitivity_at_specificity,
)
from hf_radmae.metrics.irma_error import CodeTree, IRMAError, irma_error
from hf_radmae.metrics.regression import mean_absolute_error, r2

METRIC_NAMES = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "sensitivity": "sensitivity at 90 % specificity",
    "brier": "Brier score",
    "irma_error": "IRMA error",
}
"""Scores of classes, as texts name them."""

__all__ = [
    "METRIC_NAMES",
    "CodeTree",
    "IRMAError",
    "Interval",
    "accuracy",
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "bootstrap_interval",
    "brier",
    "confusion_matrix",
    "irma_error",
    "label_metrics",
    "macro_f1",
    "mean_absolute_error",
    "mean_over_labels",
    "paired_interval",
    "per_class",
    "r2",
    "reliability",
    "sensitivity_at_specificity",
]
