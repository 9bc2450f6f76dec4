"""Linear heads trained by Adam with early stopping, every learning rate of every draw in the same pass over the data.

This is the paper's protocol (the best of ten learning rates by validation accuracy, patience 10) at the price of one
training: the heads are a batch dimension, and their gradient is two matrix products.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import one_hot
from torch.nn.utils.rnn import pad_sequence

from hf_radmae.probing.heads import (
    Criterion,
    LinearProbe,
    ValidationScore,
    encode_draws,
    fold_into_linear,
    loss_shares,
    standardisation,
)

LEARNING_RATES = tuple(np.logspace(-4, -1, 10).tolist())
BETAS, EPS = (0.9, 0.999), 1e-8  # Adam's, as Trainer has them


def train_linear_probes(
    features: np.ndarray,
    labels: Sequence | np.ndarray,
    validation: tuple[np.ndarray, Sequence | np.ndarray],
    draws: Sequence[np.ndarray] | None = None,
    *,
    learning_rates: Sequence[float] = LEARNING_RATES,
    criterion: Criterion = "accuracy",
    class_weights: str = "none",
    epochs: int = 50,
    patience: int = 10,
    batch_size: int = 256,
    seed: int = 0,
) -> LinearProbe:
    """Linear heads on standardised frozen features, each draw's learning rate and epoch chosen on validation.

    Args:
        features: (images, width) of the training images.
        labels: (images,) integers or strings; images without a label (None, NaN, -1, -100) are left out and counted.
        validation: features and labels that are scored after each epoch.
        draws: arrays of training rows, one per label fraction and seed; None takes all rows once. Each draw has its own
            start and its own order of images, so that equal draws are repetitions with other seeds.
        learning_rates: constant, each for a head of its own. Of equals on validation the first is chosen.
        criterion: the validation score that stops and chooses.
        class_weights: of each draw's images in the loss, see `loss_shares`.
        epochs: passes over a draw at most.
        patience: epochs without a better score after which a head is stopped; its best epoch is kept.
        batch_size: images per step.
        seed: of starts and orders.

    Raises:
        ValueError: a draw holds images of one class only.
    """
    codes, classes, draws = encode_draws(labels, draws, len(features))
    score = ValidationScore(*validation, classes, criterion)
    data, truth = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32)), torch.from_numpy(codes)
    standard = {
        draw.tobytes(): _standardise(data[draw], one_hot(truth[draw], len(classes)).float(), class_weights)
        for draw in draws
    }
    rates = torch.tensor(learning_rates, dtype=torch.float32)
    heads: dict[int, tuple[np.ndarray, np.ndarray, int, np.ndarray]] = {}
    steps = [-(-len(draw) // batch_size) for draw in draws]
    for count in sorted(set(steps)):  # draws of as many steps are trained together
        members = [k for k, n in enumerate(steps) if n == count]
        orders = [torch.Generator().manual_seed(1_000_003 * seed + k) for k in members]
        stack = [standard[draws[k].tobytes()] for k in members]
        heads |= dict(zip(members, _train(stack, orders, rates, score, epochs, patience, batch_size), strict=True))
    weight, bias, chosen, scores = (np.stack(part) for part in zip(*(heads[k] for k in range(len(draws))), strict=True))
    return LinearProbe(classes, weight, bias, np.asarray(learning_rates), chosen, scores)


class _Draw(NamedTuple):
    """A draw's standardised features with a last column of 1, (n, width + 1), its true classes, (n, classes), and how
    much each image counts, (n,)."""

    inputs: torch.Tensor
    truth: torch.Tensor
    share: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    def fold(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (heads, classes, width) and bias (heads, classes) on raw features, of (width + 1, heads, classes)."""
        folded, bias = fold_into_linear(self.mean, self.std, weight[:-1].permute(1, 2, 0), weight[-1])
        return folded, bias.masked_fill(self.truth.sum(0) == 0, -torch.inf)


def _standardise(features: torch.Tensor, truth: torch.Tensor, class_weights: str) -> _Draw:
    mean, std = standardisation(features)
    inputs = torch.cat([(features - mean) / std, torch.ones(len(features), 1)], dim=1)
    return _Draw(inputs, truth, loss_shares(truth, class_weights), mean, std)


