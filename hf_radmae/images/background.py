"""Where the patient is in a radiograph: decided once per image at one fixed scale, and read off at any grid of patches.

First the exposed field is looked for: what a collimator covers is a constant grey along the image's border, beyond the
convex hull of what is left. Inside the field, air is what the beam reached unweakened, so it has these properties,
which hold for any exposure, contrast and polarity:

* it lies at the border of the field, where its grey is the lowest clear mode (in an inverted image the highest);
* its greys follow a smooth surface and differ from it by noise alone: the surface and the noise are measured in the
  image, and pixels that rise out of the noise are the patient, however faint they are;
* nothing else in the field is darker, its inside is flatter than the rest, and its edge is steeper than its inside.

How clearly an image shows the last properties decides which polarity it has, and whether there is air at all: where
neither polarity is clearly the better explanation, all of the field is kept. Bright air needs more evidence, since a
burnt-out belly is as flat and reaches the border as well: thin structures must be darker than what is around them, as
bones and vessels are in an inverted image. What is clipped to one bright grey, by a window or a detector, is never
taken for air. At last, what is connected to the patient and faintly above air on average
over a few pixels is returned to the patient. Keeping air costs time, leaving out a part of the patient costs the
patient. What skin encloses does not reach the border of the field and is kept.

The decision is kept as `SIDE` x `SIDE` bits over the whole image, whatever its size.
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
VERSION = 5  # of the rule: a stored mask of another one is refused

# Lengths are in pixels of the decision's scale, greys and gradients in shares of the field's range of greys.
_LONGEST = 192  # pixels of the longest side: three per cell of a stored mask
_SMOOTHING, _SMOOTHING_OF_NOISE, _NOISY = 1.2, 1.8, 0.004  # the second from that standard deviation of the noise on
_RIM = 6  # width of the rim of the field in which air is looked for
_SURFACE = 11  # window of the two means that make the surface of air, of every second pixel
_NOISES, _STEP = 2.5, 0.004  # a pixel is no air if it rises above the surface by so many deviations and one 8-bit level
_DARKER = 2.5  # times as far below the surface is still air
_STEEPER, _SLOPE = 4.0, 0.001  # times the gradient of air, and so much more: a pixel that is steeper is no air
_FLAT, _MOST = 4.0, 12.0  # how much flatter than the rest, or than its edge, air must be, and what counts at most
_FLATTEST = 5e-4  # gradient: what is flatter is no better
_BELOW = 0.35  # share of the rest that may be darker than air, and share of the patient's step that other air may have
_SURE, _SURE_BRIGHT, _CLEARER = 5.5, 9.0, 1.5  # scores of air, of bright air, and one polarity's by the other's
_THIN = 7  # pixels of every second one: width of bones and vessels
_AGAINST, _INVERTED = -0.25, 0.05  # ratio of thin structures below which air is not dark, and above which not bright
_EVIDENT, _MOST_INVERTED = 12.0, 0.3  # evidence of bright air from which on the second is higher
_CLIPPED = 1e-3  # as far above the lowest grey at most: where most of air lies there, it is a clipped grey
_BLACK = 0.2  # ratio of thin structures that clipped dark air needs, less its share of the field
_LARGEST_BRIGHT = 0.9  # share of the field
_FAINT, _FAINTEST = 2.0, 0.003  # local means so many deviations and so much above air are the patient
_NEAR, _TURNS = 5, 3  # width of the local means, and how often the patient grows by them
_SMALLEST_REGION = 0.003  # of the field: smaller regions of other air are kept
_SMALLEST_SHUTTER, _SMALLEST_FIELD = 0.01, 0.15  # shares of the image
_FILLED = 0.93  # share of its convex hull that a field fills
_ISLAND = 0.02  # of the largest part of the patient: smaller parts that do not touch it are markers


@dataclass(frozen=True)
class _Air:
    """Air of one polarity, and how clearly it is air: its flatness by that of the rest, its sharpness, its size."""

    mask: Array
    score: float
    size: float  # share of the field
    sharpness: float = 0.0  # how much steeper its edge is than its inside
    clipped: bool = False  # whether most of it has one grey, the lowest of the field

    @property
    def evidence(self) -> float:
        return self.score * self.size**0.5


_NO_AIR = _Air(np.zeros((1, 1), bool), 0.0, 0.0)


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
    if isinstance(image, torch.Tensor):
        image = (image.float() if image.dtype == torch.bfloat16 else image).numpy(force=True)  # NumPy has no bfloat16
    pixels = np.asarray(image)
    if pixels.ndim != 2 or not pixels.size:
        raise ValueError(f"image of shape {tuple(pixels.shape)}: expected (height, width)")
    patient = _patient(_scaled_down(pixels))
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
    cells = np.arange(SIDE)
    of_rows, of_columns = (
        ((start[:, None] <= cells) & (cells < end[:, None])).astype(np.float32)
        for start, end in (_overlaps(edges, SIDE) for edges in (rows, columns))
    )
    return of_rows @ (mask.astype(np.float32) @ of_columns.T) > 0  # counts, exact in float32


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
    """float32 greys, the longest side at most `_LONGEST`."""
    height, width = pixels.shape
    scale = min(1.0, _LONGEST / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.fromarray(pixels if pixels.dtype == np.uint8 else as_float32(pixels))
    return np.asarray(picture.resize(size, Image.Resampling.BOX), np.float32)


def _patient(pixels: Array) -> Array:
    """bool (rows, columns): the patient, with a margin of one pixel."""
    everything = np.ones(pixels.shape, bool)
    if min(pixels.shape) < 8:
        return everything
    field = ~_outside_field(pixels)
    inner, nearest = field, None
    if not field.all():  # what is outside takes the greys of the field beside it, so that the field has no edge
        inner = ~_grown(~field, 2)
        if inner.sum() < 64:
            return field
        nearest = tuple(ndimage.distance_transform_edt(~inner, return_distances=False, return_indices=True))
        pixels = pixels[nearest]
    low, high = np.percentile(pixels[inner], (0.5, 99.5))
    if high <= low:
        low, high = float(pixels[inner].min()), float(pixels[inner].max())
    grey = ((pixels - low) / max(high - low, 1e-12)).clip(-0.02, 1.02)
    smoothing = _SMOOTHING if _noise(grey) < _NOISY else _SMOOTHING_OF_NOISE
    grey = ndimage.gaussian_filter(grey, smoothing, truncate=3, mode="nearest")
    gradient = _gradient(grey)
    rim = inner & (ndimage.minimum_filter(inner.view(np.uint8), 2 * _RIM + 1, mode="constant") == 0)
    dark, bright = (_air(sign * grey, gradient, inner, rim) for sign in (1, -1))
    if bright.clipped:
        bright = _NO_AIR
    ridges, inverted = _ridges(grey, inner), min(_INVERTED, float(np.log((bright.sharpness + 1e-5) / _FLAT)))
    if (
        dark.score >= _SURE
        and dark.evidence >= _CLEARER * bright.evidence
        and ridges > (max(_BLACK - dark.size, 0) if dark.clipped else _AGAINST)  # a clipped body, inverted, is black
    ):
        air = _without_faint(dark.mask, grey, inner)
    elif (
        bright.score >= max(_SURE_BRIGHT, dark.score)
        and bright.evidence >= _CLEARER * dark.evidence
        and bright.size < _LARGEST_BRIGHT
        and ridges < (_MOST_INVERTED if bright.evidence >= _EVIDENT else inverted)
    ):
        air = _without_faint(bright.mask, -grey, inner)
    else:
        return field
    air = _reached(air, air & rim)
    patient = field & ~(air if nearest is None else air[nearest])
    labels, count = ndimage.label(patient, np.ones((3, 3)))
    if count > 1:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        kept = sizes >= _ISLAND * sizes.max()
        kept[np.unique(labels[_grown(kept[labels], 1)])] = True
        kept[0] = False
        patient = kept[labels]
    return field & _grown(patient, 1) if patient.any() else field


def _noise(pixels: Array) -> float:
    """Standard deviation of the noise: second differences cancel all that is smooth (Immerkaer 1996)."""
    rest = pixels[:-2] - 2 * pixels[1:-1] + pixels[2:]
    rest = rest[:, :-2] - 2 * rest[:, 1:-1] + rest[:, 2:]
    return float(np.median(np.abs(rest))) / (0.6745 * 6)


def _grown(mask: Array, pixels: int) -> Array:
    return ndimage.maximum_filter(mask.view(np.uint8), 2 * pixels + 1, mode="nearest").view(bool)


def _opened(mask: Array) -> Array:
    return _grown(ndimage.minimum_filter(mask.view(np.uint8), 3, mode="nearest").view(bool), 1)


def _reached(mask: Array, seeds: Array) -> Array:
    """The connected parts of a mask that hold a seed."""
    labels, count = ndimage.label(mask)
    kept = np.zeros(count + 1, bool)
    kept[labels[seeds]] = True
    kept[0] = False
    return kept[labels]


def _gradient(grey: Array) -> Array:
    return np.hypot(ndimage.sobel(grey, 0, mode="nearest"), ndimage.sobel(grey, 1, mode="nearest")) / 8


def _lowest_mode(values: Array) -> tuple[float, float]:
    """The lowest clear mode of at least 40 values, and the spread of what belongs to it: what lies below a mode of
    air is air's own noise, whatever lies above."""
    values = np.sort(values)
    part = max(20, len(values) // 15)
    density = 1 / (values[part:] - values[:-part] + 0.003 * (values[-1] - values[0]) + 1e-6)
    density = density[int(np.argmax(density > 0.2 * density.max())) :]
    after = density < 0.5 * np.maximum.accumulate(density)  # the mode has been passed
    place = len(values) - part - len(density) + int(np.argmax(density[: int(np.argmax(after)) or None]))
    mode = float(values[place + part // 2])
    below = 1.4826 * float(np.median(mode - values[: place + part // 2]))
    return mode, max(below, float(values[place + part] - values[place]) / 2)


def _outside_field(pixels: Array) -> Array:
    """What the collimator covers: the extreme grey of the border, constant, beyond the hulls of the rest.

    Grey that rises slowly to its extreme is burnt out: air where thin structures fit its polarity, else the patient.
    What is white between two parts of the rest may be a limb or a bone that was clipped, and is no divider of fields.
    """
    outside = np.zeros(pixels.shape, bool)
    border = np.ones(pixels.shape, bool)
    border[1:-1, 1:-1] = False
    same = 1e-5 * float(np.ptp(np.percentile(pixels, (0.5, 99.5)))) or 1e-5 * float(np.ptp(pixels))
    for sign in (1, -1):
        if not (border & ~outside).any():
            break
        extreme = float((sign * pixels[border & ~outside]).min())
        covered = (sign * pixels <= extreme + same) & ~outside
        covered = _reached(covered, border & covered)
        rest = ~covered & ~outside
        if covered.sum() < _SMALLEST_SHUTTER * covered.size:
            continue
        hull = _hulls(rest, 0.03, together=sign < 0)
        deep = covered & ~_grown(~hull, 2)
        convex = hull.mean() > _SMALLEST_FIELD and rest.sum() > _FILLED * hull.sum()
        beyond = covered & ~hull
        if (
            convex
            and deep.sum() < 0.1 * covered.sum()
            and (
                _stepped(abs(pixels - sign * extreme), beyond)
                or sign * _ridges(ndimage.gaussian_filter(pixels, _SMOOTHING) / (1e5 * same), rest) > _INVERTED
            )
        ):
            outside |= beyond
    return outside


def _stepped(difference: Array, covered: Array) -> bool:
    """Whether grey leaves that of a covered region within two pixels, as at a collimator."""
    distance = ndimage.distance_transform_edt(~covered)
    near, far = (difference[(distance > pixels) & (distance <= pixels + 1)] for pixels in (1, 5))
    return bool(near.size and far.size) and float(np.median(near)) > 0.4 * float(np.median(far))


def _hulls(mask: Array, smallest: float, *, together: bool) -> Array:
    """The convex hulls of all connected parts of a mask that are larger than a share of the image, or its own one."""
    labels, count = (mask.astype(np.int32), 1) if together else ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    hulls = np.zeros(mask.shape, bool)
    for label in np.flatnonzero(sizes > smallest * mask.size):
        part = labels == label
        try:
            sides = ConvexHull(np.argwhere(part & ~ndimage.binary_erosion(part)).astype(float)).equations
        except QhullError:
            hulls |= part
            continue
        inside = np.ones(mask.shape, bool)
        for down, across, offset in sides:
            inside &= down * rows + across * columns + offset < 1e-6
        hulls |= inside
    return hulls


def _air(grey: Array, gradient: Array, field: Array, rim: Array) -> _Air:
    """Dark air in the field, and how clearly it is air."""
    flat = rim & (gradient <= np.quantile(gradient[rim], 0.7))
    if flat.sum() < 50:
        return _NO_AIR
    mode, spread = _lowest_mode(grey[flat])
    seeds = rim & (abs(grey - mode) < 2 * spread + 1e-4)
    calm = gradient < max(4 * float(np.median(gradient[seeds])), 1e-3)
    air = _reached(_opened(field & calm & (abs(grey - mode) < 4 * spread + 0.005)), seeds)
    if air.sum() < 30:
        return _NO_AIR
    air, above, most = _followed(air, grey, gradient, field)
    rest, far = field & ~air, field & ~_grown(air, 3)
    if far.sum() < 0.02 * field.sum():
        return _NO_AIR
    usual = float(np.median(gradient[air]))
    darker = float((above[rest] < -most).mean())
    flatness = float(np.median(gradient[rest])) / (usual + _FLATTEST)
    if darker > _BELOW:
        return _NO_AIR
    size = float(air.sum() / field.sum())
    step = _BELOW * float(np.median(above[far]))
    others = field & ~_grown(air, 2) & (gradient < 3 * usual + 1e-3) & (above < step) & (above > -_DARKER * most)
    for region in _regions(others, rim, _SMALLEST_REGION * field.sum()):
        other, rise, limit = _followed(region, grey, gradient, field & ~_grown(air, 1))
        around = field & _grown(other, 6) & ~_grown(other, 3)
        if around.any() and (rise[around] > limit).mean() > 0.9 and other.sum() < 3 * region.sum() + 50:
            air = air | other
    rest = field & ~air
    edge = rest & _grown(air, 1)
    if not edge.any():
        return _NO_AIR
    steepest = ndimage.maximum_filter(np.where(field, gradient, 0), 5, mode="nearest")[edge]
    sharpness = float(np.percentile(steepest, 30) / (np.percentile(gradient[air], 80) + _FLATTEST))
    if max(flatness, sharpness) < _FLAT:  # a body may be as flat as air: then its edge must be clear
        return _NO_AIR
    clear = min(sharpness, _MOST) * min(max(flatness, sharpness), _MOST)
    clipped = float((grey[air] <= grey[field].min() + _CLIPPED).mean()) > 0.5
    return _Air(air, clear * (1 - darker) * size**0.5, size, sharpness, clipped)


def _ridges(grey: Array, field: Array) -> float:
    """Thin bright structures by thin dark ones, as a logarithm: bones and vessels are bright where air is dark."""
    inside = ndimage.minimum_filter(field[::2, ::2].view(np.uint8), _THIN, mode="constant").view(bool)
    if not inside.any():
        return 0.0
    grey = grey[::2, ::2]
    bright = float((grey - ndimage.grey_opening(grey, (_THIN, _THIN)))[inside].mean())
    dark = float((ndimage.grey_closing(grey, (_THIN, _THIN)) - grey)[inside].mean())
    return float(np.log((bright + 1e-5) / (dark + 1e-5)))


def _without_faint(air: Array, grey: Array, field: Array) -> Array:
    """Air without the faint parts of the patient that are connected to its clear ones.

    A thin hand may rise out of air by less than one pixel's noise, so that means of several pixels are looked at; the
    surface of air is measured without what was found, since it follows whatever it is measured on.
    """
    patient = field & ~air
    for _ in range(_TURNS):
        base = field & ~_grown(patient, 1)
        if base.sum() < 100:
            break
        above, weight = np.where(base, grey - _surface(grey, base), 0), base.astype(np.float32)
        for _ in range(2):
            above, weight = (ndimage.uniform_filter(one, _NEAR, mode="constant") for one in (above, weight))
        above = above / (weight + 1e-3)
        usual = float(np.median(above[base]))
        noise = 1.4826 * float(np.median(abs(above[base] - usual)))
        faint = _opened(patient | (field & (above > usual + _FAINT * noise + _FAINTEST)))
        patient |= _reached(faint | patient, patient) & field
    return air & ~patient


def _regions(mask: Array, rim: Array, smallest: float) -> list[Array]:
    """The connected parts of a mask that reach the rim and have at least so many pixels, without what is narrow."""
    core = ndimage.minimum_filter(mask.view(np.uint8), 5, mode="nearest").view(bool)
    labels, count = ndimage.label(_grown(core, 2))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    touching = np.bincount(labels[rim], minlength=count + 1) > 0
    touching[0] = False
    return [labels == label for label in np.flatnonzero(touching & (sizes > smallest))]


def _followed(air: Array, grey: Array, gradient: Array, field: Array) -> tuple[Array, Array, float]:
    """Air that grows along its own surface, how far each pixel is above that surface, and how far air may be."""
    first = 0.0
    for turn in range(3):
        above = grey - _surface(grey, air)
        rest = above[air]
        noise = 1.4826 * float(np.median(abs(rest - np.median(rest))))
        first = noise if turn == 0 else first
        most = _NOISES * min(noise, 1.5 * first) + _STEP
        level = field & (above < most) & (above > -_DARKER * most)
        calm = gradient < _STEEPER * float(np.median(gradient[air])) + _SLOPE
        air = _reached(_opened(level & calm) | air, air)
    return air | (_grown(air, 1) & level), above, most


def _surface(grey: Array, air: Array) -> Array:
    """The greys of air as a smooth surface over the whole image: local means, and where air is far, its mean."""
    mean, rows, columns = np.float32(grey[air].mean()), *grey.shape
    few = air[::2, ::2]  # a surface this smooth needs no more
    sums = np.where(few, grey[::2, ::2] - mean, 0).astype(np.float32), few.astype(np.float32)
    for _ in range(2):
        sums = tuple(ndimage.uniform_filter(one, _SURFACE, mode="constant") for one in sums)
    return np.repeat(np.repeat(mean + sums[0] / (sums[1] + 0.01), 2, 0)[:rows], 2, 1)[:, :columns]
