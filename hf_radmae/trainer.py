"""`Trainer` for masked autoencoders on radiographs: buckets, a loss that no split of a batch changes, pictures.

The work-arounds for Trainer and Accelerate live here, each with the reason beside it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput

from hf_radmae.callbacks import EarlyStopping, ReconstructionCallback, Throughput
from hf_radmae.collator import BucketCollator
from hf_radmae.dataset import RadiographDataset
from hf_radmae.loader import bucket_loader
from hf_radmae.masking import count_predicted
from hf_radmae.modeling import RadMAEForPreTraining
from hf_radmae.skipped import SkippedImages
from hf_radmae.training_args import RadMAETrainingArguments


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
    model: RadMAEForPreTraining
    train_dataset: RadiographDataset | None
    eval_dataset: RadiographDataset | None
    loss_is_scaled_for_ga = True  # by the number of predicted patches, in `compute_loss`

    def __init__(self, model=None, args=None, *, skipped: SkippedImages | None = None, **kwargs):
        args = args or RadMAETrainingArguments()
        if kwargs.get("data_collator") is None:
            kwargs["data_collator"] = BucketCollator(model.config.patch_size, model.config.num_channels)
        super().__init__(model=model, args=args, **kwargs)
        images = sum(len(data) for data in (self.train_dataset, self.eval_dataset) if data is not None)
        self.skipped = skipped or SkippedImages(Path(args.output_dir, "skipped.csv"), images, args.max_skipped_share)
        self._throughput = Throughput()
        self.add_callback(self._throughput)
        self._eval_totals = torch.zeros(2)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                callback.logging_dir = str(Path(args.output_dir, "runs"))  # the default has the host's name in it
        if args.early_stopping_patience and args.load_best_model_at_end:
            self.add_callback(EarlyStopping(args.early_stopping_patience))
        if args.figure_images and self.eval_dataset is not None:
            self.add_callback(ReconstructionCallback(self, args.figure_images))

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

    def get_eval_dataloader(self, eval_dataset: RadiographDataset | None = None) -> DataLoader:  # type: ignore[override]
        return self._loader(eval_dataset or self.eval_dataset, self.args.eval_batch_size)

    def _loader(self, dataset: RadiographDataset | None, batch_size: int, **options: Any) -> DataLoader:
        if dataset is None:
            raise ValueError("there are no images: give RadMAETrainer train_dataset to train, eval_dataset to evaluate")
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

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        self._eval_totals = torch.zeros(2, dtype=torch.float64)
        output = super().evaluation_loop(dataloader, description, True, ignore_keys, metric_key_prefix)
        loss, count = self.accelerator.reduce(self._eval_totals.to(self.args.device), reduction="sum").tolist()
        metrics = dict(output.metrics or {}, **{f"{metric_key_prefix}_loss": loss / max(count, 1)})
        metrics.pop(f"{metric_key_prefix}_model_preparation_time", None)
        return output._replace(metrics=metrics)

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


def use_all_cores(args: RadMAETrainingArguments) -> None:
    """Gives a run on one CPU all of its cores: `accelerate launch` leaves a process one thread unless configured."""
    if args.device.type == "cpu" and args.world_size == 1 and "ACCELERATE_MIXED_PRECISION" in os.environ:
        torch.set_num_threads(os.cpu_count() or 1)


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """The newest checkpoint of a run that was written to its end, or None.

    Trainer writes `trainer_state.json` last, so a checkpoint without it was cut off by whatever ended the run.
    """
    folders = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    complete = [f for f in folders if (f / "trainer_state.json").is_file() and f.name.split("-")[-1].isdigit()]
    return str(max(complete, key=lambda folder: int(folder.name.split("-")[-1]))) if complete else None
