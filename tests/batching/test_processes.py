"""No part of the package forks: after torch used threads, a forked process would wait for ever."""

import os

import datasets
import pytest
import torch
from damaged import encode, radiograph
from rows import make_rows

from hf_radmae.batching.content import measure_content
from hf_radmae.batching.processes import processes
from hf_radmae.images.remote import add_credentials, credentials
from hf_radmae.shards.prepare import prepare
from hf_radmae.shards.shrink import PrepareOptions
from hf_radmae.sources.load import load_radiographs
from hf_radmae.sources.phantom import write_archive, write_irma

forks: list[int] = []
os.register_at_fork(before=lambda: forks.append(os.getpid()))


def phantom(folder, count: int):
    splits, _ = load_radiographs("phantom", num_images=90, scale=0.02, cache_dir=str(folder), num_proc=count)
    return {split: rows[:] for split, rows in splits.items()}


def parquet(folder, count: int):
    for number, part in enumerate(("train-0", "train-1", "test-0", "test-1")):
        images = [{"bytes": encode(radiograph(20, 30, 4 * number + i), "PNG"), "path": None} for i in range(4)]
        rows = datasets.Dataset.from_dict({"image": images}).cast_column("image", datasets.Image())
        rows.to_parquet(str(folder / "files" / f"{part}.parquet"))
    splits, _ = load_radiographs(str(folder / "files"), num_proc=count, cache_dir=str(folder / "cache"))
    return {split: rows[:] for split, rows in splits.items()}


def irma(folder, count: int):
    write_irma(folder / "irma", 40, scale=0.02, num_proc=count)
    splits, _ = load_radiographs("irma", str(folder / "irma"), num_proc=count, cache_dir=str(folder / "cache"))
    return {split: rows[:] for split, rows in splits.items()}


def archive(folder, count: int):
    root = folder / "archive"
    write_archive(root, 40, scale=0.02, num_proc=count)
    options = {"cache_dir": str(folder / "cache"), "hash_key": "any"}
    splits, _ = load_radiographs("mri", str(root), num_proc=count, **options)
    prepare(splits, folder / "out", PrepareOptions(longest_side=32), key=b"key", root=root, num_proc=count)
    return {path.name: path.read_bytes() for path in (folder / "out").rglob("*.parquet")}


def measured(folder, count: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder)
        content = measure_content(make_rows(images=200), num_proc=count)
    return [content.masks.tolist(), content.ranges.tolist()]


@pytest.mark.parametrize(
    "make", [phantom, *(pytest.param(slow, marks=pytest.mark.slow) for slow in (parquet, irma, archive, measured))]
)
def test_processes_give_the_same_and_are_not_forked(make, tmp_path):
    torch.randn(700, 700) @ torch.randn(700, 700)  # starts torch's threads
    before = len(forks)
    made = [make(tmp_path / str(count), count) for count in (1, 2)]
    assert made[0] == made[1]
    assert len(forks) == before


def state(_: int) -> tuple[int, dict]:
    return torch.get_num_threads(), credentials()


@pytest.mark.slow
def test_processes_have_one_thread_each_and_the_passwords_of_their_parent():
    add_credentials({"sftp://someone@nowhere": {"password": "secret"}})
    with processes(2) as in_processes:
        for threads, known in in_processes(state, [0, 1, 2]):
            assert threads == 1
            assert known == credentials()
