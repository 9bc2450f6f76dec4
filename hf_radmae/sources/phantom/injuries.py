"""Broken bones and metal: a fracture is cut into the drawn bones at one site, hardware is built around it."""

# ruff: noqa: RUF005 - array + list is a sum of vectors here, not a concatenation

import numpy as np

from hf_radmae.sources.phantom.tissue import METAL, Site
from hf_radmae.sources.phantom.xray import Camera, Primitive, ball, tube

HARDWARE = {
    "cranium": ("plate", "clips", "wires"),
    "spine": ("rods", "screws", "clips"),
    "upper_extremity": ("plate", "screws", "wires", "nail"),
    "chest": ("pacemaker", "sternal_wires", "catheter", "plate"),
    "breast": ("clips", "catheter"),
    "abdomen": ("clips", "catheter", "rods"),
    "pelvis": ("plate", "screws", "wires"),
    "lower_extremity": ("plate", "screws", "wires", "nail"),
}


def choose_site(sites: list[Site], camera: Camera, rng: np.random.Generator) -> Site | None:
    """Return one of the three sites that lie closest to the middle of the image, or None without sites."""
    if not sites:
        return None
    height, width = camera.shape
    offsets = camera.pixels(np.stack([site.point for site in sites]))[:, :2] / [width, height] - 0.5
    nearest = np.argsort(np.abs(offsets).max(axis=1), kind="stable")[:3]
    return sites[rng.choice(nearest)]


def break_bone(bones: np.ndarray, site: Site, camera: Camera, rng: np.random.Generator) -> None:
    """Cut a jagged, oblique gap into the line integrals `bones` (H, W) and displace what lies beyond it, in place."""
    right, down = camera.pixels(site.point)[:2]
    along = (camera.rotation @ site.axis)[:2]
    along = along / np.linalg.norm(along) if np.linalg.norm(along) > 0.2 else np.array([0.0, 1.0])
    radius = max(site.radius * camera.scale, 2.0)
    gap, step = max(rng.uniform(0.06, 0.22) * radius, 0.8), rng.uniform(0.15, 0.9) * radius * rng.choice([-1, 1])
    slope, phase, reach = rng.uniform(-0.7, 0.7), rng.uniform(0, 2 * np.pi), 4.5 * radius
    top, bottom = max(int(down - reach), 0), min(int(down + reach) + 1, camera.shape[0])
    left, end = max(int(right - reach), 0), min(int(right + reach) + 1, camera.shape[1])
    if top >= bottom or left >= end:
        return
    rows, columns = np.mgrid[top:bottom, left:end].astype(np.float32) + 0.5
    x, y = columns - right, rows - down
    ahead, across = along[0] * x + along[1] * y, along[0] * y - along[1] * x
    within = np.clip(3.0 - np.abs(across) / (0.75 * radius), 0, 1) * np.clip(2.2 - np.abs(ahead) / (2 * radius), 0, 1)
    beyond = ahead - slope * across - 0.18 * radius * np.sin(4.0 * across / radius + phase)
    shift = step * within * np.clip(beyond + 0.5, 0, 1)
    moved = _sample(bones, rows + along[0] * shift - 0.5, columns - along[1] * shift - 0.5)
    closed = 1 - np.clip(1.5 - np.abs(beyond) / gap, 0, 1) * within * 0.9
    bones[top:bottom, left:end] = moved * closed


