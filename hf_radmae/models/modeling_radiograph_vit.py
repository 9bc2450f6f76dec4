"""A vision transformer that classifies radiographs of any size by pooled tokens, and the definition of each pooling.

This file is copied beside every saved model that the stock class cannot compute, and runs there with
`trust_remote_code=True`. It imports torch and transformers only.
"""

import re
from math import isqrt
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.vit.modeling_vit import ViTPreTrainedModel
from transformers.utils.generic import can_return_tuple

POOLINGS = ("cls", "mean", "max", "std", "grid", "flat")
"""Parts of a pooling. `grid` is 3 x 3 cells, `gridN` N x N, and `flat` 7 x 7."""
_CELLS = {"grid": 3, "flat": 7}


def pooling_parts(pooling: str) -> tuple[str, ...]:
    """The parts of a pooling such as "mean+max+std".

    Raises:
        ValueError: a part is unknown or repeats.
    """
    parts = tuple(pooling.split("+")) if isinstance(pooling, str) else ()
    if not parts or not all(part in POOLINGS or cells_of(part) for part in parts):
        raise ValueError(
            f"unknown pooling {pooling!r}: choose from {', '.join(POOLINGS)}, gridN for N x N cells, or several of "
            "them joined by +"
        )
    if len({cells_of(part) or part for part in parts}) < len(parts):
        raise ValueError(f"pooling {pooling!r} names a part twice: name each once")
    return parts


def cells_of(part: str) -> int:
    """Cells along each side of the image for "grid", "gridN" and "flat"; 0 for the other parts of a pooling."""
    numbered = re.fullmatch(r"grid([1-9]\d?)", part)
    return int(numbered[1]) if numbered else _CELLS.get(part, 0)


def pooled_width(pooling: str, hidden_size: int) -> int:
    """Length of the vector that `pool_tokens` gives for tokens of `hidden_size` values."""
    return hidden_size * sum(max(1, cells_of(part) ** 2) for part in pooling_parts(pooling))


def pool_tokens(hidden: Tensor, pooling: str, shape: tuple[int, int] | None = None) -> Tensor:
    """One vector per image: the CLS token, or statistics over all patches.

    * "cls": the first token.
    * "mean", "max", "std": over the patches, of each value; the standard deviation is that of the population.
    * "grid", "gridN", "flat": means of the patches in each of 3 x 3, N x N or 7 x 7 cells, row by row. The cells are
      those of adaptive average pooling: they fit any number of rows and columns, and overlap where there are fewer
      patches than cells.

    Args:
        hidden: (batch, 1 + patches, width), the CLS token first, then the patches row by row.
        pooling: parts joined by "+", whose vectors are concatenated in that order.
        shape: rows and columns of patches, for cells only; a square where None.

    Returns:
        float32 (batch, `pooled_width(pooling, width)`).

    Raises:
        ValueError: an unknown pooling, or a shape that is not that of the patches.
    """
    hidden = hidden.float()
    cls, patches = hidden[:, 0], hidden[:, 1:]
    vectors = []
    for part in pooling_parts(pooling):
        if part == "cls":
            vectors.append(cls)
        elif part == "mean":
            vectors.append(patches.mean(dim=1))
        elif part == "max":
            vectors.append(patches.amax(dim=1))
        elif part == "std":
            # The root has no gradient at 0, where all patches are equal.
            vectors.append(patches.var(dim=1, correction=0).clamp(min=1e-12).sqrt())
        else:
            vectors.append(_cell_means(patches, cells_of(part), shape))
    return torch.cat(vectors, dim=1)


def _cell_means(patches: Tensor, cells: int, shape: tuple[int, int] | None) -> Tensor:
    """Means over cells x cells parts of the image, side by side: (batch, cells * cells * width)."""
    if shape is None:
        shape = (isqrt(patches.shape[1]), isqrt(patches.shape[1]))
    if not torch.compiler.is_compiling() and shape[0] * shape[1] != patches.shape[1]:
        raise ValueError(f"{patches.shape[1]} patches are no grid of {shape[0]} x {shape[1]}: give their shape")
    # As matrices, and not by `adaptive_avg_pool2d`, whose export to ONNX needs one fixed shape.
    down, across = (_members(count, cells, patches) for count in shape)
    columns = across @ patches.unflatten(1, shape)  # (batch, rows, cells, width)
    return (down @ columns.transpose(1, 2)).transpose(1, 2).flatten(1)


