"""A table is read right whatever wrote it, or refused with the file, the line and what to do."""

import csv
import io

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_radmae.sources import table_file
from hf_radmae.sources.table_file import DELIMITERS, TableError, read_table, read_text_columns

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
CODE_PAGES = ("latin-1", "cp1252", "cp1250", "cp1254", "iso8859-15", "iso8859-2")
cells = st.text(st.sampled_from('abzÄÖüß0179 .,;\t|"\n-'), max_size=8).map(str.strip)


def save(path, text: str, encoding: str):
    path.write_bytes(text.encode(encoding))
    return path


def written(rows: list[list[str]], delimiter: str, newline: str, quoting: int = csv.QUOTE_MINIMAL) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter, lineterminator=newline, quoting=quoting).writerows(rows)
    return stream.getvalue()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("delimiter", DELIMITERS)
@given(st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=6), st.sampled_from(["\n", "\r\n"]), st.booleans())
@settings(max_examples=12, deadline=None)
def test_cells_come_back_in_every_encoding_and_with_every_delimiter(
    tmp_path_factory, encoding, delimiter, rows, newline, sep
):
    rows = [[f"id{number}", *row] for number, row in enumerate(rows)]
    text = written([["file_name", "a b", "größe", "c"], *rows], delimiter, newline, csv.QUOTE_ALL)
    text = f"sep={delimiter}{newline}{text}" if sep else text
    path = save(tmp_path_factory.mktemp("t") / "table.csv", text, encoding)
    found = read_text_columns(path, ["file_name", "größe"], ["c", "a b"])
    missing = ("", "nan", "NaN", "None", "null")
    for place, name in enumerate(("file_name", "a b", "größe", "c")):
        assert found[name].to_pylist() == [None if row[place] in missing else row[place] for row in rows]


@pytest.mark.parametrize("encoding", CODE_PAGES)
@pytest.mark.parametrize(
    "word", ["Hüfte", "Fuß", "größer", "ÜBERSICHT", "Żuchwa", "ręka", "épaule", "crâne", "µm", "кисть"]
)
def test_a_code_page_is_read_right_or_refused_with_the_line(tmp_path, encoding, word):
    try:
        path = save(tmp_path / "t.csv", f"file_name,part\n1.png,Hand\n2.png,{word}\n", encoding)
    except UnicodeEncodeError:
        return
    try:
        assert read_table(path)[0]["part"].to_pylist() == ["Hand", word]
    except TableError as error:
        assert str(error).startswith(f"{path}, line 3: not UTF-8") and "save the table as CSV UTF-8" in str(error)
        assert word not in ("Hüfte", "Fuß", "größer", "ÜBERSICHT"), "German is read"


@pytest.mark.parametrize("encoding", ["gbk", "shift-jis", "euc-kr", "big5", "cp1251", "koi8-r", "mac-roman", "cp850"])
def test_other_scripts_that_are_no_unicode_are_refused(tmp_path, encoding):
    words = {
        "gbk": "骨折",
        "big5": "骨折",
        "shift-jis": "骨折",
        "euc-kr": "골절",
        "cp1251": "перелом",
        "koi8-r": "перелом",
    }
    path = save(tmp_path / "t.csv", f"file_name,part\n1.png,{words.get(encoding, 'Hüfte')}\n", encoding)
    with pytest.raises(TableError, match=r"line 2: not UTF-8 \(byte 0x"):
        read_table(path)


TYPED = [
    (["007", "012"], pa.string(), ["007", "012"]),
    (["7", "12", ""], pa.int64(), [7, 12, None]),
    (["0", "1"], pa.int64(), [0, 1]),
    (["1.5", "2", "1e3"], pa.float64(), [1.5, 2.0, 1000.0]),
    (["yes ", " yes"], pa.string(), ["yes", "yes"]),
    (["True", "false"], pa.bool_(), [True, False]),
    (["", "nan"], pa.null(), [None, None]),
    (["1.2.840", "3"], pa.string(), ["1.2.840", "3"]),
    (["12345678901234567890"], pa.string(), ["12345678901234567890"]),
    (["1,5", "2"], pa.float64(), [1.5, 2.0]),
    (["1,234", "5,678"], pa.string(), ["1,234", "5,678"]),
    (["-0", "+1"], pa.float64(), [0.0, 1.0]),
    (["12e999", "7"], pa.string(), ["12e999", "7"]),
    (["7", "NA", "n/a"], pa.int64(), [7, None, None]),
]