def _sample(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return `image` at fractional pixel indices, bilinear, edges repeated."""
    rows, columns = np.clip(rows, 0, image.shape[0] - 1), np.clip(columns, 0, image.shape[1] - 1)
    top, left = rows.astype(int), columns.astype(int)
    below, right = np.minimum(top + 1, image.shape[0] - 1), np.minimum(left + 1, image.shape[1] - 1)
    down, over = rows - top, columns - left
    upper = image[top, left] * (1 - over) + image[top, right] * over
    return upper * (1 - down) + (image[below, left] * (1 - over) + image[below, right] * over) * down


def hardware(
    region: str, site: Site | None, middle: np.ndarray, camera: Camera, rng: np.random.Generator
) -> list[Primitive]:
    """Return metal in mm of a kind that the region may carry: around `site`, or near the body point `middle`."""
    beam = camera.rotation[2]
    if site is None:
        site = Site(middle, camera.rotation[1], 12.0)
    across = np.cross(beam, site.axis)
    across = across / np.linalg.norm(across) if np.linalg.norm(across) > 0.1 else camera.rotation[0]
    return _BUILDERS[rng.choice(HARDWARE[region])](site, across, beam, rng)


def _plate(site: Site, across, beam, rng) -> list[Primitive]:
    holes, pitch = int(rng.integers(4, 9)), rng.uniform(9, 14) * min(1.0, site.radius / 9)
    side = across * site.radius * rng.choice([-1, 0.2, 1])
    places = (np.arange(holes) - (holes - 1) / 2) * pitch
    ends = np.stack(
        [site.point + side + site.axis * place for place in (places[0] - pitch / 2, places[-1] + pitch / 2)]
    )
    width = 4.5 * min(1.0, site.radius / 9)
    metal: list[Primitive] = [tube(ends, width, METAL * 0.5, depth=0.4, flat=True)]
    return metal + [_screw(site.point + site.axis * place + side, -side, site.radius, rng) for place in places]


def _screw(head, towards, radius: float, rng) -> Primitive:
    direction = towards / max(np.linalg.norm(towards), 1e-6)
    tip = head + direction * radius * rng.uniform(1.7, 2.4)
    return tube([head, head + 0.1 * (tip - head), tip], np.array([3.0, 1.6, 1.2]) * min(1.0, radius / 9), METAL)


def _screws(site: Site, across, beam, rng) -> list[Primitive]:
    metal = []
    for _ in range(rng.integers(1, 4)):
        direction = across * rng.choice([-1, 1]) + site.axis * rng.normal(0, 0.5)
        head = site.point + site.axis * rng.normal(0, 0.9 * site.radius) - direction * site.radius
        metal.append(_screw(head, direction, 1.2 * site.radius, rng))
    return metal


def _nail(site: Site, across, beam, rng) -> list[Primitive]:
    half = site.axis * rng.uniform(6, 12) * site.radius
    metal: list[Primitive] = [tube([site.point - half, site.point + half], 0.5 * site.radius, METAL * 0.6)]
    for end in (-0.9, -0.75, 0.85):
        metal.append(_screw(site.point + end * half - across * 1.3 * site.radius, across, 1.4 * site.radius, rng))
    return metal


def _wires(site: Site, across, beam, rng) -> list[Primitive]:
    metal: list[Primitive] = []
    for _ in range(rng.integers(2, 4)):
        direction = site.axis * rng.uniform(0.6, 1.5) + across * rng.normal(0, 0.8)
        half = direction * site.radius * rng.uniform(2, 4)
        metal.append(tube([site.point - half, site.point + half], 0.9, METAL))
    if rng.random() < 0.5:
        angles = np.linspace(0, 2 * np.pi, 11)[:, None]
        ring = 1.15 * site.radius * (np.cos(angles) * across + 0.35 * np.sin(angles) * site.axis)
        metal.append(tube(site.point + ring, 0.7, METAL))
    return metal


def _rods(site: Site, across, beam, rng) -> list[Primitive]:
    down = np.cross(across, beam)
    metal: list[Primitive] = []
    for side in (-18, 18):
        ends = [site.point + side * across + down * reach for reach in (-55, 55)]
        metal.append(tube(ends, 2.8, METAL))
        for level in (-48, -16, 16, 48):
            head = site.point + side * across + down * (level + rng.normal(0, 2))
            metal.append(tube([head, head - 0.9 * side * across + 4 * down], [4.5, 2.0], METAL))
    return metal


def _clips(site: Site, across, beam, rng) -> list[Primitive]:
    metal: list[Primitive] = []
    for _ in range(rng.integers(2, 8)):
        spot = site.point + across * rng.normal(0, 18) + np.cross(across, beam) * rng.normal(0, 18)
        turn = rng.uniform(0, np.pi)
        half = 3.5 * (np.cos(turn) * across + np.sin(turn) * np.cross(across, beam))
        metal.append(tube([spot - half, spot + half], 0.9, METAL))
    return metal


def _catheter(site: Site, across, beam, rng) -> list[Primitive]:
    down = np.cross(across, beam)
    steps = rng.normal([0.2, 1.0], 0.55, (9, 2)) * 20
    path = np.cumsum(steps, axis=0) - steps.sum(axis=0) / 2
    return [tube([site.point + x * across + y * down for x, y in path], 1.3, METAL * 0.5)]


def _pacemaker(site: Site, across, beam, rng) -> list[Primitive]:
    down, pocket = np.cross(across, beam), np.array([105.0, 60.0, 70.0])
    lead = [pocket + [-10, 8, 0], [60, 30, 60], [10, 55, 40], [-12, 130, 30], [5, 195, 50], [38, 222, 60]]
    return [ball(pocket, [25, 21, 5], METAL * 0.6), ball(pocket - 3 * down, [15, 10, 4], METAL), tube(lead, 1.3, METAL)]


def _sternal_wires(site: Site, across, beam, rng) -> list[Primitive]:
    metal: list[Primitive] = []
    for level in range(60, 190, int(rng.integers(20, 34))):
        angles = np.linspace(0, 2 * np.pi, 9)
        ring = np.stack([9 * np.cos(angles), 6 * np.sin(angles), 0 * angles], axis=1)
        metal.append(tube(ring + [rng.normal(0, 2), level, 85], 0.8, METAL))
    return metal


_BUILDERS = {
    "plate": _plate,
    "screws": _screws,
    "nail": _nail,
    "wires": _wires,
    "rods": _rods,
    "clips": _clips,
    "catheter": _catheter,
    "pacemaker": _pacemaker,
    "sternal_wires": _sternal_wires,
}