def _members(count: int, cells: int, like: Tensor) -> Tensor:
    """(cells, count): the share of each of `count` rows of patches in the mean of each row of cells."""
    cell, place = torch.arange(cells, device=like.device)[:, None], torch.arange(count, device=like.device)
    start, end = cell * count // cells, ((cell + 1) * count + cells - 1) // cells
    return ((place >= start) & (place < end)).to(like.dtype) / (end - start)


class RadiographViTConfig(ViTConfig):
    """`ViTConfig` and what is classified.

    With pooling "cls" the model is transformers' own: the configuration is then written as that of a `vit`.

    Attributes:
        pooling: see `pool_tokens`.
    """

    model_type = "radiograph_vit"

    pooling: str = "cls"

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """As upstream; a `vit` is read as one of this type, whose pooling is "cls" unless it says another."""
        options, rest = super().get_config_dict(*args, **kwargs)
        if options.get("model_type") == ViTConfig.model_type:
            options = options | {"model_type": cls.model_type}
        return options, rest

    def to_dict(self) -> dict[str, Any]:
        options = super().to_dict()
        if self.pooling == "cls":
            for name in ("pooling", "auto_map"):
                options.pop(name, None)
            options |= {"model_type": ViTConfig.model_type, "architectures": ["ViTForImageClassification"]}
        return options


class RadiographViTForImageClassification(ViTPreTrainedModel):
    """Logits of images (batch, channels, height, width) in 0..1, of any size whose sides are multiples of the patch.

    The head is one linear layer on `pool_tokens(tokens, config.pooling)`. A model with pooling "cls" is saved as a
    `ViTForImageClassification`, any other with this file beside it.
    """

    config_class = RadiographViTConfig

    def __init__(self, config: RadiographViTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.patch_size: int = config.patch_size  # type: ignore[assignment]  # upstream allows a pair
        self.vit = ViTModel(config, add_pooling_layer=False)
        width = pooled_width(config.pooling, config.hidden_size)
        self.classifier = nn.Linear(width, self.num_labels)  # type: ignore[arg-type]  # None nowhere in practice
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,  # taken for callers of the stock class; any size works without
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """Classify images.

        Args:
            pixel_values: float (batch, channels, height, width).
            labels: for a loss, as in transformers: int64 (batch,) class numbers, or what `config.problem_type` needs.
            interpolate_pos_encoding: not needed.
            **kwargs: as in `ViTForImageClassification`.
        """
        height, width = pixel_values.shape[-2:]
        outputs = self.vit(pixel_values, interpolate_pos_encoding=True, **kwargs)
        shape = height // self.patch_size, width // self.patch_size
        pooled = pool_tokens(outputs.last_hidden_state, self.config.pooling, shape)
        logits = self.classifier(pooled.to(outputs.last_hidden_state.dtype))
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)

    def save_pretrained(  # type: ignore[override]  # the stock method's further arguments go by name
        self, save_directory: str | PathLike[str], is_main_process: bool = True, **kwargs: Any
    ) -> None:
        """Save as transformers does, under the model's own tensor names.

        By default transformers gives tensors the names of its version 4. Trainer, when it resumes or loads the best
        model, does not translate them back, and skips every layer with a warning. `from_pretrained` reads both.
        """
        super().save_pretrained(save_directory, is_main_process, **{"save_original_format": False} | kwargs)
        if is_main_process and self.config.pooling == "cls":
            Path(save_directory, Path(__file__).name).unlink(missing_ok=True)  # the stock class needs no code


RadiographViTConfig.register_for_auto_class()
RadiographViTForImageClassification.register_for_auto_class("AutoModelForImageClassification")
