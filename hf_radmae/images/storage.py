"""Storage that fails is not a damaged image: read again after a pause, then an error that ends the run.

A network mount that stalls answers with EIO, ESTALE or ENOTCONN for whole, healthy files, and a store that restarts
with a refused connection. Such an answer must never become an entry in a list of unusable images. Readers wrap what the
system says in errors of their own, so that `storage_fault` looks through the chain of causes.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

if TYPE_CHECKING:
    from hf_radmae.images.remote import Place

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

PAUSES = (0.2, 1.0, 5.0)
"""Seconds between the attempts; a mount that comes back within them is not noticed."""
REMOTE_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""The same for a remote store, which may be restarted."""
_NUMBERS = {
    number
    for name in (
        *("EIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH"),
        *("ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EREMOTEIO", "ENODEV", "ENXIO", "ENOLINK", "ESHUTDOWN"),
        *("EMFILE", "ENFILE", "ENOMEM"),  # this process or machine is short of something: no fault of the file either
    )
    if (number := getattr(errno, name, None)) is not None
}


REMOTE_NUMBERS = frozenset((*_NUMBERS, errno.EBUSY))
"""The same of a remote store, which says EBUSY where it is asked too often."""


class StorageError(OSError):
    """The storage does not answer: no statement about the file that was asked for."""


class StoreFault(OSError):
    """One answer, or none, of a remote store that does not work at the moment; `steady` asks again."""


def storage_fault(error: BaseException | None) -> OSError | None:
    """The system's answer behind an error that says that storage failed, None where the file itself is at fault."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, StorageError | StoreFault) or (isinstance(error, OSError) and error.errno in _NUMBERS):
            return error
        if isinstance(error, FileNotFoundError) and error.filename is not None and _mount_is_gone(error.filename):
            return error
        error = error.__cause__ or error.__context__
    return None


def steady(function: Callable[[], Result], name: str, pauses: tuple[float, ...] | None = None) -> Result:
    """The function's result, asked for again after each pause while storage fails.

    Of a remote store it is logged once when it stops to answer, and once when it answers again.

    Args:
        function: reads something; it may be called several times.
        name: of what is read, for the error.
        pauses: seconds to wait before each further attempt; by default `PAUSES`, and `REMOTE_PAUSES` of a remote store.

    Raises:
        StorageError: storage failed at every attempt. It ends the run.
        Exception: whatever else the function raises, at once.
    """
    attempts, start, store = 0, time.monotonic(), ""
    while True:
        try:
            result = function()
        except Exception as error:
            if isinstance(error, StorageError):
                raise
            fault = storage_fault(error)
            if fault is None:
                raise
            attempts += 1
            remote = isinstance(fault, StoreFault)
            waits = pauses if pauses is not None else REMOTE_PAUSES if remote else PAUSES
            if attempts > len(waits):
                raise StorageError(
                    fault.errno,
                    f"the storage does not answer ({fault.strerror or fault}) after {attempts} attempts in "
                    f"{time.monotonic() - start:.0f} s. No image is listed as damaged for this; see to the "
                    f"{'store and the network' if remote else 'mount'}, then start the same command again",
                    name,
                ) from error
            if remote:
                store = "/".join(str(fault.filename).split("/")[:3])
                _report(store, f"does not answer ({fault.strerror}): trying again for {sum(waits):.0f} s or more")
            time.sleep(waits[attempts - 1])
        else:
            if store:
                _report(store, "answers again")
            return result


_silent: set[str] = set()
_lock = threading.Lock()


def _report(store: str, text: str) -> None:
    """Log once for all threads that a store stopped to answer, and that it answers again."""
    with _lock:
        if (text == "answers again") != (store in _silent):
            return
        _silent.symmetric_difference_update((store,))
        level = logging.WARNING if os.environ.get("RANK", "0") == "0" else logging.DEBUG
        logger.log(level, "%s %s", store, text)


def _mount_is_gone(path: object) -> bool:
    """True where a missing file's folder is missing too, and the closest one that exists is empty: a mount point."""
    if isinstance(path, str) and "://" in path:
        return False
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
def whole_file(path: str | Place) -> Iterator[Path]:
    """A file that is there whole or not at all, after a power cut too: write to the path that is given.

    It lies beside `path` under a hidden name and takes its place when the block ends. An error leaves `path` as it was.
    What belongs on remote storage is written to a local folder, and uploaded when the block ends.
    """
    if not isinstance(path, str | Path):
        with TemporaryDirectory() as folder:
            yield (partial := Path(folder, "file"))
            path.upload(partial)
        return
    path = Path(path)
    partial = path.with_name(f".{path.name}.{uuid4().hex}")  # machines of a cluster share process numbers
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: str | Place, text: str) -> None:
    """Write a text in UTF-8, see `whole_file`."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
