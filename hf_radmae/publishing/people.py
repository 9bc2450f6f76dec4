"""What in a text tells of a person: dates, numbers that look like ids, names beside "Patient" or "Dr.", addresses.

These are patterns, and no proof: a name without a word beside it that says so, and that stands in no list here, is
seen by nobody. Texts are read as a browser shows them (entities and escapes resolved, marks of Markdown taken away,
look-alike letters of other scripts folded), and once more from base64 and hexadecimal digits.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from urllib.parse import unquote

from hf_radmae.publishing.keys import is_personal, key_finding, plain_name
from hf_radmae.publishing.words import words

Finding = tuple[str, str]
"""A kind, and the words that tell it."""

_MONTHS = (
    r"jan(?:uar[yi]?|vier|\.)?|jänner|enero|gennaio|januari|janeiro|stycznia|ocak|января|"
    r"feb(?:ruar[yi]?|braio|rero|\.)?|févr(?:ier|\.)?|fevrier|fevereiro|lutego|şubat|subat|февраля|"
    r"mar(?:ch|s|zo|ço|co|ca|t|\.)?|märz|maerz|mrz\.?|maart|марта|"
    r"apr(?:il[e]?|\.)?|avril|abril|kwietnia|nisan|апреля|"
    r"ma[iy]|mayo|maggio|mei|maio|maja|mayıs|mayis|мая|"
    r"jun[ei]?\.?|juin|junio|giugno|junho|czerwca|haziran|июня|"
    r"jul[iy]?\.?|juillet|julio|luglio|julho|lipca|temmuz|июля|"
    r"aug(?:ust(?:us)?|\.)?|août|aout|agosto|sierpnia|ağustos|agustos|августа|"
    r"sep(?:t(?:ember|embre|\.)?|\.)?|septiembre|settembre|setembro|września|wrzesnia|eylül|eylul|сентября|"
    r"o[ck]t(?:ober|obre|\.)?|octubre|ottobre|outubro|października|pazdziernika|ekim|октября|"
    r"nov(?:ember|embre|embro|\.)?|noviembre|listopada|kasım|kasim|ноября|"
    r"de[cz](?:ember|embre|embro|\.)?|déc(?:embre|\.)?|diciembre|dicembre|grudnia|aralık|aralik|декабря"
)
_YEAR, _DAY, _MONTH = r"(?:19\d\d|20[0-3]\d)", r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])"
_ORDINAL = r"(?:st|nd|rd|th|er|\.|º|ª)?"
_STICK = r"[\s.,/\-_]*(?:(?:of|de|del|di|den|day of)\s+)?"
_SEP = r"(?:\s?[-./_:]\s?|\s)"
_END = r"(?:(?=T\d)|(?![^\W_])(?!\.\d))"
_DATES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?<![\w.])(?P<y>{_YEAR}){_SEP}{_MONTH}{_SEP}{_DAY}{_END}",
        rf"(?<![\w.]){_DAY}{_SEP}(?:{_MONTH}|i{{1,3}}|iv|v|vi{{1,3}}|ix|xi{{0,2}}){_SEP}{_YEAR}{_END}",
        rf"(?<![\w.]){_MONTH}{_SEP}{_DAY}{_SEP}{_YEAR}{_END}",
        rf"(?<![\w.]){_YEAR}{_SEP}{_DAY}{_SEP}{_MONTH}{_END}",
        rf"(?<![\w]){_DAY}{_ORDINAL}{_STICK}(?:{_MONTHS}){_STICK}'?(?:{_YEAR}|\d\d)(?!\w)",
        rf"(?<![^\W_])(?:{_MONTHS}){_STICK}{_DAY}{_ORDINAL}{_STICK}{_YEAR}(?!\w)",
        rf"(?<!\w){_YEAR}{_STICK}(?:{_MONTHS}){_STICK}{_DAY}(?!\w)",
        rf"(?<![\w.,])(?:0[1-9],{_MONTH}|{_DAY},0[1-9]),{_YEAR}{_END}",
        rf"{_YEAR}\s?年\s?{_MONTH}\s?月\s?{_DAY}\s?日",
        r"(?<![\w.])(?:19|20[0-3])\d(?:\d)?(?<=\d{4})(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?![\d.]|[^\W_])",
        r"(?<![\w.])(?:0[1-9]|[12]\d|3[01])(?:0[1-9]|1[0-2])(?:19\d\d|20[0-3]\d)(?![\d.]|[^\W_])",
    )
]
_SHORT_DATE = re.compile(  # a year of two digits
    r"(?<![\w./-])(?P<a>\d{1,2})(?P<s>[./-])\s?(?P<b>\d{1,2})(?P=s)\s?'?(?P<c>\d\d)(?![\w/-])(?!\.\w)"
)
_SOFTWARE = re.compile(
    r"(?:python|torch\w*|transformers|datasets|accelerate|numpy|pillow|pydicom|pyarrow|pandas|scipy|scikit-\w+|sklearn"
    r"|cuda\w*|cudnn|nccl|driver|linux|ubuntu|hf_radmae|huggingface[_-]hub|tokenizers|safetensors|onnx\w*|version\w*"
    r"|release|jinja2|matplotlib|tensorboard|optuna|evaluate|pip|conda|git|docker|gradio|mypy|ruff|pytest"
    r"|(?<![^\W_])v)[\"'\s:=<>~v|]*$",
    re.IGNORECASE,
)
_PINNED = re.compile(r"(?:==|>=|<=|~=|\.dev|\+git|nightly[-_. ]?)$", re.IGNORECASE)
_QUANTITY = (
    r"parameters?|params?|weights?|images?|bilder|steps?|iterations?|updates?|tokens?|bytes?|[kmgt]i?b|patients?"
    r"|patienten|samples?|files?|dateien|rows?|patches|pixels?|flops?|seeds?|examples?|total|count|size|radiographs?"
    r"|checkpoint-?|studies|exams|labels?|draws|resamples|epochs?|shards?"
)
_AFTER = re.compile(rf"[\s|*]*(?:trainable |labelled |training |test )?(?:{_QUANTITY})(?!\w)", re.IGNORECASE)
_BEFORE = re.compile(rf"(?<![^\W_])(?:{_QUANTITY})[\w ]{{0,20}}[\"'\s:=|]*$", re.IGNORECASE)
_PUBLIC_NUMBERS = re.compile(
    r"(?:doi[:\s]*(?:\.org/)?|doi\.org/)\s*10\.\d{4,5}/[-.;()/:\w]+|(?<![\w.])10\.\d{4,5}/(?:[a-z]+\.|978-|[A-Z]{2,})[-.;()/:\w]+"
    r"|arxiv[:.\s]*(?:org/(?:abs|pdf)/)?\d{4}\.\d{4,5}(?:v\d+)?|(?<![\w.])\d{4}\.\d{5}(?:v\d+)?(?![\w.])"
    r"|https?://(?:www\.)?(?:zenodo\.org|huggingface\.co|github\.com|pubmed\.ncbi\.nlm\.nih\.gov|openreview\.net"
    r"|arxiv\.org|doi\.org|ieeexplore\.ieee\.org|proceedings\.[\w.]+)/[-.#?=&/:\w]*|zenodo\.\d+|(?:pmid|isbn|issn|pmc)[:\s]*[-\dX]+"
    r"|(?<![\w-])(?:model|train|validation|test)-\d{5}-of-\d{5}(?!\d)|rwth-\d{4}-\d{5}"
    r"|1\.2\.840\.10008(?:\.\d+)*",
    re.IGNORECASE,
)
_RUN = re.compile(r"(?<![\w.,])[+-]?\d{7,}(?![\d,]|[^\W_]|\.\d)")
_IDS: dict[str, re.Pattern[str]] = {
    "a number that looks like an id": re.compile(
        r"(?<![\w.,-])0\d{4,}(?![\w.])|(?<![^\W_])[A-Z]{1,4}[-_ ]?0\d{3,}(?!\w)|(?<![^\W_])[A-Z]{1,4}[-_]?\d{6,}(?!\w)"
        r"|(?<![\w-])[A-Z]{2,4}[-_/](?:19|20)\d\d[-_/]\d{4,}(?!\w)|(?<!\w)\d{1,3}(?:[ .]\d{3}){2,}\d(?!\w)"
        r"|(?<![\w-])\d{4,}[-/ ]\d{2,}[-/ ]\d{4,}(?![\w-])"
        r"|(?<![\w.-])(?!\d{4}-\d{3}-\d{3}-\d{3}(?!\d))(?=[\d-]{10,})\d{2,5}(?:-\d{2,5}){2,}(?![\w.-])"
    ),
    "an insurance number": re.compile(
        r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])|(?<![^\W_])[A-Z]\s?\d{3}\s?\d{3}\s?\d{3}(?!\w)"
        r"|(?<!\w)\d{2}\s?\d{6}\s?[A-Z]\s?\d{3}(?!\w)|(?<![\w.])756\.\d{4}\.\d{4}\.\d{2}(?!\w)"
        r"|(?<!\w)[12]\s?\d\d\s?(?:0\d|1[0-2])\s?\d\d\s?\d{3}\s?\d{3}(?:\s?\d\d)?(?!\w)"
        r"|(?<!\w)[A-Z]{2}\d{2}(?: ?[\dA-Z]{4}){3,}(?!\w)"
    ),
    "an id": re.compile(r"(?<!\w)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(?!\w)", re.IGNORECASE),
    "a phone number": re.compile(
        r"(?<![\w.+])(?:\+|00)[1-9]\d{0,2}[\s./()-]{0,3}\d(?:[\s./()-]{0,3}\d){5,}"
        r"|(?<![\w.,/-])\(?0[1-9]\d{1,4}\)?\s?[/ -]\s?\d{2,}[\d -]*\d(?![\w.])"
        r"|(?<![\w.-])(?:\(\d{3}\)\s?|\d{3}[-.])\d{3}[-.]\d{4}(?![\w.-])"
        r"|(?<![^\W_])(?:tel|telefon|phone|fon|fax|mobil|mobile|handy)(?:efon|ephone|\.)?\W{1,4}\d[\d\s/()-]{3,}",
        re.IGNORECASE,
    ),
    "a number of a machine": re.compile(
        r"(?<![\w.])(?:10\.\d{1,3}|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d{1,3}\.\d{1,3}(?![\w.])"
        r"|(?<![\w:])(?:[0-9a-f]{2}:){5}[0-9a-f]{2}(?![\w:])",
        re.IGNORECASE,
    ),
    "a street": re.compile(
        r"[A-ZÄÖÜ][\wäöüß-]*(?:straße|strasse|str\.|gasse|allee|damm)\s+\d+|(?<!\w)\d{1,5}\s+[A-Z][a-z]+\s+"
        r"(?:Street|St\.|Avenue|Ave\.|Road|Rd\.|Lane|Drive|Boulevard)(?!\w)|(?<!\w)(?:rue|via|calle)\s+[A-Z]\w+\s*,?\s*\d+"
    ),
    "a number of a case": re.compile(
        r"(?<![^\W_])(?:mrn|case\W{0,2}(?:no|nr|number|id)|fall\W{0,2}(?:nr|nummer|no|id)|pat(?:ient(?:en)?)?(?:['’]s)?\W{0,2}"
        r"(?:nr|no|id|number|nummer)|accession(?:\W{0,2}(?:no|nr|number))?|akten(?:zeichen|nummer)|(?:auftrags|befund|"
        r"aufnahme|versicher(?:ten|ungs)|kranken(?:haus|kassen)|untersuchungs)\W?(?:nr|nummer)|insurance\W{0,2}(?:no|nr|number|id)"
        r"|(?:medical|hospital)\W{0,2}(?:record\W{0,2})?(?:no|number|id)|kvnr|ssn|nhs\W{0,2}(?:no|number)|pid)"
        r"(?:[\W_]|is|was|ist|lautet|of)*(?!\d{1,3}\s*%)(?=[\w/-]*\d)[\w/-]{2,}",
        re.IGNORECASE,
    ),
    "a number of a person": re.compile(
        r"(?<![^\W_])(?:(?:patient(?:in)?|pat\.|case|fall|subject|proband(?:in)?)[\s:]{0,2}(?:#\s?\d+|\d{3,})"
        r"|patient(?:in)?\s\d{2})(?![\d/%]|[.,]\d)(?!\s*(?:images?|patients?|radiographs?|studies|exams|%|to\s))"
        r"|(?<![^\W_])(?:acc|akz|dob|date of birth|birth ?date|geburts(?:datum|jahr|tag))(?:\W{1,2}(?:no|nr))?"
        r"[\W_]{1,4}\d[\d/.-]+",
        re.IGNORECASE,
    ),
    "a DICOM element": re.compile(r"\(?(?:0008|0010|0020|0032|0038|0040)\s?[,:|]\s?[0-9a-f]{4}\)?", re.IGNORECASE),
    "a name of DICOM": re.compile(r"(?<!\w)[^\W\d_]{2,}(?:[ -][^\W\d_]+)*\^+[^\W\d_]{2,}"),
    "an e-mail address": re.compile(
        r"[\w.+-]+\s*[\[({<]\s*(?:at|ät|@)\s*[\])}>]\s*[\w-]+(?:\s*(?:[\[({<]\s*(?:dot|punkt|\.)\s*[\])}>]|\.)\s*[\w-]+)+"
        r"|(?<!\w)\w+[._]\w+@\w{3,}|(?<!\w)[\w.+-]+\s+at\s+[\w-]+\s+(?:dot|punkt)\s+\w{2,}|[\w.+-]+＠[\w.-]+",
        re.IGNORECASE,
    ),
}
_CAP = r"[^\W\d_a-zà-öø-ÿ][^\W\d_]*(?:[-'’][^\W\d_]+)*"
_WORD = r"[^\W\d_]{2,}(?:[-'’][^\W\d_]+)*"
_TITLES = re.compile(
    rf"(?<![^\W_])(?P<cue>[Dd]r|DR|[Pp]rof|PROF|Professor|Hr|Hrn|Fr|Mrs?|MRS|Ms|Mme|Mlle|Sig(?:ra)?|Sra?|gez|Gez)\.\s*(?:(?:med|dent|"
    rf"habil|rer|nat|univ|phil|h\.c)\.?\s*|Dr\.\s*|PD\s*)*:?\s*(?P<name>{_WORD})"
    rf"|(?<![^\W_])(?P<cue2>[Hh]errn?|HERRN?|[Ff]rau|FRAU|Mr|Mrs|MRS|Miss|Doctor|Doktor|Professor|Dr|Prof|Señora?|Monsieur|Madame"
    rf"|Signora?)\s*:?\s+(?P<name2>{_CAP})"
    rf"|(?<![^\W_])(?P<cue3>herrn?|frau|mrs?|miss|monsieur|madame)\.?\s+(?P<name3>{_WORD})"
)
_NAMED = re.compile(
    rf"(?<![^\W_])(?P<cue>(?i:patient(?:in|en|innen)?(?:['’]s)?|pat\.|pt\.|proband(?:in)?|subject|child|kind|mother|mutter|father|vater|"
    rf"radiologist|physician|surgeon|referrer|arzt|ärztin|radiologe|radiologin|befunder(?:in)?|untersucher(?:in)?|"
    rf"reported by|read by|signed by|signed|befundet von|unterzeichnet von|zuweiser(?:in)?|einsender|operator|"
    rf"technologist|mtra?|hasta|pacjent(?:ka)?|paziente|paciente|пациент(?:ка)?|patiënt|pacient|patienten))"
    rf"(?P<sep>\s*(?:[:=(\[,\"'“„|]|\b(?i:is|was|ist|war|named|called|namens|name)\b|\s)[\s:=(\[\"'“„|]*)(?P<name>{_CAP}(?:,?\s+{_CAP})?)"
)
_BORN = re.compile(
    rf"(?<![^\W_])(?i:geb(?:oren)?|born|née|né|nee|nato|nata|nacid[oa]|doğum|ur|geburtsname|verst|gest|died|†)\b\.?\s*:?\s*(?:(?i:on|am|in|"
    rf"le|il|el)\s+)?(?:the\s+)?(?:['(]?\d|{_CAP})"
    rf"|{_CAP}\s*[,(]?\s*(?:geb\.|geboren|née|\*\s?(?:{_YEAR}|\d))"
)
_BESIDE = [
    re.compile(rf"(?<![^\W_])(?i:name)\s?[:=]\s?{_CAP},\s?{_CAP}"),
    re.compile(rf"(?<![^\W_])(?:{_CAP}|[A-Z]\.)\s{_CAP}\s?[,(]\s?(?i:patient(?:in)?|pat\.)\s?[).,;]?(?:\s|$)"),
    re.compile(r"(?:患者|病人|환자)\W{0,3}\w{2,}"),
]
_AUTHORS = re.compile(r"(?<![^\W_])(?:author|editor)\s*=\s*(?:\{[^@=]*?\}|\"[^\"@=]*\")\s*(?=,|\}|$)", re.IGNORECASE)
"""Authors of a paper in BibTeX, whose names are public."""
_EQUALS = re.compile(r"[\"'”]?\s?(?:[:=|>]|->|→|⟶)(?=[\s\"'“„\[(<|]*([^\s\"'|]+))")
_NOT_OF_A_PERSON = words("no_value")
"""What may stand after "patient id:" in a sentence: hashed, none, removed."""
_WORDS = words("no_name")
"""Words with a capital that may follow "Patient", "Arzt" and the like, in headings and in German."""


def findings(text: str) -> Iterator[Finding]:
    """What a text tells of people, each finding once."""
    seen = set()
    for form in _forms(text):
        for finding in _in_form(form):
            if finding not in seen:
                seen.add(finding)
                yield finding


def label_findings(text: str) -> Iterator[Finding]:
    """What the name of a class, a column or a file tells of people: as `findings`, and any known name of a person."""
    if key := key_finding(text):
        yield "the name of a field that identifies people", f"{text} ({key})"
    for form in (text, re.sub(r"[_.-]+", " ", text)):
        yield from findings(form)
    for word in re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)):
        if plain_name(word) in _people()["given"] | _people()["surname"]:
            yield "a name of a person", word
    if re.fullmatch(rf"{_CAP},\s*{_CAP}", text):
        yield "a name of a person", text
    for number in re.findall(r"(?<!\d)\d{5,}(?!\d)", text):
        yield "a number that looks like an id", number


def _in_form(text: str) -> Iterator[Finding]:
    yield from _date_findings(text)
    yield from (("a name of a person", found) for found in _name_findings(text))
    public = _PUBLIC_NUMBERS.sub(" ", text)
    for kind, pattern in _IDS.items():
        source = text if kind in ("a name of DICOM", "a number of a case") else public
        yield from ((kind, found[0].strip()[:80]) for found in pattern.finditer(source) if _is_id(source, found))
    for found in _RUN.finditer(public):
        if not (
            _AFTER.match(public, found.end()) or _BEFORE.search(public[max(0, found.start() - 60) : found.start()])
        ):
            yield "a number that looks like an id", found[0]
    for found in _EQUALS.finditer(text):
        words = text[max(0, found.start() - 60) : found.start()].split()[-4:]
        value = found[1].strip("`*_.,;:()[]{}<>").lower()
        names = [" ".join(words[first:]) for first in range(len(words))]
        if value and value not in _NOT_OF_A_PERSON and any(map(is_personal, names)):
            told = next(name for name in reversed(names) if is_personal(name))
            yield "the name of a field that identifies people, with a value", f"{told}{found[0]} {found[1]}"[:80]


def _is_id(text: str, found: re.Match[str]) -> bool:
    """Whether a number is none of an amount, such as "1 234 567 images"."""
    return not (found[0].replace(" ", "").replace(".", "").isdigit() and _AFTER.match(text, found.end()))


def _date_findings(text: str) -> Iterator[Finding]:
    for pattern in _DATES:
        for found in pattern.finditer(text):
            before = text[max(0, found.start() - 40) : found.start()]
            released = (year := re.search(_YEAR, found[0])) and int(year[0]) >= 2015
            amount = found[0].isdigit() and (_AFTER.match(text, found.end()) or _BEFORE.search(before))
            if not (released and _PINNED.search(before)) and not amount and not _is_prose(found[0]):
                yield "a date", found[0].strip()
    for found in _SHORT_DATE.finditer(text):
        first, second, third = (int(found[part]) for part in "abc")
        padded = any(found[part].startswith("0") for part in "abc")
        day_month = 1 <= min(first, second) <= 12 and 1 <= max(first, second) <= 31
        year_first = padded and 1 <= second <= 12 and 1 <= third <= 31
        version = (
            found["s"] == "." and not padded and _SOFTWARE.search(text[max(0, found.start() - 40) : found.start()])
        )
        ratio = first + second + third == 100
        if (day_month or year_first) and not version and not ratio:
            yield "a date", found[0]


def _is_prose(text: str) -> bool:
    """Whether what looks like a date with a year of two digits is a sentence: "12 may 64"."""
    return bool(re.fullmatch(r"\d+\s+(?:may|mar|dec|jan|sep|mai|ma[iy])\s+\d\d", text)) or bool(
        re.fullmatch(r"\d{1,2}\s*,\s*\w+\s*,\s*\d\d", text)
    )


def _name_findings(text: str) -> Iterator[str]:
    known = _people()
    for found in _TITLES.finditer(text):
        name = found["name"] or found["name2"] or found["name3"]
        cue = found["cue"] or found["cue2"] or found["cue3"]
        if cue == "Fr" and plain_name(name) not in known["given"] | known["surname"] and not name[0].isupper():
            continue
        if plain_name(name) not in _NOT_OF_A_PERSON | _WORDS:
            yield found[0][:80]
    for found in _NAMED.finditer(text):
        first = plain_name(re.split(r",?\s", found["name"])[0])
        if len(first) != 1 and first not in _WORDS:  # none is left of a name in another script
            yield found[0][:80]
    cues = r"patient(?:in|en)?|pat\.?|herrn?|frau|arzt|radiologist|physician|name|signed by|by"
    lower = rf"(?<![^\W_])(?i:{cues})[\s:=,_|\"'-]+([^\W\d_]{{3,}})"
    for found in re.finditer(lower, text):
        if plain_name(found[1]) in known["given"] | known["surname"]:
            yield found[0][:80]
    for pattern in _BESIDE:
        yield from (found[0][:80] for found in pattern.finditer(text))
    for found in re.finditer(rf"(?<![^\W_])(?:[A-Z]\.\s?({_CAP})|({_CAP}),\s[A-Z]\.)", text):
        if plain_name(found[1] or found[2]) in known["surname"]:
            yield found[0][:80]
    for found in _BORN.finditer(text):
        if not re.search(r"(?i)\b(?:ur|nee|ne|nata|nato|gest|verst)\b\W*$", found[0]) and not re.match(
            r"(?i)(?:ur|nee|born)\s[^\d]", found[0]
        ):
            yield found[0][:80]
    text = _AUTHORS.sub(" ", text)
    pair = rf"(?<![^\W_])({_CAP})(,\s*|\s+(?:[A-Z]\.\s+)?|_|\.)({_CAP})(?![^\W_])"
    for found in re.finditer(rf"(?={pair})", text):
        first, sign, second = plain_name(found[1]), found[2], plain_name(found[3])
        if "," in sign:
            first, second = second, first
        if first not in known["given"] and second in known["given"] and second not in known["surname"]:
            first, second = second, first
        given = first in known["given"] and second not in _WORDS and len(second) > 1
        if (given or first in known["ambiguous"]) and (given or second in known["surname"]):
            if "," in sign and second in known["given"]:
                continue  # a list of given names, or of words
            yield f"{found[1]}{sign}{found[3]}"


@cache
def _people() -> dict[str, frozenset[str]]:
    """Names of people: "given", "ambiguous" (given names that are words too), "surname"."""
    return {kind: words(kind) for kind in ("given", "ambiguous", "surname")}


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
    yield re.sub(r"\s+", " ", plain)
    yield re.sub(r"\s+", " ", _MARKS.sub(" ", plain))
    if re.search(r"(?:(?<!\S)\w\s){5}", plain):  # letters spaced out
        yield re.sub(r"(?<=(?<!\S)\w)\s(?=\w(?!\S))", "", re.sub(r"\s+", " ", plain))
    yield re.sub(r"\s+", " ", re.sub(r"[*`~\\]+", "", plain))
    for code in re.findall(r"(?<![\w+/])(?:[A-Za-z0-9+/]{12,}={0,2}|[A-Za-z0-9_-]{12,}={0,2})(?![\w+/])", plain):
        if decoded := _decoded(code):
            yield decoded


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
