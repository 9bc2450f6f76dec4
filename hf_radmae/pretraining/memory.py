"""How many tokens a training step may hold: the largest budget that fits a GPU, or what to lower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import Trainer

from hf_radmae.batching.binning import Bins
from hf_radmae.batching.sampler import batch_sizes
from hf_radmae.models.masking import token_counts

SPARE = 0.9  # of what fits: the rest is for the buckets of several ranks, and memory in pieces


def tokens_that_fit(trainer: Trainer, bins: Bins) -> int:
    """The largest `tokens_per_batch` with which training steps fit the trainer's GPU, with some spare.

    Each trial trains on the batch of most tokens within the budget. Patches that take no part stay off the device, so
    that more of them take no memory.

    Args:
        trainer: its model on a GPU. The gradients are lost, the weights are not changed.
        bins: the shapes of the run.

    Raises:
        ValueError: the model is not on a GPU, whose memory alone can be tried out.
        OutOfMemoryError: not even one image fits.
    """
    model: Any = trainer.model
    device = next(model.parameters()).device
    if device.type != "cuda":
        raise ValueError(f"the model is on {device.type}: what fits can be tried out on a CUDA GPU only")
    if trainer.args.gradient_checkpointing:  # which Trainer turns on when it trains
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs)
    # Steps of size 0: AdamW's moments take their memory and the weights stay.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)
    tokens = int(bins.tokens.max())

    def fits(images: int) -> bool:
        sizes = batch_sizes(bins, images * tokens)
        try:
            bin_id = int((sizes * bins.tokens).argmax())
            trial_step(trainer, trial_batch(model, bins, bin_id, int(sizes[bin_id])))
            optimizer.step()
            return True
        except torch.OutOfMemoryError:
            return False
        finally:
            optimizer.zero_grad()
            torch.cuda.empty_cache()

    images = largest_fitting(fits)
    if not images:
        raise torch.OutOfMemoryError(
            f"not one image of {tokens} tokens fits: lower --max_tokens, or take a smaller model"
        )
    return int(images * tokens * SPARE)


def trial_batch(model: Any, bins: Bins, bin_id: int, images: int) -> dict[str, Any]:
    """A batch of random images of a bin, with all that `PatchCollator` gives for training."""
    size, tokens, patches = bins.patch_size, int(bins.tokens[bin_id]), int(bins.patches[bin_id])
    used = sum(token_counts(tokens, model.config.mask_ratio, model.config.prediction_ratio))
    return {
        "patches": torch.randint(0, 256, (images, used, size, size), dtype=torch.uint8),
        "places": torch.rand(images, patches).argsort(dim=1)[:, :used],
        "patch_mask": torch.ones(images, used, dtype=torch.bool),
        "grid": tuple((bins.shapes[bin_id] // size).tolist()),
        "grey_range": torch.tensor([[0.0, 255.0]]).repeat(images, 1),
        "num_tokens": tokens,
        "index": torch.arange(images),
    }


def trial_step(trainer: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Forward and backward as in training: train mode, autocast, masks, channels and the loss of an update."""
    trainer.model.train()
    count = trainer._get_num_items_in_batch([batch], trainer.args.device)
    inputs = trainer._prepare_inputs(batch)
    with trainer.accelerator.autocast():
        loss = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=count)
    loss.backward()
    return loss.detach()


def largest_fitting(fits: Callable[[int], bool]) -> int:
    """The largest number of 1, 2, ... that fits, 0 where none does; whatever fits, less fits too."""
    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def what_to_lower(images: int, height: int, width: int, tokens: int, *, tokens_per_batch: int | None) -> str:
    """What a step that ran out of memory held, and what to change; sizes in pixels, tokens of an image."""
    option = "--per_device_train_batch_size" if tokens_per_batch is None else f"--tokens_per_batch ({tokens_per_batch})"
    return (
        f"a step on {images} images of {height} x {width} pixels with {tokens} tokens each, {images * tokens} in all, "
        f"does not fit the memory. Lower {option}, and raise --gradient_accumulation_steps to keep the images of an "
        "update; or lower --max_tokens, or train with --bf16 true."
    )
