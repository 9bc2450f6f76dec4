"""How much a class counts in a loss, of linear heads and of networks alike."""

import numpy as np

CLASS_WEIGHTS: dict[str, float] = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}
"""Power of one over the images of a class, by which each of its images counts."""


def class_power(kind: str) -> float:
    """The power of a kind of class weights.

    Raises:
        ValueError: not a key of `CLASS_WEIGHTS`.
    """
    if kind not in CLASS_WEIGHTS:
        raise ValueError(f"class_weights={kind!r}: expected {', '.join(CLASS_WEIGHTS)}")
    return CLASS_WEIGHTS[kind]


def class_weights(counts: np.ndarray, kind: str) -> np.ndarray:
    """Weight of each class: (images / (classes * images of the class)) to a power, 0 for a class without images.

    Args:
        counts: int (classes,), images of each.
        kind: a key of `CLASS_WEIGHTS`.
    """
    present = counts > 0
    balanced = counts.sum() / (present.sum() * np.maximum(counts, 1))
    return np.where(present, balanced ** class_power(kind), 0)
