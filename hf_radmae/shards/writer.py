"""Parquet shards of prepared radiographs, each a fixed function of the plan and written whole or not at all.

A shard is written under a temporary name and renamed, and its footer lists what was dropped and what could not be
read. So the files that are there say how far the work is, and one that was cut off was never there.
"""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_radmae.batching.binning import Bins
from hf_radmae.batching.content import measure_image
from hf_radmae.images.dicom import DicomError, RadiographHeader, read_radiograph, yes_or_no
from hf_radmae.images.image import ImageError, read_image
from hf_radmae.images.remote import Place, locate
from hf_radmae.images.storage import StorageError, steady, storage_fault, whole_file
from hf_radmae.shards.shrink import PrepareOptions, encode, field_box, shrink, target_size
from hf_radmae.sources.mri.cleaning import CleaningRules, pixel_rule
from hf_radmae.sources.mri.table import HEADER_ANSWERS
from hf_radmae.sources.parquet import FOOTER, read_footer

ROW_GROUP = 100  # rows, and
ROW_GROUP_BYTES = 2**26  # bytes of images: what a stream reads at once, and a writer holds in memory

SIZES: dict[str, Any] = {
    **{name: datasets.Value("int32") for name in ("height", "width", "original_height", "original_width")},
    "spacing": datasets.List(datasets.Value("float32")),  # (row, column) of the prepared image in mm, null if unknown
    "patient_mask": datasets.Value("binary"),  # where the patient is, and the grey range: see `batching.content`
    "grey_range": datasets.List(datasets.Value("float64")),
    # What a DICOM header says, else the source: YES or NO, null where neither says anything.
    **{name: datasets.Value("string") for name in HEADER_ANSWERS},
}


def read_bytes(path: str) -> bytes:
    """The content of a file.

    Raises:
        StorageError: the storage does not answer.
    """
    return steady(locate(path).read_bytes, path)


@dataclass(frozen=True)
class Shard:
    """One file of the plan: its split, its name, and the rows of the split that it is made of."""

    split: str
    name: str
    rows: np.ndarray


