"""Labels read from reports, joined to images: what is filled, from where, and never in place of a label by hand.

Beside each label there is a column `<label>_source`, "hand" or "report", and `<label>_report`, what the reports say of
an image, beside a label by hand too: `against_hand` measures these. Validation and test use labels by hand wherever
there are any: a split that has one is scored on those alone.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_radmae.batching.columns import arrow_column
from hf_radmae.metrics.bootstrap import is_missing
from hf_radmae.reports.evaluation import WRITTEN, evaluate
from hf_radmae.reports.join import speaks_of
from hf_radmae.reports.labels import label_reports
from hf_radmae.sources.mri.body_parts import BodyParts
from hf_radmae.sources.patients import normalise_patient

logger = logging.getLogger(__name__)

ID_COLUMNS = ("report_id", "exam", "accession_number", "study_id", "study", "id")
PART_COLUMNS = ("body_part", "bodypart", "body_region")
SIDE_COLUMNS = ("laterality", "side")
HAND, REPORT = "hand", "report"
_SIDES = {"l": "left", "left": "left", "links": "left", "r": "right", "right": "right", "rechts": "right"}
_FOLDERS = 6  # of an image's path that may be named as its report is


def with_report_labels(splits: datasets.DatasetDict, path: str | Path) -> tuple[datasets.DatasetDict, list[str]]:
    """Fill labels that are missing from reports on the same exam that speak of the same body part and side.

    Args:
        splits: images as rows. An image's report is found by the first of `ID_COLUMNS` that holds ids of reports
            (leading zeros, `.0` and case do not matter), or else by the folder of its path, its file's name, or the end
            of its path, that is named as the report is.
            Of several reports with its id those count that speak of its body part and side; where they disagree the
            label is "unsure".
        path: what `hf-radmae label-reports` wrote; or the name of a column of texts, which are then read by the rules
            of their language and leave the rows.

    Returns:
        The splits with each label of the reports and its `<label>_source`; and a line on each label.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no result of label-reports, or has no id of an image; or a column of a label's name holds
            something other than yes and no.
    """
    if all(str(path) in rows.column_names for rows in splits.values()):
        return _read_columns(splits, str(path))
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"--report_labels {path}: no such file, which hf-radmae label-reports writes, and no column of texts"
        )
    table = pq.read_table(path)
    names = [name for name in table.column_names if f"{name}_rule" in table.column_names]
    if "id" not in table.column_names or not names:
        raise ValueError(f"--report_labels {path}: expected the output of hf-radmae label-reports, id and labels")
    reports: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        reports.setdefault(str(row["id"]), []).append(row)
    found = {split: _reports_of(rows, reports) for split, rows in splits.items()}
    if not any(report for part in found.values() for report in part):
        raise ValueError(
            f"--report_labels {path}: no image has one of its {len(reports)} ids (the first: "
            f"{next(iter(reports), '')}) in a column {', '.join(ID_COLUMNS)}, or as a folder or file of its "
            f"path; the columns are {', '.join(next(iter(splits.values())).column_names)}"
        )
    return _joined(splits, names, found)


def _read_columns(splits: datasets.DatasetDict, column: str) -> tuple[datasets.DatasetDict, list[str]]:
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for split, rows in splits.items():
        texts = _texts(rows, column)
        once = dict.fromkeys(text for text in texts if text)
        read = dict(zip(once, label_reports(once), strict=True))
        found[split] = [[read[text]] if text else [] for text in texts]
    nothing = label_reports([""])[0]
    names = [name for name in nothing if f"{name}_rule" in nothing]
    return _joined(splits.remove_columns(column), names, found)


def _joined(
    splits: datasets.DatasetDict, names: list[str], found: dict[str, list[list[dict[str, Any]]]]
) -> tuple[datasets.DatasetDict, list[str]]:
    result, notes = splits, []
    for name in names:
        filled = {split: _filled(rows, name, found[split]) for split, rows in result.items()}
        result = datasets.DatasetDict({split: rows for split, (rows, _) in filled.items()})
        counts = (f"{split} {n[HAND]} by hand, {n[REPORT]} from reports" for split, (_, n) in filled.items())
        notes.append(f"{name}: {'; '.join(counts)}")
    return result, notes


def by_hand_where_any(splits: datasets.DatasetDict) -> tuple[datasets.DatasetDict, list[str]]:
    """Take labels of reports out of each split but train that has a label by hand.

    Returns:
        The splits, and a line for each label and split that says by what it is scored.
    """
    result, notes = datasets.DatasetDict(splits), []
    for split, rows in splits.items():
        for column in [name for name in rows.column_names if name.endswith("_source") and split != "train"]:
            name = column.removesuffix("_source")
            if name not in rows.column_names:
                continue
            sources = arrow_column(result[split], column).to_pylist()
            if REPORT not in sources:
                continue
            if HAND not in sources:
                notes.append(f"{split}: no {name} is by hand, so it is scored by labels of reports")
                continue
            values = arrow_column(result[split], name).to_pylist()
            kept = [value if source != REPORT else None for value, source in zip(values, sources, strict=True)]
            rows_of = _with_column(result[split], name, kept, result[split].features[name])
            only = [source if source != REPORT else None for source in sources]
            result[split] = _with_column(rows_of, column, only, datasets.Value("string"))
            notes.append(
                f"{split}: {name} is scored by the {sources.count(HAND)} labels by hand, {sources.count(REPORT)} of "
                "reports are left out"
            )
    return result, notes


def against_hand(splits: datasets.DatasetDict) -> dict[str, Any] | None:
    """How right the reports of images with a label by hand are, as `evaluate` measures it; None where there are none.

    Images are counted, and those of an exam share a report.
    """
    hand: dict[tuple[str, int], dict[str, str | None]] = {}
    read: dict[tuple[str, int], dict[str, str | None]] = {}
    columns = {name for rows in splits.values() for name in rows.column_names if name.endswith("_report")}
    names = sorted(name.removesuffix("_report") for name in columns)
    for split, rows in splits.items():
        for name in names:
            if not {name, f"{name}_report", f"{name}_source"} <= {*rows.column_names}:
                continue
            texts = (_texts(rows, f"{name}{suffix}") for suffix in ("", "_report", "_source"))
            for row, (given, said, source) in enumerate(zip(*texts, strict=True)):
                if source == HAND and said is not None and given is not None and given.lower() in WRITTEN:
                    hand.setdefault((split, row), {})[name] = WRITTEN[given.lower()]
                    read.setdefault((split, row), {})[name] = said
    return evaluate(hand, read, names) if hand else None


def from_reports(rows: Any, label: str) -> np.ndarray:
    """True where a label is of a report; bool (images,), all False where no column tells."""
    column = f"{label}_source"
    if column not in rows.column_names:
        return np.zeros(len(rows), bool)
    return np.asarray(pc.fill_null(pc.equal(arrow_column(rows, column), REPORT), False))


def _reports_of(rows: datasets.Dataset, reports: dict[str, list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """The reports of each row."""
    candidates = [_texts(rows, name) for name in ID_COLUMNS if name in rows.column_names]
    spelled = (_spelled(ids, reports) for ids in candidates)
    best = next((ids for ids in spelled if any(value in reports for value in ids)), None)
    if best is None:
        paths = pc.struct_field(arrow_column(rows, "image"), "path").to_pylist()
        parts = [_names(Path(path)) if path else [] for path in paths]
        levels = [[part[level] if level < len(part) else None for part in parts] for level in range(2 + 2 * _FOLDERS)]
        best = max(levels, key=lambda ids: sum(value in reports for value in ids))
    return [reports.get(value, []) if value is not None else [] for value in best]


def _spelled(ids: list[str | None], reports: Iterable[str]) -> list[str | None]:
    """Ids as the reports spell them: leading zeros, `.0` and case do not matter where that joins no two ids."""
    known = _by_key(reports)
    found = {value: known.get(key, value) for key, value in _by_key(ids).items()}
    return [None if value is None else found.get(value, value) for value in ids]


def _by_key(ids: Iterable[str | None]) -> dict[str, str]:
    """Key of `normalise_patient` -> the one id that has it."""
    keys = {value: normalise_patient(value) or value for value in ids if value}
    counts = Counter(keys.values())
    return {key: value for value, key in keys.items() if counts[key] == 1}


def _names(path: Path) -> list[str]:
    """What a report may be called by an image's path: stem, name, then each folder with the path from there on."""
    names = [path.stem, path.name]
    for level, folder in enumerate(reversed(path.parent.parts), 2):
        names += [folder, "/".join(path.parts[-level:])]
    return names


