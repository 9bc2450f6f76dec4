"""One radiograph as a model sees it: its label, the patches that carry information, attention, and a reconstruction."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from PIL import Image
from torch import Tensor
from transformers import ViTMAEConfig, pipeline

import hf_radmae.inference.pipelines  # noqa: F401 - registers them
from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.images.background import patch_mask
from hf_radmae.images.image import ImageError, read_image
from hf_radmae.models.mae import RadMAEForPreTraining
from hf_radmae.models.masking import keyed_noise, patch_grid
from hf_radmae.models.starts import config_values, whole_mae
from hf_radmae.pretraining.figures import reconstruct
from hf_radmae.publishing.export import export_encoder

MAX_UPLOAD = 2**26
"""Bytes of a file that are read at most; a detector's largest image, 3072 x 3072 in 16 bit, takes 19 million."""
SHOWN_LABELS = 10

MISSING = """nothing to show: name a pre-trained checkpoint, an exported classifier, or both. These commands make them:

    python scripts/pretrain.py scripts/recipes/phantom.yaml --output_dir out/phantom
    python scripts/export.py --model out/phantom --probe_column body_region --output_dir out/classifier

    python scripts/demo.py --model out/phantom --classifier out/classifier"""


@dataclass(frozen=True)
class View:
    """What is shown of an image.

    Attributes:
        scores: label -> probability, the most probable first; empty without a classifier.
        pictures: caption -> uint8 (height, width, 3).
    """

    scores: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)


class Viewer:
    """Shows radiographs by a classifier, a masked autoencoder, or both.

    Attention and informative patches are those of the classifier, without one those of the autoencoder's encoder.

    Args:
        pretrained: folder or Hub id of a checkpoint of pre-training.
        classifier: folder or Hub id of what scripts/export.py wrote.

    Raises:
        ValueError: neither is given, or one is another kind of model.
    """

    def __init__(self, pretrained: str | Path | None = None, classifier: str | Path | None = None):
        if not pretrained and not classifier:
            raise ValueError(MISSING)
        self.autoencoder: RadMAEForPreTraining | None = None
        self.classify: Any = None  # a RadiographClassificationPipeline
        if pretrained:
            if not whole_mae(pretrained):
                _expect(pretrained, {ViTMAEConfig.model_type}, "checkpoint of pre-training (scripts/pretrain.py)")
            self.autoencoder = RadMAEForPreTraining.from_pretrained(pretrained).eval()
            channels = self.autoencoder.config.num_channels
            self.processor = RadiographImageProcessor.from_pretrained(pretrained, num_channels=channels)
        if classifier:
            _expect(classifier, {"vit", "radiograph_vit"}, "classifier (scripts/export.py)")
            options = {"attn_implementation": "eager"}  # the others do not tell what is attended to
            self.classify = pipeline("image-classification", str(classifier), device="cpu", model_kwargs=options)
            self.encoder = self.classify.model
            if not isinstance(self.classify.image_processor, RadiographImageProcessor):
                raise ValueError(f"{classifier} has no RadiographImageProcessor: export it with scripts/export.py")
            if self.encoder.config.problem_type == "regression":
                raise ValueError(f"{classifier} predicts numbers, which have no probabilities to show")
        else:
            self.encoder = export_encoder(cast(RadMAEForPreTraining, self.autoencoder), num_channels=None)
            self.encoder.set_attn_implementation("eager")

    @torch.no_grad()
    def __call__(self, source: Any) -> View:
        """What is shown of a file (a path or its content), a PIL image, an array or a tensor.

        Raises:
            ImageError: it cannot be used; `reason` says why, and holds no path.
        """
        image = read_upload(source)
        pixels = self._pixels(image)
        outputs = self.encoder(pixels, interpolate_pos_encoding=True, output_attentions=True)
        scores = {}
        if self.classify is not None:
            found = self.classify.postprocess({"logits": outputs.logits}, top_k=SHOWN_LABELS)
            scores = {entry["label"]: entry["score"] for entry in found}
        patch_size = self.encoder.config.patch_size
        grid, grey = patch_grid(pixels, patch_size), pixels[0].mean(0)
        shown = torch.from_numpy(patch_mask(grey, grid)).flatten()
        attention = outputs.attentions[-1][0, :, 0, 1:].mean(0)
        pictures = {
            "as the model sees it": picture(grey),
            "informative patches": tinted(grey, enlarged(shown.float(), grid, patch_size)),
            "attention of the CLS token": heated(grey, enlarged(attention, grid, patch_size)),
        }
        return View(scores, pictures | self._reconstruction(image))

    def _pixels(self, image: np.ndarray) -> Tensor:
        if self.classify is not None:
            return self.classify.preprocess(image)["pixel_values"]
        return self.processor(image, return_tensors="pt")["pixel_values"]

    def _reconstruction(self, image: np.ndarray) -> dict[str, np.ndarray]:
        if self.autoencoder is None:
            return {}
        pixels = self.processor(image, return_tensors="pt")["pixel_values"]
        grid = self.autoencoder.grid(pixels)
        mask = torch.from_numpy(patch_mask(pixels[0].mean(0), grid)).view(1, -1)
        noise = keyed_noise(0, None, 0, mask.shape[1])[None]
        found = reconstruct(self.autoencoder, {"pixel_values": pixels, "noise": noise, "patch_mask": mask})
        return {name: picture(found[name][0]) for name in ("masked input", "reconstruction")}


