"""From an encoder and a linear head to repositories that bare transformers loads: plain ViT, plain processor.

`ViTForImageClassification` classifies the CLS token. A head on the mean or on a grid of the patches is no such model:
it becomes a `RadiographViTForImageClassification`, whose code is saved beside it and runs with `trust_remote_code`.

Bare transformers reads eight bits, divides by 255 and resizes to the square of the base grid. So a scan of 16 bit is
cut off at 255 there, a dark one stays dark, and the aspect is lost. With this package imported the same repository is
read at full depth, scaled by the range of each image, and resized to the closest bin.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.classification.networks import RadViTForImageClassification
from hf_radmae.models.modeling_radiograph_vit import RadiographViTConfig, RadiographViTForImageClassification
from hf_radmae.models.starts import ENCODER_OPTIONS
from hf_radmae.models.starts import load_encoder as load_encoder  # the start of every export
from hf_radmae.probing.features import POOLINGS

_SHARED = tuple(name for name in ENCODER_OPTIONS if name != "num_channels")

AutoConfig.register(RadiographViTConfig.model_type, RadiographViTConfig, exist_ok=True)  # no one asks to run its code
AutoModelForImageClassification.register(RadiographViTConfig, RadiographViTForImageClassification, exist_ok=True)


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
    grid: int = 7,
    flat_threshold: float = 0.01,
    num_channels: int = 3,
    problem_type: str = "single_label_classification",
) -> PreTrainedModel:
    """A classifier of the library for an encoder and a linear head on its pooled tokens.

    Args:
        model: as for `export_encoder`.
        weight, bias: of the head, (classes, width) and (classes,), on features as they are: a batch norm before it is
            folded in (`fold_into_linear`), as in a `LinearProbe`.
        labels: names of the classes in order.
        pooling: what the head was trained on, see `extract_features`.
        grid: cells along each side for "flat".
        flat_threshold: of the `BucketCollator` that the head was trained with, for "mean" and "flat".
        num_channels: of the images, 3 for those that bare transformers reads.
        problem_type: one of transformers', which says what pipelines make of the logits.

    Returns:
        `ViTForImageClassification` for "cls", else `RadiographViTForImageClassification`; in evaluation mode.

    Raises:
        ValueError: an unknown pooling, a label that repeats, or a head of another shape than classes and features have.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"unknown pooling {pooling!r}: choose from {', '.join(POOLINGS)}")
    encoder = export_encoder(model, num_channels)
    width = encoder.config.hidden_size * (grid**2 if pooling == "flat" else 1)
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
    options["problem_type"] = problem_type
    classifier: PreTrainedModel
    if pooling == "cls":
        classifier = ViTForImageClassification(ViTConfig(**options))
    else:
        options |= {"pooling": pooling, "grid": grid, "flat_threshold": flat_threshold}
        classifier = RadiographViTForImageClassification(RadiographViTConfig(**options))
    head = {"weight": torch.as_tensor(weight), "bias": torch.as_tensor(bias)}
    classifier.vit.load_state_dict(encoder.state_dict())
    classifier.classifier.load_state_dict(head)
    classifier.to(dtype=encoder.dtype)  # type: ignore[call-arg]  # as above
    return classifier.eval()


def load_fine_tuned(name_or_path: str | Path) -> PreTrainedModel:
    """A fine-tuned ViT, as the class that computes what it was trained for.

    Raises:
        ValueError: it is another network.
    """
    config = AutoConfig.from_pretrained(name_or_path)
    if config.model_type != ViTConfig.model_type:
        raise ValueError(f"{name_or_path} is a {config.model_type}, and only ViTs are exported: push it as it is")
    pooled = hasattr(config, "pooling")
    return (RadViTForImageClassification if pooled else ViTForImageClassification).from_pretrained(name_or_path)


def export_fine_tuned(model: PreTrainedModel, num_channels: int = 3) -> PreTrainedModel:
    """A classifier of the library from a fine-tuned one (`RadViTForImageClassification`, `ViTForImageClassification`).

    Args:
        model: its configuration holds the labels, the pooling ("cls" where it has none) and, for a regression, the
            mean and the scale of the numbers, which go into the head.
        num_channels: as for `export_classifier`.

    Raises:
        ValueError: the model is no ViT with a linear head.
    """
    config, head = model.config, getattr(model, "classifier", None)
    if config.model_type != ViTConfig.model_type or not isinstance(head, nn.Linear):
        raise ValueError(f"{type(model).__name__} is no fine-tuned ViT: only ViTs with a linear head are exported")
    weight, bias, names = head.weight.detach(), head.bias.detach(), list((config.id2label or {}).values())
    if config.problem_type == "regression":
        mean, scale = getattr(config, "label_scale", (0.0, 1.0))
        weight, bias = weight * scale, bias * scale + mean
    pooling = getattr(config, "pooling", "cls")
    options: dict[str, Any] = {"problem_type": config.problem_type or "single_label_classification"}
    return export_classifier(model, weight, bias, names, pooling=pooling, num_channels=num_channels, **options)


def export_processor(processor: RadiographImageProcessor, config: PreTrainedConfig) -> RadiographImageProcessor:
    """The processor of an exported model: bare transformers reads it as a square of the base grid.

    Args:
        processor: that the model was trained with.
        config: of the exported model; says the number of channels and the size of the square.
    """
    options = {"size": {"height": config.image_size, "width": config.image_size}, "num_channels": config.num_channels}
    options["do_convert_rgb"] = config.num_channels == 3
    return RadiographImageProcessor.from_dict(processor.to_dict() | options)
