"""A vision transformer that classifies the mean, or a grid of means, of its informative patches instead of CLS.

This file travels with such a model, and so do those of ours that it imports: they need torch, numpy and transformers
only, and run where the repository is loaded with `trust_remote_code=True`.
"""

import re
import sys
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.vit.modeling_vit import ViTPreTrainedModel

from hf_radmae.images.background import informative_patches
from hf_radmae.models.masking import patch_grid


class RadiographViTConfig(ViTConfig):
    """`ViTConfig` and what is classified.

    Attributes:
        pooling: "mean" over informative patches, or "flat": their means over the cells of a grid, side by side.
        grid: cells along each side for "flat".
        flat_threshold: a patch carries information where the standard deviation of its pixels exceeds this.
    """

    model_type = "radiograph_vit"

    pooling: str = "mean"
    grid: int = 7
    flat_threshold: float = 0.01


class RadiographViTForImageClassification(ViTPreTrainedModel):
    """Logits of images (batch, channels, height, width) in 0..1, of any size whose sides are multiples of the patch."""

    config_class = RadiographViTConfig

    def __init__(self, config: RadiographViTConfig):
        super().__init__(config)
        if config.pooling not in ("mean", "flat"):
            raise ValueError(f"config.pooling={config.pooling!r} is unknown: expected 'mean' or 'flat'")
        self.patch_size: int = config.patch_size  # type: ignore[assignment]  # upstream allows a pair
        self.cells = config.grid if config.pooling == "flat" else 1
        self.vit = ViTModel(config, add_pooling_layer=False)
        self.classifier = nn.Linear(self.cells**2 * config.hidden_size, len(config.id2label or ()))
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        patch_mask: Tensor | None = None,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,  # taken for callers of the stock class; any size works without
        **kwargs,
    ) -> ImageClassifierOutput:
        """Classify images.

        Args:
            pixel_values: float (batch, channels, height, width).
            patch_mask: bool (batch, patches), True where a patch carries information; found by the pixels where None.
            labels: int64 (batch,) class numbers, for a loss.
        """
        outputs = self.vit(pixel_values, interpolate_pos_encoding=True, **kwargs)
        if patch_mask is None:
            patch_mask = informative_patches(pixel_values, self.patch_size, self.config.flat_threshold)
        grid = patch_grid(pixel_values, self.patch_size)
        pooled = pool_cells(outputs.last_hidden_state[:, 1:], patch_mask, grid, self.cells)
        logits = self.classifier(pooled)
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)

    def save_pretrained(  # type: ignore[override]  # the stock method's further arguments go by name
        self, save_directory: str | PathLike[str], is_main_process: bool = True, **kwargs
    ) -> None:
        """Save as transformers does, and the code that this file imports, as files of the folder."""
        super().save_pretrained(save_directory, is_main_process, **kwargs)
        if is_main_process:
            for part in (type(self), informative_patches, patch_grid):
                file = Path(str(sys.modules[part.__module__].__file__))
                code = file.read_text(encoding="utf-8")
                code = re.sub(r"^from hf_radmae\.", "from .modeling_", code, flags=re.MULTILINE)
                name = f"modeling_{file.name.removeprefix('modeling_')}"
                Path(save_directory, name).write_text(code, encoding="utf-8")


def pool_cells(patches: Tensor, patch_mask: Tensor, grid: tuple[int, int], cells: int) -> Tensor:
    """Means of informative patches over the cells of a grid, (batch, cells * cells * width); 0 for a cell without any.

    The cells are those of adaptive average pooling: with fewer patches than cells along a side, patches repeat.

    Args:
        patches: (batch, rows * columns, width).
        patch_mask: bool (batch, rows * columns).
        grid: rows and columns of patches.
        cells: along each side.
    """
    weight = patch_mask[..., None].to(patches.dtype)
    parts = torch.cat([patches * weight, weight], dim=-1).unflatten(1, grid)
    down, across = (_members(count, cells, patches) for count in grid)
    sums = torch.einsum("ir,jc,brcd->bijd", down, across, parts)
    return (sums[..., :-1] / sums[..., -1:].clamp(min=1)).flatten(1)


def _members(count: int, cells: int, like: Tensor) -> Tensor:
    """(cells, count), 1 where a row of patches belongs to a row of cells, else 0."""
    cell, place = torch.arange(cells, device=like.device)[:, None], torch.arange(count, device=like.device)
    start, end = cell * count // cells, ((cell + 1) * count + cells - 1) // cells
    return ((place >= start) & (place < end)).to(like.dtype)


RadiographViTConfig.register_for_auto_class()
RadiographViTForImageClassification.register_for_auto_class("AutoModelForImageClassification")
