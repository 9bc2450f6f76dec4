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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from hf_radmae import __version__
from hf_radmae.batching.ranks import from_main, is_main, on_main, rank_and_size, wait_until_seen
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
    """Runs steps whose result is not there yet, and reads the others; every process of a run calls it alike.

    The first process alone looks for files that were written before, and says what is missing: on network storage
    another machine may see them late.

    Args:
        folder: of the results, one file a step.
        bar: shows the step, and how many are done.
        **shared: inputs that every step has.

    Attributes:
        seconds: name of each step that was asked for -> seconds that it took, when it was run.
        ran: names of the steps that this process ran.
    """

    def __init__(self, folder: str | Path, bar: tqdm | None = None, **shared: Any) -> None:
        self.folder, self.shared = Path(folder), shared
        self.bar = tqdm(disable=True) if bar is None else bar
        self.folder.mkdir(parents=True, exist_ok=True)
        self.seconds: dict[str, float] = {}
        self.ran: list[str] = []
        self._written: set[Path] = set()  # by any process, of which the first one knows

    def __call__(self, name: str, function: Callable[[Path], Mapping[str, Any]], **inputs: Any) -> dict[str, Any]:
        """The result of `function(folder)`, read where it is there.

        Args:
            name: of the step, unique in a study.
            function: takes a folder of its own for files that it wants to keep, such as checkpoints, and finds what it
                left there if it was ended. Returns what can be written as JSON; arrays become lists. Every process runs
                it, and the first one's result is that of all.
            **inputs: all that decides the result.
        """
        step = Step(name, function, inputs)
        self.bar.set_postfix_str(name)
        record = from_main(lambda: self._known(step))
        if record is None:
            result, seconds = self._run(step)
            record = from_main(lambda: self._write(step, result, seconds))
        self.bar.update()
        return self._result(record)

    def each(self, steps: Sequence[Step]) -> list[dict[str, Any]]:
        """The results of steps that do not depend on each other, each taken by one process.

        A step's file is written as soon as it is done, by the process that has done it. The first process gets all of
        each result; the others get what is not a list, such as a score.

        Args:
            steps: the same on every process.
        """
        self.bar.set_postfix_str(f"{len(steps)} steps")
        known: list[Any] = [self._known(step) for step in steps] if is_main() else []
        missing = from_main(lambda: [number for number, record in enumerate(known) if record is None])
        self.bar.update(len(steps) - len(missing))
        mine: dict[int, dict[str, Any]] = {}
        for place in _share([steps[number].cost for number in missing], *rank_and_size()):
            step = steps[missing[place]]
            mine[missing[place]] = self._write(step, *self._run(step))
            self.bar.update()
        found = on_main(mine)
        if found is not None:
            for number, record in (pair for part in found for pair in part.items()):
                known[number] = record
                self._written.add(self.path(steps[number].name, **steps[number].inputs))
        self.bar.update(len(missing) - len(mine))
        short = from_main(lambda: [_without_lists(record) for record in known])
        return [self._result(record) for record in (known if is_main() else short)]

    def _known(self, step: Step) -> dict[str, Any] | None:
        """The record of a step that was done; what another process has written is waited for."""
        path = self.path(step.name, **step.inputs)
        if path in self._written:
            wait_until_seen(path)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def _run(self, step: Step) -> tuple[Mapping[str, Any], float]:
        """Does a step: its result, and how many seconds it took."""
        logger.info("%s ...", step.name)
        start = time.perf_counter()
        result = step.function(self.path(step.name, **step.inputs).with_suffix(""))
        seconds = time.perf_counter() - start
        self.ran.append(step.name)
        logger.info("%s: %.0f s", step.name, seconds)
        return result, seconds

    def _write(self, step: Step, result: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Writes the record of a step, and gives it."""
        path = self.path(step.name, **step.inputs)
        folder = path.with_suffix("")
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        inputs = {**step.inputs, **self.shared}
        record = {"step": step.name, "inputs": inputs, "seconds": seconds, "result": result}
        text = json.dumps(record, default=_plain, allow_nan=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
        return json.loads(text)  # the same types as when it is read

    def _result(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The result of a record, whose time is added to those of the study."""
        self.seconds[record["step"]] = record["seconds"]
        return record["result"]

    def path(self, name: str, **inputs: Any) -> Path:
        """The file of a step; another version of the package has files of its own."""
        name = re.sub(r"[^A-Za-z0-9_.]+", "-", name)[:100]
        return self.folder / f"{name}-{fingerprint([__version__, inputs | self.shared])}.json"


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Notes under a name the seconds of what is done each time, and is no step."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def _without_lists(record: Mapping[str, Any]) -> dict[str, Any]:
    result = {name: value for name, value in record["result"].items() if not isinstance(value, list)}
    return {**record, "result": result}


def _share(costs: Sequence[float], rank: int, size: int) -> list[int]:
    """The numbers of the jobs of one of several processes: the next dearest one goes to whoever has least to do."""
    load, found = np.zeros(size), []
    for number in sorted(range(len(costs)), key=lambda number: -costs[number]):
        least = int(load.argmin())
        load[least] += costs[number]
        if least == rank:
            found.append(number)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a step's result holds a {type(value).__name__}, which is no JSON")
