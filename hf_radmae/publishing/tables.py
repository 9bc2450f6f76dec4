"""Which Parquet shards may go: columns of an allow-list, hashes for ids, values and images that tell nothing more."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_radmae.publishing.private import Private, image_finding
from hf_radmae.shards.anonymous import GROUPS, IDENTIFYING
from hf_radmae.shards.writer import SIZES

HASHES = {"image_id", *GROUPS.values()}
"""Columns that hold keyed hashes, see `pseudonyms`."""


def allowed_columns(manifest: Mapping[str, Any]) -> list[str]:
    """The columns that a prepared data set may have: the image, hashes, sizes, and the labels of its manifest.

    Raises:
        ValueError: a label of the manifest would identify someone.
    """
    labels = manifest["columns"]["labels"]
    if wrong := sorted(set(labels) & IDENTIFYING):
        raise ValueError(f"the manifest calls {', '.join(wrong)} labels: such columns identify people; prepare anew")
    return ["image", *sorted(HASHES), *SIZES, *labels]


def shard_finding(path: Path, columns: Collection[str], private: Private) -> str | None:
    """Why a shard must not go, or None.

    Names of columns, types and metadata are looked at, and every hash, text and image.

    Args:
        path: a Parquet file.
        columns: what it may have, see `allowed_columns`.
        private: what must not be in a text.
    """
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        return f"cannot be read as Parquet: {error}"
    schema = file.schema_arrow
    if unknown := [name for name in schema.names if name not in columns]:
        return f"has the column {', '.join(unknown)}; the manifest allows {', '.join(columns)}"
    for key, value in {**(file.metadata.metadata or {}), **(schema.metadata or {})}.items():
        if key not in (b"ARROW:schema", b"huggingface", b"hf_radmae"):
            return f"has metadata {key.decode(errors='replace')!r}, which prepare does not write"
        if key != b"ARROW:schema" and (finding := private.find(_readable(value), dates=True)):
            return f"metadata {key.decode()}: {finding}"
    for field in schema:
        if finding := _field_finding(file, field, private):
            return f"column {field.name}: {finding}"
    return None


def _field_finding(file: pq.ParquetFile, field: pa.Field, private: Private) -> str | None:
    if field.name == "image":
        if not pa.types.is_struct(field.type) or {part.name for part in field.type} != {"bytes", "path"}:
            return f"is {field.type}: expected the bytes of an image and an empty path"
        for batch in file.iter_batches(64, columns=["image"]):
            if pc.struct_field(batch["image"], "path").null_count < len(batch):
                return "holds paths of files"
            for content in pc.struct_field(batch["image"], "bytes"):
                if content.is_valid and (finding := image_finding(content.as_py())):
                    return finding
        return None
    if field.name in HASHES:
        if not pa.types.is_string(field.type):
            return f"is {field.type}: expected hashes"
        for batch in file.iter_batches(columns=[field.name]):
            good = pc.match_substring_regex(batch[field.name], "^[0-9a-f]{32}$")
            if not pc.all(good, skip_nulls=True).as_py():
                return "holds something else than hashes of 32 hexadecimal digits: raw ids do not go"
    elif pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
        values = {text for batch in file.iter_batches(columns=[field.name]) for text in pc.unique(batch[0]).to_pylist()}
        for text in values - {None}:
            if len(text) > 64:
                return "holds texts of more than 64 characters: reports and remarks do not go"
            if finding := private.find(text, dates=True):
                return finding
    elif not _is_plain(field.type):
        return f"is {field.type}: labels are classes, numbers, truth values or short texts"
    return None


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return _is_plain(kind.value_type)
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _readable(value: bytes) -> str:
    """Metadata as text, the escapes of JSON resolved, one value a line."""
    text = value.decode(errors="replace")
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, indent=0)
    except ValueError:
        return text
