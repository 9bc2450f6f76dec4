"""What a report says about each finding: yes, no, unsure, or nothing, with the words that say so.

The engine is our own. With the same expressions, medspaCy's ConText reads fewer sentences right, takes three times as
long, and does not import beside NumPy 2 under Python 3.11: see "The engine" in scripts/benchmarks/README.md.

The algorithm is ConText (Harkema et al., J Biomed Inform 42, 2009): a term is found in a clause, and a cue before or
behind it denies it, doubts it, dates it or moves it elsewhere, unless another head stands between them. Of several
statements of a section yes outranks unsure, and unsure outranks no; the conclusion outranks the findings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

from hf_radmae.reports.layout import with_boxes, with_introductions, with_items, with_tables
from hf_radmae.reports.rules import LabelRules, LabelSet
from hf_radmae.reports.text import Text, normalise, replaced, substitute

ANSWERS = ("yes", "unsure", "no")
"""The strongest first."""
_WORD = re.compile(r"[a-z]+")
_REACH = 200  # characters; no cue is further away, and a text without full stops stays fast
_SENTENCE = re.compile(r"[.!?;](?=\s|$)|\n(?=[ ]*(?:[-*•]|\d{1,2}[.)] ))|\n[ ]*\n|$(?!\n)")
_TAIL_WORDS, _ENTRY_WORDS = 1, 3  # of an entry of a list: behind the term, and of each that follows
_OBJECT, _OBJECT_WORDS = 40, 2  # characters behind a removal within which its object stands; words before that
_FEW_ENTRIES = 3  # a list without "or" has at least as many
_FEW_WORDS = 4  # a question with fewer words beside the term is one of the referring physician's


class Finding(NamedTuple):
    """An answer with its evidence.

    Attributes:
        answer: "yes", "no" or "unsure".
        evidence: the clause in the words of the report.
        rule: the kind of cue that decided.
    """

    answer: str
    evidence: str
    rule: str


class _Clause(NamedTuple):
    start: int
    end: int
    question: bool
    sentence_start: int
    subject: str = ""


def read_report(
    text: str | Text, label_set: LabelSet, labels: Iterable[LabelRules] | None = None
) -> dict[str, Finding | None]:
    """Read one report.

    Args:
        text: of the report, normalised or not.
        label_set: the rules.
        labels: those of the set to read for; all where None.

    Returns:
        Name of a label -> what is said, None where nothing is.
    """
    report = _corrected(normalise(text) if isinstance(text, str) else text, label_set)
    report = with_introductions(report, label_set.cues["introductions"], label_set.any_term)
    report = with_items(with_boxes(with_tables(report, label_set.any_term)))
    for pattern, replacement in label_set.abbreviations:
        report = substitute(report, pattern, replacement)
    report = _with_line_ends(report, label_set)
    findings, conclusion = _sections(report.content, label_set)
    clauses = [list(_clauses(report.content, spans, label_set)) for spans in (conclusion, findings)]
    elided = (clause for part in clauses for clause in part if clause.subject)
    flat = "\n".join([report.content, *(_words(report, clause) for clause in elided)]).replace("\n", " ")
    normal = next((m for spans in (conclusion, findings) for a, b in spans
                   if (m := label_set.cues["normal"].search(report.content[a:b]))), None)  # fmt: skip
    fallback = Finding("no", normal.group().strip(), "normal") if normal else None
    found: dict[str, Finding | None] = {}
    for label in label_set.labels if labels is None else labels:
        if not label.mention.search(flat):
            found[label.name] = fallback
            continue
        answers = (_strongest(report, part, label, label_set) for part in clauses)
        found[label.name] = next((answer for answer in answers if answer), fallback)
    return found


def set_of(report: Text, label_sets: Sequence[LabelSet]) -> LabelSet:
    """The set whose language has most words in a report; of equal ones that with most terms, and then the first."""
    if len(label_sets) == 1:
        return label_sets[0]

    counts = [count_words(report, rules) for rules in label_sets]
    best = [rules for rules, count in zip(label_sets, counts, strict=True) if count == max(counts)]
    if len(best) == 1:
        return best[0]
    return max(best, key=lambda rules: sum(bool(label.mention.search(report.content)) for label in rules.labels))


def count_words(text: str | Text, label_set: LabelSet) -> int:
    """How many of a text's words are frequent ones of the set's language."""
    content = (normalise(text) if isinstance(text, str) else text).content
    return sum(word in label_set.words for word in _WORD.findall(content))


def read_mixed(
    report: Text, label_sets: Sequence[LabelSet], labels: Mapping[str, Sequence[LabelRules]]
) -> tuple[dict[str, Finding | None], dict[str, LabelSet], LabelSet]:
    """Read a report by the set of its language, and what that finds nothing on in its sentences of another language.

    Args:
        labels: version of a set -> those to read for, of the same names in each.

    Returns:
        What is said by label; the set that read it; and the set of the report's language.
    """
    main = set_of(report, label_sets)
    found = read_report(report, main, labels[main.version])
    read_by = dict.fromkeys(found, main)
    for other in label_sets:
        silent = [label for label in labels[other.version] if found[label.name] is None]
        if other is main or not silent or not count_words(report, other):
            continue
        for name, finding in read_report(report, other, silent).items():
            if finding and count_words(finding.evidence, other) > count_words(finding.evidence, main):
                found[name], read_by[name] = finding, other
    return found, read_by, main


def _corrected(report: Text, label_set: LabelSet) -> Text:
    words = ((word, label_set.corrected(word.group())) for word in _WORD.finditer(report.content))
    return replaced(report, ((*word.span(), meant) for word, meant in words if meant != word.group()))


def place_of(text: str | Text, label_set: LabelSet) -> tuple[str | None, str | None]:
    """Side ("left", "right", "both") and body part that a text names first; None where it names none."""
    content = (normalise(text) if isinstance(text, str) else text).content

    def first(patterns: dict[str, re.Pattern[str]]) -> str | None:
        places = [(match.start(), name) for name, pattern in patterns.items() if (match := pattern.search(content))]
        return min(places)[1] if places else None

    return first(dict(label_set.sides)), first(dict(label_set.body_parts))


def _with_line_ends(report: Text, label_set: LabelSet) -> Text:
    """A report whose lines are its sentences, without full stops, with an empty line after each that is finished.

    In any other report lines end where they are full. A line continues where its last word says so, or, in mixed case,
    where the next line begins with a small letter.
    """
    lines = report.content.split("\n")
    filled = [line for line in lines if line.strip()]
    stopped = sum(bool(re.search(r"[.!?](?:\s|$)", line)) for line in filled)
    if len(filled) < 2 or stopped * 3 > len(filled):
        return report
    begins = [
        report.original[report.places[match.start()]] for match in re.finditer(r"(?:^|(?<=\n))[ ]*\w", report.content)
    ]
    mixed = any(first.isupper() for first in begins) and report.original.upper() != report.original
    content: list[str] = []
    places: list[int] = []
    end = 0
    for line, following in zip_longest(lines, lines[1:]):
        begin, end = end, end + len(line) + 1
        content.append(report.content[begin:end])
        places += report.places[begin:end]
        text = (following or "").lstrip()
        if not text or label_set.cues["unfinished"].search(line.rstrip()):
            continue
        first = report.original[report.places[end + len(following or "") - len(text)]]
        if not (mixed and first.islower()):
            content.append("\n")
            places.append(places[-1])
    return Text("".join(content), tuple(places), report.original)


def _sections(content: str, label_set: LabelSet) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Spans of the findings and of the conclusion; text before the first heading is findings where no section is."""
    headings = list(label_set.heading.finditer(content))
    spans: dict[str, list[tuple[int, int]]] = {"skip": [], "findings": [], "conclusion": [], "first": []}
    spans["first"].append((0, headings[0].start() if headings else len(content)))
    section = "first"
    for heading, following in zip_longest(headings, headings[1:]):
        kind = next(kind for kind, names in label_set.section_of.items() if names.fullmatch(heading.group(1)))
        begin, end = heading.end(), following.start() if following else len(content)
        if kind == "aside":  # one sentence, then what was before resumes
            stop = _SENTENCE.search(content, begin, end)
            begin = stop.end() if stop else end
        else:
            section = kind
        spans[section].append((begin, end))
    return spans["findings"] or spans["first"], spans["conclusion"]


