"""Which patches carry information, which of them the encoder sees, and which are predicted: pure functions of tensors.

A mask is written as one random number per patch (`noise`): the patches with the smallest numbers stay visible, the
others are masked, as in He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022, section 3. The noise is
drawn from a key, so that any process, at any time, draws the same mask for the same image.
"""

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


def informative_patches(pixel_values: Tensor, patch_size: int, threshold: float = 0.01) -> Tensor:
    """Mark the patches whose grey values vary.

    Args:
        pixel_values: float (batch, channels, height, width), grey values 0..1.
        patch_size: side of a patch in pixels.
        threshold: a patch is informative where the standard deviation of its pixels exceeds this.

    Returns:
        bool (batch, patches), row by row. Never all False for an image: where every patch is flat, all are True,
        so that such an image is trained on like any other in place of being lost.
    """
    rows, columns = patch_grid(pixel_values, patch_size)

    def patch_means(values: Tensor) -> Tensor:  # in two steps: five times faster than one mean, or std, over three axes
        return values.unflatten(2, (rows, patch_size)).mean(3).unflatten(3, (columns, patch_size)).mean((1, 4))

    variance = patch_means(pixel_values.square()) - patch_means(pixel_values).square()
    informative = variance.flatten(1) > threshold**2
    return informative | ~informative.any(dim=1, keepdim=True)


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


def visible_count(num_patches: int, mask_ratio: float) -> int:
    """How many of `num_patches` the encoder sees: the unmasked share, rounded down as transformers' ViTMAE does."""
    return int(num_patches * (1 - mask_ratio))


def select_visible(noise: Tensor, num_visible: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the patches with the smallest noise; of equal ones the first.

    Args:
        noise: float (batch, patches).
        num_visible: patches to keep of each image.

    Returns:
        ids_keep: int64 (batch, num_visible), the kept patches in the order of their noise;
        mask: float32 (batch, patches), 0 where a patch is kept and 1 where it is masked;
        ids_restore: int64 (batch, patches), the rank of each patch: `shuffled.gather(1, ids_restore)` is in order.
    """
    ids_shuffle = noise.argsort(dim=1, stable=True)
    ids_restore = ids_shuffle.argsort(dim=1)
    return ids_shuffle[:, :num_visible], (ids_restore >= num_visible).float(), ids_restore


def count_predicted(noise: Tensor, patch_mask: Tensor | None, mask_ratio: float) -> Tensor:
    """How many patches the loss is taken over: those masked by `noise` that carry information.

    Args:
        noise: float (batch, patches).
        patch_mask: bool (batch, patches), True where a patch carries information; None where all do.
        mask_ratio: share of the patches that is masked.

    Returns:
        float32 scalar, equal to what the model's loss divides by without `num_items_in_batch`, at least 1 there.
    """
    _, mask, _ = select_visible(noise, visible_count(noise.shape[1], mask_ratio))
    return (mask if patch_mask is None else mask * patch_mask).sum()


def gather_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """The tokens (batch, kept, width) of `tokens` (batch, tokens, width) at `ids`, int64 (batch, kept)."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
