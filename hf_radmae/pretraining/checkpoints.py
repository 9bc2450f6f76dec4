"""Checkpoints that are whole or not used, and runs that resume exactly or are refused.

A checkpoint is complete when `checkpoint.json` in it says so: sizes and hashes of its files, written last, after all of
them have reached the disk. It also holds the options that a training follows from and what its batches follow from.
Where these stay the same, a resumed run is exact: for any number of loader workers, and, unless it streams, for any
split of the same global batch over ranks and gradient accumulation. Where they do not, the resume is refused.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_radmae.images.storage import write_whole

logger = logging.getLogger(__name__)

FILE = "batches.json"
MANIFEST = "checkpoint.json"
PREVIOUS = "previous"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class CheckpointError(ValueError):
    """A checkpoint cannot be resumed from; the text says what is missing or damaged, and what to do."""


class OtherBatchesError(CheckpointError):
    """The batches of a checkpoint cannot be resumed: they followed from other images, bins or batch sizes."""


class OtherOptionsError(CheckpointError):
    """A run has other options than the checkpoint that it is to resume, and they alter what is learned."""


class DiskFullError(OSError):
    """A checkpoint could not be written for lack of space."""


def steps_of(folder: Path) -> int:
    """The optimiser step of a checkpoint's folder, by its name."""
    return int(folder.name.rpartition("-")[2])


def checkpoints_in(output_dir: str | Path) -> list[Path]:
    """The folders of checkpoints of a run, the newest first, complete or not."""
    folders = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    return sorted((f for f in folders if f.is_dir() and f.name.rpartition("-")[2].isdigit()), key=steps_of)[::-1]


