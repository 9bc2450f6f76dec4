"""Real training processes for tests: one or several ranks (gloo) that can be killed, forked where all is imported."""

import multiprocessing as mp
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

CONTEXT = mp.get_context("forkserver")
CONTEXT.set_forkserver_preload(["runs", "pytest", "hf_radmae.classification.trainer"])


def start_forkserver() -> None:
    """Starts the process that the ranks are forked from, which finds the modules of this folder."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *([before] if before else [])])
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


class World:
    """`world_size` processes that run `target(**arguments)`, with the environment that torchrun would give them."""

    def __init__(self, target: Callable, world_size: int = 1, **arguments: Any):
        start_forkserver()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.processes = [
            CONTEXT.Process(target=_run, args=(rank, world_size, port, target, arguments)) for rank in range(world_size)
        ]
        for process in self.processes:
            process.start()

    def wait(self, timeout: float = 300) -> None:
        """Waits for the end, and fails where a process failed or hangs."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        self.kill()
        assert codes == [0] * len(codes), f"exit codes {codes} (None: still running after {timeout} s)"

    def kill(self) -> None:
        """SIGKILL to every rank and the loader workers that it started."""
        for process in self.processes:
            if process.is_alive():
                os.killpg(process.pid, signal.SIGKILL)
        for process in self.processes:
            process.join()


def _run(rank: int, world_size: int, port: int, target: Callable, arguments: dict[str, Any]) -> None:
    os.setpgrp()
    mp.set_start_method("fork", force=True)  # loader workers as they are outside of tests
    if world_size > 1:
        os.environ |= {
            "ACCELERATE_USE_CPU": "1",
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    target(**arguments)
