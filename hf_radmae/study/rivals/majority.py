"""The class that most images of a draw have: what a head predicts that sees nothing."""

from collections.abc import Mapping, Sized

import numpy as np


def majority_features(parts: Mapping[str, Sized]) -> dict[str, dict[str, np.ndarray]]:
    """One number that is the same for every image, so that a head learns the shares of the classes alone."""
    return {split: {"nothing": np.zeros((len(part), 1), np.float32)} for split, part in parts.items()}