def _filled(
    rows: datasets.Dataset, name: str, reports: list[list[dict[str, Any]]]
) -> tuple[datasets.Dataset, Counter[str]]:
    parts, sides = _parts(rows), _sides(rows)
    feature = rows.features.get(name, datasets.Value("string"))
    values = arrow_column(rows, name).to_pylist() if name in rows.column_names else [None] * len(rows)
    missing = is_missing(np.array([value.strip() if isinstance(value, str) else value for value in values], object))
    code = _codes(feature, [value for value, gone in zip(values, missing, strict=True) if not gone], name)
    column = f"{name}_source"
    sources: list[str | None] = _texts(rows, column) if column in rows.column_names else [None] * len(rows)
    heard: list[str | None] = []
    for row, several in enumerate(reports):
        answers = {
            report[name]
            for report in several
            if report[name] and speaks_of(report[f"{name}_body_part"], report[f"{name}_side"], parts[row], sides[row])
        }
        said = answers.pop() if len(answers) == 1 else "unsure" if answers else None
        heard.append(said)
        if not missing[row]:
            sources[row] = sources[row] or HAND
        elif said in code:
            values[row], sources[row] = code[said], REPORT
    rows = _with_column(rows, name, values, feature)
    rows = _with_column(rows, f"{name}_report", heard, datasets.Value("string"))
    return _with_column(rows, column, sources, datasets.Value("string")), Counter(s for s in sources if s)


