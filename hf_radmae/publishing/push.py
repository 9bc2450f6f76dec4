"""Pushes of a folder to the Hub: through the gate, private, in one commit that is there whole or not at all.

Each file is written anew just before it is sent, one after the other, so that what goes is what the gate has looked at
and one large file at most stands twice on the disk. Large files go first and belong to nothing until the commit names
them. So a push that is cut off leaves the repository as it was, and the same push again sends only what is missing.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError

from hf_radmae.publishing.gate import (
    Entry,
    Finders,
    Kind,
    Statement,
    check_license,
    listing,
    matches,
    refusals,
    review,
    text_refusals,
)
from hf_radmae.publishing.private import Private

logger = logging.getLogger(__name__)

T = TypeVar("T")
# Files of an earlier push that a new one may not have any more, and that would be read with the new ones.
_NUMBERED = {"model": ("model*.safetensors", "model.safetensors.index.json"), "dataset": ("data/*.parquet",)}
_PASSING = {408, 429, 500, 502, 503, 504}


class PushError(RuntimeError):
    """Nothing was pushed; the text says why and what to do."""


class Pusher:
    """Pushes folders to one repository, at once or in the background.

    Args:
        repo_id: "owner/name", or "name" of the token's owner.
        kind: "model" or "dataset".
        private: whether the repository is to be seen by its owner only. One that is public already is refused then.
        statement: see `gate.review`; a data set needs it.
        license: of a model's weights, for its card; of a data set it is in the statement.
        revision: the branch, main by default.
        allow: see `contents.Guard`: hashes of what a person has looked at and allowed.
        finders: see `deid`.
        api: of the Hub; by default with the token of the environment or of `hf auth login`.
        attempts: of each step before the push is given up for a failure that may pass.
        pause: seconds before the second attempt, doubled before each further one.
    """

    def __init__(
        self,
        repo_id: str,
        *,
        kind: Kind = "model",
        private: bool = True,
        statement: Statement | None = None,
        license: str | None = None,
        revision: str | None = None,
        allow: Collection[str] = (),
        finders: Finders | None = None,
        api: HfApi | None = None,
        attempts: int = 5,
        pause: float = 2.0,
    ):
        self.repo_id, self.kind, self.private, self.statement = repo_id, kind, private, statement
        self.revision, self.api, self.attempts, self.pause = revision, api or HfApi(), attempts, pause
        self.allow, self.finders, self.license = allow, finders or Finders(), license and check_license(license)
        self._job: Future[None] | None = None

    def open(self) -> str:
        """Create the repository where it is not there yet, and return its full id.

        Raises:
            PushError: the token is refused, or the repository is public and must not be.
        """
        api, kind = self.api, self.kind
        self.repo_id = self._try(
            lambda: api.create_repo(self.repo_id, repo_type=kind, private=self.private, exist_ok=True).repo_id
        )
        if self.private and not self._try(lambda: api.repo_info(self.repo_id, repo_type=kind)).private:
            raise PushError(
                f"{self.repo_id} is there already and is public: push to another repository, make this one private, or "
                "say that it may be public"
            )
        return self.repo_id

    def review(self, folder: str | Path) -> list[Entry]:
        """What would become of each file, see `gate.review`; the network is not asked."""
        options: dict[str, Any] = {"allow": self.allow, "repo_id": self.repo_id, "finders": self.finders}
        options["license"] = self.license
        return review(folder, self.kind, self._names, self.statement, **options)

    def refusals(self, entries: Sequence[Entry], message: str = "") -> list[str]:
        """Why nothing may be pushed: of the files, and of the texts beside them."""
        is_seen = self.finders.pixels is not None
        texts = {
            "the message of the commit": message,
            "the name of the repository": self.repo_id.rpartition("/")[2],
            "the name of the branch": self.revision or "",
            "the sentence on de-identification": self.statement.deidentification if self.statement else "",
        }
        found = refusals(entries, self.kind, self.statement, is_seen)
        return found + text_refusals(texts, self._names, self.allow)

    @property
    def _names(self) -> Private:
        """Names of this machine; who owns the repository is no secret."""
        return Private.of_this_machine(public=self.repo_id.rpartition("/")[0])

    def push(self, folder: str | Path, message: str) -> CommitInfo:
        """Push a folder in one commit; call `open` first.

        Raises:
            PushError: the gate refuses a file, or the Hub refuses the push. The repository is as it was.
        """
        return self._send(self._passed(folder, message), message)

    def push_in_background(self, folder: str | Path, message: str) -> None:
        """Push a folder while the program runs on, which may delete the folder meanwhile.

        A failure is logged and ends nothing: what is pushed during training is pushed again later.
        """
        folder = Path(folder)
        staged = folder.parent / f".push-{folder.name}" / folder.name
        shutil.rmtree(staged.parent, ignore_errors=True)
        try:
            for entry in self._passed(folder, message):
                _link(folder / entry.path, staged / entry.path)
        except Exception as error:  # of whatever kind, as in the push itself
            logger.error("No push in the background: %s", error)
            return
        self._job = self.api.run_as_future(self._send_staged, staged, message)

    @property
    def is_busy(self) -> bool:
        """Whether a push in the background is under way."""
        return self._job is not None and not self._job.done()

    def finish(self) -> None:
        """Wait for the push in the background."""
        if self._job is not None:
            wait([self._job])

    def _passed(self, folder: str | Path, message: str) -> list[Entry]:
        entries = self.review(folder)
        if found := self.refusals(entries, message):
            raise PushError("nothing was pushed:\n  " + "\n  ".join(found) + f"\nAll files:\n{listing(entries)}")
        return [entry for entry in entries if entry.is_pushed]

    def _send(self, entries: Sequence[Entry], message: str) -> CommitInfo:
        api = self.api
        where: dict[str, Any] = {"repo_type": self.kind, "revision": self.revision}
        there = self._try(lambda: api.list_repo_files(self.repo_id, **where))
        names = {entry.path for entry in entries}
        old = [name for name in there if name not in names and any(matches(name, p) for p in _NUMBERED[self.kind])]
        operations: list[CommitOperationAdd | CommitOperationDelete] = [CommitOperationDelete(name) for name in old]
        with TemporaryDirectory(prefix="push-") as work:
            for entry in entries:
                operations.append(self._sent_ahead(entry, Path(work, entry.path), where))
            return self._try(lambda: api.create_commit(self.repo_id, operations, commit_message=message, **where))

    def _sent_ahead(self, entry: Entry, file: Path, where: dict[str, Any]) -> CommitOperationAdd:
        """A file written anew, and sent if it is a large one; small ones go with the commit."""

        def write() -> CommitOperationAdd:
            entry.write(file)
            return CommitOperationAdd(entry.path, str(file))

        addition = self._try(write)
        self._try(lambda: self.api.preupload_lfs_files(self.repo_id, [addition], **where))
        if not addition.path_or_fileobj:  # it was sent, and huggingface_hub lets go of it
            file.unlink()
        return addition

    def _send_staged(self, staged: Path, message: str) -> None:
        try:
            self._send(self._passed(staged, message), message)
        except Exception as error:  # of whatever kind: training continues, and this thread has no one else to tell
            logger.error("The push in the background failed: %s", error)
        finally:
            shutil.rmtree(staged.parent, ignore_errors=True)

    def _try(self, step: Callable[[], T]) -> T:
        """Run a step, again after a pause where the failure may pass, and say what a failure means."""
        for attempt in range(1, self.attempts + 1):
            try:
                return step()
            except (HTTPError, OSError, ValueError, RuntimeError) as error:
                # huggingface_hub wraps what ends the upload of a large file in a RuntimeError.
                cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error
                if attempt == self.attempts or not _may_pass(cause):
                    raise PushError(f"{self.repo_id}: {_meaning(cause)}. {_AGAIN}\n{cause}") from error
                logger.warning("Push to %s, attempt %d: %s", self.repo_id, attempt, str(cause).strip().splitlines()[0])
            time.sleep(self.pause * 2 ** (attempt - 1))
        raise AssertionError("attempts is at least 1")


_AGAIN = "The repository is as it was; the same push again sends what is missing"
_MEANINGS = {
    401: "the Hub refuses the token (401): run `hf auth login`, or set HF_TOKEN to a token that may write",
    403: "the token may not write here (403): take one with the permission to write to this repository",
    404: "the Hub knows no such repository or branch, or does not show it to this token (404)",
    413: "the Hub has no room left for this push (413): free space in the account, or push less",
    507: "the Hub has no room left for this push (507): free space in the account, or push less",
}


def _status(error: BaseException) -> int | None:
    """The Hub's answer behind an error, None where there was none."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _may_pass(error: BaseException) -> bool:
    """Whether another attempt may succeed: the network failed, or the Hub is busy."""
    return isinstance(error, HTTPError) and (_status(error) is None or _status(error) in _PASSING)


def _meaning(error: BaseException) -> str:
    """What an error means for whoever pushes."""
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no token: run `hf auth login`, or set HF_TOKEN"
    if isinstance(error, HTTPError):
        status = _status(error)
        return _MEANINGS.get(status or 0, f"the Hub answers {status}" if status else "the Hub cannot be reached")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk of this machine is full"
    return "the push was not taken"  # the card's metadata, or the storage of large files


def _link(source: Path, target: Path) -> None:
    """A second name for a file, so that it outlives the first; a copy where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
