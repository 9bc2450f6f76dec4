"""Who the generated patients are said to be: invented names, numbers, dates and UIDs, to be found again by a search."""

from dataclasses import dataclass, fields
from datetime import date, timedelta

import numpy as np

from hf_radmae.sources.phantom.streams import Purpose, stream

# Surnames that nobody bears and no other text contains, so that a search for them finds leaks only.
SURNAMES = (
    *("Quastenbichler", "Zwetschgenlohr", "Hüpfenmoser", "Brösenkamp", "Dümpelreuther", "Knackfußner", "Schnörzbach"),
    *("Wimpelgrund", "Pflöckenau", "Grünzwickel", "Tüftenhauer", "Mückenstroh", "Vöglitzer", "Kräuselbeck"),
)
FIRST_NAMES = (
    *("Adelgunde", "Balduin", "Cäcilie", "Dietmunde", "Eberhardine", "Fridolinus", "Gerlindis", "Hartwigus"),
    *("Isolde-Marie", "Jobstinus", "Kunigunde", "Leopoldine", "Melchiorus", "Notburga"),
)
INSTITUTIONS = ("Kreisklinik Quellhofen", "Stadtspital Brunnwinkel", "Klinikum Oberzwickelau")


@dataclass(frozen=True)
class Person:
    """A patient, dates as YYYYMMDD."""

    surname: str
    first_name: str
    patient_id: str
    birth_date: str


@dataclass(frozen=True)
class Visit:
    """One exam: when, where and by whom."""

    exam: str
    accession: str
    study_uid: str
    study_date: str
    institution: str
    operator: str
    referrer: str
    device: str


def person(seed: int, patient: int) -> Person:
    """Return the patient with this number in the cohort of this seed."""
    rng = stream(Purpose.PERSON, seed, patient)
    born = date(1930, 1, 1) + timedelta(days=int(rng.integers(0, 80 * 365)))
    return Person(
        surname=str(rng.choice(SURNAMES)),
        first_name=str(rng.choice(FIRST_NAMES)),
        patient_id=f"PAT{seed % 1000:03d}{rng.integers(10**6):06d}{patient:06d}",
        birth_date=f"{born:%Y%m%d}",
    )


def visit(seed: int, patient: int, exam: int) -> Visit:
    """Return one exam of one patient; later exams have later dates."""
    rng = stream(Purpose.VISIT, seed, patient, exam)
    when = date(2011, 1, 1) + timedelta(days=400 * exam + int(rng.integers(0, 400)))
    return Visit(
        exam=f"EX{rng.integers(10**6):06d}{patient:06d}{exam}",
        accession=f"ACC{rng.integers(10**9):09d}{exam}",
        study_uid=uid(rng),
        study_date=f"{when:%Y%m%d}",
        institution=str(rng.choice(INSTITUTIONS)),
        operator=f"{rng.choice(SURNAMES)}^{rng.choice(FIRST_NAMES)}",
        referrer=f"Dr. {rng.choice(SURNAMES)}^{rng.choice(FIRST_NAMES)}",
        device=f"SN{rng.integers(10**8):08d}",
    )


def uid(rng: np.random.Generator) -> str:
    """Return a UID below the root of UUIDs, 2.25 (ITU-T X.667)."""
    return f"2.25.{int.from_bytes(rng.bytes(16), 'big')}"


def spoken(day: str) -> str:
    """Return a YYYYMMDD date as Germans write it, 31.12.1999."""
    return f"{day[6:]}.{day[4:6]}.{day[:4]}"


def identifiers(who: Person, when: Visit) -> set[str]:
    """Return every text that must not leave the archive, in each spelling in which it is written there."""
    texts = {str(getattr(record, item.name)) for record in (who, when) for item in fields(record)}
    return texts | {spoken(who.birth_date), spoken(when.study_date), f"{who.surname}^{who.first_name}"}
