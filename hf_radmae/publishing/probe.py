"""A linear probe made a classifier: features as a pipeline will see them, a head on them, a score on the test split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ViTModel

from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.classification.labels import fit_labels
from hf_radmae.inference.embeddings import Embedder
from hf_radmae.metrics.bootstrap import bootstrap_interval
from hf_radmae.metrics.classification import accuracy, balanced_accuracy
from hf_radmae.probing.linear import linear_probe
from hf_radmae.publishing.export import export_classifier
from hf_radmae.sources.patients import image_groups, resampled

METRICS = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy}


def probe_classifier(
    encoder: ViTModel,
    processor: RadiographImageProcessor,
    splits: Mapping[str, datasets.Dataset],
    column: str,
    *,
    pooling: str = "mean",
    flat_threshold: float = 0.01,
    num_channels: int = 3,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Solve a probe on all labels, its penalty chosen by balanced accuracy on the validation split, and export it.

    Args:
        encoder: of `load_encoder`, on the device where features are computed.
        processor: that the encoder was trained with.
        splits: "train", "validation" and "test", as `load_radiographs` gives them.
        column: of the labels; images without one are left out.
        pooling, flat_threshold, num_channels: of `export_classifier`.

    Returns:
        The classifier, and "label", "classes", "pooling", "images" and "left_out" (no label, or unusable) by split, and
        "test": accuracy and balanced accuracy with the ends of their intervals under "*_low", "*_high", and
        "resampled": what the intervals are over.

    Raises:
        ValueError: there is no such column, or it has fewer than two classes.
    """
    labels = fit_labels(splits["train"], column, task="single_label_classification")
    processor = RadiographImageProcessor.from_dict(processor.to_dict() | {"num_channels": encoder.config.num_channels})
    embedder = Embedder(encoder, processor, pooling, flat_threshold)
    features, truth, places, images, left_out = {}, {}, {}, {}, {}
    for split, rows in splits.items():
        skipped: list[dict[str, str]] = []
        sources = (({"image_id": str(place)}, row["image"]) for place, row in enumerate(rows.select_columns(["image"])))
        with tqdm(total=len(rows), unit="image", desc=f"features, {split}", leave=False) as bar:
            found = embedder.vectors(sources, skipped, bar.update)
        places[split] = np.array([int(row["image_id"]) for row, _ in found])
        features[split] = np.stack([vector for _, vector in found])
        truth[split] = labels.read(rows)[places[split]]
        images[split] = int(labels.known(truth[split]).sum())
        left_out[split] = len(rows) - images[split]
    validation = features["validation"], truth["validation"]
    head = linear_probe(features["train"], truth["train"], validation, criterion="balanced_accuracy")
    groups, predicted = image_groups(splits["test"])[places["test"]], head.predict(features["test"])[0]
    test: dict[str, float] = {}
    for name, metric in METRICS.items():
        value, low, high = bootstrap_interval(metric, truth["test"], predicted, groups=groups)
        test |= {name: value, f"{name}_low": low, f"{name}_high": high}
    classes = [str(name) for name in head.classes]
    options: dict[str, Any] = {"pooling": pooling, "flat_threshold": flat_threshold, "num_channels": num_channels}
    classifier = export_classifier(encoder.cpu(), head.weight[0], head.bias[0], classes, **options)
    results = {"label": column, "classes": classes, "pooling": pooling, "test": test}
    results["resampled"] = resampled(splits["test"], places["test"])
    return classifier, results | {"images": images, "left_out": left_out}
