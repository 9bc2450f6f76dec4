"""Any encoder on the Hub, or in a folder, by its id: pixels as it was trained on them, the same heads on its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate
from transformers import AutoConfig, AutoImageProcessor, AutoModel, ViTModel

from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.models.modeling_radiograph_vit import pool_tokens
from hf_radmae.probing.features import PARTS
from hf_radmae.study.rivals.network import split_features


@torch.no_grad()
def hub_features(
    name: str,
    parts: Mapping[str, RadiographDataset],
    poolings: Sequence[str] = PARTS,
    *,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
) -> dict[str, dict[str, np.ndarray]]:
    """Frozen features of an encoder that was trained elsewhere, in every pooling that it has.

    The images of the other models are scaled to the square that its processor names, normalised by its mean and
    standard deviation, and repeated for its channels. A network without a class token has no "cls".

    Args:
        name: id on the Hub, or a folder.
        poolings: that are kept, see `pool_tokens`.

    Raises:
        OSError: there is no such model.
        ValueError: its outputs are neither tokens nor maps.
    """
    config = AutoConfig.from_pretrained(name)
    if config.model_type == "vit_mae":  # AutoModel would mask and shuffle
        model = ViTModel.from_pretrained(name, add_pooling_layer=False)
    else:
        model = AutoModel.from_pretrained(name)
    model.to(device).eval()  # type: ignore[arg-type]  # decorated without its types
    processor = AutoImageProcessor.from_pretrained(name)
    channels = getattr(config, "num_channels", 3)
    size = getattr(processor, "crop_size", None) or processor.size
    side = size.get("height") or size.get("shortest_edge") or getattr(config, "image_size", 224)
    normalise = getattr(processor, "do_normalize", True)
    mean, std = (
        torch.tensor(getattr(processor, key) if normalise else [default] * channels).view(1, -1, 1, 1)
        for key, default in (("image_mean", 0.0), ("image_std", 1.0))
    )

    @torch.no_grad()
    def compute(batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        pixels = interpolate(batch["pixel_values"], (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        pixels = (pixels.expand(-1, channels, -1, -1) - mean[:, :channels]) / std[:, :channels]
        output = model(pixel_values=pixels.to(device)).last_hidden_state
        if output.ndim == 4:  # maps of a convolutional network: (batch, width, rows, columns)
            shape, cls = tuple(output.shape[2:]), False
            tokens = torch.cat([torch.zeros_like(output[:, :, 0, :1]).mT, output.flatten(2).mT], 1)
        elif output.ndim == 3 and (patch := getattr(config, "patch_size", None)):
            shape, cls = (side // patch, side // patch), output.shape[1] > (side // patch) ** 2
            patches = output[:, output.shape[1] - shape[0] * shape[1] :]  # after class and register tokens
            tokens = torch.cat([output[:, :1], patches], 1)
        else:
            raise ValueError(f"{name}: outputs of shape {tuple(output.shape)} are neither tokens nor maps")
        return {name: pool_tokens(tokens, name, shape) for name in poolings if cls or name != "cls"}

    return split_features(parts, compute, num_workers)
