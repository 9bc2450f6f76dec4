"""No network: a thumbnail of 16 x 16 pixels, and histograms of oriented gradients on 4 x 4 cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from skimage.feature import hog
from torch.nn.functional import interpolate

from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.study.rivals.network import split_features

SIDE, CELLS, ORIENTATIONS = 16, 4, 9


def thumbnail_features(
    parts: Mapping[str, RadiographDataset], num_workers: int = 0
) -> dict[str, dict[str, np.ndarray]]:
    """Pixels of a thumbnail, and HOG (Dalal and Triggs 2005) of the image at 64 x 64 with blocks of one cell."""

    def compute(batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        pixels = batch["pixel_values"]
        small = interpolate(pixels, (SIDE, SIDE), mode="area").flatten(1).numpy()
        squares = interpolate(pixels, (64, 64), mode="bilinear", antialias=True)[:, 0].numpy()
        cell = (64 // CELLS, 64 // CELLS)
        options = {"orientations": ORIENTATIONS, "pixels_per_cell": cell, "cells_per_block": (1, 1)}
        return {"thumbnail": small, "HOG": np.stack([hog(square, **options) for square in squares])}

    return split_features(parts, compute, num_workers)
