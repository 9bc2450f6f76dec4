"""Classifiers and encoders as ONNX files for images of any number and size, checked against torch."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, ViTModel

MOST = 1024  # images of a batch, and rows and columns of patches
GRIDS = ((8, 8), (4, 11), (13, 5), (1, 3), (16, 14))
"""Rows and columns of patches that `largest_difference` tries by default."""


class _Outputs(nn.Module):
    """A model that takes tensors alone, of any size, and gives one."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = copy.deepcopy(model).eval()
        embeddings = getattr(self.model, "vit", self.model).embeddings
        embeddings.interpolate_pos_encoding = MethodType(_positions, embeddings)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return _output(self.model, pixel_values)


def _output(model: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    output = model(pixel_values, interpolate_pos_encoding=True)
    return output.last_hidden_state if isinstance(model, ViTModel) else output.logits


def _positions(embeddings: Any, tokens: Tensor, height: int, width: int) -> Tensor:
    """In place of ViT's own method, which branches on the size and so cannot be exported for all sizes at once."""
    table, grid = embeddings.position_embeddings, (height // embeddings.patch_size, width // embeddings.patch_size)
    side = int((table.shape[1] - 1) ** 0.5)
    square = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)  # exact on the base grid too
    return torch.cat([table[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


def export_onnx(model: PreTrainedModel, path: str | Path) -> Path:
    """Write a model as an ONNX file.

    Its input is `pixel_values`, float32 (batch, channels, height, width) in 0..1, all but the channels free, the sides
    multiples of the patch; its output `logits` (batch, classes), or `last_hidden_state` (batch, 1 + patches, width).

    Args:
        model: of `export_classifier` or `export_encoder`, in float32.
        path: of the file.

    Raises:
        ValueError: the model is no ViT.
        ModuleNotFoundError: onnx and onnxscript are not installed.
    """
    if not hasattr(model.config, "patch_size"):
        raise ValueError(f"{type(model).__name__} is no ViT: only ViTs are exported to ONNX")
    patch, channels = model.config.patch_size, model.config.num_channels
    batch, rows, columns = (torch.export.Dim(name, min=1, max=MOST) for name in ("batch", "rows", "columns"))
    program = torch.onnx.export(
        _Outputs(model).eval(),
        (torch.rand(2, channels, 5 * patch, 3 * patch),),
        dynamo=True,
        dynamic_shapes={"pixel_values": {0: batch, 2: patch * rows, 3: patch * columns}},
        input_names=["pixel_values"],
        output_names=["last_hidden_state" if isinstance(model, ViTModel) else "logits"],
        verbose=False,
    )
    Path(path).write_bytes(_without_traces(program.model_proto).SerializeToString())  # type: ignore[union-attr]
    return Path(path)


def _without_traces(proto: Any) -> Any:
    """An ONNX model without the exporter's notes, which hold the stack and so the paths of this machine."""
    for holder in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.initializer):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
    return proto


@torch.no_grad()
def largest_difference(
    model: PreTrainedModel, path: str | Path, grids: Iterable[tuple[int, int]] = GRIDS, seed: int = 0
) -> float:
    """The largest absolute difference between an ONNX file's output and the model's, over images of several grids.

    Args:
        model, path: as for `export_onnx`.
        grids: rows and columns of patches of the images.
        seed: of the images, grey noise, one to three in a batch.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
    """
    from onnxruntime import InferenceSession  # an extra

    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(seed)
    patch, differences = model.config.patch_size, [0.0]
    for number, (rows, columns) in enumerate(grids):
        images = 1 + number % 3
        grey = torch.rand(images, 1, rows * patch, columns * patch, generator=generator)
        pixels = grey.expand(-1, model.config.num_channels, -1, -1).contiguous()
        (output,) = session.run(None, {"pixel_values": pixels.numpy()})
        expected = _output(model, pixels)
        differences.append(float(np.abs(output - expected.numpy()).max()))
    return max(differences)
