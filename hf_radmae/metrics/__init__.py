"""Scores with intervals over patients, as plain functions and as `evaluate` modules that need no network."""

from hf_radmae.metrics.bootstrap import Interval, bootstrap_interval, paired_interval
from hf_radmae.metrics.classification import (
    AUROC,
    Accuracy,
    BalancedAccuracy,
    ConfusionMatrix,
    MacroF1,
    PerClass,
    accuracy,
    auroc,
    balanced_accuracy,
    confusion_matrix,
    macro_f1,
    per_class,
)
from hf_radmae.metrics.irma_error import CodeTree, IRMAError, irma_error

__all__ = [
    "AUROC",
    "Accuracy",
    "BalancedAccuracy",
    "CodeTree",
    "ConfusionMatrix",
    "IRMAError",
    "Interval",
    "MacroF1",
    "PerClass",
    "accuracy",
    "auroc",
    "balanced_accuracy",
    "bootstrap_interval",
    "confusion_matrix",
    "irma_error",
    "macro_f1",
    "paired_interval",
    "per_class",
]
