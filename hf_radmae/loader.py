"""A `DataLoader` over buckets, for training, evaluation and features alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from hf_radmae.dataset import RadiographDataset
from hf_radmae.sampler import BucketBatchSampler


def bucket_loader(
    dataset: RadiographDataset,
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    batch_size: int | Sequence[int],
    *,
    shuffle: bool = False,
    num_workers: int = 0,
    persistent_workers: bool = False,
    prefetch_factor: int | None = None,
    **sampler: Any,
) -> DataLoader:
    """Batches of one bin each, read by `num_workers` processes.

    Args:
        dataset: the images and their bins.
        collate: stacks a batch, as `BucketCollator` does.
        batch_size: images per rank and step: one number, or one per bin.
        shuffle: a new order each epoch, or bin after bin.
        num_workers, persistent_workers, prefetch_factor: as `DataLoader` takes them; the last two only with workers.
        **sampler: `seed`, `rank`, `world_size` and `micro_steps` of `BucketBatchSampler`.
    """
    workers: dict[str, Any] = (
        {"persistent_workers": persistent_workers, "prefetch_factor": prefetch_factor} if num_workers else {}
    )
    return DataLoader(
        dataset,
        batch_sampler=BucketBatchSampler(
            dataset.bin_ids, batch_size, bin_tokens=dataset.bins.tokens, shuffle=shuffle, **sampler
        ),
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        **workers,
    )
