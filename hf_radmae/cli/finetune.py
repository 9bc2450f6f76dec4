r"""Trains a classifier on labelled radiographs of any size: a ResNet, a ViT from scratch, or from a masked autoencoder.

From scratch, on generated radiographs, with nothing to download:

    accelerate launch scripts/finetune.py --model vit --output_dir out/vit

From a masked autoencoder of scripts/pretrain.py, or any `vit_mae` checkpoint, on your own labels:

    accelerate launch scripts/finetune.py --dataset imagefolder --data_dir RADIOGRAPHS --label fracture \
        --model out/mine --layer_decay 0.75 --class_weights balanced --output_dir out/fracture

`--label a,b,c` takes several yes-or-no columns, `--task regression` a column of numbers, which may be negative. Images
without a label (an empty cell, "unsure", or a negative number where classes are learned) are left out and counted.
Training stops after ten evaluations without a better validation score, and the best model is kept. A run that was
ended resumes from its last complete checkpoint when it is started again in the same --output_dir.

The output folder then holds the model and preprocessor_config.json, results.json with every score and its interval over
patients, and predictions-validation.parquet and predictions-test.parquet with a row per image, without patients.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hf_radmae.batching.ranks import main_first
from hf_radmae.classification.setup import LabelledDataArguments, TaskArguments, set_up
from hf_radmae.classification.train import train_classifier
from hf_radmae.classification.training_args import ClassifierTrainingArguments
from hf_radmae.cli.command import command
from hf_radmae.cli.parse import parse
from hf_radmae.cli.results import save_results
from hf_radmae.cli.runs import finished, opening, options_of, own_folder, save_stopped, skipped_images, start_of
from hf_radmae.pretraining.interrupts import Stopped
from hf_radmae.publishing.card import TEMPLATES, interval, write_card
from hf_radmae.publishing.trainer_push import PushCallback
from hf_radmae.sources.patients import count_patients
from hf_radmae.study.steps import data_fingerprint

SCORES = ("balanced_accuracy", "accuracy", "auroc", "mean_absolute_error", "r2")


@command(many=True)
def main() -> None:
    options = LabelledDataArguments, TaskArguments, ClassifierTrainingArguments
    data_args, task_args, args = parse(options, description=__doc__)
    with own_folder(args) as say:
        finetune(data_args, task_args, args, say)


def finetune(
    data_args: LabelledDataArguments,
    task_args: TaskArguments,
    args: ClassifierTrainingArguments,
    say: Callable[..., Any],
) -> None:
    """One run in its folder."""
    folder = Path(args.output_dir)
    run_options = options_of(args, data_args, task_args)
    if (done := finished(folder, run_options, args.resume)) is not None:
        scores = {name: done["test"].get(name) for name in SCORES}  # None is what could not be scored
        test = ", ".join(f"{name} {score:.3f}" for name, score in scores.items() if score is not None)
        say(f"{folder} holds this run, finished: test {test}. Nothing was changed; --resume none starts anew.")
        return
    setup = main_first(lambda: set_up(data_args, task_args, args))
    labels, images = setup.labels, {split: len(part) for split, part in setup.parts.items()}
    say(f"\n{sum(images.values())} images {images}, {len(setup.unreadable)} unreadable.")
    say(
        f"{setup.label}: {labels.task.replace('_', ' ')}, {len(labels.names)} outputs: {', '.join(labels.names[:20])}\n"
    )
    model = setup.build(args.seed)
    skipped = skipped_images(args, sum(images.values()), setup.unreadable)
    checkpoint, weights = start_of(args, say)
    if weights is not None:
        model.load_state_dict(type(model).from_pretrained(weights).state_dict())
    results = opening(args, run_options)
    callbacks = [PushCallback(TEMPLATES["classifier"])] if args.push_to_hub else []
    processor = setup.processor(model.config)
    try:
        run = train_classifier(
            model,
            setup.parts,
            setup.label,
            args,
            processor=processor,
            skipped=skipped,
            resume_from_checkpoint=checkpoint,
            callbacks=callbacks,
        )
    except Stopped as stopped:
        save_stopped(results | {"data": vars(data_args)}, args, stopped)
        raise
    if args.process_index != 0:
        return

    run.model.save_pretrained(folder)
    processor.save_pretrained(folder)
    for split, predictions in run.predictions.items():
        predictions.save(folder / f"predictions-{split}.parquet")
    rows = {split: part.rows for split, part in setup.parts.items()}
    about: dict[str, Any] = {"fingerprint": data_fingerprint(rows), "unreadable": len(setup.unreadable)}
    if (counted := count_patients(rows)) is not None:
        about["patients"] = counted
    results |= {
        "data": vars(data_args) | about | {"bins": setup.bins.shapes.tolist()},
        "model": vars(task_args) | {"parameters": run.model.num_parameters()},
        **run.results,
    }
    if run.trainer.changed:
        results["changed"] = run.trainer.changed
    save_results(results, folder)
    write_card(results, folder, TEMPLATES["classifier"], license=args.license)
    for callback in callbacks:
        callback.push_output(run.trainer)
    say(f"\n{scores_text(run.results)}\n\nEverything is in {folder}: see results.json and predictions-test.parquet.\n")


def scores_text(results: Mapping[str, Mapping[str, float]]) -> str:
    """A line for each score with its interval on validation and test; a dash where there is none, as of one class."""

    def cell(scores: Mapping[str, float], name: str) -> str:
        return interval(scores[name], scores.get(f"{name}_low"), scores.get(f"{name}_high")) if name in scores else "-"

    parts = [results["validation"], results["test"]]
    lines = [["", "validation", "test"]]
    lines += [[name, *(cell(part, name) for part in parts)] for name in SCORES if any(name in part for part in parts)]
    return "\n".join(f"{name:22}{first:>28}{second:>28}" for name, first, second in lines)
