"""Every artefact, as a stranger loads it: bare libraries, a fresh process, an empty cache; local, and pushed over HTTP.

Each cell compares with what this package computes, or is a refusal that says what to do.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clients import pusher
from damaged import encode
from exported import LABELS, SIDE, WITHOUT_PACKAGE, head, limb, pixels, small_mae
from rows import make_rows

from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.classification import Labels, build_classifier
from hf_radmae.models.modeling_radiograph_vit import pooled_width
from hf_radmae.publishing.card import TEMPLATES, write_card
from hf_radmae.publishing.export import (
    export_classifier,
    export_encoder,
    export_fine_tuned,
    export_processor,
    lay_out_run,
    save_encoder,
)
from hf_radmae.publishing.gate import Statement
from hf_radmae.shards.prepare import prepare
from hf_radmae.shards.shrink import PrepareOptions

POOLINGS = ("cls", "mean", "max", "std", "flat", "grid", "mean+max+std", "cls+mean")
PROCESSOR = RadiographImageProcessor(size={"height": SIDE, "width": SIDE})
STATEMENT = Statement("cc-by-4.0", "Generated pictures that show nobody, with ids hashed by a secret key.", True)

STRANGER = """
import json, warnings
import torch
from PIL import Image
from torchvision import transforms as T
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, AutoModelForPreTraining
from transformers import pipeline

picture = Image.open("scan.png")

def loop(source, **trust):
    # The image-classification notebook of transformers: its transforms, its model, its loss.
    processor = AutoImageProcessor.from_pretrained(source)
    size = processor.size["height"], processor.size["width"]
    see = T.Compose([T.Resize(size), T.ToTensor(), T.Normalize(processor.image_mean, processor.image_std)])
    model = AutoModelForImageClassification.from_pretrained(source, **trust)
    batch = see(picture.convert("RGB"))[None]
    found = model.eval()(batch).logits[0].tolist()
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.01)
    losses = []
    for _ in range(4):
        output = model(pixel_values=batch, labels=torch.tensor([1]))
        output.loss.backward(); optimizer.step(); optimizer.zero_grad()
        losses.append(output.loss.item())
    return {"logits": found, "learns": losses[-1] < losses[0]}

def classifier(source, remote):
    trust = {"trust_remote_code": True} if remote else {}
    found = {}
    if remote:
        try:
            AutoModelForImageClassification.from_pretrained(source, trust_remote_code=False)
        except ValueError as error:
            found["refused"] = str(error)
    model = AutoModelForImageClassification.from_pretrained(source, **trust).eval()
    inputs = AutoImageProcessor.from_pretrained(source)(picture.convert("RGB"), return_tensors="pt")
    classify = pipeline("image-classification", source, device="cpu", **trust)
    found |= {"auto": model(**inputs).logits[0].tolist(), "pipeline": classify("scan.png")}
    return found | {"loop": loop(source, **trust)}

def encoder(source, whole):
    model = AutoModel.from_pretrained(source).eval()
    inputs = AutoImageProcessor.from_pretrained(source)(picture.convert("RGB"), return_tensors="pt")
    found = {"auto": model(**inputs).last_hidden_state[0].tolist(), "pooled": model(**inputs).pooler_output[0].tolist()}
    found["pipeline"] = pipeline("image-feature-extraction", source, device="cpu")("scan.png")[0]
    if whole:
        mae = AutoModelForPreTraining.from_pretrained(source, subfolder="mae")
        found["mae"] = [type(mae).__name__, mae.decoder.decoder_pred.bias.tolist()]
    return found

def onnx(source, _):
    import onnxruntime
    from huggingface_hub import hf_hub_download
    from pathlib import Path
    path = str(Path(source, "model.onnx")) if Path(source).is_dir() else hf_hub_download(source, "model.onnx")
    inputs = AutoImageProcessor.from_pretrained(source)(picture.convert("RGB"), return_tensors="np")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return {"auto": session.run(None, {"pixel_values": inputs["pixel_values"]})[0][0].tolist()}

def dataset(source, _):
    import datasets
    rows = datasets.load_dataset(source, split="train")
    return {"rows": len(rows), "size": list(rows[0]["image"].size), "columns": rows.column_names}

found = {}
for name, kind, source, option in json.loads(sys.argv[1]):
    try:
        found[name] = globals()[kind](source, option)
    except Exception as error:
        found[name] = {"error": f"{type(error).__name__}: {error}"[:600]}
