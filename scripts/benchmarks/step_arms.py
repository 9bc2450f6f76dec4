"""The arms of the step benchmarks: which model takes a training step, on which shapes, with which savings.

A step is forward, backward and AdamW.
"""

import importlib.util
import resource
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import ViTMAEForPreTraining

from hf_radmae.models.mae import RadMAEForPreTraining, preset_config


@dataclass(frozen=True)
class Arm:
    """One model (stock, lightly or ours) on the shapes of one layout, and the savings that are switched on."""

    name: str
    model: str
    layout: str
    dtype: torch.dtype = torch.float32
    prediction_ratio: float = 1.0
    fused: bool = False
    compiled: bool = False


@dataclass(frozen=True)
class Batch:
    """Images (batch, 1, height, width) of one shape, their informative patches, and how many take part of each."""

    pixel_values: Tensor
    patch_mask: Tensor
    num_tokens: int

    def __len__(self) -> int:
        return len(self.pixel_values)

    def to(self, device: str) -> "Batch":
        return replace(self, pixel_values=self.pixel_values.to(device), patch_mask=self.patch_mask.to(device))


def arms(cuda: bool) -> list[Arm]:
    """The arms in the order of the table, ours with one saving more in each line, all of them in the last.

    The package lightly is no dependency: where it is missing, so is its arm, and a line says so.
    """
    fast = torch.bfloat16 if cuda else torch.float32
    targets = Arm("ours_targets", "ours", "bins", fast)
    flats = replace(targets, name="ours_flats", layout="levels")
    half = replace(flats, name="ours_half", prediction_ratio=0.5)
    fused = replace(half, name="ours_all", fused=True)
    ladder = [targets, flats, half, fused]
    if cuda:
        slow = replace(targets, name="ours_float32", dtype=torch.float32)
        ladder = [slow, targets, flats, half, replace(fused, name="ours_fused"), replace(fused, compiled=True)]
    lightly = [Arm("lightly_square", "lightly", "square", fast)]
    if not all(importlib.util.find_spec(package) for package in ("lightly", "timm")):
        print("lightly_square is left out: it needs the packages lightly and timm")
        lightly = []
    return [
        Arm("stock_square", "stock", "square", fast),
        *lightly,
        Arm("stock_same_shapes", "stock", "bins", fast),
        Arm("stock_padded", "stock", "padded", fast),
        Arm("stock_author_bins", "stock", "author", fast),
        *ladder,
    ]


class Runner:
    """An arm, ready to take steps."""

    def __init__(self, arm: Arm, config: dict[str, Any], device: str):
        """`config` are a preset's name and the options of `preset_config`, for images of the layout's side."""
        self.arm, self.device = arm, device
        options = preset_config(**config)
        torch.manual_seed(0)
        if arm.model == "ours":
            options.prediction_ratio = arm.prediction_ratio
            self.model: nn.Module = RadMAEForPreTraining(options)
        elif arm.model == "stock":
            self.model = ViTMAEForPreTraining(options)
        else:
            from lightly_mae import LightlyMAE  # needs a package that is no dependency

            self.model = LightlyMAE(options)
        self.model.to(device).train()
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        # Without `fused` torch chooses: a loop over tensors on the CPU, `foreach` on a GPU.
        self.optimizer = torch.optim.AdamW(trained, 1e-4, (0.9, 0.95), weight_decay=0.05, fused=arm.fused or None)
        self.compiled = torch.compile(self.model, dynamic=True) if arm.compiled else self.model

    def loss(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        """The loss of a batch by this runner's model, compiled or not."""
        pixels = batch.pixel_values
        with torch.autocast(self.device, torch.bfloat16, enabled=self.arm.dtype == torch.bfloat16):
            if self.arm.model == "lightly":
                return model(pixels)
            if self.arm.model == "stock":
                return model(pixels, interpolate_pos_encoding=True).loss
            informative = batch.patch_mask if self.arm.layout == "levels" else None
            return model(pixels, patch_mask=informative, num_tokens=batch.num_tokens).loss

    def step(self, batch: Batch) -> float:
        """Seconds of forward, backward and update."""
        self._wait()
        start = time.perf_counter()
        self.loss(self.compiled, batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._wait()
        return time.perf_counter() - start

    def flops(self, batch: Batch) -> int:
        """Floating point operations of forward and backward per image; they do not depend on what it shows."""
        one = replace(batch, pixel_values=batch.pixel_values[:1], patch_mask=batch.patch_mask[:1])
        with FlopCounterMode(display=False) as counter:
            self.loss(self.model, one).backward()
        self.optimizer.zero_grad()
        return counter.get_total_flops()

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def matmul_rate(device: str, dtype: torch.dtype, repeats: int = 5) -> float:
    """Floating point operations per second of the fastest of some products of large square matrices."""
    side = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds[1:])


def peak_bytes() -> int:
    """The most memory that this process has held at once; of a forked one, since the fork."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def figures(
    arm: Arm, batches: Sequence[Batch], flops: Iterable[int], seconds: Iterable[float], rate: float
) -> dict[str, Any]:
    """Images and tokens (patches of the shapes, padding included) per second, and the share of the matrix peak.

    Args:
        arm: whose steps they are.
        batches: each stands for the same share of the images.
        flops: per image of each batch.
        seconds: of the step on each batch.
        rate: floating point operations per second of a matrix product.
    """
    per_image = np.mean([time / len(batch) for time, batch in zip(seconds, batches, strict=True)])
    work, tokens = np.mean(list(flops)), np.mean([batch.patch_mask.shape[1] for batch in batches])
    return {
        "layout": arm.layout,
        "batches": [[*batch.pixel_values.shape, batch.num_tokens] for batch in batches],
        "images_per_second": float(1 / per_image),
        "tokens_per_second": float(tokens / per_image),
        "matrix_share": float(work / per_image / rate),
        "gflops_per_image": float(work / 1e9),
    }


def ratios(measured: dict[str, dict[str, Any]], ours: str = "ours_all") -> dict[str, float]:
    """How many times the images per second of the others an arm of ours has."""
    others = {
        "vs_stock_same_shapes": "stock_same_shapes",
        "vs_author_bins": "stock_author_bins",
        "vs_square": "stock_square",
        "vs_padded": "stock_padded",
        "vs_lightly": "lightly_square",
    }
    speed = measured[ours]["images_per_second"]
    return {name: speed / measured[arm]["images_per_second"] for name, arm in others.items() if arm in measured}


def print_results(title: str, results: dict[str, Any]) -> None:
    """A line per arm, then the ratios."""
    print(f"\n{title}: {results['images']} images, matrix product {results['matmul_gflops']:.0f} GFLOP/s")
    print(f"{'arm':18} {'images/s':>9} {'tokens/s':>9} {'peak GB':>8} {'of matrix peak':>15} {'GFLOP/image':>12}")
    for name, arm in results["arms"].items():
        speed = f"{arm['images_per_second']:9.2f} {arm['tokens_per_second']:9.0f} {arm['peak_memory_gb']:8.2f}"
        print(f"{name:18} {speed} {arm['matrix_share']:15.1%} {arm['gflops_per_image']:12.1f}")
    for name in (name for name in results if name.startswith("vs_")):
        print(f"{name} {results[name]:.2f}")