def _clauses(content: str, spans: Iterable[tuple[int, int]], label_set: LabelSet) -> Iterator[_Clause]:
    for begin, end in spans:
        start = begin
        for stop in _SENTENCE.finditer(content, begin, end):
            question = stop.group() == "?"
            first, subject = start, ""
            for cut in label_set.cues["clause_breaks"].finditer(content, start, stop.start()):
                yield _Clause(first, cut.start(), question, start, subject)
                first = cut.end()
                subject = _subject(content, start, cut.start(), first, stop.start(), label_set)
            yield _Clause(first, stop.start(), question, start, subject)
            start = stop.end()
        if start < end:
            yield _Clause(start, end, False, start)


def _subject(content: str, start: int, end: int, first: int, stop: int, label_set: LabelSet) -> str:
    """What a clause without a subject of its own is about: "heart not displaced but enlarged"."""
    predicate = label_set.cues["predicates"].search(content, start, end)
    if predicate is None or not label_set.cues["elided"].match(content, first, stop):
        return ""
    return content[start : predicate.start()].rstrip()


def _strongest(report: Text, clauses: list[_Clause], label: LabelRules, label_set: LabelSet) -> Finding | None:
    found: dict[str, Finding] = {}
    for clause in clauses:
        words = _words(report, clause)
        if not label.mention.search(words):
            continue
        said = list(_statements(words, clause, report.content, label, label_set))
        if any(answer == "unsure" for answer, _ in said):  # a sign of what is doubted
            said = [(answer, rule) for answer, rule in said if rule != "sign"]
        for answer, rule in said:
            found.setdefault(answer, Finding(answer, report.quote(clause.start, clause.end), rule))
        if "yes" in found:
            break
    return next((found[answer] for answer in ANSWERS if answer in found), None)


