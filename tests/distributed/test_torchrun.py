"""The script as a user starts it on two processes: killed with SIGKILL in mid-epoch, started again, the same bits."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "pretrain.py"
OPTIONS = "--num_images 60 --phantom_scale 0.04 --max_tokens 64 --num_train_epochs 2 --per_device_train_batch_size 4"
OPTIONS += " --save_strategy steps --save_steps 3 --eval_strategy no --figure_images 0 --dataloader_num_workers 0"


def start(output_dir: Path, cache: Path) -> subprocess.Popen:
    environment = {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(cache)}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    with open(output_dir.with_suffix(".log"), "a") as log:
        return subprocess.Popen(
            [*torchrun, str(SCRIPT), *OPTIONS.split(), "--output_dir", str(output_dir)],
            env=os.environ | environment,
            start_new_session=True,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def finish(process: subprocess.Popen, output_dir: Path) -> bytes:
    assert process.wait(300) == 0, output_dir.with_suffix(".log").read_text()[-3000:]
    return (output_dir / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_killed_and_started_again_end_with_the_straight_runs_weights(tmp_path):
    straight, killed, cache = tmp_path / "straight", tmp_path / "killed", tmp_path / "cache"
    expected = finish(start(straight, cache), straight)
    process = start(killed, cache)
    deadline = time.monotonic() + 120
    while not list(killed.glob("checkpoint-*/checkpoint.json")):
        assert time.monotonic() < deadline, killed.with_suffix(".log").read_text()[-3000:]
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.2))
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    for pid in [*map(int, children), process.pid]:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    assert finish(start(killed, cache), killed) == expected
    assert "Resuming from" in killed.with_suffix(".log").read_text()
