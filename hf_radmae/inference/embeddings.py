"""Embeddings of many radiographs, written to Parquet part by part, so that a run that was ended goes on.

What is written beside the vectors identifies nobody: of a folder of files keyed hashes of their paths, unless names are
asked for; of prepared shards their own columns. A part is there as a whole or not at all, and its footer says what it
was made with and which images were set aside.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import ViTModel

from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.images.dicom import DicomError
from hf_radmae.images.image import ImageError, ImageSource
from hf_radmae.models.masking import patch_grid
from hf_radmae.models.modeling_radiograph_vit import pool_tokens
from hf_radmae.probing.features import model_fingerprint
from hf_radmae.shards.writer import FOOTER
from hf_radmae.sources.pseudonyms import pseudonyms

EMBEDDING_FOOTER = b"hf_radmae_embedding"


@dataclass(frozen=True)
class Part:
    """Images that are written together.

    Attributes:
        name: of the Parquet file.
        schema: of the columns that are kept, `image_id` among them.
        images: how many there are.
        identity: what tells them from any others.
        rows: yields the kept columns of each image, and its path or content.
    """

    name: str
    schema: pa.Schema
    images: int
    identity: str
    rows: Callable[[], Iterator[tuple[dict[str, Any], str | bytes]]]


def folder_parts(
    folder: str | Path, key: bytes | None, *, pattern: str = "**/*", images_per_part: int = 1000
) -> list[Part]:
    """The files of a folder, in the order of their paths; hidden ones are left out.

    Args:
        folder: of images or DICOM files, in folders or not.
        key: of the hashes in place of paths, `prepare` with the same key gives the same; None keeps the paths, relative
            to the folder.
        pattern: which files, as `Path.glob` has it.
        images_per_part: files of a part, lost at most when the run is killed.

    Raises:
        FileNotFoundError: there is no such folder, or no file in it that fits.
    """
    root = Path(folder)
    files = sorted(path.relative_to(root) for path in root.glob(pattern) if path.is_file())
    files = [file for file in files if not any(name.startswith(".") for name in file.parts)]
    if not files:
        raise FileNotFoundError(f"{root} is no folder with files that fit {pattern!r}")
    names = [file.as_posix() for file in files]
    ids = pseudonyms(pa.chunked_array([names]), key, b"image_id").to_pylist() if key else names
    schema = pa.schema({"image_id": pa.string()})
    count = -(-len(files) // images_per_part)
    parts = []
    for number in range(count):
        chosen = slice(number * images_per_part, (number + 1) * images_per_part)
        pairs = [({"image_id": name}, str(root / file)) for name, file in zip(ids[chosen], files[chosen], strict=True)]
        sizes = [os.path.getsize(path) for _, path in pairs]
        identity = _digest(*(row["image_id"] for row, _ in pairs), *map(str, sizes))
        name = f"train-{number:05d}-of-{count:05d}.parquet"  # one split, as `datasets` tells them by name
        parts.append(Part(name, schema, len(pairs), identity, partial(iter, pairs)))
    return parts


def shard_parts(folder: str | Path) -> list[Part]:
    """The shards that `scripts/prepare.py` wrote to a folder, all columns but the image kept.

    Raises:
        FileNotFoundError: there is no Parquet file.
        ValueError: a file is no prepared shard, so that nobody knows whether its columns identify someone.
    """
    paths = sorted(path for path in Path(folder).glob("**/*.parquet") if not path.name.startswith("."))
    if not paths:
        raise FileNotFoundError(f"{folder} has no Parquet files")
    parts = []
    for path in paths:
        metadata = pq.read_metadata(path)
        if FOOTER not in (metadata.metadata or {}):
            raise ValueError(f"{path} is no shard of scripts/prepare.py: prepare the data set first")
        schema = pq.read_schema(path).remove_metadata()
        schema = schema.remove(schema.get_field_index("image"))
        identity = _digest(path.name, str(metadata.num_rows), str(path.stat().st_size))
        parts.append(Part(path.name, schema, metadata.num_rows, identity, partial(_shard_rows, path)))
    return parts


def _shard_rows(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=64):
            for row in batch.to_pylist():
                yield row, row.pop("image")["bytes"]


@dataclass(frozen=True)
class Embedder:
    """Writes embeddings.

    Attributes:
        encoder: on the device where it runs, in evaluation mode.
        processor: of the images.
        pooling: see `pool_tokens`.
        batch_size: images of one shape that the encoder sees at once.
        threads: images that are read at once.
    """

    encoder: ViTModel
    processor: RadiographImageProcessor
    pooling: str = "mean"
    batch_size: int = 32
    threads: int = 4

    def write(self, parts: list[Part], folder: str | Path, tick: Callable[[int], object]) -> list[dict[str, str]]:
        """Write the parts that are missing.

        Args:
            parts: of `folder_parts` or `shard_parts`.
            folder: of the files.
            tick: called with a number of images that are through.

        Returns:
            The `image_id` and the `reason` of every image of all parts that was set aside.

        Raises:
            ValueError: the folder holds a part of another model, other options or other images.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        made_with = _digest(*map(str, (model_fingerprint(self.encoder), self.processor, self.pooling)))
        skipped: list[dict[str, str]] = []
        for part in parts:
            path, fingerprint = Path(folder, part.name), _digest(made_with, part.identity)
            if path.exists():
                footer = json.loads((pq.read_metadata(path).metadata or {}).get(EMBEDDING_FOOTER, b"{}"))
                if footer.get("fingerprint") != fingerprint:
                    raise ValueError(f"{path} was made of other images or by another model: choose another folder")
                tick(part.images)
            else:
                footer = {"fingerprint": fingerprint, "skipped": self._write_part(part, path, fingerprint, tick)}
            skipped += footer["skipped"]
        return skipped

    def _write_part(self, part: Part, path: Path, fingerprint: str, tick: Callable[[int], object]) -> list:
        skipped: list[dict[str, str]] = []
        found = list(self.vectors(part.rows(), skipped, tick))
        field = pa.field("embedding", pa.list_(pa.float32()))
        rows = [{**row, "embedding": vector} for row, vector in found]
        footer = json.dumps({"fingerprint": fingerprint, "pooling": self.pooling, "skipped": skipped})
        schema = part.schema.append(field).with_metadata({EMBEDDING_FOOTER: footer.encode()})
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        pq.write_table(pa.Table.from_pylist(rows, schema), temporary, compression="zstd")
        os.replace(temporary, path)
        return skipped

    def vectors(
        self,
        rows: Iterable[tuple[Mapping[str, Any], ImageSource]],
        skipped: list[dict[str, str]],
        tick: Callable[[int], object] = lambda _: None,
    ) -> list[tuple[Mapping[str, Any], np.ndarray]]:
        """The columns and the float32 vector of each image, in order.

        Args:
            rows: columns, `image_id` among them, and what `read_image` takes.
            skipped: where `image_id` and `reason` of the images go that cannot be used.
            tick: called with the number 1 after each image.
        """
        groups: dict[torch.Size, list[tuple[int, Tensor]]] = defaultdict(list)
        columns: list[Mapping[str, Any]] = []
        found: dict[int, np.ndarray] = {}
        for place, (row, future) in enumerate(self._read_ahead(rows)):
            columns.append(row)
            tick(1)
            try:
                pixels = future.result()
            except (ImageError, FileNotFoundError) as error:
                skipped.append({"image_id": row["image_id"], "reason": _reason(error)})
                continue
            group = groups[pixels.shape]
            group.append((place, pixels))
            if len(group) == self.batch_size:
                found.update(self._encode(groups.pop(pixels.shape)))
        for group in groups.values():
            found.update(self._encode(group))
        return [(columns[place], found[place]) for place in sorted(found)]

    def _read_ahead(
        self, rows: Iterable[tuple[Mapping[str, Any], ImageSource]]
    ) -> Iterator[tuple[Mapping[str, Any], Future[Tensor]]]:
        """The rows in order, while threads read the images of those that follow."""
        waiting: deque[tuple[Mapping[str, Any], Future[Tensor]]] = deque()
        with ThreadPoolExecutor(self.threads) as pool:
            for row, image in rows:
                waiting.append((row, pool.submit(self._pixels, image)))
                if len(waiting) == 2 * self.threads:
                    yield waiting.popleft()
            yield from waiting

    def _pixels(self, image: Any) -> Tensor:
        return self.processor(image)["pixel_values"][0]

    @torch.inference_mode()
    def _encode(self, group: list[tuple[int, Tensor]]) -> Iterator[tuple[int, np.ndarray]]:
        """The place and the vector of each image (place, pixels) of one shape."""
        pixels = torch.stack([image for _, image in group])
        patch_size: int = self.encoder.config.patch_size  # type: ignore[assignment]
        inputs = pixels.to(self.encoder.device, self.encoder.dtype)
        tokens = self.encoder(inputs, interpolate_pos_encoding=True).last_hidden_state
        pooled = pool_tokens(tokens, self.pooling, patch_grid(pixels, patch_size))
        return zip((place for place, _ in group), pooled.cpu().numpy(), strict=True)


def _reason(error: Exception) -> str:
    """Why an image was set aside, without the path that a reader names."""
    if isinstance(error, FileNotFoundError):
        return "is missing: no such file"
    cause = error.__cause__
    return cause.reason if isinstance(cause, DicomError) else error.reason  # type: ignore[attr-defined]


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
