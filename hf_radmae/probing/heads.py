"""Linear heads on frozen features: one solve per draw of labels, with one fixed penalty and no validation labels.

A draw is an array of training rows, made by `hf_radmae.sources.splits.label_fraction` for one label fraction and seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import kneighbors_graph
from torch import nn
from torch.nn.functional import cross_entropy

from hf_radmae.metrics.bootstrap import drop_missing
from hf_radmae.metrics.classification import balanced_accuracy
from hf_radmae.probing.class_weights import class_weights as weights_of

PENALTY = 0.01
"""Of |weights|^2 / 2 beside the mean loss: scikit-learn's 1 / (C * images)."""
VARIANCE_EPS = 1e-6  # of the batch norm before MAE's linear layer (He et al. 2022, appendix A.1)


@dataclass(frozen=True)
class LinearProbe:
    """Linear classifiers on features as they are, one per draw.

    Attributes:
        classes: (classes,) labels in order.
        weight: float32 (draws, classes, width), standardisation folded in.
        bias: float32 (draws, classes); -inf for a class that the draw lacks, which is never predicted.
    """

    classes: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Scores of features (images, width) by every draw's classifier; float32 (draws, images, classes)."""
        return np.matmul(np.asarray(features, dtype=np.float32), self.weight.swapaxes(1, 2)) + self.bias[:, None]

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Softmax of the logits of features (images, width); float32 (draws, images, classes)."""
        return softmax(self.logits(features), axis=-1)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Labels of features (images, width) by every draw's classifier; (draws, images)."""
        return self.classes[self.logits(features).argmax(-1)]


def linear_probe(
    features: np.ndarray,
    labels: Sequence | np.ndarray,
    draws: Sequence[np.ndarray] | None = None,
    *,
    penalty: float = PENALTY,
    class_weights: str = "none",
) -> LinearProbe:
    """Penalised logistic regression on standardised frozen features.

    Args:
        features: (images, width) of the training images.
        labels: (images,) integers or strings; images without a label (None, NaN, -1, -100) are left out and counted.
        draws: arrays of training rows, one per label fraction and seed; None takes all rows once.
        penalty: of |weights|^2 / 2 beside the mean loss, the same for every draw: nothing is chosen, so that no
            labels beside the draw's are used.
        class_weights: how much the images of a class count in the loss, a key of `CLASS_WEIGHTS`.

    Raises:
        ValueError: a draw holds images of one class only, or unknown class weights.
    """
    codes, classes, draws = encode_draws(labels, draws, len(features))
    solved: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}  # equal draws are solved once: the optimum is unique
    for draw in draws:
        if draw.tobytes() not in solved:
            weights = weights_of(np.bincount(codes[draw]), class_weights)[codes[draw]]
            solved[draw.tobytes()] = _solve(features[draw], codes[draw], weights, len(classes), penalty)
    weight, bias = (np.stack(part) for part in zip(*(solved[draw.tobytes()] for draw in draws), strict=True))
    return LinearProbe(classes, weight, bias)


def searched_probe(
    features: np.ndarray,
    labels: Sequence | np.ndarray,
    draws: Sequence[np.ndarray] | None = None,
    *,
    validation: tuple[np.ndarray, np.ndarray],
    rates: Sequence[float],
    class_weights: str = "none",
    epochs: int = 50,
    batch_size: int = 32,
    patience: int = 10,
    seed: int = 0,
) -> LinearProbe:
    """Linear heads by AdamW with the best of several learning rates: the protocol of published tables.

    After each epoch every rate is scored on the validation images, whose labels thereby count. Each draw keeps the head
    with the best balanced accuracy of all rates and epochs.

    Args:
        features, labels, draws, class_weights: see `linear_probe`.
        validation: features (images, width), and labels (images,), all of them known.
        rates: the learning rates.
        epochs: most passes over a draw.
        batch_size: images of a step.
        patience: epochs without a better score of any rate after which a training ends.
        seed: of the order of the images.

    Raises:
        ValueError: as `linear_probe`.
    """
    codes, classes, draws = encode_draws(labels, draws, len(features))
    solved, generator = [], torch.Generator().manual_seed(seed)
    for draw in draws:
        mean, std = features[draw].mean(0), np.sqrt(features[draw].var(0) + VARIANCE_EPS)
        inputs, queries = (
            torch.from_numpy(((part - mean) / std).astype(np.float32)) for part in (features[draw], validation[0])
        )
        targets, counts = torch.from_numpy(codes[draw]), np.bincount(codes[draw], minlength=len(classes))
        weights = torch.from_numpy(weights_of(counts, class_weights)).float()
        heads = [nn.Linear(inputs.shape[1], len(classes)) for _ in rates]
        for parameter in (p for head in heads for p in head.parameters()):
            nn.init.zeros_(parameter)
        groups: Any = [{"params": [*head.parameters()], "lr": rate} for head, rate in zip(heads, rates, strict=True)]
        optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
        best, kept, waited = -1.0, None, 0
        for _ in range(epochs):
            for rows in torch.randperm(len(draw), generator=generator).split(batch_size):
                optimiser.zero_grad()
                losses = [cross_entropy(head(inputs[rows]), targets[rows], weights) for head in heads]
                torch.stack(losses).sum().backward()
                optimiser.step()
            with torch.no_grad():
                answers = [classes[head(queries).argmax(1).numpy()] for head in heads]
            scores = [float(balanced_accuracy(validation[1], answer)[0]) for answer in answers]
            waited += 1
            if max(scores) > best:
                best, waited, head = max(scores), 0, heads[int(np.argmax(scores))]
                kept = head.weight.detach().numpy().copy(), np.where(counts > 0, head.bias.detach().numpy(), -np.inf)
            if waited >= patience:
                break
        solved.append(fold_into_linear(mean, std, *kept))  # type: ignore[misc]  # any score is more than -1
    weight, bias = (np.stack(part).astype(np.float32) for part in zip(*solved, strict=True))
    return LinearProbe(classes, weight, bias)


