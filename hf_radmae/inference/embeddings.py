"""Embeddings of many radiographs, written to Parquet part by part on any number of processes; a killed run resumes.

A part is a fixed list of images, encoded in batches of its own by one process. So a vector depends on the part and not
on the number of processes, and a part is there as a whole or not at all. Its footer says what it was made with and
which images were skipped. What is written beside the vectors identifies nobody: of a folder of files keyed hashes of
their paths, unless names are asked for; of prepared shards their own columns.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fsspec.utils import glob_translate
from torch import Tensor
from transformers import ViTModel

from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.batching.ranks import dealt, from_main, gathered, is_main
from hf_radmae.batching.read_ahead import shaped_batches
from hf_radmae.images.image import ImageSource
from hf_radmae.images.remote import Place, locate, parquet_file
from hf_radmae.images.storage import steady, whole_file
from hf_radmae.models.masking import patch_grid
from hf_radmae.models.modeling_radiograph_vit import pool_tokens
from hf_radmae.probing.features import model_fingerprint
from hf_radmae.shards.writer import FOOTER
from hf_radmae.sources.parquet import read_footer
from hf_radmae.sources.pseudonyms import pseudonyms
from hf_radmae.sources.scan import METADATA, Found, Scan, is_hidden, walk

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
    folder: str | Place, key: bytes | None, *, pattern: str = "**/*", images_per_part: int = 1000
) -> list[Part]:
    """The files of a folder or in its zips, in the order of their names, but hidden ones and tables of metadata.

    Linked folders are followed, each real folder once. What cannot be listed or followed is in a part too, so that it
    is skipped by name.

    Args:
        folder: of images or DICOM files, in folders or not; a path or a URL.
        key: of the hashes in place of paths, `prepare` with the same key gives the same; None keeps the paths, relative
            to the folder, bytes that are not UTF-8 as in `\\xe9`.
        pattern: which files, as `Path.glob` has it.
        images_per_part: files of a part, lost at most when the run is killed.

    Raises:
        FileNotFoundError: there is no such folder, or no file in it that fits.
        StorageError: the storage does not answer.
    """
    found = Scan(locate(folder))
    files = list(walk(str(found.root), found)) if found.root.is_dir() else []
    files += [Found(str(found.root / name), name, 0) for name, _ in found.listed]
    fits = re.compile(glob_translate(pattern)).match
    images = (file for file in files if not is_hidden(file.name) and _place(file)[-1].lower() not in METADATA)
    files = sorted((file for file in images if fits(file.name)), key=_place)
    if not files:
        raise FileNotFoundError(f"{folder} is no folder with files that fit {pattern!r}")
    names = [os.fsencode(file.name).decode(errors="backslashreplace") for file in files]
    ids = pseudonyms(pa.chunked_array([names]), key, b"image_id").to_pylist() if key else names
    schema = pa.schema({"image_id": pa.string()})
    count = -(-len(files) // images_per_part)
    parts = []
    for number in range(count):
        chosen = slice(number * images_per_part, (number + 1) * images_per_part)
        pairs = [({"image_id": name}, file.path) for name, file in zip(ids[chosen], files[chosen], strict=True)]
        identity = _digest(*ids[chosen], *(str(file.bytes) for file in files[chosen]))
        name = f"train-{number:05d}-of-{count:05d}.parquet"  # one split, as `datasets` tells them by name
        parts.append(Part(name, schema, len(pairs), identity, partial(iter, pairs)))
    return parts


def _place(file: Found) -> list[str]:
    return file.name.split("/")


def shard_parts(folder: str | Place) -> list[Part]:
    """The shards that `scripts/prepare.py` wrote to a folder, all columns but the image kept.

    Raises:
        FileNotFoundError: there is no Parquet file.
        ValueError: a file is no prepared shard, so that nobody knows whether its columns identify someone.
    """
    paths = parquet_files(folder)
    if not paths:
        raise FileNotFoundError(f"{folder} has no Parquet files")
    parts: list[Part] = []
    for path in paths:
        metadata = read_footer(path)
        if FOOTER not in (metadata.metadata or {}):
            raise ValueError(f"{path} is no shard of scripts/prepare.py: prepare the data set first")
        if path.name in {part.name for part in parts}:
            raise ValueError(f"{folder} holds two shards named {path.name}: embed one prepared data set at a time")
        schema = metadata.schema.to_arrow_schema().remove_metadata()
        schema = schema.remove(schema.get_field_index("image"))
        identity = _digest(path.name, str(metadata.num_rows), str(path.stat().st_size))
        parts.append(Part(path.name, schema, metadata.num_rows, identity, partial(_shard_rows, path)))
    return parts


def parquet_files(folder: str | Place) -> list[Place]:
    """The Parquet files below a folder, sorted, but hidden ones, which are unfinished."""
    files = (path for path in locate(folder).glob("**/*.parquet") if not path.name.startswith("."))
    return sorted(files, key=str)


def _shard_rows(path: Place) -> Iterator[tuple[dict[str, Any], bytes]]:
    for group in range(read_footer(path).num_row_groups):
        for row in steady(partial(_row_group, path, group), str(path)):
            yield row, row.pop("image")["bytes"]


def _row_group(path: Place, group: int) -> list[dict[str, Any]]:
    with parquet_file(path) as opened, pq.ParquetFile(opened) as file:
        return file.read_row_group(group).to_pylist()


@dataclass(frozen=True)
class Embedder:
    """Writes embeddings.

    Attributes:
        encoder: on the device where it runs, in evaluation mode.
        processor: of the images.
        pooling: one or several, see `pool_tokens`.
        layers: whose tokens are pooled, counted from 1, or from -1, the last, backwards. The encoder's final
            normalisation is applied to each, so that layer -1 is its `last_hidden_state`.
        batch_size: images of one shape that the encoder sees at once.
        threads: images that are read at once.
        autocast: type that matrix products are computed in; None keeps that of the encoder. Vectors are float32.
    """

    encoder: ViTModel
    processor: RadiographImageProcessor
    pooling: str | Sequence[str] = "mean"
    layers: Sequence[int] = (-1,)
    batch_size: int = 32
    threads: int = 4
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        depth = self.encoder.config.num_hidden_layers
        if wrong := [layer for layer in self.layers if not 1 <= abs(layer) <= depth]:
            raise ValueError(f"layer {wrong[0]}: expected 1 to {depth}, or -1 to -{depth}")
        if not self.layers or len(self.columns) < len(self._poolings) * len(self.layers):
            raise ValueError("name at least one layer and one pooling, and each once")

    @property
    def _poolings(self) -> list[str]:
        return [self.pooling] if isinstance(self.pooling, str) else list(self.pooling)

    @property
    def columns(self) -> dict[str, tuple[int, str]]:
        """Name of each column of vectors -> layer, counted from 1, and pooling.

        It is `embedding` where there is one, and `embedding_layer12_mean` where there are several.
        """
        depth: int = self.encoder.config.num_hidden_layers
        pairs = [(layer % (depth + 1), pooling) for layer in self.layers for pooling in self._poolings]
        if len(pairs) == 1:
            return {"embedding": pairs[0]}
        return {f"embedding_layer{layer}_{pooling}": (layer, pooling) for layer, pooling in pairs}

    @property
    def options(self) -> dict[str, Any]:
        """What the vectors were made with, as it stands in the footer of every part."""
        found = {name: {"layer": layer, "pooling": pooling} for name, (layer, pooling) in self.columns.items()}
        dtype = str(self.autocast or self.encoder.dtype).removeprefix("torch.")
        return {"columns": found, "dtype": dtype, "encoder": model_fingerprint(self.encoder)}

    def write(self, parts: Sequence[Part], folder: str | Place, tick: Callable[[int], object]) -> list[dict[str, str]]:
        """Write the parts that are missing. Every process of a run calls it; the parts are dealt to the processes.

        Args:
            parts: of `folder_parts` or `shard_parts`, the same on every process.
            folder: of the files, one that all processes see; a path or a URL.
            tick: called on the main process with numbers of images that are done. Those of the other processes count
                when their part is written.

        Returns:
            On every process the `image_id` and the `reason` of every image of all parts that was skipped.

        Raises:
            ValueError: the folder holds a part of another model, other options or other images.
        """
        folder, options = locate(folder), self.options
        made_with = _digest(*map(str, (options, self.processor)))

        # The first process alone lists the folder: others may see late what is in it.
        skipped = from_main(lambda: _written(parts, folder, made_with))
        missing = [part for part in parts if part.name not in skipped]
        waiting = {part.name: part.images for part in missing} if is_main() else {}
        tick = tick if is_main() else lambda _: None
        tick(sum(part.images for part in parts) - sum(part.images for part in missing))
        mine: dict[str, list[dict[str, str]]] = {}
        for part in dealt(missing):
            footer = {"fingerprint": _digest(made_with, part.identity), **options}
            mine[part.name] = self._write_part(part, folder, footer, tick)
            waiting.pop(part.name, None)
            if waiting:
                for name in waiting.keys() & _names(folder):
                    tick(waiting.pop(name))
        for found in gathered(mine):
            skipped |= found
        tick(sum(waiting.values()))
        if is_main():
            for leftover in [*folder.glob(".*.parquet.*")]:  # of a process that was killed
                leftover.unlink()
        return [entry for part in parts for entry in skipped[part.name]]

    def _write_part(self, part: Part, folder: Place, footer: Mapping[str, Any], tick: Callable) -> list[dict[str, str]]:
        """Writes a part, and gives what was skipped."""
        skipped: list[dict[str, str]] = []
        found = list(self.vectors(part.rows(), skipped, tick))
        schema = part.schema
        for name in self.columns:
            schema = schema.append(pa.field(name, pa.list_(pa.float32())))
        rows = [{**row, **vectors} for row, vectors in found]
        text = json.dumps({**footer, "skipped": skipped})
        schema = schema.with_metadata({EMBEDDING_FOOTER: text.encode()})
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / part.name) as unfinished:
            pq.write_table(pa.Table.from_pylist(rows, schema), unfinished, compression="zstd")
        return skipped

    def vectors(
        self,
        rows: Iterable[tuple[Mapping[str, Any], ImageSource]],
        skipped: list[dict[str, str]],
        tick: Callable[[int], object] = lambda _: None,
    ) -> list[tuple[Mapping[str, Any], dict[str, np.ndarray]]]:
        """The columns of each image in order, and its float32 vectors by the names in `columns`.

        Args:
            rows: columns, `image_id` among them, and what `read_image` takes.
            skipped: receives `image_id` and `reason` of the images that cannot be used.
            tick: called with the number of images that are done, after each batch and each image that is skipped.
        """
        columns: list[Mapping[str, Any]] = []
        found: dict[int, dict[str, np.ndarray]] = {}

        def images() -> Iterator[tuple[int, ImageSource]]:
            for place, (row, image) in enumerate(rows):
                columns.append(row)
                yield place, image

        def unusable(place: int, reason: str) -> None:
            skipped.append({"image_id": columns[place]["image_id"], "reason": reason})
            tick(1)

        options: dict[str, Any] = {"batch_size": self.batch_size, "threads": self.threads}
        for places, pixels in shaped_batches(images(), self.processor, unusable, **options):
            found.update(zip(places, self._encode(pixels), strict=True))
            tick(len(places))
        return [(columns[place], found[place]) for place in sorted(found)]

    def vector(self, image: ImageSource) -> np.ndarray:
        """The float32 vector of one image, for an embedder of one column.

        Raises:
            ImageError: the image cannot be read.
        """
        pixels = self.processor(image)["pixel_values"][0]  # type: ignore[arg-type]  # of any source
        (vectors,) = self._encode(pixels[None])
        (vector,) = vectors.values()
        return vector

    @torch.inference_mode()
    def _encode(self, pixels: Tensor) -> list[dict[str, np.ndarray]]:
        """The vectors of each image of pixels (batch, channels, height, width)."""
        patch_size: int = self.encoder.config.patch_size  # type: ignore[assignment]
        device = self.encoder.device
        inputs = pixels.to(device, self.encoder.dtype)
        with torch.autocast(device.type, self.autocast) if self.autocast else nullcontext():
            depth, layers = self.encoder.config.num_hidden_layers, {layer for layer, _ in self.columns.values()}
            inner = layers - {depth}  # all hidden states are kept in memory only where they are needed
            output = self.encoder(inputs, interpolate_pos_encoding=True, output_hidden_states=bool(inner))
            tokens = {layer: self.encoder.layernorm(output.hidden_states[layer]) for layer in inner}
            tokens[depth] = output.last_hidden_state
        shape = patch_grid(pixels, patch_size)
        found = {
            name: pool_tokens(tokens[layer], pooling, shape).cpu().numpy()
            for name, (layer, pooling) in self.columns.items()
        }
        return [{name: vectors[row] for name, vectors in found.items()} for row in range(len(pixels))]


def _names(folder: Place) -> set[str]:
    return {path.name for path in folder.glob("*.parquet")}


def _written(parts: Sequence[Part], folder: Place, made_with: str) -> dict[str, list[dict[str, str]]]:
    """What was skipped of each part that is written; those must be of this run."""
    folder.mkdir(parents=True, exist_ok=True)
    written = _names(folder)
    if others := sorted(written - {part.name for part in parts}):
        raise ValueError(
            f"{folder} holds {others[0]}, which is no part of this run: images were added or left out, or "
            "--images_per_part is another. Choose another folder"
        )
    found = {}
    for part in parts:
        path = folder / part.name
        if part.name not in written:
            continue
        footer = part_footer(path)
        if footer.get("fingerprint") != _digest(made_with, part.identity):
            raise ValueError(f"{path} was made of other images or by another model: choose another folder")
        found[part.name] = footer["skipped"]
    return found


def part_footer(path: Place) -> dict[str, Any]:
    """The options, the fingerprint and the skipped images of a part; nothing of another Parquet file."""
    return json.loads((read_footer(path).metadata or {}).get(EMBEDDING_FOOTER, b"{}"))


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
