"""Recipes from end to end, with small checkpoints in the layout of the published ones in place of the real ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from starts import publish, stock

from hf_radmae.sources.phantom import write_irma

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parents[2] / "scripts"
SHORT = {
    "irma_paper.yaml": "--num_train_epochs 1 --draws 2 --supervised_epochs 1 --supervised_evaluations 1 --curve 0.5 "
    "--supervised_curve 0.5 --low_fraction 0.3 --learning_rates 1e-4 --min_test_images 1 --poolings cls mean flat "
    "--figure_images 0 --dataloader_num_workers 0 --per_device_train_batch_size 8 --warmup_steps 0 --max_tokens 16 "
    "--num_bins 2 --kinds plain --tasks body_region --bf16 false",
}


def run(script: str, *words: str, cache: Path) -> subprocess.CompletedProcess:
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["HF_DATASETS_CACHE"] = str(cache)
    command = [sys.executable, str(SCRIPTS / script), *words, "--disable_tqdm", "true"]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=550)


def test_the_study_of_the_paper_on_generated_irma(tmp_path):
    write_irma(tmp_path / "irma", 60, scale=0.03, whole_body=2)
    starts = {"model": "mae", "vit_checkpoint": "vit", "resnet50_checkpoint": "resnet"}
    words = [
        word for name, kind in starts.items() for word in (f"--{name}", str(publish(stock(kind), tmp_path / name)))
    ]
    out, recipe = tmp_path / "out", SCRIPTS / "recipes" / "irma_paper.yaml"
    words = [str(recipe), "--data_dir", str(tmp_path / "irma"), "--output_dir", str(out), *words]
    done = run("study.py", *words, *SHORT["irma_paper.yaml"].split(), cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((out / "results.json").read_text())
    assert [task["name"] for task in results["tasks"]] == ["body_region"]
    assert (out / "report.html").stat().st_size > 10_000