@dataclass
class Report:
    """What became of a shard's rows; `quarantine` lists (row of the split, hashed image id, reason)."""

    images: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    quarantine: list[tuple[int, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class ShardWriter:
    """Makes shards of rows that it is given, in any process or on any machine that sees the archive.

    Attributes:
        features: the columns of a shard, see `shard_features`.
        labels: columns that are copied.
        folder: where shards go, local or remote.
        options: what is made of an image.
        bins: the shapes of `options.num_bins`.
        threads: files that are read at once.
        read: how a file is read.
        root: of the archive; what a process needs to reach a remote one travels with it.
    """

    features: datasets.Features
    labels: list[str]
    folder: Place
    options: PrepareOptions
    bins: Bins | None = None
    threads: int = 16
    read: Callable[[str], bytes] = read_bytes
    root: Place | None = None

    def write(self, shard: Shard, rows: datasets.Dataset, ids: pa.Table) -> int:
        """Write a shard.

        Args:
            shard: what is written.
            rows: its rows in their order, images undecoded.
            ids: their hashed ids, `image_id` first.

        Returns:
            The number of rows.
        """
        schema = self.features.arrow_schema  # its metadata lets bare `datasets` decode the images
        path = self.folder / shard.name
        report = Report()
        options: dict[str, Any] = {"compression": "zstd", "use_dictionary": self.labels}
        with whole_file(path) as partial, pq.ParquetWriter(partial, schema, **options) as writer:
            group: list[dict[str, Any]] = []
            for row in self._rows(shard, rows, ids, report):
                group.append(row)
                if len(group) == ROW_GROUP or sum(len(row["image"]["bytes"]) for row in group) > ROW_GROUP_BYTES:
                    writer.write_table(pa.Table.from_pylist(group, schema))
                    report.images, group = report.images + len(group), []
            if group:  # a row group without rows is none that `datasets` reads
                writer.write_table(pa.Table.from_pylist(group, schema))
                report.images += len(group)
            writer.add_key_value_metadata({FOOTER: json.dumps(vars(report)).encode()})
        return len(rows)

    def _rows(self, shard: Shard, rows: datasets.Dataset, ids: pa.Table, report: Report) -> Iterator[dict[str, Any]]:
        for index, own, (row, content) in zip(shard.rows.tolist(), ids.to_pylist(), self._contents(rows), strict=True):
            try:
                prepared = self._prepare(content.result(), row, report, own["image_id"])
            except StorageError:
                raise
            except ImageError as error:
                report.quarantine.append((index, own["image_id"], error.reason))
            except FileNotFoundError:
                report.quarantine.append((index, own["image_id"], "is missing: no such file"))
            except OSError as error:
                if fault := storage_fault(error):
                    raise StorageError(fault.errno, f"the storage does not answer ({fault.strerror})") from error
                report.quarantine.append((index, own["image_id"], f"cannot be read: {error.strerror}"))
            else:
                if prepared is not None:
                    yield {**prepared, **own, **{name: row[name] for name in self.labels}}

    def _contents(self, rows: datasets.Dataset) -> Iterator[tuple[dict, Future[bytes]]]:
        """Yield rows and contents in order, while threads read the files of the rows that follow."""
        waiting: deque[tuple[dict, Future[bytes]]] = deque()
        with ThreadPoolExecutor(self.threads) as pool:
            for row in rows:
                waiting.append((row, pool.submit(self._content, row["image"])))
                if len(waiting) == self.threads:
                    yield waiting.popleft()
            yield from waiting

    def _content(self, image: Mapping[str, Any] | None) -> bytes:
        content, path = (image["bytes"], image["path"]) if image else (None, None)
        if content is not None:
            return content
        if not path:
            raise ImageError("<row>", "has neither bytes nor a path")
        return self.read(path)

    def _prepare(self, content: bytes, row: dict, report: Report, name: str) -> dict[str, Any] | None:
        """The image and its sizes; None where a cleaning rule drops it."""
        pixels, header = _read(content, name)
        limits = CleaningRules(maximum=self.options.maximum, mean=self.options.mean)
        rule = pixel_rule(pixels, limits, header.bits_stored if header else None)
        if header and self.options.drawing and "DRAWING" in header.image_type:
            rule = "drawing"
        answers = {name: _answer(name, header, row) for name in HEADER_ANSWERS}
        if not self.options.keep_burned_in and answers["burned_in_annotation"] == "YES":
            rule = "burned_in_annotation"
        if rule is not None:
            report.dropped[rule] += 1
            return None
        spacing = (header and header.spacing) or _spacing(row.get("spacing"))
        original_height, original_width = pixels.shape
        if self.options.crop_to_field:
            top, left, height, width = field_box(pixels)
            pixels = pixels[top : top + height, left : left + width]
        size = target_size(pixels.shape[0], pixels.shape[1], self.options, self.bins)
        scales = [before / after for before, after in zip(pixels.shape, size, strict=True)]
        small = shrink(pixels, size, self.options.bits, name)
        return {
            "image": {"bytes": encode(small, self.options.encoding), "path": None},
            "height": size[0],
            "width": size[1],
            "original_height": original_height,
            "original_width": original_width,
            "spacing": spacing and [step * scale for step, scale in zip(spacing, scales, strict=True)],
            **measure_image(small),
            **answers,
        }


def shard_features(rows: datasets.Dataset, ids: pa.Table, labels: list[str]) -> datasets.Features:
    """The columns of the shards that are made of `rows`."""
    hashes = {name: datasets.Value("string") for name in ids.column_names}
    kept = {name: rows.features[name] for name in labels}
    return datasets.Features({"image": datasets.Image(), **hashes, **SIZES, **kept})


def shard_rows(rows: datasets.Dataset, labels: list[str], chosen: np.ndarray) -> datasets.Dataset:
    """What a shard needs of some rows, in memory: it can be sent to a machine that does not hold the data set."""
    wanted = {"image", "spacing", *HEADER_ANSWERS, *labels}
    part = rows.select_columns([name for name in rows.column_names if name in wanted])
    # Rows come as slices of the whole column each, and a slice is pickled with all of it.
    table = part.with_format("arrow")[chosen].combine_chunks()
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=part.features))


def read_report(path: Place) -> Report:
    """What the footer of a shard says about its rows."""
    values = json.loads(read_footer(path).metadata[FOOTER])
    return Report(values["images"], Counter(values["dropped"]), [tuple(entry) for entry in values["quarantine"]])


def _read(content: bytes, name: str) -> tuple[np.ndarray, RadiographHeader | None]:
    """Grey pixels (rows, columns), and of a DICOM file what its header says."""
    if content[128:132] != b"DICM":
        return read_image(content, name), None
    try:
        radiograph = read_radiograph(content)
    except DicomError as error:
        raise ImageError(name, error.reason) from error
    return read_image(radiograph.pixels, name), radiograph


def _answer(name: str, header: RadiographHeader | None, row: Mapping[str, Any]) -> str | None:
    """YES or NO of a DICOM header, else of a source's own column: what it prepared or converted has no header."""
    said = yes_or_no(getattr(header, name)) if header else None
    value = row.get(name)
    text = ("NO", "YES")[value] if isinstance(value, bool) else str(value)
    return said or yes_or_no(text.strip().upper())


def _spacing(value: Any) -> tuple[float, float] | None:
    """A source's own spacing, one number or (row, column), as (row, column)."""
    if value is None:
        return None
    row, column = value if isinstance(value, list | tuple) else (value, value)
    return (row, column) if row and column else None
