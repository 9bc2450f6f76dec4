"""What in a text tells of a machine or a person: paths, names of host and user, UIDs, addresses, and `people`."""

import getpass
import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from hf_radmae.publishing.people import Finding, findings, label_findings, readable
from hf_radmae.publishing.words import words

# Folders of every Linux machine, which tell nothing: a script may begin with /usr/bin/env.
_SYSTEM = {"bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "run", "sbin", "sys", "usr"}
_ROOTS = {"home", "Users", "root", "tmp", "var", "opt", "srv", "mnt", "media", "data", "scratch", "work", "Volumes"}
_PLACEHOLDERS = (  # what documentation writes for a path
    r"(?:path|your|some|my|full|absolute)(?:[/_-](?:path|to|the|your|my|a|an|some|folder|dir|directory|file|files|data|"
    r"dataset|image|images|radiograph|radiographs|scan|scans|model|models|checkpoint|checkpoints|weights|output|out|"
    r"results|shards|config|run|here|project|repo|cache|mae|encoder|classifier|train|test|validation))*(?:\.[a-z]{1,11}\b)?"
)
_PATTERNS = {
    "a path of Windows": re.compile(r"(?<!\w)[A-Za-z]:[\\/]+\w[^\s\"'<>]*|(?<!\\)\\\\+[\w.-]+\\+\w[^\s\"'<>]*"),
    "a path by URL": re.compile(
        r"(?<!\w)(?:file|smb|nfs|sftp|ssh|ftp|s3|gs|hdfs|rsync|abfss?):/+\w[^\s\"'<>]*", re.IGNORECASE
    ),
    "a path of a home": re.compile(r"(?<![\w/])~[\w.-]*/(?!\.cache/huggingface)\w[^\s\"'<>]*"),
    "an e-mail address": re.compile(
        r"(?<![\w.+-])(?!git@(?:github\.com|hf\.co|huggingface\.co))[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[^\W\d_]{2,}"
    ),
    "an access token": re.compile(r"(?<!\w)hf_[A-Za-z0-9]{30,}"),
    # PS3.5 section 9; those below 1.2.840.10008 are DICOM's own and name no study.
    "a DICOM UID": re.compile(r"(?<![\w.])(?!1\.2\.840\.10008\.)[0-2](?:\.(?:0|[1-9]\d*)){6,}(?![\w.])"),
}


@cache
def words_of_the_field() -> frozenset[str]:
    """Words that tell nothing: a list, and every word of the cards' templates."""
    templates = Path(__file__).with_name("templates").glob("*.j2")
    texts = " ".join(path.read_text(encoding="utf-8") for path in templates)
    return frozenset(words("of_the_field") | set(re.findall(r"[a-z]{3,}", texts.lower())))


@dataclass(frozen=True)
class Private:
    """The names that must not leave, and where paths of this machine begin.

    Attributes:
        words: names of host, user and home; looked for as whole words, whatever their case.
        roots: first folders of absolute paths of this and other machines.
    """

    words: frozenset[str]
    roots: frozenset[str] = frozenset(_ROOTS)

    @classmethod
    def of_this_machine(cls, public: str = "", more: Iterable[str] = ()) -> "Private":
        """Host, user and folders of this process.

        Names of fewer than four letters and words of the field (chest, hand, root, model) are not looked for as words,
        since they stand in any text; as part of a path they are found.

        Args:
            public: a text whose words are no secret, the repository's id.
            more: further names to look for.
        """
        host = socket.gethostname()
        words = {host, host.split(".")[0]}
        with suppress(KeyError, OSError, RuntimeError):  # a container's user may have no name and no home
            words |= {getpass.getuser(), Path.home().name}
        shown = set(re.split(r"[/\s]", public.lower()))
        kept = {word.lower() for word in words if len(word) >= 4} - words_of_the_field() - shown
        own = {entry.name for entry in os.scandir("/") if entry.is_dir()} if os.name == "posix" else set()
        return cls(frozenset(kept | {word.lower() for word in more}), frozenset(_ROOTS | own - _SYSTEM))

    @cached_property
    def _patterns(self) -> dict[str, re.Pattern[str]]:
        names = "|".join(map(re.escape, sorted(self.words)))
        first = rf"(?!(?:{'|'.join(sorted(_SYSTEM))})/)(?!{_PLACEHOLDERS}(?![\w/-]))[\w.-]+"
        patterns = {"an absolute path": re.compile(rf"(?<![\w.~/:-])/(?:{first})/[^\s\"'<>)\]]+"), **_PATTERNS}
        if names:
            patterns["a name of this machine or its user"] = re.compile(rf"(?<!\w)(?:{names})(?!\w)", re.IGNORECASE)
        return patterns

    def findings(self, text: str) -> Iterator[Finding]:
        """(kind, words) of all that a text tells."""
        yield from self._of_a_machine(text)
        yield from findings(text)

    def label_findings(self, text: str) -> Iterator[Finding]:
        """As `findings`, for the name of a class, a column or a file, where any known name of a person is one too."""
        yield from self._of_a_machine(text)
        yield from label_findings(text)

    def _of_a_machine(self, text: str) -> Iterator[Finding]:
        for form in dict.fromkeys((text, readable(text))):
            for kind, pattern in self._patterns.items():
                yield from ((kind, found[0][:80]) for found in pattern.finditer(form))

    def find(self, text: str) -> str | None:
        """The first thing that a text tells and the words that tell it, or None."""
        return next((f"{kind}, {words}" for kind, words in self.findings(text)), None)