def _words(report: Text, clause: _Clause) -> str:
    return (clause.subject + report.content[clause.start : clause.end]).replace("\n", " ")


def _statements(
    words: str, clause: _Clause, content: str, label: LabelRules, label_set: LabelSet
) -> Iterator[tuple[str, str]]:
    """Each answer of a clause with the kind of cue that decided."""
    rest = words
    if label.denied_by.search(words):
        yield "no", "denied"
        rest = label.denied_by.sub(lambda phrase: "_" * len(phrase.group()), words)
    if label.stated_by.search(rest):
        yield "yes", "stated"
    if label.doubted_by.search(rest):
        yield "unsure", "doubted"
        return
    for term in label.terms.finditer(rest):
        if term.group() and not label.not_terms.search(term.group()):
            before, behind = _around(words, term)
            earlier = content[clause.sentence_start : clause.start] + words[: term.start()]
            question = ""
            if clause.question:
                entry = before.rpartition(",")[2] + term.group() + behind.partition(",")[0]
                asks = max(len(earlier.split()), len(entry.split()) - 1) < _FEW_WORDS
                asks = asks and not label_set.cues["doubted"].search(earlier)
                question = "asked" if asks else "doubted"
            yield from _judge(before, term.group(), behind, label, label_set, question)
    for term in label.denied_terms.finditer(rest):
        before, behind = _around(words, term)
        doubted = label_set.cues["not_negated"].search(before[-60:])
        if not doubted and _denied(before, behind, label_set):
            yield "no", "negated"


def _around(words: str, term: re.Match[str]) -> tuple[str, str]:
    return words[max(0, term.start() - _REACH) : term.start()], words[term.end() : term.end() + _REACH]


def _judge(
    before: str, term: str, behind: str, label: LabelRules, label_set: LabelSet, question: str
) -> Iterator[tuple[str, str]]:
    """What a clause says about one mention; nothing where the mention is no finding."""
    cues, clause = label_set.cues, before + term + behind
    near_before, after = before.rpartition(",")[2], behind.partition(",")[0]
    near = near_before + term + after
    if cues["negated_within"].search(term):
        yield "no", "negated"
        return
    if question == "asked" or cues["request_compounds"].search(term) or cues["requested"].search(near_before + term):
        return
    if cues["requested"].search(before + term) and not _denied(near_before, after, label_set):
        return
    if cues["requested_behind"].search(behind) or cues["elsewhere"].search(clause):
        return
    exempt = list(cues["exception"].finditer(before))
    if exempt and len(before[exempt[-1].end() :].split()) < _FEW_WORDS:
        yield "yes", "exception"
        return
    if label.removable and _removed(near_before, term, after, label, label_set):
        yield "no", "removed"
        return
    attribute = cues["attribute_compounds"].search(term) or cues["attributes_behind"].search(behind)
    if attribute or _attribute_of(before, behind, label_set):
        yield "yes", "attribute"
        return
    own = cues["doubts_onward"].split(term + after)[0]
    doubted = question == "doubted" or bool(cues["undated"].search(behind) or cues["doubted"].search(own))
    doubted = doubted or _reaches(cues["doubted"], before, behind, label_set)
    if doubted and not _reaches(cues["not_doubted"], before, behind, label_set):
        denied = _denied_behind(behind, label_set) and not cues["doubted"].search(behind)
        yield ("no", "negated") if denied else ("unsure", "doubted")
        return
    if _denied(before, behind, label_set):
        yield "no", "negated"
        return
    if cues["gone"].search(near) or cues["resolved"].search(clause) or label.gone.search(clause):
        yield "no", "gone"
        return
    if label.past:
        healed = cues["healed"].search(clause) and not cues["healing"].search(clause)
        if healed or cues["past"].search(term) or _reaches(cues["past"], before, behind, label_set):
            yield "no", "past"
            return
    if cues["remembered"].search(near_before) and label.past and label.remembered:
        if label.remembered != "ignore":
            yield str(label.remembered), "remembered"
        return
    yield "yes", "sign" if label.signs.search(term) else "stated"


