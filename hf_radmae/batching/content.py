"""Where the patient is in each image, and its grey range: measured once, so that bins and batches count on it.

`Content` holds both for every row. `scripts/prepare.py` writes them as columns; for other sources each image is read
once, and what was measured is kept in the cache of `datasets` for the next start and the other processes. An image that
could not be read is tried again at each start, and is measured when training reads it. Masks say which rule they were
made by; those of another are refused.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.fingerprint import Hasher
from numpy.typing import NDArray
from tqdm.auto import tqdm

from hf_radmae.batching.binning import Bins, assign, content_sizes
from hf_radmae.batching.columns import arrow_column, numbers
from hf_radmae.batching.processes import processes
from hf_radmae.images.background import SIDE, VERSION, Box, background_mask, content_box, mask_on_grid, pixel_box
from hf_radmae.images.fitting import grey_ranges
from hf_radmae.images.image import ImageError, read_image
from hf_radmae.images.storage import whole_file

logger = logging.getLogger(__name__)

COLUMNS = ("patient_mask", "grey_range")
"""Bytes of the rule's version and of the mask's bits; minimum, maximum, and the percentiles of `grey_ranges`."""

FEW = 64  # images for which no process is worth its start
_WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
_AT_ONCE = 4096  # masks unpacked at a time: 16 MB


@dataclass(frozen=True)
class Content:
    """What is known of the images of a data set before training reads them.

    Attributes:
        masks: uint8 (N, 1 + 512), version and packed bits of each mask.
        ranges: float (N, 4) grey range of each, see `grey_ranges`; NaN of an image that could not be read.
        boxes: float (N, 4) top, left, height and width, as shares of the sides, of the part that is used; the whole
            image where None.
    """

    masks: NDArray[Any]
    ranges: NDArray[Any]
    boxes: NDArray[Any] | None = None
    _known: dict[Any, NDArray[Any]] = field(default_factory=dict, repr=False)

    def mask(self, index: int) -> NDArray[Any]:
        """bool (64, 64): where the patient is in an image."""
        return _unpacked(self.masks[index])

    @cached_property
    def checksum(self) -> str:
        """Of the masks: equal where the patient is taken to be in the same place in every image."""
        return hashlib.sha256(self.masks.tobytes()).hexdigest()[:16]

    def cropped(self) -> Content:
        """The same, for images that are cut to the box around the patient."""
        boxes = [content_box(self.mask(index)) for index in range(len(self.masks))]
        return Content(self.masks, self.ranges, np.array(boxes).reshape(-1, 4))

    def pixel_boxes(self, sizes: NDArray[Any]) -> NDArray[Any]:
        """int64 (N, 4) the boxes in pixels of images of these sizes (N, 2), rounded outwards."""
        if self.boxes is None:
            return np.hstack([np.zeros_like(sizes), sizes])
        return np.array([pixel_box(tuple(box), tuple(size)) for box, size in zip(self.boxes, sizes, strict=True)])

    def shares(self, sizes: NDArray[Any], bins: Bins) -> NDArray[Any]:
        """(N,) share of the patches of its bin's shape that show the patient in each image, 1 where it has no bin.

        Args:
            sizes: (N, 2) height and width in pixels of what is used.
            bins: the bins; their levels, which follow from the shares, do not matter.
        """
        bins = bins.without_levels()
        key = bins.shapes.tobytes(), bins.strategy
        if key in self._known:
            return self._known[key]
        ids, shares = assign(sizes, bins), np.ones(len(self.masks))
        for bin_id in np.unique(ids[ids >= 0]).tolist():
            shape, own = tuple(bins.shapes[bin_id].tolist()), np.flatnonzero(ids == bin_id)
            filled = content_sizes(sizes[own], bins, ids[own])
            alike = self.boxes is None and (filled == filled[0]).all()
            for start in range(0, len(own), _AT_ONCE if alike else 1):
                rows = own[start : start + (_AT_ONCE if alike else 1)]
                box = _WHOLE if self.boxes is None else tuple(self.boxes[rows[0]].tolist())
                place = shape, tuple(filled[start].tolist()), bins.patch_size, box
                masks = patches_of(_unpacked(self.masks[rows]), *place)
                shares[rows] = (np.maximum(masks.sum((1, 2)), 1) - 1e-6) / masks[0].size
        self._known[key] = shares
        return shares


def patches_of(
    mask: NDArray[Any], shape: tuple[int, int], content: tuple[int, int], patch_size: int, box: Box = _WHOLE
) -> NDArray[Any]:
    """bool (..., rows, columns): which patches of a bin's shape show the patient.

    Args:
        mask: bool (..., 64, 64) of the whole image.
        shape: height and width of the bin in pixels, multiples of the patch.
        content: height and width in pixels of the part of the shape that the image fills, from the top left.
        box: the part of the image that is used, as shares of its sides.
    """
    edges = []
    for axis in (0, 1):
        places = np.minimum(np.arange(shape[axis] // patch_size + 1) * patch_size / content[axis], 1.0)
        edges.append(box[axis] + box[axis + 2] * places)
    return mask_on_grid(mask, edges[0], edges[1])


def measure_content(rows: Any, *, num_proc: int = 1, retry: bool = True) -> Content:
    """Measure every image once; one that cannot be read counts whole, and is tried again at the next start.

    Args:
        rows: a `datasets.Dataset` with `image` (`datasets.Image(decode=False)`), or rows that have the columns
            `patient_mask` and `grey_range` already, which are then taken as they are.
        num_proc: processes that read images.
        retry: whether images that could not be read before are tried again; a run that resumes counts on the same.

    Raises:
        ValueError: the masks of the rows were made by another rule.
        StorageError: the storage of the images does not answer.
    """
    if not set(COLUMNS) <= set(rows.column_names):
        return _measured(rows.select_columns(["image"]), num_proc, retry)
    packed = [mask or b"" for mask in arrow_column(rows, COLUMNS[0]).to_pylist()]
    if other := {(mask[:1] or b"\0")[0] for mask in packed if len(mask) != MASK_LENGTH or mask[0] != VERSION}:
        raise ValueError(
            f"patient_mask was made by rule {sorted(other)}, and this version of hf_radmae knows rule {VERSION}: "
            "prepare the shards anew with scripts/prepare.py, or train with --background keep"
        )
    masks = np.frombuffer(b"".join(packed), np.uint8).reshape(-1, MASK_LENGTH)
    return Content(masks, np.asarray(numbers(rows, COLUMNS[1]), np.float64))


def measure_image(pixels: NDArray[Any]) -> dict[str, Any]:
    """The values of `COLUMNS` for one image (height, width) of any depth."""
    bits = np.packbits(background_mask(pixels)).tobytes()
    return dict(zip(COLUMNS, (bytes([VERSION]) + bits, grey_ranges(pixels)), strict=True))


MASK_LENGTH = 1 + SIDE * SIDE // 8
"""Bytes of `patient_mask`: the version of the rule, and the bits."""


def _unpacked(masks: NDArray[Any]) -> NDArray[Any]:
    return np.unpackbits(masks[..., 1:], axis=-1).reshape(*masks.shape[:-1], SIDE, SIDE).view(bool)


def _measured(rows: datasets.Dataset, num_proc: int, retry: bool) -> Content:
    """Of rows that have images alone: from the cache, and for what it lacks from the images."""
    # A file by its name: rows that lie in memory, as a folder's, are cached nowhere else.
    name = Hasher.hash([rows._fingerprint, "patient", VERSION])
    cache = Path(datasets.config.HF_DATASETS_CACHE, "radmae_patient", f"{name}.npz")
    cached = _read_cache(cache)
    masks, ranges = cached or (np.zeros((len(rows), MASK_LENGTH), np.uint8), np.full((len(rows), 4), np.nan))
    unknown = np.flatnonzero(masks[:, 0] != VERSION)
    if cached and (not retry or os.environ.get("LOCAL_RANK", "0") != "0"):
        unknown = unknown[:0]  # the first process has just tried them, and all must count on the same
    step, found = FEW * num_proc, 0
    with (
        processes(num_proc if len(unknown) > step else 1) as in_processes,
        tqdm(total=len(unknown), desc="Looking for the patient", unit="image", leave=False) as bar,
    ):
        for start in range(0, len(unknown), step):
            own = unknown[start : start + step].tolist()
            for index, measured in zip(own, in_processes(_measure, rows[own]["image"]), strict=True):
                if measured is not None:
                    masks[index], ranges[index] = np.frombuffer(measured[COLUMNS[0]], np.uint8), measured[COLUMNS[1]]
                    found += 1
            bar.update(len(own))
    if found or not cached:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(cache) as partial, partial.open("wb") as file:
            np.savez(file, masks=masks, ranges=ranges)
    if len(unknown) > found:
        logger.warning("%d images cannot be read, and are measured again at the next start", len(unknown) - found)
    masks[masks[:, 0] != VERSION] = [VERSION, *[255] * (MASK_LENGTH - 1)]
    return Content(masks, ranges)


def _read_cache(path: Path) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Masks and ranges, zeros and NaN of images that could not be read; None without a file, or of a damaged one."""
    try:
        with path.open("rb") as file, np.load(file) as stored:
            return stored["masks"], stored["ranges"]
    except FileNotFoundError:
        return None
    except Exception as error:  # of a damaged archive nearly any
        if isinstance(error, OSError):
            raise
        logger.warning("%s is damaged (%s): all images are measured anew", path, error)
        return None


def _measure(image: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return measure_image(read_image(image))
    except (ImageError, FileNotFoundError):  # training skips it and reports it
        return None
