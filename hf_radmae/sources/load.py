"""Any source of radiographs as one `DatasetDict`: every image counted, sizes known, splits honest, pixels unopened."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm.auto import tqdm

from hf_radmae.batching.columns import arrow_column
from hf_radmae.batching.skipped import skipped_image
from hf_radmae.images.image import ImageError, image_size
from hf_radmae.images.remote import is_url, locate, without_credentials
from hf_radmae.images.storage import steady, storage_fault
from hf_radmae.sources.belonging import complete_splits, with_groups
from hf_radmae.sources.folder import Source, read_folder
from hf_radmae.sources.parquet import holds_parquet, read_parquet
from hf_radmae.sources.report_labels import by_hand_where_any, with_report_labels

logger = logging.getLogger(__name__)

BUILDERS = {
    "phantom": "hf_radmae.sources.phantom:Phantom",
    "irma": "hf_radmae.sources.irma.builder:IRMA",
    "mri": "hf_radmae.sources.mri.builder:MRI",
}
PROCESSES = min(os.cpu_count() or 1, 8)
"""Processes that build a data set and measure its images before a run: more gain little, and storage is shared."""
MISSING = "is missing: no such file"
SIZE = ("height", "width")


def load_radiographs(
    name: str,
    data_dir: str | None = None,
    *,
    num_proc: int | None = None,
    seed: int = 42,
    patient_column: str | None = None,
    allow_shared_patients: bool = False,
    near_duplicates: bool = False,
    report_labels: str | None = None,
    **options: Any,
) -> tuple[datasets.DatasetDict, list[dict[str, Any]]]:
    """Loads a data set by name and brings it into the form that `RadiographDataset` takes.

    The images of a patient, copies of a file and all rows of a file stay in one split. Splits that are drawn here are
    stratified by the labels. One line is logged that counts what was found, and one that says what a split is by.

    Args:
        name: "phantom", "irma", "mri", "imagefolder" (a folder or a zip), "parquet", the path of a folder, or the id
            of a data set on the Hub.
        data_dir: the folder, where the source needs one; of imagefolder and parquet it may be a URL.
        num_proc: processes that draw a phantom; others only read, in threads.
        seed: of the split, where the source has none of its own.
        patient_column: column that holds the patient, where its name does not say so.
        allow_shared_patients: whether a patient or a file in two splits of the source is a warning, not an error.
        near_duplicates: keep images that look alike in one split too; this decodes every image once.
        report_labels: file that `hf-radmae label-reports` wrote, whose answers fill labels that are missing, see
            `with_report_labels`. The split of the images does not depend on it.
        **options: handed to the builder (phantom: `num_images`, `scale`; irma: `config_name`; ...).

    Returns:
        The splits train, validation and test, then any more that the source has (IRMA's `test_2009`), each with the
        columns `image` (undecoded), `height` and `width`; `image_id` where no file's path tells images apart;
        `patient` where it is known and `same_content` where there are copies. And the list of skipped images, each
        with its split ("none" where the layout leaves it out), index there, image and reason.

    Raises:
        ValueError: there is no image column, `data_dir` is missing, or a patient or a file is in two splits.
        FileNotFoundError: `data_dir` does not exist, or holds no image.
        StorageError: the storage does not answer.
    """
    source, trusted = _read(name, data_dir, num_proc, options)
    splits, good, unread = _measured(source, trusted)
    skipped = [*unread, *source.listed]
    own = name in ("mri", "phantom") or (trusted == {*source.splits} and name != "irma")
    splits, notes = with_groups(
        splits, source.names, patient_column=patient_column, own=own, near_duplicates=near_duplicates
    )
    splits = {s: rows if good[s].all() else rows.select(np.flatnonzero(good[s])) for s, rows in splits.items()}
    allowed = allow_shared_patients or name == "irma"  # whose split is the paper's, by image
    result, more = complete_splits(splits, seed, allow_shared_patients=allowed)
    joined: list[str] = []
    if report_labels is not None:
        result, joined = with_report_labels(result, report_labels)
    result, scored = by_hand_where_any(result)
    for note in (*notes, *more, *joined, *scored):
        say(note)
    return result, skipped


def image_sizes(name: str) -> np.ndarray:
    """Heights and widths of a source's images as their headers, or shards of this package, say; int (images, 2).

    Raises:
        As `load_radiographs`, but for its splits.
    """
    splits, good, _ = _measured(*_read(name, None, None, {}))
    axes = [[arrow_column(rows, axis).to_numpy()[good[split]] for split, rows in splits.items()] for axis in SIZE]
    return np.column_stack([np.concatenate(axis) for axis in axes])


def _measured(
    source: Source, trusted: set[str]
) -> tuple[dict[str, datasets.Dataset], dict[str, np.ndarray], list[dict[str, Any]]]:
    """The rows by split with their sizes, which of them have one, and the list of those that have none."""
    before = sum(len(rows) for rows in source.splits.values())
    splits: dict[str, datasets.Dataset] = {}
    good: dict[str, np.ndarray] = {}
    unread: list[dict[str, Any]] = []
    known = [split for split in ("train", "validation", "test") if split in source.splits]
    for split in dict.fromkeys((*known, *source.splits)):
        rows = _named(split, _undecoded(source.splits[split]))
        splits[split], good[split] = _with_sizes(split, rows, unread, believed=split in trusted)
    images = int(sum(rows.sum() for rows in good.values()))
    if before and not images:
        first = f"{unread[0]['image']}: {unread[0]['reason']}"
        raise ValueError(f"none of the {before} images can be read; the first: {first}")
    _count(source, images, before, unread)
    if further := dict.fromkeys(name for rows in splits.values() for name in image_columns(rows) if name != "image"):
        say(f"images of the column {', '.join(further)} are not used: image is")
    return splits, good, unread


def say(text: str) -> None:
    """Logs a line that every user should see, once for all processes of a run."""
    logger.log(logging.WARNING if os.environ.get("RANK", "0") == "0" else logging.DEBUG, text)


def _read(name: str, data_dir: str | None, num_proc: int | None, options: dict[str, Any]) -> tuple[Source, set[str]]:
    """The source's rows, and the splits whose sizes are believed because this package wrote them."""
    named = name in (*BUILDERS, "imagefolder", "parquet") or data_dir is not None
    place = name if named else without_credentials(name)
    if place != name or (not named and (is_url(name) or Path(name).exists())):
        data_dir = place
        name = "parquet" if holds_parquet(data_dir) else "imagefolder"
    data_dir = data_dir and without_credentials(data_dir)
    path = locate(data_dir or "")
    if is_url(data_dir) and name not in ("imagefolder", "parquet"):
        raise ValueError(
            f"--data_dir {data_dir}: {name} reads a local folder; mount the archive, or read its files, DICOM too, "
            "with --dataset imagefolder"
        )
    if name in ("imagefolder", "parquet", "irma", "mri") and data_dir is None:
        raise ValueError(f"--dataset {name} reads a local folder: say which with --data_dir")
    if data_dir is not None and not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"--data_dir {data_dir}: there is no such folder")
        if path.suffix.lower() != {"imagefolder": ".zip", "parquet": ".parquet"}.get(name):
            raise ValueError(
                f"--data_dir {data_dir} is a file: give the folder that holds it. Only a zip (imagefolder) and a "
                "Parquet file (parquet) are taken alone"
            )
    if name == "imagefolder":
        options = {option: value for option, value in options.items() if option != "cache_dir"}
        if unknown := {*options} - {"data_files", "drop_labels"}:
            raise ValueError(f"imagefolder has no options {', '.join(sorted(unknown))}: data_files, drop_labels")
        return read_folder(str(data_dir), **options), set()
    if name == "parquet":
        return read_parquet(str(data_dir), **options)
    if name in BUILDERS:
        arguments = {**options, **({"data_dir": data_dir} if data_dir else {})}
        module, _, builder_class = BUILDERS[name].partition(":")
        builder = getattr(import_module(module), builder_class)(**arguments)
        builder.download_and_prepare(**({"num_proc": num_proc} if name == "phantom" else {}))
        loaded = builder.as_dataset()
        source = _counted(loaded)
        if hasattr(builder, "skipped"):
            entries = builder.skipped()
            source.listed, source.found = entries, source.found + len(entries)
        return source, {*loaded}
    return _counted(datasets.load_dataset(name, data_dir=data_dir, **options)), set()


