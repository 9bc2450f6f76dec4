"""Training from prepared shards that stay on disk: a row group is read when the turn of its images comes.

`ShardRows` stands in for a `datasets.Dataset`, without the copy that it makes: sizes and labels come from the shards'
small columns, images by row group. `StreamBatchSampler` stands in for `BucketBatchSampler`: each rank reads row groups
of its own, one after another, and images wait in a pool until their bin has a batch of them on every rank. Row groups
are dealt so that all ranks hold nearly as many images of every bin at any time, hence they wait little for each other.

Why own code: the libraries considered (MosaicML streaming, WebDataset, torchdata's stateful loader, `datasets`) hand
out single samples; bins that are even over the ranks would need this sampler all the same. And its order follows from
(seed, epoch, ranks) alone, so that a run resumes with another number of workers.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import partial
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from torch.utils.data import Sampler

from hf_radmae.batching.columns import viewed_rows
from hf_radmae.batching.row_pool import RowPool
from hf_radmae.batching.sampler import Load, Repeat, order_of, per_bin, piece, process
from hf_radmae.images.remote import Place, locate, parquet_file
from hf_radmae.images.storage import steady

Array = NDArray[Any]

SPLITS = ("train", "validation", "test")


def open_shards(folder: str | Place | None, columns: Sequence[str] = ()) -> dict[str, ShardRows]:
    """The splits of a folder that `scripts/prepare.py` wrote.

    Args:
        folder: holds data/train-*.parquet and so on; a path or a URL.
        columns: what a shard must have beside image, height and width.

    Raises:
        FileNotFoundError: a split has no shard.
        ValueError: no folder, or a column is missing.
    """
    if folder is None:
        raise ValueError("streaming reads a folder made by scripts/prepare.py: say which with --data_dir")
    data = locate(folder) / "data"
    files = {split: sorted(map(str, data.glob(f"{split}-*.parquet"))) for split in SPLITS}
    if missing := [split for split in SPLITS if not files[split]]:
        raise FileNotFoundError(
            f"{folder} has no shards data/{missing[0]}-*.parquet: streaming needs a folder made by scripts/prepare.py "
            f"with splits {', '.join(SPLITS)}; other Parquet files are read without --streaming."
        )
    splits = {split: ShardRows(files[split]) for split in SPLITS}
    if lacking := {*columns} - {*splits["train"].column_names}:
        raise ValueError(
            f"the shards in {folder} have no columns {', '.join(sorted(lacking))}, which tell the background: prepare "
            "them anew, or train on the background too with --background keep; or leave --streaming out."
        )
    return splits


class ShardRows:
    """Rows of Parquet files: `rows["height"]` is a column, `rows[7]` a row, whose row group is read and held a while.

    The other rows of the group wait in a `RowPool` that all loader workers share; a row that was asked for is let go.

    Args:
        files: Parquet files with columns `image`, `height` and `width`, as `scripts/prepare.py` writes them.
        held_bytes: bytes of rows that wait, at most, on all workers together. With too few, row groups are read more
            often; `pool.reads` counts.

    Attributes:
        groups: int64 (row groups + 1,), the first row of each row group, and the number of rows.
        features: the columns, as `datasets` describes them.
    """

    def __init__(self, files: Sequence[str | Place], *, held_bytes: int = 3 * 2**30):
        self.files, self.held_bytes = [str(file) for file in files], held_bytes
        with ThreadPoolExecutor(16) as pool:  # threads hide the latency of network storage
            self._footers = list(pool.map(lambda file: _read(file, pq.read_metadata), self.files))
        self.features = datasets.Features.from_arrow_schema(self._footers[0].schema.to_arrow_schema())
        self.column_names = list(self.features)
        if missing := {"image", "height", "width"} - {*self.column_names}:
            raise ValueError(f"{self.files[0]} has no columns {sorted(missing)}, but {', '.join(self.column_names)}")
        counts = [footer.row_group(i).num_rows for footer in self._footers for i in range(footer.num_row_groups)]
        self._places = [(n, i) for n, footer in enumerate(self._footers) for i in range(footer.num_row_groups)]
        self.groups = np.cumsum([0, *counts])
        self.pool = RowPool(len(self), len(self._places), held_bytes)

    def __len__(self) -> int:
        return int(self.groups[-1])

    def select_columns(self, names: Sequence[str]) -> ShardRows:
        """The same rows with only these columns."""
        rows = copy(self)
        rows.column_names, rows.pool = list(names), RowPool(len(self), len(self._places), self.held_bytes)
        return rows

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of all rows."""
        with ThreadPoolExecutor(16) as pool:
            read = partial(pq.read_table, columns=[name], use_threads=False)
            tables = pool.map(lambda file: _read(file, read), self.files)
            return pa.chunked_array([chunk for table in tables for chunk in table[name].chunks])

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, str):
            return self.column(key).to_pylist()
        row = int(key)
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        group = int(np.searchsorted(self.groups, row, side="right")) - 1
        return self.pool.take(row, group, lambda: self._read(group))

    def _read(self, group: int) -> dict[int, dict[str, Any]]:
        file, index = self._places[group]

        def read() -> pa.Table:
            try:  # without threads of its own, which a forked worker would wait for
                with (
                    parquet_file(self.files[file]) as opened,
                    pq.ParquetFile(opened, metadata=self._footers[file]) as shard,
                ):
                    return shard.read_row_group(index, columns=self.column_names, use_threads=False)
            except FileNotFoundError as error:  # it was there when the run started
                raise OSError(errno.ESTALE, "the shard is no longer there", self.files[file]) from error

        table, first = steady(read, self.files[file]), int(self.groups[group])
        return dict(enumerate(viewed_rows(table), start=first))


