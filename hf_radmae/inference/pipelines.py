"""`pipeline("image-classification")` and `pipeline("image-feature-extraction")` for radiographs of any size and depth.

Importing this module registers its classes for these tasks; `import hf_radmae` alone changes nothing. Where a
repository's processor is one of ours, files (DICOM too) keep their depth and their aspect; everything else is read as
without this package.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from types import GeneratorType
from typing import Any
from urllib.request import urlopen

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForImageClassification, ViTImageProcessor, ViTMAEModel
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.image_classification import ImageClassificationPipeline
from transformers.pipelines.image_feature_extraction import ImageFeatureExtractionPipeline
from transformers.utils import ModelOutput, logging

from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.images.fitting import SCALINGS
from hf_radmae.images.image import MAX_BYTES, ImageError
from hf_radmae.models.modeling_radiograph_vit import RadiographViTConfig, RadiographViTForImageClassification
from hf_radmae.publishing.export import export_encoder


class _Items(torch.utils.data.Dataset):
    """A sequence of images, read one by one."""

    def __init__(self, images: Sequence[Any]):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.images[index]


class _ReadsRadiographs:
    """What both pipelines do with an image before the model sees it."""

    image_processor: Any
    model: Any
    dtype: Any

    def __init__(self, *args: Any, image_processor: Any = None, **kwargs: Any):
        if type(image_processor) is ViTImageProcessor and getattr(image_processor, "scaling", None) in SCALINGS:
            image_processor = RadiographImageProcessor.from_dict(image_processor.to_dict())  # ours, by its other name
        super().__init__(*args, image_processor=image_processor, **kwargs)  # type: ignore[call-arg]

    def preprocess(self, image: Any, timeout: float | None = None, **options: Any) -> Any:
        """The `pixel_values` of an image: a path, URL, data URL, bytes, PIL image, array or tensor.

        Raises:
            ImageError: it cannot be used; the error names it and says why.
            FileNotFoundError: there is no such file.
        """
        if not isinstance(self.image_processor, RadiographImageProcessor):
            return super().preprocess(image, timeout=timeout, **options)  # type: ignore[misc]
        source: Any = fetch(image, timeout) if isinstance(image, str | Path) else image
        inputs = self.image_processor([source], return_tensors="pt", **options)
        return inputs.to(self.dtype)

    def __call__(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As the pipeline of transformers, for images of any shapes, with any `batch_size`.

        Args:
            inputs: one image, see `preprocess`; or several, as a list, tuple, column of a data set, array or tensor of
                four axes (the first over images), generator, iterator or torch data set, such as `KeyDataset`.
            *args, **kwargs: as in transformers, `batch_size` among them: images of one shape share a forward pass.

        Returns:
            The result of the image; for several a list of results, in their order, or for a generator, iterator or
            torch data set an iterator over them.

        Raises:
            ImageError: an image cannot be used; the error names it and says why.
        """
        if isinstance(self.image_processor, RadiographImageProcessor):
            if isinstance(inputs, np.ndarray | torch.Tensor) and inputs.ndim == 4:
                inputs = list(inputs)
            if isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes | bytearray):
                return list(super().__call__(_Items(inputs), *args, **kwargs))  # type: ignore[misc]
            is_file = hasattr(inputs, "read")  # an iterator too, over lines
            if isinstance(inputs, Iterator) and not isinstance(inputs, GeneratorType) and not is_file:
                inputs = (image for image in inputs)
        return super().__call__(*([] if inputs is None else [inputs]), *args, **kwargs)  # type: ignore[misc]

    def get_iterator(self, inputs: Any, num_workers: int, batch_size: int, *params: Any) -> Any:
        """As transformers does, which stacks the images of a batch, whatever their shapes."""
        iterator = super().get_iterator(inputs, num_workers, batch_size, *params)  # type: ignore[misc]
        if batch_size > 1 and isinstance(self.image_processor, RadiographImageProcessor):
            iterator.loader.loader.collate_fn = list
        return iterator

    def _forward(self, model_inputs: Any) -> Any:
        if not isinstance(self.image_processor, RadiographImageProcessor):
            return super()._forward(model_inputs)  # type: ignore[misc]
        if not isinstance(model_inputs, list):
            return self.model(**model_inputs, interpolate_pos_encoding=True)
        return self._forward_together([inputs["pixel_values"] for inputs in model_inputs])

    def _forward_together(self, images: list[torch.Tensor]) -> ModelOutput:
        """The outputs of the model for images (1, ...), one forward pass per shape; each a list in their order."""
        places: dict[torch.Size, list[int]] = {}
        for place, image in enumerate(images):
            places.setdefault(image.shape, []).append(place)
        found: dict[str, list[Any]] = {}
        for own in places.values():
            outputs = self.model(torch.cat([images[place] for place in own]), interpolate_pos_encoding=True)
            for name, values in outputs.items():
                each = found.setdefault(name, [None] * len(images))
                for row, place in enumerate(own):
                    if isinstance(values, tuple):  # one of each layer
                        each[place] = tuple(value[row : row + 1] for value in values)
                    else:
                        each[place] = values[row]
        return ModelOutput(found)

    def check_model_type(self, supported_models: Any) -> None:
        """As transformers does, which does not know our class."""
        if not isinstance(self.model, RadiographViTForImageClassification):
            super().check_model_type(supported_models)  # type: ignore[misc]


