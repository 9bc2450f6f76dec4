"""Embeddings on several real processes: the bytes of one process, also where one was killed in mid-run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import PartialState
from damaged import encode
from exported import PATCH, limb, small_mae
from world import World

from hf_radmae.batching.binning import fit_bins
from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.inference.embeddings import Embedder

IMAGES, PER_PART = 14, 2
SIZES = [(64, 64), (96, 40), (40, 96)]
SCRIPT = Path(__file__).parents[2] / "scripts" / "embed.py"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A checkpoint, and images of three shapes of which one is damaged."""
    folder = tmp_path_factory.mktemp("inputs")
    small_mae().save_pretrained(folder / "mae")
    bins = fit_bins(np.array(SIZES), num_bins=3, patch_size=PATCH, max_tokens=64, min_images=1)
    RadiographImageProcessor(bins=bins.to_dict()).save_pretrained(folder / "mae")
    (folder / "images").mkdir()
    for number in range(IMAGES - 1):
        content = encode(limb(*SIZES[number % 3], seed=number), "PNG")
        (folder / "images" / f"{number:02}.png").write_bytes(content)
    (folder / "images" / "06b.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def expected(inputs) -> dict[str, bytes]:
    World(embed, inputs=inputs, output=inputs / "one").wait()
    return files(inputs / "one")


def words(inputs: Path, output: Path) -> list[str]:
    found = ["--model", inputs / "mae", "--data_dir", inputs / "images", "--output_dir", output, "--keep_names"]
    return [*map(str, found), "--images_per_part", str(PER_PART), "--threads", "1"]


def embed(inputs: Path, output: Path, dies: tuple[int, int] | None = None) -> None:
    """What each process runs; rank `dies[0]` kills itself with SIGKILL before it writes its part `dies[1]`."""
    from hf_radmae.cli.embed import main

    torch.set_num_threads(1)
    sys.argv = ["embed.py", *words(inputs, output)]
    write, count = Embedder._write_part, 0

    def write_or_die(*arguments):
        nonlocal count
        if dies == (PartialState().process_index, count):
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        return write(*arguments)

    Embedder._write_part = write_or_die
    main()


def files(output: Path) -> dict[str, bytes]:
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*") if path.is_file()}


def ids(output: Path) -> list[str]:
    return [name for path in (output / "data").iterdir() for name in pq.read_table(path)["image_id"].to_pylist()]


@pytest.mark.distributed
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_write_the_bytes_of_one(inputs, expected, tmp_path, processes):
    World(embed, processes, inputs=inputs, output=tmp_path / "out").wait()
    assert files(tmp_path / "out") == expected
    assert sorted(ids(tmp_path / "out")) == [f"{number:02}.png" for number in range(IMAGES - 1)]
    assert len(expected) == IMAGES // PER_PART + 1


@pytest.mark.distributed
@pytest.mark.parametrize(("dies", "again"), [((0, 1), 2), ((1, 0), 3), ((1, 2), 1)])
def test_a_rank_that_was_killed_costs_no_image_and_doubles_none(inputs, expected, tmp_path, dies, again):
    """With fewer and with more processes than before."""
    output = tmp_path / "out"
    world = World(embed, 2, inputs=inputs, output=output, dies=dies)
    world.processes[dies[0]].join(120)
    assert world.processes[dies[0]].exitcode == -signal.SIGKILL
    world.kill()
    assert len(list((output / "data").glob("train-*"))) < IMAGES // PER_PART
    World(embed, again, inputs=inputs, output=output).wait()
    assert files(output) == expected


@pytest.mark.slow
@pytest.mark.distributed
def test_the_script_under_torchrun(inputs, expected, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(SCRIPT)]
    environment = {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*torchrun, *words(inputs, tmp_path / "out")], env=os.environ | environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert files(tmp_path / "out") == expected
