"""Ways to slip an identifier through the gate: places of a repository, identifiers, and texts that are innocent."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from safetensors.numpy import save_file

CARD = "---\nlibrary_name: transformers\ntags:\n- radiograph\n---\n\n# model\n\nNot for diagnosis.\n"
CONFIG = {
    "model_type": "vit",
    "hidden_size": 32,
    "id2label": {"0": "chest", "1": "hand"},
    "label2id": {"chest": 0, "hand": 1},
}

IDENTIFIERS = {
    "name after patient": "Patient Hans Müller",
    "name after a colon": "Patient: Mueller",
    "name in bold": "**Patient:** Mueller",
    "name in a table": "| Patient | Mueller, Hans |",
    "name after title": "reported by Dr. Weber",
    "name after titles": "Prof. Dr. med. Anna Weber",
    "name after Frau": "Frau Yılmaz",
    "name after Mr": "Mr. Smith",
    "surname first": "Schneider, Hans",
    "given name first": "Hans Schneider",
    "name of DICOM": "MUELLER^HANS",
    "name and birth": "Müller, geb. 1961",
    "name in entities": "&#80;atient M&uuml;ller",
    "name with an invisible sign": "Pat\u200bient Müller",
    "name in look-alike letters": "Раtient Müller",
    "name in base64": "UGF0aWVudCBIYW5zIE3DvGxsZXI=",
    "birth date": "geb. 12.03.1961",
    "birth date, English": "born on March 12, 1961",
    "date, year first": "1961-03-12",
    "date, slashes": "1961/03/12",
    "date, month first": "03/12/1961",
    "date, day first": "12.3.1961",
    "date, two digits": "12.03.61",
    "date, spaces": "12. 03. 1961",
    "date, bare": "19610312",
    "date, bare, day first": "12031961",
    "date, German": "12. März 1961",
    "date, French": "12 mars 1961",
    "date, Spanish": "12 de marzo de 1961",
    "date, Turkish": "12 Mart 1961",
    "date, Polish": "12 marca 1961",
    "date, Russian": "12 марта 1961",
    "date, Roman": "12.III.1961",
    "date, Japanese": "1961年3月12日",
    "date, short month": "12-MAR-1961",
    "date and time": "1961-03-12T10:22:00",
    "case number": "Fallnummer 4711",
    "case number, English": "case no. 4711",
    "record number": "MRN: 00471123",
    "number with zeros": "00471123",
    "long number": "4711123456",
    "number of letters and digits": "KIS-2019-00471",
    "insurance number": "A123456789",
    "social security number": "123-45-6789",
    "phone": "+49 89 4140 2621",
    "phone, local": "089/41402621",
    "e-mail": "hans.mueller@klinik.example",
    "e-mail in words": "hans.mueller (at) klinik (dot) de",
    "UID": "1.2.276.0.7230010.3.1.4.8323329.1234.1700000000",
    "field and value": "PatientName: Mueller",
    "field in words": "Patient's Name: Mueller",
    "field of a language": "Geburtsdatum: 1961",
    "element": "(0010,0010) PN Mueller",
    "street": "Leopoldstraße 12",
    "path": "/home/someone/scans/1.dcm",
    "path of Windows": r"D:\\Archive\\1.dcm",
    "host": "trained on node-17",
}
KEYS = {
    *("PatientName", "patient_name", "patientname", "Patient's Name", "patient-name", "PATIENT NAME", "patientName2"),
    *("original_patient_id", "mrn", "MRN", "hospital_mrn", "case number", "case_no", "Fallnummer", "fall_nr", "fallId"),
    *(
        "Geburtsdatum",
        "geburtsdatum",
        "date of birth",
        "DOB",
        "dob_1",
        "AccessionNumber",
        "accession",
        "StudyInstanceUID",
    ),
    *("ReferringPhysicianName", "InstitutionName", "StudyDate", "study_date", "OtherPatientIDs", "PatientBirthDate"),
    *("Nachname", "vorname", "Versichertennummer", "ssn", "email", "telefon", "Befund", "report", "ImageComments"),
}
"""Names of fields that identify people, in spellings."""


def write_model(folder: Path) -> Path:
    """A small model's folder that goes as it is."""
    folder.mkdir(parents=True)
    save_file({"classifier.weight": np.zeros((2, 3), np.float32)}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "README.md").write_text(CARD)
    (folder / "results.json").write_text(
        json.dumps({"name": "m", "test": {"accuracy": 0.5}, "classes": ["chest", "hand"]})
    )
    (folder / "LICENSE").write_text("Copyright 2026 The authors\n")
    return folder


