"""A label set: which findings a report is read for, and what in a language denies, doubts, dates or moves them.

It is a YAML file, so that a lab writes its own without touching code. Every entry is a regular expression, matched on
text that `normalise` has brought to lower case with `ae`, `oe`, `ue` and `ss`. The keys:

* `language`, `version`: carried into every result.
* `abbreviations`: expression -> what is read in its place, before sentences are cut.
* `typos`: words, or parts of words, that are also read where two neighbouring letters are swapped, one is there twice,
  or, in those of seven letters and more, one is missing.
* `sections`: headings of `skip` (history, question), `aside` (earlier images, for one sentence), `findings` and
  `conclusion`, which outranks the findings.
* `clause_breaks`: words that end the reach of a cue, as "but".
* `negated_before`, `negated_behind`, `not_negated`; `doubted`, `not_doubted`: cues, and what only looks like one;
  `negated_within`: a denial within a term of several words. An empty box of a form is read as `ø`.
* `doubts_onward`: doubts only of what follows, as "suspicious for"; `undated`: doubts behind a term, over commas too.
* `requested`, `elsewhere`: what makes a mention no finding: a request, the other side. A request counts up to the next
  comma, and over one before the term unless that is denied of its own. `requested_behind` counts over one behind it;
  `request_compounds`: ends of a term that is a request itself.
* `exception`: what makes a mention a finding although the clause denies ("apart from the known ...").
* `past`, `remembered`, `healed`, `healing`, `gone`, `resolved` (over commas), `removed`: what dates a finding.
* `attributes`, `attribute_compounds`, `attributes_behind`: what is denied in place of the finding, as in "no
  displacement of the fracture"; `attributes_of`: what may stand between an attribute of one word and its finding;
  `denied_of`: what ends before a finding that is there although a denial follows, as in "a step at the fracture is
  not seen".
* `elided`: a clause that takes over the subject of the one before it, which ends where `predicates` begin ("heart not
  displaced but enlarged"); `introductions`: lines whose sense each entry of the list below them takes ("no signs of:").
* `lists`: words of a list, over whose commas a cue reaches; `joins`: those of them, as "and", that may also add to a
  new statement; `list_breaks`: words after a comma that begin a new statement and so end its reach.
* `normal`: phrases that deny every finding.
* `unfinished`: ends of a line that do not end a statement, where a text has lines in place of full stops.
* `words`: frequent words of the language (not expressions), by which a report's language is detected.
* `sides`, `body_parts`: name -> expressions.
* `labels`: name -> `terms`, `not_terms` (contain a term and are none), `denied_terms` (a finding only where denied),
  `denied_by`, `doubted_by` and `stated_by` (whole phrases), `signs` (terms that yield to a doubt in their clause),
  `past` (old and healed is "no"), `removable`, `gone` (further cues), `remembered` ("unsure" by default where `past`,
  or "ignore", or false).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

AUTO = "auto"
"""Each report by the shipped set of its language."""
SHIPPED = Path(__file__).with_name("label_sets")
_CUES = (
    "clause_breaks",
    "negated_before",
    "negated_behind",
    "negated_within",
    "not_negated",
    "doubted",
    "doubts_onward",
    "undated",
    "not_doubted",
    "requested",
    "requested_behind",
    "request_compounds",
    "elsewhere",
    "exception",
    "past",
    "remembered",
    "healed",
    "healing",
    "gone",
    "resolved",
    "removed",
    "attributes",
    "attributes_of",
    "attribute_compounds",
    "attributes_behind",
    "denied_of",
    "elided",
    "predicates",
    "introductions",
    "lists",
    "joins",
    "list_breaks",
    "normal",
    "unfinished",
)
_OTHERS = {"language", "version", "abbreviations", "typos", "words", "sections", "sides", "body_parts"}
_LABEL_LISTS = {"terms", "not_terms", "denied_terms", "denied_by", "doubted_by", "stated_by", "signs", "gone"}
_LABEL_FLAGS = {"past", "removable", "remembered"}
_NEVER = r"(?!)"
_KNOWN_WORDS = 100_000  # at most, of those that were looked up


@dataclass(frozen=True)
class LabelRules:
    """What a report is read for under one label; an expression that is not given matches nothing."""

    name: str
    terms: re.Pattern[str]
    not_terms: re.Pattern[str]
    denied_terms: re.Pattern[str]
    denied_by: re.Pattern[str]
    doubted_by: re.Pattern[str]
    stated_by: re.Pattern[str]
    signs: re.Pattern[str]
    gone: re.Pattern[str]
    past: bool = False
    removable: bool = False
    remembered: str | bool = "unsure"

    @cached_property
    def mention(self) -> re.Pattern[str]:
        """A text in which this is not found says nothing under this label."""
        every = (self.terms, self.denied_terms, self.denied_by, self.doubted_by, self.stated_by)
        found = "|".join(pattern.pattern for pattern in every if pattern.pattern != _NEVER)
        return re.compile(_unprefixed(found) or _NEVER)


@dataclass(frozen=True)
class LabelSet:
    """Compiled rules of one language.

    Attributes:
        version: language and version, as "de-3".
        cues: name of a cue -> expression.
        labels: in the order of the file.
        fingerprint: of the file's content.
    """

    version: str
    fingerprint: str
    cues: Mapping[str, re.Pattern[str]]
    abbreviations: tuple[tuple[re.Pattern[str], str], ...]
    typos: tuple[tuple[re.Pattern[str], str], ...]
    words: frozenset[str]
    heading: re.Pattern[str]
    section_of: Mapping[str, re.Pattern[str]]
    sides: Mapping[str, re.Pattern[str]]
    body_parts: Mapping[str, re.Pattern[str]]
    labels: tuple[LabelRules, ...]

    def corrected(self, word: str) -> str:
        """A word, or a part of one, as it is meant."""
        if word not in self._corrected:
            meant = word
            for typo, right in self.typos:
                if right not in word:
                    meant = typo.sub(right, meant)
            if len(self._corrected) > _KNOWN_WORDS:
                self._corrected.clear()
            self._corrected[word] = meant
        return self._corrected[word]

    @cached_property
    def _corrected(self) -> dict[str, str]:
        return {}

    @cached_property
    def any_term(self) -> re.Pattern[str]:
        """The terms of all labels."""
        return re.compile("|".join(label.terms.pattern for label in self.labels))


def load_label_set(name: str | Path) -> LabelSet:
    """Read a label set.

    Args:
        name: "de" or "en", which are shipped, or the path of a YAML file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no label set; with its name, the key, and what is known.
    """
    return _shipped(str(name)) if str(name) in shipped() else _read(Path(name))


@cache
def _shipped(name: str) -> LabelSet:
    return _read(SHIPPED / f"{name}.yaml")


def _read(path: Path) -> LabelSet:
    if not path.is_file():
        known = ", ".join(shipped())
        raise FileNotFoundError(f"label set {path}: there is no such file, and the shipped sets are {known}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"label set {path.name} cannot be read: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("labels"), dict):
        raise ValueError(f"label set {path.name}: expected a mapping with the key labels")
    known_keys = {*_CUES, *_OTHERS, "labels"}
    if unknown := content.keys() - known_keys:
        listed = ", ".join(sorted(known_keys))
        raise ValueError(f"label set {path.name}: unknown key {', '.join(map(str, unknown))}; known are {listed}")

    def compiled(value: Any, key: str) -> re.Pattern[str]:
        entries = [value] if isinstance(value, str) else list(value or ())
        try:
            return re.compile("|".join(entries) or _NEVER)
        except (re.error, TypeError) as error:
            raise ValueError(f"label set {path.name}, {key}: {error}") from error

    given = content.get("sections", {})
    sections = {kind: list(given.get(kind, ())) for kind in ("skip", "aside", "findings", "conclusion")}
    headings = sorted((entry for entries in sections.values() for entry in entries), key=len, reverse=True)
    heading = "|".join(headings) or _NEVER
    abbreviations = [(compiled(key, "abbreviations"), text) for key, text in content.get("abbreviations", {}).items()]
    return LabelSet(
        fingerprint=hashlib.sha256(path.read_bytes()).hexdigest(),
        version=f"{content.get('language', path.stem)}-{content.get('version', 0)}",
        cues={key: compiled(content.get(key), key) for key in _CUES},
        abbreviations=tuple(abbreviations),
        typos=tuple((re.compile("|".join(_mistyped(str(word)))), str(word)) for word in content.get("typos", ())),
        words=frozenset(map(str, content.get("words", ()))),
        heading=compiled(rf"(?:^|\n|(?<=[.?!]))[ \t]*({heading})(?:[^\n:.?!]{{0,40}}:|[ \t]*(?=\n|$))", "sections"),
        section_of={kind: compiled(entries, kind) for kind, entries in sections.items()},
        sides={name: compiled(value, name) for name, value in content.get("sides", {}).items()},
        body_parts={name: compiled(value, name) for name, value in content.get("body_parts", {}).items()},
        labels=tuple(_label(str(name), rules, path.name, compiled) for name, rules in content["labels"].items()),
    )


def load_label_sets(name: str | Path) -> tuple[LabelSet, ...]:
    """The set of a name, or all shipped sets for "auto", German first.

    Raises:
        As `load_label_set`.
    """
    return tuple(load_label_set(language) for language in (shipped() if name == AUTO else [name]))


def shipped() -> list[str]:
    """Languages of the label sets that come with this package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def choose(label_set: LabelSet, names: Iterable[str] | None) -> tuple[LabelRules, ...]:
    """The labels with these names, all where None.

    Raises:
        ValueError: the set has no label of a name.
    """
    known = {label.name: label for label in label_set.labels}
    wanted = list(known) if names is None else list(names)
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"label set {label_set.version} has no label {', '.join(unknown)}; it has {', '.join(known)}")
    return tuple(known[name] for name in wanted)