def _read(file: str, read: Callable[[Any], Any]) -> Any:
    """What pyarrow reads of a local or remote file."""

    def once() -> Any:
        with parquet_file(file) as opened:
            return read(opened)

    return steady(once, file)


class StreamBatchSampler(Sampler[list[int]]):
    """Yields this rank's batches, lists of indices whose images share a bin, in an order that reads row groups once.

    Row groups are dealt to the ranks in rounds, one a rank, so that the ranks hold nearly as many images of every bin
    after each round (`deal`). Row groups that make no whole round are dealt row by row. In an epoch the rounds start at
    another place and are shuffled in blocks, and the rows of `window` row groups are mixed.

    On all ranks the batches have the same bins in the same order: a rank's images of a bin are cut evenly into as many
    batches as the rank with most of them needs, and a batch is due when every rank has read its last image. So every
    image comes once per epoch; a rank with fewer images of a bin than batches repeats one, as a `Repeat`
    (`load.repeats`). The order follows from (seed, epoch, ranks), and not from workers.

    Args:
        bin_ids: (N,) bin of each image; images with -1 are left out.
        groups: first row of each row group, and N.
        batch_size: Images per rank and step: one number, or one per bin.
        bin_tokens: (K,) patches per image of each bin. With it, epoch 0 of a shuffled order opens with a batch of most
            tokens, so that running out of memory shows at once.
        shuffle: Draw a new order each epoch; else row groups in their order.
        seed: Seed of the order.
        window: Row groups of a rank whose rows are mixed.
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
        window: int = 4,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.rank, self.world_size = process(rank, world_size)
        self.bin_ids, self.shuffle, self.seed, self.window = np.asarray(bin_ids, np.int64), shuffle, seed, window
        self.batch_sizes = per_bin(batch_size, self.bin_ids)
        self.epoch, kinds = 0, len(self.batch_sizes)
        self._bounds = np.asarray(groups, np.int64)
        self._tokens = np.ones(kinds, np.int64) if bin_tokens is None else np.asarray(bin_tokens)[:kinds]
        self._first = np.array([np.argmax(self.bin_ids == b) for b in range(kinds)])
        order = np.arange(len(self._bounds) - 1)
        if shuffle:
            order = np.random.default_rng(seed).permutation(order)
        whole = len(order) - len(order) % self.world_size
        counts = self._group_counts()
        self._rounds = deal(counts[order[:whole]], self.world_size, self._tokens, order[:whole])
        self._counts = counts[self._rounds].sum(0)
        self._rest = self._deal_rows(order[whole:])
        self._batches = -(-self._counts.max(0) // self.batch_sizes)
        self._open_with_largest = shuffle and bin_tokens is not None

    @property
    def order(self) -> dict[str, Any]:
        """What the order of the epochs follows from, ready for JSON: the split into ranks too."""
        dealt = {"ranks": self.world_size, "window": self.window, "row groups": len(self._bounds) - 1}
        return {**order_of(self.bin_ids, self.seed), "images of a batch": np.unique(self.batch_sizes).tolist(), **dealt}

    @property
    def load(self) -> Load:
        """How evenly an epoch loads the ranks."""
        slots = (np.maximum(self._counts.max(0), self._batches) * self._tokens).sum() * self.world_size
        return Load(
            steps=len(self),
            images=int(self._counts.sum()),
            repeats=int(np.maximum(self._batches - self._counts, 0).sum()),
            idle_share=float(1 - (self._counts * self._tokens).sum() / slots),
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is yielded. Calling it again with the same epoch changes nothing."""
        self.epoch = epoch

    def __len__(self) -> int:
        return int(self._batches.sum())

    def __iter__(self) -> Iterator[list[int]]:
        """Batches in the order in which they are due: when the last rank has read the last image of its piece."""
        pieces, bins = self._batches, np.repeat(np.arange(len(self._batches)), self._batches)
        due, longest = np.zeros((2, len(bins)))
        mine: list[list[int]] = []
        rounds = self._order_of_rounds()
        for rank in range(self.world_size):
            rows = self._reading_order(rank, rounds)
            places = np.argsort(self.bin_ids[rows], kind="stable")
            by_bin = np.split(places, np.cumsum(self._counts[rank])[:-1])
            cut = [
                piece(own, k, n) if len(own) else own for own, n in zip(by_bin, pieces, strict=True) for k in range(n)
            ]
            due = np.maximum(due, [own[-1] / len(rows) if len(own) else 0 for own in cut])
            longest = np.maximum(longest, [len(own) for own in cut])
            if rank == self.rank:
                numbers = [k for n in pieces for k in range(n)]
                mine = [
                    [Repeat(self._first[b])]
                    if not len(own)
                    else rows[own].tolist()
                    if k < self._counts[rank, b]
                    else [Repeat(row) for row in rows[own].tolist()]
                    for own, b, k in zip(cut, bins, numbers, strict=True)
                ]
        order = np.argsort(due, kind="stable")
        if self._open_with_largest and self.epoch == 0:
            largest = int((longest * self._tokens[bins])[order].argmax())
            order[[0, largest]] = order[[largest, 0]]
        for index in order:
            yield mine[index]

    def _order_of_rounds(self) -> Array:
        """The rounds of this epoch, the same for all ranks.

        Rounds that follow each other were dealt to even out, so they stay near each other: a start is drawn, and
        blocks of rounds are shuffled within.
        """
        rounds = np.arange(len(self._rounds))
        if not self.shuffle or not len(rounds):
            return rounds
        rng = np.random.default_rng([self.seed, self.epoch])
        rounds = np.roll(rounds, -int(rng.integers(len(rounds))))
        return np.concatenate([rng.permutation(rounds[i : i + BLOCK]) for i in range(0, len(rounds), BLOCK)])

    def _reading_order(self, rank: int, rounds: Array) -> Array:
        """The rows of a rank in the order in which they are read."""
        groups = self._rounds[rounds, rank]
        rng = np.random.default_rng([self.seed, self.epoch, rank])
        rows = [np.arange(*self._bounds[group : group + 2]) for group in groups]
        starts = range(0, len(rows), self.window)
        windows = [np.concatenate(rows[start : start + self.window]) for start in starts] + [self._rest[rank]]
        order = np.concatenate([rng.permutation(part) if self.shuffle else part for part in windows])
        return order[self.bin_ids[order] >= 0]

    def _group_counts(self) -> Array:
        """(row groups, K) images of each bin."""
        groups, kinds = len(self._bounds) - 1, len(self.batch_sizes)
        group = np.repeat(np.arange(groups), np.diff(self._bounds))
        used = self.bin_ids >= 0
        cells = np.bincount(group[used] * kinds + self.bin_ids[used], minlength=groups * kinds)
        return cells.reshape(groups, kinds)

    def _deal_rows(self, groups: Array) -> list[Array]:
        """The rows of some row groups, each to the rank with the fewest images of its bin, then tokens; counts them."""
        dealt: list[list[int]] = [[] for _ in range(self.world_size)]
        load = self._counts @ self._tokens
        for group in groups:
            for row in range(*self._bounds[group : group + 2]):
                if (kind := self.bin_ids[row]) >= 0:
                    rank = int(np.lexsort((load, self._counts[:, kind]))[0])
                    dealt[rank].append(row)
                    self._counts[rank, kind] += 1
                    load[rank] += self._tokens[kind]
        return [np.array(rows, np.int64) for rows in dealt]


