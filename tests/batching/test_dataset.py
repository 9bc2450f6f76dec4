"""An item is a function of (seed, epoch, row) alone, and an unusable image costs no batch its shape."""

import errno
import re

import datasets
import numpy as np
import pytest
import torch
from damaged import damaged_files, encode, radiograph
from rows import SIZES, make_rows

from hf_radmae.batching.binning import Bins, fit_bins
from hf_radmae.batching.collator import BucketCollator
from hf_radmae.batching.dataset import RadiographDataset, pixel_values
from hf_radmae.batching.loader import bucket_loader
from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.images.image import ImageError
from hf_radmae.images.storage import StorageError

PATCH = 8
ROWS = make_rows()
BINS = fit_bins(np.array(SIZES), num_bins=3, patch_size=PATCH, max_tokens=36, min_images=1)


def same(first: dict, second: dict) -> bool:
    """Whether two items or batches are equal bit by bit."""
    assert first.keys() == second.keys()
    return all(
        np.array_equal(value, second[name]) if isinstance(value, torch.Tensor | np.ndarray) else value == second[name]
        for name, value in first.items()
    )


def ramp_rows(images: int = 40, side: int = 96):
    """Images whose value at a pixel says where the pixel was: 16-bit ramps downwards."""
    ramp = np.repeat(np.linspace(0, 65535, side).astype(np.uint16)[:, None], side, axis=1)
    return make_rows([encode(ramp, "PNG")] * images)


def test_the_same_key_gives_the_same_item():
    first, second = (RadiographDataset(ROWS, BINS, train=True, crop_scale=0.5, seed=3) for _ in range(2))
    for dataset in (first, second):
        dataset.set_epoch(5)
    order = np.random.default_rng(0).permutation(len(ROWS))
    items = {index: second[index] for index in order}
    assert all(same(first[index], items[index]) for index in range(len(ROWS)))


@pytest.mark.parametrize("change", ["epoch", "seed"])
def test_another_epoch_or_seed_gives_another_crop_and_mask(change):
    first = RadiographDataset(ROWS, BINS, train=True, crop_scale=0.5, seed=3)
    second = RadiographDataset(ROWS, BINS, train=True, crop_scale=0.5, seed=4 if change == "seed" else 3)
    second.set_epoch(1 if change == "epoch" else 0)
    pairs = [(first[index], second[index]) for index in range(len(ROWS))]
    assert not any(torch.equal(a["noise"], b["noise"]) for a, b in pairs)
    crops = [np.array_equal(a["pixels"], b["pixels"]) for a, b in pairs]
    assert sum(crops) <= 2  # of so small an image two crops may be one by chance


def test_two_images_of_one_epoch_have_different_masks():
    dataset = RadiographDataset(ROWS, BINS)
    noise = {tuple(dataset[index]["noise"][:4].tolist()) for index in range(len(ROWS))}
    assert len(noise) == len(ROWS)


def test_evaluation_items_do_not_depend_on_the_epoch():
    dataset = RadiographDataset(ROWS, BINS, crop_scale=0.5)
    before = [dataset[index] for index in range(len(ROWS))]
    dataset.set_epoch(7)
    assert all(same(dataset[index], before[index]) for index in range(len(ROWS)))


@pytest.mark.parametrize("strategy", ["smart", "mixed", "pad"])
def test_evaluation_items_are_what_the_processor_makes_of_the_image(strategy):
    """What a user's processor feeds the model is what it was trained on."""
    bins = fit_bins(np.array(SIZES), strategy=strategy, num_bins=3, patch_size=PATCH, max_tokens=36, min_images=1)
    dataset = RadiographDataset(ROWS, bins)
    processor = RadiographImageProcessor(bins=bins.to_dict())
    for index in range(len(SIZES)):
        item = dataset[index]
        assert tuple(item["pixels"].shape) == tuple(bins.shapes[dataset.bin_ids[index]])
        expected = processor(ROWS[index]["image"]["bytes"], return_tensors="pt")["pixel_values"][0]
        assert torch.equal(pixel_values(item), expected)


