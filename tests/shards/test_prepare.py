"""Preparing an archive: every image once, in the same bytes however the work is split and whenever it is killed."""

import csv
import io
import json
import multiprocessing as mp
import os
import pickle
import signal
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from damaged import encode as encode_image
from damaged import radiograph
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rows import make_rows

from hf_radmae.batching.binning import Bins, fit_bins
from hf_radmae.batching.collator import BucketCollator
from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.batching.loader import bucket_loader
from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.images.fitting import as_tensor, fit_image
from hf_radmae.images.image import ImageError, read_image
from hf_radmae.shards.prepare import OtherOptionsError, plan, prepare
from hf_radmae.shards.shrink import ENCODINGS, PrepareOptions, encode, field_box, shrink, target_size
from hf_radmae.shards.writer import read_bytes, read_report, shard_rows
from hf_radmae.sources.load import load_radiographs
from hf_radmae.sources.phantom import write_archive
from hf_radmae.sources.pseudonyms import key_path, load_key

KEY = bytes(range(32))
OPTIONS = PrepareOptions(longest_side=48, images_per_shard=5, maximum=1000, mean=100, drawing=True)
IMAGES = 70


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """A clinical archive with every kind of dirt, and two files damaged beyond the header."""
    folder = tmp_path_factory.mktemp("archive")
    files = [file for file in write_archive(folder, IMAGES, seed=5, scale=0.05, dirt=0.2).files if not file.dirt]
    for file in files[:2]:
        path = folder / file.path
        path.write_bytes(path.read_bytes()[:-500])
    return folder


@pytest.fixture(scope="module")
def splits(archive, tmp_path_factory) -> datasets.DatasetDict:
    options = {"cache_dir": str(tmp_path_factory.mktemp("cache")), "hash_key": "any"}
    return load_radiographs("mri", str(archive), **options)[0]


@pytest.fixture(scope="module")
def whole(archive, splits, tmp_path_factory) -> Path:
    """What one process makes without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    prepare(splits, folder, OPTIONS, key=KEY, root=archive)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shards(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in (folder / "data").glob("*.parquet")}


def loaded(folder: Path, tmp_path: Path) -> datasets.DatasetDict:
    return datasets.load_dataset("parquet", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))


class SlowRead:
    """Reads files as network storage does, after a wait."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __call__(self, path: str) -> bytes:
        time.sleep(self.seconds)
        return read_bytes(path)


def run_slowly(splits: datasets.DatasetDict, archive: Path, folder: Path) -> None:
    os.setpgrp()
    prepare(splits, folder, OPTIONS, key=KEY, root=archive, num_proc=2, threads=1, read=SlowRead(0.05))


def start_slowly(splits: datasets.DatasetDict, archive: Path, folder: Path, new_shards: int) -> mp.Process:
    """A process group that prepares, in the midst of its work."""
    before = len(shards(folder))
    process = mp.get_context("fork").Process(target=run_slowly, args=(splits, archive, folder))
    process.start()
    deadline = time.monotonic() + 60
    while len(shards(folder)) < before + new_shards:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.slow
def test_killed_twice_it_ends_with_the_same_bytes_and_makes_no_finished_shard_anew(archive, splits, whole, tmp_path):
    finished: dict[str, int] = {}
    for _ in range(2):
        process = start_slowly(splits, archive, tmp_path, new_shards=2)
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        assert shards(tmp_path).items() >= finished.items()
        finished = shards(tmp_path)
        assert 2 <= len(finished) < len(shards(whole))
        assert not json.loads((tmp_path / "manifest.json").read_text())["complete"]
    prepare(splits, tmp_path, OPTIONS, key=KEY, root=archive, num_proc=2)
    assert shards(tmp_path).items() >= finished.items()
    assert contents(tmp_path) == contents(whole)


