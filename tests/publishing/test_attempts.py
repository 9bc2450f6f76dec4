"""No identifier passes the gate, in whatever place and spelling it is tried, and what is innocent does pass."""

import json
import re
import shutil
from datetime import date
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from attempts import (
    ATTACKS,
    CARD,
    DATES,
    IDENTIFIERS,
    INNOCENT,
    INNOCENT_CLASSES,
    INNOCENT_REPOSITORIES,
    KEYS,
    MONTHS,
    NAMES,
    NUMBERS,
    TRICKS,
    UNSEEN,
    everything,
    images_with,
    in_keys,
    in_texts,
    rewritten,
    with_column,
    with_images,
    write_model,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydicom._dicom_dict import RepeatersDictionary
from pydicom.datadict import tag_for_keyword
from rows import make_rows
from safetensors.numpy import save_file

from hf_radmae.publishing.gate import Statement, refusals, review, text_refusals
from hf_radmae.publishing.keys import key_finding
from hf_radmae.publishing.private import Private
from hf_radmae.publishing.words import profile, words
from hf_radmae.shards.prepare import prepare
from hf_radmae.shards.shrink import PrepareOptions

PRIVATE = Private(frozenset({"node-17"}))
STATEMENT = Statement("cc-by-4.0", "Ids are hashed and every image was looked at.", burned_in_checked=True)


def refused(folder: Path, kind="model") -> list[str]:
    statement = STATEMENT if kind == "dataset" else None
    return refusals(review(folder, kind, PRIVATE, statement), kind, statement)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """A prepared data set with a text, a class and a number as labels."""
    columns = {"side": ["left", "right"] * 6, "region": [0, 1] * 6, "angle": [0.5] * 12}
    rows = make_rows(images=12, columns=columns).cast_column("region", datasets.ClassLabel(names=["chest", "hand"]))
    folder = tmp_path_factory.mktemp("prepared") / "shards"
    prepare({"train": rows}, folder, PrepareOptions(labels=["side", "region", "angle"]), key=b"secret")
    return folder


def test_the_folders_that_are_tampered_with_go(model, shards):
    assert refused(model) == []
    assert refused(shards, "dataset") == []


EVERYWHERE = ("name after a colon", "date, German", "case number", "e-mail", "field in words", "path")
"""Identifiers that are tried in every place in the quick tests; the slow ones try all of them."""


def passed(folder: Path, attempts: dict, kind: str = "model") -> list[str]:
    """The places where an attempt passes; what it changed is restored."""
    found = []
    for place, plant in attempts.items():
        kept = folder.with_name(f"{folder.name}-{len(found)}")
        shutil.copytree(folder, kept)
        plant(folder)
        if not refused(folder, kind):
            found.append(place)
        shutil.rmtree(folder)
        kept.rename(folder)
    return found


@pytest.mark.parametrize("name", IDENTIFIERS)
def test_no_identifier_passes_in_a_card_or_the_name_of_a_class(name, model):
    attempts = in_texts(IDENTIFIERS[name])
    wanted = attempts if name in EVERYWHERE else ("card", "results, class")
    assert passed(model, {place: attempts[place] for place in wanted}) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", IDENTIFIERS)
def test_no_identifier_passes_in_any_place_of_a_model_that_holds_texts(name, model):
    assert passed(model, in_texts(IDENTIFIERS[name])) == []


@pytest.mark.parametrize("name", TRICKS)
def test_no_other_place_and_form_lets_an_identifier_pass(name, model, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    TRICKS[name](folder)
    if not refused(folder):
        sent = everything(review(folder, "model", PRIVATE)).decode()
        assert not re.search("owalczyk|czyk|ueller|üller|Hans|Jadwiga|4711|1961|pacs", sent)


@pytest.mark.parametrize("name", sorted(KEYS))
def test_no_field_of_a_person_passes_in_results(name, model):
    attempts = in_keys(name)
    wanted = attempts if name in ("PatientName", "mrn", "Fallnummer") else ("results",)
    assert passed(model, {place: attempts[place] for place in wanted}) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(KEYS))
def test_no_field_of_a_person_passes_in_any_place_of_a_model_that_has_keys(name, model):
    assert passed(model, in_keys(name)) == []


@pytest.mark.parametrize("spelling", [str, str.lower, str.upper, lambda word: f"my_{word}", lambda word: f"{word}_2"])
def test_every_attribute_of_the_profile_is_known_in_every_spelling(spelling):
    short = {"MAC", "UID", "Date", "Time"}  # within a longer name these are parts of other words
    words = [word for word in profile() if len(word) >= 8 or spelling in (str, str.lower, str.upper)]
    assert len(words) > 500
    assert [word for word in words if word not in short and not key_finding(spelling(word))] == []


def test_the_profile_holds_keywords_of_dicom():
    repeated = {entry[4] for entry in RepeatersDictionary.values()}
    assert [word for word in profile() if tag_for_keyword(word) is None and word not in repeated] == []


def test_no_word_of_the_field_is_taken_for_a_name():
    names = words("given") | words("surname")
    assert names & (words("of_the_field") | words("modules") | words("config") | words("results")) == set()


@pytest.mark.parametrize("kind", images_with(b"Mueller"))
def test_no_text_beside_the_pixels_of_a_shards_image_passes(kind, shards, tmp_path):
    folder = Path(shutil.copytree(shards, tmp_path / "s"))
    rewritten(folder, lambda table: with_images(table, images_with(b"Mueller Hans 1961")[kind]))
    entries = review(folder, "dataset", PRIVATE, STATEMENT)
    if not refusals(entries, "dataset", STATEMENT):
        sent = everything(entries)
        assert b"Mueller" not in sent and b"tIME" not in sent and b"gAMA" not in sent


def in_shards(text: str) -> dict:
    """A text in each place of a prepared data set that holds texts or names."""

    def table(change):
        return lambda folder: rewritten(folder, change)

    def manifest(change):
        def plant(folder: Path) -> None:
            value = json.loads((folder / "manifest.json").read_text())
            change(value)
            (folder / "manifest.json").write_text(json.dumps(value))

        return plant

    def noted(t: pa.Table) -> pa.Table:
        return t.cast(
            pa.schema([f.with_metadata({"n": text}) if f.name == "side" else f for f in t.schema], t.schema.metadata)
        )

    def named(t: pa.Table) -> pa.Table:
        features = t.schema.metadata[b"huggingface"].replace(b'"hand"', json.dumps(text).encode())
        return t.replace_schema_metadata({b"huggingface": features})

    report = json.dumps({"images": 12, "dropped": {text: 1}}).encode()
    return {
        "label": table(lambda t: with_column(t, "side", [text, *["left"] * 11])),
        "metadata of a column": table(noted),
        "metadata": table(lambda t: t.replace_schema_metadata({**t.schema.metadata, b"note": text.encode()})),
        "class": table(named),
        "report of the shard": table(lambda t: t.replace_schema_metadata({**t.schema.metadata, b"hf_radmae": report})),
        "manifest, value": manifest(lambda value: value["source"].update(remark=text)),
        "manifest, known text": manifest(lambda value: value["source"].update(dataset=text)),
        "manifest, key": manifest(lambda value: value["source"].update({text: 1})),
        "manifest, label": manifest(lambda value: value["columns"]["labels"].append(text)),
        "manifest, split": manifest(lambda value: value["rows"].update({text: 1})),
    }


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in EVERYWHERE else pytest.mark.slow) for n in IDENTIFIERS]
)
def test_no_identifier_passes_in_any_place_of_a_data_set(name, shards):
    assert passed(shards, in_shards(IDENTIFIERS[name]), "dataset") == []


