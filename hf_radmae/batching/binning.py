"""A few shapes for images of every size: each image is resized to the closest, so that batches stack without padding.

Everything here works on sizes alone, `(height, width)` in pixels, and opens no image. Where only a part of an image is
kept (its informative box), pass the sizes of the parts. `fit_bins` chooses the shapes, `assign` gives each image its
bin, `content_sizes` says what an image is resized to before it is padded to its bin.
"""

from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_radmae.batching.grids import (
    ceil_to_grid,
    checked_sizes,
    log_aspect_scale,
    naflex_grids,
    round_to_grid,
    row_index,
    target_sizes,
    unique_rows,
)
from hf_radmae.batching.kmedoids import k_medoids

Array = NDArray[Any]

STRATEGIES: dict[str, str] = {
    "smart": "few shapes fitted to the sizes, each image resized to the closest: no padding, nothing lost",
    "mixed": "the shapes of smart, but the aspect kept and the rest padded; the model drops padded patches",
    "strict": "one bin per exact size (VariViT), sides rounded to patches; a size with less than a batch is lost",
    "round_up": "each side rounded up to 3/8, 4/8 .. 8/8 of the largest square's and padded",
    "pad": "each side padded up to the next patch: one bin per patch grid, hence many short batches",
    "square": "one square of the token budget, each image resized to it",
}
_RESIZED = ("smart", "strict", "square")  # the others keep the aspect and pad

# An image of log aspect a and log scale s given to a shape of a', s' costs |a - a'|^1.5 + w |s - s'|^1.5: aspect before
# scale, and a power between 1, which has the lowest mean change, and 2, which spares the worst cases.
_SCALE_WEIGHT = 0.05
_COARSE, _FINE = 768, 6144  # weighted points that the search, then its refinement looks at


class NoBinsError(ValueError):
    """No image would be left: strict binning of sizes of which none fills a batch."""


@dataclass(frozen=True, eq=False)
class Bins:
    """Shapes that batches are made of, the one of most patches first.

    Attributes:
        shapes: (K, 2) int64 height and width in pixels, multiples of `patch_size`.
        strategy: A key of `STRATEGIES`.
        patch_size: Side of a patch in pixels.
        max_tokens: Most patches of an image.
        max_side: Longest side in pixels of an image, or None.
        exact_sizes: (K, 2) int64 image size that each bin takes (strict), else None.
        levels: (K,) int64 patches of an image that take part, see `with_levels`; all of them where None.
    """

    shapes: Array
    strategy: str
    patch_size: int
    max_tokens: int
    max_side: int | None = None
    exact_sizes: Array | None = None
    levels: Array | None = None

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def patches(self) -> Array:
        """(K,) int64 patches of each shape."""
        return (self.shapes // self.patch_size).prod(1)

    @property
    def tokens(self) -> Array:
        """(K,) int64 patches of an image that take part in each bin."""
        return self.patches if self.levels is None else self.levels

    def without_levels(self) -> "Bins":
        """The shapes alone, each once."""
        if self.levels is None:
            return self
        first = np.flatnonzero(~self._lower())
        exact = None if self.exact_sizes is None else self.exact_sizes[first]
        return replace(self, shapes=self.shapes[first], exact_sizes=exact, levels=None)

    def _lower(self) -> Array:
        """(K,) bool: the bin is a lower level of the shape of the one before."""
        keys = np.hstack([self.shapes] if self.exact_sizes is None else [self.shapes, self.exact_sizes])
        return np.r_[False, (keys[1:] == keys[:-1]).all(1)]

    def to_dict(self) -> dict[str, Any]:
        """Lists and numbers, ready for JSON."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Bins":
        """The bins that `to_dict` was called on, also after a way through JSON."""
        arrays = {
            name: np.array(values[name], np.int64) for name in ("shapes", "exact_sizes", "levels") if values.get(name)
        }
        return cls(**{**values, **arrays})


def fit_bins(
    sizes: ArrayLike,
    *,
    strategy: str = "smart",
    num_bins: int = 16,
    patch_size: int = 16,
    max_tokens: int = 256,
    max_side: int | None = None,
    batch_size: int = 8,
    min_images: int | None = None,
) -> Bins:
    """Choose the shapes for images of these sizes.

    `smart` and `mixed` are a weighted k-medoid problem whose candidates are the legal patch grids, solved by local
    search (`kmedoids`) first on a thinned set of sizes, then around that solution on a finer one. That is near-exact:
    of 60 random cases of 80 images in 2 or 3 bins 59 met the brute-force optimum, the worst cost 2 % more. With a floor
    of 12 images per bin 55 met it and the worst cost 24 % more, with one of 20 (of at most 26 or 40) 52 and 59 %.

    Args:
        sizes: (N, 2) height and width in pixels.
        strategy: A key of `STRATEGIES`.
        num_bins: Most shapes of `smart` and `mixed`; there are fewer where images are few or alike.
        patch_size: Side of a patch in pixels.
        max_tokens: Most patches of a shape. `round_up` and `square` keep within the largest square of so many.
        max_side: Longest side of a shape in pixels, or None.
        batch_size: Images per step on all ranks together.
        min_images: Fewest images of a bin (`smart`, `mixed`), so that batches fill; one batch by default.

    Raises:
        ValueError: On an unknown strategy, a size below one pixel, or a budget that no patch fits.
        NoBinsError: Where strict binning loses every image.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"Unknown binning strategy {strategy!r}: choose one of {', '.join(STRATEGIES)}.")
    if min(num_bins, patch_size, max_tokens, batch_size) < 1 or (max_side is not None and max_side < patch_size):
        raise ValueError(
            f"num_bins={num_bins}, patch_size={patch_size}, max_tokens={max_tokens} and batch_size={batch_size} must "
            f"be at least 1, and max_side={max_side} at least one patch."
        )
    sizes = checked_sizes(sizes)
    budget: dict[str, Any] = {"patch_size": patch_size, "max_tokens": max_tokens, "max_side": max_side}
    longest = max_tokens if max_side is None else max_side // patch_size
    exact = None
    if strategy in ("smart", "mixed"):
        floor = batch_size if min_images is None else min_images
        grids = _fit_grids(target_sizes(sizes, **budget) / patch_size, num_bins, floor, max_tokens, longest)
    elif strategy == "strict":
        exact, counts = np.unique(sizes, axis=0, return_counts=True)
        exact = exact[counts >= batch_size]
        if not len(exact):
            raise NoBinsError(
                f"Strict binning loses all {len(sizes)} images: no size occurs {batch_size} times, the most frequent "
                f"{counts.max()} times. Lower the batch size or use smart binning."
            )
        grids = round_to_grid(target_sizes(exact, **budget) / patch_size, max_tokens, longest)
    elif strategy == "round_up":
        steps = np.unique(np.ceil(_square_side(budget) * np.arange(3, 9) / 8).astype(np.int64))
        grids = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    elif strategy == "pad":
        grids = np.unique(naflex_grids(sizes, **budget, upscale=False), axis=0)
    else:
        grids = np.full((1, 2), _square_side(budget))
    order = np.lexsort((grids[:, 0], -grids.prod(1)))
    return Bins(grids[order] * patch_size, strategy, exact_sizes=None if exact is None else exact[order], **budget)


