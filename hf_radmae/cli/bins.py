"""Show what binning does to a data set, from the sizes alone: no image is opened.

    python scripts/bins.py table.csv --patch_size 48 --max_tokens 4096 --plot bins.png

reads a table (CSV, TSV or Parquet) with columns `height` and `width` or `pixelarr_shape`, a folder of Parquet shards, a
folder with `metadata.csv`, or a data set written by `datasets.save_to_disk`. It prints a line per bin and a line per
strategy, and with --plot draws sizes and bins. A change of aspect or scale is the larger of a/b and b/a, less 1.
"""

import argparse
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow.dataset
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from hf_radmae.batching.bin_report import BinReport, compare, format_table, report
from hf_radmae.batching.binning import STRATEGIES, Bins, assign, fit_bins
from hf_radmae.batching.grids import checked_sizes, target_sizes
from hf_radmae.batching.sampler import simulate
from hf_radmae.cli.command import command


def read_columns(source: Path, wanted: list[list[str]]) -> pd.DataFrame:
    """The first of the `wanted` sets of columns that the table or data set has; ValueError where it has none."""
    if (source / "dataset_dict.json").exists() or (source / "state.json").exists():
        saved = datasets.load_from_disk(str(source))
        splits = list(saved.values()) if isinstance(saved, datasets.DatasetDict) else [saved]
        names = splits[0].column_names
    else:
        files = [source] if source.is_file() else sorted(source.rglob("*.parquet")) or [source / "metadata.csv"]
        if not files[0].exists():
            raise FileNotFoundError(
                f"{source}: expected a CSV or Parquet table, or a folder that holds Parquet files, metadata.csv or a "
                "data set saved by datasets.save_to_disk."
            )
        splits = []
        if files[0].suffix == ".parquet":
            names = pyarrow.dataset.dataset(files).schema.names
        else:
            with files[0].open(encoding="utf-8-sig") as lines:
                header = lines.readline()
            separator = max(",;\t", key=header.count)
            names = list(pd.read_csv(files[0], sep=separator, nrows=0))
    columns = next((columns for columns in wanted if set(columns) <= set(names)), None)
    if columns is None:
        expected = " or ".join(" and ".join(columns) for columns in wanted)
        raise ValueError(
            f"{source} has no columns {expected}, but {', '.join(names)}: name the right ones by --columns."
        )
    if splits:
        return pd.concat([split.select_columns(columns).to_pandas() for split in splits])
    if files[0].suffix == ".parquet":
        return pyarrow.dataset.dataset(files).to_table(columns=columns).to_pandas()
    return pd.read_csv(files[0], sep=separator, usecols=columns)


def read_sizes(source: Path, columns: list[str]) -> np.ndarray:
    """(N, 2) heights and widths in pixels."""
    table = read_columns(source, [columns, ["pixelarr_shape"]])
    if "pixelarr_shape" in table:  # a tuple or list as text, or a list
        return table["pixelarr_shape"].astype(str).str.extract(r"(\d+)\D+(\d+)").to_numpy(float)
    return table[columns].to_numpy()


def plot(sizes: np.ndarray, bins: Bins, ids: np.ndarray, figures: BinReport, path: Path) -> None:
    """Draw the sizes, scaled into the budget, in the colour of their bin, the bins' shapes, and the images per bin."""
    sizes = target_sizes(sizes, patch_size=bins.patch_size, max_tokens=bins.max_tokens, max_side=bins.max_side)
    figure = Figure(figsize=(13, 6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    shown = np.random.default_rng(0).permutation(np.flatnonzero(ids >= 0))[:20_000]
    left.scatter(sizes[shown, 1], sizes[shown, 0], s=3, c=ids[shown] * 7 % 20, cmap="tab20", alpha=0.5, rasterized=True)
    left.plot(bins.shapes[:, 1], bins.shapes[:, 0], "k+", markersize=12, markeredgewidth=2, label="shape of a bin")
    left.set(xscale="log", yscale="log", xlabel="width (px)", ylabel="height (px)")
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(ScalarFormatter())
    left.tick_params("x", which="both", labelrotation=60)
    left.set_title(f"{len(ids):,} images, scaled into {bins.max_tokens} tokens, in the colour of their bin")
    left.legend()
    rows = sorted(figures.rows, key=lambda row: -row.images)[:40]
    right.barh([f"{row.name}: {row.aspect_mean:.1%}" for row in rows], [row.images for row in rows], color="0.5")
    right.invert_yaxis()
    right.set(xlabel="images", title="images per bin, and its mean aspect change")
    figure.savefig(path, dpi=120)


@command
def main() -> None:
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in STRATEGIES.items())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("source", type=Path, help="table, folder of Parquet shards, or saved data set")
    option("--binning", default="smart", choices=STRATEGIES, help=f"{meanings} (default: smart)")
    option("--num_bins", type=int, default=16, help="most shapes of smart and mixed (default: 16)")
    option("--patch_size", type=int, default=16, help="side of a patch in pixels (default: 16)")
    option("--max_tokens", type=int, default=256, help="most patches of an image: 256 of 16 px are 256 x 256 px")
    option("--max_side", type=int, help="longest side of a shape in pixels (default: no limit)")
    option("--batch_size", type=int, default=8, help="images per rank and step (default: 8)")
    option("--ranks", type=int, default=1, help="processes of the run (default: 1)")
    option("--columns", nargs=2, default=["height", "width"], help="columns of the sizes, else pixelarr_shape is tried")
    option("--plot", type=Path, help="where to draw sizes and bins (.png, .pdf, .svg)")
    args = parser.parse_args()

    sizes, batch = checked_sizes(read_sizes(args.source, args.columns)), args.batch_size * args.ranks
    choice = {name: getattr(args, name) for name in ("num_bins", "patch_size", "max_tokens", "max_side")}
    bins = fit_bins(sizes, strategy=args.binning, batch_size=batch, **choice)
    ids = assign(sizes, bins)
    figures = report(sizes, bins, ids, batch_size=batch)
    load = simulate(ids, bins.tokens, args.batch_size, args.ranks)
    print(f"{args.source}: {len(sizes):,} images\n\n{figures.table()}\n")
    print(f"{format_table(compare(sizes, batch_size=batch, **choice))}\n")
    epoch = f"{load.steps:,} steps, {load.repeats:,} images repeated, {load.idle_share:.2%} idle"
    print(f"An epoch of {args.binning} binning on {args.ranks} ranks with batch {args.batch_size}: {epoch}")
    if args.plot:
        plot(sizes, bins, ids, figures, args.plot)
        print(f"Drawn: {args.plot}")
