"""Lists and tables within a report's text: an entry is a sentence of its own, and the head of a table is no finding."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from hf_radmae.reports.text import Text, replaced

_BULLET = "[-*+•·●▪►‣]"
_MARKER = re.compile(
    rf"(?:(?<=\s)|^)(?:[(#]?(?P<number>\d{{1,2}}|[a-z])(?P<end>[.):]|(?<=#\d))|(?P<bullet>{_BULLET}))(?=\s)"
)
_OPENING = re.compile(r"(?:^|[\n:.;])\s*\Z")  # what stands before a list's first entry
_SEPARATOR = re.compile(r"(?<=\S) +(--?|[/+]) +(?=\S)")
_BOX = re.compile(r"[(\[](?P<mark>[ x✓]?)[)\]]|(?P<empty>☐)|[☑☒]")
_ENTRY = re.compile(rf"^[ ]*(?:{_BULLET}|\d{{1,2}}[.)])[ ]+(?=\S)", re.MULTILINE)
_INTRODUCED = re.compile(
    r"(?:^|(?<=[\n.;]))[ ]*(?P<line>(?:[^\n.;:?!]|\.(?! )){1,80}):[ ]*\n"
    rf"(?P<entries>(?:{_ENTRY.pattern}[^\n]*(?:\n|\Z))+)",
    re.MULTILINE,
)
_ROW = re.compile(r"^[^\n|]*\|[^\n]*", re.MULTILINE)


def with_items(report: Text) -> Text:
    """A report whose lists within a line are cut: "1) ... 2) ..." and "- ... - ..." into sentences.

    Such a list begins with 1, a or a bullet, where a sentence may begin (a number in brackets anywhere), and
    counts on. A sign between words that a line has twice or more, "... / ... / ...", becomes a comma.
    """
    report = replaced(report, ((*marker.span(), ";") for marker in _markers(report.content)))
    return replaced(report, ((*separator.span(), ", ") for separator in _separators(report.content)))


def _markers(content: str) -> Iterator[re.Match[str]]:
    opened: dict[str, re.Match[str]] = {}  # kind of list -> its last marker
    for marker in _MARKER.finditer(content):
        kind = marker["bullet"] or (marker["end"] or "#") + ("1" if marker["number"].isdigit() else "a")
        last = opened.get(kind)
        if last is not None and "\n" not in content[last.end() : marker.start()] and _follows(last, marker):
            yield marker
            opened[kind] = marker
        elif _begins(marker, content):
            opened[kind] = marker


def _begins(marker: re.Match[str], content: str) -> bool:
    if marker["number"] not in ("1", "a", None):
        return False
    return marker["end"] == ")" or bool(_OPENING.search(content[max(0, marker.start() - 3) : marker.start()]))


def _follows(last: re.Match[str], marker: re.Match[str]) -> bool:
    if marker["bullet"]:
        return True
    first, second = last["number"], marker["number"]
    return int(second) == int(first) + 1 if second.isdigit() else ord(second) == ord(first) + 1


def _separators(content: str) -> Iterator[re.Match[str]]:
    if not _SEPARATOR.search(content):
        return
    for line in re.finditer(r"[^\n]+", content):
        found = list(_SEPARATOR.finditer(content, *line.span()))
        counts = Counter(separator[1] for separator in found)
        yield from (separator for separator in found if counts[separator[1]] > 1)


def with_introductions(report: Text, opening: re.Pattern[str], terms: re.Pattern[str]) -> Text:
    """A report whose lists below a line that denies or doubts, "no evidence of:", repeat it in each entry."""
    spans: list[tuple[int, int, Text]] = []
    for found in _INTRODUCED.finditer(report.content):
        begin, end = found.span("line")
        if opening.search(found["line"]) and not terms.search(found["line"]):
            line = report.part(begin, end)
            entries = (m.end() for m in _ENTRY.finditer(report.content, *found.span("entries")))
            spans += [(entry, entry, Text(f"{line.content} ", (*line.places, report.places[entry]), line.original))
                      for entry in entries]  # fmt: skip
    return replaced(report, spans)


def with_boxes(report: Text) -> Text:
    """A report whose boxes of a form, "[ ]" and "[x]" before or behind each finding of a line, end statements.

    What has an empty box is denied by "ø".
    """
    spans: list[tuple[int, int, str]] = []
    for line in re.finditer(r"[^\n]+", report.content):
        boxes = list(_BOX.finditer(report.content, *line.span()))
        between = report.content[line.start() : boxes[0].start()] if boxes else ""
        before = (
            bool(boxes)
            and bool(_OPENING.search(between))
            and bool(report.content[boxes[-1].end() : line.end()].strip())
        )
        for box in boxes:
            sign = "ø" if box["empty"] or box["mark"] in ("", " ") else ""
            spans.append((*box.span(), f"; {sign}" if before else f"{sign};"))
    return replaced(report, spans)


def with_tables(report: Text, terms: re.Pattern[str]) -> Text:
    """A report whose tables, lines of cells between "|", have no head.

    Where the head names findings, two at least, and no row does, each row is read as "head: cell;" of all its columns.
    """
    tables: list[list[tuple[int, int]]] = []
    for row in _ROW.finditer(report.content):
        if tables and not report.content[tables[-1][-1][1] : row.start()].strip():
            tables[-1].append(row.span())
        else:
            tables.append([row.span()])
    return replaced(report, (span for rows in tables for span in _without_head(rows, report, terms)))


def _without_head(
    rows: list[tuple[int, int]], report: Text, terms: re.Pattern[str]
) -> Iterator[tuple[int, int, str | Text]]:
    """What is put in the place of a table's head and rows."""
    lines = [report.content[slice(*row)] for row in rows]
    body = [number for number in range(1, len(rows)) if not _is_rule(lines[number])]
    names = list(_cells(report, rows[0]))
    named = sum(bool(terms.search(name.content)) for name in names)
    if body and named > 1 and not any(terms.search(lines[number]) for number in body):
        yield (*rows[0], "")
        for number in body:
            content, places = "", []
            cells = list(_cells(report, rows[number]))
            for name, cell in zip(names, cells[len(cells) > len(names) :], strict=False):  # a row may have a name first
                if name.content and cell.content:
                    content += f" {name.content}: {cell.content};"
                    places += [*name.places[:1], *name.places, *cell.places[:1] * 2, *cell.places, *cell.places[-1:]]
            yield (*rows[number], Text(content, tuple(places), report.original))
        return
    ruled = len(rows) > 1 and _is_rule(lines[1])
    if ruled:
        yield (*rows[0], "")
    for _, end in rows[ruled:]:
        yield (end, end, ";")


def _is_rule(line: str) -> bool:
    """Whether a line stands between the head of a table and its rows."""
    return "--" in line and not line.strip(" |:+=-")


def _cells(report: Text, row: tuple[int, int]) -> Iterator[Text]:
    """The cells of a row, empty ones too, without the spaces around them."""
    line = report.content[slice(*row)]
    start, end = row[0] + len(line) - len(line.lstrip()), row[0] + len(line.rstrip())
    start += report.content[start] == "|"
    end -= end > start and report.content[end - 1] == "|"
    while start <= end:
        stop = report.content.find("|", start, end)
        stop = end if stop < 0 else stop
        cell = report.content[start:stop]
        begin = start + len(cell) - len(cell.lstrip())
        yield report.part(begin, begin + len(cell.strip()))
        start = stop + 1
