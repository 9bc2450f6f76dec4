"""The gate before a push: only files of an allow-list go, each written anew from what the gate has looked at.

`review` says of every file of a folder whether it goes, goes without a part, stays, or is refused, and why. A file that
is on no list stays. One that is on the list and tells of a person or a machine is refused, and then nothing is pushed.

What it looks for are patterns (see `people` and `private`), names of fields (see `keys`) and closed sets of names. It
does not see a name that stands in no list without a word beside it that says so, a text in the pixels of an image (but
see `deid`), one in a cipher, in the numbers of a tensor or in the decimals of a score. It is no proof that a repository
tells of nobody: a person has to look.
"""

from __future__ import annotations

import filecmp
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Literal

from hf_radmae.publishing.card import FIGURE, TEMPLATES, read_results, render_card, with_license
from hf_radmae.publishing.contents import Guard, how_to_allow, rewrite, rewrite_text
from hf_radmae.publishing.json_files import parse_json
from hf_radmae.publishing.private import Private
from hf_radmae.publishing.tables import says_nothing_burnt_in
from hf_radmae.publishing.words import words

Kind = Literal["model", "dataset"]
Verdict = Literal["goes", "scrubbed", "stays", "refused"]

_WEIGHTS = r"model(?:-\d{5}-of-\d{5})?\.safetensors"
_MODEL = r"config\.json|preprocessor_config\.json|" + _WEIGHTS + r"|model\.safetensors\.index\.json"
ALLOWED: dict[Kind, re.Pattern[str]] = {
    "model": re.compile(
        rf"README\.md|LICENSE|results\.json|reconstructions\.png|model\.onnx|modeling_radiograph_vit\.py"
        rf"|{_MODEL}|mae/(?:{_MODEL})"
    ),
    "dataset": re.compile(
        r"LICENSE|manifest\.json|data/(?:train|validation|valid|val|dev|test|test_2009|unlabelled|all)-\d{5}-of-\d{5}\.parquet"
    ),
}
"""What may go, by kind of repository."""

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
    "*.key": "a key of pseudonyms",
}
_PICTURE = re.compile(r"^!\[[^\]]*\]\(([^)\s]+)\)[ \t]*\n?", re.MULTILINE)


@dataclass(frozen=True)
class Statement:
    """What whoever publishes images of people declares about them.

    Attributes:
        license: an identifier of the Hub, such as cc-by-4.0 or other.
        deidentification: a sentence on how the images were freed of what identifies people, burnt-in text included.
        burned_in_checked: a person has looked at the images for names in the pixels. Needed for shards whose source did
            not say that nothing is burnt in.

    Raises:
        ValueError: one of the two says nothing.
    """

    license: str
    deidentification: str
    burned_in_checked: bool = False

    def __post_init__(self) -> None:
        check_license(self.license)
        if len(self.deidentification.split()) < 4:
            raise ValueError(
                f"de-identification {self.deidentification!r}: say in a sentence how headers, ids and burnt-in text "
                "were freed of what identifies people"
            )


def check_license(name: str) -> str:
    """A licence's identifier, as it is.

    Raises:
        ValueError: the Hub knows none of that name.
    """
    if name not in words("licenses"):
        raise ValueError(f"license {name!r}: expected an identifier of the Hub such as cc-by-4.0, apache-2.0 or other")
    return name


@dataclass(frozen=True)
class Entry:
    """What becomes of one file.

    Attributes:
        path: below the folder, with slashes; the same in the repository.
        verdict: see `review`.
        reason: what was taken out or allowed, or why it does not go.
        size: bytes on this machine.
        is_unmarked: whether the source of a shard said that nothing is burnt into its images.
    """

    path: str
    verdict: Verdict
    reason: str
    size: int
    is_unmarked: bool = False
    _write: Callable[[Path], object] | None = field(default=None, compare=False, repr=False)

    @property
    def is_pushed(self) -> bool:
        """Whether the file, as it is or without a part, may go."""
        return self.verdict in ("goes", "scrubbed")

    def write(self, target: Path) -> None:
        """Write what goes, looked at once more while it is written.

        Raises:
            ValueError: the file has changed since, and must not go.
        """
        assert self._write is not None  # of entries that are pushed
        target.parent.mkdir(parents=True, exist_ok=True)
        self._write(target)

    @property
    def content(self) -> bytes | None:
        """What goes in place of the file where it was scrubbed, None for the file as it is."""
        if self.verdict != "scrubbed":
            return None
        with TemporaryDirectory() as folder:
            self.write(target := Path(folder, "file"))
            return target.read_bytes()