def assign(sizes: ArrayLike, bins: Bins, informative: ArrayLike | None = None) -> Array:
    """Give each image its bin.

    Where images are resized it is the closest by cost, where they are padded the smallest that contains the image at
    its own scale (the closest where none does), and where binning is strict the one of exactly its size. Of the levels
    of a shape it is the lowest that takes all informative patches, or the highest where none does.

    Args:
        sizes: (N, 2) height and width in pixels.
        informative: (N,) share of the patches of each image that carry information, for bins with levels; 1 where None.

    Returns:
        (N,) int64 indices into `bins.shapes`; -1 for an image that is lost (strict only).
    """
    sizes = checked_sizes(sizes)
    if bins.levels is None:
        return _assign_shape(sizes, bins)
    lower = bins._lower()
    ids = _assign_shape(sizes, bins.without_levels())
    ids = np.where(ids < 0, -1, np.flatnonzero(~lower)[ids])
    needed = bins.patches[ids] * (1.0 if informative is None else np.asarray(informative, np.float64))
    lower, levels = np.roll(lower, -1), np.roll(bins.levels, -1)  # of the next bin
    while (down := (ids >= 0) & lower[ids] & (levels[ids] >= needed)).any():
        ids += down
    return ids


def _assign_shape(sizes: Array, bins: Bins) -> Array:
    """The bin of each image among bins without levels."""
    budget: dict[str, Any] = {"patch_size": bins.patch_size, "max_tokens": bins.max_tokens, "max_side": bins.max_side}
    if bins.exact_sizes is not None:
        return row_index(sizes, bins.exact_sizes)
    if bins.strategy not in ("pad", "round_up"):
        return _closest(target_sizes(sizes, **budget), bins.shapes)
    if bins.strategy == "pad":
        grids = naflex_grids(sizes, **budget, upscale=False)
    else:
        side = _square_side(budget) * bins.patch_size
        grids = ceil_to_grid(sizes * np.minimum(1.0, side / sizes.max(1))[:, None] / bins.patch_size)
    unique, inverse = unique_rows(grids * bins.patch_size)
    ids = row_index(unique, bins.shapes)
    for row in np.flatnonzero(ids < 0):
        containing = np.flatnonzero((bins.shapes >= unique[row]).all(1))
        ids[row] = containing[-1] if len(containing) else _closest(unique[row : row + 1], bins.shapes)[0]
    return ids[inverse]


