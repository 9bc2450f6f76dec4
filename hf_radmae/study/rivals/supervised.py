"""Networks trained on the labels themselves: what the probes are compared with."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedModel

from hf_radmae.batching.binning import assign, fit_bins
from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.batching.ranks import alone, on_device
from hf_radmae.classification.data import CachedRadiographs
from hf_radmae.classification.labels import Labels, fit_labels
from hf_radmae.classification.networks import build_classifier
from hf_radmae.classification.train import train_classifier
from hf_radmae.classification.training_args import ClassifierTrainingArguments
from hf_radmae.pretraining.arguments import DEFAULT_PRESET, ModelArguments
from hf_radmae.pretraining.divergence import DivergedError
from hf_radmae.pretraining.training_args import RadMAETrainingArguments
from hf_radmae.study.arguments import SUPERVISED, StudyArguments
from hf_radmae.study.heads import Kind
from hf_radmae.study.networks import StudyImages, content_print
from hf_radmae.study.tasks import TaskLabels

logger = logging.getLogger(__name__)

CACHE_BYTES = 4 * 2**30  # images that are kept in memory from one training to the next


def labelled_parts(images: StudyImages, tasks: Sequence[TaskLabels]) -> dict[str, RadiographDataset]:
    """Split -> its images with the labels of every task as columns, see `label_columns`, in memory where they fit.

    They are all resized to one square, as in the paper: where the shape goes with the class, batches of one of several
    shapes hold few classes, and these networks learn far less from them.
    """
    sizes = np.concatenate([part.sizes for part in images.parts.values()])
    patch_size, max_tokens = images.bins.patch_size, images.bins.max_tokens
    square = fit_bins(sizes, strategy="square", patch_size=patch_size, max_tokens=max_tokens)
    kind = CachedRadiographs if 4 * len(sizes) * square.shapes[0].prod() <= CACHE_BYTES else copy.copy
    parts = {}
    for split, part in images.parts.items():
        rows = part.rows
        rows = rows.select_columns([c for c in ("image", "image_id", "height", "width") if c in rows.column_names])
        for labels in tasks:
            classes = datasets.ClassLabel(names=["no", "yes"] if labels.multi else labels.classes)
            values = labels.values[split].reshape(len(rows), -1)
            for column, numbers in zip(label_columns(labels), values.T, strict=True):
                rows = rows.add_column(column, numbers, feature=classes)
        parts[split] = kind(part)
        parts[split].rows, parts[split].bins = rows, square
        parts[split].bin_ids = assign(part.sizes, square)
    return parts


def label_columns(labels: TaskLabels) -> list[str]:
    """Names of a task's columns in `labelled_parts`: no other task has them, and no column of the images."""
    return [f"label {n} of {labels.task.name}" for n in range(len(labels.classes) if labels.multi else 1)]


