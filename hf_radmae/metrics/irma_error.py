"""The IRMA error: how far a predicted code is from the true one, where early mistakes cost more and `*` costs half.

An IRMA code TTTT-DDD-AAA-BBB names technique, direction, anatomy and biological system, each from coarse to fine. The
error of an axis with positions i = 1..I is the sum of d_i / (b_i * i), where b_i is the number of labels possible at
position i below the true code's path, and d_i is 0 as long as all positions agree, 0.5 from the first `*` ("don't
know") on, and 1 from the first wrong label on. Each axis is scaled so that all wrong is 0.25, and an image scores 0 to
1 (Deselaers, Deserno and Müller, Automatic medical image annotation in ImageCLEF 2007).
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import datasets
import evaluate
import numpy as np

AXES = ("technical", "directional", "anatomical", "biological")
LENGTHS = (4, 3, 3, 3)
_CODE = re.compile(r"([0-9a-z*]{4})-?([0-9a-z*]{3})-?([0-9a-z*]{3})-?([0-9a-z*]{3})")


def split_code(code: str) -> tuple[str, ...]:
    """The four axes of a code, written with hyphens or without.

    Raises:
        ValueError: not four groups of 4, 3, 3 and 3 characters of 0-9, a-z and `*`.
    """
    match = _CODE.fullmatch(str(code).strip().lower())
    if match is None:
        raise ValueError(f"{code!r} is no IRMA code: expected TTTT-DDD-AAA-BBB of 0-9, a-z and *")
    return match.groups()


class CodeTree:
    """The labels that are possible at each position, below each path: from a data set's codes, or given as counts."""

    def __init__(self, codes: Iterable[str] | None = None, branching: Sequence[Sequence[int]] | None = None) -> None:
        """Exactly one of `codes`, all codes of a data set, and `branching`, b_i of each axis (4, 3, 3, 3 counts)."""
        if (codes is None) == (branching is None):
            raise ValueError("give either the codes of a data set or the branching of each axis, and not both")
        if branching is not None:
            lengths = tuple(len(axis) for axis in branching)
            if lengths != LENGTHS or min(b for axis in branching for b in axis) < 1:
                raise ValueError(f"branching needs counts >= 1 for {LENGTHS} positions, got {branching}")
        self.given = branching
        self.children: dict[tuple[int, str], set[str]] = {}
        for code in set(codes or ()):
            for axis, text in enumerate(split_code(code)):
                for i, label in enumerate(text):
                    self.children.setdefault((axis, text[:i]), set()).add(label)

    def branching(self, axis: int, text: str) -> list[int]:
        """b_i along the true path `text` of an axis; a label that the tree lacks counts as one more."""
        if self.given is not None:
            return list(self.given[axis])
        return [len(self.children.get((axis, text[:i]), set()) | {label}) for i, label in enumerate(text)]


def axis_error(true: str, predicted: str, branching: Sequence[int]) -> float:
    """Error of one axis, 0 (exact) to 1 (wrong from the first position)."""
    error = total = penalty = 0.0
    for i, (label, guess, b) in enumerate(zip(true, predicted, branching, strict=True), start=1):
        if not penalty and guess != label:
            penalty = 0.5 if guess == "*" else 1.0  # and it stays: nothing below is forgiven, nor judged again
        error += penalty / (b * i)
        total += 1 / (b * i)
    return error / total


def irma_error(true: str, predicted: str, tree: CodeTree) -> float:
    """Error of one image, 0 (exact) to 1 (every axis wrong from its first position); all `*` is 0.5.

    Raises:
        ValueError: a text is no code, or the true code has a `*`: what is not known cannot be scored.
    """
    truth = split_code(true)
    if "*" in true:
        raise ValueError(f"the true code {true!r} has a *, so it cannot be scored: leave the image out (None)")
    return sum(
        axis_error(t, p, tree.branching(axis, t)) / len(AXES)
        for axis, (t, p) in enumerate(zip(truth, split_code(predicted), strict=True))
    )


class IRMAError(evaluate.Metric):
    """The IRMA error of a run as an `evaluate` module, and its mean over images as a metric of `bootstrap_interval`.

    >>> IRMAError(codes=codes).compute(predictions=predicted, references=true)
    {"irma_error": ..., "mean_irma_error": ..., "images": ...}

    `irma_error` is the sum over images, by which ImageCLEF ranked. Unlike `evaluate.load`, this needs no network.

    Args:
        codes: all codes of the data set, whose tree gives the branching.
        branching: or the branching itself, see `CodeTree`.
    """

    def __init__(
        self, codes: Iterable[str] | None = None, branching: Sequence[Sequence[int]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        tree = CodeTree(codes, branching)
        self._error = lru_cache(maxsize=None)(lambda true, predicted: irma_error(true, predicted, tree))

    def __call__(
        self, references: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None
    ) -> np.ndarray:
        """Mean error of predicted codes, (resamples,): 0 exact, 0.5 all `*`, 1 all wrong."""
        pairs = zip(np.asarray(references).tolist(), np.asarray(predictions).tolist(), strict=True)
        errors = np.array([self._error(true, predicted) for true, predicted in pairs])
        return errors.mean(keepdims=True) if weights is None else weights @ errors / weights.sum(1)

    def _info(self) -> evaluate.MetricInfo:
        code = datasets.Value("string")
        return evaluate.MetricInfo(
            description="IRMA error of predicted codes: 0 exact, 0.5 all *, 1 all wrong; summed over images.",
            citation="",
            features=datasets.Features({"predictions": code, "references": code}),
        )

    def _compute(self, *, predictions: Sequence[str], references: Sequence[str], **kwargs: Any) -> dict[str, float]:
        mean = float(self(np.array(references), np.array(predictions))[0])
        return {"irma_error": mean * len(references), "mean_irma_error": mean, "images": len(references)}
