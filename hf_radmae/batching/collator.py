"""Items of one bin as a batch: whole images, or only the patches that a step of the masked autoencoder uses.

In both cases the patches that show the patient are marked. Pre-training sends the second to its device: the seen and
the predicted patches as they are stored, in 8 or 16 bit, with their places. They are scaled there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_radmae.batching.dataset import pixel_values
from hf_radmae.models.masking import order_patches, token_counts


@dataclass
class BucketCollator:
    """Stacks items of `RadiographDataset`, all of one bin, and marks the patches that show the patient.

    The batch holds `pixel_values` (batch, num_channels, height, width) float32, `patch_mask` (batch, patches) bool,
    `noise` (batch, patches) float32, `num_tokens`, how many patches of each image take part, and `index` (batch,)
    int64, the rows that were used. Where images had to be replaced it also holds `skipped`, and where an image must not
    count `repeated` (batch,) bool; a trainer takes these out.

    Args:
        patch_size: side of a patch in pixels.
        num_channels: 1, or 3 for a model that expects RGB.
        background: "drop" leaves out the patches that the items call background; "keep" counts every patch of the image
            in. Padding never counts.

    Raises:
        ValueError: the items are of different shapes, so they come from different bins.
    """

    patch_size: int
    num_channels: int = 1
    background: str = "drop"

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        facts = self.facts(items)
        pixels = torch.stack([item["pixel_values"] if "pixel_values" in item else pixel_values(item) for item in items])
        return {"pixel_values": pixels.expand(-1, self.num_channels, -1, -1).contiguous(), **facts}

    def facts(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """All of a batch but the pixels."""
        shapes = {item["pixels"].shape for item in items}
        if len(shapes) > 1:
            raise ValueError(f"a batch must be of one bin, and has images of {sorted(shapes)}: use BucketBatchSampler")
        if self.background == "drop":
            patch_mask = torch.stack([item["patch_mask"] for item in items])
        else:
            rows, columns = (side // self.patch_size for side in items[0]["pixels"].shape)
            content = torch.tensor([item["content"] for item in items])
            inside = torch.arange(rows)[:, None] * self.patch_size < content[:, 0, None, None]
            inside = inside & (torch.arange(columns)[None] * self.patch_size < content[:, 1, None, None])
            patch_mask = inside.flatten(1)
        batch: dict[str, Any] = {
            "patch_mask": patch_mask,
            "noise": torch.stack([item["noise"] for item in items]),
            "num_tokens": items[0]["num_tokens"],
            "index": torch.tensor([item["index"] for item in items]),
        }
        repeated = torch.tensor([item.get("repeated", False) for item in items])
        if repeated.any():
            batch["repeated"] = repeated
        skipped = [record for item in items for record in item["skipped"]]
        return batch | ({"skipped": skipped} if skipped else {})


@dataclass
class PatchCollator:
    """Cuts out of the items of a bin the patches that a step uses, and leaves the others where they are.

    The batch holds `patches` (batch, used, patch_size, patch_size), uint8, or uint16 where an image is deeper, the seen
    ones first, then those to predict, as `order_patches` puts them; `places` (batch, used) int64, their numbers row by
    row; `patch_mask` (batch, used) bool, whether each shows the patient; `grid`, rows and columns of patches of the
    whole image; `grey_range` (batch, 2) float32, the grey value of each image that becomes 0, and how many above it
    become 1; and what else `BucketCollator` gives but the noise. The model computes the same from it as from whole
    images: for 8 bits, and 16 bits that are not resized, value for value, else within 1 / 2 ** 17 of the grey range.

    Args:
        images: how the patches that show the patient are marked.
        mask_ratio: of the model.
        prediction_ratio: of the model for training, 1 for evaluation.
    """

    images: BucketCollator
    mask_ratio: float
    prediction_ratio: float = 1.0

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        facts, size = self.images.facts(items), self.images.patch_size
        patch_mask, noise = facts.pop("patch_mask"), facts.pop("noise")
        visible, predicted = token_counts(facts["num_tokens"], self.mask_ratio, self.prediction_ratio)
        places = order_patches(noise, patch_mask, visible, self.mask_ratio)[:, : visible + predicted]
        ends = np.array([item["grey_range"] for item in items], np.float64)
        deepest = max(item["pixels"].dtype.itemsize for item in items)
        patches = np.empty((*places.shape, size, size), np.uint8 if deepest == 1 else np.uint16)
        for item, own, cut, (low, high) in zip(items, places.numpy(), patches, ends, strict=True):
            cut_patches(item["pixels"], own, low, high, out=cut)
        ends[[item["pixels"].dtype == np.float32 for item in items]] = 0, _LEVELS
        height, width = items[0]["pixels"].shape
        return {
            "patches": torch.from_numpy(patches),
            "places": places,
            "patch_mask": patch_mask.gather(1, places),
            "grid": (height // size, width // size),
            "grey_range": torch.from_numpy(np.stack([ends[:, 0], ends[:, 1] - ends[:, 0]], 1)).float(),
            **facts,
        }


_LEVELS = 2**16 - 1


def cut_patches(pixels: NDArray[Any], places: NDArray[Any], low: float, high: float, *, out: NDArray[Any]) -> None:
    """Copy some patches of a picture (height, width), numbered row by row, into `out`.

    Args:
        pixels: uint8, uint16 or float32.
        places: int (chosen,).
        low, high: what becomes 0 and 65,535 of float32; grey values of the others are kept.
        out: (chosen, size, size), uint8 or uint16, in memory without gaps.
    """
    size = out.shape[-1]
    columns = pixels.shape[1] // size
    if pixels.dtype == out.dtype:  # a line of a patch is one element: several times faster than pixel by pixel
        line = np.dtype((np.void, size * out.itemsize))
        first = places // columns * (size * columns) + places % columns
        lines = first[:, None] + np.arange(size) * columns
        np.take(np.ascontiguousarray(pixels).reshape(-1).view(line), lines, out=out.view(line)[..., 0], mode="clip")
        return
    cut = pixels.reshape(-1, size, columns, size).swapaxes(1, 2)[places // columns, places % columns]
    if cut.dtype == np.float32:
        cut = np.rint(((cut - np.float32(low)) / np.float32(high - low)).clip(0, 1) * np.float32(_LEVELS))
    out[:] = cut
