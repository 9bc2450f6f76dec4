"""The output folder of a run: one run at a time in it."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType

from hf_radmae.images.remote import is_url

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LOCK = ".lock"
_IS_FILE = (FileExistsError, NotADirectoryError)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
SOCKET_NAME = 32
"""Characters that Python appends to the temporary folder for a socket of a loader worker."""
SOCKET_LIMIT = 107 if os.name == "posix" else 10**6


class FolderInUseError(OSError):
    """Another run writes into the output folder."""


class RunFolder:
    """Locks an output folder while the process runs; a context manager.

    The lock goes with the process, however it ends, and its file, which holds process number and time and no name of
    the machine, is removed at the end. Forked children do not hold it. On a file system without locks a warning says
    so, and the run continues. Remote storage has no locks: two runs write the same files there, each whole.

    Args:
        folder: of the run; it is made.
        owner: whether this process takes the lock, the first of several.

    Raises:
        FolderInUseError: another process holds it.
        OSError: the folder cannot be made or written in; with its name.
    """

    def __init__(self, folder: str | Path, owner: bool = True):
        self.folder, self.owner = Path(folder), owner and fcntl is not None and not is_url(folder)
        self._descriptor: int | None = None
        self._made = False

    def __enter__(self) -> RunFolder:
        if not self.owner:
            return self
        path, self._made = self.folder / LOCK, not self.folder.exists()
        while True:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                reason = "it or a folder above it is a file" if isinstance(error, _IS_FILE) else error.strerror
                text = f"the output folder cannot be written in: {reason}"
                raise OSError(error.errno, text, str(self.folder)) from None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                other = os.read(descriptor, 100).decode(errors="replace").strip()
                os.close(descriptor)
                raise FolderInUseError(
                    f"{self.folder} is in use by another run (process {other or 'unknown'}): wait for its end, or give "
                    "another --output_dir"
                ) from None
            except OSError as error:
                os.close(descriptor)
                path.unlink(missing_ok=True)
                if error.errno not in _NO_LOCKS:
                    raise
                logger.warning(
                    "the file system of %s has no locks (%s): see to it that no other run writes there",
                    self.folder,
                    error.strerror,
                )
                return self
            if path.exists() and os.path.samestat(os.stat(path), os.fstat(descriptor)):
                break
            os.close(descriptor)  # the run that held it has just removed it
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}, since {datetime.now().astimezone():%Y-%m-%d %H:%M %z}".encode())
        self._descriptor = descriptor
        os.register_at_fork(after_in_child=self._close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            (self.folder / LOCK).unlink(missing_ok=True)
            self._close()
            if self._made:  # and left empty, by an error before the first file
                with suppress(OSError):
                    self.folder.rmdir()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def check_temporary_folder(num_workers: int) -> None:
    """Check that loader workers can reach this process through sockets in the temporary folder.

    Raises:
        ValueError: its path is too long for a socket; without this check the run would wait for ever.
    """
    path = tempfile.gettempdir()
    if num_workers and len(os.fsencode(path)) + SOCKET_NAME > SOCKET_LIMIT:
        raise ValueError(
            f"TMPDIR is {path}: with {len(os.fsencode(path))} bytes it is too long for the sockets of loader workers, "
            f"which take at most {SOCKET_LIMIT - SOCKET_NAME}. Set TMPDIR to a short path such as /tmp, or give "
            "--dataloader_num_workers 0"
        )
