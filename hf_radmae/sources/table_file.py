"""A table's file -> the wanted columns as text, CSV or Parquet, or one error that says what is wrong with the file."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet


class TableError(ValueError):
    """A table that cannot be taken as it is, with the file, the column, the rows and what to do."""


def read_text_columns(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> pa.Table:
    """Return columns of a table as trimmed text, null where empty.

    Args:
        path: CSV (comma or semicolon, UTF-8, one header row) or Parquet.
        required: columns that must be there.
        optional: columns that are read where they are there; all others are passed over.

    Raises:
        FileNotFoundError: there is no such table.
        TableError: a file that cannot be read, or lacks columns.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such table; give a CSV or Parquet file")
    if path.stat().st_size == 0:
        raise TableError(f"{path} is empty; export the table again")
    refuse_pickle(path)
    table = (
        _read_parquet(path, required, optional)
        if path.suffix.lower() == ".parquet"
        else _read_csv(path, required, optional)
    )
    return pa.table({name: _text(path, name, table[name]) for name in table.column_names})


def _read_parquet(path: Path, required: Sequence[str], optional: Sequence[str]) -> pa.Table:
    try:
        names = pa.parquet.read_schema(path).names
        return pa.parquet.read_table(path, columns=_wanted(path, names, required, optional))
    except pa.ArrowException as error:
        raise TableError(f"{path} is no readable Parquet file ({type(error).__name__}); export it again") from error


def _read_csv(path: Path, required: Sequence[str], optional: Sequence[str]) -> pa.Table:
    with path.open("rb") as file:
        header = file.readline()
    delimiter = ";" if header.count(b";") > header.count(b",") else ","
    ragged: list[int] = []

    def skip(row: pa.csv.InvalidRow) -> str:
        ragged.append(row.number - 1)  # the header is its row 1
        return "skip"

    read = pa.csv.ReadOptions(use_threads=False)  # only then are the rows numbered
    parse = pa.csv.ParseOptions(delimiter=delimiter, invalid_row_handler=skip)
    try:
        names = [name.strip().removeprefix("\ufeff") for name in header.decode().rstrip("\r\n").split(delimiter)]
        wanted = _wanted(path, [name.strip('"') for name in names], required, optional)
        convert = pa.csv.ConvertOptions(include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()))
        table = pa.csv.read_csv(path, read, parse, convert)
    except (UnicodeDecodeError, pa.ArrowInvalid) as error:
        row = _first_undecodable(path)
        if row is not None:
            raise TableError(f"{path}, row {row}: not UTF-8; save the table as CSV UTF-8") from error
        raise TableError(
            f"{path} is no readable CSV; export it with one header row and as many cells in each row"
        ) from error
    if ragged:
        numbers = ", ".join(map(str, ragged[:5]))
        raise TableError(
            f"{path}: {len(ragged)} rows ({numbers}) have more or fewer cells than the header; quote the commas"
        )
    return table


def _first_undecodable(path: Path) -> int | None:
    """Return the line, counted from 0 for the header, that is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return None


def _wanted(path: Path, names: Sequence[str], required: Sequence[str], optional: Sequence[str]) -> list[str]:
    """Return the columns to read."""
    known = [*required, *optional]
    if missing := [name for name in required if name not in names]:
        found = ", ".join(names)
        raise TableError(f"{path}: no column {', '.join(missing)} among {found[:200]}; expected {', '.join(known)}")
    if twice := sorted({name for name in known if names.count(name) > 1}):
        raise TableError(f"{path}: the columns {', '.join(twice)} are there twice; remove one of each")
    return [name for name in names if name in known]


def _text(path: Path, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as trimmed text, null where it is empty; a list of numbers becomes "rows, columns"."""
    try:
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            column = pc.binary_join(column.cast(pa.list_(pa.string())), ", ")
        text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    except pa.ArrowException as error:
        raise TableError(f"{path}, column {name}: {column.type} where text is expected; convert the column") from error
    return pc.if_else(pc.is_in(text, pa.array(["", "nan", "None", "NaN", "<NA>"])), None, text)


def refuse_pickle(path: Path) -> None:
    """Raise for a pickle, which runs code when it is read, with the command that converts one that is trusted."""
    with path.open("rb") as file:
        magic = file.read(2)
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
