"""The generated head: vault, face, jaw with teeth, air spaces. It lies in the frame of the trunk, 215 mm up."""

# ruff: noqa: RUF005 - array + list is a sum of vectors here, not a concatenation

import numpy as np

from hf_radmae.sources.phantom.tissue import AIR, CORTEX, TISSUE, Body, Site, bone, flesh
from hf_radmae.sources.phantom.xray import Primitive, ball, tube


def skull(rng: np.random.Generator) -> Body:
    """Return the skull with jaw, teeth and air spaces; its middle lies at y = -205 mm."""
    centre = np.array([0, -215.0, 12.0])
    size = np.array([71, 78, 92]) * rng.uniform(0.94, 1.06, 3)
    thick = rng.uniform(5.0, 7.5)
    fine: list[Primitive] = [ball(centre, size, CORTEX * 0.8), ball(centre, size - thick, -CORTEX * 0.8)]
    soft: list[Primitive] = [
        ball(centre, size + 6, TISSUE),
        ball([0, -140, 55], [60, 62, 52], TISSUE * 0.8),
    ]
    fine.append(
        bone([[-58, -178, 30], [-34, -172, 20], [0, -168, 10], [34, -172, 20], [58, -178, 30]], [12, 9, 7, 9, 12], 0.8)
    )
    for side in (-1, 1):
        flip = np.array([side, 1, 1])
        eye = np.array([33, -192, 82]) * flip
        ring = eye + np.array(
            [[20 * np.cos(a) * side, 17 * np.sin(a), -6 * np.cos(a)] for a in np.linspace(0, 2 * np.pi, 9)]
        )
        fine += [bone(ring, 3.2, 0.3), ball(eye - [0, 0, 18], [18, 15, 20], -0.012)]
        fine.append(bone(np.array([[62, -172, 18], [66, -168, 45], [48, -162, 80]]) * flip, [4, 4, 6], 0.5))
        fine.append(ball(np.array([27, -156, 68]) * flip, [13, 16, 15], AIR * 0.8))
        fine.append(ball(np.array([11, -222, 92]) * flip, [10, 11, 5], AIR * 0.8))
        fine.append(ball(np.array([55, -165, -18]) * flip, [10, 13, 14], 0.02))
        jaw = np.array([[57, -168, 14], [54, -130, 22], [46, -112, 45], [22, -102, 88], [0, -102, 98]]) * flip
        fine.append(bone(jaw, [6, 9, 9, 9, 10], 0.72, depth=0.7))
        for tooth in range(8):
            angle = np.pi * (0.03 + 0.058 * tooth)
            root = np.array([27 * np.sin(angle) * side, -122, 48 + 46 * np.cos(angle)])
            fine.append(tube([root + [0, 12, -2], root + [0, -2, 0]], [2.2, 3.8], 0.07))
            fine.append(tube([root + [0, -4, 0], root + [0, -19, -2]], [3.8, 2.2], 0.07))
    fine.append(ball([0, -160, 80], [9, 26, 22], AIR * 0.8))
    fine.append(tube([[0, -150, 20], [0, -110, 18], [0, -60, 18], [0, 40, 8]], [9, 8, 8, 8], AIR * 0.9))
    walls = [Site(centre + [side * (size[0] - 3), -20, 0], np.array([0.2 * side, 0.97, 0]), 16.0) for side in (-1, 1)]
    front = Site(np.array([0, -104, 95.0]), np.array([1.0, 0, 0]), 10.0)
    neck = flesh([[0, -130, -15], [0, 30, -15]], [60, 66], 0.95)
    return Body([neck], soft, fine, [*walls, front])
