"""What a radiologist writes and means: denial, doubt, the past, the other side, what is denied of what is there."""

import csv
import json
import random
import string
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_radmae import label_reports
from hf_radmae.cli.label_reports import LabelArguments, read_reports
from hf_radmae.reports.evaluation import evaluate, evaluation_text
from hf_radmae.reports.join import speaks_of
from hf_radmae.reports.rules import SHIPPED, _mistyped, load_label_set, shipped
from hf_radmae.reports.text import decode, normalise, plain

HERE = Path(__file__).parent
SCRIPT = Path(__file__).parents[2] / "scripts" / "label_reports.py"


def sentences(language: str) -> list[dict]:
    with (HERE / f"sentences_{language}.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row | {"text": row["text"].replace("\\t", "\t").replace("\\n", "\n")} for row in rows]


def answer(text: str, label: str, language: str = "de") -> str | None:
    return label_reports([text], [label], label_set=language)[0][label]


@pytest.mark.parametrize(("language", "least"), [("de", 500), ("en", 225)])
def test_sentences_mean_what_a_radiologist_means(language, least):
    rows, rules = sentences(language), load_label_set(language)
    assert len(rows) >= least
    found = [label_reports([row["text"]], [row["label"]], label_set=rules)[0][row["label"]] for row in rows]
    pairs = [(row, said or "-") for row, said in zip(rows, found, strict=True)]
    wrong = [(row["text"], row["label"], row["answer"], said) for row, said in pairs if said != row["answer"]]
    assert len(wrong) <= 0.01 * len(rows), wrong
    assert not [case for case in wrong if {case[2], case[3]} == {"yes", "no"}]


@pytest.mark.parametrize(
    ("language", "text", "label", "meant"),
    [
        ("de", "Keine Luxation, Fraktur der Ulna und des Radius.", "fracture", "yes"),
        ("de", "Keine Fraktur, deutliche Weichteilschwellung und Gelenkerguss.", "soft_tissue_swelling", "yes"),
        ("de", "Keine Luxation, Fraktur, Fremdkörper oder Verkalkung.", "foreign_material", "no"),
        ("de", "Kein Pneu, Erguss, Infiltrat.", "effusion", "no"),
        ("de", "Keine Frakturen der Rippen rechts, Infiltrate oder Ergüsse.", "effusion", "no"),
        ("de", "Keine Verschattung im Sinne eines Infiltrats.", "infiltrate", "no"),
        ("de", "Keine Dislokation von Radius- und Ulnafraktur.", "fracture", "yes"),
        ("de", "Keine Lockerung oder Bruch der Platte.", "foreign_material", "yes"),
        ("de", "Metallentfernung geplant, Platte.", "foreign_material", "yes"),
        ("de", "Keine Fraktur, deutliche Weichteilschwellung und Gelenkerguss.", "effusion", "yes"),
        ("de", "Keine Fraktur, deutliche Arthrose, Verkalkungen und Erguss.", "calcification", "yes"),
        ("en", "No fracture, mild swelling, and small effusion.", "effusion", "yes"),
        ("en", "No fracture, small effusion or dislocation.", "dislocation", "no"),
        ("en", "No fracture or dislocation, soft tissue swelling and effusion.", "effusion", "yes"),
        ("en", "No fracture, mild osteoarthritis and joint effusion.", "arthrosis", "yes"),
        ("en", "No pneumothorax, pneumonia, effusion, or rib fracture.", "effusion", "no"),
    ],
)
def test_a_denial_reaches_its_list_and_no_further(language, text, label, meant):
    assert answer(text, label, language) == meant


@pytest.mark.parametrize("statement", ["Keine {}", "{}", "Verdacht auf {}", "Kein sicherer Nachweis einer {}"])
@pytest.mark.parametrize(
    "more",
    ["MRT zum Ausschluss einer okkulten Fraktur empfohlen", "CT empfohlen bei Beschwerden", "falls Schmerzen: CT"],
)
def test_what_is_requested_after_a_comma_takes_back_no_statement(statement, more):
    alone = statement.format("Luxation")
    assert answer(f"{alone}, {more}.", "dislocation") == answer(f"{alone}.", "dislocation") != None  # noqa: E711
    assert answer("Fraktur, bitte um Ausschluss.", "fracture") is None


@pytest.mark.parametrize("language", ["de", "en"])
def test_one_wrong_letter_changes_no_answer(language):
    """Each word that is read with typos, each swap, repetition and (in long words) loss, alone and in a compound."""
    content = yaml.safe_load((SHIPPED / f"{language}.yaml").read_text(encoding="utf-8"))
    rules, sentence = load_label_set(language), "Keine {}, keine Radius{}." if language == "de" else "No {}, no {}."
    for word in content["typos"]:
        right = label_reports([sentence.format(word, word)], label_set=rules)[0]
        answers = {label.name: right[label.name] for label in rules.labels}
        assert "no" in answers.values(), word
        for typo in set(_mistyped(word)) - {word}:
            row = label_reports([sentence.format(typo, typo)], label_set=rules)[0]
            assert {name: row[name] for name in answers} == answers, typo


@pytest.mark.parametrize("language", ["de", "en"])
def test_spelling_and_layout_change_no_answer(language):
    """Decomposed umlauts, a byte order mark, soft hyphens, no-break spaces, case and line ends."""
    rows, rules = random.Random(0).sample(sentences(language), 60), load_label_set(language)
    for row in rows:
        text, label = row["text"], row["label"]
        first = label_reports([text], [label], label_set=rules)[0][label]
        words = text.split(" ")
        middle = len(words) // 2
        variants = {
            "decomposed": unicodedata.normalize("NFD", text),
            "mark": "\ufeff" + text,
            "soft hyphen": " ".join(word[:3] + "\u00ad" + word[3:] for word in words),
            "upper": text.upper(),
            "no-break": text.replace(" ", "\u00a0"),
            "wrapped": " ".join(words[:middle]) + "\r\n" + " ".join(words[middle:]) if middle else text,
            "tabs": text.replace(" ", "\t"),
        }
        for name, variant in variants.items():
            assert label_reports([variant], [label], label_set=rules)[0][label] == first, (name, text)


def test_a_word_that_a_lines_end_cuts_is_joined():
    assert answer("Keine Frak-\ntur.", "fracture") == "no"
    assert answer("Distale Radius-\n  fraktur.", "fracture") == "yes"
    assert answer("Radius-\nund Ulnafraktur.", "fracture") == "yes"


SAID = {"fracture": "no", "soft_tissue_swelling": "yes", "effusion": "no", "foreign_material": "yes"}
LINES = ["Keine Fraktur", "Weichteilschwellung über dem Knöchel", "Kein Gelenkerguß", "Einliegende Platte in situ"]
RTF = "".join(c if ord(c) < 128 else f"\\'{ord(c):02x}" for c in ".\\par ".join(LINES))


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(LINES),
        "\n".join(LINES).lower(),
        "\n".join(LINES).upper(),
        "\n".join(f"{number}. {line}" for number, line in enumerate(LINES, 1)),
        "\n".join(f"- {line}" for line in LINES),
        "\\X0D\\".join(LINES),
        "\\X0D0A\\".join(f"{line}." for line in LINES),
        "\\.br\\".join(LINES),
        "~".join(LINES),
        "\\n".join(LINES),
        "_x000D_\n".join(f"{line}." for line in LINES),
        "<p>" + "<br/>".join(LINES).replace("ö", "&ouml;").replace("ß", "&szlig;") + "</p>",
        "{\\rtf1\\ansi\\ansicpg1252{\\fonttbl{\\f0\\fswiss Arial;}}\\f0\\fs20 " + RTF + ".\\par}",
        ". ".join(LINES).encode().decode("cp1252") + ".",
        "Fraktur: nein\nWeichteilschwellung: ja\nErguss:\tkein\nPlatte: ja",
        "Fraktur | nein\nWeichteilschwellung | ja\nErguss | nein\nPlatte | ja",
        "keine fraktur deutliche weichteilschwellung kein erguss einliegende platte",
        "Keine sichtbare\nFraktur. Weichteilschwellung am\nKnöchel. Kein\nErguss. Liegende\nPlatte.",
        "Keine Fraktur\nDeutliche\nWeichteilschwellung\nKein\nErguss\nEinliegende\nPlatte",
    ],
)
def test_any_system_that_a_text_comes_from(text):
    row = label_reports([text], list(SAID))[0]
    assert {name: row[name] for name in SAID} == SAID


