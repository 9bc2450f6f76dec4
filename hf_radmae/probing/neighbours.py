"""k nearest neighbours by cosine, the probe without training: what lies close together in feature space."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import normalize

from hf_radmae.probing.heads import encode_draws


def predict_by_neighbours(
    features: np.ndarray,
    labels: Sequence | np.ndarray,
    queries: np.ndarray,
    draws: Sequence[np.ndarray] | None = None,
    *,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> np.ndarray:
    """Labels of the queries by a vote of their k closest training images, (draws, queries).

    A neighbour's vote is exp(cosine similarity / temperature) (Wu et al. 2018, section 3.4; Caron et al. 2021).

    Args:
        features: (images, width) of the training images.
        labels: (images,) integers or strings; images without a label are left out and counted.
        queries: (queries, width).
        draws: arrays of training rows, one per label fraction and seed; None takes all rows once.
        k: neighbours that vote; of a draw with fewer images all of them.
        temperature: the smaller, the more the closest count.
        chunk: queries compared at once, which bounds the memory to chunk * images.

    Raises:
        ValueError: a draw holds images of one class only.
    """
    codes, classes, draws = encode_draws(labels, draws, len(features))
    numbers = torch.from_numpy(codes)
    bank = normalize(torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32)), dim=1)
    predicted = np.empty((len(draws), len(queries)), dtype=np.int64)
    for at in range(0, len(queries), chunk):
        query = normalize(torch.from_numpy(np.ascontiguousarray(queries[at : at + chunk], dtype=np.float32)), dim=1)
        similarity = query @ bank.T
        for i, draw in enumerate(draws):
            rows = torch.from_numpy(draw)
            closest, place = similarity[:, rows].topk(min(k, len(rows)), dim=1)
            votes = torch.zeros(len(query), len(classes)).scatter_add_(
                1, numbers[rows[place]], ((closest - 1) / temperature).exp()
            )
            predicted[i, at : at + chunk] = votes.argmax(1).numpy()
    return classes[predicted]
