"""One file that may go, written anew: what is looked at is what goes, and what was not written anew does not go."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from hf_radmae.publishing.json_files import OpenText, parse_json, rewritten_json
from hf_radmae.publishing.pictures import pixels_alone
from hf_radmae.publishing.private import Private
from hf_radmae.publishing.tables import Burnt, rewrite_shard
from hf_radmae.publishing.weights import rewrite_onnx, rewrite_safetensors
from hf_radmae.publishing.words import words

_LONGEST_WORD = 300
_LICENSE_TEXTS = (  # of the GNU licences
    *("51 Franklin Street", "51 Franklin St", "59 Temple Place", "675 Mass Ave"),
    *("29 June 2007", "19 November 2007", "2 June 1991", "June 1991", "February 1999", "3 November 2008"),
)


@dataclass(frozen=True)
class Guard:
    """What the gate looks for, and what a person has allowed.

    Attributes:
        private: names and paths of this machine.
        allow: first digits, 12 at least, of SHA-256 of contents that a person of the lab has looked at.
        burnt: looks for texts in the pixels of shards, see `deid`; None does not.
        texts: further finders of people in texts, see `deid`.
    """

    private: Private
    allow: frozenset[str] = frozenset()
    burnt: Burnt | None = None
    texts: tuple[Any, ...] = ()

    def allows(self, content: bytes) -> bool:
        """Whether someone has looked at this very content and allowed it."""
        return any(digest(content).startswith(allowed.lower()) for allowed in self.allow if len(allowed) >= 12)

    def findings(self, text: str) -> list[str]:
        """What a text tells, in words."""
        pairs = [*self.private.findings(text), *(pair for finder in self.texts for pair in finder(text))]
        return list(dict.fromkeys(f"{kind}, {told}{_line(text, told)}" for kind, told in pairs))

    def check(self, text: str, what: str, content: bytes | None = None) -> str:
        """Refuse a text that tells something, unless it is allowed; returns a note then.

        Raises:
            ValueError: names what it tells, and how to allow it.
        """
        found = self.findings(text)
        if not found:
            return ""
        content = text.encode() if content is None else content
        if self.allows(content):
            return f"allowed by hash after a look: {'; '.join(found)}"
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise ValueError(f"{what} holds {'; '.join(found[:5])}{more}{how_to_allow(content)}")


def _line(text: str, told: str) -> str:
    """Where in a text of several lines some words stand, in words."""
    lines = text.splitlines()
    number = next((number for number, line in enumerate(lines, start=1) if told in line), None)
    return f" (line {number})" if number and len(lines) > 1 else ""


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def how_to_allow(content: bytes) -> str:
    """The words by which a refusal says how a person allows what was looked at."""
    return f" (if it tells of nobody: --allow {digest(content)[:16]})"


def rewrite(source: Path, target: Path, name: str, guard: Guard, manifest: dict[str, Any] | None = None) -> str:
    """Write a file of a repository anew.

    Args:
        source: the file.
        target: where to.
        name: below the repository, with slashes.
        guard: what is looked for.
        manifest: of a prepared data set.

    Returns:
        What was taken out or allowed, in words; empty for nothing.

    Raises:
        ValueError: it must not go; says why.
    """
    match source.suffix:
        case ".safetensors":
            rewrite_safetensors(source, target)
        case ".onnx":
            rewrite_onnx(source, target)
        case ".parquet":
            return rewrite_shard(source, target, manifest, guard.private, guard.burnt, guard.allows)
        case ".png":
            target.write_bytes(pixels_alone(source.read_bytes()))
            return "pixels alone" if target.read_bytes() != source.read_bytes() else ""
        case ".json":
            return _json(source.read_bytes(), target, name, guard)
        case ".py":
            _own_code(source, name)
            shutil.copyfile(source, target)
        case _:
            return rewrite_text(source.read_bytes(), target, name, guard)
    return ""


def _json(content: bytes, target: Path, name: str, guard: Guard) -> str:
    try:
        written, dropped, allowed = rewritten_json(
            name, content, guard.private, lambda text: guard.allows(text.encode())
        )
    except OpenText as error:
        raise ValueError(f"{error}{how_to_allow(error.text.encode())}") from error
    target.write_bytes(written)
    notes = [f"without {', '.join(dropped)}"] if dropped else []
    return "; ".join([*notes, *(f"allowed by hash after a look: {reason}" for reason in dict.fromkeys(allowed))])


def _own_code(source: Path, name: str) -> None:
    installed = files("hf_radmae.models").joinpath(name)
    if not installed.is_file() or installed.read_bytes() != source.read_bytes():
        raise ValueError(
            "is not the code of this package, byte for byte: export the model anew; code of your own does not go"
        )


def rewrite_text(content: bytes, target: Path, name: str, guard: Guard) -> str:
    """Write a card or a licence, if it tells nothing.

    Raises:
        ValueError: names what it tells.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("is no text in UTF-8") from error
    looked_at = text
    if name == "LICENSE":
        for known in _LICENSE_TEXTS:
            looked_at = looked_at.replace(known, "")
    else:
        looked_at = f"{text}\n{' '.join(_front_matter(text, guard))}"
    if any(len(word) > _LONGEST_WORD for word in text.split()) or "data:image" in text or ";base64," in text:
        raise ValueError("holds a file within the text, or a word of several hundred letters")
    if odd := {char for char in text if not char.isprintable() and char not in "\n\r\t\ufeff"}:
        raise ValueError(f"holds invisible characters ({', '.join(f'U+{ord(char):04X}' for char in sorted(odd))})")
    note = guard.check(looked_at, "the text", content)
    target.write_bytes(content)
    return note


class _Once(yaml.SafeLoader):
    """YAML whose keys stand once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
        if len(keys) != len(set(map(str, keys))):
            raise ValueError("has a key twice in its metadata")
        return super().construct_mapping(node, deep)


def _front_matter(text: str, guard: Guard) -> Iterable[str]:
    """Texts and keys of a card's metadata, escapes of YAML resolved, one field a line."""
    if not text.startswith("---\n"):
        return []
    front = text[4:].split("\n---", 1)[0]
    try:
        value = yaml.load(front, _Once)
    except yaml.YAMLError as error:
        raise ValueError("has metadata that is no YAML") from error
    if not isinstance(value, dict):
        raise ValueError("has metadata that is no table")
    if unknown := sorted(set(map(str, value)) - words("front_matter")):
        raise ValueError(f"has {', '.join(unknown)} in its metadata, which cards of the Hub do not have")
    lines = list(_lines(value))
    for key, _ in lines:
        if guard.private.find(key):
            raise ValueError(f"has the key {key!r} in its metadata")
    return [f"\n{key}: {child}\n" for key, child in lines]


def _lines(value: Any, key: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _lines(child, str(name))
    elif isinstance(value, list):
        for child in value:
            yield from _lines(child, key)
    else:
        yield key, str(value)


__all__ = ["Guard", "digest", "how_to_allow", "parse_json", "rewrite", "rewrite_text"]
