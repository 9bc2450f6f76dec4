"""How right labels read from reports are: against labels by hand, per label, with intervals and the confusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import binomtest

from hf_radmae.metrics.bootstrap import Interval, bootstrap_interval
from hf_radmae.metrics.classification import per_class
from hf_radmae.reports.reading import ANSWERS

NOTHING = "nothing"
READ = (*ANSWERS, NOTHING)
WRITTEN = {
    **dict.fromkeys(("yes", "y", "ja", "j", "1", "1.0", "true", "positive", "pos"), "yes"),
    **dict.fromkeys(("no", "n", "nein", "0", "0.0", "false", "negative", "neg"), "no"),
    **dict.fromkeys(("unsure", "unklar", "uncertain", "?", "0.5"), "unsure"),
}
"""What tables of labels by hand write, in lower case -> an answer."""


def evaluate(
    hand: Mapping[Any, Mapping[str, str | None]], read: Mapping[Any, Mapping[str, str | None]], names: list[str]
) -> dict[str, Any]:
    """Compare what was read with labels by hand, on the keys (reports, or images) that both have.

    Precision is the share of hand-labelled reports read as yes that are yes, recall the share of those that are yes
    which were read as yes, F1 their harmonic mean. What a report leaves open counts as not read. Reports are taken as
    independent of each other.

    Args:
        hand: key -> label -> "yes", "no", "unsure", or None where there is none.
        read: key -> label -> the same, None where the report says nothing.
        names: of the labels; those without a label by hand are left out.

    Returns:
        "labels": name -> number of keys `compared`, `precision` and `recall` with 95 % Wilson intervals and `f1` with a
        bootstrap interval (`*_low`, `*_high`; None where undefined), `right` (share of equal answers), `flips` (yes for
        no, or no for yes) as a count, `counts` of what was read, and `confusion` (by hand -> read -> count); "missing":
        keys of `hand` that were not read.
    """
    found: dict[str, Any] = {}
    for name in names:
        keys = [key for key in hand if key in read and hand[key].get(name) is not None]
        if not keys:
            continue
        truth = np.array([hand[key][name] for key in keys])
        said = np.array([read[key].get(name) or NOTHING for key in keys])
        confusion = {a: {b: int(((truth == a) & (said == b)).sum()) for b in READ} for a in ANSWERS}
        hits = confusion["yes"]["yes"]
        f1 = Interval(None, None, None)
        if hits:
            f1 = bootstrap_interval(_f1, truth == "yes", said == "yes")
        found[name] = {
            "compared": len(keys),
            **_share(hits, int((said == "yes").sum())).named("precision"),
            **_share(hits, int((truth == "yes").sum())).named("recall"),
            **f1.named("f1"),
            **_share(int((truth == said).sum()), len(keys)).named("right"),
            "flips": confusion["yes"]["no"] + confusion["no"]["yes"],
            "counts": {answer: int((said == answer).sum()) for answer in READ},
            "confusion": confusion,
        }
    return {"labels": found, "missing": len(hand.keys() - read.keys())}


def evaluation_text(results: Mapping[str, Any]) -> str:
    """The results of `evaluate` as tables to print: figures of each label in per cent, then each label's confusion."""
    lines = [
        f"{'against labels by hand':24}{'compared':>9}"
        + "".join(f"{name:>22}" for name in ("precision", "recall", "F1", "right"))
        + f"{'flips':>14}"
    ]
    for name, row in results["labels"].items():
        figures = "".join(f"{_percent(row, key):>22}" for key in ("precision", "recall", "f1", "right"))
        flips = f"{row['flips']} ({100 * row['flips'] / row['compared']:.1f} %)"
        lines.append(f"{name:24}{row['compared']:9,}{figures}{flips:>14}")
    for name, row in results["labels"].items():
        lines += ["", f"{name + ', by hand':24}" + "".join(f"{'read ' + answer:>14}" for answer in READ)]
        lines += [
            f"{truth:24}" + "".join(f"{row['confusion'][truth][answer]:14,}" for answer in READ) for truth in ANSWERS
        ]
    if results["missing"]:
        lines += ["", f"{results['missing']:,} labelled ids have no report here."]
    return "\n".join(lines)


def _share(count: int, whole: int) -> Interval:
    if not whole:
        return Interval(None, None, None)
    low, high = binomtest(count, whole).proportion_ci(method="wilson")
    return Interval(count / whole, float(low), float(high))


def _f1(references: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """F1 of what is True, which both hold; 0 in a resample in which neither does."""
    return np.nan_to_num(per_class(references, predictions, weights)[:, 2, -1])


def _percent(row: Mapping[str, Any], key: str) -> str:
    if row[key] is None:
        return "-"
    return f"{100 * row[key]:.1f} ({100 * row[f'{key}_low']:.1f} to {100 * row[f'{key}_high']:.1f})"
