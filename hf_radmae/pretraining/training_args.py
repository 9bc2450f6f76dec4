"""`TrainingArguments` with the defaults of masked-autoencoder pre-training."""

import copy
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

from transformers import TrainingArguments

from hf_radmae.pretraining.devices import check_ranks
from hf_radmae.pretraining.run_folder import check_temporary_folder

REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "auto_find_batch_size": ((False,), "use --find_tokens_per_batch true, which tries batches before the run"),
    "train_sampling_strategy": (("random",), "batches are made of images of one shape, in a random order"),
    "dataloader_drop_last": ((False,), "no image is dropped: every one comes once per epoch"),
    "dataloader_in_order": ((True,), "a run that resumes exactly needs its batches in order"),
    "average_tokens_across_devices": ((True,), "the loss is always a mean over all ranks"),
    "neftune_noise_alpha": ((None,), "there are no embeddings of words"),
    "use_liger_kernel": ((False,), "there are no Liger kernels for these networks"),
    "use_cache": ((False,), "there is no text to generate"),
    "include_num_input_tokens_seen": (("no", False), "the log holds tokens_per_second"),
    "eval_do_concat_batches": ((True,), "evaluation scores every image once, whatever its batch"),
    "eval_use_gather_object": ((False,), "evaluation gathers by itself"),
    "eval_accumulation_steps": ((None,), "evaluation keeps no predictions on the device"),
    "batch_eval_metrics": ((False,), "metrics are of the whole set"),
    "include_for_metrics": (([],), "metrics get one number per image"),
    "label_names": ((None,), "there are no labels to name"),
    "label_smoothing_factor": ((0.0,), "there are no labels to smooth"),
    "length_column_name": (("length",), "sizes are columns of their own"),
    "enable_jit_checkpoint": ((False,), "SIGTERM and SIGUSR1 save a checkpoint in any case"),
    "remove_unused_columns": ((False,), "the collator needs all columns"),
}
"""Options of transformers that would change nothing here: their only values, and why."""

MEANING: tuple[str, ...] = (
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args"),
    *("optim_target_modules", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "fp16"),
)
"""Options of a training that alter what is learned: a run resumes with the same ones or not at all."""

ENDLESS = ("constant", "constant_with_warmup", "inverse_sqrt", "reduce_lr_on_plateau")
"""Schedules that do not depend on the length of the training, which may then be changed in a resumed run."""

RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    **dict.fromkeys(
        ("learning_rate", "weight_decay", "max_grad_norm", "warmup_steps"), (lambda x: x >= 0, "0 or more")
    ),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), (lambda x: 0 <= x < 1, "at least 0 and below 1")),
    "num_train_epochs": (lambda x: x > 0, "more than 0"),
    "max_steps": (lambda x: x == -1 or x >= 1, "at least 1, or -1 for --num_train_epochs"),
    **dict.fromkeys(
        (
            *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
            *("tokens_per_batch", "save_total_limit"),
        ),
        (lambda x: x >= 1, "at least 1"),
    ),
    **dict.fromkeys(("logging_steps", "eval_steps", "save_steps"), (lambda x: x > 0, "more than 0")),
    **dict.fromkeys(
        ("early_stopping_patience", "figure_images", "dataloader_num_workers", "seed"), (lambda x: x >= 0, "0 or more")
    ),
    "max_skipped_share": (lambda x: 0 <= x <= 1, "between 0 and 1"),
}
"""Option -> whether a value makes sense, and which ones do. None is always accepted."""

VIEWS = 600_000
"""Times that an image is seen in a training with `--num_train_epochs auto`, over all images."""


def check_ranges(options: Any, ranges: Mapping[str, tuple[Callable[[float], bool], str]]) -> None:
    """Check numbers among the attributes of an object of options.

    Raises:
        ValueError: a number is outside its range, NaN or infinite; with the option's name.
    """
    for name, (holds, expected) in ranges.items():
        value = getattr(options, name, None)
        if value is not None and not (math.isfinite(float(value)) and holds(float(value))):
            raise ValueError(f"--{name} {value}: expected {expected}")


def epochs_for(images: int) -> float:
    """Epochs that `--num_train_epochs auto` means: `VIEWS` looks at an image, and between 20 and 400 epochs."""
    return float(min(max(round(VIEWS / max(images, 1)), 20), 400))


