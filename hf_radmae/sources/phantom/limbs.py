"""The generated arm and leg. Both hang along +y from their joint with the trunk at the origin, of the left side."""

# ruff: noqa: RUF005 - array + list is a sum of vectors here, not a concatenation

from dataclasses import dataclass

import numpy as np

from hf_radmae.sources.phantom.tissue import CORTEX, SPONGY, Body, Site, bone, flesh, knob, long_bone, lump
from hf_radmae.sources.phantom.xray import ball, rotation, tube

ELBOW = np.array([4.0, 305.0, 0.0])
WRIST = np.array([0.0, 552.0, 0.0])
KNEE = np.array([-22.0, 425.0, 0.0])
ANKLE = np.array([-20.0, 815.0, 0.0])


@dataclass(frozen=True, slots=True)
class Pose:
    """Joint angles in degrees: `bend` of elbow or knee, `hinge` of wrist or ankle (90: foot level), finger `curl`."""

    bend: float = 0.0
    hinge: float = 0.0
    curl: float = 0.0
    spread: float = 1.0


def finger(root, heading: float, lengths, width: float, curl: float) -> Body:
    """Return a ray of small long bones from `root` in mm, `heading` in degrees from +y; each joint curls forwards."""
    body = Body()
    place, lean = np.asarray(root, float), 0.0
    joints = []
    for number, length in enumerate(lengths):
        ahead = rotation("z", -heading) @ rotation("x", lean) @ np.array([0.0, 1.0, 0.0])
        start, end = place + 1.2 * ahead, place + (length - 1.2) * ahead
        size = width * 0.88**number
        middle = 0.5 * (start + end)
        body.fine.append(
            bone([start, 0.75 * start + 0.25 * end, middle, end], [size, 0.72 * size, 0.6 * size, 0.85 * size])
        )
        body.sites.append(Site(middle, ahead, 0.7 * size))
        joints.append(end)
        place, lean = place + length * ahead, lean + curl
    body.skin.append(flesh(joints, np.linspace(1.9, 1.2, len(joints)) * width + 1))
    return body


def hand(rng: np.random.Generator, pose: Pose) -> Body:
    """Return wrist bones, metacarpals and fingers, with the wrist at `WRIST`."""
    body = Body()
    carpals = [(-17, 8, 6), (-7, 6, 8), (5, 8, 7), (13, 10, 6), (-18, 20, 7), (-7, 21, 8), (4, 21, 9), (14, 22, 8)]
    for x, down, size in carpals:
        spot = WRIST + [-x, down + rng.normal(0, 0.7), rng.normal(0, 3)]
        body.fine += lump(spot, np.array([0.95, 1.0, 1.2]) * size * rng.uniform(0.9, 1.08), 0.86)
    knuckles = [(19, 32, -38, (42, 30, 22)), (15, 34, -9, (65, 42, 25, 17)), (4, 35, -1, (64, 46, 29, 18))]
    knuckles += [(-6, 34, 7, (58, 42, 27, 18)), (-15, 32, 15, (53, 34, 20, 17))]
    for x, down, heading, lengths in knuckles:
        turn = -heading * pose.spread + rng.normal(0, 2)
        curl = pose.curl + rng.normal(0, 4)
        body.add(finger(WRIST + [x, down, 0], turn, np.array(lengths) * rng.uniform(0.95, 1.05), 7.2, curl))
    body.skin.append(flesh(WRIST + np.array([[0, -10, 0], [0, 20, 0], [1, 50, 0], [1, 85, 0]]), [28, 30, 37, 35], 0.5))
    return body


def arm(rng: np.random.Generator, pose: Pose, whole: bool = True) -> Body:
    """Return the upper arm and, if `whole`, forearm and hand."""
    stout = rng.uniform(0.85, 1.2)
    body = long_bone([0, 8, 0], ELBOW, (19, 13), 11.5 * rng.uniform(0.9, 1.1))
    body.fine += knob([-6, 2, 0], [23, 23, 23])
    body.fine += knob(ELBOW + [0, -6, 2], [29, 10, 10])
    body.fine += knob(ELBOW + [-24, -14, -4], [9, 13, 7])
    body.fine.append(ball(ELBOW + [-2, -22, 0], [11, 10, 6], -0.014))
    body.skin.append(flesh([[0, -5, 0], [0, 90, 0], [3, 200, 4], ELBOW], np.array([54, 52, 46, 42]) * stout, 0.9))
    if not whole:
        return body
    lower = Body()
    lower.add(
        long_bone(ELBOW + [16, 10, 0], WRIST + [8, -6, 0], (10.5, 16), 7.5, bow=(6, 0, 0)),
        long_bone(ELBOW + [-9, 4, -4], WRIST + [-18, -10, 0], (13, 7.5), 7.0, bow=(-2, 0, 4)),
        hand(rng, pose).moved(rotation("z", pose.hinge), WRIST),
    )
    lower.fine += knob(ELBOW + [-9, -8, -16], [11, 20, 10])
    along = np.array([ELBOW, ELBOW + [0, 70, 0], WRIST + [0, -70, 0], WRIST])
    lower.skin.append(flesh(along, np.array([42, 46, 34, 29]) * stout, 0.8))
    body.add(lower.moved(rotation("x", pose.bend), ELBOW))
    return body


