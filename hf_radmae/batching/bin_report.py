"""What a choice of bins costs: images lost, tokens, padding, aspect and scale changed, per bin and in all."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_radmae.batching.binning import STRATEGIES, Bins, NoBinsError, assign, content_sizes, fit_bins
from hf_radmae.batching.grids import checked_sizes, naflex_grids, target_sizes

Array = NDArray[Any]


@dataclass(frozen=True)
class Row:
    """Figures of a bin, or of all. Shares are of 1; a change is the larger of a/b and b/a, less 1.

    Attributes:
        name: Shape or strategy.
        bins: Bins that hold an image.
        images: Images used.
        lost: Images that no bin takes.
        tokens: Patches per image that the network is given, padding included.
        padding: Share of the patches' area that is padding.
        aspect_mean, aspect_p95, aspect_worst: Change of the aspect ratio by resizing.
        scale_mean: Change of the scale (square root of the area) against the image's own, scaled down into the budget.
        fill: Images over the places in their batches: short batches make it less than 1.
    """

    name: str
    bins: int
    images: int
    lost: int
    tokens: float
    padding: float
    aspect_mean: float
    aspect_p95: float
    aspect_worst: float
    scale_mean: float
    fill: float


@dataclass(frozen=True)
class BinReport:
    """Figures of each bin and of all together."""

    rows: tuple[Row, ...]
    total: Row
    patch_size: int

    def table(self) -> str:
        """Plain text: a line per bin that holds images, then all."""
        return format_table([*self.rows, self.total])

    def summary(self) -> str:
        """Plain text: a line per shape with its images and the patches that take part, then one line of all."""
        shapes: dict[str, list[Row]] = {}
        for row in self.rows:
            shapes.setdefault(row.name, []).append(row)
        lines = [f"{'height x width':16}{'images':>9}{'patches':>9}{'take part':>11}"]
        whole = 0.0
        for name, rows in shapes.items():
            height, width = map(int, name.split(" x "))
            images, patches = sum(row.images for row in rows), height * width // self.patch_size**2
            whole += images * patches
            taken = sum(row.images * row.tokens for row in rows) / images
            lines.append(f"{name:16}{images:9,}{patches:9,}{taken:11,.1f}")
        total = self.total
        saved = 1 - total.tokens * total.images / max(whole, 1)
        lines.append(
            f"\n{len(shapes)} shapes in {len(self.rows)} levels; {saved:.0%} of the patches are background, left out; "
            f"resizing changes the aspect by {total.aspect_mean:.1%} on average."
        )
        return "\n".join(lines)


def report(sizes: ArrayLike, bins: Bins, ids: Array, *, batch_size: int = 8) -> BinReport:
    """Figures of `bins` for images of these sizes.

    Args:
        sizes: (N, 2) height and width in pixels.
        ids: (N,) bin of each image, from `assign`.
        batch_size: Images per step on all ranks together, for `fill`.
    """
    sizes, kept = checked_sizes(sizes), ids >= 0
    lost, sizes, ids = int((~kept).sum()), sizes[kept], ids[kept]
    order = np.argsort(ids, kind="stable")
    sizes, ids = sizes[order], ids[order]
    used, counts = np.unique(ids, return_counts=True)
    own = target_sizes(sizes, patch_size=bins.patch_size, max_tokens=bins.max_tokens, max_side=bins.max_side)
    content, tokens = content_sizes(sizes, bins, ids), bins.tokens[ids]
    measures = _measure(sizes, own, content, tokens, bins.patch_size)
    batches = -(-counts // batch_size)
    fills = counts / (batches * batch_size)
    rows = [
        _row("{} x {}".format(*bins.shapes[index]), 1, 0, part, fill)
        for index, part, fill in zip(used, np.split(measures, np.cumsum(counts)[:-1], axis=1), fills, strict=True)
    ]
    fill = counts.sum() / (batches.sum() * batch_size) if len(counts) else 0.0
    return BinReport(tuple(rows), _row(bins.strategy, len(used), lost, measures, fill), bins.patch_size)


def compare(
    sizes: ArrayLike,
    *,
    num_bins: int = 16,
    patch_size: int = 16,
    max_tokens: int = 256,
    max_side: int | None = None,
    batch_size: int = 8,
) -> list[Row]:
    """Figures of every strategy for the same sizes and budget, and of NaFlex (arguments as for `binning.fit_bins`).

    NaFlex resizes each image to the grid of its aspect that fits `max_tokens`, and pads the sequence to that length.
    """
    sizes = checked_sizes(sizes)
    budget: dict[str, Any] = {"patch_size": patch_size, "max_tokens": max_tokens, "max_side": max_side}
    rows = []
    for strategy in STRATEGIES:
        try:
            bins = fit_bins(sizes, strategy=strategy, num_bins=num_bins, batch_size=batch_size, **budget)
        except NoBinsError:
            rows.append(Row(strategy, 0, 0, len(sizes), nan, nan, nan, nan, nan, nan, 0.0))
        else:
            rows.append(report(sizes, bins, assign(sizes, bins), batch_size=batch_size).total)
    grids, tokens = naflex_grids(sizes, **budget), np.full(len(sizes), max_tokens)
    measures = _measure(sizes, target_sizes(sizes, **budget), grids * patch_size, tokens, patch_size)
    return [*rows, _row("naflex", len(np.unique(grids, axis=0)), 0, measures, 1.0)]


def format_table(rows: Sequence[Row]) -> str:
    """Rows as plain text under a heading, columns aligned."""
    heading = ["", "bins", "images", "lost", "tokens", "padding", "aspect mean", "p95", "worst", "scale", "batch fill"]
    cells = [
        [
            *(row.name, f"{row.bins:,}", f"{row.images:,}", f"{row.lost:,}", f"{row.tokens:,.1f}"),
            *(f"{row.padding:.1%}", f"{row.aspect_mean:.1%}", f"{row.aspect_p95:.1%}", f"{row.aspect_worst:.0%}"),
            *(f"{row.scale_mean:.1%}", f"{row.fill:.1%}"),
        ]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(heading, *cells, strict=True)]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in [heading, *cells]
    ]
    return "\n".join(line.rstrip() for line in lines)


def _measure(sizes: Array, own: Array, content: Array, tokens: Array, patch_size: int) -> Array:
    """(4, N) of each image: aspect change, scale change, tokens, tokens' worth of content."""
    aspect = content[:, 0] * sizes[:, 1] / (content[:, 1] * sizes[:, 0])
    scale = np.sqrt(content.prod(1) / own.prod(1))
    changes = [np.maximum(ratio, 1 / ratio) - 1 for ratio in (aspect, scale)]
    return np.stack([*changes, tokens, content.prod(1) / patch_size**2])


def _row(name: str, bins: int, lost: int, measures: Array, fill: float) -> Row:
    aspect, scale, tokens, content = measures
    return Row(
        name=name,
        bins=bins,
        images=len(aspect),
        lost=lost,
        tokens=float(tokens.mean()),
        padding=float(1 - np.minimum(content, tokens).sum() / tokens.sum()),  # fewer tokens than content with levels
        aspect_mean=float(aspect.mean()),
        aspect_p95=float(np.percentile(aspect, 95)),
        aspect_worst=float(aspect.max()),
        scale_mean=float(scale.mean()),
        fill=float(fill),
    )
