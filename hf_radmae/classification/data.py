"""Labelled radiographs as items and batches: read once, changed anew each epoch, with their labels."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hf_radmae.batching.collator import BucketCollator
from hf_radmae.batching.dataset import RadiographDataset, pixel_values
from hf_radmae.batching.sampler import Repeat
from hf_radmae.classification.augmentation import Augmentation
from hf_radmae.classification.labels import Labels, is_known, missing
from hf_radmae.sources.report_labels import from_reports


class CachedRadiographs(RadiographDataset):
    """The images of a `RadiographDataset`, each kept in memory once it was read, at the size of its bin.

    Share one over all runs on the same images. Loader workers fill copies of their own, so take none of them. A million
    pixels take 1 MB where they have 8 bits, and at most 4 MB.
    """

    def __init__(self, images: RadiographDataset):
        if images.train:
            raise ValueError("images that change with the epoch cannot be kept: leave out train=True")
        vars(self).update(vars(images))
        self._items: dict[int, dict[str, Any]] = {}

    def __getitem__(self, index: int) -> dict[str, Any]:
        """As `RadiographDataset`; its arrays and tensors are those kept, so change none in place."""
        row = int(index)
        if row not in self._items:
            self._items[row] = super().__getitem__(row)
        return self._items[row] | ({"repeated": True} if isinstance(index, Repeat) else {})


class LabelledRadiographs(torch.utils.data.Dataset):
    """The images of a `RadiographDataset` that have a label, with it, and augmented where asked.

    Args:
        images: deterministic (`train=False`).
        labels: what is read from the rows, and how it is encoded.
        draw: int (drawn,), the rows whose labels are used; None uses all.
        augmentation: of training images; None leaves them as they are.
        seed: key of the augmentation, with epoch and row.
        report_label_weight: weight of a label whose `<label>_source` is "report".

    Attributes:
        truth: (images, ...) as `Labels.read` gives it.
        targets: (images, ...) as `Labels.encode` gives them, none where an image is not used.
        reported: bool, of the shape of `targets`, True where a label is of a report.
        label_weights: float32 of that shape, what each label weighs in the loss.
        bin_ids: int (images,), the bin of each image, -1 where it is not used.
    """

    def __init__(
        self,
        images: RadiographDataset,
        labels: Labels,
        *,
        draw: np.ndarray | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 42,
        report_label_weight: float = 1.0,
    ):
        if images.train:
            raise ValueError("the images must stay the same (train=False): their augmentation is that of the labels")
        self.images, self.rows, self.bins, self.labels = images, images.rows, images.bins, labels
        self.augmentation, self.seed = augmentation, seed
        self.truth = labels.read(images.rows)
        used = labels.known(self.truth)
        if draw is not None:
            used &= np.isin(np.arange(len(used)), draw)
        self.bin_ids = np.where(used, images.bin_ids, -1)
        self.targets = labels.encode(self.truth)
        # An image that cannot be read is replaced by any other of its bin, or else of all: that one may not be used.
        self.targets[torch.from_numpy(self.bin_ids < 0)] = missing(self.targets)
        columns = [from_reports(images.rows, column) for column in labels.columns]
        self.reported = torch.from_numpy(np.stack(columns, 1) if len(columns) > 1 else columns[0])
        if self.targets.ndim == 2 and len(columns) == 1:  # a list of names has one source
            self.reported = self.reported[:, None].expand(self.targets.shape)
        self.label_weights = torch.where(self.reported, report_label_weight, 1.0)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # loader workers outlive an epoch

    def __len__(self) -> int:
        return int((self.bin_ids >= 0).sum())

    def options_that_matter(self) -> dict[str, Any]:
        """What alters what is learned, ready for JSON: that of the images, and the labels, by a checksum.

        The checksum is of the labels as they were read, so that no rounding of a processor goes into it.
        """
        used = self.bin_ids >= 0
        text = json.dumps([self.truth[used].tolist(), self.label_weights.numpy()[used].tolist()])
        return {**self.images.options_that_matter(), "checksum of labels": zlib.crc32(text.encode())}

    def set_epoch(self, epoch: int) -> None:
        """Moves the augmentation to another epoch, in workers that already run too."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """An item of `RadiographDataset` and the `label` of the row that was read (`index`)."""
        item = self.images[index]
        row, pixels = item["index"], pixel_values(item)
        if self.augmentation is not None:
            pixels = self.augmentation(pixels, seed=self.seed, epoch=int(self._epoch), index=row)
        return {**item, "pixel_values": pixels, "label": self.targets[row], "label_weight": self.label_weights[row]}

    def sources(self) -> dict[str, int]:
        """How many labels are used that were given by hand, and that were read from reports."""
        known = is_known(self.targets)
        of_reports = int((known & self.reported).sum())
        return {"hand": int(known.sum()) - of_reports, "report": of_reports}


@dataclass
class LabelCollator:
    """Stacks items of `LabelledRadiographs`: what `BucketCollator` gives but the noise, `labels` and `label_weights`.

    Args:
        images: stacks all but the labels.
    """

    images: BucketCollator

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch = self.images(items)
        labels = torch.stack([item["label"] for item in items])
        if "repeated" in batch:  # an image that stands in for another has no label: no loss is taken of it
            labels[batch["repeated"]] = missing(labels)
        weights = torch.stack([item["label_weight"] for item in items])
        kept = {key: batch[key] for key in batch if key not in ("noise", "repeated")}
        return kept | {"labels": labels, "label_weights": weights}
