"""What the gate lets through tells of no person, machine or place; what it keeps is named with its reason."""

import json
import shutil
import struct
import zlib
from contextlib import nullcontext
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from rows import make_rows
from safetensors.numpy import save_file

from hf_radmae.classification import Labels, build_classifier
from hf_radmae.classification.training_args import ClassifierTrainingArguments
from hf_radmae.pretraining.training_args import RadMAETrainingArguments
from hf_radmae.publishing.gate import Entry, Statement, listing, refusals, review
from hf_radmae.publishing.pictures import pixels_alone
from hf_radmae.publishing.private import Private
from hf_radmae.publishing.tables import _check_column
from hf_radmae.shards.prepare import prepare
from hf_radmae.shards.shrink import PrepareOptions
from hf_radmae.study.arguments import SUPERVISED
from hf_radmae.study.heads import NETWORK_POOLINGS
from hf_radmae.study.pretrained import OURS, PIXEL_POOLINGS, PIXELS, UNTRAINED
from hf_radmae.study.tasks import Share

MODELS = ("majority class", "metadata alone", OURS, UNTRAINED, PIXELS, *SUPERVISED.values())
STATEMENT = Statement(
    "cc-by-4.0", "Ids are hashed, headers dropped, every image was looked at.", burned_in_checked=True
)
PRIVATE = Private(frozenset({"mueller", "node-17"}))
SECRETS = {
    "a path": "/home/someone/scans/MUELLER_HANS/1.dcm",
    "a path of another machine": "began from /gpfs/users/someone/ckpt",
    "a path of a home": "~/archive/scans",
    "a path by file URL": "file:///data/archive/1.dcm",
    "a path of Windows with slashes": "D:/Archive/scans/1.dcm",
    "a path of Windows": r"D:\Archive\scans\1.dcm",
    "a share": r"\\pacs01\archive\1.dcm",
    "a host": "ran on node-17 over night",
    "a user": "by Mueller",
    "an address": "hans.mueller@klinik.example",
    "a token": "hf_" + "aB3" * 11 + "x",
    "a UID": "1.2.276.0.7230010.3.1.4.8323329.1234.1700000000",
}
HARMLESS = [
    "train/data/x.png and out/phantom, 48/64 tokens",
    "https://example.org/home/page",
    "transformers 5.23.0, torch 2.15.0",
    "1.2.840.10008.1.2.4.90 is JPEG 2000",
    "muellerite, node-170",
    "#!/usr/bin/env python",
]


def write_model(folder: Path, metadata: dict | None = None, **config) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(
        {"classifier.weight": np.zeros((2, 3), np.float32)}, folder / "model.safetensors", metadata or {"format": "pt"}
    )
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"} | config))
    (folder / "README.md").write_text("# model\n\n![Reconstructions](reconstructions.png)\n\nNot for diagnosis.\n")
    return folder


def verdicts(folder: Path, kind="model", statement: Statement | None = None) -> dict[str, Entry]:
    return {entry.path: entry for entry in review(folder, kind, PRIVATE, statement)}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """A prepared data set with hashed patients and a label of classes."""
    rows = make_rows(images=24, columns={"patient": [f"M{i // 2:05}" for i in range(24)], "side": [0, 1] * 12})
    rows = rows.cast_column("side", datasets.ClassLabel(names=["left", "right"]))
    folder = tmp_path_factory.mktemp("prepared") / "shards"
    prepare({"train": rows}, folder, PrepareOptions(images_per_shard=12), key=b"secret")
    return folder


def copied(shards: Path, folder: Path) -> Path:
    return Path(shutil.copytree(shards, folder / "copy"))


def rewrite(folder: Path, change) -> None:
    """Puts a changed table in place of the first shard."""
    path = min(folder.glob("data/*.parquet"))
    pq.write_table(change(pq.read_table(path)), path)


