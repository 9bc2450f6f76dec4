"""Processes for work on many images: started afresh, never forked, of one torch thread each.

A process that is forked after torch used threads in its parent waits for ever in its first torch operation of any
size: the threads were not copied, the locks that they held were. So the package starts its processes here, and leaves
`num_proc` of `datasets`, which forks, alone.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

from hf_radmae.images.remote import add_credentials, credentials

Map = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]


def in_this_process(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """What `processes` gives for one process."""
    return [function(item) for item in items]


@contextmanager
def processes(count: int) -> Iterator[Map]:
    """A `map` over `count` processes, in this one where `count` is 1. Function and items are pickled.

    The calling script needs the usual `if __name__ == "__main__":`.
    """
    if count <= 1:
        yield in_this_process
        return
    with process_pool(count) as pool:
        yield lambda function, items: list(pool.map(function, items, chunksize=max(1, len(items) // (4 * count))))


def process_pool(count: int) -> ProcessPoolExecutor:
    """An executor of `count` processes, which end with this one, even if it is killed, and know its storages."""
    return ProcessPoolExecutor(count, mp.get_context("spawn"), initializer=_begin, initargs=(credentials(),))


def _begin(known: dict[str, dict[str, str]]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # of a torch that is imported later, if at all
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    add_credentials(known)

    def end_with_parent() -> None:
        parent = mp.parent_process()
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
