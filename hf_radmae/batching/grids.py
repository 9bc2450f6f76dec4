"""Arithmetic of image sizes and patch grids: what fits a token budget, and the costs of changing aspect and scale."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def checked_sizes(sizes: ArrayLike) -> Array:
    """Sizes as (N, 2) int64, or a ValueError that names the first row that is no size."""
    array = np.asarray(sizes)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array):
        raise ValueError(f"Expected sizes as (N, 2) height and width in pixels with N >= 1, found {array.shape}.")
    bad = np.flatnonzero(~((array >= 1) & np.isfinite(array) & (array == np.floor(array))).all(1))
    if len(bad):
        raise ValueError(
            f"Row {bad[0]} has size {array[bad[0]].tolist()} ({len(bad)} such rows): height and width must be whole "
            "numbers of pixels, at least 1. Leave unreadable images out before fitting bins."
        )
    return array.astype(np.int64)


def target_sizes(sizes: ArrayLike, *, patch_size: int, max_tokens: int, max_side: int | None = None) -> Array:
    """Scale sizes down, never up, with their aspect kept, into the token budget.

    Args:
        sizes: (N, 2) height and width in pixels.
        patch_size: Side of a patch in pixels.
        max_tokens: Most patches, by area, of a scaled image.
        max_side: Longest side of a scaled image in pixels, or None.

    Returns:
        (N, 2) float64 height and width in pixels, not rounded.
    """
    sizes = np.asarray(sizes, np.float64)
    scale = np.minimum(1.0, patch_size * np.sqrt(max_tokens / sizes.prod(1)))
    if max_side is not None:
        scale = np.minimum(scale, max_side / sizes.max(1))
    return sizes * scale[:, None]


def naflex_grids(
    sizes: ArrayLike, *, patch_size: int, max_tokens: int, max_side: int | None = None, upscale: bool = True
) -> Array:
    """Patch grids of the largest scale at which each image, its sides rounded up to patches, fits the budget.

    The rule of NaFlex: `timm.data.naflex_transforms.get_image_size_for_seq`; without `upscale` its `max_ratio` of 1.

    Returns:
        (N, 2) int64 rows and columns of patches, of at most `max_tokens`.
    """
    unique, inverse = unique_rows(np.asarray(sizes, np.int64))
    sides = unique / patch_size
    area, half = sides.prod(1), sides.sum(1) / 2
    # ceil(h s) ceil(w s) lies between h s w s and (h s + 1)(w s + 1): the scale between where these meet the budget.
    low = (np.sqrt(half**2 + area * (max_tokens - 1)) - half) / area
    high = np.minimum(np.sqrt(max_tokens / area), max_tokens / sides.max(1))
    if not upscale:
        high = np.minimum(high, 1.0)
    if max_side is not None:
        high = np.minimum(high, max_side // patch_size / sides.max(1))
    low = np.minimum(low, high)
    for trial in range(20):  # within a millionth; the highest scale is tried first
        scale = high if trial == 0 else (low + high) / 2
        fits = ceil_to_grid(sides * scale[:, None]).prod(1) <= max_tokens
        low, high = np.where(fits, scale, low), np.where(fits, high, scale)
    return ceil_to_grid(sides * low[:, None])[inverse]


def ceil_to_grid(sides: Array) -> Array:
    """Sides in patches, rounded up to int64; a billionth of a patch too much is taken for a rounding error."""
    return np.maximum(np.ceil(sides - 1e-9), 1).astype(np.int64)


def round_to_grid(sides: Array, max_tokens: int, max_patches: int) -> Array:
    """Nearest patch grids: sides (N, 2) rounded, the one rounded up more shortened while the budget is exceeded."""
    grids = np.clip(np.rint(sides), 1, max_patches).astype(np.int64)
    while len(over := np.flatnonzero(grids.prod(1) > max_tokens)):
        longer = np.where(grids[over] > 1, grids[over] / sides[over], 0).argmax(1)
        grids[over, longer] -= 1
    return grids


def log_aspect_scale(sizes: Array) -> Array:
    """(N, 2) float64 log(height / width) and log(sqrt(height * width)) of sizes (N, 2)."""
    height, width = np.log(sizes).T
    return np.stack([height - width, (height + width) / 2], 1)


def unique_rows(rows: Array) -> tuple[Array, Array]:
    """`np.unique(rows, axis=0, return_inverse=True)` for two columns of integers from 0, many times faster."""
    base = int(rows[:, 1].max()) + 1
    keys, inverse = np.unique(rows[:, 0] * base + rows[:, 1], return_inverse=True)
    return np.stack([keys // base, keys % base], 1), inverse


def row_index(rows: Array, table: Array) -> Array:
    """Index in `table` (K, 2) of each of `rows` (N, 2), integers from 0; -1 where it is not there."""
    base = int(max(rows[:, 1].max(), table[:, 1].max())) + 1
    keys, known = rows[:, 0] * base + rows[:, 1], table[:, 0] * base + table[:, 1]
    order = np.argsort(known)
    found = order[np.minimum(np.searchsorted(known, keys, sorter=order), len(known) - 1)]
    return np.where(known[found] == keys, found, -1)
