"""The study: pre-training, probes and supervised networks on the same images, draws and resamples, step by step.

Steps depend on each other by their inputs: pre-training on the images, probes on the weights' fingerprint, tables on
the predictions. Each is done once, see `hf_radmae.study.steps`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
from hf_radmae.models.starts import read_config
from hf_radmae.pretraining.arguments import DataArguments, ModelArguments
from hf_radmae.pretraining.results import environment
from hf_radmae.pretraining.setup import initial_model, patch_size_of
from hf_radmae.pretraining.training_args import RadMAETrainingArguments
from hf_radmae.probing.features import model_fingerprint
from hf_radmae.sources.load import PROCESSES
from hf_radmae.sources.patients import resampled
from hf_radmae.study.arguments import StudyArguments
from hf_radmae.study.comparison import BEFORE, PROBES, Comparison, Frozen
from hf_radmae.study.networks import content_print, deciding_options, load_images, pretrain
from hf_radmae.study.probes import cached_features
from hf_radmae.study.steps import Steps
from hf_radmae.study.supervised import SupervisedTraining, labelled_parts
from hf_radmae.study.tasks import patients, read_labels


class Study:
    """One study in one folder; `run` goes on from whatever is there.

    Args:
        folder: of the steps, their results and the report.
        data_args, model_args: which images, and which masked autoencoder.
        args: which tasks, shares and networks.
        training: of the pre-training.

    Raises:
        ValueError: a task does not suit the data, see `read_labels`; a patient is in two splits, see `patients`; or the
            ViT from scratch would be of another size than the masked autoencoder.
    """

    def __init__(
        self,
        folder: str | Path,
        data_args: DataArguments,
        model_args: ModelArguments,
        args: StudyArguments,
        training: RadMAETrainingArguments,
    ) -> None:
        self.folder, self.data_args, self.model_args, self.args = Path(folder), data_args, model_args, args
        self.training = training
        patch_size = patch_size_of(model_args, args.mae_checkpoint)
        if "vit" in args.supervised and not args.vit_checkpoint:
            _check_size(args.mae_checkpoint or model_args.model, model_args.preset)
        images_per_update = training.images_per_update(data_args.max_tokens)
        self.images = load_images(data_args, patch_size, images_per_update, training.seed, PROCESSES)
        self.labels = [read_labels(self.images.rows, task) for task in args.parsed_tasks()]
        self.patients = patients(self.images.rows, allow_shared=self.data_args.allow_shared_patients)
        self.steps = Steps(self.folder / "steps")
        self.bar = tqdm(desc="study", unit="step", disable=training.disable_tqdm)

    def run(self) -> dict[str, Any]:
        """Takes all steps; returns what `results.json` holds and `write_report` tells."""
        args = self.args
        mae, folder, pretraining = self._encoder()
        networks = {"MAE": self._frozen("MAE", mae, [*PROBES])}
        if not args.mae_checkpoint:
            start = initial_model(self.model_args, self.data_args.max_tokens, self.training.seed)
            networks[BEFORE] = self._frozen("network before pre-training", start, ["mean"])
        seen = {split: ~np.isnan(part).any(1) for split, part in networks["MAE"].pooled["mean"].items()}
        labels = [found.known(seen) for found in self.labels]
        parts = labelled_parts(self.images, labels) if args.supervised else {}
        supervised = SupervisedTraining(parts, args, self.model_args, mae.config, folder, self.training)
        is_irma = self.data_args.dataset == "irma"
        comparisons = [Comparison(found, self.patients, args, self._step, is_irma) for found in labels]
        probes = {name: (networks["MAE"], pooling) for pooling, name in PROBES.items()}
        if BEFORE in networks:
            probes[BEFORE] = networks[BEFORE], "mean"
        self.bar.total = len(self.steps.seconds) + sum(comparison.planned(len(probes)) for comparison in comparisons)
        for comparison in comparisons:
            for name, (network, pooling) in probes.items():
                comparison.probe(name, network, pooling)
            comparison.search_probe(networks["MAE"])
            for kind in args.supervised:
                comparison.train(kind, supervised, networks["MAE"].weights)
        tasks = [comparison.results() for comparison in comparisons]
        self.bar.close()
        images = {split: len(part) for split, part in self.images.rows.items()}
        data = {"dataset": self.data_args.dataset, "images": images, "unreadable": len(self.images.unreadable)}
        model = {"preset": self.model_args.preset, "parameters": mae.num_parameters(), "patch": mae.config.patch_size}
        return {
            "name": self.folder.name,
            "environment": environment(),
            "data": data | {"bins": self.images.bins.shapes.tolist(), "max_tokens": self.data_args.max_tokens},
            "model": model,
            "pretraining": pretraining,
            "class_weights": args.class_weights,
            "resampled": resampled({"test": self.images.rows["test"]}),
            "tasks": tasks,
            "seconds": self.steps.seconds,
        }

    def _step(self, name: str, function: Callable[[Path], Mapping[str, Any]], **inputs: Any) -> dict[str, Any]:
        self.bar.set_postfix_str(name)
        result = self.steps(name, function, **inputs, images=self.images.fingerprint)
        self.bar.update()
        return result

    def _encoder(self) -> tuple[RadMAEForPreTraining, str, dict[str, Any]]:
        """The pre-trained network, where it is, and what its pre-training says of itself."""
        (self.folder / "figures" / "reconstructions.png").unlink(missing_ok=True)  # of other options
        if checkpoint := self.args.mae_checkpoint:
            model = RadMAEForPreTraining.from_pretrained(checkpoint)
            return model, checkpoint, {"checkpoint": Path(checkpoint).name}
        model = vars(self.model_args) | {"model": content_print(self.model_args.model)}
        inputs: dict[str, Any] = {"model": model, "training": deciding_options(self.training)}
        inputs |= {name: getattr(self.data_args, name) for name in ("crop_scale", "max_tokens")}
        options = self.images, self.data_args, self.model_args, self.training
        result = self._step("pretrain", lambda folder: pretrain(folder, *options), **inputs)
        folder = self.steps.path("pretrain", **inputs, images=self.images.fingerprint).with_suffix("")
        if (picture := folder / "reconstructions.png").is_file():
            (self.folder / "figures").mkdir(exist_ok=True)
            shutil.copyfile(picture, self.folder / "figures" / picture.name)
        return RadMAEForPreTraining.from_pretrained(folder), str(folder), result

    def _frozen(self, name: str, network: RadMAEForPreTraining, poolings: Sequence[str]) -> Frozen:
        network.to(self.training.device)  # type: ignore[arg-type]  # decorated without its types
        options: dict[str, Any] = {"poolings": poolings, "grid": self.args.flat_grid}
        weights, workers = model_fingerprint(network), self.training.dataloader_num_workers

        def features() -> dict[str, dict[str, np.ndarray]]:
            return cached_features(network, self.images, self.folder / "features", num_workers=workers, **options)

        def shapes(_: Path) -> dict[str, Any]:
            return {name: {split: part.shape for split, part in parts.items()} for name, parts in features().items()}

        self._step(f"features, {name}", shapes, weights=weights, **options)
        return Frozen(weights, features())


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
