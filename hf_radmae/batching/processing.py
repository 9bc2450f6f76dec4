"""From a radiograph of any size and depth to `pixel_values` in 0..1 at the shape of its bin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tvF
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import PILImageResampling
from transformers.processing_utils import ImagesKwargs

from hf_radmae.batching.binning import Bins, assign, content_sizes
from hf_radmae.images.background import background_mask, content_box, pixel_box
from hf_radmae.images.fitting import SCALINGS, as_tensor, fit_image
from hf_radmae.images.image import ImageError, read_image

_SOURCES = (str, Path, bytes, Mapping, Image.Image, np.ndarray)
_ALWAYS = {"do_resize": True, "do_rescale": True, "do_center_crop": False, "do_pad": False}
"""What the other options of an image processor must say, for nothing else is done here."""


class RadiographImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """What `RadiographImageProcessor` takes beside the arguments of every image processor.

    Attributes:
        bins: the bins as `Bins.to_dict()`; an image goes to the closest one. Without bins it is resized to `size`.
        scaling: "minmax" maps the darkest and brightest pixel of each image to 0 and 1 (the paper's), "percentile" its
            0.5th and 99.5th percentile, which a burnt-in marker or a dead pixel does not move.
        num_channels: 1, or 3 for models that expect RGB (the grey image three times).
        crop_to_content: with bins, cut each image to the box around the patient first, as `--crop_to_content` does in
            training.
        crop_threshold: what older checkpoints call it; any number cuts to the same box.
    """

    bins: dict | None
    scaling: str | None
    num_channels: int | None
    crop_to_content: bool | None
    crop_threshold: float | None


class RadiographImageProcessor(TorchvisionBackend):
    """Reads, scales and resizes radiographs of any bit depth: paths (DICOM too), bytes, PIL images, arrays, tensors.

    `processor(images, return_tensors="pt")["pixel_values"]` is float32 (batch, num_channels, height, width) in 0..1, or
    with `do_normalize` less `image_mean` and divided by `image_std`, for a network that was trained on such pixels.
    Images of one call that fall into different bins cannot be stacked: leave `return_tensors` out to get a list.

    It is saved under the name of transformers' `ViTImageProcessor`, with options that mean the same there for an 8-bit
    image of full range: a machine without this package loads it and resizes to the square of `size`.

    Raises:
        ImageError: an image cannot be used; the error names it and says why.
        ValueError: an option asks for what is not done here, such as another `resample` or no `do_resize`.
    """

    valid_kwargs = RadiographImageProcessorKwargs
    size = {"height": 224, "width": 224}  # noqa: RUF012 - transformers reads plain class attributes
    resample = PILImageResampling.BILINEAR
    do_resize = True
    do_rescale = True  # to 0..1 by the range of each image; the stock class divides by 255
    do_normalize = False
    image_mean = 0.0  # what a notebook that normalises by them, whatever do_normalize says, leaves as it is
    image_std = 1.0
    bins: dict | None = None
    scaling = "minmax"
    num_channels = 1
    crop_to_content: bool | None = False
    crop_threshold: float | None = None

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._validate_preprocess_kwargs(**{name: getattr(self, name) for name in self._valid_kwargs_names})

    def to_dict(self) -> dict[str, Any]:
        """The options, under the name of the stock class; mean and deviation of each channel say what was done."""
        options = super().to_dict() | {"image_processor_type": "ViTImageProcessor"}
        for name in ("image_mean", "image_std"):
            values = _per_channel(options[name])
            options[name] = values * self.num_channels if len(values) == 1 else values
        if not self.do_normalize:
            options |= {"image_mean": [0.0] * self.num_channels, "image_std": [1.0] * self.num_channels}
        return options

    def _validate_preprocess_kwargs(self, **options: Any) -> None:  # type: ignore[override]  # they come by name
        if options["scaling"] not in SCALINGS:
            raise ValueError(f"scaling={options['scaling']!r} is unknown: expected one of {', '.join(SCALINGS)}")
        for name, only in _ALWAYS.items():
            if bool(options.get(name)) != only:
                raise ValueError(f"{name}={options[name]!r}: {type(self).__name__} knows {name}={only} only")
        if options["resample"] not in (None, PILImageResampling.BILINEAR, tvF.InterpolationMode.BILINEAR):
            raise ValueError(f"resample={options['resample']!r}: images are resized as in training, by BILINEAR only")
        if options["bins"] is None and (options["crop_to_content"] or options["crop_threshold"] is not None):
            raise ValueError("crop_to_content needs bins: an image that is cut goes to the closest one")
        if options["bins"] is None and not (options["size"].height and options["size"].width):
            raise ValueError(f"size={dict(options['size'])}: expected 'height' and 'width', or bins")

    def fetch_images(self, images: Any) -> Any:
        """Leaves paths as they are: `process_image` reads them at their full bit depth."""
        return images

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list:
        if isinstance(images, list | tuple):
            return list(images)
        if isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4:
            return list(images)
        return [images]

    def process_image(self, image: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One image of any accepted kind -> grey tensor (1, height, width); 8-bit images stay uint8, others float32."""
        if isinstance(image, torch.Tensor):
            image = (image.float() if image.is_floating_point() else image).numpy(force=True)
        if not isinstance(image, _SOURCES):
            expected = "expected a path, bytes, a row of a data set, a PIL image, an array or a tensor"
            raise ImageError(f"<{type(image).__name__}>", f"is no image: {expected}")
        return as_tensor(read_image(image))

    def _preprocess(  # type: ignore[override]
        self,
        images: list[torch.Tensor],
        size: Any,
        bins: dict | None,
        scaling: str,
        num_channels: int,
        crop_to_content: bool | None = False,
        crop_threshold: float | None = None,
        do_normalize: bool = False,
        image_mean: Any = None,
        image_std: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        device, placed = kwargs.get("device") or "cpu", None if bins is None else Bins.from_dict(bins)
        fitted = []
        for image in images:
            shape = content = (size.height, size.width)
            box = None
            if placed is not None:
                if crop_to_content or crop_threshold is not None:
                    box = pixel_box(content_box(background_mask(image[0])), (image.shape[1], image.shape[2]))
                shape, content = place(box[2:] if box else image.shape[-2:], placed)
            pixels = fit_image(image, shape, content, scaling=scaling, box=box)
            pixels = pixels.expand(num_channels, -1, -1).to(device)
            if do_normalize:
                pixels = tvF.normalize(pixels, _per_channel(image_mean), _per_channel(image_std))
            fitted.append(pixels)
        if kwargs.get("return_tensors") and len({image.shape for image in fitted}) > 1:
            raise ValueError(
                f"the images fall into different bins ({sorted({tuple(i.shape[-2:]) for i in fitted})}) and cannot be "
                "stacked: call the processor once per image, or leave return_tensors out"
            )
        return BatchFeature({"pixel_values": fitted}, tensor_type=kwargs.get("return_tensors"))


def _per_channel(values: float | Sequence[float]) -> list[float]:
    return [float(values)] if isinstance(values, int | float) else [float(value) for value in values]


def place(size: Sequence[int], bins: Bins) -> tuple[tuple[int, int], tuple[int, int]]:
    """The (height, width) of the bin that an image of this (height, width) goes to, and of the part that it fills.

    Raises:
        ImageError: the bins have no place for this size (strict binning).
    """
    ids = assign([size], bins)
    if ids[0] < 0:
        raise ImageError("<image>", f"no bin takes {size[0]}x{size[1]} pixels: strict binning knows exact sizes only")
    content = content_sizes([size], bins, ids)[0]
    return tuple(bins.shapes[ids[0]].tolist()), tuple(content.tolist())
