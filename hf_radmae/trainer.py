"""`Trainer` for masked autoencoders on radiographs: buckets, a loss that no split of a batch changes, pictures.

The work-arounds for Trainer and Accelerate live here, each with the reason beside it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput

from hf_radmae.collator import BucketCollator
from hf_radmae.dataset import RadiographDataset
from hf_radmae.figures import reconstruction_figure, save_figure
from hf_radmae.loader import bucket_loader
from hf_radmae.masking import count_predicted
from hf_radmae.skipped import SkippedImages


@dataclass
class RadMAETrainingArguments(TrainingArguments):
    """`TrainingArguments` with the defaults of masked-autoencoder pre-training, and what is new about it.

    Args:
        early_stopping_patience: evaluations without a lower loss after which training stops; 0 never stops early.
        max_skipped_share: the largest share of images that may be unusable before the run stops with an error.
        figure_images: images, each of another bin, in the figure of reconstructions at each evaluation; 0 for none.
    """

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
    # A model whose every parameter takes part in every step needs no search for unused ones.
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Search for unused parameters."})
    # The loader's columns are our own, and without label_names Trainer reports no evaluation loss.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false: the collator needs all."})
    label_names: list[str] | None = field(
        default_factory=lambda: ["pixel_values"], metadata={"help": "Leave as it is."}
    )
    prediction_loss_only: bool = field(default=True, metadata={"help": "Evaluation keeps losses, not pixels."})

    early_stopping_patience: int = field(default=10, metadata={"help": "Evaluations without progress before the end."})
    max_skipped_share: float = field(default=0.01, metadata={"help": "Share of unusable images that stops the run."})
    figure_images: int = field(default=6, metadata={"help": "Images in the figure of reconstructions; 0 for none."})

    def __post_init__(self):
        if self.dataloader_num_workers == 0:
            self.dataloader_persistent_workers = False  # DataLoader refuses the pair
        if self.load_best_model_at_end and self.eval_strategy == "no":
            self.load_best_model_at_end = False
        super().__post_init__()


class RadMAETrainer(Trainer):
    """Pre-trains `RadMAEForPreTraining` on `RadiographDataset`s, batch by batch of one bin.

    * Batches come from `BucketBatchSampler`, which knows the ranks; Accelerate moves them and does not shard again.
    * The training loss is the mean over all predicted patches of the optimiser step, over ranks and accumulation, so
      its gradient does not depend on how a batch is split. The evaluation loss is that mean over the whole set.
    * Logs hold images and tokens per second of training, evaluation and saving left out.
    * Unusable images are listed in `skipped.csv` in the output folder; see `SkippedImages`.

    Args:
        skipped: the list to add unusable images to; by default one in `args.output_dir` over both data sets.
    """

    args: RadMAETrainingArguments
    loss_is_scaled_for_ga = True  # by the number of predicted patches, in `compute_loss`

    def __init__(self, model=None, args=None, *, skipped: SkippedImages | None = None, **kwargs):
        args = args or RadMAETrainingArguments()
        if kwargs.get("data_collator") is None:
            kwargs["data_collator"] = BucketCollator(model.config.patch_size, model.config.num_channels)
        super().__init__(model=model, args=args, **kwargs)
        images = sum(len(data) for data in (self.train_dataset, self.eval_dataset) if data is not None)
        self.skipped = skipped or SkippedImages(Path(args.output_dir, "skipped.csv"), images, args.max_skipped_share)
        self._throughput = Throughput()
        self._eval_totals = torch.zeros(2)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                callback.logging_dir = str(Path(args.output_dir, "runs"))  # the default has the host's name in it
        if args.early_stopping_patience and args.load_best_model_at_end:
            self.add_callback(EarlyStopping(args.early_stopping_patience))
        if args.figure_images and self.eval_dataset is not None:
            self.add_callback(ReconstructionCallback(self))

    def train(self, *args, **kwargs):
        self._throughput.start()  # what was before, an evaluation say, is no training
        return super().train(*args, **kwargs)

    # Trainer hands no batch sampler of ours on to its loaders.

    def get_train_dataloader(self) -> DataLoader:
        args = self.args
        return self._loader(
            self.train_dataset,
            args.train_batch_size,
            shuffle=True,
            seed=args.seed if args.data_seed is None else args.data_seed,
            micro_steps=args.gradient_accumulation_steps,
            persistent_workers=args.dataloader_persistent_workers,
        )

    def get_eval_dataloader(self, eval_dataset: RadiographDataset | str | None = None) -> DataLoader:
        dataset = (
            self.eval_dataset[eval_dataset] if isinstance(eval_dataset, str) else eval_dataset or self.eval_dataset
        )
        return self._loader(dataset, self.args.eval_batch_size)

    def _loader(self, dataset: RadiographDataset, batch_size: int, **options: Any) -> DataLoader:
        args = self.args
        loader = bucket_loader(
            dataset,
            self.data_collator,
            batch_size,
            num_workers=args.dataloader_num_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            rank=args.process_index,
            world_size=args.world_size,
            **options,
        )
        # BatchSamplerShard would mix images of different batches and lose short ones; one "process" leaves them alone.
        return prepare_data_loader(loader, device=args.device, num_processes=1, process_index=0, put_on_device=True)

    # The loss of a step is a sum over its predicted patches, divided by their number over all ranks and batches.

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        count = torch.zeros((), device=device)
        for batch in batch_samples:
            count += self._predicted(batch).to(device)
        return self.accelerator.reduce(count, reduction="sum").clamp(min=1)

    def _predicted(self, batch: dict[str, Any]) -> torch.Tensor:
        return count_predicted(batch["noise"], batch["patch_mask"], self.model.config.mask_ratio)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
        # DistributedDataParallel averages gradients over the ranks, and the loss is already divided by their sum.
        loss = outputs.loss * (self.args.world_size if num_items_in_batch is not None else 1)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        images, patches = inputs["patch_mask"].shape
        self._throughput.count(images * self.args.world_size, images * patches * self.args.world_size)
        return super().training_step(model, inputs, num_items_in_batch)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.skipped.add(inputs.get("skipped", ()))
        return super()._prepare_inputs({key: inputs[key] for key in inputs if key not in ("skipped", "index")})

    # Trainer weights the losses of evaluation batches by the configured batch size; buckets have others.

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs).float()
        count = self._predicted(inputs)
        self._eval_totals += torch.stack([loss * count, count]).cpu()
        return loss.detach(), None, None

    def evaluation_loop(self, dataloader, description, *args, metric_key_prefix="eval", **kwargs) -> EvalLoopOutput:
        self._eval_totals = torch.zeros(2, dtype=torch.float64)
        output = super().evaluation_loop(dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        loss, count = self.accelerator.reduce(self._eval_totals.to(self.args.device), reduction="sum").tolist()
        output.metrics[f"{metric_key_prefix}_loss"] = loss / max(count, 1)
        output.metrics.pop(f"{metric_key_prefix}_model_preparation_time", None)
        return output

    def _maybe_log_save_evaluate(self, *args, **kwargs) -> None:
        self._throughput.stop()
        super()._maybe_log_save_evaluate(*args, **kwargs)
        self._throughput.start()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        # A pickle with the paths of this machine; nothing here reads it.
        Path(output_dir or self.args.output_dir, TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._throughput.rates()
        super().log(logs, start_time)


class Throughput:
    """Images and tokens per second between starts and stops."""

    def __init__(self) -> None:
        self.images = self.tokens = 0
        self.seconds = 0.0
        self.start()

    def start(self) -> None:
        """Starts the clock."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Adds the time since the start."""
        self.seconds += time.perf_counter() - self._since

    def count(self, images: int, tokens: int) -> None:
        """Adds what a batch holds."""
        self.images, self.tokens = self.images + images, self.tokens + tokens

    def rates(self) -> dict[str, float]:
        """`images_per_second` and `tokens_per_second` since the last call."""
        counts = {"images_per_second": self.images, "tokens_per_second": self.tokens}
        rates = {name: round(count / max(self.seconds, 1e-9), 2) for name, count in counts.items()}
        self.images = self.tokens = 0
        self.seconds = 0.0
        return rates


