"""How much of each image carries information, and where: measured once, so that bins can count on it.

`Content` holds for each row the share of informative patches and the box around them. `scripts/prepare.py` writes
both as columns; for other sources each image is read once before training, and the result cached by `datasets`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from datasets.fingerprint import Hasher
from numpy.typing import NDArray

from hf_radmae.batching.columns import numbers
from hf_radmae.batching.grids import target_sizes
from hf_radmae.batching.processes import processes
from hf_radmae.images.background import content_box, informative_patches
from hf_radmae.images.fitting import as_tensor, fit_image
from hf_radmae.images.image import ImageError, read_image

COLUMNS = ("informative", "content_box")
FEW = 64  # images for which no process is worth its start


@dataclass(frozen=True)
class Content:
    """What is informative in the images of a data set.

    Attributes:
        informative: float (N,) share of the patches of each image that carry information, above 0 to 1.
        boxes: int64 (N, 4) top, left, height and width in pixels of the box around them.
    """

    informative: NDArray[Any]
    boxes: NDArray[Any]

    def cropped(self, sizes: NDArray[Any]) -> Content:
        """The same for images cut to their boxes; `sizes` (N, 2) are those of the whole images."""
        share = self.informative * sizes.prod(1) / self.boxes[:, 2:].prod(1)
        return Content(np.minimum(share, 1.0), self.boxes)


def measure_content(
    rows: Any, *, patch_size: int, max_tokens: int, threshold: float = 0.01, scaling: str = "minmax", num_proc: int = 1
) -> Content:
    """Measure every image at the size it is trained at, its aspect kept; an image that cannot be read counts whole.

    Args:
        rows: a `datasets.Dataset` with `image` (`datasets.Image(decode=False)`), `height` and `width`, or rows that
            have the columns `informative` and `content_box` already, which are then taken as they are.
        patch_size, max_tokens: of the training.
        threshold: see `informative_patches`.
        scaling: see `RadiographImageProcessor`.
        num_proc: processes that read images.
    """
    if set(COLUMNS) <= set(rows.column_names):
        return Content(*(numbers(rows, name) for name in COLUMNS))
    measure = partial(_measure, patch_size=patch_size, max_tokens=max_tokens, threshold=threshold, scaling=scaling)
    columns = rows.select_columns(["image", "height", "width"])
    options = [patch_size, max_tokens, threshold, scaling]
    with processes(num_proc if len(rows) > num_proc * FEW else 1) as in_processes:

        def measure_batch(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            images = [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
            found = in_processes(measure, images)
            return {name: [entry[name] for entry in found] for name in COLUMNS}

        measured = columns.map(
            measure_batch,
            batched=True,
            batch_size=FEW * num_proc,
            remove_columns=columns.column_names,
            new_fingerprint=Hasher.hash([columns._fingerprint, "content", *options]),  # the cache of an earlier run
            desc="Measuring content",
        )
    return Content(*(numbers(measured, name) for name in COLUMNS))


def measure_image(
    image: Any, *, patch_size: int, max_tokens: int, threshold: float = 0.01, scaling: str = "minmax"
) -> tuple[float, tuple[int, int, int, int]]:
    """Share of informative patches and the box around them, in pixels, of one image (1, height, width)."""
    size = np.array(image.shape[1:])
    fitted = target_sizes(size[None], patch_size=patch_size, max_tokens=max_tokens)[0]
    grid = tuple(np.maximum(np.rint(fitted / patch_size), 1).astype(int).tolist())
    pixels = fit_image(image, (grid[0] * patch_size, grid[1] * patch_size), scaling=scaling)
    informative = informative_patches(pixels[None], patch_size, threshold)[0]
    box = np.array(content_box(informative, grid, 1), float).reshape(2, 2)  # top and left, height and width in patches
    start = np.floor(box[0] * size / grid).astype(int)
    end = np.ceil(box.sum(0) * size / grid).astype(int)
    return float(informative.float().mean()), (*start.tolist(), *(end - start).tolist())


def _measure(row: dict[str, Any], **options: Any) -> dict[str, Any]:
    try:
        share, box = measure_image(as_tensor(read_image(row["image"])), **options)
    except (ImageError, FileNotFoundError):  # training sets it aside and reports it
        share, box = 1.0, (0, 0, row["height"], row["width"])
    return dict(zip(COLUMNS, (share, list(box)), strict=True))
