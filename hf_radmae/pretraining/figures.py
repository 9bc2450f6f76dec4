"""Pictures of what a masked autoencoder sees and what it makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_radmae.models.mae import RadMAEForPreTraining

COLUMNS = ("input", "masked input", "reconstruction", "error")


@torch.no_grad()
def reconstruct(model: RadMAEForPreTraining, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Runs the model in evaluation mode on a batch of `BucketCollator` and puts the patches back into pictures.

    A model that predicts normalised patches says nothing of their mean and contrast: those are taken from the input, as
    in the figures of He et al. 2022.

    Returns:
        `COLUMNS` -> float (batch, height, width) on the CPU, grey values 0..1; masked patches are NaN in "masked
        input" and visible ones are the input in "reconstruction".
    """
    training, device = model.training, next(model.parameters()).device
    model.eval()
    pixels, noise, patch_mask = (batch[name].to(device) for name in ("pixel_values", "noise", "patch_mask"))
    output = model(pixel_values=pixels, noise=noise, patch_mask=patch_mask)
    model.train(training)
    target = model.patchify(pixels)
    predicted = output.logits.float()
    if model.config.norm_pix_loss:
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
        predicted = predicted * (variance + 1e-6).sqrt() + mean
    masked = output.mask.bool()[..., None]
    size = tuple(pixels.shape[-2:])

    def picture(patches: torch.Tensor) -> torch.Tensor:
        return model.unpatchify(patches, size).mean(dim=1).cpu()

    reconstruction = picture(torch.where(masked, predicted, target)).clamp(0, 1)
    return {
        "input": picture(target),
        "masked input": picture(target.masked_fill(masked, torch.nan)),
        "reconstruction": reconstruction,
        "error": (reconstruction - picture(target)).abs(),
    }


def reconstruction_figure(model: RadMAEForPreTraining, batches: Sequence[dict[str, Any]]) -> Figure:
    """One row an image, the first of each batch: input, masked input, reconstruction, absolute error."""
    rows = [{name: image[0].numpy() for name, image in reconstruct(model, batch).items()} for batch in batches]
    heights = [3.0 * row["input"].shape[0] / row["input"].shape[1] for row in rows]
    figure = Figure(figsize=(12, sum(heights) + 0.3 * len(rows)), dpi=60, layout="constrained")
    axes = figure.subplots(len(rows), len(COLUMNS), squeeze=False, gridspec_kw={"height_ratios": heights})
    for row, line in zip(rows, axes, strict=True):
        for name, axis in zip(COLUMNS, line, strict=True):
            error = name == "error"
            axis.set_facecolor("0.35")  # shows through where a patch is masked
            axis.imshow(row[name], cmap="magma" if error else "gray", vmin=0, vmax=0.5 if error else 1)
            axis.set(xticks=[], yticks=[])
    for name, axis in zip(COLUMNS, axes[0], strict=True):
        axis.set_title(name)
    return figure


def save_figure(figure: Figure, path: str | Path) -> np.ndarray:
    """Writes the figure as a PNG and returns it as a uint8 array (height, width, 3)."""
    canvas = FigureCanvasAgg(figure)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