def _counted(loaded: datasets.DatasetDict) -> Source:
    if not isinstance(loaded, Mapping):  # of an option split="train"
        loaded = datasets.DatasetDict({"train": loaded})
    count = sum(len(rows) for rows in loaded.values())
    return Source(dict(loaded), found=count, files=count)


def _count(source: Source, images: int, before: int, unread: list[dict[str, Any]]) -> None:
    """Log the ledger in one line, and raise an error where it does not add up."""
    listed = len(source.listed)
    others = sum(source.others.values())
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in source.others.most_common(5))
    rows = f"{images} rows" if source.files == before else f"{images} rows of {source.files} files"
    reasons = f", {len(unread) + listed} listed with a reason" if unread or listed else ""
    say(
        f"{source.found} {source.unit} found: {rows}{reasons}"
        + (f"; beside them {others} other files ({kinds})" if others else "")
    )
    if source.found != source.files + listed or before != images + len(unread):
        raise RuntimeError(  # a fault of this package, which must not lose images silently
            f"{source.found} {source.unit} found, but {source.files} used and {listed} listed; {before} rows, but "
            f"{images} kept and {len(unread)} listed: please report this"
        )


def _undecoded(rows: datasets.Dataset) -> datasets.Dataset:
    """The same rows with the image column called `image` and its pixels left encoded."""
    images = image_columns(rows)
    if not images:
        raise ValueError(f"no column holds images; the columns are {', '.join(rows.column_names)}")
    column = "image" if "image" in images else images[0]
    if column != "image":
        if "image" in rows.column_names:
            rows = rows.rename_column("image", "image_of_source")
        rows = rows.rename_column(column, "image")
    return rows.cast_column("image", datasets.Image(decode=False))


