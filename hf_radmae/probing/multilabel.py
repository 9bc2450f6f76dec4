"""Several labels of an image at once: one probe for each label, on the images where that label is known."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_radmae.probing.heads import LinearProbe
from hf_radmae.probing.linear import linear_probe


def multilabel_probe(
    features: np.ndarray,
    labels: np.ndarray,
    validation: tuple[np.ndarray, np.ndarray],
    draws: Sequence[np.ndarray] | None = None,
    **options: Any,
) -> list[LinearProbe]:
    """Penalised logistic regression of each label against its absence, each with a penalty of its own.

    A label is a problem of two classes, so that images on which another label is missing count all the same.

    Args:
        features: (images, width) of the training images.
        labels: (images, labels), 0 and 1, negative where a label is missing.
        validation: features and labels that the penalties are chosen on.
        draws: arrays of training rows, one per label fraction and seed; None takes all rows once.
        **options: of `linear_probe`.

    Returns:
        A probe for each label, in order.

    Raises:
        ValueError: labels are no table, or a draw holds one class only of a label, which is named by its column number.
    """
    labels, validation_labels = np.asarray(labels), np.asarray(validation[1])
    if labels.ndim != 2 or validation_labels.shape[1:] != labels.shape[1:]:
        raise ValueError(
            f"labels {labels.shape} and validation labels {validation_labels.shape}: expected (images, labels) of both"
        )
    probes = []
    for column, (known, seen) in enumerate(zip(labels.T, validation_labels.T, strict=True)):
        try:
            probes.append(linear_probe(features, known, (validation[0], seen), draws, **options))
        except ValueError as error:
            raise ValueError(f"label {column}: {error}") from error
    return probes
