"""The benchmarks of a training step: they run, and their arms see the same images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts" / "benchmarks"
NOT_NEEDED = ("datasets", "evaluate", "pydicom")
RATIOS = ("vs_stock_same_shapes", "vs_author_bins", "vs_square", "vs_padded")
ARMS = {"stock_square", "stock_same_shapes", "stock_padded", "stock_author_bins", "ours_targets", "ours_flats"}
SMALL = ["--tiny", "--steps", "2", "--num_bins", "3", "--images", "12"]


def start(script: str, *options: str, without: tuple[str, ...] = ()) -> subprocess.Popen:
    """The script in a process that cannot import some packages."""
    lines = f"import runpy, sys; sys.modules.update(dict.fromkeys({without!r})); sys.path.insert(0, {str(SCRIPTS)!r}); "
    run = f"sys.argv = {[script, *options]!r}; runpy.run_path({str(SCRIPTS / script)!r}, run_name='__main__')"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-c", lines + run], env=environment, **pipes)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict]:
    """The figures of each script, and of the second set of images of the one that has two."""
    folder = tmp_path_factory.mktemp("benchmarks")
    cpu = start("pretrain_step.py", *SMALL, "--batch_size", "2", "--json", str(folder / "cpu.json"))
    device = ["--device", "cpu", "--tokens", "64", "--repeats", "1", "--json", str(folder / "gpu.json")]
    gpu = start("gpu.py", *SMALL, *device, without=NOT_NEEDED)
    for process in (cpu, gpu):
        output, _ = process.communicate(timeout=500)
        assert process.returncode == 0, output
    step, device_step = (json.loads((folder / f"{name}.json").read_text()) for name in ("cpu", "gpu"))
    return {"cpu": step, "cpu at the archive's sizes": step["archive_sizes"], "gpu": device_step}


def test_every_arm_is_measured(results):
    for name, figures in results.items():
        assert ARMS | {"ours_half", "ours_all"} <= figures["arms"].keys(), name
        assert all(figures[ratio] > 0 for ratio in RATIOS), name
        for arm, measured in figures["arms"].items():
            for figure in ("images_per_second", "tokens_per_second", "peak_memory_gb", "matrix_share"):
                assert measured[figure] > 0, (name, arm, figure)


def test_ratios_are_of_images_per_second(results):
    for figures in results.values():
        rates = {arm: measured["images_per_second"] for arm, measured in figures["arms"].items()}
        assert figures["vs_stock_same_shapes"] == rates["ours_all"] / rates["stock_same_shapes"]
        assert figures["vs_author_bins"] == rates["ours_all"] / rates["stock_author_bins"]


def test_every_layout_holds_every_image(results):
    for figures in results.values():
        assert {measured["layout"] for measured in figures["arms"].values()} == figures["images_per_bin"].keys()
        assert all(sum(images) == figures["images"] for images in figures["images_per_bin"].values())


def test_ours_and_the_stock_class_get_the_same_batches(results):
    for figures in results.values():
        arms = figures["arms"]
        assert arms["ours_targets"]["batches"] == arms["stock_same_shapes"]["batches"]


def test_no_saving_adds_work(results):
    for figures in results.values():
        ladder = ("stock_same_shapes", "ours_targets", "ours_flats", "ours_half")
        work = [figures["arms"][arm]["gflops_per_image"] for arm in ladder]
        assert work[0] > work[1] >= work[2] > work[3], work  # small images may be informative all over


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_without_a_cuda_device_gpu_says_so():
    process = start("gpu.py", without=NOT_NEEDED)
    output, _ = process.communicate(timeout=500)
    assert process.returncode != 0
    assert "sees no CUDA device" in output and "--device cpu" in output