def image_columns(rows: datasets.Dataset) -> list[str]:
    """The columns that hold images, by their type."""
    images = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    return images or [name for name, feature in rows.features.items() if _is_image_struct(feature)]


def _is_image_struct(feature: Any) -> bool:
    """True for a struct of bytes and path, which is what an image column is without `datasets`' note of its type."""
    return isinstance(feature, dict) and {*feature} == {"bytes", "path"} and feature["bytes"].dtype.endswith("binary")


def _named(split: str, rows: datasets.Dataset) -> datasets.Dataset:
    """Adds the `image_id` split/row, where neither a column of that name nor a file's path tells images apart."""
    paths = pc.struct_field(rows.data.column("image"), "path").to_pylist()
    if "image_id" in rows.column_names or all(path and (os.path.isabs(path) or is_url(path)) for path in paths):
        return rows
    return rows.add_column("image_id", [f"{split}/{row}" for row in range(len(rows))])


def _with_sizes(
    split: str, rows: datasets.Dataset, skipped: list[dict[str, Any]], *, believed: bool
) -> tuple[datasets.Dataset, np.ndarray]:
    """Adds `height` and `width` from the headers, and says which rows have them, bool (rows,); others are listed.

    Sizes that are believed are taken as they are; rows that lack one, and rows without an image, are looked at.
    """
    given = {*SIZE} <= set(rows.column_names)
    sizes = np.full((len(rows), 2), -1, np.int64)
    if believed and given:
        for axis, column in enumerate(SIZE):
            sizes[:, axis] = pc.fill_null(rows.data.column(column), -1).to_numpy()[_places(rows)]
    unknown = np.flatnonzero((sizes < 1).any(1) | _without_image(rows))
    named = "image_id" if "image_id" in rows.column_names else None
    images = rows.select_columns(["image", "image_id"] if named else ["image"])

    def look(index: int) -> tuple[int, int] | dict[str, Any]:
        row = images[index]
        image = row["image"] or {"bytes": None, "path": None}
        name = (row[named] if named else None) or image["path"] or f"{split}/{index}"
        try:
            return steady(lambda: _size(image, str(name)), str(name))
        except ImageError as error:
            return skipped_image(str(name), error.reason, split, index)
        except FileNotFoundError:
            return skipped_image(str(name), MISSING, split, index)

    with ThreadPoolExecutor(16) as pool:  # threads hide the latency of network storage; a header costs no computation
        progress = tqdm(pool.map(look, unknown.tolist()), total=len(unknown), desc="sizes", unit="image", leave=False)
        found = dict(zip(unknown.tolist(), progress, strict=True))
    for index, answer in found.items():
        if isinstance(answer, dict):
            skipped.append(answer)
            sizes[index] = -1
        else:
            sizes[index] = answer
    good = (sizes > 0).all(1)
    if believed and given and not len(unknown):
        return rows, np.asarray(good)
    rows = rows.remove_columns([column for column in SIZE if column in rows.column_names])
    for axis, column in enumerate(SIZE):
        rows = rows.add_column(column, sizes[:, axis].astype(np.int32))
    return rows, np.asarray(good)


def _size(image: Mapping[str, Any], name: str) -> tuple[int, int]:
    try:
        return image_size(image, name)
    except (ImageError, FileNotFoundError) as error:
        if fault := storage_fault(error):
            raise fault from error  # `steady` asks again
        raise


def _places(rows: datasets.Dataset) -> Any:
    """The places in the table of the rows, which a selection reorders."""
    indices = rows._indices
    return slice(None) if indices is None else indices.column(0).to_numpy()


def _without_image(rows: datasets.Dataset) -> np.ndarray:
    """True where the image is null, or holds neither bytes nor a path; bool (rows,)."""
    images = rows.data.column("image")
    content = pc.fill_null(pc.binary_length(pc.struct_field(images, "bytes")), 0)
    path = pc.fill_null(pc.binary_length(pc.struct_field(images, "path").cast(pa.string())), 0)
    lacking = np.asarray(pc.equal(content, 0)) & (np.asarray(pc.equal(path, 0)) | ~_bytes_null(images))
    return (lacking | np.asarray(pc.is_null(images)))[_places(rows)]


def _bytes_null(images: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.is_null(pc.struct_field(images, "bytes")))
