"""German reports on generated exams: findings, negations, doubts and follow-ups that agree with the exam's labels.

What they say stands in report_phrases.yaml, at least 60 ways for each thing. An exam's report depends on its key alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from hf_radmae.sources.phantom.people import Person, Visit, spoken
from hf_radmae.sources.phantom.radiograph import PhantomImage
from hf_radmae.sources.phantom.streams import Purpose, stream

DOUBT = 0.07  # share of exams of breakable parts whose fracture stays open


@dataclass(frozen=True)
class Findings:
    """What an exam's report states, as the archive's table has it: YES, NO or Unsure."""

    fracture: str
    foreign_material: str


# Part -> how it is called, and fractures that it may have.
ANATOMY = {
    "skull": ("Schädel", ("Kalottenfraktur parietal", "Fraktur des Unterkiefers", "Jochbeinbruch")),
    "cervical_spine": ("HWS", ("Kompressionsfraktur des HWK 5", "Fraktur des Dornfortsatzes HWK 7")),
    "thoracic_spine": ("BWS", ("Deckplattenimpressionsfraktur BWK 12", "Keilwirbelfraktur BWK 8")),
    "lumbar_spine": ("LWS", ("Kompressionsfraktur LWK 1", "Deckplattenfraktur LWK 3", "Wirbelkörperbruch LWK 2")),
    "chest": ("Thorax", ("Rippenserienfraktur links", "Fraktur der 7. Rippe rechts", "Claviculafraktur")),
    "breast": ("Mamma", ()),
    "abdomen": ("Abdomen", ()),
    "pelvis": ("Beckenübersicht", ("Fraktur des oberen Schambeinastes", "Beckenringfraktur")),
    "hand": ("Hand", ("Schaftfraktur des Os metacarpale V", "Fraktur der Grundphalanx D3")),
    "wrist": ("Handgelenk", ("distale Radiusfraktur", "Fraktur des Os scaphoideum", "Speichenbruch loco typico")),
    "forearm": ("Unterarm", ("Unterarmschaftfraktur", "Ulnaschaftfraktur")),
    "elbow": ("Ellenbogen", ("Radiusköpfchenfraktur", "Olekranonfraktur")),
    "upper_arm": ("Oberarm", ("Humerusschaftfraktur",)),
    "shoulder": ("Schulter", ("subkapitale Humerusfraktur", "laterale Claviculafraktur", "Schlüsselbeinbruch")),
    "foot": ("Fuß", ("Fraktur der Basis des Os metatarsale V", "Fraktur der Großzehengrundphalanx")),
    "ankle": ("Sprunggelenk", ("Weber-B-Fraktur", "Innenknöchelfraktur", "Außenknöchelbruch")),
    "lower_leg": ("Unterschenkel", ("Tibiaschaftfraktur", "Unterschenkelfraktur")),
    "knee": ("Knie", ("Tibiakopffraktur", "Patellafraktur")),
    "thigh": ("Oberschenkel", ("Femurschaftfraktur", "Oberschenkelbruch")),
    "hip": ("Hüfte", ("mediale Schenkelhalsfraktur", "pertrochantäre Femurfraktur", "Schenkelhalsbruch")),
}
IMPLANTS = {
    "limb": ("Plattenosteosynthese", "einliegender Marknagel", "Schraubenosteosynthese", "Kirschner-Drähte"),
    "spine": ("dorsale Spondylodese mit Pedikelschrauben", "Fixateur interne"),
    "chest": ("Herzschrittmacher links pektoral", "Sternalcerclagen nach Sternotomie", "zentraler Venenkatheter"),
    "other": ("Metallclips", "röntgendichtes Fremdmaterial"),
}
ASIDES = ("soft_tissue", "degeneration", "mineral", "quality", "joint", "distractors")
# Of history, findings and conclusion; some reports have no conclusion of their own.
HEADINGS = (
    ("Klinische Angaben:", "Fragestellung:", "Anamnese:", "Indikation:", "Klinik:", "Rechtfertigende Indikation:"),
    ("Befund:", "BEFUND:", "Befund\n", "Befundung:"),
    ("Beurteilung:", "BEURTEILUNG:", "Zusammenfassung:", "Beurteilung\n", "Fazit:", ""),
)


def _without_umlauts(text: str) -> str:
    for letter, letters in {"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss"}.items():
        text = text.replace(letter, letters)
    return text


SPELLINGS = (str, str.upper, _without_umlauts)


def findings(image: PhantomImage) -> Findings:
    """Return what the report on an image's exam states; all images of an exam carry the same labels."""
    doubtful = stream(Purpose.DOUBT, image.seed, image.patient, image.exam).random() < DOUBT
    fracture = "Unsure" if doubtful and ANATOMY[image.part][1] else ("YES" if image.fracture else "NO")
    return Findings(fracture, "YES" if image.foreign_material else "NO")


