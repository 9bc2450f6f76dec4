"""An archive of radiographs, once over, as Parquet shards at training resolution that bare `datasets` reads.

The plan (which rows make which shard) follows from the input and the options alone. Workers write the shards that are
missing; so an interrupted run resumes where the files say. No raw id, path or UID
goes into the output folder: ids are keyed hashes, labels are those of an allow-list, errors name images by hash.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from itertools import islice
from typing import Any

import datasets
import numpy as np
from tqdm.auto import tqdm

from hf_radmae import __version__
from hf_radmae.batching.binning import Bins, fit_bins
from hf_radmae.batching.processes import process_pool
from hf_radmae.batching.skipped import write_skipped
from hf_radmae.images.remote import Place, locate
from hf_radmae.images.storage import write_whole
from hf_radmae.shards.anonymous import IDENTIFYING, anonymous_entry, fingerprint, hashed_ids, kept_labels
from hf_radmae.shards.shrink import PrepareOptions
from hf_radmae.shards.writer import (
    SIZES,
    Report,
    Shard,
    ShardWriter,
    read_bytes,
    read_report,
    shard_features,
    shard_rows,
)
from hf_radmae.sources.pseudonyms import key_check

MANIFEST, QUARANTINE = "manifest.json", "quarantine.csv"
PACKAGES = ("datasets", "numpy", "pillow", "pyarrow", "pydicom")


class OtherOptionsError(ValueError):
    """The output folder was begun with other options, another input or another key."""


def prepare(
    splits: Mapping[str, datasets.Dataset],
    folder: str | Place,
    options: PrepareOptions,
    *,
    key: bytes,
    root: str | Place | None = None,
    source: Mapping[str, Any] | None = None,
    unreadable: Iterable[Mapping[str, Any]] = (),
    num_proc: int = 1,
    threads: int = 16,
    executor: Executor | None = None,
    read: Callable[[str], bytes] = read_bytes,
) -> dict[str, Any]:
    """Write the shards that are missing, and the manifest and the quarantine once none is.

    A split of which no image is left has no file.

    Args:
        splits: rows with `image` undecoded, `height` and `width`, as `load_radiographs` gives them.
        folder: where `data/`, the manifest and the quarantine go; a path or a URL.
        options: what is made of an image.
        key: secret of the hashes, 1 to 64 bytes, from `load_key`; keep it apart from the shards.
        root: the archive's folder; images without an id are told apart by their path below it.
        source: what the manifest says about the source: its name, what it dropped. No paths.
        unreadable: images that the source left out: split, index, image (its id or path), reason.
        num_proc, threads: processes, and files that each reads at once.
        executor: writes the shards in place of processes of this machine. Its workers see the archive and `folder`
            under the same paths.
        read: how a file is read.

    Returns:
        The manifest.

    Raises:
        OtherOptionsError: see there.
        ValueError: a column of `options.labels` that is not there or holds ids.
            Or no image is left.
        RuntimeError: a worker was ended from outside.
        StorageError: the storage does not answer.
    """
    folder, root = locate(folder), root and locate(root)
    ids = {split: hashed_ids(split, rows, key, root) for split, rows in splits.items()}
    labels = kept_labels(splits, options.labels)
    columns = next(iter(splits.values())).column_names
    left_out = sorted({*columns} - {*labels, *SIZES} - IDENTIFYING)
    bins = _fitted_bins(splits, options)
    shards = plan(splits, options)
    manifest: dict[str, Any] = {
        "complete": False,
        "source": dict(source or {}),
        "options": options.to_dict(),
        "rows": {split: len(rows) for split, rows in splits.items()},
        "shards": dict(Counter(shard.split for shard in shards)),
        "columns": {"labels": labels, "left_out": left_out},
        "bins": bins and bins.to_dict(),
        "input": fingerprint(ids, splits, labels),
        "key": key_check(key),
    }
    (folder / "data").mkdir(parents=True, exist_ok=True)
    _begin(folder / MANIFEST, manifest)
    first = next(iter(splits))
    features = shard_features(splits[first], ids[first], labels)
    writer = ShardWriter(features, labels, folder / "data", options, bins, threads, read, root or None)
    written = {path.name for path in writer.folder.glob("*.parquet")}
    missing = [shard for shard in shards if shard.name not in written]
    tasks = (
        (shard, shard_rows(splits[shard.split], labels, shard.rows), ids[shard.split].take(shard.rows))
        for shard in missing
    )
    total = sum(len(shard.rows) for shard in missing)
    if executor:
        _run(writer, tasks, total, executor, WAITING)
    else:
        workers = min(num_proc, len(missing)) or 1
        if "memory://" in f"{folder} {root}":  # which is of one process
            own: Executor = ThreadPoolExecutor(workers)
        else:
            own = process_pool(workers)
        with own as pool:
            _run(writer, tasks, total, pool, 2 * num_proc)
    manifest |= _finish(folder, shards, [anonymous_entry(entry, key, root) for entry in unreadable])
    _check_not_empty(manifest)
    for shard in shards:
        if not manifest["counts"][shard.split]["images"]:  # `datasets` reads no split of files without a row
            (folder / "data" / shard.name).unlink()
            manifest["shards"][shard.split] = 0
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return manifest


def plan(splits: Mapping[str, datasets.Dataset], options: PrepareOptions) -> list[Shard]:
    """The shards of every split: its rows in a random order that the seed fixes, cut evenly."""
    shards = []
    for number, (split, rows) in enumerate(splits.items()):
        order = np.random.default_rng([options.seed, number]).permutation(len(rows))
        count = -(-len(rows) // options.images_per_shard)
        for index, part in enumerate(np.array_split(order, count) if count else ()):
            shards.append(Shard(split, f"{split}-{index:05d}-of-{count:05d}.parquet", part))
    return shards


def _fitted_bins(splits: Mapping[str, datasets.Dataset], options: PrepareOptions) -> Bins | None:
    """The shapes of `options.num_bins`, fitted to the sizes of all splits together."""
    if not options.num_bins:
        return None
    sizes = [np.stack([rows["height"], rows["width"]], axis=1) for rows in splits.values() if len(rows)]
    budget: dict[str, Any] = {"patch_size": options.patch_size, "max_tokens": options.max_tokens}
    return fit_bins(np.concatenate(sizes), num_bins=options.num_bins, **budget)


WAITING = 256
"""Shards that an engine holds at once: more than it has cores, so that none is idle. Their rows are in memory."""


def _run(
    writer: ShardWriter, tasks: Iterator[tuple[Shard, Any, Any]], total: int, executor: Executor, waiting: int
) -> None:
    """Write shards, `waiting` of them handed over at once, with a progress bar in files that moves with each."""
    with tqdm(total=total, unit="file", desc="prepare", smoothing=0.05) as progress:
        pending = {executor.submit(writer.write, *task) for task in islice(tasks, waiting)}
        try:
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                progress.update(sum(future.result() for future in finished))
                pending |= {executor.submit(writer.write, *task) for task in islice(tasks, len(finished))}
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker was ended from outside, perhaps for want of memory; run the same command again to "
                "resume, with fewer processes or threads"
            ) from error
        finally:
            for future in pending:
                future.cancel()


def _check_not_empty(manifest: Mapping[str, Any]) -> None:
    """Raise where rows went in and no image came out: the rules or the files are wrong."""
    counts = manifest["counts"].values()
    if sum(manifest["rows"].values()) and not sum(count["images"] for count in counts):
        dropped = sum((Counter(count["dropped"]) for count in counts), Counter())
        why = ", ".join(f"{number} by the rule {rule}" for rule, number in dropped.items()) or "none by a rule"
        unread = sum(count["quarantined"] for count in counts)
        raise ValueError(
            f"no image is left of {sum(manifest['rows'].values())}: {why}, {unread} that cannot be read (see "
            f"{QUARANTINE}); change the rules, e.g. maximum or mean, or look at the files, and give a new folder"
        )


def _finish(folder: Place, shards: list[Shard], unreadable: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the quarantine and return what the manifest says about the finished shards."""
    quarantine = list(unreadable)
    counts: dict[str, dict[str, Any]] = {}
    data, names = folder / "data", {shard.name for shard in shards}

    def facts(shard: Shard) -> tuple[Report, int]:
        return read_report(data / shard.name), (data / shard.name).stat().st_size

    with ThreadPoolExecutor(16) as pool:  # threads hide the latency of network storage
        found = list(pool.map(facts, shards))
    for shard, (report, size) in zip(shards, found, strict=True):
        count = counts.setdefault(shard.split, {"images": 0, "dropped": Counter(), "quarantined": 0, "bytes": 0})
        count["images"] += report.images
        count["dropped"] += report.dropped
        count["quarantined"] += len(report.quarantine)
        count["bytes"] += size
        quarantine += [
            {"split": shard.split, "index": index, "image": image, "reason": reason}
            for index, image, reason in report.quarantine
        ]
    for leftover in [*data.glob(".*.parquet.*")]:  # of a worker that was killed
        if leftover.name[1:].rpartition(".")[0] in names:
            leftover.unlink(missing_ok=True)
    write_skipped(folder / QUARANTINE, quarantine)
    versions = {"hf_radmae": __version__, **{name: version(name) for name in PACKAGES}}
    return {"complete": True, "counts": counts, "unreadable_in_source": len(unreadable), "versions": versions}


def _begin(path: Place, manifest: dict[str, Any]) -> None:
    """Write the manifest of a new folder; in one that was begun, refuse what would mix two kinds of shards."""
    if not path.exists():
        if any(path.parent.glob("data/*.parquet")):
            raise OtherOptionsError(f"{path.parent} holds shards without a {MANIFEST}: give a new folder")
        write_whole(path, json.dumps(manifest, indent=2) + "\n")
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    differ = [
        f"{name} was {begun['options'].get(name)!r}, now {value!r}"
        for name, value in manifest["options"].items()
        if begun["options"].get(name) != value
    ]
    differ += [f"the {name} is another" for name in ("input", "key") if begun[name] != manifest[name]]
    if differ:
        raise OtherOptionsError(
            f"{path.parent} was begun differently: {'; '.join(differ)}. Resume with the same, or give a new folder"
        )
