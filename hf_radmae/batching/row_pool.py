"""Rows that were read with their row group and wait for their turn, shared by all loader workers of a process.

Whichever worker first needs a row of a group reads the group once; the other rows wait in shared memory until some
worker takes them. So a group is read once for any number of workers, and what waits is bounded in bytes.
"""

from __future__ import annotations

import io
import mmap
import multiprocessing as mp
import pickle
import time
from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

Buffer = bytes | memoryview

PAGE = 2**18  # bytes; a row takes whole pages, chained


class RowPool:
    """A bounded store of rows in memory that forked workers share.

    Processes that were not forked from the one that made the pool get an empty pool of their own: right, but they read
    groups that others have read. Memory is taken when rows come, and given back when no row waits.

    Args:
        rows, groups: how many there are in the data set.
        capacity: bytes of waiting rows at most. Where they do not fit, the oldest are dropped, and read again with
            their group when their turn comes.

    Attributes:
        reads: groups that were read, by all processes together.
    """

    def __init__(self, rows: int, groups: int, capacity: int):
        self._sizes = rows, groups, capacity
        self._lock = mp.Lock()
        self._pages = max(capacity // PAGE, 1)
        self._store = mmap.mmap(-1, self._pages * PAGE)
        self._next = _shared(self._pages, np.int32)  # page that follows in a row or in the free list, + 1
        self._first = _shared(rows, np.int32)  # first page of a waiting row, + 1; 0 where none waits
        self._length = _shared(rows, np.int32)
        self._reading = _shared(groups, np.int8)
        self._queue = _shared(4 * rows + 1, np.int32)  # rows in the order in which they came
        # Fresh pages begin here; first page of the free list + 1; pages in use; both ends of the queue; reads.
        self._state = _shared(6, np.int64)

    def __reduce__(self):
        return RowPool, self._sizes

    @property
    def reads(self) -> int:
        return int(self._state[5])

    @property
    def used_bytes(self) -> int:
        """Bytes of shared memory that waiting rows take."""
        return int(self._state[2]) * PAGE

    def take(self, row: int, group: int, read: Callable[[], Mapping[int, Any]]) -> Any:
        """The row, which no longer waits then.

        Args:
            row, group: its number, and that of its group.
            read: gives all rows of the group.
        """
        while True:
            with self._lock:
                if self._first[row]:
                    pages = self._chain(row)
                    self._first[row] = 0
                    break
                if not self._reading[group]:
                    self._reading[group] = 1
                    return self._read(row, group, read)
            time.sleep(0.001)  # another worker reads the group
        left = int(self._length[row])
        with memoryview(self._store) as store:
            content = b"".join(
                store[page * PAGE : page * PAGE + min(PAGE, left - number * PAGE)] for number, page in enumerate(pages)
            )
        with self._lock:
            self._free(pages)
        return _unpacked(content)

    def _read(self, row: int, group: int, read: Callable[[], Mapping[int, Any]]) -> Any:
        self._lock.release()  # reading takes long; `take` holds the lock in a `with`
        try:
            rows = read()
            for other, value in rows.items():
                if other != row and not self._first[other]:
                    self._put(other, _packed(value))
        finally:
            self._lock.acquire()
            self._reading[group] = 0
        self._state[5] += 1
        return _unpacked(b"".join(_packed(rows[row])))  # what is returned does not keep the group in memory

    def _put(self, row: int, parts: list[Buffer]) -> None:
        length = sum(len(part) for part in parts)
        count = -(-length // PAGE)
        if count > self._pages:
            return
        with self._lock:
            pages = [self._page() for _ in range(count)]
        written = 0
        for part in parts:
            start = 0
            while start < len(part):
                page, place = divmod(written, PAGE)
                piece = part[start : start + PAGE - place]
                place += pages[page] * PAGE
                self._store[place : place + len(piece)] = piece
                start, written = start + len(piece), written + len(piece)
        with self._lock:
            for page, following in zip(pages, [*pages[1:], -1], strict=True):
                self._next[page] = following + 1
            self._length[row], self._first[row] = length, pages[0] + 1
            while (self._state[4] + 1 - self._state[3]) >= len(self._queue):
                self._drop_oldest()
            self._queue[self._state[4] % len(self._queue)] = row
            self._state[4] += 1

    def _page(self) -> int:
        """A page that nothing uses; the oldest rows make room."""
        while not self._state[1] and self._state[0] == self._pages:
            self._drop_oldest()
        self._state[2] += 1
        if self._state[1]:
            page = int(self._state[1]) - 1
            self._state[1] = self._next[page]
        else:
            page = int(self._state[0])
            self._state[0] += 1
        return page

    def _drop_oldest(self) -> None:
        if self._state[3] == self._state[4]:
            raise MemoryError(f"a pool of {self._pages * PAGE:,} bytes is too small for the rows being read")
        row = int(self._queue[self._state[3] % len(self._queue)])
        self._state[3] += 1
        if self._first[row]:
            pages = self._chain(row)
            self._first[row] = 0
            self._free(pages)

    def _chain(self, row: int) -> list[int]:
        page, pages = int(self._first[row]), []
        while page:
            pages.append(page - 1)
            page = int(self._next[page - 1])
        return pages

    def _free(self, pages: list[int]) -> None:
        for page in pages:
            self._next[page] = self._state[1]
            self._state[1] = page + 1
        self._state[2] -= len(pages)
        if not self._state[2]:
            self._state[:5] = 0
            if hasattr(mmap, "MADV_REMOVE"):
                self._store.madvise(mmap.MADV_REMOVE)


def _packed(value: Any) -> list[Buffer]:
    """A value as bytes in pieces: lengths, its pickle, and the views that it holds, which are not copied."""
    views: list[memoryview] = []
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol=5, buffer_callback=lambda view: views.append(view.raw()))
    pickler.dispatch_table = {memoryview: lambda view: (memoryview, (pickle.PickleBuffer(view),))}
    pickler.dump(value)
    parts: list[Buffer] = [file.getvalue(), *views]
    lengths = np.array([len(parts), *map(len, parts)], np.int64)
    return [lengths.tobytes(), *parts]


def _unpacked(content: bytes) -> Any:
    """What `_packed` was given; its views are of `content`."""
    count = int(np.frombuffer(content, np.int64, 1)[0])
    lengths = np.frombuffer(content, np.int64, count, 8).tolist()
    ends = list(accumulate(lengths, initial=8 * (1 + count)))
    head, *views = (memoryview(content)[start:end] for start, end in pairwise(ends))
    return pickle.loads(head, buffers=views)


def _shared(length: int, dtype: Any) -> np.ndarray:
    """Zeros in memory that forked processes share."""
    return np.frombuffer(mmap.mmap(-1, max(length, 1) * np.dtype(dtype).itemsize), dtype, length)
