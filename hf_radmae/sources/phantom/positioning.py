"""How a part is held before the detector: the camera of one exposure, more or less well aimed."""

import numpy as np

from hf_radmae.sources.phantom.anatomy import PARTS
from hf_radmae.sources.phantom.xray import Camera, rotation

VIEW_ANGLE = {"ap": 0.0, "pa": 0.0, "lateral": 90.0, "oblique": 40.0, "cc": 0.0, "mlo": 0.0}  # degrees about the body


def aim(part: str, view: str, laterality: str, shape: tuple[int, int], rng: np.random.Generator) -> Camera:
    """Return a camera on a part's field for an image of `shape` (H, W): zoomed, shifted, tilted and turned a little.

    Where image and field differ in shape, the zoom lies between fitting the field in and filling the image. Limbs are
    often laid along the image's longer side, sometimes upside down. A breast's wall stays at the image's edge.
    """
    _, centre, (wide, high) = PARTS[part].views[view]
    frame, (height, width) = PARTS[part].frame, shape
    limb, breast = frame in ("arm", "leg"), frame == "breast"
    right = laterality == "R"
    quarters = 0 if breast else _quarters((height > width) != (high > wide), limb, rng)
    if quarters % 2:
        wide, high = high, wide
    least, most = sorted((width / wide, height / high))
    filling = rng.uniform(0.1, 0.7)
    scale = float(least ** (1 - filling) * most**filling * np.exp(rng.normal(0, 0.1)))

    turn = rotation("z", 90 * quarters + rng.normal(0, 8 if limb else 4))
    tilt = rotation("x", rng.normal(0, 5)) @ rotation("y", rng.normal(0, 6) - VIEW_ANGLE[view])
    mirror = np.diag([-1.0 if right and frame != "trunk" else 1.0, 1.0, 1.0])  # limbs are modelled on the left
    matrix = turn @ mirror if breast else turn @ mirror @ tilt
    focus = np.array(centre) * [-1.0 if right and frame == "trunk" else 1.0, 1.0, 1.0]
    target = np.array([width, height]) * rng.normal(0.5, 0.035, 2)
    if breast:
        focus[0], target[0] = 0.0, width * (rng.normal(0, 0.01) + right)
    return Camera(matrix, scale, target - (matrix @ focus)[:2] * scale, shape)


def _quarters(crosswise: bool, limb: bool, rng: np.random.Generator) -> int:
    """Return by how many quarter turns the part lies; `crosswise`: the field's longer side is the image's shorter."""
    lying = rng.choice([1, 3]) if crosswise and rng.random() < (0.5 if limb else 0.05) else 0
    return int(lying) + (2 if rng.random() < (0.08 if limb else 0.02) else 0)
