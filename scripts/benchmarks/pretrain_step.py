"""Times a training step on the CPU: stock models, the author's bins, and ours with one saving after another.

    python scripts/benchmarks/pretrain_step.py --data RADIOGRAPHS --json step.json

takes a folder of radiographs (without --data, generated ones), longest side 256, patch 16, a ViT-S encoder with the
stock decoder (512 wide, 8 layers, 16 heads), float32; then the same images at sizes drawn from a hospital archive's
quantiles divided by 8: up to 24 patches along a side, where the archive at patch 48 has 64, with the same proportions.
An image gets the drawn size of its rank by aspect.

    stock_square        transformers' ViTMAEForPreTraining, every image resized to the square of the bins' mean tokens
    lightly_square      the MAE of the package lightly (pip install lightly timm) on the same squares
    stock_same_shapes   the stock class on the batches that ours gets
    stock_padded        the stock class, every image padded with zeros to the largest square
    stock_author_bins   the stock class, each side rounded up to 3/8, 4/8 .. 8/8 of the largest and padded with zeros
    ours_targets        patches embedded only where seen, pixels and targets only where predicted
    ours_flats          and patches without information left out, in bins with up to six levels of them
    ours_half           and half of the masked patches predicted
    ours_all            and fused AdamW

Each arm is a process of its own, and they take their steps in turn, so that a disturbance hits all alike. One more only
multiplies matrices; its best is the peak. Peak memory is what an arm adds to its process. All arms
together hold about 10 GB.
"""

import argparse
import json
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from step_arms import Arm, Batch, Runner, arms, figures, matmul_rate, peak_bytes, print_results, ratios
from step_layouts import archive_sizes, draw, layouts
from tqdm.auto import tqdm

from hf_radmae.batching.binning import content_sizes
from hf_radmae.batching.content import patches_of
from hf_radmae.batching.grids import target_sizes
from hf_radmae.images.background import background_mask, patch_mask
from hf_radmae.images.fitting import as_tensor, fit_image
from hf_radmae.images.image import read_image
from hf_radmae.sources.load import load_radiographs
from hf_radmae.sources.phantom import generate

PATCH = 16
STOCK_DECODER = {
    "decoder_hidden_size": 512,
    "decoder_num_hidden_layers": 8,
    "decoder_num_attention_heads": 16,
    "decoder_intermediate_size": 2048,
}
Reader = Callable[[int], np.ndarray]


def radiographs(folder: Path | None, count: int) -> tuple[np.ndarray, Reader]:
    """Height and width of every image, and what reads one: those of a folder, or `count` generated ones."""
    if folder is None:
        images = generate(count, scale=0.2)
        return np.array([(image.height, image.width) for image in images]), lambda index: images[index].pixels()
    rows = datasets.concatenate_datasets(list(load_radiographs("imagefolder", str(folder))[0].values()))
    return np.stack([rows["height"], rows["width"]], 1), lambda index: read_image(rows[index]["image"])


def batches_of(layout: Any, sizes: np.ndarray, read: Reader, steps: int, batch_size: int) -> list[Batch]:
    """Batches drawn from a layout, each image at its size."""
    bins, ids = layout
    content = content_sizes(sizes, bins, ids)
    drawn = []
    for bin_id, rows in draw(bins, ids, steps, lambda tokens: batch_size):
        shape = tuple(bins.shapes[bin_id].tolist())
        images = [read(row) for row in rows.tolist()]
        filled = [tuple(content[row].tolist()) for row in rows.tolist()]
        pixels = torch.stack([fit_image(as_tensor(i), shape, c) for i, c in zip(images, filled, strict=True)])
        shown = [patches_of(background_mask(i), shape, c, PATCH) for i, c in zip(images, filled, strict=True)]
        mask = torch.from_numpy(np.stack(shown)).flatten(1)
        drawn.append(Batch(pixels, mask, int(bins.tokens[bin_id])))
    return drawn


def take_steps(pipe: Connection, threads: int, arm: Arm | None, config: dict[str, Any], batches: list[Batch]) -> None:
    """Answer each index with seconds and FLOPs per image of that batch, and the end with the memory it took.

    Without an arm, answer each index with the rate of a matrix product.
    """
    torch.set_num_threads(threads)
    before = peak_bytes()
    if arm is not None:
        runner = Runner(arm, config, "cpu")
        runner.step(max(batches, key=lambda batch: batch.patch_mask.numel()))
    pipe.send(None)
    for index in iter(pipe.recv, None):
        if arm is None:
            pipe.send(matmul_rate("cpu", torch.float32))
        else:
            work = runner.flops(batches[index])
            pipe.send((work, runner.step(batches[index])))
    pipe.send(peak_bytes() - before)


