"""Embeddings on disk: the vectors of the encoder, nothing that identifies anyone, and a killed run resumes."""

import csv
import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from damaged import encode, write_damaged
from datasets import DatasetDict, load_dataset
from exported import LABELS, PATCH, head, limb, small_mae
from rows import make_rows
from tiny_dicom import IDENTIFIERS, write_dicom

from hf_radmae.batching.binning import fit_bins
from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.inference.embeddings import Embedder, folder_parts, shard_parts
from hf_radmae.publishing.export import export_classifier, export_encoder
from hf_radmae.shards.prepare import prepare
from hf_radmae.shards.shrink import PrepareOptions

SIZES = [(64, 64), (96, 40), (40, 96)]
KEY = bytes(range(32))
SCRIPT = Path(__file__).parents[2] / "scripts" / "embed.py"


@pytest.fixture
def archive(tmp_path):
    """Seven images of three shapes below folders with a patient's name, one of them a DICOM file."""
    folder = tmp_path / "archive"
    for number in range(6):
        path = folder / f"Mustermann_{number % 2}" / f"scan {number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(limb(*SIZES[number % 3], seed=number), "PNG"))
    write_dicom(folder / "Mustermann_2" / "1.2.3", limb(seed=9).astype(np.uint16) * 100)
    return folder


@pytest.fixture
def embedder() -> Embedder:
    bins = fit_bins(np.array(SIZES), num_bins=3, patch_size=PATCH, max_tokens=64, min_images=1)
    encoder = export_encoder(small_mae(), num_channels=None)
    return Embedder(encoder, RadiographImageProcessor(bins=bins.to_dict()), batch_size=2)


def read(folder: Path) -> list[dict]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_the_vectors_are_the_encoders_means_over_all_patches_in_the_order_of_the_files(embedder, archive, tmp_path):
    ticks: list[int] = []
    parts = folder_parts(archive, None, images_per_part=3)
    assert embedder.write(parts, tmp_path / "out", ticks.append) == []
    assert sum(ticks) == sum(part.images for part in parts) == 7
    found = read(tmp_path / "out")
    files = sorted(path for path in archive.rglob("*") if path.is_file())
    assert [row["image_id"] for row in found] == [path.relative_to(archive).as_posix() for path in files]
    for row, path in zip(found, files, strict=True):
        pixels = embedder.processor(path, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            tokens = embedder.encoder(pixels, interpolate_pos_encoding=True).last_hidden_state[0, 1:]
        np.testing.assert_allclose(row["embedding"], tokens.mean(0), rtol=0, atol=1e-5)


def test_nothing_that_is_written_names_a_patient_a_file_or_a_folder(embedder, archive, tmp_path):
    (archive / "Mustermann_2" / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"PatientName Mustermann")
    embedder.write(folder_parts(archive, KEY), tmp_path / "out", lambda _: None)
    content = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert b"image_id" in content
    for secret in (*IDENTIFIERS.values(), "Mustermann", "scan", "archive", str(tmp_path), "1.2.3"):
        assert secret.encode() not in content
    ids = {row["image_id"] for row in read(tmp_path / "out")}
    assert len(ids) == 7
    assert all(len(name) == 32 for name in ids)


def test_bad_images_are_skipped_with_their_reasons_and_the_others_are_there(embedder, archive, tmp_path):
    bad = {path.relative_to(archive).as_posix() for path in write_damaged(archive / "bad")}
    skipped = embedder.write(folder_parts(archive, None), tmp_path / "out", lambda _: None)
    assert {entry["image_id"] for entry in skipped} == bad
    assert len(read(tmp_path / "out")) == 7
    assert all(entry["reason"] and str(tmp_path) not in entry["reason"] for entry in skipped)
    assert embedder.write(folder_parts(archive, None), tmp_path / "out", lambda _: None) == skipped


def test_every_file_that_a_folder_leads_to_has_a_vector_or_a_reason(embedder, archive, tmp_path):
    """Linked folders, with a link back; a zip; a link to nothing; a name in Latin-1."""
    other = tmp_path / "other"
    (other / "deep").mkdir(parents=True)
    (other / "deep" / "linked.png").write_bytes(encode(limb(seed=20), "PNG"))
    (other / "back").symlink_to(archive)
    (archive / "link").symlink_to(other)
    (archive / "gone.png").symlink_to(tmp_path / "nothing.png")
    with zipfile.ZipFile(archive / "more.zip", "w") as packed:
        packed.writestr("packed.png", encode(limb(seed=21), "PNG"))
    with open(os.path.join(os.fsencode(archive), b"Sch\xe4del.png"), "wb") as file:
        file.write(encode(limb(seed=22), "PNG"))
    skipped = embedder.write(folder_parts(archive, None), tmp_path / "out", lambda _: None)
    assert skipped == [{"image_id": "gone.png", "reason": "is missing: no such file"}]
    added = {"link/deep/linked.png", "more.zip/packed.png", "Sch\\xe4del.png"}
    ids = [row["image_id"] for row in read(tmp_path / "out")]
    assert len(ids) == 10 and added < set(ids)
    assert len({row["image_id"] for part in folder_parts(archive, KEY) for row, _ in part.rows()}) == 11
    (part,) = folder_parts(archive, None, pattern="*/deep/*.png")
    assert [row["image_id"] for row, _ in part.rows()] == ["link/deep/linked.png"]


@pytest.mark.parametrize("after", [1, 4, 6])
def test_an_ended_run_goes_on_and_repeats_no_part(embedder, archive, tmp_path, after):
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    embedder.write(folder_parts(archive, KEY, images_per_part=2), straight, lambda _: None)
    count = 0

    def end(images: int) -> None:
        nonlocal count
        count += images
        if count == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embedder.write(folder_parts(archive, KEY, images_per_part=2), resumed, end)
    done = {path: path.stat().st_mtime_ns for path in resumed.glob("train-*")}
    assert len(done) == (after - 1) // 2
    (resumed / ".train-00000-of-00004.parquet.77").write_bytes(b"what a killed process leaves")
    embedder.write(folder_parts(archive, KEY, images_per_part=2), resumed, lambda _: None)
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())
    names = sorted(path.name for path in straight.iterdir())
    assert names == sorted(path.name for path in resumed.glob("train-*"))
    assert all((straight / name).read_bytes() == (resumed / name).read_bytes() for name in names)


