"""What a training may start from: every published `vit_mae`, a `vit` or `deit`, a classifier of this package.

A start is a folder or a Hub id in the layout of transformers: `config.json` beside the weights, as safetensors or as
`.bin` (read by torch's weights-only loader), in one file or in shards, with tensor names of transformers 4 or 5.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import (
    DeiTConfig,
    DeiTModel,
    PreTrainedConfig,
    PreTrainedModel,
    ViTConfig,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
)
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils.hub import cached_file

from hf_radmae.models.encoder import ENCODER_OPTIONS, fold_normalisation

logger = logging.getLogger(__name__)

ENCODERS: dict[str, type[PreTrainedModel]] = {
    "vit_mae": ViTMAEModel,
    "vit": ViTModel,
    "deit": DeiTModel,
    "radiograph_vit": ViTModel,
}
"""Model type of a start -> the class of transformers that holds its encoder."""
_CONFIGS: dict[str, type[PreTrainedConfig]] = {"vit_mae": ViTMAEConfig, "deit": DeiTConfig}
MAE_FOLDER = "mae"
"""Sub-folder of an encoder's repository with the whole masked autoencoder, to continue its pre-training from."""
_NOT_ENCODER = re.compile(r"(^|\.)(pooler|decoder|\w*classifier)\.|mask_token$")
"""Tensors of a checkpoint that are no encoder's, and are left out: pooler, decoder, heads."""
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


class StartError(ValueError):
    """A checkpoint cannot be started from; the text lists what is missing."""


def config_values(name_or_path: str | PathLike[str], **where: str) -> dict[str, Any]:
    """What `config.json` of a checkpoint says, `model_type` among it; no code of the checkpoint is run.

    Args:
        name_or_path: of the checkpoint.
        **where: "subfolder", where it lies below.

    Raises:
        StartError: there is no such checkpoint.
    """
    name = str(name_or_path)
    if Path(name).is_dir() and not Path(name, "config.json").is_file():
        found = ", ".join(sorted(path.name for path in Path(name).iterdir())[:10]) or "nothing"
        raise StartError(f"{name} is no checkpoint: config.json is missing. The folder holds {found}")
    try:
        return PreTrainedConfig.get_config_dict(name, **where)[0]
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StartError(f"{name} is neither a folder with config.json nor a model on the Hub: {reason}") from error


def read_config(name_or_path: str | PathLike[str], **where: str) -> PreTrainedConfig:
    """The configuration of a start, one number for its square of pixels and one for its patch.

    Raises:
        StartError: there is no such checkpoint, or it is of another model type or shape.
    """
    name, values = str(name_or_path), config_values(name_or_path, **where)
    kind = values.get("model_type")
    if kind not in ENCODERS:
        raise StartError(f"{name} is of model type {kind}: expected {', '.join(ENCODERS)}")
    config = _CONFIGS.get(kind, ViTConfig).from_dict({**values, "model_type": _CONFIGS.get(kind, ViTConfig).model_type})
    for option in ("image_size", "patch_size"):
        sides = getattr(config, option)
        if not isinstance(sides, int):
            if len(set(sides)) != 1:
                raise StartError(f"{name}: {option}={list(sides)} is no square, which the position tables need")
            setattr(config, option, int(sides[0]))
    if config.image_size % config.patch_size:
        raise StartError(f"{name}: image_size={config.image_size} is no multiple of patch_size={config.patch_size}")
    return config


def is_classifier(name_or_path: str | PathLike[str]) -> bool:
    """Whether a start is a `vit` or `radiograph_vit` with a head that was trained on labels."""
    config = read_config(name_or_path)
    trained = any(name.endswith("ForImageClassification") for name in config.architectures or ())
    return config.model_type == ViTConfig.model_type and trained


