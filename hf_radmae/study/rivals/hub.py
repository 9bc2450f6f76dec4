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

MOST_FIRST = 16  # class and register tokens; more are of something else, such as objects to be detected


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

    The images of the other models are scaled to the size that its processor names, normalised by its mean and
    standard deviation, and repeated for its channels. A network without a class token has no "cls". Of a network for
    images and texts, such as CLIP, the part for images is taken.

    Args:
        name: id on the Hub, or a folder.
        poolings: that are kept, see `pool_tokens`.

    Raises:
        OSError: there is no such model, or it has no image processor.
        ValueError: it does not run on such pixels, or its outputs are neither tokens of a grid nor maps.
    """
    config = AutoConfig.from_pretrained(name)
    if config.model_type == "vit_mae":  # AutoModel would mask and shuffle
        model = ViTModel.from_pretrained(name, add_pooling_layer=False)
    else:
        model = AutoModel.from_pretrained(name)
    model, config = getattr(model, "vision_model", model), getattr(config, "vision_config", config)  # CLIP, SigLIP
    model.float().eval().to(device)  # type: ignore[arg-type]  # decorated without its types
    channels = getattr(config, "num_channels", 3)
    size, mean, std = _preprocessing(name, config, channels)

    @torch.no_grad()
    def compute(batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        pixels = interpolate(batch["pixel_values"], size, mode="bicubic", antialias=True).clamp(0, 1)
        pixels = (pixels.expand(-1, channels, -1, -1) - mean) / std
        tokens, shape, cls = _tokens(name, model(pixel_values=pixels.to(device)), size, config)
        return {name: pool_tokens(tokens, name, shape) for name in poolings if cls or name != "cls"}

    blank = {"pixel_values": torch.zeros(1, 1, *size)}
    try:  # before any image is read
        compute(blank)
    except (TypeError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"--rivals {name} ({config.model_type}): expected an encoder of pixel_values (batch, {channels}, "
            f"{size[0]}, {size[1]}), as its configuration and its image processor say: {error}"
        ) from error
    return split_features(parts, compute, num_workers)


def _preprocessing(name: str, config: Any, channels: int) -> tuple[tuple[int, int], torch.Tensor, torch.Tensor]:
    """Height and width of the pixels that an encoder sees, and their mean and standard deviation, by its processor."""
    processor = AutoImageProcessor.from_pretrained(name)
    size = getattr(processor, "crop_size", None) or getattr(processor, "size", None) or {}
    edge = size.get("shortest_edge") or _pair(getattr(config, "image_size", None) or 224)[0]
    normalise = getattr(processor, "do_normalize", True)
    found = []
    for key, default in (("image_mean", 0.0), ("image_std", 1.0)):
        values = getattr(processor, key, None) if normalise else default
        if values is None:
            raise ValueError(f"--rivals {name}: its image processor normalises, and has no {key}: expected a number")
        found.append(torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)[:, :channels])
    return (size.get("height") or edge, size.get("width") or edge), found[0], found[1]


def _tokens(name: str, output: Any, size: tuple[int, int], config: Any) -> tuple[torch.Tensor, tuple[int, int], bool]:
    """Tokens (batch, 1 + patches, width), rows and columns of patches, and whether the first one is a class token."""
    hidden = getattr(output, "last_hidden_state", None)
    if hidden is not None and hidden.ndim == 4:  # maps of a convolutional network: (batch, width, rows, columns)
        patches = hidden.flatten(2).mT
        return torch.cat([torch.zeros_like(patches[:, :1]), patches], 1), tuple(hidden.shape[2:]), False
    patch = getattr(config, "patch_size", None)
    if hidden is None or hidden.ndim != 3 or not patch:
        shape = None if hidden is None else tuple(hidden.shape)
        raise ValueError(f"outputs of shape {shape} and patches of {patch} pixels are neither tokens nor maps")
    rows, columns = (length // edge for length, edge in zip(size, _pair(patch), strict=True))
    if not 0 <= (first := hidden.shape[1] - rows * columns) <= MOST_FIRST:
        raise ValueError(
            f"{hidden.shape[1]} tokens are no grid of {rows} x {columns} patches of {patch} pixels after at most "
            f"{MOST_FIRST} others"
        )
    # After class and register tokens.
    return torch.cat([hidden[:, :1], hidden[:, first:]], 1), (rows, columns), first > 0


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
