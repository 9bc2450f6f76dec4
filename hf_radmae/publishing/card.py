"""Cards of models and data sets, filled from what a run measured and from nothing else.

A figure that is not in the results is left out with its sentence. What is there is said as it was measured, and the
scores with intervals are in the metadata as well, as `EvalResult`s.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.repocard_data import DatasetCardData
from jinja2 import ChainableUndefined, Environment, FileSystemLoader, StrictUndefined

from hf_radmae.metrics import METRIC_NAMES
from hf_radmae.models.starts import MAE_FOLDER

CARDS = Path(__file__).with_name("templates")
TEMPLATES = {"model": "pretrain.md.j2", "classifier": "classifier.md.j2", "dataset": "dataset.md.j2"}
FIGURE = "reconstructions.png"
_SIZES = {10**power: name for power, name in zip(range(3, 8), ("1K", "10K", "100K", "1M", "10M"), strict=True)}


class _Unmeasured(ChainableUndefined, StrictUndefined):
    """What the results do not have: a template may ask whether it is there, and cannot print it."""


def render_card(results: Mapping[str, Any], template: str = TEMPLATES["model"], **facts: Any) -> str:
    """A card: the template filled with the results.

    Args:
        results: of a run, as in its `results.json`; only "name" must be there.
        template: a file in `templates/`.
        **facts: what is not measured: "license" of the weights or data, "figure" (the file beside the card with the
            picture of reconstructions), "use" (see `use_of`), "model_type" of the configuration, "has_mae" (whether the
            whole masked autoencoder is below the encoder), "remote_code" (whether the repository holds code),
            "statement" of a data set.

    Raises:
        UndefinedError: the template prints a figure that the results do not have.
    """
    loader = FileSystemLoader(CARDS)
    environment = Environment(loader=loader, undefined=_Unmeasured, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"duration": duration, "interval": interval, "shapes": shapes}
    environment.filters["metric_name"] = lambda name: METRIC_NAMES.get(name, name.replace("_", " "))
    make = dataset_metadata if template == TEMPLATES["dataset"] else model_metadata
    metadata = make(results, facts.get("license"), facts.get("model_type")).to_yaml()
    text = environment.get_template(template).render(
        {**results, **facts},
        metadata=metadata,
        scores=list(scores(results.get("test", {}))),
        probe_metrics=probe_metrics(results.get("probe", {})),
        command=command_of(results),
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def public(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results with the names alone of the files and folders that the run was given (data, checkpoints, labels)."""
    shown = {key: dict(value) if isinstance(value, Mapping) else value for key, value in results.items()}
    for section, name in (("data", "data_dir"), ("data", "report_labels"), ("model", "model")):
        if (value := shown.get(section, {}).get(name)) and (name != "model" or not is_hub_id(value)):
            shown[section][name] = Path(value).name
    if rivals := shown.get("data", {}).get("rivals"):
        shown["data"]["rivals"] = [name if is_hub_id(name) else Path(name).name for name in rivals]
    return shown


def is_hub_id(name: Any) -> bool:
    """Whether a checkpoint or data set is named as on the Hub, owner/name, and is no folder here."""
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", str(name))) and not Path(str(name)).exists()


def command_of(results: Mapping[str, Any]) -> str | None:
    """The command that gives the figures of results again, from the options in them; None where they hold none.

    Options at their defaults are left out, and so are those of a training that neither batches nor what is learned
    depend on. Files and folders of the one who ran it are called DATA, CHECKPOINT and LABELS.
    """
    data, model = results.get("data"), results.get("model")
    if not isinstance(data, Mapping):
        return None
    command = "pretrain" if "classes" not in results else "finetune" if "training" in results else "export"
    if command == "export":
        start = model.get("model") if isinstance(model, Mapping) else None
        given = {"model": start or "CHECKPOINT", "head": results.get("head"), "pooling": results.get("pooling")}
    else:
        given = {**(results.get("arguments") or {}), **(results.get("decided_by") or {})}
        given |= {**(model if isinstance(model, Mapping) else {}), "label": results.get("label")}
    given |= data
    start = given.get("model")
    if start not in (None, "vit", "resnet50"):  # a checkpoint, which has sizes of its own
        given = {name: value for name, value in given.items() if name not in ("preset", "patch_size")}
        given["model"] = start if is_hub_id(start) else "CHECKPOINT"
    given |= {name: place for name, place in (("data_dir", "DATA"), ("report_labels", "LABELS")) if given.get(name)}
    words = [f"hf-radmae {command}"]
    for name, default in _defaults(command, str(data.get("dataset", "phantom"))).items():
        if (value := given.get(name)) not in (None, default, [], ()):
            values = value if isinstance(value, list | tuple) else [value]
            texts = [json.dumps(part) if isinstance(part, Mapping) else str(part) for part in values]
            words.append(f"--{name} {shlex.join(texts)}")
    return " ".join(words)


