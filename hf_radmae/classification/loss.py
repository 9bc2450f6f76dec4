"""The loss as a weighted mean over the labels of an optimiser step, however that step is cut into batches.

transformers' own multi-label loss is a mean over each batch: under gradient accumulation the means add up, and with
labels missing the batches weigh differently. Here a batch gives its sum and its weight, and the sum of all batches and
ranks is divided by the weight of all.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hf_radmae.classification.labels import Labels, is_known
from hf_radmae.probing.class_weights import class_power, class_weights


def label_weights(targets: Tensor, class_weights: Tensor | None) -> Tensor:
    """How much each label counts: float32 of the shape of `targets`, 0 where there is none.

    Args:
        targets: as `Labels.encode` gives them.
        class_weights: (classes,) of each class; (names,) of each label's positive images; None counts all the same.
    """
    known = is_known(targets)
    if class_weights is None:
        return known.float()
    if targets.is_floating_point():
        return torch.where(targets == 1, class_weights, 1.0) * known
    return class_weights[targets.clamp(min=0)] * known


def summed_loss(logits: Tensor, targets: Tensor, weights: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The sum over labels of weight times error: cross entropy, binary cross entropy (2 dimensions), or squared error.

    Args:
        logits: (images, outputs).
        targets, weights: as `label_weights` takes and gives them.
        label_smoothing: share of the probability that is spread over all classes, for classes only.
    """
    if not targets.is_floating_point():
        errors = F.cross_entropy(logits, targets.clamp(min=0), reduction="none", label_smoothing=label_smoothing)
    elif targets.ndim == 2:
        errors = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num(0), reduction="none")
    else:
        errors = (logits.squeeze(-1) - targets.nan_to_num(0)).square()
    return (errors * weights).sum()


def fit_class_weights(targets: Tensor, labels: Labels, kind: str) -> Tensor | None:
    """Weights that let rare classes count more, from the training images' labels.

    Args:
        targets: of the training images, as `Labels.encode` gives them.
        labels: the task.
        kind: a key of `CLASS_WEIGHTS`. Of several labels the positive images of each weigh negative / positive ones to
            its power, which gives both answers the shares that `class_weights` gives two classes.

    Returns:
        float32 (names,), or None where nothing is weighted.

    Raises:
        ValueError: an unknown kind, or weights for a regression.
    """
    if kind == "none":
        return None
    if labels.task == "regression":
        raise ValueError(f"class_weights={kind!r}: a regression has no classes, so expected none")
    if targets.ndim == 1:
        counts = np.bincount(targets[targets >= 0].numpy(), minlength=len(labels.names))
        return torch.from_numpy(class_weights(counts, kind)).float()
    positive, negative = (targets == 1).sum(0), (targets == 0).sum(0)
    return (negative / positive.clamp(min=1)) ** class_power(kind)
