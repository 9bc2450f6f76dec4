"""The network and the trainer of a pre-training, from its options: one way for the script, the search and the study."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import isqrt
from os import PathLike
from typing import Any

from transformers import set_seed
from transformers.image_processing_base import ImageProcessingMixin

from hf_radmae.batching.binning import Bins
from hf_radmae.batching.collator import BucketCollator
from hf_radmae.batching.content import COLUMNS as CONTENT
from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.batching.streaming import open_shards
from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
from hf_radmae.models.starts import config_values, read_config
from hf_radmae.pretraining.arguments import DEFAULT_PRESET, DataArguments, ModelArguments
from hf_radmae.pretraining.trainer import RadMAETrainer
from hf_radmae.pretraining.training_args import RadMAETrainingArguments
from hf_radmae.sources.load import PROCESSES, load_radiographs

logger = logging.getLogger(__name__)


def patch_size_of(args: ModelArguments, checkpoint: str | None = None) -> int:
    """Side of a patch: the checkpoint's where there is one, given or among the options."""
    source = checkpoint or args.model
    return (read_config(source) if source else args).patch_size  # type: ignore[return-value, union-attr]


def initial_model(args: ModelArguments, max_tokens: int, seed: int) -> RadMAEForPreTraining:
    """The network before pre-training: a checkpoint, or a preset whose random weights depend on the seed alone."""
    set_seed(seed)
    names = ("mask_ratio", "prediction_ratio", "norm_pix_loss")
    options: dict[str, Any] = {name: getattr(args, name) for name in names}
    if args.model:
        return RadMAEForPreTraining.from_pretrained(args.model, num_channels=args.num_channels, **options)
    options |= {"patch_size": args.patch_size, "num_channels": args.num_channels}
    options["image_size"] = isqrt(max_tokens) * options["patch_size"]
    return RadMAEForPreTraining(preset_config(args.preset or DEFAULT_PRESET, **options))


def load_rows(args: DataArguments, *, streaming: bool) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """The rows of each split, and the images that were left out; with `streaming` of prepared shards, unread."""
    if streaming:
        return open_shards(args.data_dir, CONTENT if args.background == "drop" else ()), []
    return load_radiographs(**args.source(), num_proc=PROCESSES, seed=args.split_seed)


def make_trainer(
    model: RadMAEForPreTraining,
    args: RadMAETrainingArguments,
    data_args: DataArguments,
    train: RadiographDataset,
    evaluation: RadiographDataset,
    **options: Any,
) -> RadMAETrainer:
    """The trainer of a network on data sets of `bucketed`, with the processor that its checkpoints hold.

    Args:
        model: the network; processor and collator have its patch size and channels.
        data_args: how images are scaled, and what counts as background.
        train, evaluation: of the same bins.
        **options: handed to `RadMAETrainer`.
    """
    patch_size: Any = model.config.patch_size
    channels = model.config.num_channels
    return RadMAETrainer(
        model,
        args,
        train_dataset=train,
        eval_dataset=evaluation,
        data_collator=BucketCollator(patch_size, channels, data_args.background),
        processing_class=make_processor(data_args, train.bins, channels),
        **options,
    )


def make_processor(args: DataArguments, bins: Bins, num_channels: int) -> RadiographImageProcessor:
    """What brings an image to the form that a network is trained on, to be saved with it."""
    side = isqrt(args.max_tokens) * bins.patch_size
    return RadiographImageProcessor(
        size={"height": side, "width": side},
        bins=bins.to_dict(),
        num_channels=num_channels,
        scaling=args.scaling,
        crop_to_content=args.crop_to_content,
    )


def load_processor(name_or_path: str | PathLike[str]) -> RadiographImageProcessor:
    """The processor of a start: its own if this package saved one, else one for the square of its configuration.

    A published checkpoint brings the processor of photographs (8 bits, means of ImageNet) or none. Radiographs are read
    at full depth and scaled to 0..1 in its place, and a warning says so; its mean and deviation are folded into the
    encoder when that is loaded.
    """
    name, config = str(name_or_path), config_values(name_or_path)
    num_channels, side = config.get("num_channels", 3), config.get("image_size", 224)
    options: dict[str, Any] = {}
    try:
        options, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        logger.warning("%s has no preprocessor_config.json: images are scaled to 0..1", name)
    if "scaling" in options:
        return RadiographImageProcessor.from_dict(options | {"num_channels": num_channels})
    if options:
        logger.warning("%s has a processor of photographs, which is not used: images are scaled to 0..1", name)
    height, width = (side, side) if isinstance(side, int) else side
    return RadiographImageProcessor(size={"height": height, "width": width}, num_channels=num_channels)
