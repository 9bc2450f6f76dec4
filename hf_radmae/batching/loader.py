"""A `DataLoader` over buckets, for training, evaluation and features alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.batching.sampler import BucketBatchSampler
from hf_radmae.batching.streaming import ShardRows, StreamBatchSampler


def bucket_loader(
    dataset: RadiographDataset,
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    batch_size: int | Sequence[int],
    *,
    shuffle: bool = False,
    num_workers: int = 0,
    persistent_workers: bool = False,
    prefetch_factor: int | None = None,
    micro_steps: int = 1,
    **sampler: Any,
) -> DataLoader:
    """Batches of one bin each, read by `num_workers` processes.

    Args:
        dataset: the images and their bins; where its rows are `ShardRows`, the order is one that streams them.
        collate: stacks a batch, as `BucketCollator` does.
        batch_size: images per rank and step: one number, or one per bin.
        shuffle: a new order each epoch, or bin after bin.
        num_workers, persistent_workers, prefetch_factor: as `DataLoader` takes them; the last two only with workers.
        micro_steps: pieces of a batch for gradient accumulation; those of a stream are batches of their own.
        **sampler: `seed`, `rank` and `world_size` of `BucketBatchSampler`.
    """
    workers: dict[str, Any] = (
        {"persistent_workers": persistent_workers, "prefetch_factor": prefetch_factor} if num_workers else {}
    )
    sampler |= {"bin_tokens": dataset.bins.tokens, "shuffle": shuffle}
    batches: Sampler[list[int]]
    if isinstance(dataset.rows, ShardRows):
        batches = StreamBatchSampler(dataset.bin_ids, dataset.rows.groups, batch_size, **sampler)
    else:
        batches = BucketBatchSampler(dataset.bin_ids, batch_size, micro_steps=micro_steps, **sampler)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        **workers,
    )
