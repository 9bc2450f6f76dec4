"""What a run found, written down: `results.json`, and a table for people; `hub.card` makes a card of the first."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer


def environment() -> dict[str, Any]:
    """Versions and hardware of this process, without the names of host, user or folders."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    packages = ("hf_radmae", "torch", "transformers", "datasets", "accelerate")
    versions = {package: version(package) for package in packages}
    return {"device": device, "cpus": os.cpu_count(), "python": platform.python_version(), **versions}


def train_figures(trainer: Trainer) -> dict[str, float]:
    """Epochs, steps, the last training loss and the median speed of a run, from its log."""
    history = trainer.state.log_history
    figures: dict[str, float] = {"epochs": trainer.state.epoch or 0.0, "steps": trainer.state.global_step}
    logged = [entry for entry in history if "loss" in entry]
    if logged:
        figures["loss"] = logged[-1]["loss"]
        for name in ("images_per_second", "tokens_per_second"):
            if speeds := sorted(entry[name] for entry in logged if name in entry):
                figures[name] = speeds[len(speeds) // 2]
    if seconds := [entry["train_runtime"] for entry in history if "train_runtime" in entry]:
        figures["seconds"] = sum(seconds)
    return figures


def public(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results with the names alone of the folders that the run was given (data, checkpoints)."""
    shown = {key: dict(value) if isinstance(value, Mapping) else value for key, value in results.items()}
    for section, name in (("data", "data_dir"), ("model", "model_name_or_path")):
        if shown.get(section, {}).get(name):
            shown[section][name] = Path(shown[section][name]).name
    return shown


def save_results(results: Mapping[str, Any], folder: str | Path) -> Path:
    """Writes `results.json`, what is `public` of them."""
    path = Path(folder, "results.json")
    path.write_text(json.dumps(public(results), indent=1) + "\n", encoding="utf-8")
    return path


def probe_text(probe: Mapping[str, Any]) -> str:
    """The rows of a probe as a plain table, accuracies in per cent with their 95 % intervals."""
    lines = [f"Linear probe of {probe['column']} on mean-pooled features, test split, per cent (95 % interval):", ""]
    lines.append(f"{'labels':8}{'features':26}{'balanced accuracy':>26}{'accuracy':>26}")
    for row in probe["rows"]:
        cells = (
            f"{100 * row[m]:.1f} ({100 * row[m + '_low']:.1f} to {100 * row[m + '_high']:.1f})"
            for m in ("balanced_accuracy", "accuracy")
        )
        lines.append(f"{row['labels']:8}{row['model']:26}" + "".join(f"{cell:>26}" for cell in cells))
    return "\n".join(lines)
