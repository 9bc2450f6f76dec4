"""What a radiologist writes and means: denial, doubt, the past, and what is denied of a thing that is there."""

import pytest

from hf_radmae.reports.labels import labels_from_report

# (sentence, fracture, foreign material); - where nothing is said
SENTENCES = [
    ("Distale Radiusfraktur loco typico.", "yes", "-"),
    ("Keine Fraktur.", "no", "-"),
    ("Kein Nachweis einer frischen Fraktur oder Luxation.", "no", "-"),
    ("Keine Luxation, Fraktur oder knöcherne Absprengung.", "no", "-"),
    ("Keine Luxation, distale Radiusfraktur.", "yes", "-"),
    ("Ohne Hinweis auf eine Fraktur.", "no", "-"),
    ("Kein Anhalt für eine Fissur.", "no", "-"),
    ("Eine Fraktur ist nicht nachweisbar.", "no", "-"),
    ("Eine Fraktur lässt sich nicht abgrenzen.", "no", "-"),
    ("Eine Fraktur ist, soweit beurteilbar, nicht zu sehen.", "no", "-"),
    ("Fraktur ausgeschlossen.", "no", "-"),
    ("Kein Verdacht auf eine Fraktur.", "no", "-"),
    ("Weder Fraktur noch Fremdkörper.", "no", "no"),
    ("Frakturen: keine. Fremdmaterial: nein.", "no", "no"),
    ("Keine frische knöcherne Verletzung.", "no", "-"),
    ("Keine knöcherne Läsion.", "no", "-"),
    ("Kleine knöcherne Läsion am Rand.", "-", "-"),
    ("Unauffälliger Befund.", "no", "no"),
    ("V.a. Fraktur des Os scaphoideum.", "unsure", "-"),
    ("Verdacht auf nicht dislozierte Fraktur.", "unsure", "-"),
    ("Eine Fraktur ist nicht sicher auszuschließen.", "unsure", "-"),
    ("Eine Fissur kann nicht ausgeschlossen werden.", "unsure", "-"),
    ("Fragliche Fissur am Radiusköpfchen.", "unsure", "-"),
    ("Kein sicherer Frakturnachweis.", "unsure", "-"),
    ("Linie, DD Gefäßkanal oder Fissur.", "unsure", "-"),
    ("Frakturverdächtige Linie.", "unsure", "-"),
    ("Nicht dislozierte Fraktur der Tibia.", "yes", "-"),
    ("Undislozierte Fissur.", "yes", "-"),
    ("Keine Dislokation der bekannten Fraktur.", "yes", "-"),
    ("Fraktur unverändert, keine sekundäre Dislokation.", "yes", "-"),
    ("Bekannte Fraktur mit zunehmender Konsolidierung.", "yes", "-"),
    ("Die Fraktur ist noch nicht konsolidiert.", "yes", "-"),
    ("Die vorbekannte Fraktur ist knöchern konsolidiert.", "no", "-"),
    ("Die Fraktur ist vollständig konsolidiert, ein Spalt ist nicht mehr abgrenzbar.", "no", "-"),
    ("Z.n. Radiusfraktur, jetzt vollständig verheilt.", "no", "-"),
    ("Alte, verheilte Fraktur des Schaftes.", "no", "-"),
    ("Frakturspalt nicht mehr abgrenzbar.", "no", "-"),
    ("Zustand nach Fraktur der 5. Rippe.", "unsure", "-"),
    ("Keine Luxation, aber Fraktur des Humerus.", "yes", "-"),
    ("Schaftfraktur? Bitte um Kontrolle.", "-", "-"),
    ("Liegende Plattenosteosynthese am distalen Radius.", "-", "yes"),
    ("Kein Fremdmaterial.", "-", "no"),
    ("Kein röntgendichter Fremdkörper nachweisbar.", "-", "no"),
    ("Regelrechte Lage der Schrauben ohne Lockerung.", "-", "yes"),
    ("Keine Lockerung der Schrauben.", "-", "yes"),
    ("Kein Anhalt für Materialbruch der Platte.", "-", "yes"),
    ("Zustand nach Plattenosteosynthese bei Radiusfraktur.", "unsure", "yes"),
    ("Z.n. Metallentfernung.", "-", "no"),
    ("Z.n. Entfernung der Platte.", "-", "no"),
    ("Eine Schraube wurde entfernt, übrige Schrauben unverändert.", "-", "yes"),
    ("Fraglicher Fremdkörper im Weichteil.", "-", "unsure"),
    ("Metalldichter Fremdkörper, am ehesten Glassplitter.", "-", "yes"),
    ("Herzschrittmacher links pektoral. Keine Rippenfraktur.", "no", "yes"),
    ("Hüft-TEP rechts in regelrechter Lage.", "-", "yes"),
    ("Grundplatte und Deckplatten glatt begrenzt.", "-", "-"),
    ("Plattenatelektase links basal.", "-", "-"),
    ("Stabile Stellung, kein Fremdkoerper.", "-", "no"),
    ("Regelrechte Artikulation.", "-", "-"),
]


@pytest.mark.parametrize(("sentence", "fracture", "foreign"), SENTENCES, ids=[case[0] for case in SENTENCES])
def test_a_sentence_means_what_a_radiologist_means(sentence, fracture, foreign):
    found = labels_from_report(sentence)
    assert tuple(answer or "-" for answer in found) == (fracture, foreign)


REPORT = """Röntgen Handgelenk rechts in 2 Ebenen vom 03.05.2019

Klinische Angaben: Sturz, Fraktur? Metallentfernung 2017.

Befund:
{findings}

Beurteilung: {conclusion}
"""


@pytest.mark.parametrize(
    ("findings", "conclusion", "labels"),
    [
        ("Stufe am Radius.", "Distale Radiusfraktur.", ("yes", None)),
        ("Fragliche Fissur. Einliegende Platte.", "Keine Fraktur.", ("no", "yes")),
        ("Fraktur des Radius.", "Siehe Befund.", ("yes", None)),
        ("Regelrechte Artikulation.", "Altersentsprechend.", (None, None)),
    ],
)
def test_the_conclusion_outranks_the_findings_and_the_history_is_no_finding(findings, conclusion, labels):
    assert labels_from_report(REPORT.format(findings=findings, conclusion=conclusion)) == labels


def test_of_several_statements_the_strongest_counts_in_any_order():
    sentences = ["Keine Rippenfraktur.", "Verdacht auf Fissur.", "Fraktur der Klavikula."]
    for text in (" ".join(sentences), " ".join(reversed(sentences))):
        assert labels_from_report(text).fracture == "yes"
    assert labels_from_report(" ".join(sentences[:2])).fracture == "unsure"


@pytest.mark.parametrize(
    "text",
    [
        "Keine\nFraktur, kein\n   Fremdkörper.",
        "KEINE FRAKTUR, KEIN FREMDKÖRPER.",
        "- Keine Fraktur\n- Kein Fremdkörper",
    ],
)
def test_line_breaks_and_case_change_nothing(text):
    assert labels_from_report(text) == ("no", "no")


@pytest.mark.parametrize("text", ["", "\n\n", "Befund:", "?" * 1000, "Fraktur " * 5000])
def test_any_text_is_read_in_linear_time(text):
    labels_from_report(text)
