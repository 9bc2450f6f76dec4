"""A linear probe made a classifier: features as a pipeline will see them, a head on them, a score on the test split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import datasets
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ViTModel

from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.classification.labels import fit_labels
from hf_radmae.images.image import ImageError
from hf_radmae.metrics.bootstrap import bootstrap_interval
from hf_radmae.metrics.classification import accuracy, balanced_accuracy
from hf_radmae.probing.features import extract_features
from hf_radmae.probing.heads import linear_probe
from hf_radmae.publishing.export import export_classifier
from hf_radmae.sources.patients import image_groups, resampled

METRICS = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy}
BATCH_SIZE = 32


def probe_classifier(
    encoder: ViTModel,
    processor: RadiographImageProcessor,
    splits: Mapping[str, datasets.Dataset],
    column: str,
    *,
    pooling: str = "mean",
    num_channels: int = 3,
    num_workers: int = 0,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Solve a probe on all training labels, with the fixed penalty of `linear_probe`, and export it.

    Args:
        encoder: of `load_encoder`, on the device where features are computed.
        processor: that the encoder was trained with.
        splits: "train", "validation" and "test", as `load_radiographs` gives them.
        column: of the labels; images without one are left out.
        pooling, num_channels: of `export_classifier`.
        num_workers: processes that read images.

    Returns:
        The classifier, and "label", "classes", "pooling", "images" and "left_out" (no label, or unusable) by split, and
        "test": accuracy and balanced accuracy with the ends of their intervals under "*_low", "*_high", and
        "resampled": what the intervals are over.

    Raises:
        ValueError: there is no such column, or it has fewer than two classes.
    """
    labels = fit_labels(splits["train"], column, task="single_label_classification")
    processor = RadiographImageProcessor.from_dict(processor.to_dict() | {"num_channels": encoder.config.num_channels})
    features, truth, places, images, left_out = {}, {}, {}, {}, {}
    for split, rows in splits.items():
        # As a pipeline sees them: through the processor, and not from the batches of a training.
        seen = torch.utils.data.DataLoader(_Processed(rows, processor), batch_size=None, num_workers=num_workers)
        with tqdm(seen, unit="image", desc=f"features, {split}", leave=False) as bar:
            found = extract_features(encoder, _batches(bar), encoder.device, poolings=[pooling])
        places[split], features[split] = found.rows, found[pooling]
        truth[split] = labels.read(rows)[places[split]]
        images[split] = int(labels.known(truth[split]).sum())
        left_out[split] = len(rows) - images[split]
    head = linear_probe(features["train"], truth["train"])
    groups, predicted = image_groups(splits["test"])[places["test"]], head.predict(features["test"])[0]
    test: dict[str, float] = {}
    for name, metric in METRICS.items():
        interval = bootstrap_interval(metric, truth["test"], predicted, groups=groups, strata=truth["test"])
        test |= interval.named(name)
    classes = [str(name) for name in head.classes]
    options: dict[str, Any] = {"pooling": pooling, "num_channels": num_channels}
    classifier = export_classifier(encoder.cpu(), head.weight[0], head.bias[0], classes, **options)
    results = {"label": column, "classes": classes, "pooling": pooling, "test": test}
    results["resampled"] = resampled(splits["test"], places["test"])
    return classifier, results | {"images": images, "left_out": left_out}


class _Processed(torch.utils.data.Dataset):
    """The row and the pixels of each image, None where it cannot be used."""

    def __init__(self, rows: datasets.Dataset, processor: RadiographImageProcessor):
        self.images, self.processor = rows.select_columns(["image"]), processor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[int, torch.Tensor | None]:
        try:
            return row, self.processor(self.images[row]["image"])["pixel_values"][0]
        except (ImageError, FileNotFoundError):
            return row, None


def _batches(images: Iterable[tuple[int, torch.Tensor | None]]) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of one shape."""
    groups: dict[torch.Size, list[tuple[int, torch.Tensor]]] = defaultdict(list)
    for row, pixels in images:
        if pixels is None:
            continue
        group = groups[pixels.shape]
        group.append((row, pixels))
        if len(group) == BATCH_SIZE:
            yield _stack(groups.pop(pixels.shape))
    yield from map(_stack, groups.values())


def _stack(group: list[tuple[int, torch.Tensor]]) -> dict[str, torch.Tensor]:
    rows, pixels = zip(*group, strict=True)
    return {"pixel_values": torch.stack(pixels), "index": torch.tensor(rows)}