def _codes(feature: Any, known: list[Any], name: str) -> dict[str, Any]:
    """What "yes", "no" and "unsure" are in a column; an answer that it cannot hold is left out."""
    codes: dict[str, Any]
    if isinstance(feature, datasets.ClassLabel):
        codes = {text.lower(): number for number, text in enumerate(feature.names)}
    elif getattr(feature, "dtype", None) == "bool":
        codes = {"yes": True, "no": False}
    elif getattr(feature, "dtype", "") in ("string", "large_string"):
        codes = {text.lower(): text for text in ("yes", "no", "unsure", *map(str, dict.fromkeys(known)))}
        if {str(value).lower() for value in known} <= {"0", "1"} and known:
            codes = {"yes": "1", "no": "0"}
    else:
        numeric = all(value in (0, 1) for value in known) and getattr(feature, "dtype", "").startswith(("int", "float"))
        codes = {"yes": 1, "no": 0} if numeric else {}
    odd = isinstance(feature, datasets.Value) and feature.dtype.endswith("string")
    unlike = odd and {str(value).lower() for value in known} - {"yes", "no", "unsure", "0", "1"}
    if not {"yes", "no"} <= codes.keys() or unlike:
        raise ValueError(f"column {name}: expected yes and no to fill in labels of reports, found {unlike or feature}")
    return codes


def _parts(rows: datasets.Dataset) -> list[str | None]:
    spelled = _first(rows, PART_COLUMNS)
    known = BodyParts()
    codes = known.codes([text or "" for text in spelled])
    return [known.names[code] if code >= 0 else text for code, text in zip(codes, spelled, strict=True)]


def _sides(rows: datasets.Dataset) -> list[str | None]:
    return [_SIDES.get((text or "").strip().lower()) for text in _first(rows, SIDE_COLUMNS)]


def _first(rows: datasets.Dataset, columns: tuple[str, ...]) -> list[str | None]:
    column = next((name for name in columns if name in rows.column_names), None)
    return _texts(rows, column) if column else [None] * len(rows)


def _texts(rows: datasets.Dataset, column: str) -> list[str | None]:
    feature, values = rows.features[column], arrow_column(rows, column).to_pylist()
    if isinstance(feature, datasets.ClassLabel):
        values = [None if value is None or value < 0 else feature.names[value] for value in values]
    return [None if value is None else str(value).strip() or None for value in values]


def _with_column(rows: datasets.Dataset, name: str, values: list[Any], feature: Any) -> datasets.Dataset:
    """The rows with a column, in place of one of that name; the images of a selection are not copied."""
    places = None if rows._indices is None else rows._indices.column(0).to_numpy()
    if places is not None:
        whole: list[Any] = [None] * len(rows.data)
        for place, value in zip(places.tolist(), values, strict=True):
            whole[place] = value
        values = whole
    table = datasets.Dataset(rows.data, info=rows.info.copy(), split=rows.split, fingerprint=rows._fingerprint)
    if name in table.column_names:
        table = table.remove_columns(name)
    table = table.add_column(name, values, feature=feature)
    return table if places is None else table.select(places)
