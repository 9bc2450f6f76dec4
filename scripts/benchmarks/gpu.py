"""Times a training step on one CUDA device: stock models, the author's bins, and ours with one saving after another.

    python scripts/benchmarks/gpu.py --json gpu.json

ViT-B with the stock decoder, patch 16, on sizes drawn from a hospital archive's quantiles divided by 4 (up to 768
pixels, 2,304 patches), as many images in a step as a budget of tokens holds. Images are generated: noise in a
rectangle that covers 14 to 100 % of each, 49 % in the median, as the informative patches of 4,044 radiographs, mostly
of limbs, do; nothing else of them is seen in the time of a step. With a budget, what leaves patches out takes more
images in a step. Needs torch, transformers and this package's model and binning; no data, `datasets` or `evaluate`.

The arms are those of pretrain_step.py under bf16 autocast, and two lines more of ours: ours_float32 first, and
ours_fused (AdamW) before ours_all (torch.compile). Each arm is timed alone after a step on each shape; the fastest of
some repeats counts. Figures are written after every arm, the compiled one last, which takes minutes; the table and the
ratios are printed before it, then again with it.
"""

import argparse
import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from step_arms import Arm, Batch, Runner, arms, figures, matmul_rate, peak_bytes, print_results, ratios
from step_layouts import archive_sizes, draw, layouts

PATCH = 16
# Shares of informative patches at some quantiles of 4,044 radiographs, 86 % of them of limbs; see background.py.
QUANTILES, SHARES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0), (0.14, 0.29, 0.38, 0.49, 0.70, 0.97, 1.0)


def generated(shape: tuple[int, int], shares: np.ndarray, num_tokens: int) -> Batch:
    """A batch of images, one per share, of noise in a rectangle of that share of the patches, black around it."""
    grid = torch.tensor(shape) // PATCH
    filled = (grid * torch.tensor(shares)[:, None].sqrt()).round().clamp(min=1).long()
    rows, columns = (torch.arange(side) < count[:, None] for side, count in zip(grid.tolist(), filled.T, strict=True))
    mask = rows[:, :, None] & columns[:, None, :]
    pixels = torch.rand(len(shares), 1, *shape)
    pixels *= mask[:, None].repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    return Batch(pixels, mask.flatten(1), num_tokens)


def time_arm(arm: Arm, config: dict[str, Any], batches: list[Batch], device: str, repeats: int, rate: float) -> dict:
    """The figures of one arm, whose memory is freed behind it."""
    if device == "cuda":
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
    runner = Runner(arm, config, device)
    flops, seconds = [], []
    for batch in batches:  # all shapes before any is timed: a compiled model is traced again for some
        flops.append(runner.flops(batch.to(device)))
        runner.step(batch.to(device))
    for batch in batches:
        there = batch.to(device)
        seconds.append(min(runner.step(there) for _ in range(repeats)))
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else peak_bytes()
    return figures(arm, batches, flops, seconds, rate) | {"peak_memory_gb": peak / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--images", type=int, default=20_000, help="sizes to draw (default: 20000)")
    option("--num_bins", type=int, default=12, help="most fitted bins (default: 12)")
    option("--tokens", type=int, default=32_768, help="patches of a step that take part (default: 32768)")
    option(
        "--steps", type=int, default=8, help="batches of each arm, each of an equal share of the images (default: 8)"
    )
    option("--repeats", type=int, default=5, help="steps on each batch, of which the fastest counts (default: 5)")
    option("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is for trying the script (default: cuda)")
    option("--tiny", action="store_true", help="a tiny model on images of a quarter of the side")
    option("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            f"torch {torch.__version__} sees no CUDA device here, and a step is not timed without one. "
            "To try the script: --device cpu --tiny; for figures of a CPU: pretrain_step.py"
        )

    side, preset = (192, "tiny") if args.tiny else (768, "base")
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    sizes = archive_sizes(args.images, scale=3072 / side)
    shares = np.interp(rng.random(len(sizes)), QUANTILES, SHARES)
    found = layouts(sizes, shares, side=side, patch_size=PATCH, num_bins=args.num_bins, batch_size=8)
    batches = {
        name: [
            generated(tuple(bins.shapes[bin_id].tolist()), shares[rows], int(bins.tokens[bin_id]))
            for bin_id, rows in draw(bins, ids, args.steps, lambda tokens: max(1, args.tokens // tokens))
        ]
        for name, (bins, ids) in found.items()
    }
    cuda = args.device == "cuda"
    entrants = arms(cuda)
    rates = {dtype: matmul_rate(args.device, dtype) for dtype in {arm.dtype for arm in entrants}}
    name = torch.cuda.get_device_name() if cuda else "CPU"
    images = {layout: np.bincount(ids, minlength=len(bins)).tolist() for layout, (bins, ids) in found.items()}
    results: dict[str, Any] = {
        "device": name,
        "images": len(sizes),
        "images_per_bin": images,
        "matmul_gflops": max(rates.values()) / 1e9,
    }
    results["arms"] = {}
    for arm in entrants:
        if arm.compiled:
            before = ratios(results["arms"], "ours_fused")
            print_results(f"{name}, before torch.compile", results | before)
        edge = int(found["square"][0].shapes[0, 0]) if arm.layout == "square" else side
        config = {"name": preset, "image_size": edge}
        rate = rates[arm.dtype]
        results["arms"][arm.name] = time_arm(arm, config, batches[arm.layout], args.device, args.repeats, rate)
        if arm.name == "ours_all":
            results |= ratios(results["arms"])
        if args.json:
            args.json.write_text(json.dumps(results, indent=2) + "\n")
    print_results(name, results)


if __name__ == "__main__":
    main()
