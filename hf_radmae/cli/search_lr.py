"""Searches the best learning rate by validation, for a classifier or for a masked autoencoder; killed, it resumes.

The first word says whose options follow, those of scripts/finetune.py or of scripts/pretrain.py. Ten learning rates for
a ViT from scratch, by its best validation accuracy:

    accelerate launch scripts/search_lr.py finetune --model vit --metric_for_best_model accuracy --output_dir out/search

For a masked autoencoder, by its best validation loss: rates of your own, or a range in which optuna chooses:

    accelerate launch scripts/search_lr.py pretrain --num_train_epochs 5 --rates 3e-4 1e-3 3e-3 --output_dir out/search
    accelerate launch scripts/search_lr.py pretrain --between 1e-4 1e-2 --trials 12 --output_dir out/search-range

Patience holds in each trial, and no checkpoints are written. The output folder then holds search.json, search.png, and
search.journal with the finished trials: started again, the search repeats none of them.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import Trainer
from transformers.trainer_utils import SaveStrategy

from hf_radmae.batching.bucketing import bucketed
from hf_radmae.batching.collator import BucketCollator
from hf_radmae.batching.ranks import main_first
from hf_radmae.classification.search import LEARNING_RATES, search_learning_rate
from hf_radmae.classification.setup import LabelledDataArguments, TaskArguments, set_up
from hf_radmae.classification.train import labelled_parts
from hf_radmae.classification.trainer import ClassifierTrainer
from hf_radmae.classification.training_args import ClassifierTrainingArguments
from hf_radmae.cli.command import command
from hf_radmae.cli.parse import parse
from hf_radmae.cli.runs import opening, options_of, own_folder
from hf_radmae.pretraining.arguments import DataArguments, ModelArguments, option
from hf_radmae.pretraining.setup import initial_model, load_rows, patch_size_of
from hf_radmae.pretraining.trainer import RadMAETrainer
from hf_radmae.pretraining.training_args import RadMAETrainingArguments
from hf_radmae.sources.load import PROCESSES
from hf_radmae.study.networks import learned_from
from hf_radmae.study.steps import data_fingerprint, fingerprint


@dataclass
class SearchArguments:
    """Which learning rates are tried."""

    rates: list[float] = option([*LEARNING_RATES], "The learning rates to try.")
    between: list[float] | None = option(None, "Or a range, in which optuna chooses.")
    trials: int = option(10, "Learning rates to try in the range.")

    def __post_init__(self) -> None:
        if self.between is not None and (len(self.between) != 2 or not 0 < self.between[0] < self.between[1]):
            raise ValueError(f"--between {self.between}: expected a low and a high learning rate, such as 1e-5 1e-2")


def supervised_trainer(
    data_args: DataArguments, task_args: TaskArguments, args: ClassifierTrainingArguments
) -> ClassifierTrainer:
    """What scripts/finetune.py trains with, from the start in each trial."""
    setup = main_first(lambda: set_up(data_args, task_args, args))
    data = labelled_parts(setup.parts, setup.labels, args)
    options = {"train_dataset": data["train"], "eval_dataset": data["validation"]}
    return ClassifierTrainer(None, args, model_init=lambda: setup.build(args.seed), **options)


def mae_trainer(data_args: DataArguments, model_args: ModelArguments, args: RadMAETrainingArguments) -> RadMAETrainer:
    """What scripts/pretrain.py trains with, from the start in each trial."""
    model_args.check_start()
    options = data_args.buckets(patch_size_of(model_args), args) | {"num_proc": PROCESSES}
    data = main_first(lambda: bucketed(load_rows(data_args, streaming=args.streaming)[0], **options))
    return RadMAETrainer(
        None,
        args,
        model_init=lambda: initial_model(model_args, data_args.max_tokens, args.seed),
        train_dataset=data.train,
        eval_dataset=data.parts["validation"],
        data_collator=BucketCollator(data.bins.patch_size, model_args.num_channels, data_args.background),
    )


COMMANDS: dict[str, tuple[Callable[..., Trainer], tuple[type, ...]]] = {
    "finetune": (supervised_trainer, (LabelledDataArguments, TaskArguments, ClassifierTrainingArguments)),
    "pretrain": (mae_trainer, (DataArguments, ModelArguments, RadMAETrainingArguments)),
}


@command(many=True)
def main() -> None:
    command, words = sys.argv[1:2], sys.argv[2:]
    if command and command[0] in ("-h", "--help", "--help_all"):
        print(f"{__doc__}\nThe options: {' --help, or '.join(COMMANDS)} --help")
        return
    if not command or command[0] not in COMMANDS:
        sys.exit(f"{__doc__}\nSay first what to search for: {' or '.join(COMMANDS)}")
    make_trainer, classes = COMMANDS[command[0]]
    search_args, data_args, network_args, args = parse((SearchArguments, *classes), words, __doc__)
    with own_folder(args) as say:
        search(command[0], make_trainer, search_args, data_args, network_args, args, say)


def search(
    command: str,
    make_trainer: Callable[..., Trainer],
    search_args: SearchArguments,
    data_args: DataArguments,
    network_args: Any,
    args: RadMAETrainingArguments,
    say: Callable[..., Any],
) -> None:
    """One search in its folder."""
    args.save_strategy, args.load_best_model_at_end, args.figure_images = SaveStrategy.NO, False, 0
    trainer = make_trainer(data_args, network_args, args)
    between = (search_args.between[0], search_args.between[1]) if search_args.between else None
    used: dict[str, Any] = {"train": trainer.train_dataset, "validation": trainer.eval_dataset}
    data = {} if args.streaming else {"fingerprint": data_fingerprint({name: part.rows for name, part in used.items()})}
    found = search_learning_rate(
        trainer,
        args.output_dir,
        rates=search_args.rates,
        between=between,
        trials=search_args.trials,
        subject=fingerprint([[command], vars(data_args), vars(network_args), learned_from(args), *data.values()]),
    )
    if args.process_index == 0:
        about = opening(args, options_of(args, data_args, network_args))
        found.save(args.output_dir, **{key: about[key] for key in ("environment", "decided_by", "arguments")}, **data)
        say(f"\n{found.table()}\n\nThe best: --learning_rate {found.best:g}. See search.png in {args.output_dir}.\n")
