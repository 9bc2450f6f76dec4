"""Linear heads on frozen features: one solve per draw of labels, with one fixed penalty and no validation labels.

A draw is an array of training rows, made by `hf_radmae.sources.splits.label_fraction` for one label fraction and seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.neighbors import kneighbors_graph
from torch import nn
from torch.nn.functional import cross_entropy

from hf_radmae.metrics.bootstrap import drop_missing
from hf_radmae.metrics.classification import balanced_accuracy
from hf_radmae.probing.class_weights import class_weights as weights_of

PENALTY = 0.01
"""Of |weights|^2 / 2 beside the mean loss: scikit-learn's 1 / (C * images)."""
FOLDS = 5
"""Parts of a draw, each of which shows once how often labels that the others spread are right."""
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
        ValueError: a draw holds images of one class only, or no rows with finite features, or unknown class weights.
    """
    codes, classes, draws = encode_draws(labels, draws, features)
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
    codes, classes, draws = encode_draws(labels, draws, features)
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

    Least squares gives no logits. One scale for each draw makes them such (`fit_scale`), on what the head predicts for
    images that it was solved without, against labels that are wrong as often as those of the drawn images would be if
    they were spread to. No further label is used, and no prediction changes. Of few labels that rate is a rough
    estimate, and a head that is better than the labels it is solved on is less sure than it could be.

    Args:
        features, labels, draws, penalty: see `linear_probe`; the penalty is beside the mean squared error of 0 and 1.
        unlabelled: rows of `features` whose labels are not used, but whose features are; None takes all. Those of the
            draws are used in any case.
        neighbours: of each image in the graph.
        components: principal components that are kept.
        alpha: weight of the neighbours against the image's own label.

    Raises:
        ValueError: as `linear_probe`.
    """
    codes, classes, draws = encode_draws(labels, draws, features)
    rows = checked_rows("unlabelled", range(len(features)) if unlabelled is None else unlabelled, features)
    rows = np.unique(np.concatenate([rows, *draws]))
    graph = neighbour_graph(features[rows], neighbours, components)
    found = [_spread(graph, np.searchsorted(rows, np.unique(draw)), codes[rows], len(classes), alpha) for draw in draws]
    # Least squares: the images are the same for every draw, so that one factorisation solves all heads.
    images = features[rows]
    mean, std = images.mean(0, dtype=np.float64), np.sqrt(images.var(0, dtype=np.float64) + VARIANCE_EPS)
    inputs = ((images - mean) / std).astype(np.result_type(images, np.float32))
    targets = np.concatenate([spread for spread, _ in found], axis=1)
    weight, bias, left_out = ridge_left_out(inputs, targets, penalty * len(rows))
    shape = (len(draws), len(classes), -1)
    weight, bias = fold_into_linear(mean, std, weight.T.reshape(shape), bias.reshape(shape[:2]))
    for i, (spread, errors) in enumerate(found):
        present, labelled = spread.any(0), spread.any(1)
        right, wrong = spread[labelled][:, present], errors[labelled, None]
        truth = (1 - wrong) * right + wrong * (1 - right) / (present.sum() - 1)
        scale = fit_scale(left_out.reshape(len(rows), *shape[:2])[:, i][labelled][:, present], truth)
        weight[i], bias[i] = scale * weight[i], np.where(present, scale * bias[i], -np.inf)
    return LinearProbe(classes, weight.astype(np.float32), bias.astype(np.float32))


