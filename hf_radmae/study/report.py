"""The results of a study for people: a page of HTML that needs nothing else, Markdown with figures, and plain tables.

A sentence stands only where the results hold what it says; what a study did not do is not mentioned.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hf_radmae.images.storage import write_whole
from hf_radmae.metrics import METRIC_NAMES
from hf_radmae.reports.evaluation import evaluation_text
from hf_radmae.study.figures import (
    MOST_CLASSES,
    WATCHED,
    class_figure,
    curve_figure,
    fold_columns,
    fold_figure,
    loss_figure,
    reliability_figure,
    search_figure,
    svg,
    watch_figure,
    watched_values,
)
from hf_radmae.study.folds import COUNTS
from hf_radmae.study.pretrained import METADATA, PIXELS

TEMPLATES = Path(__file__).with_name("templates")
PLAIN = ("brier", "irma_error")  # scores that are shown as they are, all others in per cent


def write_report(results: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Writes `report.html`, `report.md` and the figures that this one shows; returns the files.

    Args:
        results: as `Study.run` returns them.
        folder: of the study; its pictures of reconstructions and of their errors, where there are any, are shown.
    """
    folder = Path(folder)
    figures = draw_figures(results)
    (folder / "figures").mkdir(exist_ok=True)
    for name, picture in figures.items():
        write_whole(folder / "figures" / f"{name}.svg", picture)
    filters = (evaluation_text, score, minutes, described, headlines, class_notes, refusals, fold_table, fold_notes)
    shared = {
        **results,
        "summary": summary(results),
        "metric_names": METRIC_NAMES,
        "pictures": {name: Markup(text) for name, text in figures.items()},
        "photos": {
            path.name: base64.b64encode(path.read_bytes()).decode() for path in (folder / "figures").glob("*.png")
        },
        "watch_note": watch_note(results["pretraining"]),
        "step_groups": step_groups(results["seconds"]),
        "time_note": time_note(results["seconds"]),
        "min_test_images": results.get("options", {}).get("min_test_images"),
        "most_classes": MOST_CLASSES,
    }
    files = []
    for suffix, ways in (("html", {"autoescape": True}), ("md", {"finalize": in_markdown})):
        environment = Environment(
            loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **ways
        )
        environment.filters |= {function.__name__: function for function in filters}
        text = environment.get_template(f"report.{suffix}.j2").render(shared)
        files.append(folder / f"report.{suffix}")
        write_whole(files[-1], text.rstrip() + "\n")
    return files


def draw_figures(results: Mapping[str, Any]) -> dict[str, str]:
    """Name of a figure -> SVG: "pretraining", "watch", and of each task, by its number, what its results hold."""
    figures = {}
    if results["pretraining"].get("curve"):
        figures["pretraining"] = svg(loss_figure(results["pretraining"]["curve"]))
    if values := watched_values(results["pretraining"]):
        figures["watch"] = svg(watch_figure(values))
    for number, task in enumerate(results["tasks"], start=1):
        figures[f"classes-{number}"] = svg(class_figure(task["classes"], task["counts"]))
        if task["searches"]:
            figures[f"search-{number}"] = svg(search_figure(task["searches"]))
        if tables := [table for table in task["curve"] if table["rows"]]:
            metric = tables[0]["metrics"][0]
            figures[f"curve-{number}"] = svg(curve_figure(tables, metric, METRIC_NAMES[metric]))
        for place, table in enumerate(task["tables"], start=1):
            if table["classes"]:
                figures[f"reliability-{number}-{place}"] = svg(reliability_figure(table["classes"]))
        if task["folds"]:
            figures[f"folds-{number}"] = svg(fold_figure(task["folds"], COUNTS))
    return figures


def score(row: Mapping[str, Any], metric: str) -> str:
    """A score and its interval in per cent; an error as it is."""
    values = [row[f"{metric}{end}"] for end in ("", "_low", "_high")]
    if any(value is None for value in values):
        return "undefined"
    factor, digits = (1, 3) if metric in PLAIN else (100, 1)
    return "{:.{d}f} ({:.{d}f} to {:.{d}f})".format(*(factor * value for value in values), d=digits)


def summary(results: Mapping[str, Any]) -> dict[str, str]:
    """The sentences at the head of a report: number of images, hardware, method, and the pre-training."""
    device, total = results["environment"], sum(results["data"]["images"].values())
    return {
        "images": f"{total:,}",
        "hardware": f"{device['device']}, {device['cpus']} CPU cores",
        "method": " ".join([*_scoring(results), *_choices(results), *_inputs(results), *_weights(results)]),
        "pretraining": " ".join([_pretraining(results), *_starts(results)]),
    }