@pytest.mark.parametrize(("values", "kind", "expected"), TYPED)
@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_types_follow_the_cells_and_ids_keep_their_zeros(tmp_path, values, kind, expected, delimiter):
    rows = [[f"{number}.png", value] for number, value in enumerate(values)]
    path = save(tmp_path / "t.csv", written([["file_name", "y"], *rows], delimiter, "\n"), "utf-8")
    column = read_table(path)[0]["y"]
    assert (column.type, column.to_pylist()) == (kind, expected)


REFUSED = {
    "a row too long": ("file_name,y\n1.png,a\n2.png,b,c\n", r"1 rows \(2\) .* \(line 3 of the file\)"),
    "a row too short": ("file_name,y\n\n1.png,a\n\n2.png\n", r"1 rows \(2\) .* \(line 5 of the file\)"),
    "an unquoted comma": ("file_name,y\n1.png,(2, 3)\n2.png,a\n", r"rows \(1\) .*; quote the commas"),
    "open quotes": ('file_name,y\n1.png,"a\n2.png,b\n', "line 3: .*close the quotes"),
    "text behind quotes": ('file_name,y\n1.png,"a" b\n', "line 2: .*close the quotes"),
    "a column twice": ("file_name,y, y\n1.png,a,b\n", "line 1: the columns y are there twice"),
    "nothing": ("\n\n", "has no header"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_names_the_line_and_the_remedy(tmp_path, case):
    text, match = REFUSED[case]
    path = save(tmp_path / "t.csv", text, "utf-8")
    with pytest.raises(TableError, match=match) as caught:
        read_table(path)
    assert str(path) in str(caught.value)


def test_what_spreadsheets_add_is_no_fault(tmp_path):
    text = '\ufeffsep=;\r\n file_name ; finding ;;\r\n1.png; yes ;;\r\n;;;\r\n\r\n2.png;"two\r\nlines";;\r\n'
    table, lines = read_table(save(tmp_path / "t.csv", text, "utf-8"))
    assert table.to_pydict() == {"file_name": ["1.png", "2.png"], "finding": ["yes", "two\r\nlines"]}
    assert lines == [3, 7]


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=20), st.sampled_from([",", ";"]))
@settings(max_examples=60, deadline=None)
def test_the_faster_parser_gives_the_same_cells_or_leaves_them_to_the_other(tmp_path_factory, rows, delimiter):
    text = written([["k", "a", "b"], *([f"x{n}", *row] for n, row in enumerate(rows))], delimiter, "\n")
    path = save(tmp_path_factory.mktemp("t") / "t.csv", text, "utf-8")
    slow = read_text_columns(path, ["k", "a"], ["b"])
    before, table_file._PLAIN_FROM = table_file._PLAIN_FROM, 0
    try:
        assert read_text_columns(path, ["k", "a"], ["b"]).to_pydict() == slow.to_pydict()
    finally:
        table_file._PLAIN_FROM = before


@pytest.mark.parametrize("line", ['{"file_name": "1.png", "y": }', "[1]", "file_name,y", '{"y": 1, "y ": 2}'])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    path = save(tmp_path / "t.jsonl", '{"file_name": "0.png", "y": 1}\n' + line + "\n", "utf-8")
    with pytest.raises(TableError, match=r"t.jsonl, line 2: .*write one object a line"):
        read_table(path)


def test_lines_of_json_end_with_a_line_feed_alone_and_too_large_numbers_are_refused(tmp_path):
    text = "a\u2028b\x85c"
    path = save(tmp_path / "t.jsonl", f'{{"y": "{text}"}}\r\n{{"y": "d"}}\n', "utf-8")
    table, lines = read_table(path)
    assert table["y"].to_pylist() == [text, "d"] and lines == [1, 2]
    with pytest.raises(TableError, match=r"column y: .*too large .*; write one kind, ids as text"):
        read_table(save(tmp_path / "t.jsonl", f'{{"y": {10**30}}}\n', "utf-8"))
