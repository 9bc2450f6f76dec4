"""The table of a linear probe: each encoder beside the majority class, at each share of the labels, with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_radmae.metrics.bootstrap import Interval, Metric, bootstrap_interval, paired_interval
from hf_radmae.metrics.classification import accuracy, balanced_accuracy
from hf_radmae.probing.heads import Criterion, encode_draws
from hf_radmae.probing.linear import PENALTIES, linear_probe

METRICS: Mapping[str, Metric] = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy}


def probe_table(
    features: Mapping[str, Mapping[str, np.ndarray]],
    labels: Mapping[str, Sequence | np.ndarray],
    draws: Mapping[str, Sequence[np.ndarray]],
    *,
    patients: Sequence | np.ndarray | None = None,
    difference: tuple[str, str] | None = ("pre-trained", "untrained"),
    penalties: Sequence[float] = PENALTIES,
    criterion: Criterion = "accuracy",
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Rows of test scores for the majority class, each model, and the difference of two models.

    All models get the same draws and are scored on the same resamples of test patients (and draws, where there are
    several), so that the difference is paired.

    Args:
        features: model -> "train", "validation" and "test" -> (images, width), of one pooling.
        labels: the same splits -> (images,); images without a label are left out and counted.
        draws: name of a share of the labels, such as "1 %" -> arrays of training rows, one per seed.
        patients: (test images,) keys; None takes each image as a patient of its own.
        difference: two models, the first minus the second; None for no such row.
        penalties, criterion: of `linear_probe`.
        n, level, seed: of the intervals.

    Returns:
        Rows with "labels", "draws", "images" (mean number of labels), "model", and "accuracy" and "balanced_accuracy"
        with the ends of their intervals under "*_low" and "*_high".

    Raises:
        ValueError: as `linear_probe`; or a model of `difference` is not among the features.
    """
    if difference and (unknown := set(difference) - set(features)):
        raise ValueError(
            f"no features of {', '.join(sorted(unknown))} for the difference, only of {', '.join(features)}"
        )
    every = [draw for group in draws.values() for draw in group]
    codes, classes, known = encode_draws(labels["train"], every, len(labels["train"]))
    majority = np.array([[classes[np.bincount(codes[draw]).argmax()]] for draw in known])
    predictions = {"majority class": majority}
    for model, split in features.items():
        validation = split["validation"], labels["validation"]
        probe = linear_probe(
            split["train"], labels["train"], validation, every, penalties=penalties, criterion=criterion
        )
        predictions[model] = probe.predict(split["test"])
    rows, start = [], 0
    for name, group in draws.items():
        part = slice(start, start + len(group))
        start = part.stop
        head = {"labels": name, "draws": len(group), "images": float(np.mean([len(draw) for draw in known[part]]))}
        shape = (len(group), len(labels["test"]))
        parts = {model: np.broadcast_to(predicted[part], shape) for model, predicted in predictions.items()}
        pairs = [difference] if difference else []
        scored = score_rows(parts, labels["test"], pairs, patients=patients, n=n, level=level, seed=seed)
        rows += [head | row for row in scored]
    return rows


def score_rows(
    predictions: Mapping[str, np.ndarray],
    labels: Sequence | np.ndarray,
    differences: Sequence[tuple[str, str]] = (),
    *,
    metrics: Mapping[str, Metric] = METRICS,
    patients: Sequence | np.ndarray | None = None,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Rows of scores for each model, and then for each difference of two, all on the same resamples.

    Args:
        predictions: model -> (draws, images, ...), equal draws in equal places.
        labels: (images,) what the metrics compare them with; images without a label are left out and counted.
        differences: pairs of models, the first minus the second.
        metrics: name -> metric.
        patients: (images,) keys; None takes each image as a patient of its own.
        n, level, seed: of the intervals.

    Returns:
        Rows with "model", and each metric with the ends of its interval under "*_low" and "*_high".
    """
    options: dict[str, Any] = {"groups": patients, "over_draws": True, "n": n, "level": level, "seed": seed}
    rows = []
    for model, predicted in predictions.items():
        scores = {name: bootstrap_interval(metric, labels, predicted, **options) for name, metric in metrics.items()}
        rows.append({"model": model} | _flat(scores))
    for pair in differences:
        both = [predictions[model] for model in pair]
        scores = {name: paired_interval(metric, labels, *both, **options) for name, metric in metrics.items()}
        rows.append({"model": " - ".join(pair)} | _flat(scores))
    return rows


def _flat(scores: Mapping[str, Interval]) -> dict[str, float]:
    ends = (("", 0), ("_low", 1), ("_high", 2))
    return {f"{name}{end}": interval[i] for name, interval in scores.items() for end, i in ends}
