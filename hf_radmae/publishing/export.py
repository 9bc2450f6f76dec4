"""Encoders and classifiers as repositories that bare transformers loads.

`ViTForImageClassification` classifies the CLS token. A head on anything else is saved as a
`RadiographViTForImageClassification`, whose code is beside it and runs with `trust_remote_code`.

Bare transformers reads eight bits, divides by 255 and resizes to the square of the base grid. So a scan of 16 bit is
cut off at 255 there, a dark one stays dark, and the aspect is lost. With this package imported the same repository is
read at full depth, scaled by the range of each image, and resized to the closest bin.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTModel,
)

from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.models.modeling_radiograph_vit import (
    RadiographViTConfig,
    RadiographViTForImageClassification,
    pooled_width,
)
from hf_radmae.models.starts import ENCODER_OPTIONS, config_values

_SHARED = tuple(name for name in ENCODER_OPTIONS if name != "num_channels")


def export_encoder(model: PreTrainedModel, num_channels: int | None = 3) -> ViTModel:
    """The encoder of a model as a plain `ViTModel` without a pooler: what it gives for a grey image stays the same.

    Args:
        model: a ViT or ViTMAE, with or without a head.
        num_channels: of the images; None leaves them as they are.
    """
    encoder: nn.Module = getattr(model, "vit", model)
    options = {name: getattr(model.config, name) for name in _SHARED}
    plain = ViTModel(ViTConfig(**options, num_channels=num_channels or model.config.num_channels), False)
    weights = {name: tensor for name, tensor in encoder.state_dict().items() if not name.startswith("pooler.")}
    kernel = weights["embeddings.patch_embeddings.projection.weight"]
    weights["embeddings.patch_embeddings.projection.weight"] = grey_kernel(kernel, plain.config.num_channels)
    plain.load_state_dict(weights)
    plain.to(dtype=kernel.dtype)  # type: ignore[call-arg]  # upstream's wrapper hides the signature
    return plain.eval()


def grey_kernel(kernel: torch.Tensor, num_channels: int) -> torch.Tensor:
    """A patch kernel (width, channels, side, side) for images of `num_channels`, equal to the old one for grey images.

    It is summed over its channels and spread evenly over the new ones.
    """
    if kernel.shape[1] == num_channels:
        return kernel
    return (kernel.sum(dim=1, keepdim=True) / num_channels).repeat(1, num_channels, 1, 1)


def export_classifier(
    model: PreTrainedModel,
    weight: torch.Tensor | np.ndarray,
    bias: torch.Tensor | np.ndarray,
    labels: Sequence[str],
    *,
    pooling: str = "cls",
    num_channels: int = 3,
    problem_type: str = "single_label_classification",
) -> RadiographViTForImageClassification:
    """A classifier made of an encoder and a linear head on its pooled tokens.

    Args:
        model: as for `export_encoder`.
        weight, bias: of the head, (classes, width) and (classes,), on features as they are: a batch norm before it is
            folded in (`fold_into_linear`), as in a `LinearProbe`.
        labels: names of the classes in order.
        pooling: what the head was trained on, see `pool_tokens`.
        num_channels: of the images, 3 for those that bare transformers reads.
        problem_type: one of transformers', which says what pipelines make of the logits.

    Returns:
        The model in evaluation mode. With pooling "cls" it is saved as a `ViTForImageClassification`.

    Raises:
        ValueError: an unknown pooling, a label that repeats, or a head of another shape than classes and features have.
    """
    encoder = export_encoder(model, num_channels)
    width = pooled_width(pooling, encoder.config.hidden_size)
    if tuple(weight.shape) != (len(labels), width) or tuple(bias.shape) != (len(labels),):
        raise ValueError(
            f"a head of {tuple(weight.shape)} with a bias of {tuple(bias.shape)} does not fit {len(labels)} labels and "
            f"features of width {width} ({pooling}): expected {(len(labels), width)} and {(len(labels),)}"
        )
    names = {number: str(label) for number, label in enumerate(labels)}
    if repeated := sorted({name for name in names.values() if list(names.values()).count(name) > 1}):
        raise ValueError(f"the labels repeat {', '.join(repeated)}: each class needs a name of its own")
    options: dict[str, Any] = {name: getattr(encoder.config, name) for name in (*_SHARED, "num_channels")}
    options |= {"id2label": names, "label2id": {label: number for number, label in names.items()}}
    options |= {"problem_type": problem_type, "pooling": pooling}
    classifier = RadiographViTForImageClassification(RadiographViTConfig(**options))
    classifier.vit.load_state_dict(encoder.state_dict())
    classifier.classifier.load_state_dict({"weight": torch.as_tensor(weight), "bias": torch.as_tensor(bias)})
    classifier.to(dtype=encoder.dtype)  # type: ignore[call-arg]  # as above
    return classifier.eval()


def load_fine_tuned(name_or_path: str | Path) -> PreTrainedModel:
    """A fine-tuned ViT or ResNet.

    Raises:
        ValueError: it is another network.
    """
    kind = config_values(name_or_path).get("model_type")
    if kind in (ViTConfig.model_type, RadiographViTConfig.model_type):
        return RadiographViTForImageClassification.from_pretrained(name_or_path)
    if kind == ResNetConfig.model_type:
        return ResNetForImageClassification.from_pretrained(name_or_path)
    raise ValueError(f"{name_or_path} is a {kind}: only ViTs and ResNets that were fine-tuned are exported")


@torch.no_grad()
def export_fine_tuned(model: PreTrainedModel, num_channels: int = 3) -> PreTrainedModel:
    """A copy of a fine-tuned ViT or ResNet for images of so many channels: what it gives for a grey image stays.

    Args:
        model: of `load_fine_tuned`.
        num_channels: of the images, 3 for those that bare transformers reads.

    Raises:
        ValueError: the model is neither.
    """
    if not isinstance(model, RadiographViTForImageClassification | ResNetForImageClassification):
        raise ValueError(f"{type(model).__name__} is no ViT or ResNet that was fine-tuned")
    model = copy.deepcopy(model).eval()
    first: Any = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    first.weight = nn.Parameter(grey_kernel(first.weight, num_channels))
    first.in_channels = num_channels
    for module in model.modules():
        if hasattr(module, "num_channels"):
            module.num_channels = num_channels  # type: ignore[assignment]  # what upstream compares images with
    model.config.num_channels = num_channels
    return model


def export_processor(processor: RadiographImageProcessor, config: PreTrainedConfig) -> RadiographImageProcessor:
    """The processor of an exported model: bare transformers reads it as a square of the base grid.

    Args:
        processor: that the model was trained with.
        config: of the exported model; says the number of channels and the size of the square.
    """
    options = {"size": {"height": config.image_size, "width": config.image_size}, "num_channels": config.num_channels}
    options["do_convert_rgb"] = config.num_channels == 3
    return RadiographImageProcessor.from_dict(processor.to_dict() | options)
