"""Report text as rules read it: one form for every encoding, with the place of each character in the original."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_FOLDED = {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "æ": "ae", "œ": "oe", "’": "'", "‐": "-", "‑": "-", "–": "-"}
_DROPPED = {"\u00ad", "\ufeff", "\u200b", "\u200c", "\u200d", "\u2060"}


@dataclass(frozen=True)
class Text:
    """Normalised text.

    Attributes:
        content: lower case, umlauts as two letters, no soft hyphens, words that a line's end cuts joined.
        places: for each character of `content` its index in `original`.
        original: the text as it came, composed (NFC).
    """

    content: str
    places: tuple[int, ...]
    original: str

    def quote(self, start: int, end: int) -> str:
        """The original of `content[start:end]`, spaces as one."""
        if start >= end:
            return ""
        return " ".join(self.original[self.places[start] : self.places[end - 1] + 1].split())


def normalise(text: str) -> Text:
    """Bring a report to the form that rules are written for."""
    original = unicodedata.normalize("NFC", text)
    characters: list[str] = []
    places: list[int] = []
    for index, character in enumerate(original):
        if "a" <= character <= "z" or character == " ":  # most of a report
            characters.append(character)
            places.append(index)
            continue
        if character in _DROPPED or (character == "\r" and original[index + 1 : index + 2] == "\n"):
            continue
        lower = "\n" if character in "\r\x0b\x0c\x85\u2028\u2029" else character.lower()
        folded = " " if lower in "\t\u00a0\u2009\u202f" else _FOLDED.get(lower, lower)
        characters += folded
        places += [index] * len(folded)
    content = "".join(characters)
    keep = bytearray(b"\1") * len(content)
    for cut in re.finditer(r"(?<=[a-z])-[ ]*\n\s*(?=[a-z])(?!und\b|oder\b|bzw)", content):
        keep[cut.start() : cut.end()] = bytes(cut.end() - cut.start())
    if 0 in keep:
        content = "".join(character for character, kept in zip(content, keep, strict=True) if kept)
        places = [place for place, kept in zip(places, keep, strict=True) if kept]
    return Text(content, tuple(places), original)


def as_text(content: str | bytes | None) -> str:
    """A report as text; None is an empty one, bytes are decoded."""
    if content is None:
        return ""
    return decode(content) if isinstance(content, bytes) else str(content)


def decode(content: bytes) -> str:
    """The text of a file: UTF-8 (a byte order mark is dropped), UTF-16 with its mark, else Windows-1252 or Latin-1."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    try:
        return content.decode("cp1252")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def substitute(text: Text, pattern: re.Pattern[str], replacement: str) -> Text:
    """`re.sub` that keeps the places: what replaces a match has the place of its beginning."""
    content: list[str] = []
    places: list[int] = []
    last = 0
    for match in pattern.finditer(text.content):
        new = match.expand(replacement)
        content += [text.content[last : match.start()], new]
        places += [*text.places[last : match.start()], *[text.places[match.start()]] * len(new)]
        last = match.end()
    if not content:
        return text
    return Text("".join([*content, text.content[last:]]), (*places, *text.places[last:]), text.original)
