"""What a linear probe is, however it was found: one classifier per draw of labels, chosen among settings on validation.

A draw is an array of training rows, made by `hf_radmae.sources.splits.label_fraction` for one label fraction and seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch

from hf_radmae.metrics.bootstrap import drop_missing

Array = TypeVar("Array", np.ndarray, torch.Tensor)
Criterion = Literal["accuracy", "balanced_accuracy"]
POWERS: dict[str, float] = {"none": 0.0, "balanced": 1.0, "sqrt": 0.5}  # of one over the images of a class
VARIANCE_EPS = 1e-6  # of the batch norm before MAE's linear layer (He et al. 2022, appendix A.1)


@dataclass(frozen=True)
class LinearProbe:
    """Linear classifiers on features as they are, one per draw.

    Attributes:
        classes: (classes,) labels in order.
        weight: float32 (draws, classes, width), standardisation folded in.
        bias: float32 (draws, classes); -inf for a class that the draw lacks, which is never predicted.
        settings: (settings,) penalties or learning rates that were tried.
        chosen: int64 (draws,) the position in `settings` of each draw's best on validation.
        scores: float32 (draws, settings) validation scores; NaN when there was nothing to choose.
    """

    classes: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    settings: np.ndarray
    chosen: np.ndarray
    scores: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Scores of features (images, width) by every draw's classifier; float32 (draws, images, classes)."""
        return np.matmul(np.asarray(features, dtype=np.float32), self.weight.swapaxes(1, 2)) + self.bias[:, None]

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Labels of features (images, width) by every draw's classifier; (draws, images)."""
        return self.classes[self.logits(features).argmax(-1)]


def fold_into_linear(mean: Array, std: Array, weight: Array, bias: Array) -> tuple[Array, Array]:
    """Weight (..., classes, width) and bias (..., classes) on raw features, from those on (features - mean) / std.

    Mean and std have shape (width,); all are arrays or all tensors. What is exported is then a plain linear layer.
    """
    folded = weight / std
    return folded, bias - folded @ mean


def encode_draws(
    labels: Sequence | np.ndarray, draws: Sequence[np.ndarray] | None, images: int
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Class numbers int64 (images,), -1 where missing; the classes; the draws without rows that have no label.

    Raises:
        ValueError: labels and images differ in number, a draw is out of range or holds one class only.
    """
    labels = np.asarray(labels)
    if len(labels) != images:
        raise ValueError(f"{len(labels)} labels for the features of {images} images: give one for each")
    known, rows = drop_missing(labels, np.arange(images))
    classes, numbers = np.unique(known, return_inverse=True)
    codes = np.full(images, -1, dtype=np.int64)
    codes[rows] = numbers
    kept = []
    for i, draw in enumerate([np.arange(images)] if draws is None else draws):
        draw = np.asarray(draw, dtype=np.int64)
        if draw.size and not 0 <= draw.min() <= draw.max() < images:
            raise ValueError(f"draw {i} has rows {draw.min()} to {draw.max()}, but there are {images} images")
        draw = draw[codes[draw] >= 0]
        counts = np.bincount(codes[draw], minlength=len(classes))
        if (counts > 0).sum() < 2:
            found = ", ".join(f"{c}: {n}" for c, n in zip(classes, counts, strict=True) if n) or "no labelled image"
            raise ValueError(f"draw {i} has fewer than two classes to tell apart ({found}): draw more labels")
        kept.append(draw)
    return codes, classes, kept


class ValidationScore:
    """Accuracy or balanced accuracy of many heads at once: both are a weighted share of right images."""

    def __init__(
        self, features: np.ndarray, labels: Sequence | np.ndarray, classes: np.ndarray, criterion: Criterion
    ) -> None:
        known, rows = drop_missing(labels, np.arange(len(features)))
        found, inverse, counts = np.unique(known, return_inverse=True, return_counts=True)
        place = np.searchsorted(classes, found).clip(max=len(classes) - 1)
        numbers = np.where(classes[place] == found, place, -1)  # a class that training lacks is always wrong
        self.features = torch.from_numpy(np.ascontiguousarray(features[rows], dtype=np.float32))
        self.labels = torch.from_numpy(numbers[inverse])
        share = 1 / (counts * len(counts)) if criterion == "balanced_accuracy" else np.full(len(counts), 1 / len(known))
        self.weights = torch.from_numpy(share[inverse]).float()

    def __call__(self, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Scores (heads,) of weight (heads, classes, width) and bias (heads, classes) on raw features."""
        logits = (self.features @ weight.flatten(0, 1).T).unflatten(1, bias.shape) + bias
        return self.share_right(logits.argmax(-1))

    def share_right(self, predicted: torch.Tensor) -> torch.Tensor:
        """Scores (heads,) of class numbers (images, heads)."""
        return self.weights @ (predicted == self.labels[:, None]).float()


def loss_shares(truth: torch.Tensor, class_weights: str) -> torch.Tensor:
    """How much each image of a draw counts in the mean loss, (images,) with sum 1, of its classes (images, classes).

    All the same, or "balanced": every class of the draw the same; or "sqrt": by the square root of that.

    Raises:
        ValueError: unknown class weights.
    """
    if class_weights not in POWERS:
        raise ValueError(f"class_weights={class_weights!r}: expected {', '.join(POWERS)}")
    shares = truth @ truth.sum(0).clamp(min=1).pow(-POWERS[class_weights])
    return shares / shares.sum()


def standardisation(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (width,) of features (images, width), as MAE's batch norm has them."""
    variance, mean = torch.var_mean(features, dim=0, correction=0)
    return mean, (variance + VARIANCE_EPS).sqrt()
