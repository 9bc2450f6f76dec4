"""The results of a study for people: a page of HTML that needs nothing else, Markdown, and plain tables.

The Markdown has all that the page has but the confusion matrices.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from hf_radmae.images.storage import write_whole
from hf_radmae.reports.evaluation import evaluation_text
from hf_radmae.study.figures import (
    class_figure,
    curve_figure,
    fold_figure,
    loss_figure,
    reliability_figure,
    search_figure,
    svg,
)
from hf_radmae.study.folds import COUNTS
from hf_radmae.study.tables import METRIC_NAMES

TEMPLATES = Path(__file__).with_name("templates")


def write_report(results: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Writes `report.html`, `report.md` and the figures that this one shows; returns the files.

    Args:
        results: as `Study.run` returns them.
        folder: of the study; its "reconstructions.png", where there is one, is shown.
    """
    folder = Path(folder)
    figures = draw_figures(results)
    (folder / "figures").mkdir(exist_ok=True)
    for name, picture in figures.items():
        write_whole(folder / "figures" / f"{name}.svg", picture)
    photo = folder / "figures" / "reconstructions.png"
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
    )
    environment.filters |= {"evaluation_text": evaluation_text}
    environment.filters |= {"score": score, "minutes": minutes, "described": described, "headlines": headlines}
    shared = {
        **results,
        "summary": summary(results),
        "metric_names": METRIC_NAMES,
        "pictures": {name: Markup(text) for name, text in figures.items()},
        "step_groups": step_groups(results["seconds"]),
        "reconstructions": base64.b64encode(photo.read_bytes()).decode() if photo.is_file() else None,
    }
    files = []
    for suffix in ("html", "md"):
        text = environment.get_template(f"report.{suffix}.j2").render(shared)
        files.append(folder / f"report.{suffix}")
        write_whole(files[-1], text.rstrip() + "\n")
    return files


def draw_figures(results: Mapping[str, Any]) -> dict[str, str]:
    """Name of a figure -> SVG: "pretraining", and of each task, by its number, what its results hold."""
    figures = {}
    if results["pretraining"].get("curve"):
        figures["pretraining"] = svg(loss_figure(results["pretraining"]["curve"]))
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
    """A score and its interval in per cent; an IRMA error as it is."""
    values = [row[f"{metric}{end}"] for end in ("", "_low", "_high")]
    if any(value is None for value in values):
        return "undefined"
    factor, digits = (1, 3) if metric in ("irma_error", "brier") else (100, 1)
    return "{:.{d}f} ({:.{d}f} to {:.{d}f})".format(*(factor * value for value in values), d=digits)


def summary(results: Mapping[str, Any]) -> dict[str, str]:
    """The sentences at the head of a report: number of images, hardware, method, and the pre-training."""
    device, trained = results["environment"], results["pretraining"]
    total = sum(results["data"]["images"].values())
    text = f"Taken as it is: {trained.get('checkpoint')}."
    if "losses" in trained:
        losses, model = trained["losses"], results["model"]
        seconds = sum(value for name, value in results["seconds"].items() if name.startswith("pretrain"))
        text = (
            f"{model['parameters']:,} parameters (preset {model['preset']}), {trained['training']['epochs']:g} epochs "
            f"({trained['training']['views']:,} image views, which the views of the tables leave out), "
            f"learning rate {trained['training']['learning_rate']:g}, {minutes(seconds)} for all rates. "
            f"Loss on the validation images {losses['before']:.3f} before and {losses['validation']:.3f} after; on the "
            f"test images {losses['test']:.3g}: mean squared error of masked patches, "
            + ("each normalised." if model["norm_pix_loss"] else "grey values 0 to 1.")
        )
    hardware = f"{device['device']}, {device['cpus']} CPU cores"
    method = (
        f"Scores are of the test split, in per cent, with 95 % intervals over {results['resampled']}, over draws of "
        "the labels, and over seeds of the pre-training where there are several. All models of a table have the same "
        "draws and, in their differences, the same resamples. Heads on frozen features have one fixed penalty; a "
        "propagated one uses unlabelled training images too. Of each model and head the pooling is chosen on the "
        "labelled validation images, and so are the best rival, a network's learning rate and its best evaluation: "
        "their number is in the column `chosen on`. Views of a network are of one training, without those of the "
        "trainings that search its rate. "
    )
    if len(results["data"]["bins"]) > 1:
        method += (
            "Networks that are trained on labels see squares, heads see the shapes of pre-training: the rival of "
            "metadata alone shows what the shape gives away."
        )
    else:
        method += "All models see the same pixels."
    if results["class_weights"] != "none":
        method += f" The losses of networks and linear heads weigh the classes: {results['class_weights']}."
    if results["pretraining"].get("unseen") is False:
        method += " The checkpoint has no list of the images it was trained on: it may have seen the test images."
    return {"images": f"{total:,}", "hardware": hardware, "method": method, "pretraining": text}


def minutes(seconds: float) -> str:
    """A duration in words."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def step_groups(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Steps by the first word of their names: how many, and the seconds that they took together."""
    groups: dict[str, list[float]] = {}
    for name, value in seconds.items():
        groups.setdefault(name.split(",")[0], []).append(value)
    return [{"name": name, "steps": len(part), "seconds": sum(part)} for name, part in groups.items()]


def terminal_text(results: Mapping[str, Any]) -> str:
    """The tables of every task as plain text."""
    lines = [line for task in results["tasks"] for table in task["tables"] for line in table_lines(task["name"], table)]
    lines.append(f"\nPer cent with 95 % intervals over {results['resampled']}, draws and seeds; test split.")
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
    paper = [[name, "", "the paper's, accuracy", f"{100 * value:.1f}"] for name, value in table["paper"].items()]
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
    heads["searched"] = "linear, best learning rate"
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