def _rows(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of all tables and curves."""
    return [row for task in results["tasks"] for table in (*task["tables"], *task["curve"]) for row in table["rows"]]


def _scoring(results: Mapping[str, Any]) -> list[str]:
    """What is scored, in which unit, and what the intervals are over."""
    tables = [table for task in results["tasks"] for table in (*task["tables"], *task["curve"]) if table["rows"]]
    metrics = {metric for table in tables for metric in table["metrics"]}
    plain = [f"{METRIC_NAMES[name]}s" for name in PLAIN if name in metrics]
    seeds = max((row["seeds"] for row in _rows(results)), default=1)
    over = [results["resampled"]]
    over += ["draws of the labels where there are several"] if any(table["draws"] > 1 for table in tables) else []
    over += [f"{seeds} seeds where a row says so"] if seeds > 1 else []
    split = results.get("options", {}).get("test_split", "test")
    return [
        f"Scores are of the test split{f' ({split})' if split != 'test' else ''}, in per cent"
        f"{f' ({_listed(plain)}: as they are)' if plain else ''}, with 95 % intervals over {_listed(over)}. All models "
        "of a table have the same draws and, in their differences, the same resamples."
    ]


def _choices(results: Mapping[str, Any]) -> list[str]:
    """The heads that there are, and what was chosen on the labelled validation images."""
    rows, options = _rows(results), results.get("options", {})
    heads = {row["head"] for row in rows}
    found = []
    if "linear" in heads:
        found.append("Linear heads on frozen features have one fixed penalty.")
    if "searched" in heads:
        rates = len(options.get("learning_rates", ()))
        found.append(
            "Heads with the best learning rate are trained by AdamW; on each draw the rate"
            f"{f', of {rates},' if rates else ''} and the epoch are those with the best balanced accuracy on the "
            "validation images."
        )
    if "attentive" in heads:
        found.append("Attentive heads weigh the cells of a grid for each class, by a training of fixed length.")
    if "propagated" in heads:
        found.append("Propagated heads use training images without their labels too.")
    found.append(
        "Of each model and head the pooling is chosen on the labelled validation images by the first score of a table, "
        "and so are the best of ours and the best rival: the number of these images is in the column `chosen on`."
    )
    searches = [search for task in results["tasks"] for search in task["searches"] if len(search["rates"]) > 1]
    if "trained" in heads:
        found.append("Of a network the evaluation with the best balanced accuracy on these images is kept.")
        if searches:
            found.append(
                "So is the best learning rate of a network, which is searched on the first draw alone, of the labels "
                "that the table of learning rates names, and is that of all draws."
            )
        found.append("Views of a network are of one training (the mean over draws), without those of a search.")
        if any(row["head"] == "trained" and row.get("pretraining_views") for row in rows):
            found.append("Those with pre-training add the views of the pre-training whose weights are used.")
    return found


def _inputs(results: Mapping[str, Any]) -> list[str]:
    """Which pixels each kind of model sees."""
    rows, shapes = _rows(results), {tuple(shape) for shape in results["data"]["bins"]}
    height, width = min(shapes)
    seen = f"{height} x {width} pixels" if len(shapes) == 1 else f"the one of {len(shapes)} shapes that suits it"
    found = [f"Features of the masked autoencoder are of each image at {seen}."]
    models = {row["model"] for row in rows}
    if PIXELS in models:
        found.append(f"The rival `{PIXELS}` has square thumbnails and histograms of gradients of the same pixels.")
    if any(row["kind"] == "elsewhere" and row["head"] != "trained" for row in rows):
        found.append("Encoders that were trained elsewhere see the same pixels, resized to the square that they need.")
    if any(row["head"] == "trained" for row in rows):
        found.append("Networks that are trained on labels see each image resized to one square.")
    if METADATA in models and len(shapes) > 1:
        found.append(f"The rival `{METADATA}`, which has the size of the file, shows what the shape gives away.")
    return found


def _weights(results: Mapping[str, Any]) -> list[str]:
    if results["class_weights"] == "none":
        return []
    heads = {row["head"] for row in _rows(results)}
    kinds = {"trained": "networks", "linear": "linear heads", "attentive": "attentive heads"}
    whose = _listed([name for head, name in kinds.items() if head in heads])
    even = "; propagated labels are even" if "propagated" in heads else ""
    return [f"The losses of {whose} weigh the classes: {results['class_weights']}{even}."] if whose else []


def _pretraining(results: Mapping[str, Any]) -> str:
    """Size, length and losses of the pre-training, or the checkpoint that was taken."""
    trained, options = results["pretraining"], results.get("options", {})
    more = options.get("more_checkpoints", ())
    others = f" Further seeds of it: {_listed([Path(name).name for name in more])}." if more else ""
    if "losses" not in trained:
        return f"Taken as it is: {trained.get('checkpoint')}.{others}"
    losses, model, training = trained["losses"], results["model"], trained["training"]
    times = [value for name, value in results["seconds"].items() if name.startswith("pretrain")]
    start = options.get("model")
    size = f"begun from {Path(start).name}" if start else f"preset {model['preset']}"
    several, rate = len(times) > 1, training.get("learning_rate")  # which older results lack
    return (
        f"{model['parameters']:,} parameters ({size}), epochs: {training['epochs']:g} ({training['views']:,} image "
        f"views){f', learning rate {rate:g}' if rate else ''}"
        f"{f', the best of {len(times)} by the loss on the validation images' if several else ''}; "
        f"{minutes(sum(times))}{' for all of them' if several else ''}. "
        f"Loss on the validation images {losses['before']:.3f} before and {losses['validation']:.3f} after; on the "
        f"test images {losses['test']:.3g}: mean squared error of masked patches, "
        + ("each normalised." if model["norm_pix_loss"] else "grey values 0 to 1.")
        + others
    )


def _starts(results: Mapping[str, Any]) -> list[str]:
    """Whether weights that were not made in the study may have seen its test images."""
    options, unseen, found = results.get("options", {}), results["pretraining"].get("unseen"), []
    more = options.get("more_checkpoints", [])
    if unseen is False:
        who = "One of the checkpoints" if more else "The checkpoint"
        found.append(f"{who} has no list of the images it was trained on: it may have seen the test images.")
    if unseen:
        lists = "lists of the images that these checkpoints were" if more else "list of the images that it was"
        found.append(f"None of the test images is in the {lists} trained on.")
    names = [options.get(name) for name in ("model", "vit_checkpoint", "resnet50_checkpoint")]
    names += [*options.get("rivals", ()), *(more if unseen is None else ())]
    names = [Path(name).name for name in names if name]
    if names:
        found.append(
            f"Other weights from elsewhere ({', '.join(dict.fromkeys(names))}): those with a list of the images that "
            "they were trained on have seen none of the test images; those without one may have seen them."
        )
    return found


def _listed(parts: Sequence[str]) -> str:
    """Words as a list in a sentence."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def class_notes(task: Mapping[str, Any], least: int | None = None) -> list[str]:
    """Which classes have too few test images: those that were dropped, and those that were kept all the same."""
    fewer = "too few" if least is None else f"fewer than {least}"

    def named(counts: Mapping[str, int]) -> str:
        return ", ".join(f"{name} ({count})" for name, count in counts.items())

    found = []
    if task["dropped"]:
        found.append(f"Dropped, {fewer} test images: {named(task['dropped'])}.")
    if kept := task.get("kept_rare"):
        found.append(
            f"Kept with {fewer} test images, since fewer than two classes would be left or since several labels are "
            f"scored at once: {named(kept)}. One image moves the scores of such a class."
        )
    return found


def refusals(task: Mapping[str, Any]) -> list[str]:
    """What was asked for and could not be done, each with the reason."""
    names = {"folds": "The curve over five folds", "error_maps": "A score of reconstruction errors"}
    refused = task.get("refused") or {}
    return [f"{names.get(key, key)} is not possible: {why.rstrip('.')}." for key, why in refused.items()]


def watch_note(pretraining: Mapping[str, Any]) -> str:
    """What the values that were watched during the pre-training mean; empty where there are none."""
    known = watched_values(pretraining)
    if not known:
        return ""
    meanings = "; ".join(f"{name}: {meaning}" for key, (name, meaning) in WATCHED.items() if key in known)
    column = pretraining.get("watch_column") if "knn_accuracy" in known else None
    labels = f", with the labels of {column}" if column else ""
    return f"Features of validation images during the pre-training{labels}. {meanings[0].upper()}{meanings[1:]}."


def fold_table(folds: Mapping[str, Any]) -> list[list[str]]:
    """The AUROC of five folds as a table, a line for each model and a column for each number of labels."""
    columns = fold_columns(folds, COUNTS)
    cells = {
        (row["model"], row.get("pooling", ""), row["labels"]): f"{row['auroc']:.3f} ({row['std']:.3f})"
        for row in folds["rows"]
    }
    lines = [["model", "pooling", *map(str, columns)]]
    for model, pooling in dict.fromkeys(key[:2] for key in cells):
        lines.append([model, pooling, *(cells.get((model, pooling, column), "") for column in columns)])
    if published := folds.get("published"):
        lines.append(["CXR-Foundation, published", "", *(f"{value:.3f}" for value in published)])
    return lines


def fold_notes(folds: Mapping[str, Any]) -> str:
    """How the folds were made and scored, in sentences."""
    images, groups = folds.get("images"), folds.get("groups")
    counted = f"{images:,} labelled images in {groups:,} groups; " if images and groups else ""
    text = (
        "Mean (standard deviation) over five folds of the AUROC of logistic regression on so many labels of the other "
        f"folds. The folds are over all splits ({counted}images of a patient and near duplicates are in one fold, "
        "where they are known). Each model has its first seed and the last of its poolings: nothing is chosen."
    )
    if (weights := folds.get("class_weights", "none")) != "none":
        text += f" Its loss weighs the classes: {weights}."
    if (seen := folds.get("seen")) is not None:
        text += f" The pre-training saw {'images' if seen else 'no image'} of the folds{', without labels' * seen}."
    if folds.get("published"):
        text += (
            " The published curve is that of CXR-Foundation embeddings with logistic regression on FracAtlas, as its "
            "authors state it, on other folds."
        )
    return text


def in_markdown(value: Any) -> str:
    """A value as Markdown shows it in a line or a cell: a name is no markup. What a template calls safe stays."""
    return value if isinstance(value, Markup) else re.sub(r"([\\*<\[|])", r"\\\1", re.sub(r"\s*\n\s*", " ", str(value)))


def minutes(seconds: float) -> str:
    """A duration in words."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def step_groups(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Steps by the first word of their names: how many, and the seconds that they took together."""
    groups: dict[str, list[float]] = {}
    for name, value in seconds.items():
        groups.setdefault(name.split(",")[0], []).append(value)
    return [{"name": name, "steps": len(part), "seconds": sum(part)} for name, part in groups.items()]


def time_note(seconds: Mapping[str, float]) -> str:
    """What the times count, and what they do not."""
    counted = {name.split(",")[0] for name in seconds}
    left = ["reading the images", *(name for name in ("heads", "tables") if name not in counted), "figures"]
    return (
        "Time of what was done when it was done, a step in this start or an earlier one; what several processes did at "
        f"the same time is added up. Not counted: {_listed(left)}."
    )


def terminal_text(results: Mapping[str, Any]) -> str:
    """The tables of every task as plain text."""
    lines = [line for task in results["tasks"] for table in task["tables"] for line in table_lines(task["name"], table)]
    lines.append("\n" + " ".join(_scoring(results)))
    if measured := results.get("report_labels"):
        lines += ["\nLabels of reports, per cent of images:\n", evaluation_text(measured)]
    return "\n".join(lines)


def table_lines(task: str, table: Mapping[str, Any], most_metrics: int = 2) -> list[str]:
    """A table of `score_table` as lines of text, its headline first; for pre-training and study alike."""
    lines = [f"\n{task}, labels: {_heading(table)}\n"]
    if table["refused"]:
        return [*lines, f"  not possible: {table['refused']}"]
    lines += [f"  {text}" for text in headlines(table)]
    metrics = table["metrics"][:most_metrics]
    head = ["model", "pooling", "head", *(METRIC_NAMES[metric] for metric in metrics), "chosen on"]
    cells = [[*described(r), *(score(r, m) for m in metrics), str(r["chosen_on"])] for r in table["rows"]]
    paper = [
        [name, "", "the paper's", *(f"{100 * value:.1f}" if m == "accuracy" else "" for m in metrics)]
        for name, value in table["paper"].items()
    ]
    return lines + _columns([head, *cells, *([*row, *[""] * (len(head) - len(row))] for row in paper)])


def headlines(table: Mapping[str, Any]) -> list[str]:
    """The difference to the best rival, and to the best network that was pre-trained elsewhere, as sentences."""
    metric, found = table["metrics"][0], []
    for key in ("headline", "elsewhere"):
        if row := table[key]:
            difference = score(row, metric)
            found.append(f"{row['ours']} minus {row['rival']}, {METRIC_NAMES[metric]}: {difference}")
    return found


def described(row: Mapping[str, Any]) -> list[str]:
    """Model, pooling and head of a row, as texts."""
    views = f"{row['views']:,} views"
    if before := row.get("pretraining_views"):
        views += f", {row['views'] + before:,} with pre-training"
    heads = {"propagated": f"and {row['unlabelled']} unlabelled", "trained": f"trained, {views}"}
    heads |= {"searched": "linear, best learning rate", "attentive": "attentive"}
    seeds = f", {row['seeds']} seeds" if row["seeds"] > 1 else ""
    return [row["model"] + seeds, row["pooling"], heads.get(row["head"], "linear")]


def _heading(table: Mapping[str, Any]) -> str:
    if table["refused"]:
        return table["share"]
    draws = "" if table["draws"] == 1 else f", {table['draws']} draws"
    return f"{table['share']} ({table['images']:,.0f} images{draws})"


def _columns(rows: Iterable[list[str]]) -> list[str]:
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