def review(
    folder: str | Path,
    kind: Kind,
    private: Private,
    statement: Statement | None = None,
    *,
    allow: Collection[str] = (),
    repo_id: str | None = None,
    license: str | None = None,
    finders: Finders | None = None,
) -> list[Entry]:
    """Look at every file of a folder that is to be pushed.

    * "goes": on the allow-list, nothing was found in it, and written anew it is the same, byte for byte.
    * "scrubbed": goes written anew, without what the reason names.
    * "stays": not on the allow-list.
    * "refused": on the list, but it tells of a person or a machine; whoever pushes has to mend or allow it.

    Args:
        folder: a model's or a prepared data set's.
        kind: which allow-list.
        private: what must not be in a text.
        statement: needed for a data set; for a model it lets the picture of reconstructions go, which shows images of
            the training data. Pictures of generated radiographs go without.
        allow: see `Guard`.
        repo_id: under which the card speaks of the repository.
        license: of a model's weights, put on its card.
        finders: of `deid`, which look further.

    Returns:
        An entry per file, by path; of a data set the card too, which is filled here.

    Raises:
        NotADirectoryError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: there is no such folder to push")
    finders = finders or Finders()
    guard = Guard(private, frozenset(allow), finders.pixels, finders.texts)
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = [path.relative_to(folder).as_posix() for path in paths]
    manifest = _manifest(folder) if kind == "dataset" else None
    with TemporaryDirectory() as work:
        target = Path(work, "file")
        made = [_entry(folder, name, kind, guard, statement, manifest, target) for name in names if name != "README.md"]
        if (kind == "model" and "README.md" in names) or (kind == "dataset" and statement and manifest):
            pushed = {entry.path for entry in made if entry.is_pushed}
            made.append(_card(folder, kind, guard, statement, (repo_id, license), pushed, target))
        elif "README.md" in names:
            made.append(Entry("README.md", "stays", "the card is filled from the manifest", 0))
    return sorted(made, key=lambda entry: entry.path)


@dataclass(frozen=True)
class Finders:
    """What looks beyond the gate's own patterns, see `deid`: texts in pixels, and people in texts."""

    pixels: Callable[[bytes], Any] | None = None
    texts: tuple[Callable[[str], Any], ...] = ()


def refusals(
    entries: Sequence[Entry], kind: Kind, statement: Statement | None = None, is_seen: bool = False
) -> list[str]:
    """Why these entries must not be pushed: what was refused, and what a repository needs and is not there.

    Args:
        entries: of `review`.
        kind: of the repository.
        statement: as for `review`.
        is_seen: whether texts in the pixels were looked for, see `deid`.
    """
    found = [f"{entry.path}: {entry.reason}" for entry in entries if entry.verdict == "refused"]
    going = {entry.path for entry in entries if entry.is_pushed}
    known = going | {entry.path for entry in entries if entry.verdict == "refused"}
    if kind == "model":
        no_model = (
            "the folder holds no model: push the output folder of pretrain, finetune or export. A report of a study, a "
            "search, and the embeddings of images are not pushed"
        )
        no_card = "make a card with scripts/card.py"
        if "results.json" not in {entry.path for entry in entries}:
            no_card = "export the model with scripts/export.py, which writes one"
        needed = {"config.json": no_model, "README.md": no_card}
        missing = [name for name in needed if name not in known]
        found += [f"no {name} goes: {needed[name]}" for name in (missing[:1] if "config.json" in missing else missing)]
    if kind == "dataset":
        shards = [entry for entry in entries if entry.is_pushed and entry.path.endswith(".parquet")]
        if statement is None:
            found.append(
                "a data set goes only with its license and a sentence on its de-identification: give --license and "
                "--deidentified"
            )
        elif not (statement.burned_in_checked or is_seen or all(entry.is_unmarked for entry in shards)):
            found.append(
                "nothing says that no name is burnt into the images: look at them and say so with --burned_in_checked, "
                "or let --deid look (pip install hf_radmae[deid])"
            )
        if not any(name.endswith(".parquet") for name in known) or "manifest.json" not in known:
            found.append("no manifest.json with shards in data/ goes: prepare the data set with scripts/prepare.py")
    return found + _incomplete({entry.path for entry in entries if entry.verdict != "stays"})


def text_refusals(texts: dict[str, str], private: Private, allow: Collection[str] = ()) -> list[str]:
    """Why texts beside the files must not go: the commit's message, the names of repository and branch.

    Args:
        texts: what it is -> the text.
        private, allow: as for `review`.
    """
    guard, found = Guard(private, frozenset(allow)), []
    for what, text in texts.items():
        named = [f"{kind}, {words}" for kind, words in private.label_findings(text)] if "name" in what else []
        named = list(dict.fromkeys([*guard.findings(text), *named]))
        if named and not guard.allows(text.encode()):
            found.append(f"{what} {text[:60]!r} holds {'; '.join(named)}{how_to_allow(text.encode())}")
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


