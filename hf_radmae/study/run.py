"""The study: pre-training, probes and supervised networks on the same images, draws and resamples, step by step.

Steps depend on each other by their inputs: pre-training on the images, probes on the weights' fingerprint, tables on
the predictions. Each is done once, see `hf_radmae.study.steps`.

On several processes (`accelerate launch`) all of them pre-train together and compute features, and each trains its
share of the supervised networks, as a single process would. The first one solves the heads and makes the tables. From a
checkpoint that is given, results are those of one process bit for bit, with the same devices and numbers of threads; a
pre-training of the same global batches is equal up to rounding.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers import set_seed

from hf_radmae.batching.collator import BucketCollator
from hf_radmae.batching.dataset import pixel_values
from hf_radmae.batching.loader import bucket_loader
from hf_radmae.batching.ranks import from_main, is_main, main_first, wait_until_seen
from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
from hf_radmae.models.starts import read_config
from hf_radmae.pretraining.arguments import DEFAULT_PRESET, DataArguments, ModelArguments
from hf_radmae.pretraining.figures import save_figure
from hf_radmae.pretraining.results import environment
from hf_radmae.pretraining.setup import patch_size_of
from hf_radmae.pretraining.trainer import check_agreement
from hf_radmae.pretraining.training_args import RadMAETrainingArguments
from hf_radmae.probing.features import model_fingerprint
from hf_radmae.sources.patients import resampled
from hf_radmae.sources.report_labels import against_hand
from hf_radmae.study.arguments import StudyArguments
from hf_radmae.study.comparison import Comparison
from hf_radmae.study.error_maps import check_classes, error_figure, error_maps, error_scores
from hf_radmae.study.folds import fold_curve, published, split_folds
from hf_radmae.study.heads import Splits, joined, parts_of
from hf_radmae.study.networks import (
    content_print,
    deciding_options,
    learned_from,
    load_images,
    pretrain,
    watched_column,
)
from hf_radmae.study.pretrained import OURS, SPLITS, UNTRAINED, Models, metadata_model, rival_models, short_names
from hf_radmae.study.rivals import network_features
from hf_radmae.study.rivals.supervised import SupervisedTraining, labelled_parts
from hf_radmae.study.seen import check_unseen, count_seen
from hf_radmae.study.steps import Steps, timed
from hf_radmae.study.tasks import TaskLabels, patients, read_labels


class Study:
    """One study in one folder; `run` resumes from whatever is there.

    Args:
        folder: of the steps, their results and the report.
        training: options of the pre-training.

    Raises:
        ValueError: a task does not suit the data, see `read_labels` and `TaskLabels.without_rare`, or what is asked of
            it; a patient is in two splits, see `patients`; a checkpoint has seen test images, see `check_unseen`, or is
            given twice; or the ViT from scratch would be of another size than the masked autoencoder.
    """

    def __init__(
        self,
        folder: str | Path,
        data_args: DataArguments,
        model_args: ModelArguments,
        args: StudyArguments,
        training: RadMAETrainingArguments,
    ) -> None:
        self.folder, self.data_args, self.args = Path(folder), data_args, args
        # Here a preset may stand beside a checkpoint: it is the size of the ViT that is trained from scratch.
        self.model_args = model_args = replace(model_args, preset=model_args.preset or DEFAULT_PRESET)
        self.training = training
        patch_size = patch_size_of(model_args, args.mae_checkpoint)
        _check_once([args.mae_checkpoint, *args.more_checkpoints])
        if "vit" in args.supervised and not args.vit_checkpoint:
            _check_size(args.mae_checkpoint or model_args.model, model_args.preset or DEFAULT_PRESET)
        self.images = main_first(lambda: load_images(data_args, patch_size, training, args.test_split))
        check_agreement(self.images.fingerprint)
        self.labels = [read_labels(self.images.rows, task) for task in args.parsed_tasks()]
        self.patients = patients(self.images.rows, allow_shared=self.data_args.allow_shared_patients)
        for found in self.labels:
            self._check_parts(found.without_rare(args.min_test_images))  # what is left, before the pre-training
        given = [args.mae_checkpoint, *args.more_checkpoints, args.vit_checkpoint, args.resnet50_checkpoint]
        given += [model_args.model, *data_args.rivals]
        test = self.images.rows["test"]
        self.unseen = from_main(lambda: {name: check_unseen(name, test) for name in given if name})
        bar = tqdm(desc="study", unit="step", disable=training.disable_tqdm or not is_main())
        self.steps = Steps(self.folder / "steps", bar, images=self.images.fingerprint)

    def run(self) -> dict[str, Any]:
        """Takes all steps; returns what `results.json` holds and `write_report` shows, on the first process.

        Every process calls it. On the others it returns nothing, as soon as there is nothing more to share.
        """
        args = self.args
        mae, folder, pretraining = self._encoder()
        runs = [self._features(OURS, mae)]
        for other, short in short_names(args.more_checkpoints).items():
            runs.append(self._features(f"{OURS}, {short}", RadMAEForPreTraining.from_pretrained(other)))
        seen: dict[str, Any] = from_main(
            lambda: {split: ~np.isnan(next(iter(part.values()))).any(1) for split, part in runs[0].items()}
        )
        labels = [found.known(seen).without_rare(args.min_test_images) for found in self.labels]
        models = self._models(mae, runs)
        weights, tasks = model_fingerprint(mae), []
        is_irma = self.data_args.dataset == "irma"
        views = pretraining.get("training", {}).get("views")
        comparisons = [Comparison(found, self.patients, args, self.steps.each, is_irma, views) for found in labels]
        if args.supervised:
            parts = labelled_parts(self.images, labels)
            supervised = SupervisedTraining(parts, args, self.model_args, mae.config, folder, self.training)
            for comparison in comparisons:
                comparison.train(args.supervised, supervised, weights)
        if not is_main():
            return {}
        seconds: dict[str, float] = {}
        for found, comparison in zip(labels, comparisons, strict=True):
            known = metadata_model(self.images.rows, found, args.metadata) | models
            for name, (kind, features, poolings) in known.items():
                self.steps.bar.set_postfix_str(f"heads on {name}, {found.task.name}")
                with timed(seconds, f"heads, {name}, {found.task.name}"):
                    comparison.probe(name, kind, features, poolings)
            self.steps.bar.set_postfix_str(f"tables, {found.task.name}")
            with timed(seconds, f"tables, {found.task.name}"):
                results = comparison.results()
            tasks.append(results | self._further(found, known, mae, seconds))
        self.steps.bar.close()
        images = {split: len(part) for split, part in self.images.rows.items()}
        data = {"dataset": self.data_args.dataset, "images": images, "unreadable": len(self.images.unreadable)}
        data |= {"split_seed": self.data_args.split_seed, "fingerprint": self.images.fingerprint}
        model = {"preset": self.model_args.preset, "parameters": mae.num_parameters(), "patch": mae.config.patch_size}
        model |= {name: getattr(self.model_args, name) for name in ("mask_ratio", "prediction_ratio", "norm_pix_loss")}
        return {
            "name": self.folder.name,
            "environment": environment(),
            "data": data | {"bins": self.images.bins.shapes.tolist(), "max_tokens": self.data_args.max_tokens},
            "model": model,
            "options": _plain(vars(args) | vars(self.data_args) | vars(self.model_args))
            | {"seed": self.training.seed, "training": deciding_options(self.training)},
            "pretraining": pretraining,
            "class_weights": args.class_weights,
            "resampled": resampled(self.images.rows["test"]),
            "report_labels": against_hand(self.images.rows),
            "tasks": tasks,
            "seconds": self.steps.seconds | seconds,
        }

    def _check_parts(self, labels: TaskLabels) -> None:
        """Refuses a curve over folds, or scores of error maps, that a task cannot have."""
        for option in ("fold_curve", "error_maps"):
            if labels.task.name in getattr(self.args, option) and (why := self._refusal(option, labels)):
                raise ValueError(
                    f"--{option} {labels.task.name}: {why}. Label more images, or leave the task out of --{option}"
                )

    def _refusal(self, option: str, labels: TaskLabels) -> str | None:
        """Why a task cannot have what an option asks for; None where it can."""
        if labels.multi or len(labels.classes) != 2:
            return f"it needs a task of two classes, not of {', '.join(labels.classes)}"
        try:
            if option == "fold_curve":
                truth, groups = self._of_all_splits(labels)
                split_folds(truth[truth >= 0], groups[truth >= 0])
            else:
                check_classes(labels.values["test"])
        except ValueError as error:
            return str(error)
        return None

    def _of_all_splits(self, labels: TaskLabels) -> tuple[np.ndarray, np.ndarray]:
        """Labels and groups (images,) of all splits, one after the other."""
        truth, groups = (np.concatenate([part[split] for split in SPLITS]) for part in (labels.values, self.patients))
        return truth, groups

    def _models(self, mae: RadMAEForPreTraining, runs: list[Splits]) -> Models:
        """The models that are the same for every task."""
        options: dict[str, Any] = {"poolings": self.args.poolings, "device": self.training.device}
        options["num_workers"] = self.training.dataloader_num_workers
        models = rival_models(self.images.parts, self.data_args.rivals, **options)
        starts = []
        for seed in range(self.training.seed, self.training.seed + len(runs)):
            set_seed(seed)
            starts.append(self._features(f"{UNTRAINED}, seed {seed}", RadMAEForPreTraining(mae.config)))
        if not is_main():
            return {}
        return models | {UNTRAINED: ("rival", starts, self.args.poolings), OURS: ("ours", runs, self.args.poolings)}

    def _further(
        self, labels: TaskLabels, models: Models, mae: RadMAEForPreTraining, seconds: dict[str, float]
    ) -> dict[str, Any]:
        """The curve over folds and the scores of reconstruction errors, where the options name the task.

        What images that could not be read make impossible is left out: "refused" says why, for "folds" or "error_maps".
        """
        found: dict[str, Any] = {"folds": None, "error_maps": None, "refused": {}}
        name = labels.task.name
        if name in self.args.fold_curve:
            with timed(seconds, f"folds, {name}"):
                if why := self._refusal("fold_curve", labels):
                    found["refused"]["folds"] = why
                else:
                    found["folds"] = self._folds(labels, models)
        if name in self.args.error_maps:
            with timed(seconds, f"error maps, {name}"):
                part = self.images.parts["test"]
                collate = BucketCollator(part.bins.patch_size, mae.config.num_channels)
                maps = error_maps(mae, bucket_loader(part, collate, 64, rank=0, world_size=1))
                mapped = [row in maps and not np.isnan(maps[row]).all() for row in range(len(part))]
                labels = labels.known({"test": np.array(mapped)})
                if why := self._refusal("error_maps", labels):
                    found["refused"]["error_maps"] = why
                else:
                    found["error_maps"] = self._error_maps(labels, maps)
        return found

    def _folds(self, labels: TaskLabels, models: Models) -> dict[str, Any]:
        """The curve over folds of the last pooling that each model has, of several seeds of the first."""
        features = {}
        for name, (_, runs, poolings) in models.items():
            if there := [pooling for pooling in poolings if set(pooling.split("+")) <= set(runs[0]["train"])]:
                parts = [joined(runs[0][split], there[-1]) for split in SPLITS]
                features[name, there[-1]] = np.nan_to_num(np.concatenate(parts))
        truth, groups = self._of_all_splits(labels)
        labelled = {split: self.images.rows[split].select(labels.rows(split)) for split in SPLITS}
        has_source = all("source" in part.column_names for part in labelled.values())
        sources = [name for part in labelled.values() for name in part["source"]] if has_source else []
        seen: bool | None = True
        if checkpoint := self.args.mae_checkpoint:  # the test images are known to be unseen, or nothing is
            counts = [count_seen(checkpoint, labelled[split]) for split in ("train", "validation")]
            seen = None if None in counts else any(counts)
        return {
            "rows": fold_curve(features, truth, groups, class_weights=self.args.class_weights),
            "published": published(labels.task, sources),
            "images": int((truth >= 0).sum()),
            "groups": len(np.unique(groups[truth >= 0])),
            "class_weights": self.args.class_weights,
            "seeds": 1,
            "seen": seen,
        }

    def _error_maps(self, labels: TaskLabels, maps: dict[int, np.ndarray]) -> dict[str, Any]:
        """The scores of maps of test images, and a picture of some of them."""
        part, truth = self.images.parts["test"], labels.values["test"]
        (self.folder / "figures").mkdir(exist_ok=True)
        number = [task.name for task in self.args.parsed_tasks()].index(labels.task.name) + 1
        picture = f"errors-{number}.png"
        figure = error_figure(lambda row: pixel_values(part[row])[0].numpy(), maps, truth)
        save_figure(figure, self.folder / "figures" / picture)
        return {"rows": error_scores(maps, truth, self.patients["test"]), "picture": picture}

    def _encoder(self) -> tuple[RadMAEForPreTraining, str, dict[str, Any]]:
        """The pre-trained network, where it is, and what its pre-training says of itself."""
        if is_main():
            (self.folder / "figures" / "reconstructions.png").unlink(missing_ok=True)  # of other options
        if checkpoint := self.args.mae_checkpoint:
            model = RadMAEForPreTraining.from_pretrained(checkpoint)
            unseen = [self.unseen[name] for name in (checkpoint, *self.args.more_checkpoints)]
            return model, checkpoint, {"checkpoint": Path(checkpoint).name, "unseen": all(unseen)}
        model = vars(self.model_args) | {"model": content_print(self.model_args.model)}
        inputs: dict[str, Any] = {"model": model}
        inputs |= {name: getattr(self.data_args, name) for name in ("crop_scale", "max_tokens")}
        column = watched_column(self.labels[0])
        if str(self.training.metric_for_best_model).endswith("knn_accuracy"):
            inputs["column"] = column
        found: list[tuple[dict[str, Any], Path]] = []
        for rate in self.args.learning_rates if self.args.protocol == "paper" else [self.training.learning_rate]:
            training = copy.copy(self.training)
            training.learning_rate = rate
            inputs["training"] = learned_from(training)
            name = f"pretrain, rate {rate:g}" if self.args.protocol == "paper" else "pretrain"
            options: dict[str, Any] = {"data_args": self.data_args, "model_args": self.model_args, "args": training}
            options["column"] = column
            result = self.steps(name, partial(pretrain, images=self.images, **options), **inputs)
            result["training"]["learning_rate"] = rate
            folder = self.steps.path(name, **inputs).with_suffix("")
            found.append((result, folder))
        result, folder = min(found, key=lambda pair: pair[0]["losses"]["validation"])
        if is_main() and (picture := folder / "reconstructions.png").is_file():
            (self.folder / "figures").mkdir(exist_ok=True)
            shutil.copyfile(picture, self.folder / "figures" / picture.name)
        wait_until_seen(folder / "config.json")
        return RadMAEForPreTraining.from_pretrained(folder), str(folder), result

    def _features(self, name: str, network: RadMAEForPreTraining) -> Splits:
        """The features of a network in every pooling, kept in the study's folder; none on any but the first process."""
        network.to(self.training.device)  # type: ignore[arg-type]  # decorated without its types
        options: dict[str, Any] = {
            "poolings": parts_of(self.args.poolings),
            "num_workers": self.training.dataloader_num_workers,
        }
        options |= {"cache_dir": self.folder / "features", "fingerprint": self.images.fingerprint}
        found: dict[str, Any] = {}

        def shapes(_: Path) -> dict[str, Any]:
            found.update(network_features(network, self.images.parts, **options))
            return {split: {key: values.shape for key, values in part.items()} for split, part in found.items()}

        self.steps(
            f"features, {name}", shapes, weights=model_fingerprint(network), poolings=parts_of(self.args.poolings)
        )
        found = found or network_features(network, self.images.parts, **options)
        return found if is_main() else {}


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without the folders of local checkpoints, of which the names are kept."""

    def name(value: Any) -> Any:
        if isinstance(value, list):
            return [name(part) for part in value]
        # os.path.exists: no name is too long for it, such as a task of many labels
        return Path(value).name if isinstance(value, str) and os.path.exists(value) else value

    return {key: name(value) for key, value in options.items()}


def _check_once(checkpoints: Sequence[str | None]) -> None:
    """Refuses a checkpoint that is given as two seeds of a pre-training."""
    given = [Path(name).resolve() if Path(name).exists() else name for name in checkpoints if name]
    if twice := [str(name) for number, name in enumerate(given) if name in given[:number]]:
        raise ValueError(
            f"{twice[0]} is given twice among --mae_checkpoint and --more_checkpoints: expected other seeds"
        )


def _check_size(checkpoint: str | None, preset: str) -> None:
    """Refuses a comparison of a given encoder with a ViT of another size."""
    if checkpoint is None:
        return
    names = ("hidden_size", "num_hidden_layers", "intermediate_size")
    given, scratch = read_config(checkpoint), preset_config(preset)
    sizes = [tuple(getattr(config, name) for name in names) for config in (given, scratch)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{Path(checkpoint).name} is of another size {sizes[0]} ({', '.join(names)}) than the ViT from scratch, "
            f"--preset {preset} {sizes[1]}: give the preset of the checkpoint, a --vit_checkpoint, or leave vit out of "
            "--supervised"
        )
