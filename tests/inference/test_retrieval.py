"""Search: the neighbours of a plain computation, for files and ids, with pictures of folders and of shards."""

import csv
import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damaged import encode
from exported import PATCH, SIDE, limb, small_mae
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rows import make_rows
from tiny_dicom import write_dicom

from hf_radmae.batching.binning import fit_bins
from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.cli import embed, search
from hf_radmae.images.image import read_image
from hf_radmae.inference.embeddings import Embedder, folder_parts, shard_parts
from hf_radmae.inference.search import CAPTION, TILE, EmbeddingIndex, contact_sheet, embed_query, pictures
from hf_radmae.models.starts import load_encoder
from hf_radmae.shards.prepare import prepare
from hf_radmae.shards.shrink import PrepareOptions

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    small_mae().save_pretrained(folder)
    bins = fit_bins(np.array([(SIDE, SIDE)]), num_bins=1, patch_size=PATCH, max_tokens=64, min_images=1)
    RadiographImageProcessor(bins=bins.to_dict()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """Twelve images, the last a copy of the first with other bytes."""
    folder = tmp_path_factory.mktemp("archive") / "images"
    folder.mkdir()
    for number in range(11):
        (folder / f"{number:02}.png").write_bytes(encode(limb(seed=number), "PNG"))
    (folder / "copy.tif").write_bytes(encode(limb(seed=0), "TIFF"))
    return folder


def run(command, monkeypatch, **options) -> None:
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", [command.__name__, *words])
    command.main()


def table(folder: Path) -> list[dict]:
    with (folder / "neighbours.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("named", [True, False])
def test_a_copy_is_found_first_by_file_and_by_id_and_shown(archive, model, tmp_path, monkeypatch, named):
    key = {} if named else {"key_file": tmp_path / "keys" / "key"}
    names = {"keep_names": True} if named else key
    run(embed, monkeypatch, model=model, data_dir=archive, output_dir=tmp_path / "out" / "e", **names)
    index = EmbeddingIndex.load(tmp_path / "out" / "e")
    shared = {"embeddings": tmp_path / "out" / "e", "data_dir": archive, "neighbours": 3, **key}
    by_file = tmp_path / "file"
    run(search, monkeypatch, query=archive / "00.png", model=model, output_dir=by_file, **shared)
    first, second, third = table(by_file)
    assert float(first["similarity"]) == float(second["similarity"]) == 1 > float(third["similarity"])
    run(search, monkeypatch, query=first["image_id"], output_dir=tmp_path / "id", **shared)
    (again, *others) = table(tmp_path / "id")
    assert again["image_id"] == second["image_id"] and first["image_id"] not in {row["image_id"] for row in others}
    if named:
        assert {first["image_id"], second["image_id"]} == {"00.png", "copy.tif"}
    sheet = Image.open(by_file / "neighbours.png")
    assert sheet.size == (4 * TILE, TILE + CAPTION)
    tiles = [np.asarray(sheet)[:TILE, place * TILE : (place + 1) * TILE] for place in range(4)]
    assert np.array_equal(tiles[0], tiles[1]) and np.array_equal(tiles[0], tiles[2])
    assert tiles[3].any() and not np.array_equal(tiles[0], tiles[3])
    assert len(index.ids) == 12


def test_another_model_or_an_unknown_id_is_refused(archive, model, tmp_path, monkeypatch):
    run(embed, monkeypatch, model=model, data_dir=archive, output_dir=tmp_path / "e", keep_names=True, pooling="cls")
    other = small_mae()
    other.vit.layernorm.bias.data += 1
    other.save_pretrained(tmp_path / "other")
    RadiographImageProcessor.from_pretrained(model).save_pretrained(tmp_path / "other")
    query = {"embeddings": tmp_path / "e", "query": archive / "00.png"}
    for options, match in (
        ({**query, "model": tmp_path / "other"}, "another model"),
        (query, "with --model"),
        ({**query, "query": "nobody"}, "no file and no image_id"),
        ({**query, "embeddings": archive}, "no embeddings"),
        ({**query, "column": "other"}, "choose from embedding"),
        ({**query, "query": "00.png", "data_dir": tmp_path / "other", "output_dir": tmp_path / "s"}, "no picture"),
    ):
        with pytest.raises(SystemExit, match=match):
            run(search, monkeypatch, **options)


def test_pictures_of_prepared_shards(tmp_path):
    rows = make_rows(images=12, columns={"image_id": [str(number) for number in range(12)]})
    prepare({"train": rows}, tmp_path, PrepareOptions(images_per_shard=5), key=KEY)
    all_rows = [row for part in shard_parts(tmp_path) for row in part.rows()]
    wanted = [all_rows[place][0]["image_id"] for place in (0, 7)]
    assert pictures([*wanted, "none"], tmp_path) == {wanted[0]: all_rows[0][1], wanted[1]: all_rows[7][1]}


@pytest.mark.parametrize("key", [None, KEY])
def test_pictures_of_a_folder_with_a_table_of_metadata(archive, key, tmp_path):
    shutil.copy(archive / "00.png", tmp_path)
    pq.write_table(pa.table({"file_name": ["00.png"]}), tmp_path / "metadata.parquet")
    ((row, path),) = (row for part in folder_parts(tmp_path, key) for row in part.rows())
    assert pictures([row["image_id"]], tmp_path, key) == {row["image_id"]: path}


@pytest.mark.parametrize("key", [None, KEY])
def test_pictures_of_a_zip_of_a_linked_folder_and_of_a_name_that_is_not_utf_8(archive, key, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "linked").symlink_to(archive)
    with zipfile.ZipFile(folder / "more.zip", "w") as packed:
        packed.write(archive / "00.png", "packed.png")
    shutil.copy(archive / "01.png", os.fsencode(folder) + b"/Sch\xe4del.png")
    expected = {row["image_id"]: path for part in folder_parts(folder, key) for row, path in part.rows()}
    assert len(expected) == 14
    found = pictures([*expected, "none"], folder, key)
    assert found.keys() == expected.keys()
    for name in expected:
        assert np.array_equal(read_image(found[name]), read_image(expected[name]))


def test_a_query_file_has_the_vector_that_embed_writes_for_it(archive, model, tmp_path):
    """DICOM and PNG, by path and by content, with names of any kind."""
    folder = tmp_path / "folder"
    folder.mkdir()
    write_dicom(folder / "1.2.3 knee", limb(seed=3).astype(np.uint16) * 100)
    shutil.copy(archive / "01.png", folder)
    processor = RadiographImageProcessor.from_pretrained(model)
    embedder = Embedder(load_encoder(model), processor, "mean+max")
    assert embedder.write(folder_parts(folder, None), tmp_path / "e", lambda _: None) == []
    index = EmbeddingIndex.load(tmp_path / "e")
    for path in folder.iterdir():
        for query in (path, str(path), path.read_bytes()):
            rows, similarities = index.search(embed_query(index, embedder, query), 1)
            assert index.ids[int(rows[0])].as_py() == path.name
            assert similarities[0] == pytest.approx(1, abs=1e-5)


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 100))
def test_neighbours_are_those_of_a_full_sort(rows, neighbours, seed):
    rng = np.random.default_rng(seed)
    found = rng.integers(-3, 4, (rows, 3)).astype(np.float32)
    mean = found.mean(0)
    unit = (found - mean) / np.maximum(np.linalg.norm(found - mean, axis=1, keepdims=True), 1e-30)
    index = EmbeddingIndex(None, unit, mean, "embedding", {})
    query = rng.normal(size=3)
    expected = unit @ ((query - mean) / np.linalg.norm(query - mean))
    closest, similarities = index.search(query, neighbours)
    assert len(closest) == len({*closest.tolist()}) == min(rows, neighbours)
    np.testing.assert_allclose(similarities, np.sort(expected)[::-1][:neighbours], atol=1e-5)
    closest, _ = index.search_row(0, neighbours)
    assert 0 not in closest and len(closest) == min(rows - 1, neighbours)
    with pytest.raises(ValueError, match="expected"):
        index.search(query[:2])


def test_a_sheet_has_a_tile_for_each_image_of_any_shape():
    pictures = [("wide", np.eye(20, 150, dtype=np.uint16)), ("tall", limb(200, 50)), ("none", None)]
    sheet = contact_sheet(pictures, columns=2)
    assert sheet.size == (2 * TILE, 2 * (TILE + CAPTION))