def test_workers_end_with_a_parent_that_is_killed(archive, splits, tmp_path):
    process = start_slowly(splits, archive, tmp_path, new_shards=1)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("workers outlive the process that started them")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"options": PrepareOptions(longest_side=32, images_per_shard=5)}, "longest_side was 48, now 32"),
        ({"key": bytes(32)}, "key is another"),
        ({"splits": "fewer"}, "input is another"),
    ],
)
def test_a_restart_that_would_mix_two_kinds_of_shards_is_refused(archive, splits, whole, change, match):
    if "splits" in change:
        change = {"splits": {**splits, "train": splits["train"].select(range(20))}}
    arguments = {"splits": splits, "folder": whole, "options": OPTIONS, "key": KEY, "root": archive, **change}
    before = contents(whole)
    with pytest.raises(OtherOptionsError, match=match):
        prepare(**arguments)
    assert contents(whole) == before


def test_shards_and_splits_of_which_no_image_is_left_do_not_keep_the_others_from_being_read(tmp_path):
    rows = make_rows([b"" if seed in (1, 3) else encode_image(radiograph(40, 48, seed), "PNG") for seed in range(6)])
    splits = {"train": rows, "validation": rows.select([1, 3]), "test": rows.select([0, 2])}
    folder, options = tmp_path / "shards", PrepareOptions(longest_side=32, images_per_shard=1)
    for _ in range(2):
        manifest = prepare(splits, folder, options, key=b"key")
        assert {split: count["images"] for split, count in manifest["counts"].items()} == {
            "train": 4,
            "validation": 0,
            "test": 2,
        }
        assert manifest["shards"] == {"train": 6, "validation": 0, "test": 2}
    for streaming in (False, True):
        loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"), streaming=streaming)
        assert {split: len(list(part)) for split, part in loaded.items()} == {"train": 4, "test": 2}
    read, _ = load_radiographs("parquet", str(folder), cache_dir=str(tmp_path / "cache"))
    assert sum(map(len, read.values())) == 6


def test_every_row_is_in_one_shard_or_counted_as_dropped_or_quarantined(splits, whole, tmp_path):
    manifest = json.loads((whole / "manifest.json").read_text())
    dropped = {rule for count in manifest["counts"].values() for rule in count["dropped"]}
    assert dropped == {"maximum", "mean", "drawing"}
    assert sum(count["quarantined"] for count in manifest["counts"].values()) == 2
    data = loaded(whole, tmp_path)
    ids = [image_id for part in data.values() for image_id in part["image_id"]]
    assert len(ids) == len(set(ids))
    for split, count in manifest["counts"].items():
        assert len(data[split]) == count["images"]
        assert count["images"] + sum(count["dropped"].values()) + count["quarantined"] == len(splits[split])


@given(st.lists(st.integers(0, 60), min_size=1, max_size=3), st.integers(1, 20))
def test_the_plan_deals_each_row_to_one_shard_of_limited_size(lengths, images_per_shard):
    parts = {f"part{n}": datasets.Dataset.from_dict({"x": list(range(length))}) for n, length in enumerate(lengths)}
    planned = plan(parts, PrepareOptions(images_per_shard=images_per_shard))
    for split, rows in parts.items():
        dealt = [shard.rows for shard in planned if shard.split == split]
        assert sorted(np.concatenate([*dealt, []]).tolist()) == list(range(len(rows)))
        assert all(1 <= len(rows) <= images_per_shard for rows in dealt)


def test_what_is_sent_to_a_worker_grows_with_the_shard_and_not_with_the_archive():
    features = datasets.Features(image=datasets.Image(decode=False))
    paths = [{"bytes": None, "path": f"/archive/{number:08}"} for number in range(20_000)]
    rows = datasets.Dataset.from_dict({"image": paths}, features=features)
    chosen = np.random.default_rng(0).permutation(len(rows))[:50]
    assert len(pickle.dumps(shard_rows(rows, [], chosen))) < 10_000


