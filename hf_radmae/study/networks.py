"""The images of a study and the masked autoencoder that is trained on them, or given."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from transformers import TrainingArguments

from hf_radmae.batching.binning import Bins
from hf_radmae.batching.bucketing import bucketed
from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.batching.ranks import from_main
from hf_radmae.pretraining.arguments import DataArguments, ModelArguments
from hf_radmae.pretraining.results import train_figures
from hf_radmae.pretraining.setup import initial_model, load_rows, make_trainer
from hf_radmae.pretraining.trainer import RadMAETrainingArguments, last_complete_checkpoint
from hf_radmae.probing.watch import FeatureWatch, check_best, watched
from hf_radmae.sources.load import PROCESSES
from hf_radmae.study.seen import save_seen
from hf_radmae.study.steps import fingerprint
from hf_radmae.study.tasks import TaskLabels

# Options of a training that change nothing in what is learned.
INDIFFERENT = (
    *("output_dir", "run_name", "report_to", "disable_tqdm", "figure_images", "resume_from_checkpoint"),
    *("save_total_limit", "max_skipped_share", "push_to_hub", "do_", "dataloader_", "logging_", "log_", "hub_", "ddp_"),
)


@dataclass(frozen=True)
class StudyImages:
    """All images of a study, placed in bins.

    Attributes:
        rows: split -> images as rows.
        train: the training split as pre-training sees it, with masks and crops that change from epoch to epoch.
        parts: split -> the same as items of their bins.
        unreadable: images that were left out, with the reason.
        fingerprint: tells these images in these bins from any others.
    """

    rows: datasets.DatasetDict
    train: RadiographDataset
    parts: dict[str, RadiographDataset]
    unreadable: list[dict[str, Any]]
    fingerprint: str

    @property
    def bins(self) -> Bins:
        """The shapes that all splits share."""
        return self.parts["train"].bins


def load_images(
    args: DataArguments, patch_size: int, training: RadMAETrainingArguments, test_split: str = "test"
) -> StudyImages:
    """Reads the data set and fits the bins; `test_split` is the split that is called "test" from here on.

    Raises:
        ValueError: there is no such split.
    """
    rows, unreadable = load_rows(args, streaming=False)
    if test_split not in rows:
        raise ValueError(f"--test_split {test_split}: no such split; there are {', '.join(rows)}")
    sources = {"train": "train", "validation": "validation", "test": test_split}  # and no other that there may be
    rows = datasets.DatasetDict({split: rows[source] for split, source in sources.items()})
    options = args.buckets(patch_size, training)
    data = bucketed(rows, **options, num_proc=PROCESSES)
    state = {split: part._fingerprint for split, part in rows.items()}  # datasets' own, of files and of what was done
    print_of_all = fingerprint([state, data.bins.to_dict(), options])
    return StudyImages(rows, data.train, data.parts, unreadable, print_of_all)


def pretrain(
    folder: Path,
    images: StudyImages,
    data_args: DataArguments,
    model_args: ModelArguments,
    args: RadMAETrainingArguments,
    column: str | None = None,
) -> dict[str, Any]:
    """Pre-trains into the folder, resuming from what is there.

    Args:
        column: of classes, whose k-NN accuracy is watched.

    Returns:
        "losses", "curve" of (epoch, evaluation loss), "training", and what was watched of the features at each
        evaluation under "watch": "epoch", "rank", "alignment", and "knn_accuracy" on the labels of "watch_column".

    Raises:
        ValueError: an evaluation does not give what the best model is chosen by.
    """
    args = copy.copy(args)
    args.output_dir = str(folder)
    model = initial_model(model_args, data_args.max_tokens, args.seed)
    trainer = make_trainer(model, args, data_args, images.train, images.parts["validation"])
    trainer.callback_handler.callbacks.insert(0, FeatureWatch(trainer, column))
    first = trainer.evaluate()
    check_best(
        args.metric_for_best_model,
        first,
        "eval_knn_accuracy needs a first task of one class per image without a condition, of which the validation "
        "images hold two",
    )
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(folder))
    losses = {
        "before": first["eval_loss"],
        "validation": trainer.evaluate()["eval_loss"],
        "test": trainer.evaluate(images.parts["test"], metric_key_prefix="test")["test_loss"],
    }
    trainer.save_model()
    from_main(lambda: save_seen([images.rows["train"], images.rows["validation"]], folder, model_args.model))
    figures = {name: value for name, value in train_figures(trainer).items() if name != "seconds"}  # of this start
    curve = [[entry["epoch"], entry["eval_loss"]] for entry in trainer.state.log_history if "eval_loss" in entry]
    figures["views"] = round(figures["epochs"] * len(images.train))
    seen = {"watch": watched(trainer.state.log_history), "watch_column": column}
    return {"losses": losses, "curve": curve, "training": figures} | seen


def watched_column(labels: TaskLabels) -> str | None:
    """The column of a task, where it is one of one class per image and no condition leaves images out; else None."""
    plain = not labels.multi and not labels.task.where
    return labels.task.columns if plain else None


def content_print(checkpoint: str | None) -> str | None:
    """Tells the weights of a local checkpoint from any others; an id of the Hub, or None, as it is."""
    if checkpoint is None or not Path(checkpoint).is_dir():
        return checkpoint
    files = sorted(Path(checkpoint).glob("*.safetensors")) or sorted(Path(checkpoint).glob("*.bin"))
    found = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def deciding_options(args: TrainingArguments) -> dict[str, Any]:
    """The options of a training that differ from their defaults and decide what is learned."""
    default = type(args)(output_dir="default").to_dict()
    changed = {name: value for name, value in args.to_dict().items() if value != default.get(name)}
    return {name: value for name, value in changed.items() if not name.startswith(INDIFFERENT)}


def learned_from(args: RadMAETrainingArguments) -> dict[str, Any]:
    """What decides what is learned: the same for any split of the same batches over processes and accumulation.

    The precision is that of the options or of the launcher's configuration.
    """
    apart = {"per_device_train_batch_size", "gradient_accumulation_steps", "bf16", "fp16"}
    options = {name: value for name, value in deciding_options(args).items() if name not in apart}
    options["precision"] = args.mixed_precision
    if args.tokens_per_batch is None:
        return options | {"images_per_update": args.images_per_update(1)}
    return options | {"pieces": args.world_size * args.gradient_accumulation_steps}
