"""Masks: which patches are seen and which are predicted."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import ViTMAEConfig
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEEmbeddings

from hf_radmae.models.masking import (
    count_predicted,
    gather_tokens,
    keyed_noise,
    order_patches,
    patch_grid,
    patches_at,
    token_counts,
)


@given(st.integers(1, 4), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32))
def test_where_all_patches_are_informative_the_smallest_noise_is_seen_in_its_order(batch, patches, ratio, seed):
    noise = torch.rand(batch, patches, generator=torch.Generator().manual_seed(seed))
    visible, predicted = token_counts(patches, ratio)
    expected = [sorted(range(patches), key=row.__getitem__) for row in noise.tolist()]
    assert order_patches(noise, None, visible, ratio).tolist() == expected
    everywhere = torch.ones_like(noise, dtype=torch.bool)
    if ratio < 1 and visible:
        assert order_patches(noise, everywhere, visible, ratio).tolist() == expected
    assert visible + predicted == patches


@given(st.data())
def test_informative_patches_are_seen_and_predicted_before_flat_ones(data):
    patches, ratio = data.draw(st.integers(1, 40)), data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.75, 0.9, 1.0]))
    num_tokens, prediction_ratio = data.draw(st.integers(1, patches)), data.draw(st.sampled_from([0.25, 0.5, 1.0]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    noise = torch.randn(5, patches, generator=generator)
    patch_mask = torch.rand(5, patches, generator=generator) < torch.linspace(0, 1, 5)[:, None]
    visible, predicted = token_counts(num_tokens, ratio, prediction_ratio)
    order = order_patches(noise, patch_mask, visible, ratio)
    assert (order.sort(dim=1).values == torch.arange(patches)).all()
    counts = []
    for row, informative, used in zip(noise.tolist(), patch_mask, order.tolist(), strict=True):
        ranked = sorted(informative.nonzero().flatten().tolist(), key=row.__getitem__)
        share = int(len(ranked) * (1 - ratio))
        share = min(visible, max(share, 1) if len(ranked) > 1 else share)
        seen, chosen = used[:visible], used[visible : visible + predicted]
        assert seen[:share] == ranked[:share] and not set(seen[share:]) & set(ranked)
        assert chosen[: len(ranked) - share] == ranked[share : share + predicted]
        counts.append(len(set(chosen) & set(ranked)))
    assert count_predicted(patch_mask, ratio, num_tokens, prediction_ratio) == sum(counts)


def test_of_equal_noise_the_first_patches_are_seen():
    assert order_patches(torch.zeros(2, 100), None, 30, 0.7).tolist() == [list(range(100))] * 2


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.75, 0.9, 1.0])
def test_the_selection_is_that_of_the_stock_class(ratio):
    config = ViTMAEConfig(hidden_size=8, num_attention_heads=2, mask_ratio=ratio)
    tokens, noise = torch.rand(2, 50, 8), torch.rand(2, 50)
    kept, mask, ids_restore = ViTMAEEmbeddings(config).random_masking(tokens, noise)
    visible, _ = token_counts(50, ratio)
    order = order_patches(noise, None, visible, ratio)
    assert torch.equal(gather_tokens(tokens, order[:, :visible]), kept)
    assert torch.equal(order.argsort(dim=1), ids_restore)
    assert torch.equal((ids_restore >= visible).float(), mask)


def test_two_informative_patches_are_one_to_see_and_one_to_predict():
    """At a mask ratio of 0.75 the share of two would round down to nothing seen."""
    patch_mask = torch.tensor([[True, True, False, False]])
    order = order_patches(torch.tensor([[0.2, 0.1, 0.3, 0.4]]), patch_mask, 1, 0.75)
    assert order.tolist() == [[1, 0, 2, 3]]
    assert count_predicted(patch_mask, 0.75) == 1
    assert count_predicted(torch.zeros(1, 4, dtype=torch.bool), 0.75) == 0


def test_patches_are_cut_where_they_are_asked_for():
    images = torch.arange(2 * 3 * 8 * 12, dtype=torch.float32).view(2, 3, 8, 12)
    ids = torch.tensor([[5, 0], [2, 2]])
    cut = patches_at(images, 4, ids)
    for image, row, found in zip(images, ids.tolist(), cut, strict=True):
        for patch, pixels in zip(row, found, strict=True):
            top, left = patch // 3 * 4, patch % 3 * 4
            assert torch.equal(pixels, image[:, top : top + 4, left : left + 4])


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


@pytest.mark.parametrize("height, width", [(33, 32), (32, 31), (0, 32), (8, 16)])
def test_an_image_that_is_no_whole_number_of_patches_is_named(height, width):
    with pytest.raises(ValueError, match=f"{height}x{width}"):
        patch_grid(torch.zeros(1, 1, height, width), 16)
