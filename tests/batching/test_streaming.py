"""Batches from a stream of shards: every image once, one bin a step on all ranks, row groups read once, and no copy."""

import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_radmae.batching.binning import Bins, assign, fit_bins
from hf_radmae.batching.collator import BucketCollator
from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.batching.levels import with_levels
from hf_radmae.batching.loader import bucket_loader
from hf_radmae.batching.row_pool import PAGE, RowPool
from hf_radmae.batching.sampler import Repeat
from hf_radmae.batching.streaming import ShardRows, StreamBatchSampler, open_shards
from hf_radmae.shards.prepare import prepare
from hf_radmae.shards.shrink import PrepareOptions

IMAGES, BATCH = 90, 4
SIZES = [(48, 32), (32, 48), (40, 40)]

quick = settings(max_examples=60, deadline=None)
bin_lists = st.lists(st.integers(-1, 4), min_size=1, max_size=150).filter(lambda ids: max(ids) >= 0)
batches_per_bin = st.integers(1, 9) | st.lists(st.integers(1, 9), min_size=5, max_size=5)


@st.composite
def streams(draw) -> dict:
    """Bins of rows, row groups of any length, batch sizes and ranks."""
    ids = draw(bin_lists)
    cuts = draw(st.lists(st.integers(1, len(ids)), max_size=30, unique=True))
    options = {"batch_size": draw(batches_per_bin), "window": draw(st.integers(1, 4))}
    shuffle, world_size = draw(st.booleans()), draw(st.integers(1, 4))
    options |= {"groups": sorted({0, *cuts, len(ids)}), "shuffle": shuffle, "world_size": world_size}
    return {"bin_ids": ids, **options}


def epoch_of_all_ranks(stream: dict, epoch: int = 0, **options) -> tuple[StreamBatchSampler, list[list[list[int]]]]:
    samplers = [StreamBatchSampler(**stream, rank=rank, **options) for rank in range(stream["world_size"])]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return samplers[0], [list(sampler) for sampler in samplers]


@quick
@given(streams(), st.integers(0, 3))
def test_every_image_with_a_bin_comes_once_but_for_the_stated_repeats(stream, epoch):
    sampler, ranks = epoch_of_all_ranks(stream, epoch)
    seen = [index for rank in ranks for batch in rank for index in batch]
    own = [index for index in seen if not isinstance(index, Repeat)]
    assert len(own) == len(set(own))
    assert set(own) == {index for index, bin_id in enumerate(stream["bin_ids"]) if bin_id >= 0}
    assert len(seen) - len(set(seen)) == sampler.load.repeats
    assert len(set(seen)) == sampler.load.images


@quick
@given(streams(), st.integers(0, 3))
def test_all_ranks_take_as_many_steps_on_the_same_bin_within_the_batch_size(stream, epoch):
    sampler, ranks = epoch_of_all_ranks(stream, epoch)
    limits = np.broadcast_to(stream["batch_size"], 5)
    assert {len(rank) for rank in ranks} == {len(sampler)} == {sampler.load.steps}
    for step in zip(*ranks, strict=True):
        (bin_id,) = {stream["bin_ids"][index] for batch in step for index in batch}
        assert all(1 <= len(batch) <= limits[bin_id] for batch in step)


@quick
@given(streams(), st.lists(st.integers(1, 500), min_size=5, max_size=5))
def test_the_stated_idle_share_is_that_of_the_batches_and_the_first_is_of_most_tokens(stream, tokens):
    sampler, ranks = epoch_of_all_ranks(stream, bin_tokens=tokens)
    steps = [(max(map(len, step)), tokens[stream["bin_ids"][step[0][0]]]) for step in zip(*ranks, strict=True)]
    slots = [longest * each for longest, each in steps]
    useful = sum(tokens[bin_id] for bin_id in stream["bin_ids"] if bin_id >= 0)
    assert sampler.load.idle_share == pytest.approx(1 - useful / (sum(slots) * len(ranks)))
    assert not stream["shuffle"] or slots[0] == max(slots)


@quick
@given(streams(), st.integers(0, 2**32 - 1), st.integers(0, 50))
def test_order_is_a_function_of_seed_and_epoch_and_iterating_changes_nothing(stream, seed, epoch):
    first, second = (StreamBatchSampler(**stream, rank=0, seed=seed) for _ in range(2))
    list(first)
    first.set_epoch(epoch)
    second.set_epoch(epoch)
    assert list(first) == list(first) == list(second)


