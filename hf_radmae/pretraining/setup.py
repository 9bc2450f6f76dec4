"""The network and the trainer of a pre-training, from its options: one way for the script, the search and the study."""

from __future__ import annotations

from math import isqrt
from typing import Any

from transformers import ViTMAEConfig, set_seed

from hf_radmae.batching.binning import Bins
from hf_radmae.batching.collator import BucketCollator
from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
from hf_radmae.pretraining.arguments import DataArguments, ModelArguments
from hf_radmae.pretraining.trainer import RadMAETrainer
from hf_radmae.pretraining.training_args import RadMAETrainingArguments


def patch_size_of(args: ModelArguments, checkpoint: str | None = None) -> int:
    """Side of a patch: the checkpoint's where there is one, given or among the options."""
    source = checkpoint or args.model
    return (ViTMAEConfig.from_pretrained(source) if source else args).patch_size  # type: ignore[return-value]


def initial_model(args: ModelArguments, max_tokens: int, seed: int) -> RadMAEForPreTraining:
    """The network before pre-training: a checkpoint, or a preset whose random weights depend on the seed alone."""
    set_seed(seed)
    names = ("mask_ratio", "prediction_ratio", "norm_pix_loss")
    options: dict[str, Any] = {name: getattr(args, name) for name in names}
    if args.model:
        return RadMAEForPreTraining.from_pretrained(args.model, num_channels=args.num_channels, **options)
    options |= {"patch_size": args.patch_size, "num_channels": args.num_channels}
    options["image_size"] = isqrt(max_tokens) * options["patch_size"]
    return RadMAEForPreTraining(preset_config(args.preset, **options))


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
        data_collator=BucketCollator(patch_size, channels, data_args.flat_threshold),
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
        crop_threshold=args.flat_threshold if args.crop_to_content else None,
    )