def complete(checkpoint: str | Path, **facts: Any) -> None:
    """Write the manifest of a checkpoint after its files have reached the disk: the last thing that makes it complete.

    Args:
        checkpoint: the folder.
        **facts: what else the manifest holds, ready for JSON.
    """
    folder = Path(checkpoint)
    files = {}
    for path in _files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    write_whole(folder / MANIFEST, json.dumps({"files": files, **facts}, indent=1))
    for directory in (folder, folder.parent):  # the names, too
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_manifest(checkpoint: str | Path) -> dict[str, Any] | None:
    """What `complete` wrote, or None where a checkpoint was not written to its end."""
    try:
        found = json.loads(Path(checkpoint, MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "files" in found else None


def damage(checkpoint: str | Path) -> str | None:
    """What is wrong with a checkpoint, or None where every file is as it was written."""
    folder, manifest = Path(checkpoint), read_manifest(checkpoint)
    if manifest is None:
        return "it was not written to its end"
    for name, known in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != known["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, expected {known['bytes']}"
    for name, known in manifest["files"].items():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != known["sha256"]:
                return f"{name} has other content than was written"
    return None


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """The newest complete checkpoint of a run, or None; newer ones that are not complete are named in a warning.

    Raises:
        CheckpointError: no checkpoint is complete, and of one a file was taken away, so that the run could resume from
            its weights alone.
    """
    lacking = None
    for folder in checkpoints_in(output_dir):
        if (found := damage(folder)) is None:
            return str(folder)
        logger.warning("%s is skipped: %s", folder, found)
        lacking = lacking or (f"{folder}: {found}" if found.endswith("is missing") else None)
    if lacking:
        raise CheckpointError(
            f"{lacking}, and no other checkpoint is complete. --resume weights starts a new schedule from its weights, "
            "--resume none starts anew"
        )
    return None


def choose_checkpoint(resume: str, output_dir: str | Path) -> str | None:
    """The checkpoint that `--resume` means, complete, or None for a start from the beginning.

    Args:
        resume: "auto" (the newest complete one), "none", "weights" (as "auto") or the folder of a checkpoint.
        output_dir: of the run.

    Raises:
        CheckpointError: the folder is no checkpoint, or not complete; or there is none to take the weights of.
    """
    if resume == "none":
        return None
    if resume in ("auto", "weights"):
        found = last_complete_checkpoint(output_dir)
        if resume == "weights" and found is None:
            raise CheckpointError(f"--resume weights: {output_dir} holds no complete checkpoint")
        return found
    folder = Path(resume)
    if not folder.is_dir():
        raise CheckpointError(f"--resume {resume}: there is no such folder. {_choices(output_dir)}")
    if (folder / "trainer_state.json").is_file() or read_manifest(folder) is not None:
        if (found := damage(folder)) is not None:
            raise CheckpointError(
                f"--resume {resume}: this checkpoint is not complete, {found}. {_choices(output_dir)}"
            )
        return str(folder)
    raise CheckpointError(f"--resume {resume} is no checkpoint: trainer_state.json is missing. {_choices(folder)}")


def _choices(folder: str | Path) -> str:
    names = ", ".join(path.name for path in checkpoints_in(folder)) or "no checkpoint"
    return f"{folder} holds {names}; expected auto, none, weights or the folder of a checkpoint"


def check_state(checkpoint: str | Path, *, scaler: bool, ranks: int, sharded: bool) -> None:
    """Check that a checkpoint holds all that an exact resume needs.

    Args:
        checkpoint: complete, as `damage` finds it.
        scaler: whether the run scales its loss (fp16).
        ranks: processes of the run.
        sharded: whether model and optimiser are in files of their own (FSDP).

    Raises:
        CheckpointError: optimiser, schedule, scaler or random states are missing; with their names.
    """
    names = {path.relative_to(checkpoint).as_posix() for path in _files(Path(checkpoint))}
    needed = {"trainer_state.json", "scheduler.pt"} | ({"scaler.pt"} if scaler else set())
    if not sharded:
        needed.add("optimizer.pt")
    missing = sorted(needed - names)
    if not any(name.startswith("rng_state") for name in names):
        missing.append("rng_state.pth")
    if missing:
        raise CheckpointError(
            f"{checkpoint} has no {', '.join(missing)}, so that the run cannot resume as it was. --resume weights "
            "starts a new schedule from its weights"
        )
    if ranks > 1 and f"rng_state_{ranks - 1}.pth" not in names:
        logger.warning("%s was made on fewer ranks: the further ones start their random states anew", checkpoint)


def archive(output_dir: str | Path) -> Path | None:
    """Move the checkpoints and results of a run into `previous` in its folder, so that a new one may start there."""
    output_dir = Path(output_dir)
    old = [*checkpoints_in(output_dir), *(p for p in [output_dir / "results.json"] if p.is_file())]
    if not old:
        return None
    number, target = 1, output_dir / PREVIOUS
    while target.exists():
        number, target = number + 1, output_dir / f"{PREVIOUS}-{number + 1}"
    target.mkdir()
    for path in old:
        path.rename(target / path.name)
    return target


def discard_newer(checkpoint: str | Path | None, output_dir: str | Path) -> None:
    """Rename unusable checkpoints newer than the resumed one, which rotation would keep in place of good ones."""
    for folder in checkpoints_in(output_dir):
        if checkpoint is not None and steps_of(folder) <= steps_of(Path(checkpoint)):
            break
        if read_manifest(folder) is None:
            shutil.rmtree(folder)  # it was never finished
        elif damage(folder) is not None:
            shutil.rmtree(target := folder.with_name(f"damaged-{folder.name}"), ignore_errors=True)
            folder.rename(target)


def find_best(state: TrainerState, folder: Path) -> None:
    """Point a state at its best checkpoint in a folder; forget it with a warning where it is gone."""
    if state.best_global_step is None:
        return
    best = folder / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
    if damage(best) is None:
        state.best_model_checkpoint = str(best)
    else:
        logger.warning("the best checkpoint %s is gone or damaged: the best of the rest is taken", best)
        state.best_metric = state.best_model_checkpoint = state.best_global_step = None


def check_options(checkpoint: str | Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Compare the options that alter what is learned.

    Raises:
        OtherOptionsError: some differ; with both values of each.
    """
    if changed := _differences(before, now):
        raise OtherOptionsError(
            f"{checkpoint} was trained with other options: {'; '.join(changed)}. They alter what is learned, so the "
            "run cannot resume with them. Give the options as they were; or start a new schedule from its weights with "
            "--resume weights; or take another --output_dir"
        )


def save_order(checkpoint: str | Path, order: dict[str, Any], split: dict[str, Any]) -> None:
    """Write into a checkpoint what its batches follow from (`order`) and how they were cut (`split`)."""
    Path(checkpoint).mkdir(parents=True, exist_ok=True)
    Path(checkpoint, FILE).write_text(json.dumps({"order": order, "split": split}, indent=1) + "\n", encoding="utf-8")


def check_order(checkpoint: str | Path, order: dict[str, Any], split: dict[str, Any], *, begin_anew: bool) -> None:
    """Compare a run with the checkpoint that it resumes; where the split alone changed, the log says so.

    Args:
        checkpoint: the folder.
        order, split: as for `save_order`, of the new run.
        begin_anew: resume even with another order, at the beginning of the epoch.

    Raises:
        OtherBatchesError: the order is another one, or the checkpoint does not hold it, and `begin_anew` is false.
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
                "with the same ranks x batch size x gradient accumulation (streaming: each of the three). To resume "
                "all the same, begin the epoch that was cut off anew with --ignore_data_skip true; or train from the "
                "weights alone with --resume weights."
            )
        logger.warning("%s. The epoch begins anew: some of its images come more often than others.", found)
    elif before["split"] != split:
        logger.warning(
            "%s was made on %s, and this run resumes with %s. The batches that remain are those of the straight run; "
            "sums over them are taken in another order, so that weights agree up to rounding.",
            name,
            _text(before["split"]),
            _text(split),
        )


def disk_full(error: BaseException, folder: str | Path) -> DiskFullError | None:
    """The error that names a full disk and what to free, where this is what an error means."""
    number = getattr(error, "errno", None)
    text = f"{error} {error.__cause__ or ''} {error.__context__ or ''}"
    known = ["No space left", "os error 28", "os error 122", "os error 27", "quota exceeded", "File too large"]
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        free = 0
    # torch.save names no cause: it finds that a file has become shorter than what was written.
    known += ["PytorchStreamWriter failed", "unexpected pos", "iostream error"]
    if number not in _FULL and not any(part in text for part in known):
        return None
    kept = checkpoints_in(folder)
    size = sum(path.stat().st_size for path in _files(kept[-1])) if kept else 0
    held = ", ".join(path.name for path in kept) or "none"
    return DiskFullError(
        number or errno.ENOSPC,
        f"no space left for a checkpoint in {folder} (or a quota is reached): {free / 2**20:,.0f} MB are free, and one "
        f"takes about {size / 2**20:,.0f} MB. Free some: checkpoints there are {held}, and a smaller "
        "--save_total_limit keeps fewer. Start the same command again to resume from the last complete one",
    )


def _files(folder: Path) -> Iterator[Path]:
    own = (MANIFEST, f".{MANIFEST}.")  # the second: one that an interrupted save left
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(own))


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [
        f"{name} was {before.get(name, 'not written down')}, now {now.get(name, 'not used')}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]


def _text(split: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in split.items()) or "a split not written down"