def _spread(graph: Any, drawn: np.ndarray, codes: np.ndarray, classes: int, alpha: float) -> tuple[Any, Any]:
    """One label for each image, and how likely it is wrong.

    Drawn labels are right. Spread ones are wrong as often as labels that the other folds of the draw spread to a fold,
    of classes that the other folds hold. Both by the rule of succession, and so never 0: no scale is infinite.

    Args:
        graph: of all images.
        drawn: images whose labels are used.
        codes: (images,) class numbers; only those of the drawn images are read.

    Returns:
        0 or 1 (images, classes), no 1 in a part of the graph without labels; and floats (images,).
    """
    fold = np.empty(len(drawn), dtype=np.int64)
    for code in np.unique(codes[drawn]):
        members = codes[drawn] == code
        fold[members] = np.arange(members.sum()) % FOLDS
    seeds = np.zeros((len(codes), classes, FOLDS))
    seeds[drawn, codes[drawn], fold] = 1
    spread, counts = np.zeros_like(seeds), seeds.sum(0)
    used = counts > 0
    columns = start = seeds[:, used]
    for _ in range(50):  # 0.9 ** 50 is half a per cent
        columns = alpha * (graph @ columns) + (1 - alpha) * start
    spread[:, used] = columns
    # Each class weighs the same, however many images it has.
    votes = spread.sum(2) / np.maximum(counts.sum(1), 1)
    labels = np.eye(classes)[votes.argmax(1)] * (votes.max(1, keepdims=True) > 0)
    labels[drawn] = seeds[drawn].sum(2)

    others = 1 - np.eye(FOLDS)
    known = (counts @ others)[codes[drawn], fold] > 0
    drawn_too, fold = drawn[known], fold[known]
    votes = np.einsum("icf,fi->ic", spread[drawn_too], others[:, fold]) / np.maximum(counts @ others, 1).T[fold]
    wrong = ((votes.argmax(1) != codes[drawn_too]) | (votes.max(1) <= 0)).sum()
    guess = 1 - 1 / used.any(1).sum()
    errors = np.full(len(codes), min((wrong + 1) / (len(drawn_too) + 2), guess))
    errors[drawn] = 1 / (len(drawn) + 2)
    return labels, errors


@dataclass(frozen=True)
class AttentiveProbe:
    """Classifiers that look at each token of an image, one per draw.

    The logit of a class is the mean of its values of the tokens, weighted by the softmax of its scores of them; both
    are linear in the token.

    Attributes:
        classes: (classes,) labels in order.
        weight: float32 (draws, 2, classes, width), of scores and values.
        bias: float32 (draws, classes); -inf for a class that the draw lacks.
    """

    classes: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Of tokens side by side (images, tokens * width); float32 (draws, images, classes)."""
        tokens = torch.from_numpy(np.asarray(features, np.float32)).unflatten(1, (-1, self.weight.shape[-1]))
        weights, biases = torch.from_numpy(self.weight), torch.from_numpy(self.bias)
        with torch.no_grad():
            logits = [_attended(tokens, w, b) for w, b in zip(weights, biases, strict=True)]
        return torch.stack(logits).softmax(-1).numpy()


def attentive_probe(
    features: np.ndarray,
    labels: Sequence | np.ndarray,
    draws: Sequence[np.ndarray] | None = None,
    *,
    tokens: int,
    class_weights: str = "none",
    steps: int = 400,
    batch_size: int = 256,
    rate: float = 3e-2,
    penalty: float = PENALTY,
    seed: int = 0,
) -> AttentiveProbe:
    """Attentive pooling on frozen tokens, with a query for each class, by a fixed training without validation labels.

    It starts as a linear head on the mean of the tokens, at zero. It finds what few tokens tell and a mean hides; with
    few labels it overfits sooner than a linear head does.

    Args:
        features: (images, tokens * width), the tokens of an image side by side, as pooling "gridN" gives them.
        labels, draws, class_weights: see `linear_probe`.
        tokens: of each image.
        steps, batch_size, rate: of AdamW, whose rate falls to 0 by a cosine.
        penalty: of |weights|^2 / 2 beside the mean loss.
        seed: of the images of each step.

    Raises:
        ValueError: as `linear_probe`, or the features are not those of so many tokens.
    """
    if tokens < 1 or features.shape[1] % tokens:
        raise ValueError(f"{features.shape[1]} values of an image are not those of {tokens} tokens side by side")
    codes, classes, draws = encode_draws(labels, draws, features)
    solved, generator = [], torch.Generator().manual_seed(seed)
    for draw in draws:
        inputs = torch.from_numpy(np.asarray(features[draw], np.float32)).unflatten(1, (tokens, -1))
        mean, std = inputs.mean((0, 1)), (inputs.var((0, 1), correction=0) + VARIANCE_EPS).sqrt()
        inputs, targets = (inputs - mean) / std, torch.from_numpy(codes[draw])
        counts = np.bincount(codes[draw], minlength=len(classes))
        weights = torch.from_numpy(weights_of(counts, class_weights)).float()
        absent = torch.from_numpy(np.where(counts > 0, 0, -np.inf)).float()
        weight = torch.zeros(2, len(classes), inputs.shape[2], requires_grad=True)
        bias = torch.zeros(len(classes), requires_grad=True)
        optimiser = torch.optim.AdamW([weight, bias], lr=rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            rows = torch.randperm(len(draw), generator=generator)[:batch_size]
            optimiser.zero_grad()
            loss = cross_entropy(_attended(inputs[rows], weight, bias + absent), targets[rows], weights)
            (loss + penalty / 2 * weight.square().sum()).backward()
            optimiser.step()
            schedule.step()
        # Scores may move by any number: the softmax over tokens stays.
        folded, moved = fold_into_linear(mean, std, weight.detach()[1], (bias + absent).detach())
        solved.append((torch.stack([weight.detach()[0] / std, folded]).numpy(), moved.numpy()))
    weight_, bias_ = (np.stack(part) for part in zip(*solved, strict=True))
    return AttentiveProbe(classes, weight_, bias_)


def _attended(tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Logits (images, classes) of tokens (images, tokens, width) by weights (2, classes, width)."""
    scores, values = (tokens @ weight.flatten(0, 1).T).chunk(2, dim=2)
    return (scores.softmax(1) * values).sum(1) + bias


