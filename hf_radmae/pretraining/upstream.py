"""Every private method of `Trainer` that is overridden, each with its reason; `tests/test_upstream.py` pins them.

The trainers of this package override public methods and the hooks that are named here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME

PRIVATE = (
    *("_get_num_items_in_batch", "_prepare_inputs", "_prepare_input", "_get_grad_norm", "_maybe_log_save_evaluate"),
    *("_save_checkpoint", "_save", "_determine_best_metric"),
)
"""The names of the overridden methods."""


class TrainerHooks(Trainer):
    """`Trainer` with hooks at places where it has none."""

    def loss_denominator(self, batches: list[dict[str, Any]], device: torch.device) -> torch.Tensor | None:
        """What the summed loss of an optimiser step is divided by, over all ranks."""
        return super()._get_num_items_in_batch(batches, device)  # type: ignore[return-value]

    def take_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What of a batch the model is given."""
        return inputs

    def check_step(self, grad_norm: Any) -> None:
        """Look at an optimiser step before the weights move."""

    def pause(self, loss: torch.Tensor) -> None:
        """Training pauses, maybe for a log, an evaluation or a checkpoint; `loss` is the sum since the last log."""

    def resume_clock(self) -> None:
        """Training continues."""

    def save_whole_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint."""
        super()._save_checkpoint(model, trial)

    def check_weights(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Look at weights before they are written."""

    def on_new_best(self) -> None:
        """The evaluation that was just made is the best so far."""

    # Upstream counts labels that are not -100; the losses here are sums over patches, or over weighted labels.
    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Any:
        return self.loss_denominator(batch_samples, device)

    # Batches carry a report of unusable images and row numbers, which are for the trainer and not for the model.
    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return super()._prepare_inputs(self.take_inputs(inputs))

    # Upstream waits for each copy to the device; from pinned memory it need not.
    def _prepare_input(self, data: Any) -> Any:
        return data.to(self.args.device, non_blocking=True) if torch.is_tensor(data) else super()._prepare_input(data)

    # No event has the norm of the gradient before the optimiser steps.
    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        self.check_step(norm)
        return norm

    # No event marks where training pauses, so that a speed would count evaluations and checkpoints.
    def _maybe_log_save_evaluate(self, tr_loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        self.pause(tr_loss)
        super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)
        self.resume_clock()

    # Upstream deletes older checkpoints before the new one is known to be on the disk.
    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.save_whole_checkpoint(model, trial)

    # Upstream writes a pickle with the paths of this machine, which nothing here reads.
    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        self.check_weights(state_dict if state_dict is not None else self.model.state_dict())  # type: ignore[union-attr]
        super()._save(output_dir, state_dict)
        Path(output_dir or str(self.args.output_dir), TRAINING_ARGS_NAME).unlink(missing_ok=True)

    # No event tells that an evaluation was the best, which decides where weights are kept in memory.
    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        better = super()._determine_best_metric(metrics, trial)
        if better:
            self.on_new_best()
        return better