@pytest.mark.parametrize("text", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize(
    "file", ["README.md", "config.json", "results.json", "modeling_radiograph_vit.py", "model.safetensors"]
)
def test_a_secret_in_any_file_that_would_go_stops_the_push(file, text, tmp_path):
    folder = write_model(tmp_path / "m", metadata={"format": text} if file == "model.safetensors" else None)
    if file.endswith(".json"):
        (folder / file).write_text(json.dumps({"a": [{"b": text}]}))
    elif file != "model.safetensors":
        (folder / file).write_text(f"# fine\n{text}\n")
    entry = verdicts(folder)[file]
    assert entry.verdict == "refused"
    assert any(reason.startswith(file) for reason in refusals([entry], "model"))


@pytest.mark.parametrize("text", HARMLESS)
def test_what_tells_nothing_is_let_through(text):
    assert PRIVATE.find(text) is None


@given(
    st.text(st.characters(codec="utf-8"), max_size=40), st.sampled_from(sorted(SECRETS.values())), st.text(max_size=40)
)
def test_a_secret_is_found_between_any_lines(before, secret, after):
    assert PRIVATE.find(f"{before}\n{secret}\n{after}")


def test_the_names_of_this_machine_are_looked_for_but_not_those_that_any_text_holds(monkeypatch):
    monkeypatch.setenv("LOGNAME", "HMueller")
    monkeypatch.setattr("socket.gethostname", lambda: "pacs-node.klinik.example")
    here = Private.of_this_machine()
    assert here.words >= {"hmueller", "pacs-node", "pacs-node.klinik.example"}
    assert "hmueller" not in Private.of_this_machine(public="hmueller/radiographs").words  # the owner's name is public
    monkeypatch.setenv("LOGNAME", "root")
    assert "root" not in Private.of_this_machine().words
    assert here.find(str(Path.cwd() / "x"))  # whatever folder of this machine


def test_only_files_of_the_list_go_and_the_rest_is_named_with_a_reason(tmp_path):
    folder = write_model(tmp_path / "m")
    stay = [
        *("training_args.bin", "runs/events.out.tfevents.1.host.2.0", "skipped.csv", "notes.txt", "scan.dcm"),
        *("checkpoint-9/model.safetensors", "optimizer.pt", ".env", "x/README.md", "data/a.parquet"),
    ]
    for name in stay:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "modeling_link.py").symlink_to(folder / "notes.txt")
    found = verdicts(folder)
    assert {name for name, entry in found.items() if entry.is_pushed} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    assert all(found[name].verdict == "stays" and found[name].reason for name in [*stay, "modeling_link.py"])
    assert len(listing(list(found.values())).splitlines()) == len(found)


def test_places_on_this_machine_are_taken_out_of_a_configuration_and_nothing_else(tmp_path):
    folder = write_model(
        tmp_path / "m", _name_or_path="/home/someone/x", hidden_size=32, nested={"data_dir": "/data/x"}
    )
    entry = verdicts(folder)["config.json"]
    assert entry.verdict == "scrubbed"
    assert json.loads(entry.content) == {"model_type": "vit", "hidden_size": 32, "nested": {}}


@pytest.mark.parametrize(
    "value",
    [{"report": "Kein Nachweis einer Fraktur."}, {"patient": "M00001"}, {"patient_id": 12345}, {"x": "wort " * 99}],
)
def test_reports_and_keys_of_patients_in_results_stop_the_push(value, tmp_path):
    folder = write_model(tmp_path / "m")
    (folder / "results.json").write_text(json.dumps({"rows": [value]}))
    assert verdicts(folder)["results.json"].verdict == "refused"


@given(digest=st.integers(0, 2**64 - 1), reports=st.integers(0, 10**7))
def test_digests_and_counts_by_source_stay_and_stop_no_push(tmp_path_factory, digest, reports):
    folder = write_model(tmp_path_factory.mktemp("run"))
    data = {"fingerprint": f"{digest:016x}", "report_labels": "/data/labels.parquet"}
    results = {"name": "run", "data": data, "label_sources": {"train": {"hand": 3, "report": reports}}}
    (folder / "results.json").write_text(json.dumps(results))
    entry = verdicts(folder)["results.json"]
    assert entry.verdict == "scrubbed" and json.loads(entry.content) == {"name": "run", "data": {}}


