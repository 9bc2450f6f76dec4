"""Batches of one shape: the order of an epoch is a pure function of (seed, epoch) and of nothing that a rank knows.

`plan` makes the global batches of an epoch; each rank takes its slice of every one. So one process with batch 8, two
with batch 4 and four with batch 2 train on the same batches in the same order, all ranks work on the same shape at the
same step, and a resumed run finds the order again from the epoch alone.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.distributed
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

from hf_radmae.batching.binning import Bins

Array = NDArray[Any]


class Repeat(int):
    """The index of an image that another rank or micro-step holds already: it keeps the ranks in step and weighs 0."""


class BucketBatchSampler(Sampler[list[int]]):
    """Yields this rank's batches: lists of indices whose images share a bin. Pass it as a loader's `batch_sampler`.

    Every image comes once per epoch. What is left of a bin after its full batches is never dropped: see
    `batch_lengths`. Where a batch has fewer images than the pieces it is cut into, images are repeated (`repeats`); the
    index is then a `Repeat`, and losses and scores leave it out.

    It shards itself, so it has neither `batch_size` nor `sampler`: Accelerate would cut it a second time. Prepare its
    loader with `num_processes=1`. `__iter__` is pure given the epoch, so that skipping the first n batches resumes.

    Args:
        bin_ids: (N,) bin of each image from `binning.assign`; images with -1 are left out.
        batch_size: Images per rank and micro-step: one number, or one per bin (`batch_sizes`).
        bin_tokens: (K,) patches per image of each bin. With it, epoch 0 of a shuffled order opens with the batch of
            most tokens, so that running out of memory shows at once.
        shuffle: Draw a new order each epoch; else bin after bin, images in their given order, for evaluation.
        seed: Seed of the order.
        micro_steps: Consecutive pieces per rank that a global batch is cut into. Set to the number of gradient
            accumulation steps to make an optimiser step one global batch, whatever the split.
        rank: Number of this process, by default from `torch.distributed`, 0 where that is not initialised.
        world_size: Number of processes, likewise, 1 where not initialised.

    Attributes:
        global_batch_sizes: (K,) images per batch of each bin over all ranks and micro-steps. While they stay the same,
            a run may resume with another number of ranks: the batches that remain are those of the straight run.

    Raises:
        ValueError: On no images, bins without a batch size, or a rank outside the world.
    """

    def __init__(
        self,
        bin_ids: ArrayLike,
        batch_size: int | Sequence[int],
        *,
        bin_tokens: ArrayLike | None = None,
        shuffle: bool = True,
        seed: int = 42,
        micro_steps: int = 1,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.rank, self.world_size = process(rank, world_size)
        if micro_steps < 1:
            raise ValueError(f"micro_steps={micro_steps} must be at least 1.")
        self.bin_ids = np.asarray(bin_ids, np.int64)
        self.bin_tokens = bin_tokens
        self.shuffle, self.seed, self.epoch, self.micro_steps = shuffle, seed, 0, micro_steps
        self.pieces = self.world_size * micro_steps
        self.global_batch_sizes = per_bin(batch_size, self.bin_ids) * self.pieces
        _, self._lengths = epoch_lengths(self.bin_ids, self.global_batch_sizes)

    @property
    def order(self) -> dict[str, Any]:
        """What the order of the epochs follows from, ready for JSON. The bins of all images are told by a checksum."""
        global_batch = np.unique(self.global_batch_sizes).tolist()
        return {**order_of(self.bin_ids, self.seed), "images of a global batch": global_batch}

    @property
    def repeats(self) -> int:
        """Images that come twice in an epoch, on all ranks together."""
        return int(np.maximum(self.pieces - self._lengths, 0).sum())

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is yielded. Calling it again with the same epoch changes nothing."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths) * self.micro_steps

    def __iter__(self) -> Iterator[list[int]]:
        batches = plan(
            self.bin_ids,
            self.global_batch_sizes,
            seed=self.seed,
            epoch=self.epoch,
            shuffle=self.shuffle,
            bin_tokens=self.bin_tokens,
        )
        for batch in batches:
            for step in range(self.micro_steps):
                index = step * self.world_size + self.rank
                rows = piece(batch, index, self.pieces).tolist()
                yield rows if index < len(batch) else [Repeat(row) for row in rows]


def plan(
    bin_ids: ArrayLike,
    global_batch_sizes: ArrayLike,
    *,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    bin_tokens: ArrayLike | None = None,
) -> list[Array]:
    """The global batches of an epoch, in order.

    Args:
        bin_ids: (N,) bin of each image, -1 to leave it out.
        global_batch_sizes: (K,) images per batch of each bin, over all ranks and micro-steps.
        seed, epoch: What the order is drawn from.
        shuffle: Draw images and batches; else bin after bin, images in their given order.
        bin_tokens: (K,) patches per image; with them the first batch of epoch 0 is the one of most tokens.

    Returns:
        Arrays of indices, each of one bin; every image with a bin is in exactly one.
    """
    bin_ids = np.asarray(bin_ids)
    rng = np.random.default_rng([seed, epoch])
    images = np.flatnonzero(bin_ids >= 0)
    if shuffle:
        images = rng.permutation(images)
    # Few bins fit 16 bits, for which numpy's stable sort is a radix sort.
    small = bin_ids.max() < np.iinfo(np.int16).max
    keys = bin_ids[images].astype(np.int16 if small else np.int64)
    images = images[np.argsort(keys, kind="stable")]
    batch_bins, lengths = epoch_lengths(bin_ids, global_batch_sizes)
    ends = np.cumsum(lengths)
    order = rng.permutation(len(lengths)) if shuffle else np.arange(len(lengths))
    if shuffle and epoch == 0 and bin_tokens is not None:
        largest = (lengths * np.asarray(bin_tokens)[batch_bins])[order].argmax()
        order[[0, largest]] = order[[largest, 0]]
    return [images[end - length : end] for end, length in zip(ends[order], lengths[order], strict=True)]


def batch_lengths(count: int, batch_size: int) -> Array:
    """Images in each batch of a bin of `count` images.

    Full batches; a rest below half a batch is shared evenly with the last full one, a larger rest is a batch of its
    own. So only a bin with less than half a batch of images has a batch shorter than half.
    """
    full, rest = divmod(count, batch_size)
    lengths = [batch_size] * full
    if full and 0 < 2 * rest < batch_size:
        lengths[-1:] = [(batch_size + rest + 1) // 2, (batch_size + rest) // 2]
    elif rest:
        lengths.append(rest)
    return np.array(lengths, np.int64)


def epoch_lengths(bin_ids: ArrayLike, global_batch_sizes: ArrayLike) -> tuple[Array, Array]:
    """Bin and images of every batch of an epoch, bin after bin: two (batches,) int64. The same in every epoch."""
    bin_ids, global_batch_sizes = np.asarray(bin_ids), np.asarray(global_batch_sizes)
    counts = np.bincount(bin_ids[bin_ids >= 0], minlength=len(global_batch_sizes))
    lengths = [batch_lengths(int(n), int(size)) for n, size in zip(counts, global_batch_sizes, strict=True)]
    return np.repeat(np.arange(len(counts)), [len(batches) for batches in lengths]), np.concatenate(lengths)


def piece(batch: Array, index: int, pieces: int) -> Array:
    """Piece `index` of a batch cut into `pieces` that differ by at most one image, the longer first, none empty.

    A batch with fewer images than pieces is repeated from its start until every piece has one.
    """
    if len(batch) < pieces:
        return batch[[index % len(batch)]]
    base, extra = divmod(len(batch), pieces)
    start = index * base + min(index, extra)
    return batch[start : start + base + (index < extra)]


PIXELS_PER_TOKEN = 4
"""Most patches, background included, that the images of a batch within a token budget have per token.

