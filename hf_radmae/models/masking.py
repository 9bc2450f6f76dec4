"""Which patches of an image the encoder sees and which are predicted: pure functions of tensors.

A mask is written as one random number per patch (`noise`): the patches with the smallest numbers stay visible, the
others are masked, as in He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022, section 3. The noise is
drawn from a key, so that any process, at any time, draws the same mask for the same image. Patches without information
are left out by gathering, with equal counts in a batch, so that attention stays dense.
"""

import math

import numpy as np
import torch
from torch import Tensor


def patch_grid(pixel_values: Tensor, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches of images (..., height, width).

    Raises:
        ValueError: a side is not a positive multiple of the patch size.
    """
    height, width = pixel_values.shape[-2:]
    if min(height, width) < patch_size or height % patch_size or width % patch_size:
        raise ValueError(
            f"an image of {height}x{width} pixels cannot be cut into patches of {patch_size}x{patch_size}: "
            f"both sides must be positive multiples of {patch_size}; resize it to its bin first"
        )
    return height // patch_size, width // patch_size


def keyed_noise(seed: int, epoch: int | None, index: int, num_patches: int) -> Tensor:
    """The noise of one image, the same on every process.

    Args:
        seed: seed of the run, at least 0.
        epoch: epoch of training, at least 0; None for evaluation, where the mask depends on the image alone.
        index: index of the image in its data set, at least 0.
        num_patches: patches of the image.

    Returns:
        float32 (patches,) in 0..1. Keys that differ give independent noise: seed, image and epoch are the key and
        the counter of Philox 4x64 (Salmon et al., 2011), whose lowest counter word numbers the draws.
    """
    counter = [0, 0, 0 if epoch is None else epoch + 1, index]
    generator = np.random.Generator(np.random.Philox(key=seed, counter=counter))
    return torch.from_numpy(generator.random(num_patches, dtype=np.float32))


def token_counts(num_tokens: int, mask_ratio: float, prediction_ratio: float = 1.0) -> tuple[int, int]:
    """How many patches of an image the encoder sees, and how many the decoder predicts.

    Args:
        num_tokens: patches that take part.
        mask_ratio: share of them that is masked. What is seen is rounded down, as transformers' ViTMAE does.
        prediction_ratio: share of the masked ones that is predicted, rounded up.
    """
    visible = int(num_tokens * (1 - mask_ratio))
    return visible, math.ceil((num_tokens - visible) * prediction_ratio)


def visible_informative(patch_mask: Tensor, num_visible: int, mask_ratio: float) -> Tensor:
    """How many informative patches of each image the encoder sees: int64 (batch,).

    The mask ratio is one of informative patches, of which at least one is seen where there are two, and at most
    `num_visible`. An image with fewer of them than `num_visible` allows has flat patches seen beside them.
    """
    informative = patch_mask.sum(dim=1)
    share = (informative.double() * (1 - mask_ratio)).long()
    return torch.where(informative > 1, share.clamp(min=1), share).clamp(max=num_visible)


def order_patches(noise: Tensor, patch_mask: Tensor | None, num_visible: int, mask_ratio: float) -> Tensor:
    """All patches of each image in the order in which they are used: first the seen ones, then those to predict.

    Informative patches come by their noise, of equal ones the first: the share that is seen, then, behind as many flat
    patches as `num_visible` leaves room for, the masked ones. The flat patches that remain are last. So the first
    `num_visible` are what the encoder sees, the next are predicted, and a batch of images with different numbers of
    informative patches has equal counts of both.

    Args:
        noise: float (batch, patches).
        patch_mask: bool (batch, patches), True where a patch is informative; None where all are.
        num_visible: patches that the encoder sees of each image, at most the unmasked share of all patches.
        mask_ratio: share of the informative patches that is masked.

    Returns:
        int64 (batch, patches), a permutation of each row.
    """
    if patch_mask is None:
        return noise.argsort(dim=1, stable=True)
    last = noise.amax(dim=1, keepdim=True) - noise.amin(dim=1, keepdim=True) + 1
    by_noise = (noise + last * ~patch_mask).argsort(dim=1, stable=True)  # informative ones, then flat ones
    informative = patch_mask.sum(dim=1, keepdim=True)
    seen = visible_informative(patch_mask, num_visible, mask_ratio)[:, None]
    place = torch.arange(noise.shape[1], device=noise.device).expand_as(noise)
    flat_seen = place - seen + informative
    masked = place - num_visible + seen
    source = torch.where(place < num_visible, flat_seen, torch.where(masked < informative, masked, place))
    return by_noise.gather(1, torch.where(place < seen, place, source))


def count_predicted(
    patch_mask: Tensor, mask_ratio: float, num_tokens: int | None = None, prediction_ratio: float = 1.0
) -> Tensor:
    """How many patches the loss is taken over: the predicted ones that carry information.

    Args:
        patch_mask: bool (batch, patches), True where a patch carries information.
        mask_ratio, num_tokens, prediction_ratio: as for the model.

    Returns:
        float32 scalar, equal to what the model's loss divides by without `num_items_in_batch`, at least 1 there.
    """
    visible, predicted = token_counts(num_tokens or patch_mask.shape[1], mask_ratio, prediction_ratio)
    masked = patch_mask.sum(dim=1) - visible_informative(patch_mask, visible, mask_ratio)
    return masked.clamp(max=predicted).sum().float()


def gather_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """The tokens (batch, kept, width) of `tokens` (batch, tokens, width) at `ids`, int64 (batch, kept)."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def patches_at(pixel_values: Tensor, patch_size: int, ids: Tensor) -> Tensor:
    """Cut out some patches and leave the others where they are.

    Args:
        pixel_values: (batch, channels, height, width).
        patch_size: side of a patch in pixels.
        ids: int64 (batch, chosen), patches numbered row by row.

    Returns:
        (batch, chosen, channels, patch_size, patch_size).
    """
    rows, columns = patch_grid(pixel_values, patch_size)
    grid = pixel_values.unflatten(3, (columns, patch_size)).unflatten(2, (rows, patch_size)).permute(0, 2, 4, 1, 3, 5)
    images = torch.arange(len(ids), device=ids.device)[:, None]
    return grid[images, ids // columns, ids % columns]


def scaled(values: Tensor, low: Tensor | float, span: Tensor | float) -> Tensor:
    """Grey values of any depth as float32: 0 at `low` and below, 1 at `low + span` and above."""
    return values.to(torch.float32, copy=True).sub_(low).div_(span).clamp_(0, 1)
