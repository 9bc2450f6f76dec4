"""German radiology reports -> two labels, fracture and foreign material: yes, no, unsure, or nothing said.

Rules in the manner of NegEx (Chapman et al., J Biomed Inform 34, 2001): a term is found in a clause, and a cue before
or behind it in that clause denies it, doubts it, or says that it is over. The conclusion (Beurteilung) outranks the
findings (Befund); clinical history and questions are no findings.
"""

import re
from typing import NamedTuple

_TERMS = {
    "fracture": r"\b\w*(?:fraktur|fissur|infraktion|knochenbruch|konturunterbrechung|kortikalisunterbrechung)\w*",
    "foreign_material": (
        r"\b(?:\w*(?:fremdmaterial|fremdkoerper|osteosynthese|metall|implantat|prothes|schraube|draht|draehte|cerclage"
        r"|zerklage|schrittmacher|katheter|drainage|klammer|stent|fixateur)\w*|tep|tubus|\w*sonde|\w*clips?|staebe?"
        r"|(?!\w*(?:deck|grund|end|boden|wachstums|epiphysen)platte)\w*platten?|(?!finger|zehen)\w*(?:nagel|naegel))\b"
    ),
}
_TERMS_WHERE_DENIED = {  # found they say nothing
    "fracture": r"(?:knoechern|ossaer)\w* (?:\w+ )?(?:verletzung|laesion|traumafolge)\w*|traumafolge\w*",
    "foreign_material": r"materialfremd\w*",
}
_DENIED_BEFORE = (
    r"\b(?:kein\w*|ohne|weder|fehlend\w*|frei von|ausschluss|nicht (?:nachweis|erkenn|abgrenz|sicht)bare\w*)\b"
)
_DENIED_BEHIND = (
    r"\bnicht (?:mehr )?(?:nachweis|nachzuweis|erkenn|abgrenz|abzugrenz|sicht|gesehen|darstell|vorhanden|vorlieg)"
    r"|\bnicht zu sehen|\bausgeschlossen|: ?(?:kein|nein|nicht|negativ)"
)
_DOUBTED = (
    r"\bverdacht\b|verdaechtig|fraglich|\bmoeglich|\beventuell|\bvermutlich|\bwahrscheinlich|\bam ehesten|\bwohl\b"
    r"|\bdifferen[zt]ialdiagnost|\bsuspekt|\bunklar|\bunsicher|\bdenkbar|\bvereinbar mit|\bnicht (?:eindeutig|sicher)"
    r"|\bnicht (?:\w+ )?(?:auszuschliessen|ausgeschlossen|ausschliess)|\bkein\w* (?:sicher|eindeutig|zweifelsfrei)\w*"
)
_NO_DOUBT = r"\bkein\w* (?:\w+ )?(?:verdacht|hinweis|anhalt)"
_OLD = r"\b(?:alte[rnms]?|aelter\w*|ehemalig\w*|fruehere\w*|stattgehabt\w*)\b"
_HEALED = r"(?:konsolidiert|verheilt|ausgeheilt|abgeheilt|durchbaut|ueberbaut)"
_HEALING = r"\b(?:teil|partiell|beginn|zunehmend|nicht|unvollstaendig|fortschreitend|weitgehend)\w* (?:\w+ ){0,2}"
_REMOVED = r"entfern|explantiert"
# In "keine Lockerung der Schrauben" and "keine Dislokation der Fraktur" the term itself is not what is denied.
_OTHER_HEAD = (
    r"lockerung|materialbruch|lysesa|dislokation|fehllage|fehlstellung|verschiebung|abkippung|konsolidier"
    r"|durchbau|kallus|aenderung|\b(?:bei|mit|nach|trotz|unter|um|entlang|zu)\b"
)
_CONTRAST = r"\b(?:aber|jedoch|allerdings|sondern|hingegen|dagegen|waehrend|obwohl|daneben|ansonsten|sonst)\b"
_NORMAL = r"\bunauffaellig\w* (?:\w+ )?\w*befund|\bnormalbefund|\b(?:keinen?|ohne) pathologisch\w* \w*befund"
_HEADING = (
    r"(?:^|\n)[ \t]*(klinische angaben|klinik|anamnese|fragestellung|(?:rechtfertigende )?indikation|technik"
    r"|untersuchung|voraufnahmen?|befund|beurteilung|zusammenfassung|ergebnis)[^\n:]{0,40}:"
)
_ABBREVIATIONS = {
    r"\bz\. ?n\.": "zustand nach",
    r"\bv\. ?a\.": "verdacht auf",
    r"\bdd\b[.:]?": "differentialdiagnostisch",
    r"\bevtl\.": "eventuell",
    r"\b(ca|bzw|ggf|re|li|bds|inkl|sog|vgl|dist|prox|z\. ?b|i\. ?s|u\. ?a|d\. ?h|dr|\d+)\.": r"\1",
    r", (?:soweit|sofern)[^,.]*,": "",
}
_REACH = 200  # characters; no cue is further away, and a text without full stops stays fast
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})


