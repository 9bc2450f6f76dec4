"""Changes that leave a radiograph one: turned, moved, scaled and exposed a little, never put upside down.

What is drawn depends on (seed, epoch, image) alone, so that a resumed run repeats the straight one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvF


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image.

    Args:
        rotation: turned by up to so many degrees either way.
        zoom: scaled by a factor within 1 / (1 + zoom) and 1 + zoom, uniform in its logarithm.
        shift: moved along each axis by up to this share of the side.
        contrast: gamma within 1 / (1 + contrast) and 1 + contrast, as another exposure would give it.
        flip: mirrored left to right, one time in two. Not where laterality is a label, or tells.
    """

    rotation: float = 10.0
    zoom: float = 0.15
    shift: float = 0.05
    contrast: float = 0.2
    flip: bool = False

    def __post_init__(self) -> None:
        if min(self.rotation, self.zoom, self.shift, self.contrast) < 0:
            raise ValueError(f"{self}: expected no negative range; 0 leaves a change out")

    def __call__(self, image: Tensor, *, seed: int, epoch: int, index: int) -> Tensor:
        """The image (1, height, width), 0..1, changed as its key says. What it no longer covers is 0."""
        rng = np.random.default_rng((seed, epoch, index))
        angle, right, down, zoom, gamma, mirrored = rng.uniform(-1, 1, 6)
        height, width = image.shape[-2:]
        if self.flip and mirrored < 0:
            image = tvF.horizontal_flip(image)
        if self.rotation or self.zoom or self.shift:
            image = tvF.affine(
                image,
                angle=float(angle) * self.rotation,
                translate=[float(right) * self.shift * width, float(down) * self.shift * height],
                scale=float((1 + self.zoom) ** zoom),
                shear=[0.0, 0.0],
                interpolation=InterpolationMode.BILINEAR,
            )
        return image.clamp(0, 1).pow(float((1 + self.contrast) ** gamma)) if self.contrast else image
