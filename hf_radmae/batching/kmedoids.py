"""Weighted k-medoids in which no medoid serves fewer than a floor: greedy choice, swaps, and a few too many pruned."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_EXTRA = 3  # candidates chosen beyond k before the least needed are dropped again
_TOLERANCE = 1e-6  # smallest relative gain that counts, above the rounding of float32


def k_medoids(costs: Array, weights: Array, k: int, floor: float = 0, start: Array | None = None) -> Array:
    """Choose up to k candidates of near-least total cost, where each point goes to the cheapest chosen one.

    A local search that stops where neither a swap helps, nor choosing three more and dropping the three least needed.
    Near the optimum, not proven to be.

    Args:
        costs: (points, candidates), at least 0.
        weights: (points,) at least 0.
        k: Most candidates to choose.
        floor: Least weight that goes to a chosen candidate. A single one is chosen whatever the floor.
        start: Indices of at most k distinct candidates to start from, by default the best single one.

    Returns:
        (at most k,) indices of the chosen candidates.
    """
    costs, weights = costs.astype(np.float32), weights.astype(np.float32)
    first = [int((weights @ costs).argmin())] if start is None else start.tolist()
    chosen = _add_and_swap(costs, weights, first, k, floor)
    while True:
        trial = _add_and_swap(costs, weights, chosen, k + _EXTRA, floor)
        while len(trial) > k:
            totals = [_total(costs, weights, trial[:i] + trial[i + 1 :]) for i in range(len(trial))]
            del trial[int(np.argmin(totals))]
        trial = _add_and_swap(costs, weights, trial, k, floor)
        if not _lower(costs, weights, trial, chosen):
            return np.array(chosen)
        chosen = trial


def _total(costs: Array, weights: Array, chosen: list[int]) -> float:
    return float(weights @ costs[:, chosen].min(1, initial=np.inf))


def _lower(costs: Array, weights: Array, chosen: list[int], than: list[int]) -> bool:
    return _total(costs, weights, chosen) < _total(costs, weights, than) * (1 - _TOLERANCE)


def _add_and_swap(costs: Array, weights: Array, start: list[int], k: int, floor: float) -> list[int]:
    """Add the best candidate while fewer than k are chosen, else make the best swap, until neither lowers the cost.

    All swaps are scored in one pass from the two cheapest chosen candidates of each point (FastPAM1, Schubert and
    Rousseeuw 2019).
    """
    chosen = list(start)
    while True:
        lowest = np.partition(np.pad(costs[:, chosen], ((0, 0), (0, 1)), constant_values=np.inf), 1, axis=1)
        first, second = lowest[:, 0, None], lowest[:, 1, None]
        member = np.eye(len(chosen), dtype=np.float32)[costs[:, chosen].argmin(1)].T * weights  # (chosen, points)
        taken = member @ (costs < first)  # weight that each candidate would take from each chosen one
        starved = (taken > 0) & (member.sum(1, keepdims=True) - taken < floor)
        change = weights @ (np.minimum(costs, first) - first)  # of the cost when a candidate is added
        if len(chosen) < k:
            allowed = (taken.sum(0) >= floor) & ~starved.any(0)
            best = int(np.where(allowed, change, 0).argmin())
            if allowed[best] and change[best] < 0:
                chosen.append(best)
                continue
        # When a chosen one is swapped out, its points go to the new one or to their second.
        change = change + member @ (np.minimum(costs, second) - np.minimum(costs, first))
        taken_then = taken.sum(0) - taken + member @ (costs < second)
        allowed = (taken_then >= floor) & (starved.sum(0) == starved)
        out, best = divmod(int(np.where(allowed, change, 0).argmin()), change.shape[1])
        swapped = [*chosen[:out], best, *chosen[out + 1 :]]
        # Compared as totals, which do not depend on the way here: rounding cannot make the search go round in circles.
        if not allowed[out, best] or not _lower(costs, weights, swapped, chosen):
            return chosen
        chosen = swapped
