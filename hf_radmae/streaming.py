"""Batches of one bin from a stream of prepared shards: images wait in a pool until their bin has a batch of them.

Trades a little for not having to hold or index a data set: the pool only reorders, so bins mix within what a worker
has read, and ranks meet different shapes at the same step. Where shards fit on a disk, the map-style path is better.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from typing import Any, TypeVar

import datasets
import numpy as np
import torch
from torch.utils.data import get_worker_info

from hf_radmae.binning import Bins, assign
from hf_radmae.data.image import ImageError, read_image
from hf_radmae.dataset import fit_item
from hf_radmae.processing import as_tensor

Item = TypeVar("Item")

READ = 64  # rows that are read at once


class BucketStream(torch.utils.data.IterableDataset):
    """Yields lists of items of one bin, as `RadiographDataset` makes them; a collator stacks them:

        rows = datasets.load_dataset("prepared", split="train", streaming=True)
        stream = BucketStream(rows, bins, batch_size=64, steps=500, train=True)
        loader = DataLoader(stream, batch_size=None, collate_fn=BucketCollator(16), num_workers=4)

    Each worker of each rank reads shards of its own. With `steps` an epoch is that many batches on every rank, all of
    them full: a worker whose shards are read begins them anew in another order, and what is left in its pools at the
    end waits for another epoch. Without, an epoch is one pass over the shards: every image once, short batches last.

    The order follows from (seed, epoch, rank, workers) alone. So a run goes on where it was by skipping batches, as
    Trainer and Accelerate do; `resume` skips them without decoding.

    Args:
        rows: columns `image`, `image_id`, `height` and `width`, as prepared shards have them.
        bins: shapes and the rule by which an image is placed in one.
        batch_size: images per batch: one number, or one per bin.
        steps: batches per rank and epoch, for instance images // (batch size * ranks); None for one pass.
        seed: key of order, crops and masks.
        train: whether order, crops and masks change with the epoch; else images come in the order of the shards.
        crop_scale, scaling: as for `RadiographDataset`.
        buffer_size: images that each worker holds, encoded, to draw the next from; only where `train` is true.
        rank, world_size: this process among all.

    Raises:
        ValueError: a column is missing, or, without `steps`, ranks could get different numbers of batches.
    """

    def __init__(
        self,
        rows: datasets.IterableDataset,
        bins: Bins,
        batch_size: int | Sequence[int],
        *,
        steps: int | None = None,
        seed: int = 42,
        train: bool = False,
        crop_scale: float = 1.0,
        scaling: str = "minmax",
        buffer_size: int = 1000,
        rank: int = 0,
        world_size: int = 1,
    ):
        columns = ["image", "image_id", "height", "width"]
        if missing := [name for name in columns if name not in (rows.column_names or columns)]:
            raise ValueError(f"the stream has no columns {', '.join(missing)}: make its shards with scripts/prepare.py")
        if steps is None and world_size > 1:
            raise ValueError(f"steps is missing: {world_size} ranks need the same number of batches, say how many")
        self.rows = rows.select_columns(columns).cast_column("image", datasets.Image(decode=False))
        self.bins, self.batch_sizes = bins, np.broadcast_to(np.asarray(batch_size), len(bins))
        self.steps, self.seed, self.train = steps, seed, train
        self.crop_scale, self.scaling, self.buffer_size = crop_scale, scaling, buffer_size
        self.rank, self.world_size = rank, world_size
        self._state = torch.zeros(3, dtype=torch.int64).share_memory_()  # epoch; epoch and batches to resume at

    def __len__(self) -> int:
        if self.steps is None:
            raise TypeError("a stream without steps does not know its length")
        return self.steps

    def set_epoch(self, epoch: int) -> None:
        """Moves order, crops and masks to another epoch, in workers that already run too."""
        self._state[0] = epoch

    def state_dict(self, batches: int) -> dict[str, int]:
        """What `load_state_dict` takes, after `batches` of the current epoch on this rank."""
        return {"epoch": int(self._state[0]), "batches": batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begins the state's epoch after its batches, for the same number of workers; later epochs begin at 0."""
        self._state.copy_(torch.tensor([state["epoch"], state["epoch"], state["batches"]]))

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        epoch, resumed, done = self._state.tolist()
        done = done if epoch == resumed else 0
        if done and self.steps is None and workers > 1:
            raise ValueError("a stream without steps resumes with at most one worker: their turns are not known")
        # The loader asks worker 0 first, so that the worker whose turn it would be takes that number.
        place = (number + done) % workers
        first, stop = len(range(place, done, workers)), None
        if self.steps is not None:
            stop = len(range(place, self.steps, workers))
        for batch in islice(self._batches(epoch, place, workers), first, stop):
            yield self._items(batch, epoch)

    def _batches(self, epoch: int, place: int, workers: int) -> Iterator[tuple[int, list[dict]]]:
        """Bins and rows of the batches of one worker, endless with `steps`; nothing is decoded."""
        pools: dict[int, list[dict]] = defaultdict(list)
        for turn in count() if self.steps is not None else range(1):
            for row, bin_id in self._rows(epoch, turn, place, workers):
                pools[bin_id].append(row)
                if len(pools[bin_id]) == self.batch_sizes[bin_id]:
                    yield bin_id, pools.pop(bin_id)
        yield from sorted(pools.items())

    def _rows(self, epoch: int, turn: int, place: int, workers: int) -> Iterator[tuple[dict, int]]:
        """One pass over the shards of one worker: rows, and the bins that they go to."""
        part, parts = self.rank * workers + place, self.world_size * workers
        if self.rows.num_shards < parts:
            raise ValueError(
                f"{self.rows.num_shards} shards are too few for {self.world_size} ranks with {workers} workers each: "
                "use fewer workers, or prepare with a smaller --images_per_shard"
            )
        shards = np.arange(part, self.rows.num_shards, parts)
        # Not `IterableDataset.shuffle`: its threads keep a forked worker from ending for five seconds.
        rng = np.random.default_rng((self.seed, epoch, turn, part))
        read = self._read(rng.permutation(shards) if self.train else shards)
        empty = True
        for row in mixed(read, self.buffer_size, rng) if self.train else read:
            empty = False
            yield row
        if empty:
            raise ValueError(f"shards {shards.tolist()} of the stream hold no image that has a bin")

    def _read(self, shards: np.ndarray) -> Iterator[tuple[dict, int]]:
        for shard in shards.tolist():
            rows = self.rows.shard(self.rows.num_shards, shard, contiguous=False)
            for batch in rows.iter(READ):  # unlike `__iter__` it does not divide rows among workers once more
                sizes = np.stack([batch["height"], batch["width"]], axis=1)
                for bin_id, *values in zip(assign(sizes, self.bins).tolist(), *batch.values(), strict=True):
                    if bin_id >= 0:
                        yield dict(zip(batch, values, strict=True)), bin_id

    def _items(self, batch: tuple[int, list[dict]], epoch: int) -> list[dict[str, Any]]:
        """The items of a batch; an image that cannot be read is replaced by the first that can."""
        bin_id, rows = batch
        good, skipped = [], []
        for row in rows:
            try:
                good.append(self._item(row, bin_id, epoch))
            except ImageError as error:
                skipped.append({"index": image_key(row["image_id"]), "image": row["image_id"], "reason": error.reason})
        if not good:
            raise ImageError(skipped[0]["image"], f"{skipped[0]['reason']}; nor can the rest of its batch be read")
        good += [{**good[0], "skipped": [record]} for record in skipped]
        return good

    def _item(self, row: dict, bin_id: int, epoch: int) -> dict[str, Any]:
        image = as_tensor(read_image(row["image"], name=row["image_id"]))
        key = image_key(row["image_id"])
        options: dict[str, Any] = {"seed": self.seed, "crop_scale": self.crop_scale, "scaling": self.scaling}
        epoch_or_none = epoch if self.train else None
        item = fit_item(image, image.shape[-2:], self.bins, bin_id, key=key, epoch=epoch_or_none, **options)
        return {**item, "index": key, "skipped": []}


def mixed(items: Iterable[Item], size: int, rng: np.random.Generator) -> Iterator[Item]:
    """The items in a random order, each drawn from `size` that are held at a time."""
    held: list[Item] = []
    for item in items:
        if len(held) < size:
            held.append(item)
        else:
            place = int(rng.integers(size))
            yield held[place]
            held[place] = item
    for place in rng.permutation(len(held)).tolist():
        yield held[place]


def image_key(image_id: str) -> int:
    """A number of 62 bits that stands for an image in keys of randomness, wherever in a stream it comes."""
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "big") >> 2