@dataclass(frozen=True)
class SupervisedTraining:
    """Trains networks on draws of the labels.

    Attributes:
        parts: as `labelled_parts` gives them.
        args, model_args, training: of the study: length of a training, size of the networks, precision.
        config: of the masked autoencoder, whose size and channels a ViT from scratch gets.
        mae: folder or id of the masked autoencoder, from which "mae" starts.
    """

    parts: dict[str, RadiographDataset]
    args: StudyArguments
    model_args: ModelArguments
    config: Any
    mae: str
    training: RadMAETrainingArguments

    def inputs(self, kind: str) -> dict[str, Any]:
        """What decides a training of a kind of network, beside labels, draw and learning rate."""
        args, config = self.args, self.config
        size = [self.model_args.preset, config.image_size, config.patch_size, config.num_channels]
        names = ("epochs", "min_steps", "evaluations", "patience", "batch_size")
        inputs: dict[str, Any] = {f"supervised_{name}": getattr(args, f"supervised_{name}") for name in names}
        inputs |= {
            "kind": kind,
            "size": size,
            "precision": self.training.mixed_precision,
            "class_weights": args.class_weights,
        }
        if kind == "mae":
            inputs["layer_decay"] = args.layer_decay
        else:
            inputs[f"{kind}_checkpoint"] = content_print(self.checkpoint(kind))
        return inputs

    def __call__(
        self, folder: Path, kind: str, labels: TaskLabels, draw: np.ndarray, learning_rate: float, seed: int, steps: int
    ) -> dict[str, Any]:
        """Balanced accuracy on validation ("score"), "views", and probabilities of "validation" and "test" images.

        A training that diverges has no score and no probabilities. On several processes each call trains on one.

        Args:
            folder: for what the training has to write down.
            kind: of network, a key of `SUPERVISED`.
            labels, draw: of the task, and the training rows whose labels are used.
        """
        column = ",".join(label_columns(labels))
        fitted = fit_labels(self.parts["train"].rows, column)
        # Without a progress bar Trainer prints every evaluation.
        with alone() as device, contextlib.redirect_stdout(io.StringIO()):
            options = self._options(folder, kind, steps, learning_rate, seed)
            on_device(options, device)
            try:
                run = train_classifier(
                    self._network(kind, fitted, seed), self.parts, column, options, draw=draw, bootstrap=0
                )
            except DivergedError as error:
                logger.warning("%s at a learning rate of %g: %s", kind, learning_rate, error)
                return {"score": None}
        state, size = run.trainer.state, len(labels.classes)
        views = state.global_step * self.args.supervised_batch_size
        result: dict[str, Any] = {"score": state.best_metric, "views": views}
        columns = np.arange(size) if labels.multi else [labels.classes.index(name) for name in fitted.names]
        for split, predicted in run.predictions.items():
            scores = np.full((len(labels.values[split]), size), 0.5 if labels.multi else 1 / size)
            scores[predicted.rows] = 0
            scores[predicted.rows[:, None], columns] = predicted.scores.round(5)
            result[split] = scores
        return result

    def checkpoint(self, kind: str) -> str | None:
        """What a kind of network starts from; None for one from scratch."""
        return self.mae if kind == "mae" else getattr(self.args, f"{kind}_checkpoint")

    def name(self, kind: str) -> str:
        """What a kind of network is called in tables."""
        start = self.checkpoint(kind)
        return SUPERVISED[kind].replace("supervised", "fine-tuned") if start else SUPERVISED[kind]

    def whose(self, kind: str) -> Kind:
        """Whether a kind of network is ours, a rival, or of elsewhere."""
        return "ours" if kind == "mae" else "elsewhere" if self.checkpoint(kind) else "rival"

    def _network(self, kind: str, fitted: Labels, seed: int) -> PreTrainedModel:
        return build_classifier(
            kind,  # type: ignore[arg-type]  # one of SUPERVISED, as the options are checked
            fitted,
            preset=self.model_args.preset or DEFAULT_PRESET,
            checkpoint=self.checkpoint(kind),
            image_size=self.config.image_size,
            patch_size=self.config.patch_size,
            num_channels=self.config.num_channels,
            seed=seed,
        )

    def _options(
        self, folder: Path, kind: str, steps: int, learning_rate: float, seed: int
    ) -> ClassifierTrainingArguments:
        args, training = self.args, self.training
        cached = isinstance(self.parts["train"], CachedRadiographs)
        return ClassifierTrainingArguments(
            output_dir=str(folder),
            learning_rate=learning_rate,
            class_weights=args.class_weights,
            layer_decay=args.layer_decay if kind == "mae" else 1.0,
            max_steps=steps,
            per_device_train_batch_size=args.supervised_batch_size,
            per_device_eval_batch_size=training.per_device_eval_batch_size,
            eval_strategy="steps",
            eval_steps=max(1, steps // args.supervised_evaluations),
            early_stopping_patience=args.supervised_patience,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
            bf16=training.bf16,
            fp16=training.fp16,
            use_cpu=training.use_cpu,
            dataloader_num_workers=0 if cached else training.dataloader_num_workers,
        )
