"""A batch is of one shape, its padding is never informative, and what had to be replaced travels with it."""

import numpy as np
import pytest
import torch
from rows import SIZES, make_rows

from hf_radmae.batching.binning import fit_bins
from hf_radmae.batching.collator import BucketCollator
from hf_radmae.batching.dataset import RadiographDataset

PATCH = 8


def item(content=(32, 48), shape=(32, 48), skipped=(), pixels=None) -> dict:
    """An item of `RadiographDataset`: noise everywhere, the padding too."""
    generator = torch.Generator().manual_seed(0)
    return {
        "pixel_values": torch.rand(1, *shape, generator=generator) if pixels is None else pixels,
        "noise": torch.rand(shape[0] * shape[1] // PATCH**2, generator=generator),
        "patch_mask": torch.ones(shape[0] * shape[1] // PATCH**2, dtype=torch.bool),
        "content": content,
        "num_tokens": 20,
        "index": 5,
        "skipped": list(skipped),
    }


@pytest.mark.parametrize("channels", [1, 3])
def test_fields_shapes_and_dtypes(channels):
    batch = BucketCollator(PATCH, channels)([item(), item((30, 20))])
    assert batch.pop("num_tokens") == 20
    kinds = {name: (tuple(value.shape), value.dtype) for name, value in batch.items()}
    assert kinds == {
        "pixel_values": ((2, channels, 32, 48), torch.float32),
        "patch_mask": ((2, 24), torch.bool),
        "noise": ((2, 24), torch.float32),
        "index": ((2,), torch.int64),
    }
    assert torch.equal(batch["pixel_values"], item()["pixel_values"].expand(2, channels, -1, -1))


@pytest.mark.parametrize("content", [(32, 48), (32, 17), (1, 48), (24, 40), (25, 41)])
def test_padding_is_never_counted(content):
    """Whatever stands in it; a patch that the image reaches into counts."""
    mask = BucketCollator(PATCH, background="keep")([item(content)])["patch_mask"].view(4, 6)
    rows, columns = (-(-side // PATCH) for side in content)
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[:rows, :columns] = True
    assert torch.equal(mask, expected)


def test_the_items_say_where_the_patient_is():
    items = [item(), item()]
    for n, one in enumerate(items):
        one["patch_mask"] = torch.arange(24) % 3 == n
    assert torch.equal(BucketCollator(PATCH)(items)["patch_mask"], torch.stack([one["patch_mask"] for one in items]))
    assert BucketCollator(PATCH, background="keep")(items)["patch_mask"].all()


def test_a_batch_of_two_shapes_is_refused():
    with pytest.raises(ValueError, match=r"one bin, and has images of .*32, 48.*48, 32.*: use BucketBatchSampler"):
        BucketCollator(PATCH)([item(), item((48, 32), (48, 32))])


def test_reports_of_replaced_images_are_joined_and_absent_where_there_are_none():
    records = [{"index": i, "image": f"{i}.png", "reason": "is empty"} for i in range(3)]
    assert BucketCollator(PATCH)([item(skipped=records[:2]), item(), item(skipped=records[2:])])["skipped"] == records
    assert "skipped" not in BucketCollator(PATCH)([item(), item()])


@pytest.mark.parametrize("strategy", ["smart", "mixed", "pad"])
def test_items_of_a_data_set_come_through_unchanged(strategy):
    bins = fit_bins(np.array(SIZES), strategy=strategy, num_bins=2, patch_size=PATCH, max_tokens=36, min_images=1)
    dataset = RadiographDataset(make_rows(), bins)
    for number in np.unique(dataset.bin_ids):
        members = np.flatnonzero(dataset.bin_ids == number)
        batch = BucketCollator(PATCH)([dataset[index] for index in members])
        assert batch["index"].tolist() == members.tolist()
        for position, index in enumerate(members):
            assert torch.equal(batch["pixel_values"][position], dataset[index]["pixel_values"])
            assert torch.equal(batch["noise"][position], dataset[index]["noise"])
