"""Numbers and addresses in a text that tell of a person: ids, phones, streets, machines.

Amounts ("85,798,656 parameters"), versions, and the public numbers of papers, grants and studies are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Finding = tuple[str, str]
"""A kind, and the words that tell it."""

_QUANTITY = (
    r"parameters?|params?|parameter|weights?|images?|bilder|steps?|iterations?|updates?|tokens?|bytes?|[kmgt]i?b"
    r"|patients?"
    r"|patienten|samples?|files?|dateien|rows?|patches|pixels?|flops?|seeds?|random_state|examples?|total|count|sizes?"
    r"|shapes?|inputs?|dims?|radiographs?|checkpoint-?|studies|exams|labels?|draws|resamples|epochs?|shards?|memory"
)
_AFTER = re.compile(rf"[\s|*]*(?:trainable |labelled |training |test )?(?:{_QUANTITY})(?!\w)", re.IGNORECASE)
_BEFORE = re.compile(rf"(?<![^\W_])(?:{_QUANTITY})[\w ]{{0,20}}[\"'\s:=|]*$", re.IGNORECASE)
_PUBLIC = re.compile(
    r"(?:doi[:\s]*(?:\.org/)?|doi\.org/)\s*10\.\d{4,5}/[-.;()/:\w]+|(?<![\w.])10\.\d{4,5}/(?:[a-z]+\.|978-"
    r"|[A-Z]{2,})[-.;()/:\w]+"
    r"|arxiv[:.\s]*(?:org/(?:abs|pdf)/)?\d{4}\.\d{4,5}(?:v\d+)?|(?<![\w.])\d{4}\.\d{5}(?:v\d+)?(?![\w.])"
    r"|https?://(?:www\.)?(?:zenodo\.org|huggingface\.co|github\.com|pubmed\.ncbi\.nlm\.nih\.gov|openreview\.net"
    r"|arxiv\.org|doi\.org|orcid\.org|ieeexplore\.ieee\.org|proceedings\.[\w.]+)/[-.#?=&/:\w]*|zenodo\.\d+"
    r"|(?:pmid|isbn|issn|pmc|orcid)[:\s]*[-\dX]+|(?<!\w)(?:NCT|DRKS|ISRCTN)\d{8}(?!\d)|(?<!\d)(?:2147483647|4294967295"
    r"|4294967296)(?!\d)"
    r"|(?<!\w)(?:grant|award|project (?:number|no\.?)|förderkennzeichen|fkz)(?:\s(?:agreement|number|no\.?"
    r"|nr\.?))*[:\s]{1,2}[\dA-Z]{6,16}"
    r"|(?<![\w-])(?:model|train|validation|test)-\d{5}-of-\d{5}(?!\d)|rwth-\d{4}-\d{5}"
    r"|1\.2\.840\.10008(?:\.\d+)*",
    re.IGNORECASE,
)
_COMMON = re.compile(r"(?:this|that|each|every|any|worst|best|use|test|edge|corner|general)\s$", re.IGNORECASE)
_RUN = re.compile(r"(?<![\w.,])[+-]?\d{7,}(?![\d,]|[^\W_]|\.\d)")
_ID = (  # what stands before the number of a person, an examination or a document, in the languages of the lists
    r"mrn|pid|ssn|kvnr|nhc|dni|nie|uhid|case|fall|pat(?:ient(?:en|in)?)?(?:['’]s)?|hasta|paciente|paziente|accession"
    r"|acc|akz|akten|"
    r"auftrags?|befunds?|aufnahme|untersuchungs?|protokoll?|dosya|kranken(?:haus|kassen)?|versicher(?:ten|ungs)"
    r"|steuer|"
    r"insurance|policy|(?:medical|hospital|health)\s?record|record|hospital|klinik|kis|ris|kartei|archiv|röntgen"
    r"|film|chart|exam(?:ination)?"
    r"|visit|encounter|admission|"
    r"study|series|order|subject|proband(?:en|in)?|historia(?: clínica)?|dossier|cartella|kimlik|tc kimlik|nhs|pesel|"
    r"(?:national|social) id|person(?:al)?"
)
_NUMBER_WORD = r"(?:no|nr|num|number|nummer|id|identifier|kennung|zeichen|numarası|numara|numero|número|n°|nº|№)"
_IDS: dict[str, re.Pattern[str]] = {
    "a number that looks like an id": re.compile(
        r"(?<![\w.,-])0\d{4,}(?![\w.])|(?<![^\W_])[A-Z]{1,4}[-_ ]?0\d{3,}(?!\w)|(?<![^\W_])[A-Z]{1,4}[-_]?\d{6,}(?!\w)"
        r"|(?<![\w-])[A-Z]{2,4}[-_/](?:19|20)\d\d[-_/]\d{4,}(?!\w)|(?<![\w.,-])(?:[A-Z]{1,4}[-_/])?(?:19"
        r"|20)\d\d[-_/]0\d{3,}(?![\w-])"
        r"|(?<![\d.,] )(?<![\w.,])\d{1,3}([ .])\d{3}(?:\1\d{3})+(?:\1?\d{1,2})?(?![\w,]|[ .]\d)"
        r"|(?<![\w-])\d{4,}[-/ ]\d{2,}[-/ ]\d{4,}(?![\w-])"
        r"|(?<![\w.-])(?!\d{4}-\d{3}-\d{3}-\d{3}(?!\d))(?=[\d-]{10,})\d{2,5}(?:-\d{2,5}){2,}(?![\w.-])"
        r"|(?<![^\W_])(?:PAT|PID|MRN|KIS|RIS|ACC|FALL|CASE|ID|NHC|UHID)[-_#:= ]{0,2}\d{3,}(?![\w.]|\s?[x×])"
        r"|(?<![^\W_])[Ii]d[-#:= ]{1,2}\d{3,}(?![\w.]|\s?[x×])"
    ),
    "an insurance number": re.compile(
        r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])|(?<![\w] )(?<![\w.,])\d{3} \d{2} \d{4}(?! ?\d|\w)"
        r"|(?<![^\W_])[A-Z]\s?\d{3}\s?\d{3}\s?\d{3}(?!\w)"
        r"|(?<!\w)\d{2}\s?\d{6}\s?[A-Z]\s?\d{3}(?!\w)|(?<![\w.])756\.\d{4}\.\d{4}\.\d{2}(?!\w)"
        r"|(?<!\w)[12]\s?\d\d\s?(?:0\d|1[0-2])\s?\d\d\s?\d{3}\s?\d{3}(?:\s?\d\d)?(?!\w)"
        r"|(?<!\w)[A-Z]{2}\d{2}(?: ?[\dA-Z]{4}){3,}(?!\w)"
        r"|(?<!\w)\d{8}-?[A-HJ-NP-TV-Z](?!\w)|(?<!\w)[XYZ]-?\d{7}-?[A-Z](?!\w)"
        r"|(?<!\w)[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z](?!\w)"
    ),
    "an id": re.compile(r"(?<!\w)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(?!\w)", re.IGNORECASE),
    "a phone number": re.compile(
        r"(?<![\w.+])(?:\+|00)[1-9]\d{0,2}[\s./()-]{0,3}\d(?:[\s./()-]{0,3}\d){5,}"
        r"|(?<![\w.,/-])\(?0[1-9]\d{1,4}\)?\s?[/ -]\s?\d{2,}[\d -]*\d(?![\w.])"
        r"|(?<![\w.-])(?:\(\d{3}\)\s?|\d{3}[-.])\d{3}[-.]\d{4}(?![\w.-])"
        r"|(?<![^\W_])(?:tel|telefon|phone|fon|fax|mobil|mobile|handy|pager|durchwahl|whatsapp|teléfono|móvil"
        r"|telefono)"
        r"(?:efon|ephone|\.)?\W{1,4}\d[\d\s/()-]{2,}|(?<![^\W_])(?:call|ring|dial|ext\."
        r"|extension)[:\s]{1,2}\d[\d /-]{3,}\d",
        re.IGNORECASE,
    ),
    "a number of a machine": re.compile(
        r"(?<![\w.])(?:10\.\d{1,3}|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d{1,3}\.\d{1,3}(?![\w.])(?!/\d)"
        r"|(?<![\w:])(?:[0-9a-f]{2}:){5}[0-9a-f]{2}(?![\w:])|(?<![\w:])fe80:[0-9a-f:]+"
        r"|(?<![\w.-])[a-z][\w-]*(?:\.[\w-]+)*\.(?:local|lan|intern|internal|intranet|localdomain|klinik)(?![\w.-])",
        re.IGNORECASE,
    ),
    "a street": re.compile(
        r"[A-ZÄÖÜ][\wäöüß-]*(?:straße|strasse|str\.|gasse|allee|damm|platz|weg|ufer|chaussee)\s*\d+\s?[a-z]?(?!\w)"
        r"|(?<!\w)[A-ZÄÖÜ][\wäöüß]+(?:er|en)?[ -](?:Straße|Strasse|Str\.|Gasse|Allee|Platz|Weg|Ufer)\s+\d+"
        r"|(?<!\w)\d{1,5}[A-Z]?,?\s+[A-Z][a-z]+\s+(?:Street|St\.|Avenue|Ave\.|Road|Rd\.|Lane|Drive|Boulevard)(?!\w)"
        r"|(?<!\w)\d{1,4},?\s(?:rue|avenue|boulevard|place)\s(?:d[eu]s?\s(?:la\s)?)?[A-Z]\w+"
        r"|(?<!\w)(?:[Rr]ue|[Vv]iale|[Vv]ia|[Pp]iazza|[Cc]alle|[Aa]venida"
        r"|[Pp]laza)\s+(?:d\w{1,3}\s(?:la\s)?)?[A-Z]\w+\s*,?\s*\d+"
        r"|(?<!\w)[A-ZÇĞİÖŞÜ]\w+\s(?:Caddesi|Cad\.|Sokak|Sokağı|Sok\.|Mahallesi|Mah\.)(?!\w)"
    ),
    "an address": re.compile(
        r"(?<!\w)D-\d{5}(?!\w)|(?<![^\W_])(?i:plz|postleitzahl|postfach|zip ?code|gps)\W{1,3}\d{3,}"
        r"|(?<!\w)\d{5}\s(?:Berlin|Hamburg|München|Munich|Köln|Frankfurt|Stuttgart|Düsseldorf"
        r"|Leipzig|Dortmund"
        r"|Essen|Bremen|Dresden|Hannover|Nürnberg|Duisburg|Bochum|Wuppertal|Bielefeld|Bonn|Münster|Mannheim"
        r"|Karlsruhe|Augsburg"
        r"|Wiesbaden|Aachen|Kiel|Freiburg|Mainz|Regensburg|Ulm|Würzburg|Heidelberg|Madrid|Barcelona|Paris|Roma"
        r"|Milano|Ankara)(?!\w)"
        r"|(?<!\w)[A-Z]{1,2}\d[A-Z\d]?\s\d(?![GMTK]B)[A-Z]{2}(?!\w)"
        r"|(?<![^\W_])(?i:wohnhaft(?: in)?|wohnort|lives in|residing (?:in|at))[:\s]{1,2}[A-ZÄÖÜ]\w+"
    ),
    "a number of a case": re.compile(
        rf"(?<![^\W_])(?:{_ID})(?:\W{{0,2}}|_){_NUMBER_WORD}\.?(?:[\W_]|is|was|ist|lautet"
        rf"|of)*(?!\d{{1,3}}\s*%)(?=[\w/-]*\d)[\w/-]{{2,}}"
        r"|(?:número|numero|nº) de (?:historia|paciente|caso)(?: clínica)?(?:\W|es|is){1,5}(?=[\w/-]*\d)[\w/-]{2,}"
        r"|(?<![^\W_])(?:mrn|pid|ssn|kvnr|nhc|dni|nie|uhid|accession|aktenzeichen|az\.|medical record|fall:|kimlik"
        r"|nhs)"
        r"(?:[\W_]|is|was|ist|lautet|of)*(?!\d{1,3}\s*%)(?=[\w/-]*\d)[\w/-]{2,}"
        r"|(?<![^\W_])(?:passport|reisepass|pasaporte|passeport|personalausweis|kennzeichen"
        r"|li[cs]en[cs]e plate)[\s:=]{1,3}(?:no|nr|number)?\.?\s?"
        r"(?=[A-Z\d -]*\d)[A-Z\d-]{2,}(?:\s\d+)?",
        re.IGNORECASE,
    ),
    "a number of a person": re.compile(
        r"(?<![^\W_])(?:(?:patient(?:in)?|pat\.?|case|fall|subject|proband(?:in)?|hasta"
        r"|paciente)[\s:=_-]{0,3}(?:#\s?\d+|\d{3,})"
        r"|patient(?:in)?\s\d{2}|patient(?:in)?[\s:]{1,2}[A-Z]{1,3}-?\d{3,}"
        r"|(?:auftrag|untersuchung|akte|barcode)[\s:#]{1,3}\d{4,})(?![\d%]|[.,]\d)(?!\s*(?:images?|patients?"
        r"|radiographs?|studies|exams|%|to\s))"
        r"|(?<![^\W_])(?:acc|akz|dob|date of birth|birth ?date|geburts(?:datum|jahr|tag))(?:\W{1,2}(?:no|nr))?"
        r"[\W_]{0,4}(?!\d?\.\d)\d[\d/.-]+",
        re.IGNORECASE,
    ),
    "a DICOM element": re.compile(
        r"\(?(?:0x|x)?(?:0008|0010|0020|0032|0038|0040)\s?[,:|]\s?[0-9a-f]{4}\)?|(?<!\w)(?:0x"
        r"|x)?00100[0-9a-f]{3}(?!\w)",
        re.IGNORECASE,
    ),
    "a DICOM UID": re.compile(r"(?<![^\W_])(?:\w*uid)[\s:=\"']{1,4}[0-2](?:\.\d+){3,}", re.IGNORECASE),
    "an e-mail address": re.compile(
        r"[\w.+-]+\s*[\[({<]\s*(?:at|ät|@)\s*[\])}>]\s*[\w-]+(?:\s*(?:[\[({<]\s*(?:dot|punkt|\.)\s*[\])}>]"
        r"|\.)\s*[\w-]+)+"
        r"|(?<!\w)\w+[._]\w+@\w{3,}|(?<!\w)[\w.+-]+\s+at\s+[\w-]+\s+(?:dot|punkt)\s+\w{2,}|[\w.+-]+＠[\w.-]+"
        r"|(?<!\w)[\w.+-]+\sat\s[\w-]+\s(?:de|com|org|net|edu|at|ch|tr|es)(?!\w)"
        r"|(?<![\w.@])(?!git@)[\w-]+@[\w-]+:/",
        re.IGNORECASE,
    ),
}


def number_findings(text: str) -> Iterator[Finding]:
    """Ids, numbers of phones and machines, and addresses."""
    public = _PUBLIC.sub(" ", text)
    for kind, pattern in _IDS.items():
        source = text if kind == "a number of a case" else public
        yield from (
            (kind, found[0].strip()[:80]) for found in pattern.finditer(source) if not _is_harmless(source, found)
        )
    for found in _RUN.finditer(public):
        if not is_amount(public, found.start(), found.end()):
            yield "a number that looks like an id", found[0]


def is_amount(text: str, start: int, end: int) -> bool:
    """Whether a number of a text is so many of something: "1 234 567 images", "seed 20260101"."""
    return bool(_AFTER.match(text, end) or _BEFORE.search(text[max(0, start - 60) : start]))


def _is_harmless(text: str, found: re.Match[str]) -> bool:
    """Whether what was found is digits alone, and an amount; or stands behind "in this case" and the like."""
    if re.match("case ", found[0], re.IGNORECASE) and _COMMON.search(text[max(0, found.start() - 20) : found.start()]):
        return True
    digits = found[0].replace(" ", "").replace(".", "").isdigit()
    return digits and is_amount(text, found.start(), found.end())
