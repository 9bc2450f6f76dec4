"""Report text as rules read it: one form for every encoding, with the place of each character in the original."""

from __future__ import annotations

import html
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
        original: the text without markup (see `plain`), composed (NFC).
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
    original = unicodedata.normalize("NFC", plain(text))
    characters: list[str] = []
    places: list[int] = []
    for run in re.finditer(r"[a-z ]+|.", original, re.DOTALL):
        character, index = run.group(), run.start()
        if "a" <= character[0] <= "z" or character[0] == " ":  # most of a report
            characters += character
            places += range(index, run.end())
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


_HEX = r"[0-9A-Fa-f]"
_RTF = re.compile(
    rf"\\'(?P<byte>{_HEX}{{2}})|\\u(?P<code>-?\d+)[ ]?(?:\\'{_HEX}{{2}}|[?])?"
    r"|\\(?P<word>[a-z]+)-?\d*[ ]?|\\(?P<sign>[^a-z])|[{}\r\n]"
)
_RTF_GROUPS = re.compile(
    r"\{\\(?:\*|fonttbl|colortbl|stylesheet|info|pict|header|footer)(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
)
_HL7_ESCAPES = {"F": "|", "S": "^", "T": "&", "R": "~", "E": "\\", "H": "", "N": ""}
_TAGS = re.compile(
    r"</?(?P<name>br|p|div|tr|li|ul|ol|table|tbody|td|th|b|i|u|em|strong|span|font|html|body)\b[^<>]*>", re.I
)
_HALVES = re.compile("[\ud800-\udfff]")  # of a character, as RTF and JSON write emojis; no file can hold one alone
_INLINE = {"b", "i", "u", "em", "strong", "span", "font"}
# UTF-8 that was read as Windows-1252.
_TWICE = {letter.encode().decode("cp1252", "replace"): letter for letter in "äöüÄÖÜßéèµ°–„“”’"}


def plain(text: str) -> str:
    """A report without the markup that systems put around it.

    RTF, HL7 escapes (`\\X0D\\`, `\\.br\\`) and repetitions (`~`), HTML tags and entities, Excel's `_x000D_`, line ends
    written as a backslash and a letter, characters as two halves, and umlauts that were decoded by the wrong encoding.
    Other text stays as it is.
    """
    if text.lstrip("\ufeff \r\n\t").startswith("{\\rtf"):
        text = _without_rtf(text)
    if "\\" in text:
        text = re.sub(rf"\\X((?:{_HEX}{{2}})+)\\", lambda found: bytes.fromhex(found[1]).decode("latin-1"), text)
        text = re.sub(r"\\\.(?:br|ce|sp\d*|in[+-]?\d*|ti[+-]?\d*|sk\d*|fi|nf)\\", "\n", text)
        text = re.sub(r"\\([FSTREHN])\\", lambda found: _HL7_ESCAPES[found[1]], text)
        if "\n" not in text:
            text = re.sub(r"(?:\\r)?\\n|\\r", "\n", text)
    if "~" in text:  # about, before a number
        text = re.sub(r"~(?!\s*\d)", "\n", text)
    if "<" in text:
        text = _TAGS.sub(lambda tag: "" if tag["name"].lower() in _INLINE else "\n", text)
    if "&" in text:
        text = html.unescape(text)
    if "_x000" in text:
        text = re.sub(r"_x000([ADad])_", "\n", text)
    if "Ã" in text or "â€" in text:
        for wrong, right in _TWICE.items():
            text = text.replace(wrong, right)
    if _HALVES.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _without_rtf(text: str) -> str:
    def read(found: re.Match[str]) -> str:
        if found["byte"]:
            return bytes.fromhex(found["byte"]).decode("cp1252", "replace")
        if found["code"]:
            return chr(int(found["code"]) % 0x10000)
        if found["sign"]:
            return {"~": " ", "-": "", "_": "-"}.get(found["sign"], found["sign"] if found["sign"] in "{}\\" else "")
        return {"par": "\n", "line": "\n", "row": "\n", "tab": " ", "cell": " "}.get(found["word"] or "", "")

    return _RTF.sub(read, _RTF_GROUPS.sub("", text))


def as_text(content: str | bytes | None) -> str:
    """A report as text; None is an empty one, bytes are decoded."""
    if content is None:
        return ""
    return decode(content) if isinstance(content, bytes) else str(content)


def decode(content: bytes) -> str:
    """The text of a file: UTF-8 (a byte order mark is dropped), UTF-16 with its mark, else Windows-1252 or Latin-1."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
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
