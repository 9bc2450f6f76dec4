"""The archive's table: the same from CSV and Parquet, and refused with row, column and remedy where it is wrong."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from hf_radmae.sources.mri.body_parts import BodyParts
from hf_radmae.sources.mri.table import INDEX_SCHEMA, read_table
from hf_radmae.sources.table_file import TableError

HEADER = "patientid,path,pixelarr_shape,inverted,bodypart,fracture,foreignmaterial"
ROWS = [
    'p1,HAND/p1/e1/s1/1.2.3,"(2002, 1417)",False,HAND,YES,NO',
    'p1,HAND/p1/e1/s1/1.2.4,"[1500 1200]",True,,Unsure,',
    'p2,KNIE/p2/e2/s1/1.2.5,"(3, 900, 800)",0,Knie re,NO,Yes',
    "p2,X/p2/e3/s1/1.2.6,900x800,1,,,",
]


def write(path, rows=ROWS, header=HEADER, encoding="utf-8"):
    path.write_text("\n".join([header, *rows, ""]), encoding=encoding)
    return path


def test_every_cell_of_the_authors_table_is_understood(tmp_path):
    index = read_table(write(tmp_path / "table.csv"), BodyParts())
    hand, knee = BodyParts().codes(["hand", "knee"])
    assert index.schema == INDEX_SCHEMA
    assert index.drop_columns(["path", "drawing", "duplicate"]).to_pydict() == {
        "patient": ["p1", "p1", "p2", "p2"],
        "exam": ["e1", "e1", "e2", "e3"],
        "height": [2002, 1500, 900, 900],
        "width": [1417, 1200, 800, 800],
        "dimensions": [2, 2, 3, 2],
        "inverted": [False, True, False, True],
        "body_part": [hand, hand, knee, None],
        "fracture": [1, 2, 0, None],
        "foreign_material": [0, None, 1, None],
        "burned_in_annotation": [None] * 4,  # elements of the headers, which a table does not hold
        "patient_identity_removed": [None] * 4,
    }


def test_csv_semicolons_byte_order_mark_and_parquet_read_the_same(tmp_path):
    plain = write(tmp_path / "table.csv")
    expected = read_table(plain, BodyParts())
    semicolons = write(
        tmp_path / "german.csv",
        [
            row.replace(",", ";").replace('"(2002; 1417)"', "2002 1417").replace('"(3; 900; 800)"', "3 900 800")
            for row in ROWS
        ],
        HEADER.replace(",", ";"),
        "utf-8-sig",
    )
    assert read_table(semicolons, BodyParts()).equals(expected)
    table = pa.csv.read_csv(plain, convert_options=pa.csv.ConvertOptions(column_types={"inverted": pa.string()}))
    pq.write_table(table, tmp_path / "text.parquet")
    typed = table.set_column(2, "pixelarr_shape", pa.array([[2002, 1417], [1500, 1200], [3, 900, 800], [900, 800]]))
    typed = typed.set_column(3, "inverted", pa.array([False, True, False, True]))
    pq.write_table(typed.append_column("other", pa.array([1, 2, 3, 4])), tmp_path / "typed.parquet")
    for name in ("text", "typed"):
        assert read_table(tmp_path / f"{name}.parquet", BodyParts()).equals(expected)


def test_labels_may_be_missing_and_ids_keep_their_zeros(tmp_path):
    rows = ['007,HAND/007/0012/s/1,"(20, 30)",False,HAND']
    index = read_table(write(tmp_path / "t.csv", rows, HEADER.removesuffix(",fracture,foreignmaterial")), BodyParts())
    assert index.select(["patient", "exam", "fracture"]).to_pylist() == [
        {"patient": "007", "exam": "0012", "fracture": None}
    ]


CELLS = {
    "patientid": "p9",
    "path": "HAND/p9/e9/s9/9",
    "pixelarr_shape": "20x30",
    "inverted": "False",
    "bodypart": "HAND",
    "fracture": "NO",
    "foreignmaterial": "NO",
}
MALFORMED_CELLS = [
    ("patientid", "", "are empty; fill them in, or remove the rows"),
    ("path", "", "are empty; fill them in, or remove the rows"),
    ("path", "HAND/p1/e1/s1/1.2.3", "repeat an earlier one; remove the duplicate rows"),
    ("path", "/data/HAND/p9/e9/9", "are absolute; write them relative to the archive's folder"),
    ("path", "C:/HAND/p9/e9/9", "are absolute; write them relative to the archive's folder"),
    ("path", "HAND/p9/../../../9", r"lead out of the archive by '\.\.'; remove the rows"),
    ("path", r"HAND\p9\e9\s9\9", "are not <PART>/<patient>/<exam>/<series>/<SOP uid>; write / between folders"),
    ("pixelarr_shape", "2002", r"hold '2002'; write \(rows, columns\)"),
    ("pixelarr_shape", "-20x30", r"hold '-20x30'; write \(rows, columns\)"),
    ("pixelarr_shape", "1 2 3 4", r"hold '1 2 3 4'; write \(rows, columns\)"),
    ("pixelarr_shape", "99999999999x3", r"hold '99999999999x3'; write \(rows, columns\)"),
    ("inverted", "ja", "hold 'ja'; write false, 0, true, 1$"),
    ("inverted", "", "hold None; write false, 0, true, 1$"),
    ("bodypart", "HNAD", "hold 'HNAD'; write one of skull, .*, or add the spelling to body_parts.csv"),
    ("fracture", "JA", "hold 'JA'; write no, yes, unsure or nothing"),
    ("foreignmaterial", "1", "hold '1'; write no, yes, unsure or nothing"),
]


@pytest.mark.parametrize(("column", "cell", "text"), MALFORMED_CELLS)
def test_a_malformed_cell_names_the_column_the_row_and_the_remedy(tmp_path, column, cell, text):
    path = write(tmp_path / "table.csv", [*ROWS, ",".join({**CELLS, column: cell}.values())])
    with pytest.raises(TableError, match=rf"column {column}: 1 of 5 rows \(5\) {text}") as caught:
        read_table(path, BodyParts())
    assert str(caught.value).startswith(str(path))
    assert "p9" not in str(caught.value), "errors must not quote patients or paths"


@pytest.mark.parametrize(
    ("rows", "header", "text"),
    [
        (ROWS, HEADER.replace("path,", ""), "no column path among patientid, .*; expected patientid, path,"),
        (ROWS, HEADER.replace("fracture", "path"), "the columns path are there twice; remove one of each"),
        ([], HEADER, "has a header and no rows; write one row per image"),
        (
            [*ROWS, "p9,HAND/p9/e9/s9/9"],
            HEADER,
            r"1 rows \(5\) have more or fewer cells than the header; quote the commas",
        ),
        (
            ["p9,HAND/p9/e9/s9/9,(20, 30),False,HAND,NO,NO"],
            HEADER,
            r"1 rows \(1\) have more or fewer cells than the header",
        ),
    ],
)
def test_a_malformed_layout_names_the_rows_and_the_remedy(tmp_path, rows, header, text):
    with pytest.raises(TableError, match=text):
        read_table(write(tmp_path / "table.csv", rows, header), BodyParts())


def test_a_file_that_is_no_table_is_refused_with_what_to_do(tmp_path):
    latin = "\n".join([HEADER, ROWS[0].replace("HAND", "SCHÈRE")])
    command = (
        r"is a pickle, .*: python -c \"import pandas; pandas.read_pickle\('table.pkl'\).*to_parquet\('table.parquet'\)"
    )
    files = {
        "empty.csv": (b"", "is empty; export the table again"),
        "table.pkl": (pickle.dumps({}), command),
        "hidden.csv": (pickle.dumps({}), "is a pickle, which can run any code"),
        "table.parquet": (b"PAR1 no more", "is no readable Parquet file .*; export it again"),
        "latin1.csv": (latin.encode("latin-1"), r"line 2: not UTF-8 \(byte 0xC8\); save the table as CSV UTF-8"),
        "utf16.csv": ("\ufeffpath;".encode("utf-16-le") + b"\x00\xd8;\x00", "line 1: not UTF-16-LE as its first bytes"),
        "picture.csv": (b"\x89PNG\r\n" + bytes(range(256)), "not UTF-8"),
    }
    for name, (content, text) in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(TableError, match=text):
            read_table(path, BodyParts())
    with pytest.raises(FileNotFoundError, match="there is no such table; give a CSV or Parquet file"):
        read_table(tmp_path / "missing.csv", BodyParts())


def test_an_error_in_many_rows_is_told_once_with_the_first_five(tmp_path):
    rows = [
        ",".join({**CELLS, "path": f"HAND/p9/e9/s9/{number}", "fracture": f"?{number}"}.values())
        for number in range(2000)
    ]
    with pytest.raises(TableError, match=r"2000 of 2000 rows \(1, 2, 3, 4, 5 ...\) hold ('\?\d+', ){4}'\?\d+'; write"):
        read_table(write(tmp_path / "table.csv", rows), BodyParts())


def test_random_tables_come_back_cell_for_cell(tmp_path):
    random = np.random.default_rng(0)
    shapes = random.integers(1, 4000, (500, 2))
    labels = random.choice(["YES", "NO", "Unsure", ""], (500, 2))
    rows = [
        f'p{n % 7},HAND/p{n % 7}/e/s/{n},"({a}, {b})",{n % 2 == 0},HAND,{x},{y}'
        for n, ((a, b), (x, y)) in enumerate(zip(shapes, labels, strict=True))
    ]
    index = read_table(write(tmp_path / "table.csv", rows), BodyParts())
    np.testing.assert_array_equal(np.stack([index["height"], index["width"]], 1), shapes)
    codes = {"NO": 0, "YES": 1, "Unsure": 2, "": None}
    assert index["fracture"].to_pylist() == [codes[x] for x, _ in labels]
    assert index["foreign_material"].to_pylist() == [codes[y] for _, y in labels]
