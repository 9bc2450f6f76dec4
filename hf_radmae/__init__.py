"""Masked autoencoders on radiographs of every size, with Hugging Face parts.

Names are imported when they are asked for, so that a part works where only what it needs is installed.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "BucketBatchSampler": "hf_radmae.batching.sampler",
    "BucketCollator": "hf_radmae.batching.collator",
    "IRMA": "hf_radmae.sources.irma.builder",
    "ImageError": "hf_radmae.images.image",
    "MRI": "hf_radmae.sources.mri.builder",
    "ClassifierTrainer": "hf_radmae.classification.trainer",
    "ClassifierTrainingArguments": "hf_radmae.classification.training_args",
    "PrepareOptions": "hf_radmae.shards.shrink",
    "Phantom": "hf_radmae.sources.phantom",
    "RadMAEForPreTraining": "hf_radmae.models.mae",
    "RadMAETrainer": "hf_radmae.pretraining.trainer",
    "RadMAETrainingArguments": "hf_radmae.pretraining.training_args",
    "RadiographDataset": "hf_radmae.batching.dataset",
    "RadiographImageProcessor": "hf_radmae.batching.processing",
    "label_reports": "hf_radmae.reports.labels",
    "load_radiographs": "hf_radmae.sources.load",
    "patch_mask": "hf_radmae.images.background",
    "prepare": "hf_radmae.shards.prepare",
    "read_image": "hf_radmae.images.image",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_HOME)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