def measure(
    sizes: np.ndarray,
    informative: np.ndarray,
    read: Reader,
    side: int,
    preset: dict[str, Any],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """All arms on images of these sizes with these shares of informative patches."""
    shape = {"patch_size": PATCH, "num_bins": args.num_bins, "batch_size": args.batch_size}
    found = layouts(sizes, informative, side=side, **shape)
    batches = {name: batches_of(found[name], sizes, read, args.steps, args.batch_size) for name in found}
    entrants = [None, *arms(cuda=False)]  # None multiplies matrices
    fork = multiprocessing.get_context("fork")  # the images are shared, and no thread has been started yet
    pipes = []
    for arm in entrants:
        name = arm.layout if arm else "square"
        config = preset | {"image_size": int(found["square"][0].shapes[0, 0]) if name == "square" else side}
        ours, theirs = fork.Pipe()
        fork.Process(target=take_steps, args=(theirs, args.threads, arm, config, batches[name]), daemon=True).start()
        ours.recv()  # it is ready, and has warmed up alone
        pipes.append(ours)
    answers: list[list[Any]] = [[] for _ in pipes]
    for step in range(args.steps):
        for arm, pipe, answer in zip(entrants, pipes, answers, strict=True):
            if arm is None or step < len(batches[arm.layout]):
                pipe.send(step)
                answer.append(pipe.recv())
    peaks = []
    for pipe in pipes:
        pipe.send(None)
        peaks.append(pipe.recv())
    rate = max(answers[0])
    measured = {}
    for arm, answer, peak in zip(entrants[1:], answers[1:], peaks[1:], strict=True):
        work, seconds = zip(*answer, strict=True)
        measured[arm.name] = figures(arm, batches[arm.layout], work, seconds, rate) | {"peak_memory_gb": peak / 1e9}
    images = {name: np.bincount(ids, minlength=len(bins)).tolist() for name, (bins, ids) in found.items()}
    return {
        "images": len(sizes),
        "images_per_bin": images,
        "matmul_gflops": rate / 1e9,
        "arms": measured,
        **ratios(measured),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--data", type=Path, help="a folder of images; without it they are generated")
    option("--images", type=int, default=400, help="images to generate (default: 400)")
    option("--num_bins", type=int, default=12, help="most fitted bins (default: 12)")
    option("--batch_size", type=int, default=16, help="images of a step (default: 16)")
    option(
        "--steps", type=int, default=6, help="batches of each arm, each of an equal share of the images (default: 6)"
    )
    option("--threads", type=int, default=torch.get_num_threads(), help="of each step (default: %(default)s)")
    option("--tiny", action="store_true", help="a tiny model on images of a quarter of the side, to try the script")
    option("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()

    torch.set_num_threads(1)  # a process that has started threads cannot be forked
    torch.manual_seed(0)
    side, preset = (64, {"name": "tiny"}) if args.tiny else (256, {"name": "small"} | STOCK_DECODER)
    sizes, read = radiographs(args.data, args.images)
    budget = {"patch_size": PATCH, "max_tokens": (side // PATCH) ** 2, "max_side": side}
    own = np.maximum(np.rint(target_sizes(sizes, **budget)), 1).astype(np.int64)
    drawn = archive_sizes(len(sizes), scale=2048 / side)
    resampled = np.empty_like(drawn)
    resampled[by_aspect(sizes)] = drawn[by_aspect(drawn)]
    pictures = (read(row) for row in tqdm(range(len(sizes)), desc="measure", unit="image", leave=False))
    grids = np.maximum(np.rint(own / PATCH), 1).astype(int)
    share = np.array([patch_mask(one, tuple(g)).mean() for one, g in zip(pictures, grids.tolist(), strict=True)])
    results = measure(own, share, read, side, preset, args)
    print_results("as they are", results)
    results["archive_sizes"] = measure(resampled, share, read, side * 3 // 2, preset, args)
    print_results("at sizes of the archive", results["archive_sizes"])
    if args.json:
        args.json.write_text(json.dumps(results | {"threads": args.threads}, indent=2) + "\n")


def by_aspect(sizes: np.ndarray) -> np.ndarray:
    """The order of sizes (N, 2) from wide to tall."""
    return np.argsort(sizes[:, 0] / sizes[:, 1], kind="stable")


if __name__ == "__main__":
    main()
