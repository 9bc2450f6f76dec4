"""How many patches of an image take part: each shape of the bins split into a few levels of informative patches.

All images of a batch need equal counts. One count for a whole shape would either cut into images that show much or add
background to those that show little, so that images with similar counts are batched together.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_radmae.batching.binning import Bins

Array = NDArray[Any]

CANDIDATES = 64  # shares of a shape's patches among which the levels are chosen


def with_levels(
    bins: Bins, ids: ArrayLike, informative: ArrayLike, *, num_levels: int = 4, min_images: int = 1
) -> Bins:
    """Split each shape into up to `num_levels` bins, for images with at most so many informative patches each.

    The levels of a shape are those for which the fewest patches take part in all, exactly, among multiples of 1/64 of
    its patches, with at least `min_images` images in each.

    Args:
        bins: bins without levels.
        ids: (N,) bin of each image, from `assign`; images with -1 are left out.
        informative: (N,) share of the patches of each image that carry information, 0..1.
        num_levels: most levels of a shape.
        min_images: least images of a level, for instance a batch.

    Returns:
        The same bins with each shape repeated once per level, the highest first. The highest is what the image with
        most informative patches needs; in a shape without images it is all patches.
    """
    ids, informative = np.asarray(ids), np.asarray(informative, np.float64)
    if num_levels < 1 or min_images < 1:
        raise ValueError(f"num_levels={num_levels} and min_images={min_images} must be at least 1")
    shapes, levels = [], []
    for bin_id, patches in enumerate(bins.patches.tolist()):
        chosen = _levels(informative[ids == bin_id], num_levels, min_images)
        tokens = np.unique(np.ceil(np.array(chosen) * patches / CANDIDATES).astype(np.int64))[::-1]
        shapes += [bin_id] * len(tokens)
        levels += tokens.tolist()
    exact = None if bins.exact_sizes is None else bins.exact_sizes[shapes]
    return replace(bins, shapes=bins.shapes[shapes], exact_sizes=exact, levels=np.array(levels))


def _levels(informative: Array, num_levels: int, min_images: int) -> list[int]:
    """The best levels of one shape in 1/64 of its patches, by dynamic programming over how many images each covers."""
    if not len(informative):
        return [CANDIDATES]
    needed = np.clip(np.ceil(informative * CANDIDATES - 1e-9).astype(np.int64), 1, CANDIDATES)
    below = np.cumsum(np.bincount(needed, minlength=CANDIDATES + 1))  # images that a level takes
    candidates = [0, *np.unique(needed).tolist()]
    # Highest level so far -> tokens of the images up to it, and the levels.
    best: dict[int, tuple[int, list[int]]] = {0: (0, [])}
    for _ in range(num_levels):
        longer = dict(best)
        for level in candidates[1:]:
            for last, (cost, levels) in best.items():
                images = below[level] - below[last]
                total = cost + level * images
                if last < level and images >= min_images and (level not in longer or total < longer[level][0]):
                    longer[level] = (total, [*levels, level])
        best = longer
    return best[candidates[-1]][1] if candidates[-1] in best else [candidates[-1]]
