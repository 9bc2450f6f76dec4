"""Dates in a text, in the orders and the languages in which they are written."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hf_radmae.publishing.numbers import Finding, is_amount

_MONTHS = (
    r"jan(?:uar[yi]?|vier|\.)?|jänner|enero|gennaio|januari|janeiro|ene|stycznia|ocak|января|"
    r"feb(?:ruar[yi]?|braio|rero|\.)?|févr(?:ier|\.)?|fevrier|fevereiro|lutego|şubat|subat|февраля|"
    r"mar(?:ch|s|zo|ço|co|ca|t|\.)?|märz|maerz|mrz\.?|maart|марта|"
    r"apr(?:ile?|\.)?|avril|abril|kwietnia|nisan|апреля|"
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
_DAY_WORDS = (  # the first to the thirty-first, spelt out
    r"(?:(?:twenty|thirty)[- ])?(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth)|tenth|eleventh|twelfth"
    r"|(?:thir|four|fif|six|seven|eigh|nine)teenth|twentieth|thirtieth"
    r"|(?:ers|zwei|drit|vier|fünf|sechs|sieb|sieben|ach|neun|zehn|elf|zwölf|dreizehn|vierzehn|fünfzehn|sechzehn"
    r"|siebzehn"
    r"|achtzehn|neunzehn)te[rnms]?|(?:(?:ein|zwei|drei|vier|fünf|sechs|sieben|acht|neun)und)?(?:zwanzig|dreißig"
    r"|dreissig)ste[rnms]?"
    r"|uno|primero|dos|tres|cuatro|cinco|seis|siete|ocho|nueve|diez|once|doce|trece|catorce|quince|veinte|treinta"
    r"|dieci\w+|veinti\w+|treinta y uno|premier|deux|trois|quatre|cinq|sept|huit|neuf|dix|onze|douze|treize|quatorze"
    r"|quinze|seize"
    r"|vingt|trente|(?:on |yirmi |otuz )?(?:bir|iki|üç|dört|beş|altı|yedi|sekiz|dokuz)|yirmi|otuz"
)
_YEAR_WORDS = (
    r"nineteen[- ]\w+|two thousand(?:[- ]\w+)?|neunzehnhundert\w+|zweitausend\w*|mil novecientos \w+"
    r"|mille neuf cent \w+"
)
_SEP = r"(?:\s?[-./_:]\s?|\s)"
_END = r"(?:(?=T\d)|(?![^\W_])(?!\.\d))"
_DATES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?<![\w.])(?P<y>{_YEAR}){_SEP}{_MONTH}{_SEP}{_DAY}{_END}",
        rf"(?<![\w.]){_DAY}{_SEP}(?:{_MONTH}|i{{1,3}}|iv|v|vi{{1,3}}|ix|xi{{0,2}}){_SEP}{_YEAR}{_END}",
        rf"(?<![\w.]){_MONTH}{_SEP}{_DAY}{_SEP}{_YEAR}{_END}",
        rf"(?<![\w.]){_YEAR}{_SEP}{_DAY}{_SEP}{_MONTH}{_END}",
        rf"(?<![\w.]){_DAY}\.\s?(?:i{{1,3}}|iv|v|vi{{1,3}}|ix|xi{{0,2}})\.\s?\d\d(?![\w.])",
        rf"(?<![^\W_])(?:{_DAY_WORDS}){_STICK}(?:{_MONTHS})[,.]?\s+(?:(?:of|de|del|im jahre?)\s+)?(?:{_YEAR}"
        rf"|{_YEAR_WORDS})(?!\w)",
        rf"(?<![^\W_])(?:{_MONTHS})\s+(?:the\s+)?(?:{_DAY_WORDS}|{_DAY}{_ORDINAL}),?\s+(?:{_YEAR}"
        rf"|{_YEAR_WORDS})(?!\w)",
        rf"(?<![^\W_])(?:{_MONTHS})\s{_DAY}{_ORDINAL},?\s'\d\d(?!\w)",
        rf"(?<![\w]){_DAY}{_ORDINAL}{_STICK}(?:{_MONTHS}){_STICK}'?(?:{_YEAR}|\d\d)(?!\w)",
        rf"(?<![^\W_])(?:{_MONTHS}){_STICK}{_DAY}{_ORDINAL}{_STICK}{_YEAR}(?!\w)",
        rf"(?<!\w){_YEAR}{_STICK}(?:{_MONTHS}){_STICK}{_DAY}(?!\w)",
        rf"(?<![\w.,])(?:0[1-9],{_MONTH}|{_DAY},0[1-9]),{_YEAR}{_END}",
        rf"{_YEAR}\s?年\s?{_MONTH}\s?月\s?{_DAY}\s?日",
        r"(?:(?<![^\W_]|\.)|(?<=[g-z])|(?<=[a-z]{4}))(?:19\d|20[0-3])\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d"
        r"|3[01])(?:(?=T\d)|(?![\d.]|[^\W_]))",
        r"(?<![\w.])(?:0[1-9]|[12]\d|3[01])(?:0[1-9]|1[0-2])(?:19\d\d|20[0-3]\d)(?![\d.]|[^\W_])",
    )
]
_SHORT_DATE = re.compile(  # a year of two digits
    r"(?<![\w./-])(?P<a>\d{1,2})(?P<s>[./-])\s?(?P<b>\d{1,2})(?P=s)\s?'?(?P<c>\d\d)(?![\w/-])(?!\.\w)"
)
_SEEN = re.compile(  # a day without its year, beside what was done on it
    r"(?<![^\W_])(?:exam\w*|stud(?:y|ies)|seen|admitted|scanned|visit|x-?rayed|operated|died|aufnahmen?|untersuch\w*"
    r"|befund\w*|röntgen|"
    r"geröntgt|aufgenommen|operiert|verstorben|muayene|çekim|visto|ingreso|estudio)\s(?:(?:on|of|from|at|vom|am|von"
    r"|del?|el|the|tarihi)\s){1,2}"
    rf"(?:{_DAY}\.?\s(?:{_MONTHS})|(?:{_MONTHS})\s{_DAY}(?:st|nd|rd|th)?|{_DAY}\.{_MONTH}\.)(?!\w)",
    re.IGNORECASE,
)
_BORN = re.compile(  # a year alone, beside what says that it is one of birth
    r"(?<![^\W_])(?:born(?: in)?|birth ?year|year of birth|geboren(?: in)?|geburtsjahr|jahrgang|doğum(?: yılı"
    r"| tarihi)?|d\.?o\.?b\.?|nacid[oa](?: en)?"
    r"|(?:fecha|año) de nacimiento|née? en|année de naissance|nat[oa] nel|anno di nascita|rok urodzenia"
    r"|patient\s?birth\s?date|(?<![\w.])b\.)"
    rf"[\s:=]{{1,3}}(?:(?:in\s)?(?:{_MONTHS})\s)?(?:{_YEAR}|'\d\d)(?!\w)(?!\s*(?:images|bilder))",
    re.IGNORECASE,
)
_SOFTWARE = re.compile(
    r"(?:python|torch\w*|transformers|datasets|accelerate|numpy|pillow|pydicom|pyarrow|pandas|scipy|scikit-\w+|sklearn"
    r"|cuda\w*|cudnn|nccl|driver|linux|ubuntu|hf_radmae|huggingface[_-]hub|tokenizers|safetensors|onnx\w*|version\w*"
    r"|release|jinja2|matplotlib|tensorboard|optuna|evaluate|pip|conda|git|docker|gradio|mypy|ruff|pytest"
    r"|(?<![^\W_])v)[\"'\s:=<>~v|]*$",
    re.IGNORECASE,
)
_SEED = re.compile(r"(?:seed|random_state)\W*$", re.IGNORECASE)
_PINNED = re.compile(r"(?:==|>=|<=|~=|\.dev|\+git|nightly[-_. ]?)$", re.IGNORECASE)


def date_findings(text: str) -> Iterator[Finding]:
    """Dates, those without a year where something says what happened then, and years of birth."""
    for pattern in _DATES:
        for found in pattern.finditer(text):
            before = text[max(0, found.start() - 40) : found.start()]
            released = (year := re.search(_YEAR, found[0])) and int(year[0]) >= 2015
            drawn = _SEED.search(before) and (year is None or int(year[0]) < 2000)  # a seed is no amount, but recent
            amount = found[0].isdigit() and is_amount(text, found.start(), found.end()) and not drawn
            if not (released and _PINNED.search(before)) and not amount and not _is_prose(found[0]):
                yield "a date", found[0].strip()
    for pattern in (_SEEN, _BORN):
        yield from (("a date", found[0]) for found in pattern.finditer(text))
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
    """Whether what looks like a date is a sentence, "12 may 64", or a version and a year, "1.6 2001"."""
    patterns = (
        r"\d\.\d{1,2}\s\d{4}",
        r"\d+\s+(?:may|mar|dec|jan|sep|mai|ma[iy])\s+\d\d",
        r"\d{1,2}\s*,\s*\w+\s*,\s*\d\d",
    )
    return any(re.fullmatch(pattern, text) for pattern in patterns)