def _defaults(command: str, dataset: str) -> dict[str, Any]:
    """The options that decide the figures of a command, and their defaults; None where there is none."""
    from hf_radmae.classification.setup import LabelledDataArguments, TaskArguments  # a room that imports this one
    from hf_radmae.classification.training_args import ClassifierTrainingArguments
    from hf_radmae.pretraining.arguments import DataArguments, ModelArguments
    from hf_radmae.pretraining.training_args import RadMAETrainingArguments

    options: dict[str, tuple[Any, ...]] = {
        "pretrain": (DataArguments(dataset=dataset), ModelArguments()),
        "finetune": (LabelledDataArguments(dataset=dataset), TaskArguments()),
        "export": (DataArguments(dataset=dataset),),
    }
    found = {field.name: getattr(part, field.name) for part in options[command] for field in fields(part)}
    found["dataset"] = DataArguments.dataset
    if command == "export":
        return found | {"model": None, "head": "linear", "pooling": None}
    training = ClassifierTrainingArguments if command == "finetune" else RadMAETrainingArguments
    names = {"seed", "bf16", "num_train_epochs", "max_steps", "early_stopping_patience", *training.meaning}
    names |= {"metric_for_best_model"}
    names |= {"per_device_train_batch_size", "gradient_accumulation_steps", "tokens_per_batch"}
    found |= {field.name: field.default for field in fields(training) if field.name in names}
    return found | {"num_train_epochs": float(found["num_train_epochs"])}


def write_card(
    results: Mapping[str, Any], folder: str | Path, template: str = TEMPLATES["model"], **facts: Any
) -> Path:
    """Write the card of a run as the README.md of its folder; see `render_card`."""
    path, config = Path(folder, "README.md"), Path(folder, "config.json")
    facts = {"figure": FIGURE if Path(folder, FIGURE).is_file() else None, **facts}
    if config.is_file():
        values = json.loads(config.read_text(encoding="utf-8"))
        facts = {"use": use_of(values), "remote_code": "auto_map" in values, **facts}
        facts = {"model_type": values.get("model_type"), **facts}
        facts = {"has_mae": Path(folder, MAE_FOLDER, "config.json").is_file(), **facts}
    path.write_text(render_card(public(results), template, **facts), encoding="utf-8")
    return path


def use_of(config: Mapping[str, Any]) -> str:
    """Where a model of this configuration works as it is: "anywhere", or with this "package"."""
    return "anywhere" if config.get("num_channels", 3) == 3 else "package"


def with_license(card: str, license: str) -> str:
    """A model's card that says under which licence its weights are, in its metadata and its text."""
    front = f"license: {license}\n"
    card = re.sub(r"\A---\n((?:(?!---).*\n)*?)license: [^\n]*\n", r"---\n\1", card, count=1)
    card = card.replace("---\n", f"---\n{front}", 1) if card.startswith("---\n") else f"---\n{front}---\n\n{card}"
    return re.sub(
        r"^(?:Weights: \S+\.|No license of the weights was stated[^\n]*)$", f"Weights: {license}.", card, flags=re.M
    )


def model_metadata(
    results: Mapping[str, Any], license: str | None = None, model_type: str | None = None
) -> ModelCardData:
    """The metadata of a model's card, with a result for each score that has an interval.

    Args:
        results: of a run.
        license: of the weights.
        model_type: of the configuration; a `vit_mae` masks and shuffles its patches, so that no pipeline takes it.
    """
    classifier = "classes" in results
    task = "image-classification" if classifier else "image-feature-extraction"
    tags = ["radiograph", "x-ray", *(["vit"] if classifier else ["vit", "masked-autoencoder", "self-supervised"])]
    evaluated = list(_classifier_results(results) if classifier else _probe_results(results))
    start, dataset = results.get("model"), results.get("data", {}).get("dataset")
    start = start.get("model") if isinstance(start, Mapping) else None
    return ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag=None if model_type == "vit_mae" else task,
        base_model=start if start and is_hub_id(start) else None,
        datasets=[dataset] if dataset and is_hub_id(dataset) else None,
        tags=["vit_mae" if tag == "vit" and model_type == "vit_mae" else tag for tag in tags],
        metrics=sorted({result.metric_type for result in evaluated}) or None,
        model_name=results["name"] if evaluated else None,
        eval_results=evaluated or None,
    )


