"""The output folder of a run: one run at a time in it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
SOCKET_NAME = 32
"""Characters that Python appends to the temporary folder for a socket of a loader worker."""
SOCKET_LIMIT = 107 if os.name == "posix" else 10**6


class FolderInUseError(OSError):
    """Another run writes into the output folder."""


class RunFolder:
    """Locks an output folder while the process runs; a context manager.

    The lock goes with the process, however it ends, and its file is removed at the end. Forked children do not hold it.

    Args:
        folder: of the run; it is made.
        owner: whether this process takes the lock, the first of several.

    Raises:
        FolderInUseError: another process holds it.
    """

    def __init__(self, folder: str | Path, owner: bool = True):
        self.folder, self.owner = Path(folder), owner and fcntl is not None
        self._descriptor: int | None = None

    def __enter__(self) -> RunFolder:
        if not self.owner:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / LOCK
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                other = os.read(descriptor, 100).decode(errors="replace").strip()
                os.close(descriptor)
                raise FolderInUseError(
                    f"{self.folder} is in use by another run (process {other or 'unknown'}): wait for its end, or give "
                    "another --output_dir"
                ) from None
            if path.exists() and os.path.samestat(os.stat(path), os.fstat(descriptor)):
                break
            os.close(descriptor)  # the run that held it has just removed it
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        self._descriptor = descriptor
        os.register_at_fork(after_in_child=self._close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            (self.folder / LOCK).unlink(missing_ok=True)
            self._close()

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
