"""The search script from end to end: a table, a figure, and a second start that has nothing left to do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # starts of the script, each of which imports for seconds

SCRIPT = Path(__file__).parents[2] / "scripts" / "search_lr.py"
PHANTOM = "--num_images 60 --phantom_scale 0.04 --max_tokens 36 --num_train_epochs 2 --dataloader_num_workers 0"


def start(command: str, folder: Path, *options: str) -> subprocess.CompletedProcess:
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["HF_DATASETS_CACHE"] = str(folder.parent / "cache")
    words = [sys.executable, str(SCRIPT), command, "--output_dir", str(folder), "--disable_tqdm", "true"]
    words += [*PHANTOM.split(), "--report_to", "none", "--rates", "1e-4", "1e-3", *options]
    return subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.parametrize(("command", "metric"), [("finetune", "eval_balanced_accuracy"), ("pretrain", "eval_loss")])
def test_a_search_ends_with_a_table_and_is_not_repeated(tmp_path, command, metric):
    run = start(command, tmp_path / "out")
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads((tmp_path / "out" / "search.json").read_text())
    assert found["metric"] == metric and [trial["learning_rate"] for trial in found["trials"]] == [1e-4, 1e-3]
    assert found["fingerprint"] and found["decided_by"]
    assert f"The best: --learning_rate {found['best']:g}" in run.stdout and (tmp_path / "out" / "search.png").exists()
    again = start(command, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "search.json").read_text()) == found
    assert "finished with value" not in again.stderr
