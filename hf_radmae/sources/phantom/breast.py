"""The generated breast in compression, the one part without bones."""

import numpy as np

from hf_radmae.sources.phantom.tissue import FAT, TISSUE, Body, flesh
from hf_radmae.sources.phantom.xray import ball, rotation, tube


def breast(rng: np.random.Generator, view: str) -> Body:
    """Return one compressed breast (wall at x = 0, nipple to +x) of 50 mm thickness with glands and ducts."""
    size, dense = rng.uniform(0.75, 1.2), rng.uniform(0.2, 1.0)
    length, width = 95 * size, 88 * size
    points = np.outer([0, 0.25 * length, length - 0.62 * width, length + 3], [1, 0, 0])
    body = Body(skin=[tube(points, width * np.array([1, 0.95, 0.62, 0.1]), TISSUE + FAT, depth=0.3, flat=True)])
    nipple = np.array([length, 0, 0])
    body.fine.append(ball(nipple, [7, 6, 6], TISSUE))
    for _ in range(rng.integers(6, 16)):
        spot = np.array([rng.uniform(0.3, 0.75) * length, rng.normal(0, 0.3) * width, rng.normal(0, 7)])
        body.soft.append(
            ball(spot, rng.uniform(7, 24, 3) * [1, 1, 0.5], 0.008 * dense, rotation("z", rng.uniform(0, 180)))
        )
    for _ in range(16):
        end = np.array([rng.uniform(0.02, 0.5) * length, rng.uniform(-0.75, 0.75) * width, rng.normal(0, 8)])
        middle = 0.5 * (nipple + end) + rng.normal(0, 7, 3)
        body.fine.append(tube([nipple, middle, end], [0.9, 1.4, 0.6], 0.014 * (0.5 + dense)))
    for _ in range(rng.integers(0, 14)):
        body.fine.append(ball(rng.normal([0.5 * length, 8, 0], [6, 6, 4]), np.full(3, rng.uniform(0.3, 0.9)), 0.25))
    if view == "mlo":
        muscle = [[-40, -width - 60, 0], [-14, -20, 0], [-42, width, 0]]
        body.soft.append(tube(muscle, [75, 32, 12], 0.012, depth=0.3))
        body.skin.append(flesh([[0, -width - 60, 0], [0, -0.5 * width, 0]], [60, 55], 0.4))
    return body
