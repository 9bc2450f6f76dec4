"""German reports on generated exams: findings, negations, doubts and follow-ups that agree with the exam's labels."""

from dataclasses import dataclass

import numpy as np

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
    "skull": ("Schädel", ("Kalottenfraktur parietal", "Fraktur des Unterkiefers")),
    "cervical_spine": ("HWS", ("Kompressionsfraktur des HWK 5", "Fraktur des Dornfortsatzes HWK 7")),
    "thoracic_spine": ("BWS", ("Deckplattenimpressionsfraktur BWK 12", "Keilwirbelfraktur BWK 8")),
    "lumbar_spine": ("LWS", ("Kompressionsfraktur LWK 1", "Deckplattenfraktur LWK 3")),
    "chest": ("Thorax", ("Rippenserienfraktur links", "Fraktur der 7. Rippe rechts", "Claviculafraktur")),
    "breast": ("Mamma", ()),
    "abdomen": ("Abdomen", ()),
    "pelvis": ("Beckenübersicht", ("Fraktur des oberen Schambeinastes", "Beckenringfraktur")),
    "hand": ("Hand", ("Schaftfraktur des Os metacarpale V", "Fraktur der Grundphalanx D3")),
    "wrist": ("Handgelenk", ("distale Radiusfraktur", "Fraktur des Os scaphoideum")),
    "forearm": ("Unterarm", ("Unterarmschaftfraktur", "Ulnaschaftfraktur")),
    "elbow": ("Ellenbogen", ("Radiusköpfchenfraktur", "Olekranonfraktur")),
    "upper_arm": ("Oberarm", ("Humerusschaftfraktur",)),
    "shoulder": ("Schulter", ("subkapitale Humerusfraktur", "laterale Claviculafraktur")),
    "foot": ("Fuß", ("Fraktur der Basis des Os metatarsale V", "Fraktur der Großzehengrundphalanx")),
    "ankle": ("Sprunggelenk", ("Weber-B-Fraktur", "Innenknöchelfraktur")),
    "lower_leg": ("Unterschenkel", ("Tibiaschaftfraktur", "Unterschenkelfraktur")),
    "knee": ("Knie", ("Tibiakopffraktur", "Patellafraktur")),
    "thigh": ("Oberschenkel", ("Femurschaftfraktur",)),
    "hip": ("Hüfte", ("mediale Schenkelhalsfraktur", "pertrochantäre Femurfraktur")),
}
FRESH = (
    "{fracture} mit Dislokation um halbe Schaftbreite.",
    "Nachweis einer Fraktur: {fracture}, achsgerechte Stellung.",
    "Es zeigt sich eine Stufenbildung der Kortikalis im Sinne einer Fraktur. {fracture}.",
    "Frische {fracture} mit glattem Frakturspalt.",
    "{fracture}, gering disloziert, ohne Gelenkbeteiligung.",
)
KNOWN = (
    "Verlaufskontrolle bei bekannter Fraktur ({fracture}). Unveränderte Stellung der Fragmente.",
    "Im Vergleich zur Voraufnahme vom {before} bekannte {fracture} mit beginnender Kallusbildung.",
    "Bekannte {fracture} in unveränderter Stellung, der Frakturspalt ist weiterhin abgrenzbar.",
)
HEALED = (
    "Die vorbeschriebene Fraktur ist knöchern vollständig konsolidiert, ein Frakturspalt ist nicht mehr abgrenzbar.",
    "Kein Nachweis einer Fraktur bei Z. n. konservativer Therapie, vollständige Konsolidierung.",
)
UNBROKEN = (
    "Kein Nachweis einer Fraktur.",
    "Keine frische Fraktur abgrenzbar.",
    "Kein Anhalt für eine Fraktur oder Luxation.",
    "Eine Fraktur läßt sich nicht nachweisen.",
    "Knöcherne Strukturen intakt, keine Fraktur.",
    "Fraktur ausgeschlossen.",
)
OPEN = (
    "Fraktur nicht sicher auszuschließen, ggf. ergänzende CT.",
    "Verdacht auf nicht dislozierte Fraktur, klinische Korrelation empfohlen.",
    "Fragliche feine Aufhellungslinie, eine Fissur ist möglich.",
    "Eine Fraktur kann bei eingeschränkter Beurteilbarkeit nicht ausgeschlossen werden.",
)
IMPLANTS = {
    "limb": ("Plattenosteosynthese", "einliegender Marknagel", "Schraubenosteosynthese", "Kirschner-Drähte"),
    "spine": ("dorsale Spondylodese mit Pedikelschrauben", "Fixateur interne"),
    "chest": ("Herzschrittmacher links pektoral", "Sternalcerclagen nach Sternotomie", "zentraler Venenkatheter"),
    "other": ("Metallclips", "röntgendichtes Fremdmaterial"),
}
METAL = (
    "{implant} in regelrechter Lage.",
    "{implant}, kein Hinweis auf Materiallockerung.",
    "Zustand nach operativer Versorgung: {implant} in situ.",
)
NO_METAL = (
    "Kein Fremdmaterial.",
    "Kein röntgendichter Fremdkörper.",
    "Kein Nachweis von Fremdmaterial.",
    "Keine Osteosynthesematerialien.",
)
ASIDES = (
    "Regelrechte Artikulation.",
    "Weichteile unauffällig.",
    "Altersentsprechende degenerative Veränderungen.",
    "Mäßige Osteopenie.",
    "Aufnahmequalität durch Bewegung eingeschränkt.",
)
REASONS = ("Sturz. Fraktur?", "Schmerzen seit 3 Tagen.", "Verkehrsunfall, Frakturausschluss erbeten.", "Druckschmerz.")


