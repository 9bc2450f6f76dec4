r"""Reads radiology reports and writes what they say as labels, each with the words that say so.

    hf-radmae label-reports --input REPORTS --output labels.parquet
    hf-radmae label-reports --input reports.csv --text_column befund --id_column exam --labels fracture effusion \
        --output labels.parquet

REPORTS is a CSV, JSON lines or Parquet file, or a folder of text files, whose names become the ids. For each label the
result has a column of its name (yes, no, unsure or nothing), with `_evidence`, `_rule`, `_side` and `_body_part` beside
it. German and English rules are included, and each report is read by those of its language; --label_set takes a YAML
file of your own (hf_radmae/reports/rules.py). --second_reader asks a checkpoint too, an entailment classifier or an
instruct model: where the two differ, the answer is unsure. Interrupted, the same command resumes.

--evaluate takes a table of labels by hand with the same ids, and measures what was read: precision, recall and F1 with
intervals, confusion and flips, printed and in labels.results.json.

The evidence is text of reports: treat the result as you treat the reports.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from hf_radmae.batching.processes import process_pool
from hf_radmae.cli.command import command
from hf_radmae.cli.parse import parse
from hf_radmae.images.storage import whole_file, write_whole
from hf_radmae.pretraining.results import environment
from hf_radmae.pretraining.run_folder import RunFolder
from hf_radmae.reports.evaluation import WRITTEN, evaluate, evaluation_text
from hf_radmae.reports.labels import label_reports
from hf_radmae.reports.reading import ANSWERS
from hf_radmae.reports.rules import AUTO, choose, load_label_sets
from hf_radmae.sources.scan import Scan, is_hidden, suffix_of, walk
from hf_radmae.sources.table_file import read_table

logger = logging.getLogger(__name__)

PART = 2000  # reports a part holds; an interruption loses at most one a process
IDS = ("id", "exam", "report_id", "accession_number", "study_id")


@dataclass
class LabelArguments:
    """Which reports are read, and for what."""

    input: str = field(metadata={"help": "CSV, JSON lines or Parquet file, or a folder of text files."})
    output: str = field(metadata={"help": "Parquet file of the labels."})
    text_column: str = field(default="text", metadata={"help": "Column of the reports' text."})
    id_column: str | None = field(
        default=None,
        metadata={"help": f"Column that names a report; by default {', '.join(IDS)}, or the row's number."},
    )
    labels: list[str] | None = field(default=None, metadata={"help": "Labels to read for; by default all of the set."})
    label_set: str = field(
        default=AUTO, metadata={"help": "de, en, auto (by the language of each report), or a YAML file of your own."}
    )
    second_reader: str | None = field(default=None, metadata={"help": "Checkpoint that reads the reports too."})
    evaluate: str | None = field(
        default=None, metadata={"help": "Table of labels by hand, with the ids of the reports: measures what was read."}
    )
    num_proc: int = field(default=1, metadata={"help": "Processes that read; 1 with --second_reader."})

    def __post_init__(self) -> None:
        output = Path(self.output)
        if output.suffix.lower() in (".csv", ".tsv", ".txt", ".json", ".jsonl", ".xlsx") or output.is_dir():
            raise ValueError(f"--output {output}: expected the name of a Parquet file, such as labels.parquet")
        for name in ("input", "evaluate"):
            if (value := getattr(self, name)) and Path(value).resolve() == output.resolve():
                raise ValueError(f"--output {output} is --{name}, which would be overwritten: give another name")


@command
def main() -> None:
    """Run the command."""
    (args,) = parse((LabelArguments,), description=__doc__)
    label_sets = load_label_sets(args.label_set)
    names = [label.name for label in next(choose(rules, args.labels) for rules in label_sets)]
    ids, texts = read_reports(Path(args.input), args.text_column, args.id_column)
    hand = read_hand_labels(Path(args.evaluate), args.id_column, names) if args.evaluate else None
    if hand is not None and not hand.keys() & set(ids):
        raise ValueError(
            f"--evaluate {args.evaluate}: none of its {len(hand)} ids (the first: {next(iter(hand), '')}) is one of "
            f"the reports' (the first: {ids[0] if ids else ''}): name the column of both with --id_column"
        )
    output = Path(args.output)
    parts = Path(f"{args.output}.parts")
    work = partial(_part, parts, names, args.label_set, args.second_reader)
    chunks = [(ids[start : start + PART], texts[start : start + PART]) for start in range(0, len(texts), PART)]
    files = []
    with ExitStack() as stack:
        stack.enter_context(RunFolder(parts))
        bar = stack.enter_context(tqdm(total=len(texts), unit="report", desc="reports"))
        spread: Any = map
        if args.num_proc > 1 and args.second_reader is None:
            spread = stack.enter_context(process_pool(args.num_proc)).map
        for chunk, file in zip(chunks, spread(work, chunks), strict=True):
            files.append(file)
            bar.update(len(chunk[0]))
    table = pa.concat_tables([pq.read_table(file) for file in files])
    with whole_file(output) as unfinished:
        pq.write_table(table, unfinished)
    shutil.rmtree(parts)
    versions = ", ".join(rules.version for rules in label_sets)
    if repeated := len(ids) - len(set(ids)):
        print(f"\n{repeated:,} reports have the id of another one: where they disagree on an image, it is unsure.")
    print(f"\n{len(texts):,} reports, label set {versions}: {output}\n\n{summary(table, names)}")
    if hand is not None:
        read: dict[str, dict[str, str | None]] = {}
        for key, answers in zip(ids, table.select(names).to_pylist(), strict=True):
            said = read.setdefault(key, answers)
            read[key] = {n: min(said[n], answers[n], key=[*ANSWERS, None].index) for n in names}
        results = evaluate(hand, read, names)
        print(f"\n{evaluation_text(results)}")
        results |= {"label_set": versions, "environment": environment()}
        write_whole(output.with_suffix(".results.json"), json.dumps(results, indent=1) + "\n")


def read_reports(path: Path, text_column: str, id_column: str | None) -> tuple[list[str], list[Any]]:
    """Ids and texts of a table or of a folder of text files: .txt, .rtf or without an ending of letters.

    Linked folders are followed, and zips opened. Hidden files are left out; of others the log says how many.

    Raises:
        FileNotFoundError: there is no such file or folder, or no text file in it.
        ValueError: a column is missing, there is no report, or one without an id.
    """
    if path.is_dir():
        scanned = Scan(path)
        files = sorted(
            (file for file in walk(str(path), scanned) if not is_hidden(file.name)), key=lambda file: file.name
        )
        texts = [file for file in files if _is_text(file.name)]
        others = Counter(f".{suffix_of(file.name)}" for file in files if not _is_text(file.name))
        unread = [*(f"{count} {suffix}" for suffix, count in others.most_common(5))]
        unread += [f"{name} {reason}" for name, reason in scanned.listed[:5]]
        if not texts:
            raise FileNotFoundError(
                f"{path}: no text file (.txt) in the folder ({', '.join(unread) or 'no other file'})"
            )
        if unread:
            count = others.total() + len(scanned.listed)
            logger.warning("%d other files in %s are not read: %s", count, path, ", ".join(unread))
        names = [re.sub(r"\.(txt|rtf)$", "", file.name, flags=re.IGNORECASE) for file in texts]
        return names, [Path(file.path).read_bytes() for file in texts]
    known = [id_column] if id_column else list(IDS)
    table, _ = read_table(path, [text_column, *known])
    wanted = [text_column, id_column] if id_column else [text_column]
    if missing := [name for name in wanted if name not in table.column_names]:
        listed = ", ".join(table.column_names)
        raise ValueError(
            f"{path}: there is no column {', '.join(missing)}; the columns are {listed}: "
            "name them with --text_column and --id_column"
        )
    found = next((name for name in known if name in table.column_names), None)
    given = [_id(value) for value in (table[found].to_pylist() if found else range(len(table)))]
    if not given:
        raise ValueError(f"{path}: there is no report in this table")
    if None in given:
        raise ValueError(
            f"{path}: column {found} is empty in row {given.index(None)} (0 is the first): each report needs an id of "
            "its own; fill it in, or name another column with --id_column"
        )
    return cast(list[str], given), [_text(value) for value in table[text_column].to_pylist()]


def _is_text(name: str) -> bool:
    """By its suffix; ids such as 1.2.840.10008 have none."""
    suffix = suffix_of(name.rsplit("/", 1)[-1])
    return suffix in ("txt", "rtf") or not re.search("[a-z]", suffix)


def _id(value: Any) -> str | None:
    if value is None or value != value:
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _text(value: Any) -> str | bytes | None:
    """A report of a table: text, encoded text, or a list of its parts."""
    if isinstance(value, list):
        return "\n".join(str(part) for part in value if part is not None)
    return value if value is None or isinstance(value, bytes) else str(value)


def read_hand_labels(path: Path, id_column: str | None, names: list[str]) -> dict[str, dict[str, str]]:
    """Labels by hand by the id of a report; of several rows of an id the strongest answer counts.

    Raises:
        FileNotFoundError, ValueError: there is no such table, it has no id or no label, or an answer is none.
    """
    known = [id_column] if id_column else list(IDS)
    table, _ = read_table(path, [*known, *names])
    found = next((name for name in known if name in table.column_names), None)
    labels = [name for name in names if name in table.column_names]
    if found is None or not labels:
        listed = ", ".join(table.column_names)
        raise ValueError(
            f"{path}: expected a column {' or '.join(known)} and labels ({', '.join(names)}), not {listed}"
        )
    hand: dict[str, dict[str, str]] = {}
    for name in labels:
        for row, (key, value) in enumerate(zip(table[found].to_pylist(), table[name].to_pylist(), strict=True)):
            text = "" if value is None or value != value else str(value).strip().lower()
            if (report := _id(key)) is None or text in ("", "-1", "-1.0", "nan", "none", "null"):
                continue
            if text not in WRITTEN:
                raise ValueError(
                    f"{path}, column {name}, row {row} (0 is the first): {value!r} is no yes, no or unsure"
                )
            answers = hand.setdefault(report, {})
            answers[name] = min(answers.get(name, "no"), WRITTEN[text], key=ANSWERS.index)
    return hand


def summary(table: pa.Table, names: list[str]) -> str:
    """A line per label: how many reports say yes, unsure, no, and nothing."""
    lines = [f"{'label':24}" + "".join(f"{answer:>10}" for answer in [*ANSWERS, "nothing"])]
    for name in names:
        counts = Counter(table[name].to_pylist() if name in table.column_names else [])
        lines.append(f"{name:24}" + "".join(f"{counts[answer]:10,}" for answer in [*ANSWERS, None]))
    return "\n".join(lines)


@cache
def _reader(checkpoint: str) -> Any:
    from hf_radmae.reports.second_reader import ModelReader  # torch is not needed for the rules alone

    return ModelReader(checkpoint)


def _part(
    folder: Path, names: list[str], label_set: str, second_reader: str | None, chunk: tuple[list[str], list[Any]]
) -> Path:
    """Label some reports into a file that is named by its reports, labels, rules and second reader."""
    ids, texts = chunk
    record = [ids, [text if isinstance(text, str | None) else text.hex() for text in texts], names, second_reader]
    content = json.dumps([record, [rules.fingerprint for rules in load_label_sets(label_set)]]).encode()
    path = folder / f"{hashlib.sha256(content).hexdigest()[:32]}.parquet"
    if not path.is_file():
        reader = _reader(second_reader) if second_reader is not None else None
        rows = label_reports(texts, names, label_set=label_set, second_reader=reader)
        columns = {"id": pa.array(ids, pa.string())}
        columns |= {key: pa.array([row[key] for row in rows], pa.string()) for key in rows[0]}
        with whole_file(path) as partial:
            pq.write_table(pa.table(columns), partial)
    return path
