"""The shapes of the step benchmarks: the same images in fitted bins, the author's bins, one square, one padded square.

All arms see the same set of images. Batches are drawn from each layout at equal distances of the images' order by
tokens, so that each stands for an equal share of the set, and their mean is the set's.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from binning import draw_sizes

from hf_radmae.batching.binning import Bins, assign, fit_bins
from hf_radmae.batching.levels import with_levels


def archive_sizes(count: int, scale: float) -> np.ndarray:
    """(count, 2) int64 height and width in pixels as the archive's, divided by `scale`."""
    return np.maximum(np.rint(draw_sizes(count, 0.7) / scale), 1).astype(np.int64)


def layouts(
    sizes: np.ndarray, informative: np.ndarray, *, side: int, patch_size: int, num_bins: int, batch_size: int
) -> dict[str, tuple[Bins, np.ndarray]]:
    """The bins of each layout and the bin of each image.

    `bins` are fitted, `levels` the same shapes with levels of informative patches, `padded` is the largest square,
    `author` each side rounded up to 3/8, 4/8 .. 8/8 of its side, `square` one of the mean tokens of the fitted bins.

    Args:
        sizes: (N, 2) height and width in pixels.
        informative: (N,) share of the patches of each image that carry information.
        side: of the largest square in pixels.
        patch_size: side of a patch in pixels.
        num_bins: most fitted bins.
        batch_size: fewest images of a fitted bin and of a level.
    """
    budget: dict[str, Any] = {"patch_size": patch_size, "max_tokens": (side // patch_size) ** 2, "max_side": side}
    fitted = fit_bins(sizes, num_bins=num_bins, batch_size=batch_size, **budget)
    ids = assign(sizes, fitted)
    tokens = round(fitted.tokens[ids].mean() ** 0.5) ** 2
    bins = {
        "bins": fitted,
        "levels": with_levels(fitted, ids, informative, num_levels=6, min_images=batch_size),
        "padded": Bins(np.array([[side, side]]), "round_up", **budget),
        "author": fit_bins(sizes, strategy="round_up", **budget),
        "square": fit_bins(sizes, strategy="square", patch_size=patch_size, max_tokens=tokens),
    }
    return {name: (layout, assign(sizes, layout, informative)) for name, layout in bins.items()}


def draw(bins: Bins, ids: np.ndarray, steps: int, batch_size: Callable[[int], int]) -> list[tuple[int, np.ndarray]]:
    """The bin and the images of each of some batches, which stand for equal shares of the images.

    Args:
        bins, ids: a layout.
        steps: batches to draw; three are enough of a single shape.
        batch_size: images of a batch, from the patches of an image that take part.
    """
    rng = np.random.default_rng(0)
    steps = steps if len(bins) > 1 else min(steps, 3)
    order = np.argsort(bins.tokens[ids], kind="stable")
    drawn = []
    for bin_id in ids[order[((np.arange(steps) + 0.5) / steps * len(ids)).astype(int)]]:
        images, count = np.flatnonzero(ids == bin_id), batch_size(int(bins.tokens[bin_id]))
        drawn.append((int(bin_id), rng.choice(images, count, replace=count > len(images))))
    return drawn
