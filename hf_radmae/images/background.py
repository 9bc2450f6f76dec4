"""Which patches of a radiograph carry information, told from its pixels alone, cheaply enough for a loader worker.

Leaving out what is flat is not enough: air around a limb differs from soft tissue by its place, not by its contrast.
What is left out is therefore background, which begins at the border of the image: flat patches that are reached from
there through flat ones, the edge of the collimated field beside them, and markers that lie alone in them.
"""

import torch
from torch import Tensor

from hf_radmae.models.masking import patch_grid

CONSTANT = 0.002  # a patch with a smaller standard deviation shows nothing, however bright: a shutter, or saturation
MOST_NOISE = 0.03  # a larger estimate of the noise would come from anatomy
EDGE_RINGS = 2  # how many patches from the border the edge of the collimated field is looked for
MARKER_SHARE = 1 / 12  # an island of at most this share of the largest one is a marker, or dirt


def informative_patches(pixel_values: Tensor, patch_size: int, threshold: float = 0.01) -> Tensor:
    """Mark the patches that are not background.

    A patch is flat where the standard deviation of its pixels is at most the threshold, raised by the noise of the
    image: the standard deviation that rows and columns of a patch do not explain, in the flattest tenth of its patches.
    Background is what is reached from the border of the image, from patch to neighbouring patch, through flat ones that
    are constant or not brighter than half of the varied ones further inside. So soft tissue, which the edge of the skin
    parts from the air, is kept, and so are flat patches of the abdomen. Close to the border a step parallel to it, no
    brighter than the background, is background too: the edge of the collimated field. Of what remains, islands much
    smaller than the largest are dropped: markers.

    Args:
        pixel_values: float (batch, channels, height, width), grey values 0..1.
        patch_size: side of a patch in pixels.
        threshold: standard deviation up to which a patch of an image without noise is flat.

    Returns:
        bool (batch, patches), row by row. Never all False for an image: where nothing remains, all are True, so that
        such an image is trained on like any other in place of being lost.
    """
    grid = patch_grid(pixel_values, patch_size)
    grey = pixel_values[:, 0] if pixel_values.shape[1] == 1 else pixel_values.mean(1)  # the mean of one is a copy
    mean, variance, between_rows, between_columns = _statistics(grey, grid, patch_size)
    rest = (variance - between_rows - between_columns).clamp(min=0)
    noise = rest.flatten(1).sort(dim=1).values[:, grid[0] * grid[1] // 10, None, None].clamp(max=MOST_NOISE**2)
    spread = 2**0.5 / patch_size  # relative standard deviation of the variance of a patch of nothing but noise
    limit = threshold**2 + noise * (1 + 3.5 * spread) / (1 - 1.3 * spread) * (patch_size / (patch_size - 1)) ** 2
    flat = variance <= limit
    ring, (sides, ends) = _rings(grid, 1, mean.device).any(0), _rings(grid, EDGE_RINGS, mean.device)
    typical = mean.masked_fill(flat | sides | ends, torch.nan).flatten(1).nanmedian(dim=1).values.nan_to_num(torch.inf)
    dark = flat & (mean <= typical[:, None, None])

    background = _grow(ring, dark | (variance <= CONSTANT**2))
    level = mean.masked_fill(~(background & dark), -torch.inf).amax((1, 2), keepdim=True)
    step = sides & (variance - between_columns <= limit) | ends & (variance - between_rows <= limit)
    background = _grow(ring, background | step & (mean <= level + threshold))

    informative = _without_islands(~background).flatten(1)
    return informative | ~informative.any(dim=1, keepdim=True)


def content_box(informative: Tensor, grid: tuple[int, int], patch_size: int) -> tuple[int, int, int, int]:
    """The smallest box around the informative patches of an image: top, left, height and width in pixels.

    Args:
        informative: bool (patches,).
        grid: rows and columns of patches.
        patch_size: side of a patch in pixels.

    Raises:
        ValueError: no patch is informative.
    """
    rows, columns = (informative.view(grid).any(dim=axis).nonzero().flatten() for axis in (1, 0))
    if not len(rows):
        raise ValueError("an image without an informative patch has no content to put a box around")
    top, left = int(rows[0]), int(columns[0])
    return tuple(patch_size * n for n in (top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left))  # type: ignore[return-value]


def _statistics(grey: Tensor, grid: tuple[int, int], patch_size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and variance of each patch, and the variance of the means of its rows and of its columns of pixels.

    Args:
        grey: (batch, height, width).

    Returns:
        each (batch, *grid).
    """
    patches = grey.unflatten(2, (grid[1], patch_size)).unflatten(1, (grid[0], patch_size))  # batch, row, y, column, x
    of_rows, of_columns = patches.mean(4), patches.mean(2)  # batch, row, y, column; batch, row, column, x
    mean = of_rows.mean(2)
    # Two means over one axis each are five times faster than one over both, which do not lie side by side.
    variance = grey.square().unflatten(2, (grid[1], patch_size)).mean(3).unflatten(1, (grid[0], patch_size)).mean(2)
    # As mean of squares less square of the mean: torch's var takes twenty times as long over a short axis.
    between = of_rows.square().mean(2) - mean.square(), of_columns.square().mean(3) - mean.square()
    return mean, variance - mean.square(), *between


def _rings(grid: tuple[int, int], width: int, device: torch.device) -> Tensor:
    """bool (2, *grid): patches at most `width` from the left or right border, and from the top or bottom one."""
    rows, columns = (torch.arange(side, device=device) for side in grid)
    sides = (columns < width) | (columns >= grid[1] - width)
    ends = (rows < width) | (rows >= grid[0] - width)
    return torch.stack([sides.expand(grid), ends[:, None].expand(grid)])


def _grow(seed: Tensor, allowed: Tensor) -> Tensor:
    """The allowed patches that are reached from allowed seeds by steps up, down, left and right."""
    reached = seed & allowed
    while True:
        grown = (_spread(reached, 1) | _spread(reached, 2)) & allowed
        if torch.equal(grown, reached):
            return reached
        reached = grown


def _spread(values: Tensor, axis: int) -> Tensor:
    """The maximum of each value and of those before and behind it along an axis."""
    spread, length = values.clone(), values.shape[axis] - 1
    for here, there in ((0, 1), (1, 0)):
        part = spread.narrow(axis, here, length)
        torch.maximum(part, values.narrow(axis, there, length), out=part)
    return spread


def _without_islands(informative: Tensor) -> Tensor:
    """Drops the components, of patches that touch at a side or a corner, that are small beside the largest one."""
    batch, patches = len(informative), informative[0].numel()
    label = torch.arange(1.0, patches + 1, device=informative.device).view(informative.shape[1:]) * informative
    while True:
        spread = _spread(_spread(label, 1), 2) * informative
        if torch.equal(spread, label):
            break
        label = spread
    index = label.flatten(1).long()
    count = torch.zeros(batch, patches + 1, device=index.device).scatter_add_(1, index, informative.flatten(1).float())
    size = count.gather(1, index).view_as(informative)
    return informative & (size > MARKER_SHARE * count.amax(1)[:, None, None])