class EarlyStopping(EarlyStoppingCallback):
    """Upstream's, but evaluations before and after training do not count.

    A resumed run builds it anew from upstream's arguments, so that it must take no others.
    """

    in_train = False

    def on_train_begin(self, *args, **kwargs):
        self.in_train = True
        super().on_train_begin(*args, **kwargs)

    def on_train_end(self, *args, **kwargs):
        self.in_train = False

    def on_evaluate(self, *args, **kwargs):
        if self.in_train:
            super().on_evaluate(*args, **kwargs)


class ReconstructionCallback(TrainerCallback):
    """At each evaluation a figure of input, masked input, reconstruction and error, for TensorBoard and as a file.

    The images, one of each of the fullest bins of the evaluation set, and their masks stay the same over a run.
    """

    def __init__(self, trainer: RadMAETrainer):
        self.trainer = trainer

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if not state.is_world_process_zero or "eval_loss" not in (metrics or {}):
            return
        figure = reconstruction_figure(self.trainer.accelerator.unwrap_model(self.trainer.model), list(self._batches()))
        image = save_figure(figure, Path(args.output_dir, "reconstructions.png"))
        for callback in self.trainer.callback_handler.callbacks:
            if (writer := getattr(callback, "tb_writer", None)) is not None:
                writer.add_image("reconstructions", image, state.global_step, dataformats="HWC")

    def _batches(self) -> Iterator[dict[str, Any]]:
        dataset, collate = self.trainer.eval_dataset, self.trainer.data_collator
        for index in dataset.first_of_fullest_bins(self.trainer.args.figure_images):
            yield collate([dataset[index]])


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """The newest checkpoint of a run that was written to its end, or None.

    Trainer writes `trainer_state.json` last, so a checkpoint without it was cut off by whatever ended the run.
    """
    folders = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    complete = [f for f in folders if (f / "trainer_state.json").is_file() and f.name.split("-")[-1].isdigit()]
    return str(max(complete, key=lambda folder: int(folder.name.split("-")[-1]))) if complete else None