def _card(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "README.md").write_text(text)


def _json(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        path = folder / name
        value = json.loads(path.read_text()) if path.is_file() else {}
        change(value)
        path.write_text(json.dumps(value))

    return plant


def _weights(name: str, form: str) -> Callable[[Path], None]:
    return lambda folder: save_file({name: np.zeros(3, np.float32)}, folder / "model.safetensors", {"format": form})


def in_texts(text: str) -> dict[str, Callable[[Path], None]]:
    """A text in each place of a model's repository that holds texts."""
    quoted = json.dumps(text)
    return {
        "card": _card(f"{CARD}\n{text}\n"),
        "card, over two lines": _card(f"{CARD}\n{text.replace(' ', chr(10), 1)}\n"),
        "card, comment": _card(f"{CARD}\n<!-- {text} -->\n"),
        "card, code": _card(f"{CARD}\n```python\nx = {quoted}\n```\n"),
        "card, metadata": _card(CARD.replace("- radiograph", f"- radiograph\n- {quoted}")),
        "licence": lambda folder: (folder / "LICENSE").write_text(f"Copyright\n{text}\n"),
        "results, value": _json("results.json", lambda v: v["test"].update(remark=text)),
        "results, known text": _json("results.json", lambda v: v.update(label=text)),
        "results, class": _json("results.json", lambda v: v["classes"].append(text)),
        "results, key": _json("results.json", lambda v: v["test"].update({text: 1})),
        "results, deep": _json("results.json", lambda v: v.update(rows=[[{"a": [text]}]])),
        "configuration, class": _json("config.json", lambda v: v["id2label"].update({"2": text})),
        "configuration, class as a key": _json("config.json", lambda v: v["label2id"].update({text: 2})),
        "configuration, option": _json("config.json", lambda v: v.update(hidden_act=text)),
        "processor": _json("preprocessor_config.json", lambda v: v.update(scaling=text)),
        "tensor": lambda folder: save_file(
            {text: np.zeros(3, np.float32)}, folder / "model.safetensors", {"format": "pt"}
        ),
        "metadata of weights": lambda folder: save_file(
            {"classifier.weight": np.zeros(3, np.float32)}, folder / "model.safetensors", {"format": text}
        ),
    }


def in_keys(name: str) -> dict[str, Callable[[Path], None]]:
    """A field's name with a harmless value, in each place of a model's repository that has keys."""
    return {
        "results": _json("results.json", lambda v: v.update({name: "x"})),
        "results, number": _json("results.json", lambda v: v["test"].update({name: 7})),
        "configuration": _json("config.json", lambda v: v.update({name: 7})),
        "configuration, class": _json("config.json", lambda v: v["id2label"].update({"2": name})),
        "processor": _json("preprocessor_config.json", lambda v: v.update({name: "x"})),
        "metadata of the card": _card(CARD.replace("tags:", f'"{name}": x\ntags:')),
        "tensor": lambda folder: save_file(
            {name: np.zeros(3, np.float32)}, folder / "model.safetensors", {"format": "pt"}
        ),
    }


def _changed(file: str, /, **parts) -> Callable[[Path], None]:
    """Updates a file of JSON, part by part where one is a table already."""

    def change(value: dict) -> None:
        for key, part in parts.items():
            value[key] = {**value[key], **part} if isinstance(part, dict) and key in value else part

    return _json(file, change)


def _with(text: str, instead_of: str = "") -> Callable[[Path], None]:
    return _card(CARD.replace(instead_of, text) if instead_of else f"{CARD}\n{text}\n")


def _file(name: str, content: str) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)

    return plant


