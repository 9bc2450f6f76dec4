"""The generated trunk: spine, ribs, pelvis, organs. y = 0 mm is the base of the neck."""

import numpy as np

from hf_radmae.sources.phantom.tissue import AIR, CORTEX, LUNG, SPONGY, Body, Site, bone, flesh, lump
from hf_radmae.sources.phantom.xray import Primitive, ball, rotation, tube

# Vertebrae C1..L5: pitch (body and disc), half width of the body, share of the pitch that is disc.
PITCH = np.concatenate([np.full(7, 17.0), np.linspace(19, 27, 12), np.linspace(33, 38, 5)])
HALF_WIDTH = np.concatenate([np.linspace(11, 13, 7), np.linspace(13, 20, 12), np.linspace(22, 26, 5)])
DISC = np.concatenate([np.full(7, 0.24), np.full(12, 0.18), np.full(5, 0.26)])
LEVELS = np.cumsum(PITCH) - PITCH / 2 - PITCH[:7].sum()
PELVIS_LEVEL = LEVELS[-1] + PITCH[-1] / 2  # upper edge of the sacrum
HIP = np.array([92.0, PELVIS_LEVEL + 95, 0.0])
SHOULDER = np.array([172.0, 28.0, -10.0])


def spine_course(rng: np.random.Generator):
    """Return a function from heights y (n,) to points (n, 3) in mm on the curved midline of one patient's spine."""
    sway = rng.normal(0, 1, 3) * [5, 4, 3] * (1 + 3 * (rng.random() < 0.12))
    bend = rng.uniform(0.5, 1.3)

    def course(heights) -> np.ndarray:
        heights = np.atleast_1d(np.asarray(heights, float))
        turns = (heights + 120) / 600
        x = sum(size * np.sin(np.pi * (order + 1) * turns) for order, size in enumerate(sway))
        z = bend * (
            8
            - 42 * np.sin(np.pi * np.clip(heights / 300, 0, 1))
            + 22 * np.sin(np.pi * np.clip((heights - 290) / 230, 0, 1))
        )
        z += bend * 12 * np.sin(np.pi * np.clip(-heights / 120, 0, 1))
        return np.stack([x, heights, z - 35], axis=1)

    return course


def vertebra(level: int, course, rng: np.random.Generator) -> Body:
    """Return vertebra number `level` (0 is C1, 23 is L5) on the spine's `course`."""
    y, width, pitch = LEVELS[level], HALF_WIDTH[level], PITCH[level]
    half = pitch * (1 - DISC[level]) / 2
    centre, below = course([y, y + 1])
    axis = (below - centre) / np.linalg.norm(below - centre)
    turn = np.stack([np.cross(axis, [0, 0, 1.0]), axis, [0, 0, 1.0]], axis=1)

    def at(x: float, down: float, z: float) -> np.ndarray:
        return centre + turn @ np.array([x, down, z])

    fine: list[Primitive] = [
        bone(
            [at(0, -half, 0), at(0, 0, 0), at(0, half, 0)],
            [width, 0.88 * width, width],
            core=0.9,
            depth=0.75,
            flat=True,
        )
    ]
    for end in (-1, 1):
        plate = [at(0, end * half - 1.0, 0), at(0, end * half + 1.0, 0)]
        fine.append(tube(plate, width, 0.03, depth=0.75, flat=True))
    length = 1.0 if level >= 7 else 0.7
    for side in (-1, 1):
        fine += lump(at(side * 0.62 * width, -0.3 * half, -0.95 * width), [0.2 * width, 0.38 * half, 0.35 * width], 0.7)
        reach = (1.9 if level >= 7 else 1.4) * width + rng.normal(0, 1)
        tip = at(side * reach, (-0.1 if level < 19 else 0.1) * half, -1.2 * width)
        fine.append(bone([at(side * 0.7 * width, -0.2 * half, -1.1 * width), tip], [3.2, 2.6], core=0.6))
        fine.append(ball(at(side * 0.75 * width, 0.95 * half, -1.25 * width), [0.22 * width, 0.6 * half, 4], SPONGY))
    spinous = [at(0, 0.2 * half, -1.2 * width), at(0, 1.1 * half, -(1.2 + 1.1 * length) * width)]
    fine.append(bone(spinous, [3.2, 4.2], core=0.6))
    return Body(fine=fine, sites=[Site(centre, np.array([1.0, 0, 0]), half)])