class ReportLabels(NamedTuple):
    """Each "yes", "no", "unsure", or None where the report does not speak of it."""

    fracture: str | None
    foreign_material: str | None


def labels_from_report(text: str) -> ReportLabels:
    """Return what a report says about a fracture and about foreign material in the picture.

    An old or healed fracture, and material that was removed, is a no; a fracture that is only remembered ("Zustand nach
    Fraktur") is unsure. Of several statements yes outranks unsure, and unsure outranks no.
    """
    findings, conclusion = _sections(text)
    normal = "no" if re.search(_NORMAL, f"{findings}\n{conclusion}") else None
    return ReportLabels(*(_answer(conclusion, name) or _answer(findings, name) or normal for name in _TERMS))


def _sections(text: str) -> tuple[str, str]:
    """Return findings and conclusion in lower case without umlauts; a text without headings is all findings."""
    first, *rest = re.split(_HEADING, text.casefold().translate(_UMLAUTS))
    bodies: dict[str, str] = {}
    for heading, body in zip(rest[::2], rest[1::2], strict=True):
        bodies[heading] = f"{bodies.get(heading, '')}\n{body}"
    conclusion = "\n".join(bodies.get(heading, "") for heading in ("beurteilung", "zusammenfassung", "ergebnis"))
    return bodies.get("befund", "" if conclusion.strip() else first), conclusion


def _clauses(section: str) -> list[str]:
    """Return the clauses of all sentences that are no questions."""
    section = re.sub(r"\n(?=\s*[-*•])|\n\s*\n", ". ", section)
    section = re.sub(r"\s+", " ", section)
    for pattern, replacement in _ABBREVIATIONS.items():
        section = re.sub(pattern, replacement, section)
    sentences = re.split(r"(?<=[.!?;])\s+", section)
    return [clause for text in sentences if not text.endswith("?") for clause in re.split(_CONTRAST, text)]


def _answer(section: str, name: str) -> str | None:
    """Return the strongest of the answers of a section."""
    answers = set()
    for clause in _clauses(section):
        answers |= {_judge(*_around(clause, term), name) for term in re.finditer(_TERMS[name], clause)}
        denied = (_denied(*_around(clause, term)) for term in re.finditer(_TERMS_WHERE_DENIED[name], clause))
        answers |= {"no"} if any(denied) else set()
    return next((answer for answer in ("yes", "unsure", "no") if answer in answers), None)


def _around(clause: str, term: re.Match[str]) -> tuple[str, str, str]:
    """Return what stands before a term, the term, and what follows it."""
    return clause[max(0, term.start() - _REACH) : term.start()], term.group(), clause[term.end() : term.end() + _REACH]


def _judge(before: str, term: str, behind: str, name: str) -> str | None:
    """Return what a clause says about one mention of a term."""
    next_to = before.rpartition(",")[2] + term + behind.partition(",")[0]
    if "ausschluss" in term:  # "Frakturausschluss" is why the picture was taken
        return None
    if re.search(r"frei\w{0,2}$", term):
        return "no"
    doubted = _reaches(_DOUBTED, before, behind) or re.search(_DOUBTED, term + behind.partition(",")[0])
    if doubted and not _reaches(_NO_DOUBT, before, behind):
        return "unsure"
    if _denied(before, term, behind):
        return "no"
    if name == "foreign_material":
        return "no" if re.search(_REMOVED, next_to) else "yes"
    healing = re.search(_HEALING + _HEALED, before + behind)
    if (re.search(_HEALED, before + behind) and not healing) or _reaches(_OLD, before, behind):
        return "no"
    return "unsure" if re.search(r"\bzustand nach\b[^,]*$", before) else "yes"


def _denied(before: str, term: str, behind: str) -> bool:
    return _reaches(_DENIED_BEFORE, before, behind) or bool(re.search(_DENIED_BEHIND, behind.partition(",")[0]))


def _reaches(cue: str, before: str, behind: str) -> bool:
    """Return whether a cue before the term is about it: no other head between them, commas only within a list."""
    for found in re.finditer(cue, before):
        between = before[found.end() :]
        listed = "," not in between or re.search(
            r"\b(?:oder|und|sowie|bzw|noch)\b", between.rpartition(",")[2] + behind
        )
        if listed and not re.search(_OTHER_HEAD, between):
            return True
    return False
