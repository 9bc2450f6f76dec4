"""Report text as rules read it: one form for every encoding, with the place of each character in the original."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

_FOLDED = {
    "ä": "ae",
    "ö": "oe",
    "ü": "ue",
    "ß": "ss",
    "æ": "ae",
    "œ": "oe",
    "’": "'",
    "‐": "-",
    "‑": "-",
    "–": "-",
    "—": "-",
}
# A word that a line's end cuts; and what is too long to be a word, on which expressions for parts of words are slow.
_CUTS = re.compile(r"(?<=[a-z])-[ ]*\n\s*(?=[a-z])(?!und\b|oder\b|bzw)|\b\w{101,}")
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

    def part(self, start: int, end: int) -> Text:
        """What stands at `content[start:end]`."""
        return Text(self.content[start:end], self.places[start:end], self.original)

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
    cuts = _CUTS.finditer(content)
    return replaced(Text(content, tuple(places), original), ((*cut.span(), "") for cut in cuts))


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
_TAB = re.compile(r"(?<=\S)[ ]*(?:\t|[ ]{3})\s*?(?=\S)")  # between two columns
_HALVES = re.compile("[\ud800-\udfff]")  # of a character, as RTF and JSON write emojis; no file can hold one alone
_CELL_BEGINS = re.compile(r"(?<!\s)\s*<t[dh]\b[^<>]*>", re.I)
_INLINE = {"b", "i", "u", "em", "strong", "span", "font", "td", "th"}
# UTF-8 that was read as Windows-1252.
_TWICE = {letter.encode().decode("cp1252", "replace"): letter for letter in "äöüÄÖÜßéèµ°–„“”’"}


def plain(text: str) -> str:
    """A report without the markup that systems put around it.

    RTF, HL7 escapes (`\\X0D\\`, `\\.br\\`) and repetitions (`~`), HTML tags and entities, Excel's `_x000D_`, columns
    that tabs or spaces part (as " | "), line ends written as a backslash and a letter, characters as two halves, and
    umlauts that were decoded by the wrong encoding.
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
        text = _CELL_BEGINS.sub(" | ", text)
        text = _TAGS.sub(lambda tag: "" if tag["name"].lower() in _INLINE else "\n", text)
    if "&" in text:
        text = html.unescape(text)
    if "\t" in text or "   " in text:
        text = _with_bars(text)
    if "_x000" in text:
        text = re.sub(r"_x000([ADad])_", "\n", text)
    if "Ã" in text or "â€" in text:
        for wrong, right in _TWICE.items():
            text = text.replace(wrong, right)
    if _HALVES.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _with_bars(text: str) -> str:
    """A text whose tables, neighbouring lines of as many columns, have " | " between these."""
    lines = text.split("\n")
    cells = [_TAB.split(line.strip()) for line in lines]
    for number, (line, row) in enumerate(zip(lines, cells, strict=True)):
        beside = [len(cells[other]) for other in (number - 1, number + 1) if 0 <= other < len(cells)]
        if len(row) > 1 and len(row) in beside and not any(cell.endswith(":") for cell in row):
            lines[number] = " | ".join(row) + line[len(line.rstrip()) :]
    return "\n".join(lines)


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
    """`re.sub` that keeps the places."""
    return replaced(text, ((*match.span(), match.expand(replacement)) for match in pattern.finditer(text.content)))


def replaced(text: Text, spans: Iterable[tuple[int, int, str | Text]]) -> Text:
    """The text with something in place of each span (start, end), in order; new letters take the places there."""
    content: list[str] = []
    places: list[int] = []
    last = 0
    for start, end, new in spans:
        if isinstance(new, str):
            new = Text(new, tuple(text.places[min(start + i, end - 1)] for i in range(len(new))), text.original)
        content += [text.content[last:start], new.content]
        places += [*text.places[last:start], *new.places]
        last = end
    if not content:
        return text
    return Text("".join([*content, text.content[last:]]), (*places, *text.places[last:]), text.original)