TRICKS = {
    "results nested key fallnummer": _changed("results.json", test={"x": {"y": {"Fall_Nummer": 4711}}}),
    "results list of strings": _changed("results.json", rows=[["Kowalczyk", "Jadwiga"]]),
    "results name": _changed("results.json", name="Hans Müller"),
    "results name one word": _changed("results.json", name="hans_mueller_1961"),
    "results name date": _changed("results.json", name="run_19610312"),
    "results name case": _changed("results.json", name="KIS-4711"),
    "results dataset": _changed("results.json", data={"dataset": "klinik/hans-mueller"}),
    "results data_dir": _changed("results.json", data={"data_dir": "mueller_hans"}),
    "results device": _changed("results.json", environment={"device": "Hans Mueller 4711"}),
    "results device host": _changed("results.json", environment={"device": "pacs-mueller.klinik.local"}),
    "results torch version": _changed("results.json", environment={"torch": "1961.3.12"}),
    "results version text": _changed("results.json", environment={"torch": "2.9+mueller.hans"}),
    "results int id": _changed("results.json", test={"accuracy": 471112345}),
    "results int birth": _changed("results.json", test={"born": 19610312}),
    "results negative": _changed("results.json", test={"loss": -471112345}),
    "results float": _changed("results.json", test={"loss": 471112345.0}),
    "results list of digits": _changed("results.json", loss=[1, 9, 6, 1, 0, 3, 1, 2]),
    "results bool null": _changed("results.json", Kowalczyk=None),
    "results key name": _changed("results.json", test={"Jadwiga Kowalczyk": True}),
    "results images by patient": _changed("results.json", images={"Kowalczyk_J": 3}),
    "results patients": _changed("results.json", patients={"4711123": 3}),
    "results seeds": _changed("results.json", arguments={"seed": 19610312}),
    "results command": _changed("results.json", command="python x --patient Mueller"),
    "results label": _changed("results.json", label="Mueller"),
    "results model": _changed("results.json", model={"model": "mueller/hans"}),
    "results model path": _changed("results.json", model={"model": "/data/mueller"}),
    "results rivals": _changed("results.json", data={"rivals": ["Mueller_Hans"]}),
    "results where": _changed("results.json", data={"where": "patient=Mueller"}),
    "results where2": _changed("results.json", data={"where": "PatientID=4711"}),
    "config id2label": _changed("config.json", id2label={"2": "Kowalczyk, Jadwiga"}),
    "config id2label text": _changed("config.json", id2label={"2": "fracture of Mr Kowalczyk"}),
    "config id2label key": _changed("config.json", id2label={"4711123": "hand"}),
    "config label2id value": _changed("config.json", label2id={"hand": 4711123}),
    "config architectures": _changed("config.json", architectures=["HansMueller"]),
    "config auto_map": _changed("config.json", auto_map={"AutoModel": "modeling_mueller.Hans"}),
    "config model_type": _changed("config.json", model_type="mueller_hans"),
    "config _name_or_path": _changed("config.json", _name_or_path="/home/mueller/x"),
    "config transformers_version": _changed("config.json", transformers_version="1961.03.12"),
    "config unknown number": _changed("config.json", mueller=1),
    "config unknown list": _changed("config.json", extra=[{"note": "Kowalczyk"}]),
    "config task_specific": _changed("config.json", task_specific_params={"Mueller": {"a": 1}}),
    "config summary": _changed("config.json", finetuning_task="Patient Mueller"),
    "config unicode": _changed("config.json", id2label={"2": "M\u00fcller\u200b Hans"}),
    "processor type": _changed("preprocessor_config.json", image_processor_type="HansMueller"),
    "processor date": _changed("preprocessor_config.json", size={"height": 19610312, "width": 1}),
    "card tags": _with("- Mueller Hans", "- radiograph"),
    "card base_model": _with(
        "library_name: transformers\nbase_model: mueller/hans-1961-03-12", "library_name: transformers"
    ),
    "card yaml anchor": _with(
        "library_name: transformers\nmodel_name: &x 'Patient Mueller'", "library_name: transformers"
    ),
    "card yaml comment": _with("# Patient Mueller\nlibrary_name: transformers", "library_name: transformers"),
    "card html attr": _with('<img alt="Patient Mueller" src="https://x.org/a.png">'),
    "card link": _with("[x](https://pacs.klinik.de/patients/4711123)"),
    "card link2": _with("[x](https://klinik.de/?PatientName=Mueller&PatientID=4711)"),
    "card datauri": _with("![x](data:image/png;base64,iVBORw0KGgo=)"),
    "card table": _with("| name | birth | id |\n|---|---|---|\n| Kowalczyk | 1961 | 4711 |\n"),
    "card table2": _with("| patient | age |\n|---|---|\n| Kowalczyk | 61 |\n"),
    "card csv": _with("```\npatient_id,name,age\n4711,Kowalczyk,61\n```\n"),
    "card list": _with("Patients:\n\n* Kowalczyk\n* Okafor\n"),
    "card json": _with('```json\n{"PatientName": "Kowalczyk", "id": 4711}\n```\n'),
    "card footnote": _with("[^1]: P. Kowalczyk, *1961\n"),
    "card rtl": _with("\u202erelleuM snaH\u202c"),
    "card entity": _with("P&#x61;tient&nbsp;Kowalczyk"),
    "card html between": _with("Pat<b></b>ient: Kowal<i>czyk</i>"),
    "card zero width": _with("Pa\u2060tient: Kowalczyk"),
    "card fullwidth": _with("Ｐａｔｉｅｎｔ： Ｋｏｗａｌｃｚｙｋ"),
    "card math": _with("𝐏𝐚𝐭𝐢𝐞𝐧𝐭: 𝐊𝐨𝐰𝐚𝐥𝐜𝐳𝐲𝐤"),
    "card url encoded": _with("Patient%20Kowalczyk"),
    "card backslash": _with("Pa\\tient: Kowalczyk"),
    "card reversed": _with("Kowalczyk (patient)"),
    "card bigram": _with("patient\n\n## Kowalczyk"),
    "license": _file("LICENSE", "MIT\nPatient: Kowalczyk"),
    "license c": _file("LICENSE", "Copyright 1961 Patient Kowalczyk, geb. 12.3.1961"),
    "extra file": _file("Kowalczyk.txt", "x"),
    "extra file below": _file("mae/Kowalczyk.json", "{}"),
    "recipe": _file("recipe.yaml", "patient: Kowalczyk"),
    "log": _file("events.out.tfevents.1700000000.pacs-17", "Kowalczyk"),
}
"""Places and forms that the places above do not have."""