def dataset_metadata(
    manifest: Mapping[str, Any], license: str | None = None, model_type: str | None = None
) -> DatasetCardData:
    """The metadata of a prepared data set's card: its splits by file, so that `load_dataset` finds them."""
    images = sum(count["images"] for count in manifest.get("counts", {}).values())
    sizes = ["n<1K", *(f"{low}<n<{high}" for low, high in zip(_SIZES.values(), [*_SIZES.values()][1:], strict=False))]
    category = sizes[min(sum(images >= limit for limit in _SIZES), len(sizes) - 1)]
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in manifest["rows"]]
    return DatasetCardData(
        license=license,
        task_categories=["image-feature-extraction", "image-classification"],
        tags=["radiograph", "x-ray"],
        size_categories=category,
        pretty_name=manifest["name"],
        configs=[{"config_name": "default", "data_files": files}],
    )


def scores(values: Mapping[str, Any]) -> Iterator[tuple[str, float, float | None, float | None]]:
    """(metric, value, low, high) of scores written as `metric`, `metric_low` and `metric_high`; no interval is None."""
    for name, value in values.items():
        if isinstance(value, int | float) and math.isfinite(value) and not name.endswith(("_low", "_high")):
            yield name, value, values.get(f"{name}_low"), values.get(f"{name}_high")


def probe_metrics(probe: Mapping[str, Any]) -> list[str]:
    """The scores of a probe that a card shows: what chose its models first, AUROC for two classes, and accuracies."""
    found = [table["metrics"][0] for table in probe.get("tables", ()) if table.get("metrics")]
    found += ["auroc"] if len(probe.get("classes", ())) == 2 else []
    rows = probe.get("rows", ())
    return [n for n in dict.fromkeys([*found, "balanced_accuracy", "accuracy"]) if all(n in row for row in rows)]


def interval(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A score between 0 and 1 with its interval, as text."""
    if value is None:
        return "has no value"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def shapes(bins: Iterable[Sequence[int]]) -> list[tuple[int, ...]]:
    """The heights and widths of bins, each shape once however many levels it has."""
    return list(dict.fromkeys(map(tuple, bins)))


def duration(seconds: float) -> str:
    """Seconds as minutes, or as hours from two on."""
    return f"{seconds / 3600:.1f} hours" if seconds >= 7200 else f"{seconds / 60:.1f} minutes"


def _probe_results(results: Mapping[str, Any]) -> Iterator[EvalResult]:
    probe = results.get("probe", {})
    shown = {f"{name}{end}" for name in probe_metrics(probe) for end in ("", "_low", "_high")}
    for row in probe.get("rows", ()):
        if row["model"] == "pre-trained":
            measured = {name: row[name] for name in row if name in shown}
            how = f"labels: {row['labels']}, {row.get('head', 'linear')}"
            yield from _eval_results(results, measured, f"probe of {probe.get('column', 'the labels')}, {how}", how)


def _classifier_results(results: Mapping[str, Any]) -> Iterator[EvalResult]:
    yield from _eval_results(
        results, results.get("test", {}), f"classification of {results.get('label', 'radiographs')}"
    )


def _eval_results(
    results: Mapping[str, Any], measured: Mapping[str, Any], task: str, how: str | None = None
) -> Iterator[EvalResult]:
    data = results.get("data", {})
    dataset = data.get("dataset", "radiographs")
    # Scores of one configuration are written under the task of the first of them, so that each task has its own.
    config = ", ".join(filter(None, (data.get("config_name"), how))) or None
    for name, value, low, high in scores(measured):
        bounds = None if low is None or high is None else {"level": 0.95, "low": round(low, 4), "high": round(high, 4)}
        yield EvalResult(
            task_type="image-classification",
            task_name=task,
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_config=config,
            dataset_split="test",
            metric_type=name,
            metric_name=name.replace("_", " "),
            metric_value=round(value, 4),
            metric_args=bounds,
        )


def read_results(folder: str | Path) -> dict[str, Any]:
    """The results of a run, or of a prepared data set its manifest under the folder's name.

    Raises:
        FileNotFoundError: the folder holds neither.
    """
    folder = Path(folder)
    for name in ("results.json", "manifest.json"):
        if (folder / name).is_file():
            return {"name": folder.name, **json.loads((folder / name).read_text(encoding="utf-8"))}
    raise FileNotFoundError(
        f"{folder} holds neither results.json nor manifest.json: there is nothing to fill a card with"
    )
