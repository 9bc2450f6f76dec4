"""Encoders as plain `ViTModel`s, and exact changes of their first layer: other channels, other units of the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, ViTConfig, ViTModel

ENCODER_OPTIONS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "qkv_bias"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "layer_norm_eps"),
    *("image_size", "patch_size", "num_channels"),
)
"""The options that `ViTConfig`, `ViTMAEConfig` and `DeiTConfig` share."""


def export_encoder(model: PreTrainedModel, num_channels: int | None = 3) -> ViTModel:
    """The encoder of a model as a plain `ViTModel` without a pooler: what it gives for a grey image stays the same.

    Args:
        model: a ViT or ViTMAE, with or without a head.
        num_channels: of the images, 3 for those that bare transformers reads; None leaves them as they are.
    """
    encoder: nn.Module = getattr(model, "vit", model)
    options = {name: getattr(model.config, name) for name in ENCODER_OPTIONS}
    options["num_channels"] = num_channels or model.config.num_channels
    plain = ViTModel(ViTConfig(**options), False)
    weights = {name: tensor for name, tensor in encoder.state_dict().items() if not name.startswith("pooler.")}
    kernel = weights["embeddings.patch_embeddings.projection.weight"]
    weights["embeddings.patch_embeddings.projection.weight"] = grey_kernel(kernel, plain.config.num_channels)
    plain.load_state_dict(weights)
    plain.to(dtype=kernel.dtype)  # type: ignore[call-arg]  # upstream's wrapper hides the signature
    return plain.eval()


def grey_kernel(kernel: Tensor, num_channels: int) -> Tensor:
    """A kernel (width, channels, side, side) for images of `num_channels`, equal to the old one for grey images.

    It is summed over its channels and spread evenly over the new ones.
    """
    if kernel.shape[1] == num_channels:
        return kernel
    return (kernel.sum(dim=1, keepdim=True) / num_channels).repeat(1, num_channels, 1, 1)


@torch.no_grad()
def convert_first_layer(model: PreTrainedModel, num_channels: int) -> None:
    """Let a ViT or ResNet take images of `num_channels`, in place: what it gives for a grey image stays the same."""
    first: Any = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    first.weight = nn.Parameter(grey_kernel(first.weight, num_channels))
    first.in_channels = num_channels
    for module in model.modules():
        if hasattr(module, "num_channels"):
            module.num_channels = num_channels  # type: ignore[assignment]  # what upstream compares images with
    model.config.num_channels = num_channels


@torch.no_grad()
def fold_normalisation(projection: nn.Conv2d, mean: Sequence[float], std: Sequence[float]) -> None:
    """Let a convolution take pixels in 0..1 that took (pixels - mean) / std, in place.

    It is exact where no border is padded, as in the patch projection of a ViT.

    Args:
        projection: with a bias, and without padding.
        mean, std: of each input channel, or of all where there is one number.
    """
    channels = projection.in_channels
    means, stds = (torch.tensor(values).expand(channels).to(projection.weight) for values in (mean, std))
    projection.weight /= stds[:, None, None]
    assert projection.bias is not None
    projection.bias -= (projection.weight * means[:, None, None]).sum(dim=(1, 2, 3))
