"""A `DataLoader` over buckets, for training, evaluation and features alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    timed: bool = False,
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
        timed: add to each batch `seconds`, how long a worker took for it.
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
        collate_fn=_Timed(dataset, collate) if timed else collate,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        **workers,
    )


@dataclass
class _Timed:
    """A collator that says how long reading the items of a batch and stacking them took in this process."""

    dataset: RadiographDataset
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        start, read = time.perf_counter(), self.dataset.seconds
        self.dataset.seconds = 0.0
        batch = self.collate(items)
        return batch | {"seconds": read + time.perf_counter() - start}
