"""The gate before a push: only files of an allow-list go, and only after a look into each.

`review` says of every file of a folder whether it goes, goes scrubbed, stays, or is refused, and why. A file that is on
no list stays. One that is on the list and tells of a person or a machine is refused, and then nothing is pushed.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Literal

from hf_radmae.publishing.card import FIGURE
from hf_radmae.publishing.contents import scrubbed
from hf_radmae.publishing.private import Private

Kind = Literal["model", "dataset"]
Verdict = Literal["goes", "scrubbed", "stays", "refused"]

ALLOWED: dict[Kind, tuple[str, ...]] = {
    "model": (
        *("README.md", "LICENSE", "config.json", "preprocessor_config.json", "results.json", "reconstructions.png"),
        *("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
        *("model.onnx", "modeling_radiograph_vit.py"),
    ),
    "dataset": ("LICENSE", "manifest.json", "data/*-?????-of-?????.parquet"),
}
"""What may go, by kind of repository; a star stands for no slash."""

_STAYS = {
    "training_args.bin": "a pickle with the paths of this machine",
    "events.out.tfevents.*": "a log of TensorBoard, which names this machine",
    "checkpoint-*/*": "a checkpoint to resume from, with pickles",
    "*.pt": "a pickle",
    "*.pth": "a pickle",
    "*.bin": "a pickle",
    "*.pkl": "a pickle",
    "skipped.csv": "names images of the source",
    "quarantine.csv": "names images of the source",
}
_PICTURE = re.compile(r"^!\[[^\]]*\]\(([^)\s]+)\)[ \t]*\n?", re.MULTILINE)


@dataclass(frozen=True)
class Statement:
    """What whoever publishes images of people declares about them.

    Attributes:
        licence: an identifier of the Hub, such as cc-by-4.0 or other.
        deidentification: a sentence on how the images were freed of what identifies people, burnt-in text included.

    Raises:
        ValueError: one of the two says nothing.
    """

    licence: str
    deidentification: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.licence):
            raise ValueError(f"licence {self.licence!r}: expected an identifier of the Hub such as cc-by-4.0 or other")
        if len(self.deidentification.split()) < 4:
            raise ValueError(
                f"de-identification {self.deidentification!r}: say in a sentence how headers, ids and burnt-in text "
                "were freed of what identifies people"
            )


@dataclass(frozen=True)
class Entry:
    """What becomes of one file.

    Attributes:
        path: below the folder, with slashes; the same in the repository.
        verdict: see `review`.
        reason: why it is not pushed as it is; empty where it is.
        size: bytes on this machine.
        content: what goes in place of the file where it was scrubbed.
    """

    path: str
    verdict: Verdict
    reason: str
    size: int
    content: bytes | None = None

    @property
    def is_pushed(self) -> bool:
        """Whether the file, as it is or scrubbed, may go."""
        return self.verdict in ("goes", "scrubbed")


def review(folder: str | Path, kind: Kind, private: Private, statement: Statement | None = None) -> list[Entry]:
    """Look at every file of a folder that is to be pushed.

    * "goes": on the allow-list, and nothing was found in it.
    * "scrubbed": goes without the part that the reason names.
    * "stays": not on the allow-list.
    * "refused": on the list, but it tells of a person or a machine; whoever pushes has to mend it.

    Args:
        folder: a model's or a prepared data set's.
        kind: which allow-list.
        private: what must not be in a text.
        statement: needed for a data set; for a model it lets the picture of reconstructions go, which shows images of
            the training data. Pictures of generated radiographs go without.

    Returns:
        An entry per file, by path.

    Raises:
        NotADirectoryError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: there is no such folder to push")
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = [path.relative_to(folder).as_posix() for path in paths]
    entries = [_entry(folder, name, kind, private, statement) for name in names]
    pushed = {entry.path for entry in entries if entry.is_pushed}
    return [_without_pictures(folder, entry, pushed) if entry.path == "README.md" else entry for entry in entries]


def refusals(entries: Sequence[Entry], kind: Kind, statement: Statement | None = None) -> list[str]:
    """Why these entries must not be pushed: what was refused, and what a repository needs and is not there."""
    found = [f"{entry.path}: {entry.reason}" for entry in entries if entry.verdict == "refused"]
    going = {entry.path for entry in entries if entry.is_pushed}
    if kind == "model":
        needed = {"config.json": "the folder holds no model", "README.md": "make a card with scripts/card.py"}
        found += [f"no {name} goes: {why}" for name, why in needed.items() if name not in going]
    if kind == "dataset":
        if statement is None:
            found.append(
                "a data set goes only with its licence and a sentence on its de-identification: give --licence and "
                "--deidentified"
            )
        if not any(name.endswith(".parquet") for name in going) or "manifest.json" not in going:
            found.append("no manifest.json with shards in data/ goes: prepare the data set with scripts/prepare.py")
    return found


def listing(entries: Sequence[Entry]) -> str:
    """The entries as a table for people, what goes first."""
    order = ("goes", "scrubbed", "refused", "stays")
    rows = sorted(entries, key=lambda entry: (order.index(entry.verdict), entry.path))
    width = max((len(entry.path) for entry in rows), default=0)
    return "\n".join(f"{e.verdict:9} {e.size:>13,} B  {e.path:{width}}  {e.reason}".rstrip() for e in rows)


def matches(name: str, pattern: str) -> bool:
    """Whether a path below the folder fits a pattern whose stars stand for no slash."""
    parts, patterns = PurePosixPath(name).parts, PurePosixPath(pattern).parts
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _entry(folder: Path, name: str, kind: Kind, private: Private, statement: Statement | None) -> Entry:
    path = folder / name
    size = path.lstat().st_size
    if not any(matches(name, pattern) for pattern in ALLOWED[kind]):
        reasons = (
            why for pattern, why in _STAYS.items() if fnmatchcase(name, pattern) or fnmatchcase(path.name, pattern)
        )
        return Entry(name, "stays", next(reasons, "not on the list of what may go"), size)
    if path.is_symlink() or not path.is_file():
        return Entry(name, "stays", "a link, not a file", size)
    if kind == "model" and name == FIGURE and statement is None and not _is_generated(folder):
        return Entry(
            name, "stays", "shows images of the training data: it goes with --licence and --deidentified", size
        )
    try:
        content, note = scrubbed(path, folder, private)
    except ValueError as error:
        return Entry(name, "refused", str(error), size)
    return Entry(name, "scrubbed" if content is not None else "goes", note, size, content)


def _is_generated(folder: Path) -> bool:
    """Whether the results of a run say that it was on generated radiographs."""
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # the file itself is looked at in its turn
        return False
    return results.get("data", {}).get("dataset") == "phantom"


def _without_pictures(folder: Path, entry: Entry, pushed: set[str]) -> Entry:
    """The card without the pictures that stay."""
    if not entry.is_pushed:
        return entry
    text = (folder / entry.path).read_text(encoding="utf-8")
    missing = {target for target in _PICTURE.findall(text) if "://" not in target and target not in pushed}
    if not missing:
        return entry
    text = _PICTURE.sub(lambda found: "" if found[1] in missing else found[0], text)
    return Entry(entry.path, "scrubbed", f"without the picture {', '.join(missing)}", entry.size, text.encode())