def _incomplete(listed: Collection[str]) -> list[str]:
    """Numbered files that are not all there: they would not load, or their numbers say something else."""
    found = []
    groups: dict[tuple[str, int], set[int]] = {}
    for name in listed:
        if numbered := re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})\.\w+", name):
            groups.setdefault((numbered[1], int(numbered[3])), set()).add(int(numbered[2]))
    for (name, count), numbers in groups.items():
        if numbers not in (set(range(count)), set(range(1, count + 1))):
            found.append(f"{name}-*-of-{count:05d}: {len(numbers)} of {count} files are there")
    return found


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest = parse_json((folder / "manifest.json").read_bytes())
    except (OSError, ValueError):  # the file itself is looked at in its turn
        return None
    return manifest if isinstance(manifest, dict) else None


def _entry(
    folder: Path, name: str, kind: Kind, guard: Guard, statement: Statement | None, manifest: dict | None, target: Path
) -> Entry:
    path = folder / name
    size = path.lstat().st_size
    if not ALLOWED[kind].fullmatch(name):
        reasons = (
            why for pattern, why in _STAYS.items() if fnmatchcase(name, pattern) or fnmatchcase(path.name, pattern)
        )
        return Entry(name, "stays", next(reasons, "not on the list of what may go"), size)
    if path.is_symlink() or not path.is_file():
        return Entry(name, "stays", "a link, not a file", size)
    if kind == "model" and name == FIGURE and statement is None and not _is_generated(folder):
        return Entry(
            name, "stays", "shows images of the training data: it goes with --license and --deidentified", size
        )

    def write(where: Path) -> str:
        return rewrite(path, where, path.name, guard, manifest)

    try:
        if kind == "model" and name == "config.json":
            _refuse_mean_head(path)
        note = write(target)
        same = filecmp.cmp(path, target, shallow=False)
    except ValueError as error:
        return Entry(name, "refused", str(error), size)
    unmarked = path.suffix == ".parquet" and (_is_phantom(manifest) or says_nothing_burnt_in(path))
    return Entry(name, "goes" if same else "scrubbed", note or ("" if same else "written anew"), size, unmarked, write)


def _card(
    folder: Path,
    kind: Kind,
    guard: Guard,
    statement: Statement | None,
    facts: tuple[str | None, str | None],
    pushed: Collection[str],
    target: Path,
) -> Entry:
    """The card as it goes: under the repository's name, without pictures that stay, of a data set filled here."""
    path, (repo_id, license) = folder / "README.md", facts
    size = path.stat().st_size if path.is_file() else 0

    def content() -> tuple[bytes, str]:
        if kind == "dataset":
            assert statement is not None  # see `review`
            manifest = read_results(folder) | {"name": repo_id or folder.name}
            text = render_card(manifest, TEMPLATES["dataset"], license=statement.license, statement=statement)
            return text.encode(), "filled from the manifest"
        text = path.read_bytes().decode("utf-8", errors="strict")
        missing = {found for found in _PICTURE.findall(text) if "://" not in found and found not in pushed}
        text = _PICTURE.sub(lambda found: "" if found[1] in missing else found[0], text)
        if repo_id is not None:
            text = text.replace(f'"{_name(folder)}"', f'"{repo_id}"')
        if license is not None:
            text = with_license(text, license)
        return text.encode(), f"without the picture {', '.join(sorted(missing))}" if missing else ""

    def write(where: Path) -> str:
        written, note = content()
        return "; ".join(filter(None, [note, rewrite_text(written, where, "README.md", guard)]))

    if path.is_symlink() and kind == "model":
        return Entry("README.md", "stays", "a link, not a file", size)
    try:
        note = write(target)
    except ValueError as error:
        return Entry("README.md", "refused", str(error), size)
    same = path.is_file() and target.read_bytes() == path.read_bytes()
    note = note or ("" if same else "written for this repository")
    return Entry("README.md", "goes" if same else "scrubbed", note, size or target.stat().st_size, False, write)


def _is_phantom(manifest: dict[str, Any] | None) -> bool:
    """Whether a manifest says that the images are generated."""
    source = (manifest or {}).get("source")
    return isinstance(source, dict) and source.get("dataset") == "phantom"


def _name(folder: Path) -> str:
    """What a run's card calls it."""
    try:
        return str(read_results(folder)["name"])
    except (FileNotFoundError, ValueError):
        return folder.name


def _refuse_mean_head(path: Path) -> None:
    """A head on the mean of the patches under the name of transformers' ViT, which would show it the CLS token."""
    config = parse_json(path.read_bytes())
    if isinstance(config, dict) and config.get("model_type") == "vit" and config.get("pooling", "cls") != "cls":
        raise ValueError(
            f"its head looks at the {config['pooling']} of the patches, and transformers' ViT would give it the CLS "
            "token: export the model with scripts/export.py and push that"
        )


def _is_generated(folder: Path) -> bool:
    """Whether the results of a run say that it was on generated radiographs."""
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # the file itself is looked at in its turn
        return False
    data = results.get("data") if isinstance(results, dict) else None
    return isinstance(data, dict) and data.get("dataset") == "phantom"