@pytest.mark.parametrize("crop_scale", [0.25, 0.6, 1.0])
def test_a_crop_keeps_its_share_of_the_image_and_its_brightness(crop_scale):
    rows = ramp_rows()
    bins = Bins(shapes=np.array([[64, 64]]), strategy="smart", patch_size=PATCH, max_tokens=64)
    dataset = RadiographDataset(rows, bins, train=True, crop_scale=crop_scale)
    spans = []
    for index in range(len(rows)):
        pixels = pixel_values(dataset[index])
        spans.append(float(pixels.max() - pixels.min()))  # the share of the ramp's length that is seen
    assert min(spans) >= crop_scale**0.5 - 0.03
    if crop_scale < 1:
        assert max(spans) > 0.9 > min(spans)
        tops = [float(pixel_values(dataset[index]).min()) for index in range(len(rows))]
        assert np.std(tops) > 0.03  # anywhere in the image
    else:
        assert max(spans) == min(spans) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("crop_scale", [0.0, -0.5, 1.5])
def test_a_share_that_is_none_is_refused(crop_scale):
    with pytest.raises(ValueError, match=r"crop_scale=.* must lie in \(0, 1\]"):
        RadiographDataset(ROWS, BINS, crop_scale=crop_scale)


def test_loader_workers_do_not_change_the_batches():
    """With none, with two that are started anew, and with two that live on: the same batches in every epoch."""
    collate = BucketCollator(PATCH)
    epochs = []
    for workers in ({}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}):
        dataset = RadiographDataset(ROWS, BINS, train=True, crop_scale=0.5)
        loader = bucket_loader(dataset, collate, 4, shuffle=True, **workers)
        batches = []
        for epoch in (0, 1, 4):
            dataset.set_epoch(epoch)
            loader.batch_sampler.set_epoch(epoch)
            batches.append(list(loader))
        epochs.append(batches)
    for batches in epochs[1:]:
        for first, second in zip(epochs[0], batches, strict=True):
            assert len(first) == len(second)
            assert all(same(a, b) for a, b in zip(first, second, strict=True))
    seen = [sorted(index for batch in batches for index in batch["index"].tolist()) for batches in epochs[0]]
    assert seen == [list(range(len(ROWS)))] * 3
    assert not same(epochs[0][0][0], epochs[0][1][0])


@pytest.mark.parametrize("name", [*damaged_files(), "missing"])
def test_a_damaged_image_is_replaced_by_the_next_good_one_of_its_bin(name, tmp_path):
    good = [ROWS[index]["image"]["bytes"] for index in (0, 1, 5, 2)]  # 0 and 5 are of one size
    content, reason = damaged_files().get(name, (b"", "is missing"))
    rows = make_rows([*good, content]).remove_columns(["height", "width"])
    rows = rows.add_column("height", [40, 24, 40, 64, 40]).add_column("width", [24, 40, 24, 64, 24])
    if name == "missing":
        rows = rows.map(
            lambda row, i: {"image": {"bytes": None, "path": "gone.png"}} if i == 4 else row, with_indices=True
        )
    dataset = RadiographDataset(rows, BINS)
    bin_of = dataset.bin_ids
    assert bin_of[4] == bin_of[0] == bin_of[2]
    item = dataset[4]
    assert item["repeated"]
    assert same({**item, "skipped": [], "repeated": False}, dataset[0])  # the next one, around the end
    (skipped,) = item["skipped"]
    assert (skipped["index"], skipped["image"]) == (4, "gone.png" if name == "missing" else "row 4")
    assert re.search(reason, skipped["reason"])


