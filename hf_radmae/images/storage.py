"""Storage that fails is not a damaged image: read again after a pause, then an error that ends the run.

A network mount that stalls answers with EIO, ESTALE or ENOTCONN for whole, healthy files. Such an answer must never
become an entry in a list of unusable images. Readers wrap what the system says in errors of their own, so that
`storage_fault` looks through the chain of causes.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

Result = TypeVar("Result")

PAUSES = (0.2, 1.0, 5.0)
"""Seconds between the attempts; a mount that comes back within them is not noticed."""
_NUMBERS = {
    number
    for name in (
        *("EIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH"),
        *("ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EREMOTEIO", "ENODEV", "ENXIO", "ENOLINK", "ESHUTDOWN"),
        *("EMFILE", "ENFILE", "ENOMEM"),  # this process or machine is short of something: no fault of the file either
    )
    if (number := getattr(errno, name, None)) is not None
}


class StorageError(OSError):
    """The storage does not answer: no statement about the file that was asked for."""


def storage_fault(error: BaseException | None) -> OSError | None:
    """The system's answer behind an error that says that storage failed, None where the file itself is at fault."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, StorageError) or (isinstance(error, OSError) and error.errno in _NUMBERS):
            return error
        if isinstance(error, FileNotFoundError) and error.filename is not None and _mount_is_gone(error.filename):
            return error
        error = error.__cause__ or error.__context__
    return None


def steady(function: Callable[[], Result], name: str, pauses: tuple[float, ...] | None = None) -> Result:
    """The function's result, asked for again after each pause while storage fails.

    Args:
        function: reads something; it may be called several times.
        name: of what is read, for the error.
        pauses: seconds to wait before each further attempt, `PAUSES` by default.

    Raises:
        StorageError: storage failed at every attempt. It ends the run.
        Exception: whatever else the function raises, at once.
    """
    pauses = PAUSES if pauses is None else pauses
    for pause in (*pauses, None):
        try:
            return function()
        except Exception as error:
            if isinstance(error, StorageError):
                raise
            fault = storage_fault(error)
            if fault is None:
                raise
            if pause is None:
                raise StorageError(
                    fault.errno,
                    f"the storage does not answer ({fault.strerror or fault}) after {len(pauses) + 1} attempts in "
                    f"{sum(pauses):g} s. No image is listed as damaged for this; see to the mount, then start the "
                    "same command again",
                    name,
                ) from error
        time.sleep(pause)
    raise AssertionError("unreachable")


def _mount_is_gone(path: object) -> bool:
    """True where a missing file's folder is missing too, and the closest one that exists is empty: a mount point."""
    try:
        parent = Path(os.fsdecode(path)).absolute().parent  # type: ignore[arg-type]  # what open() was given
        if parent.exists():
            return False
        while not parent.exists():
            parent = parent.parent
        with os.scandir(parent) as entries:
            return parent != parent.parent and next(entries, None) is None
    except (OSError, TypeError, ValueError):
        return False


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A file that is there whole or not at all, after a power cut too: write to the path that is given.

    It lies beside `path` under a hidden name and takes its place when the block ends. An error leaves `path` as it was.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{uuid4().hex}")  # machines of a cluster share process numbers
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: str | Path, text: str) -> None:
    """Write a text in UTF-8, see `whole_file`."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