def test_epochs_and_seeds_differ_in_training_and_not_in_evaluation():
    ids, groups = np.arange(4000) % 4, np.arange(0, 4001, 50)
    orders = {}
    for shuffle, seed, epoch in [(True, 0, 0), (True, 0, 1), (True, 1, 0), (False, 0, 0), (False, 1, 1)]:
        sampler = StreamBatchSampler(ids, groups, 10, seed=seed, shuffle=shuffle)
        sampler.set_epoch(epoch)
        orders[shuffle, seed, epoch] = [tuple(sorted(batch)) for batch in sampler]
    training = [batch for (shuffle, *_), order in orders.items() if shuffle for batch in order]
    assert len(set(training)) > 0.99 * len(training)
    assert orders[False, 0, 0] == orders[False, 1, 1]


ARCHIVE = 640_000
HEIGHTS, WIDTHS = (246, 1543, 2002, 2438, 3072), (219, 1117, 1417, 1852, 3071)  # quantiles 0, 25, 50, 75, 100 %
GROUPS = [*range(0, ARCHIVE, 23), ARCHIVE]  # 64 MB of images of the median size, as they are written there


def archive_bins(images: int) -> tuple[Bins, np.ndarray]:
    """Bins with levels of the archive's sizes at patch 48 within 4,096 tokens, for batches of 1,024."""
    rng = np.random.default_rng(0)
    ranks = rng.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], images).argsort(0).argsort(0) / (images - 1)
    quantiles = np.linspace(0, 1, 5)
    sides = [np.interp(rank, quantiles, known) for rank, known in zip(ranks.T, (HEIGHTS, WIDTHS), strict=True)]
    sizes = np.stack(sides, 1).round().astype(np.int64)
    informative = rng.beta(4, 2, images)
    shapes = fit_bins(sizes, num_bins=16, patch_size=48, max_tokens=4096, batch_size=1024)
    bins = with_levels(shapes, assign(sizes, shapes), informative, num_levels=6, min_images=1024)
    return bins, assign(sizes, bins, informative)


@pytest.mark.slow
def test_64_ranks_wait_little_for_each_other_at_the_archives_sizes():
    bins, ids = archive_bins(ARCHIVE)
    sampler = StreamBatchSampler(ids, GROUPS, 16, bin_tokens=bins.tokens, rank=0, world_size=64)
    assert len(bins) > 80
    assert sampler.load.images == ARCHIVE
    assert sampler.load.idle_share < 0.02
    assert most_waiting(sampler, bins.shapes.prod(1)[ids]) < 3 * 2**30  # of 8-bit pixels: the pool holds them all


@pytest.fixture(scope="module")
def archive() -> tuple[np.ndarray, np.ndarray]:
    """Bins of the archive's images, and tokens of each bin: 96 bins of very different frequency."""
    rng = np.random.default_rng(0)
    share = rng.lognormal(0, 0.8, 96)
    return rng.choice(96, ARCHIVE, p=share / share.sum()), np.linspace(4096, 256, 96).astype(int)


def test_64_ranks_wait_little_for_each_other(archive):
    ids, tokens = archive
    for world_size, limit in [(8, 0.005), (64, 0.02)]:
        sampler = StreamBatchSampler(ids, GROUPS, 16, bin_tokens=tokens, rank=0, world_size=world_size)
        assert sampler.load.idle_share < limit


