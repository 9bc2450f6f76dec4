"""Runs the step again at which a pre-training diverged, and names the first number that is none.

    hf-radmae replay out/mine/diverged

A training that meets a loss or gradient that is NaN or infinite ends with an error and saves the step that led there in
`diverged` in its output folder: the weights from which it started, its batches, and its random states.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from transformers import ViTMAEConfig

from hf_radmae.cli.command import command
from hf_radmae.cli.parse import parse
from hf_radmae.models.mae import RadMAEForPreTraining
from hf_radmae.pretraining.divergence import FOLDER, replay


@dataclass
class ReplayArguments:
    """What is run again."""

    folder: str = field(metadata={"help": "Folder `diverged` of a run, or the run's folder."})


@command
def main(words: list[str] | None = None) -> None:
    import sys

    argv = list(sys.argv[1:] if words is None else words)
    if argv and not argv[0].startswith("-"):
        argv[:1] = ["--folder", argv[0]]
    (args,) = parse((ReplayArguments,), argv, description=__doc__)
    folder = Path(args.folder)
    if (folder / FOLDER).is_dir():
        folder = folder / FOLDER
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no record of a diverged training: config.json is missing")
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind != ViTMAEConfig.model_type:
        raise ValueError(
            f"{folder} is of a {kind}: a step of pre-training ({ViTMAEConfig.model_type}) can be run again"
        )
    found = replay(folder, RadMAEForPreTraining(ViTMAEConfig.from_pretrained(folder)))
    print(f"Step {found['step']}, learning rate {found['learning_rate']:g}, losses {found['losses']}.")
    print(f"First module whose output is not finite: {found['first'] or 'none'}.")
    print(f"Gradients that are not finite: {', '.join(found['gradients'][:8]) or 'none'} ({len(found['gradients'])}).")
    if found["weights"]:
        print(f"The weights were not finite before: {found['weights']}.")
