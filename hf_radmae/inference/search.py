"""The images whose embeddings are closest to a query: exact, by one matrix product over all rows.

All embeddings are in memory. scripts/benchmarks/README.md says how long a search among a million takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from hf_radmae.images.image import ImageSource, read_image
from hf_radmae.images.remote import Place, locate, parquet_file
from hf_radmae.images.storage import steady
from hf_radmae.inference.embeddings import Embedder, folder_parts, parquet_files, part_footer
from hf_radmae.sources.parquet import FOOTER, holds_parquet, read_footer

TILE, CAPTION = 192, 30


@dataclass(frozen=True)
class EmbeddingIndex:
    """Embeddings in memory.

    Attributes:
        ids: `image_id` of each row.
        vectors: float32 (images, width), less `mean` and of length 1.
        mean: float32 (width,), of the embeddings: what all images have in common says nothing about which are alike.
        column: of the data set that the vectors are from.
        options: what the vectors were made with, see `Embedder.options`.
    """

    ids: pa.Array
    vectors: np.ndarray
    mean: np.ndarray
    column: str
    options: Mapping[str, Any]

    @classmethod
    def load(cls, folder: str | Place, column: str | None = None) -> EmbeddingIndex:
        """Read a data set of scripts/embed.py.

        Args:
            folder: the `output_dir` of the embeddings, a path or a URL.
            column: of the vectors; the first one by default.

        Raises:
            FileNotFoundError: there is no embedding in the folder.
            ValueError: there is no such column, or the parts are of different runs.
        """
        paths = parquet_files(folder)
        footers = [part_footer(path) for path in paths]
        if not paths or not all(footers):
            raise FileNotFoundError(f"{folder} holds no embeddings, or other Parquet files: write them with embed")
        options = {name: footers[0][name] for name in ("columns", "dtype", "encoder")}
        if any(footer[name] != options[name] for footer in footers for name in options):
            raise ValueError(f"{folder} holds embeddings of different models or options: give the folder of one run")
        column = column or next(iter(options["columns"]))
        if column not in options["columns"]:
            raise ValueError(f"{folder} has no vectors {column}: choose from {', '.join(options['columns'])}")
        tables = (_columns(path, ["image_id", column]) for path in paths)
        rows = sum(read_footer(path).num_rows for path in paths)
        ids, vectors, start = [], np.empty((rows, 0), np.float32), 0
        for table in tables:
            if not len(table):
                continue
            found = pc.list_flatten(table[column]).to_numpy().reshape(len(table), -1)
            if not start:
                vectors = np.empty((rows, found.shape[1]), np.float32)
            vectors[start : start + len(table)] = found
            ids += table["image_id"].chunks
            start += len(table)
        if not rows:
            raise FileNotFoundError(f"no image of {folder} was embedded: see its skipped.csv")
        mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        vectors -= mean
        vectors /= _lengths(vectors)
        return cls(pa.chunked_array(ids).combine_chunks(), vectors, mean, column, options)

    def row(self, image_id: str) -> int:
        """The row of an image.

        Raises:
            ValueError: there is no such image, or there are several.
        """
        found = np.flatnonzero(pc.equal(self.ids, image_id).to_numpy(zero_copy_only=False))
        if len(found) != 1:
            raise ValueError(f"{image_id} is {'the id of several images' if len(found) else 'no file and no image_id'}")
        return int(found[0])

    def search(
        self, query: np.ndarray, neighbours: int = 10, leave_out: Sequence[int] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows that are closest to a query, the closest first.

        Args:
            query: float (width,), an embedding as it was written.
            neighbours: how many rows; fewer where there are fewer.
            leave_out: rows that are not returned, such as the query's own.

        Returns:
            int64 rows, and their float32 cosine similarities less the mean, from -1 to 1.

        Raises:
            ValueError: the query is of another width.
        """
        if np.shape(query) != self.mean.shape:
            raise ValueError(f"a query of shape {np.shape(query)}: expected {self.mean.shape}")
        centred = np.asarray(query, np.float32)[None] - self.mean
        return self._closest((centred / _lengths(centred))[0], neighbours, leave_out)

    def search_row(self, row: int, neighbours: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """The rows that are closest to one of the rows, without that row; see `search`."""
        return self._closest(self.vectors[row], neighbours, [row])

    def _closest(self, unit: np.ndarray, neighbours: int, leave_out: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        similarities = self.vectors @ unit
        similarities[list(leave_out)] = -np.inf
        count = min(neighbours, len(similarities) - len(leave_out))
        if count <= 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        rows = np.argpartition(-similarities, count - 1)[:count]
        rows = rows[np.lexsort((rows, -similarities[rows]))]
        return rows, similarities[rows]


def embed_query(index: EmbeddingIndex, embedder: Embedder, image: ImageSource) -> np.ndarray:
    """The vector of an image that is not in the index.

    Raises:
        ValueError: the embedder's model or options are not those of the index.
        ImageError: the image cannot be read.
    """
    wanted = index.options["columns"][index.column]
    (made,) = embedder.options["columns"].values()
    if made != wanted or embedder.options["encoder"] != index.options["encoder"]:
        raise ValueError("the embeddings were made by another model: give the same with --model")
    return embedder.vector(image)


def pictures(
    ids: Sequence[str], data_dir: str | Place, key: bytes | None = None, pattern: str = "**/*"
) -> dict[str, ImageSource]:
    """What `read_image` takes for each id, of the folder or the shards that were embedded; missing ids are left out.

    Args:
        ids: of images.
        data_dir: of the images or the prepared shards.
        key: of the hashes in a folder of files; None where the ids are relative paths.
        pattern: of the files.

    Raises:
        FileNotFoundError: there is no such folder, or no file in it that fits.
    """
    wanted, found = set(ids), dict[str, ImageSource]()
    shards = parquet_files(data_dir) if holds_parquet(data_dir) else []
    for path in shards:
        found |= steady(partial(_pictures_of, path, wanted), str(path))
    if shards:
        return found
    files = {name: locate(data_dir) / name for name in ids}
    found |= {name: str(file) for name, file in files.items() if file.is_file()}
    if wanted - found.keys():  # hashes, members of a zip, names that are not UTF-8: the folder is listed as for embed
        rows = (row for part in folder_parts(data_dir, key, pattern=pattern) for row in part.rows())
        found |= {columns["image_id"]: path for columns, path in rows if columns["image_id"] in wanted}
    return found


def _columns(path: Place, names: list[str]) -> pa.Table:
    def read() -> pa.Table:
        with parquet_file(path) as file:
            return pq.read_table(file, columns=names)

    return steady(read, str(path))


def _pictures_of(path: Place, wanted: set[str]) -> dict[str, bytes]:
    """The images of a shard whose ids are wanted."""
    found: dict[str, bytes] = {}
    with parquet_file(path) as opened, pq.ParquetFile(opened) as file:
        if FOOTER not in (file.metadata.metadata or {}):
            return found
        for group in range(file.num_row_groups):  # the images of a row group are read only where one is wanted
            names = file.read_row_group(group, columns=["image_id"])["image_id"].to_pylist()
            if wanted.intersection(names):
                images = file.read_row_group(group, columns=["image"])["image"].to_pylist()
                found |= {n: i["bytes"] for n, i in zip(names, images, strict=True) if n in wanted}
    return found


def contact_sheet(images: Sequence[tuple[str, ImageSource | None]], columns: int = 6) -> Image.Image:
    """Pictures side by side, row by row, each above its caption; an empty tile where there is no picture.

    Args:
        images: caption and what `read_image` takes.
        columns: pictures in a row.
    """
    across = max(1, min(columns, len(images)))
    down = -(-len(images) // across) or 1
    sheet = Image.new("L", (across * TILE, down * (TILE + CAPTION)))
    draw = ImageDraw.Draw(sheet)
    for place, (caption, source) in enumerate(images):
        left, top = place % across * TILE, place // across * (TILE + CAPTION)
        if source is not None:
            picture = _picture(source)
            sheet.paste(picture, (left + (TILE - picture.width) // 2, top + (TILE - picture.height) // 2))
        draw.text((left + 4, top + TILE + 2), caption, fill=255)
    return sheet


def _picture(source: ImageSource) -> Image.Image:
    pixels = read_image(source).astype(np.float32)
    low, high = float(pixels.min()), float(pixels.max())
    picture = Image.fromarray(((pixels - low) * (255 / ((high - low) or 1))).astype(np.uint8))
    scale = (TILE - 4) / max(picture.size)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
