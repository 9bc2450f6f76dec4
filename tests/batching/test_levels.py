"""Levels: which images of a shape share a count of patches."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_radmae.batching.binning import Bins, assign, fit_bins
from hf_radmae.batching.levels import CANDIDATES, with_levels

SIZES = np.array([[64, 64]] * 60 + [[128, 64]] * 60)


def bins_and_shares(seed: int) -> tuple[Bins, np.ndarray, np.ndarray]:
    bins = fit_bins(SIZES, num_bins=2, patch_size=8, max_tokens=128, batch_size=4)
    return bins, assign(SIZES, bins), np.random.default_rng(seed).beta(1, 1, len(SIZES)).clip(0.01)


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 20))
@settings(max_examples=40)
def test_every_image_keeps_its_shape_and_gets_the_lowest_level_that_takes_its_patches(seed, num_levels, min_images):
    bins, ids, shares = bins_and_shares(seed)
    split = with_levels(bins, ids, shares, num_levels=num_levels, min_images=min_images)
    found = assign(SIZES, split, shares)
    assert (split.shapes[found] == bins.shapes[ids]).all()
    needed = shares * bins.patches[ids]
    assert (split.tokens[found] >= needed - 1e-9).all() and (split.tokens <= split.patches).all()
    for shape in bins.shapes:
        levels = split.tokens[(split.shapes == shape).all(1)]
        assert len(levels) <= num_levels and (np.diff(levels) < 0).all()
        own = (bins.shapes[ids] == shape).all(1)
        lowest = [levels[levels >= need - 1e-9].min() for need in needed[own]]
        assert split.tokens[found][own].tolist() == lowest
    used = np.bincount(found, minlength=len(split))
    assert used.min() >= min(min_images, 60)


@pytest.mark.parametrize("num_levels, min_images", [(2, 1), (3, 5), (4, 8)])
def test_the_levels_are_the_best_of_all_choices(num_levels, min_images):
    """Against every subset of the candidates, on one shape."""
    bins = Bins(np.array([[64, 64]]), "smart", 8, 64)
    shares = np.random.default_rng(3).choice(np.arange(1, 17) / 16, 40)
    needed = np.ceil(shares * CANDIDATES)
    best = np.inf
    for size in range(1, num_levels + 1):
        for levels in combinations(np.unique(needed), size):
            if levels[-1] < needed.max():
                continue
            given_level = np.array(levels)[np.searchsorted(levels, needed)]
            if np.unique(given_level, return_counts=True)[1].min() >= min_images:
                best = min(best, given_level.sum())
    split = with_levels(bins, np.zeros(40, int), shares, num_levels=num_levels, min_images=min_images)
    assert split.tokens[assign([[64, 64]] * 40, split, shares)].sum() == best


def test_without_shares_an_image_goes_to_the_highest_level_of_its_shape():
    bins, ids, shares = bins_and_shares(0)
    split = with_levels(bins, ids, shares, num_levels=3)
    highest = [split.tokens[(split.shapes == shape).all(1)].max() for shape in bins.shapes[ids]]
    assert split.tokens[assign(SIZES, split)].tolist() == highest


def test_bins_with_levels_survive_json_and_strict_bins_keep_their_sizes():
    bins, ids, shares = bins_and_shares(1)
    split = with_levels(bins, ids, shares)
    again = Bins.from_dict(split.to_dict())
    assert (assign(SIZES, again, shares) == assign(SIZES, split, shares)).all()
    strict = fit_bins(SIZES, strategy="strict", patch_size=8, max_tokens=128, batch_size=4)
    split = with_levels(strict, assign(SIZES, strict), shares)
    found = assign([*SIZES, [8, 8]], split, [*shares, 1.0])
    assert (split.exact_sizes[found[:-1]] == SIZES).all() and found[-1] == -1


def test_a_shape_without_images_has_all_its_patches():
    bins, ids, shares = bins_and_shares(2)
    split = with_levels(bins, np.full(len(ids), -1), shares)
    assert (split.tokens == split.patches).all() and len(split) == len(bins)


@pytest.mark.parametrize("options", [{"num_levels": 0}, {"min_images": 0}])
def test_numbers_below_one_are_refused(options):
    with pytest.raises(ValueError, match="at least 1"):
        with_levels(*bins_and_shares(0), **options)
