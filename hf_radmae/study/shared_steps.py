"""Steps on several processes: those that all take together, and those of which each process takes its share.

The first process alone looks for files that were written before, and says what is missing: on network storage another
machine may see them late.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_radmae.batching.ranks import from_main, is_main, on_main, rank_and_size, wait_until_seen
from hf_radmae.study.steps import Step, Steps


class SharedSteps(Steps):
    """`Steps` that every process of a run calls alike."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self._written: set[Path] = set()  # by any process, of which the first one knows

    def known(self, step: Step) -> dict[str, Any] | None:
        """See `Steps`; what another process has written is waited for."""
        path = self.path(step.name, **step.inputs)
        if path in self._written:
            wait_until_seen(path)
        return super().known(step)

    def __call__(self, name: str, function: Callable[[Path], Mapping[str, Any]], **inputs: Any) -> dict[str, Any]:
        """See `Steps`; every process runs the function, and the first one's result is that of all."""
        step = Step(name, function, inputs)
        record = from_main(lambda: self.known(step))
        if record is None:
            result, seconds = self.run(step)
            record = from_main(lambda: self.write(step, result, seconds))
        return self.note(record)

    def each(self, steps: Sequence[Step], tick: Callable[[int], object] = lambda _: None) -> list[dict[str, Any]]:
        """The results of steps that do not depend on each other, each taken by one process.

        A step's file is written as soon as it is done, by the process that has done it. The first process gets all of
        each result; the others get what is not a list, such as a score.

        Args:
            steps: the same on every process.
            tick: called on the first process with the number of steps that are known to be done.
        """
        known: list[Any] = [self.known(step) for step in steps] if is_main() else []
        missing = from_main(lambda: [number for number, record in enumerate(known) if record is None])
        tick(len(steps) - len(missing))
        mine: dict[int, dict[str, Any]] = {}
        for place in _share([steps[number].cost for number in missing], *rank_and_size()):
            step = steps[missing[place]]
            mine[missing[place]] = self.write(step, *self.run(step))
            tick(1)
        found = on_main(mine)
        if found is not None:
            for number, record in (pair for part in found for pair in part.items()):
                known[number] = record
                self._written.add(self.path(steps[number].name, **steps[number].inputs))
        tick(len(missing) - len(mine))
        short = from_main(lambda: [_without_lists(record) for record in known])
        return [self.note(record) for record in (known if is_main() else short)]


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