A loader worker reads whole images, and a classifier is given them; the masked autoencoder gets what it uses of them.
"""


def batch_sizes(bins: Bins, tokens_per_batch: int) -> Array:
    """(K,) images per batch of each bin within a budget of patches per rank and step: see `images_within`."""
    budget = zip(bins.tokens.tolist(), bins.patches.tolist(), strict=True)
    return np.array([images_within(tokens_per_batch, tokens, patches) for tokens, patches in budget])


def images_within(tokens_per_batch: int, tokens: int, patches: int) -> int:
    """Images of `tokens` patches that take part, of `patches` in all, within a budget of the first; at least one.

    Whole images are at most `PIXELS_PER_TOKEN` times as many patches as the budget, so that images that are mostly
    background do not fill the memory of who holds them whole.
    """
    return max(min(tokens_per_batch // tokens, PIXELS_PER_TOKEN * tokens_per_batch // patches), 1)


def per_bin(batch_size: int | Sequence[int] | Array, bin_ids: Array) -> Array:
    """(K,) int64 batch size of each bin from one number or one per bin; ValueError where it does not fit the bins."""
    needed = int(bin_ids.max(initial=-1)) + 1
    if needed == 0:
        raise ValueError(f"None of the {len(bin_ids)} images has a bin: there is nothing to sample.")
    sizes = np.asarray(batch_size, np.int64)
    sizes = np.full(needed, sizes) if sizes.ndim == 0 else sizes
    if len(sizes) < needed or sizes.min() < 1:
        raise ValueError(f"Expected a batch size of at least 1 for each of {needed} bins, found {sizes.tolist()}.")
    return sizes


def order_of(bin_ids: Array, seed: int) -> dict[str, Any]:
    """Seed, number and bins (as a checksum) of images: the part of an order that every sampler shares."""
    return {"seed": seed, "images": int((bin_ids >= 0).sum()), "checksum of bins": zlib.crc32(bin_ids.tobytes())}


def process(rank: int | None = None, world_size: int | None = None) -> tuple[int, int]:
    """Number of this process and of all: what is given, else `torch.distributed`'s, (0, 1) where not initialised.

    Raises:
        ValueError: the rank is outside the world.
    """
    initialised = torch.distributed.is_available() and torch.distributed.is_initialized()
    if rank is None:
        rank = torch.distributed.get_rank() if initialised else 0
    if world_size is None:
        world_size = torch.distributed.get_world_size() if initialised else 1
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} must be in 0..{world_size - 1}.")
    return rank, world_size


@dataclass(frozen=True)
class Load:
    """How evenly an epoch loads the ranks.

    Attributes:
        steps: Batches per rank.
        images: Images seen once.
        repeats: Images seen again, on all ranks together.
        idle_share: Share of the ranks' token slots, each step as long as its longest rank, that do no new work.
    """

    steps: int
    images: int
    repeats: int
    idle_share: float


def simulate(
    bin_ids: ArrayLike, bin_tokens: ArrayLike, batch_size: int | Sequence[int], world_size: int, micro_steps: int = 1
) -> Load:
    """Load of an epoch on `world_size` ranks, from the lengths of its batches alone (no order, no pixels).

    Args:
        bin_ids: (N,) bin of each image, -1 to leave it out.
        bin_tokens: (K,) patches per image of each bin.
        batch_size: Images per rank and micro-step: one number, or one per bin.
    """
    bin_ids = np.asarray(bin_ids, np.int64)
    pieces = world_size * micro_steps
    bins, lengths = epoch_lengths(bin_ids, per_bin(batch_size, bin_ids) * pieces)
    tokens = np.asarray(bin_tokens)[bins]
    # The longer pieces come first, so in a batch's micro-step s the longest rank is that of piece s * world_size.
    firsts = np.arange(micro_steps) * world_size
    base, extra = np.divmod(lengths, pieces)
    longest = np.maximum(base[:, None] + (firsts < extra[:, None]), 1).sum(1)
    return Load(
        steps=len(lengths) * micro_steps,
        images=int(lengths.sum()),
        repeats=int(np.maximum(pieces - lengths, 0).sum()),
        idle_share=float(1 - (lengths * tokens).sum() / (longest * tokens).sum() / world_size),
    )
