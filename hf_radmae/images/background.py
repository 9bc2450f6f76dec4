"""Where the patient is in a radiograph: decided once per image at one fixed scale, and read off at any grid of patches.

First the exposed field is looked for: what lies outside is a region at the image's border of one constant grey, whose
inner edges are straight and at right angles, however turned. Inside it, air is a region at the border of the field,
darker (or brighter, in inverted images) than a level, that is flat and has a sharp edge: the ratio of both is its
score. Narrow parts that stand out from the air around them, such as fingers, count as the patient. What skin encloses
does not reach the border of the field, so it is never air. Where the two polarities disagree and neither is clearly
the better explanation, nothing is left out: keeping air costs less than losing a part of the patient.

Levels are ranks among pixels that vary, so that neither the depth, nor a bright clip, nor a change of contrast moves
them. The decision is kept as `SIDE` x `SIDE` bits over the whole image, whatever its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from hf_radmae.images.fitting import as_float32

Array = NDArray[Any]
Box = tuple[float, float, float, float]

SIDE = 64  # rows and columns of a stored mask
VERSION = 2  # of the rule: a stored mask of another one is refused

_LONGEST = 160  # pixels: the scale of the decision
_SHUTTER_LEVELS = (0.01, 0.03, 0.06)
_LEVELS = (0.008, 0.016, 0.025, 0.035, 0.05, 0.07, 0.095, 0.125, 0.16, 0.2, 0.25, 0.31, 0.38, 0.46, 0.55)
_DARK, _DARK_LEVEL = 0.25, 0.21  # of an image whose edges are darker than the first, levels above the second are body
_SURE, _POSSIBLE, _MOST = 3.0, 2.3, 8.0  # scores: of some air in the image, of each region of it, and what counts
_BRIGHT = 4.0  # times more evidence than dark air, before air is taken to be bright
_SMALLEST_REGION, _SMALLEST_SHUTTER, _SMALLEST_FIELD = 0.004, 0.035, 0.4  # shares of the image
_AROUND = 0.6  # share of the image's border along which a shutter may be smaller
_NOISY = 0.004  # standard deviation of the noise: above, smoothing is stronger
_FLATTEST = 6e-4  # gradient: a flatter region is no better
_STRAIGHT = 0.85  # share of the inner edge of a shutter that is straight
_STEP = 0.15  # steepness behind the edge of a shutter, by that of the edge
_CONVEX = 0.485  # share of air around its own edge; less of a region that bulges, as a body does
_CONSTANT = 1e-3  # range of greys: what varies less is constant
_PART, _PART_LEAST = 6.0, 0.02  # what is so many deviations, and so much of the range, above air is no air
_PART_WIDEST, _PART_SMALLEST = 15, 12  # pixels: across such a part, and of its area
_ISLAND = 0.02  # of the largest part of the patient: smaller parts are markers
_EIGHT = np.ones((3, 3), bool)
_FOUR = ndimage.generate_binary_structure(2, 1)


@dataclass(frozen=True)
class _Region:
    """A connected region below a level that touches the border."""

    labels: Array
    label: int
    edges: Array
    level: float
    score: float
    flatness: float
    size: int
    contact: int

    @property
    def mask(self) -> Array:
        return self.labels == self.label

    @property
    def evidence(self) -> float:
        return (min(self.score, _MOST) - 1.5) ** 2 * self.contact


def patch_mask(image: Array | torch.Tensor, grid: tuple[int, int]) -> Array:
    """Which patches of a radiograph show the patient.

    Args:
        image: (height, width) grey values of any depth and range, air dark or bright.
        grid: rows and columns of patches.

    Returns:
        bool `grid`, True where any part of a patch shows the patient. Never all False.

    Raises:
        ValueError: the image has not two axes, or the grid no patches.
    """
    if len(grid) != 2 or min(grid) < 1:
        raise ValueError(f"grid={grid!r}: expected (rows, columns), at least 1 each")
    return mask_on_grid(background_mask(image), *(np.arange(n + 1) / n for n in grid))


def background_mask(image: Array | torch.Tensor) -> Array:
    """The decision for one image: bool (`SIDE`, `SIDE`) over the whole image, True where any part shows the patient."""
    pixels = image.numpy(force=True) if isinstance(image, torch.Tensor) else np.asarray(image)
    if pixels.ndim != 2 or not pixels.size:
        raise ValueError(f"image of shape {tuple(pixels.shape)}: expected (height, width)")
    patient = ndimage.binary_dilation(_patient(_scaled_down(pixels)), _EIGHT)  # the edge belongs to the patient
    height, width = patient.shape
    sums = np.zeros((height + 1, width + 1), np.int64)
    sums[1:, 1:] = patient.cumsum(0).cumsum(1)
    (top, bottom), (left, right) = (_overlaps(np.arange(SIDE + 1) / SIDE, side) for side in (height, width))
    return (sums[bottom][:, right] - sums[top][:, right] - sums[bottom][:, left] + sums[top][:, left]) > 0


def mask_on_grid(mask: Array, rows: Array, columns: Array) -> Array:
    """A stored mask on any grid.

    Args:
        mask: bool (..., `SIDE`, `SIDE`).
        rows, columns: edges of the patches as shares of the image's height and width, rising. A patch of no extent,
            which lies in the padding, shows nothing.

    Returns:
        bool (..., len(rows) - 1, len(columns) - 1), True where any part of a patch is True in the mask.
    """
    sums = np.zeros((*mask.shape[:-2], SIDE + 1, SIDE + 1), np.int32)
    sums[..., 1:, 1:] = mask.astype(np.int32).cumsum(-2).cumsum(-1)
    (top, bottom), (left, right) = (_overlaps(edges, SIDE) for edges in (rows, columns))
    above, below = sums[..., top, :], sums[..., bottom, :]
    return np.ascontiguousarray((below[..., right] - above[..., right] - below[..., left] + above[..., left]) > 0)


def content_box(mask: Array) -> Box:
    """Top, left, height and width of the smallest box around the patient, as shares of the image's sides.

    Raises:
        ValueError: the mask is all False.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise ValueError("a mask without a patient has no content to put a box around")
    top, left = rows[0] / SIDE, columns[0] / SIDE
    return float(top), float(left), float((rows[-1] + 1) / SIDE - top), float((columns[-1] + 1) / SIDE - left)


