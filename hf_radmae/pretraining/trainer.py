"""`Trainer` for masked autoencoders on radiographs: buckets, a loss that no split of a batch changes, pictures.

A run resumes exactly or is refused (`checkpoints`), ends at a request with a checkpoint (`interrupts`), and ends with
an error where a number is none (`divergence`). What `Trainer` keeps private is overridden in `upstream` alone.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from transformers import EvalPrediction
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, TrainOutput, rotate_checkpoints

from hf_radmae.batching.collator import BucketCollator, PatchCollator
from hf_radmae.batching.dataset import RadiographDataset, Skipped
from hf_radmae.batching.loader import bucket_loader
from hf_radmae.batching.ranks import gathered
from hf_radmae.batching.sampler import batch_sizes, images_within
from hf_radmae.batching.skipped import SkippedImages
from hf_radmae.batching.streaming import StreamBatchSampler
from hf_radmae.models.mae import RadMAEForPreTraining
from hf_radmae.models.masking import count_predicted, token_counts
from hf_radmae.pretraining.callbacks import EarlyStopping, OverAtResume, ReconstructionCallback, RestoreRun, Throughput
from hf_radmae.pretraining.checkpoints import (
    CheckpointError,
    check_options,
    check_order,
    check_state,
    checkpoints_in,
    complete,
    damage,
    disk_full,
    find_best,
    last_complete_checkpoint,
    read_manifest,
    save_order,
)
from hf_radmae.pretraining.devices import warn_of_slow_bf16
from hf_radmae.pretraining.divergence import (
    FOLDER,
    DivergedError,
    StepRecord,
    StepRecords,
    check_finite,
    first_not_finite,
    save_step,
)
from hf_radmae.pretraining.interrupts import StopOnRequest, Stopped, start_worker
from hf_radmae.pretraining.memory import what_to_lower
from hf_radmae.pretraining.training_args import RadMAETrainingArguments, epochs_for
from hf_radmae.pretraining.upstream import TrainerHooks

logger = logging.getLogger(__name__)

_NOT_MEANT = ("transformers_version", "dtype", "torch_dtype", "architectures", "auto_map", "label_scale")
"""Entries of a configuration that do not alter what is learned."""


class RadMAETrainer(TrainerHooks):
    """Pre-trains `RadMAEForPreTraining` on `RadiographDataset`s, batch by batch of one bin.

    * Batches come from `BucketBatchSampler`, or `StreamBatchSampler` for rows that are `ShardRows`, which know the
      ranks; Accelerate moves them and does not shard again.
    * The training loss is the mean over all predicted patches of the optimiser step, over ranks and accumulation, so
      its gradient does not depend on how a batch is split. A step on fewer images than a full batch has its gradient
      scaled down by their share, so that all images of a bin weigh the same. The evaluation loss is the mean over the
      predicted patches of the whole set, each image counted once on any number of ranks.
    * Batches wait on the CPU and move to the device one by one. Between two log lines one process waits for the device
      nowhere; several ranks wait for the start of their own step, to hear of a request to stop.
    * A step whose loss or gradient is no number moves no weights (with an optimiser that is not fused: only by weight
      decay and momentum), and the training ends at the next log line.
    * `predict` gives one loss per image, with the rows as `label_ids`; `compute_metrics` is given these two.
    * Logs hold the images per second that the loader could give on all ranks, and warn once where the step waits for
      it; images per second, and tokens that take part per second, of training, evaluation and saving left out,
      the hours of a device for 100,000 images, and the hours that are left.
    * Unusable images are listed in `skipped.csv` in the output folder; see `SkippedImages`.

    Args:
        model, args: `args` may be a stock `TrainingArguments`, see `RadMAETrainingArguments.adopt`.
        skipped: the list to add unusable images to; by default one in `args.output_dir` over all data sets.

    Attributes:
        seconds: of training, over all starts of the run that the model has gone through.
        changed: option -> its values in the starts of the run, where it was changed in between.

    Raises:
        ValueError: the collator makes images of other channels than the model takes, or of another patch size; the
            metric of the best model is of no evaluation set; or `push_to_hub` without a callback that pushes.
    """

    args: RadMAETrainingArguments
    model: RadMAEForPreTraining
    train_dataset: RadiographDataset | None
    eval_dataset: RadiographDataset | dict[str, RadiographDataset] | None
    loss_is_scaled_for_ga = True  # by the number of predicted patches, in `compute_loss`

    def __init__(self, model=None, args=None, *, skipped: SkippedImages | None = None, **kwargs):
        args = RadMAETrainingArguments.adopt(args) if args else RadMAETrainingArguments()
        self.pusher = next((c for c in kwargs.get("callbacks") or () if hasattr(c, "push_output")), None)
        if args.push_to_hub:
            if self.pusher is None:
                raise ValueError(
                    "push_to_hub: a push goes through the gate. Give callbacks=[PushCallback()] of "
                    "hf_radmae.publishing.trainer_push"
                )
            args = copy.copy(args)
            args.push_to_hub = False  # by Trainer itself, which would upload pickles and logs
        if args.n_gpu > 1:
            raise ValueError(
                f"one process sees {args.n_gpu} GPUs, and DataParallel cannot split batches of radiographs: start one "
                "process a GPU with `accelerate launch --multi_gpu`, or show it one GPU with CUDA_VISIBLE_DEVICES=0."
            )
        warn_of_slow_bf16(args)
        train = kwargs.get("train_dataset")
        if args.auto_epochs and train is not None:
            args.num_train_epochs = epochs_for(len(train))
        if kwargs.get("data_collator") is None and model is not None:
            kwargs["data_collator"] = BucketCollator(model.config.patch_size, model.config.num_channels)
        super().__init__(model=model, args=args, **kwargs)
        self._check_shapes()
        sets = [data for data in (self.train_dataset, *self._eval_sets().values()) if data is not None]
        images = sum(len(data) for data in sets)
        if skipped is None:  # one that is given may be empty still
            skipped = SkippedImages(Path(args.output_dir, "skipped.csv"), images, args.max_skipped_share)
        self.skipped = skipped
        if self.is_fsdp_enabled:
            # Accelerate makes what this returns a unit of FSDP2, gathered when it is called: upstream's patch
            # embeddings, whose weights our embeddings use without a call.
            embeddings = self.model.vit.embeddings
            self.model.get_input_embeddings = lambda: embeddings  # type: ignore[method-assign]
        self._throughput, self._stop, self._step = Throughput(), StopOnRequest(), StepRecords()
        self._restore = RestoreRun(self)
        self._eval_sums: list[torch.Tensor] = []
        self._found_unusable: list[Skipped] = []  # since they were last gathered
        self._step_weight: torch.Tensor | float = 1.0
        self._evaluated: list[tuple[list[int], list[float]]] | None = None
        self.seconds = 0.0
        self.changed: dict[str, list[Any]] = {}
        self._resumed = ""  # the checkpoint that the training resumed
        self._since, self._first_step, self._manifest = time.perf_counter(), 0, cast("dict[str, Any]", {})
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                callback.logging_dir = str(Path(args.output_dir, "runs"))  # the default has the host's name in it
        if args.early_stopping_patience and args.eval_strategy != "no":
            self.add_callback(EarlyStopping(args.early_stopping_patience))
        if args.figure_images and self.eval_dataset is not None:
            self.add_callback(ReconstructionCallback(self, args.figure_images))
        for last in (self._throughput, self._restore, self._stop):
            self.add_callback(last)

    def _check_shapes(self) -> None:
        channels, collator = self.model.config.num_channels, cast(Any, self.data_collator)
        if getattr(collator, "num_channels", channels) != channels:
            raise ValueError(
                f"the collator makes images of {collator.num_channels} channels and the model takes {channels}: make "
                f"it with num_channels={channels}, or convert the model (RadMAEForPreTraining.convert_channels)"
            )
        patch: Any = getattr(self.model.config, "patch_size", None)
        for data in (self.train_dataset, *self._eval_sets().values()):
            bins = getattr(data, "bins", None)
            if bins is not None and isinstance(self.model, RadMAEForPreTraining) and bins.patch_size != patch:
                raise ValueError(f"the bins are of patches of {bins.patch_size} pixels and the model's have {patch}")
        metric = str(self.args.metric_for_best_model or "").removeprefix("eval_")
        names = [name for name in self._eval_sets() if name]
        decides = self.args.load_best_model_at_end or self.args.early_stopping_patience
        if names and decides and not any(metric.startswith(f"{name}_") for name in names):
            raise ValueError(
                f"metric_for_best_model={self.args.metric_for_best_model}: with several evaluation sets expected one "
                f"of {', '.join(f'eval_{name}_loss' for name in names)}"
            )

    def _eval_sets(self) -> dict[str, RadiographDataset]:
        """The evaluation sets by name; the only one has none."""
        data = self.eval_dataset
        return dict(data) if isinstance(data, dict) else {} if data is None else {"": data}

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

    def get_eval_dataloader(self, eval_dataset: str | RadiographDataset | None = None) -> DataLoader:  # type: ignore[override]
        if isinstance(eval_dataset, str):
            eval_dataset = self._eval_sets()[eval_dataset]
        if eval_dataset is None:
            eval_dataset = next(iter(self._eval_sets().values()), None)
        return self._loader(eval_dataset, self.args.eval_batch_size)

    def get_test_dataloader(self, test_dataset: RadiographDataset) -> DataLoader:  # type: ignore[override]
        return self.get_eval_dataloader(test_dataset)

    def collator(self, *, training: bool) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """What makes the batches of the loaders: for our model, one that sends only the patches that are used."""
        collate: Any = self.data_collator
        if not isinstance(collate, BucketCollator) or not isinstance(self.model, RadMAEForPreTraining):
            return collate
        config = self.model.config
        return PatchCollator(collate, config.mask_ratio, config.prediction_ratio if training else 1.0)

    def _loader(
        self, dataset: RadiographDataset | None, batch_size: int, *, shuffle: bool = False, **options: Any
    ) -> DataLoader:
        if dataset is None:
            raise ValueError("there are no images: give RadMAETrainer train_dataset to train, eval_dataset to evaluate")
        args = self.args
        loader = bucket_loader(
            dataset,
            self.collator(training=shuffle),
            batch_size if args.tokens_per_batch is None else batch_sizes(dataset.bins, args.tokens_per_batch).tolist(),
            shuffle=shuffle,
            timed=shuffle and isinstance(dataset, RadiographDataset),
            num_workers=args.dataloader_num_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            rank=args.process_index,
            world_size=args.world_size,
            **options,
        )
        loader.pin_memory = args.dataloader_pin_memory and torch.cuda.is_available()
        loader.worker_init_fn = start_worker
        if args.dataloader_num_workers and args.dataloader_multiprocessing_context:
            loader.multiprocessing_context = args.dataloader_multiprocessing_context
        # BatchSamplerShard would mix images of different batches and lose short ones; one "process" leaves them alone.
        # Not put on the device: Trainer draws all micro-batches of an update before it uses the first.
        return prepare_data_loader(loader, num_processes=1, process_index=0, put_on_device=False)

    # A checkpoint holds what a resumed run needs to repeat the straight one, or it is refused.

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """As `Trainer.train`, from a complete checkpoint or from the beginning.

        Raises:
            CheckpointError: the checkpoint is damaged, or the run is not the one that it is of.
            Stopped: the training was asked to end; it has saved a checkpoint, if it writes any.
            DivergedError: a number is NaN or infinite. A trial of `hyperparameter_search` gets the worst score instead.
            DiskFullError: a checkpoint could not be written.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
        # Ranks that see a folder of network storage at different times would start from different checkpoints.
        resume_from_checkpoint = gathered(resume_from_checkpoint)[0]
        self._batches = self._order()
        check_agreement(self._batches)
        self._manifest, self.seconds, self.changed = {}, 0.0, {}
        self._resumed = str(resume_from_checkpoint or "")
        if resume_from_checkpoint:
            self._manifest = self._checked(str(resume_from_checkpoint))
            self.seconds, self.changed = self._manifest["seconds"], self._manifest["changed"]
            for name, value in self._used().items():
                if (before := self._manifest["used"].get(name)) != value:
                    self.changed.setdefault(name, [before]).append(value)
                    logger.warning("--%s was %s and is %s from here on", name, before, value)
        self._since = time.perf_counter()
        try:
            if self._manifest.get("ended") and not self.is_fsdp_enabled and self._is_patient_no_more():
                return self._restored(str(resume_from_checkpoint))
            output = super().train(resume_from_checkpoint or None, *args, **kwargs)
            self.read_numbers()
            self._gather_unusable()
            self._stop_after_last_step()
            return output
        except OverAtResume:
            self.is_in_train = False
            self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
            return self._ended(str(resume_from_checkpoint))
        except DivergedError as error:
            if kwargs.get("trial") is None:
                raise
            return self._skipped_trial(kwargs["trial"], error)
        finally:
            self._stop.restore()
            self.seconds += time.perf_counter() - self._since
            self._since = time.perf_counter()

    def _stop_after_last_step(self) -> None:
        """Ends a run that was asked to stop after its last step, which has no next one to stop at.

        Raises:
            Stopped: a rank was asked. The last step is saved, unless the best model has taken its place.
        """
        folder = Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        asked = gathered((self._stop.reason, read_manifest(folder) is not None))
        reasons = [reason for reason, _ in asked if reason]
        if not reasons:
            return
        found: str | None = str(folder) if self._stop.saves else None
        if self._stop.saves and not asked[0][1]:
            if self.args.load_best_model_at_end:
                found = gathered(last_complete_checkpoint(self.args.output_dir))[0]
            else:
                self.save_whole_checkpoint(self.model, None)
        raise Stopped(self._stop.reason or reasons[0], found)

    def _skipped_trial(self, trial: Any, error: DivergedError) -> TrainOutput:
        """The end of a trial of `hyperparameter_search` that diverged: the worst score, and the search continues."""
        logger.warning("the trial with %s is skipped: %s", trial.params, error)
        study = getattr(trial, "study", None)  # the first rank alone has it, and scores the trial
        self.objective: Any = -math.inf if study is not None and study.direction.name == "MAXIMIZE" else math.inf
        self.is_in_train = False
        return TrainOutput(self.state.global_step, math.nan, {})

    def _gather_unusable(self) -> None:
        """Lists what all ranks found, written by the first; all count them, so that all stop at too many."""
        found, self._found_unusable = gathered(self._found_unusable), []
        self.skipped.add([*chain.from_iterable(found)], write=self.args.process_index == 0)

    def _checked(self, checkpoint: str) -> dict[str, Any]:
        """The manifest of a checkpoint of this very run."""
        if (found := damage(checkpoint)) is not None:
            raise CheckpointError(f"{checkpoint} is not complete: {found}")
        manifest = cast("dict[str, Any]", read_manifest(checkpoint))
        if "options" not in manifest:
            raise CheckpointError(f"{checkpoint} does not hold the options of its run")
        check_options(checkpoint, manifest["options"], self.options_that_matter())
        check_order(checkpoint, *self._batches, begin_anew=self.args.ignore_data_skip)
        ranks = {"ranks": self.args.world_size, "sharded": self.is_fsdp_enabled}
        check_state(checkpoint, scaler=self.args.fp16 and torch.cuda.is_available(), **ranks)
        return manifest | {"folder": str(Path(checkpoint).parent)}

    def options_that_matter(self) -> dict[str, Any]:
        """The options that alter what is learned: of network and targets, images and masks, optimiser and schedule."""
        config = {n: v for n, v in self.model.config.to_dict().items() if n not in _NOT_MEANT and n[0] != "_"}
        images = cast(RadiographDataset, self.train_dataset).options_that_matter()
        if (background := getattr(self.data_collator, "background", None)) is not None:
            images["background"] = background
        return json.loads(json.dumps({**config, **images, **self.args.options_that_matter()}, default=str))

    def _used(self) -> dict[str, Any]:
        """Options that a resumed run may change and that say something of the result."""
        names: tuple[str, ...] = ("early_stopping_patience", "bf16", "max_skipped_share", "eval_strategy", "eval_steps")
        names += ("load_best_model_at_end", "metric_for_best_model", "num_train_epochs", "max_steps")
        return json.loads(json.dumps({name: getattr(self.args, name) for name in names}, default=str))

    def _is_patient_no_more(self) -> bool:
        """Whether early stopping, with the patience of now, ended the run at its checkpoint."""
        patience = self.args.early_stopping_patience
        return bool(patience) and self._manifest["ended"] >= patience

    def _restored(self, checkpoint: str) -> TrainOutput:
        """The end of a run that was over at its last checkpoint: state and best weights, and not a step more."""
        self.state = TrainerState.load_from_json(str(Path(checkpoint, "trainer_state.json")))
        self.state.is_world_process_zero = self.is_world_process_zero()
        self.state.is_local_process_zero = self.is_local_process_zero()
        find_best(self.state, Path(checkpoint).parent)
        return self._ended(checkpoint)

    def _ended(self, checkpoint: str) -> TrainOutput:
        """The end of a run whose state is known: its best weights, or those of its last checkpoint."""
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        self.load_weights(best or checkpoint)
        return TrainOutput(self.state.global_step, 0.0, {})

    def load_weights(self, checkpoint: str | Path) -> None:
        """Take the weights of a checkpoint, and nothing else of it."""
        weights = type(self.model).from_pretrained(checkpoint).state_dict()
        self.model.load_state_dict(weights)

    def save_whole_checkpoint(self, model, trial) -> None:
        args, keep = self.args, self.args.save_total_limit
        folder = Path(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.state.global_step == self._first_step and str(folder) == self._resumed and read_manifest(folder):
            return  # a checkpoint that is written again in place would be lost if the run was cut off
        args.save_total_limit = None  # older ones go when the new one is complete
        try:
            if args.should_save:
                save_order(folder, *self._batches)
            super().save_whole_checkpoint(model, trial)
            pending = self.accelerator.gather(self._tr_loss.reshape(1)).tolist()
            self.accelerator.wait_for_everyone()
            if args.should_save:
                self._complete(folder, pending)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            if (named := disk_full(error, folder.parent)) is not None:
                raise named from error
            raise
        finally:
            args.save_total_limit = keep
        if args.should_save:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(folder.parent), keep, best)

    def _complete(self, folder: Path, pending: list[float]) -> None:
        """Write the manifest of a checkpoint, with what Trainer does not keep of a run.

        Args:
            folder: of the checkpoint.
            pending: of each rank, the sum of the losses since the last log.
        """
        path = folder / "trainer_state.json"
        state = json.loads(path.read_text(encoding="utf-8"))
        state["best_model_checkpoint"] = None  # a path that would not survive a move; the step is kept
        path.write_text(json.dumps(state, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        stopping = [c for c in self.callback_handler.callbacks if isinstance(c, EarlyStopping)]
        waited = stopping[0].early_stopping_patience_counter if stopping else 0
        complete(
            folder,
            options=self.options_that_matter(),
            used=self._used(),
            changed=self.changed,
            seconds=self.seconds + time.perf_counter() - self._since,
            pending={"loss": pending, "since": self._globalstep_last_logged},
            ended=waited if waited and waited >= self.args.early_stopping_patience else 0,
            due=self._due(),
        )

    def _due(self) -> dict[str, bool]:
        """What comes after the checkpoint that is being written and before the next step: a resumed run makes it."""
        last = float(self.state.epoch or 0).is_integer() or self.state.global_step >= self.state.max_steps
        return {"evaluation": self._stop.postponed, "end of epoch": last and not self._restore.epoch_is_over}

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

    def loss_denominator(self, batches: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        counts, full = torch.zeros(2), 0.0
        args = self.args
        for batch in batches:
            counts[0] += self._predicted(batch, self.model.config.prediction_ratio)
            counts[1] += len(batch["index"]) - (batch["repeated"].sum() if "repeated" in batch else 0)
            size = args.train_batch_size
            if args.tokens_per_batch is not None:
                patches = math.prod(batch["grid"]) if "grid" in batch else batch["patch_mask"].shape[1]
                size = images_within(args.tokens_per_batch, batch["num_tokens"], patches)
            full += size * args.world_size * args.gradient_accumulation_steps / len(batches)
        predicted, images = self.sum_over_ranks(counts, device)
        self._step_weight = (images / max(full, 1.0)).clamp(min=1e-6, max=1.0)
        return predicted.clamp(min=1) / self._step_weight

    def sum_over_ranks(self, counts: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Float counts (n,) summed over the ranks, on the device; votes to stop travel with them."""
        if self.args.world_size == 1:
            return counts.to(device, non_blocking=True)
        sent = torch.cat([counts, torch.tensor([float(self._stop.reason is not None)])]).to(device, non_blocking=True)
        found = cast(torch.Tensor, self.accelerator.reduce(sent, reduction="sum"))
        self._stop.votes = found[-1]
        return found[:-1]

    def _predicted(self, batch: dict[str, Any], prediction_ratio: float) -> torch.Tensor:
        mask_ratio, tokens = self.model.config.mask_ratio, batch["num_tokens"]
        if "places" not in batch:
            return count_predicted(counted(batch), mask_ratio, tokens, prediction_ratio)
        return counted(batch)[:, token_counts(tokens, mask_ratio)[0] :].sum().float()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = {key: inputs[key] for key in inputs if key != "repeated"} | {"patch_mask": counted(inputs)}
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
        # DistributedDataParallel averages gradients over the ranks, and the loss is already divided by their sum.
        loss = outputs.loss * (self.args.world_size if num_items_in_batch is not None else 1)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        images, tokens = len(inputs["index"]), inputs.get("num_tokens", 0)  # a classifier's batch has none
        self._throughput.count(images * self.args.world_size, images * tokens * self.args.world_size)
        self._throughput.read(inputs.get("seconds", 0.0))
        self._step.add(inputs, epoch=int(self.state.epoch or 0))
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        except torch.OutOfMemoryError as error:
            if "grid" in inputs:
                height, width = (side * self.model.config.patch_size for side in inputs["grid"])
            else:
                height, width = inputs["pixel_values"].shape[-2:]
            held = what_to_lower(images, height, width, tokens, tokens_per_batch=self.args.tokens_per_batch)
            raise torch.OutOfMemoryError(f"{held} ({error})") from error
        self._step.losses.append(loss)
        return loss if num_items_in_batch is None else loss / self._step_weight  # what is logged is a mean again

    def take_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self._found_unusable += inputs.get("skipped", ())
        kept = {key: inputs[key] for key in inputs if key not in ("skipped", "index", "seconds")}
        if self._cast is not None and "pixel_values" in kept:
            kept["pixel_values"] = kept["pixel_values"].to(self._cast)
        return kept

    # A step with a number that is none moves no weights; the host hears of it where it waits for the device anyway.

    def check_step(self, grad_norm: Any) -> None:
        optimizer: Any = getattr(self.optimizer, "optimizer", self.optimizer)
        scaled = self.accelerator.scaler is not None  # fp16: the scaler skips steps of gradients that overflow
        numbers = [loss.detach().float() for loss in self._step.losses]
        if not scaled:
            norm = grad_norm.full_tensor() if hasattr(grad_norm, "full_tensor") else grad_norm
            numbers.append(torch.as_tensor(norm, device=numbers[0].device).float())
        bad = self._step.close(self.state.global_step, ~torch.isfinite(torch.stack(numbers)).all())
        if scaled or self.is_fsdp_enabled:
            self.read_numbers()
        elif all(group.get("fused") for group in optimizer.param_groups):
            optimizer.found_inf = bad  # torch's fused optimisers then leave weights and moments as they are
        else:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.masked_fill_(bad > 0, 0.0)

    def read_numbers(self) -> None:
        """Wait for the device, and end the training where a step since the last call was not finite.

        Raises:
            DivergedError: see `_diverged`.
        """
        if (record := self._step.first_bad()) is not None:
            self._diverged(record)

    def _diverged(self, record: StepRecord) -> None:
        """End the training: save what led there, and say where."""
        args, folder = self.args, Path(self.args.output_dir, FOLDER)
        rate = float(self._get_learning_rate())
        if args.process_index:
            folder = folder / f"rank-{args.process_index}"
        saved = "Sharded weights are not saved"
        if not self.is_fsdp_enabled:
            dataset, collate = cast(Any, self.train_dataset), self.collator(training=True)
            dataset.set_epoch(record.epoch)
            batches = [collate([dataset[row] for row in rows]) for rows in record.rows]
            facts = {"step": record.step, "learning_rate": rate, "rank": args.process_index}
            save_step(folder, self.accelerator.unwrap_model(self.model), record, batches, facts)
            saved = f"Its batch, weights and random states are in {folder}: hf-radmae replay {folder}"
        kept = next((path for path in checkpoints_in(args.output_dir) if damage(path) is None), "none")
        raise DivergedError(
            f"the training diverged at step {record.step}: its loss or its gradient is not finite, at a learning rate "
            f"of {rate:g}. {saved}. The last checkpoint is {kept}. Lower --learning_rate, or set --max_grad_norm"
        )

    def check_weights(self, state_dict: dict[str, torch.Tensor]) -> None:
        if (name := first_not_finite(state_dict)) is not None:
            raise DivergedError(
                f"the training diverged: the weights {name} are not finite at step {self.state.global_step}, and are "
                "not saved. Lower --learning_rate, or set --max_grad_norm"
            )

    # Trainer weights the losses of evaluation batches by the configured batch size; buckets have others.

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        rows = inputs["index"].tolist() if self._evaluated is not None else []
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            if self._evaluated is None:
                loss = self.compute_loss(model, inputs).float()
            else:  # one image at a time: the model gives the mean of a batch alone
                split = [
                    {name: v[i : i + 1] if torch.is_tensor(v) else v for name, v in inputs.items()}
                    for i in range(len(rows))
                ]
                each = torch.stack([self.compute_loss(model, one).float() for one in split])
                weights = torch.stack([self._predicted(one, 1.0) for one in split])
                self._evaluated.append((rows, each.tolist()))
                loss = (each * weights).sum() / weights.sum().clamp(min=1)
        count = self._predicted(inputs, 1.0)  # evaluation predicts every masked patch
        self._eval_sums.append(torch.stack([loss * count, count]))
        return None, None, None

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        self._eval_sums = []
        self._evaluated = None if prediction_loss_only else []
        output = self.run_evaluation(dataloader, description, ignore_keys, metric_key_prefix)
        sums = torch.stack(self._eval_sums).cpu().double().sum(0) if self._eval_sums else torch.zeros(2)
        loss, count = np.sum(gathered(sums.tolist()), axis=0)
        metrics = dict(output.metrics or {}, **{f"{metric_key_prefix}_loss": float(loss / max(count, 1))})
        check_finite(metrics, f"the evaluation ({metric_key_prefix}) is not finite: the network has diverged")
        if self._evaluated is None:
            return output._replace(metrics=metrics)
        parts = [*chain.from_iterable(gathered(self._evaluated))]
        self._evaluated = None
        rows, first = np.unique(np.concatenate([rows for rows, _ in parts]), return_index=True)
        losses = np.concatenate([values for _, values in parts])[first]
        if self.compute_metrics is not None:
            found = cast(Callable, self.compute_metrics)(EvalPrediction(losses, rows))
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        return output._replace(predictions=losses, label_ids=rows, metrics=metrics)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As `Trainer.evaluate`; it leaves the random states as they were.

        Loaders draw seeds, so that a run which stopped before an evaluation would resume with other random states.
        """
        with torch.random.fork_rng(devices=[]):
            return super().evaluate(*args, **kwargs)

    def run_evaluation(self, dataloader, description, ignore_keys, metric_key_prefix) -> EvalLoopOutput:
        """Upstream's loop over the batches of an evaluation, which leaves the model as it was.

        The images that it cannot use are listed.
        """
        # Accelerate shards (FSDP2) only together with an optimiser: before training each process runs the whole model.
        sharding, prepared = self.is_fsdp_enabled, bool(self.accelerator._models)
        if not prepared:
            self.is_fsdp_enabled = False
            self.model.to(self.args.device)  # type: ignore[arg-type]  # upstream's wrapper hides the method
        with self._full_evaluation():
            output = super().evaluation_loop(dataloader, description, True, ignore_keys, metric_key_prefix)
        self.is_fsdp_enabled = sharding
        self._gather_unusable()
        if not prepared and not self.is_in_train:
            # It was prepared for evaluation only. Left marked, training would take it for prepared, and several ranks
            # would train without DistributedDataParallel, each for itself.
            self.accelerator._models.clear()
            self.model._is_accelerate_prepared = False  # type: ignore[assignment]
        metrics = {k: v for k, v in (output.metrics or {}).items() if not k.endswith("model_preparation_time")}
        return output._replace(metrics=metrics)

    _cast: torch.dtype | None = None

    @contextmanager
    def _full_evaluation(self) -> Iterator[None]:
        """Casts the weights for `--bf16_full_eval` and `--fp16_full_eval`, and puts the same ones back after it."""
        args, flags = self.args, (self.args.bf16_full_eval, self.args.fp16_full_eval)
        if not any(flags) or self.is_fsdp_enabled:
            yield
            return
        parameters = [p for p in self.model.parameters() if p.is_floating_point()]
        originals = [p.data for p in parameters]
        args.bf16_full_eval = args.fp16_full_eval = False  # upstream would leave the weights cast
        self._cast = torch.bfloat16 if flags[0] else torch.float16
        try:
            for parameter in parameters:
                parameter.data = parameter.data.to(self._cast)
            yield
        finally:
            for parameter, original in zip(parameters, originals, strict=True):
                parameter.data = original
            args.bf16_full_eval, args.fp16_full_eval = flags
            self._cast = None

    def pause(self, loss: torch.Tensor) -> None:
        control = self.control
        if control.should_log or control.should_evaluate or control.should_save:
            loss.cpu()  # the clock stops when the device has done its work, not when the work was handed to it
            self.read_numbers()
        self._throughput.stop()
        if self.control.should_log or self.control.should_save:
            self._gather_unusable()

    def resume_clock(self) -> None:
        self._throughput.start()

    def push_to_hub(  # type: ignore[override]  # upstream's further arguments are of its own card
        self, commit_message: str = "End of training", blocking: bool = True
    ) -> Any:
        """Save the model and push the output folder through the gate; call it on every process.

        Raises:
            ValueError: no callback pushes.
        """
        if self.pusher is None:
            raise ValueError("give the trainer callbacks=[PushCallback()] of hf_radmae.publishing.trainer_push to push")
        self.save_model()
        return self.pusher.push_output(self, commit_message, blocking)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            scaled = self.accelerator.scaler is not None
            check_finite({k: v for k, v in logs.items() if not (scaled and k == "grad_norm")}, "the log")
            workers, ranks = self.args.dataloader_num_workers, self.args.world_size
            logs |= self._throughput.rates(workers, ranks)
            if speed := logs.get("images_per_second"):
                logs["device_hours_per_100k_images"] = round(1e5 / speed / 3600 * self.args.world_size, 4)
            done = self.state.global_step - self._first_step
            pace = (time.perf_counter() - self._since) / max(done, 1)
            logs["hours_left"] = round((self.state.max_steps - self.state.global_step) * pace / 3600, 4)
        super().log(logs, start_time)


def check_agreement(order: Any) -> None:
    """Compares the order of batches that the ranks derived, each for itself, before the first of them is trained on.

    Raises:
        ValueError: a rank has another order than rank 0, whose ranks would wait for each other for ever.
    """
    orders = gathered(order)
    if other := [rank for rank, found in enumerate(orders) if found != orders[0]]:
        raise ValueError(
            f"rank {other[0]} found other batches than rank 0: {orders[other[0]]}, not {orders[0]}. All ranks must see "
            "the same files with the same options: compare their data folders and package versions."
        )


def counted(batch: dict[str, Any]) -> torch.Tensor:
    """The patches of a batch that count: its `patch_mask`, without those of images that are `repeated`."""
    mask = batch["patch_mask"]
    return mask & ~batch["repeated"][:, None] if "repeated" in batch else mask


__all__ = ["RadMAETrainer", "RadMAETrainingArguments", "last_complete_checkpoint"]
