"""Ways to say a thing, composed: names of findings with phrases, answers, lists, tables, breaks and abbreviations."""

from itertools import pairwise, product
from pathlib import Path

import pytest
import yaml

from hf_radmae import label_reports

WORDING = yaml.safe_load((Path(__file__).parent / "wording.yaml").read_text(encoding="utf-8"))
PLAIN = {
    "de": [("{}.", "yes"), ("Kein Nachweis von {}.", "no"), ("V.a. {}.", "unsure"), ("{} nicht nachweisbar.", "no")],
    "en": [("There is {}.", "yes"), ("No {}.", "no"), ("Possible {}.", "unsure"), ("{} is not seen.", "no")],
}
NAMES = {
    "de": {"fracture": "Fraktur", "effusion": "Ergussbildung", "infiltrate": "Infiltration", "dislocation": "Luxation"},
    "en": {label: label for label in ("fracture", "effusion", "calcification", "dislocation")},
}


def read(texts: list[str], label: str, language: str = "de") -> list[str | None]:
    return [row[label] for row in label_reports(texts, [label], label_set=language)]


@pytest.mark.parametrize("language", WORDING)
def test_each_name_of_a_finding_is_stated_denied_and_doubted(language):
    for label, names in WORDING[language]["terms"].items():
        for phrase, meant in PLAIN[language]:
            said = read([phrase.format(name) for name in names], label, language)
            assert not [name for name, answer in zip(names, said, strict=True) if answer != meant], (label, phrase)


@pytest.mark.parametrize("language", WORDING)
def test_each_phrase_means_the_same_of_each_finding(language):
    for meant, phrases in WORDING[language]["phrases"].items():
        for label, name in NAMES[language].items():
            said = read([phrase.format(name) for phrase in phrases], label, language)
            assert not [phrase for phrase, got in zip(phrases, said, strict=True) if got != meant], (meant, label)


ANSWERS = {"de": {"no": "nein", "yes": "ja"}, "en": {"no": "no", "yes": "yes"}}


@pytest.mark.parametrize("language", ANSWERS)
@pytest.mark.parametrize("sign", [",", ", ", ": ", ":", " ", "? ", "? - ", "?\n", " - ", " = ", ":\n", "; "])
@pytest.mark.parametrize("end", [". ", ", ", "; ", " / "])
def test_an_answer_behind_a_finding_is_about_it(language, sign, end):
    names = NAMES[language]
    for said in (("no", "yes", "no", "yes"), ("yes", "no", "no", "yes")):
        entries = [f"{n}{sign}{ANSWERS[language][a]}" for n, a in zip(names.values(), said, strict=True)]
        row = label_reports([end.join(entries) + "."], list(names), label_set=language)[0]
        assert tuple(row[label] for label in names) == said, entries


@pytest.mark.parametrize("between", ["\t", "\t\t", "    ", " | "])
@pytest.mark.parametrize("language", ANSWERS)
def test_a_table_may_be_tall_or_wide_with_or_without_a_head(language, between):
    names, said = NAMES[language], ("no", "yes", "no", "yes")
    rows = [(name, ANSWERS[language][answer]) for name, answer in zip(names.values(), said, strict=True)]
    tables = [rows, [("Region", "xyz"), *rows], list(zip(*rows, strict=True))]
    tables += [[("Nr.", *tables[2][0]), ("1", *tables[2][1])]]
    for table in tables:
        text = "\n".join(between.join(row) for row in table)
        row = label_reports([f"Text.\n\n{text}\n"], list(names), label_set=language)[0]
        assert tuple(row[label] for label in names) == said, text


def test_a_table_of_free_text_keeps_its_first_row():
    for between in ("\t", " | "):
        text = "\n".join(between.join(row) for row in [("Herz", "vergrößert"), ("Lunge", "frei"), ("Pleura", "Erguss")])
        row = label_reports([text])[0]
        assert (row["cardiomegaly"], row["effusion"]) == ("yes", "yes")


