"""The table of a pre-training: the network against its rivals, with the models, heads and draws of a study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.batching.ranks import is_main
from hf_radmae.sources.patients import resampled
from hf_radmae.study.arguments import StudyArguments
from hf_radmae.study.comparison import Comparison
from hf_radmae.study.heads import NETWORK_POOLINGS, Kind, Splits, parts_of
from hf_radmae.study.rivals import (
    hub_features,
    majority_features,
    metadata_features,
    network_features,
    thumbnail_features,
)
from hf_radmae.study.tasks import Task, TaskLabels, patients, read_labels

OURS, UNTRAINED, PIXELS, METADATA = "pre-trained", "untrained", "no network", "metadata alone"
PIXEL_POOLINGS = ("thumbnail", "HOG", "thumbnail+HOG")
SPLITS = ("train", "validation", "test")

Models = dict[str, tuple[Kind, list[Splits], Sequence[str]]]
"""Name -> kind, features of each seed, and poolings."""


def rival_models(
    parts: Mapping[str, RadiographDataset],
    rivals: Sequence[str] = (),
    *,
    poolings: Sequence[str] = NETWORK_POOLINGS,
    **options: Any,
) -> Models:
    """The rivals that are the same for every task: majority, pixels, and encoders of the Hub.

    Args:
        rivals: ids or folders of encoders that were trained elsewhere.
        poolings: of their tokens.
        **options: `num_workers` and `device`.
    """
    models: Models = {
        "majority class": ("rival", [majority_features(parts)], ["nothing"]),
        PIXELS: ("rival", [thumbnail_features(parts, options.get("num_workers", 0))], PIXEL_POOLINGS),
    }
    for name, short in short_names(rivals).items():
        found = hub_features(name, parts, parts_of(poolings), **options)
        models[short] = ("elsewhere", [found], poolings)
    return models


def short_names(checkpoints: Iterable[str]) -> dict[str, str]:
    """Id or folder of each checkpoint -> its last part, with a number behind where another one has the same."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(checkpoints):
        last, number = Path(name).name, 1
        found[name] = last
        while list(found.values()).count(found[name]) > 1:
            number += 1
            found[name] = f"{last} ({number})"
    return found


def metadata_model(rows: Mapping[str, Any], labels: Any, columns: Sequence[str]) -> Models:
    """The rival that sees metadata alone, which depends on the task: a column may be its label."""
    found = metadata_features(rows, labels.values["train"], columns)
    return {METADATA: ("rival", [found], [*found["train"]])}


def probe_labels(rows: Mapping[str, Any], column: str) -> TaskLabels:
    """The classes of a column in the splits, without those of too few test images.

    Raises:
        ValueError: as `read_labels` and `TaskLabels.without_rare`.
    """
    rows = {split: rows[split] for split in SPLITS}
    return read_labels(rows, Task.parse(column)).without_rare(StudyArguments().min_test_images)


def probe_against_rivals(
    trained: PreTrainedModel,
    untrained: PreTrainedModel,
    parts: Mapping[str, RadiographDataset],
    column: str,
    *,
    rivals: Sequence[str] = (),
    draws: int = 10,
    low_fraction: float = 0.01,
    num_workers: int = 0,
) -> dict[str, Any]:
    """Heads on frozen features with all labels and with balanced draws of few of them, for the network and its rivals.

    On several processes every one calls it and computes its share of the features.

    Args:
        trained, untrained: the network after and before pre-training.
        parts: the images of "train", "validation" and "test".
        column: of the labels in their rows.
        rivals: ids or folders of encoders that were trained elsewhere.
        draws, low_fraction: of the table of few labels.

    Returns:
        Nothing on any but the first process. There "column", "classes", "dropped" and "resampled", "tables" of
        `score_table`, and the rows of all tables as "rows", each with its "labels".

    Raises:
        ValueError: as `probe_labels`.
    """
    parts = {split: parts[split] for split in SPLITS}
    rows = {split: part.rows for split, part in parts.items()}
    args = StudyArguments(draws=draws, low_fraction=low_fraction, kinds=["balanced"], curve=[], supervised=["none"])
    labels = probe_labels(rows, column)
    models = rival_models(parts, rivals, num_workers=num_workers, device=trained.device)
    models |= metadata_model(rows, labels, args.metadata)
    for name, kind, network in ((UNTRAINED, "rival", untrained), (OURS, "ours", trained)):
        models[name] = (kind, [network_features(network, parts, num_workers=num_workers)], NETWORK_POOLINGS)  # type: ignore[assignment]
    if not is_main():
        return {}
    comparison = Comparison(labels, patients(rows), args)
    for name, (kind, features, poolings) in models.items():
        comparison.probe(name, kind, features, poolings)
    found = comparison.results()
    shown = [{"labels": table["share"], **row} for table in found["tables"] for row in table["rows"]]
    kept = {key: found[key] for key in ("classes", "dropped", "kept_rare", "tables")}
    return {"column": column, "resampled": resampled(rows["test"]), **kept, "rows": shown}
