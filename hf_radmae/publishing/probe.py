"""A linear probe made a classifier: features as a pipeline will see them, a head on them, a score on the test split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import datasets
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ViTModel

from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.batching.ranks import dealt, is_main, rank_and_size
from hf_radmae.batching.read_ahead import shaped_batches
from hf_radmae.classification.labels import fit_labels
from hf_radmae.metrics.bootstrap import bootstrap_interval
from hf_radmae.metrics.classification import accuracy, balanced_accuracy
from hf_radmae.probing.features import extract_features
from hf_radmae.probing.heads import LinearProbe, linear_probe, propagated_probe
from hf_radmae.publishing.export import export_classifier
from hf_radmae.sources.patients import image_groups, resampled

HEADS: dict[str, Callable[..., LinearProbe]] = {"linear": linear_probe, "propagated": propagated_probe}
"""Heads that can be exported, by the names that the study gives them."""
METRICS = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy}
PART = 256
"""Images that one process reads and encodes in batches of their own."""


def probe_classifier(
    encoder: ViTModel,
    processor: RadiographImageProcessor,
    splits: Mapping[str, datasets.Dataset],
    column: str,
    *,
    head: str = "linear",
    pooling: str = "mean",
    num_channels: int = 3,
    threads: int = 4,
) -> tuple[PreTrainedModel, dict[str, Any]] | None:
    """Solve a head on all training labels, with the fixed penalty of `linear_probe`, and export it.

    On several processes every one calls it and computes its share of the features.

    Args:
        encoder: of `load_encoder`, on the device where features are computed.
        processor: that the encoder was trained with.
        splits: "train", "validation" and "test", as `load_radiographs` gives them.
        column: of the labels; images without one are left out, but see `head`.
        head: a key of `HEADS`. "propagated" spreads the labels to the training images without one, and learns from
            these too; that is for data of which few images have labels.
        pooling, num_channels: of `export_classifier`.
        threads: images that are read at once.

    Returns:
        None on any but the first process. There the classifier, and "label", "classes", "head", "pooling",
        "images" (with a label) and "left_out" by split, "unlabelled": training images that were used without a label,
        "test": accuracy and balanced accuracy with the ends of their intervals under "*_low", "*_high", and
        "resampled": what the intervals are over.

    Raises:
        ValueError: there is no such head or column, the column does not hold two classes or more, or no image is there
            to train or test on.
    """
    if head not in HEADS:
        raise ValueError(f"head={head!r}: expected {' or '.join(HEADS)}")
    labels = fit_labels(splits["train"], column)
    if labels.task != "single_label_classification":
        kind = labels.task.replace("_", " ")
        raise ValueError(f"column {column} is a {kind}, and a probe has one class per image: use scripts/finetune.py")
    processor = RadiographImageProcessor.from_dict(processor.to_dict() | {"num_channels": encoder.config.num_channels})
    features, truth, places, images, left_out = {}, {}, {}, {}, {}
    if empty := [split for split in ("train", "test") if not len(splits[split])]:
        raise ValueError(f"no image is in {' and '.join(empty)}: give more patients, or splits of your own")
    for split, rows in splits.items():
        images[split] = left_out[split] = 0
        if not len(rows):
            continue
        with tqdm(total=len(rows), unit="image", desc=f"features, {split}", leave=False, disable=not is_main()) as bar:
            batches = _batches(rows, processor, threads, bar.update)
            found = extract_features(encoder, batches, encoder.device, poolings=[pooling])
        places[split], features[split] = found.rows, found[pooling]
        truth[split] = labels.read(rows)[places[split]]
        images[split] = int(labels.known(truth[split]).sum())
        left_out[split] = len(rows) - images[split]
    if not is_main():
        return None
    unlabelled = len(features["train"]) - images["train"] if head == "propagated" else 0
    left_out["train"] -= unlabelled
    probe = HEADS[head](features["train"], truth["train"])
    groups, predicted = image_groups(splits["test"])[places["test"]], probe.predict(features["test"])[0]
    test: dict[str, float] = {}
    for name, metric in METRICS.items():
        interval = bootstrap_interval(metric, truth["test"], predicted, groups=groups, strata=truth["test"])
        test |= interval.named(name)
    classes = [str(name) for name in probe.classes]
    options: dict[str, Any] = {"pooling": pooling, "num_channels": num_channels}
    classifier = export_classifier(encoder.cpu(), probe.weight[0], probe.bias[0], classes, **options)
    results = {"label": column, "classes": classes, "head": head, "pooling": pooling, "test": test}
    results["resampled"] = resampled(splits["test"], places["test"])
    return classifier, results | {"images": images, "unlabelled": unlabelled, "left_out": left_out}


def _batches(
    rows: datasets.Dataset, processor: RadiographImageProcessor, threads: int, tick: Callable[[int], object]
) -> Iterator[dict[str, Any]]:
    """This process's batches of rows, as a pipeline sees them: through the processor, not from those of a training.

    They depend on their part of the rows, which one process reads, and not on the number of processes.
    """
    images = rows.select_columns(["image"])
    size = rank_and_size()[1]
    for start in dealt(range(0, len(rows), PART)):
        part = range(start, min(start + PART, len(rows)))
        sources = ((row, images[row]["image"]) for row in part)
        for found, pixels in shaped_batches(sources, processor, lambda *_: None, threads=threads):
            yield {"pixel_values": pixels, "index": torch.tensor(found)}
            tick(size * len(found))
