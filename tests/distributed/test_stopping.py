"""Two ranks under a launcher: whoever gets a signal, all ranks end soon, and where they were asked to they save."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import make_rows

from hf_radmae.pretraining.checkpoints import last_complete_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
LAUNCHERS = {"torchrun": TORCHRUN, "accelerate": [*ACCELERATE, "--num_machines", "1", "--mixed_precision", "no"]}
EVENTS = {
    "TERM to a rank": (signal.SIGTERM, "rank"),
    "USR1 to a rank": (signal.SIGUSR1, "rank"),
    "TERM to all": (signal.SIGTERM, "all"),
    "TERM to the launcher": (signal.SIGTERM, "launcher"),
    "HUP to the launcher": (signal.SIGHUP, "launcher"),  # a closed terminal
    "KILL to the launcher": (signal.SIGKILL, "launcher"),
    "KILL to a rank": (signal.SIGKILL, "rank"),
}
SOON = 60 * int(os.environ.get("HF_RADMAE_SLOWNESS", "1"))
"""Seconds in which all ranks end; the variable is for machines that do other things beside the test."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> str:
    return make_rows(tmp_path_factory.mktemp("rows") / "data", 60)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("event", EVENTS)
def test_all_ranks_end_soon_and_save_where_they_were_asked_to(rows, tmp_path, launcher, event):
    script, folder, log = Path(__file__).with_name("runs.py"), tmp_path / "run", tmp_path / "log"
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, "-m", *LAUNCHERS[launcher], str(script), rows, str(folder), "1000"]
    with log.open("w") as file:
        process = subprocess.Popen(words, env=environment, start_new_session=True, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 4 * SOON
        while not all((folder / f"trace-{rank}.jsonl").is_file() for rank in range(2)):
            assert time.monotonic() < deadline and process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.1)
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
        ranks = [int(pid) for pid in found.stdout.split()]
        assert len(ranks) == 2
        number, to = EVENTS[event]
        for pid in {"rank": ranks[1:], "all": [*ranks, process.pid], "launcher": [process.pid]}[to]:
            os.kill(pid, number)
        deadline = time.monotonic() + SOON
        while any(running(pid) for pid in [process.pid, *ranks]):
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            process.poll()
            time.sleep(0.1)
        assert process.wait() != 0
        if event == "KILL to a rank":
            assert f"Signal 9 (SIGKILL) received by PID {ranks[1]}" in log.read_text()
        else:
            assert last_complete_checkpoint(folder) is not None, log.read_text()[-3000:]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
