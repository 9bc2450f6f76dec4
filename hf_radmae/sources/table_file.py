"""A table's file -> its columns: CSV of any usual kind, JSON lines or Parquet, or one error that says what is wrong.

A CSV is separated by `,`, `;`, tab or `|`, in UTF-8, UTF-16 or UTF-32 with or without a byte order mark, or in a
European code page as far as those agree on its letters (they do on the German ones). A first line `sep=;` is
understood. Spaces around names and values are cut off. An encoding that is not clear, open quotes, rows of another
length and a column that is there twice are errors that name the file and the line.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from hf_radmae.images.remote import Place, open_file
from hf_radmae.images.storage import steady

MISSING_TEXTS = ("", "nan", "NaN", "None", "null", "NULL", "<NA>", "NA", "N/A", "n/a", "#N/A")
"""What an empty cell is written as."""
DELIMITERS = (",", ";", "\t", "|")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CODE_PAGES = ("cp1252", "cp1250", "cp1254", "iso8859-1", "iso8859-2", "iso8859-15")
_AGREED = {byte for byte in range(0xA0, 0x100) if len({bytes([byte]).decode(page) for page in _CODE_PAGES}) == 1}
_REMEDY = "save the table as CSV UTF-8, or convert it, e.g. with iconv -f CP1252 -t UTF-8"
_ROWS_AT_ONCE = 50_000
_PLAIN_FROM = 2**20  # characters from which on the faster parser is tried


class TableError(ValueError):
    """A table that cannot be taken as it is, with the file, the column, the rows and what to do."""


class Record(NamedTuple):
    """A row of a CSV: the line that it ends on (1 is the file's first) and its cells, spaces cut off."""

    line: int
    cells: list[str]


def read_text_columns(path: Place, required: Sequence[str], optional: Sequence[str] = ()) -> pa.Table:
    """Return columns of a table as trimmed text, null where empty.

    Args:
        path: CSV (see this module's first lines) or Parquet.
        required: columns that must be there.
        optional: columns that are read where they are there; all others are passed over.

    Raises:
        FileNotFoundError: there is no such table.
        TableError: a file that cannot be read, or lacks columns.
    """
    _check_file(path)
    if path.suffix.lower() == ".parquet":
        table = _read_parquet(path, required, optional)
        return pa.table({name: _text(path, name, table[name]) for name in table.column_names})
    text = decoded(path)
    if (table := _read_plain_csv(path, text, required, optional)) is not None:
        return table
    names, records = read_csv(path, text)
    wanted = _wanted(path, names, required, optional)
    places = [names.index(name) for name in wanted]
    chunks: list[list[pa.Array]] = [[] for _ in places]
    cells: list[list[str]] = []
    for record in records:
        cells.append([record.cells[place] for place in places])
        if len(cells) == _ROWS_AT_ONCE:
            _store(cells, chunks)
    _store(cells, chunks)
    columns = [pa.chunked_array(chunk, pa.string()) for chunk in chunks]
    return pa.table({name: _emptied(column) for name, column in zip(wanted, columns, strict=True)})


def column_names(path: Place) -> list[str]:
    """The names of a table's columns, from the header of a CSV or the footer of a Parquet file.

    Raises:
        FileNotFoundError, TableError: as `read_text_columns`.
    """
    _check_file(path)
    if path.suffix.lower() != ".parquet":
        return read_csv(path)[0]
    try:
        return [name.strip() for name in pa.parquet.read_schema(_parquet(path)).names]
    except (pa.ArrowException, OSError) as error:
        raise _no_parquet(path, error) from error


def read_table(path: Place, text: Sequence[str] = ()) -> tuple[pa.Table, list[int]]:
    """Return a whole table, its columns typed, and the line of each row (Parquet: the row, 1 the first).

    A column of a CSV is whole numbers, numbers or truth values where every cell is one. Numbers with a leading zero
    are ids and stay text, and so do numbers such as `1,234` that may be a thousand or a fraction.

    Args:
        path: CSV, `.tsv`, `.jsonl` or `.parquet`.
        text: names of columns that stay text whatever they hold.

    Raises:
        FileNotFoundError, TableError: as `read_text_columns`.
    """
    _check_file(path)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        try:
            table = pa.parquet.read_table(_parquet(path))
        except (pa.ArrowException, OSError) as error:
            raise _no_parquet(path, error) from error
        return _stripped(path, table), list(range(1, len(table) + 1))
    if suffix in (".jsonl", ".ndjson"):
        return _read_json_lines(path)
    names, records = read_csv(path)
    rows = list(records)
    lines = [record.line for record in rows]
    columns = list(zip(*(record.cells for record in rows), strict=True)) or [()] * len(names)
    kept = {
        name or f"unnamed_{place}": (column if name in text else _typed(column))
        for place, (name, column) in enumerate(zip(names, columns, strict=True))
        if name or any(column)
    }
    arrays = {name: pa.array(column) if name not in text else _typed_text(column) for name, column in kept.items()}
    return pa.table(arrays), lines


def read_csv(path: Place, text: str | None = None) -> tuple[list[str], Iterator[Record]]:
    """Return the names in a CSV's header and its rows, spaces cut off, empty rows left out.

    Args:
        path: the file.
        text: its content, where it was read already.

    Raises:
        TableError: at once for an encoding that is not clear or a header without names or with one twice; while the
            rows are read for one with too many or too few cells (all such rows are read first), or with open quotes.
    """
    text, first_line = decoded(path) if text is None else text, 1
    if match := re.match(r"sep=(.)\r?\n", text, re.IGNORECASE):  # what Excel writes and reads
        delimiter, text, first_line = match[1], text[match.end() :], 2
    else:
        delimiter = delimiter_of(text)
    reader = _reader(text, delimiter, strict=True)

    def records() -> Iterator[Record]:
        try:
            for cells in reader:
                yield Record(reader.line_num + first_line - 1, [cell.strip() for cell in cells])
        except csv.Error as error:
            line = reader.line_num + first_line - 1
            raise TableError(
                f"{path}, line {line}: {error}; close the quotes, and double those within a cell"
            ) from error

    every = records()
    header = next((record for record in every if any(record.cells)), None)
    if header is None:
        raise TableError(f"{path} has no header; write one row of names first")
    names = header.cells
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise TableError(
            f"{path}, line {header.line}: the columns {', '.join(twice)} are there twice; remove one of each"
        )
    return names, _whole(path, names, every)


def refuse_pickle(path: Place) -> None:
    """Raise for a pickle, which runs code when it is read, with the command that converts one that is trusted."""

    def start() -> bytes:
        with open_file(path) as file:
            return file.read(2)

    magic = steady(start, str(path))
    if path.suffix.lower() in (".pkl", ".pickle", ".p") or magic in (
        b"\x80\x02",
        b"\x80\x03",
        b"\x80\x04",
        b"\x80\x05",
    ):
        new = path.with_suffix(".parquet").name
        raise TableError(
            f"{path} is a pickle, which can run any code; if you trust it, convert it once: "
            f"python -c \"import pandas; pandas.read_pickle('{path.name}').astype(str).to_parquet('{new}')\""
        )


def _check_file(path: Place) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such table; give a CSV or Parquet file")
    if path.stat().st_size == 0:
        raise TableError(f"{path} is empty; export the table again")
    refuse_pickle(path)


def decoded(path: Place) -> str:
    """The text of a file whose encoding follows from its bytes.

    Raises:
        TableError: it does not, with the line.
    """
    content = path.read_bytes()
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _decode(path, content[len(mark) :], encoding)
    even, odd = content[0:4000:2].count(0), content[1:4000:2].count(0)
    if even or odd:  # text has no null bytes, but Latin letters in UTF-16 have one each
        half = min(len(content), 4000) / 2
        if max(even, odd) < 0.4 * half or min(even, odd) > 0.1 * half:
            raise TableError(f"{path}, line 1: null bytes, not UTF-8; {_REMEDY}")
        return _decode(path, content, "utf-16-be" if even > odd else "utf-16-le")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        agreed = b"\0" not in content and all(byte in _AGREED for byte in set(content) if byte >= 0x80)
        if agreed and not re.search(rb"[\x80-\xff]{3}", content):  # three such letters in a row: another script
            return content.decode("cp1252")
        place = _first_doubtful(content, error.start)
        line = content.count(b"\n", 0, place) + 1
        raise TableError(f"{path}, line {line}: not UTF-8 (byte 0x{content[place]:02X}); {_REMEDY}") from error


def _read_plain_csv(path: Place, text: str, required: Sequence[str], optional: Sequence[str]) -> pa.Table | None:
    """The wanted columns of a large CSV without oddities, by Arrow's parser; None where `read_csv` has to see it."""
    if len(text) < _PLAIN_FROM or re.match(r"sep=|\s", text, re.IGNORECASE) or re.search(r"\r(?!\n)", text):
        return None
    delimiter = delimiter_of(text)
    if re.search(rf'(?<![{re.escape(delimiter)}\r\n"])"(?![{re.escape(delimiter)}\r\n"])|""', text):
        return None  # quotes elsewhere than around a cell
    names = [name.strip().strip('"').strip() for name in text[: text.find("\n")].split(delimiter)]
    wanted = _wanted(path, names, required, optional)
    ragged: list[pa.csv.InvalidRow] = []

    def skip(row: pa.csv.InvalidRow) -> str:
        ragged.append(row)
        return "skip"

    read = pa.csv.ReadOptions(column_names=names, skip_rows=1)
    parse = pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip)
    convert = pa.csv.ConvertOptions(include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()))
    try:
        table = pa.csv.read_csv(io.BytesIO(text.encode()), read, parse, convert)
    except pa.ArrowException:
        return None
    table = pa.table({name: _emptied(pc.utf8_trim_whitespace(table[name])) for name in wanted})
    if ragged or not pc.all(pc.is_valid(table[0])).as_py():  # rows that are empty, or faulty
        return None
    return table