def _expect(name: str | Path, model_types: set[str], what: str) -> None:
    found = config_values(name).get("model_type")
    if found not in model_types:
        raise ValueError(f"{name} is a model of type {found!r}: expected a {what}")


def read_upload(source: Any) -> np.ndarray:
    """A radiograph as a grey array at its full depth; of a string only a path of this machine is read, never a URL.

    Raises:
        ImageError: it cannot be used; neither the error nor its reason holds a path.
    """
    name = "image"
    if isinstance(source, str | Path):
        if not os.path.isfile(source):
            raise ImageError(name, "is no file of this machine: drop one on the page")
        try:
            with open(source, "rb") as file:
                source = file.read(MAX_UPLOAD + 1)
        except OSError as error:
            raise ImageError(name, f"cannot be read: {error.strerror}") from error
    if isinstance(source, bytes) and len(source) > MAX_UPLOAD:
        raise ImageError(name, f"is too large: more than {MAX_UPLOAD:,} bytes are not read")
    if isinstance(source, Tensor):
        source = (source.float() if source.is_floating_point() else source).numpy(force=True)
    if not isinstance(source, bytes | Image.Image | np.ndarray):
        raise ImageError(name, f"is a {type(source).__name__}: expected a file, a PIL image, an array or a tensor")
    return read_image(source, name=name)


def picture(grey: Tensor) -> np.ndarray:
    """Grey values 0..1 (height, width) as uint8 (height, width, 3); NaN becomes a blue that no radiograph has."""
    hidden = torch.tensor([0.15, 0.25, 0.45])
    return _bytes(torch.where(grey.isnan()[..., None], hidden, grey[..., None]))


def tinted(grey: Tensor, informative: Tensor) -> np.ndarray:
    """The image with everything dimmed and blue where `informative`, of its shape, is 0."""
    dimmed = 0.5 * grey[..., None] + torch.tensor([0.0, 0.1, 0.3])
    return _bytes(torch.where(informative[..., None] > 0, grey[..., None], dimmed))


def heated(grey: Tensor, weight: Tensor) -> np.ndarray:
    """The image below a heat map of `weight`, of its shape, at least 0: its largest value is yellow."""
    heat = torch.from_numpy(colormaps["inferno"]((weight / weight.max()).numpy())[..., :3]).float()
    return _bytes(0.5 * grey[..., None] + 0.5 * heat)


def enlarged(values: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """One value per patch, (patches,), as an image (height, width) of them."""
    return F.interpolate(values.view(1, 1, *grid), scale_factor=float(patch_size))[0, 0]


def _bytes(colours: Tensor) -> np.ndarray:
    return (colours.clamp(0, 1) * 255).round().byte().expand(*colours.shape[:2], 3).numpy()


def png(pixels: np.ndarray) -> bytes:
    """A picture, uint8 (height, width, 3), as the content of a PNG file."""
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