def test_the_replacement_skips_further_damaged_images_and_reports_each():
    contents = [ROWS[0]["image"]["bytes"]] * 6
    contents[2] = contents[3] = b""
    contents[5] = damaged_files()["constant.png"][0]
    rows = make_rows(contents, columns={"image_id": [f"scan {index}" for index in range(6)]})
    bins = Bins(shapes=np.array([[40, 24]]), strategy="smart", patch_size=PATCH, max_tokens=36)
    dataset = RadiographDataset(rows, bins)
    for index, (used, reported) in {2: (4, ["scan 2", "scan 3"]), 3: (4, ["scan 3"]), 5: (0, ["scan 5"])}.items():
        item = dataset[index]
        assert item["index"] == used
        assert [record["image"] for record in item["skipped"]] == reported


@pytest.mark.parametrize("strategy", ["smart", "mixed", "pad"])
def test_a_bin_without_one_good_image_takes_the_next_of_another_at_its_own_shape(strategy):
    """So that one damaged image that is alone in its bin, as in a small evaluation set, ends no run."""
    bins = fit_bins(np.array(SIZES), strategy=strategy, num_bins=3, patch_size=PATCH, max_tokens=36, min_images=1)
    contents = [ROWS[index]["image"]["bytes"] for index in (1, 2)]
    rows = make_rows([b"", *contents], columns={"image_id": ["a", "b", "c"]})
    dataset = RadiographDataset(rows, bins, train=True, crop_scale=0.5)
    assert len(set(dataset.bin_ids)) == 3
    item = dataset[0]
    height, width = bins.shapes[dataset.bin_ids[0]]
    assert item["pixels"].shape == (height, width)
    assert len(item["noise"]) == bins.tokens[dataset.bin_ids[0]]
    assert (item["index"], [record["image"] for record in item["skipped"]]) == (1, ["a"])
    assert (np.array(item["content"]) <= (height, width)).all()
    assert pixel_values(item).std() > 0.05


def test_a_worker_tries_twenty_replacements_and_no_more():
    contents = [b""] * 40 + [encode(radiograph(40, 24), "PNG")]
    assert len(RadiographDataset(make_rows(contents[20:]), BINS)[0]["skipped"]) == 20
    with pytest.raises(ImageError, match="none of the other 20 images that were tried can be read"):
        RadiographDataset(make_rows(contents), BINS)[0]


def test_storage_that_fails_ends_the_run_and_lists_no_image(tmp_path, monkeypatch):
    """The file is whole: EIO and ESTALE say nothing about it, nor about those tried in its place."""
    path = tmp_path / "scan.png"
    path.write_bytes(encode(radiograph(40, 24), "PNG"))
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": None, "path": str(path)}] * 4, "height": [40] * 4, "width": [24] * 4}
    ).cast_column("image", datasets.Image(decode=False))
    dataset = RadiographDataset(rows, BINS)

    def fail(file, *args, **options):
        raise OSError(errno.EIO, "Input/output error", str(file))

    monkeypatch.setattr("hf_radmae.images.storage.PAUSES", (0, 0))
    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(StorageError, match="does not answer"):
        dataset[0]


def test_images_of_which_none_is_good_are_an_error():
    dataset = RadiographDataset(make_rows([b"", b""]), BINS)
    with pytest.raises(
        ImageError, match="row 1: is empty: 0 bytes; and none of the other 1 images that were tried can be read"
    ):
        dataset[1]
    with pytest.raises(ImageError, match="row 0: is empty: 0 bytes; and there is no other image"):
        RadiographDataset(make_rows([b""]), BINS)[0]


def test_the_first_images_of_the_fullest_bins_are_of_different_bins():
    sizes = [SIZES[2]] + [SIZES[0]] * 3 + [SIZES[1]] * 2
    contents = [ROWS[SIZES.index(size)]["image"]["bytes"] for size in sizes]
    dataset = RadiographDataset(make_rows(contents), BINS)
    assert len(set(dataset.bin_ids)) == 3
    assert dataset.first_of_fullest_bins(2) == [1, 4]
    assert dataset.first_of_fullest_bins(9) == [0, 1, 4]
