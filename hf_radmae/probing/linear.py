"""A linear probe as one solve: the optimum of every penalty and every draw of labels at once.

Multinomial logistic regression with penalty/2 * |weights|^2 on standardised features, by L-BFGS. It is solved in the
eigenbasis of the draw's features: a rotation leaves the penalty as it is, 80 images never need more than 80 dimensions,
and there the curvature has a diagonal bound (Böhning 1992) that makes a few dozen iterations enough.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import one_hot

from hf_radmae.probing.heads import (
    Criterion,
    LinearProbe,
    ValidationScore,
    encode_draws,
    fold_into_linear,
    loss_shares,
    standardisation,
)

logger = logging.getLogger(__name__)

PENALTIES = tuple(np.logspace(1, -5, 10).tolist())
MAX_ROTATION = 10_000  # finding an eigenbasis of more dimensions costs more than the iterations it saves
STACK_ELEMENTS = 2**27  # of the features of the draws that are solved together
MEMORY = 10  # steps that L-BFGS remembers


def linear_probe(
    features: np.ndarray,
    labels: Sequence | np.ndarray,
    validation: tuple[np.ndarray, Sequence | np.ndarray] | None = None,
    draws: Sequence[np.ndarray] | None = None,
    *,
    penalties: Sequence[float] = PENALTIES,
    criterion: Criterion = "accuracy",
    class_weights: str = "none",
    tolerance: float = 1e-5,
    max_iterations: int = 500,
) -> LinearProbe:
    """Penalised logistic regression on frozen features, each draw's penalty chosen on validation.

    Args:
        features: (images, width) of the training images.
        labels: (images,) integers or strings; images without a label (None, NaN, -1, -100) are left out and counted.
        validation: features and labels that the penalty is chosen on. None only with a single penalty.
        draws: arrays of training rows, one per label fraction and seed; None takes all rows once.
        penalties: of |weights|^2 / 2 beside the mean loss: scikit-learn's 1 / (C * images). Of penalties that validate
            equally the first is chosen; the default begins with the strongest.
        criterion: the validation score that chooses.
        class_weights: of each draw's images in the loss, see `loss_shares`; "balanced" is scikit-learn's class_weight.
        tolerance: greatest gradient entry, scaled by the curvature's bound, at which a head is solved.

    Raises:
        ValueError: a draw holds images of one class only, or there are penalties but no validation to choose on.
    """
    if validation is None and len(penalties) > 1:
        raise ValueError(f"{len(penalties)} penalties, but no validation features and labels to choose one on")
    codes, classes, draws = encode_draws(labels, draws, len(features))
    score = None if validation is None else ValidationScore(*validation, classes, criterion)
    data = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
    strengths = torch.tensor(penalties, dtype=torch.float32)
    distinct = {draw.tobytes(): draw for draw in draws}  # equal draws are solved once: the optimum is unique
    heads: dict[bytes, tuple[np.ndarray, np.ndarray, int, np.ndarray]] = {}
    for keys in _stacks({key: (len(draw), features.shape[1]) for key, draw in distinct.items()}):
        targets = [one_hot(torch.from_numpy(codes[distinct[key]]), len(classes)).float() for key in keys]
        shares = [loss_shares(target, class_weights) for target in targets]
        drawn = (data[torch.from_numpy(distinct[key])] for key in keys)
        rotated = [_rotate(images, share) for images, share in zip(drawn, shares, strict=True)]
        weights, biases = _solve(rotated, targets, strengths, tolerance, max_iterations)
        for key, turned, target, weight, bias in zip(keys, rotated, targets, weights, biases, strict=True):
            weight = weight[: len(turned.variance)].permute(1, 2, 0)  # (penalties, classes, rank)
            weight = weight if turned.basis is None else weight @ turned.basis.T
            weight, bias = fold_into_linear(turned.mean, turned.std, weight, bias)
            bias[:, target.sum(0) == 0] = -torch.inf
            scores = torch.full((len(strengths),), torch.nan) if score is None else score(weight, bias)
            best = 0 if score is None else int(scores.argmax())
            heads[key] = weight[best].numpy(), bias[best].numpy(), best, scores.numpy()
    parts = (np.stack(part) for part in zip(*(heads[d.tobytes()] for d in draws), strict=True))
    folded, offset, chosen, reached = parts
    return LinearProbe(classes, folded, offset, np.asarray(penalties), chosen, reached)


class _Rotated(NamedTuple):
    """A draw's standardised features in their eigenbasis: `scores` (n, r) = (features - mean) / std @ basis (d, r).

    `variance` (r,) is that of the scores about 0, with the images weighted by `share` (n,).
    """

    scores: torch.Tensor
    share: torch.Tensor
    basis: torch.Tensor | None
    variance: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor


def _rotate(features: torch.Tensor, share: torch.Tensor) -> _Rotated:
    mean, std = standardisation(features)
    features = (features - mean) / std
    images, width = features.shape
    if min(images, width) > MAX_ROTATION:
        return _Rotated(features, share, None, torch.ones(width), mean, std)
    root = share.sqrt()[:, None]
    weighted = features * root
    if width <= images:
        variance, basis = torch.linalg.eigh(weighted.T @ weighted)
        return _Rotated(features @ basis, share, basis, variance.clamp_min(0), mean, std)
    variance, left = torch.linalg.eigh(weighted @ weighted.T)
    kept = variance > 1e-6 * variance[-1]  # what rounding leaves of the images' rank
    variance, left = variance[kept], left[:, kept]
    scale = variance.sqrt()
    return _Rotated(left * scale / root, share, weighted.T @ (left / scale), variance, mean, std)


def _stacks(sizes: dict[bytes, tuple[int, int]]) -> Iterator[list[bytes]]:
    """Groups of draws of like size, within a factor of two and the memory's bound."""
    stack: list[bytes] = []
    for key, (images, width) in sorted(sizes.items(), key=lambda item: item[1]):
        elements = (len(stack) + 1) * images * min(images, width)
        if stack and (images > 2 * sizes[stack[0]][0] or elements > STACK_ELEMENTS):
            yield stack
            stack = []
        stack.append(key)
    yield stack