def test_a_picture_of_the_data_goes_only_if_generated_or_declared_and_the_card_follows(tmp_path):
    folder = write_model(tmp_path / "m")
    Image.new("L", (8, 8)).save(folder / "reconstructions.png")
    found = verdicts(folder)
    assert (found["reconstructions.png"].verdict, found["README.md"].verdict) == ("stays", "scrubbed")
    assert found["README.md"].content == b"# model\n\n\nNot for diagnosis.\n"
    assert verdicts(folder, statement=STATEMENT)["reconstructions.png"].verdict == "goes"
    (folder / "results.json").write_text('{"data": {"dataset": "phantom"}}')
    assert {entry.verdict for entry in verdicts(folder).values()} == {"goes"}


def test_a_png_loses_its_texts_and_keeps_its_pixels(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Author", "mueller")
    texts.add_itxt("Path", "/home/x", zip=True)
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", pnginfo=texts, exif=b"Exif\0\0mueller")
    content = (tmp_path / "a.png").read_bytes() + b"mueller behind the end"
    clean = pixels_alone(content)
    assert b"mueller" not in clean
    assert pixels_alone(clean) == clean
    (tmp_path / "b.png").write_bytes(clean)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.png")), pixels)
    for cut in range(0, len(clean), 7):
        with pytest.raises(ValueError, match=r"neither|cut off"):
            pixels_alone(clean[:cut])


def test_safetensors_may_hold_tensors_and_their_format_alone(tmp_path):
    assert verdicts(write_model(tmp_path / "a"))["model.safetensors"].verdict == "goes"
    for name, metadata in (("b", {"format": "pt", "author": "x"}), ("c", {"format": "pt", "dataset": "y"})):
        entry = verdicts(write_model(tmp_path / name, metadata))["model.safetensors"]
        assert (entry.verdict, *metadata.keys() - {"format"}) == (
            "refused",
            entry.reason.split("metadata ")[1].split(":")[0],
        )
    folder = write_model(tmp_path / "d")
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"behind the end")
    (folder / "README.md").unlink()
    assert verdicts(folder)["model.safetensors"].verdict == "refused"
    assert len(refusals(list(verdicts(folder).values()), "model")) == 2  # and there is no card


def onnx_model(path: Path, change=lambda model: None, weights: int = 1000) -> Path:
    """A graph of one operation on weights, changed."""
    onnx = pytest.importorskip("onnx")
    numbers = np.random.default_rng(0).normal(0, 0.02, weights).astype(np.float32)
    tensor = onnx.numpy_helper.from_array(numbers, "w")
    node = onnx.helper.make_node("Add", ["w", "pixel_values"], ["logits"], name="/vit/layer.0/attention/MatMul")
    ends = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch"]) for n in ("pixel_values", "logits")
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [tensor]))
    change(model)
    onnx.save(model, path)
    return path


def test_an_onnx_file_is_written_anew_without_what_the_exporter_noted(tmp_path):
    """Of two million random weights some read like a path or an address: they are no text."""
    onnx = pytest.importorskip("onnx")
    folder = write_model(tmp_path / "m")

    def notes(model):
        model.doc_string = model.producer_name = model.domain = model.graph.name = "Hans Mueller"
        model.graph.node[0].doc_string = 'File "/home/someone/env/model.py", line 3'
        model.graph.doc_string = model.graph.input[0].doc_string = "Hans Mueller"
        model.graph.initializer[0].doc_string = model.graph.initializer[0].name = "Mueller_Hans"
        model.graph.node[0].name = model.graph.node[0].input[0] = "Mueller_Hans"
        model.graph.value_info.add().name = "Mueller_Hans"
        model.metadata_props.add().value = "Hans Mueller"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "Mueller_unused"))

    onnx_model(folder / "model.onnx", notes, weights=2_000_000)
    content = verdicts(folder)["model.onnx"].content
    assert not [text for text in (b"Mueller", b"someone", b"pytorch") if text in content]
    written = onnx.load_from_string(content)
    assert len(written.graph.initializer) == 1
    onnx.checker.check_model(written)
    (folder / "model.onnx").write_bytes(b"no graph")
    assert verdicts(folder)["model.onnx"].reason == "is no whole ONNX file"


