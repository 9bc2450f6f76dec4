"""Time and judge every binning strategy on the sizes of a large archive, without pixels.

    python scripts/benchmarks/binning.py --json binning.json

draws 640,000 sizes from the quantiles of a hospital archive of radiographs (heights 246 to 3072 px, widths 219 to 3071)
and fits 16 bins at patch 48 within 4,096 tokens. Expected on two cores: smart fits in 2 s, assigns in 0.3 s and plans
an epoch in 0.1 s, uses every image, changes the aspect by 4 % in the mean and pads nothing; strict binning at batch 8
keeps under 1 % of the images; the square costs three times the tokens; 64 ranks are idle for under 1 %.

The archive's quantiles say nothing of how height and width go together. Its 1,441 tokens an image, padded to the patch,
do: a rank correlation of about 0.7, the default here. --correlation 0 draws them independently; then aspects spread
more, and no 16 shapes can change them by less than 6.1 % in the mean (the one-dimensional optimum over aspects).
"""

import argparse
import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_radmae.batching.bin_report import compare, format_table, report
from hf_radmae.batching.binning import STRATEGIES, NoBinsError, assign, fit_bins
from hf_radmae.batching.sampler import plan, simulate

HEIGHTS, WIDTHS = (246, 1543, 2002, 2438, 3072), (219, 1117, 1417, 1852, 3071)  # quantiles 0, 25, 50, 75, 100 %


def draw_sizes(count: int, correlation: float, seed: int = 0) -> np.ndarray:
    """(count, 2) heights and widths whose quantiles are the archive's and whose normal scores are so correlated."""
    rng = np.random.default_rng(seed)
    scores = rng.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], count)
    ranks = scores.argsort(0).argsort(0) / (count - 1)
    quantiles = np.linspace(0, 1, 5)
    sides = [np.interp(rank, quantiles, known) for rank, known in zip(ranks.T, (HEIGHTS, WIDTHS), strict=True)]
    return np.stack(sides, 1).round().astype(np.int64)


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What `run` returns, and its seconds."""
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def measure(sizes: np.ndarray, strategy: str, batch_size: int, ranks: list[int], **budget: int) -> dict[str, Any]:
    """Seconds, figures of the bins and load of the ranks of one strategy."""
    try:
        bins, fit = timed(lambda: fit_bins(sizes, strategy=strategy, batch_size=batch_size, **budget))
    except NoBinsError as error:
        return {"images_used": 0.0, "error": str(error)}
    ids, assigning = timed(lambda: assign(sizes, bins))
    batches = np.full(len(bins), batch_size * 8)
    _, planning = timed(lambda: plan(ids, batches, seed=0, epoch=0, bin_tokens=bins.tokens))
    figures = asdict(report(sizes, bins, ids, batch_size=batch_size).total)
    used = figures["images"] / len(sizes)
    seconds = {"fit_seconds": fit, "assign_seconds": assigning, "plan_seconds": planning}
    loads = {str(world): asdict(simulate(ids, bins.tokens, batch_size, world)) for world in ranks}
    return {**seconds, "images_used": used, **figures, "ranks": loads}


def peak_megabytes(run: Callable[[], Any]) -> float:
    """Most memory that `run` holds at once beyond what was held before, in 1e6 bytes."""
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--images", type=int, default=640_000, help="sizes to draw (default: 640000)")
    option("--correlation", type=float, default=0.7, help="of heights and widths; 0 is the hardest (default: 0.7)")
    option("--num_bins", type=int, default=16, help="most shapes of smart and mixed (default: 16)")
    option("--patch_size", type=int, default=48, help="side of a patch in pixels (default: 48)")
    option("--max_tokens", type=int, default=4096, help="most patches of an image (default: 4096)")
    option("--batch_size", type=int, default=8, help="images per rank and step (default: 8)")
    option("--ranks", type=int, nargs="+", default=[1, 8, 64, 512], help="processes to simulate (default: 1 8 64 512)")
    option("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()

    sizes = draw_sizes(args.images, args.correlation)
    budget = {name: getattr(args, name) for name in ("num_bins", "patch_size", "max_tokens")}
    results = {}
    for strategy in STRATEGIES:
        print(f"{strategy} ...", file=sys.stderr)
        results[strategy] = measure(sizes, strategy, args.batch_size, args.ranks, **budget)
        again = partial(measure, sizes, strategy, args.batch_size, args.ranks, **budget)
        results[strategy]["peak_megabytes"] = peak_megabytes(again)  # apart, because tracing takes time
    rows = compare(sizes, batch_size=args.batch_size, **budget)
    results["naflex"] = asdict(rows[-1])
    print(format_table(rows))
    for strategy, figures in results.items():
        if "ranks" in figures:
            seconds = ", ".join(f"{name} {figures[f'{name}_seconds']:.2f} s" for name in ("fit", "assign", "plan"))
            print(f"\n{strategy}: {seconds}, peak {figures['peak_megabytes']:.0f} MB")
            for world, load in figures["ranks"].items():
                print(
                    f"  {world:>4} ranks: {load['steps']:,} steps, idle {load['idle_share']:.2%}, "
                    f"{load['repeats']:,} repeats"
                )
    if args.json:
        args.json.write_text(json.dumps({"arguments": {**vars(args), "json": None}, "strategies": results}, indent=2))


if __name__ == "__main__":
    main()