def pixel_box(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box of shares in pixels of an image of this (height, width), rounded outwards."""
    start = [floor(box[axis] * size[axis] + 1e-6) for axis in (0, 1)]
    end = [ceil((box[axis] + box[axis + 2]) * size[axis] - 1e-6) for axis in (0, 1)]
    return start[0], start[1], max(end[0] - start[0], 1), max(end[1] - start[1], 1)


def _overlaps(edges: Array, side: int) -> tuple[Array, Array]:
    """First and past-the-last of `side` cells that each interval between edges (shares) touches."""
    places = np.clip(edges * side, 0, side)
    first = np.minimum(np.floor(places[:-1] + 1e-6), side - 1).astype(np.int64)
    last = np.ceil(places[1:] - 1e-6).astype(np.int64)
    return first, np.where(places[1:] > places[:-1], np.maximum(last, first + 1), first)


def _scaled_down(pixels: Array) -> Array:
    """float32 grey values 0..1 between percentiles, the longest side at most `_LONGEST`."""
    height, width = pixels.shape
    scale = min(1.0, _LONGEST / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.fromarray(pixels if pixels.dtype == np.uint8 else as_float32(pixels))
    small = np.asarray(picture.resize(size, Image.Resampling.BOX), np.float32)
    low, high = np.percentile(small, (0.5, 99.5))
    if high <= low:
        low, high = float(small.min()), float(small.max())
    return np.clip((small - low) / max(high - low, 1e-12), 0, 1)


def _patient(pixels: Array) -> Array:
    """bool (rows, columns): the patient in a picture of values 0..1."""
    shape = pixels.shape
    if min(shape) < 8:
        return np.ones(shape, bool)
    noise = _noise(pixels)
    grey = ndimage.gaussian_filter(pixels, 1.0 if noise < _NOISY else 1.5, truncate=3)
    border = np.ones(shape, bool)
    border[1:-1, 1:-1] = False
    outside = _outside_field(pixels, grey, border, noise)
    inside = ~outside
    gradient = _gradient(grey)
    if outside.any():
        low, high = np.percentile(pixels[inside], (0.5, 99.5))
        grey = np.clip((grey - low) / max(high - low, 1e-6), 0, 1)
        gradient = _gradient(grey)
        gradient[ndimage.binary_dilation(outside, _EIGHT, iterations=2)] = 0
        border = inside & (border | ndimage.binary_dilation(outside, _EIGHT))
    middle = _middle(grey[inside], gradient[inside])
    brighter = _brightened(grey, middle)
    steeper = np.where(gradient > 0, _gradient(brighter), 0)
    levels = [level for level in _LEVELS if middle >= _DARK or level < _DARK_LEVEL]
    dark, dark_evidence = _air(brighter, steeper, inside, border, levels)
    bright, bright_evidence = _air(1 - grey, gradient, inside, border, _LEVELS)
    patient = inside
    if dark_evidence > bright_evidence:
        patient = inside & ~_without_parts(dark, brighter)
    elif bright_evidence > _BRIGHT * dark_evidence:
        patient = inside & ~_without_parts(bright, 1 - grey)
    labels, count = ndimage.label(patient, _EIGHT)
    if count > 1:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        patient = (sizes >= _ISLAND * sizes.max())[labels]
    return patient if patient.any() else np.ones(shape, bool)


def _noise(pixels: Array) -> float:
    """Standard deviation of the noise: second differences cancel all that is smooth (Immerkaer 1996)."""
    rest = pixels[:-2] - 2 * pixels[1:-1] + pixels[2:]
    rest = rest[:, :-2] - 2 * rest[:, 1:-1] + rest[:, 2:]
    return float(np.median(np.abs(rest))) / (0.6745 * 6)


def _gradient(grey: Array) -> Array:
    return np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1)) / 8


def _middle(grey: Array, gradient: Array) -> float:
    """The grey at which half of all edges, weighted by their steepness, are darker."""
    order = np.argsort(grey)
    steps = np.cumsum(gradient[order])
    return float(grey[order][min(np.searchsorted(steps, steps[-1] / 2), len(order) - 1)])


def _brightened(grey: Array, middle: float) -> Array:
    """An image whose edges are mostly dark, with a gamma that brings their middle near 0.4; others as they are."""
    gamma, offset = float(np.clip(np.log(0.4) / np.log(np.clip(middle, 0.02, 0.98)), 0.5, 1.0)), 0.01
    return ((grey + offset) ** gamma - offset**gamma) / ((1 + offset) ** gamma - offset**gamma)


def _ranks(grey: Array, gradient: Array) -> Array:
    """Grey values as ranks 0..1 among pixels that vary."""
    weights = np.minimum(gradient / (gradient.mean() + 1e-12), 3.0) + 0.02
    histogram, edges = np.histogram(grey, bins=1024, range=(0, 1), weights=weights)
    ranks = (np.cumsum(histogram) - histogram / 2) / histogram.sum()
    return np.interp(grey, (edges[1:] + edges[:-1]) / 2, ranks)


def _regions(
    values: Array, gradient: Array, inside: Array, border: Array, levels: Any, smallest: float, reach: int = 7
) -> list[_Region]:
    """All regions below each level that touch the border, with the sharpness of their edge by that of their inside."""
    found = []
    least = smallest * inside.sum()
    values = np.where(inside, values, -1)  # what is outside the field makes no edge
    near = ndimage.maximum_filter(values, footprint=_FOUR, mode="nearest")
    around = ndimage.maximum_filter(values, reach, mode="nearest")
    for level in levels:
        below = (values < level) & inside
        labels, count = ndimage.label(below)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        contact = np.bincount(labels[border], minlength=count + 1)
        edges, inner = below & (near >= level), below & (around < level)
        edge_labels, inner_labels = labels[edges], labels[inner]
        for label in np.flatnonzero((sizes > least) & (contact > 0)):
            if not label:
                continue
            edge, flat = gradient[edges][edge_labels == label], gradient[inner][inner_labels == label]
            if len(edge) < 4 or len(flat) < 8:
                continue
            score = float(np.percentile(edge, 40) / max(np.percentile(flat, 80), _FLATTEST))
            flatness = float(np.percentile(flat, 90))
            place = int(label), edges, float(level), score, flatness, int(sizes[label]), int(contact[label])
            found.append(_Region(labels, *place))
    return found


def _outside_field(pixels: Array, grey: Array, border: Array, noise: float) -> Array:
    """What the collimator covers: constant regions at the border with straight inner edges, dark or bright."""
    sharp = noise < _NOISY  # then even a frame of two pixels shows
    source, outside = pixels if sharp else grey, np.zeros(grey.shape, bool)
    gradient = _gradient(source)
    for values in (source, 1 - source):
        regions = _regions(values, gradient, ~outside, border & ~outside, _SHUTTER_LEVELS, _SMALLEST_REGION, 3)
        for region in sorted(regions, key=lambda region: -region.size):
            small = region.size < _SMALLEST_SHUTTER * grey.size and region.contact < _AROUND * border.sum()
            varied = region.score < _SURE or region.flatness > 0.0015 + 0.35 * noise
            constant = bool(np.ptp(pixels[region.mask & ~region.edges]) < _CONSTANT)
            if (region.mask & outside).any() or (not constant and (small or varied)):
                continue
            if not constant and _slope(region, gradient, ~outside) > _STEP:
                continue
            if _straightness(region.mask, ~outside) <= _STRAIGHT:
                continue
            if (~outside & ~region.mask).mean() > _SMALLEST_FIELD:
                outside |= region.mask
    return ndimage.binary_dilation(outside, _EIGHT, iterations=1 if sharp else 2) if outside.any() else outside


def _slope(region: _Region, gradient: Array, inside: Array) -> float:
    """Steepness behind the edge of a region by that at its edge: a collimator makes a step, a limb's side a slope."""
    near = ndimage.binary_dilation(region.mask, _EIGHT, iterations=2)
    behind = ndimage.binary_dilation(near, _EIGHT, iterations=2) & ~near & inside
    if not behind.any():
        return 0.0
    return float(np.median(gradient[behind]) / max(np.median(gradient[region.mask & region.edges]), _FLATTEST))


def _straightness(region: Array, inside: Array) -> float:
    """How much of the edge of what is left by a region is straight and at right angles, 0 where the region cuts in."""
    field = ndimage.binary_opening(inside & ~region, _EIGHT)
    labels, count = ndimage.label(field)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    points = np.argwhere(region)[:, ::-1].astype(float)
    within = np.zeros(len(points), bool)
    height, width = region.shape
    total = straight = 0.0
    for label in np.flatnonzero(sizes > 0.01 * region.size):
        part = labels == label
        rim = np.argwhere(part & ~ndimage.binary_erosion(part))[:, ::-1].astype(float)
        try:
            hull = ConvexHull(rim)
        except QhullError:
            return 0.0
        within |= (points @ hull.equations[:, :2].T + hull.equations[:, 2]).max(1) < -1.5
        corners = rim[hull.vertices]
        sides = np.roll(corners, -1, 0) - corners
        lengths, middles = np.hypot(*sides.T), corners + sides / 2
        free = ((middles > 1.5) & (middles < (width - 2.5, height - 2.5))).all(1)  # not along the image's border
        angles = np.degrees(np.arctan2(sides[:, 1], sides[:, 0]))
        main = np.degrees(np.angle((lengths * free * np.exp(4j * np.radians(angles))).sum())) / 4
        off = np.abs((angles - main + 45) % 90 - 45)
        total += float((lengths * free).sum())
        straight += float((lengths * free * (off < 5)).sum())
    if within.mean() > 0.06:
        return 0.0
    return straight / total if total else 1.0  # all along the border: a thin frame


def _air(grey: Array, gradient: Array, inside: Array, border: Array, levels: Any) -> tuple[Array, float]:
    """Dark air, and the evidence for it: the regions of the best level, 0 where none is sure."""
    none = np.zeros(grey.shape, bool), 0.0
    ranks = np.ones_like(grey)
    ranks[inside] = _ranks(grey[inside], gradient[inside])
    found = _regions(ranks, gradient, inside, border, levels, _SMALLEST_REGION)
    found = [region for region in found if region.score >= _POSSIBLE and not _bulges(region)]
    sure = [region for region in found if region.score >= _SURE]
    if not sure:
        return none
    main = max(sure, key=lambda region: region.evidence)
    whole, evidence = main.mask, main.evidence
    for region in sorted(found, key=lambda region: region.level):  # the lowest level that is nearly as large and sharp
        sharp = region.score >= 0.5 * min(main.score, _MOST) and region.size > 0.85 * main.size
        if region.level < main.level and sharp and not (region.mask & ~whole).any():
            main = region
            break
    air = main.mask
    for region in sorted(found, key=lambda region: -region.score):
        if region.level <= main.level and not (region.mask & air).any():
            air |= region.mask
            evidence += region.evidence
    return air, evidence


def _without_parts(air: Array, grey: Array) -> Array:
    """Air without the narrow parts that stand out from the air around them, found by a top-hat filter."""
    rest = np.where(air, grey - ndimage.grey_opening(grey, _PART_WIDEST, mode="nearest"), 0)
    usual = np.median(rest[air])
    spread = 1.4826 * np.median(np.abs(rest[air] - usual))
    core = ndimage.binary_erosion(air, _EIGHT, iterations=2)
    step = usual + max(_PART * spread, _PART_LEAST)
    labels, count = ndimage.label((rest > step) & air, _EIGHT)
    sizes = np.bincount((labels * core).ravel(), minlength=count + 1)
    sizes[0] = 0
    return air & ~(sizes >= _PART_SMALLEST)[labels]


def _bulges(region: _Region) -> bool:
    """Whether a region is convex on average, as parts of a body are and the air around one is not."""
    mask = region.mask
    around = ndimage.uniform_filter(mask.astype(np.float32), 13, mode="nearest")
    return bool(around[mask & region.edges].mean() < _CONVEX)
