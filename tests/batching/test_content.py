"""What is informative in each image, measured once: shares and boxes, and the bins and items that follow from them."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from damaged import encode
from rows import make_rows
from scipy import ndimage

from hf_radmae import load_radiographs
from hf_radmae.batching import content
from hf_radmae.batching.bucketing import bucketed
from hf_radmae.batching.collator import BucketCollator
from hf_radmae.batching.content import COLUMNS, measure_content, measure_image
from hf_radmae.batching.dataset import pixel_values
from hf_radmae.batching.loader import bucket_loader
from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.images.background import VERSION, background_mask
from hf_radmae.images.fitting import as_tensor, fit_image

PATCH, LOOK = 8, {"patch_size": 8, "max_tokens": 128}
SIZES = np.array([[128, 64]])


def texture(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth random greys, as of a body."""
    return ndimage.gaussian_filter(np.random.default_rng(seed).random((height, width)), 3) * 3e5 - 1.1e5


def limb(height: int = 128, width: int = 64, top: int = 32, left: int = 16, seed: int = 0) -> np.ndarray:
    """A textured body of 64 x 32 pixels in an even background, 16 bit."""
    image = np.full((height, width), 6000, np.uint16)
    image[top : top + 64, left : left + 32] = texture(64, 32, seed).clip(25000, 60000)
    return image


def limbs(images: int = 12):
    contents = [encode(limb(left=8 * (i % 4), seed=i), "PNG") for i in range(images)]
    trunks = [texture(128, 64, i).clip(0, 65535).astype(np.uint16) for i in range(images)]
    return make_rows(contents + [encode(trunk, "PNG") for trunk in trunks])


def test_masks_and_boxes_hold_the_body_and_little_else():
    content = measure_content(limbs(4))
    boxes = content.cropped().pixel_boxes(np.repeat(SIZES, 8, 0))
    for index, (top, left, height, width) in enumerate(boxes[:4].tolist()):
        assert top <= 32 and left <= 8 * index and top + height >= 96 and left + width >= 8 * index + 32
        assert height * width < 1.5 * 64 * 32
    assert boxes[4:].tolist() == [[0, 0, 128, 64]] * 4
    assert content.mask(5).all()


def test_images_of_a_folder_are_measured_at_the_first_start_alone(tmp_path, monkeypatch):
    """A resumed run and other processes take what was measured; of files that changed, the images are read again."""
    for number, left in enumerate((0, 16, 32)):
        (tmp_path / f"{number}.png").write_bytes(encode(limb(left=left), "PNG"))
    opened, measure = [], content._measure
    monkeypatch.setattr(content, "_measure", lambda image: opened.append(image) or measure(image))

    def start() -> tuple[int, list[bytes]]:
        opened.clear()
        parts = load_radiographs("imagefolder", str(tmp_path), num_proc=1)[0].values()
        masks = [mask.tobytes() for part in parts for mask in measure_content(part).masks]
        return len(opened), masks

    (first, masks), (second, same) = start(), start()
    assert (first, second) == (3, 0) and masks == same
    (tmp_path / "1.png").write_bytes(encode(limb(left=24), "PNG"))
    assert start()[1] != masks


def test_an_image_that_cannot_be_read_counts_whole():
    content = measure_content(make_rows([b"no image", encode(limb(), "PNG")]))
    assert content.mask(0).all() and not content.mask(1).all()


def test_an_image_that_is_away_while_it_is_measured_is_read_right_and_measured_at_the_next_start(tmp_path, monkeypatch):
    """Only what could not be read is opened again, and processes beside the first one count on what it found."""
    rows = datasets.Dataset.from_dict({"image": [str(tmp_path / f"{number}.png") for number in range(3)]})
    rows = rows.cast_column("image", datasets.Image(decode=False)).add_column("height", [128] * 3)
    rows = rows.add_column("width", [64] * 3)
    images = [encode(limb(seed=seed), "PNG") for seed in range(3)]
    (tmp_path / "0.png").write_bytes(images[0])
    (tmp_path / "1.png").write_bytes(b"no image")
    opened, measure = [], content._measure
    monkeypatch.setattr(content, "_measure", lambda image: opened.append(Path(image["path"]).name) or measure(image))

    away = bucketed({"train": rows}, batch_size=1, **LOOK)
    (tmp_path / "2.png").write_bytes(images[2])
    found, right = pixel_values(away.parts["train"][2]), fit_image(as_tensor(limb(seed=2)), (128, 64))
    assert torch.equal(found, right) and away.parts["train"].content.mask(2).all()

    monkeypatch.setenv("LOCAL_RANK", "1")
    assert measure_content(rows).checksum == away.parts["train"].content.checksum and len(opened) == 3
    monkeypatch.delenv("LOCAL_RANK")
    assert measure_content(rows, retry=False).checksum == away.parts["train"].content.checksum and len(opened) == 3
    contents = [measure_content(rows) for _ in range(2)]
    assert opened[3:] == ["1.png", "2.png", "1.png"]  # a damaged one at each start
    for again in contents:
        assert np.array_equal(again.mask(2), background_mask(limb(seed=2))) and not np.isnan(again.ranges[[0, 2]]).any()


