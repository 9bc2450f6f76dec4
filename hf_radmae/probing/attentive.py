"""An attentive probe: learned queries choose among an image's tokens, for encoders whose CLS and mean say too little.

Cross-attention of learned queries before a linear layer (Chen et al. 2024, "Context Autoencoder", section 3.3), without
projections of its own: that of the keys is linear and so part of the query, that of the values part of the last layer.
It is trained by steps, but on tokens that were computed once: "flat" features, reshaped to (images, cells, width).
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from hf_radmae.probing.heads import Criterion, ValidationScore, encode_draws, standardisation


class AttentiveProbe(nn.Module):
    """Standardised tokens, pooled by one learned query per head, and a linear layer. All-zero tokens are not attended.

    Args:
        mean, std: (width,) of the training tokens.
        classes: number of classes.
        heads: number of queries.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: torch.Tensor, std: torch.Tensor, classes: int, heads: int = 4) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.query = nn.Parameter(torch.randn(heads, len(mean)) * len(mean) ** -0.5)
        self.head = nn.Linear(heads * len(mean), classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (images, classes) of tokens (images, cells, width)."""
        empty = (tokens == 0).all(-1)
        tokens = (tokens - self.mean) / self.std
        scores = (tokens @ self.query.T).masked_fill(empty[..., None], -1e9)  # an image of empty cells attends all
        return self.head((scores.softmax(1).mT @ tokens).flatten(1))


def predict_by_attention(
    tokens: np.ndarray,
    labels: Sequence | np.ndarray,
    validation: tuple[np.ndarray, Sequence | np.ndarray],
    queries: np.ndarray,
    draws: Sequence[np.ndarray] | None = None,
    *,
    learning_rates: Sequence[float] = (1e-4, 1e-3, 1e-2),
    criterion: Criterion = "accuracy",
    epochs: int = 50,
    patience: int = 10,
    batch_size: int = 256,
    heads: int = 4,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Labels of the queries by an attentive probe for each draw, (draws, queries).

    Args:
        tokens: (images, cells, width) of the training images.
        labels: (images,) integers or strings; images without a label are left out and counted.
        validation: tokens and labels on which the epoch and the learning rate are chosen.
        queries: (queries, cells, width).
        draws: arrays of training rows, one per label fraction and seed; None takes all rows once.
        learning_rates: of Adam, each for a probe of its own.
        criterion: the validation score that stops and chooses.
        epochs, patience, batch_size: as in `train_linear_probes`.
        heads: learned queries.
        seed: of starts and orders.
        device: where the probe is trained.

    Raises:
        ValueError: a draw holds images of one class only.
    """
    codes, classes, draws = encode_draws(labels, draws, len(tokens))
    score = ValidationScore(*validation, classes, criterion)
    predicted = []
    for i, draw in enumerate(draws):
        rows = torch.from_numpy(draw)
        data = TensorDataset(torch.from_numpy(tokens)[rows], torch.from_numpy(codes)[rows])
        mean, std = standardisation(data.tensors[0].flatten(0, 1))
        tried = []
        for rate in learning_rates:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1_000_003 * seed + i)
                probe = AttentiveProbe(mean, std, len(classes), heads).to(device)
                tried.append((_train(probe, data, score, rate, epochs, patience, batch_size), probe))
        _, best = max(tried, key=lambda pair: pair[0])
        predicted.append(_predict(best, torch.from_numpy(queries), batch_size).numpy())
    return classes[np.stack(predicted)]


def _train(
    probe: AttentiveProbe,
    data: TensorDataset,
    score: ValidationScore,
    rate: float,
    epochs: int,
    patience: int,
    batch_size: int,
) -> float:
    """Train the probe and leave it with its best epoch's weights, whose validation score is returned."""
    optimizer = torch.optim.Adam(probe.parameters(), lr=rate)
    best, best_score, waited = probe.state_dict(), -1.0, 0
    for _ in range(epochs):
        for tokens, truth in DataLoader(data, batch_size, shuffle=True):
            loss = cross_entropy(probe(tokens.to(probe.mean.device)), truth.to(probe.mean.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        reached = float(score.share_right(_predict(probe, score.features, batch_size)[:, None]))
        waited += 1
        if reached > best_score:
            best, best_score, waited = copy.deepcopy(probe.state_dict()), reached, 0
        if waited == patience:
            break
    probe.load_state_dict(best)
    return best_score


@torch.no_grad()
def _predict(probe: AttentiveProbe, tokens: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Class numbers (images,)."""
    return torch.cat([probe(part.to(probe.mean.device)).argmax(1).cpu() for part in tokens.split(batch_size)])
