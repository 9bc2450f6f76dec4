"""Frozen features, computed once per image and kept on disk: the encoder is never run again for another probe.

A batch is a dict of `pixel_values` (B, C, H, W) of one shape and `index` (B,) int64, the image's row in the data set.
Shapes differ between batches, and the order is the loader's (by bins, some images repeated at the end): the result is
in row order, each row once.

On several processes (`accelerate launch`) every process calls these functions, and all get the features of all. The
batches of a `DataLoader` that is the same on all of them are dealt, each to one process, as they are: in float32 the
features are those of one process bit for bit, with the same devices and numbers of threads. Of any other loader each
process computes the batches that it was given.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from hf_radmae import __version__
from hf_radmae.batching.ranks import from_main, interleaved, is_main, own_batches
from hf_radmae.images.storage import whole_file
from hf_radmae.models.masking import patch_grid
from hf_radmae.models.modeling_radiograph_vit import pool_tokens, pooling_parts

PARTS = ("cls", "mean", "max", "std", "grid")
"""Poolings that may be joined by "+", such as "mean+max+std"."""
STORED = 4096  # images of a piece in which stored features are handed to the other processes
# What the weights' shapes do not tell of a vision transformer's configuration.
FORWARD_OPTIONS = ("patch_size", "image_size", "num_attention_heads", "hidden_act", "layer_norm_eps")


@dataclass(frozen=True)
class Features:
    """Features of one data set.

    Attributes:
        rows: int64 (images,), ascending: the data set's rows that were seen. Labels belong to them by `labels[rows]`.
        pooled: float32 (images, width) for each pooling.
    """

    rows: np.ndarray
    pooled: dict[str, np.ndarray]

    def __getitem__(self, pooling: str) -> np.ndarray:
        return self.pooled[pooling]


def extract_features(
    model: nn.Module,
    loader: Iterable[Mapping[str, torch.Tensor]],
    device: torch.device | str = "cpu",
    *,
    poolings: Sequence[str] = PARTS,
    cache_dir: str | Path | None = None,
    data_fingerprint: str | None = None,
) -> Features:
    """Frozen features of every image of a loader, computed on all processes.

    Args:
        model: an encoder with `encode(pixel_values) -> (B, 1 + N, D)`, CLS first and patches in order, or a `ViTModel`.
        loader: batches as in this module's first lines.
        device: where the model runs; it is moved there.
        poolings: see `pool_tokens`.
        cache_dir: folder of the features on disk, which the first process alone reads and writes. None computes them
            always. Features of another version of the package are not read.
        data_fingerprint: what tells this loader's images, their order of rows and their processing from any other.

    Raises:
        ValueError: an unknown pooling, a cache without a data fingerprint, a batch without `index`, an empty loader.
    """
    if not poolings:
        raise ValueError("say with poolings which features to compute")
    for pooling in poolings:
        pooling_parts(pooling)
    if cache_dir is not None and not data_fingerprint:
        raise ValueError("cache_dir needs data_fingerprint: without it features of other images would be taken")
    files = {}
    if cache_dir is not None:
        weights = model_fingerprint(model)
        for pooling in poolings:
            key = hashlib.sha256(f"{__version__}|{weights}|{data_fingerprint}|{pooling}".encode()).hexdigest()[:32]
            files[pooling] = Path(cache_dir) / f"{key}-{pooling}.safetensors"
        if from_main(lambda: all(file.is_file() for file in files.values())):
            return _collected(_stored(files) if is_main() else ())
    features = _run(model, loader, torch.device(device), poolings)
    from_main(lambda: _store(features, files))
    return features


def _store(features: Features, files: Mapping[str, Path]) -> None:
    for pooling, file in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as partial:
            save_file({"rows": features.rows, "features": features[pooling]}, partial)


def _stored(files: Mapping[str, Path]) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    stored = {pooling: load_file(file) for pooling, file in files.items()}
    rows = next(iter(stored.values()))["rows"]
    for start in range(0, len(rows), STORED):
        part = slice(start, start + STORED)
        yield rows[part], {pooling: found["features"][part] for pooling, found in stored.items()}


def model_fingerprint(model: nn.Module) -> str:
    """SHA-256 of what a model computes with: the same before it is saved and after it is loaded from any folder."""
    options = {name: getattr(model.config, name, None) for name in FORWARD_OPTIONS}
    digest = hashlib.sha256(f"{type(model).__name__}{options}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def _run(model: nn.Module, loader: Iterable, device: torch.device, poolings: Sequence[str]) -> Features:
    patch_size: Any = model.config.patch_size  # type: ignore[union-attr]  # transformers' models have a config
    training = model.training
    model.to(device).eval()

    def pooled(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        pixels = batch["pixel_values"].to(device)
        tokens, shape = _encode(model, pixels), patch_grid(pixels, patch_size)
        return {pooling: pool_tokens(tokens, pooling, shape) for pooling in poolings}

    try:
        return collect_features(loader, pooled)
    finally:
        model.train(training)


def collect_features(loader: Iterable[Mapping[str, Any]], compute: Callable[[Any], dict[str, Any]]) -> Features:
    """Features of every image of a loader in the order of its rows, each once.

    Args:
        loader: batches as in this module's first lines.
        compute: of a batch, for each pooling an array or tensor (B, width).

    Raises:
        ValueError: a batch without `index`, an empty loader.
    """

    def computed() -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        for batch in own_batches(loader):
            if "index" not in batch:
                raise ValueError(f"a batch has no 'index' (its image's rows in the data set), only {sorted(batch)}")
            found = {p: values.cpu() if torch.is_tensor(values) else values for p, values in compute(batch).items()}
            yield batch["index"].cpu().numpy(), {p: np.asarray(values, np.float32) for p, values in found.items()}

    return _collected(computed())


def _collected(parts: Iterable[tuple[np.ndarray, dict[str, np.ndarray]]]) -> Features:
    """The rows and the features of all processes in the order of the rows, each once."""
    rows: list[np.ndarray] = []
    pooled: dict[str, list[np.ndarray]] = {}
    for part, found in interleaved(parts):
        rows.append(part)
        for pooling, values in found.items():
            pooled.setdefault(pooling, []).append(values)
    if not rows:
        raise ValueError("the loader gave no batch: there are no images to compute features of")
    unique, first = np.unique(np.concatenate(rows), return_index=True)
    return Features(unique, {p: np.concatenate(pooled.pop(p))[first] for p in [*pooled]})


def _encode(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """All tokens of a batch, unmasked and in order; (B, 1 + N, D)."""
    if hasattr(model, "encode"):
        return model.encode(pixels)  # type: ignore[operator]  # not a method of every model
    output = model(pixel_values=pixels, interpolate_pos_encoding=True)
    if getattr(output, "ids_restore", None) is not None or not hasattr(output, "last_hidden_state"):
        raise ValueError(
            f"{type(model).__name__} masks and shuffles its patches, or gives no tokens: load the checkpoint by "
            "transformers.ViTModel.from_pretrained(..., add_pooling_layer=False)"
        )
    return output.last_hidden_state