def _pool(draws: list[_Draw]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
    """Inputs, truth and share of all draws, equal draws once, with a last row of zeros, and each draw's first row."""
    distinct = {id(draw): draw for draw in draws}
    starts = np.cumsum([0, *(len(draw.inputs) for draw in distinct.values())]).tolist()
    first_row = dict(zip(distinct, starts[:-1], strict=True))  # the last start is the row of zeros
    inputs = torch.cat([*(draw.inputs for draw in distinct.values()), torch.zeros(1, draws[0].inputs.shape[1])])
    truth = torch.cat([*(draw.truth for draw in distinct.values()), torch.zeros(1, draws[0].truth.shape[1])])
    share = torch.cat([*(draw.share for draw in distinct.values()), torch.zeros(1)])
    return inputs, truth, share, [first_row[id(draw)] for draw in draws]


def _train(
    draws: list[_Draw],
    orders: list[torch.Generator],
    rates: torch.Tensor,
    score: ValidationScore,
    epochs: int,
    patience: int,
    batch_size: int,
) -> list[tuple[np.ndarray, np.ndarray, int, np.ndarray]]:
    """For each draw the weight (classes, width) and bias of its best head, its position, and the scores of all."""
    width, classes = draws[0].inputs.shape[1], draws[0].truth.shape[1]
    start = torch.stack([torch.randn(width, 1, classes, generator=g) for g in orders]) / 100  # MAE's head: std 0.01
    start[:, -1] = 0  # the bias
    weight = start.repeat(1, 1, len(rates), 1)
    absent = torch.stack([draw.truth.sum(0) == 0 for draw in draws])[:, None, None]
    first, second, best = torch.zeros_like(weight), torch.zeros_like(weight), weight.clone()
    reached, waited = torch.full((len(draws), len(rates)), -1.0), torch.zeros(len(draws), len(rates))
    k, s = torch.arange(len(draws)), torch.arange(len(rates))  # the draws and rates that still train
    pool, true, counts, first_row = _pool(draws)
    step = 0
    for _ in range(epochs):
        order = pad_sequence(
            [first_row[i] + torch.randperm(len(draws[i].inputs), generator=orders[i]) for i in k.tolist()],
            batch_first=True,
            padding_value=len(pool) - 1,
        )
        for batch in order.split(batch_size, dim=1):
            step += 1
            inputs = pool.index_select(0, batch.flatten()).unflatten(0, batch.shape)
            truth = true.index_select(0, batch.flatten()).unflatten(0, batch.shape)
            share = counts[batch]  # 0 where a shorter draw is padded
            share = share / share.sum(1, keepdim=True)
            logits = (
                torch.bmm(inputs, weight.flatten(2)).unflatten(2, weight.shape[2:]).masked_fill(absent[k], -torch.inf)
            )
            slope = (logits - logits.amax(-1, keepdim=True)).exp_()  # five times faster than softmax over few classes
            slope /= slope.sum(-1, keepdim=True)
            slope -= truth[:, :, None]
            slope *= share[..., None, None]
            grad = torch.bmm(inputs.mT, slope.flatten(2)).unflatten(2, weight.shape[2:])
            first.lerp_(grad, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
            spread = second.sqrt().div_((1 - BETAS[1] ** step) ** 0.5).add_(EPS)
            weight.addcdiv_(first * (rates[s, None] / (BETAS[0] ** step - 1)), spread)
        values = torch.stack([score(*draws[i].fold(w)) for i, w in zip(k.tolist(), weight, strict=True)])
        block = k[:, None], s
        better = (values > reached[block]) & (waited[block] < patience)
        rows, columns = better.nonzero(as_tuple=True)
        best[k[rows], :, s[columns]] = weight[rows, :, columns]
        reached[block] = torch.where(better, values, reached[block])
        waited[block] = torch.where(better, 0, waited[block] + 1)
        training = waited[block] < patience
        keep_k, keep_s = training.any(1), training.any(0)
        weight, first, second = (part[keep_k][:, :, keep_s] for part in (weight, first, second))
        k, s = k[keep_k], s[keep_s]
        if not len(k):
            break
    result = []
    for draw, heads, scores in zip(draws, best, reached, strict=True):
        chosen = int(scores.argmax())
        folded, bias = draw.fold(heads[:, chosen : chosen + 1])
        result.append((folded[0].numpy(), bias[0].numpy(), chosen, scores.numpy()))
    return result
