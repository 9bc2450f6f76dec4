"""Linear probes of a network: its features once, then every task, pooling, share and draw on them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_radmae.batching.collator import BucketCollator
from hf_radmae.batching.loader import bucket_loader
from hf_radmae.probing import extract_features, linear_probe, multilabel_probe, train_linear_probes
from hf_radmae.probing.features import POOLINGS
from hf_radmae.study.networks import StudyImages
from hf_radmae.study.tasks import TaskLabels

FEATURE_BATCH = 64


def cached_features(
    network: PreTrainedModel,
    images: StudyImages,
    cache_dir: Path,
    *,
    poolings: Sequence[str] = POOLINGS,
    grid: int,
    num_workers: int,
) -> dict[str, dict[str, np.ndarray]]:
    """Pooling -> split -> float32 (images, width), NaN for an image that cannot be read; kept in `cache_dir`."""
    features: dict[str, dict[str, np.ndarray]] = {pooling: {} for pooling in poolings}
    # Over all patches, as bare transformers sees an image: how much of it is background tells of the body part.
    collate = BucketCollator(network.config.patch_size, network.config.num_channels, flat_threshold=0)
    for split, part in images.parts.items():
        loader = bucket_loader(part, collate, FEATURE_BATCH, num_workers=num_workers)
        found = extract_features(
            network,
            tqdm(loader, desc=f"features, {split}", unit="batch", leave=False),
            network.device,
            poolings=poolings,
            grid=grid,
            cache_dir=cache_dir,
            data_fingerprint=f"{images.fingerprint}-{split}",
        )
        for pooling in poolings:
            whole = np.full((len(part), found[pooling].shape[1]), np.nan, dtype=np.float32)
            whole[found.rows] = found[pooling]
            features[pooling][split] = whole
    return features


def probe_predictions(
    features: dict[str, np.ndarray], labels: TaskLabels, draws: Sequence[np.ndarray], class_weights: str
) -> np.ndarray:
    """Class numbers of the test images by the probe of each draw, (draws, images), or (draws, images, labels).

    Args:
        features: split -> (images, width) of one pooling.
        labels: of all splits, without labels where features are NaN.
        draws: of training rows.
        class_weights: see `linear_probe`.
    """
    options: dict[str, Any] = {"criterion": "balanced_accuracy", "class_weights": class_weights}
    train, validation, test = (np.nan_to_num(features[split]) for split in ("train", "validation", "test"))
    known, seen = labels.values["train"], labels.values["validation"]
    if labels.multi:
        probes = multilabel_probe(train, known, (validation, seen), draws, **options)
        return np.stack([probe.predict(test) for probe in probes], axis=-1)
    return linear_probe(train, known, (validation, seen), draws, **options).predict(test)


def probe_rates(
    features: dict[str, np.ndarray], labels: TaskLabels, rates: Sequence[float], class_weights: str
) -> list[dict[str, Any]]:
    """Validation scores of linear heads on all labels, by learning rate; of the first label of several."""
    known, seen = labels.values["train"], labels.values["validation"]
    if labels.multi:
        known, seen = known[:, 0], seen[:, 0]
    train, validation = (np.nan_to_num(features[split]) for split in ("train", "validation"))
    options: dict[str, Any] = {"criterion": "balanced_accuracy", "class_weights": class_weights}
    probe = train_linear_probes(train, known, (validation, seen), learning_rates=rates, **options)
    return [{"learning_rate": r, "score": s} for r, s in zip(rates, probe.scores[0].tolist(), strict=True)]
