"""From the options of a supervised run to its images, its labels and its network."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from math import isqrt
from typing import Any, cast, get_args

import datasets
import numpy as np
from transformers import PreTrainedConfig, PreTrainedModel

from hf_radmae.batching.binning import STRATEGIES, Bins
from hf_radmae.batching.bucketing import bucketed
from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.classification.data import CachedRadiographs
from hf_radmae.classification.labels import Labels, Task, fit_labels, rows_where
from hf_radmae.classification.networks import build_classifier
from hf_radmae.classification.training_args import ClassifierTrainingArguments
from hf_radmae.models.mae import PRESETS
from hf_radmae.models.modeling_radiograph_vit import POOLINGS, pooling_parts
from hf_radmae.models.starts import config_values, read_config
from hf_radmae.pretraining.arguments import DEFAULT_PRESET, DataArguments, option
from hf_radmae.pretraining.setup import load_rows, make_processor
from hf_radmae.sources.load import PROCESSES

logger = logging.getLogger(__name__)

FROM_SCRATCH = ("vit", "resnet50")


@dataclass
class LabelledDataArguments(DataArguments):
    """Which radiographs, each in one square unless --binning says otherwise.

    Batches of one of several shapes hold few classes where the shape goes with the class, as with body regions: on the
    same images a ViT and a ResNet then end many points lower.
    """

    binning: str = option(
        "square",
        "How sizes become batches; batches of one shape each (smart) hold few classes where the shape tells the class.",
        choices=list(STRATEGIES),
    )


@dataclass
class TaskArguments:
    """Which labels, and which network learns them."""

    label: str | None = option(
        None,
        "Column of the labels, or several joined by commas; by default --probe_column. A class of -1 is no label.",
    )
    task: str | None = option(
        None,
        "What the labels are, where their column does not tell; a column of fractions is a regression.",
        choices=[*get_args(Task)],
    )
    where: str | None = option(None, "COLUMN=VALUE: take only these images.")
    model: str = option("vit", "vit or resnet50: from scratch; else a checkpoint to fine-tune, a folder or a Hub id.")
    preset: str | None = option(None, "Size of a network from scratch; by default tiny.", choices=list(PRESETS))
    patch_size: int | None = option(None, "Side of a patch in pixels; by default 8 for tiny, 16 else, or the MAE's.")
    num_channels: int = option(3, "Input channels; bare transformers gives 3.", choices=[1, 3])
    pooling: str | None = option(
        None,
        f"What a ViT classifies: {', '.join(POOLINGS)}, or several joined by +; by default what the checkpoint's head "
        "was trained on, mean where it has none.",
    )
    cache: bool = option(False, "Keep all images in memory; then give --dataloader_num_workers 0.")

    def __post_init__(self) -> None:
        if self.pooling is not None:
            pooling_parts(self.pooling)
        if self.where is not None and "=" not in self.where:
            raise ValueError(f"--where {self.where}: expected COLUMN=VALUE")
        if self.model == "mae":
            raise ValueError("--model mae: fine-tuning starts from a checkpoint, so give its folder or Hub id")
        if self.preset and self.checkpoint:
            raise ValueError(f"--preset {self.preset} beside --model {self.model}: the checkpoint has its own sizes")
        self.preset = self.preset or DEFAULT_PRESET
        self.kind, config = self.model, None
        if self.model not in FROM_SCRATCH and config_values(self.model).get("model_type") == "resnet":
            self.kind = "resnet50"
        elif self.model not in FROM_SCRATCH:
            config = read_config(self.model)
            self.kind = "vit" if config.model_type == "vit" else "mae"
        if self.patch_size is None and config:
            self.patch_size = cast(int, config.patch_size)
        elif self.patch_size is None:
            self.patch_size = 8 if self.preset == "tiny" else 16

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint to start from, or None for a network from scratch."""
        return None if self.model in FROM_SCRATCH else self.model


@dataclass(frozen=True)
class Setup:
    """Images and labels of a run, and the network it starts from.

    Attributes:
        parts: split -> its images, in the same bins.
        label: the column or columns of the labels.
        unreadable: images that were left out, with the reason.
    """

    parts: dict[str, RadiographDataset]
    bins: Bins
    labels: Labels
    label: str
    unreadable: list[dict[str, Any]]
    data_args: DataArguments
    task_args: TaskArguments

    def build(self, seed: int) -> PreTrainedModel:
        """The network before training."""
        task = self.task_args
        return build_classifier(
            task.kind,  # type: ignore[arg-type]  # checked by the parser
            self.labels,
            preset=task.preset or DEFAULT_PRESET,
            checkpoint=task.checkpoint,
            image_size=isqrt(self.data_args.max_tokens) * self.bins.patch_size,
            patch_size=self.bins.patch_size,
            num_channels=task.num_channels,
            pooling=task.pooling,
            seed=seed,
        )

    def processor(self, config: PreTrainedConfig) -> RadiographImageProcessor:
        """What brings an image to the form that the network of this configuration was trained on."""
        processor = make_processor(self.data_args, self.bins, config.num_channels)
        if not hasattr(config, "image_mean"):
            return processor
        normalisation = {"do_normalize": True, "image_mean": config.image_mean, "image_std": config.image_std}
        return RadiographImageProcessor.from_dict(processor.to_dict() | normalisation)


def set_up(data_args: DataArguments, task_args: TaskArguments, args: ClassifierTrainingArguments) -> Setup:
    """Load the data set, fit its bins and read its labels.

    Raises:
        ValueError: no label is given, its column does not exist, or no image is left.
    """
    label = task_args.label or data_args.probe_column
    rows, unreadable = load_rows(data_args, streaming=False)
    if label is None:
        raise ValueError(f"say with --label which column to learn: {', '.join(rows['train'].column_names)}")
    if task_args.where is not None:
        column, _, value = task_args.where.partition("=")
        found = {split: rows_where({split: part}, column, value)[split] for split, part in rows.items()}
        rows = datasets.DatasetDict({split: part.select(np.flatnonzero(found[split])) for split, part in rows.items()})
    labels = fit_labels(rows["train"], label, task_args.task)  # type: ignore[arg-type]  # checked by the parser
    options = data_args.buckets(cast(int, task_args.patch_size), args)
    options["token_levels"] = 1  # levels spare only an MAE
    if not data_args.crop_to_content:
        options["background"] = "keep"  # so that no image is read to look for its background
    data = bucketed(rows, **options, num_proc=PROCESSES)
    parts = data.parts
    if task_args.cache:
        parts = {split: CachedRadiographs(part) for split, part in parts.items()}
    return Setup(parts, data.bins, labels, label, unreadable, data_args, task_args)
