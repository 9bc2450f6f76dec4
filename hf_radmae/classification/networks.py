"""The networks that are compared: a ResNet, a ViT of a masked autoencoder's size, and that autoencoder's own encoder.

Whichever it is, what comes out is a transformers model for image classification of model type `vit` or `resnet`.
"""

from __future__ import annotations

from os import PathLike
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.vit.modeling_vit import ViTEmbeddings

from hf_radmae.classification.labels import Labels
from hf_radmae.images.background import informative_patches
from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
from hf_radmae.models.masking import patch_grid
from hf_radmae.models.positions import sincos_table
from hf_radmae.probing.features import pool_tokens

Kind = Literal["vit", "resnet50", "mae"]
KINDS: dict[str, str] = {
    "vit": "a vision transformer from scratch, of the size of a masked autoencoder's encoder",
    "resnet50": "a ResNet-50, from scratch or from a checkpoint",
    "mae": "the encoder of a masked autoencoder, fine-tuned",
}
POOLINGS = ("mean", "cls")
# Options of ViTMAEConfig that an encoder keeps as a ViTConfig.
ENCODER_OPTIONS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "image_size",
    "patch_size",
    "num_channels",
    "qkv_bias",
)
# A ResNet-50 has 24 M parameters, as the small ViT has; this narrow one has 0.8 M, as the tiny ViT.
TINY_RESNET = {"embedding_size": 16, "hidden_sizes": [48, 96, 192, 384]}


class RadViTForImageClassification(ViTForImageClassification):
    """`ViTForImageClassification` on any grid, with a mean over the informative patches in place of the CLS token.

    With `config.pooling = "cls"` it computes what the stock class does, and bare transformers may read its checkpoints.
    With "mean" the weights are the same, but the stock class would look at the CLS token.
    """

    def __init__(self, config: ViTConfig):
        super().__init__(config)
        self.vit.apply(self._init_weights)  # ViTModel has started itself by its own rule, since it is a model too
        if getattr(config, "pooling", None) not in POOLINGS:
            raise ValueError(
                f"config.pooling must be one of {', '.join(POOLINGS)}, not {getattr(config, 'pooling', None)}"
            )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As a masked autoencoder of ours starts, so that what differs is the pre-training alone."""
        if isinstance(module, nn.Linear) and module is self.classifier:
            init.zeros_(module.weight)  # like MAE's fine-tuning (2e-5): all classes are equal at the start
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):  # see RadMAEForPreTraining: with normal(0.02) narrow attention stays asleep
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            if not getattr(module.weight, "_is_hf_initialized", False):  # a view of a loaded tensor has no such mark
                init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, ViTEmbeddings):
            side = int(module.patch_embeddings.num_patches**0.5)
            init.copy_(module.position_embeddings, sincos_table(side, self.config.hidden_size))
            init.normal_(module.cls_token, std=self.config.initializer_range)
        else:
            super()._init_weights(module)

    def forward(  # type: ignore[override]  # the loss is the trainer's
        self, pixel_values: Tensor, patch_mask: Tensor | None = None, **kwargs: Any
    ) -> ImageClassifierOutput:
        """Logits (batch, names) of images (batch, channels, height, width).

        Args:
            pixel_values: grey values 0..1, sides multiples of the patch.
            patch_mask: bool (batch, patches), the patches that a mean is taken of; found by the pixels where None.
            **kwargs: as in the stock class, but labels.
        """
        kwargs["interpolate_pos_encoding"] = True
        outputs = self.vit(pixel_values, **kwargs)
        pooling, patch_size = self.config.pooling, cast(int, self.config.patch_size)
        grid = patch_grid(pixel_values, patch_size)
        if patch_mask is None and pooling == "mean":
            patch_mask = informative_patches(pixel_values, patch_size)
        pooled = pool_tokens(outputs.last_hidden_state, grid, patch_mask, poolings=[pooling])[pooling]
        logits = self.classifier(pooled.to(outputs.last_hidden_state.dtype))
        return ImageClassifierOutput(logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions)

    def save_pretrained(  # type: ignore[override]  # the stock method's further arguments go by name
        self, save_directory: str | PathLike[str], is_main_process: bool = True, **kwargs: Any
    ) -> None:
        """Save under the model's own tensor names, which Trainer needs (see `RadMAEForPreTraining.save_pretrained`)."""
        super().save_pretrained(save_directory, is_main_process, **{"save_original_format": False} | kwargs)
        if self.config.pooling == "cls":
            self.config.architectures = [ViTForImageClassification.__name__]
            if is_main_process:
                self.config.save_pretrained(save_directory)


def build_classifier(
    kind: Kind,
    labels: Labels,
    *,
    preset: str = "tiny",
    checkpoint: str | PathLike[str] | PreTrainedModel | None = None,
    image_size: int = 224,
    patch_size: int = 16,
    num_channels: int = 1,
    pooling: str = "mean",
    seed: int = 42,
) -> PreTrainedModel:
    """A network for some labels, whose configuration holds them.

    Args:
        kind: a key of `KINDS`.
        labels: what the outputs stand for.
        preset: size of a network from scratch, a key of `PRESETS`; a ResNet is a narrow one for "tiny", else ResNet-50.
        checkpoint: a folder or Hub id, or for "mae" a model in memory, which is copied. Required for "mae"; "vit" and
            "resnet50" start from scratch without it.
        image_size, patch_size, num_channels: of a ViT from scratch, in pixels; a checkpoint keeps its own, as does a
            ResNet but for the channels from scratch.
        pooling: of a ViT: "mean" over the informative patches, or "cls", which `pipeline` computes too.
        seed: of all weights that no checkpoint gives.

    Raises:
        ValueError: an unknown kind, preset or pooling, or "mae" without a checkpoint.
    """
    if kind not in KINDS or pooling not in POOLINGS:
        raise ValueError(
            f"kind={kind!r} and pooling={pooling!r}: expected one of {', '.join(KINDS)} and {', '.join(POOLINGS)}"
        )
    set_seed(seed)
    source: Any = checkpoint
    # Only the head can be of another size: every other option is the checkpoint's.
    load: dict[str, Any] = {"dtype": torch.float32, "ignore_mismatched_sizes": True}
    if kind == "resnet50":
        if source is not None:
            return ResNetForImageClassification.from_pretrained(source, **labels.config(), **load)
        narrow: dict[str, Any] = TINY_RESNET if preset == "tiny" else {}
        return ResNetForImageClassification(ResNetConfig(num_channels=num_channels, **narrow, **labels.config()))
    options = labels.config() | {"pooling": pooling}
    if kind == "mae":
        if source is None:
            raise ValueError("kind='mae' fine-tunes a checkpoint: say which")
        if not isinstance(source, PreTrainedModel):
            source = RadMAEForPreTraining.from_pretrained(source, dtype=torch.float32)
        model = RadViTForImageClassification(_encoder_config(source.config, options))
        model.vit.load_state_dict(source.vit.state_dict())
        return model
    if source is not None:
        return RadViTForImageClassification.from_pretrained(source, **options, **load)
    sizes = preset_config(preset, image_size=image_size, patch_size=patch_size, num_channels=num_channels)
    return RadViTForImageClassification(_encoder_config(sizes, options))


def _encoder_config(config: Any, options: dict[str, Any]) -> ViTConfig:
    return ViTConfig(**{name: getattr(config, name) for name in ENCODER_OPTIONS} | options)


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
