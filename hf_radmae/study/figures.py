"""Figures of a study as SVG text: classes, the course of pre-training, learning rates, and scores over labels."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

MOST_CLASSES = 60  # with a name each; of more classes only the counts are drawn, and no confusion is shown
LINES = {"linear": "-", "trained": "--", "propagated": ":", "searched": "-.", "attentive": (0, (5, 1, 1, 1, 1, 1))}
"""Of each kind of head in the curve over labels."""
WATCHED = {
    "knn_accuracy": ("k-NN accuracy", "share of images whose label most of the nearest others have"),
    "rank": ("effective rank", "how many directions the features use, near 1 where they collapse"),
    "alignment": (
        "alignment",
        "mean squared distance between the unit features of an image and of itself moved by half a patch",
    ),
}
"""Values of features that are watched during a pre-training: what they are called, and what they mean."""


def label_text(name: str) -> str:
    """A name as a label of a figure, where a dollar sign begins a formula and a legend leaves out what _ begins."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def class_figure(classes: Sequence[str], counts: Mapping[str, Sequence[int]]) -> Figure:
    """Images of each class by split, the most frequent class first."""
    order = sorted(range(len(classes)), key=lambda c: -sum(part[c] for part in counts.values()))
    shown = len(classes) <= MOST_CLASSES
    figure = Figure(figsize=(7, 0.8 + (0.26 * len(classes) if shown else 3)), layout="constrained")
    axis, left = figure.subplots(), [0] * len(classes)
    for split, part in counts.items():
        bars = [part[c] for c in order]
        axis.barh(range(len(order)), bars, left=left, height=0.8 if shown else 1, label=split)
        left = [a + b for a, b in zip(left, bars, strict=True)]
    if shown:
        axis.set_yticks(range(len(order)), [label_text(classes[c]) for c in order])
        for place, total in enumerate(left):
            axis.annotate(f" {total:,}", (total, place), va="center", fontsize=8)
    else:
        axis.set_ylabel(f"{len(classes)} classes")
    axis.invert_yaxis()
    axis.margins(x=0.1)
    axis.set_xlabel("images")
    axis.legend()
    return figure


def loss_figure(curve: Sequence[Sequence[float]]) -> Figure:
    """The evaluation loss over the epochs of pre-training: pairs (epoch, loss)."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axis = figure.subplots()
    axis.plot(*zip(*curve, strict=True), marker=".")
    axis.set(xlabel="epoch", ylabel="loss on the validation images")
    return figure


def watched_values(pretraining: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Key of `WATCHED` -> pairs (epoch, value) of what a pre-training watched, one for each epoch."""
    entries = pretraining.get("watch") or []
    found = {key: {e["epoch"]: e[key] for e in entries if e.get(key) is not None} for key in WATCHED}
    return {key: sorted(values.items()) for key, values in found.items() if values}


def watch_figure(values: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """A panel for each of the `watched_values`, over the epochs."""
    figure = Figure(figsize=(3.4 * len(values), 2.6), layout="constrained")
    for axis, (key, pairs) in zip(figure.subplots(1, len(values), squeeze=False).flat, values.items(), strict=True):
        axis.plot(*zip(*pairs, strict=True), marker=".")
        axis.set(xlabel="epoch", title=WATCHED[key][0])
    return figure


def search_figure(searches: Sequence[Mapping[str, Any]]) -> Figure:
    """The validation score of each learning rate, a line for each search: "model", "share" and "rates"."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axis = figure.subplots()
    for search in searches:
        rates, scores = zip(*((row["learning_rate"], row["score"]) for row in search["rates"]), strict=True)
        axis.plot(rates, scores, marker=".", label=label_text(f"{search['model']}, {search['share']}"))
    axis.set(xscale="log", xlabel="learning rate", ylabel="balanced accuracy, validation")
    if searches:
        axis.legend(fontsize=8)
    return figure


def curve_figure(tables: Sequence[Mapping[str, Any]], metric: str, name: str) -> Figure:
    """The metric with its interval over the number of labelled images, a line for each model.

    Args:
        tables: "images", the mean number of labels, and "rows", in rising order.
        metric: name of a score in the rows.
        name: of the metric, for the axis.
    """
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axis = figure.subplots()
    names = list(dict.fromkeys((row["model"], row["head"]) for table in tables for row in table["rows"]))
    for model, head in names:
        rows = [(t["images"], r) for t in tables for r in t["rows"] if (r["model"], r["head"]) == (model, head)]
        known = [(images, row) for images, row in rows if row[metric] is not None]
        if not known:
            continue
        x, found = zip(*known, strict=True)
        values, low, high = (np.array([row[f"{metric}{end}"] for row in found]) for end in ("", "_low", "_high"))
        ends = np.maximum([values - low, high - values], 0)  # a mean over draws may lie outside of its own interval
        label = label_text(model if head in ("linear", "trained") else f"{model}, {head}")
        axis.errorbar(x, values, ends, marker="o", markersize=4, capsize=2, linestyle=LINES[head], label=label)
    axis.set(xscale="log", xlabel="labelled training images (mean of the draws)", ylabel=f"{name}, test")
    places = sorted({table["images"] for table in tables})
    axis.set_xticks(places, [f"{images:,.0f}" for images in places])
    axis.set_xticks([], minor=True)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def reliability_figure(classes: Mapping[str, Mapping[str, Any]]) -> Figure:
    """How often predicted classes are right over their probability, a line for each model: see `reliability`."""
    figure = Figure(figsize=(4, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="0.7", linestyle=":")
    for name, found in classes.items():
        bins = found["reliability"]
        axis.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], marker="o", label=label_text(name))
    axis.set(xlabel="probability of the predicted class", ylabel="share that is right, test", xlim=(0, 1), ylim=(0, 1))
    axis.legend(fontsize=7)
    return figure


def fold_columns(folds: Mapping[str, Any], counts: Sequence[int]) -> list[int | str]:
    """The numbers of labels of a fold curve in order, "all" last; all of `counts` where there is a published curve."""
    numbers = {row["labels"] for row in folds["rows"]} | (set(counts) if folds.get("published") else set())
    return [*sorted(numbers - {"all"}), "all"]


def fold_figure(folds: Mapping[str, Any], counts: Sequence[int]) -> Figure:
    """AUROC of five folds over the labels that are used, beside the published curve where there is one."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis, columns = figure.subplots(), fold_columns(folds, counts)
    if folds.get("published"):
        places = [*map(columns.index, counts), len(columns) - 1]
        axis.plot(places, folds["published"], "k--", marker="o", label="CXR-Foundation, published")
    for model in dict.fromkeys(row["model"] for row in folds["rows"]):
        rows = [row for row in folds["rows"] if row["model"] == model]
        places = [columns.index(row["labels"]) for row in rows]
        values, ends = ([r[key] for r in rows] for key in ("auroc", "std"))
        axis.errorbar(places, values, ends, marker=".", capsize=2, label=label_text(model))
    axis.set_xticks(range(len(columns)), [*map(str, columns)])
    axis.set(xlabel="labels", ylabel="AUROC, mean of five folds")
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=7)
    return figure


def svg(figure: Figure) -> str:
    """The figure as an SVG element that is the same whenever it is drawn, to be put into a page."""
    with matplotlib.rc_context({"svg.hashsalt": "hf_radmae", "svg.fonttype": "none"}):
        FigureCanvasSVG(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
