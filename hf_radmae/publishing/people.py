"""What in a text tells of a person: names here, and what `dates` and `numbers` find.

These are patterns and lists of names, and no proof: a name that stands in no list and has no word beside it that says
so is not found. Texts are read as a browser shows them (entities and escapes resolved, marks of Markdown removed,
look-alike letters of other scripts folded), and once more from base64 and hexadecimal digits. Names of authors in
BibTeX, in references to a paper and in copyright notices are public.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from urllib.parse import unquote

from hf_radmae.publishing.dates import date_findings
from hf_radmae.publishing.keys import identifying_names, is_personal, key_finding, plain_name
from hf_radmae.publishing.numbers import Finding, number_findings
from hf_radmae.publishing.words import names, profile, words

_PARAGRAPH = "¶"
_CAP = r"[^\W\d_a-zà-öø-ÿ][^\W\d_]*(?:[-'’][^\W\d_]+)*"
_WORD = r"[^\W\d_]{2,}(?:[-'’][^\W\d_]+)*"
_LONG = r"[^\W\d_]{3,}"
_TITLES = re.compile(
    rf"(?<![^\W_])(?P<cue>[Dd]r|DR|[Pp]rof|PROF|Professor|Hr|Hrn|Fr|Mrs?|MRS|Ms|Mme|Mlle|Sig(?:ra)?|Sra?|Dra|Dott"
    rf"|MUDr|Dres|Fam|Dipl\.-Med|gez"
    rf"|Gez)\.\s*(?:(?:med|dent|"
    rf"habil|rer|nat|univ|phil|h\.c)\.?\s*|Dr\.\s*|PD\s*)*:?\s*(?P<name>{_WORD})"
    rf"|(?<![^\W_])(?P<cue2>[Hh]errn?|HERRN?|[Ff]rau|FRAU|Mr|Mrs|MRS|Miss|Mme|Doctor|Doktor|Professor|Dr|Prof"
    rf"|Señora?|Monsieur|Madame"
    rf"|Signora?|Oberarzt|Oberärztin|Chefarzt|Chefärztin|Assistenzarzt|Assistenzärztin|Hausarzt|Hausärztin|i\.\s?A\."
    rf"|Bay|Bayan|Pan|Pani|Señorita|Familie|Sayın|c/o)\s*:?\s+(?P<name2>{_CAP})"
    rf"|(?<![^\W_])(?P<cue3>herrn?|frau|mrs?|miss|monsieur|madame)\.?\s+(?P<name3>{_WORD})"
    rf"|(?<![^\W_])(?P<cue4>Herrn?|Hr\.|Frau|Fr\.|Mrs?\.?|Ms\.?)\s(?P<name4>[A-ZÄÖÜ])\.(?!\w)"
)
_SAYS = r"\s*(?:[:=]|\b(?i:is|was|ist|war|named|called|namens)\b)[\s:=(\"'“„|]*"
_SEPARATED = r"\s*(?:[:=(\[,\"'“„|]|\b(?i:is|was|ist|war|named|called|namens|name)\b)[\s:=(\[\"'“„|]*"
_NAMED = re.compile(
    rf"(?<![^\W_])(?:(?i:patient(?:in|en|innen)?(?:['’]s)?|pat\.|pt\.|proband(?:in)?|ärztin|radiologin"
    rf"|befunder(?:in)?|"
    rf"untersucher(?:in)?|reported by|read by|signed by|referred by|befundet von|unterzeichnet von|zuweiser(?:in)?|"
    rf"hasta(?: adı)?(?: soyadı)?|pacjent(?:ka)?|paziente|paciente|patiënt|pacient)(?:{_SEPARATED}|\s+)"
    rf"|(?:Kind|(?i:pt|subject|child|mother|mutter|father|vater|radiologist|physician|surgeon|referrer|arzt"
    rf"|radiologe|signed|einsender|"
    rf"technologist|technician|mtra?)){_SAYS})(?P<name>{_CAP}(?:,?\s+{_CAP})?)"
)
_LISTED = re.compile(  # a cue that stands before many words, and so tells only where a known name follows
    r"(?<![^\W_])(?i:patient(?:in|en|s)?|pat\.?|pt\.?|herrn?|frau|dr|prof|arzt|radiolog(?:ist|e)|physician|technician"
    r"|subject|child|kind|mother|"
    r"father|operator|hasta|paciente|paziente|name|nom|signed|by|durch|von|gez)(?:[\s:=,_|\"'-]"
    r"|(?<=: )¶)+([^\W\d_]{3,})"
)
_OF = re.compile(  # but for authors, institutions and methods
    rf"(?<![^\W_])(?:of|for|from|von|für|para)\s({_CAP})"
    r"(?!\s(?:et al|and|und|Univ|Hosp|Clin|Klin|Inst|State|Coll|Found|Med|Cent|Res|Gmb|Inc)|\s?[&(\[]|['’]s\s)"
)
_ROLE = re.compile(rf"(?<![^\W_])({_CAP})\s?[,(]\s?(?i:patient(?:in)?|pat\.)(?!\w)")
_INSTITUTION = re.compile(  # what follows a name that is not one of a patient
    r"(?:['’]s)?[\s-]+(?:\w+\s)?(?:Univ|Inst|Hosp|Klini|Clini|Coll|School|Schule|Found|Stiftung|Medical|Cent(?:er"
    r"|re)|Society|"
    r"Press|GPU|GmbH|supercomputer)"
)
_RANGE = re.compile(r"\W*\d[\d.]*\s?(?:to|-|–|±|\+|%|years|and|bis)")
_OWNS = re.compile(rf"(?<![^\W_])({_CAP})['’]s\s([a-z-]+)")
_FIELD = re.compile(
    rf"(?<![^\W_])(?i:nom|prénom|prenom|nombre|nome|apellidos?|cognome|ad[ıi]|soyad[ıi]?|ad soyad|imię|nazwisko"
    rf"|rufname)\s*[:=]\s*[\"']?{_CAP}"
)
_BORN = re.compile(
    rf"(?<![^\W_])(?i:geb(?:oren)?|born|née|né|nee|nato|nata|nacid[oa]|doğum|ur|geburtsname|verst|gest|died"
    rf"|†)\b\.?\s*:?\s*(?:(?i:on|am|in|"
    rf"le|il|el)\s+)?(?:the\s+)?(?:['(]?\d|{_CAP})"
    rf"|{_CAP}\s*[,(]?\s*(?:geb\.|geboren|née|\*\s?(?:(?:19|20)\d\d|\d))"
)
_BESIDE = [
    re.compile(rf"(?<![^\W_])(?i:name)\s?[:=]\s?{_CAP},\s?{_CAP}"),
    re.compile(rf"(?<![^\W_])(?:{_CAP}|[A-Z]\.)\s{_CAP}\s?[,(]\s?(?i:patient(?:in)?|pat\.)\s?[).,;]?(?:\s|$)"),
]
_DICOM = re.compile(r"(?<!\w)[^\W\d_]{2,}(?:[ -][^\W\d_]+)*\^+[^\W\d_]{2,}")
_KEYWORD = re.compile(rf"(?<!\w)((?:[A-Z][A-Za-z]+){{2,}}|[A-Z]{{9,}})\s+({_CAP}|\d[\d./-]+)")
_SCRIPT = re.compile(  # Greek letters stand alone in formulas
    "[\u0370-\u03ff]{3,}|[\u0400-\u052f]{2,}|[\u0530-\u1cff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)
_EQUALS = re.compile(r"[\"'”]?\s?(?:[:=|>]|->|→|⟶)(?=[\s\"'“„\[(<|]*([^\s\"'|]+))")
_VENUE = (
    r"et al|arxiv|doi[:.]|proc\.|proceedings|conference|workshop|journal|transactions|press\b|springer|elsevier|ieee"
    r"|nature|"
    r"cvpr|iccv|eccv|iclr|icml|neurips|miccai|bmvc|wacv|aaai|imageclef|github\.com"
)
_PUBLIC_NAMES = [
    re.compile(r"(?<![^\W_])(?:author|editor)\s*=\s*(?:\{[^@=]*?\}|\"[^\"@=]*\")\s*(?=,|\}|$)", re.IGNORECASE),
    re.compile(rf"^(?=.*(?:{_VENUE}))(?=.*(?<!\d)(?:19|20)\d\d(?!\d)).*$", re.IGNORECASE | re.MULTILINE),
    re.compile(r"copyright\s(?:\(c\)|©)?\s*(?:19|20)\d\d.{0,80}$", re.IGNORECASE | re.MULTILINE),
]
_BIBTEX_DATE = re.compile(r"(?<![^\W_])(?:url)?date\s*=\s*[{\"]20\d\d-\d\d-\d\d[}\"]", re.IGNORECASE)
_NOT_OF_A_PERSON = words("no_value")
"""What may stand after "patient id:" in a sentence: hashed, none, removed."""
_WORDS = words("no_name")
"""Words with a capital that may follow "Patient", "Arzt" and the like, in headings and in German."""


def findings(text: str) -> Iterator[Finding]:
    """What a text tells of people, each finding once."""
    seen = set()
    text = _BIBTEX_DATE.sub(" ", text)
    yield from table_findings(text)
    private = text
    for pattern in _PUBLIC_NAMES:
        private = pattern.sub(" ", private)
    for form, only_pairs in [*((form, False) for form in _forms(text)), *((form, True) for form in _forms(private))]:
        for finding in _pair_findings(form) if only_pairs else _in_form(form):
            if finding not in seen:
                seen.add(finding)
                yield finding


def table_findings(text: str) -> Iterator[Finding]:
    """Columns of tables, in Markdown or between commas, that hold ids, names or dates of people."""
    rows = [(line.strip(), "|" if "|" in line else max(",;\t", key=line.count)) for line in text.splitlines()]
    for number, (head, sign) in enumerate(rows):
        below = [line for line, _ in rows[number + 1 : number + 3]]
        marked = sign == "|" and bool(below) and re.fullmatch(r"[|:\s-]*-{2}[|:\s-]*", below[0])
        fields, values = (
            [cell.strip() for cell in line.strip("|").split(sign)]
            for line in (head, (below or [""])[-1 if marked else 0])
        )
        plain = not marked and len(fields) > 1 and all(re.fullmatch(r"[\w.-]{1,40}", field) for field in fields)
        if len(fields) != len(values) or not (marked or (plain and sign != "|")):
            continue
        for field, value in zip(fields, values, strict=True):
            counts = marked and plain_name(field) == "patient"  # patients of a split, or hashes of theirs
            harmless = re.fullmatch(r"[0-9a-f]{16,}" + (r"|[\d., %]+" if counts else ""), value)
            if not value or harmless or plain_name(value) in _NOT_OF_A_PERSON | identifying_names():
                continue
            if counts or is_personal(field):
                yield "a table of people", f"{field}: {value}"[:80]


def label_findings(text: str) -> Iterator[Finding]:
    """What the name of a class, a column or a file tells of people: as `findings`, and any known name of a person.

    A name that is one of a fracture, a grade or a sign ("Weber B", "Smith fracture") is none of a person.
    """
    for form in dict.fromkeys((text, re.sub(r"[_.]+", " ", text))):
        yield from findings(form)
    if key := key_finding(text):
        yield "the name of a field that identifies people", f"{text} ({key})"
    found = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text))
    others = {plain_name(word) for word in found} - words("eponyms")
    is_eponym = bool(others & words("of_eponyms")) or (not others and "-" in text)
    is_eponym |= bool(re.search(r"\s(?:[A-E]\d?|[IVX]{1,4}[ABab]?|[0-6])$", text)) and len(others) <= 1
    for word in found:
        if _is(word, "given", "surname") and not (is_eponym and plain_name(word) in words("eponyms")):
            yield "a name of a person", word
    if re.fullmatch(rf"{_CAP},\s*{_CAP}", text):
        yield "a name of a person", text
    if day := re.search(r"(?<!\d)\d\d[ _]\d\d[ _]\d\d(?!\d)", text):
        yield from date_findings(re.sub("[ _]", ".", day[0]))
    for number in re.findall(r"(?<!\d)\d{5,}(?!\d)", text):
        yield "a number that looks like an id", number


def _in_form(parted: str) -> Iterator[Finding]:
    text = parted.replace(f" {_PARAGRAPH}", "")
    yield from date_findings(text)
    yield from (("a name of a person", found[:80]) for found in [*_cued(text), *_name_findings(parted)])
    yield from (("a name of DICOM", found[0][:80]) for found in _DICOM.finditer(text))
    yield from (("a text in a script that is not looked into", found[0][:80]) for found in _SCRIPT.finditer(text))
    yield from number_findings(text)
    for found in _EQUALS.finditer(text):
        before = text[max(0, found.start() - 60) : found.start()].split()[-4:]
        value = found[1].strip("`*_.,;:()[]{}<>").lower()
        fields = [" ".join(before[first:]) for first in range(len(before))]
        told = next((name for name in reversed(fields) if is_personal(name) or _is_keyword(name)), None)
        spread = _RANGE.match(text, found.end()) is not None  # of ages, sizes or shares in a cohort
        if value and value not in _NOT_OF_A_PERSON and told is not None and not spread:
            yield "the name of a field that identifies people, with a value", f"{told}{found[0]} {found[1]}"[:80]


def _is_keyword(name: str) -> bool:
    """Whether a name is the keyword of an attribute of the profile, of more words than one."""
    return name in profile() and len(re.findall("[A-Z]", name)) > 1


def _cued(text: str) -> Iterator[str]:
    """Names beside a word that stands before names alone."""
    for found in _TITLES.finditer(text):
        name = next(filter(None, (found[f"name{part}"] for part in ("", "2", "3", "4"))))
        unsure = found["cue"] == "Fr" or found["cue2"] in ("Bay", "Pan", "Pani", "Familie")
        if unsure and not _is(name, "given", "surname") and not (found["cue"] and name[0].isupper()):
            continue
        if plain_name(name) not in _NOT_OF_A_PERSON | _WORDS or found["name4"]:
            yield found[0]
    for found in _NAMED.finditer(text):
        first = plain_name(re.split(r",?\s", found["name"])[0])
        if len(first) != 1 and first not in _WORDS:  # none is left of a name in another script
            yield found[0]
    for pattern in (*_BESIDE, _FIELD):
        yield from (found[0] for found in pattern.finditer(text))
    for found in _KEYWORD.finditer(text):
        if (is_personal(found[1]) or found[1] in profile()) and plain_name(
            found[2]
        ) not in identifying_names() | _WORDS | _NOT_OF_A_PERSON:
            yield found[0]
    for found in _BORN.finditer(text):
        if not re.search(r"(?i)\b(?:ur|nee|ne|nata|nato|gest|verst)\b\W*$", found[0]) and not re.match(
            r"(?i)(?:ur|nee|born)\s[^\d]", found[0]
        ):
            yield found[0]


def _name_findings(text: str) -> Iterator[str]:
    """Known names in the place of one."""
    for found in _LISTED.finditer(text):
        if _is(found[1], "given", "surname") and plain_name(found[1]) not in _WORDS:
            yield found[0]
    for found in _OF.finditer(text):
        if _is_uncommon(found[1]):
            yield found[0]
    for found in _ROLE.finditer(text):
        if _is(found[1], "given", "surname"):
            yield found[0]
    for found in _OWNS.finditer(text):
        if _is_uncommon(found[1]) and found[2] in words("of_the_field") | {"left", "right", "birth", "mother"}:
            yield found[0]


def _pair_findings(text: str) -> Iterator[Finding]:
    """A given name beside another word with a capital, and known given names and surnames side by side in any case."""
    pair = rf"(?<![^\W_])({_CAP})(,\s*|\s+(?:[A-Z]\.\s+)?|_|\.)({_CAP})(?![^\W_])"
    for found in re.finditer(rf"(?={pair})", text):
        first, sign, second = found[1], found[2], found[3]
        if "," in sign:
            first, second = second, first
        if not _is(first, "given") and _is(second, "given") and not _is(second, "surname"):
            first, second = second, first
        if any(re.fullmatch("[A-Z]{2,3}", name) for name in (found[1], found[3])):
            continue  # a state behind its place, a numeral, or a name of a method
        if _INSTITUTION.match(text, found.end(3)) or _INSTITUTION.match(f" {found[3]}"):
            continue
        given = _is(first, "given") and plain_name(second) not in _WORDS and len(second) > 1
        known = _is(first, "ambiguous") and (_is(second, "surname") or plain_name(second) in words("eponyms"))
        if (given and plain_name(first) not in _WORDS) or known:
            if "," in sign and _is(second, "given"):
                continue  # a list of given names, or of words
            yield "a name of a person", f"{found[1]}{sign}{found[3]}"
    for found in re.finditer(rf"(?<![^\W_])(?:[A-Z]\.\s?({_CAP})|({_CAP}),?\s[A-Z]\.)", text):
        if _is(found[1] or found[2], "surname"):
            yield "a name of a person", found[0]
    spaced = re.sub(r"(?<=[a-zß-ÿ])(?=[A-ZÄÖÜ])", " ", text)
    for between in ("", r"[^\W\d_]+\s"):
        for found in re.finditer(rf"(?=(?<![^\W_])({_LONG})([\s_.-]|,\s){between}({_LONG})(?![^\W_]))", spaced):
            one, other = found[1], found[3]
            both = (_is(a, "given") and _is(b, "surname") for a, b in ((one, other), (other, one)))
            plain = {plain_name(one), plain_name(other)}
            method = found[2] == "-" and plain <= words("eponyms")
            if len(plain) == 1 or method or _INSTITUTION.match(spaced, found.end(3)):
                continue
            if any(both):
                yield "a name of a person", f"{one}{found[2]}{other}"


@lru_cache(2**16)
def _is(word: str, *kinds: str) -> bool:
    """Whether a word is a name of one of these kinds: "given", "surname", "ambiguous" (given names that are words)."""
    parts = [plain_name(part) for part in word.split("-")]
    forms = [[plain_name(word)], [part for part in parts if len(part) > 2] if len(parts) > 1 else []]
    forms += [[re.sub("(?<=[aou])e", "", part) for part in form] for form in forms]
    return any(form and all(any(part in _people()[kind] for kind in kinds) for part in form) for form in forms)


def _is_uncommon(word: str) -> bool:
    """Whether a word is a surname that names neither a method nor a sign."""
    return _is(word, "surname") and plain_name(word) not in words("eponyms") | words("of_the_field") | _WORDS


@cache
def _people() -> dict[str, frozenset[str]]:
    both = {kind: words(kind) | names(kind) for kind in ("given", "surname")}
    return {**both, "ambiguous": words("ambiguous")}


_LOOK_ALIKE = str.maketrans("АВЕКМНОРСТУХаеорсухіјѕΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABEKMHOPCTYXaeopcyxijsABEZHIKMNOPTYXo")
_MARKS = re.compile(r"[*`~#>\\]+|</?\w*|<!--|-->|(?<!\w)_+|_+(?!\w)")


def readable(text: str) -> str:
    """A text with entities and percent signs resolved, in Unicode's compatibility form, without invisible signs."""
    text = unicodedata.normalize("NFKC", html.unescape(unquote(text)))
    text = "".join(char for char in text if unicodedata.category(char) not in ("Cf", "Co") and char != "\u034f")
    text = re.sub("[‐‑‒–—−]", "-", text).replace("·", ".")
    words = re.split(r"(\W+)", text)
    return "".join(word.translate(_LOOK_ALIKE) if re.search(r"[A-Za-z0-9]", word) else word for word in words)


