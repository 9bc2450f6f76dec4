r"""Pre-trains a masked autoencoder on radiographs of any size and shows what it learned.

On generated radiographs, with nothing to download:

    accelerate launch scripts/pretrain.py scripts/recipes/phantom.yaml --output_dir out/phantom

On your own, sub-folders or a metadata.csv with labels are optional:

    accelerate launch scripts/pretrain.py --dataset imagefolder --data_dir RADIOGRAPHS --probe_column body_region \
        --preset small --max_tokens 256 --output_dir out/mine

A recipe (.yaml or .json) may come first; the command line wins over it. A run that was ended, by SIGTERM, SIGUSR1,
SIGHUP (a closed terminal) or kill -9, resumes from its last complete checkpoint when it is started again with the same
--output_dir (--resume). After the first three it saves at the next step and ends with exit code 75. Watch it with
`tensorboard --logdir out`.

The output folder then holds the encoder (bare transformers loads it, for images of three channels) with its
preprocessor_config.json, in mae/ the whole masked autoencoder to continue from, results.json with every figure,
reconstructions.png, skipped.csv where images could not be used, and a card (README.md).
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hf_radmae.batching.bin_report import compare, format_table, report
from hf_radmae.batching.bucketing import bucketed
from hf_radmae.batching.content import COLUMNS as CONTENT
from hf_radmae.batching.ranks import from_main, gathered, main_first, wait_until_seen
from hf_radmae.cli.command import command
from hf_radmae.cli.parse import parse
from hf_radmae.cli.results import probe_text, save_results
from hf_radmae.cli.runs import finished, opening, options_of, own_folder, save_stopped, skipped_images, start_of
from hf_radmae.images.storage import write_whole
from hf_radmae.models.mae import RadMAEForPreTraining
from hf_radmae.pretraining.arguments import DataArguments, ModelArguments
from hf_radmae.pretraining.interrupts import Stopped
from hf_radmae.pretraining.memory import tokens_that_fit
from hf_radmae.pretraining.results import train_figures
from hf_radmae.pretraining.setup import initial_model, load_rows, make_trainer, patch_size_of
from hf_radmae.pretraining.trainer import RadMAETrainer, RadMAETrainingArguments
from hf_radmae.probing.watch import FeatureWatch, check_best, watched
from hf_radmae.publishing.card import write_card
from hf_radmae.publishing.export import lay_out_run
from hf_radmae.publishing.trainer_push import PushCallback
from hf_radmae.sources.load import PROCESSES
from hf_radmae.sources.patients import count_patients
from hf_radmae.study.pretrained import probe_against_rivals, probe_labels
from hf_radmae.study.seen import check_unseen, save_seen
from hf_radmae.study.steps import data_fingerprint

COMPARED = 20_000
"""Images, drawn at random, on which ways to batch are compared where there are more."""
UNPREPARED = 20_000
"""Images that several processes may start on unprepared: one reads them all, while the others wait."""


def is_measured(columns: list[str], background: str) -> bool:
    """Whether no image has to be read before the first batch: its columns say what is background, or nobody asks."""
    return background == "keep" or set(CONTENT) <= set(columns)


def check_prepared(images: int, columns: list[str], background: str, world_size: int) -> None:
    """Refuses to measure a large source behind a barrier of many processes.

    Raises:
        ValueError: several processes, more than `UNPREPARED` images, and no columns that say what is background.
    """
    if world_size > 1 and images > UNPREPARED and not is_measured(columns, background):
        raise ValueError(
            f"{images:,} images without the columns {', '.join(CONTENT)}: one process would read all of them while the "
            f"other {world_size - 1} wait. Run scripts/prepare.py once and train on "
            "its folder (--dataset parquet or --streaming), or train on the background too with --background keep."
        )


def loss_before(trainer: RadMAETrainer, folder: Path, *, resumed: bool) -> float:
    """The validation loss of the network before training, measured once: a resumed run reads it.

    The ranks ask together whether it is known, so that all of them evaluate, or none.

    Raises:
        ValueError: an evaluation does not give what the best model is chosen by.
    """
    file = folder / "before.json"
    known = from_main(lambda: json.loads(file.read_text())["eval_loss"] if resumed and file.is_file() else None)
    if known is None:
        metrics = trainer.evaluate()
        known = metrics["eval_loss"]
        advice = "eval_knn_accuracy needs a --probe_column, and the features are not watched with --streaming"
        check_best(trainer.args.metric_for_best_model, metrics, advice)
        if trainer.args.process_index == 0:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps({"eval_loss": known}) + "\n")
    return known


@command(many=True)
def main() -> None:
    data_args, model_args, args = parse((DataArguments, ModelArguments, RadMAETrainingArguments), description=__doc__)
    with own_folder(args) as say:
        pretrain(data_args, model_args, args, say)


def pretrain(
    data_args: DataArguments, model_args: ModelArguments, args: RadMAETrainingArguments, say: Callable[..., Any]
) -> None:
    """One run in its folder."""
    folder = Path(args.output_dir)
    model_args.check_start()
    run_options = options_of(args, data_args, model_args)
    done = finished(folder, run_options, args.resume)
    if done is not None and done["data"].get("probe_column") == data_args.probe_column:
        losses = done["losses"]
        say(
            f"{folder} holds this run, finished: evaluation loss {losses['before']:.3f} before, "
            f"{losses['validation']:.3f} after. Nothing was changed; --resume none starts anew."
        )
        return
    rows, unreadable = main_first(lambda: load_rows(data_args, streaming=args.streaming))
    images = {split: len(part) for split, part in rows.items()}
    if empty := [split for split in ("train", "validation", "test") if not images[split]]:
        raise ValueError(f"no image is in {', '.join(empty)} of {images}: give more patients, or splits of your own")
    if data_args.probe_column:
        probe_labels(rows, data_args.probe_column)  # what a probe at the end refuses, ends the run here
    if data_args.probe_column and not args.streaming:
        for given in filter(None, (model_args.model, *data_args.rivals)):
            check_unseen(given, rows["test"])
    columns, background = rows["train"].column_names, data_args.background
    check_prepared(sum(images.values()), columns, background, args.world_size)
    patch_size = patch_size_of(model_args)
    options = data_args.buckets(patch_size, args)
    batch_size = options["batch_size"]
    fit = functools.partial(bucketed, rows, **options, num_proc=PROCESSES)
    # What the first process measures, the others find in the cache.
    data = fit() if is_measured(columns, background) else main_first(fit)
    bins, parts = data.bins, data.parts
    bin_ids = np.concatenate([part.bin_ids for part in parts.values()])
    binned = report(data.sizes, bins, bin_ids, batch_size=batch_size)
    if args.process_index == 0:
        budget = {"num_bins": data_args.num_bins, "patch_size": patch_size, "max_tokens": data_args.max_tokens}
        sizes, share = data.sizes, min(1.0, COMPARED / len(data.sizes))
        if share < 1:
            sizes = sizes[np.random.default_rng(0).choice(len(sizes), COMPARED, replace=False)]
        others = format_table(compare(sizes, batch_size=max(1, round(batch_size * share)), **budget))
        folder.mkdir(parents=True, exist_ok=True)
        text = f"{binned.table()}\n\nOther ways to batch {len(sizes):,} of them:\n\n{others}\n"
        (folder / "bins.txt").write_text(text, encoding="utf-8")
        say(f"\n{sum(images.values()):,} images {images}, {len(unreadable)} unreadable; {data_args.binning} binning:\n")
        say(f"{binned.summary()} Every level, and other ways to batch: {folder / 'bins.txt'}\n")
    model = initial_model(model_args, data_args.max_tokens, args.seed)
    skipped = skipped_images(args, sum(images.values()), unreadable)
    callbacks = [PushCallback()] if args.push_to_hub else []
    trainer = make_trainer(
        model, args, data_args, data.train, parts["validation"], skipped=skipped, callbacks=callbacks
    )

    if args.find_tokens_per_batch:
        say(f"--tokens_per_batch {tokens_that_fit(trainer, bins)}")
        return
    if not args.streaming:
        trainer.callback_handler.callbacks.insert(0, FeatureWatch(trainer, data_args.probe_column))
    results = opening(args, run_options)
    checkpoint, weights = start_of(args, say)
    losses = {"before": loss_before(trainer, folder, resumed=bool(checkpoint))}
    if weights is not None:
        trainer.load_weights(weights)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except Stopped as stopped:
        save_stopped(results | {"data": vars(data_args)}, args, stopped, **train_figures(trainer))
        raise
    losses["validation"] = trainer.evaluate()["eval_loss"]
    losses["test"] = trainer.evaluate(parts["test"], metric_key_prefix="test")["test_loss"]
    trainer.save_model()
    probe: dict[str, Any] = {}
    if data_args.probe_column:  # features are computed by all processes
        gathered(None)  # the first process has saved the model
        wait_until_seen(folder / "config.json")
        trained = RadMAEForPreTraining.from_pretrained(folder).to(args.device)  # whole, where training sharded it
        untrained = initial_model(model_args, data_args.max_tokens, args.seed).to(args.device)  # type: ignore[arg-type]  # upstream's wrapper
        options = {"rivals": data_args.rivals, "num_workers": args.dataloader_num_workers}
        probe = probe_against_rivals(trained, untrained, parts, data_args.probe_column, **options)
    if args.process_index != 0:
        return

    shown: dict[str, Any] = {}
    if not args.streaming:
        shown["fingerprint"] = data_fingerprint(rows)
    if not args.streaming and (patients := count_patients(rows)) is not None:
        shown["patients"] = patients
    results |= {
        "data": vars(data_args) | shown | {"images": images, "skipped": len(skipped), "bins": bins.shapes.tolist()},
        "model": vars(model_args) | {"parameters": model.num_parameters(), "image_size": model.config.image_size},
        "training": train_figures(trainer) | {"tokens_per_image": binned.total.tokens},
        "losses": losses,
        "features": watched(trainer.state.log_history),
    }
    if not args.streaming:
        save_seen([rows["train"], rows["validation"]], folder, model_args.model)
    if trainer.changed:
        results["changed"] = trainer.changed
    if data_args.probe_column:
        results["probe"] = probe
        say(probe_text(probe))
    lay_out_run(folder, folder)
    save_results(results, folder)
    write_card(results, folder, license=args.license)
    for callback in callbacks:
        callback.push_output(trainer)
    say(
        f"\nEvaluation loss {losses['before']:.3f} before, {losses['validation']:.3f} after; on the test split "
        f"{losses['test']:.3f}. Everything is in {folder}: see reconstructions.png, results.json and README.md.\n\n"
        f"    tensorboard --logdir {folder}\n"
        f"    python -c \"from transformers import ViTModel; ViTModel.from_pretrained('{folder}')\"\n"
    )
