"""What is informative in each image, measured once: shares and boxes, and the bins and items that follow from them."""

import numpy as np
import pytest
import torch
from damaged import encode
from rows import make_rows

from hf_radmae.batching.bucketing import bucketed
from hf_radmae.batching.collator import BucketCollator
from hf_radmae.batching.content import measure_content
from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.batching.loader import bucket_loader
from hf_radmae.batching.processing import RadiographImageProcessor

PATCH, LOOK = 8, {"patch_size": 8, "max_tokens": 128}


def limb(height: int = 128, width: int = 64, top: int = 32, left: int = 16, seed: int = 0) -> np.ndarray:
    """A textured body of 64 x 32 pixels in an even background, 16 bit."""
    image = np.full((height, width), 6000, np.uint16)
    image[top : top + 64, left : left + 32] = 20000 + np.random.default_rng(seed).integers(0, 40000, (64, 32))
    return image


def limbs(images: int = 12):
    contents = [encode(limb(left=8 * (i % 4), seed=i), "PNG") for i in range(images)]
    trunks = [np.random.default_rng(i).integers(0, 65535, (128, 64)).astype(np.uint16) for i in range(images)]
    return make_rows(contents + [encode(trunk, "PNG") for trunk in trunks])


def test_shares_and_boxes_are_those_of_the_body():
    content = measure_content(limbs(4), **LOOK)
    assert content.informative.tolist() == [0.25] * 4 + [1.0] * 4
    assert content.boxes.tolist() == [[32, 8 * i, 64, 32] for i in range(4)] + [[0, 0, 128, 64]] * 4
    cropped = content.cropped(np.array([[128, 64]] * 8))
    assert cropped.informative.tolist() == [1.0] * 8


def test_a_large_image_is_measured_small_and_its_box_is_in_its_own_pixels():
    large = np.kron(limb(), np.ones((4, 4), np.uint16))
    content = measure_content(make_rows([encode(large, "PNG")]), **LOOK)
    top, left, height, width = content.boxes[0]
    assert top <= 128 and left <= 64 and top + height >= 384 and left + width >= 192
    assert height * width < 2 * 256 * 128


def test_an_image_that_cannot_be_read_counts_whole():
    content = measure_content(make_rows([b"no image", encode(limb(), "PNG")]), **LOOK)
    assert content.informative[0] == 1 and content.boxes[0].tolist() == [0, 0, 40, 24]
    assert content.informative[1] < 0.5


def test_columns_that_are_there_are_taken_and_no_image_is_opened():
    columns = {"informative": [0.5, 0.25], "content_box": [[0, 0, 8, 8], [8, 0, 16, 8]]}
    content = measure_content(make_rows([b"", b""], columns=columns), **LOOK)
    assert content.informative.tolist() == [0.5, 0.25] and content.boxes.tolist() == columns["content_box"]


def test_images_that_show_little_are_batched_apart_and_fewer_of_their_patches_take_part():
    rows = limbs()
    data = bucketed({"train": rows}, batch_size=4, **LOOK)
    little, much = data.parts["train"].bin_ids[:12], data.parts["train"].bin_ids[12:]
    assert not set(little) & set(much)
    assert data.bins.tokens[little].max() < 0.5 * data.bins.tokens[much].min()
    whole = bucketed({"train": rows}, batch_size=4, flat_threshold=0, **LOOK)
    assert (
        whole.bins.levels is None
        and (whole.bins.shapes[whole.train.bin_ids] == data.bins.shapes[data.train.bin_ids]).all()
    )


def test_every_informative_patch_of_an_image_has_a_place_in_its_batch():
    data = bucketed({"train": limbs()}, batch_size=4, **LOOK)
    for batch in bucket_loader(data.parts["train"], BucketCollator(PATCH), 4):
        assert (batch["patch_mask"].sum(1) <= batch["num_tokens"]).all()


def test_cropped_images_are_binned_by_what_is_left_of_them():
    rows = limbs()
    data = bucketed({"train": rows}, batch_size=4, crop_to_content=True, num_bins=2, **LOOK)
    dataset = data.parts["train"]
    assert dataset.sizes[:12].tolist() == [[64, 32]] * 12 and (data.sizes == dataset.sizes).all()
    pixels = dataset[0]["pixel_values"]
    body = limb(left=0)[32:96, :32][None].astype(np.float32)
    assert pixels.shape == (1, 64, 32)
    expected = torch.from_numpy((body - 6000) / (limb().max() - 6000)).clamp(0, 1)
    assert (pixels - expected).abs().mean() < 0.05  # the box starts at the body's first pixel
    for split in (data.train, dataset):
        assert split[0]["num_tokens"] >= 0.9 * 32


def test_a_processor_cuts_an_image_to_the_content_that_it_was_trained_on(tmp_path):
    rows = limbs()
    data = bucketed({"train": rows}, batch_size=4, crop_to_content=True, num_bins=2, **LOOK)
    RadiographImageProcessor(bins=data.bins.to_dict(), crop_threshold=0.01).save_pretrained(tmp_path)
    processor = RadiographImageProcessor.from_pretrained(tmp_path)
    for index in (0, 3, 12):
        found = processor(rows[index]["image"]["bytes"], return_tensors="pt")["pixel_values"][0]
        assert torch.equal(found, data.parts["train"][index]["pixel_values"])
    with pytest.raises(ValueError, match="needs bins"):
        RadiographImageProcessor(crop_threshold=0.01)


def test_a_random_crop_lies_within_the_content():
    rows = make_rows([encode(limb(), "PNG")] * 4)
    data = bucketed({"train": rows}, batch_size=4, crop_to_content=True, crop_scale=0.3, **LOOK)
    for epoch in range(5):
        data.train.set_epoch(epoch)
        assert (data.train[0]["pixel_values"] > 0.1).float().mean() > 0.95  # hardly anything of the background


def test_contradictory_options_are_refused():
    with pytest.raises(ValueError, match="let flat_threshold be above 0"):
        bucketed({"train": limbs(2)}, batch_size=1, flat_threshold=0, crop_to_content=True, **LOOK)
    data = bucketed({"train": limbs(2)}, batch_size=1, **LOOK)
    with pytest.raises(ValueError, match="crop_to_content needs content"):
        RadiographDataset(limbs(2), data.bins, crop_to_content=True)
