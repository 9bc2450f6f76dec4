"""What the processor offers: the cores of this process, fewer than the machine's in a container, and bfloat16."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments

from hf_radmae.pretraining.interrupts import launched

logger = logging.getLogger(__name__)

_CGROUP = Path("/sys/fs/cgroup")
_RANKS = ("RANK", "LOCAL_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def available_cores() -> int:
    """Cores of this process: by affinity and by the quota of its control group, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(cores, *_quotas()))


def _quotas() -> list[int]:
    """The quota of processor time in whole cores, of control groups of version 2 and 1; none where there is none."""
    found = []
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((_CGROUP / name).read_text() for name in names).split()
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):
            continue
        if quota > 0 and period > 0:
            found.append(max(1, round(quota / period)))
    return found or [2**16]


def use_available_cores(args: TrainingArguments) -> None:
    """Give a run on the CPU its share of the cores: launchers set OMP_NUM_THREADS to 1 where it is unset.

    A number of threads that the user gave stays.
    """
    if args.device.type != "cpu":
        return
    given = os.environ.get("OMP_NUM_THREADS")
    if given is None or (launched() and given == "1" and not _launcher_was_given_threads()):
        here = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if args.world_size > 1 else 1
        torch.set_num_threads(max(1, available_cores() // here))


def _launcher_was_given_threads() -> bool:
    """Whether OMP_NUM_THREADS was set for the launcher itself; False where the system does not show it."""
    try:
        return b"\0OMP_NUM_THREADS=" in b"\0" + Path(f"/proc/{os.getppid()}/environ").read_bytes()
    except OSError:
        return False


def check_ranks(use_cpu: bool) -> None:
    """Check that a number of processes in the environment comes from a launcher, which numbers them too.

    Raises:
        ValueError: it does not: on a CPU this process would wait half an hour for others that nobody starts.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    on_cpu = use_cpu or parse_flag_from_env("ACCELERATE_USE_CPU")
    if on_cpu and size != "1" and not any(name in os.environ for name in _RANKS):
        raise ValueError(
            f"WORLD_SIZE is {size} in the environment and RANK is not set: unset WORLD_SIZE to train on one process, "
            "or start the processes with accelerate launch or torchrun"
        )


def warn_of_slow_bf16(args: TrainingArguments) -> None:
    """Warns where `--bf16` runs on a processor that has to emulate it."""
    if args.bf16 and args.device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        if not any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")):
            logger.warning(
                "--bf16 on a CPU without bfloat16 instructions was measured to be 15 times slower than float32: leave "
                "it out here."
            )