def rib_cage(course, rng: np.random.Generator) -> Body:
    """Return twelve pairs of ribs, the sternum, the clavicles and the shoulder blades."""
    body = Body()
    widths = np.array([58, 84, 103, 116, 125, 131, 135, 137, 136, 130, 118, 98]) * rng.uniform(0.93, 1.07)
    slope = rng.uniform(0.8, 1.25)
    for number, width in enumerate(widths):
        start = course(LEVELS[7 + number])[0]
        share = np.linspace(0.04, (0.84, 0.62, 0.4)[max(0, number - 9)], (9, 8, 6)[max(0, number - 9)])
        turn = np.pi * share
        depth = 0.68 * width
        drop = slope * (24 + 7 * number) * (1 - np.cos(turn)) / 2 * np.where(number > 9, 1.3, 1.0) - 6 * np.sin(turn)
        for side in (-1, 1):
            x = start[0] * (1 - share) + side * width * np.sin(turn) ** 0.8
            z = start[2] - 22 + depth * (1 - np.cos(turn)) * 0.95
            points = np.stack([x, start[1] + drop - 4, z], axis=1)
            thick = rng.uniform(4.2, 5.4)
            body.fine.append(bone(points, thick, core=0.78, depth=0.7))
            if number < 10:
                middle = len(points) // 2 - 1
                axis = points[middle + 1] - points[middle]
                body.sites.append(Site(points[middle], axis / np.linalg.norm(axis), thick))
    body.fine.append(bone([[0, 50, 68], [0, 90, 80], [0, 195, 90]], [20, 14, 12], 0.9, depth=0.3))
    for side in (-1, 1):
        clavicle = np.array([[14, 42, 30], [60, 30, 32], [105, 14, 12], [150, 12, -8]]) * [side, 1, 1]
        body.fine.append(bone(clavicle, [7, 5.5, 5, 6], core=0.6))
        body.sites.append(Site(clavicle[1:3].mean(0), np.array([side, -0.3, 0]) / 1.05, 5.5))
        tilt = rotation("z", side * 12) @ rotation("y", side * 28)
        body.fine.append(ball([side * 118, 95, -75], [38, 68, 4], CORTEX * 0.5, tilt))
        border = np.array([[152, 45, -45], [132, 100, -70], [105, 160, -85], [95, 100, -88], [92, 45, -85]]) * [
            side,
            1,
            1,
        ]
        body.fine.append(bone(border, 3.0, core=0.4))
        body.fine.append(bone(np.array([[95, 62, -90], [150, 30, -60], [178, 14, -20]]) * [side, 1, 1], [4, 5, 7], 0.6))
        body.fine.append(tube(np.array([[150, 38, -22], [150, 62, -22]]) * [side, 1, 1], 8, 0.02, depth=0.5))
    return body


def pelvis(course, rng: np.random.Generator) -> Body:
    """Return iliac wings, sacrum, sockets, and the rings of pubis and ischium; female ones are wider and lower."""
    body = Body()
    top, wide = PELVIS_LEVEL, rng.uniform(0.95, 1.12)
    rear = course(top)[0, 2]
    sacrum = [[0, top + 4, rear], [0, top + 45, rear - 25], [0, top + 95, rear - 42], [0, top + 125, rear - 28]]
    body.fine.append(bone(sacrum, [48, 38, 20, 7], 0.93, depth=0.35))
    for row in range(4):
        for side in (-1, 1):
            spot = [side * (20 - 3 * row), top + 22 + 19 * row, rear - 12 - 9 * row]
            body.fine.append(ball(spot, [5, 4, 12], -0.016))
    for side in (-1, 1):
        flip = np.array([side * wide, 1, 1])
        turn = rotation("z", side * -14) @ rotation("y", side * 38)
        body.fine.append(ball(np.array([92, top + 8, -20]) * flip, [66, 62, 7], 0.045, turn))
        crest = np.array(
            [[50, top + 22, -75], [62, top - 28, -62], [98, top - 52, -28], [136, top - 30, 18], [140, top + 5, 38]]
        )
        body.fine.append(bone(crest * flip, [7, 5, 5, 5, 6], 0.6))
        brim = np.array(
            [[48, top + 25, -70], [70, top + 62, -40], [64, top + 88, 5], [22, top + 112, 42], [4, top + 116, 46]]
        )
        body.fine.append(bone(brim * flip, [5, 6, 9, 7, 8], 0.78))
        flank = np.array([[138, top + 8, 36], [124, top + 40, 25], [120, top + 68, 8]])
        body.fine.append(bone(flank * flip, [5, 6, 9], 0.8))
        roof = HIP * flip + np.array([[27 * np.sin(a) * side, -27 * np.cos(a), -4] for a in np.linspace(-1.5, 1.1, 6)])
        body.fine.append(bone(roof, 4.5, 0.3))
        body.fine += lump(HIP * flip + [-side * 26, 0, 0], [10, 34, 24], 0.8)
        ramus = np.array(
            [[66, top + 105, -5], [62, top + 140, -22], [50, top + 160, -30], [24, top + 143, 12], [6, top + 128, 44]]
        )
        body.fine.append(bone(ramus * flip, [13, 12, 13, 7, 7], 0.82))
        axis = (ramus[3] - ramus[2]) * flip
        body.sites += [
            Site(ramus[2:4].mean(0) * flip, axis / np.linalg.norm(axis), 8),
            Site(brim[3] * flip, np.array([side * 0.85, -0.5, -0.2]), 7),
            Site(crest[2] * flip, np.array([side * 0.5, 0.85, 0.0]), 12),
        ]
    return body


