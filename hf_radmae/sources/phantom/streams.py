"""Randomness by purpose: a generator depends on what it is for and on whose image, never on order or process."""

from enum import IntEnum, auto

import numpy as np


class Purpose(IntEnum):
    """What is drawn; new purposes go to the end, or every image changes."""

    COHORT = auto()
    # the patient's body
    SIZE = auto()
    DENSITY = auto()
    SPINE = auto()
    VERTEBRA = auto()
    RIBS = auto()
    PELVIS = auto()
    SKULL = auto()
    ORGANS = auto()
    BREAST = auto()
    ARM = auto()
    LEG = auto()
    # one exposure
    CAMERA = auto()
    POSE = auto()
    MOTTLE = auto()
    SITE = auto()
    FRACTURE = auto()
    HARDWARE = auto()
    EXPOSURE = auto()
    FRAME = auto()
    BITS = auto()
    # what is written about it
    PERSON = auto()
    VISIT = auto()
    DOUBT = auto()
    REPORT = auto()
    FILE = auto()
    IRMA = auto()


def stream(purpose: Purpose, *key: int) -> np.random.Generator:
    """Return the generator of a purpose for a key: the seed, and as needed patient, exam and image."""
    return np.random.default_rng([purpose, *key])
