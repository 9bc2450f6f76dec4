"""A classifier trained on labelled radiographs and scored on patients that it has not seen."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import BaseImageProcessor, PreTrainedModel, TrainerCallback

from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.batching.skipped import SkippedImages
from hf_radmae.classification.augmentation import Augmentation
from hf_radmae.classification.data import LabelledRadiographs
from hf_radmae.classification.labels import Labels
from hf_radmae.classification.networks import fold_scale
from hf_radmae.classification.scores import Predictions, score
from hf_radmae.classification.trainer import ClassifierTrainer
from hf_radmae.classification.training_args import ClassifierTrainingArguments
from hf_radmae.pretraining.results import train_figures
from hf_radmae.sources.patients import image_groups, resampled

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedClassifier:
    """A run of `train_classifier`.

    Attributes:
        model: with its best weights.
        results: ready for JSON. "label", "task", "classes"; "images" and "left_out" (no label) of each split, and
            "label_sources": labels by hand and of reports;
            "training": epochs, steps, seconds, and the "best" validation score, of which "criterion", at "best_step";
            "validation" and "test": see `score`; "resampled": what the intervals of "test" are over.
        predictions: of "validation" and "test".
        trainer: that trained it.
    """

    model: PreTrainedModel
    results: dict[str, Any]
    predictions: dict[str, Predictions]
    trainer: ClassifierTrainer


def train_classifier(
    model: PreTrainedModel,
    parts: Mapping[str, RadiographDataset],
    label: str,
    args: ClassifierTrainingArguments,
    *,
    draw: np.ndarray | None = None,
    bootstrap: int = 1000,
    processor: BaseImageProcessor | None = None,
    skipped: SkippedImages | None = None,
    resume_from_checkpoint: str | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainedClassifier:
    """Train a network on `parts["train"]`, keep what does best on "validation", and score it there and on "test".

    Args:
        model: of `build_classifier`; it is trained in place.
        parts: deterministic data sets (`train=False`). `CachedRadiographs` may serve many runs.
        label: column of the labels in `parts`, or several joined by commas; the classes are the model's.
        args: see `ClassifierTrainingArguments`. With `save_strategy="no"` no checkpoint is written.
        draw: training rows whose labels are used, as `label_fraction` gives them; None takes all that have one.
        bootstrap: resamples of patients for the intervals of the final scores; 0 for none.
        processor: saved with the checkpoints.
        skipped: list of unusable images, see `RadMAETrainer`.
        resume_from_checkpoint: the folder of a checkpoint.
        callbacks: of the trainer, such as one that pushes.

    Raises:
        ValueError: a column does not exist, a split has no labelled image, or the training images are all of one class.
    """
    labels = dataclasses.replace(Labels.of(model.config), columns=tuple(name.strip() for name in label.split(",")))
    data = labelled_parts(parts, labels, args, draw)
    trainer = ClassifierTrainer(
        model,
        args,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=processor,
        skipped=skipped,
        callbacks=list(callbacks),
    )
    trainer.train(resume_from_checkpoint=resume_from_checkpoint)
    predictions = {split: trainer.predicted(data[split]) for split in ("validation", "test")}
    if labels.task == "regression":
        fold_scale(trainer.model)
    state, figures = trainer.state, train_figures(trainer)
    results: dict[str, Any] = {
        "label": label,
        "task": labels.task,
        "classes": list(labels.names),
        "images": {split: len(part) for split, part in data.items()},
        "left_out": {split: int((~labels.known(part.truth)).sum()) for split, part in data.items()},
        "label_sources": {split: part.sources() for split, part in data.items()},
        "training": figures
        | {"criterion": trainer.args.metric_for_best_model, "best": state.best_metric}
        | {"best_step": state.best_global_step},
    }
    for split, predicted in predictions.items():
        groups = image_groups(parts[split].rows)[predicted.rows]
        results[split] = score(predicted, groups, bootstrap)
    results["resampled"] = resampled(parts["test"].rows, predictions["test"].rows)
    return TrainedClassifier(trainer.model, results, predictions, trainer)


def labelled_parts(
    parts: Mapping[str, RadiographDataset],
    labels: Labels,
    args: ClassifierTrainingArguments,
    draw: np.ndarray | None = None,
) -> dict[str, LabelledRadiographs]:
    """The splits with their labels, the training images augmented.

    Raises:
        ValueError: as `train_classifier`.
    """
    options: dict[str, Any] = {"draw": draw, "seed": args.seed, "report_label_weight": args.report_label_weight}
    options["augmentation"] = Augmentation(args.rotation, args.zoom, args.shift, args.contrast, args.flip)
    data: dict[str, LabelledRadiographs] = {}
    for split in ("train", "validation", "test"):  # and no other that the source may have
        part = parts[split]
        data[split] = LabelledRadiographs(part, labels, **(options if split == "train" else {}))
        left_out = len(part) - int(labels.known(data[split].truth).sum())
        if not len(data[split]):
            raise ValueError(
                f"split {split}: none of {len(part)} images has a label in column {', '.join(labels.columns)}"
            )
        if left_out:
            logger.info("split %s: %d of %d images have no label and are left out", split, left_out, len(part))
    train = data["train"]
    if labels.task == "single_label_classification":
        classes = np.unique(train.targets[train.targets >= 0])
        if len(classes) < 2:
            raise ValueError(
                f"all {len(train)} training images are of class {labels.names[classes[0]]}: nothing to learn"
            )
        unknown = {name for split in data for name in data[split].truth if name is not None} - set(labels.names)
        if unknown:
            logger.warning("no training image has the class %s: always wrong in the scores", ", ".join(sorted(unknown)))
    return data