def load_encoder(name_or_path: str | PathLike[str]) -> ViTModel:
    """The encoder of a start as a plain float32 `ViTModel` without a pooler, in evaluation mode.

    Of a `deit` the distillation token is left out, so that its features are close to, and not equal to, DeiT's own.

    Raises:
        StartError: see `read_config`; or tensors of the encoder are missing or of another shape.
    """
    name, config = str(name_or_path), read_config(name_or_path)
    kind = ENCODERS[config.model_type]
    options: dict[str, Any] = {} if kind is ViTMAEModel else {"add_pooling_layer": False}
    with _no_report():
        loaded, info = load_whole(kind, name, config=config, **options)
    if missing := sorted(info["missing_keys"]):
        raise StartError(f"{name} has no whole encoder: missing are {_listing(missing)}")
    if odd := sorted(key for key in info["unexpected_keys"] if not _NOT_ENCODER.search(key)):
        logger.warning("%s holds tensors that no encoder has, which are left out: %s", name, _listing(odd))
    weights = {key: value for key, value in loaded.state_dict().items() if not key.startswith("pooler.")}
    if isinstance(loaded, DeiTModel):
        del weights["embeddings.distillation_token"]
        table = weights["embeddings.position_embeddings"]
        weights["embeddings.position_embeddings"] = torch.cat([table[:, :1], table[:, 2:]], dim=1)
        logger.warning("%s is a deit: its distillation token is left out", name)
    plain = ViTModel(ViTConfig(**{option: getattr(config, option) for option in ENCODER_OPTIONS}), False)
    plain.load_state_dict({key: value for key, value in weights.items() if not key.endswith(".mask_token")})
    if normalisation := photograph_normalisation(name):
        fold_normalisation(plain.embeddings.patch_embeddings.projection, *normalisation)
    return plain.eval()


def photograph_normalisation(name_or_path: str | PathLike[str]) -> tuple[list[float], list[float]] | None:
    """Mean and deviation of each channel that a start was trained to be given pixels by; None for pixels in 0..1.

    They are those of its `preprocessor_config.json`. The processors of this package leave pixels in 0..1.
    """
    try:
        options, _ = ImageProcessingMixin.get_image_processor_dict(str(name_or_path))
    except (OSError, ValueError):
        return None
    if not options.get("do_normalize", "scaling" not in options):
        return None
    found = (options.get(key, 0.5) for key in ("image_mean", "image_std"))  # 0.5 is transformers' own default
    mean, std = ([float(value)] if isinstance(value, int | float) else list(map(float, value)) for value in found)
    return mean, std


def whole_mae(name_or_path: str | PathLike[str]) -> dict[str, str]:
    """`{"subfolder": "mae"}` where a start is an encoder with its masked autoencoder below it, else nothing."""
    name = str(name_or_path)
    if config_values(name).get("model_type") != ViTConfig.model_type:
        return {}
    if Path(name).is_dir():
        return {"subfolder": MAE_FOLDER} if Path(name, MAE_FOLDER, "config.json").is_file() else {}
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    return {"subfolder": MAE_FOLDER} if cached_file(name, "config.json", subfolder=MAE_FOLDER, **quiet) else {}


def load_whole(
    kind: type[PreTrainedModel], name_or_path: str | PathLike[str], resizable: tuple[str, ...] = (), **options: Any
) -> tuple[Any, dict[str, Any]]:
    """`kind.from_pretrained` in float32 with its loading info; `resizable` tensors may be of other shapes, by name.

    Raises:
        StartError: the weights are missing, damaged, no plain tensors, or of other shapes than the configuration says.
    """
    name = str(name_or_path)
    folder = Path(name, options.get("subfolder", ""))
    if folder.is_dir() and not any((folder / file).is_file() for file in _WEIGHTS):
        raise StartError(f"{name} has a configuration and no weights: expected one of {', '.join(_WEIGHTS)}")
    try:
        options = {"dtype": torch.float32, **options, "ignore_mismatched_sizes": True, "output_loading_info": True}
        model, info = PreTrainedModel.from_pretrained.__func__(kind, name, **options)  # type: ignore[attr-defined]
    except Exception as error:  # safetensors, pickle, zip and JSON each raise their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StartError(f"the weights of {name} cannot be read: {reason}") from error
    if mismatched := sorted(key for key in info["mismatched_keys"] if not key[0].endswith(resizable or ("\0",))):
        texts = [f"{key} is {tuple(found)}, expected {tuple(wanted)}" for key, found, wanted in mismatched]
        raise StartError(f"{name}: weights and configuration do not fit: {'; '.join(texts[:5])}")
    return model, info


@contextmanager
def _no_report() -> Iterator[None]:
    """Without transformers' table of the tensors of a checkpoint that an encoder leaves out, each time it is loaded."""
    upstream = logging.getLogger("transformers.modeling_utils")

    def other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    upstream.addFilter(other)
    try:
        yield
    finally:
        upstream.removeFilter(other)


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{', '.join(names[:8])}{more}"
