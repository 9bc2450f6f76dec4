"""Several networks probed alike: the same images, the same draws of labels, the same resamples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.batching.loader import bucket_loader
from hf_radmae.probing.features import extract_features
from hf_radmae.probing.table import probe_table
from hf_radmae.sources.patients import image_groups, resampled
from hf_radmae.sources.splits import label_fraction

logger = logging.getLogger(__name__)

LOW_DATA, DRAWS = 0.01, 10


def probe_networks(
    networks: Mapping[str, PreTrainedModel],
    parts: Mapping[str, RadiographDataset],
    column: str,
    collate: Callable,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
) -> dict[str, Any]:
    """Linear probes on mean-pooled frozen features, with all labels and with ten balanced draws of 1 % of them.

    Args:
        networks: name -> network; "pre-trained" and "untrained" must be there, their difference is a row of its own.
        parts: the images of "train", "validation" and "test".
        column: of the labels in the rows of the parts.
        collate, batch_size, num_workers: of the loader.

    Returns:
        "column", "rows", see `probe_table`, and "resampled", what intervals are over. Where 1 % leaves a class empty
        there are no such rows, and a warning.

    Raises:
        ValueError: the column does not exist.
    """
    columns = parts["train"].rows.column_names
    if column not in columns:
        raise ValueError(f"there is no column {column!r} to probe; the columns are {', '.join(columns)}")
    features: dict[str, dict[str, np.ndarray]] = {name: {} for name in networks}
    labels, groups = {}, {}
    for split, part in parts.items():
        for name, network in networks.items():
            # One process sees every image, however many trained the network.
            loader = bucket_loader(part, collate, batch_size, num_workers=num_workers, rank=0, world_size=1)
            batches = tqdm(loader, desc=f"features, {name}, {split}", unit="batch", leave=False)
            found = extract_features(network, batches, network.device, poolings=["mean"])
            features[name][split] = found["mean"]
        labels[split] = np.array(part.rows[column], dtype=object)[found.rows]
        groups[split] = image_groups(part.rows)[found.rows]
    draws = {"all": [np.arange(len(labels["train"]))]}
    try:
        draws[f"{LOW_DATA:.0%}"] = [
            label_fraction(labels["train"], groups["train"], LOW_DATA, seed, balanced=True) for seed in range(DRAWS)
        ]
    except ValueError as error:
        logger.warning("No probe with %.0f %% of the labels: %s", 100 * LOW_DATA, error)
    rows = probe_table(features, labels, draws, patients=groups["test"], criterion="balanced_accuracy")
    return {"column": column, "rows": rows, "resampled": resampled(parts["test"].rows)}
