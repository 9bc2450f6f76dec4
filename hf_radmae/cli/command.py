"""What every command does with an error: one line that says what to do, and no traceback unless `--debug` is given."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_radmae.images.remote import redacted

EXPECTED = (ValueError, OSError, ImportError)
"""Errors whose text is written for the person who started the command."""


OTHERS_WAIT = 5.0
"""Seconds that another process than the first waits before it tells an error: a launcher ends it before that, where the
first one has told the same error, or a process has ended whose message says why."""


def command(main: Callable[[], None] | None = None, *, many: bool = False) -> Callable[..., Any]:
    """Wrap the `main` of a command.

    `--debug`, anywhere on the command line, leaves errors as they are. An interrupt exits with code 130, an error with
    code 1.

    Args:
        main: of the command.
        many: whether it runs on the processes of `accelerate launch` or `torchrun`. If not, it is refused there.
    """
    if main is None:
        return functools.partial(command, many=many)

    @functools.wraps(main)
    def run() -> None:
        if "--debug" in sys.argv[1:]:
            sys.argv[1:] = [word for word in sys.argv[1:] if word != "--debug"]
            return main()
        rank, size = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
        if size > 1 and not many:
            # The others end without an error: their launcher would end the first process before it has said anything.
            text = f"runs in one process, and {size} were started: start it without accelerate launch or torchrun"
            sys.exit(f"{Path(sys.argv[0]).name}: error: {text}" if rank == 0 else 0)
        if size > 1:
            _use_cpu_where_there_is_nothing_else()
        try:
            return main()
        except KeyboardInterrupt:
            sys.exit(130)
        except Exception as error:
            message = f"{Path(sys.argv[0]).name}: {describe(error)}"
            if size == 1:
                sys.exit(message)
            if rank or _of_another_process(error):
                time.sleep(OTHERS_WAIT)
            print(message, file=sys.stderr, flush=True)
            sys.stdout.flush()
            os._exit(1)  # without waiting for the other processes, which an ordinary exit may do

    return run


def _use_cpu_where_there_is_nothing_else() -> None:
    """Without this Accelerate takes each of several processes on a machine without a GPU for the only one."""
    import torch

    if not torch.accelerator.is_available() or torch.backends.mps.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")


def _of_another_process(error: Exception) -> bool:
    """Whether an error only says that another process has ended, or has failed."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"OtherProcessError", "DistError"}) or "gloo/transport" in str(error)


def describe(error: Exception) -> str:
    """The text of an error; one that crossed a process brings a traceback, of which the last line is kept."""
    if _of_another_process(error):
        return "error: another process of this run has ended; its own message, if it left one, says why"
    text = redacted(str(error).strip())
    ours = type(error).__module__.startswith("hf_radmae")
    if "Traceback (most recent call last)" in text:
        text = text.splitlines()[-1]
        if text.startswith("hf_radmae."):  # torch makes a RuntimeError of what takes more than a message
            ours, text = True, text.partition(": ")[2]
    if (ours or isinstance(error, EXPECTED)) and text:
        return f"error: {text}"
    return f"{type(error).__name__}: {text} (--debug shows where it was raised)"