def _unprefixed(expression: str) -> str:
    """An expression without what begins an alternative before its letters, as `\\b(?!post)\\w*`.

    It is found in each text that the expression is found in, and much faster: alternatives that begin with a letter
    are skipped by it.
    """
    kept: list[str] = []
    starts, beginning = [True], True  # of each open group; whether nothing stands before in the alternative
    skipped = 0  # depth within a lookahead or lookbehind that is left out
    for token in re.findall(r"\(\?<?[=!]|\(\?:|\\w\*[?+]?|\\.|\[\^?\]?[^\]]*\]|.", expression, re.DOTALL):
        if skipped or (beginning and token in ("(?!", "(?=", "(?<!", "(?<=")):
            skipped += token.startswith("(") - (token == ")")
            continue
        if beginning and (token == r"\b" or token.startswith(r"\w*")):
            continue
        kept.append(token)
        if token.startswith("("):
            starts.append(beginning and token == "(?:")
        elif token == ")":
            starts.pop()
        beginning = starts[-1] if token in ("|", "(?:") else False
    return "".join(kept)


_LONG = 7  # letters of a word that is known although one is missing


def _mistyped(word: str) -> list[str]:
    """The word with two neighbouring letters in the wrong order, and with an inner letter twice or left out."""
    pairs = [index for index in range(len(word) - 1) if word[index] != word[index + 1]]
    wrong = [word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in pairs]
    wrong += [word[:i] + word[i] + word[i:] for i in pairs if i]
    if len(word) >= _LONG:
        wrong += [word[:i] + word[i + 1 :] for i in range(1, len(word) - 1)]
    return sorted({re.escape(text) for text in wrong}, key=len, reverse=True)


def _label(name: str, rules: Any, file: str, compiled: Any) -> LabelRules:
    if not isinstance(rules, dict) or not rules.get("terms"):
        raise ValueError(f"label set {file}, label {name}: expected a mapping with terms")
    if unknown := rules.keys() - _LABEL_LISTS - _LABEL_FLAGS:
        known = ", ".join(sorted(_LABEL_LISTS | _LABEL_FLAGS))
        raise ValueError(f"label set {file}, label {name}: unknown key {', '.join(sorted(unknown))}; known are {known}")
    lists = {key: compiled(rules.get(key), f"label {name}, {key}") for key in _LABEL_LISTS}
    return LabelRules(name, **lists, **{key: rules[key] for key in _LABEL_FLAGS & rules.keys()})