@cache
def phrases() -> Mapping[str, tuple[str, ...]]:
    """What is said -> the ways of saying it, with named blanks (see report_phrases.yaml)."""
    written = yaml.safe_load(Path(__file__).with_name("report_phrases.yaml").read_text(encoding="utf-8"))
    return {topic: tuple(way for entry in entries for way in _ways(entry)) for topic, entries in written.items()}


def write_report(images: list[PhantomImage], was_broken: bool, who: Person, when: Visit, before: Visit | None) -> str:
    """Return the report on the `images` of one exam.

    `was_broken` tells whether an exam of the same part, `before`, had a fracture; `who` and `when` fill the head.
    """
    image, stated = images[0], findings(images[0])
    rng = stream(Purpose.REPORT, image.seed, image.patient, image.exam)
    name, fractures = ANATOMY[image.part]
    side = {"L": " links", "R": " rechts", "": ""}[image.laterality]
    followed = image.follow_up and before is not None
    blanks = {
        "fracture": f"{rng.choice(fractures)}{side if rng.random() < 0.3 else ''}" if fractures else "",
        "before": spoken(before.study_date) if before else "",
        "implant": str(rng.choice(IMPLANTS[_implant_kind(image)])),
    }

    def say(topic: str) -> str:
        text = str(rng.choice(phrases()[topic])).format(**blanks)
        return text[0].upper() + text[1:]

    topic = {
        "YES": "known" if followed and was_broken else "fresh",
        "NO": "healed" if followed and was_broken else "unbroken",
        "Unsure": "open",
    }[stated.fracture]
    bones = say(topic)
    body = [bones, say("metal" if stated.foreign_material == "YES" else "no_metal")]
    body += [say(str(aside)) for aside in rng.choice(ASIDES, int(rng.integers(0, 4)), replace=False)]
    order = rng.permutation(len(body)) if rng.random() < 0.5 else range(len(body))
    reason = f"Verlaufskontrolle nach {spoken(before.study_date)}." if followed and before else say("reasons")
    last = [bones, say(topic), say("conclusions")][rng.choice(3, p=[0.4, 0.4, 0.2])]
    history, found, concluded = (str(rng.choice(headings)) for headings in HEADINGS)
    sections = [f"{history} {reason}", f"{found} " + " ".join(body[index] for index in order)]
    sections += [f"{concluded} {last}"] if concluded else []
    spell = SPELLINGS[rng.choice(len(SPELLINGS), p=[0.8, 0.1, 0.1])]
    planes = f"{len(images)} {'Ebene' if len(images) == 1 else 'Ebenen'}"
    return "\n".join(
        [
            f"{when.institution}, Institut für Radiologie",
            f"Patient: {who.surname}, {who.first_name}, geb. {spoken(who.birth_date)}, Nr. {who.patient_id}",
            f"Röntgen {name}{side} in {planes} vom {spoken(when.study_date)}",
            "",
            *(line for section in sections for line in (spell(section), "")),
        ]
    )


def _ways(entry: str | Mapping[str, list[str]]) -> list[str]:
    """A sentence, or each frame with each word in its blank {}; named blanks stay."""
    if isinstance(entry, str):
        return [entry]
    return [frame.replace("{}", word) for frame in entry["frames"] for word in entry["words"]]


def _implant_kind(image: PhantomImage) -> str:
    if image.region in ("upper_extremity", "lower_extremity", "pelvis"):
        return "limb"
    return image.region if image.region in IMPLANTS else "other"
