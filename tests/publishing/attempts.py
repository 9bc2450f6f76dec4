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


INNOCENT = [
    "Trained with transformers 5.23.0, torch 2.15.0 and Python 3.11.14 on CUDA 12.8.93.",
    "pip install hf_radmae==0.1.0 datasets==4.0.0 fsspec==2025.3.10",
    "torch 2.9.0.dev20250801 was used",
    'encoder = ViTModel.from_pretrained("/path/to/checkpoint", add_pooling_layer=False)',
    'load_dataset("imagefolder", data_dir="/path/to/your/images")',
    "python scripts/pretrain.py --max_tokens 256 --mask_ratio 0.75 --output_dir out/mine",
    "He et al., Masked Autoencoders Are Scalable Vision Learners, arXiv:2111.06377",
    "https://arxiv.org/abs/2010.11929v2",
    "doi:10.1109/CVPR52688.2022.01553",
    "https://doi.org/10.18154/RWTH-2016-06143",
    "doi:10.1007/978-3-030-59710-8_12",
    "Weights began from facebook/vit-mae-base, pre-trained on ImageNet-1k.",
    "Learning rate 1e-3, weight decay 0.05, betas 0.9/0.95, batch 1,024, 100 epochs, warmup 0.05.",
    "Commit 3f2a9c1d4e5b6a7c8d9e0f1a2b3c4d5e6f708192 of the package.",
    "sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "85,798,656 parameters, 12 layers, 768 wide.",
    "85798656 parameters",
    "Best at step 1580000, checkpoint-1580000, seed 42.",
    "12,677 labelled images, 193 codes, 9 regions; split 80/10/10 by patient.",
    "70/15/15 of the patients",
    "Images: 2,053 train, 474 validation, 473 test of 1,204 patients.",
    "| all | pre-trained | 0.733 (0.700 to 0.770) | 0.723 (0.681 to 0.764) |",
    "Patient ids: hashed with a secret key; patient names: none.",
    "No patient names, birth dates or case numbers are in this repository.",
    "## Patient Privacy\n\nSplits are by patient. Patients of one split are in no other.",
    "IRMA code 1121-127-700-500 (ImageCLEFmed 2009), sizes 112x112, 128x80.",
    "DICOM PS3.15 Annex E; transfer syntax 1.2.840.10008.1.2.4.90 is JPEG 2000.",
    "AdamW with Xavier initialisation, Max pooling, Gaussian noise, Dice loss.",
    "Copyright 2026 The hf_radmae authors. Apache License, Version 2.0, January 2004.",
    "MR imaging, CT and radiographs of the Klinikum rechts der Isar, Technical University of Munich.",
    "See https://huggingface.co/facebook/vit-mae-base and https://github.com/huggingface/transformers/pull/29416.",
    "https://zenodo.org/records/10123456 holds the table.",
    "NVIDIA H100 80GB HBM3, 16 cores, 254 images per second (median), 4.8 minutes.",
    "Evaluation loss 2.0288 before, 0.6813 after; at 95 % confidence.",
    "position table 14x14 interpolated, patch 16, image 224x224, 196 tokens",
    "model-00001-of-00002.safetensors and train-00000-of-00012.parquet",
    "The Hand class has 1,024 images, the Foot class 2,048, Right Knee 512.",
    "~/.cache/huggingface holds the downloads; #!/usr/bin/env python",
    "In May 64 images, may 16 of them, were dropped; see section 3.1.2 and table 12.",
    "Trained on radiographs; outputs are logits in [-8.5, 12.25]; epsilon 1e-12, scale 0.00392156862745098.",
    "ISO 13485 and IEC 62304 do not apply: not a medical device, FDA 510(k) none.",
    "Reconstructions are guesses and show nothing of the patient that was masked.",
    "Questions: open a discussion on the repository's page.",
    "chest, hand, foot, pelvis, upper extremity, lower extremity, cranium, spine, breast, abdomen",
    "@article{he2022mae, title={Masked autoencoders are scalable vision learners}, year={2022}, pages={16000--16009}}",
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
INNOCENT_REPOSITORIES = [
    "radmae-tiny",
    "vit-b16-mura-256",
    "hand_foot_classifier",
    "irma-2009",
    "model",
    "chest-xray14",
]

ATTACKS = [
    "The radiograph of Ms Annegret Kowalczyk shows a fracture",
    "pt. Kowalczyk was seen",
    "Pat. Kowalczyk",
    "Patientin Frau K. Meier",
    "Hr. Kowalczyk",
    "Herr Dr. Kowalczyk",
    "Patient name Kowalczyk",
    "Name: Kowalczyk, Jadwiga",
    "Subject: Kowalczyk",
    "*Kowalczyk*, born 1950",
    "geb. Kowalczyk",
    "Jadwiga Kowalczyk (Patientin)",
    "Kowalczyk (geb. 1950)",
    "Kowalczyk *12.3.50",
    "DOB 1950",
    "DOB: 3/50",
    "dob=12/3/1950",
    "born the 12th of March, 1961",
    "Geb.: 12.3.61",
    "12th Mar '61",
    "12/Mar/1961",
    "Mar-12-1961",
    "1961 March 12",
    "61-03-12",
    "1961.03.12",
    "12·03·1961",
    "12–03–1961",
    "12/03-1961",
    "12,03,1961",
    "12_03_1961",
    "１２.０３.１９６１",
    "12.03.1961T08:00",
    "20190403103000",
    "2019-04-03_10-30",
    "19-610-312",
    "ID 4711123",
    "id=4711123",
    "Nr. 4711123",
    "#4711123",
    "Exam 4711123.",
    "4711-1234-56",
    "case 4711",
    "Case: 4711",
    "Fall 4711",
    "Fall-Nr.: 4711/19",
    "Aufnahme-Nr. 123",
    "Patient 4711",
    "patient #17",
    "patient 17 of ward 3",
    "patient id 17",
    "PID 17",
    "MRN-4711",
    "mrn4711",
    "accession4711",
    "Acc. No. 4711",
    "Akz. 4711",
    "SSN 123456789",
    "KVNR A123456789",
    "A 123 456 789",
    "tel 4140 2621",
    "(089) 4140-2621",
    "0170-1234567",
    "+1 (555) 123-4567",
    "00 49 89 41402621",
    "hans.mueller@klinik",
    "hans.mueller[at]klinik.de",
    "hans mueller at klinik dot de",
    "mailto:hans%2Emueller%40klinik%2Ede",
    "P a t i e n t : M u e l l e r",
    "PATIENT: MUELLER",
    "patient_name=mueller",
    'patientName->"Mueller"',
    "<PatientName>Mueller</PatientName>",
    '{"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Mueller^Hans"}]}}',
    "(0010|0010) Mueller",
    "0010,0010 Mueller",
    "Mueller^^^Dr",
    "Müller, H.",
    "H. Müller, patient",
    "Dr Müller",
    "dr. müller",
    "Prof Müller",
    "Professor Müller-Lüdenscheidt",
    "signed: Müller",
    "gez. Müller",
    "Befunder: Müller",
    "read by Müller",
    "Radiologist Müller",
    "Zuweiser: Müller",
    "/mnt/pacs/mueller/1.dcm",
    "\\\\pacs01\\share",
    "C:/Users/mueller",
    "s3://hospital-bucket/mueller",
    "file:/data/x/y",
    "$HOME at /home/mueller",
    "10.23.4.17",
    "AE title PACS01: 192.168.3.4",
    "Max Müller",
    "Anna-Lena Vogt",
    "Wohnhaft Leopoldstr. 12, 80802 München",
    "12 Main Street",
    "R. Schmidt",
    "48616e73204d75656c6c6572",
    "SGFucyBNdWVsbGVy",
    "UGF0aWVudDogTXVlbGxlcg",
    "Pa\xadtient: Mueller",
    "Patient&#58; Mueller",
    "Patient%3A%20Mueller",
    "P&#97;tient Mueller",
    "Ρatient: Mueller",
    "пациент Иванов",
    "患者 田中太郎",
    "hasta Yılmaz",
    "pacjent Kowalski",
    "paziente Rossi",
    "paciente García",
    "Aufnahme 03.04.19",
]
"""Texts of someone who has read the patterns."""
UNSEEN = [
    "patient kowalczyk",
    "patient: kowalczyk",
    "am zwölften März 1961",
    "4 711 123 45",
    "47.111.234",
    "123 45 6789",
    "call 4140-2621",
    "Ignatius Kowalczyk",
    "80802 München",
    "ICD S52.5 for Müller",
]
"""What the gate does not see, so that nobody believes it does."""