@pytest.mark.parametrize("marker", ["- ", "* ", "• ", "{n}. ", "{n}) "])
@pytest.mark.parametrize(
    ("language", "line", "meant"),
    [
        ("de", "Kein Nachweis von", "no"),
        ("de", "Kein Anhalt für", "no"),
        ("de", "Ausgeschlossen sind", "no"),
        ("de", "Verdacht auf", "unsure"),
        ("de", "Befund", "yes"),
        ("en", "No evidence of", "no"),
        ("en", "Negative for", "no"),
        ("en", "Suspicious for", "unsure"),
        ("en", "Findings", "yes"),
    ],
)
def test_entries_take_the_sense_of_the_line_above_their_list(language, line, meant, marker):
    names = NAMES[language]
    entries = "\n".join(marker.format(n=n) + name for n, name in enumerate(names.values(), 1))
    after = "\n\nVerkalkung." if language == "de" else "\n\nOsteopenia."
    row = label_reports([f"{line}:\n{entries}{after}"], label_set=language)[0]
    assert {row[label] for label in names} == {meant}
    assert row["calcification" if language == "de" else "osteopenia"] == "yes"


@pytest.mark.parametrize(("first", "second"), list(pairwise([*NAMES["de"], "fracture"])))
def test_a_denial_of_its_own_ends_a_list_that_goes_on_before_it(first, second):
    names = NAMES["de"]
    for end in ("kein Erguss", "kein Nachweis eines Ergusses", "keine Verkalkung am Ansatz"):
        text = f"Keine {names[first]}, {names[second]}, {end}."
        assert read([text], first) == read([text], second) == ["no"]


@pytest.mark.parametrize(
    ("language", "text", "label"),
    [
        ("de", "Herz nicht verlagert{} vergrößert.", "cardiomegaly"),
        ("de", "Herzschatten normal konfiguriert{} deutlich verbreitert.", "cardiomegaly"),
        ("de", "Der Gelenkspalt ist nicht aufgehoben{} verschmälert.", "arthrosis"),
        ("de", "Die Weichteile sind nicht verkalkt{} deutlich verdickt.", "soft_tissue_swelling"),
        ("de", "Kalksalzgehalt nicht erhöht{} leicht vermindert.", "osteopenia"),
        ("en", "Heart not displaced{} enlarged.", "cardiomegaly"),
        ("en", "The heart is not displaced{} mildly enlarged.", "cardiomegaly"),
    ],
)
def test_a_clause_without_a_subject_is_about_that_of_the_clause_before(language, text, label):
    breaks = {"de": [", aber", ", jedoch", ", sondern", ", allerdings"], "en": [", but", " but", ", however"]}[language]
    assert {*read([text.format(word) for word in breaks], label, language)} == {"yes"}
    other = text.format(breaks[0]).rsplit(" ", 1)
    noun = "Aorta" if language == "de" else "the aorta"
    assert "yes" not in read([f"{text.split('{}')[0]}{breaks[0]} {noun} {other[1]}"], label, language)


@pytest.mark.parametrize("word", ["jedoch", "allerdings", "hingegen", "dagegen", "aber"])
def test_a_word_that_parts_clauses_parts_no_verb_from_its_denial(word):
    for verb in ("ist {} nicht nachweisbar", "findet sich {} nicht", "liegt {} nicht vor", "besteht {} nicht"):
        assert read([f"Eine Fraktur {verb.format(word)}."], "fracture") == ["no"]
    assert read([f"Keine Luxation {word} Fraktur der Ulna."], "fracture") == ["yes"]


@pytest.mark.parametrize("part", ["Stufenbildung", "Einstauchung", "Kallusbildung", "Achsabweichung", "Zunahme"])
@pytest.mark.parametrize("place", ["im Bereich der bekannten", "der", "in Höhe der", "innerhalb der", "an der"])
def test_what_is_denied_of_a_finding_takes_it_not_back(part, place):
    for verb in ("findet sich nicht", "ist nicht erkennbar", "liegt nicht vor", "fehlt"):
        assert read([f"Eine {part} {place} Radiusfraktur {verb}."], "fracture") == ["yes"]
    assert read([f"Keine {part} {place} Radiusfraktur."], "fracture") == ["yes"]


@pytest.mark.parametrize("label", sorted(NAMES["de"].keys() & NAMES["en"].keys()))
@pytest.mark.parametrize(
    ("language", "negative"), [("de", "neg"), ("de", "negativ"), ("en", "neg"), ("en", "negative")]
)
def test_negative_denies_the_finding_before_it_written_out_or_cut_short(language, negative, label):
    name = NAMES[language][label]
    texts = [text.format(name, negative) for text in ("{} {}.", "{}: {}", "{} ({})", "{} {}, Osteopenie pos.")]
    other = "Skoliose." if language == "de" else "Scoliosis."
    assert {*read([*texts, f"{name} {negative}. {other}"], label, language)} == {"no"}
    assert read([f"{name} {negative}. {other}"], "scoliosis", language) == ["yes"]
    assert read([f"{name} pos."], label, language) == ["yes"]


