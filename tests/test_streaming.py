"""Training batches from a stream: the pool only reorders, ranks keep in step, and a resumed run repeats."""

from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_radmae.binning import Bins, assign, fit_bins
from hf_radmae.collator import BucketCollator
from hf_radmae.data.image import ImageError
from hf_radmae.data.prepare import prepare
from hf_radmae.data.shrink import PrepareOptions
from hf_radmae.streaming import BucketStream, image_key

IMAGES, BATCH = 90, 4


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Prepared shards of images of three kinds of sizes."""
    rng = np.random.default_rng(0)
    sizes = [(48, 32), (32, 48), (40, 40)]
    rows = {"image": [], "height": [], "width": []}
    for index in range(IMAGES):
        height, width = sizes[index % 3]
        rows["image"].append(rng.integers(0, 255, (height, width)).astype(np.uint8))
        rows["height"].append(height)
        rows["width"].append(width)
    features = datasets.Features(image=datasets.Image(), height=datasets.Value("int32"), width=datasets.Value("int32"))
    data = datasets.Dataset.from_dict(rows, features=features).cast_column("image", datasets.Image(decode=False))
    folder = tmp_path_factory.mktemp("shards")
    prepare({"train": data}, folder, PrepareOptions(images_per_shard=12), key=b"x")
    return folder


@pytest.fixture(scope="module")
def bins() -> Bins:
    return fit_bins([(48, 32), (32, 48), (40, 40)] * 8, patch_size=8, max_tokens=25, num_bins=3, batch_size=1)


def rows(shards: Path) -> datasets.IterableDataset:
    return datasets.load_dataset(str(shards), split="train", streaming=True)


def loader(stream: BucketStream, workers: int = 0) -> DataLoader:
    return DataLoader(stream, batch_size=None, collate_fn=BucketCollator(8), num_workers=workers)


def indices(batches) -> list[list[int]]:
    return [batch["index"].tolist() for batch in batches]


def assert_equal(first: list[dict], second: list[dict]) -> None:
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("train", [False, True])
def test_one_pass_only_reorders_for_any_number_of_workers(shards, bins, workers, train):
    stream = BucketStream(rows(shards), bins, BATCH, train=train, crop_scale=0.5)
    seen = [index for batch in indices(loader(stream, workers)) for index in batch]
    assert sorted(seen) == sorted(image_key(row["image_id"]) for row in rows(shards))


def test_a_batch_is_of_the_bin_that_the_sizes_say(shards, bins):
    sizes = {image_key(row["image_id"]): (row["height"], row["width"]) for row in rows(shards)}
    for batch in loader(BucketStream(rows(shards), bins, BATCH)):
        found = assign([sizes[index] for index in batch["index"].tolist()], bins)
        assert len(set(found)) == 1
        assert batch["pixel_values"].shape[-2:] == tuple(bins.shapes[found[0]])


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_have_equal_numbers_of_full_batches_of_different_images(shards, bins, workers):
    ranks = []
    for rank in range(2):
        stream = BucketStream(rows(shards), bins, BATCH, steps=9, train=True, rank=rank, world_size=2)
        ranks.append(indices(loader(stream, workers)))
        assert len(loader(stream, workers)) == 9
    assert [len(rank) for rank in ranks] == [9, 9]
    assert all(len(batch) == BATCH for rank in ranks for batch in rank)
    first, second = ({index for batch in rank for index in batch} for rank in ranks)
    assert not first & second


def test_a_rank_whose_shards_are_read_begins_them_anew(shards, bins):
    batches = indices(loader(BucketStream(rows(shards), bins, BATCH, steps=60, train=True)))
    times = np.unique([index for batch in batches for index in batch], return_counts=True)[1]
    assert len(times) == IMAGES and {*times} <= {2, 3} and len(batches) == 60


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("done", [1, 4, 7])
def test_a_resumed_run_repeats_the_straight_one(shards, bins, workers, done):
    options = {"steps": 10, "train": True, "crop_scale": 0.5}
    stream = BucketStream(rows(shards), bins, BATCH, **options)
    stream.set_epoch(3)
    straight = list(loader(stream, workers))
    state = stream.state_dict(done)
    again = BucketStream(rows(shards), bins, BATCH, **options)
    again.load_state_dict(state)
    assert_equal(list(islice(loader(again, workers), 10 - done)), straight[done:])
    again.set_epoch(4)
    stream.set_epoch(4)
    assert_equal(list(loader(again, workers)), list(loader(stream, workers)))


def test_epochs_differ_in_training_and_not_in_evaluation(shards, bins):
    orders = {}
    for train in (True, False):
        stream = BucketStream(rows(shards), bins, BATCH, steps=12, train=train)
        for epoch in range(2):
            stream.set_epoch(epoch)
            orders[train, epoch] = list(loader(stream))
    assert indices(orders[True, 0]) != indices(orders[True, 1])
    assert_equal(orders[False, 0], orders[False, 1])


def test_an_image_that_cannot_be_read_is_replaced_and_reported(bins):
    good = next(iter(_stream_of([None])))
    stream = _stream_of([b"broken", good["image"]["bytes"], good["image"]["bytes"]])
    (batch,) = loader(BucketStream(stream, bins, 3))
    assert len(batch["index"]) == 3 and len(set(batch["index"].tolist())) == 2
    assert [record["image"] for record in batch["skipped"]] == ["0"]
    with pytest.raises(ImageError, match="nor can the rest of its batch be read"):
        list(loader(BucketStream(_stream_of([b"broken"]), bins, 3)))


def _stream_of(contents: list[bytes | None]) -> datasets.IterableDataset:
    pixels = np.arange(48 * 32, dtype=np.uint16).reshape(48, 32)
    header = f"P5\n{pixels.shape[1]} {pixels.shape[0]}\n65535\n".encode()
    contents = [header + pixels.astype(">u2").tobytes() if content is None else content for content in contents]
    values = {
        "image": [{"bytes": content, "path": None} for content in contents],
        "image_id": [str(index) for index in range(len(contents))],
        "height": [48] * len(contents),
        "width": [32] * len(contents),
    }
    data = datasets.Dataset.from_dict(values).cast_column("image", datasets.Image(decode=False))
    return data.to_iterable_dataset()


def test_what_could_not_work_is_refused(shards, bins):
    with pytest.raises(ValueError, match="no columns image, image_id"):
        BucketStream(rows(shards).remove_columns("image_id"), bins, BATCH)
    with pytest.raises(ValueError, match="steps is missing: 2 ranks"):
        BucketStream(rows(shards), bins, BATCH, world_size=2)
    with pytest.raises(ValueError, match="8 shards are too few for 9 ranks"):
        list(BucketStream(rows(shards), bins, BATCH, steps=3, world_size=9))
