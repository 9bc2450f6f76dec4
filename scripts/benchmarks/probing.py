"""Time the grid of linear probes against training the same heads by Trainer over the frozen encoder.

    python scripts/benchmarks/probing.py --json probing.json

The grid is 3 poolings x 10 settings x {1 %, 100 %} x 5 seeds on 8,000 images (2,000 for validation) of 768 features and
8 classes: by one solve (ten penalties) and by training (ten learning rates, patience 10). Trainer is timed over a few
steps of a ViT-B at 224 px, and of a lone head on features in memory, then extrapolated to the fewest epochs that
patience 10 allows, 11, for each head. Expected: 11 s of CPU time for the solve and 39 s for the training, which quiet
cores share; Trainer over the encoder 2,000 times longer (the features' own computation counted), Trainer over features
in memory 60 and 15 times longer. Two minutes in all; on a busy machine set OMP_NUM_THREADS=1.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
from hf_radmae.probing import linear_probe, train_linear_probes

TRAIN, VALIDATION, WIDTH, CLASSES = 8000, 2000, 768, 8
POOLINGS, SETTINGS, SEEDS, LOW = 3, 10, 5, 80
EPOCHS = 11  # the best may be the first, and ten without a better one must follow


class Head(nn.Module):
    """Batch norm and a linear layer, on the mean of a frozen encoder's tokens or on features as they are."""

    def __init__(self, encoder: RadMAEForPreTraining | None = None) -> None:
        super().__init__()
        self.encoder = None if encoder is None else encoder.requires_grad_(False)
        self.head = nn.Sequential(nn.BatchNorm1d(WIDTH, affine=False, eps=1e-6), nn.Linear(WIDTH, CLASSES))

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Loss and logits for images (B, 1, 224, 224) or features (B, 768)."""
        if self.encoder is not None:
            with torch.no_grad():
                inputs = self.encoder.encode(inputs)[:, 1:].mean(1)
        logits = self.head(inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def items(count: int, shape: tuple[int, ...]) -> list[dict[str, torch.Tensor]]:
    """Random inputs of one shape with random labels, as Trainer takes them."""
    inputs, labels = torch.randn(count, *shape), torch.randint(0, CLASSES, (count,))
    return [{"inputs": x, "labels": y} for x, y in zip(inputs, labels, strict=True)]


def synthetic(images: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features like an encoder's: 60 directions of falling variance in 768, classes that overlap, and labels."""
    shared = np.random.default_rng(0)
    centres, mixing = shared.normal(size=(CLASSES, 60)) * 0.35, shared.normal(size=(60, WIDTH))
    labels = rng.integers(0, CLASSES, images)
    hidden = (centres[labels] + rng.normal(size=(images, 60))) * np.linspace(3, 0.1, 60)
    return (hidden @ mixing + 0.5 * rng.normal(size=(images, WIDTH))).astype(np.float32), labels


def trainer_seconds_per_image(model: nn.Module, images: Any, batch_size: int) -> tuple[float, float]:
    """Seconds of Trainer per image of training and of evaluation, after a first run that warms up."""
    with tempfile.TemporaryDirectory() as folder:
        options = TrainingArguments(
            folder,
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=batch_size,
            num_train_epochs=1,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(model, options, train_dataset=images)
        trainer.train()
        start = time.perf_counter()
        trainer.train()
        middle = time.perf_counter()
        trainer.predict(images)
        return (middle - start) / len(images), (time.perf_counter() - middle) / len(images)


def main() -> None:
    """Measure, print, and write as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    poolings = [(synthetic(TRAIN, rng), synthetic(VALIDATION, rng)) for _ in range(POOLINGS)]
    draws = [np.arange(TRAIN)] * SEEDS + [rng.choice(TRAIN, LOW, replace=False) for _ in range(SEEDS)]
    figures: dict[str, float] = {}
    for name, probe in (("solve", linear_probe), ("training", train_linear_probes)):
        wall, cpu = time.perf_counter(), time.process_time()
        for train, seen in poolings:
            probe(*train, seen, draws)
        figures[f"{name}_grid_seconds"] = time.perf_counter() - wall
        figures[f"{name}_grid_cpu_seconds"] = time.process_time() - cpu
    base = Head(RadMAEForPreTraining(preset_config("base", image_size=224)))
    step, evaluation = trainer_seconds_per_image(base, items(32, (1, 224, 224)), batch_size=16)
    head_step, head_evaluation = trainer_seconds_per_image(Head(), items(TRAIN, (WIDTH,)), batch_size=256)
    heads = POOLINGS * SETTINGS * SEEDS  # at each of the two fractions
    trained, evaluated = heads * EPOCHS * (TRAIN + LOW), heads * EPOCHS * 2 * VALIDATION
    figures |= {
        "features_once_seconds": (TRAIN + VALIDATION) * evaluation,
        "trainer_over_encoder_seconds": trained * step + evaluated * evaluation,
        "trainer_over_features_seconds": trained * head_step + evaluated * head_evaluation,
    }
    for name in ("solve", "training"):
        grid = figures[f"{name}_grid_seconds"]
        whole = grid + figures["features_once_seconds"]
        figures[f"{name}_times_faster_than_trainer_over_encoder"] = figures["trainer_over_encoder_seconds"] / whole
        figures[f"{name}_times_faster_than_trainer_over_features"] = figures["trainer_over_features_seconds"] / grid
    for name, value in figures.items():
        print(f"{name:50} {value:14,.1f}")
    if args.json:
        args.json.write_text(json.dumps({"threads": torch.get_num_threads(), **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
