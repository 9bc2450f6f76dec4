"""Items of one bin stacked to a batch, with the patches that show the patient marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


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
        shapes = {tuple(item["pixel_values"].shape) for item in items}
        if len(shapes) > 1:
            raise ValueError(f"a batch must be of one bin, and has images of {sorted(shapes)}: use BucketBatchSampler")
        pixels = torch.stack([item["pixel_values"] for item in items])
        if self.background == "drop":
            patch_mask = torch.stack([item["patch_mask"] for item in items])
        else:
            rows, columns = (side // self.patch_size for side in pixels.shape[-2:])
            content = torch.tensor([item["content"] for item in items])
            inside = torch.arange(rows)[:, None] * self.patch_size < content[:, 0, None, None]
            inside = inside & (torch.arange(columns)[None] * self.patch_size < content[:, 1, None, None])
            patch_mask = inside.flatten(1)
        batch: dict[str, Any] = {
            "pixel_values": pixels.expand(-1, self.num_channels, -1, -1).contiguous(),
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
