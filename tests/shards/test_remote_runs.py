"""Prepare, streaming pre-training and embedding from and to real storage that stops for ten seconds: as from a disk."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damaged import encode, radiograph
from safetensors.numpy import load_file
from stores import PASSWORD, s3_store, sftp_store, stopped_for

from hf_radmae.images.remote import locate

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parents[2] / "scripts"
IMAGES, STOPPED = 96, 10
PREPARE = ("--dataset", "imagefolder", "--longest_side", 48, "--images_per_shard", 4, "--num_proc", 2, "--threads", 2)
TRAIN = (
    *("--dataset", "parquet", "--streaming", "true", "--patch_size", 8, "--max_tokens", 36, "--num_bins", 3),
    *("--num_train_epochs", 1, "--per_device_train_batch_size", 4, "--dataloader_num_workers", 2, "--use_cpu", "true"),
    *("--logging_steps", 1),
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """Images of several shapes in three splits, one of them damaged."""
    root = tmp_path_factory.mktemp("served")
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        split = "validation" if number % 8 == 6 else "test" if number % 8 == 7 else "train"
        path = root / "archive" / split / f"p{number}" / f"image {number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(40, 120, 2).tolist()
        path.write_bytes(b"no image" if number == 5 else encode(radiograph(height, width, seed=number), "PNG"))
    return root


@pytest.fixture(params=["sftp", "s3"])
def store(request, archive, tmp_path, monkeypatch):
    if request.param == "sftp":
        (tmp_path / "served").mkdir()
        (tmp_path / "served" / "archive").symlink_to(archive / "archive")
        with sftp_store(tmp_path / "served") as found:
            yield found
        return
    with s3_store(monkeypatch) as found:
        for path in (archive / "archive").rglob("*.png"):
            target = locate(found.url) / path.relative_to(archive).as_posix()
            target.upload(path)
        yield found


def start(name: str, folder: Path, *words: object) -> tuple[subprocess.Popen, Path]:
    """A script with its cache in a folder, and the file of what it says."""
    environment = {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-u", str(SCRIPTS / f"{name}.py"), *map(str, words)]
    log = folder / f"{name}.log"
    with log.open("w") as file:
        return subprocess.Popen(command, env=os.environ | environment, stdout=file, stderr=subprocess.STDOUT), log


def finish(process: subprocess.Popen, log: Path) -> str:
    try:
        code = process.wait(500)
    finally:
        process.kill()
    assert code == 0, log.read_text()[-4000:]
    return log.read_text()


@contextmanager
def interrupted(store, started: Callable[[], bool]):
    """The store stops for ten seconds once `started()`; it must have done so when the block ends."""
    before = time.monotonic()
    with stopped_for(store, STOPPED, started) as times:
        yield
        ended = time.monotonic()
    assert len(times) == 2 and before < times[0] < times[1] < ended


def contents(folder) -> dict[str, bytes]:
    """Name below a folder -> bytes, local or remote."""
    if isinstance(folder, Path):
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: (folder / name).read_bytes() for name, _, _ in folder.files()}


@pytest.fixture(scope="module")
def local(archive, tmp_path_factory) -> Path:
    """What the three commands make on a disk."""
    folder = tmp_path_factory.mktemp("local")
    own = ("--key_file", folder / "keys" / "key", "--output_dir", folder / "out" / "shards")
    finish(*start("prepare", folder, *PREPARE, "--data_dir", archive / "archive", *own))
    finish(*start("pretrain", folder, *TRAIN, "--data_dir", folder / "out" / "shards", "--output_dir", folder / "mae"))
    words = ("--data_dir", folder / "out" / "shards", "--output_dir", folder / "out" / "embeddings")
    finish(*start("embed", folder, "--model", folder / "mae", *words))
    return folder


@pytest.mark.distributed
def test_a_store_that_stops_for_ten_seconds_costs_nothing_and_doubles_nothing(store, local, tmp_path):
    out = locate(store.url) / "out"

    def written(name: str, count: int) -> Callable[[], bool]:
        return lambda: len([*(out / name / "data").glob("*.parquet")]) >= count

    words = ("--data_dir", f"{store.url}/archive", "--output_dir", f"{store.url}/out/shards")
    process, log = start("prepare", tmp_path, *PREPARE, *words, "--key_file", local / "keys" / "key")
    with interrupted(store, written("shards", 2)):
        said = [finish(process, log)]
    assert contents(out / "shards") == contents(local / "out" / "shards")

    words = ("--data_dir", f"{store.url}/out/shards", "--output_dir", tmp_path / "mae")
    process, log = start("pretrain", tmp_path, *TRAIN, *words)
    with interrupted(store, lambda: "'loss'" in log.read_text()):
        said += [finish(process, log)]
    ours, theirs = (load_file(folder / "mae" / "model.safetensors") for folder in (tmp_path, local))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    trained = [json.loads((folder / "mae" / "results.json").read_text()) for folder in (tmp_path, local)]
    assert trained[0]["data"]["images"] == trained[1]["data"]["images"]
    assert trained[0]["losses"] == trained[1]["losses"]

    words = ("--data_dir", f"{store.url}/out/shards", "--output_dir", f"{store.url}/out/embeddings", "--threads", 1)
    process, log = start("embed", tmp_path, "--model", local / "mae", *words)
    with interrupted(store, written("embeddings", 2)):
        said += [finish(process, log)]
    assert contents(out / "embeddings") == contents(local / "out" / "embeddings")
    ids = [row["image_id"] for part in (out / "embeddings" / "data").glob("*.parquet") for row in rows_of(part)]
    assert len(ids) == len(set(ids)) == IMAGES - 1
    assert all("does not answer" in text and "answers again" in text for text in said)
    places = [tmp_path / "mae" / "results.json", tmp_path / "mae" / "README.md"]
    texts = [*said, *(place.read_text() for place in places)]
    assert not any(PASSWORD in text or "pass%2F" in text for text in texts)


def rows_of(part) -> list[dict]:
    return pq.read_table(pa.BufferReader(part.read_bytes()), columns=["image_id"]).to_pylist()
