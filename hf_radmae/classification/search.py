"""The best of several learning rates by validation: `Trainer.hyperparameter_search` with optuna, kept and resumable.

A trial is one training with one learning rate, from the same start and on the same batches. Its score is that of its
best evaluation. Trials are kept in one file; an interrupted search resumes, and repeats no trial that was finished.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from transformers import EarlyStoppingCallback, Trainer

from hf_radmae.batching.ranks import from_main

if TYPE_CHECKING:
    from optuna import Study, Trial

LEARNING_RATES = tuple(float(f"{rate:.2g}") for rate in np.logspace(-4.5, -2, 10))
"""Ten, evenly spaced in their logarithm."""
STORAGE = "search.journal"


def ranked(scores: Mapping[float, float | None], *, higher_is_better: bool = True) -> list[float]:
    """Learning rates from the best to the worst; of equals the smaller one is first, and those without a score are not.

    Args:
        scores: of each learning rate; None where its training diverged.
        higher_is_better: whether more of it is.
    """
    found = {rate: value for rate, value in scores.items() if value is not None}
    return sorted(found, key=lambda rate: (-found[rate] if higher_is_better else found[rate], rate))


class Search(NamedTuple):
    """What a search found.

    Attributes:
        metric: the validation score that decides, with "eval_" before.
        higher_is_better: whether more of it is.
        trials: learning rate -> score of each finished trial, by rate.
        best: the learning rate with the best score; of equals the smallest.
        diverged: the learning rates that have no score, since their training diverged.
    """

    metric: str
    higher_is_better: bool
    trials: dict[float, float]
    best: float
    diverged: tuple[float, ...] = ()

    def table(self) -> str:
        """A line per learning rate, the best one marked; those that diverged come last."""
        lines = [f"{'learning rate':>14}{self.metric.removeprefix('eval_'):>20}"]
        lines += [f"{rate:14.3g}{value:20.4f}{'  best' * (rate == self.best)}" for rate, value in self.trials.items()]
        lines += [f"{rate:14.3g}{'diverged':>20}" for rate in self.diverged]
        return "\n".join(lines)

    def save(self, folder: str | Path, **about: Any) -> None:
        """Write `search.json`, with `about` the run, and `search.png`, the score over the learning rate."""
        trials = [{"learning_rate": rate, "score": value} for rate, value in self.trials.items()]
        found = {"metric": self.metric, "best": self.best, "trials": trials, "diverged": list(self.diverged)}
        text = json.dumps(found | about, indent=1)
        Path(folder, "search.json").write_text(text + "\n", encoding="utf-8")
        figure = Figure(figsize=(5, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.semilogx([*self.trials], [*self.trials.values()], "o-")
        axes.semilogx([self.best], [self.trials[self.best]], "o", markersize=12, fillstyle="none", color="C1")
        axes.set_xlabel("learning rate")
        axes.set_ylabel(f"validation {self.metric.removeprefix('eval_').replace('_', ' ')}")
        figure.savefig(Path(folder, "search.png"), dpi=150)


def search_learning_rate(
    trainer: Trainer,
    folder: str | Path,
    *,
    rates: Sequence[float] = LEARNING_RATES,
    between: tuple[float, float] | None = None,
    trials: int = 10,
    subject: str = "",
) -> Search:
    """Train once with each learning rate and say which does best on validation.

    A rate whose training diverges is skipped by name: it has no score, and is not tried again.

    Args:
        trainer: made with `model_init`, which must give the same network each time. It should write no checkpoints
            (`save_strategy="no"`) and evaluate as it trains; its own patience holds in each trial.
        folder: of the file with the trials, of this search and of any others.
        rates: the learning rates.
        between: or a range in which optuna chooses `trials` of them, by the scores so far (TPE, from the seed).
        trials: in the range; not used with `rates`.
        subject: what is trained on what, such as a hash of all options: a search resumes with its own trials alone,
            those of the same subject, rates, metric and seed.

    Raises:
        ValueError: no rates, a trainer that does not evaluate or does not know its metric, or no trial has a score.
    """
    import optuna
    from optuna.trial import TrialState

    args = trainer.args
    if args.eval_strategy == "no" or args.metric_for_best_model is None:
        raise ValueError("a search needs eval_strategy and metric_for_best_model, to tell which learning rate is best")
    if not rates and between is None:
        raise ValueError("give learning rates, or a range between two")
    metric = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
    best = max if args.greater_is_better else min
    options: dict[str, Any] = {}

    def open_search() -> int:
        """Puts the missing trials into the queue, and says how many there are."""
        options.update(_storage(folder, f"{metric} {between or sorted(rates)} seed {args.seed} {subject}".rstrip()))
        options["direction"] = "maximize" if args.greater_is_better else "minimize"
        study = optuna.create_study(**options)
        # A resumed search would begin again with its first draws.
        options["sampler"] = optuna.samplers.TPESampler(seed=args.seed + len(study.get_trials()))
        for trial in study.get_trials(states=[TrialState.RUNNING, TrialState.WAITING]):  # of a search that was ended
            study.tell(trial.number, state=TrialState.FAIL)
        finished = study.get_trials(states=[TrialState.COMPLETE])
        if between is not None:
            return trials - len(finished)
        missing = sorted(set(rates) - {trial.params["learning_rate"] for trial in finished})
        for rate in missing:
            study.enqueue_trial({"learning_rate": rate})
        return len(missing)

    def start(trial: Trial) -> dict[str, float]:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback):
                callback.early_stopping_patience_counter = 0  # upstream counts on from the trial before
        low, high = between or (min(rates), max(rates))
        return {"learning_rate": trial.suggest_float("learning_rate", low, high, log=True)}

    def objective(_: dict[str, float]) -> float:
        # Upstream takes the last evaluation that it hears of; the model that is kept is that of the best.
        scores = [entry[metric] for entry in trainer.state.log_history if metric in entry]
        return best(filter(np.isfinite, scores), default=-np.inf if args.greater_is_better else np.inf)

    # The first process alone keeps the trials; upstream tells the others which one is next.
    missing = from_main(open_search)
    if missing > 0:
        trainer.hyperparameter_search(start, objective, n_trials=missing, backend="optuna", **options)
    return from_main(lambda: _summary(optuna.create_study(**options), metric, bool(args.greater_is_better)))


def _storage(folder: str | Path, name: str) -> dict[str, Any]:
    """The options of `optuna.create_study` by which the study of this name is opened, or made where there is none."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    Path(folder).mkdir(parents=True, exist_ok=True)
    return {
        "storage": optuna.storages.JournalStorage(JournalFileBackend(str(Path(folder, STORAGE)))),
        "study_name": name,
        "pruner": optuna.pruners.NopPruner(),
        "load_if_exists": True,
    }


def _summary(study: Study, metric: str, higher_is_better: bool) -> Search:
    ended = sorted((t.params["learning_rate"], t.value) for t in study.get_trials() if t.value is not None)
    found = {rate: value for rate, value in ended if np.isfinite(value)}
    diverged = dict.fromkeys(rate for rate, value in ended if not np.isfinite(value))
    if not found:
        rates = ", ".join(f"{rate:g}" for rate in diverged) or "none"
        raise ValueError(f"no trial has a score: trainings that diverged: {rates}; the others were not finished")
    best = ranked(found, higher_is_better=higher_is_better)[0]
    return Search(metric, higher_is_better, found, best, tuple(rate for rate in diverged if rate not in found))
