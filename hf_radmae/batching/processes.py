"""Work on many images in processes of one thread each, started afresh and not forked.

A process that is forked after torch used threads in its parent waits for ever in its first torch operation of any
size: the threads were not copied, the locks that they held were.
"""

from __future__ import annotations

import multiprocessing as mp
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

Map = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]


@contextmanager
def processes(count: int) -> Iterator[Map]:
    """A `map` over `count` processes, in this one where `count` is 1. Function and items are pickled.

    The calling script needs the usual `if __name__ == "__main__":`.
    """
    if count <= 1:
        yield lambda function, items: [function(item) for item in items]
        return
    with ProcessPoolExecutor(count, mp.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield lambda function, items: list(pool.map(function, items, chunksize=max(1, len(items) // (4 * count))))