def foot(rng: np.random.Generator) -> Body:
    """Return heel, tarsals, metatarsals and toes, pointing along +y from the ankle joint as a dancer's foot."""
    body = Body()
    body.fine += lump(ANKLE + [0, 14, 6], [19, 26, 17], 0.9)
    body.fine += lump(ANKLE + [2, 10, -34], [19, 40, 20], 0.92, rotation("x", -32))
    tarsals = [(-8, 52, 15), (-18, 72, 10), (-8, 74, 10), (3, 73, 11), (15, 62, 15)]
    for x, down, size in tarsals:
        body.fine += lump(
            ANKLE + [x, down, -10 + 0.4 * x], np.array([0.95, 0.8, 0.95]) * size * rng.uniform(0.92, 1.08), 0.88
        )
    rays = [(-22, 83, -8, (64, 34, 26), 10.5), (-10, 85, -3, (74, 30, 15, 11), 6.5), (0, 84, 2, (70, 28, 13, 10), 6.2)]
    rays += [(10, 82, 6, (66, 26, 11, 9), 6.2), (20, 76, 10, (64, 24, 10, 9), 6.4)]
    for x, down, heading, lengths, width in rays:
        rate = np.array(lengths) * rng.uniform(0.95, 1.05)
        body.add(finger(ANKLE + [x, down, -14 + 0.4 * x], heading + rng.normal(0, 2), rate, width, rng.normal(4, 4)))
    sole = ANKLE + np.array([[0, -10, -30], [0, 25, -22], [0, 80, -14], [2, 145, -16]])
    body.skin.append(flesh(sole, [36, 38, 40, 43], 0.7))
    return body


def leg(rng: np.random.Generator, pose: Pose, whole: bool = True) -> Body:
    """Return the thigh and, if `whole`, lower leg and foot."""
    stout = rng.uniform(0.8, 1.15)
    body = long_bone([30, 42, 0], KNEE + [0, -12, 0], (23, 30), 15.5 * rng.uniform(0.9, 1.1), bow=(4, 0, 8))
    body.fine += lump([0, 0, 0], [24, 24, 24], 0.94)
    body.fine.append(bone([[2, 3, 0], [18, 18, 0], [34, 36, 0]], [18, 15.5, 20], 0.86))
    body.fine += knob([45, 27, -4], [14, 22, 17])
    body.fine += knob([14, 66, -8], [10, 14, 10])
    body.sites.append(Site(np.array([18.0, 18, 0]), np.array([0.7, 0.7, 0]), 17))
    for side in (-1, 1):
        body.fine += knob(KNEE + [side * 23, -20, -6], [20, 22, 29])
    body.fine += lump(KNEE + [0, -26, 38], [21, 22, 10], 0.88)
    body.fine.append(ball(KNEE + [0, 2, -4], [10, 13, 16], -0.01))
    thigh = np.array([[-5, -20, 0], [-5, 60, 0], [-12, 250, 5], KNEE])
    body.skin.append(flesh(thigh, np.array([94, 92, 78, 62]) * stout, 0.95))
    if not whole:
        return body
    lower = Body()
    shin, fibula = KNEE + [0, 14, -2], KNEE + [37, 38, -20]
    lower.add(
        long_bone(shin, ANKLE + [-4, -8, 0], (34, 21), 14 * rng.uniform(0.9, 1.1), (0, 0, 4), flat=True),
        long_bone(fibula, ANKLE + [26, 12, -8], (11, 10), 6.5, bow=(2, 0, 0)),
        foot(rng).moved(rotation("x", pose.hinge), ANKLE),
    )
    lower.fine.append(tube(KNEE + np.array([[0, 9, -2], [0, 13, -2]]), 39, CORTEX * 0.35, depth=0.7, flat=True))
    lower.fine += knob(ANKLE + [-24, -4, 0], [8, 17, 14])
    lower.fine.append(ball(KNEE + [0, 36, 18], [12, 20, 10], SPONGY))
    along = np.array([KNEE, KNEE + [4, 110, -14], ANKLE + [2, -120, -8], ANKLE + [0, 5, -5]])
    lower.skin.append(flesh(along, np.array([60, 64, 44, 37]) * stout, 0.95))
    body.add(lower.moved(rotation("x", -pose.bend), KNEE))
    return body