@pytest.mark.parametrize("what", ["input", "dimension", "attribute", "operation", "text tensor", "domain"])
def test_an_onnx_file_with_names_or_texts_of_its_own_is_refused(what, tmp_path):
    onnx = pytest.importorskip("onnx")

    def change(model):
        node = model.graph.node[0]
        if what == "input":
            model.graph.input[0].name = node.input[1] = "mueller"
        elif what == "dimension":
            model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "mueller"
        elif what == "attribute":
            node.attribute.append(onnx.helper.make_attribute("patient", "Hans"))
        elif what == "operation":
            node.op_type = "Mueller"
        elif what == "domain":
            node.domain = "hans.mueller"
        else:
            model.graph.initializer[0].CopyFrom(onnx.helper.make_tensor("w", onnx.TensorProto.STRING, [1], [b"Hans"]))

    folder = write_model(tmp_path / "m")
    onnx_model(folder / "model.onnx", change)
    assert verdicts(folder)["model.onnx"].verdict == "refused"


@pytest.mark.parametrize(("config", "goes"), [({"pooling": "mean"}, False), ({"pooling": "cls"}, True), ({}, True)])
def test_a_head_that_transformers_would_give_the_wrong_token_does_not_go(config, goes, tmp_path):
    found = verdicts(write_model(tmp_path / "m", **config))["config.json"]
    assert found.is_pushed is goes
    assert goes or "scripts/export.py" in found.reason


def test_a_prepared_data_set_goes_with_a_statement_and_not_without(shards):
    entries = review(shards, "dataset", PRIVATE, STATEMENT)
    shard_names = {f"data/train-{i:05}-of-00002.parquet" for i in range(2)}
    assert {entry.path for entry in entries if entry.is_pushed} == {"README.md", "manifest.json", *shard_names}
    assert {entry.verdict for entry in entries if entry.path in shard_names} == {"goes"}  # the same, byte for byte
    assert refusals(entries, "dataset", STATEMENT) == []
    assert "license" in refusals(entries, "dataset")[0]


@pytest.mark.parametrize(
    "license, how", [("", STATEMENT.deidentification), ("CC BY", "x"), ("mit", ""), ("mit", "yes")]
)
def test_a_statement_that_says_nothing_is_none(license, how):
    with pytest.raises(ValueError, match=r"license|de-identification"):
        Statement(license, how)


def replaced(table: pa.Table, name: str, values) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