def _forms(text: str) -> Iterator[str]:
    """A text as it is read: as written and without marks of Markdown; and what its base64 or hexadecimal parts say."""
    escapes = r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2}))"
    plain = readable(text)
    if re.search(escapes, plain):
        plain += "\n" + readable(re.sub(escapes, lambda code: chr(int(code[1] or code[2], 16)), plain))
    yield _joined(plain)
    yield _joined(_MARKS.sub(" ", plain))
    spaced = r"(?<![^\W_])[^\W\d_](?:([ ._-])[^\W\d_](?:\1[^\W\d_]){3,})(?![^\W_])"
    if re.search(spaced, plain):  # letters spaced out
        yield re.sub(spaced, lambda letters: re.sub(r"[\W_]", "", letters[0]), _joined(plain))
    yield _joined(re.sub(r"</?[A-Za-z][^<>]*>|<!--.*?-->|[*`~\\]+", "", plain))
    for code in re.findall(r"(?<![\w+/])(?:[A-Za-z0-9+/]{12,}={0,2}|[A-Za-z0-9_-]{12,}={0,2})(?![\w+/])", plain):
        if decoded := _decoded(code):
            yield decoded


def _joined(text: str) -> str:
    """The lines of a text as one, with a sign between paragraphs."""
    return re.sub(r"\s+", " ", re.sub(r"\n\s*\n", f" {_PARAGRAPH} ", text))


def _decoded(code: str) -> str | None:
    """The text behind hexadecimal digits or base64, None where there is none."""
    for decode in (
        bytes.fromhex,
        lambda text: base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_" if set("-_") & set(text) else None),
    ):
        try:
            text = decode(code).decode()
        except (ValueError, binascii.Error):
            continue
        if len(text) >= 6 and text.isprintable():
            return text
    return None
