"""Rows of radiographs as items of their bins: what a loader worker does for one image."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypedDict

import datasets
import numpy as np
import pyarrow as pa
import torch

from hf_radmae.batching.binning import Bins, assign, content_sizes
from hf_radmae.batching.columns import numbers, viewed_rows
from hf_radmae.batching.content import Content, patches_of
from hf_radmae.batching.sampler import Repeat
from hf_radmae.images.background import SIDE
from hf_radmae.images.fitting import SCALINGS, as_tensor, fit_pixels
from hf_radmae.images.image import ImageError, read_image
from hf_radmae.models.masking import keyed_noise, scaled

MAX_REPLACEMENTS = 20
"""Images that are tried in place of one that cannot be read: where none of them can, the data is at fault."""


class Skipped(TypedDict):
    """An image that could not be used: its split, its row, its name and why."""

    split: str
    index: int
    image: str
    reason: str


class RadiographDataset(torch.utils.data.Dataset):
    """A `datasets.Dataset` of radiographs, each read, scaled and resized to its bin when it is asked for.

    An image that cannot be read is replaced by the next good one of its bin, or of any bin where its own has none, and
    reported in the item's `skipped`, so that a batch keeps its shape and its size. All randomness is keyed: crop and
    mask by (seed, epoch, row), or by (seed, row) where `train` is false. Hence a run repeats, and resumes, for any
    number of workers and processes.

    Args:
        rows: has the columns `image` (`datasets.Image(decode=False)`), `height` and `width`, and where it can an
            `image_id`, which then names the image in reports.
        bins: shapes and the rule by which an image is placed in one.
        seed: key of crops and masks.
        train: whether crops and masks change with the epoch.
        crop_scale: the smallest share of the area that a random crop keeps (1 = no crop); only where `train` is true.
        scaling: see `RadiographImageProcessor`.
        content: where the patient is in each image, and its grey range; where None, all of each image takes part, and
            its range is measured when it is read. With boxes, each image is cut to its own.

    Attributes:
        sizes: int (rows, 2), height and width in pixels of what is used of each image.
        bin_ids: int (rows,), the bin of each row, -1 where the binning loses the image.
        seconds: that this process has spent on items; whoever reads it starts it anew.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        bins: Bins,
        *,
        seed: int = 42,
        train: bool = False,
        crop_scale: float = 1.0,
        scaling: str = "minmax",
        content: Content | None = None,
    ):
        if not 0 < crop_scale <= 1:
            raise ValueError(f"crop_scale={crop_scale} must lie in (0, 1]")
        self.rows, self.bins, self.seed, self.train = rows, bins, seed, train
        self.crop_scale, self.scaling = crop_scale, scaling
        self.sizes = sizes_of(rows)
        self.content = content
        self.boxes = content.pixel_boxes(self.sizes) if content and content.boxes is not None else None
        if self.boxes is not None:
            self.sizes = self.boxes[:, 2:]
        self.bin_ids = assign(self.sizes, bins, content.shares(self.sizes, bins) if content else None)
        self._split = str(getattr(rows, "split", None) or "")
        self._names = "image_id" if "image_id" in rows.column_names else None
        columns = rows.select_columns(["image"] + ([self._names] if self._names else []))
        self._columns = columns.with_format("arrow") if isinstance(columns, datasets.Dataset) else columns
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # loader workers outlive an epoch
        self.seconds = 0.0

    def __len__(self) -> int:
        return len(self.rows)

    def first_of_fullest_bins(self, count: int) -> list[int]:
        """The first row of each of the `count` bins with the most images: a picture of the variety, always the same."""
        bins, first, sizes = np.unique(self.bin_ids, return_index=True, return_counts=True)
        fullest = np.argsort(-sizes[bins >= 0], kind="stable")[:count]
        return sorted(first[bins >= 0][fullest].tolist())

    def options_that_matter(self) -> dict[str, Any]:
        """What alters what is learned from the images, ready for JSON; where the patient is, by a checksum."""
        found = {"scaling": self.scaling, "crop_scale": self.crop_scale, "crop_to_content": self.boxes is not None}
        found |= {"mask_seed": self.seed}
        found |= {"bin_shapes": self.bins.shapes.tolist(), "bin_tokens": self.bins.tokens.tolist()}
        return found if self.content is None else found | {"patient_masks": self.content.checksum}

    def set_epoch(self, epoch: int) -> None:
        """Moves crops and masks to another epoch, in workers that already run too."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """What `fit_item` gives, with `index`, the row that was used, `skipped`, and `repeated`.

        An item is `repeated`, and must not count, where the index is a `Repeat`, or the row stands in for another.

        Raises:
            ImageError: neither this image nor `MAX_REPLACEMENTS` others can be read.
            StorageError: the storage does not answer; no image is listed for it.
        """
        start = time.perf_counter()
        skipped: list[Skipped] = []
        for candidate in islice(self._from(int(index)), 1 + MAX_REPLACEMENTS):
            row = self._columns[candidate]
            row = viewed_rows(row)[0] if isinstance(row, pa.Table) else row
            name = row[self._names] if self._names else row["image"].get("path") or f"row {candidate}"
            try:
                pixels = read_image(row["image"], name=name)
            except ImageError as error:
                skipped.append(self._skip(candidate, name, error.reason))
            except FileNotFoundError:
                skipped.append(self._skip(candidate, name, "is missing: no such file"))
            else:
                repeated = isinstance(index, Repeat) or candidate != index
                item = self._fit(pixels, candidate, self.bin_ids[index])
                self.seconds += time.perf_counter() - start
                return {**item, "index": candidate, "skipped": skipped, "repeated": repeated}
        first = skipped[0]
        count = len(skipped) - 1
        others = f"none of the other {count} images that were tried can be read" if count else "there is no other image"
        raise ImageError(first["image"], f"{first['reason']}; and {others}")

    def _skip(self, index: int, image: str, reason: str) -> Skipped:
        return {"split": self._split, "index": index, "image": image, "reason": reason}

    def _from(self, index: int) -> Iterator[int]:
        """The row itself, then the other rows of its bin in order, around the end, then the rows of other bins."""
        yield index
        order = np.roll(np.arange(len(self)), -index)[1:]
        same = self.bin_ids[order] == self.bin_ids[index]
        yield from (int(other) for other in (*order[same], *order[~same]))

    def _fit(self, pixels: np.ndarray, index: int, bin_id: int) -> dict[str, Any]:
        options: dict[str, Any] = {"seed": self.seed, "crop_scale": self.crop_scale, "scaling": self.scaling}
        options["box"] = None if self.boxes is None else self.boxes[index].tolist()
        if self.content is not None:
            place = 2 * SCALINGS.index(self.scaling)
            low, high = self.content.ranges[index, place : place + 2].tolist()
            known = None if np.isnan(low) else (low, high)
            options |= {"mask": self.content.mask(index), "grey_range": known}
        epoch = int(self._epoch) if self.train else None
        return fit_item(pixels, self.sizes[index], self.bins, bin_id, key=index, epoch=epoch, **options)


def pixel_values(item: Mapping[str, Any]) -> torch.Tensor:
    """float32 (1, height, width), 0..1: the picture of an item."""
    low, high = item["grey_range"]
    return scaled(as_tensor(item["pixels"]), low, high - low)


def sizes_of(rows: Any) -> np.ndarray:
    """int (rows, 2): the columns `height` and `width`, in pixels."""
    return np.stack([numbers(rows, column) for column in ("height", "width")], axis=1)


def fit_item(
    pixels: np.ndarray,
    size: Sequence[int] | np.ndarray,
    bins: Bins,
    bin_id: int,
    *,
    key: int,
    epoch: int | None,
    seed: int,
    crop_scale: float,
    scaling: str,
    box: Sequence[int] | None = None,
    mask: np.ndarray | None = None,
    grey_range: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """An image at the shape of a bin, with the crop and the mask of its key.

    Returns `pixels` (height, width), uint8, uint16 or float32, and their `grey_range`, see `fit_pixels`, `noise`
    (patches,), `patch_mask` (patches,), where the patient is, `content` (height, width), what the image fills of them,
    and `num_tokens`, how many patches take part in this bin.

    Args:
        pixels: (height, width) of any depth, as `read_image` gives it.
        size: height and width by which it is placed in the bin.
        key, epoch, seed: what crop and mask are drawn from; without an epoch nothing is cropped.
        crop_scale, scaling: see `RadiographDataset`.
        box: top, left, height and width in pixels of the part that is used; the whole image where None.
        mask: bool (64, 64), where the patient is in the whole image; everywhere where None.
        grey_range: what becomes 0 and 1; measured by `scaling` where None.
    """
    shape = tuple(bins.shapes[bin_id].tolist())
    content = tuple(content_sizes(np.array([size]), bins, np.array([bin_id]))[0].tolist())
    top, left, height, width = box or (0, 0, *pixels.shape)
    if epoch is not None and crop_scale < 1:
        rng = np.random.default_rng((seed, epoch, key))
        down, right, height, width = _random_box(height, width, crop_scale, rng)
        top, left = top + down, left + right
    shown = np.ones((SIDE, SIDE), bool) if mask is None else mask
    whole_height, whole_width = pixels.shape
    used = top / whole_height, left / whole_width, height / whole_height, width / whole_width
    patches = patches_of(shown, shape, content, bins.patch_size, used)
    if not patches.any():  # a crop of nothing but air is trained on like any other
        patches = patches_of(np.ones_like(shown), shape, content, bins.patch_size)
    options: dict[str, Any] = {"scaling": scaling, "box": (top, left, height, width), "grey_range": grey_range}
    fitted, ends = fit_pixels(pixels, shape, content, **options)
    return {
        "pixels": fitted,
        "grey_range": ends,
        "patch_mask": torch.from_numpy(patches.flatten()),
        "noise": keyed_noise(seed, epoch, key, int(bins.patches[bin_id])),
        "content": content,
        "num_tokens": int(bins.tokens[bin_id]),
    }


def _random_box(height: int, width: int, smallest: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A crop (top, left, height, width) of the image's own aspect with a share of its area uniform in [smallest, 1]."""
    side = np.sqrt(rng.uniform(smallest, 1.0))
    box_height, box_width = max(1, round(height * side)), max(1, round(width * side))
    return int(rng.integers(height - box_height + 1)), int(rng.integers(width - box_width + 1)), box_height, box_width
