"""Batches from a stream of shards: every image once, one bin a step on all ranks, row groups read once, and no copy."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_radmae.batching.binning import Bins, fit_bins
from hf_radmae.batching.collator import BucketCollator
from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.batching.loader import bucket_loader
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
    """Bins of rows, row groups of any length, batch sizes, ranks and lanes."""
    ids = draw(bin_lists)
    cuts = draw(st.lists(st.integers(1, len(ids)), max_size=30, unique=True))
    options = {"batch_size": draw(batches_per_bin), "lanes": draw(st.integers(1, 3)), "window": draw(st.integers(1, 4))}
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
    assert set(seen) == {index for index, bin_id in enumerate(stream["bin_ids"]) if bin_id >= 0}
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


def test_few_images_wait_for_their_bin_and_a_lane_reads_on():
    """Rows are needed in the order of reading, a few hundred early or late: a pool, and not a random access."""
    rng = np.random.default_rng(0)
    ids, groups = rng.choice(8, 40_000, p=np.array([1, 2, 3, 4, 5, 6, 7, 8]) / 36), np.arange(0, 40_001, 100)
    sampler = StreamBatchSampler(ids, groups, 16, world_size=4, rank=1, lanes=2, window=4)
    batches = list(sampler)
    for lane in range(2):
        opened, waiting, most = set(), 0, 0
        for batch in batches[lane::2][:600]:
            for row in batch:
                if row // 100 not in opened:
                    opened.add(row // 100)
                    waiting += 100
                waiting -= 1
            most = max(most, waiting)
        assert most < 1000


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


@pytest.mark.parametrize("held_rows", [0, 4096])
def test_rows_and_columns_are_those_that_datasets_reads(shards, copied, held_rows):
    rows = ShardRows(open_shards(shards)["train"].files, held_rows=held_rows)
    assert len(rows) == len(copied)
    assert rows.column_names == copied.column_names
    assert all(rows[name] == copied[name][:] for name in rows.column_names if name != "image")
    order = np.random.default_rng(0).integers(0, len(rows), 2 * len(rows)).tolist()
    assert [rows[index] for index in order] == [copied[index] for index in order]
    assert set(rows.select_columns(["image", "kind"])[3]) == {"image", "kind"}


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
