"""Augmentation of radiographs: keyed, mild, and blind to no side."""

import pytest
import torch

from hf_radmae.classification.augmentation import Augmentation

KEYS = [{"seed": 3, "epoch": epoch, "index": index} for epoch in range(3) for index in range(10)]


@pytest.fixture
def image() -> torch.Tensor:
    """Brighter to the top and to the left."""
    y, x = torch.meshgrid(torch.linspace(1, 0, 48), torch.linspace(1, 0, 32), indexing="ij")
    return (0.7 * y + 0.3 * x)[None]


def test_a_key_repeats_and_another_epoch_or_image_differs(image):
    augment = Augmentation()
    results = [augment(image, **key) for key in KEYS]
    assert all(torch.equal(first, augment(image, **key)) for first, key in zip(results, KEYS, strict=True))
    assert all(not torch.equal(results[i], results[j]) for i in range(len(KEYS)) for j in range(i))


def test_the_result_keeps_shape_and_range_and_the_image_is_left_alone(image):
    before = image.clone()
    for key in KEYS:
        result = Augmentation(rotation=30, zoom=0.5, shift=0.3, contrast=1.0, flip=True)(image, **key)
        assert result.shape == image.shape and 0 <= result.min() <= result.max() <= 1
    assert torch.equal(image, before)


def test_up_stays_up_and_left_stays_left(image):
    for key in KEYS:
        result = Augmentation()(image, **key)[0, 8:-8, 6:-6]
        assert result[:16].mean() > result[-16:].mean() and result[:, :10].mean() > result[:, -10:].mean()


def test_flip_mirrors_half_of_the_images_and_never_turns_one_over(image):
    flip = Augmentation(rotation=0, zoom=0, shift=0, contrast=0, flip=True)
    results = [flip(image, **key) for key in KEYS]
    mirrored = [torch.equal(result, image.flip(-1)) for result in results]
    assert all(m or torch.equal(result, image) for m, result in zip(mirrored, results, strict=True))
    assert 5 < sum(mirrored) < 25


def test_without_ranges_nothing_changes(image):
    assert torch.equal(Augmentation(0, 0, 0, 0)(image, **KEYS[0]), image)


def test_a_negative_range_is_refused():
    with pytest.raises(ValueError, match="negative"):
        Augmentation(rotation=-1)
