"""What in a text or an image file tells of a person or a machine: paths, names of host and user, UIDs, addresses."""

import getpass
import os
import re
import socket
import struct
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# Folders of every Linux machine, which tell nothing: a script may begin with /usr/bin/env.
_SYSTEM = {"bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "run", "sbin", "sys", "usr"}
_ROOTS = {"home", "Users", "root", "tmp", "var", "opt", "srv", "mnt", "media", "data", "scratch", "work", "Volumes"}
_NOBODY = {"root", "user", "users", "admin", "ubuntu", "runner", "docker", "jovyan", "nobody", "localhost", "linux"}
_PATTERNS = {
    "a path of Windows": re.compile(r"(?<!\w)[A-Za-z]:[\\/]+\w[^\s\"'<>]*|(?<!\\)\\\\+[\w.-]+\\+\w[^\s\"'<>]*"),
    "a path by URL": re.compile(r"(?<!\w)file:/+\w[^\s\"'<>]*", re.IGNORECASE),
    "a path of a home": re.compile(r"(?<![\w/])~[\w.-]*/\w[^\s\"'<>]*"),
    "an e-mail address": re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}"),
    "an access token": re.compile(r"(?<!\w)hf_[A-Za-z0-9]{30,}"),
    # PS3.5 section 9; those below 1.2.840.10008 are DICOM's own and name no study.
    "a DICOM UID": re.compile(r"(?<![\w.])(?!1\.2\.840\.10008\.)[0-2](?:\.(?:0|[1-9]\d*)){6,}(?![\w.])"),
}
_DATE = re.compile(
    r"(?<![\w.])(?:(?:19|20)\d\d([-./]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])"
    r"|\d{1,2}\.\d{1,2}\.(?:19|20)?\d\d)(?!\w)"
)
_PNG_PIXELS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"sBIT", b"pHYs"}
_PRINTABLE = re.compile(rb"[\x20-\x7e\t\n]{6,}")


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

        Names of fewer than four letters and names that every machine has are not looked for as words, since they stand
        in any text; as part of a path they are found.

        Args:
            public: a text whose words are no secret, the repository's id.
            more: further names to look for.
        """
        host = socket.gethostname()
        words = {host, host.split(".")[0]}
        with suppress(KeyError, OSError, RuntimeError):  # a container's user may have no name and no home
            words |= {getpass.getuser(), Path.home().name}
        shown = set(re.split(r"[/\s]", public.lower()))
        kept = {word.lower() for word in words if len(word) >= 4} - _NOBODY - shown
        own = {entry.name for entry in os.scandir("/") if entry.is_dir()} if os.name == "posix" else set()
        return cls(frozenset(kept | {word.lower() for word in more}), frozenset(_ROOTS | own - _SYSTEM))

    @cached_property
    def _patterns(self) -> dict[str, re.Pattern[str]]:
        names = "|".join(map(re.escape, sorted(self.words)))
        patterns = {"an absolute path": _absolute(rf"(?!(?:{'|'.join(_SYSTEM)})/)[\w.-]+"), **_PATTERNS}
        if names:
            patterns["a name of this machine or its user"] = re.compile(rf"(?<!\w)(?:{names})(?!\w)", re.IGNORECASE)
        return patterns

    def find(self, text: str, dates: bool = False, path: re.Pattern[str] | None = None) -> str | None:
        """What a text tells and the words that tell it, or None.

        Args:
            text: any text.
            dates: a date is a finding too; for values of tables, which have no reason to hold any.
            path: what is taken for an absolute path; by default whatever begins with a slash and has two parts.
        """
        patterns = self._patterns | ({"a date": _DATE} if dates else {}) | ({"an absolute path": path} if path else {})
        for kind, pattern in patterns.items():
            if found := pattern.search(text):
                return f"{kind}, {found[0][:80]}"
        return None

    def find_in_graph(self, content: bytes) -> str | None:
        """As `find`, in the printable parts of a file whose nodes are named like paths: only known roots are paths."""
        path = _absolute("|".join(map(re.escape, sorted(self.roots))))
        for part in _PRINTABLE.findall(content):
            if finding := self.find(part.decode("ascii"), path=path):
                return finding
        return None


def _absolute(first: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.~/:-])/(?:{first})/[^\s\"'<>)\]]+")


def strip_png(content: bytes) -> bytes:
    """A PNG image without texts, times and whatever follows its end; the same pixels.

    Raises:
        ValueError: it is no whole PNG.
    """
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("is no PNG")
    kept, position, kind = [content[:8]], 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content.ljust(position + 8, b"\0"), position)
        chunk = content[position : position + 12 + length]
        if len(chunk) < 12 + length or struct.pack(">I", zlib.crc32(chunk[4:-4])) != chunk[-4:]:
            raise ValueError("is a PNG that is cut off or damaged")
        if kind in _PNG_PIXELS:
            kept.append(chunk)
        position += 12 + length
    return b"".join(kept)


def image_finding(content: bytes) -> str | None:
    """What an encoded image holds beside its pixels, or None; formats other than PGM, PNG and JPEG are findings."""
    if content[:2] == b"P5":
        sizes = re.match(rb"P5\n(\d+) (\d+)\n(255|65535)\n", content)
        expected = int(sizes[1]) * int(sizes[2]) * (2 if sizes[3] == b"65535" else 1) if sizes else -1
        return None if sizes and len(content) - sizes.end() == expected else "something beside the pixels of a PGM"
    if content[:4] == b"\x89PNG":
        try:
            return None if strip_png(content) == content else "texts in a PNG"
        except ValueError as error:
            return f"an image that {error}"
    if content[:3] == b"\xff\xd8\xff":
        position = 2
        while content[position : position + 1] == b"\xff" and content[position + 1] != 0xDA:
            marker, length = content[position + 1], int.from_bytes(content[position + 2 : position + 4], "big")
            if marker == 0xFE or 0xE1 <= marker <= 0xEF:  # comment, EXIF and other applications' segments
                return "texts in a JPEG"
            position += 2 + length
        scans = content[position:]  # within them FF is followed by 00 or by a marker that is no text
        if scans.find(b"\xff\xd9") != len(scans) - 2 or re.search(rb"\xff[\xe1-\xef\xfe]", scans):
            return "something beside the pixels of a JPEG"
        return None
    return "an image that is neither PGM, PNG nor JPEG"
