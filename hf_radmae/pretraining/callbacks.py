"""What watches a pre-training run: its speed, its patience, and pictures of its reconstructions."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.pretraining.checkpoints import find_best
from hf_radmae.pretraining.figures import reconstruction_figure, save_figure

logger = logging.getLogger(__name__)

_NEARLY = 0.9


class Throughput(TrainerCallback):
    """Images and tokens per second between starts and stops, and what the loader could give; warns where it is slower.

    The loader could give what its workers would read if they never waited: their number over the seconds that a batch
    takes one of them. Where training takes nearly as many images (`_NEARLY`), it waits for the loader.
    """

    def __init__(self) -> None:
        self.images = self.tokens = 0
        self.seconds = self.read_seconds = 0.0
        self.warned = False
        self.start()

    def on_train_begin(self, *args, **kwargs):
        self.start()  # what was before, an evaluation say, is no training

    def start(self) -> None:
        """Starts the clock."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Adds the time since the start."""
        self.seconds += time.perf_counter() - self._since

    def count(self, images: int, tokens: int) -> None:
        """Adds what a batch holds."""
        self.images, self.tokens = self.images + images, self.tokens + tokens

    def read(self, seconds: float) -> None:
        """Adds how long a loader worker took for a batch."""
        self.read_seconds += seconds

    def rates(self, workers: int = 0, ranks: int = 1) -> dict[str, float]:
        """`images_per_second` and `tokens_per_second` since the last call, and `loader_images_per_second`.

        Args:
            workers: of the loader, on each rank; 0 where the process itself reads.
            ranks: how many processes train.
        """
        counts = {"images_per_second": self.images, "tokens_per_second": self.tokens}
        rates = {name: round(count / max(self.seconds, 1e-9), 2) for name, count in counts.items()}
        if self.read_seconds and self.images:
            # Images are of all ranks, seconds of this one.
            possible = self.images * max(workers, 1) / self.read_seconds
            rates["loader_images_per_second"] = round(possible, 2)
            # Without workers reading and step take turns: training has half of what either gives where both are alike.
            if not self.warned and rates["images_per_second"] > possible * (_NEARLY if workers else 0.5):
                self.warned = True
                logger.warning(
                    "the loader is slower than the step, which waits for it: %d workers on each of %d ranks give %.0f "
                    "images/s, and %.0f/s are trained on. Raise --dataloader_num_workers up to the number of cores, "
                    "or prepare the images once at training resolution with scripts/prepare.py",
                    *(workers, ranks, possible, rates["images_per_second"]),
                )
        self.images = self.tokens = 0
        self.seconds = self.read_seconds = 0.0
        return rates


class EarlyStopping(EarlyStoppingCallback):
    """Upstream's, but evaluations before and after training do not count, and the best model need not be loaded.

    A resumed run builds it anew from the checkpoint, with the count of evaluations without progress; the patience is
    that of the arguments of now.
    """

    in_train = False

    def on_train_begin(self, args, *unused, **kwargs):
        self.in_train = True
        self.early_stopping_patience = args.early_stopping_patience

    def on_train_end(self, *args, **kwargs):
        self.in_train = False

    def on_evaluate(self, *args, **kwargs):
        if self.in_train:
            super().on_evaluate(*args, **kwargs)


class OverAtResume(Exception):
    """The evaluation that was due at a checkpoint is the last one that the run's patience allows."""


class RestoreRun(TrainerCallback):
    """Gives a resumed run what Trainer does not keep: the best checkpoint wherever it is now, and the pending loss.

    It also makes up for what was due between the checkpoint and the next step, as the evaluation at the end of an
    epoch whose last step was saved when the run was asked to stop.

    Args:
        trainer: a `RadMAETrainer`.

    Attributes:
        epoch_is_over: whether the steps of the epoch are done, and its log, evaluation and checkpoint are under way.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.epoch_is_over = False

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.epoch_is_over = False

    def on_epoch_end(self, args, state, control, **kwargs):
        self.epoch_is_over = True

    def on_train_begin(self, args, state, control, **kwargs):
        trainer, manifest = self.trainer, self.trainer._manifest
        trainer._first_step = state.global_step
        self.epoch_is_over = False
        if not manifest:
            return
        pending = manifest["pending"]
        losses = np.atleast_1d(pending["loss"])  # of each rank; of other ranks than these their mean is taken
        trainer._tr_loss += losses[args.process_index] if len(losses) == args.world_size else losses.mean()
        trainer._total_loss_scalar -= losses.mean()  # the loss of this call is of its own steps
        trainer._globalstep_last_logged = pending["since"]
        find_best(state, Path(manifest["folder"]))
        due = manifest.get("due", {})
        if any(due.values()):
            self._make_up(args, state, control, **due)

    def _make_up(self, args, state, control, **due):
        trainer = self.trainer
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, EarlyStopping):  # which comes after this one in a resumed run
                callback.on_train_begin(args)
        control.should_log = control.should_evaluate = control.should_save = False
        if due["end of epoch"]:
            trainer.callback_handler.on_epoch_end(args, state, control)
        control.should_evaluate |= due["evaluation"]
        model, since = trainer.model_wrapped, time.time()
        trainer._maybe_log_save_evaluate(trainer._tr_loss, None, model, None, state.epoch, None, since)
        find_best(state, Path(trainer._manifest["folder"]))
        if control.should_training_stop:
            raise OverAtResume


class ReconstructionCallback(TrainerCallback):
    """At each evaluation a figure of input, masked input, reconstruction and error, for TensorBoard and as a file.

    The images, one of each of the fullest bins of the evaluation set, and their masks stay the same over a run.
    """

    def __init__(self, trainer: Trainer, images: int):
        self.trainer, self.images = trainer, images
        data = trainer.eval_dataset
        name = next(iter(data)) if isinstance(data, dict) else ""  # of several sets the first one is drawn
        self.dataset = cast(RadiographDataset, data[name] if isinstance(data, dict) else data)
        self._loss = f"eval_{name}_loss" if name else "eval_loss"

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        # A model that is sharded needs all of its processes to run.
        runs = state.is_world_process_zero or self.trainer.is_fsdp_enabled
        if not runs or self._loss not in (metrics or {}):
            return
        figure = reconstruction_figure(self.trainer.accelerator.unwrap_model(self.trainer.model), list(self._batches()))
        if not state.is_world_process_zero:
            return
        image = save_figure(figure, Path(args.output_dir, "reconstructions.png"))
        for callback in self.trainer.callback_handler.callbacks:
            if (writer := getattr(callback, "tb_writer", None)) is not None:
                writer.add_image("reconstructions", image, state.global_step, dataformats="HWC")

    def _batches(self) -> Iterator[dict[str, Any]]:
        dataset, collate = self.dataset, cast(Callable, self.trainer.data_collator)
        for index in dataset.first_of_fullest_bins(self.images):
            yield collate([dataset[index]])
