"""What every command does with an error: one line that says what to do, and no traceback unless `--debug` is given."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

from hf_radmae.images.remote import redacted

EXPECTED = (ValueError, OSError, ImportError)
"""Errors whose text is written for the person who started the command."""


def command(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap the `main` of a command.

    `--debug`, anywhere on the command line, leaves errors as they are. An interrupt exits with code 130, an error with
    code 1.
    """

    @functools.wraps(main)
    def run() -> None:
        if "--debug" in sys.argv[1:]:
            sys.argv[1:] = [word for word in sys.argv[1:] if word != "--debug"]
            return main()
        try:
            return main()
        except KeyboardInterrupt:
            sys.exit(130)
        except Exception as error:
            sys.exit(f"{Path(sys.argv[0]).name}: {describe(error)}")

    return run


def describe(error: Exception) -> str:
    """The text of an error; one that crossed a process brings a traceback, of which the last line is kept."""
    text = redacted(str(error).strip())
    if "Traceback (most recent call last)" in text:
        text = text.splitlines()[-1]
    ours = type(error).__module__.startswith("hf_radmae")
    if (ours or isinstance(error, EXPECTED)) and text:
        return f"error: {text}"
    return f"{type(error).__name__}: {text} (--debug shows where it was raised)"
