"""Parquet shards written anew: columns of an allow-list, hashes for ids, pixels alone, and what `datasets` needs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_radmae.batching.content import MASK_LENGTH
from hf_radmae.publishing.pictures import pixels_alone
from hf_radmae.publishing.private import Private
from hf_radmae.shards.anonymous import GROUPS, IDENTIFYING
from hf_radmae.shards.writer import FOOTER, SIZES
from hf_radmae.sources.report_labels import HAND, REPORT

HASHES = {"image_id", *GROUPS.values()}
"""Columns that hold keyed hashes, see `pseudonyms`."""
MASK = "patient_mask"
"""Column of bits, one for each cell of a fixed grid."""
ANSWERS = {"burned_in_annotation", "patient_identity_removed"}
"""Columns that hold YES, NO or nothing, as DICOM headers do."""
_TYPES = {MASK: pa.binary(), **dict.fromkeys(ANSWERS, pa.string())}
Burnt = Callable[[bytes], Iterable[tuple[str, str]]]
"""From an encoded image to (kind, words) of texts in its pixels."""
_COLUMN = re.compile(r"[A-Za-zÄÖÜäöüß][\wÄÖÜäöüß .-]{0,63}")
_LARGEST_CLASS = 10_000
_WRITER = {"compression": "zstd"}


def label_columns(manifest: Mapping[str, Any], private: Private, allows: Callable[[bytes], bool]) -> list[str]:
    """The labels of a manifest, each under a name that identifies nobody.

    Raises:
        ValueError: the manifest has none, or a name tells something.
    """
    try:
        labels = [str(name) for name in manifest["columns"]["labels"]]
    except (KeyError, TypeError) as error:
        raise ValueError("the manifest does not say which columns are labels: prepare the data set again") from error
    for name in labels:
        if name in IDENTIFYING or name in HASHES or name in SIZES or not _COLUMN.fullmatch(name):
            raise ValueError(f"the manifest calls {name!r} a label: such columns identify people; prepare anew")
        if not allows(name.encode()) and (found := next(private.label_findings(name), None)):
            hashed = hashlib.sha256(name.encode()).hexdigest()[:16]
            what = f"the manifest calls {name!r} a label, which is {': '.join(found)}"
            raise ValueError(f"{what} (if it tells of nobody: --allow {hashed})")
    return labels


def rewrite_shard(
    source: Path,
    target: Path,
    manifest: Mapping[str, Any] | None,
    private: Private,
    burnt: Burnt | None,
    allows: Callable[[bytes], bool],
) -> str:
    """Write a shard anew: every hash, text, number and image is looked at, names of columns and classes too.

    Args:
        source: a Parquet file of `prepare`.
        target: where to.
        manifest: of the data set; says which columns are labels.
        private: what must not be in a text.
        burnt: see `Burnt`.
        allows: whether someone looked at a content and allowed it: the sorted texts of a column, one a line.

    Returns:
        What was allowed, in words.

    Raises:
        ValueError: why the shard must not go.
    """
    if manifest is None:
        raise ValueError("there is no manifest.json that says which columns it may have: prepare the data set again")
    labels = label_columns(manifest, private, allows)
    columns = ["image", *sorted(HASHES), *SIZES, *labels]
    try:
        file = pq.ParquetFile(source)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"cannot be read as Parquet: {type(error).__name__}") from error
    schema = file.schema_arrow
    if unknown := [name for name in schema.names if name not in columns]:
        raise ValueError(f"has the column {', '.join(unknown)}; the manifest allows {', '.join(columns)}")
    if len(set(schema.names)) != len(schema.names) or "image" not in schema.names:
        raise ValueError("has a column twice, or no images")
    metadata = {**(file.metadata.metadata or {}), **(schema.metadata or {})}
    if extra := sorted(
        key.decode(errors="replace") for key in metadata if key not in (b"ARROW:schema", b"huggingface", FOOTER)
    ):
        raise ValueError(f"has metadata {', '.join(map(repr, extra))}, which prepare does not write")
    for field in schema:
        _check_field(field, labels)
    features = _features(schema, private)
    clean = features.arrow_schema
    notes = [note for name in schema.names if (note := _check_column(file, name, labels, private, allows))]
    label_names = [name for name in labels if name in schema.names]
    with pq.ParquetWriter(target, clean, use_dictionary=label_names, **_WRITER) as writer:
        for group in range(file.num_row_groups):
            table = _clean_group(file.read_row_group(group), clean, burnt)
            writer.write_table(table, row_group_size=max(len(table), 1))
        writer.add_key_value_metadata({FOOTER: _footer(metadata.get(FOOTER), private)})
    return "; ".join(notes)


def says_nothing_burnt_in(path: Path) -> bool:
    """Whether the headers of all images of a shard said that nothing is burnt in."""
    column = "burned_in_annotation"
    if column not in pq.read_schema(path).names:
        return False
    return set(pc.unique(pq.read_table(path, columns=[column])[column]).to_pylist()) == {"NO"}


def _check_field(field: pa.Field, labels: list[str]) -> None:
    if field.metadata:
        raise ValueError(f"column {field.name} has metadata of its own, which prepare does not write")
    if field.name == "image":
        parts = {part.name: part for part in field.type} if pa.types.is_struct(field.type) else {}
        if set(parts) != {"bytes", "path"} or any(part.metadata for part in parts.values()):
            raise ValueError(f"column image is {field.type}: expected the bytes of an image and an empty path")
    elif field.name in HASHES:
        if not pa.types.is_string(field.type):
            raise ValueError(f"column {field.name} is {field.type}: expected hashes")
    elif field.name in _TYPES:
        if field.type != _TYPES[field.name]:
            raise ValueError(f"column {field.name} is {field.type}: expected {_TYPES[field.name]}")
    elif field.name in labels and (pa.types.is_string(field.type) or pa.types.is_large_string(field.type)):
        return
    elif not _is_plain(field.type):
        raise ValueError(
            f"column {field.name} is {field.type}: labels are classes, numbers, truth values or short texts"
        )


def _features(schema: pa.Schema, private: Private) -> datasets.Features:
    """What `datasets` reads the columns as, from types and names of classes alone."""
    try:
        features = datasets.Features.from_arrow_schema(schema)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError("has features that datasets cannot read: prepare the data set again") from error
    clean = {}
    for name, feature in features.items():
        if isinstance(feature, datasets.ClassLabel):
            names = [str(text) for text in feature.names]
            for text in names:
                if (
                    found := ("more than 64 characters",)
                    if len(text) > 64
                    else next(private.label_findings(text), None)
                ):
                    raise ValueError(f"column {name} has the class {text[:80]!r}: {': '.join(found)}")
            clean[name] = datasets.ClassLabel(names=names)
        elif isinstance(feature, datasets.Image):
            clean[name] = datasets.Image()
        elif name == "image":
            raise ValueError("column image is read as something else than an image: prepare the data set again")
        else:
            clean[name] = feature
    return datasets.Features(clean)


def _check_column(
    file: pq.ParquetFile, name: str, labels: list[str], private: Private, allows: Callable[[bytes], bool]
) -> str:
    kind = file.schema_arrow.field(name).type
    if name in HASHES:
        for batch in file.iter_batches(columns=[name]):
            good = pc.match_substring_regex(batch[name], "^[0-9a-f]{32}$")
            if not pc.all(good, skip_nulls=True).as_py():
                raise ValueError(
                    f"column {name} holds something else than hashes of 32 hexadecimal digits: raw ids do not go"
                )
    if name == MASK:
        for batch in file.iter_batches(columns=[name]):
            for bits in batch[name].drop_null().to_pylist():
                if len(bits) != MASK_LENGTH or re.search(rb"[A-Za-z]{8}", bits):
                    raise ValueError(f"column {name} holds something else than the {MASK_LENGTH} bytes of a mask")
    if name in ANSWERS:
        for batch in file.iter_batches(columns=[name]):
            if odd := set(pc.unique(batch[name]).to_pylist()) - {"YES", "NO", None}:
                raise ValueError(f"column {name} holds {len(odd)} values that are neither YES nor NO")
    if name not in labels:
        return ""
    values = pa.chunked_array([batch[name] for batch in file.iter_batches(columns=[name])] or [pa.array([], kind)])
    while pa.types.is_list(values.type):
        values = pc.list_flatten(values)
    distinct = [value for value in pc.unique(values).to_pylist() if value is not None]
    if name.endswith("_source") and {*distinct} <= {HAND, REPORT}:  # the words, and no report
        return ""
    looked_at = "\n".join(sorted(map(str, distinct))).encode()
    if allows(looked_at):
        return f"column {name} allowed by hash after a look"
    found = _label_finding(distinct, len(values), private)
    if found:
        hashed = hashlib.sha256(looked_at).hexdigest()[:16]
        raise ValueError(f"column {name}: {found} (if its values tell of nobody: --allow {hashed})")
    return ""


def _label_finding(distinct: list[Any], rows: int, private: Private) -> str | None:
    """What the values of a label tell, or None."""
    texts = [value for value in distinct if isinstance(value, str)]
    if len(texts) > 20 and len(texts) > rows / 2:
        return f"holds {len(texts)} texts in {rows} rows: a class has many images, an id or a remark has one"
    for text in texts:
        if len(text) > 64 or len(text.split()) > 6:
            return "holds texts of more than 64 characters or 6 words: reports and remarks do not go"
        if finding := next(private.label_findings(text), None):
            return f"holds {', '.join(finding)}"
    for value in distinct:
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _LARGEST_CLASS:
            return f"holds the whole number {value}: classes and truth values are smaller, an id or a date is not"
        if isinstance(value, float) and value.is_integer() and abs(value) >= 100 * _LARGEST_CLASS:
            return f"holds the number {value:.0f}, which may be an id or a date"
    return None


def _clean_group(table: pa.Table, schema: pa.Schema, burnt: Burnt | None) -> pa.Table:
    images = table["image"].combine_chunks()
    if pc.struct_field(images, "path").null_count < len(images):
        raise ValueError("column image holds paths of files")
    written = []
    for content in pc.struct_field(images, "bytes").to_pylist():
        try:
            written.append({"bytes": None if content is None else pixels_alone(content), "path": None})
        except ValueError as error:
            raise ValueError(f"column image holds {error}") from error
        if burnt is not None and content is not None and (found := next(iter(burnt(content)), None)):
            raise ValueError(f"column image holds {', '.join(found)}, in the pixels of an image")
    place = table.column_names.index("image")
    table = table.set_column(place, schema.field("image"), pa.array(written, schema.field("image").type))
    return table.replace_schema_metadata(None).cast(schema)


def _footer(content: bytes | None, private: Private) -> bytes:
    """What `prepare` counts in a shard, without the rows that it could not read."""
    try:
        report = json.loads(content or b"{}")
        images, dropped = (
            int(report.get("images", 0)),
            {str(rule): int(n) for rule, n in report.get("dropped", {}).items()},
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError("has a report that prepare did not write") from error
    for rule in dropped:
        if not re.fullmatch(r"[a-z][a-z_ ]{0,40}", rule) or next(private.label_findings(rule), None):
            raise ValueError(f"has a rule {rule!r} that prepare does not have")
    return json.dumps({"images": images, "dropped": dropped, "quarantine": []}).encode()


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return not kind.value_field.metadata and _is_plain(kind.value_type)
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
