"""Where does a masked autoencoder err? Reconstruction errors by patch, as a score of what is unusual in an image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from hf_radmae.metrics import auroc, bootstrap_interval
from hf_radmae.models.mae import RadMAEForPreTraining

PASSES = 4
SUMMARIES = ("mean", "95th percentile", "maximum")


@torch.no_grad()
def error_maps(
    network: RadMAEForPreTraining, loader: Iterable[Mapping[str, torch.Tensor]], passes: int = PASSES, seed: int = 0
) -> dict[int, np.ndarray]:
    """Row of an image -> its map of mean squared errors (rows, columns) of patches, NaN for background.

    The patches are dealt to `passes` parts at random; each part is masked once and predicted from the others.

    Args:
        network: predicts patches; its `mask_ratio` is not used.
        loader: batches of `pixel_values` (B, C, H, W), `patch_mask` (B, N) and `index` (B,).
    """
    ratio, training = network.config.mask_ratio, network.training
    network.eval()
    found: dict[int, np.ndarray] = {}
    generator = torch.Generator().manual_seed(seed)
    try:
        network.config.mask_ratio = 1 / passes
        for batch in loader:
            pixels = batch["pixel_values"].to(network.device)
            rows, columns = network.grid(pixels)
            place = torch.rand(len(pixels), rows * columns, generator=generator).argsort(1)
            errors = torch.zeros(len(pixels), rows * columns)
            counts = torch.zeros_like(errors)
            target = network.patchify(pixels)
            if network.config.norm_pix_loss:
                target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
            for part in range(passes):
                noise = ((place * passes // (rows * columns)) == part).float()  # the largest are masked
                output = network(pixels, noise=noise.to(pixels.device), interpolate_pos_encoding=True)
                mask = output.mask.cpu()
                errors += (output.logits - target).square().mean(-1).cpu() * mask
                counts += mask
            means = (errors / counts.clamp(min=1)).masked_fill(~batch["patch_mask"] | (counts == 0), torch.nan)
            for row, values in zip(batch["index"].tolist(), means, strict=True):
                found.setdefault(row, values.reshape(rows, columns).numpy())
    finally:
        network.config.mask_ratio = ratio
        network.train(training)
    return found


def error_scores(maps: Mapping[int, np.ndarray], labels: np.ndarray, groups: np.ndarray) -> list[dict[str, Any]]:
    """AUROC of each summary of an image's map for its label, with an interval over patients.

    Args:
        maps: row -> map, of the test images.
        labels: int (test images,), 0 and 1, negative where missing.
        groups: (test images,) keys of patients.

    Returns:
        Rows with "summary", "auroc", "auroc_low", "auroc_high".

    Raises:
        ValueError: the images with a label and a map are of one class.
    """
    rows = np.array([row for row in sorted(maps) if labels[row] >= 0 and not np.isnan(maps[row]).all()], np.int64)
    check_classes(labels[rows])
    summaries = [[np.nanmean(m), np.nanpercentile(m, 95), np.nanmax(m)] for m in (maps[row] for row in rows)]
    truth = labels[rows]
    options: dict[str, Any] = {"groups": groups[rows], "strata": labels[rows]}
    found = []
    for name, values in zip(SUMMARIES, np.array(summaries).T, strict=True):
        interval = bootstrap_interval(auroc, truth, values, **options)
        found.append({"summary": name} | interval.named("auroc"))
    return found


def check_classes(labels: np.ndarray) -> None:
    """Refuses labels (images,) of test images of which none, or all, are of the second class.

    Raises:
        ValueError: with their counts.
    """
    first, second = np.bincount(labels[labels >= 0], minlength=2)
    if not (first and second):
        raise ValueError(
            f"an AUROC of the test images needs both classes, and they hold {first} images of the first one and "
            f"{second} of the second"
        )


def error_figure(read: Callable[[int], np.ndarray], maps: Mapping[int, np.ndarray], labels: np.ndarray) -> Figure:
    """Up to twelve images with their maps, half of each label; `read` gives the pixels (height, width) of a row.

    All maps have one scale, from no error to the 99th percentile of the errors that are shown.
    """
    rows = [row for value in (1, 0) for row in [r for r in sorted(maps) if labels[r] == value][:6]]
    errors = np.concatenate([maps[row].ravel() for row in rows] or [np.zeros(1)])
    errors = errors[np.isfinite(errors)]
    scale = ScalarMappable(Normalize(0, float(np.percentile(errors, 99)) if errors.any() else 1.0), "inferno")
    figure = Figure(figsize=(12, 8), layout="constrained")
    for place, axis in enumerate(figure.subplots(4, 6).flat):
        row = rows[place % 12] if place % 12 < len(rows) else None
        axis.axis("off")
        if row is None:
            continue
        image = read(row)
        axis.imshow(image, cmap="gray", extent=(0, image.shape[1], image.shape[0], 0))
        if place >= 12:
            extent = (0, image.shape[1], image.shape[0], 0)
            axis.imshow(maps[row], cmap=scale.cmap, norm=scale.norm, extent=extent)
        axis.set_title(f"label {labels[row]}", color="tab:red" if labels[row] else "black", fontsize=8)
    figure.colorbar(scale, ax=figure.axes, shrink=0.5, label="mean squared error of a patch")
    return figure
