"""`Trainer` for masked autoencoders on radiographs: buckets, a loss that no split of a batch changes, pictures.

The work-arounds for Trainer and Accelerate live here, each with the reason beside it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import broadcast_object_list, gather_object
from torch.utils.data import DataLoader
from transformers import TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput

from hf_radmae.batching.collator import BucketCollator
from hf_radmae.batching.dataset import RadiographDataset, Skipped
from hf_radmae.batching.loader import bucket_loader
from hf_radmae.batching.sampler import batch_sizes, images_within
from hf_radmae.batching.skipped import SkippedImages
from hf_radmae.batching.streaming import StreamBatchSampler
from hf_radmae.models.mae import RadMAEForPreTraining
from hf_radmae.models.masking import count_predicted
from hf_radmae.pretraining.callbacks import EarlyStopping, ReconstructionCallback, Throughput
from hf_radmae.pretraining.checkpoints import check_order, last_complete_checkpoint, save_order
from hf_radmae.pretraining.memory import what_to_lower
from hf_radmae.pretraining.training_args import RadMAETrainingArguments
from hf_radmae.publishing.trainer_push import PushThroughGate

logger = logging.getLogger(__name__)


class RadMAETrainer(PushThroughGate):
    """Pre-trains `RadMAEForPreTraining` on `RadiographDataset`s, batch by batch of one bin.

    * Batches come from `BucketBatchSampler`, or `StreamBatchSampler` for rows that are `ShardRows`, which know the
      ranks; Accelerate moves them and does not shard again.
    * The training loss is the mean over all predicted patches of the optimiser step, over ranks and accumulation, so
      its gradient does not depend on how a batch is split. A step on fewer images than a full batch has its gradient
      scaled down by their share, so that all images of a bin weigh the same. The evaluation loss is the mean over the
      predicted patches of the whole set, each image counted once on any number of ranks.
    * Batches wait on the CPU and move to the device one by one. Between two log lines nothing waits for the device.
    * Logs hold images per second, and tokens that take part per second, of training, evaluation and saving left out.
    * Pushes go through the gate of `hf_radmae.publishing`.
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
        if args.n_gpu > 1:
            raise ValueError(
                f"one process sees {args.n_gpu} GPUs, and DataParallel cannot split batches of radiographs: start one "
                "process a GPU with `accelerate launch --multi_gpu`, or show it one GPU with CUDA_VISIBLE_DEVICES=0."
            )
        warn_of_slow_bf16(args)
        if kwargs.get("data_collator") is None:
            kwargs["data_collator"] = BucketCollator(model.config.patch_size, model.config.num_channels)
        super().__init__(model=model, args=args, **kwargs)
        images = sum(len(data) for data in (self.train_dataset, self.eval_dataset) if data is not None)
        self.skipped = skipped or SkippedImages(Path(args.output_dir, "skipped.csv"), images, args.max_skipped_share)
        if self.is_fsdp_enabled:
            # Accelerate makes what this returns a unit of FSDP2, gathered when it is called: upstream's patch
            # embeddings, whose weights our embeddings use without a call.
            embeddings = self.model.vit.embeddings
            self.model.get_input_embeddings = lambda: embeddings  # type: ignore[method-assign]
        self._throughput = Throughput()
        self.add_callback(self._throughput)
        self._eval_sums: list[torch.Tensor] = []
        self._found_unusable: list[Skipped] = []  # since they were last gathered
        self._step_weight: torch.Tensor | float = 1.0
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
            batch_size if args.tokens_per_batch is None else batch_sizes(dataset.bins, args.tokens_per_batch).tolist(),
            num_workers=args.dataloader_num_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            rank=args.process_index,
            world_size=args.world_size,
            **options,
        )
        # BatchSamplerShard would mix images of different batches and lose short ones; one "process" leaves them alone.
        # Not put on the device: Trainer draws all micro-batches of an update before it uses the first.
        return prepare_data_loader(loader, num_processes=1, process_index=0, put_on_device=False)

    # A checkpoint tells what its batches followed from, so that a resumed run repeats them or is refused.

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir) or True
        # Ranks that see a folder of network storage at different times would start from different checkpoints.
        resume_from_checkpoint = broadcast_object_list([resume_from_checkpoint])[0]
        check_agreement(self._order())
        if isinstance(resume_from_checkpoint, str):
            check_order(resume_from_checkpoint, *self._order(), begin_anew=self.args.ignore_data_skip)
        output = super().train(resume_from_checkpoint, *args, **kwargs)
        self._gather_unusable()
        return output

    def _gather_unusable(self) -> None:
        """Lists what all ranks found, written by the first; all count them, so that all stop at too many."""
        found, self._found_unusable = gather_object(self._found_unusable), []
        self.skipped.add(found, write=self.args.process_index == 0)

    def _save_checkpoint(self, model, trial) -> None:
        if self.args.should_save:
            name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            save_order(Path(self._get_output_dir(trial), name), *self._order())
        super()._save_checkpoint(model, trial)

    def _order(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the order of batches follows from, and how they are cut."""
        args, sampler = self.args, cast(Any, self.get_train_dataloader().batch_sampler)
        size = (
            args.per_device_train_batch_size if args.tokens_per_batch is None else f"of {args.tokens_per_batch} tokens"
        )
        steps = {"gradient accumulation": args.gradient_accumulation_steps}
        order = sampler.order | (steps if isinstance(sampler, StreamBatchSampler) else {})
        return order, {"ranks": args.world_size, "batch size": size, **steps}

    # The loss of a step is a sum over its predicted patches, divided by their number over all ranks and batches, times
    # the share of a full batch's images that it has.

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        args, counts, full = self.args, torch.zeros(2), 0.0
        for batch in batch_samples:
            counts[0] += self._predicted(batch, self.model.config.prediction_ratio)
            counts[1] += len(batch["index"]) - (batch["repeated"].sum() if "repeated" in batch else 0)
            size, patches = args.train_batch_size, batch["patch_mask"].shape[1]
            if args.tokens_per_batch is not None:
                size = images_within(args.tokens_per_batch, batch["num_tokens"], patches)
            full += size * args.world_size * args.gradient_accumulation_steps / len(batch_samples)
        predicted, images = self.accelerator.reduce(counts.to(device, non_blocking=True), reduction="sum")
        self._step_weight = (images / max(full, 1.0)).clamp(min=1e-6, max=1.0)
        return predicted.clamp(min=1) / self._step_weight

    def _predicted(self, batch: dict[str, Any], prediction_ratio: float) -> torch.Tensor:
        return count_predicted(counted(batch), self.model.config.mask_ratio, batch["num_tokens"], prediction_ratio)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = {key: inputs[key] for key in inputs if key != "repeated"} | {"patch_mask": counted(inputs)}
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
        # DistributedDataParallel averages gradients over the ranks, and the loss is already divided by their sum.
        loss = outputs.loss * (self.args.world_size if num_items_in_batch is not None else 1)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        images, tokens = len(inputs["pixel_values"]), inputs.get("num_tokens", 0)  # a classifier's batch has none
        self._throughput.count(images * self.args.world_size, images * tokens * self.args.world_size)
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
            return loss if num_items_in_batch is None else loss / self._step_weight  # what is logged is a mean again
        except torch.OutOfMemoryError as error:
            height, width = inputs["pixel_values"].shape[-2:]
            held = what_to_lower(images, height, width, tokens, tokens_per_batch=self.args.tokens_per_batch)
            raise torch.OutOfMemoryError(f"{held} ({error})") from error

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self._found_unusable += inputs.get("skipped", ())
        return super()._prepare_inputs({key: inputs[key] for key in inputs if key not in ("skipped", "index")})

    def _prepare_input(self, data: Any) -> Any:
        # Upstream waits for each copy; from pinned memory it need not.
        return data.to(self.args.device, non_blocking=True) if torch.is_tensor(data) else super()._prepare_input(data)

    # Trainer weights the losses of evaluation batches by the configured batch size; buckets have others.

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs).float()
        count = self._predicted(inputs, 1.0)  # evaluation predicts every masked patch
        self._eval_sums.append(torch.stack([loss * count, count]))
        return None, None, None

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        self._eval_sums = []
        # Accelerate shards (FSDP2) only together with an optimiser: before training each process runs the whole model.
        sharding, prepared = self.is_fsdp_enabled, bool(self.accelerator._models)
        if sharding and not prepared:
            self.is_fsdp_enabled = False
            self.model.to(self.args.device)  # type: ignore[arg-type]  # upstream's wrapper hides the method
        output = super().evaluation_loop(dataloader, description, True, ignore_keys, metric_key_prefix)
        self.is_fsdp_enabled = sharding
        if not prepared and not self.is_in_train:
            # It was prepared for evaluation only. Left marked, training would take it for prepared, and several ranks
            # would train without DistributedDataParallel, each for itself.
            self.accelerator._models.clear()
            self.model._is_accelerate_prepared = False  # type: ignore[assignment]
        sums = torch.stack(self._eval_sums).cpu().double().sum(0) if self._eval_sums else torch.zeros(2)
        loss, count = np.sum(gather_object([sums.tolist()]), axis=0)
        self._gather_unusable()
        metrics = dict(output.metrics or {}, **{f"{metric_key_prefix}_loss": float(loss / max(count, 1))})
        metrics.pop(f"{metric_key_prefix}_model_preparation_time", None)
        return output._replace(metrics=metrics)

    def _maybe_log_save_evaluate(self, tr_loss, *args, **kwargs) -> None:
        if self.control.should_log:
            tr_loss.cpu()  # the clock stops when the device has done its work, not when the work was handed to it
        self._throughput.stop()
        if self.control.should_log or self.control.should_save:
            self._gather_unusable()
        super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)
        self._throughput.start()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        # A pickle with the paths of this machine; nothing here reads it.
        Path(output_dir or self.args.output_dir, TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._throughput.rates()
        super().log(logs, start_time)


def check_agreement(order: Any) -> None:
    """Compares the order of batches that the ranks derived, each for itself, before the first of them is trained on.

    Raises:
        ValueError: a rank has another order than rank 0, whose ranks would wait for each other for ever.
    """
    orders = gather_object([order])
    if other := [rank for rank, found in enumerate(orders) if found != orders[0]]:
        raise ValueError(
            f"rank {other[0]} found other batches than rank 0: {orders[other[0]]}, not {orders[0]}. All ranks must see "
            "the same files with the same options: compare their data folders and package versions."
        )


def counted(batch: dict[str, Any]) -> torch.Tensor:
    """The patches of a batch that count: `patch_mask` (batch, patches), none of an image that is `repeated`."""
    mask = batch["patch_mask"]
    return mask & ~batch["repeated"][:, None] if "repeated" in batch else mask


def warn_of_slow_bf16(args: TrainingArguments) -> None:
    """Warns where `--bf16` runs on a processor that has to emulate it."""
    if args.bf16 and args.device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        if not any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")):
            logger.warning(
                "--bf16 on a CPU without bfloat16 instructions was measured to be 15 times slower than float32: leave "
                "it out here."
            )


def use_all_cores(args: RadMAETrainingArguments) -> None:
    """Gives a run on one CPU all of its cores: `accelerate launch` leaves a process one thread unless configured."""
    if args.device.type == "cpu" and args.world_size == 1 and "ACCELERATE_MIXED_PRECISION" in os.environ:
        torch.set_num_threads(os.cpu_count() or 1)
