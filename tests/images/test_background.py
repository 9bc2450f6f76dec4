"""Which patches are background: on pictures made for one property each, and on real radiographs."""

import numpy as np
import pytest
import torch
from PIL import Image

from hf_radmae.images.background import content_box, informative_patches

P = 8


def picture(rows: int = 10, columns: int = 8, level: float = 0.1) -> torch.Tensor:
    """An even background with a textured body of 4 x 3 patches that stands free in it."""
    image = torch.full((1, 1, rows * P, columns * P), level)
    image[0, 0, 3 * P : 7 * P, 2 * P : 5 * P] = 0.4 + 0.2 * texture(4 * P, 3 * P)
    return image


def texture(height: int, width: int) -> torch.Tensor:
    """Waves that no row and no column explains, -1..1."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.sin(0.9 * x + 0.05 * y**2)


def marked(image: torch.Tensor, **options) -> torch.Tensor:
    return informative_patches(image, P, **options)[0].view(image.shape[2] // P, image.shape[3] // P)


def body(rows: int = 10, columns: int = 8) -> torch.Tensor:
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    mask[3:7, 2:5] = True
    return mask


def test_what_varies_is_kept_and_the_even_background_is_not():
    assert torch.equal(marked(picture()), body())


def test_brightness_contrast_and_three_channels_change_nothing():
    image = picture()
    for other in (image + 0.3, image * 1.5, image.expand(-1, 3, -1, -1)):
        assert torch.equal(marked(other), body())


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    images = torch.cat([picture(), torch.rand(1, 1, 80, 64), torch.zeros(1, 1, 80, 64)])
    together = informative_patches(images, P)
    for image, row in zip(images, together, strict=True):
        assert torch.equal(informative_patches(image[None], P)[0], row)


def test_even_soft_tissue_inside_the_skin_is_kept():
    image = picture()
    image[0, 0, 4 * P : 6 * P, 3 * P : 4 * P] = 0.45  # two flat patches, enclosed
    assert torch.equal(marked(image), body())


def test_bright_faint_tissue_at_the_border_is_kept_and_a_white_shutter_is_not():
    image = picture()
    faint = 0.008 * texture(P, 8 * P)
    image[0, 0, 9 * P :] = 0.9 + faint  # an abdomen that hardly lets rays through
    assert marked(image)[9].all()
    image[0, 0, 9 * P :] = 1.0
    assert not marked(image)[9].any()


@pytest.mark.parametrize("sigma", [0.01, 0.03])
def test_noise_does_not_make_the_background_informative_nor_hide_the_body(sigma):
    image = picture() + sigma * torch.randn(1, 1, 80, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(marked(image), body())


def test_the_edge_of_the_collimated_field_is_background_and_a_limb_that_crosses_it_is_not():
    image = picture(level=0.2)
    image[0, 0, :, : P // 2] = 0.0  # a shutter that ends within the first column of patches
    image[0, 0, : P // 2] = 0.0
    assert torch.equal(marked(image), body())
    image[0, 0, : 4 * P, 3 * P : 4 * P] = 0.4 + 0.2 * texture(4 * P, P)
    expected = body()
    expected[:3, 3] = True
    assert torch.equal(marked(image), expected)


def test_a_marker_that_stands_alone_is_background():
    image = picture(20, 16)
    image[0, 0, 8 * P : 16 * P, 6 * P : 13 * P] = 0.5 + 0.2 * texture(8 * P, 7 * P)
    kept = marked(image)
    image[0, 0, P : 2 * P, 14 * P : 15 * P] = 1 - 0.2 * torch.rand(P, P)
    assert torch.equal(marked(image), kept)


def test_a_threshold_of_flat_patches_is_a_standard_deviation():
    image = picture()
    image[0, 0, 3 * P : 7 * P, 2 * P : 5 * P] = 0.1 + 0.02 * texture(4 * P, 3 * P)
    assert torch.equal(marked(image, threshold=0.005), body())
    assert marked(image, threshold=0.05).all()  # all is background, so that all counts


def test_of_an_image_that_is_flat_everywhere_all_patches_count():
    assert informative_patches(torch.zeros(2, 1, 16, 16), 8).all()
    assert informative_patches(torch.zeros(1, 1, 8, 8), 8).tolist() == [[True]]


def test_the_box_holds_every_informative_patch_and_no_smaller_one_does():
    mask = torch.zeros(5, 7, dtype=torch.bool)
    mask[1, 2] = mask[3, 5] = True
    assert content_box(mask.flatten(), (5, 7), 16) == (16, 32, 48, 64)
    with pytest.raises(ValueError, match="without an informative patch"):
        content_box(torch.zeros(6, dtype=torch.bool), (2, 3), 16)


def grey(path, side=256, patch=16) -> torch.Tensor:
    image = Image.open(path).convert("L")
    width, height = (max(patch, round(n * side / max(image.size) / patch) * patch) for n in image.size)
    pixels = np.asarray(image.resize((width, height)), np.float32)
    return torch.from_numpy((pixels - pixels.min()) / (pixels.max() - pixels.min()))[None, None]


def test_real_limbs_are_half_background_and_trunks_hardly_any(radiographs):
    share = {}
    for region in ("lower_extremity", "upper_extremity", "pelvis", "spine", "chest"):
        paths = sorted((radiographs / "images" / region).iterdir())[::7][:30]
        share[region] = np.mean([informative_patches(grey(path), 16).float().mean() for path in paths])
    assert share["lower_extremity"] < 0.65 and share["upper_extremity"] < 0.65
    assert share["pelvis"] > 0.8 and share["spine"] > 0.9 and share["chest"] > 0.9


def test_noise_on_real_radiographs_changes_few_patches(radiographs):
    """A rule by contrast alone takes every patch of a noisy image for informative."""
    changed = []
    for path in sorted((radiographs / "images" / "lower_extremity").iterdir())[:100:5]:
        image = grey(path)
        noisy = image + 0.015 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
        changed.append((informative_patches(noisy, 16) != informative_patches(image, 16)).float().mean())
    assert np.mean(changed) < 0.08