def _first_doubtful(content: bytes, start: int) -> int:
    """The first byte that code pages read differently, else the first that is not UTF-8."""
    doubtful = re.compile(b"[" + b"".join(re.escape(bytes([b])) for b in range(0x80, 0x100) if b not in _AGREED) + b"]")
    match = doubtful.search(content, start)
    return match.start() if match else start


def _decode(path: Place, content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(encoding, "replace").count("\n") + 1
        raise TableError(f"{path}, line {line}: not {encoding.upper()} as its first bytes say; {_REMEDY}") from error


def delimiter_of(text: str) -> str:
    """The delimiter by which all of the first rows have as many cells as the header, the most; else the header's."""
    head = text[:200_000]
    if len(text) > len(head):
        head = head[: head.rfind("\n") + 1]
    header = next((line for line in head.splitlines() if line.strip()), "")
    best, most = None, 1
    for delimiter in DELIMITERS:
        try:
            rows = _reader(head, delimiter)
            counts = [len(cells) for cells in rows if any(cell.strip() for cell in cells)][:200]
        except csv.Error:
            continue
        if counts and min(counts) == max(counts) > most:
            best, most = delimiter, counts[0]
    return best or max(DELIMITERS, key=header.count)


def _reader(text: str, delimiter: str, *, strict: bool = False) -> Any:
    lines = io.StringIO(text, newline="")
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=delimiter != "\t", strict=strict)


