"""The second look finds what is burnt into pixels and what stands in texts, and says what is missing to look."""

import io
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damaged import radiograph
from PIL import Image, ImageDraw
from rows import make_rows

from hf_radmae.publishing import deid
from hf_radmae.publishing.gate import Finders, Statement, refusals, review
from hf_radmae.publishing.private import Private
from hf_radmae.shards.prepare import prepare
from hf_radmae.shards.shrink import PrepareOptions

STATEMENT = Statement("cc-by-4.0", "Ids are hashed and nobody looked at the images.")
PRIVATE = Private(frozenset())


def encoded(text: str = "", side: int = 384) -> bytes:
    image = Image.fromarray(radiograph(side, side)).convert("L")
    ImageDraw.Draw(image).text((20, 20), text, fill=255, font_size=28)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def data_set(folder, images: list[bytes]):
    prepare({"train": make_rows(images)}, folder, PrepareOptions(), key=b"k")
    return folder


def test_shards_whose_source_says_nothing_of_burnt_in_names_go_only_with_a_statement_or_after_a_look(tmp_path):
    folder = data_set(tmp_path / "shards", [encoded() for _ in range(2)])
    entries = review(folder, "dataset", PRIVATE, STATEMENT)
    assert "--burned_in_checked" in refusals(entries, "dataset", STATEMENT)[0]
    stated = Statement(STATEMENT.license, STATEMENT.deidentification, burned_in_checked=True)
    assert refusals(entries, "dataset", stated) == []
    assert refusals(entries, "dataset", STATEMENT, is_seen=True) == []


def test_what_looks_further_is_asked_for_every_image_and_every_text(tmp_path):
    folder = data_set(tmp_path / "shards", [encoded() for _ in range(3)])
    seen: list[bytes] = []

    def look(content: bytes) -> list[tuple[str, str]]:
        seen.append(content)
        return [("a text burnt into the pixels", "MUELLER")] if len(seen) == 3 else []

    entries = review(folder, "dataset", PRIVATE, STATEMENT, finders=Finders(pixels=look))
    assert "MUELLER" in refusals(entries, "dataset", STATEMENT, is_seen=True)[0]
    assert len(seen) == 3
    finders = Finders(texts=(lambda text: [("person by presidio", "Ignatius")] if "looked" in text else [],))
    entries = review(folder, "dataset", PRIVATE, STATEMENT, finders=finders)
    assert "Ignatius" in refusals(entries, "dataset", STATEMENT, is_seen=True)[0]


def test_the_pixels_are_read():
    pytest.importorskip("rapidocr_onnxruntime")
    look = deid.pixel_finder()
    assert any("MUELLER" in words.upper() for _, words in look(encoded("MUELLER HANS")))
    assert look(encoded()) == []
    assert look(encoded("L")) == []  # a marker of the side


def test_texts_are_read(tmp_path):
    pytest.importorskip("presidio_analyzer")
    import spacy

    spacy.blank("en").to_disk(tmp_path / "blank")  # knows no names; addresses and numbers are patterns of presidio
    look = deid.text_finder(str(tmp_path / "blank"))
    assert look("write to ignatius@klinik.de") and not look("a masked autoencoder")


def test_a_word_of_the_cards_is_no_name():
    assert deid.is_of_the_field("Radiographs") and deid.is_of_the_field("grey\n```") and deid.is_of_the_field("Ids")
    assert not deid.is_of_the_field("Ignatius Kowalczyk") and not deid.is_of_the_field("Licence Kowalczyk")


def test_the_extra_lets_a_clean_data_set_go_and_finds_a_name_in_its_pixels_and_its_statement(tmp_path):
    """With spaCy's own models where one is installed; the folder of another may stand in HF_RADMAE_SPACY."""
    pytest.importorskip("presidio_analyzer")
    pytest.importorskip("rapidocr_onnxruntime")
    import spacy

    names = [os.environ.get("HF_RADMAE_SPACY", ""), *spacy.util.get_installed_models()]
    model = next((name for name in names if name.startswith("en_") or os.path.isdir(name)), None)
    if model is None:
        pytest.skip("spaCy has no pipeline that finds names here")
    look = deid.finders(model)

    def said(images: list[bytes], sentence: str) -> str:
        statement = Statement("cc-by-4.0", sentence)
        folder = data_set(tmp_path / f"shards-{len(images)}", images)
        entries = review(folder, "dataset", PRIVATE, statement, finders=look)
        return "\n".join(refusals(entries, "dataset", statement, is_seen=True))

    assert said([encoded(), encoded("R")], STATEMENT.deidentification) == ""
    assert "MUELLER" in said([encoded(), encoded(), encoded("MUELLER HANS")], STATEMENT.deidentification).upper()
    assert "Ignatius" in said([encoded()], "Ids are hashed, and Ignatius Kowalczyk looked at the images.")


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rapidocr_onnxruntime", None)
    monkeypatch.setitem(__import__("sys").modules, "presidio_analyzer", None)
    for look in (deid.pixel_finder, deid.text_finder):
        with pytest.raises(ModuleNotFoundError, match=r"hf_radmae\[deid\]"):
            look()


@pytest.mark.parametrize("answers, goes", [(["NO", "NO"], True), (["NO", None], False), (["NO", "YES"], False)])
def test_what_the_headers_said_of_burnt_in_texts_stands_for_a_statement(answers, goes, tmp_path):
    folder = data_set(tmp_path / "shards", [encoded() for _ in range(2)])
    path = next(folder.glob("data/*.parquet"))
    table = pq.read_table(path)
    column = table.column_names.index("burned_in_annotation")
    pq.write_table(table.set_column(column, table.schema.field(column), pa.array(answers, pa.string())), path)
    entries = review(folder, "dataset", PRIVATE, STATEMENT)
    assert (refusals(entries, "dataset", STATEMENT) == []) is goes
    pq.write_table(table.set_column(column, table.schema.field(column), pa.array(["Mueller", None], pa.string())), path)
    assert "neither YES nor NO" in refusals(review(folder, "dataset", PRIVATE, STATEMENT), "dataset", STATEMENT)[0]
