"""A batch is of one shape, its padding is never informative, and what had to be replaced travels with it."""

import numpy as np
import pytest
import torch
from rows import SIZES, make_rows

from hf_radmae.batching.binning import Bins, fit_bins
from hf_radmae.batching.collator import BucketCollator, PatchCollator
from hf_radmae.batching.dataset import RadiographDataset, fit_item, pixel_values
from hf_radmae.models.mae import RadMAEForPreTraining, preset_config

PATCH = 8


def item(content=(32, 48), shape=(32, 48), skipped=()) -> dict:
    """An item of `RadiographDataset`: noise everywhere, the padding too."""
    generator = torch.Generator().manual_seed(0)
    return {
        "pixels": torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).numpy(),
        "grey_range": (0.0, 255.0),
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
    assert torch.equal(batch["pixel_values"], pixel_values(item()).expand(2, channels, -1, -1))


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
            assert torch.equal(batch["pixel_values"][position], pixel_values(dataset[index]))
            assert torch.equal(batch["noise"][position], dataset[index]["noise"])


DEPTHS = {
    "8 bit": lambda image: (image * 255).astype(np.uint8),
    "16 bit": lambda image: (image * 4095).astype(np.uint16),
    "signed": lambda image: (image * 3000 - 1000).astype(np.int16),
    "float": lambda image: image.astype(np.float32) * 3 - 1,
}


def pictures(rng: np.random.Generator, sizes, depths) -> list[np.ndarray]:
    return [DEPTHS[d](rng.random(size) * np.linspace(0.2, 1, size[1])) for size, d in zip(sizes, depths, strict=True)]


@pytest.fixture(scope="module")
def model() -> RadMAEForPreTraining:
    torch.manual_seed(0)
    return RadMAEForPreTraining(preset_config("tiny", patch_size=PATCH, image_size=48, prediction_ratio=0.5))


@pytest.mark.parametrize("background", ["drop", "keep"])
@pytest.mark.parametrize("resized", [False, True])
@pytest.mark.parametrize("depth", [*DEPTHS, "mixed"])
def test_the_model_computes_the_same_from_patches_as_from_whole_images(model, depth, resized, background):
    """Loss and gradients, in training and evaluation, of images of any depth, with padding, repeats and background."""
    rng = np.random.default_rng(len(depth) + resized)
    sizes = [(66, 90), (50, 60), (43, 90), (80, 82)] if resized else [(40, 48), (33, 47), (40, 41), (40, 48)]
    depths = ["8 bit", "16 bit", "signed", "8 bit"] if depth == "mixed" else [depth] * 4
    images = pictures(rng, sizes, depths)
    bins = Bins(np.array([[40, 48]]), "pad", PATCH, 30)
    options = {"epoch": 0, "seed": 1, "crop_scale": 1.0, "scaling": "minmax"}
    items = [
        fit_item(image, image.shape, bins, 0, key=row, **options) | {"index": row, "skipped": [], "repeated": row == 3}
        for row, image in enumerate(images)
    ]
    for one in items:
        one["patch_mask"] = one["patch_mask"] & torch.from_numpy(rng.random(30) < 0.8)
        one["num_tokens"] = 27
    whole = BucketCollator(PATCH, background=background)
    exact = depth == "8 bit" or (depth == "16 bit" and not resized)
    for training in (True, False):
        model.train(training)
        ends = []
        for collate in (whole, PatchCollator(whole, 0.75, 0.5 if training else 1.0)):
            batch = collate(items)
            kept = {k: v for k, v in batch.items() if k not in ("index", "repeated", "skipped")}
            model.zero_grad()
            loss = model(**kept).loss
            loss.backward()
            ends.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
        for one, other in zip(*ends, strict=True):
            torch.testing.assert_close(one, other, rtol=0 if exact else 1e-3, atol=0 if exact else 1e-4)
        assert batch["patches"].dtype == (torch.uint8 if depth == "8 bit" else torch.uint16)
        assert batch["repeated"].tolist() == [False, False, False, True]


def test_what_is_sent_is_what_a_step_uses():
    """Half of three quarters and the seen quarter, a byte a pixel: a tenth of whole images of float32 and less."""
    batch = PatchCollator(BucketCollator(PATCH), 0.75, 0.5)([item(), item((30, 20))])
    kinds = {name: (tuple(v.shape), v.dtype) for name, v in batch.items() if torch.is_tensor(v)}
    assert kinds == {
        "patches": ((2, 13, PATCH, PATCH), torch.uint8),
        "places": ((2, 13), torch.int64),
        "patch_mask": ((2, 13), torch.bool),
        "grey_range": ((2, 2), torch.float32),
        "index": ((2,), torch.int64),
    }
    assert (batch["grid"], batch["num_tokens"]) == ((4, 6), 20)
    first, (row, column) = item()["pixels"], divmod(int(batch["places"][0, 5]), 6)
    cut = first[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
    assert np.array_equal(batch["patches"][0, 5], cut)