@pytest.mark.parametrize(
    "damage", [lambda _: b"", lambda whole: whole[:-30], lambda whole: whole[:200] + b"\0\1" * 300]
)
def test_a_damaged_cache_is_measured_anew(tmp_path, monkeypatch, caplog, damage):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    rows = make_rows([encode(limb(), "PNG")])
    first = measure_content(rows)
    (file,) = (tmp_path / "radmae_patient").iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert measure_content(rows).checksum == first.checksum and file.read_bytes() == whole
    assert f"{file} is damaged" in caplog.text


def test_the_range_of_an_image_is_that_of_its_scaling():
    content = measure_content(make_rows([encode(limb(), "PNG")]))
    low, high, inner_low, inner_high = content.ranges[0]
    assert (low, high) == (limb().min(), limb().max())
    assert [inner_low, inner_high] == pytest.approx(np.percentile(limb(), (0.5, 99.5)), rel=1e-6)


def test_columns_that_are_there_are_taken_and_no_image_is_opened():
    made = [measure_image(limb()), measure_image(limb(left=0))]
    columns = {name: [values[name] for values in made] for name in COLUMNS}
    content = measure_content(make_rows([b"", b""], columns=columns))
    assert np.array_equal(content.mask(1), background_mask(limb(left=0)))
    assert content.ranges.tolist() == columns["grey_range"]


@pytest.mark.parametrize(
    "change", [lambda mask: bytes([VERSION + 1]) + mask[1:], lambda mask: mask[:-1], lambda _: b""]
)
def test_masks_of_another_rule_are_refused(change):
    made = measure_image(limb())
    columns = {"patient_mask": [change(made["patient_mask"])], "grey_range": [made["grey_range"]]}
    with pytest.raises(ValueError, match="prepare the shards anew"):
        measure_content(make_rows([b""], columns=columns))


def test_images_that_show_little_are_batched_apart_and_fewer_of_their_patches_take_part():
    rows = limbs()
    data = bucketed({"train": rows}, batch_size=4, **LOOK)
    little, much = data.parts["train"].bin_ids[:12], data.parts["train"].bin_ids[12:]
    assert not set(little) & set(much)
    assert data.bins.tokens[little].max() < 0.5 * data.bins.tokens[much].min()
    whole = bucketed({"train": rows}, batch_size=4, background="keep", **LOOK)
    assert (
        whole.bins.levels is None
        and (whole.bins.shapes[whole.train.bin_ids] == data.bins.shapes[data.train.bin_ids]).all()
    )


def test_every_informative_patch_of_an_image_has_a_place_in_its_batch():
    data = bucketed({"train": limbs()}, batch_size=4, **LOOK)
    for batch in bucket_loader(data.parts["train"], BucketCollator(PATCH), 4):
        assert (batch["patch_mask"].sum(1) <= batch["num_tokens"]).all()


def test_cropped_images_are_binned_by_what_is_left_of_them():
    data = bucketed({"train": limbs()}, batch_size=4, crop_to_content=True, num_bins=2, **LOOK)
    dataset = data.parts["train"]
    assert (dataset.sizes[:12].prod(1) < 1.5 * 64 * 32).all() and (data.sizes == dataset.sizes).all()
    for split in (data.train, dataset):
        assert split[0]["patch_mask"].float().mean() > 0.8


def test_a_processor_cuts_an_image_to_the_content_that_it_was_trained_on(tmp_path):
    rows = limbs()
    data = bucketed({"train": rows}, batch_size=4, crop_to_content=True, num_bins=2, **LOOK)
    RadiographImageProcessor(bins=data.bins.to_dict(), crop_to_content=True).save_pretrained(tmp_path)
    processor = RadiographImageProcessor.from_pretrained(tmp_path)
    for index in (0, 3, 12):
        found = processor(rows[index]["image"]["bytes"], return_tensors="pt")["pixel_values"][0]
        assert torch.equal(found, pixel_values(data.parts["train"][index]))
    with pytest.raises(ValueError, match="needs bins"):
        RadiographImageProcessor(crop_threshold=0.01)


def test_a_random_crop_lies_within_the_content():
    rows = make_rows([encode(limb(), "PNG")] * 4)
    data = bucketed({"train": rows}, batch_size=4, crop_to_content=True, crop_scale=0.3, **LOOK)
    for epoch in range(5):
        data.train.set_epoch(epoch)
        assert (pixel_values(data.train[0]) > 0.1).float().mean() > 0.7  # little of the background


def test_contradictory_options_are_refused():
    with pytest.raises(ValueError, match="goes with background='drop'"):
        bucketed({"train": limbs(2)}, batch_size=1, background="keep", crop_to_content=True, **LOOK)
    with pytest.raises(ValueError, match="expected one of drop, keep"):
        bucketed({"train": limbs(2)}, batch_size=1, background="0.01", **LOOK)
