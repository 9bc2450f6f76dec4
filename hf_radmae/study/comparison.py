"""The models of one task on the same draws of labels: who predicts what, and the tables that come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hf_radmae.probing.trained import LEARNING_RATES
from hf_radmae.study.arguments import SUPERVISED, StudyArguments
from hf_radmae.study.probes import probe_predictions, probe_rates
from hf_radmae.study.steps import fingerprint
from hf_radmae.study.supervised import SupervisedTraining
from hf_radmae.study.tables import PAPER, PAPER_COLUMN, PAPER_FRACTION, majority, metrics_of, table
from hf_radmae.study.tasks import Share, TaskLabels, draw_labels

PROBES = {"flat": "MAE probe, flattened", "mean": "MAE probe, mean", "cls": "MAE probe, CLS"}
BEFORE = "probe before pre-training, mean"
DIFFERENCES = [*((probe, SUPERVISED["vit"]) for probe in PROBES.values()), (PROBES["mean"], BEFORE)]
Rate = Mapping[str, float]  # a "learning_rate" and its "score" on validation


class Frozen(NamedTuple):
    """A network that is probed: the fingerprint of its weights, and pooling -> split -> features (images, width)."""

    weights: str
    pooled: dict[str, dict[str, np.ndarray]]


class Comparison:
    """Collects the test predictions of models and scores them.

    Args:
        labels: of the task.
        patients: split -> (images,) keys.
        args: of the study.
        step: runs a function once, as `Steps` does.
        is_irma: whether the images are those of the paper.
    """

    def __init__(
        self,
        labels: TaskLabels,
        patients: Mapping[str, np.ndarray],
        args: StudyArguments,
        step: Callable[..., dict[str, Any]],
        is_irma: bool,
    ) -> None:
        self.labels, self.patients, self.args, self.step = labels, patients, args, step
        is_papers = is_irma and labels.task.columns == PAPER_COLUMN and labels.task.where is None
        self.paper = PAPER if is_papers else {}
        self.draws: dict[Share, list[np.ndarray]] = {}
        self.refused: dict[Share, str] = {}
        for share in dict.fromkeys([*args.shares(), *args.curve_shares()]):
            try:
                self.draws[share] = draw_labels(labels, patients["train"], share, args.draws)
            except ValueError as error:
                self.refused[share] = str(error)
        self.predictions: dict[Share, dict[str, Any]] = {
            share: {"majority class": majority(labels, group)} for share, group in self.draws.items()
        }
        self.searches: list[dict[str, Any]] = []

    def probe(self, name: str, network: Frozen, pooling: str) -> None:
        """A linear probe of every draw; of the curve's for the mean only, flattened tokens are many."""
        shares = [share for share in self.draws if pooling == "mean" or share in self.args.shares()]
        groups = [self.draws[share] for share in shares]

        def solve(_: Any) -> dict[str, Any]:
            every = [draw for group in groups for draw in group]
            found = probe_predictions(network.pooled[pooling], self.labels, every, self.args.class_weights)
            return {"predictions": np.split(found, np.cumsum([len(group) for group in groups])[:-1])}

        inputs = {"pooling": pooling, "grid": self.args.flat_grid if pooling == "flat" else None, "shares": shares}
        inputs |= {"draws": self.args.draws, "class_weights": self.args.class_weights}
        found = self._step(f"probe, {name}", solve, weights=network.weights, **inputs)
        for share, predicted in zip(shares, found["predictions"], strict=True):
            self.predictions[share][name] = predicted

    def search_probe(self, network: Frozen) -> None:
        """Learning rates of heads that are trained by steps on the mean, as the paper's, with all labels."""
        tried, class_weights = list(LEARNING_RATES), self.args.class_weights
        found = self._step(
            "search, probe",
            lambda _: {"rates": probe_rates(network.pooled["mean"], self.labels, tried, class_weights)},
            weights=network.weights,
            learning_rates=tried,
            class_weights=class_weights,
        )
        rates = found["rates"]
        best = best_rates(rates)[0]
        self.searches.append({"model": "head on the mean, by Adam", "share": "all", "rates": rates, "best": best})

    def train(self, kind: str, training: SupervisedTraining, weights: str) -> None:
        """A supervised network on every draw, with the learning rate that is best on the first draw of its share.

        Args:
            kind: of network, a key of `SUPERVISED`.
            training: does it.
            weights: fingerprint of the masked autoencoder, which "mae" starts from.
        """
        name, inputs = SUPERVISED[kind], training.inputs(kind) | ({"weights": weights} if kind == "mae" else {})
        chosen: dict[Share, tuple[float, dict[str, Any]]] = {}
        for share, search in self._trained().items():
            if search not in chosen:
                chosen[search] = self._search(name, kind, training, search, inputs)
            rate, first = chosen[search]
            predicted = [first["predictions"]] if share == search else []
            for seed, draw in list(enumerate(self.draws[share]))[len(predicted) :]:
                step = f"train, {name}, {share}, draw {seed}"
                run = self._train(step, kind, training, draw, rate, seed, self.args.supervised_steps, inputs)
                predicted.append(run["predictions"])
            self.predictions[share][name] = predicted

    def planned(self, probes: int) -> int:
        """Number of steps, with so many probes."""
        trained, args = self._trained(), self.args
        searches = sum(
            len(args.learning_rates) + args.search_finalists * self._is_short(share) for share in set(trained.values())
        )
        trainings = sum(len(self.draws[share]) - (share == search) for share, search in trained.items())
        return len(self.args.supervised) * (searches + trainings) + probes + 1 + len(self.draws)

    def results(self) -> dict[str, Any]:
        """The tables, the curve and the learning rates, as `results.json` holds them."""
        args, labels = self.args, self.labels
        shown = {share: self._table(share) for share in dict.fromkeys([*args.shares(), *args.curve_shares()])}
        return {
            "name": labels.task.name,
            "columns": labels.task.columns,
            "where": labels.task.where,
            "classes": labels.classes,
            "counts": labels.counts(),
            "tables": [shown[share] for share in args.shares()],
            "curve": [shown[share] for share in args.curve_shares()],
            "searches": self.searches,
        }

    def _trained(self) -> dict[Share, Share]:
        """The shares that networks are trained on, and for each the one on which its learning rate is searched."""
        shares = [share for share in self.args.supervised_shares() if share in self.draws]
        searched = [self.args.search_share(share) for share in shares]
        return {share: on if on in self.draws else share for share, on in zip(shares, searched, strict=True)}

    def _is_short(self, share: Share) -> bool:
        """Whether the trainings of a search are shorter than those of the tables."""
        args = self.args
        return (args.search_steps or args.supervised_steps) < args.steps_of(len(self.draws[share][0]))

    def _search(
        self, name: str, kind: str, training: SupervisedTraining, share: Share, inputs: dict[str, Any]
    ) -> tuple[float, dict[str, Any]]:
        """The best learning rate on the first draw of a share, and the training with it.

        What is ahead after a short training need not be in the end: the best of those are trained in full.
        """
        full = self.args.supervised_steps

        def runs(stage: str, rates: Sequence[float], most_steps: int) -> tuple[dict[float, dict[str, Any]], list[Rate]]:
            options = kind, training, self.draws[share][0]
            found = {
                rate: self._train(f"{stage}, {name}, {share}, rate {rate:g}", *options, rate, 0, most_steps, inputs)
                for rate in rates
            }
            return found, [{"learning_rate": rate, "score": run["score"]} for rate, run in found.items()]

        found, rates = runs("search", self.args.learning_rates, min(full, self.args.search_steps or full))
        last = rates
        if self._is_short(share):
            found, last = runs("final", best_rates(rates)[: self.args.search_finalists], full)
        best = best_rates(last)[0]
        self.searches.append({"model": name, "share": str(share), "rates": rates, "best": best})
        return best, found[best]

    def _train(
        self,
        step: str,
        kind: str,
        training: SupervisedTraining,
        draw: np.ndarray,
        rate: float,
        seed: int,
        most_steps: int,
        inputs: dict[str, Any],
    ) -> dict[str, Any]:
        return self._step(
            step,
            lambda folder: training(folder, kind, self.labels, draw, rate, seed, most_steps),
            draw=fingerprint(draw.tolist()),
            learning_rate=rate,
            seed=seed,
            most_steps=most_steps,
            **inputs,
        )

    def _step(self, name: str, function: Callable[..., Mapping[str, Any]], **inputs: Any) -> dict[str, Any]:
        return self.step(f"{name}, {self.labels.task.name}", function, task=self.labels.task, **inputs)

    def _table(self, share: Share) -> dict[str, Any]:
        """The rows of a share, or why there are none."""
        head: dict[str, Any] = {"share": str(share), "refused": self.refused.get(share), "rows": [], "paper": {}}
        if share in self.refused:
            return head
        predictions = {name: np.asarray(found).tolist() for name, found in self.predictions[share].items()}
        known = fingerprint(self.labels.values["test"].tolist())
        found = self._step(
            f"table, {share}",
            lambda _: {"rows": table(self.labels, predictions, self.patients["test"], DIFFERENCES)},
            predictions=fingerprint(predictions),
            labels=known,
        )
        group, few = self.draws[share], share.kind != "all"
        paper = self.paper if not few or share.fraction == PAPER_FRACTION else {}
        return head | {
            "draws": len(group),
            "images": float(np.mean([len(draw) for draw in group])),
            "metrics": list(metrics_of(self.labels)[0]),
            "paper": {name: scores[few] for name, scores in paper.items()},
            "rows": found["rows"],
        }


def best_rates(rates: Sequence[Rate]) -> list[float]:
    """Each "learning_rate", the best "score" first; of equals, as where nothing was learned yet, the middle one."""
    order = sorted(range(len(rates)), key=lambda i: (-rates[i]["score"], abs(i - len(rates) // 2)))
    return [rates[i]["learning_rate"] for i in order]
