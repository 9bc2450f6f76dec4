"""Going on where a run was ended: from which checkpoint, and whether the batches that remain are the same.

A checkpoint holds what the order of its batches follows from. Where that stays the same, a resumed run is exact: for
any number of loader workers, and, unless it streams, for any split of the same global batch over ranks and gradient
accumulation. Where it does not, the place in the epoch is another one, and the run is refused unless it is told that
the epoch may begin anew.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

logger = logging.getLogger(__name__)

FILE = "batches.json"


class OtherBatchesError(ValueError):
    """The batches of a checkpoint cannot be gone on with: they followed from other images, bins or batch sizes."""


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """The newest checkpoint of a run that was written to its end, or None.

    Trainer writes `trainer_state.json` last, so a checkpoint without it was cut off by whatever ended the run.
    """
    folders = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    complete = [f for f in folders if (f / "trainer_state.json").is_file() and f.name.split("-")[-1].isdigit()]
    return str(max(complete, key=lambda folder: int(folder.name.split("-")[-1]))) if complete else None


def save_order(checkpoint: str | Path, order: dict[str, Any], split: dict[str, Any]) -> None:
    """Writes into a checkpoint what its batches follow from (`order`) and how they were cut (`split`)."""
    Path(checkpoint).mkdir(parents=True, exist_ok=True)
    Path(checkpoint, FILE).write_text(json.dumps({"order": order, "split": split}, indent=1) + "\n", encoding="utf-8")


def check_order(checkpoint: str | Path, order: dict[str, Any], split: dict[str, Any], *, begin_anew: bool) -> None:
    """Compares a run with the checkpoint that it is to go on from; says so in the log where the split alone changed.

    Args:
        order, split: as for `save_order`, of the new run.
        begin_anew: go on even from another order, at the beginning of the epoch.

    Raises:
        OtherBatchesError: the order is another one, or the checkpoint does not tell, and `begin_anew` is false.
    """
    name, path = Path(checkpoint).name, Path(checkpoint, FILE)
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"order": {}, "split": {}}
    if changed := _differences(before["order"], order):
        found = (
            f"{name} was made with other batches: {'; '.join(changed)} ({_text(before['split'])}; now {_text(split)})"
        )
        if not begin_anew:
            raise OtherBatchesError(
                f"{found}. Its place in the epoch means nothing for this run. Exact is the same data, bins and seed "
                "with the same ranks x batch size x gradient accumulation (streaming: each of the three). To go on all "
                "the same, begin the epoch that was cut off anew with --ignore_data_skip true; or train from the "
                "weights alone with --model and another --output_dir."
            )
        logger.warning("%s. The epoch begins anew: some of its images come more often than others.", found)
    elif before["split"] != split:
        logger.warning(
            "%s was made on %s, and this run goes on with %s. The batches that remain are those of the straight run; "
            "sums over them are taken in another order, so that weights agree up to rounding.",
            name,
            _text(before["split"]),
            _text(split),
        )


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [
        f"{name} was {before.get(name, 'not written down')}, now {now.get(name, 'not used')}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]


def _text(split: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in split.items()) or "a split not written down"
