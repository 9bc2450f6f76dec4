"""Watches what a network learns while it is pre-trained, since its loss does not say what its features are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch.nn.functional import normalize
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from hf_radmae.batching.collator import BucketCollator
from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.metrics.bootstrap import is_missing
from hf_radmae.probing.features import Features, extract_features


class FeatureWatch(TrainerCallback):
    """At each evaluation: k-NN accuracy, effective rank and alignment of mean-pooled features of validation images.

    They join the evaluation's metrics, so that TensorBoard shows them and `metric_for_best_model` may name one:

    * `eval_knn_accuracy`: of the other images' votes among the 20 nearest by cosine, where there are labels.
    * `eval_rank`: RankMe, the exponential of the entropy of the singular values (Garrido et al. 2023), of centred
      features: what all images share would hide the rest.
    * `eval_alignment`: mean squared distance between the unit features of an image and of itself moved by half a patch
      (Wang and Isola 2020); small is close.

    Args:
        trainer: of the pre-training; its evaluation set is watched.
        column: of labels in its rows, if there are any.
        images: that are watched, the same at each evaluation, spread evenly over the set.
    """

    def __init__(self, trainer: Trainer, column: str | None = None, images: int = 1000):
        self.trainer = trainer
        data: Any = trainer.eval_dataset
        self.rows = np.unique(np.linspace(0, len(data) - 1, min(images, len(data))).astype(int))
        self.labels = None
        if column is not None and column in data.rows.column_names:
            self.labels = np.fromiter(data.rows[column], object, len(data))  # of lists too one object each

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if "eval_loss" not in (metrics or {}):
            return
        network = self.trainer.accelerator.unwrap_model(self.trainer.model)
        data: Any = self.trainer.eval_dataset
        sharded = self.trainer.is_fsdp_enabled
        sides = 0, network.config.patch_size // 2
        first, second = (_features(network, data, self.rows, moved, sharded) for moved in sides)
        found = {"eval_rank": effective_rank(first["mean"]), "eval_alignment": alignment(first["mean"], second["mean"])}
        if self.labels is not None:  # of the images that were read: others than were asked for, where one is damaged
            accuracy = knn_accuracy(first["mean"], self.labels[first.rows])
            found |= {"eval_knn_accuracy": accuracy} if accuracy is not None else {}
        metrics |= found
        self.trainer.log(found)


def check_best(best: str | None, metrics: Mapping[str, Any], advice: str) -> None:
    """Refuses to choose the best model by what no evaluation gives; called after the first one.

    Args:
        best: `metric_for_best_model`, with or without "eval_"; None chooses nothing.
        metrics: of an evaluation.
        advice: what `eval_knn_accuracy` needs here.

    Raises:
        ValueError: with the metrics that there are.
    """
    name = f"eval_{str(best).removeprefix('eval_')}"
    if best is not None and name not in metrics:
        there = ", ".join(sorted(metrics))
        raise ValueError(f"--metric_for_best_model {name}: no evaluation gives it, only {there}; {advice}")


def watched(history: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """What was logged of the features at each evaluation, with its "epoch"."""
    names = ("epoch", "eval_knn_accuracy", "eval_rank", "eval_alignment")
    found = [entry for entry in history if "eval_rank" in entry]
    return [{name.removeprefix("eval_"): entry[name] for name in names if name in entry} for entry in found]


def effective_rank(features: np.ndarray) -> float:
    """RankMe of centred features (images, width): from 1, all on one line, to the smaller of the two sizes."""
    values = np.linalg.svd(features - features.mean(0), compute_uv=False)
    shares = values / max(values.sum(), 1e-12) + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared distance of unit vectors of two views (images, width): 0 equal, 2 unrelated, 4 opposite."""
    one, two = (normalize(torch.from_numpy(part), dim=1) for part in (first, second))
    return float((one - two).square().sum(1).mean())


def knn_accuracy(features: np.ndarray, labels: Sequence | np.ndarray, k: int = 20) -> float | None:
    """Share of images whose label most of the k nearest others have; None for fewer than two classes."""
    known = ~is_missing(labels)
    texts = [str(label) for label, is_known in zip(labels, known, strict=True) if is_known]
    features, (names, codes) = features[known], np.unique(texts, return_inverse=True)
    if len(names) < 2:
        return None
    search = NearestNeighbors(n_neighbors=min(k, len(codes) - 1), metric="cosine").fit(features)
    neighbours = search.kneighbors(return_distance=False)  # of the images that it was given: each without itself
    counts = np.stack([(codes[neighbours] == code).sum(1) for code in range(codes.max() + 1)], 1)
    return float((counts.argmax(1) == codes).mean())


def _features(network: Any, data: RadiographDataset, rows: np.ndarray, moved: int, sharded: bool) -> Features:
    """Mean-pooled features of rows, whose pixels are moved down and right by so many."""
    collate = BucketCollator(network.config.patch_size, network.config.num_channels, background="keep")

    def moved_batch(items: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(items)
        return batch | {"pixel_values": torch.roll(batch["pixel_values"], (moved, moved), (-2, -1))}

    batches: list[list[int]] = []
    for bin_id in np.unique(data.bin_ids[rows]):
        members = rows[data.bin_ids[rows] == bin_id]
        batches += [part.tolist() for part in np.array_split(members, -(-len(members) // 64))]
    loader: Any = DataLoader(data, batch_sampler=batches, collate_fn=moved_batch)
    # A model that is sharded runs on all processes at once: none of them may have fewer batches.
    loader = iter(loader) if sharded else loader
    return extract_features(network, loader, network.device, poolings=["mean"])
