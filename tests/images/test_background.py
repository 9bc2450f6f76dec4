"""Where the patient is does not depend on contrast, clips, noise, polarity, depth, or the grid that asks."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_multiotsu

from hf_radmae import patch_mask
from hf_radmae.images.background import SIDE, background_mask, content_box, mask_on_grid, pixel_box

RNG = np.random.default_rng(0)


def limb(height: int = 300, width: int = 220, angle: float = 0.0) -> np.ndarray:
    """A cylinder of flesh with a bone in it, in air: absorption by thickness, 16 bit, with a little noise."""
    y, x = np.mgrid[:height, :width]
    across = np.cos(angle) * (x - width / 2) + np.sin(angle) * (y - height / 2)
    flesh = np.sqrt(np.maximum(1 - (across / (0.22 * width)) ** 2, 0))
    bone = np.sqrt(np.maximum(1 - (across / (0.07 * width)) ** 2, 0))
    grey = 300 + 1500 * flesh + 1200 * bone + np.random.default_rng(1).normal(0, 8, x.shape)
    return grey.astype(np.uint16)


def truth(image: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Share of each patch that the limb covers."""
    flesh = ndimage.gaussian_filter(image.astype(float), 2) > 500
    return shares(flesh, grid)


def shares(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Share of each patch where the mask is True."""
    edges = [np.rint(np.arange(n + 1) * side / n).astype(int) for n, side in zip(grid, mask.shape, strict=True)]
    sums = np.pad(mask.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    corners = sums[np.ix_(edges[0], edges[1])]
    covered = corners[1:, 1:] - corners[:-1, 1:] - corners[1:, :-1] + corners[:-1, :-1]
    return covered / np.maximum(np.outer(np.diff(edges[0]), np.diff(edges[1])), 1)


def with_clip(image: np.ndarray) -> np.ndarray:
    """A clip of 0.03 % of the pixels, three times as bright as all else."""
    changed, side = image.astype(np.float32), max(2, round((image.size * 3e-4) ** 0.5))
    changed[image.shape[0] // 3 :, image.shape[1] // 2 :][:side, :side] = 3 * changed.max()
    return changed


def gamma(image: np.ndarray, power: float) -> np.ndarray:
    """The same contrast bent over its own range."""
    return image.max() * (image / image.max()) ** power


CHANGES = {
    "as it is": lambda image: image,
    "clip": with_clip,
    "gamma 0.5": lambda image: gamma(image, 0.5),
    "gamma 2": lambda image: gamma(image, 2.0),
    "noise": lambda image: image + RNG.normal(0, 0.02 * image.max(), image.shape),
    "inverted": lambda image: image.max() - image,
    "float": lambda image: (image / 3e4).astype(np.float32),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("grid", [(16, 16), (64, 64), (23, 40)])
def test_a_limb_is_kept_and_the_air_beside_it_left_out(change, grid):
    image = limb()
    mask, covered = patch_mask(CHANGES[change](image), grid), truth(image, grid)
    assert mask.shape == grid and mask.dtype == bool
    assert mask[covered > 0.5].all()
    assert (~mask[covered == 0]).mean() > 0.75


@pytest.mark.parametrize("value", [0, 4095])
@pytest.mark.parametrize("share", [0.2, 0.4])
@pytest.mark.parametrize("turned", [0, 3, 8, 15])
def test_what_is_outside_the_exposed_field_is_left_out(value, share, turned):
    image = limb()
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(float)
    y, x, angle = y - y.mean(), x - x.mean(), np.radians(turned)
    side = (1 - share) ** 0.5 / 2
    across, down = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    field = (abs(across) < side * image.shape[1]) & (abs(down) < side * image.shape[0])
    mask = patch_mask(np.where(field, image, value), (64, 64))
    outside, flesh = shares(field, (64, 64)) == 0, truth(np.where(field, image, 0), (64, 64)) > 0.6
    assert (~mask[outside]).mean() > 0.8
    assert mask[flesh].mean() > 0.93


@pytest.mark.parametrize("image", [np.zeros((9, 300)), np.zeros((200, 200)), np.full((5, 5), 7)])
def test_an_image_of_which_nothing_is_known_is_kept_whole(image):
    assert patch_mask(image, (4, 4)).all()


def test_tensors_and_arrays_of_every_depth_say_the_same():
    image = limb()
    expected = patch_mask(image, (20, 20))
    for other in (image.astype(np.int32), torch.from_numpy(image.astype(np.int32)), image.astype(np.float64)):
        assert np.array_equal(patch_mask(other, (20, 20)), expected)


@pytest.mark.parametrize(("image", "grid"), [(np.zeros((3, 4, 5)), (2, 2)), (np.zeros((0, 4)), (2, 2))])
def test_what_is_no_image_is_refused(image, grid):
    with pytest.raises(ValueError, match="expected"):
        patch_mask(image, grid)
    with pytest.raises(ValueError, match="at least 1"):
        patch_mask(limb(), (0, 3))


def test_a_grid_is_read_off_the_mask_by_any_overlap():
    mask = np.zeros((SIDE, SIDE), bool)
    mask[10, 20] = True
    for rows, columns in ((64, 64), (16, 16), (7, 5), (1, 1), (200, 130)):
        found = mask_on_grid(mask, np.arange(rows + 1) / rows, np.arange(columns + 1) / columns)
        for place in np.argwhere(found):
            assert place[0] * SIDE < 11 * rows and (place[0] + 1) * SIDE > 10 * rows
            assert place[1] * SIDE < 21 * columns and (place[1] + 1) * SIDE > 20 * columns
        assert found.any()


def test_the_box_holds_all_of_the_patient():
    mask = np.zeros((SIDE, SIDE), bool)
    mask[8:40, 16:20] = True
    assert content_box(mask) == (8 / SIDE, 16 / SIDE, 32 / SIDE, 4 / SIDE)
    assert pixel_box(content_box(mask), (128, 100)) == (16, 25, 64, 7)
    with pytest.raises(ValueError, match="no content"):
        content_box(np.zeros((SIDE, SIDE), bool))


@pytest.fixture(scope="module")
def silhouettes(radiographs):
    """Real images and their silhouettes: above the lowest of three classes of Otsu, holes filled, specks left out.

    Bright bands along a border, which are no patient, and what is darker than the threshold on purpose count as
    nothing: images with such bands are not drawn.
    """
    found = []
    for region, count in {"lower_extremity": 8, "upper_extremity": 8, "pelvis": 4}.items():
        paths = sorted((radiographs / "images" / region).glob("*"))
        for path in paths[:: len(paths) // (3 * count)]:
            image = np.asarray(Image.open(path).convert("L"))
            edge = np.concatenate([image[3], image[-4], image[:, 3], image[:, -4]])
            if (edge > 250).mean() > 0.03:
                continue
            body = ndimage.gaussian_filter(image.astype(np.float32), 1.5)
            labels, _ = ndimage.label(body > threshold_multiotsu(body, 3)[0])
            sizes = np.bincount(labels.ravel())
            sizes[0] = 0
            found.append((path.name, image, ndimage.binary_fill_holes((sizes >= 0.005 * image.size)[labels])))
            if len(found) % count == 0:
                break
    return found


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_real_bodies_are_kept(silhouettes, change):
    """On real images: less than 1.5 % of the silhouettes' patches are lost, and most images lose none."""
    lost = []
    for _name, image, body in silhouettes:
        kept, covered = patch_mask(CHANGES[change](image), (64, 64)), shares(body, (64, 64)) > 0.5
        lost.append((covered & ~kept).sum() / covered.sum())
    print(f"{change}: mean {np.mean(lost):.4f}, worst {np.max(lost):.3f}")
    assert np.mean(lost) < 0.015
    assert np.median(lost) < 0.001


def test_a_mask_is_of_the_whole_image():
    assert background_mask(limb()).shape == (SIDE, SIDE)