def findings(image: PhantomImage) -> Findings:
    """Return what the report on an image's exam states; all images of an exam carry the same labels."""
    doubtful = stream(Purpose.DOUBT, image.seed, image.patient, image.exam).random() < DOUBT
    fracture = "Unsure" if doubtful and ANATOMY[image.part][1] else ("YES" if image.fracture else "NO")
    return Findings(fracture, "YES" if image.foreign_material else "NO")


def write_report(images: list[PhantomImage], was_broken: bool, who: Person, when: Visit, before: Visit | None) -> str:
    """Return the report on the `images` of one exam.

    `was_broken` tells whether an exam of the same part, `before`, had a fracture; `who` and `when` fill the head.
    """
    image, stated = images[0], findings(images[0])
    rng = stream(Purpose.REPORT, image.seed, image.patient, image.exam)
    name, fractures = ANATOMY[image.part]
    side = {"L": " links", "R": " rechts", "": ""}[image.laterality]
    followed = image.follow_up and before is not None
    controlled = followed and was_broken
    choices: dict[str, tuple[str, ...]] = {
        "YES": KNOWN if controlled else FRESH,
        "NO": HEALED if controlled else UNBROKEN,
        "Unsure": OPEN,
    }
    blanks = {
        "fracture": str(rng.choice(fractures)) if fractures else "",
        "before": spoken(before.study_date) if before else "",
        "implant": str(rng.choice(IMPLANTS[_implant_kind(image)])),
    }
    bones = _sentence(choices[stated.fracture], blanks, rng)
    metal = _sentence(METAL if stated.foreign_material == "YES" else NO_METAL, blanks, rng)
    asides = [str(text) for text in rng.choice(ASIDES, int(rng.integers(0, 3)), replace=False)]
    body = [bones, metal, *asides]
    order = rng.permutation(len(body)) if rng.random() < 0.5 else range(len(body))
    reason = f"Verlaufskontrolle nach {spoken(before.study_date)}." if followed and before else str(rng.choice(REASONS))
    planes = f"{len(images)} {'Ebene' if len(images) == 1 else 'Ebenen'}"
    return "\n".join(
        [
            f"{when.institution}, Institut für Radiologie",
            f"Patient: {who.surname}, {who.first_name}, geb. {spoken(who.birth_date)}, Nr. {who.patient_id}",
            f"Röntgen {name}{side} in {planes} vom {spoken(when.study_date)}",
            "",
            f"Klinische Angaben: {reason}",
            "",
            "Befund: " + " ".join(body[index] for index in order),
            "",
            f"Beurteilung: {bones}",
            "",
        ]
    )


def _implant_kind(image: PhantomImage) -> str:
    if image.region in ("upper_extremity", "lower_extremity", "pelvis"):
        return "limb"
    return image.region if image.region in IMPLANTS else "other"


def _sentence(choices: tuple[str, ...], blanks: dict[str, str], rng: np.random.Generator) -> str:
    text = str(rng.choice(choices)).format(**blanks)
    return text[0].upper() + text[1:]