def png(pixels: np.ndarray, kind: bytes, data: bytes, palette: bool = False) -> bytes:
    """A PNG with a further chunk before its pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).convert("P" if palette else "L").save(file, "PNG")
    content = file.getvalue()
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content[:33] + chunk + content[33:]


def jpeg(pixels: np.ndarray, segment: bytes = b"", behind: bytes = b"") -> bytes:
    """A JPEG with a further segment before its tables, and something behind its end."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    content = file.getvalue()
    return content[:20] + segment + content[20:] + behind


def images_with(text: bytes) -> dict[str, bytes]:
    """Encoded images that hold a text beside their pixels."""
    pixels = np.random.default_rng(0).integers(0, 255, (24, 24), np.uint8)
    size = struct.pack(">H", len(text) + 2)
    table = struct.pack(">H", 67) + b"\0" + text.ljust(64, b"\x20")[:64]
    return {
        "PNG tEXt": png(pixels, b"tEXt", b"Author\0" + text),
        "PNG gAMA": png(pixels, b"gAMA", text[:4]),
        "PNG pHYs": png(pixels, b"pHYs", text.ljust(9)[:9]),
        "PNG PLTE": png(pixels, b"PLTE", text.ljust(27)[:27]),
        "PNG sBIT": png(pixels, b"sBIT", text[:1]),
        "PNG eXIf": png(pixels, b"eXIf", text),
        "PNG private chunk": png(pixels, b"vpAg", text),
        "PNG tIME": png(pixels, b"tIME", struct.pack(">HBBBBB", 1961, 3, 12, 0, 0, 0)),
        "JPEG comment": jpeg(pixels, b"\xff\xfe" + size + text),
        "JPEG second APP0": jpeg(pixels, b"\xff\xe0" + size + text),
        "JPEG APP1": jpeg(pixels, b"\xff\xe1" + size + text),
        "JPEG APP15": jpeg(pixels, b"\xff\xef" + size + text),
        "JPEG table that is not used": jpeg(pixels, b"\xff\xdb" + table.replace(b"\0", b"\3", 1)),
        "JPEG behind the end": jpeg(pixels, behind=text),
        "PGM comment": b"P5\n# " + text + b"\n24 24\n255\n" + pixels.tobytes(),
        "PGM behind the end": b"P5\n24 24\n255\n" + pixels.tobytes() + text,
        "PGM sizes": b"P5\n0024 24\n255\n" + pixels.tobytes(),
        "TIFF": b"II*\0" + text,
        "DICOM": b"\0" * 128 + b"DICM" + text,
    }