@pytest.mark.parametrize(
    "text", ["Spalt ~ 3 mm", "Winkel < 5 Grad & > 2", "Datei C:\\neu\nzwei", "0<x<1", "50 % | 60 %"]
)
def test_text_that_only_looks_like_markup_stays(text):
    assert plain(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "{\\rtf1\\ansi \\u-10179?\\u-8704? Keine Fraktur.}",
        json.loads('"\\ud83d\\ude00 Keine Fraktur"'),
        "\ud83d Keine Fraktur.",
        "Keine Fraktur \ude00",
        "Keine Fraktur.".encode("utf-16") + b"x",
    ],
)
def test_halves_of_characters_reach_no_table(text):
    row = label_reports([text], ["fracture"])[0]
    assert row["fracture"] == "no" and "Keine Fraktur" in row["fracture_evidence"].encode().decode()


def test_each_report_is_read_by_the_rules_of_its_language():
    texts = [
        "Keine Fraktur.",
        "No fracture.",
        "Radiusfraktur.",
        "Scaphoid fracture.",
        "Kein Pneumothorax, kein Erguss.",
    ]
    texts += ["No focal consolidation, pneumothorax, or pleural effusion.", ""]
    rows = label_reports(texts, ["fracture", "pneumothorax"])
    assert [row["label_set"][:2] for row in rows] == ["de", "en", "de", "en", "de", "en", "de"]
    assert [row["fracture"] for row in rows] == ["no", "no", "yes", "yes", None, None, None]
    assert rows[4]["pneumothorax"] == rows[5]["pneumothorax"] == "no"


