"""A masked autoencoder's encoder, pre-trained or as it was drawn: the same images, poolings and heads for both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from hf_radmae.batching.collator import BucketCollator
from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.batching.loader import bucket_loader
from hf_radmae.probing.features import PARTS, Features, collect_features, extract_features

BATCH = 64


def network_features(
    network: PreTrainedModel,
    parts: Mapping[str, RadiographDataset],
    poolings: Sequence[str] = PARTS,
    *,
    num_workers: int = 0,
    cache_dir: Path | None = None,
    fingerprint: str | None = None,
) -> dict[str, dict[str, np.ndarray]]:
    """Frozen features in every pooling, over all patches, as bare transformers sees an image.

    Args:
        network: has `encode`, see `extract_features`.
        poolings: that are kept, see `pool_tokens`.
        cache_dir, fingerprint: keep the features of these images in a folder.
    """
    found = {}
    for split, part in parts.items():
        data = None if fingerprint is None else f"{fingerprint}-{split}"
        loader = _loader(part, network.config.patch_size, network.config.num_channels, num_workers)
        options: dict[str, Any] = {"poolings": poolings, "cache_dir": cache_dir, "data_fingerprint": data}
        found[split] = _whole(extract_features(network, loader, network.device, **options), len(part))
    return found


def split_features(
    parts: Mapping[str, RadiographDataset], compute: Callable[[Any], dict[str, Any]], num_workers: int = 0
) -> dict[str, dict[str, np.ndarray]]:
    """Split -> what is computed of batches of one channel, for every image in order; NaN for one that is unreadable."""
    found = {}
    for split, part in parts.items():
        found[split] = _whole(collect_features(_loader(part, part.bins.patch_size, 1, num_workers), compute), len(part))
    return found


def _loader(part: RadiographDataset, patch_size: int, num_channels: int, num_workers: int) -> Iterable:
    # How much of an image is background tells its body part: an encoder that is used by others cannot rely on it.
    collate = BucketCollator(patch_size, num_channels, background="keep")
    # One process sees every image, however many trained the network.
    return bucket_loader(part, collate, BATCH, num_workers=num_workers, rank=0, world_size=1)


def _whole(features: Features, images: int) -> dict[str, np.ndarray]:
    found = {}
    for pooling, values in features.pooled.items():
        found[pooling] = np.full((images, values.shape[1]), np.nan, dtype=np.float32)
        found[pooling][features.rows] = values
    return found