def _whole(path: Place, names: Sequence[str], records: Iterator[Record]) -> Iterator[Record]:
    """Yield the rows that are not empty; once all are read, raise for those with more or fewer cells."""
    ragged: list[tuple[int, int]] = []
    number = 0
    for record in records:
        if not any(record.cells):
            continue
        number += 1
        cells = record.cells
        if len(cells) > len(names) and not any(cells[len(names) :]):
            cells = cells[: len(names)]  # delimiters at the end of a line
        if len(cells) != len(names):
            ragged.append((number, record.line))
            continue
        yield Record(record.line, cells)
    if ragged:
        numbers = ", ".join(str(row) for row, _ in ragged[:5])
        lines = ", ".join(str(line) for _, line in ragged[:5])
        raise TableError(
            f"{path}: {len(ragged)} rows ({numbers}) have more or fewer cells than the header; quote the commas "
            f"(line {lines} of the file)"
        )


def _store(cells: list[list[str]], chunks: list[list[pa.Array]]) -> None:
    for column, chunk in zip(zip(*cells, strict=True), chunks, strict=False):
        chunk.append(pa.array(column, pa.string()))
    cells.clear()


def _emptied(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.is_in(column, pa.array(MISSING_TEXTS)), None, column)


def _typed_text(column: Sequence[str]) -> pa.Array:
    return pa.array([None if cell in MISSING_TEXTS else cell for cell in column], pa.string())


_WHOLE, _NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})"), re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_IDENTIFIER, _COMMA = re.compile(r"[+-]?0\d+|\d{16,}"), re.compile(r"[+-]?\d+(,\d+)?")
_TRUTH = {"true": True, "false": False}