def test_a_sentence_of_another_language_is_read_by_its_rules():
    texts = ["Befund: Regelrechte Artikulation, die Weichteile sind geschwollen. There is no evidence of fracture."]
    texts += ["There is a fracture of the radius and the ulna. Kein Nachweis von Fremdmaterial im Bild."]
    rows = label_reports(texts)
    assert [row["fracture"] for row in rows] == ["no", "yes"]
    assert [(row["soft_tissue_swelling"], row["foreign_material"]) for row in rows] == [("yes", None), (None, "no")]


@pytest.mark.parametrize("language", ["de", "en"])
def test_the_shipped_sentences_are_read_in_their_language(language):
    texts = [row["text"] for row in sentences(language)]
    found = [row["label_set"][:2] for row in label_reports(texts, ["fracture"])]
    assert found.count(language) >= 0.95 * len(texts), [
        text for text, set_ in zip(texts, found, strict=True) if set_ != language
    ]


def test_what_was_read_is_measured_against_labels_by_hand():
    hand = dict(enumerate(["yes"] * 4 + ["no"] * 5 + ["unsure", None, "no"]))
    read = dict(enumerate(["yes"] * 3 + ["no", "no", "no", "no", "yes", None, "unsure", "yes"]))
    results = evaluate(
        *({key: {"fracture": said} for key, said in side.items()} for side in (hand, read)), ["fracture", "effusion"]
    )
    row = results["labels"]["fracture"]
    assert (
        row["compared"] == 10 and results["missing"] == 1 and row["flips"] == 2 and "effusion" not in results["labels"]
    )
    assert (row["precision"], row["recall"], row["f1"]) == (0.75, 0.75, 0.75)
    low, high = proportion_of(3, 4)
    assert row["precision_low"] == pytest.approx(low) and row["recall_high"] == pytest.approx(high)
    assert row["f1_low"] <= 0.75 <= row["f1_high"] and row["right"] == 0.7
    assert row["confusion"]["yes"] == {"yes": 3, "unsure": 0, "no": 1, "nothing": 0}
    assert row["counts"] == {"yes": 4, "unsure": 1, "no": 4, "nothing": 1}
    assert "75.0" in evaluation_text(results) and "1 labelled ids have no report here" in evaluation_text(results)
    none = evaluate({0: {"fracture": "no"}}, {0: {"fracture": None}}, ["fracture"])["labels"]["fracture"]
    assert none["precision"] is None and none["recall"] is None and none["f1"] is None


