"""A training that is killed again and again, in every way, ends with the straight run's weights.

Each run is killed by SIGKILL, asked to stop by SIGTERM, stopped by a full disk (a limit on the size of files), or loses
a part of its newest checkpoint, at a random step, and is started again until it ends.
"""

import json
import os
import random
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from runs import make_rows, train
from safetensors.torch import load_file
from world import World

from hf_radmae.pretraining.checkpoints import checkpoints_in, damage
from hf_radmae.pretraining.interrupts import EXIT_CODE

pytestmark = pytest.mark.distributed
OPTIONS = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3, "num_train_epochs": 3}
OPTIONS |= {"save_total_limit": 2, "logging_steps": 4, "load_best_model_at_end": True}
WAYS = ("KILL", "TERM", "full disk", "truncated")


def walked(data: str, output_dir: str, way: str, step: int) -> None:
    """Trains, and meets its end at a step; step -1 lets it end by itself."""
    import runs

    class Walker(runs.TracingTrainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == step:
                if way in ("KILL", "truncated"):
                    os.kill(os.getpid(), signal.SIGKILL)
                elif way == "TERM":
                    os.kill(os.getpid(), signal.SIGTERM)
                else:
                    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
                    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
            return super().training_step(*args, **kwargs)

    runs.TracingTrainer = Walker
    runs.train(data=data, output_dir=output_dir, resume=True, **OPTIONS)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> str:
    return make_rows(tmp_path_factory.mktemp("walk") / "data", 20)


@pytest.fixture(scope="module")
def straight(rows, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "run"
    World(train, data=rows, output_dir=str(folder), **OPTIONS).wait()
    return folder


def walk(rows: str, straight: Path, folder: Path, seed: int, most: int = 3) -> list[str]:
    """One run with at most so many random ends, to its end; returns the ways in which it was ended."""
    rng, met = random.Random(seed), []
    last = int(checkpoints_in(straight)[0].name.rpartition("-")[2])
    while True:
        assert len(met) < 30
        done = next((int(f.name.rpartition("-")[2]) for f in checkpoints_in(folder) if damage(f) is None), 0)
        way = rng.choice(WAYS) if len(met) < most else "none"
        step = rng.randrange(done, last) if way != "none" and done < last else -1
        world = World(walked, data=rows, output_dir=str(folder), way=way, step=step)
        (process,) = world.processes
        process.join(200)
        code = process.exitcode
        world.kill()
        if code == 0:
            return met
        expected = {"KILL": -9, "truncated": -9, "TERM": EXIT_CODE, "full disk": 1}
        assert code == expected[way], (way, code)
        met.append(way)
        if way == "truncated" and (newest := next(iter(checkpoints_in(folder)), None)) is not None:
            path = rng.choice(sorted(p for p in newest.iterdir() if p.is_file()))
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def same(folder: Path, straight: Path) -> None:
    expected, found = (load_file(run / "model.safetensors") for run in (straight, folder))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    metrics = [json.loads((run / "eval.json").read_text()) for run in (straight, folder)]
    assert metrics[0]["eval_loss"] == metrics[1]["eval_loss"]
    states = [json.loads((checkpoints_in(run)[0] / "trainer_state.json").read_text()) for run in (straight, folder)]
    logs = [[(e["step"], e["loss"]) for e in state["log_history"] if "loss" in e] for state in states]
    assert logs[0] == logs[1]
    assert states[0]["best_metric"] == states[1]["best_metric"]


@pytest.mark.slow
def test_a_short_walk_ends_with_the_straight_runs_bits(rows, straight, tmp_path):
    assert len(walk(rows, straight, tmp_path, seed=1, most=2)) == 2
    same(tmp_path, straight)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_hundred_walks_end_with_the_straight_runs_bits(rows, straight, tmp_path):
    met: list[str] = []
    for seed in range(100, 200):
        met += walk(rows, straight, tmp_path / str(seed), seed)
        same(tmp_path / str(seed), straight)
        shutil.rmtree(tmp_path / str(seed))
    assert {*met} == {*WAYS}
