"""The examined parts of the body: which field a radiograph of each shows, in which views, and what lies there."""

from dataclasses import dataclass

import numpy as np

from hf_radmae.sources.phantom.breast import breast
from hf_radmae.sources.phantom.head import skull
from hf_radmae.sources.phantom.limbs import ANKLE, ELBOW, KNEE, WRIST, Pose, arm, leg
from hf_radmae.sources.phantom.streams import Purpose, stream
from hf_radmae.sources.phantom.tissue import Body
from hf_radmae.sources.phantom.trunk import (
    HIP,
    LEVELS,
    PELVIS_LEVEL,
    SHOULDER,
    organs,
    pelvis,
    rib_cage,
    spine_course,
    vertebra,
)
from hf_radmae.sources.phantom.xray import rotation

REGIONS = ("cranium", "spine", "upper_extremity", "chest", "breast", "abdomen", "pelvis", "lower_extremity")
MIRROR = np.diag([-1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True)
class Part:
    """An examined part: its region and `share` of the region's exams, and the `frame` it is built in.

    `views` maps a view to (share, centre of the field (x, y, z), its width and height), all lengths in mm.
    """

    region: str
    share: float
    frame: str
    views: dict[str, tuple[float, tuple[float, float, float], tuple[float, float]]]
    paired: bool = False


def _at(point: np.ndarray, x: float = 0, y: float = 0, z: float = 0) -> tuple[float, float, float]:
    return (float(point[0] + x), float(point[1] + y), float(point[2] + z))


def _limb(
    region: str, share: float, frame: str, centre: tuple[float, float, float], width: float, height: float
) -> Part:
    field = (centre, (width, height))
    return Part(
        region, share, frame, {"ap": (0.6, *field), "lateral": (0.3, *field), "oblique": (0.1, *field)}, paired=True
    )


_UPPER, _LOWER, _TRUNK = "upper_extremity", "lower_extremity", "trunk"
PARTS: dict[str, Part] = {
    "skull": Part(
        "cranium",
        1.0,
        _TRUNK,
        {
            "ap": (0.45, (0, -192, 0), (185, 235)),
            "lateral": (0.4, (0, -192, 12), (215, 235)),
            "oblique": (0.15, (0, -180, 20), (190, 220)),
        },
    ),
    "cervical_spine": Part(
        "spine", 0.3, _TRUNK, {"ap": (0.4, (0, -50, 0), (150, 190)), "lateral": (0.6, (0, -60, -25), (150, 200))}
    ),
    "thoracic_spine": Part(
        "spine", 0.2, _TRUNK, {"ap": (0.5, (0, 150, 0), (190, 350)), "lateral": (0.5, (0, 150, -50), (190, 350))}
    ),
    "lumbar_spine": Part(
        "spine", 0.5, _TRUNK, {"ap": (0.5, (0, 390, 0), (190, 300)), "lateral": (0.5, (0, 390, -40), (190, 300))}
    ),
    "chest": Part(
        "chest",
        1.0,
        _TRUNK,
        {
            "pa": (0.5, (0, 150, 0), (370, 370)),
            "ap": (0.25, (0, 155, 0), (370, 370)),
            "lateral": (0.25, (0, 150, 0), (300, 370)),
        },
    ),
    "breast": Part(
        "breast",
        1.0,
        "breast",
        {"cc": (0.5, (42, 0, 0), (115, 210)), "mlo": (0.5, (34, -25, 0), (140, 240))},
        paired=True,
    ),
    "abdomen": Part(
        "abdomen", 1.0, _TRUNK, {"ap": (0.8, (0, 400, 0), (340, 420)), "lateral": (0.2, (0, 400, 0), (300, 400))}
    ),
    "pelvis": Part(
        "pelvis",
        1.0,
        _TRUNK,
        {"ap": (0.8, (0, PELVIS_LEVEL + 70, 0), (370, 310)), "oblique": (0.2, (0, PELVIS_LEVEL + 70, 0), (330, 310))},
    ),
    "hand": _limb(_UPPER, 0.35, "arm", _at(WRIST, 2, 85), 130, 220),
    "wrist": _limb(_UPPER, 0.2, "arm", _at(WRIST, 0, 10), 100, 150),
    "forearm": _limb(_UPPER, 0.1, "arm", _at(0.5 * (ELBOW + WRIST)), 110, 310),
    "elbow": _limb(_UPPER, 0.15, "arm", _at(ELBOW), 130, 190),
    "upper_arm": _limb(_UPPER, 0.08, "arm", _at(ELBOW / 2), 140, 360),
    "shoulder": Part(
        _UPPER,
        0.12,
        _TRUNK,
        {"ap": (0.7, _at(SHOULDER, -15, 20), (220, 230)), "oblique": (0.3, _at(SHOULDER, -15, 20), (200, 230))},
        paired=True,
    ),
    "foot": Part(
        _LOWER,
        0.26,
        "leg",
        {
            "ap": (0.45, _at(ANKLE, 0, 105), (120, 270)),
            "lateral": (0.3, _at(ANKLE, 0, 10, 70), (260, 140)),
            "oblique": (0.25, _at(ANKLE, 0, 105), (120, 270)),
        },
        paired=True,
    ),
    "ankle": _limb(_LOWER, 0.16, "leg", _at(ANKLE, 0, -20, 8), 130, 200),
    "lower_leg": _limb(_LOWER, 0.14, "leg", _at(0.5 * (KNEE + ANKLE)), 150, 440),
    "knee": _limb(_LOWER, 0.24, "leg", _at(KNEE), 165, 230),
    "thigh": _limb(_LOWER, 0.07, "leg", _at(KNEE / 2), 200, 460),
    "hip": Part(
        _LOWER,
        0.13,
        _TRUNK,
        {"ap": (0.8, _at(HIP, 10, 30), (210, 250)), "oblique": (0.2, _at(HIP, 5, 30), (210, 250))},
        paired=True,
    ),
    "whole_body": Part("whole_body", 1.0, _TRUNK, {"ap": (1.0, (0, 330, 0), (560, 1250))}),
}


def pose_for(part: str, view: str, rng: np.random.Generator) -> Pose:
    """Draw the joint angles in which a part is positioned for a view."""
    bend, hinge = rng.uniform(0, 12), rng.normal(0, 7)
    if view == "lateral":
        bend = {"elbow": rng.uniform(55, 100), "knee": rng.uniform(10, 60)}.get(part, bend)
    if PARTS[part].frame == "leg":
        hinge = rng.uniform(0, 25) if part == "foot" and view != "lateral" else rng.uniform(70, 95)
    curled = rng.random() < 0.3
    return Pose(bend, hinge, rng.uniform(10, 35) if curled else rng.uniform(0, 8), rng.uniform(0.4, 1.3))


def build(part: str, view: str, levels: tuple[float, float], pose: Pose, patient: tuple[int, int]) -> Body:
    """Return the body that holds a part; of a trunk only what lies between two heights y, `levels` in mm.

    `patient`, seed and number, gives the patient's own shape: the same bones in every image.
    """
    frame = PARTS[part].frame
    if frame == "breast":
        return breast(stream(Purpose.BREAST, *patient), view)
    if frame == "arm":
        return arm(stream(Purpose.ARM, *patient), pose)
    if frame == "leg":
        return leg(stream(Purpose.LEG, *patient), pose)
    low, high = levels[0] - 20, levels[1] + 20
    course = spine_course(stream(Purpose.SPINE, *patient))
    body = organs(stream(Purpose.ORGANS, *patient))
    for level in np.flatnonzero((low < LEVELS) & (high > LEVELS)).tolist():
        body.add(vertebra(level, course, stream(Purpose.VERTEBRA, *patient, level)))
    if low < 330 and high > -20:
        body.add(rib_cage(course, stream(Purpose.RIBS, *patient)))
    if low < -95:
        body.add(skull(stream(Purpose.SKULL, *patient)))
    if high > PELVIS_LEVEL - 60:
        thigh = leg(stream(Purpose.LEG, *patient), pose, high > (HIP + KNEE)[1] - 60).moved(np.eye(3), (0, 0, 0), HIP)
        body.add(pelvis(course, stream(Purpose.PELVIS, *patient)), thigh, thigh.moved(MIRROR, (0, 0, 0)))
    if low < 250 and high > 0 and view != "lateral":
        upper_arm = arm(stream(Purpose.ARM, *patient), pose, high > 250)
        hanging = upper_arm.moved(rotation("z", -12 - 20 * pose.spread), (0, 0, 0), SHOULDER)
        body.add(hanging, hanging.moved(MIRROR, (0, 0, 0)))
    return body