def content_sizes(sizes: ArrayLike, bins: Bins, ids: Array) -> Array:
    """The size that each image is resized to; the rest of its bin's shape is padding.

    Args:
        sizes: (N, 2) height and width in pixels.
        ids: (N,) bin of each image, from `assign`. For an image with -1 the result means nothing.

    Returns:
        (N, 2) int64: the bin's shape where the strategy resizes; else the largest size within the shape that keeps
        the aspect, which only `mixed` enlarges an image to.
    """
    shapes = bins.shapes[ids]
    if bins.strategy in _RESIZED:
        return shapes
    sizes = np.asarray(sizes)
    scale = (shapes / sizes).min(1)
    if bins.strategy != "mixed":
        scale = np.minimum(scale, 1.0)
    return np.clip(np.rint(sizes * scale[:, None]).astype(np.int64), 1, shapes)


def _square_side(budget: dict[str, Any]) -> int:
    """Patches along the side of the largest square within the budget."""
    side = isqrt(budget["max_tokens"])
    return side if budget["max_side"] is None else min(side, budget["max_side"] // budget["patch_size"])


def _costs(points: Array, shapes: Array) -> Array:
    """(N, K) cost of giving each point to each shape, both as `log_aspect_scale`."""
    aspect = np.abs(points[:, :1] - shapes[:, 0])
    scale = np.abs(points[:, 1:] - shapes[:, 1])
    return aspect * np.sqrt(aspect) + _SCALE_WEIGHT * scale * np.sqrt(scale)


def _closest(sizes: Array, shapes: Array) -> Array:
    """Index of the shape of least cost for each size, the first of equals."""
    points, centres = log_aspect_scale(sizes), log_aspect_scale(shapes)
    best, ids = np.full(len(sizes), np.inf), np.zeros(len(sizes), np.int64)
    for index in range(len(shapes)):  # shape by shape, so that memory stays at a few numbers per size
        cost = _costs(points, centres[index : index + 1])[:, 0]
        closer = cost < best
        best[closer], ids[closer] = cost[closer], index
    return ids


def _fit_grids(sides: Array, num_bins: int, floor: int, max_tokens: int, max_patches: int) -> Array:
    """Grids (K, 2) of near-least total cost for target sides (N, 2) in patches: coarse search, then refinement."""
    points, weights = _thin(log_aspect_scale(sides), np.ones(len(sides)), _FINE)
    coarse, coarse_weights = _thin(points, weights, _COARSE)
    coarse_sides = np.exp(coarse[:, 1:] + coarse[:, :1] * [0.5, -0.5])
    grids = np.unique(round_to_grid(coarse_sides, max_tokens, max_patches), axis=0)
    grids = grids[k_medoids(_costs(coarse, log_aspect_scale(grids)), coarse_weights, num_bins, floor)]
    steps = np.stack(np.meshgrid(np.arange(-2, 3), np.arange(-2, 3)), -1).reshape(-1, 2)
    near = np.unique(np.clip(grids[:, None] + steps, 1, max_patches).reshape(-1, 2), axis=0)
    near = near[near.prod(1) <= max_tokens]
    start = row_index(grids, near)
    grids = near[k_medoids(_costs(points, log_aspect_scale(near)), weights, num_bins, floor, start)]
    while len(grids) > 1:  # thinned points are near the true sizes: a bin may end just under the floor
        counts = np.bincount(_closest(sides, grids), minlength=len(grids))
        if counts.min() >= floor:
            break
        grids = np.delete(grids, counts.argmin(), axis=0)
    return grids


def _thin(points: Array, weights: Array, limit: int) -> tuple[Array, Array]:
    """At most `limit` weighted points in place of many: means over cells of the (log aspect, log scale) plane."""
    if len(points) <= limit:
        return points, weights
    step = np.array([0.008, 0.064])  # cells are longer along the scale, which counts less
    while True:
        cells, inverse = unique_rows(np.rint((points - points.min(0)) / step).astype(np.int64))
        if len(cells) <= limit:
            break
        step *= 1.3
    total = np.bincount(inverse, weights)
    return np.stack([np.bincount(inverse, weights * axis) / total for axis in points.T], 1), total
