"""`TrainingArguments` with the defaults of masked-autoencoder pre-training."""

import os
from dataclasses import dataclass, field
from typing import ClassVar

from transformers import TrainingArguments


@dataclass
class RadMAETrainingArguments(TrainingArguments):
    """`TrainingArguments` with the defaults of masked-autoencoder pre-training, and what is new about it.

    Args:
        tokens_per_batch: patches per device and step, which give each bin its own number of images, at least one, in
            place of `per_device_train_batch_size` and `per_device_eval_batch_size`.
        find_tokens_per_batch: try out the largest `tokens_per_batch` that fits the GPU, say it, and train nothing.
        streaming: read prepared shards where they are; see `hf_radmae.batching.streaming`.
        early_stopping_patience: evaluations without a lower loss after which training stops; 0 never stops early.
        max_skipped_share: the largest share of images that may be unusable before the run stops with an error.
        figure_images: images, each of another bin, in the figure of reconstructions at each evaluation; 0 for none.
        license: of the weights, an identifier of the Hub, for the card; None says that none was stated.
    """

    RARE: ClassVar[tuple[str, ...]] = (
        *("greater_is_better", "prediction_loss_only", "restore_callback_states_from_checkpoint", "label_names"),
        *("dataloader_persistent_workers", "remove_unused_columns", "ddp_find_unused_parameters"),
    )
    """Options that `--help` leaves to `--help_all`."""

    output_dir: str = field(default="out/radmae", metadata={"help": "Folder of checkpoints, results and pictures."})
    # He et al. 2022, table 8: AdamW 0.9/0.95, weight decay 0.05, cosine decay after a warm-up.
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of AdamW."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of AdamW."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Beta2 of AdamW."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Shape of the learning rate after warm-up."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps of linear warm-up; below 1 a share of all."})
    num_train_epochs: float = field(default=20.0, metadata={"help": "Times that every image is seen."})
    per_device_train_batch_size: int = field(
        default=32, metadata={"help": "Images per device and step, all of one bin."}
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Images per device and evaluation step."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between log lines; below 1 a share of all."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate and draw: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep; the best is always kept."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best model, not the last."})
    metric_for_best_model: str | None = field(default="eval_loss", metadata={"help": "What best means."})
    greater_is_better: bool | None = field(default=False, metadata={"help": "Whether more of it is better."})
    report_to: None | str | list[str] = field(  # noqa: RUF036 - HfArgumentParser reads this order only
        default="tensorboard", metadata={"help": "Where to log: tensorboard, none."}
    )
    dataloader_num_workers: int = field(default=2, metadata={"help": "Processes per device that read images."})
    dataloader_persistent_workers: bool = field(default=True, metadata={"help": "Keep them from epoch to epoch."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "A resumed run goes on counting its patience for early stopping."}
    )
    # The filter reads the loss from the device after every micro-step, and logs NaN as 0.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Log NaN as 0; waits at every step."})
    # A model whose every parameter takes part in every step needs no search for unused ones.
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Search for unused parameters."})
    # The loader's columns are our own, and without label_names Trainer reports no evaluation loss.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false: the collator needs all."})
    label_names: list[str] | None = field(
        default_factory=lambda: ["pixel_values"], metadata={"help": "Leave as it is."}
    )
    prediction_loss_only: bool = field(default=True, metadata={"help": "Evaluation keeps losses, not pixels."})

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

    def __post_init__(self):
        if self.dataloader_num_workers == 0:
            self.dataloader_persistent_workers = False  # DataLoader refuses the pair
        if self.load_best_model_at_end and self.eval_strategy == "no":
            self.load_best_model_at_end = False
        if self.tokens_per_batch is not None and self.tokens_per_batch < 1:
            raise ValueError(f"tokens_per_batch={self.tokens_per_batch} must be at least 1")
        if self.torch_compile:  # with a graph per shape, more than eight bins would fall back to eager
            os.environ.setdefault("ACCELERATE_DYNAMO_USE_DYNAMIC", "true")
        super().__post_init__()

    def images_per_update(self, max_tokens: int) -> int:
        """Images of an optimiser step over all devices; with a token budget, images of the largest shape."""
        own = self.train_batch_size if self.tokens_per_batch is None else max(self.tokens_per_batch // max_tokens, 1)
        return own * self.world_size * self.gradient_accumulation_steps