@dataclass
class RadMAETrainingArguments(TrainingArguments):
    """`TrainingArguments` with the defaults of masked-autoencoder pre-training, and what is new about it.

    Args:
        tokens_per_batch: patches per device and step, which give each bin its own number of images, at least one, in
            place of `per_device_train_batch_size` and `per_device_eval_batch_size`.
        find_tokens_per_batch: try out the largest `tokens_per_batch` that fits the GPU, say it, and train nothing.
        streaming: read prepared shards where they are; see `hf_radmae.batching.streaming`.
        early_stopping_patience: evaluations without a better `metric_for_best_model` after which training stops; 0
            never stops early.
        max_skipped_share: the largest share of images that may be unusable before the run stops with an error.
        figure_images: images, each of another bin, in the figure of reconstructions at each evaluation; 0 for none.
        license: of the weights, an identifier of the Hub, for the card; None says that none was stated.
        resume: "auto" resumes from the newest complete checkpoint in `output_dir`, if there is one; "none" starts anew,
            "weights" starts a new schedule from the newest weights (both move what is there into `previous`); else the
            folder of a checkpoint.

    Raises:
        ValueError: a number is outside its range, or an option of transformers would change nothing here.
    """

    RARE: ClassVar[tuple[str, ...]] = (
        "metric_for_best_model",
        *("greater_is_better", "restore_callback_states_from_checkpoint", "logging_nan_inf_filter"),
        *("dataloader_persistent_workers", "remove_unused_columns", "ddp_find_unused_parameters", "adam_beta2"),
    )
    """Options that `--help` leaves to `--help_all`."""

    output_dir: str = field(default="out/radmae", metadata={"help": "Folder of checkpoints, results and pictures."})
    # He et al. 2022, table 8: AdamW 0.9/0.95, weight decay 0.05, cosine decay after a warm-up.
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of AdamW."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of AdamW."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Beta2 of AdamW."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Shape of the learning rate after warm-up."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps of linear warm-up; below 1 a share of all."})
    num_train_epochs: str = field(  # type: ignore[assignment]  # upstream's float, which it is after __post_init__
        default="20", metadata={"help": "Times that every image is seen; auto: by the number of images, 20 to 400."}
    )
    per_device_train_batch_size: int = field(
        default=32, metadata={"help": "Images per device and step, all of one bin."}
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Images per device and evaluation step."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between log lines; below 1 a share of all."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate and draw: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep; the best is always kept."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best model, not the last."})
    metric_for_best_model: str | None = field(
        default="eval_loss",
        metadata={"help": "What best means: eval_loss, eval_knn_accuracy, or another of the log."},
    )
    greater_is_better: bool | None = field(
        default=None, metadata={"help": "Whether more of it is better; by default not of a loss or an alignment."}
    )
    report_to: None | str | list[str] = field(  # noqa: RUF036 - HfArgumentParser reads this order only
        default="tensorboard", metadata={"help": "Where to log: tensorboard, none."}
    )
    dataloader_num_workers: int = field(default=2, metadata={"help": "Processes per device that read images."})
    dataloader_persistent_workers: bool = field(default=True, metadata={"help": "Keep them from epoch to epoch."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "A resumed run keeps its count of evaluations without progress."}
    )
    # The filter reads the loss from the device after every micro-step, and logs NaN as 0.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Log NaN as 0; waits at every step."})
    # A model whose every parameter takes part in every step needs no search for unused ones.
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Search for unused parameters."})
    # The loader's columns are our own.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false: the collator needs all."})
    tokens_per_batch: int | None = field(
        default=None, metadata={"help": "Patches per device and step, in place of a number of images."}
    )
    find_tokens_per_batch: bool = field(
        default=False, metadata={"help": "Say which tokens_per_batch fits this GPU, and end."}
    )
    streaming: bool = field(
        default=False, metadata={"help": "Read a folder of scripts/prepare.py by row groups, without copying it first."}
    )
    early_stopping_patience: int = field(default=10, metadata={"help": "Evaluations without progress before the end."})
    max_skipped_share: float = field(default=0.01, metadata={"help": "Share of unusable images that stops the run."})
    license: str | None = field(
        default=None, metadata={"help": "Licence of the weights on the card, as apache-2.0 or other."}
    )
    figure_images: int = field(default=6, metadata={"help": "Images in the figure of reconstructions; 0 for none."})
    resume: str = field(default="auto", metadata={"help": "auto, none, weights, or the folder of a checkpoint."})

    refused: ClassVar[dict[str, tuple[tuple[Any, ...], str]]] = {
        **REFUSED,
        "logging_nan_inf_filter": ((False,), "a loss that is no number ends the run"),
    }
    meaning: ClassVar[tuple[str, ...]] = MEANING
    auto_epochs = False  # whether the number of images decides; no annotation, so that it is no option

    def __post_init__(self):
        if str(self.num_train_epochs) == "auto":
            self.auto_epochs, self.num_train_epochs = True, 20.0  # type: ignore[assignment]
        try:
            self.num_train_epochs = float(self.num_train_epochs)  # type: ignore[assignment]
        except ValueError:
            raise ValueError(f"--num_train_epochs {self.num_train_epochs}: expected a number or auto") from None
        self.check()
        if self.resume_from_checkpoint is not None:  # transformers' name of the option
            words = {"true": "auto", "last": "auto", "false": "none"}
            given = str(self.resume_from_checkpoint)
            self.resume, self.resume_from_checkpoint = words.get(given.lower(), given), None
        if self.dataloader_num_workers == 0:
            self.dataloader_persistent_workers = False  # DataLoader refuses the pair
        if self.load_best_model_at_end and self.eval_strategy == "no":
            self.load_best_model_at_end = False
        if self.torch_compile:  # with a graph per shape, more than eight bins would fall back to eager
            os.environ.setdefault("ACCELERATE_DYNAMO_USE_DYNAMIC", "true")
        if self.greater_is_better is None:
            self.greater_is_better = not str(self.metric_for_best_model or "loss").endswith(("loss", "alignment"))
        super().__post_init__()
        config = self.accelerator_config
        for name, only in (("split_batches", False), ("dispatch_batches", None), ("even_batches", True)):
            if getattr(config, name) != only:
                raise ValueError(f"accelerator_config {name}={getattr(config, name)}: each rank makes its own batches")

    def check(self) -> None:
        """Refuse numbers outside their range, and options that would change nothing.

        Raises:
            ValueError: see the class.
        """
        check_ranges(self, RANGES)
        for name, (allowed, reason) in self.refused.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"--{name} {getattr(self, name)}: {reason}")
        check_temporary_folder(self.dataloader_num_workers)
        check_ranks(self.use_cpu)

    @classmethod
    def adopt(cls, args: TrainingArguments) -> "RadMAETrainingArguments":
        """These arguments, or those of transformers' own class with its defaults where they only fit text.

        Nothing is added to what a stock `TrainingArguments` asks for: no early stopping, no figures.

        Raises:
            ValueError: as the class.
        """
        if isinstance(args, RadMAETrainingArguments):
            return args
        adopted = copy.copy(args)
        adopted.__class__ = cls
        for option in fields(cls):
            if not hasattr(adopted, option.name):
                default = option.default if option.default is not MISSING else option.default_factory()  # type: ignore[misc, operator]
                setattr(adopted, option.name, default)
        adopted.early_stopping_patience = adopted.figure_images = 0  # type: ignore[attr-defined]
        adopted.remove_unused_columns = adopted.logging_nan_inf_filter = False
        adopted.label_names = None
        adopted.check()  # type: ignore[attr-defined]
        return adopted  # type: ignore[return-value]

    def options_that_matter(self) -> dict[str, Any]:
        """The options that alter what is learned, ready for JSON."""
        names = list(self.meaning)
        if (
            str(getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type)) not in ENDLESS
            or 0 < self.warmup_steps < 1
        ):
            names += ["num_train_epochs", "max_steps"]
        values = {name: getattr(self, name) for name in names}
        return {name: getattr(value, "value", value) for name, value in values.items()}

    def images_per_update(self, max_tokens: int) -> int:
        """Images of an optimiser step over all devices; with a token budget, images of the largest shape."""
        own = self.train_batch_size if self.tokens_per_batch is None else max(self.tokens_per_batch // max_tokens, 1)
        return own * self.world_size * self.gradient_accumulation_steps
