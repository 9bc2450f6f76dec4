"""`Trainer` for labels on radiographs of any size: a loss that no split of a batch changes, every row scored once."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any, cast

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.transforms.v2.functional import normalize
from transformers.trainer_utils import EvalLoopOutput

from hf_radmae.batching.collator import BucketCollator
from hf_radmae.batching.ranks import gathered
from hf_radmae.classification.data import LabelCollator, LabelledRadiographs
from hf_radmae.classification.loss import fit_class_weights, label_weights, summed_loss
from hf_radmae.classification.networks import parameter_groups
from hf_radmae.classification.scores import Predictions, score
from hf_radmae.classification.training_args import ClassifierTrainingArguments
from hf_radmae.pretraining.divergence import check_finite
from hf_radmae.pretraining.trainer import RadMAETrainer


class ClassifierTrainer(RadMAETrainer):
    """Trains a model of `build_classifier` on `LabelledRadiographs`.

    * The loss is the weighted mean over all labels of the optimiser step, over ranks and accumulation.
    * Evaluation scores every row once, whatever the ranks, see `predicted`.
    * The model at the end is the best one. Where `save_strategy` is "no" its weights are kept in memory.
    """

    args: ClassifierTrainingArguments  # type: ignore[assignment]
    model: Any  # type: ignore[assignment]
    train_dataset: LabelledRadiographs  # type: ignore[assignment]
    eval_dataset: LabelledRadiographs  # type: ignore[assignment]

    def __init__(self, model=None, args=None, *, train_dataset: LabelledRadiographs, **kwargs):
        args = copy.copy(args) if args else ClassifierTrainingArguments()
        self.labels = train_dataset.labels
        if args.metric_for_best_model is None:
            args.metric_for_best_model = "loss" if self.labels.task == "regression" else "balanced_accuracy"
        if args.greater_is_better is None:
            args.greater_is_better = not args.metric_for_best_model.endswith(("loss", "error"))
        collator = LabelCollator(BucketCollator(train_dataset.bins.patch_size, background="keep"))
        super().__init__(model, args, train_dataset=train_dataset, data_collator=collator, **kwargs)
        self.class_weights = fit_class_weights(train_dataset.targets, self.labels, args.class_weights)
        self._evaluated: list[tuple[np.ndarray, np.ndarray]] = []  # type: ignore[assignment]
        self._best_weights: dict[str, torch.Tensor] | None = None
        self._stop.saves = not self.args.keeps_best_in_memory

    def predicted(self, data: LabelledRadiographs) -> Predictions:
        """What the model says of the labelled images."""
        return cast(Predictions, self.predict(data).predictions)  # type: ignore[arg-type]

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            args, model = self.args, self.model if model is None else model
            groups = parameter_groups(model, args.learning_rate, args.weight_decay, args.layer_decay)
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(args, model)
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    # The loss of a step is a sum over its labels, divided by their weight over all ranks and batches.

    def loss_denominator(self, batches: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        weight = torch.stack([self._weights(batch).sum() for batch in batches]).sum()
        return self.sum_over_ranks(weight.reshape(1), device)[0].clamp(min=1e-6)

    def _weights(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        targets, weights = batch["labels"], self.class_weights
        weights = label_weights(targets, None if weights is None else weights.to(targets.device))
        return weights * batch["label_weights"].to(targets.device)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        pixels, targets = inputs["pixel_values"], inputs["labels"]
        config = self.model.config
        pixels = pixels.expand(-1, config.num_channels, -1, -1)
        if hasattr(config, "image_mean"):
            pixels = normalize(pixels, config.image_mean, config.image_std)
        if model.training and len(pixels) == 1:  # of a bin of its own; batch norm then takes its running statistics
            for layer in model.modules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()  # until Trainer's next model.train()
        outputs = model(pixels)
        weights = self._weights(inputs)
        loss = summed_loss(outputs.logits.float(), targets, weights, self.args.label_smoothing_factor)
        if num_items_in_batch is None:
            loss = loss / weights.sum().clamp(min=1e-6)
        else:  # DistributedDataParallel averages gradients over the ranks
            loss = loss / num_items_in_batch * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    # Each rank keeps the logits of its rows; then all ranks score all rows, and so agree on which model is the best.

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        rows = inputs["index"].cpu().numpy()
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            _, outputs = self.compute_loss(model, inputs, return_outputs=True)
        self._evaluated.append((rows, outputs.logits.float().cpu().numpy()))
        return None, None, None

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        self._evaluated = []
        output = self.run_evaluation(dataloader, description, ignore_keys, metric_key_prefix)
        parts = [*chain.from_iterable(gathered(self._evaluated))]
        self._evaluated = []
        data: LabelledRadiographs = dataloader.dataset
        rows, first = np.unique(np.concatenate([rows for rows, _ in parts]), return_index=True)
        used = data.bin_ids[rows] >= 0  # not a replacement of an unreadable image by one that has no label here
        rows, logits = rows[used], np.concatenate([logits for _, logits in parts])[first[used]]
        predictions = Predictions.of(self.labels, rows, data.truth[rows], logits)
        targets = data.targets[torch.from_numpy(rows)]
        weights = label_weights(targets, self.class_weights)
        loss = summed_loss(torch.from_numpy(logits), targets, weights) / weights.sum().clamp(min=1e-6)
        metrics = {"loss": loss.item(), **score(predictions)}
        check_finite(
            {"loss": loss.item()}, f"the evaluation ({metric_key_prefix}) is not finite: the network has diverged"
        )
        kept = output.metrics or {}
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions, None, kept | named, len(rows))  # type: ignore[arg-type]

    # Without checkpoints the best weights are kept in memory, and are the model's at the end.

    def on_new_best(self) -> None:
        if self.args.keeps_best_in_memory:
            state = self.accelerator.unwrap_model(self.model).state_dict()
            self._best_weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
            self.state.best_global_step = self.state.global_step

    def train(self, *args, **kwargs):
        self._best_weights = None
        output = super().train(*args, **kwargs)
        if self._best_weights is not None:
            self.model.load_state_dict(self._best_weights)
            self._best_weights = None
        return output
