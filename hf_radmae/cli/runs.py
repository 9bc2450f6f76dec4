"""What training commands share: a folder of their own, where a run resumes, whether it is finished, what it skipped."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from transformers import TrainingArguments

from hf_radmae.batching.ranks import from_main
from hf_radmae.batching.skipped import SkippedImages
from hf_radmae.cli.results import save_results
from hf_radmae.pretraining.checkpoints import OtherOptionsError, archive, choose_checkpoint, discard_newer
from hf_radmae.pretraining.devices import use_available_cores
from hf_radmae.pretraining.interrupts import Stopped, end_with_launcher
from hf_radmae.pretraining.results import environment
from hf_radmae.pretraining.run_folder import RunFolder
from hf_radmae.pretraining.training_args import RadMAETrainingArguments

_SAFE_TO_CHANGE = ("data_dir", "cache", "probe_column", "rivals")
"""Options of data and network that alter nothing that is learned."""
FINISHED, STOPPED = "finished", "stopped"


class LastingStream:
    """A standard stream whose reader may go away (a closed terminal, `| head`): the training does not end with it."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop what nobody reads."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Flush, where there is a reader."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        if error.errno in (errno.EPIPE, errno.EIO):  # for good: what waits in the buffer would fail again at the exit
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def own_folder(args: RadMAETrainingArguments) -> Iterator[Callable[..., Any]]:
    """Runs in the output folder, which nobody else writes to, on the cores of this process; gives a `print`.

    The first process alone prints. It tells how a training was stopped.
    """
    end_with_launcher()
    if args.use_cpu:  # for whoever asks Accelerate anew which processes there are
        os.environ["ACCELERATE_USE_CPU"] = "true"
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, LastingStream(stream)) for stream in streams)
    try:
        with RunFolder(args.output_dir, owner=args.process_index == 0):
            use_available_cores(args)
            say: Callable[..., Any] = print if args.process_index == 0 else lambda *_: None
            try:
                yield say
            except Stopped as stopped:
                say(f"S{str(stopped)[1:]}. The same command continues the run.")
                raise
    finally:
        sys.stdout, sys.stderr = streams


def options_of(args: RadMAETrainingArguments, *others: Any) -> dict[str, Any]:
    """All options that alter what is learned, ready for JSON; folders by their names alone."""
    found: dict[str, Any] = {"seed": args.seed, **args.options_that_matter()}
    if args.auto_epochs:
        found["num_train_epochs"] = "auto"  # the number of images, which is not known here, decides
    for other in others:
        for option in dataclasses.fields(other):
            if option.name not in _SAFE_TO_CHANGE:
                value = getattr(other, option.name)
                is_path = isinstance(value, str) and "/" in value
                found[option.name] = Path(value).name if is_path else value
    return json.loads(json.dumps(found, default=str))


def used_options(args: TrainingArguments) -> dict[str, Any]:
    """The options of a training that differ from transformers' defaults, without folders, tokens and names."""
    default = {option.name: option.default for option in dataclasses.fields(TrainingArguments)}
    always = ("seed", "learning_rate", "weight_decay", "num_train_epochs", "per_device_train_batch_size")
    options = args.to_dict().items()
    values = {name: value for name, value in options if name in always or value != default.get(name)}
    private = (
        "output_dir",
        "hub_",
        "run_name",
        "logging_dir",
        "resume",
        "local_rank",
        "deepspeed",
        "accelerator_config",
    )
    return {name: value for name, value in values.items() if not name.startswith(private)}


def finished(folder: Path, options: Mapping[str, Any], resume: str) -> dict[str, Any] | None:
    """The results of a run that has finished in a folder with these options, or None where there is something to do.

    Raises:
        OtherOptionsError: it has finished with other options.
    """
    if resume != "auto":
        return None
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    before = results.get("decided_by")
    if results.get("status") != FINISHED or before is None:
        return None
    endless = {"num_train_epochs", "max_steps"} - options.keys()  # of a schedule that may be made longer
    changed = [
        f"{name} was {before.get(name)}, now {options.get(name)}"
        for name in sorted({*before, *options} - endless)
        if before.get(name) != options.get(name)
    ]
    if changed:
        raise OtherOptionsError(
            f"{folder} holds a finished run with other options: {'; '.join(changed)}. Give another --output_dir; or "
            "start anew in it with --resume none, or from its weights with --resume weights"
        )
    return results


def opening(args: RadMAETrainingArguments, decided_by: Mapping[str, Any]) -> dict[str, Any]:
    """What the results of a run begin with; `decided_by` are its `options_of`."""
    return {
        "name": Path(args.output_dir).name,
        "status": FINISHED,
        "environment": environment(),
        "decided_by": decided_by,
        "arguments": used_options(args),
    }


def save_stopped(results: Mapping[str, Any], args: RadMAETrainingArguments, stopped: Stopped, **more: Any) -> None:
    """Save results that say that the run was asked to stop, with what `more` there is of its training."""
    if args.process_index == 0:
        training = {**more, "stopped_by": stopped.reason}
        save_results({**results, "status": STOPPED, "training": training}, args.output_dir)


def skipped_images(
    args: RadMAETrainingArguments, images: int, unreadable: Sequence[Mapping[str, Any]]
) -> SkippedImages:
    """The list of a run's unusable images, which all processes count alike and the first one writes.

    Args:
        args: of the run.
        images: that were loaded, over all splits.
        unreadable: what the source left out.

    Raises:
        TooManySkippedError: see `SkippedImages.add`.
    """
    skipped = SkippedImages(Path(args.output_dir, "skipped.csv"), images + len(unreadable), args.max_skipped_share)
    skipped.add(unreadable, write=args.process_index == 0)
    return skipped


def start_of(args: RadMAETrainingArguments, say: Callable[[str], Any]) -> tuple[str | None, str | None]:
    """The checkpoint to resume, or the one whose weights a new schedule starts from; both None for a start anew.

    Checkpoints and results that are in the way of a new schedule are moved into `previous`.

    Raises:
        CheckpointError: see `choose_checkpoint`.
    """

    def choose() -> tuple[str | None, str | None]:
        chosen = choose_checkpoint(args.resume, args.output_dir)
        if args.resume in ("none", "weights"):
            moved = archive(args.output_dir)
            if moved is not None:
                say(f"The checkpoints that were in {args.output_dir} are in {moved} now.")
            if chosen is None:
                return None, None
            weights = str(moved / Path(chosen).name) if moved else chosen
            say(f"A new schedule starts from the weights of {weights}: optimiser and steps begin anew.")
            return None, weights
        if args.resume == "auto":
            discard_newer(chosen, args.output_dir)
        if chosen:
            say(f"Resuming from {chosen}; give another --output_dir, or --resume none, to start anew.")
        return chosen, None

    return from_main(choose)
