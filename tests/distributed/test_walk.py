"""A training that is ended again and again, in every way, ends with the straight run's weights.

A run is killed, asked to stop, stopped by a full disk (a limit on the size of files), or loses a part of its newest
checkpoint; at a random step, or a random function call after it, so that also what comes between steps is met: logs,
evaluations, checkpoints, the start and the end. Then it is started again, until it ends. The environment variables
HF_RADMAE_WALKS and HF_RADMAE_SEED say how many runs, and which.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import make_rows, train
from safetensors.torch import load_file
from world import World

from hf_radmae.pretraining.checkpoints import checkpoints_in, damage
from hf_radmae.pretraining.interrupts import EXIT_CODE

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
WALKS, SEED = int(os.environ.get("HF_RADMAE_WALKS", "3")), int(os.environ.get("HF_RADMAE_SEED", "100"))
OPTIONS = {"eval_steps": 3, "save_steps": 3, "num_train_epochs": 3, "save_total_limit": 2, "logging_steps": 2}
OPTIONS |= {"load_best_model_at_end": True, "per_device_eval_batch_size": 16}
KINDS: list[dict] = [
    {},
    {"dataloader_num_workers": 2},
    {"streaming": True},
    {"world_size": 2},
    {"gradient_accumulation_steps": 2, "batch_size": 2},
    {"dataloader_num_workers": 2, "streaming": True, "saved": "epoch"},
    {"world_size": 2, "dataloader_num_workers": 2, "gradient_accumulation_steps": 2, "batch_size": 1},
    {"world_size": 2, "streaming": True, "saved": "epoch"},
]
WAYS = {"KILL": {-9}, "truncated": {-9}, "full disk": {1}}
WAYS |= {"TERM": {EXIT_CODE, -15}, "TERM to all": {EXIT_CODE, -15}, "USR1": {EXIT_CODE, -10}}
"""How a run is ended, and the exit codes that it may have: that of the signal before and after the training."""


def started(way: str, step: int, calls: int, rank: int, **arguments) -> None:
    """Trains, and meets its end so many function calls after the start of a step; step -1 lets it end by itself."""
    import runs

    process = os.getpid()

    def act() -> None:
        if way in ("KILL", "truncated"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif way == "full disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        elif way == "TERM to all":
            words = ["kill", "-TERM", "--", f"-{os.getpgrp()}"]  # loader workers too
            subprocess.run(words, start_new_session=True, check=True)
        else:
            os.kill(os.getpid(), signal.SIGTERM if way == "TERM" else signal.SIGUSR1)

    def count(frame, event, argument) -> None:
        nonlocal calls
        calls -= event == "call"
        if os.getpid() != process:  # a loader worker that was forked since inherits this
            sys.setprofile(None)
        elif calls < 0:
            sys.setprofile(None)
            act()

    class Walker(runs.TracingTrainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == step and self.args.process_index == rank:
                sys.setprofile(count)
            return super().training_step(*args, **kwargs)

    runs.TracingTrainer = Walker
    runs.train(resume=True, **arguments)


class Walk:
    """Runs of one kind, and the straight one."""

    def __init__(self, folder: Path, data: str, *, world_size: int = 1, saved: str = "steps", **options):
        self.folder, self.world_size = folder, world_size
        self.options = {"data": data, "eval_strategy": saved, "save_strategy": saved, **OPTIONS, **options}
        self.straight = folder / "straight"
        World(train, world_size, output_dir=str(self.straight), **self.options).wait()
        self.last = int(checkpoints_in(self.straight)[0].name.rpartition("-")[2])

    def walk(self, seed: int, most: int = 3) -> list[str]:
        """One run with at most so many random ends, to its end; returns the ways in which it was ended."""
        rng, met, folder = random.Random(seed), [], self.folder / str(seed)
        while True:
            assert len(met) < 30
            done = next((int(f.name.rpartition("-")[2]) for f in checkpoints_in(folder) if damage(f) is None), 0)
            way = rng.choice([*WAYS]) if len(met) < most and done < self.last else "none"
            step = rng.randrange(done, self.last) if way != "none" else -1
            calls = rng.choice([0, rng.randrange(3_000), rng.randrange(30_000)])
            rank = 0 if way == "full disk" else rng.randrange(self.world_size)
            end = {"way": way, "step": step, "calls": calls, "rank": rank}
            code = self._end_of(World(started, self.world_size, output_dir=str(folder), **end, **self.options))
            if code == 0:
                break
            assert code in WAYS.get(way, set()), (seed, end, code)
            met.append(way)
            files = [p for newest in checkpoints_in(folder)[:1] for p in newest.iterdir() if p.is_file()]
            if way == "truncated" and files:
                path = rng.choice(sorted(files))
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        self._check(folder)
        shutil.rmtree(folder)
        return met

    def _end_of(self, world: World) -> int:
        """The exit code of the first rank that fails, or 0; as a launcher does, it ends the others."""
        deadline = time.monotonic() + 400
        while (codes := [process.exitcode for process in world.processes]) != [0] * len(codes):
            failed = [code for code in codes if code]
            if (failed and failed[0] != EXIT_CODE) or None not in codes:
                break
            assert time.monotonic() < deadline, f"exit codes {codes} after 400 s"
            time.sleep(0.02)
        world.kill()
        return next((code for code in codes if code), 0)

    def _check(self, folder: Path) -> None:
        """The bits of the straight run, and its results but for times."""
        expected, found = (load_file(run / "model.safetensors") for run in (self.straight, folder))
        assert all(torch.equal(found[name], expected[name]) for name in expected), folder
        states = [json.loads((run / "history.json").read_text()) for run in (self.straight, folder)]
        for name in ("best_global_step", "best_metric", "global_step", "epoch"):
            assert states[0][name] == states[1][name], (folder, name)
        logs = [[timeless(entry) for entry in state["log_history"] if "train_loss" not in entry] for state in states]
        assert logs[0] == logs[1], folder


def timeless(entry: dict) -> dict:
    """An entry of the log without times and speeds."""
    return {k: v for k, v in entry.items() if not any(word in k for word in ("second", "hours", "runtime"))}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> str:
    return make_rows(tmp_path_factory.mktemp("walk") / "data", 20)


@pytest.mark.timeout(7200)
def test_walks_end_with_the_straight_runs_bits(rows, tmp_path):
    walks: dict[int, Walk] = {}
    met: Counter[str] = Counter()
    for seed in range(SEED, SEED + WALKS):
        kind = seed % len(KINDS)
        if kind not in walks:
            walks[kind] = Walk(tmp_path / str(kind), rows, **KINDS[kind])
        ways = walks[kind].walk(seed)
        met.update(ways)
        print(f"{seed}: {KINDS[kind]}, {', '.join(ways) or 'not ended'}", flush=True)
    print(dict(met), flush=True)
    assert met.total() >= WALKS
    assert WALKS < 30 or {*met} == {*WAYS}


def commanded(words: list[str], number: int | None, step: int) -> None:
    """The command; at the start of a step the process sends itself a signal."""
    from hf_radmae.cli.pretrain import main
    from hf_radmae.pretraining.trainer import RadMAETrainer

    train_step = RadMAETrainer.training_step

    def training_step(self, *args, **kwargs):
        if number is not None and self.state.global_step == step:
            os.kill(os.getpid(), number)
        return train_step(self, *args, **kwargs)

    RadMAETrainer.training_step = training_step
    sys.argv = ["pretrain", *words]
    main()


def test_results_of_a_command_that_was_ended_twice_are_the_straight_ones_but_for_times(tmp_path):
    """Ended in its second epoch, and at the last step of it, where the evaluation of the epoch is due."""
    images = tmp_path / "images"
    for number in range(24):
        path = images / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, (40, 24 + 8 * (number % 3)), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    words = ["--dataset", "imagefolder", "--data_dir", str(images), "--max_tokens", "30", "--num_train_epochs", "3"]
    words += ["--per_device_train_batch_size", "4", "--dataloader_num_workers", "0", "--figure_images", "0"]
    words += ["--disable_tqdm", "true", "--probe_column", "label"]
    runs = {}
    for name in ("straight", "ended"):
        folder = tmp_path / name / "run"
        options = {"words": [*words, "--output_dir", str(folder)]}
        if name == "ended":
            state = json.loads((checkpoints_in(runs["straight"])[0] / "trainer_state.json").read_text())
            last = state["max_steps"] // 3 * 2 - 1
            for number, step in ((signal.SIGKILL, last - 1), (signal.SIGTERM, last)):
                world = World(commanded, number=int(number), step=step, **options)
                world.processes[0].join(400)
                assert world.processes[0].exitcode == (-9 if number == signal.SIGKILL else EXIT_CODE)
            assert json.loads((folder / "results.json").read_text())["status"] == "stopped"
        World(commanded, number=None, step=-1, **options).wait(400)
        runs[name] = folder
    straight, ended = (json.loads((folder / "results.json").read_text()) for folder in runs.values())
    assert straight["status"] == "finished"
    for found in (straight, ended):
        found["training"] = timeless(found["training"])
    assert ended == straight
    states = [load_file(folder / "mae" / "model.safetensors") for folder in runs.values()]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