@pytest.mark.parametrize("shown", ["Der Nachweis", "Ein Hinweis auf das Vorliegen", "Das Bild", "Ein Zeichen"])
def test_what_shows_a_finding_is_denied_with_it(shown):
    assert {
        *read([f"{shown} der Fraktur {v}." for v in ("gelingt nicht", "liegt nicht vor", "fehlt")], "fracture")
    } == {"no"}


@pytest.mark.parametrize("end", ["des MHK V.", "des Metatarsale 5.", "der Rippen 3 bis 5.", "des Dig. IV."])
@pytest.mark.parametrize("following", ["Keine Luxation", "Rechts keine Luxation", "Rechte Hand: Keine Luxation"])
def test_a_number_ends_a_sentence(end, following):
    row = label_reports([f"Fraktur {end} {following}."], ["fracture", "dislocation"], label_set="de")[0]
    assert (row["fracture"], row["dislocation"]) == ("yes", "no")
    within = ["Keine Fraktur der 5. Rippe. Thrombose der V. cava.", "Die 3. und 5. Rippe ohne Fraktur."]
    assert read(within, "fracture") == ["no", "no"]


@pytest.mark.parametrize(
    ("language", "label", "sign", "doubt"),
    [
        ("de", "fracture", "Kortikale Stufe am Triquetrum", "Fraktur möglich"),
        ("de", "fracture", "Konturunterbrechung der 6. Rippe", "V.a. Fraktur"),
        ("de", "effusion", "Randwinkelverschattung links", "Erguss nicht auszuschließen"),
        ("en", "effusion", "Blunting of the left costophrenic angle", "possible trace effusion"),
        ("en", "infiltrate", "Patchy opacity", "possible pneumonia"),
        ("en", "fracture", "Cortical irregularity", "fracture cannot be excluded"),
    ],
)
def test_a_sign_is_as_sure_as_what_it_is_a_sign_of(language, label, sign, doubt):
    assert read([f"{sign}.", f"{sign}, {doubt}.", f"{doubt}, {sign}."], label, language) == ["yes", "unsure", "unsure"]


@pytest.mark.parametrize(("language", "name"), [("de", "Fraktur"), ("en", "fracture"), ("de", "Fx"), ("en", "fx")])
def test_a_question_mark_before_a_finding_doubts_it(language, name):
    assert {*read([f"?{name}", f"Ulna: ?{name}", f"Ulna: ? {name}", f"Ulna (?{name})"], "fracture", language)} == {
        "unsure"
    }


CUT = {"Lux": "dislocation", "Erg": "effusion", "Inf": "infiltrate", "Frakt": "fracture"}


@pytest.mark.parametrize(("short", "label"), CUT.items())
def test_words_cut_short_are_read(short, label):
    for stop, end in product(("", "."), (", kein Pneu.", ".", "; o.B.")):
        assert read([f"Kein {short}{stop}{end}"], label) == ["no"]
    assert read(["Keine Fx o. Lux., FK Ø, Fx ausgeschl."], "fracture") == ["no"]


@pytest.mark.parametrize("decline", ["Rückbildung", "Vollständige Resorption", "Regredienz"])
def test_what_receded_and_is_no_more_is_gone(decline):
    said = [f"{decline} des Ergusses{more}." for more in (", kein Erguss mehr", ", aktuell keine Ergussbildung mehr")]
    assert read(said, "effusion") == ["no", "no"]
    assert read([f"{decline} des Ergusses rechts, links kein Erguss mehr."], "effusion") == ["yes"]


@pytest.mark.parametrize("part", ["Schraube", "Platte", "distalen Verriegelungsschraube", "Prothese", "K-Drahtes"])
def test_what_breaks_of_a_device_is_no_bone(part):
    texts = [f"Bruch der {part}.", f"Bruch einer {part}, Stellung unverändert.", f"Die {part} ist gebrochen."]
    assert read(texts, "foreign_material") == ["yes"] * 3 and read(texts, "fracture") == [None] * 3
    assert read([f"Bruch des Radius bei einliegender {part}."], "fracture") == ["yes"]


@pytest.mark.parametrize("gone", ["Entfernung der Stellschraube", "Zug der Drainage", "Drainagenzug"])
def test_what_is_removed_is_not_what_stays(gone):
    assert read([f"Nach {gone} unveränderte Lage der Platte."], "foreign_material") == ["yes"]
    assert read([f"Zustand nach {gone}."], "foreign_material") == ["no"]