def fit_scale(logits: np.ndarray, truth: np.ndarray) -> float:
    """The number by which logits are multiplied so that the mean log loss of their softmax is least, 0.01 to 100.

    One over the temperature of Guo et al. 2017, "On calibration of modern neural networks". The loss is convex in it.

    Args:
        logits, truth: (images, classes), finite; the rows of truth sum to 1.
    """

    def loss(log_scale: float) -> float:
        scaled = np.exp(log_scale) * logits
        return float((logsumexp(scaled, axis=1) - (scaled * truth).sum(1)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log([0.01, 100]), method="bounded").x))


def ridge_left_out(
    inputs: np.ndarray, targets: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least squares with a penalty on the weights: weight (width, targets), bias, and each image's left-out prediction.

    Left out means: by the heads that are solved without the image, which are known in closed form.

    Args:
        inputs: (images, width).
        targets: (images, targets).
        penalty: of |weights|^2 beside the summed squared error.
    """
    ridge = RidgeCV([penalty], scoring="neg_mean_squared_error", store_cv_results=True).fit(inputs, targets)
    return ridge.coef_.T, ridge.intercept_, ridge.cv_results_[..., 0]


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
    labels: Sequence | np.ndarray, draws: Sequence[np.ndarray] | None, features: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Class numbers int64 (images,), -1 where missing; the classes; the draws without rows that have no label.

    Raises:
        ValueError: labels and images differ in number, or a draw holds one class only or rows that `checked_rows`
            refuses.
    """
    labels, images = np.asarray(labels), len(features)
    if len(labels) != images:
        raise ValueError(f"{len(labels)} labels for the features of {images} images: give one for each")
    known, rows = drop_missing(labels, np.arange(images))
    classes, numbers = np.unique(known, return_inverse=True)
    codes = np.full(images, -1, dtype=np.int64)
    codes[rows] = numbers
    kept = []
    for i, draw in enumerate([np.arange(images)] if draws is None else draws):
        draw = checked_rows(f"draw {i}", draw, features, codes >= 0)
        counts = np.bincount(codes[draw], minlength=len(classes))
        if (counts > 0).sum() < 2:
            found = ", ".join(f"{c}: {n}" for c, n in zip(classes, counts, strict=True) if n) or "no labelled image"
            raise ValueError(f"draw {i} has fewer than two classes to learn ({found}): draw more labels")
        kept.append(draw)
    return codes, classes, kept


def checked_rows(
    name: str, rows: Sequence[int] | np.ndarray, features: np.ndarray, wanted: np.ndarray | None = None
) -> np.ndarray:
    """Rows of features as int64, without those that `wanted`, bool (images,), says False of.

    Raises:
        ValueError: they are no whole numbers, such as a mask, are out of range, or have values that are not finite.
    """
    found = np.asarray(rows)
    if found.size and found.dtype.kind not in "iu":
        raise ValueError(f"{name} holds {found.dtype}: expected numbers of rows; np.flatnonzero gives those of a mask")
    found = found.astype(np.int64)
    if found.size and not 0 <= found.min() <= found.max() < len(features):
        raise ValueError(f"{name} has rows {found.min()} to {found.max()}, but there are {len(features)} images")
    found = found if wanted is None else found[wanted[found]]
    if (bad := found[~np.isfinite(features[found]).all(1)]).size:
        raise ValueError(f"{name}: {bad.size} images, row {bad[0]} first, have features that are not finite")
    return found


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
