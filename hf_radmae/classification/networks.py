"""The networks that are compared: a ResNet, a ViT of a masked autoencoder's size, and that autoencoder's own encoder.

Whichever it is, the result is a model for image classification that transformers loads from the folder it is saved to.
"""

from __future__ import annotations

from os import PathLike
from typing import Any, Literal, cast, get_args

import torch
from torch import nn
from transformers import PreTrainedModel, ResNetConfig, ResNetForImageClassification, set_seed

from hf_radmae.classification.labels import Labels
from hf_radmae.models.encoder import ENCODER_OPTIONS, convert_first_layer, export_encoder
from hf_radmae.models.mae import preset_config
from hf_radmae.models.modeling_radiograph_vit import RadiographViTConfig, RadiographViTForImageClassification
from hf_radmae.models.positions import sincos_table
from hf_radmae.models.starts import config_values, load_encoder, photograph_normalisation

Kind = Literal["vit", "resnet50", "mae"]
"""A vision transformer of the size of a masked autoencoder's encoder, a ResNet-50, or that encoder, fine-tuned."""
# A ResNet-50 has 24 M parameters, as the small ViT has; this narrow one has 0.8 M, as the tiny ViT.
TINY_RESNET = {"embedding_size": 16, "hidden_sizes": [48, 96, 192, 384]}


def build_classifier(
    kind: Kind,
    labels: Labels,
    *,
    preset: str = "tiny",
    checkpoint: str | PathLike[str] | PreTrainedModel | None = None,
    image_size: int = 224,
    patch_size: int = 16,
    num_channels: int = 3,
    pooling: str | None = None,
    seed: int = 42,
) -> PreTrainedModel:
    """A network for some labels, whose configuration holds them.

    Args:
        kind: a `Kind`.
        labels: what the outputs stand for.
        preset: size of a network from scratch, a key of `PRESETS`; a ResNet is a narrow one for "tiny", else ResNet-50.
        checkpoint: a folder or Hub id, or a ViT or masked autoencoder in memory, which is copied. Required for "mae";
            "vit" and "resnet50" start from scratch without it. Its normalisation of pixels becomes part of a ViT.
        image_size, patch_size: of a ViT from scratch, in pixels; a checkpoint keeps its own.
        num_channels: of the images, 3 for those that bare transformers reads. A checkpoint of other channels is
            converted: what it gives for a grey image stays.
        pooling: of a ViT, see `pool_tokens`; where None that of the checkpoint's own head, "mean" where it has none.
        seed: of all weights that no checkpoint gives.

    Raises:
        ValueError: an unknown kind, preset or pooling, or "mae" without a checkpoint.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind={kind!r}: expected one of {', '.join(get_args(Kind))}")
    set_seed(seed)
    source: Any = checkpoint
    if kind == "resnet50":
        if source is not None:
            return _resnet_from(source, labels, num_channels)
        narrow: dict[str, Any] = TINY_RESNET if preset == "tiny" else {}
        return ResNetForImageClassification(ResNetConfig(num_channels=num_channels, **narrow, **labels.config()))
    if kind == "mae" and source is None:
        raise ValueError("kind='mae' fine-tunes a checkpoint: say which")
    options = labels.config() | {"pooling": pooling or trained_pooling(source)}
    if source is None:
        sizes = preset_config(preset, image_size=image_size, patch_size=patch_size, num_channels=num_channels)
        model = RadiographViTForImageClassification(_encoder_config(sizes, options))
        _start_as_mae(model)
    else:
        encoder = export_encoder(source if isinstance(source, PreTrainedModel) else load_encoder(source), num_channels)
        model = RadiographViTForImageClassification(_encoder_config(encoder.config, options))
        model.vit.load_state_dict(encoder.state_dict())
    nn.init.zeros_(model.classifier.weight)  # like MAE's fine-tuning (2e-5): all classes are equal at the start
    nn.init.zeros_(model.classifier.bias)
    return model


def trained_pooling(checkpoint: str | PathLike[str] | PreTrainedModel | None) -> str:
    """What the head of a checkpoint was trained on: "cls" for one of transformers, "mean" where there is no head."""
    if checkpoint is None or isinstance(checkpoint, PreTrainedModel):
        return "mean"
    config = config_values(checkpoint)
    if any(name.endswith("ForImageClassification") for name in config.get("architectures") or ()):
        return config.get("pooling", "cls")
    return "mean"


def _resnet_from(checkpoint: str | PathLike[str], labels: Labels, num_channels: int) -> ResNetForImageClassification:
    """A ResNet with the weights of a checkpoint, and a new head where it had another number of classes."""
    # As a configuration: transformers hands an option that the checkpoint's lacks on to the model's class.
    config = ResNetConfig.from_dict({**config_values(checkpoint), **labels.config()})
    load: dict[str, Any] = {"dtype": torch.float32, "ignore_mismatched_sizes": True}
    model = ResNetForImageClassification.from_pretrained(checkpoint, config=config, **load)
    if normalisation := photograph_normalisation(checkpoint):
        # The first layer pads its borders with zeros, which are the mean of normalised pixels: folded in, the borders
        # would change. So `ClassifierTrainer` and the processor normalise.
        model.config.image_mean, model.config.image_std = normalisation
    else:
        convert_first_layer(model, num_channels)
    return model


def _encoder_config(config: Any, options: dict[str, Any]) -> RadiographViTConfig:
    return RadiographViTConfig(**{name: getattr(config, name) for name in ENCODER_OPTIONS} | options)


@torch.no_grad()
def _start_as_mae(model: RadiographViTForImageClassification) -> None:
    """Give an encoder the start of a masked autoencoder of ours, so that what differs is the pre-training alone."""
    for module in model.vit.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):  # with upstream's normal(0.02) narrow attention learns late
            nn.init.xavier_uniform_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    embeddings = model.vit.embeddings
    side = int(embeddings.patch_embeddings.num_patches**0.5)
    embeddings.position_embeddings.copy_(sincos_table(side, model.config.hidden_size))
    nn.init.normal_(embeddings.cls_token, std=model.config.initializer_range)


@torch.no_grad()
def fold_scale(model: PreTrainedModel) -> None:
    """Move a regression's mean and spread into its last layer: the network then gives the numbers themselves."""
    mean, std = model.config.label_scale
    head = last_layer(model)
    head.weight *= std
    head.bias.mul_(std).add_(mean)
    model.config.label_scale = [0.0, 1.0]


