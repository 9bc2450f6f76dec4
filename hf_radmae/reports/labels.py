"""`label_reports`: texts in, a row of labels with their evidence out; and a second reader that may disagree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hf_radmae.reports.reading import Finding, place_of, read_mixed
from hf_radmae.reports.rules import AUTO, LabelSet, choose, load_label_sets
from hf_radmae.reports.text import as_text, normalise

Reader = Callable[[str, Sequence[str]], dict[str, str | None]]
"""A second reader: text and names of labels -> "yes", "no", "unsure" or None for each name."""


def label_reports(
    texts: Iterable[str | bytes | None],
    labels: Sequence[str] | None = None,
    *,
    label_set: str | Path | LabelSet = AUTO,
    second_reader: Reader | None = None,
) -> list[dict[str, Any]]:
    """What reports say about findings.

    Args:
        texts: of the reports; None and empty texts say nothing.
        labels: names to read for; all of the set where None.
        label_set: "de", "en", "auto" (each report by the set of its language, and what that finds nothing on by the
            other in sentences of its language), the path of a YAML file (see `hf_radmae.reports.rules`), or a loaded
            set.
        second_reader: asked too; where its answer differs from the rules' the answer is "unsure".

    Returns:
        A row per text: for each label `<label>` ("yes", "no", "unsure" or None), `<label>_evidence` (the clause),
        `<label>_rule` (the kind of cue that decided), `<label>_side` ("left", "right", "both") and `<label>_body_part`
        (as the evidence or else the report names them first), each None where nothing is said; `side` and `body_part`
        of the report; and `label_set`, the version of the set that was used.

    Raises:
        FileNotFoundError, ValueError: the label set cannot be used, or has no such label.
    """
    sets = (label_set,) if isinstance(label_set, LabelSet) else load_label_sets(label_set)
    chosen_of = {rules.version: choose(rules, labels) for rules in sets}
    rows = []
    for content in texts:
        text = as_text(content)
        report = normalise(text)
        found, read_by, rules = read_mixed(report, sets, chosen_of)
        if second_reader is not None and text.strip():
            found = _agreed(found, second_reader(text, list(found)))
        side, body_part = place_of(report, rules)
        row: dict[str, Any] = {}
        places: dict[str, tuple[str | None, str | None]] = {"": (None, None)}
        for name, finding in found.items():
            row[name] = finding and finding.answer
            row[f"{name}_evidence"] = finding and finding.evidence
            row[f"{name}_rule"] = finding and finding.rule
            quoted = finding.evidence if finding else ""
            if quoted not in places:
                places[quoted] = place_of(quoted, read_by[name])
            own = places[quoted]
            row[f"{name}_side"] = finding and (own[0] or side)
            row[f"{name}_body_part"] = finding and (own[1] or body_part)
        rows.append(row | {"side": side, "body_part": body_part, "label_set": rules.version})
    return rows


def _agreed(found: dict[str, Finding | None], second: dict[str, str | None]) -> dict[str, Finding | None]:
    agreed = dict(found)
    for name, finding in found.items():
        other, answer = second.get(name), finding.answer if finding else None
        if other is not None and other != answer:
            evidence = finding.evidence if finding else ""
            agreed[name] = Finding("unsure", evidence, f"rules: {answer or 'nothing'}, second reader: {other}")
    return agreed
