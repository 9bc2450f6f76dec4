"""Data sets of small radiographs in memory, as the loaders hand them to `RadiographDataset`."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
from damaged import encode, radiograph

from hf_radmae.images.image import ImageError, image_size

SIZES = [(40, 24), (24, 40), (64, 64), (48, 30), (30, 56)]


def make_rows(
    contents: Sequence[bytes] | None = None, images: int = 24, columns: Mapping[str, Sequence[Any]] | None = None
) -> datasets.Dataset:
    """Rows of encoded images, of `SIZES` in turn unless `contents` are given. What has no size is said to be 40x24."""
    if contents is None:
        contents = [encode(radiograph(*SIZES[i % len(SIZES)], seed=i), "PNG") for i in range(images)]
    sizes = []
    for content in contents:
        try:
            sizes.append(image_size(content))
        except ImageError:
            sizes.append(SIZES[0])
    rows = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": content, "path": None} for content in contents],
            "height": [height for height, _ in sizes],
            "width": [width for _, width in sizes],
            **(columns or {}),
        }
    )
    return rows.cast_column("image", datasets.Image(decode=False))
