"""Show what binning does to a data set, from the sizes alone: no image is decoded.

    python scripts/bins.py table.csv --patch_size 48 --max_tokens 4096 --plot bins.png

reads a table (CSV, TSV or Parquet) with columns `height` and `width` or `pixelarr_shape`, a folder of Parquet shards, a
folder with `metadata.csv`, or a data set written by `datasets.save_to_disk`; of a folder without such columns it reads
the headers of its images. It prints a line per bin and a line per strategy, and with --plot draws sizes and bins. A
change of aspect or scale is the larger of a/b and b/a, less 1.
"""

import argparse
import re
from pathlib import Path

import datasets
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from hf_radmae.batching.bin_report import BinReport, compare, format_table, report
from hf_radmae.batching.binning import STRATEGIES, Bins, assign, fit_bins
from hf_radmae.batching.grids import checked_sizes, target_sizes
from hf_radmae.batching.sampler import simulate
from hf_radmae.cli.command import command
from hf_radmae.images.remote import Place, locate
from hf_radmae.sources.load import image_sizes
from hf_radmae.sources.table_file import column_names, read_text_columns


def read_sizes(source: Place, columns: list[str]) -> np.ndarray:
    """(N, 2) heights and widths in pixels: of the columns, else of `pixelarr_shape`, else of the images' headers.

    Raises:
        FileNotFoundError: there is no such source, or a folder without images.
        ValueError: a table or a saved data set without such columns, or with cells that are no sizes.
    """
    if not source.exists():
        raise FileNotFoundError(
            f"{source}: expected a CSV or Parquet table, or a folder that holds Parquet files, metadata.csv, a data "
            "set saved by datasets.save_to_disk or images."
        )
    saved = _saved(source)
    tables = [] if saved else _tables(source)
    names = saved[0].column_names if saved else column_names(tables[0]) if tables else []
    found = next((wanted for wanted in (columns, ["pixelarr_shape"]) if set(wanted) <= set(names)), None)
    if found is None:
        if source.is_dir() and not saved:
            return image_sizes(str(source))
        raise ValueError(
            f"{source} has no columns {' and '.join(columns)} or pixelarr_shape, but {', '.join(names)}: name the "
            "right ones by --columns."
        )
    read = [rows.select_columns(found).with_format("arrow")[:] for rows in saved]
    read += [read_text_columns(path, found) for path in tables]
    sizes = [_size([*row.values()]) for table in read for row in table.to_pylist()]
    try:
        return np.array(sizes, float).reshape(len(sizes), 2)
    except ValueError as error:
        raise ValueError(f"{source}: the columns {', '.join(found)} hold no sizes ({error})") from error


def _size(cells: list) -> list:
    """Height and width of a row: two cells, or a shape, which is a tuple or list as text, or a list."""
    cells = re.findall(r"\d+", str(cells[0]))[:2] if len(cells) == 1 else cells
    return [np.nan if cell is None else cell for cell in cells]


def _saved(source: Place) -> list[datasets.Dataset]:
    """The splits of a saved data set, none where the source is no such folder."""
    names = ("dataset_dict.json", "state.json")
    if not isinstance(source, Path) or not any((source / name).exists() for name in names):
        return []
    saved = datasets.load_from_disk(str(source))
    return list(saved.values()) if isinstance(saved, datasets.DatasetDict) else [saved]


def _tables(source: Place) -> list[Place]:
    """The file of a table, or those of a folder: all that are Parquet, else its metadata."""
    if source.is_file():
        return [source]
    named = [source / name for name in ("metadata.csv", "metadata.tsv")]
    return sorted(source.rglob("*.parquet"), key=str) or [path for path in named if path.exists()][:1]


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
    option("source", type=locate, help="path or URL of a table, folder of Parquet shards or images, or saved data set")
    option("--binning", default="smart", choices=STRATEGIES, help=f"{meanings} (default: smart)")
    option("--num_bins", type=int, default=16, help="most shapes of smart and mixed (default: 16)")
    option("--patch_size", type=int, default=16, help="side of a patch in pixels (default: 16)")
    option("--max_tokens", type=int, default=256, help="most patches of an image: 256 of 16 px are 256 x 256 px")
    option("--max_side", type=int, help="longest side of a shape in pixels (default: no limit)")
    option("--batch_size", type=int, default=8, help="images per rank and step (default: 8)")
    option("--ranks", type=int, default=1, help="processes of the run (default: 1)")
    option(
        "--columns",
        nargs=2,
        default=["height", "width"],
        help="columns of the sizes, else pixelarr_shape, else the images",
    )
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