def last_layer(model: PreTrainedModel) -> nn.Linear:
    """The linear layer that gives the logits."""
    head = model.classifier
    return cast(nn.Linear, head[-1] if isinstance(head, nn.Sequential) else head)


def parameter_groups(
    model: PreTrainedModel, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for an optimiser, that of the last layer first: a lower rate the deeper a layer, decay for matrices only.

    A ViT of L layers has depth 0 for its embeddings, 1 to L for its layers and L + 1 for the norm and the head, whose
    learning rate is the full one; a depth has that of the next times `layer_decay` (MAE's fine-tuning, He et al. 2022,
    appendix A.1). Vectors, biases, CLS token and position table do not decay.

    Raises:
        ValueError: a layer decay for a network whose layers are not numbered (ResNet).
    """
    layers = getattr(model.config, "num_hidden_layers", None)
    if layer_decay != 1 and layers is None:
        raise ValueError(f"layer_decay={layer_decay} is for vision transformers; {type(model).__name__} takes only 1")
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        steps_down = _steps_down(name, layers) if layers is not None else 0
        decays = parameter.ndim > 1 and not name.endswith(("cls_token", "position_embeddings"))
        group = groups.setdefault(
            (steps_down, decays),
            {
                "params": [],
                "lr": learning_rate * layer_decay**steps_down,
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def _steps_down(name: str, layers: int) -> int:
    parts = name.split(".")
    if "embeddings" in parts:
        return layers + 1
    return layers - int(parts[parts.index("layers") + 1]) if "layers" in parts else 0
