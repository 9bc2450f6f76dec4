"""The archive's table -> an index with one row per image, checked as a whole before any file is opened.

The columns are those of the archive's author: patientid, path (relative to the archive, `<PART>/<patient>/<exam>/
<series>/<SOP uid>`), pixelarr_shape, inverted, bodypart, and fracture and foreignmaterial (YES, NO, Unsure or empty),
which may be missing. Every check looks at all rows at once; its error names the file, the column, the first rows and
what to do, but quotes no path and no patient.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_radmae.sources.mri.body_parts import BodyParts
from hf_radmae.sources.patients import normalise_patient, one_spelling
from hf_radmae.sources.table_file import TableError, read_text_columns

REQUIRED = ("patientid", "path", "pixelarr_shape", "inverted", "bodypart")
LABELS = {"fracture": "fracture", "foreignmaterial": "foreign_material"}
ANSWERS = ("no", "yes", "unsure")

HEADER_ANSWERS = ("burned_in_annotation", "patient_identity_removed")
"""What a header says about names in the picture and in itself: columns, YES or NO."""

INDEX_SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "patient": pa.string(),
        "exam": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "dimensions": pa.int32(),  # 0 without pixels, 2 for a radiograph, 3 for frames or colour planes
        "inverted": pa.bool_(),
        "body_part": pa.int32(),
        "fracture": pa.int32(),
        "foreign_material": pa.int32(),
        "drawing": pa.bool_(),  # null where no header was read
        "duplicate": pa.bool_(),  # a copy of another file; null where no file was looked at
        **dict.fromkeys(HEADER_ANSWERS, pa.string()),  # YES or NO; null where no header was read, or it says nothing
    }
)

_SHAPE = r"^[(\[]?\s*(?P<a>\d{1,6})[\s,x]+(?P<b>\d{1,6})(?:[\s,x]+(?P<c>\d{1,6}))?\s*,?\s*[)\]]?$"


def read_table(path: str | Path, body_parts: BodyParts) -> pa.Table:
    """Read the archive's table, CSV (comma or semicolon, UTF-8) or Parquet.

    Args:
        path: the table.
        body_parts: what the spellings in `bodypart` mean; empty ones are left for the header.

    Returns:
        A table of `INDEX_SCHEMA`; labels and body parts that are empty are null, and so is `drawing`.

    Raises:
        FileNotFoundError: there is no such table.
        TableError: for everything in it that is wrong.
    """
    path = Path(path)
    columns = read_text_columns(path, REQUIRED, [*LABELS])
    if len(columns) == 0:
        raise TableError(f"{path} has a header and no rows; write one row per image")
    for name in ("patientid", "path"):
        _refuse(path, name, pc.is_null(columns[name]), "are empty", "fill them in, or remove the rows")
    paths = columns["path"]
    _check_paths(path, paths)
    shape = pc.extract_regex(columns["pixelarr_shape"], _SHAPE)
    empty = pc.or_(pc.is_null(columns["pixelarr_shape"]), pc.is_in(columns["pixelarr_shape"], pa.array(["()", "[]"])))
    unread = pc.and_(pc.is_null(shape), pc.invert(empty))
    _refuse(path, "pixelarr_shape", unread, "hold", "write (rows, columns)", columns["pixelarr_shape"])
    a, b, c = (_integers(pc.struct_field(shape, name)) for name in "abc")
    frames_first = c > 4  # (frames, rows, columns); otherwise (rows, columns) or (rows, columns, colours)
    index = {
        "path": paths,
        "patient": _normalised(columns["patientid"]),
        "exam": pc.coalesce(_usual(paths, "exam"), pc.replace_substring_regex(paths, r"/?[^/]*$", "")),
        "height": np.where(frames_first, b, a),
        "width": np.where(frames_first, c, b),
        "dimensions": np.where(a == 0, 0, np.where(c > 0, 3, 2)),
        "inverted": _codes(
            path, "inverted", columns["inverted"], {"false": 0, "0": 0, "true": 1, "1": 1}, nullable=False
        ),
        "body_part": _body_part(path, columns["bodypart"], _usual(paths, "part"), body_parts),
        "drawing": pa.nulls(len(columns), pa.bool_()),
        "duplicate": pa.nulls(len(columns), pa.bool_()),
        **dict.fromkeys(HEADER_ANSWERS, pa.nulls(len(columns), pa.string())),
    }
    answers = {answer: code for code, answer in enumerate(ANSWERS)}
    for column, label in LABELS.items():
        present = column in columns.column_names
        index[label] = _codes(path, column, columns[column], answers) if present else pa.nulls(len(columns), pa.int32())
    return pa.table(
        {name: _cast(index[name], kind) for name, kind in zip(INDEX_SCHEMA.names, INDEX_SCHEMA.types, strict=True)}
    )


def _check_paths(path: Path, paths: pa.ChunkedArray) -> None:
    absolute = pc.match_substring_regex(paths, r"^(/|\\|[A-Za-z]:)")
    _refuse(path, "path", absolute, "are absolute", "write them relative to the archive's folder")
    outside = pc.match_substring_regex(paths, r"(^|[/\\])\.\.([/\\]|$)")
    _refuse(path, "path", outside, "lead out of the archive by '..'", "remove the rows")
    backslash = pc.match_substring(paths, "\\")
    _refuse(path, "path", backslash, "are not <PART>/<patient>/<exam>/<series>/<SOP uid>", "write / between folders")
    codes = paths.combine_chunks().dictionary_encode().indices.to_numpy()
    repeated = np.ones(len(codes), bool)
    repeated[np.unique(codes, return_index=True)[1]] = False
    _refuse(path, "path", pa.array(repeated), "repeat an earlier one", "remove the duplicate rows")


def _usual(paths: pa.ChunkedArray, group: str) -> pa.ChunkedArray:
    """A folder of paths that are <PART>/<patient>/<exam>/<series>/<SOP uid>, null for others but for the first one."""
    if group == "part":
        return pc.struct_field(pc.extract_regex(paths, r"^(?P<part>[^/]+)/"), "part")
    return pc.struct_field(pc.extract_regex(paths, r"^[^/]+/[^/]+/(?P<exam>[^/]+)/[^/]+/[^/]+$"), "exam")


def _normalised(column: pa.ChunkedArray) -> pa.Array:
    """The patients, each in one of the ways in which it is written."""
    encoded = column.combine_chunks().dictionary_encode()
    spellings = encoded.dictionary.to_pylist()
    one = one_spelling(spellings)
    return pa.array([one.get(normalise_patient(value)) for value in spellings], pa.string()).take(encoded.indices)


def _codes(
    path: Path, name: str, column: pa.ChunkedArray, known: dict[str, int], nullable: bool = True
) -> pa.ChunkedArray:
    """Return the integer behind each text, in whatever case."""
    found = pc.index_in(pc.utf8_lower(column), pa.array([*known]))
    wrong = pc.and_(pc.is_null(found), pc.is_valid(column)) if nullable else pc.is_null(found)
    _refuse(path, name, wrong, "hold", f"write {', '.join(known)}{' or nothing' * nullable}", column)
    return pc.take(pa.array([*known.values()], pa.int32()), found)


def _body_part(path: Path, column: pa.ChunkedArray, folder: pa.ChunkedArray, body_parts: BodyParts) -> pa.Array:
    """Return the class of the folder, else of the column; null where both are unknown and the column is empty."""
    by_column = _look_up(column, body_parts)
    wrong = np.asarray(pc.is_valid(column)) & (by_column < 0)
    remedy = f"write one of {', '.join(body_parts.names)}, or add the spelling to body_parts.csv"
    _refuse(path, "bodypart", pa.array(wrong), "hold", remedy, column)
    by_folder = _look_up(folder, body_parts)
    codes = np.where(by_folder >= 0, by_folder, by_column)
    return pa.array(codes, pa.int32(), mask=codes < 0)


def _look_up(column: pa.ChunkedArray, body_parts: BodyParts) -> np.ndarray:
    """Return the class of each spelling, -1 for null and unknown ones."""
    encoded = column.combine_chunks().dictionary_encode()
    known = np.array([*body_parts.codes(encoded.dictionary.to_pylist()), -1])
    return known[encoded.indices.fill_null(-1).to_numpy()]


def _integers(column: pa.ChunkedArray) -> np.ndarray:
    """Return int64, 0 where the text is null or empty."""
    return pc.if_else(pc.equal(column, ""), "0", column).fill_null("0").cast(pa.int64()).to_numpy()


def _cast(column: pa.Array | pa.ChunkedArray | np.ndarray, kind: pa.DataType) -> pa.ChunkedArray:
    return (pa.chunked_array([pa.array(column)]) if isinstance(column, np.ndarray) else column).cast(kind)


def _refuse(
    path: Path,
    name: str,
    bad: pa.Array | pa.ChunkedArray,
    what: str,
    remedy: str,
    values: pa.ChunkedArray | None = None,
) -> None:
    """Raise if any row is bad: how many, the first five (1 is the first below the header), and `values` if shown."""
    rows = np.flatnonzero(np.asarray(bad.fill_null(True)))
    if not len(rows):
        return
    first = ", ".join(str(row + 1) for row in rows[:5]) + " ..." * (len(rows) > 5)
    quoted = "" if values is None else f" {', '.join(sorted({repr(values[row].as_py()) for row in rows[:1000]})[:5])}"
    raise TableError(f"{path}, column {name}: {len(rows)} of {len(bad)} rows ({first}) {what}{quoted}; {remedy}")
