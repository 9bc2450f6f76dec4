"""The files of IRMA: tables of codes, each with a folder of PNGs, in either layout, checked line by line."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hf_radmae.sources.irma.code import parse_code
from hf_radmae.sources.table_file import decoded, delimiter_of

PARTS = {
    "train": ("ImageCLEFmed2009_train_codes.02.csv", "ImageCLEFmed2009_train.02"),
    "test_2009": ("ImageCLEFmed2009_test_codes.03.csv", "ImageCLEFmed2009_test.03"),
}
"""Part of the data set -> its table and the folder of its images."""
MISSING = "\\N"
"""What stands in a table where an image has no label."""


class IRMADataError(ValueError):
    """Rows or files of IRMA that cannot be used, listed together."""

    def __init__(self, problems: Sequence[str]):
        more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
        super().__init__(f"IRMA has {len(problems)} problem(s):\n  " + "\n  ".join(problems[:10]) + more)


class Row(NamedTuple):
    """One usable line of a table; `labels` are the values of the earlier years, None where the image had none."""

    image_id: str
    code: str
    path: str
    labels: dict[str, str | None]


class Part(NamedTuple):
    """One of the two tables with the images of its folder: image number -> files (more than one is a fault)."""

    table: Path
    folder: Path
    images: dict[int, list[Path]]


def find_part(data_dir: Path, name: str) -> Part | None:
    """Looks for the table and the images of "train" or "test_2009", in the RWTH or the Kaggle (doubled folder) layout.

    Returns:
        The part, or None where there is no table of that name.

    Raises:
        FileNotFoundError: the table is there, but not the folder of its images.
    """
    table, folder = (data_dir / item for item in PARTS[name])
    if not table.is_file():
        return None
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing, but {table.name} is there: unpack the images, or move the table")
    doubled = folder / folder.name
    folder = doubled if doubled.is_dir() else folder
    images: dict[int, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() == ".png" and file.stem.isdecimal():
            images.setdefault(int(file.stem), []).append(file)
    return Part(table, folder, images)


def read_part(part: Part, label_columns: Sequence[str] = ()) -> tuple[list[Row], list[tuple[str, str]]]:
    r"""Reads one table, in its order, and checks every line of it.

    Returns:
        The rows, and (path, reason) of the images that are no row: those whose irma_code is `\N`, and those that no
        line names.

    Raises:
        IRMADataError: lists every line with a wrong number of columns, an id that is no number or is there twice, a
            code that breaks the grammar, or no image.
    """
    rows: list[Row] = []
    problems: list[str] = []
    first_line: dict[int, int] = {}
    left_out: list[tuple[str, str]] = []
    text = decoded(part.table)
    between = delimiter_of(text)
    with io.StringIO(text, newline="") as file:
        reader = csv.reader(file, delimiter=between)
        columns = [name.strip() for name in next(reader, [])]
        if absent := [column for column in ("image_id", "irma_code", *label_columns) if column not in columns]:
            raise IRMADataError(
                [f"{part.table}: no column {', '.join(absent)} between {between!r} in the header {columns}"]
            )
        for values in filter(None, reader):  # the file may end in empty lines
            where = f"{part.table}, line {reader.line_num}"
            if len(values) != len(columns):
                found = f"{len(values)} values between {between!r}"
                problems.append(f"{where}: {found}, the header has {len(columns)}: restore it")
                continue
            record = {name: value.strip() for name, value in zip(columns, values, strict=True)}
            problem = _fault(record, part, first_line)
            if problem is not None:
                problems.append(f"{where}: {problem}")
                continue
            number = int(record["image_id"])
            first_line[number] = reader.line_num
            if record["irma_code"] == MISSING:
                paths = [str(path) for path in part.images.get(number, ())]
                left_out += [(path, f"has no irma_code: {MISSING}") for path in paths]
                continue
            labels = {name: None if record[name] == MISSING else record[name] for name in label_columns}
            rows.append(Row(str(number), record["irma_code"], str(part.images[number][0]), labels))
    if problems:
        raise IRMADataError(problems)
    for number, files in part.images.items():
        if number not in first_line:
            left_out += [(str(path), f"is in no line of {part.table.name}") for path in files]
    return rows, left_out


def _fault(record: dict[str, str], part: Part, first_line: dict[int, int]) -> str | None:
    """What is wrong with one line and what to do about it, or None."""
    image_id, code = record["image_id"], record["irma_code"]
    if not image_id.isdecimal():
        return f"image_id {image_id!r} is not a number: restore the id"
    number = int(image_id)
    if number in first_line:
        return f"image_id {image_id} is there already, on line {first_line[number]}: keep one of the two"
    if code == MISSING:
        return None
    try:
        parse_code(code)
    except ValueError as error:
        return f"irma_code {error}: correct it, or write {MISSING} to leave the image out"
    files = part.images.get(number, [])
    if not files:
        return f"no image {number}.png, zero-padded or plain, in {part.folder}: put it there, or remove the line"
    if len(files) > 1:
        return f"image {number} is there as {' and '.join(file.name for file in files)}: keep one of them"
    return None
