"""Recipes from end to end, on one process and on two, with generated images and small checkpoints in the layout of the
published ones in place of the real ones: only sizes and lengths are changed."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from starts import publish, stock

from hf_radmae.sources.phantom import write_archive, write_irma
from hf_radmae.sources.phantom.cohort import generate
from hf_radmae.sources.phantom.phantom import encode_png

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SCRIPTS = Path(__file__).parents[2] / "scripts"
RECIPES = SCRIPTS / "recipes"
QUICK = "--dataloader_num_workers 0 --warmup_steps 0 --figure_images 0 --num_train_epochs 1 --bf16 false"
STUDY = f"{QUICK} --draws 2 --supervised_epochs 1 --supervised_evaluations 1 --learning_rates 1e-4 --min_test_images 1"
STUDY += " --curve 0.5 --low_fraction 0.3 --kinds plain --num_bins 2"


def run(script: str, *words: str | Path, cache: Path, processes: int = 1) -> subprocess.CompletedProcess:
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "1"}
    environment |= {"HF_DATASETS_CACHE": str(cache), "XDG_CONFIG_HOME": str(cache / "config")}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(torchrun if processes > 1 else []), str(SCRIPTS / script), *map(str, words)]
    command += [] if script == "prepare.py" else ["--disable_tqdm", "true"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def tasks_of(out: Path) -> list[str]:
    assert (out / "report.html").stat().st_size > 10_000
    return [task["name"] for task in json.loads((out / "results.json").read_text())["tasks"]]


def make_folder(folder: Path, images: int) -> Path:
    """An imagefolder with the labels of the real one: a region, and yes or no of the task that a label is of."""
    folder.mkdir()
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "patient_id", "body_region", "label_task", "label", "source", "body_part"])
        for number, image in enumerate(generate(images, seed=2, scale=0.03)):
            (folder / f"{image.image_id}.png").write_bytes(encode_png(image))
            label = ["fracture", str(number % 2)] if number % 4 else ["", ""]
            words = [f"{image.image_id}.png", f"p{image.patient}", image.region, *label, "generated", image.part]
            writer.writerow(words)
    return folder


@pytest.mark.parametrize("processes", [1, 2])
def test_the_study_of_the_paper_on_generated_irma(tmp_path, processes):
    write_irma(tmp_path / "irma", 60, scale=0.03, whole_body=2)
    starts = {"model": "mae", "vit_checkpoint": "vit", "resnet50_checkpoint": "resnet"}
    words = [
        word for name, kind in starts.items() for word in (f"--{name}", str(publish(stock(kind), tmp_path / name)))
    ]
    short = f"{STUDY} --supervised_curve 0.5 --poolings cls mean flat --max_tokens 16 --tasks body_region"
    short += f" --per_device_train_batch_size {8 // processes}"
    out = tmp_path / "out"
    words = ["--data_dir", tmp_path / "irma", "--output_dir", out, *words, *short.split()]
    run("study.py", RECIPES / "irma_paper.yaml", *words, cache=tmp_path / "cache", processes=processes)
    assert tasks_of(out) == ["body_region"]


def test_the_archive_is_prepared_pre_trained_and_studied(tmp_path):
    write_archive(tmp_path / "archive", 90, scale=0.04, dirt=0.1, compressed=0.3)
    cache, shards, mae, out = (tmp_path / name for name in ("cache", "shards", "mae", "out"))
    words = ["--dataset", "mri", "--data_dir", tmp_path / "archive", "--output_dir", shards]
    run("prepare.py", *words, "--longest_side", "3072", cache=cache)
    size = "--patch_size 48 --max_tokens 9 --preset tiny --per_device_train_batch_size 8"
    data = ["--dataset", "parquet", "--data_dir", shards]
    run("pretrain.py", *data, "--output_dir", mae, *f"{size} {QUICK} --mask_ratio 0.75".split(), cache=cache)
    short = f"{STUDY} {size} --gradient_accumulation_steps 1 --supervised_steps 2 --tasks body_part fracture"
    words = ["--data_dir", shards, "--mae_checkpoint", mae, "--output_dir", out, *short.split()]
    run("study.py", RECIPES / "mri_archive.yaml", *words, cache=cache, processes=2)
    assert tasks_of(out) == ["body_part", "fracture"]


def test_a_folder_of_radiographs_is_pre_trained_and_studied(tmp_path):
    folder, cache, tiny, out = make_folder(tmp_path / "images", 80), *(tmp_path / n for n in ("cache", "tiny", "out"))
    words = ["--data_dir", folder, "--output_dir", tiny, "--probe_column", "body_region"]
    words += f"{QUICK} --max_tokens 16 --num_bins 2".split()
    run("pretrain.py", RECIPES / "radiographs_tiny.yaml", *words, cache=cache, processes=2)
    probe = json.loads((tiny / "results.json").read_text())["probe"]
    assert probe["column"] == "body_region" and probe["rows"]
    words = ["--dataset", "imagefolder", "--data_dir", folder, "--output_dir", out]
    words += ["--tasks", "body_region", "fracture=label[label_task=fracture]"]
    short = f"{STUDY} --max_tokens 16 --supervised vit --supervised_steps 2"
    run("study.py", RECIPES / "study_tiny.yaml", *words, *short.split(), cache=cache)
    assert tasks_of(out) == ["body_region", "fracture"]


def test_the_small_study_on_generated_radiographs(tmp_path):
    short = f"{STUDY} --max_tokens 16 --supervised vit --supervised_steps 2 --num_images 60 --phantom_scale 0.03"
    words = ["--output_dir", tmp_path / "out", *short.split()]
    run("study.py", RECIPES / "study_tiny.yaml", *words, cache=tmp_path / "cache")
    assert tasks_of(tmp_path / "out") == ["body_region"]
