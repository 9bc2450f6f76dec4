"""How many tokens a training step may hold: the largest budget that fits a GPU, or what to lower."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from hf_radmae.batching.binning import Bins
from hf_radmae.models.mae import RadMAEForPreTraining

SPARE = 0.9  # of what fits: the rest is for the buckets of several ranks, and memory in pieces


def tokens_that_fit(
    model: RadMAEForPreTraining, bins: Bins, autocast: Callable[[], AbstractContextManager] = nullcontext
) -> int:
    """The largest `tokens_per_batch` with which training steps on the largest bin fit the model's GPU, with some spare.

    Args:
        model: on a GPU. Its gradients are lost, its weights are not changed.
        bins: the shapes of the run.
        autocast: the context of a training step, as `accelerator.autocast`.

    Raises:
        ValueError: the model is not on a GPU, whose memory alone can be tried out.
        OutOfMemoryError: not even one image fits.
    """
    device = next(model.parameters()).device
    if device.type != "cuda":
        raise ValueError(f"the model is on {device.type}: what fits can be tried out on a CUDA GPU only")
    largest, tokens = int(bins.patches.argmax()), int(bins.tokens.max())
    # Steps of size 0: AdamW's moments take their memory and the weights stay.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)

    def fits(images: int) -> bool:
        try:
            height, width = bins.shapes[largest].tolist()
            pixels = torch.rand(images, model.config.num_channels, height, width, device=device)
            with autocast():
                loss = model(pixel_values=pixels, num_tokens=tokens).loss
            loss.backward()
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
