"""Masks: which patches carry information, which are seen, which are predicted."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import ViTMAEConfig
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEEmbeddings

from hf_radmae.masking import (
    count_predicted,
    gather_tokens,
    informative_patches,
    keyed_noise,
    patch_grid,
    select_visible,
    visible_count,
)


@given(st.integers(1, 4), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32))
def test_the_smallest_noise_stays_visible_and_every_patch_is_seen_or_masked(batch, patches, ratio, seed):
    noise = torch.rand(batch, patches, generator=torch.Generator().manual_seed(seed))
    kept = visible_count(patches, ratio)
    ids_keep, mask, _ = select_visible(noise, kept)
    assert ids_keep.shape == (batch, kept)
    for row, ids, masked in zip(noise.tolist(), ids_keep.tolist(), mask.tolist(), strict=True):
        assert ids == sorted(range(patches), key=row.__getitem__)[:kept]
        assert masked == [float(patch not in ids) for patch in range(patches)]


def test_ids_restore_undoes_the_shuffle():
    noise, tokens = torch.rand(3, 17), torch.rand(3, 17, 5)
    everything, _, ids_restore = select_visible(noise, 17)
    assert torch.equal(gather_tokens(gather_tokens(tokens, everything), ids_restore), tokens)


def test_of_equal_noise_the_first_patches_stay():
    ids_keep, mask, _ = select_visible(torch.zeros(2, 100), 30)
    assert ids_keep.tolist() == [list(range(30))] * 2
    assert mask.sum() == 140


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.75, 0.9, 1.0])
def test_the_selection_is_that_of_the_stock_class(ratio):
    config = ViTMAEConfig(hidden_size=8, num_attention_heads=2, mask_ratio=ratio)
    tokens, noise = torch.rand(2, 50, 8), torch.rand(2, 50)
    expected = ViTMAEEmbeddings(config).random_masking(tokens, noise)
    ids_keep, mask, ids_restore = select_visible(noise, visible_count(50, ratio))
    for ours, theirs in zip((gather_tokens(tokens, ids_keep), mask, ids_restore), expected, strict=True):
        assert torch.equal(ours, theirs)


@given(st.integers(1, 30), st.floats(0, 1), st.integers(0, 2**32))
def test_predicted_patches_are_counted_one_by_one(patches, ratio, seed):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(3, patches, generator=generator)
    patch_mask = torch.rand(3, patches, generator=generator) < 0.6
    expected = 0
    for row, informative in zip(noise.tolist(), patch_mask.tolist(), strict=True):
        masked = sorted(range(patches), key=row.__getitem__)[int(patches * (1 - ratio)) :]
        expected += sum(informative[patch] for patch in masked)
    assert count_predicted(noise, patch_mask, ratio) == expected
    assert count_predicted(noise, None, ratio) == count_predicted(noise, torch.ones_like(patch_mask), ratio)


def test_the_noise_of_a_key_is_the_same_everywhere_and_always():
    """These numbers were drawn once: a resumed run on another machine, or with another numpy, must draw them again."""
    expected = [0.7296513319015503, 0.5737348794937134, 0.67695152759552, 0.17568689584732056]
    assert keyed_noise(7, epoch=3, index=41, num_patches=4).tolist() == expected
    assert keyed_noise(0, epoch=None, index=0, num_patches=2).tolist() == [0.034741878509521484, 0.011546730995178223]


def test_every_part_of_the_key_changes_the_noise():
    keys = [(s, e, i) for s in (0, 1, 2**40) for e in (None, 0, 1, 2**33) for i in (0, 1, 2**34)]
    rows = {tuple(keyed_noise(*key, 64).tolist()) for key in keys}
    assert len(rows) == len(keys)


def test_the_noise_is_uniform_and_free_of_correlation_between_images():
    noise = torch.stack([keyed_noise(0, 0, index, 196) for index in range(500)])
    assert noise.dtype == torch.float32 and noise.min() >= 0 and noise.max() < 1
    assert abs(noise.mean() - 0.5) < 0.005 and abs(noise.var() - 1 / 12) < 0.005
    correlation = torch.corrcoef(noise)[~torch.eye(500, dtype=torch.bool)]
    assert abs(correlation.mean()) < 0.002 and correlation.abs().max() < 0.4


def test_flat_patches_are_not_informative_and_patches_go_row_by_row():
    image = torch.full((1, 1, 8, 12), 0.7)
    image[0, 0, 4:8, 8:12] += 0.05 * torch.tensor([1.0, -1.0] * 2)
    assert informative_patches(image, 4).tolist() == [[False, False, False, False, False, True]]


def test_brightness_and_a_copy_in_three_channels_change_nothing():
    image = 0.1 + 0.02 * torch.rand(4, 1, 32, 48) * torch.rand(4, 1, 1, 48).round()
    expected = informative_patches(image, 8, threshold=0.005)
    assert expected.any() and not expected.all()
    assert torch.equal(informative_patches(image + 0.5, 8, threshold=0.005), expected)
    assert torch.equal(informative_patches(image.expand(-1, 3, -1, -1), 8, threshold=0.005), expected)


def test_of_an_image_that_is_flat_everywhere_all_patches_count():
    images = torch.zeros(2, 1, 16, 16)
    images[1, 0, 0, 0] = 1
    assert informative_patches(images, 8).tolist() == [[True] * 4, [True, False, False, False]]


def test_real_limbs_have_many_flat_patches_and_chests_few(radiographs):
    share = {}
    for region in ("lower_extremity", "chest"):
        marked = []
        for path in sorted((radiographs / "images" / region).iterdir())[:200:10]:
            grey = np.asarray(Image.open(path).convert("L").resize((192, 256)), np.float32)
            grey = (grey - grey.min()) / (grey.max() - grey.min())
            marked.append(informative_patches(torch.from_numpy(grey)[None, None], 16).float().mean())
        share[region] = sum(marked) / len(marked)
    assert 0.3 < share["lower_extremity"] < 0.8 < share["chest"]


@pytest.mark.parametrize("height, width", [(33, 32), (32, 31), (0, 32), (8, 16)])
def test_an_image_that_is_no_whole_number_of_patches_is_named(height, width):
    with pytest.raises(ValueError, match=f"{height}x{width}"):
        patch_grid(torch.zeros(1, 1, height, width), 16)
