"""What training commands share: where a run resumes, whether it is finished, and what its results say of that."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainingArguments

from hf_radmae.pretraining.checkpoints import OtherOptionsError, archive, choose_checkpoint, discard_newer
from hf_radmae.pretraining.training_args import RadMAETrainingArguments

_SAFE_TO_CHANGE = ("data_dir", "cache", "probe_column", "rivals")
"""Options of data and network that alter nothing that is learned."""
FINISHED, STOPPED = "finished", "stopped"


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


def start_of(args: RadMAETrainingArguments, say: Callable[[str], Any]) -> tuple[str | None, str | None]:
    """The checkpoint to resume, or the one whose weights a new schedule starts from; both None for a start anew.

    Checkpoints and results that are in the way of a new schedule are moved into `previous`.

    Raises:
        CheckpointError: see `choose_checkpoint`.
    """
    found: list[str | None] = [None, None]
    if args.process_index == 0:
        chosen = choose_checkpoint(args.resume, args.output_dir)
        if args.resume in ("none", "weights"):
            moved = archive(args.output_dir)
            if moved is not None:
                say(f"The checkpoints that were in {args.output_dir} are in {moved} now.")
            if chosen is not None:
                found[1] = str(moved / Path(chosen).name) if moved else chosen
                say(f"A new schedule starts from the weights of {found[1]}: optimiser and steps begin anew.")
        else:
            found[0] = chosen
            if args.resume == "auto":
                discard_newer(chosen, args.output_dir)
            if chosen:
                say(f"Resuming from {chosen}; give another --output_dir, or --resume none, to start anew.")
    if args.world_size > 1:
        broadcast_object_list(found)
    return found[0], found[1]