def _solve(
    draws: list[_Rotated], targets: list[torch.Tensor], penalties: torch.Tensor, tolerance: float, max_iterations: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (draws, r, penalties, classes) and biases (draws, penalties, classes) at the optimum.

    Draws are padded to one size: rows of no share in the loss, dimensions of no variance. The last dimension is the
    bias, an input of 1 without penalty.
    """
    images, rank = (max(draw.scores.shape[i] for draw in draws) for i in (0, 1))
    classes = targets[0].shape[1]
    inputs = torch.zeros(len(draws), images, rank + 1)
    truth = torch.zeros(len(draws), images, 1, classes)
    share = torch.zeros(len(draws), images, 1)
    variance = torch.zeros(len(draws), rank + 1, 1, 1)
    absent = torch.stack([target.sum(0) == 0 for target in targets])[:, None, None]
    for k, (draw, target) in enumerate(zip(draws, targets, strict=True)):
        n, r = draw.scores.shape
        inputs[k, :n, :r], inputs[k, :n, rank], truth[k, :n, 0], share[k, :n, 0] = draw.scores, 1, target, draw.share
        variance[k, :r, 0, 0], variance[k, rank] = draw.variance, 1
    strength = penalties[:, None].expand(rank + 1, -1, 1).clone()
    strength[rank] = 0
    scale = (variance / 2 + strength).clamp_min(1e-12).rsqrt()  # Böhning: the softmax's curvature is at most a half
    weight = torch.zeros(len(draws), rank + 1, len(penalties), classes)
    logits = torch.zeros(len(draws), images, len(penalties), classes)

    def loss(logits: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        entropy = logits.masked_fill(absent, -torch.inf).logsumexp(-1) - (logits * truth).sum(-1)
        return (entropy * share).sum(1) + (strength * weight**2).sum((1, 3)) / 2

    def gradient(logits: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        slope = (logits.masked_fill(absent, -torch.inf).softmax(-1) - truth) * share[..., None]
        return (_times(inputs.mT, slope) + strength * weight) * scale

    steps: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    grad, value = gradient(logits, weight), loss(logits, weight)
    for _ in range(max_iterations):
        open_heads = grad.abs().amax((1, 3)) > tolerance  # (draws, penalties)
        if not open_heads.any():
            break
        direction = _lbfgs_direction(grad, steps)
        change = direction * scale
        logit_change = _times(inputs, change)
        slope = (grad * direction).sum((1, 3))
        length = open_heads.float()
        for _ in range(20):  # logits are linear in the step: trying a length needs no product
            moved, moved_logits = weight + _wide(length) * change, logits + _wide(length) * logit_change
            trial = loss(moved_logits, moved)
            worse = trial > value + 1e-4 * length * slope + 1e-6 * value.abs()  # 1e-6: what float32 resolves
            if not worse.any():
                break
            length = torch.where(worse, length / 2, length)
        new = gradient(moved_logits, moved)
        steps = [*steps[1 - MEMORY :], _remember(_wide(length) * direction, new - grad)]
        weight, logits, value, grad = moved, moved_logits, trial, new
    else:
        logger.warning(
            "%d of %d heads are not solved after %d iterations", open_heads.sum(), open_heads.numel(), max_iterations
        )
    return weight[:, :-1], weight[:, -1]


def _times(matrix: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
    """(draws, a, b) times (draws, b, penalties, classes)."""
    return torch.bmm(matrix, heads.flatten(2)).unflatten(2, heads.shape[2:])


def _wide(by_head: torch.Tensor) -> torch.Tensor:
    return by_head[:, None, :, None]


def _remember(step: torch.Tensor, change: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A step, its change of gradient, and one over their product; 0 for a head whose product says nothing."""
    product = (step * change).sum((1, 3))
    return step, change, torch.where(product > 1e-10 * (change**2).sum((1, 3)), 1 / product, 0)


def _lbfgs_direction(grad: torch.Tensor, steps: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """The two loops of L-BFGS (Nocedal and Wright 2006, algorithm 7.4), for every head by itself."""
    direction, factors = -grad, []
    for step, change, rho in reversed(steps):
        factors.append(rho * (step * direction).sum((1, 3)))
        direction = direction - _wide(factors[-1]) * change
    if steps:
        step, change, rho = steps[-1]
        gamma = torch.where(rho > 0, 1 / (rho * (change**2).sum((1, 3))), 1)
        direction = direction * _wide(gamma)
    for (step, change, rho), factor in zip(steps, reversed(factors), strict=True):
        direction = direction + _wide(factor - rho * (change * direction).sum((1, 3))) * step
    return direction