def propagated_probe(
    features: np.ndarray,
    labels: Sequence | np.ndarray,
    draws: Sequence[np.ndarray] | None = None,
    *,
    unlabelled: np.ndarray | None = None,
    neighbours: int = 10,
    components: int = 64,
    alpha: float = 0.9,
    penalty: float = PENALTY,
) -> LinearProbe:
    """Linear heads on labels that were spread to unlabelled training images.

    The labels of a draw are spread over a graph of the nearest neighbours by cosine of PCA-whitened features (Zhou et
    al. 2004, "Learning with local and global consistency"), each class with the same mass in total. Every training
    image then has a label, and a linear head is solved on them by least squares: a plain linear layer.

    Args:
        features, labels, draws, penalty: see `linear_probe`; the penalty is beside the mean squared error of 0 and 1.
        unlabelled: rows of `features` whose labels are not used, but whose features are; None takes all.
        neighbours: of each image in the graph.
        components: principal components that are kept.
        alpha: weight of the neighbours against the image's own label.

    Raises:
        ValueError: as `linear_probe`.
    """
    codes, classes, draws = encode_draws(labels, draws, len(features))
    rows = np.arange(len(features)) if unlabelled is None else np.asarray(unlabelled)
    rows = np.unique(np.concatenate([rows, *draws]))
    graph = neighbour_graph(features[rows], neighbours, components)
    seeds = np.zeros((len(rows), len(draws), len(classes)))
    for i, draw in enumerate(draws):
        seeds[np.searchsorted(rows, draw), i, codes[draw]] = 1
    seeds /= np.maximum(seeds.sum(0), 1)  # each class of a draw weighs the same, however many images it has
    spread = flat = seeds.reshape(len(rows), -1)
    for _ in range(50):  # 0.9 ** 50 is half a per cent
        spread = alpha * (graph @ spread) + (1 - alpha) * flat
    spread = spread.reshape(seeds.shape)
    targets = np.zeros_like(seeds)  # one label for each image and draw; none in a part of the graph without labels
    image, draw_number = np.nonzero(spread.max(2) > 0)
    targets[image, draw_number, spread.argmax(2)[image, draw_number]] = 1
    for i, draw in enumerate(draws):
        targets[np.searchsorted(rows, draw), i] = np.eye(len(classes))[codes[draw]]
    # Least squares: the images are the same for every draw, so that one factorisation solves all heads.
    images = features[rows]
    mean, std = images.mean(0), np.sqrt(images.var(0) + VARIANCE_EPS)
    head = Ridge(alpha=penalty * len(rows), solver="cholesky").fit(
        (images - mean) / std, targets.reshape(len(rows), -1)
    )
    shape = (len(draws), len(classes), -1)
    weight, bias = fold_into_linear(mean, std, head.coef_.reshape(shape), head.intercept_.reshape(shape[:2]))
    bias[[[c not in codes[draw] for c in range(len(classes))] for draw in draws]] = -np.inf
    return LinearProbe(classes, weight.astype(np.float32), bias.astype(np.float32))


def neighbour_graph(features: np.ndarray, neighbours: int, components: int) -> Any:
    """Symmetrically normalised graph of the nearest neighbours by cosine of whitened features, a sparse matrix."""
    size = min(components, *features.shape, len(features) - 1)
    white = PCA(size, whiten=True, random_state=0).fit_transform(features.astype(np.float64))
    graph = kneighbors_graph(white, min(neighbours, len(features) - 1), metric="cosine")
    graph = graph.maximum(graph.T)
    scale = 1 / np.sqrt(np.maximum(np.asarray(graph.sum(1)).ravel(), 1))
    return graph.multiply(scale[:, None]).multiply(scale).tocsr()


def fold_into_linear(mean: Any, std: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
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
            raise ValueError(f"draw {i} has fewer than two classes to learn ({found}): draw more labels")
        kept.append(draw)
    return codes, classes, kept


def _solve(
    features: np.ndarray, codes: np.ndarray, weights: np.ndarray, classes: int, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weight (classes, width) and bias (classes,) on features (images, width) as they are."""
    mean, std = features.mean(0), np.sqrt(features.var(0) + VARIANCE_EPS)
    inputs, basis = (features - mean) / std, None
    if len(inputs) < inputs.shape[1]:  # a rotation leaves the penalty as it is: few images need few dimensions
        basis = np.linalg.qr(inputs.T)[0]
        inputs = inputs @ basis
    head = LogisticRegression(C=1 / (penalty * len(inputs)), max_iter=2000)
    head.fit(inputs, codes, weights / weights.mean())
    found = head.coef_ if basis is None else head.coef_ @ basis.T
    offset = head.intercept_
    if len(head.classes_) == 2:  # one logit: half of it for one class, and half of it against the other
        found, offset = np.concatenate([-found, found]) / 2, np.concatenate([-offset, offset]) / 2
    weight, bias = np.zeros((classes, features.shape[1])), np.full(classes, -np.inf)
    weight[head.classes_], bias[head.classes_] = fold_into_linear(mean, std, found, offset)
    return weight.astype(np.float32), bias.astype(np.float32)
