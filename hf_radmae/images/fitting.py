"""One grey image as a tensor, scaled to 0..1 by its own range, cut, resized and padded: what every reader shares."""

from __future__ import annotations

from math import floor

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as tvF

from hf_radmae.models.masking import scaled

SCALINGS = ("minmax", "percentile")

PixelBox = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""


def as_float32(array: np.ndarray) -> np.ndarray:
    """The array as float32; from wider numbers its minimum is taken off first, where float32 would merge neighbours.

    Every reader scales an image by its own range, so that an offset says nothing; 24 bits of the range are kept.
    """
    if (
        array.dtype.itemsize > 2
        and array.dtype != np.float32
        and max(abs(float(array.min())), float(array.max())) > 2**24
    ):
        low = array.min()
        array = array - low if array.dtype.kind in "uf" else array.astype(np.float64) - float(low)
    return array.astype(np.float32)


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """Grey array (height, width) -> tensor (1, height, width): uint8 as it is, every other depth as float32."""
    if array.dtype != np.uint8:
        array = as_float32(array)
    return torch.tensor(np.ascontiguousarray(array))[None]  # a mirrored view has negative strides


def fit_image(
    image: torch.Tensor,
    shape: tuple[int, int],
    content: tuple[int, int] | None = None,
    *,
    scaling: str = "minmax",
    box: PixelBox | None = None,
    grey_range: tuple[float, float] | None = None,
) -> torch.Tensor:
    """Scales one grey image to 0..1, crops it, resizes it to `content` and pads it with 0 to `shape` (bottom, right).

    The range is taken from the whole image before any crop, so that a crop keeps the brightness of its image. An 8-bit
    image is resized in 8 bit, which is several times faster and costs at most half a grey value.

    Args:
        image: (1, height, width), uint8 or float32 of any range.
        shape: (height, width) of the result in pixels.
        content: (height, width) that the image fills; `shape` by default. The rest is padding.
        scaling: see `RadiographImageProcessorKwargs`.
        box: (top, left, height, width) of the crop, in pixels of `image`.
        grey_range: what becomes 0 and 1, where it is known; else measured by `scaling`.

    Returns:
        (1, *shape), float32, 0..1.
    """
    low, high = grey_range or _range(image, scaling)
    height, width = content or shape
    image = tvF.resize(image[(..., *_slices(box))], [height, width], antialias=True)
    image = scaled(image, low, high - low)
    return image if (height, width) == shape else F.pad(image, (0, shape[1] - width, 0, shape[0] - height))


def fit_pixels(
    pixels: np.ndarray,
    shape: tuple[int, int],
    content: tuple[int, int] | None = None,
    *,
    scaling: str = "minmax",
    box: PixelBox | None = None,
    grey_range: tuple[float, float] | None = None,
) -> tuple[np.ndarray, tuple[float, float]]:
    """The same, but not scaled: `scaled` makes of the result what `fit_image` gives, value for value.

    Args:
        pixels: (height, width) of any depth, as `read_image` gives it.
        shape, content, scaling, box, grey_range: see `fit_image`.

    Returns:
        `shape`, of the depth of `pixels` where that is uint8, or uint16 and nothing is resized, else float32; and the
        grey values that become 0 and 1.
    """
    low, high = grey_range or _range(as_tensor(pixels), scaling)
    fitted, size = pixels[_slices(box)], content or shape
    if pixels.dtype not in (np.uint8, np.uint16) or fitted.shape != size:
        fitted = tvF.resize(as_tensor(pixels)[(..., *_slices(box))], list(size), antialias=True)[0].numpy()
    if size != shape:
        dark = low if fitted.dtype == np.float32 else max(floor(low), 0)  # becomes 0
        missing = [(0, whole - part) for whole, part in zip(shape, size, strict=True)]
        fitted = np.pad(fitted, missing, constant_values=dark)
    return fitted, (low, high)


def _slices(box: PixelBox | None) -> tuple[slice, slice]:
    if box is None:
        return slice(None), slice(None)
    top, left, height, width = box
    return slice(top, top + height), slice(left, left + width)


def grey_ranges(pixels: np.ndarray) -> list[float]:
    """What becomes 0 and 1 by each of `SCALINGS`, one after the other, in an image (height, width)."""
    image = as_tensor(pixels)
    return [value for scaling in SCALINGS for value in _range(image, scaling)]


def _range(image: torch.Tensor, scaling: str) -> tuple[float, float]:
    low, high = (float(value) for value in torch.aminmax(image))
    if scaling == "percentile":
        stride = max(1, int((image.numel() / 1e6) ** 0.5))  # a million pixels tell the percentiles well enough
        sample = image[0, ::stride, ::stride].numpy()
        inner_low, inner_high = (float(value) for value in np.percentile(sample, (0.5, 99.5)))
        if inner_low < inner_high:
            return inner_low, inner_high
    return low, high
