r"""Runs the whole study: pre-training, probes, supervised networks, learning rates, label efficiency, and a report.

On generated radiographs, or on a folder with a metadata.csv of labels:

    python scripts/study.py scripts/recipes/study_tiny.yaml --output_dir out/study
    python scripts/study.py scripts/recipes/study_tiny.yaml --dataset imagefolder --data_dir RADIOGRAPHS \
        --tasks body_region "fracture=label[label_task=fracture]" --output_dir out/study

A recipe (.yaml or .json) may come first; the command line wins over it. Whatever interrupts the run, the same command
resumes with the first step that is not done; with other options it repeats what depends on them. Each step is a file in
OUTPUT_DIR/steps. An encoder that is there already is taken with --mae_checkpoint.

On several GPUs or machines, `accelerate launch scripts/study.py ...` with an OUTPUT_DIR that all of them see: they
pre-train and compute features together, and each trains its share of the supervised networks. As in any training the
batch size is that of each process: divided by their number, bins and tables are those of one.

The output folder then holds report.html (one page, nothing else needed), report.md with figures/, and results.json.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import set_seed
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from hf_radmae.batching.ranks import is_main
from hf_radmae.cli.command import command
from hf_radmae.cli.parse import parse
from hf_radmae.cli.runs import own_folder
from hf_radmae.images.storage import write_whole
from hf_radmae.pretraining.arguments import DataArguments, ModelArguments
from hf_radmae.pretraining.trainer import RadMAETrainingArguments
from hf_radmae.study import Study, StudyArguments, terminal_text, write_report


@command(many=True)
def main() -> None:
    classes = (DataArguments, ModelArguments, StudyArguments, RadMAETrainingArguments)
    data_args, model_args, study_args, training = parse(classes, description=__doc__)
    if training.streaming:
        raise ValueError("--streaming: a study reads its images many times; pre-train with scripts/pretrain.py instead")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    set_verbosity_error()
    disable_progress_bar()  # of loading and saving weights
    with own_folder(training) as say:
        run_study(data_args, model_args, study_args, training, say)


def run_study(
    data_args: DataArguments,
    model_args: ModelArguments,
    study_args: StudyArguments,
    training: RadMAETrainingArguments,
    say: Callable[..., Any],
) -> None:
    """One study in its folder."""
    set_seed(training.seed)
    folder = Path(training.output_dir)
    study = Study(folder, data_args, model_args, study_args, training)
    results = study.run()
    if not is_main():
        return
    write_whole(folder / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    files = write_report(results, folder)
    say(terminal_text(results))
    steps, taken = study.steps, sum(results["seconds"].values()) / 60
    say(f"\n{len(steps.ran)} of {len(steps.seconds)} steps were run now. With heads and tables: {taken:.1f} minutes.")
    say(f"Read {files[0]} in a browser; {files[1].name}, results.json and figures/ are beside it.")