def proportion_of(hits: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson 1927."""
    share, extra = hits / trials, z * z / trials
    middle, half = (
        (share + extra / 2) / (1 + extra),
        z / (1 + extra) * (share * (1 - share) / trials + extra / 4 / trials) ** 0.5,
    )
    return middle - half, middle + half


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1"])
def test_bytes_are_decoded(encoding):
    assert decode("Knöchelbruch rechts, Größe unverändert".encode(encoding)) == "Knöchelbruch rechts, Größe unverändert"
    assert answer("Knöcherner Ausriss.".encode(encoding), "fracture") == "yes"


REPORT = """Röntgen Handgelenk rechts in 2 Ebenen vom 03.05.2019

Klinische Angaben: Sturz, Fraktur? Metallentfernung 2017.

Befund{colon}
{findings}

Beurteilung{colon} {conclusion}
"""


@pytest.mark.parametrize("colon", [":", ":\n", "\n"])
@pytest.mark.parametrize(
    ("findings", "conclusion", "labels"),
    [
        ("Stufe am Radius.", "Distale Radiusfraktur.", ("yes", None)),
        ("Fragliche Fissur. Einliegende Platte.", "Keine Fraktur.", ("no", "yes")),
        ("Fraktur des Radius.", "Siehe Befund.", ("yes", None)),
        ("Regelrechte Artikulation.", "Altersentsprechend.", (None, None)),
    ],
)
def test_the_conclusion_outranks_the_findings_and_the_history_is_no_finding(findings, conclusion, labels, colon):
    row = label_reports([REPORT.format(findings=findings, conclusion=conclusion, colon=colon)])[0]
    assert (row["fracture"], row["foreign_material"]) == labels
    assert (row["side"], row["body_part"]) == ("right", "wrist")


def test_of_several_statements_the_strongest_counts_in_any_order():
    texts = ["Keine Rippenfraktur.", "Verdacht auf Fissur.", "Fraktur der Klavikula."]
    for text in (" ".join(texts), " ".join(reversed(texts))):
        assert answer(text, "fracture") == "yes"
    assert answer(" ".join(texts[:2]), "fracture") == "unsure"


def test_evidence_is_the_clause_in_the_reports_own_words():
    row = label_reports(
        ["Weichteile\u00a0unauffällig. Keine Luxation, aber  FRAKTUR der Ulna links. Gips."], ["fracture"]
    )[0]
    assert row["fracture_evidence"] == "FRAKTUR der Ulna links"
    assert row["fracture_rule"] == "stated" and row["fracture_side"] == "left" and row["fracture_body_part"] == "wrist"
    assert row["label_set"] == load_label_set("de").version


@given(st.text(alphabet=string.printable + "äöüÄÖÜß\u00ad\u0308\ufeff", max_size=300))
def test_any_text_is_read_and_places_lie_in_it(text):
    found = normalise(text)
    assert len(found.places) == len(found.content) and all(0 <= place < len(found.original) for place in found.places)
    assert set(label_reports([text], ["fracture"])[0]) >= {"fracture", "fracture_evidence", "label_set"}


@pytest.mark.parametrize("text", [None, "", "\n\n", "Befund:"])
def test_a_text_that_says_nothing_has_no_answer(text):
    assert label_reports([text], ["fracture"])[0]["fracture"] is None


UNITS = ["Fraktur ", "fraktur", "kein ", "Keine Fraktur, ", "metallentfernung", "Befund:", "\n", "-\n", "| ", "; "]


@given(st.sampled_from(UNITS) | st.text("fraktu-|.,;:?!()<>{}\\\\~& \n1", min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_no_text_takes_longer_than_its_length(unit):
    """One word of "fraktur" a thousand times took half a minute; all texts here take a fraction of a second."""
    text = unit * (7000 // len(unit)) + " Fraktur"
    begin = time.process_time()
    label_reports([text])
    assert time.process_time() - begin < 5


def test_what_is_too_long_for_a_word_is_none():
    assert answer("Befund: " + "x" * 99 + "fraktur", "fracture") is None
    assert answer("fraktur" * 30 + ". Keine Luxation.", "dislocation") == "no"


SAYINGS = {
    "fracture": ("Radiusfraktur links", "Keine Fraktur", "Verdacht auf Fissur"),
    "effusion": ("Gelenkerguss", "Kein Gelenkerguss"),
    "dislocation": ("Luxation des Radiusköpfchens", "Keine Luxation", "Keine Luxation erkennbar"),
    "foreign_material": ("Einliegende Platte", "Kein Fremdkörper"),
    "soft_tissue_swelling": ("Deutliche Weichteilschwellung", "Keine Schwellung"),
}
MARKERS = ["{n}) ", "({n}) ", "{n}. ", "{a}) ", "({a}) ", "- ", "* ", "• "]


@given(
    st.permutations(list(SAYINGS)), st.integers(2, 5), st.integers(0, 5), st.sampled_from(MARKERS),
    st.sampled_from(["", "Befund: ", "Befund:\n", "Röntgen Hand links. "]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_list_within_a_line_says_what_its_entries_say(labels, count, choice, marker, begin):
    said = [SAYINGS[label][(choice + place) % len(SAYINGS[label])] for place, label in enumerate(labels[:count])]
    listed = " ".join(marker.format(n=n, a="abcde"[n - 1]) + text for n, text in enumerate(said, 1))
    one, other = label_reports([begin + listed, begin + ". ".join(said) + "."], labels, label_set="de")
    assert [one[label] for label in labels] == [other[label] for label in labels]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("Keine Fraktur der 1. und 2. Rippe.", "no"),
        ("1. und 2. Rippe ohne Fraktur.", "no"),
        ("Befund: 1. Rippe, 2. Rippe und 3. Rippe ohne Fraktur.", "no"),
        ("Fraktur (Dig. 1) der Grundphalanx, kein Erguss (Dig. 2).", "yes"),
        ("Keine Fraktur - soweit beurteilbar - der Handwurzel.", "no"),
        ("Keine Luxation / Fraktur / Fissur.", "no"),
        ("Keine Luxation + Erguss + Radiusfraktur links.", "yes"),
        ("Luxation: nein - Fraktur: ja - Erguss: nein", "yes"),
    ],
)
def test_numbers_and_signs_that_are_no_list(text, meant):
    assert answer(text, "fracture") == meant


@pytest.mark.parametrize("empty", ["[ ]", "[]", "( )", "☐"])
@pytest.mark.parametrize("form", ["{0} {f} {1} {e} {0} {l}", "{f} {0} {e} {1} {l} {0}", "{f}: {0}\n{e}: {1}\n{l}: {0}"])
def test_what_has_an_empty_box_is_denied(form, empty):
    text = form.format(empty, {"☐": "☒", "( )": "(x)"}.get(empty, "[x]"), f="Fraktur", e="Gelenkerguss", l="Luxation")
    row = label_reports(["Befund:\n" + text], ["fracture", "effusion", "dislocation"])[0]
    assert (row["fracture"], row["effusion"], row["dislocation"]) == ("no", "yes", "no")


VERBS = ["ist nicht nachweisbar", "fehlt", "besteht nicht", "stellt sich nicht dar", "kommt nicht zur Ansicht"]


@pytest.mark.parametrize("verb", [*VERBS, "wurde nicht beobachtet", "lässt sich nicht feststellen"])
def test_what_a_verb_behind_denies_is_its_subject(verb):
    assert answer(f"Eine Fraktur {verb}.", "fracture") == "no"
    assert answer(f"Eine Dislokation der Fraktur {verb}.", "fracture") == "yes"
    assert answer(f"Eine Lockerung der einliegenden Schrauben {verb}.", "foreign_material") == "yes"


@pytest.mark.parametrize(
    ("language", "text", "label"),
    [
        ("de", "Gelenkspalt nicht verschmälert.", "arthrosis"),
        ("de", "Nicht vergrößertes Herz.", "cardiomegaly"),
        ("de", "Die Weichteile sind nicht wesentlich vermehrt.", "soft_tissue_swelling"),
        ("de", "Radius nicht frakturiert.", "fracture"),
        ("de", "Es fehlen Frakturzeichen.", "fracture"),
        ("de", "Fraktur (nein), Erguss (ja).", "fracture"),
        ("de", "Fraktur = 0, Erguss = 1", "fracture"),
        ("en", "Fracture (no), effusion (yes).", "fracture"),
    ],
)
def test_a_denial_within_a_phrase_counts(language, text, label):
    assert answer(text, label, language) == "no"


@pytest.mark.parametrize("rule", ["", "|---|---|---|\n", "| :--- | :-: | ---: |\n"])
@pytest.mark.parametrize("frame", ["{}", "| {} |"])
@pytest.mark.parametrize("yes_no", [("ja", "nein"), ("vorhanden", "nicht vorhanden"), ("Positiv", "Negativ")])
def test_a_table_is_read_by_its_rows_or_by_its_head(rule, frame, yes_no):
    said = {"fracture": "no", "effusion": "yes", "dislocation": "no"}
    names, cells = ["Fraktur", "Gelenkerguss", "Luxation"], [yes_no[answer == "no"] for answer in said.values()]
    tables = [[names, cells], [["", *names], ["Ergebnis", *cells]]]
    tables += [[["Frakturen, Ergüsse", "Antwort"], *zip(names, cells, strict=True)]] if rule else []
    for head, *body in tables:
        lines = "\n".join(frame.format(" | ".join(row)) for row in body)
        text = f"Befund:\n{frame.format(' | '.join(head))}\n{rule}{lines}\nGips."
        row = label_reports([text], list(said))[0]
        assert {label: row[label] for label in said} == said, text
        assert yes_no[0] in row["effusion_evidence"] and "rguss" in row["effusion_evidence"]


def test_a_table_of_html_is_read_as_any_other():
    rows_of = [("Fraktur", "nein"), ("Erguss", "ja"), ("Luxation", "nein")]
    tall = "".join(f"<tr><td>{name}</td>\n<td>{cell}</td></tr>" for name, cell in rows_of)
    wide = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in zip(*rows_of, strict=True))
    for table in (tall, wide):
        row = label_reports([f"<table>{table}</table>"], ["fracture", "effusion", "dislocation"])[0]
        assert (row["fracture"], row["effusion"], row["dislocation"]) == ("no", "yes", "no"), table


def test_a_lab_writes_its_own_label_set(tmp_path):
    rules = {
        "language": "nl",
        "version": 3,
        "negated_before": [r"\bgeen\b"],
        "labels": {"fracture": {"terms": [r"\w*breuk\b"]}},
    }
    (tmp_path / "nl.yaml").write_text(yaml.safe_dump(rules))
    rows = label_reports(["Polsbreuk.", "Geen breuk.", "Goed."], label_set=tmp_path / "nl.yaml")
    assert [row["fracture"] for row in rows] == ["yes", "no", None] and rows[0]["label_set"] == "nl-3"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("labels: 3", "expected a mapping with the key labels"),
        ("labels: {a: {terms: ['(']}}", "label a, terms"),
        ("labels: {a: {}}", "label a: expected a mapping with terms"),
        ("labels: {a: {terms: [x]}}\nnegated: [y]", "unknown key negated"),
        ("labels: {a: {terms: [x], not: [y]}}", "unknown key not"),
        (": [", "cannot be read"),
    ],
)
def test_a_label_set_that_is_none_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "own.yaml").write_text(content)
    with pytest.raises(ValueError, match=f"own.yaml.*{message}"):
        load_label_set(tmp_path / "own.yaml")


def test_unknown_names_are_answered_with_what_there_is():
    assert shipped() == ["de", "en"]
    with pytest.raises(ValueError, match=r"no label fractures; it has fracture, "):
        label_reports(["x"], ["fractures"])
    with pytest.raises(FileNotFoundError, match="the shipped sets are de, en"):
        label_reports(["x"], label_set="fr")


def test_where_a_second_reader_differs_the_answer_is_unsure():
    rows = label_reports(
        ["Keine Fraktur.", "Radiusfraktur.", "Gips."],
        ["fracture"],
        second_reader=lambda text, labels: {"fracture": None if "Gips" in text else "yes"},
    )
    assert [row["fracture"] for row in rows] == ["unsure", "yes", None]
    assert rows[0]["fracture_rule"] == "rules: no, second reader: yes"


def test_a_fracture_of_the_wrist_labels_no_chest_image():
    assert speaks_of("wrist", "left", "hand", "left") and speaks_of("wrist", None, "forearm")
    assert speaks_of(None, None, "chest") and speaks_of("lumbar_spine", None, "spine")
    assert not speaks_of("wrist", None, "chest") and not speaks_of("wrist", "left", "wrist", "right")


def start(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True, timeout=300)


def test_the_command_reads_a_folder_and_a_table_alike(tmp_path):
    texts = {"a/1": "Keine Fraktur.", "a/2": "Radiusfraktur links.", "b": "Gips."}
    for name, text in texts.items():
        (tmp_path / "reports" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "reports" / f"{name}.txt").write_bytes(text.encode("cp1252"))
    (tmp_path / "reports" / ".DS_Store").write_bytes(b"Fraktur")
    lines = "\n".join(f'{name};"{text}"' for name, text in texts.items())
    (tmp_path / "reports.csv").write_text(f"exam;befund\n{lines}\n", encoding="utf-8")
    out = tmp_path / "out.parquet"
    run = start("--input", tmp_path / "reports", "--output", out, "--labels", "fracture")
    assert run.returncode == 0, run.stderr
    folder = pq.read_table(out)
    assert folder["id"].to_pylist() == list(texts) and folder["fracture"].to_pylist() == ["no", "yes", None]
    assert not list(tmp_path.glob("*.parts"))
    run = start("--input", tmp_path / "reports.csv", "--text_column", "befund", "--output", out, "--labels", "fracture")
    assert run.returncode == 0, run.stderr
    assert pq.read_table(out).equals(folder)
    (tmp_path / "hand.csv").write_text("exam,fracture\na/1,NO\na/1,\na/2,0\na/2,1\nb,-1\nc,unsure\n")
    words = ["--input", tmp_path / "reports.csv", "--text_column", "befund", "--output", out, "--labels", "fracture"]
    run = start(*words, "--evaluate", tmp_path / "hand.csv")
    assert run.returncode == 0 and "100.0" in run.stdout and "1 labelled ids have no report here" in run.stdout, run
    measured = json.loads((tmp_path / "out.results.json").read_text())["labels"]["fracture"]
    assert measured["compared"] == 2 and measured["flips"] == 0
    run = start("--input", tmp_path / "reports.csv", "--output", out)
    assert run.returncode == 1 and "there is no column text; the columns are exam, befund" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_report_without_an_id_is_named(tmp_path):
    (tmp_path / "reports.csv").write_text("exam,text\n1,Gips.\n,Fraktur.\n")
    with pytest.raises(ValueError, match=r"reports.csv: column exam is empty in row 1 \(0 is the first\)"):
        read_reports(tmp_path / "reports.csv", "text", None)
    (tmp_path / "own.csv").write_text("name,text\n1,Gips.\n,Fraktur.\n")
    assert read_reports(tmp_path / "own.csv", "text", None) == (["0", "1"], ["Gips.", "Fraktur."])


def test_every_text_file_of_a_folder_is_a_report_and_the_log_counts_the_others(tmp_path, caplog):
    """Ids with dots are no endings, linked folders are followed, and hidden ones are left out."""
    folder, elsewhere = tmp_path / "reports", tmp_path / "elsewhere"
    for path in (folder / "A.TXT", folder / "1.2.840.7", folder / "sub" / "a.txt", elsewhere / "b", folder / "c.html"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("Fraktur")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "gone.txt").symlink_to(tmp_path / "nowhere")
    names, texts = read_reports(folder, "text", None)
    assert names == ["1.2.840.7", "A", "linked/b", "sub/a"] and texts == [b"1.2.840.7", b"A.TXT", b"b", b"a.txt"]
    assert "2 other files" in caplog.text and "1 .html, gone.txt is a link to nothing" in caplog.text


def test_reports_of_a_table_may_be_encoded_or_in_parts_and_ids_fractions(tmp_path):
    pq.write_table(pa.table({"id": [7.0], "text": ["Keine Fraktur, Größe".encode()]}), tmp_path / "a.parquet")
    assert read_reports(tmp_path / "a.parquet", "text", None) == (["7"], ["Keine Fraktur, Größe".encode()])
    pq.write_table(pa.table({"id": [7.5], "text": [["Befund", None, "Gips."]]}), tmp_path / "b.parquet")
    assert read_reports(tmp_path / "b.parquet", "text", None) == (["7.5"], ["Befund\nGips."])
    for name, table in (("none", pa.table({"id": [1.0, np.nan], "text": ["", ""]})), ("empty", pa.table({"text": []}))):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match="column id is empty in row 1"):
        read_reports(tmp_path / "none.parquet", "text", None)
    with pytest.raises(ValueError, match="there is no report in this table"):
        read_reports(tmp_path / "empty.parquet", "text", None)


def test_labels_are_not_written_over_the_reports_nor_as_another_format(tmp_path):
    reports = tmp_path / "r.parquet"
    for output, message in ((reports, "is --input, which would be overwritten"), ("labels.csv", "a Parquet file")):
        with pytest.raises(ValueError, match=message):
            LabelArguments(input=f"{tmp_path}/x/../r.parquet", output=str(output))