@pytest.mark.parametrize("name", ["PatientName", "mrn", "Fallnummer", "study_date", "report", "date of birth"])
def test_no_label_column_may_be_a_field_of_a_person(name, shards, tmp_path):
    folder = Path(shutil.copytree(shards, tmp_path / "s"))
    value = json.loads((folder / "manifest.json").read_text())
    value["columns"]["labels"] = [name, "region", "angle"]
    (folder / "manifest.json").write_text(json.dumps(value))
    rewritten(folder, lambda table: table.rename_columns([name if c == "side" else c for c in table.column_names]))
    assert refused(folder, "dataset")


@pytest.mark.parametrize(
    "values",
    [[4711123 + i for i in range(12)], [19610312] * 12, [float(19610312)] * 12],
    ids=["ids", "dates", "dates as decimals"],
)
def test_numbers_that_are_ids_are_no_labels(values, shards, tmp_path):
    folder = Path(shutil.copytree(shards, tmp_path / "s"))
    many = [*values, *values, *values] if isinstance(values[0], str) else values
    rewritten(folder, lambda table: with_column(table, "side" if isinstance(values[0], str) else "angle", many[:12]))
    if isinstance(values[0], str):  # short codes, one for each image
        rewritten(
            folder,
            lambda table: pa.concat_tables(
                [with_column(table, "side", [f"{n}x{i}" for i in range(12)]) for n in range(9)]
            ),
        )
    assert refused(folder, "dataset")