BLOCK = 16  # rounds that are shuffled


def deal(counts: Array, world_size: int, bin_tokens: Array, order: Array) -> Array:
    """Deal row groups to ranks in rounds, one a rank, so that after each round the ranks are even.

    In each round the assignment is the one (Hungarian algorithm) of least squared deviation of the ranks' images from
    the mean, summed over bins with a weight of tokens over images: a bin's tokens that a rank has too many of are time
    that all others wait. Three more passes exchange the row groups of each round once all are dealt.

    Args:
        counts: (row groups, K) images of each bin, whole rounds of them.
        world_size: row groups of a round.
        bin_tokens: (K,).
        order: (row groups,) what is returned in place of the rows of `counts`.

    Returns:
        (rounds, world_size), each of `order` once.
    """
    rounds = np.arange(len(counts)).reshape(-1, world_size)
    if world_size == 1 or not len(rounds):
        return order[rounds]
    weights = bin_tokens / np.maximum(counts.sum(0), 1)
    excess = (counts - counts.mean(0)) * np.sqrt(weights / weights.mean())  # weighted once, for plain products below
    total = np.zeros((world_size, counts.shape[1]))
    for again in range(4):
        for place, groups in enumerate(rounds):
            if again:
                total -= excess[groups]
            rounds[place] = groups[linear_sum_assignment(total @ excess[groups].T)[1]]
            total += excess[rounds[place]]
    return order[rounds]
