r"""Runs the whole study: pre-training, probes, supervised networks, learning rates, label efficiency, and a report.

On generated radiographs, or on a folder with a metadata.csv of labels:

    python scripts/study.py scripts/recipes/study_tiny.yaml --output_dir out/study
    python scripts/study.py scripts/recipes/study_tiny.yaml --dataset imagefolder --data_dir RADIOGRAPHS \
        --tasks body_region "fracture=label[label_task=fracture]" --output_dir out/study

A recipe (.yaml or .json) may come first; the command line wins over it. Whatever interrupts the run, the same command
resumes with the first step that is not done; with other options it repeats what depends on them. Each step is a file in
OUTPUT_DIR/steps. An encoder that is there already is taken with --mae_checkpoint.

The output folder then holds report.html (one page, nothing else needed), report.md with figures/, and results.json.
"""

import json
import logging
from pathlib import Path

from transformers import set_seed
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from hf_radmae.cli.command import command
from hf_radmae.cli.parse import parse
from hf_radmae.cli.runs import own_folder
from hf_radmae.images.storage import write_whole
from hf_radmae.pretraining.arguments import DataArguments, ModelArguments
from hf_radmae.pretraining.trainer import RadMAETrainingArguments
from hf_radmae.study import Study, StudyArguments, terminal_text, write_report


@command
def main() -> None:
    classes = (DataArguments, ModelArguments, StudyArguments, RadMAETrainingArguments)
    data_args, model_args, study_args, training = parse(classes, description=__doc__)
    if training.streaming:
        raise ValueError("--streaming: a study reads its images many times; pre-train with scripts/pretrain.py instead")
    if training.world_size > 1:
        raise SystemExit(
            f"{training.world_size} processes: pre-train with scripts/pretrain.py on all of them, and give the result "
            "to one process of this script as --mae_checkpoint"
        )
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    set_verbosity_error()
    disable_progress_bar()  # of loading and saving weights
    with own_folder(training):
        run_study(data_args, model_args, study_args, training)


def run_study(
    data_args: DataArguments, model_args: ModelArguments, study_args: StudyArguments, training: RadMAETrainingArguments
) -> None:
    """One study in its folder."""
    set_seed(training.seed)
    folder = Path(training.output_dir)
    study = Study(folder, data_args, model_args, study_args, training)
    results = study.run()
    write_whole(folder / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    files = write_report(results, folder)
    print(terminal_text(results))
    taken, now = results["seconds"], study.steps.ran
    print(f"\n{len(now)} of {len(taken)} steps were run now. All of them took {sum(taken.values()) / 60:.1f} minutes.")
    print(f"Read {files[0]} in a browser; {files[1].name}, results.json and figures/ are beside it.")
