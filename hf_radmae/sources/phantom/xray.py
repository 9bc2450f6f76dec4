"""Beer-Lambert line integrals: how strongly a parallel beam is attenuated by ellipsoids and tubes, pixel by pixel.

Bodies are lists of primitives in millimetres: x to the patient's left, y to the feet, z to the front. A primitive's
`mu` is its attenuation relative to what it displaces, so air inside tissue is negative and integrals simply add up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

FRONT = np.array([0.0, 0.0, 1.0])
THINNEST = 0.7  # radius in pixels; thinner tubes are drawn this wide and fainter, so that wires do not break up
STEEPEST = 2.5  # a tube seen end-on counts at most this many times its thickness


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """A solid ellipsoid: `centre` (3,) in mm, `axes` (3, 3) with the semi-axes in mm as columns, `mu` in 1/mm."""

    centre: np.ndarray
    axes: np.ndarray
    mu: float


@dataclass(frozen=True, slots=True)
class Tube:
    """A chain of tapered capsules along `points` (n, 3) in mm with `radii` (n,) in mm; where they overlap, one counts.

    Inside the radii `inner` (n,) in mm, if any, `inner_mu` replaces `mu` (marrow in cortex). `depth` scales the
    cross-section along `normal`. `flat` cuts the two outer ends instead of rounding them.
    """

    points: np.ndarray
    radii: np.ndarray
    mu: float
    inner: np.ndarray | None = None
    inner_mu: float = 0.0
    depth: float = 1.0
    normal: np.ndarray = field(default_factory=lambda: FRONT)
    flat: bool = False


Primitive = Ellipsoid | Tube


@dataclass(frozen=True, slots=True)
class Camera:
    """A parallel-beam view: `rotation` (3, 3) takes body axes to (image right, image down, beam).

    `scale` is in pixels per mm, `offset` (2,) the pixel (right, down) of the body's origin, `shape` is (H, W).
    """

    rotation: np.ndarray
    scale: float
    offset: np.ndarray
    shape: tuple[int, int]

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Project body points (n, 3) in mm to pixel coordinates (n, 3): right, down, and depth in pixels."""
        projected = points @ self.rotation.T * self.scale
        projected[..., :2] += self.offset
        return projected

    def reduced(self, factor: int) -> "Camera":
        """Return the same view on a grid that is `factor` times coarser (sizes rounded up)."""
        height, width = self.shape
        shape = (-(-height // factor), -(-width // factor))
        return Camera(self.rotation, self.scale / factor, self.offset / factor, shape)


def rotation(about: str, degrees: float) -> np.ndarray:
    """Return the (3, 3) matrix of a turn about one axis, "x", "y" or "z"."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[about]
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


def ball(centre, semi_axes, mu: float, turn: np.ndarray | None = None) -> Ellipsoid:
    """Return an ellipsoid with `semi_axes` along x, y, z in mm, turned by the matrix `turn` about its centre."""
    axes = np.diag(np.asarray(semi_axes, float))
    return Ellipsoid(np.asarray(centre, float), axes if turn is None else turn @ axes, mu)


def tube(points, radii, mu: float, core=None, core_mu: float = 0.0, depth: float = 1.0, flat: bool = False) -> Tube:
    """Return a `Tube`; `radii` in mm and `core`, the inner share of the radius, are one number or one per point."""
    points = np.asarray(points, float)
    radii = np.full(len(points), radii, float) if np.ndim(radii) == 0 else np.asarray(radii, float)
    inner = None if core is None else radii * core
    return Tube(points, radii, mu, inner, core_mu, depth, flat=flat)


def moved(primitives: Sequence[Primitive], turn: np.ndarray, about, shift=(0.0, 0.0, 0.0)) -> list:
    """Turn primitives by the matrix `turn` about the point `about`, then move them by `shift` (both in mm)."""
    offset = np.asarray(about, float) - turn @ np.asarray(about, float) + np.asarray(shift, float)
    return [
        replace(item, centre=turn @ item.centre + offset, axes=turn @ item.axes)
        if isinstance(item, Ellipsoid)
        else replace(item, points=item.points @ turn.T + offset, normal=turn @ item.normal)
        for item in primitives
    ]


def line_integrals(primitives: Sequence[Primitive], camera: Camera) -> np.ndarray:
    """Return the sum of mu * path length over all primitives, float32 (H, W), without unit."""
    image = np.zeros(camera.shape, np.float32)
    _add_ellipsoids(image, [item for item in primitives if isinstance(item, Ellipsoid)], camera)
    for box, local in _tubes([item for item in primitives if isinstance(item, Tube)], camera):
        image[box] += local
    return image


def envelope(tubes: Sequence[Tube], camera: Camera) -> np.ndarray:
    """Return the largest mu * path length over all tubes, float32 (H, W): one solid where they overlap at joints."""
    image = np.zeros(camera.shape, np.float32)
    for box, local in _tubes(tubes, camera):
        np.maximum(image[box], local, out=image[box])
    return image


def _box(left: float, top: float, right: float, bottom: float, shape) -> tuple[slice, slice] | None:
    """Return rows and columns of the pixels within these bounds, or None outside the image."""
    first_row, first_column = max(int(top), 0), max(int(left), 0)
    end_row, end_column = min(int(bottom) + 2, shape[0]), min(int(right) + 2, shape[1])
    if first_row >= end_row or first_column >= end_column:
        return None
    return slice(first_row, end_row), slice(first_column, end_column)


def _grid(box: tuple[slice, slice], right: float, down: float) -> tuple[np.ndarray, np.ndarray]:
    """Return pixel centres relative to a point: rights (1, w) and downs (h, 1), float32."""
    rights = np.arange(box[1].start, box[1].stop, dtype=np.float32)
    downs = np.arange(box[0].start, box[0].stop, dtype=np.float32)
    rights -= np.float32(right - 0.5)
    downs -= np.float32(down - 0.5)
    return rights[None, :], downs[:, None]


def _add_ellipsoids(image: np.ndarray, items: list[Ellipsoid], camera: Camera) -> None:
    """Add chords: with semi-axes E the beam meets an ellipsoid where |E^-1 (x, y, z)| <= 1, a quadratic in z."""
    if not items:
        return
    centres = camera.pixels(np.stack([item.centre for item in items]))
    axes = camera.rotation @ np.stack([item.axes for item in items]) * camera.scale
    outlines = (axes @ axes.transpose(0, 2, 1))[:, :2, :2]  # the inverse of the quadratic form of the shadow
    areas = outlines[:, 0, 0] * outlines[:, 1, 1] - outlines[:, 0, 1] ** 2
    chords = 2 * np.abs(np.linalg.det(axes)) / np.sqrt(areas) / camera.scale  # in mm, through the middle
    rows = zip(items, centres.tolist(), outlines.tolist(), areas.tolist(), chords.tolist(), strict=True)
    for item, (right, down, _), ((rr, rd), (_, dd)), area, chord in rows:
        wide, high = math.sqrt(rr), math.sqrt(dd)
        if (box := _box(right - wide, down - high, right + wide, down + high, image.shape)) is None:
            continue
        rights, downs = _grid(box, right, down)
        value = rights * (np.float32(2 * rd / area) * downs)
        value -= np.float32(dd / area) * rights**2 - 1
        value -= np.float32(rr / area) * downs**2
        np.maximum(value, 0, out=value)
        np.sqrt(value, out=value)
        value *= np.float32(chord * item.mu)
        image[box] += value


def _tubes(items: Sequence[Tube], camera: Camera):
    """Yield the box and the mu * path length within it of each tube that the camera sees."""
    if not items:
        return
    points = camera.pixels(np.concatenate([item.points for item in items])).tolist()
    first = 0
    for item in items:
        chain = points[first : first + len(item.points)]
        first += len(item.points)
        radii = (item.radii * camera.scale).tolist()
        rights, downs, _ = zip(*chain, strict=True)
        reach = max(radii) * max(1.0, item.depth) + 1
        box = _box(min(rights) - reach, min(downs) - reach, max(rights) + reach, max(downs) + reach, camera.shape)
        if box is None:
            continue
        normal = (camera.rotation @ item.normal).tolist()
        ends = [(right - box[1].start, down - box[0].start, depth) for right, down, depth in chain]
        shells = [radii] if item.inner is None else [radii, (item.inner * camera.scale).tolist()]
        shape = (box[0].stop - box[0].start, box[1].stop - box[1].start)
        paths = _capsules(ends, shells, item.depth, normal, shape)
        local = paths[0] * np.float32(item.mu / camera.scale)
        if item.inner is not None:
            local += paths[1] * np.float32((item.inner_mu - item.mu) / camera.scale)
        if item.flat:
            _cut(local, ends[0], ends[1])
            _cut(local, ends[-1], ends[-2])
        yield box, local


def _capsules(points, shells, depth: float, normal, shape: tuple[int, int]) -> list[np.ndarray]:
    """Return the longest path in pixels through a chain of capsules, one float32 image per list of radii in `shells`.

    With d the distance to the projected axis the chord is 2 sqrt(r^2 - d^2), longer by 1 / cos(tilt) where the axis
    leans into the beam, and rescaled for a flattened cross-section: an ellipse's shadow keeps its area.
    """
    longest = [np.zeros(shape, np.float32) for _ in shells]
    for index in range(len(points) - 1):
        (x0, y0, z0), (x1, y1, z1) = points[index], points[index + 1]
        length = max(math.hypot(x1 - x0, y1 - y0), 1e-3)
        cosine, sine = (x1 - x0) / length, (y1 - y0) / length
        lean = 2 * min(math.hypot(length, z1 - z0) / length, STEEPEST)
        widen = 1.0
        if depth != 1:
            edge_on = (cosine * normal[1] - sine * normal[0]) ** 2
            widen = math.sqrt(1 - edge_on + depth**2 * edge_on)
            lean *= depth / widen**2
        reach = max(max(shells[0][index], shells[0][index + 1]) * widen, THINNEST)
        low, high = min(y0, y1) - reach, max(y0, y1) + reach
        if (part := _box(min(x0, x1) - reach, low, max(x0, x1) + reach, high, shape)) is None:
            continue
        rights, downs = _grid(part, x0, y0)
        squares = np.float32(cosine) * downs - np.float32(sine) * rights
        squares *= squares
        position = np.float32(cosine) * rights + np.float32(sine) * downs
        inside = np.minimum(np.maximum(position, 0), np.float32(length))
        position -= inside
        position *= position
        squares += position
        for image, radii in zip(longest, shells, strict=True):
            first, last, strength = radii[index] * widen, radii[index + 1] * widen, lean
            if max(first, last) < THINNEST:
                strength *= (max(first, last) / THINNEST) ** 2
                first = last = THINNEST
            chord = np.multiply(inside, np.float32((last - first) / length), out=position)
            chord += np.float32(first)
            chord *= chord
            chord -= squares
            np.maximum(chord, 0, out=chord)
            np.sqrt(chord, out=chord)
            chord *= np.float32(strength)
            np.maximum(image[part], chord, out=image[part])
    return longest


def _cut(image: np.ndarray, end, inward) -> None:
    """Clear what lies beyond the `end` of a chain, seen from the point `inward` of it, over one pixel."""
    step_x, step_y = inward[0] - end[0], inward[1] - end[1]
    length = max(math.hypot(step_x, step_y), 1e-3)
    rights, downs = _grid((slice(0, image.shape[0]), slice(0, image.shape[1])), end[0], end[1])
    position = np.float32(step_x / length) * rights + (np.float32(step_y / length) * downs + np.float32(0.5))
    np.minimum(np.maximum(position, 0, out=position), 1, out=position)
    image *= position
