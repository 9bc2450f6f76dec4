"""Steps that are done once: a function, the inputs that decide its result, and the result as a JSON file.

A step's file is named by a hash of its inputs, so that a changed option repeats the steps that depend on it and no
others, and going back to the old option finds the old results. A file is written whole or not at all: whatever ends a
study, it is started again and resumes with the first step that has no file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hf_radmae import __version__
from hf_radmae.images.storage import write_whole

logger = logging.getLogger(__name__)


def fingerprint(inputs: Any) -> str:
    """Sixteen hex digits of what can be written as JSON; equal inputs in any order of keys give equal ones."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]


def data_fingerprint(rows: Mapping[str, Any]) -> str:
    """Of the splits of a data set: of its files, as datasets tells them apart, and of what was done with the rows."""
    return fingerprint({split: getattr(part, "_fingerprint", None) for split, part in rows.items()})


class Step(NamedTuple):
    """What is to be done once.

    Attributes:
        name, function, inputs: see `Steps`.
        cost: of the step, compared with others; any unit.
    """

    name: str
    function: Callable[[Path], Mapping[str, Any]]
    inputs: Mapping[str, Any]
    cost: float = 1.0


class Steps:
    """Runs steps whose result is not there yet, and reads the others.

    Args:
        folder: of the results, one file a step.

    Attributes:
        seconds: name of each step that was asked for -> seconds that it took, when it was run.
        ran: names of the steps that this process ran.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.seconds: dict[str, float] = {}
        self.ran: list[str] = []

    def __call__(self, name: str, function: Callable[[Path], Mapping[str, Any]], **inputs: Any) -> dict[str, Any]:
        """The result of `function(folder)`, read where it is there.

        Args:
            name: of the step, unique in a study.
            function: takes a folder of its own for files that it wants to keep, such as checkpoints, and finds what it
                left there if it was ended. Returns what can be written as JSON; arrays become lists.
            **inputs: all that decides the result.
        """
        step = Step(name, function, inputs)
        return self.note(self.known(step) or self.write(step, *self.run(step)))

    def known(self, step: Step) -> dict[str, Any] | None:
        """The record of a step that was done."""
        path = self.path(step.name, **step.inputs)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def run(self, step: Step) -> tuple[Mapping[str, Any], float]:
        """Does a step: its result, and how many seconds it took."""
        logger.info("%s ...", step.name)
        start = time.perf_counter()
        result = step.function(self.path(step.name, **step.inputs).with_suffix(""))
        seconds = time.perf_counter() - start
        self.ran.append(step.name)
        logger.info("%s: %.0f s", step.name, seconds)
        return result, seconds

    def write(self, step: Step, result: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Writes the record of a step, and gives it."""
        path = self.path(step.name, **step.inputs)
        folder = path.with_suffix("")
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        record = {"step": step.name, "inputs": step.inputs, "seconds": seconds, "result": result}
        text = json.dumps(record, default=_plain, allow_nan=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
        return json.loads(text)  # the same types as when it is read

    def note(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The result of a record, whose time is added to those of the study."""
        self.seconds[record["step"]] = record["seconds"]
        return record["result"]

    def path(self, name: str, **inputs: Any) -> Path:
        """The file of a step; another version of the package has files of its own."""
        name = re.sub(r"[^A-Za-z0-9_.]+", "-", name)[:100]
        return self.folder / f"{name}-{fingerprint([__version__, inputs])}.json"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a step's result holds a {type(value).__name__}, which is no JSON")
