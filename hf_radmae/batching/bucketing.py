"""From splits of rows to data sets that share one set of bins: what a training run does before its first batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_radmae.batching.binning import Bins, assign, fit_bins
from hf_radmae.batching.content import measure_content
from hf_radmae.batching.dataset import RadiographDataset, sizes_of
from hf_radmae.batching.levels import with_levels

BACKGROUNDS = ("drop", "keep")


@dataclass(frozen=True)
class Bucketed:
    """The bins, and the data sets of the splits.

    Attributes:
        bins: shapes, and the levels of each.
        sizes: int (images, 2), height and width in pixels of what is used of each image, over all splits.
        train: the training split, with crops and masks that change from epoch to epoch.
        parts: every split, the training one too, as evaluation sees them.
    """

    bins: Bins
    sizes: np.ndarray
    train: RadiographDataset
    parts: dict[str, RadiographDataset]


def bucketed(
    rows: Mapping[str, Any],
    *,
    patch_size: int,
    max_tokens: int,
    batch_size: int,
    binning: str = "smart",
    num_bins: int = 8,
    background: str = "drop",
    token_levels: int = 6,
    crop_to_content: bool = False,
    crop_scale: float = 1.0,
    scaling: str = "minmax",
    seed: int = 42,
    num_proc: int = 1,
    retry: bool = True,
) -> Bucketed:
    """Measure the images where it is needed, fit bins and their levels, and assign.

    Args:
        rows: split -> rows of `load_radiographs`, "train" among them.
        batch_size: images of a step over all processes; no bin and no level has fewer training images.
        background: "drop" leaves patches without the patient out; "keep" keeps them in, and then no image is read.
        token_levels: most levels of a shape, see `with_levels`.
        crop_to_content: cut each image to the box around the patient, before it is given a bin.
        binning, num_bins, patch_size, max_tokens: see `fit_bins`.
        crop_scale, scaling, seed: see `RadiographDataset`.
        num_proc, retry: how images are measured, see `measure_content`.
    """
    if background not in BACKGROUNDS:
        raise ValueError(f"background={background!r}: expected one of {', '.join(BACKGROUNDS)}")
    if background == "keep" and crop_to_content:
        raise ValueError("crop_to_content needs to know the background: it goes with background='drop'")
    options: dict[str, Any] = {"seed": seed, "scaling": scaling}
    sizes: dict[str, np.ndarray] = {split: sizes_of(part) for split, part in rows.items()}
    content: dict[str, Any] = dict.fromkeys(rows)
    if background == "drop":
        content = {split: measure_content(part, num_proc=num_proc, retry=retry) for split, part in rows.items()}
    if crop_to_content:
        content = {split: measured.cropped() for split, measured in content.items()}
        sizes = {split: measured.pixel_boxes(sizes[split])[:, 2:] for split, measured in content.items()}
    everything = np.concatenate(list(sizes.values()))
    budget = {"num_bins": num_bins, "patch_size": patch_size, "max_tokens": max_tokens}
    own = sizes["train"]  # alone: what is only evaluated fills no batch of the training
    bins = fit_bins(own, strategy=binning, batch_size=batch_size, **budget)
    if background == "drop":
        share = content["train"].shares(own, bins)
        bins = with_levels(bins, assign(own, bins), share, num_levels=token_levels, min_images=batch_size)

    parts = {split: RadiographDataset(part, bins, content=content[split], **options) for split, part in rows.items()}
    options |= {"train": True, "crop_scale": crop_scale}
    train = RadiographDataset(rows["train"], bins, content=content["train"], **options)
    return Bucketed(bins, everything, train, parts)