def _removed(before: str, term: str, after: str, label: LabelRules, label_set: LabelSet) -> bool:
    """Whether a removal is that of this mention, not of another one beside it: "plate in situ, screw removed"."""
    for found in label_set.cues["removed"].finditer(before):
        between = before[found.end() :]
        named = label.terms.search(found.group()) and len(between.split()) > _OBJECT_WORDS
        if not (named or label.terms.search(between)) or label_set.cues["lists"].search(between):
            return True
    words = term + after
    if (cue := label_set.cues["removed"].search(words)) is None:
        return False
    adjacent = not words[len(term) : cue.start()].strip()
    return adjacent or not label.terms.search(words, cue.end(), cue.end() + _OBJECT)


def _attribute_of(before: str, behind: str, label_set: LabelSet) -> bool:
    """Whether an attribute stands before its finding, as in "displacement of the fracture is not seen"."""
    if label_set.cues["denied_of"].search(before) and _denied_behind(behind, label_set):
        return True
    heads = (head for head in label_set.cues["attributes"].finditer(before) if " " not in head.group())
    return any(label_set.cues["attributes_of"].search(before[head.end() :]) for head in heads)


def _denied(before: str, behind: str, label_set: LabelSet) -> bool:
    return _reaches(label_set.cues["negated_before"], before, behind, label_set) or _denied_behind(behind, label_set)


def _denied_behind(behind: str, label_set: LabelSet) -> bool:
    cues, after = label_set.cues, behind.partition(",")[0]
    return bool(cues["negated_behind"].search(after)) and not cues["not_negated"].search(after)


def _reaches(cue: re.Pattern[str], before: str, behind: str, label_set: LabelSet) -> bool:
    """Whether a cue before the term is about it: no other head between them, commas only within a list."""
    for found in cue.finditer(before):
        between = before[found.end() :]
        listed = "," not in between or _listed(between, behind, label_set)
        if listed and not _other_head(between, label_set) and not _begins_anew(between, label_set):
            return True
    return False


def _listed(between: str, behind: str, label_set: LabelSet) -> bool:
    """Whether a term after a comma belongs to the list that began before it.

    A list ends in "or" or "and" and one more entry: "no fracture, dislocation, or effusion"; or all its entries are one
    word: "no fracture, effusion, infiltrate". A graded or dated entry begins a statement: "no fracture, mild swelling".
    """
    earlier, _, entry = between.rpartition(",")
    lists = label_set.cues["lists"]
    inside, rest, ended = lists.search(entry), lists.search(behind), lists.search(earlier)
    last = inside or rest
    if ended and last and ended.group() != last.group():  # "no fracture or dislocation, swelling and effusion"
        return False
    alternative = last and not label_set.cues["joins"].search(last.group())
    if last and not alternative and label_set.cues["attributes"].search(earlier):
        return False  # "no loosening, screws and plate in situ"
    if inside and alternative:
        return True
    since = entry if alternative else between.partition(",")[2]
    if label_set.cues["list_breaks"].search(since.removesuffix(entry) + entry[: inside.start()] if inside else since):
        return False
    if inside:
        return True
    if rest:
        entries = [part.split() for part in behind[: rest.start()].split(",")]
        return len(entries[0]) <= _TAIL_WORDS and all(len(words) <= _ENTRY_WORDS for words in entries)
    parts = behind.split(",")
    denied = (number for number, part in enumerate(parts) if number and label_set.cues["negated_before"].search(part))
    if own := next(denied, None):  # a denial of its own ends the list: "no fracture, dislocation, no effusion"
        parts[own:] = ["-"]
    entries = [part.split() for part in (between + "-" + ",".join(parts)).split(",")]
    return len(entries) >= _FEW_ENTRIES and all(len(words) == 1 for words in entries[1:])


def _other_head(between: str, label_set: LabelSet) -> bool:
    """Whether a denied attribute stands between; as one of a list ("no displacement or fracture") it is none."""
    for head in label_set.cues["attributes"].finditer(between):
        rest = between[head.end() :]
        # A list after the head ends its reach; "of radius- and ulna fracture", after a hyphen, is one entry.
        lists = label_set.cues["lists"].finditer(rest)
        if "," not in rest and all(rest[: word.start()].endswith("- ") for word in lists):
            return True
    return False


def _begins_anew(between: str, label_set: LabelSet) -> bool:
    """Whether a finding and then a graded or dated word stand between, as in "no fracture marked swelling"."""
    for word in label_set.cues["list_breaks"].finditer(between):
        terms = list(label_set.any_term.finditer(between, 0, word.start()))
        rest = between[terms[-1].end() : word.start()] if terms else ","
        if "," not in rest and not label_set.cues["lists"].search(rest):
            return True
    return False