class RadiographClassificationPipeline(_ReadsRadiographs, ImageClassificationPipeline):  # type: ignore[misc]
    """Labels with scores of radiographs."""


class RadiographFeatureExtractionPipeline(_ReadsRadiographs, ImageFeatureExtractionPipeline):  # type: ignore[misc]
    """Features of radiographs, (1, 1 + patches, width), the CLS token first.

    The encoder of a checkpoint of pre-training is taken as a `ViTModel`, for a `ViTMAEModel` masks and shuffles.
    """

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        if isinstance(model, ViTMAEModel):
            model = export_encoder(model, num_channels=None)
        super().__init__(model, *args, **kwargs)


def fetch(source: str | Path, timeout: float | None = None) -> str | bytes:
    """The path of a file, or the content of a URL or data URL.

    Raises:
        ImageError: the URL cannot be read, or there is more of it than `MAX_BYTES`.
        FileNotFoundError: there is no such file.
    """
    text = str(source)
    if text.startswith(("http://", "https://")):
        return _download(text, timeout)
    if text.startswith("data:image/"):
        try:
            return base64.b64decode(text.partition(",")[2], validate=True)
        except binascii.Error as error:
            raise ImageError(text[:32], f"is no base64: {error}") from error
    if not os.path.isfile(text):
        raise FileNotFoundError(f"{text[:200]!r} is no file, and no URL that begins with http:// or https://")
    if (size := os.path.getsize(text)) > MAX_BYTES:
        raise ImageError(text, f"has {size:,} bytes: more than {MAX_BYTES:,} are not read")
    return text


def _download(url: str, timeout: float | None) -> bytes:
    try:
        with urlopen(url, timeout=timeout) as response:
            content = response.read(MAX_BYTES + 1)
    except (OSError, HTTPException, ValueError) as error:
        raise ImageError(url, f"cannot be fetched: {error}") from error
    if len(content) > MAX_BYTES:
        raise ImageError(url, f"has more than {MAX_BYTES:,} bytes, which are not read")
    return content


def register() -> None:
    """Let `pipeline` use the classes of this module for its two tasks, and load our classifiers without a question.

    Importing the module calls it. `PIPELINE_REGISTRY.register_pipeline` is the way that transformers documents.
    """
    for task, kind in (
        ("image-classification", RadiographClassificationPipeline),
        ("image-feature-extraction", RadiographFeatureExtractionPipeline),
    ):
        stock = PIPELINE_REGISTRY.supported_tasks[task]
        level = logging.get_verbosity()
        logging.set_verbosity_error()  # that a task is registered already is what is meant
        PIPELINE_REGISTRY.register_pipeline(task, kind, stock["pt"], stock.get("default"), stock["type"])
        logging.set_verbosity(level)
        # Else `save_pretrained` of a pipeline would copy this module into the repository, which cannot run there.
        del kind._registered_impl  # type: ignore[union-attr]
    AutoConfig.register(RadiographViTConfig.model_type, RadiographViTConfig, exist_ok=True)
    AutoModelForImageClassification.register(RadiographViTConfig, RadiographViTForImageClassification, exist_ok=True)


register()
