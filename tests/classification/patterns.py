"""Radiographs that a small network can tell apart, as the data sets of `train_classifier`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from damaged import encode
from rows import SIZES, make_rows

from hf_radmae.batching.binning import Bins, fit_bins
from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.classification import CachedRadiographs, Labels, build_classifier

PATCH = 8
KINDS = ("top", "left", "middle")
"""Where an image is bright."""


def picture(kind: str, seed: int) -> bytes:
    """An image of a size of its own, bright at the top, at the left or in the middle."""
    rng = np.random.default_rng(seed)
    height, width = SIZES[seed % len(SIZES)]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    bright = {"top": -y, "left": -x, "middle": 1 - 2 * np.maximum(abs(x), abs(y))}[kind]
    return encode(np.uint8(np.clip(127 + 90 * bright + rng.normal(0, 12, y.shape), 0, 255)), "PNG")


def make_parts(
    images: Mapping[str, int],
    columns: Mapping[str, Sequence[Any]] | None = None,
    contents: Sequence[bytes] | None = None,
) -> dict[str, RadiographDataset]:
    """Splits of so many images each, whose `kind` goes round; further columns go on from split to split."""
    total = sum(images.values())
    kinds = [KINDS[i % len(KINDS)] for i in range(total)]
    contents = contents or [picture(kind, seed) for seed, kind in enumerate(kinds)]
    rows = make_rows(contents, columns={"kind": kinds, **(columns or {})})
    bins = shapes(rows)
    parts, start = {}, 0
    for split, count in images.items():
        parts[split] = CachedRadiographs(RadiographDataset(rows.select(range(start, start + count)), bins))
        start += count
    return parts


def shapes(rows) -> Bins:
    sizes = np.stack([rows["height"], rows["width"]], axis=1)
    return fit_bins(sizes, num_bins=3, patch_size=PATCH, max_tokens=36)


def small(kind: str, labels: Labels, **options: Any):
    """A network of the kind, of the tiny preset, for the images of this module."""
    return build_classifier(kind, labels, patch_size=PATCH, image_size=6 * PATCH, **options)
