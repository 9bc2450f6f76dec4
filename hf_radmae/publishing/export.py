"""Encoders and classifiers as repositories that bare transformers loads.

`ViTForImageClassification` classifies the CLS token. A head on anything else is saved as a
`RadiographViTForImageClassification`, whose code is beside it and runs with `trust_remote_code`.

Bare transformers reads eight bits, divides by 255 and resizes to the square of the base grid. So a scan of 16 bit is
cut off at 255 there, a dark one stays dark, and the aspect is lost. With this package imported the same repository is
read at full depth, scaled by the range of each image, and resized to the closest bin.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTModel,
)

from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.models.encoder import ENCODER_OPTIONS, convert_first_layer, export_encoder
from hf_radmae.models.mae import RadMAEForPreTraining
from hf_radmae.models.modeling_radiograph_vit import (
    RadiographViTConfig,
    RadiographViTForImageClassification,
    pooled_width,
)
from hf_radmae.models.starts import MAE_FOLDER, config_values


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
    options: dict[str, Any] = {name: getattr(encoder.config, name) for name in ENCODER_OPTIONS}
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
    convert_first_layer(model, num_channels)
    return model


@torch.no_grad()
def save_encoder(encoder: ViTModel, folder: str | Path) -> None:
    """Write an encoder so that `AutoModel` finds every weight: its `pooler_output` is the CLS token.

    `AutoModel` makes a `ViTModel` with a pooler. One that was not saved is drawn at random at each load.

    Args:
        encoder: of `export_encoder`, without a pooler.
        folder: where to.
    """
    config = ViTConfig.from_dict(encoder.config.to_dict() | {"pooler_act": "linear"})
    whole = ViTModel(config)
    whole.load_state_dict(encoder.state_dict(), strict=False)
    assert whole.pooler is not None
    torch.nn.init.eye_(whole.pooler.dense.weight)
    torch.nn.init.zeros_(whole.pooler.dense.bias)
    whole.to(dtype=encoder.dtype).save_pretrained(folder, save_original_format=False)  # type: ignore[call-arg]


def lay_out_run(source: str | Path, target: str | Path) -> None:
    """Make a repository of a pre-trained checkpoint: the encoder, and in `mae` the whole masked autoencoder.

    The encoder is what `AutoModel` loads, for images of three channels. `RadMAEForPreTraining.from_pretrained` finds
    the masked autoencoder below it.

    Args:
        source: holds a `vit_mae`, and its processor if it has one.
        target: the repository's folder; may be the same, and the files are then moved.
    """
    source, whole = Path(source), Path(target, MAE_FOLDER)
    whole.mkdir(parents=True, exist_ok=True)
    for pattern in ("config.json", "preprocessor_config.json", "model*.safetensors*"):
        for file in list(source.glob(pattern)):
            (shutil.move if source == Path(target) else shutil.copyfile)(file, whole / file.name)
    encoder = export_encoder(RadMAEForPreTraining.from_pretrained(whole))
    save_encoder(encoder, target)
    if (whole / "preprocessor_config.json").is_file():
        export_processor(RadiographImageProcessor.from_pretrained(whole), encoder.config).save_pretrained(target)


def export_processor(processor: RadiographImageProcessor, config: PreTrainedConfig) -> RadiographImageProcessor:
    """The processor of an exported model: bare transformers reads it as a square of the base grid.

    Args:
        processor: that the model was trained with.
        config: of the exported model; says the number of channels and the size of the square.
    """
    options: dict[str, Any] = {"num_channels": config.num_channels}
    if hasattr(config, "image_size"):  # not of a ResNet, which takes any
        options["size"] = {"height": config.image_size, "width": config.image_size}
    options["do_convert_rgb"] = config.num_channels == 3
    return RadiographImageProcessor.from_dict(processor.to_dict() | options)