def organs(rng: np.random.Generator) -> Body:
    """Return the outline of the trunk, lungs with vessels, heart, liver, muscles, and gas in the bowel."""
    base, girth = PELVIS_LEVEL, rng.uniform(0.88, 1.15)
    heights = np.array([-70, -10, 30, 90, 200, 300, 380, base, base + 80, base + 130])
    widths = np.array([62, 75, 158, 170, 160, 150, 145, 160, 168, 150]) * np.array([1, 1, *[girth] * 8])
    middle = np.stack([np.zeros(10), heights, np.array([-15, -12, -10, 0, 5, 8, 8, 0, -8, -8])], axis=1)
    body = Body(skin=[flesh(middle, widths, depth=0.62 * girth**0.3)])
    air = LUNG * rng.uniform(0.8, 1.1)
    low = rng.uniform(248, 285)
    for side in (-1, 1):
        body.soft.append(ball([side * 72, 0.5 * low + 16, 0], [57, 0.5 * low + 4, 80], air))
        body.soft.append(ball([side * 70, low + 32 - 8 * side, 5], [64, 62, 84], -air * 0.75))
        hilum = np.array([side * 30, 0.52 * low, -5])
        for _ in range(10):
            turn = rng.uniform(-1.5, 1.5)
            away = np.array([side * np.cos(turn), np.sin(turn), rng.normal(0, 0.4)])
            bend = rng.normal(0, 9, 3)
            reach = rng.uniform(45, 85)
            body.fine.append(
                tube([hilum, hilum + 0.5 * reach * away + bend, hilum + reach * away], [4.0, 2.4, 0.8], 0.016)
            )
        psoas = [[side * 28, 300, -22], [side * 48, base, -10], [side * 75, base + 70, 20]]
        body.soft += [tube(psoas, [8, 26, 16], 0.004), ball([side * 68, 318, -45], [28, 55, 22], 0.003)]
    heart = rng.uniform(0.85, 1.25)
    body.soft += [
        ball([24, 0.73 * low, 28], np.array([60, 62, 46]) * heart, -air * 0.8, rotation("z", 35)),
        tube([[4, 60, 0], [22, 88, -10], [16, 180, -30]], [20, 19, 14], 0.011),
    ]
    body.fine.append(tube([[0, -20, 0], [2, 105, -8], [26, 140, -10]], [8.5, 8, 5], AIR * 0.7))
    body.fine.append(tube([[2, 105, -8], [-26, 138, -10]], [8, 5], AIR * 0.7))
    if rng.random() < 0.7:
        body.fine.append(ball([55, low + 18, -5], [30, 16, 30], AIR * 0.7, rotation("z", -20)))
    for _ in range(rng.integers(4, 12)):
        start = np.array([rng.uniform(-100, 100), rng.uniform(330, base + 80), rng.uniform(0, 50)])
        path = start + np.cumsum(rng.normal(0, 15, (5, 3)) * [1, 1, 0.3], axis=0)
        body.fine.append(tube(path, rng.uniform(6, 17, 5), AIR * rng.uniform(0.3, 0.8)))
    body.soft.append(ball([0, base + 105, 25], [42, 30, 34], 0.003))
    return body
