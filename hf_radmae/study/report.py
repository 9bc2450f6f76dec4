"""The results of a study for people: a page of HTML that needs nothing else, the same in Markdown, and plain tables."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from hf_radmae.study.figures import class_figure, curve_figure, loss_figure, search_figure, svg
from hf_radmae.study.steps import write_whole
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
    environment.filters |= {"score": score, "minutes": minutes}
    shared = {
        **results,
        "summary": summary(results),
        "metric_names": METRIC_NAMES,
        "step_groups": step_groups(results["seconds"]),
        "reconstructions": base64.b64encode(photo.read_bytes()).decode() if photo.is_file() else None,
    }
    files = []
    for suffix in ("html", "md"):
        pictures = {name: Markup(text) for name, text in figures.items()} if suffix == "html" else {}
        text = environment.get_template(f"report.{suffix}.j2").render(shared, pictures=pictures)
        files.append(folder / f"report.{suffix}")
        write_whole(files[-1], text.rstrip() + "\n")
    return files


def draw_figures(results: Mapping[str, Any]) -> dict[str, str]:
    """Name of a figure -> SVG: "pretraining", and "classes", "curve" and "search" with the number of each task."""
    figures = {}
    if results["pretraining"].get("curve"):
        figures["pretraining"] = svg(loss_figure(results["pretraining"]["curve"]))
    for number, task in enumerate(results["tasks"], start=1):
        figures[f"classes-{number}"] = svg(class_figure(task["classes"], task["counts"]))
        figures[f"search-{number}"] = svg(search_figure(task["searches"]))
        tables = [table for table in task["curve"] if table["rows"]]
        figures[f"curve-{number}"] = svg(curve_figure(tables, "balanced_accuracy", METRIC_NAMES["balanced_accuracy"]))
    return figures


def score(row: Mapping[str, Any], metric: str) -> str:
    """A score and its interval in per cent; an IRMA error as it is."""
    values = [row[f"{metric}{end}"] for end in ("", "_low", "_high")]
    if any(value is None for value in values):
        return "undefined"
    factor, digits = (1, 3) if metric == "irma_error" else (100, 1)
    return "{:.{d}f} ({:.{d}f} to {:.{d}f})".format(*(factor * value for value in values), d=digits)


def summary(results: Mapping[str, Any]) -> dict[str, str]:
    """The sentences at the head of a report: number of images, hardware, method, and the pre-training."""
    device, trained = results["environment"], results["pretraining"]
    total = sum(results["data"]["images"].values())
    text = f"Taken as it is: {trained.get('checkpoint')}."
    if "losses" in trained:
        losses, model = trained["losses"], results["model"]
        text = (
            f"{model['parameters']:,} parameters (preset {model['preset']}), {trained['training']['epochs']:g} epochs, "
            f"{minutes(results['seconds']['pretrain'])}. Loss on the validation images {losses['before']:.3f} "
            f"before and {losses['validation']:.3f} after; on the test images {losses['test']:.3f}."
        )
    hardware = f"{device['device']}, {device['cpus']} CPU cores"
    method = (
        f"Scores are of the test split, in per cent, with 95 % intervals over {results['resampled']} and over draws of "
        "the labels. All models of a table have the same draws, the same images and, in their differences, the same "
        "resamples. A probe sees the shapes of pre-training, a network that is trained on labels one square. Both are "
        "chosen by balanced accuracy on validation: a probe's penalty for each draw, a network's learning rate on the "
        "first draw of its share, and its best evaluation."
    )
    if results["class_weights"] != "none":
        method += f" Every loss weighs the classes: {results['class_weights']}."
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
    lines = []
    for task in results["tasks"]:
        for table in task["tables"]:
            lines.append(f"\n{task['name']}, labels: {_heading(table)}\n")
            if table["refused"]:
                lines.append(f"  not possible: {table['refused']}")
                continue
            head = ["", *(METRIC_NAMES[metric] for metric in table["metrics"]), *(["paper"] if table["paper"] else [])]
            cells = [[r["model"], *(score(r, m) for m in table["metrics"]), *_paper(table, r)] for r in table["rows"]]
            lines += _columns([head, *cells])
    lines.append(f"\nPer cent with 95 % intervals over {results['resampled']} and draws, test split.")
    return "\n".join(lines)


def _heading(table: Mapping[str, Any]) -> str:
    if table["refused"]:
        return table["share"]
    draws = "" if table["draws"] == 1 else f", {table['draws']} draws"
    return f"{table['share']} ({table['images']:,.0f} images{draws})"


def _paper(table: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    if not table["paper"]:
        return []
    value = table["paper"].get(row["model"])
    return ["" if value is None else f"{100 * value:.1f}"]


def _columns(rows: Iterable[list[str]]) -> list[str]:
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
