"""A run that is asked to end saves at its next step, and ends with an exit code of its own.

SIGTERM and SIGUSR1 are what Slurm, Kubernetes and machines that may be taken away send, SIGHUP is what a terminal sends
when it is closed (not to a process that `nohup` started). A launcher that dies counts as a request too: `accelerate
launch` does not pass SIGTERM to the process that it started. Such signals often go to all processes of a job, so loader
workers ignore them: the batches that are on their way are still needed.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.queues import Queue
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments

EXIT_CODE = 75
"""Of a process that was asked to end, saved a checkpoint and can be started again (EX_TEMPFAIL of sysexits.h)."""
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
_PR_SET_PDEATHSIG = 1


class Stopped(SystemExit):
    """A training was asked to end; without a handler the process exits with `EXIT_CODE`.

    Attributes:
        reason: the signal's name, or "the launcher ended".
        checkpoint: the folder that was saved, or None where the training does not write any.
    """

    def __init__(self, reason: str, checkpoint: str | None):
        super().__init__(EXIT_CODE)
        self.reason, self.checkpoint = reason, checkpoint

    def __str__(self) -> str:
        return f"stopped by {self.reason}, {f'saved {self.checkpoint}' if self.checkpoint else 'nothing was saved'}"


class StopOnRequest(TrainerCallback):
    """Saves and ends a training at the step after SIGTERM, SIGUSR1, SIGHUP or the end of the launcher.

    Attributes:
        reason: why this process was asked to end, or None.
        votes: ranks that were asked to end, as the last reduction of the step found them; a tensor on any device, set
            by the trainer where there are several ranks, so that all of them save at the same step.
        postponed: whether an evaluation was due at the step at which the training stops. It may take longer than the
            time that is left, so the resumed run makes it.
        saves: whether a request saves a checkpoint. One of a training that keeps its best weights in memory would be
            resumed without them.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.votes: torch.Tensor | None = None
        self.postponed = False
        self.saves = True
        self._before: dict[int, Any] = {}
        self._parent = os.getppid()

    def on_train_begin(self, args, state, control, **kwargs):
        self.reason = self.votes = None
        self.postponed = False
        self._parent = os.getppid()
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread only
        for number in SIGNALS:
            if signal.getsignal(number) == signal.SIG_IGN:  # as nohup has it
                continue
            self._before[number] = signal.signal(number, self._request)
            if hasattr(signal, "siginterrupt"):  # a read of a file that is under way is continued, not failed
                signal.siginterrupt(number, False)
        end_with_launcher()

    def on_step_end(self, args, state, control, **kwargs):
        if launched() and self.reason is None and os.getppid() != self._parent:
            self.reason = "the end of the launcher"
        if self._agreed(args):
            self.reason = self.reason or "a request to another process"
            if not self.saves:
                self.restore()
                raise Stopped(self.reason, None)
            control.should_save = True
            self.postponed = control.should_evaluate
            control.should_evaluate = False
            control.should_training_stop = True

    def on_save(self, args, state, control, **kwargs):
        if control.should_training_stop and self._agreed(args):
            self.restore()
            raise Stopped(str(self.reason), os.path.join(args.output_dir, f"checkpoint-{state.global_step}"))

    def on_train_end(self, args, state, control, **kwargs):
        self.restore()

    def restore(self) -> None:
        """Put the handlers back that were there before the training."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _agreed(self, args: TrainingArguments) -> bool:
        """Whether to stop: the answer is the same on all ranks, whenever a request reaches one of them."""
        if args.world_size == 1:
            return self.reason is not None
        return self.votes is not None and bool(self.votes > 0)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.reason = signal.Signals(number).name


def end_with_launcher() -> None:
    """Have this process get SIGTERM when its launcher ends, however that ends; without a launcher nothing changes.

    Without one the parent may be a shell that is left while the training runs.
    """
    if launched() and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


def start_worker(worker: int = 0) -> None:
    """A loader worker's `worker_init_fn`: it ends when its own process asks it to, or a batch is lost, and not before.

    Signals of others are ignored. A batch that cannot be handed over, where shared memory is full, is lost with no more
    than a traceback, and the training would wait for it for ever: the worker ends in its place, which ends the run.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]  # a hook that typeshed lacks
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def wait() -> None:
        while signal.sigwaitinfo(SIGNALS).si_pid != parent.pid:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _end_worker(error: Exception, item: Any) -> None:
    print(
        f"A loader worker cannot hand over a batch: {error}. Is shared memory (/dev/shm) full? Make it larger, as with "
        "docker run --shm-size=8g, or give --dataloader_num_workers 0",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def launched() -> bool:
    """Whether `accelerate launch` or `torchrun` started this process."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
