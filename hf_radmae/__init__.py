"""Masked autoencoders on radiographs of every size, with Hugging Face parts.

Names are imported when they are asked for, so that a part works where only what it needs is installed.
"""

from importlib import import_module
from typing import Any

from hf_radmae.registration import register_pipelines

_HOME = {
    "BucketBatchSampler": "hf_radmae.sampler",
    "BucketCollator": "hf_radmae.collator",
    "IRMA": "hf_radmae.data.irma",
    "MRI": "hf_radmae.data.mri",
    "ClassifierTrainer": "hf_radmae.classification.trainer",
    "ClassifierTrainingArguments": "hf_radmae.classification.training_args",
    "Phantom": "hf_radmae.data.phantom",
    "RadMAEForPreTraining": "hf_radmae.modeling",
    "RadMAETrainer": "hf_radmae.trainer",
    "RadMAETrainingArguments": "hf_radmae.training_args",
    "RadiographDataset": "hf_radmae.dataset",
    "RadiographImageProcessor": "hf_radmae.processing",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_HOME)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


register_pipelines()
