"""What the processes of one run do together: deal out work, and give to all what each has found.

Objects travel through a group of their own on the processor (gloo), whatever the devices: they take no memory of a GPU,
a process that has ended is noticed at once, and waiting for a slower one may take days.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import parse_flag_from_env
from torch.utils.data import DataLoader
from transformers import TrainingArguments

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long a process waits for another one that lives."""
ROUND = 16
"""Items of each process that are handed over at once by `interleaved`."""
VISIBLE = 120.0
"""Seconds within which storage shows a file to every process."""
_LAUNCHERS: tuple[str, ...] = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "PMI_SIZE", "PMI_RANK")
_LAUNCHERS += ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK")
_LAUNCHERS += ("ACCELERATE_USE_FSDP",)


class OtherProcessError(RuntimeError):
    """Another process of the run has failed; that one says why."""


def this_process() -> PartialState:
    """Accelerate's state, with the device of this process; upstream's alone does not read ACCELERATE_USE_CPU."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def rank_and_size() -> tuple[int, int]:
    """Number of this process, and how many there are."""
    state = this_process()
    return state.process_index, state.num_processes


def is_main() -> bool:
    """Whether this is the first process, or the only one."""
    return rank_and_size()[0] == 0


def dealt(items: Sequence[T]) -> Sequence[T]:
    """Every n-th item of n processes, from the number of this process on."""
    rank, size = rank_and_size()
    return items[rank::size]


def gathered(value: T) -> list[T]:
    """The value of each process, by its number; every process calls it and gets all.

    Raises:
        OtherProcessError: a process has ended.
    """
    size = rank_and_size()[1]
    if size == 1:
        return [value]
    found: list[Any] = [None] * size
    _talk(torch.distributed.all_gather_object, found, value)
    return found


def on_main(value: T) -> list[T] | None:
    """The value of each process, by its number, on the first process; None on the others. Every process calls it.

    Raises:
        OtherProcessError: a process has ended.
    """
    rank, size = rank_and_size()
    if size == 1:
        return [value]
    found: list[Any] | None = [None] * size if rank == 0 else None
    _talk(torch.distributed.gather_object, value, found, 0)
    return found


def from_main(function: Callable[[], T]) -> T:
    """What a function gives on the first process, which alone calls it; every process gets that.

    Raises:
        OtherProcessError: it failed there, or a process has ended. The first process raises the error itself.
    """
    rank, size = rank_and_size()
    if size == 1:
        return function()
    _group()  # made before the function is waited for
    outcome: list[Any] = [None, False]
    error = None
    if rank == 0:
        try:
            outcome = [function(), False]
        except Exception as caught:
            outcome, error = [None, True], caught
    _talk(torch.distributed.broadcast_object_list, outcome, 0)
    if error is not None:
        raise error
    if outcome[1]:
        raise OtherProcessError("process 0 has failed")
    return outcome[0]


def main_first(function: Callable[[], T]) -> T:
    """What a function gives on each process; those that call it later find what it has cached.

    The first process calls it first, then the first one of each machine, whose cache may be another, then all others.

    Raises:
        OtherProcessError: as `from_main`.
    """
    found: list[T] = []
    from_main(lambda: found.append(function()))
    of_machine = this_process().local_process_index == 0
    for turn in (True, False):
        if not found and of_machine == turn:
            found.append(function())
        gathered(None)
    return found[0]


def wait_until_seen(path: str | Path) -> None:
    """Waits until a file that another process has written is there for this one too.

    Network storage may show a new file to another machine a minute late.

    Raises:
        FileNotFoundError: it is not seen within `VISIBLE` seconds: the processes do not share the folder.
    """
    path = Path(path)
    end = time.monotonic() + VISIBLE
    while not path.exists():
        if time.monotonic() > end:
            raise FileNotFoundError(
                f"process {rank_and_size()[0]} does not see {path} {VISIBLE:g} s after it was written: all processes "
                "need an --output_dir on storage that they share"
            )
        time.sleep(0.2)
        if path.parent.exists():
            os.listdir(path.parent)  # makes NFS ask the server again


def interleaved(items: Iterable[T]) -> Iterator[T]:
    """The items of all processes on each of them, in turns: those that were `dealt` come in their order again.

    Raises:
        OtherProcessError: a process has ended, or its items ended with an error, which it raises itself.
    """
    if rank_and_size()[1] == 1:
        yield from items
        return
    own, error = iter(items), None
    while True:
        part: list[T] = []
        try:
            part.extend(islice(own, ROUND))
        except Exception as caught:
            error = caught
        found = gathered((part, error is not None))
        if error is not None:
            raise error
        if failed := [rank for rank, (_, failure) in enumerate(found) if failure]:
            raise OtherProcessError(f"process {failed[0]} has failed")
        parts = [part for part, _ in found]
        yield from (part[turn] for turn in range(ROUND) for part in parts if turn < len(part))
        if all(len(part) < ROUND for part in parts):
            return


def own_batches(loader: Iterable[T]) -> Iterable[T]:
    """A `DataLoader` of this process's share of the batches, where all processes were given the same; else the loader.

    Whole batches are dealt, so that what is computed of a batch is the same bit for bit for any number of processes.
    """
    if rank_and_size()[1] == 1 or not isinstance(loader, DataLoader) or loader.batch_sampler is None:
        return loader
    batches = list(loader.batch_sampler)
    if len(set(gathered(hash(tuple(map(tuple, batches)))))) > 1:
        return loader  # each process has batches of its own
    names = ("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context")
    options: dict[str, Any] = {name: getattr(loader, name) for name in names}
    return DataLoader(loader.dataset, batch_sampler=dealt(batches), prefetch_factor=loader.prefetch_factor, **options)


def _talk(operation: Callable[..., Any], *arguments: Any) -> None:
    group = _group()
    try:
        operation(*arguments, group=group)
    except RuntimeError as error:  # gloo: connection closed by peer
        raise OtherProcessError("another process of this run has ended") from error


def _group() -> Any:
    return _group_within(torch.distributed.group.WORLD)


@functools.cache
def _group_within(world: Any) -> Any:
    return torch.distributed.new_group(backend="gloo", timeout=PATIENCE)


@contextmanager
def alone() -> Iterator[torch.device]:
    """Within it, Accelerate and `Trainer` take this process for the only one; gives its device.

    Each process may then train another network than the others. `TrainingArguments` made within it need
    `on_device`, since they take the first GPU that they see.
    """
    state = this_process()
    device = state.device
    if state.num_processes == 1:
        yield device
        return
    kept = {kind: dict(kind._shared_state) for kind in (PartialState, AcceleratorState, GradientState)}
    environment = {name: os.environ.pop(name) for name in _LAUNCHERS if name in os.environ}
    try:
        for kind in kept:
            kind._shared_state.clear()
        yield device
    finally:
        os.environ |= environment
        for kind, shared in kept.items():
            kind._shared_state.clear()
            kind._shared_state.update(shared)
        if device.type == "cuda":
            torch.cuda.set_device(device)


def on_device(args: TrainingArguments, device: torch.device) -> None:
    """Keeps arguments that were made `alone` to the device of this process."""
    vars(args)["_setup_devices"] = PartialState().device = device  # a cached property
    args._n_gpu = min(args._n_gpu, 1)
    if device.type == "cuda":
        torch.cuda.set_device(device)
