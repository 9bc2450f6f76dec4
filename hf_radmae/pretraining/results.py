"""The environment of a run, and the figures of its training."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch
from transformers import Trainer

from hf_radmae import __version__
from hf_radmae.pretraining.devices import available_cores

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "numpy", "scikit-learn", "scikit-image")
"""Those whose versions a run's results say, beside this one's."""


def environment() -> dict[str, Any]:
    """Versions and hardware of this process, without the names of host, user or folders."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    versions = {"hf_radmae": __version__, **{package: version(package) for package in PACKAGES}}
    return {"device": device, "cpus": available_cores(), "python": platform.python_version(), **versions}


def train_figures(trainer: Trainer) -> dict[str, float]:
    """Epochs and steps that were done, the last training loss, the median speed, and the seconds of all starts."""
    history = trainer.state.log_history
    figures: dict[str, float] = {"epochs": trainer.state.epoch or 0.0, "steps": trainer.state.global_step}
    logged = [entry for entry in history if "loss" in entry]
    if logged:
        figures["loss"] = logged[-1]["loss"]
        for name in ("images_per_second", "tokens_per_second", "device_hours_per_100k_images"):
            if speeds := sorted(entry[name] for entry in logged if name in entry):
                figures[name] = speeds[len(speeds) // 2]
    if seconds := getattr(trainer, "seconds", 0.0):
        figures["seconds"] = round(seconds, 3)
    return figures