def test_parts_of_another_model_or_of_other_images_are_not_mixed(embedder, archive, tmp_path):
    embedder.write(folder_parts(archive, KEY), tmp_path / "out", lambda _: None)
    other = Embedder(embedder.encoder, embedder.processor, pooling="cls")
    with pytest.raises(ValueError, match="made of other images or by another model: choose another folder"):
        other.write(folder_parts(archive, KEY), tmp_path / "out", lambda _: None)
    next(archive.rglob("*.png")).write_bytes(encode(limb(80, 64), "PNG"))
    with pytest.raises(ValueError, match="made of other images"):
        embedder.write(folder_parts(archive, KEY), tmp_path / "out", lambda _: None)


def test_parts_of_another_size_are_not_added_to_those_that_are_there(embedder, archive, tmp_path):
    embedder.write(folder_parts(archive, KEY, images_per_part=3), tmp_path / "out", lambda _: None)
    with pytest.raises(ValueError, match="which is no part of this run"):
        embedder.write(folder_parts(archive, KEY, images_per_part=2), tmp_path / "out", lambda _: None)


def test_each_layer_and_pooling_has_its_column_and_the_last_layer_is_the_encoders_output(embedder, archive, tmp_path):
    several = Embedder(embedder.encoder, embedder.processor, ("mean", "cls+max"), (1, -1), batch_size=2)
    several.write(folder_parts(archive, None), tmp_path / "several", lambda _: None)
    embedder.write(folder_parts(archive, None), tmp_path / "one", lambda _: None)
    found, one = read(tmp_path / "several"), read(tmp_path / "one")
    names = [f"embedding_layer{layer}_{pooling}" for layer in (1, 2) for pooling in ("mean", "cls+max")]
    assert list(found[0]) == ["image_id", *names]
    assert [row["embedding_layer2_mean"] for row in found] == [row["embedding"] for row in one]
    pixels = embedder.processor(archive / found[0]["image_id"], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        states = embedder.encoder(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
        first = embedder.encoder.layernorm(states[1])[0]
    np.testing.assert_allclose(found[0]["embedding_layer1_cls+max"][:32], first[0], atol=1e-5)
    np.testing.assert_allclose(found[0]["embedding_layer1_cls+max"][32:], first[1:].amax(0), atol=1e-5)
    for layers, pooling in (((3,), "mean"), ((0,), "mean"), ((-1, 2), "mean"), ((), "mean"), ((1,), ["cls", "cls"])):
        with pytest.raises(ValueError, match=r"expected 1 to 2|each once"):
            Embedder(embedder.encoder, embedder.processor, pooling, layers)


def test_bfloat16_vectors_are_close_and_are_not_mixed_with_float32(embedder, archive, tmp_path):
    short = Embedder(embedder.encoder, embedder.processor, batch_size=2, autocast=torch.bfloat16)
    short.write(folder_parts(archive, None), tmp_path / "short", lambda _: None)
    embedder.write(folder_parts(archive, None), tmp_path / "exact", lambda _: None)
    pairs = zip(read(tmp_path / "short"), read(tmp_path / "exact"), strict=True)
    distances = [np.abs(np.subtract(a["embedding"], b["embedding"])).max() for a, b in pairs]
    assert 0 < max(distances) < 0.1
    with pytest.raises(ValueError, match="choose another folder"):
        short.write(folder_parts(archive, None), tmp_path / "exact", lambda _: None)


def test_prepared_shards_keep_their_columns_and_other_parquet_is_refused(embedder, tmp_path):
    rows = make_rows(images=12, columns={"image_id": [f"Mustermann {i}" for i in range(12)], "fracture": [True] * 12})
    splits = DatasetDict(train=rows, validation=rows.select(range(2)), test=rows.select(range(2)))
    prepare(splits, tmp_path / "shards", PrepareOptions(images_per_shard=5), key=KEY)
    embedder.write(shard_parts(tmp_path / "shards"), tmp_path / "out", lambda _: None)
    shards = load_dataset(
        "parquet", data_files=str(tmp_path / "shards/data/*.parquet"), cache_dir=str(tmp_path / "cache")
    )
    found = {row["image_id"]: row for row in read(tmp_path / "out")}
    assert set(found) == set(shards["train"]["image_id"])
    assert {"height", "width", "fracture", "embedding"} <= set(next(iter(found.values())))
    assert "image" not in next(iter(found.values()))
    rows.to_parquet(tmp_path / "other" / "rows.parquet")
    with pytest.raises(ValueError, match=r"rows\.parquet is no shard of scripts/prepare\.py"):
        shard_parts(tmp_path / "other")


def test_the_script_writes_what_datasets_reads(embedder, archive, tmp_path, monkeypatch, capsys):
    (archive / "note.txt").write_text("no image")
    (archive / ".hidden").write_text("left out")
    (archive / "metadata.csv").write_text("file_name,fracture\n")
    pq.write_table(pa.table({"file_name": ["a.png"]}), archive / "Mustermann_0" / "Metadata.parquet")
    small_mae().save_pretrained(tmp_path / "mae")
    embedder.processor.save_pretrained(tmp_path / "mae")
    words = ["--model", tmp_path / "mae", "--data_dir", archive, "--output_dir", tmp_path / "out"]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["embed.py", *map(str, words)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        assert "7 embeddings of width 32 in 1 files.\n1 of 8 images were skipped" in capsys.readouterr().out
    loaded = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert np.array(loaded["embedding"]).shape == (7, 32)
    with (tmp_path / "out" / "skipped.csv").open(newline="") as file:
        (skipped,) = csv.DictReader(file)
    assert "no image of a known format" in skipped["reason"]


def test_the_encoder_of_a_pooled_classifier_is_read_without_a_question(tmp_path):
    """In a fresh process, where nothing else has made the classifier's type known, and no one answers."""
    export_classifier(small_mae(), *head(32), LABELS, pooling="mean").save_pretrained(tmp_path)
    code = "import sys, hf_radmae.models.starts as e; print(e.load_encoder(sys.argv[1]).config.hidden_size)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    found = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    assert found.stdout == "32\n", found.stderr


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder with files that fit"):
        folder_parts(tmp_path, None)
    with pytest.raises(FileNotFoundError, match="has no Parquet files"):
        shard_parts(tmp_path)