def _typed(column: Sequence[str]) -> list:
    """The cells as whole numbers, numbers or truth values where all are, else as text; None where missing."""
    cells = [None if cell in MISSING_TEXTS else cell for cell in column]
    known = {cell for cell in cells if cell is not None}
    convert: dict[str, object] = {}
    if not known:
        pass
    elif all(_WHOLE.fullmatch(cell) for cell in known):
        convert = {cell: int(cell) for cell in known}
    elif any(_IDENTIFIER.fullmatch(cell) for cell in known):
        pass  # an id that would lose its zeros
    elif all(_NUMBER.fullmatch(cell) and isfinite(float(cell)) for cell in known):  # 12e999 is an id
        convert = {cell: float(cell) for cell in known}
    elif all(_COMMA.fullmatch(cell) for cell in known):
        if any(len(cell.partition(",")[2]) not in (0, 3) for cell in known):  # else it may be thousands
            convert = {cell: float(cell.replace(",", ".")) for cell in known}
    elif all(cell.lower() in _TRUTH for cell in known):
        convert = {cell: _TRUTH[cell.lower()] for cell in known}
    return [None if cell is None else convert.get(cell, cell) for cell in cells]


def _read_json_lines(path: Place) -> tuple[pa.Table, list[int]]:
    rows, lines = [], []
    for number, line in enumerate(decoded(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_distinct)
        except ValueError as error:
            raise TableError(f"{path}, line {number}: no JSON ({error}); write one object a line") from error
        if not isinstance(row, dict):
            raise TableError(f"{path}, line {number}: a {type(row).__name__}; write one object a line")
        rows.append(row)
        lines.append(number)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if any(isinstance(value, str) for value in values):  # "7" beside 7 is text
            values = [None if v is None else v.strip() if isinstance(v, str) else json.dumps(v) for v in values]
            columns[name] = _emptied(pa.chunked_array([pa.array(values, pa.string())]))
            continue
        try:
            columns[name] = pa.chunked_array([pa.array(values)])
        except (pa.ArrowException, OverflowError) as error:
            raise TableError(
                f"{path}, column {name}: values of several kinds, or too large ({error}); write one kind, ids as text"
            ) from error
    return pa.table(columns), lines


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, spaces around its names cut off; ValueError for a name that is there twice."""
    row: dict[str, Any] = {}
    for name, value in pairs:
        if name.strip() in row:
            raise ValueError(f"the name {name.strip()} is there twice")
        row[name.strip()] = value
    return row


def _stripped(path: Place, table: pa.Table) -> pa.Table:
    """A typed table with spaces around names and texts cut off."""
    names = [name.strip() for name in table.column_names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TableError(f"{path}: the columns {', '.join(twice)} are there twice; remove one of each")
    columns = []
    for column in table.columns:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        columns.append(_emptied(pc.utf8_trim_whitespace(column.cast(pa.string()))) if is_text else column)
    return pa.table(columns, names=names)


def _read_parquet(path: Place, required: Sequence[str], optional: Sequence[str]) -> pa.Table:
    try:
        names = pa.parquet.read_schema(_parquet(path)).names
        stripped = [name.strip() for name in names]
        wanted = _wanted(path, stripped, required, optional)
        table = pa.parquet.read_table(_parquet(path), columns=[names[stripped.index(name)] for name in wanted])
        return table.rename_columns([name.strip() for name in table.column_names])
    except (pa.ArrowException, OSError) as error:
        raise _no_parquet(path, error) from error


def _parquet(path: Place) -> Any:
    """What pyarrow reads a table of."""
    return path if isinstance(path, Path) else pa.BufferReader(path.read_bytes())


def _no_parquet(path: Place, error: Exception) -> TableError:
    return TableError(f"{path} is no readable Parquet file ({type(error).__name__}); export it again")


def _wanted(path: Place, names: Sequence[str], required: Sequence[str], optional: Sequence[str]) -> list[str]:
    """Return the columns to read."""
    known = [*required, *optional]
    if missing := [name for name in required if name not in names]:
        found = ", ".join(names)
        raise TableError(f"{path}: no column {', '.join(missing)} among {found[:200]}; expected {', '.join(known)}")
    if twice := sorted({name for name in known if names.count(name) > 1}):
        raise TableError(f"{path}: the columns {', '.join(twice)} are there twice; remove one of each")
    return [name for name in names if name in known]


def _text(path: Place, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as trimmed text, null where it is empty; a list of numbers becomes "rows, columns"."""
    try:
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            column = pc.binary_join(column.cast(pa.list_(pa.string())), ", ")
        text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    except pa.ArrowException as error:
        raise TableError(f"{path}, column {name}: {column.type} where text is expected; convert the column") from error
    return _emptied(text)
