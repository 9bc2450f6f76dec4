"""The models of one task on the same draws of labels: heads on frozen features beside networks trained on labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from hf_radmae.batching.ranks import is_main
from hf_radmae.classification.search import ranked
from hf_radmae.study.arguments import SUPERVISED, StudyArguments
from hf_radmae.study.heads import Candidate, Kind, Splits, candidates
from hf_radmae.study.rivals.supervised import SupervisedTraining
from hf_radmae.study.steps import Step, fingerprint
from hf_radmae.study.tables import EMPTY, score_table
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


class Job(NamedTuple):
    """A training of a kind of network with a rate on a draw of a share, for at most so many steps."""

    kind: str
    share: Share
    rate: float
    number: int
    steps: int


class Comparison:
    """Collects models on the same draws, and scores them.

    Args:
        patients: split -> (images,) keys.
        each: does steps of which each process takes its share, as `Steps.each` does; only needed to train.
        is_irma: whether the images are those of the paper.
        pretraining_views: images that passed through the network in pre-training, where that is known.
    """

    def __init__(
        self,
        labels: TaskLabels,
        patients: Mapping[str, np.ndarray],
        args: StudyArguments,
        each: Callable[[Sequence[Step]], list[dict[str, Any]]] = lambda steps: [],
        is_irma: bool = False,
        pretraining_views: int | None = None,
    ) -> None:
        self.labels, self.patients, self.args, self.each = labels, patients, args, each
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
        self.trained: dict[Share, list[Candidate]] = {share: [] for share in self.draws}
        self.searches: list[dict[str, Any]] = []

    def probe(self, model: str, kind: Kind, runs: Sequence[Splits], poolings: Sequence[str]) -> None:
        """Heads on the features of a model, for every share; labels are spread only where they are few."""
        for share, group in self.draws.items():
            options: dict[str, Any] = {"class_weights": self.args.class_weights, "propagate": share.kind != "all"}
            if self.args.protocol == "paper" and share in self.args.shares():
                options["rates"] = self.args.learning_rates
            self.found[share] += candidates(model, kind, runs, self.labels, group, poolings, **options)

    def train(self, kinds: Sequence[str], training: SupervisedTraining, weights: str) -> None:
        """Networks trained on every draw, each with the rate that is best on the first draw of its share.

        Every process of a run calls it and takes its share of the trainings.

        Args:
            kinds: of networks, keys of `SUPERVISED`.
            weights: fingerprint of the masked autoencoder, which "mae" starts from.
        """
        self.training = training
        self.inputs = {kind: training.inputs(kind) | ({"weights": weights} if kind == "mae" else {}) for kind in kinds}
        shares = [share for share in self.args.supervised_shares() if share in self.draws]
        searched = {share: self.args.search_share(share) for share in shares}
        searched = {share: search if search in self.draws else share for share, search in searched.items()}
        rates = self._searched([(kind, share) for kind in kinds for share in dict.fromkeys(searched.values())])
        pairs = [(kind, share) for kind in kinds for share in shares]
        jobs = [
            Job(kind, share, rates[kind, searched[share]], number, self.args.supervised_steps)
            for kind, share in pairs
            for number in range(len(self.draws[share]))
        ]
        found = self._trained(jobs)
        for kind, share in pairs:
            runs = [run for job, run in zip(jobs, found, strict=True) if job[:2] == (kind, share)]
            if any(run["score"] is None for run in runs):
                rate = rates[kind, searched[share]]
                raise ValueError(
                    f"{training.name(kind)}, {share}: a training diverged at the best learning rate of the search, "
                    f"{rate:g}: leave it out of --learning_rates"
                )
            if not is_main():
                continue
            validation, test = (
                np.asarray([run[part] for run in runs], np.float32)[None] for part in ("validation", "test")
            )
            views = round(np.mean([run["views"] for run in runs]))
            name, whose = training.name(kind), training.whose(kind)
            self.trained[share].append(Candidate(name, whose, "trained", "", validation, test, views=views))

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
            "kept_rare": labels.kept_rare,
            "counts": labels.counts(),
            "tables": [shown[share] for share in args.shares()],
            "curve": [shown[share] for share in args.curve_shares()],
            "searches": self.searches,
        }

    def _searched(self, pairs: Sequence[tuple[str, Share]]) -> dict[tuple[str, Share], float]:
        """The best learning rate of each kind of network on the first draw of a share.

        What is ahead after a short training need not be in the end: the best of those are trained in full.
        """
        args = self.args
        tried = self._scores(dict.fromkeys(pairs, args.learning_rates), args.search_steps or args.supervised_steps)
        order = {pair: ranked(scores) for pair, scores in tried.items()}
        for (kind, share), rates in order.items():
            if not rates:
                raise ValueError(f"{self.training.name(kind)}, {share}: trainings with every learning rate diverged")
        if args.search_steps:
            best = {pair: rates[: args.search_finalists] for pair, rates in order.items()}
            finals = self._scores(best, args.supervised_steps)
            order = {pair: ranked(scores) or order[pair] for pair, scores in finals.items()}
        for (kind, share), scores in tried.items():
            search: dict[str, Any] = {"model": self.training.name(kind), "share": str(share)}
            search["rates"] = [{"learning_rate": rate, "score": scores[rate]} for rate in sorted(ranked(scores))]
            search["best"] = order[kind, share][0]
            diverged = [rate for rate, score in scores.items() if score is None]
            self.searches.append(search | ({"diverged": diverged} if diverged else {}))
        return {pair: rates[0] for pair, rates in order.items()}

    def _scores(
        self, rates: Mapping[tuple[str, Share], Sequence[float]], steps: int
    ) -> dict[tuple[str, Share], dict[float, float | None]]:
        """The validation score of trainings on the first draw with some rates each; None where one diverged."""
        jobs = [Job(*pair, rate, 0, steps) for pair, some in rates.items() for rate in dict.fromkeys(some)]
        found: dict[tuple[str, Share], dict[float, float | None]] = {pair: {} for pair in rates}
        for job, run in zip(jobs, self._trained(jobs), strict=True):
            found[job.kind, job.share][job.rate] = run["score"]
        return found

    def _trained(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """The results of trainings, each by one process."""
        values = {split: fingerprint(found.tolist()) for split, found in self.labels.values.items()}
        steps = []
        for job in jobs:
            draw = self.draws[job.share][job.number]
            length = min(job.steps, self.args.steps_of(len(draw)))
            inputs = self.inputs[job.kind] | {"draw": fingerprint(draw.tolist()), "learning_rate": job.rate}
            inputs |= {"seed": job.number, "steps": length, "task": self.labels.task, "labels": values}
            name = f"train, {self.training.name(job.kind)}, {job.share}, {length} steps"
            name += f", rate {job.rate:g}, draw {job.number}"
            options: dict[str, Any] = {"kind": job.kind, "labels": self.labels, "draw": draw, "steps": length}
            train = partial(self.training, **options, learning_rate=job.rate, seed=job.number)
            steps.append(Step(f"{name}, {self.labels.task.name}", train, inputs, cost=length))
        return self.each(steps)

    def _table(self, share: Share, details: bool) -> dict[str, Any]:
        """The rows of a share, or why there are none."""
        head: dict[str, Any] = {"share": str(share), "refused": self.refused.get(share), "paper": {}}
        if share in self.refused:
            return head | EMPTY
        group, few = self.draws[share], share.kind != "all"
        if self.paper and (not few or share.fraction == PAPER_FRACTION):
            head["paper"] = {name: scores[few] for name, scores in PAPER.items()}
        models = self.found[share] + self.trained[share]
        table = score_table(models, self.labels, self.patients["test"], n=1000 if details else 300, details=details)
        for row in table["rows"]:
            row["pretraining_views"] = self.pretraining_views if row["kind"] == "ours" else 0
        return head | {"draws": len(group), "images": float(np.mean([len(draw) for draw in group]))} | table