def most_waiting(sampler: StreamBatchSampler, sizes: np.ndarray) -> int:
    """The largest sum of `sizes` (rows,) over rows that were read with their group and not yet taken."""
    opened, waiting, most = set(), 0, 0
    for batch in sampler:
        for row in batch:
            if row // 23 not in opened:
                opened.add(row // 23)
                waiting += int(sizes[row // 23 * 23 :][:23].sum())
            waiting -= int(sizes[row])
        most = max(most, waiting)
    return most


def test_rows_are_taken_in_the_order_of_reading_some_hundred_early_or_late(archive):
    ids, tokens = archive
    sampler = StreamBatchSampler(ids, GROUPS, 16, bin_tokens=tokens, rank=5, world_size=64)
    sampler.set_epoch(3)
    assert most_waiting(sampler, np.ones(ARCHIVE, int)) < 1500


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Prepared shards of three splits of images of three kinds of sizes, with a label."""
    rng = np.random.default_rng(0)
    rows: dict[str, list] = {"image": [], "height": [], "width": [], "kind": []}
    for index in range(IMAGES):
        height, width = SIZES[index % 3]
        rows["image"].append(rng.integers(0, 255, (height, width)).astype(np.uint8))
        rows["height"].append(height)
        rows["width"].append(width)
        rows["kind"].append("abc"[index % 3])
    features = {"image": datasets.Image(), "kind": datasets.Value("string")}
    features |= {name: datasets.Value("int32") for name in ("height", "width")}
    data = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    data = data.cast_column("image", datasets.Image(decode=False))
    folder = tmp_path_factory.mktemp("shards")
    splits = {"train": data, "validation": data.select(range(20)), "test": data.select(range(20, 40))}
    prepare(splits, folder, PrepareOptions(images_per_shard=12, labels=["kind"]), key=b"x")
    return folder


@pytest.fixture(scope="module")
def bins() -> Bins:
    return fit_bins(SIZES * 8, patch_size=8, max_tokens=25, num_bins=3, batch_size=1)


@pytest.fixture(scope="module")
def copied(shards, tmp_path_factory) -> datasets.Dataset:
    """The same rows as `datasets` reads them, over a copy."""
    cache = str(tmp_path_factory.mktemp("cache"))
    rows = datasets.load_dataset(str(shards), split="train", cache_dir=cache)
    return rows.cast_column("image", datasets.Image(decode=False))


@pytest.mark.parametrize("held_bytes", [0, 2**20, 2**30])
def test_rows_and_columns_are_those_that_datasets_reads(shards, copied, held_bytes):
    rows = ShardRows(open_shards(shards)["train"].files, held_bytes=held_bytes)
    assert len(rows) == len(copied)
    assert rows.column_names == copied.column_names
    assert all(rows[name] == copied[name][:] for name in rows.column_names if name != "image")
    order = np.random.default_rng(0).integers(0, len(rows), 2 * len(rows)).tolist()
    assert [rows[index] for index in order] == [copied[index] for index in order]
    assert set(rows.select_columns(["image", "kind"])[3]) == {"image", "kind"}


@pytest.mark.parametrize("workers", [0, 1, 3, 5, pytest.param(16, marks=pytest.mark.slow)])
def test_each_row_group_is_read_once_for_any_number_of_workers_and_nothing_stays(shards, bins, workers):
    stream = RadiographDataset(open_shards(shards)["train"], bins, train=True)
    pool = stream._columns.pool
    loader = bucket_loader(stream, BucketCollator(8), BATCH, shuffle=True, num_workers=workers)
    for epoch in range(2):
        loader.batch_sampler.set_epoch(epoch)
        seen = sorted(index for batch in loader for index in batch["index"].tolist())
        assert seen == list(range(IMAGES))
        assert pool.reads == (epoch + 1) * (len(stream.rows.groups) - 1)
        assert pool.used_bytes == 0


@quick
@given(st.integers(1, 12), st.data())
def test_a_pool_of_any_size_gives_each_row_as_it_was_read(pages, data):
    """Rows of any length, taken in any order, repeatedly, from a pool that may be far too small."""
    bounds = [0, 3, 4, 9]
    contents = [bytes([i]) * data.draw(st.integers(0, 2 * PAGE)) for i in range(9)]
    rows = [{"image": memoryview(content), "name": i} if i % 2 else content for i, content in enumerate(contents)]
    pool = RowPool(9, 3, pages * PAGE)
    for row in data.draw(st.lists(st.integers(0, 8), max_size=30)):
        group = int(np.searchsorted(bounds, row, side="right")) - 1
        taken = pool.take(row, group, lambda g=group: {i: rows[i] for i in range(bounds[g], bounds[g + 1])})
        assert taken == rows[row]
        assert pool.used_bytes <= pages * PAGE


def test_storage_that_is_gone_ends_the_run_with_one_error_that_says_so(shards, bins, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_radmae.images.storage.PAUSES", (0.01, 0.01))
    mount = tmp_path / "mount"
    shutil.copytree(shards, mount / "archive" / "shards")
    stream = RadiographDataset(open_shards(mount / "archive" / "shards")["train"], bins)
    loader = bucket_loader(stream, BucketCollator(8), BATCH, num_workers=2)
    batches = iter(loader)
    next(batches)
    (mount / "archive").rename(tmp_path / "away")
    with pytest.raises(OSError, match="the storage does not answer"):
        list(batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_items_are_those_of_the_map_style_path(shards, copied, bins, workers):
    stream, plain = (
        RadiographDataset(rows, bins, train=True, crop_scale=0.5) for rows in (open_shards(shards)["train"], copied)
    )
    loader = bucket_loader(stream, BucketCollator(8), BATCH, shuffle=True, num_workers=workers)
    for epoch in range(2):
        for part in (loader.batch_sampler, stream, plain):
            part.set_epoch(epoch)
        for batch, indices in zip(loader, loader.batch_sampler, strict=True):
            expected = BucketCollator(8)([plain[index] for index in indices])
            assert batch.keys() == expected.keys()
            assert batch.pop("num_tokens") == expected["num_tokens"]
            assert all(torch.equal(batch[name], expected[name]) for name in batch)


def test_what_could_not_work_is_refused(shards, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no shards data/train-\*.parquet.*made by scripts/prepare.py"):
        open_shards(tmp_path)
    table = datasets.Dataset.from_dict({"image": [b"x"], "height": [1]})
    table.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"no columns \['width'\], but image, height"):
        ShardRows([tmp_path / "train.parquet"])
    with pytest.raises(ValueError, match="None of the 2 images has a bin"):
        StreamBatchSampler([-1, -1], [0, 2], 4)
