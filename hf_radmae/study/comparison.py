"""The models of one task on the same draws of labels: heads on frozen features beside networks trained on labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hf_radmae.study.arguments import SUPERVISED, StudyArguments
from hf_radmae.study.heads import Candidate, Kind, Splits, candidates
from hf_radmae.study.rivals.supervised import SupervisedTraining
from hf_radmae.study.steps import fingerprint
from hf_radmae.study.tables import score_table
from hf_radmae.study.tasks import Share, TaskLabels, draw_labels

PAPER_COLUMN, PAPER_FRACTION = "body_region", 0.01
# Top-1 accuracy on IRMA's body regions with all labels and with 1 % of them (80 images), all from ImageNet weights
# ("Pilot Study For Large-Scale Radiograph Pre-training").
PAPER = {
    SUPERVISED["resnet50"]: (0.9912, 0.4408),
    SUPERVISED["vit"]: (0.9685, 0.7908),
    "probe of the pre-trained ViT, flattened tokens": (0.9604, 0.8300),
    "probe of the pre-trained ViT, their mean": (0.9688, 0.8312),
    "probe of the pre-trained ViT, CLS": (0.9692, 0.8458),
}


class Comparison:
    """Collects models on the same draws, and scores them.

    Args:
        labels: of the task.
        patients: split -> (images,) keys.
        args: of the study.
        step: runs a function once, as `Steps` does.
        is_irma: whether the images are those of the paper.
        pretraining_views: images that passed through the network in pre-training, where that is known.
    """

    def __init__(
        self,
        labels: TaskLabels,
        patients: Mapping[str, np.ndarray],
        args: StudyArguments,
        step: Callable[..., dict[str, Any]],
        is_irma: bool = False,
        pretraining_views: int | None = None,
    ) -> None:
        self.labels, self.patients, self.args, self.step = labels, patients, args, step
        self.pretraining_views = pretraining_views
        self.paper = (
            is_irma and args.test_split == "test" and labels.task.columns == PAPER_COLUMN and not labels.task.where
        )
        self.draws: dict[Share, list[np.ndarray]] = {}
        self.refused: dict[Share, str] = {}
        for share in dict.fromkeys([*args.shares(), *args.curve_shares()]):
            try:
                self.draws[share] = draw_labels(labels, patients["train"], share, args.draws)
            except ValueError as error:
                self.refused[share] = str(error)
        self.found: dict[Share, list[Candidate]] = {share: [] for share in self.draws}
        self.searches: list[dict[str, Any]] = []

    def probe(self, model: str, kind: Kind, runs: Sequence[Splits], poolings: Sequence[str]) -> None:
        """Heads on the features of a model, for every share; labels are spread only where they are few."""
        for share, group in self.draws.items():
            options: dict[str, Any] = {"class_weights": self.args.class_weights, "propagate": share.kind != "all"}
            if self.args.protocol == "paper" and share in self.args.shares():
                options["rates"] = self.args.learning_rates
            self.found[share] += candidates(model, kind, runs, self.labels, group, poolings, **options)

    def train(self, kind: str, training: SupervisedTraining, weights: str) -> None:
        """A network trained on every draw, with the learning rate that is best on the first draw of its share.

        Args:
            kind: of network, a key of `SUPERVISED`.
            training: does it.
            weights: fingerprint of the masked autoencoder, which "mae" starts from.
        """
        name, inputs = SUPERVISED[kind], training.inputs(kind) | ({"weights": weights} if kind == "mae" else {})
        whose: Kind = "ours" if kind == "mae" else "rival"
        if training.checkpoint(kind) and kind != "mae":
            name, whose = name.replace("supervised", "fine-tuned"), "elsewhere"
        rates: dict[Share, float] = {}
        trained = [share for share in self.args.supervised_shares() if share in self.draws]
        for share in trained:
            search = self.args.search_share(share)
            search = search if search in self.draws else share
            if search not in rates:
                rates[search] = self._search(name, kind, training, search, inputs)
            runs = [
                self._train(f"train, {name}, {share}", kind, training, draw, rates[search], seed, inputs)
                for seed, draw in enumerate(self.draws[share])
            ]
            validation, test = (
                np.asarray([run[part] for run in runs], np.float32)[None] for part in ("validation", "test")
            )
            views = round(np.mean([run["views"] for run in runs]))
            self.found[share].append(Candidate(name, whose, "trained", "", validation, test, views=views))

    def results(self) -> dict[str, Any]:
        """The tables, the curve and the learning rates, as `results.json` holds them."""
        args, labels = self.args, self.labels
        shares = dict.fromkeys([*args.shares(), *args.curve_shares()])
        shown = {share: self._table(share, share in args.shares()) for share in shares}
        return {
            "name": labels.task.name,
            "columns": labels.task.columns,
            "where": [list(pair) for pair in labels.task.where],
            "classes": labels.classes,
            "dropped": labels.dropped,
            "counts": labels.counts(),
            "tables": [shown[share] for share in args.shares()],
            "curve": [shown[share] for share in args.curve_shares()],
            "searches": self.searches,
        }

    def _search(
        self, name: str, kind: str, training: SupervisedTraining, share: Share, inputs: dict[str, Any]
    ) -> float:
        """The best learning rate on the first draw of a share.

        What is ahead after a short training need not be in the end: the best of those are trained in full.
        """
        args, draw = self.args, self.draws[share][0]
        found = self._step(
            f"search, {name}, {share}",
            lambda folder: training.search(folder, kind, self.labels, draw),
            draw=fingerprint(draw.tolist()),
            rates=args.learning_rates,
            steps=args.most_search_steps,
            **inputs,
        )
        best, rates = found["best"], found["rates"]
        if args.search_steps and args.search_steps < args.steps_of(len(draw)):
            finalists = sorted(rates, key=lambda rate: -rate["score"])[: args.search_finalists]
            last = {
                rate["learning_rate"]: self._train(
                    f"final, {name}, {share}", kind, training, draw, rate["learning_rate"], 0, inputs
                )["score"]
                for rate in finalists
            }
            best = max(last, key=lambda rate: last[rate])
        self.searches.append({"model": name, "share": str(share), "rates": rates, "best": best})
        return best

    def _train(
        self,
        step: str,
        kind: str,
        training: SupervisedTraining,
        draw: np.ndarray,
        rate: float,
        seed: int,
        inputs: dict[str, Any],
    ) -> dict[str, Any]:
        return self._step(
            f"{step}, rate {rate:g}, draw {seed}",
            lambda folder: training(folder, kind, self.labels, draw, rate, seed),
            draw=fingerprint(draw.tolist()),
            learning_rate=rate,
            seed=seed,
            most_steps=self.args.supervised_steps,
            **inputs,
        )

    def _step(self, name: str, function: Callable[..., Mapping[str, Any]], **inputs: Any) -> dict[str, Any]:
        values = {split: fingerprint(found.tolist()) for split, found in self.labels.values.items()}
        return self.step(f"{name}, {self.labels.task.name}", function, task=self.labels.task, labels=values, **inputs)

    def _table(self, share: Share, details: bool) -> dict[str, Any]:
        """The rows of a share, or why there are none."""
        head: dict[str, Any] = {"share": str(share), "refused": self.refused.get(share), "paper": {}}
        if share in self.refused:
            return head | {"rows": [], "poolings": [], "headline": None, "elsewhere": None, "classes": {}}
        group, few = self.draws[share], share.kind != "all"
        if self.paper and (not few or share.fraction == PAPER_FRACTION):
            head["paper"] = {name: scores[few] for name, scores in PAPER.items()}
        n = 1000 if details else 300
        table = score_table(self.found[share], self.labels, self.patients["test"], n=n, details=details)
        for row in table["rows"]:
            row["pretraining_views"] = self.pretraining_views if row["kind"] == "ours" else 0
        return head | {"draws": len(group), "images": float(np.mean([len(draw) for draw in group]))} | table
