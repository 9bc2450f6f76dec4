"""Training from prepared shards that stay on disk: a row group is read when the turn of its images comes.

`ShardRows` stands in for a `datasets.Dataset`, without the copy that it makes: sizes and labels come from the shards'
small columns, images by row group. `StreamBatchSampler` stands in for `BucketBatchSampler` and reads on: a worker goes
through row groups of its own, and images wait in a pool until their bin has a batch of them, so that each row group is
read about once. The price is that ranks share a bin less evenly. Where the copy fits on a fast disk, do without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

from hf_radmae.batching.sampler import Load, order_of, per_bin, piece, process

Array = NDArray[Any]

SPLITS = ("train", "validation", "test")


def open_shards(folder: str | Path | None, columns: Sequence[str] = ()) -> dict[str, ShardRows]:
    """The splits of a folder that `scripts/prepare.py` wrote.

    Args:
        folder: holds data/train-*.parquet and so on.
        columns: what a shard must have beside image, height and width.

    Raises:
        FileNotFoundError: a split has no shard.
        ValueError: no folder, or a column is missing.
    """
    if folder is None:
        raise ValueError("streaming reads a folder made by scripts/prepare.py: say which with --data_dir")
    files = {split: sorted(Path(folder, "data").glob(f"{split}-*.parquet")) for split in SPLITS}
    if missing := [split for split in SPLITS if not files[split]]:
        raise FileNotFoundError(
            f"{folder} has no shards data/{missing[0]}-*.parquet: streaming needs a folder made by scripts/prepare.py "
            f"with splits {', '.join(SPLITS)}; other Parquet files are read without --streaming."
        )
    splits = {split: ShardRows(files[split]) for split in SPLITS}
    if lacking := {*columns} - {*splits["train"].column_names}:
        raise ValueError(
            f"the shards in {folder} have no columns {', '.join(sorted(lacking))}, which tell the background: prepare "
            "them anew, or train on the background too with --flat_threshold 0; or leave --streaming out."
        )
    return splits


class ShardRows:
    """Rows of Parquet files: `rows["height"]` is a column, `rows[7]` a row, whose row group is read and held a while.

    A row is let go when it was asked for, so that memory holds what is still to come.

    Args:
        files: Parquet files with columns `image`, `height` and `width`, as `scripts/prepare.py` writes them.
        held_rows: rows that a process holds at most, beside those of the row group just read. With too few, row groups
            are read more often.

    Attributes:
        groups: int64 (row groups + 1,), the first row of each row group, and the number of rows.
        features: the columns, as `datasets` describes them.
    """

    def __init__(self, files: Sequence[str | Path], *, held_rows: int = 4096):
        self.files, self.held_rows = [str(file) for file in files], held_rows
        with ThreadPoolExecutor(16) as pool:  # threads hide the latency of network storage
            self._footers = list(pool.map(pq.read_metadata, self.files))
        self.features = datasets.Features.from_arrow_schema(self._footers[0].schema.to_arrow_schema())
        self.column_names = list(self.features)
        if missing := {"image", "height", "width"} - {*self.column_names}:
            raise ValueError(f"{self.files[0]} has no columns {sorted(missing)}, but {', '.join(self.column_names)}")
        counts = [footer.row_group(i).num_rows for footer in self._footers for i in range(footer.num_row_groups)]
        self._places = [(n, i) for n, footer in enumerate(self._footers) for i in range(footer.num_row_groups)]
        self.groups = np.cumsum([0, *counts])
        self._held: dict[int, dict[int, dict[str, Any]]] = {}

    def __len__(self) -> int:
        return int(self.groups[-1])

    def select_columns(self, names: Sequence[str]) -> ShardRows:
        """The same rows with only these columns."""
        rows = copy(self)
        rows.column_names, rows._held = list(names), {}
        return rows

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, str):
            with ThreadPoolExecutor(16) as pool:
                tables = pool.map(lambda file: pq.read_table(file, columns=[key], use_threads=False), self.files)
                return [value for table in tables for value in table[key].to_pylist()]
        group = int(np.searchsorted(self.groups, key, side="right")) - 1
        if key not in self._held.get(group, ()):
            self._held.pop(group, None)
            self._held[group] = self._read(group)
            while len(self._held) > 1 and sum(map(len, self._held.values())) > self.held_rows:
                del self._held[next(iter(self._held))]  # the one that was read first
        return self._held[group].pop(key)

    def _read(self, group: int) -> dict[int, dict[str, Any]]:
        file, index = self._places[group]
        # Without threads of its own, which a forked worker would wait for.
        with pq.ParquetFile(self.files[file], metadata=self._footers[file]) as shard:
            rows = shard.read_row_group(index, columns=self.column_names, use_threads=False).to_pylist()
        return dict(enumerate(rows, start=int(self.groups[group])))


class StreamBatchSampler(Sampler[list[int]]):
    """Yields this rank's batches, lists of indices whose images share a bin, in an order that reads row groups once.

    Row groups are dealt to ranks and, within each, to lanes; a lane is what one worker reads. In an epoch a lane's row
    groups come in a new order, the rows of `window` of them mixed. Lanes take turns, so where the loader's workers
    divide the lanes, each of them reads lanes of its own.

    On all ranks the batches of a lane have the same bins in the same order: its images of a bin are cut evenly into as
    many batches as the rank with most of them needs, and a batch is due when every rank has read its last image. So
    every image comes once per epoch, but for `load.repeats`: a rank with fewer images of a bin than batches repeats
    them, one with none takes the bin's first image. The order follows from (seed, epoch, ranks), and not from workers.

    Args:
        bin_ids: (N,) bin of each image; images with -1 are left out.
        groups: first row of each row group, and N. With fewer row groups than lanes on all ranks, rows are dealt.
        batch_size: Images per rank and step: one number, or one per bin.
        bin_tokens: (K,) patches per image of each bin. With it, epoch 0 of a shuffled order opens with a batch of most
            tokens, so that running out of memory shows at once.
        shuffle: Draw a new order each epoch; else row groups in their order.
        seed: Seed of the order.
        lanes: What each rank's row groups are dealt to.
        window: Row groups of a lane whose rows are mixed.
        rank, world_size: This process among all, by default from `torch.distributed`.

    Raises:
        ValueError: On no images, or bins without a batch size.
    """

    def __init__(
        self,
        bin_ids: ArrayLike,
        groups: ArrayLike,
        batch_size: int | Sequence[int],
        *,
        bin_tokens: ArrayLike | None = None,
        shuffle: bool = True,
        seed: int = 42,
        lanes: int = 4,
        window: int = 4,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.rank, self.world_size = process(rank, world_size)
        self.bin_ids, self.shuffle, self.seed, self.window = np.asarray(bin_ids, np.int64), shuffle, seed, window
        self.batch_sizes = per_bin(batch_size, self.bin_ids)
        self.epoch, self.lanes, parts = 0, lanes, lanes * self.world_size
        bounds = np.asarray(groups)
        if len(bounds) <= parts:
            bounds = np.linspace(0, len(self.bin_ids), parts + 1).astype(np.int64)
        self._groups = [np.arange(start, end) for start, end in pairwise(bounds)]
        order = np.arange(len(self._groups))
        if shuffle:
            order = np.random.default_rng(seed).permutation(order)
        dealt = [order[part::parts] for part in range(parts)]
        self._dealt = [dealt[lane * self.world_size :][: self.world_size] for lane in range(lanes)]
        kinds = len(self.batch_sizes)
        self._tokens = np.ones(kinds, np.int64) if bin_tokens is None else np.asarray(bin_tokens)[:kinds]
        self._first = np.array([np.argmax(self.bin_ids == b) for b in range(kinds)])
        self._counts = np.array([[self._count(groups) for groups in lane] for lane in self._dealt])
        self._batches = -(-self._counts.max(1) // self.batch_sizes)
        self._open_with_largest = shuffle and bin_tokens is not None

    @property
    def order(self) -> dict[str, Any]:
        """What the order of the epochs follows from, ready for JSON: the split into ranks too."""
        dealt = {"ranks": self.world_size, "lanes": self.lanes, "window": self.window, "row groups": len(self._groups)}
        return {**order_of(self.bin_ids, self.seed), "images of a batch": np.unique(self.batch_sizes).tolist(), **dealt}

    @property
    def load(self) -> Load:
        """How evenly an epoch loads the ranks."""
        missing = np.maximum(self._batches[:, None] - self._counts, 0)
        slots = (np.maximum(self._counts.max(1), self._batches) * self._tokens).sum() * self.world_size
        return Load(
            steps=len(self),
            images=int(self._counts.sum()),
            repeats=int(missing.sum()),
            idle_share=float(1 - (self._counts * self._tokens).sum() / slots),
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is yielded. Calling it again with the same epoch changes nothing."""
        self.epoch = epoch

    def __len__(self) -> int:
        return int(self._batches.sum())

    def __iter__(self) -> Iterator[list[int]]:
        turns = zip_longest(*(self._lane(lane) for lane in range(self.lanes)))
        batches = [batch for turn in turns for batch in turn if batch is not None]
        if self._open_with_largest and self.epoch == 0:
            largest = max(range(len(batches)), key=lambda index: batches[index][0])
            batches[0], batches[largest] = batches[largest], batches[0]
        for _, rows in batches:
            yield rows.tolist()

    def _lane(self, lane: int) -> list[tuple[int, Array]]:
        """The batches of a lane in order: tokens of the longest piece, the same on all ranks, and this rank's rows."""
        pieces, mine = self._batches[lane], []
        due, longest = np.zeros((2, pieces.sum()))
        for rank in range(self.world_size):
            rows = self._reading_order(lane, rank)
            places = np.argsort(self.bin_ids[rows], kind="stable")
            by_bin = np.split(places, np.cumsum(self._counts[lane, rank])[:-1])
            cut = [
                piece(own, k, n) if len(own) else own for own, n in zip(by_bin, pieces, strict=True) for k in range(n)
            ]
            due = np.maximum(due, [own[-1] / len(rows) if len(own) else 0 for own in cut])
            longest = np.maximum(longest, [len(own) for own in cut])
            if rank == self.rank:
                mine = [rows[own] for own in cut]
        bins = np.repeat(np.arange(len(pieces)), pieces)
        tokens = longest * self._tokens[bins]
        own_or_first = [rows if len(rows) else self._first[[b]] for b, rows in zip(bins, mine, strict=True)]
        return [(int(tokens[index]), own_or_first[index]) for index in np.argsort(due, kind="stable")]

    def _reading_order(self, lane: int, rank: int) -> Array:
        """The rows of a rank's lane in the order in which they are read."""
        groups = self._dealt[lane][rank]
        rng = np.random.default_rng([self.seed, self.epoch, lane, rank])
        if self.shuffle:
            groups = rng.permutation(groups)
        windows = [groups[start : start + self.window] for start in range(0, len(groups), self.window)]
        rows = [np.concatenate([self._groups[group] for group in window]) for window in windows]
        order = np.concatenate([rng.permutation(part) if self.shuffle else part for part in rows])
        return order[self.bin_ids[order] >= 0]

    def _count(self, groups: Array) -> Array:
        ids = np.concatenate([self.bin_ids[self._groups[group]] for group in groups])
        return np.bincount(ids[ids >= 0], minlength=len(self.batch_sizes))