CHANGES = {
    "a column that is not in the manifest": lambda t: t.append_column("report", pa.array(["Befund"] * len(t))),
    "raw ids of patients": lambda t: replaced(t, "patient", pa.array([f"M{i:05}" for i in range(len(t))])),
    "one raw id": lambda t: replaced(t, "image_id", pa.array([*t["image_id"].to_pylist()[:-1], "1.2.3"])),
    "texts for labels": lambda t: replaced(t, "side", pa.array(["Aufnahme vom 03.04.2019"] * len(t))),
    "long texts": lambda t: replaced(t, "side", pa.array(["a word and " * 9] * len(t))),
    "dates": lambda t: replaced(t, "side", pa.array(["20190403"] * len(t))),
    "nested labels": lambda t: replaced(t, "side", pa.array([{"name": "x"}] * len(t))),
    "paths of images": lambda t: replaced(
        t, "image", pa.array([{"bytes": i["bytes"], "path": "M00001.dcm"} for i in t["image"].to_pylist()])
    ),
    "DICOM in place of pictures": lambda t: replaced(
        t,
        "image",
        pa.array([{"bytes": b"\0" * 128 + b"DICM" + i["bytes"], "path": None} for i in t["image"].to_pylist()]),
    ),
    "metadata of a column": lambda t: t.cast(
        pa.schema([f.with_metadata({"patient": "M1"}) if f.name == "side" else f for f in t.schema], t.schema.metadata)
    ),
    "a text in a mask": lambda t: replaced(
        t,
        "patient_mask",
        pa.array([m[:9] + b"Kowalczyk Jadwiga".ljust(len(m) - 9) for m in t["patient_mask"].to_pylist()]),
    ),
    "a mask of another length": lambda t: replaced(t, "patient_mask", pa.array([b"\x01Jadwiga"] * len(t))),
    "texts in a PGM": lambda t: replaced(
        t,
        "image",
        pa.array([{"bytes": i["bytes"].replace(b"P5\n", b"P5\n# M1\n"), "path": None} for i in t["image"].to_pylist()]),
    ),
    "texts in the last image": lambda t: replaced(
        t,
        "image",
        pa.array(
            [
                {"bytes": i["bytes"] + b"M1" * (row == len(t) - 1), "path": None}
                for row, i in enumerate(t["image"].to_pylist())
            ]
        ),
    ),
    "a name beside an image": lambda t: replaced(
        t, "image", pa.array([i | {"patient_name": "M1"} for i in t["image"].to_pylist()])
    ),
    "metadata": lambda t: t.replace_schema_metadata({**t.schema.metadata, b"pandas": b"{}"}),
    "a path in the metadata": lambda t: t.replace_schema_metadata({b"huggingface": b'{"x": "\\/home\\/a\\/b"}'}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_shard_that_tells_more_stops_the_push(change, shards, tmp_path):
    folder = copied(shards, tmp_path)
    rewrite(folder, lambda table: table)
    assert refusals(review(folder, "dataset", PRIVATE, STATEMENT), "dataset", STATEMENT) == []
    rewrite(folder, change)
    assert len(refusals(review(folder, "dataset", PRIVATE, STATEMENT), "dataset", STATEMENT)) == 1


def test_short_texts_may_be_labels(shards, tmp_path):
    folder = copied(shards, tmp_path)
    rewrite(folder, lambda table: replaced(table, "side", pa.array(["left", None] * 6)))
    assert not refusals(review(folder, "dataset", PRIVATE, STATEMENT), "dataset", STATEMENT)


@pytest.mark.parametrize(
    ("name", "values", "goes"),
    [
        ("fracture_source", ["hand", "report", None], True),
        ("fracture_report", ["yes", "unsure", None], True),
        ("fracture_source", ["hand", "Dr. Meier", None], False),
        ("remark", ["report", "hand", None], False),
    ],
)
def test_where_a_label_is_from_goes_and_who_gave_it_does_not(name, values, goes, tmp_path):
    pq.write_table(pa.table({name: values}), tmp_path / "shard.parquet")
    with nullcontext() if goes else pytest.raises(ValueError, match=f"column {name}: holds"):
        _check_column(pq.ParquetFile(tmp_path / "shard.parquet"), name, [name], PRIVATE, lambda content: False)


@pytest.mark.parametrize("damage", ["cut", "no manifest", "patients as labels"])
def test_a_damaged_data_set_is_refused_with_a_reason(damage, shards, tmp_path):
    folder = copied(shards, tmp_path)
    manifest = folder / "manifest.json"
    if damage == "cut":
        path = min(folder.glob("data/*.parquet"))
        path.write_bytes(path.read_bytes()[:-99])
    elif damage == "no manifest":
        manifest.unlink()
    else:
        values = json.loads(manifest.read_text())
        values["columns"]["labels"] = ["patient"]
        manifest.write_text(json.dumps(values))
    assert refusals(review(folder, "dataset", PRIVATE, STATEMENT), "dataset", STATEMENT)


def test_a_jpeg_is_written_anew_and_nothing_but_its_pixels_is_kept(tmp_path):
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
    pixels.save(tmp_path / "a.jpg", quality=95, comment="mueller")
    content = (tmp_path / "a.jpg").read_bytes()
    second = content[:20] + b"\xff\xe0\x00\x10JFIF\0mueller\0\0" + content[20:]
    for hidden in (content, second, content + b"mueller", content[:-2] + b"\xff\xfe\x00\x09mueller\xff\xd9"):
        clean = pixels_alone(hidden)
        assert b"mueller" not in clean
        (tmp_path / "b.jpg").write_bytes(clean)
        difference = np.asarray(Image.open(tmp_path / "b.jpg"), int) - np.asarray(Image.open(tmp_path / "a.jpg"), int)
        assert np.abs(difference).max() <= 2  # grey values, by rounding
    with pytest.raises(ValueError, match="damaged"):
        pixels_alone(content[: len(content) // 2])


@pytest.mark.parametrize("mode", ["L", "I;16", "RGB", "P", "RGBA", "1"])
def test_a_png_of_any_kind_keeps_its_pixels_and_loses_the_rest(mode, tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (9, 7), np.uint8)
    image = Image.fromarray(array.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(array).convert(mode)
    image.save(tmp_path / "a.png", dpi=(77, 77))
    content = (tmp_path / "a.png").read_bytes()
    data = b"mueller12"
    extra = b"".join(
        struct.pack(">I", 9) + k + data + struct.pack(">I", zlib.crc32(k + data)) for k in (b"tEXt", b"vpAg")
    )
    clean = pixels_alone(content[:33] + extra + content[33:])
    assert b"mueller" not in clean and b"pHYs" not in clean
    (tmp_path / "b.png").write_bytes(clean)
    again = Image.open(tmp_path / "b.png")
    expected = image if mode in ("L", "I;16", "RGB") else image.convert("L" if mode == "1" else "RGB")
    np.testing.assert_array_equal(np.asarray(again), np.asarray(expected))


def test_a_text_behind_the_rows_of_a_png_is_refused():
    rows = zlib.compress(bytes(3 * 4) + b"mueller")
    parts = ((b"IHDR", struct.pack(">IIBBBBB", 3, 3, 8, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    png = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    with pytest.raises(ValueError, match="behind its pixels"):
        pixels_alone(b"\x89PNG\r\n\x1a\n" + png)


def test_a_damaged_chunk_is_no_png():
    chunk = b"IHDR" + bytes(13)
    whole = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk) ^ 1)
    with pytest.raises(ValueError, match="damaged"):
        pixels_alone(whole)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(NotADirectoryError, match="nowhere"):
        review(tmp_path / "nowhere", "model", PRIVATE)


@pytest.mark.parametrize("model", [*MODELS, "vit-base-patch16-224-in21k", "dinov2-base-finetuned-radiographs-224"])
def test_a_table_of_rivals_goes(model, tmp_path):
    folder = write_model(tmp_path / "m")
    for pooling in (*NETWORK_POOLINGS, *PIXEL_POOLINGS, "size", "nothing", "grid5"):
        name = f"{model}, {pooling}"
        table = {"ours": f"{name}, propagated labels", "rival": name, "rows": [{"model": model, "pooling": pooling}]}
        (folder / "results.json").write_text(json.dumps({"name": "run", "probe": table}))
        assert verdicts(folder)["results.json"].verdict != "refused"


@pytest.mark.parametrize(
    "model, rival",
    [
        *(("resnet", "no-such-row, grid"), ("resnet", "resnet, a remark"), ("resnet", "resnet, grid, Hans")),
        ("Mueller", "Mueller, grid"),
    ],
)
def test_a_text_that_is_no_row_of_the_table_stops_the_push(model, rival, tmp_path):
    folder = write_model(tmp_path / "m")
    table = {"rival": rival, "rows": [{"model": model, "pooling": "grid"}]}
    (folder / "results.json").write_text(json.dumps({"name": "run", "probe": table}))
    assert verdicts(folder)["results.json"].verdict == "refused"


@pytest.mark.parametrize("more, verdict", [("", "goes"), (",a remark", "refused"), (",Mueller", "refused")])
def test_the_columns_of_many_labels_go_as_the_labels_do(more, verdict, tmp_path):
    folder = write_model(tmp_path / "m")
    findings = [*("Atelectasis", "Cardiomegaly", "Effusion", "Mass", "Nodule", "Pneumonia"), "Pleural Thickening"]
    findings += ["No Finding", "Enlarged Cardiomediastinum", "Support Devices", "Lung Opacity"]
    label = ",".join(findings) + more
    results = {"name": "run", "model": {"label": label}, "label": label, "classes": findings}
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    assert verdicts(folder)["results.json"].verdict == verdict


@pytest.mark.parametrize("classes", [["Mueller"], ["Hand", "Hans Mueller"]])
def test_labels_that_name_somebody_stop_the_push_wherever_they_stand(classes, tmp_path):
    folder = write_model(tmp_path / "m")
    (folder / "results.json").write_text(json.dumps({"label": ",".join(classes), "classes": classes}))
    assert verdicts(folder)["results.json"].verdict == "refused"


def test_a_row_that_does_not_go_names_no_model(tmp_path):
    folder = write_model(tmp_path / "m")
    rows = [{"model": "Hans Mueller", "pooling": "grid"}]
    (folder / "results.json").write_text(json.dumps({"refused": {"rows": rows}, "rival": "Hans Mueller, grid"}))
    assert verdicts(folder)["results.json"].verdict == "refused"


@pytest.mark.parametrize(
    "labels",
    [
        Labels(("body_region",), "single_label_classification", ("chest", "hand")),
        Labels(("fracture", "foreign_material"), "multi_label_classification", ("fracture", "foreign_material")),
        Labels(("angle",), "regression", ("angle",), 0.5, 2.0),
    ],
    ids=lambda labels: labels.task,
)
def test_the_configuration_of_a_trained_classifier_goes_as_it_is(labels, tmp_path):
    build_classifier("resnet50", labels).config.save_pretrained(write_model(tmp_path / "m"))
    entry = verdicts(tmp_path / "m")["config.json"]
    assert (entry.verdict, entry.reason) == ("goes", "")


def test_the_options_that_decide_a_training_go_with_its_results(tmp_path):
    folder = write_model(tmp_path / "m")
    for kind in (RadMAETrainingArguments, ClassifierTrainingArguments):
        args = kind(output_dir=str(tmp_path), use_cpu=True, report_to=[]).to_dict()
        options = {name: args[name] for name in kind.meaning if isinstance(args[name], str | int | float)}
        (folder / "results.json").write_text(json.dumps({"name": "run", "decided_by": options}))
        content = verdicts(folder)["results.json"].content or (folder / "results.json").read_bytes()
        assert options["optim"] and json.loads(content)["decided_by"] == options


def test_a_folder_without_a_model_is_refused_with_what_may_be_pushed(tmp_path):
    (tmp_path / "report.md").write_text("# Study")
    (said,) = refusals(review(tmp_path, "model", PRIVATE), "model")
    assert "the output folder of pretrain, finetune or export" in said
    (write_model(tmp_path / "m") / "README.md").unlink()
    assert "scripts/export.py, which writes one" in refusals(review(tmp_path / "m", "model", PRIVATE), "model")[0]
    (tmp_path / "m" / "results.json").write_text('{"name": "m"}')
    assert "scripts/card.py" in refusals(review(tmp_path / "m", "model", PRIVATE), "model")[0]


@pytest.mark.parametrize("kind", ["balanced", "plain", "all"])
def test_the_texts_and_timings_of_a_study_do_not_stop_a_push(kind, tmp_path):
    folder = write_model(tmp_path / "m")
    share = str(Share(1.0 if kind == "all" else 0.3, kind))
    step = f"train, ViT, supervised, {share}, rate 0.001, draw 0, body_region"
    results = {"name": "run", "rows": [{"share": share, "summary": "95th percentile"}], "seconds": {step: 1.5}}
    (folder / "results.json").write_text(json.dumps(results))
    written = json.loads(verdicts(folder)["results.json"].content)
    assert written == {name: value for name, value in results.items() if name != "seconds"}