def test_what_cannot_be_read_is_listed_by_hash_with_a_reason_and_no_path(archive, whole):
    with (whole / "quarantine.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        assert len(row["image"]) == 32 and "pixels do not decode" in row["reason"]
        assert str(archive) not in row["reason"] and "/" not in row["reason"]


def test_map_style_and_streaming_give_the_same_rows_without_this_package(whole, tmp_path):
    for source in ({"path": "parquet", "data_dir": str(whole)}, {"path": str(whole)}):
        data = datasets.load_dataset(**source, cache_dir=str(tmp_path / "cache"))
        stream = datasets.load_dataset(**source, streaming=True)
        assert set(data) == set(stream) == {"train", "validation", "test"}
        for split in data:
            for row, streamed in zip(data[split], stream[split], strict=True):
                image = np.asarray(row.pop("image"))
                assert np.array_equal(image, np.asarray(streamed.pop("image"))) and row == streamed
                assert image.shape == (row["height"], row["width"]) and max(image.shape) <= 48
        assert data["train"].features["fracture"].names == ["no", "yes", "unsure"]


def test_labels_sizes_and_spacing_are_those_of_the_source(archive, splits, whole, tmp_path):
    """The extent in millimetres stays, and joined over the order of the plan so do the labels."""
    planned = [shard for shard in plan(splits, OPTIONS) if shard.split == "train"]
    gone = {row for shard in planned for row, _, _ in read_report(whole / "data" / shard.name).quarantine}
    rows = loaded(whole, tmp_path)["train"].remove_columns("image")
    sizes = {}
    for index in range(len(splits["train"])):
        row = splits["train"][index]
        sizes.setdefault((row["height"], row["width"]), []).append((row["body_part"], row["fracture"], index))
    for row in rows:
        candidates = sizes[row["original_height"], row["original_width"]]
        assert any(found[:2] == (row["body_part"], row["fracture"]) and found[2] not in gone for found in candidates)
        extents = [row["spacing"][0] * row["height"], row["spacing"][1] * row["width"]]
        ratio = row["original_height"] / row["original_width"]
        assert extents[0] / extents[1] == pytest.approx(ratio, rel=1e-4)


@settings(deadline=None)
@given(st.integers(8, 4000), st.integers(8, 4000), st.integers(8, 1000), st.integers(1, 500))
def test_targets_keep_the_budget_and_the_aspect_and_never_enlarge(height, width, side, tokens):
    by_side = target_size(height, width, PrepareOptions(longest_side=side))
    by_tokens = target_size(height, width, PrepareOptions(max_tokens=tokens, patch_size=16))
    scales = (side / max(height, width), 16 * (tokens / (height * width)) ** 0.5)
    for target, scale in zip((by_side, by_tokens), scales, strict=True):
        for length, original in zip(target, (height, width), strict=True):
            assert abs(length - max(1, min(1, scale) * original)) <= 0.5


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_training_sees_what_it_would_see_from_the_original(dtype):
    """Resized by either path and scaled to 0..1, pictures differ by the rounding to 8 bit."""
    y, x = np.mgrid[0:190, 0:130] / 40
    pixels = ((np.sin(x * 3) * np.cos(y * 2) + 1) * 0.5 * (np.iinfo(dtype).max - 1)).astype(dtype)
    small = shrink(pixels, (95, 65), 8, "x")
    direct = fit_image(as_tensor(pixels), (95, 65))
    prepared = fit_image(as_tensor(small), (95, 65))
    assert small.dtype == np.uint8
    assert (direct - prepared).abs().max() < 0.02


def test_sixteen_bits_keep_the_values_of_integers(archive, splits, tmp_path):
    options = PrepareOptions(longest_side=4000, bits=16, encoding="png")
    prepare({"test": splits["test"]}, tmp_path / "out", options, key=KEY, root=archive)
    rows = loaded(tmp_path / "out", tmp_path)["test"].cast_column("image", datasets.Image(decode=False))
    originals = {read_image(row["image"]).tobytes() for row in splits["test"]}
    assert len(rows) and {read_image(row["image"]).tobytes() for row in rows} <= originals


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("bits", [8, 16])
def test_encodings_give_the_pixels_back_and_hold_nothing_else(encoding, bits):
    if encoding == "jpeg" and bits == 16:
        with pytest.raises(ValueError, match="jpeg"):
            PrepareOptions(encoding=encoding, bits=bits)
        return
    dtype = np.uint8 if bits == 8 else np.uint16
    pixels = (np.add.outer(np.arange(40), np.arange(30)) * (np.iinfo(dtype).max // 70)).astype(dtype)
    content = encode(pixels, encoding)
    tolerance = 3 if encoding == "jpeg" else 0
    assert np.abs(read_image(content).astype(int) - pixels).max() <= tolerance
    info = Image.open(io.BytesIO(content)).info
    assert not info or set(info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


@pytest.mark.parametrize("pixels", [np.eye(400, 9, dtype=np.uint16) * 9, np.full((64, 64), 7, np.float32)])
def test_an_image_with_nothing_left_at_training_resolution_is_refused(pixels):
    options = PrepareOptions(longest_side=32)
    with pytest.raises(ImageError, match=r"constant|shortest side"):
        shrink(pixels, target_size(*pixels.shape, options), 8, "x")


@settings(deadline=None, max_examples=40)
@given(st.tuples(*[st.integers(0, 60)] * 4), st.booleans(), st.integers(0, 100))
def test_the_field_is_found_again_within_black_or_white_borders(borders, white, seed):
    rng = np.random.default_rng(seed)
    inner = rng.integers(500, 3500, (120, 90)).astype(np.uint16)
    inner[60, 45], inner[61, 45] = 0, 4095
    top, bottom, left, right = borders
    value = 4095 if white else 0
    pixels = np.pad(inner, ((top, bottom), (left, right)), constant_values=value)
    if top:
        pixels[top // 2, left + 45] = 2000  # dust within a border
    assert field_box(pixels) == (top, left, 120, 90)


def test_shards_of_exact_bins_need_no_resize_in_training(archive, splits, tmp_path):
    options = PrepareOptions(max_tokens=16, num_bins=3)
    manifest = prepare(splits, tmp_path / "out", options, key=KEY, root=archive)
    rows, _ = load_radiographs("parquet", str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    bins = Bins.from_dict(manifest["bins"])
    data = RadiographDataset(rows["train"], bins)
    assert np.array_equal(data.sizes, bins.shapes[data.bin_ids])


def test_shards_train_by_buckets_and_by_set_transform_in_workers(whole, tmp_path):
    rows, unreadable = load_radiographs("parquet", str(whole), cache_dir=str(tmp_path / "cache"))
    assert not unreadable
    train = rows["train"]
    bins = fit_bins(np.stack([train["height"], train["width"]], 1), max_tokens=9, num_bins=3, batch_size=4)
    loader = bucket_loader(RadiographDataset(train, bins), BucketCollator(16), 4, num_workers=1)
    seen = [index for batch in loader for index in batch["index"].tolist()]
    assert sorted(seen) == list(range(len(train)))
    processor = RadiographImageProcessor(size={"height": 32, "width": 32})
    train.set_transform(lambda batch: processor(batch["image"], return_tensors="pt"), columns=["image"])
    batches = list(torch.utils.data.DataLoader(train, batch_size=8, num_workers=1))
    assert sum(len(batch["pixel_values"]) for batch in batches) == len(train)


def test_a_key_is_drawn_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "folder" / "key"
    key = load_key(path)
    assert load_key(path) == key and len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600 and list(path.parent.iterdir()) == [path]
    path.write_text("secret")
    with pytest.raises(ValueError, match="holds 6 characters"):
        load_key(path)


@pytest.mark.parametrize("name", ["shards.key", "shards/key", "shards/a/b.key", "shards/../x.key"])
def test_the_key_never_lies_in_the_folder_that_it_protects_or_beside_it(name, tmp_path):
    folder = tmp_path / "a" / "shards"
    with pytest.raises(ValueError, match="would travel with what it protects"):
        key_path(folder, folder.parent / name)
    assert key_path(folder, tmp_path / "keys" / "k") == tmp_path / "keys" / "k"
    default = key_path(folder)
    assert default == key_path(str(folder)) != key_path(tmp_path / "b" / "shards")
    assert not default.is_relative_to(folder.parent)


def test_labels_that_are_ids_or_missing_are_refused(archive, splits, tmp_path):
    for labels in (["patient"], ["colour"]):
        with pytest.raises(ValueError, match=f"labels {labels[0]} are no columns, or hold ids"):
            prepare(splits, tmp_path, PrepareOptions(labels=labels), key=KEY, root=archive)