print(json.dumps(found))
"""


def stranger(cells: list, folder: Path, **environment: str) -> dict:
    """What each cell gives in one new process without this package; its caches are empty."""
    quiet = {"HF_HOME": str(folder / "cache"), "HF_DATASETS_CACHE": str(folder / "cache/data"), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE + STRANGER, json.dumps(cells)],
        capture_output=True,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **quiet, **environment},
        timeout=550,
    )
    assert run.returncode == 0, run.stderr.decode()[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


def save(model, folder: Path, processor: RadiographImageProcessor = PROCESSOR) -> None:
    model.save_pretrained(folder)
    export_processor(processor, model.config).save_pretrained(folder)
    write_card({"name": folder.name, "classes": LABELS}, folder, TEMPLATES["classifier"])


def fine_tuned(pooling: str):
    """What a training saves: its network, whose head was zero at the start, with a head that decides."""
    labels = Labels(("part",), "single_label_classification", tuple(LABELS))
    model = build_classifier("mae", labels, checkpoint=small_mae(), pooling=pooling).eval()
    torch.nn.init.normal_(model.classifier.weight, std=0.2)
    return model


def resnet(num_channels: int):
    torch.manual_seed(0)
    labels = Labels(("part",), "single_label_classification", tuple(LABELS))
    model = build_classifier("resnet50", labels, num_channels=num_channels).eval()
    for parameter in model.classifier.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory):
    """Folder, and for each artefact (kind, option, what this package computes for the picture)."""
    folder, grey = tmp_path_factory.mktemp("artefacts"), pixels(limb())
    (folder / "scan.png").write_bytes(encode(limb(), "PNG"))
    found, three = {}, grey.expand(-1, 3, -1, -1)
    mae = small_mae()
    mae.save_pretrained(folder / "pretrained")
    PROCESSOR.save_pretrained(folder / "pretrained")
    lay_out_run(folder / "pretrained", folder / "pretrained")
    encoder = export_encoder(mae)
    save_encoder(encoder, folder / "encoder")
    export_processor(PROCESSOR, encoder.config).save_pretrained(folder / "encoder")
    with torch.no_grad():
        for name in ("pretrained", "encoder"):
            write_card({"name": name}, folder / name)
            found[name] = "encoder", name == "pretrained", mae.encode(grey)[0]
        for pooling in POOLINGS:
            probe = export_classifier(mae, *head(pooled_width(pooling, 32)), LABELS, pooling=pooling)
            for kind, model in (("probe", probe), ("finetuned", fine_tuned(pooling))):
                name = f"{kind}-{pooling.replace('+', '_')}"
                save(model, folder / name)
                found[name] = "classifier", pooling != "cls", model(three).logits[0]
        for name, network in (("resnet", resnet(3)), ("resnet-grey", resnet(1))):
            save(export_fine_tuned(network), folder / name)
            found[name] = "classifier", False, network(grey.expand(-1, network.config.num_channels, -1, -1)).logits[0]
    return folder, found


def difference(ours: torch.Tensor, theirs: dict) -> dict[str, float]:
    """The largest difference of each way of loading an artefact."""
    cells = {}
    for way in ("auto", "pipeline", "loop"):
        if way not in theirs:
            continue
        values, expected = theirs[way]["logits"] if way == "loop" else theirs[way], ours
        if way == "pipeline" and isinstance(values[0], dict):
            by_label = {entry["label"]: entry["score"] for entry in values}
            values, expected = [by_label[label] for label in LABELS], ours.softmax(-1)
        cells[way] = float(np.abs(np.array(values) - expected.numpy()).max())
    return cells


def check(artefacts: dict, found: dict) -> None:
    table = {}
    for name, (kind, option, ours) in artefacts.items():
        theirs = found[name]
        table[name] = theirs.get("error") or difference(ours, theirs)
        if kind == "classifier" and "error" not in theirs:
            assert theirs["loop"]["learns"], name
            assert ("trust_remote_code" in theirs.get("refused", "")) == option, (name, theirs.get("refused"))
        if kind == "encoder" and "error" not in theirs:
            np.testing.assert_allclose(theirs["pooled"], ours[0], atol=1e-4)
            if option:
                assert theirs["mae"][0] == "ViTMAEForPreTraining"
    print(json.dumps(table, indent=1))  # the table of the cells, with -s
    assert not {name: cell for name, cell in table.items() if isinstance(cell, str) or max(cell.values()) > 1e-4}


def test_a_folder_gives_a_stranger_what_it_gives_us(artefacts):
    folder, made = artefacts
    cells = [[name, kind, str(folder / name), option] for name, (kind, option, _) in made.items()]
    check(made, stranger(cells, folder, HF_HUB_OFFLINE="1"))


@pytest.mark.slow
def test_a_repository_gives_a_stranger_what_it_gives_us(artefacts, hub, tmp_path):
    folder, made = artefacts
    (tmp_path / "scan.png").write_bytes((folder / "scan.png").read_bytes())
    for name in made:
        push = pusher(hub, name)
        push.open()
        push.push(folder / name, "Push")
    cells = [[name, kind, f"user/{name}", option] for name, (kind, option, _) in made.items()]
    check(made, stranger(cells, tmp_path))


@pytest.mark.slow
def test_onnx_files_and_data_sets_give_a_stranger_what_they_give_us(hub, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from hf_radmae.publishing.onnx import export_onnx

    (tmp_path / "scan.png").write_bytes(encode(limb(), "PNG"))
    cells, expected = [], {}
    for pooling in ("cls", "mean+max+std", "flat", "grid"):
        name = f"onnx-{pooling.replace('+', '_')}"
        model = export_classifier(small_mae(), *head(pooled_width(pooling, 32)), LABELS, pooling=pooling)
        save(model, tmp_path / name)
        export_onnx(model, tmp_path / name / "model.onnx")
        with torch.no_grad():
            expected[name] = model(pixels(limb()).expand(-1, 3, -1, -1)).logits[0]
        push = pusher(hub, name)
        push.open()
        push.push(tmp_path / name, "Push")
        cells += [[f"{name} local", "onnx", str(tmp_path / name), None], [f"{name} hub", "onnx", f"user/{name}", None]]
    rows = make_rows([encode(limb(seed=i), "PNG") for i in range(6)])
    prepare({"train": rows}, tmp_path / "shards", PrepareOptions(images_per_shard=3), key=b"k" * 32)
    push = pusher(hub, "shards", kind="dataset", statement=STATEMENT)
    push.open()
    push.push(tmp_path / "shards", "Push")
    cells += [["data local", "dataset", str(tmp_path / "shards"), None], ["data hub", "dataset", "user/shards", None]]
    found = stranger(cells, tmp_path)
    print(json.dumps({name: value for name, value in found.items() if "data" in name or "error" in value}))
    for name, ours in expected.items():
        for where in ("local", "hub"):
            assert max(difference(ours, found[f"{name} {where}"]).values()) < 1e-4
    assert found["data hub"]["rows"] == found["data local"]["rows"] == 6