@pytest.mark.parametrize("name", IDENTIFIERS)
def test_no_identifier_passes_in_the_texts_beside_the_files(name):
    text = IDENTIFIERS[name]
    what = ("the message of the commit", "the name of the branch", "the name of the repository", "the sentence")
    assert [place for place in what if not text_refusals({place: text}, PRIVATE)] == []


@pytest.mark.parametrize("name", EVERYWHERE)
def test_no_identifier_passes_in_the_statement_as_it_stands_on_the_card(name, shards):
    statement = Statement("cc-by-4.0", f"All images were looked at. {IDENTIFIERS[name]}", burned_in_checked=True)
    assert refusals(review(shards, "dataset", PRIVATE, statement), "dataset", statement)


@pytest.mark.parametrize(
    "content",
    [
        b'{"model_type": "vit", "patient_name": "M", "model_type": "vit"}',
        b'{"model_type": "vit", "model_type": "Hans Mueller"}',
        b'{"id2label": {"0": "Hans", "0": "chest"}, "model_type": "vit"}',
    ],
)
def test_a_key_that_stands_twice_is_refused(content, model, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    (folder / "config.json").write_bytes(content)
    assert refused(folder)


@pytest.mark.parametrize(
    "header",
    [
        {"__metadata__": {"format": "pt", "patient": "x"}},
        {"__metadata__": {"format": "Hans"}},
        {"classifier.weight": {"dtype": "U8", "shape": [24], "data_offsets": [0, 24]}},
        {"classifier.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], "note": "Hans"}},
        {"classifier.weight": {"dtype": "F32", "shape": [1, 3], "data_offsets": [12, 24]}},
        {"classifier.weight": {"dtype": "F32", "shape": [2, 3, "Hans"], "data_offsets": [0, 24]}},
        {"hans.mueller": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}},
        {"layer.19610312.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}},
    ],
    ids=lambda header: str(header)[:40],
)
@pytest.mark.parametrize("twice", [False, True])
def test_a_header_of_safetensors_holds_names_types_and_places_alone(header, twice, model, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    good = {"classifier.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    text = json.dumps({**good, **header} if not twice else header)
    if twice:
        text = text[:-1] + "," + json.dumps({**good, "__metadata__": {"format": "pt"}})[1:]
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text.encode() + bytes(24))
    assert refused(folder)


@pytest.mark.parametrize(
    "name",
    [
        *("model-mueller-of-hans.safetensors", "model-19610-of-00312.safetensors", "model-00001-of-00002.safetensors"),
        *("Mueller_Hans.safetensors", "model.Mueller.safetensors", "mueller/config.json", "modeling_mueller.py"),
    ],
)
def test_the_name_of_a_file_tells_nothing(name, model, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    (folder / name).parent.mkdir(exist_ok=True)
    shutil.copy(folder / "model.safetensors", folder / name)
    entries = review(folder, "model", PRIVATE)
    going = [entry.path for entry in entries if entry.is_pushed]
    assert refusals(entries, "model") or name not in going


def test_the_name_of_a_shard_tells_nothing(shards, tmp_path):
    for number, name in enumerate(("mueller-00000-of-00001", "train-19610-of-00312", "train-00000-of-00001-mueller")):
        folder = Path(shutil.copytree(shards, tmp_path / str(number)))
        next(folder.glob("data/*.parquet")).rename(folder / "data" / f"{name}.parquet")
        assert refused(folder, "dataset")


def test_code_goes_only_as_this_package_has_it(model, tmp_path):
    import hf_radmae.models.modeling_radiograph_vit as own

    folder = Path(shutil.copytree(model, tmp_path / "m"))
    shutil.copy(own.__file__, folder / "modeling_radiograph_vit.py")
    assert refused(folder) == []
    with (folder / "modeling_radiograph_vit.py").open("a") as file:
        file.write("# mueller\n")
    assert "byte for byte" in refused(folder)[0]


@pytest.mark.parametrize("text", INNOCENT)
def test_an_innocent_text_passes(text):
    assert PRIVATE.find(text) is None
    assert PRIVATE.find(f"# model\n\nTrained on radiographs.\n\n- {text}\n\nNot for diagnosis.\n") is None


def test_innocent_texts_pass_together_in_a_card_and_each_in_a_message_and_a_statement(model, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    (folder / "README.md").write_text("\n\n".join([CARD, *INNOCENT]))
    assert refused(folder) == []
    for text in INNOCENT:
        what = {"the message of the commit": text, "the sentence": f"All images were looked at. {text}"}
        assert text_refusals(what, PRIVATE) == []


@pytest.mark.parametrize(
    "text", ["Thompson", "Herbert Taylor", "Weber Hans", "Smith left hand", "Mueller 2", "Weber, B"]
)
def test_a_name_of_a_fracture_without_the_fracture_is_one_of_a_person(text):
    assert next(PRIVATE.label_findings(text), None)


def test_innocent_names_of_classes_and_repositories_pass(model, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    names = dict(enumerate(INNOCENT_CLASSES))
    config = {"model_type": "vit", "id2label": names, "label2id": {name: number for number, name in names.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    recalls = {"classes": INNOCENT_CLASSES, "test": {"recall": dict.fromkeys(INNOCENT_CLASSES, 0.5)}}
    (folder / "results.json").write_text(json.dumps(recalls))
    assert refused(folder) == []
    assert (
        json.loads(
            next(e for e in review(folder, "model", PRIVATE) if e.path == "results.json").content or json.dumps(recalls)
        )
        == recalls
    )
    for name in INNOCENT_REPOSITORIES:
        assert text_refusals({"the name of the repository": name, "the name of the branch": "main"}, PRIVATE) == []


@pytest.mark.parametrize("name", ["chest", "hand", "root", "model", "user", "thorax", "gpu", "x1", "knee", "train"])
def test_a_host_or_user_that_is_a_word_of_the_field_forbids_nothing(name, monkeypatch):
    monkeypatch.setenv("LOGNAME", name)
    monkeypatch.setattr("socket.gethostname", lambda: f"{name}.klinik.example")
    assert Private.of_this_machine().find(f"a classifier of {name} radiographs by a model") is None
    assert Private.of_this_machine().find(f"on {name}.klinik.example")


def test_what_a_person_has_looked_at_goes_by_its_hash_and_the_listing_says_so(model, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    (folder / "README.md").write_text(f"{CARD}\nContact: radiology-ai@klinik.example\n")
    said = refused(folder)[0]
    allowed = said.split("--allow ")[1].rstrip(")")
    entries = review(folder, "model", PRIVATE, allow=[allowed])
    assert refusals(entries, "model") == []
    card = next(entry for entry in entries if entry.path == "README.md")
    assert "allowed by hash" in card.reason and "radiology-ai@klinik.example" in card.reason
    (folder / "README.md").write_text(f"{CARD}\nContact: radiology-ai@klinik.example, hans@klinik.example\n")
    assert refusals(review(folder, "model", PRIVATE, allow=[allowed]), "model")


@pytest.mark.parametrize("text", ATTACKS)
def test_a_text_of_someone_who_knows_the_patterns_is_found(text):
    assert PRIVATE.find(text)
    assert PRIVATE.find(f"# model\n\nTrained on radiographs.\n\n- {text}\n\nNot for diagnosis.\n")


@pytest.mark.parametrize("text", UNSEEN)
def test_what_the_gate_does_not_see_is_known(text):
    assert PRIVATE.find(text) is None


@given(
    when=st.dates(date(1920, 1, 1), date(2029, 12, 31)),
    form=st.sampled_from(DATES),
    around=st.sampled_from(("{}", "The image ({}) is here.", "- {}\n", "study from {}: hand")),
)
@settings(max_examples=100, deadline=None)
def test_no_day_passes_however_it_is_written(when, form, around):
    months = {language: names.split()[when.month - 1] for language, names in MONTHS.items()}
    assert PRIVATE.find(around.format(form.format(d=when.day, m=when.month, y=when.year, **months)))


@given(
    given_name=st.sampled_from(sorted(words("given"))),
    surname=st.sampled_from(sorted(words("surname"))),
    unknown=st.sampled_from(("Kowalczykowna", "Zwiebelmann", "Gundogmus", "ABERNATHYSON", "Quispe-Condori", "Öçoğlu")),
    form=st.sampled_from(NAMES),
)
@settings(max_examples=100, deadline=None)
def test_no_name_passes_with_a_known_given_name_or_a_word_beside_it_that_says_so(given_name, surname, unknown, form):
    assume(given_name != surname)
    text = form.format(g=given_name.capitalize(), s=surname.capitalize(), u=unknown)
    assert PRIVATE.find(f"# model\n\n{text}\n\nNot for diagnosis.")


@given(
    name=st.sampled_from(NUMBERS),
    sign=st.sampled_from((": ", " ", "=", "-", " is ", ": #", " | ")),
    number=st.from_regex(r"(?:[A-Z]{1,2}-?)?[1-9]\d{3}(?:[/-]\d{2})?", fullmatch=True),
)
@settings(max_examples=100, deadline=None)
def test_no_number_of_a_person_passes_behind_what_it_is(name, sign, number):
    assert PRIVATE.find(f"# model\n\n{name}{sign}{number}\n\nNot for diagnosis.")


def test_weights_of_every_network_go(tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification, ViTModel

    from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
    from hf_radmae.models.modeling_radiograph_vit import RadiographViTConfig, RadiographViTForImageClassification

    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
    }
    networks = [
        RadMAEForPreTraining(preset_config("tiny")),
        ViTForImageClassification(ViTConfig(**small, patch_size=8)),
        ViTModel(ViTConfig(**small, patch_size=8)),
        RadiographViTForImageClassification(RadiographViTConfig(**small, patch_size=8)),
        ResNetForImageClassification(ResNetConfig(depths=[1, 1], hidden_sizes=[8, 16], embedding_size=8)),
    ]
    for number, network in enumerate(networks):
        folder = tmp_path / str(number)
        network.save_pretrained(folder)
        (folder / "README.md").write_text(CARD)
        entries = review(folder, "model", PRIVATE)
        assert refusals(entries, "model") == []
        kept = {entry.path: entry.verdict for entry in entries}
        assert kept["model.safetensors"] == "goes"
        assert kept["config.json"] in ("goes", "scrubbed")
        sent = next(entry for entry in entries if entry.path == "config.json").content
        whole = json.loads((folder / "config.json").read_text())
        assert sent is None or {k: v for k, v in whole.items() if k != "_name_or_path"} == json.loads(sent)


def test_numbers_keep_their_value(tmp_path, model):
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    arrays = {
        f"vit.layers.{i}.mlp.fc1.weight": np.random.default_rng(i).random((3, i + 1), np.float32) for i in range(4)
    }
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    assert next(e for e in review(folder, "model", PRIVATE) if e.path == "model.safetensors").verdict == "goes"