def rewritten(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Puts a changed table in place of the first shard."""
    path = min(folder.glob("data/*.parquet"))
    pq.write_table(change(pq.read_table(path)), path)


def with_images(table: pa.Table, content: bytes) -> pa.Table:
    images = pa.array([{"bytes": content, "path": None}] * len(table), table.schema.field("image").type)
    return table.set_column(table.column_names.index("image"), table.schema.field("image"), images)


def with_column(table: pa.Table, name: str, values: list) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def everything(entries: list) -> bytes:
    """All that goes, in one text: names, contents, and the values of Parquet's columns."""
    parts = []
    for entry in entries:
        if entry.is_pushed:
            target = Path(entry.path).name
            buffer = _written(entry)
            parts += [entry.path.encode(), buffer]
            if target.endswith(".parquet"):
                table = pq.read_table(pa.BufferReader(buffer))
                parts += [str(table.schema).encode(), str(table.drop(["image"]).to_pylist()).encode()]
                parts += [row["bytes"] for row in table["image"].to_pylist()]
    return b"\n".join(parts)


def _written(entry) -> bytes:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        entry.write(Path(folder, "x"))
        return Path(folder, "x").read_bytes()


def lines(name: str) -> list[str]:
    return (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()


INNOCENT = [
    *lines("innocents.txt"),
    "## Patient Privacy\n\nSplits are by patient. Patients of one split are in no other.",
    "| split | images | patients |\n|---|---|---|\n| train | 1,204 | 800 |\n| test | 120 | 90 |",
    "| name | value |\n|---|---|\n| accuracy | 0.91 |",
    "| Model | Accuracy | AUROC |\n|---|---|---|\n| ResNet-50 | 0.81 | 0.9 |",
    "| patient | images |\n|---|---|\n| 7f3a9f86d081884c | 3 |",
]
INNOCENT_CLASSES = [
    *(
        "chest",
        "upper extremity",
        "no finding",
        "Fraktur",
        "Pleural Effusion",
        "1121-127-700-500",
        "T2-weighted",
        "left hand",
    ),
    *(
        "0",
        "12",
        "YES",
        "foreign material",
        "ellbow/AP",
        "Röntgen Thorax a.p.",
        "COVID-19",
        "Knie, rechts",
        "grade 3",
        "BI-RADS 4",
    ),
]
INNOCENT_CLASSES += [
    "Weber B",
    "Weber C fracture",
    "Smith fracture",
    "Jones fracture",
    "Colles fracture",
    "Bennett fracture",
    "Salter-Harris II",
    "Kellgren-Lawrence 3",
    "KL 4",
    "Garden III",
    "Baker cyst",
    "Schmorl node",
    "Hill-Sachs lesion",
    "Bankart lesion",
    "Cobb angle",
    "Paget",
    "Perthes",
    "Osgood-Schlatter",
    "Hawkins 2",
    "AO 23-A2",
    "S52.5",
    "M17.1",
    "C34.1",
    "1121-115-700-400",
    "Thorax a.p.",
    "Knie rechts 2 Ebenen",
    "mano izquierda",
    "sağ el",
    "Lung Opacity",
    "Enlarged Cardiomediastinum",
    "Pleural_Thickening",
    "Support Devices",
    "XR_WRIST",
    "negative",
    "positive",
    "1",
    "2",
    "left",
    "rechts",
    "male",
    "female",
    "fracture/no fracture",
    "Hand/Finger",
    "normal (0)",
    "grade 0",
    "Grade IV",
    "age<18",
    ">= 65",
    "0-9 years",
    "10-19",
    "BI-RADS 4a",
    "T1",
    "L5/S1",
    "C7",
    "C1-C2",
    "Th12",
    "Angle > 10°",
    "hallux valgus",
    "Swimmer's view",
    "Merchant view",
    "Judet view",
    "Lauenstein",
    "Rosenberg",
    "Velpeau",
    "Patella axial",
    "Panorama",
    "DX",
    "CR",
    "MG",
    "Siemens",
    "Philips",
    "Agfa",
    "Canon",
    "GE",
    "scanner A",
    "hospital 2",
    "site-3",
    "Tuberculosis",
    "Scaphoid",
    "MCP 3",
    "Dig. II",
    "Femur prox.",
    "Kopf",
    "Arm",
    "Rose",
]
INNOCENT_CLASSES += lines("eponyms.txt")
INNOCENT_REPOSITORIES = [
    "radmae-tiny",
    "vit-b16-mura-256",
    "hand_foot_classifier",
    "irma-2009",
    "model",
    "chest-xray14",
]

ATTACKS = lines("attacks.txt")
"""Texts of someone who has read the patterns."""
UNSEEN = lines("unseen.txt")
"""What the gate does not see, so that nobody believes it does."""

DATES = (
    *("{d:02}.{m:02}.{y}", "{d}.{m}.{y}", "{y}-{m:02}-{d:02}", "{y}/{m:02}/{d:02}", "{m:02}/{d:02}/{y}", "{d}-{m}-{y}"),
    *(
        "{y}{m:02}{d:02}",
        "{y}{m:02}{d:02}T103000",
        "{y}-{m:02}-{d:02}T10:30:00Z",
        "img_{y}{m:02}{d:02}_01",
        "{d} {m} {y}",
    ),
    *("{d}. {m}. {y}", "geb. {d}.{m}.", "geb. {y}", "born {en} {y}", "*{d:02}.{m:02}.{y}", "{y}_{m:02}_{d:02}"),
    *("{en} {d}, {y}", "{d} {en} {y}", "{d}th of {en} {y}", "{d}. {de} {y}", "{d} de {es} de {y}", "{d} {tr} {y}"),
    *("dob {m}/{y}", "Geburtsdatum {d}.{m}.{y}", "{d:02}{m:02}{y}", "seen on {en} {d}", "Aufnahme vom {d}. {de}"),
)
"""Ways to write a day, with months in English, German, Spanish and Turkish."""
MONTHS = {
    "en": "January February March April May June July August September October November December",
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "tr": "Ocak Şubat Mart Nisan Mayıs Haziran Temmuz Ağustos Eylül Ekim Kasım Aralık",
}
NAMES = (
    *("{g} {s}", "{s}, {g}", "{s}^{g}", "{g}_{s}", "{g}{s}", "{g} {u}", "{u}, {g}", "patient {s}", "{g}-{g} {s}"),
    *(
        "Patient {u}",
        "Patient: {u}",
        "patient name: {u}",
        "Dr. {u}",
        "Frau {u}",
        "Herr {u}",
        "Mrs. {u}",
        "{u}, geb. 1950",
    ),
    *(
        "| Patient | {u} |",
        "Patientenname={u}",
        "Prof. Dr. {u}",
        "read by Dr {u}",
        "name of the patient is {u}",
        "Sr. {u}",
    ),
    *("Patient's name: {u}", "patient called {u}", "**Patient** {u}", "Pat. {u}", "Hasta adı {u}", "paciente {u}"),
)
"""Ways to name a person: `g` a given name and `s` a surname of the lists, `u` a name that stands in no list."""
NUMBERS = (
    *(
        "Fallnummer",
        "Fall-Nr.",
        "case number",
        "case no.",
        "Case ID",
        "MRN",
        "Patient ID",
        "patient_id",
        "Pat.-Nr.",
        "PID",
    ),
    *("medical record number", "accession number", "AccessionNumber", "Auftragsnummer", "KIS-Nr.", "insurance number"),
    *("hospital number", "study ID", "exam no", "hasta no", "número de historia", "Aktenzeichen", "Versichertennummer"),
)
"""What stands before the number of a person or an examination."""
