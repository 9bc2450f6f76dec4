"""A step is done once: what is on disk is read, what is half written is not there, what has other inputs is another."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hf_radmae.study import steps as module
from hf_radmae.study.steps import Steps, fingerprint

# The module alone, for the package imports for seconds.
KILLED = """
import runpy, sys, time
from pathlib import Path
steps = runpy.run_path(sys.argv[2])["Steps"](sys.argv[1])
for number in range(6):
    def work(folder):
        Path(sys.argv[1], "worked").open("a").write(f"{number} ")
        time.sleep(0.3)
        return {"number": number}
    steps("work", work, number=number)
"""


def test_a_step_runs_once_and_reads_the_same_result_that_it_returned(tmp_path):
    runs = []

    def work(folder: Path) -> dict:
        runs.append(folder)
        return {"array": np.arange(3), "pair": (1, 2.5), "none": None}

    first = Steps(tmp_path)("a name, 1 %", work, rate=0.1)
    steps = Steps(tmp_path)
    again = steps("a name, 1 %", work, rate=0.1)
    assert first == again == {"array": [0, 1, 2], "pair": [1, 2.5], "none": None}
    assert len(runs) == 1 and steps.ran == [] and steps.seconds["a name, 1 %"] >= 0


def test_only_a_step_with_other_inputs_is_another_and_the_old_one_is_kept(tmp_path):
    steps = Steps(tmp_path)
    for rate in (0.1, 0.2, 0.1):
        steps("train", lambda _, rate=rate: {"rate": rate}, rate=rate)
    steps("test", lambda _: {}, rate=0.1)
    assert steps.ran == ["train", "train", "test"]
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": (2,), "a": 1}) != fingerprint({"a": 1, "b": [3]})


def test_a_result_that_is_no_json_or_not_a_number_leaves_nothing_behind(tmp_path):
    steps = Steps(tmp_path)
    with pytest.raises(TypeError, match="a step's result holds a set"):
        steps("bad", lambda _: {"x": {1}})
    with pytest.raises(ValueError, match="Out of range float"):
        steps("bad", lambda _: {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_step_has_a_folder_of_its_own_where_it_finds_what_it_left(tmp_path):
    steps = Steps(tmp_path)

    def unlucky(folder: Path) -> dict:
        found = folder.is_dir()
        folder.mkdir(exist_ok=True)
        if not found:
            raise RuntimeError("ended")
        (folder / "weights").write_text("w")
        return {"found": found}

    with pytest.raises(RuntimeError, match="ended"):
        steps("train", unlucky, seed=1)
    assert steps("train", unlucky, seed=1) == {"found": True}
    steps("empty", lambda folder: folder.mkdir() or {}, seed=1)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [steps.path("train", seed=1).stem]


def test_killed_at_any_point_no_finished_step_is_repeated(tmp_path):
    for _ in range(12):
        run = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), module.__file__])
        before = len(list(tmp_path.glob("*.json")))
        while run.poll() is None and len(list(tmp_path.glob("*.json"))) < before + 2:
            time.sleep(0.02)
        run.kill()
        if run.wait() == 0:
            break
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert sorted(record["result"]["number"] for record in records) == list(range(6))
    worked = (tmp_path / "worked").read_text().split()
    assert worked == sorted(worked) and set(worked) == set("012345"), "started again only where it was ended"
    assert len(worked) <= 6 + 3, "each kill costs the step that it hits, and no other"
