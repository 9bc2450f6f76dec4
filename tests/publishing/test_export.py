"""An exported model computes what the encoder and the head computed, wherever it is loaded."""

import functools
import http.server
import json
import os
import subprocess
import sys
import threading

import datasets
import numpy as np
import pytest
import torch
from damaged import encode
from exported import LABELS, PATCH, SIDE, WITHOUT_PACKAGE, head, limb, pixels, small_mae
from rows import make_rows
from transformers import (
    AutoModelForImageClassification,
    ViTConfig,
    ViTMAEForPreTraining,
)

from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.classification import Labels, build_classifier
from hf_radmae.cli.export import ExportArguments, export
from hf_radmae.inference.pipelines import RadiographClassificationPipeline
from hf_radmae.models.encoder import grey_kernel
from hf_radmae.models.modeling_radiograph_vit import pooled_width
from hf_radmae.models.starts import load_encoder
from hf_radmae.pretraining.arguments import DataArguments
from hf_radmae.probing import extract_features, linear_probe, propagated_probe
from hf_radmae.publishing.card import TEMPLATES, render_card
from hf_radmae.publishing.export import (
    export_classifier,
    export_encoder,
    export_fine_tuned,
    export_processor,
    load_fine_tuned,
)
from hf_radmae.publishing.json_files import rewritten_json
from hf_radmae.publishing.private import Private
from hf_radmae.publishing.probe import _batches, probe_classifier

GRIDS = [(SIDE, SIDE), (48, 80), (96, 40)]
POOLINGS = ["cls", "mean", "max+std", "flat"]
WIDTHS = {pooling: pooled_width(pooling, 32) for pooling in POOLINGS}


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """A folder with one exported classifier for each pooling."""
    folder = tmp_path_factory.mktemp("exported")
    for pooling, width in WIDTHS.items():
        classifier = export_classifier(small_mae(), *head(width), LABELS, pooling=pooling)
        classifier.save_pretrained(folder / pooling)
        export_processor(RadiographImageProcessor(), classifier.config).save_pretrained(folder / pooling)
    return folder


@pytest.mark.parametrize("size", GRIDS)
def test_the_encoder_gives_the_features_that_it_gave_before_export(size, tmp_path):
    mae, grey = small_mae(), pixels(limb(*size), limb(*size, seed=1))
    mae.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = mae.encode(grey)
        for encoder in (load_encoder(tmp_path), export_encoder(mae), export_encoder(mae, num_channels=None)):
            images = grey.expand(-1, encoder.config.num_channels, -1, -1)
            features = encoder(images, interpolate_pos_encoding=True).last_hidden_state
            torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
            assert type(encoder.config) is ViTConfig
            assert not [name for name in encoder.config.to_dict() if name.startswith("decoder_")]


@pytest.mark.parametrize(("old", "new"), [(1, 3), (3, 1), (3, 3)])
def test_a_kernel_for_other_channels_sees_the_same_in_a_grey_image(old, new):
    kernel, image = torch.randn(5, old, 8, 8) / 8, torch.rand(2, 1, 24, 24)
    before, after = (
        torch.conv2d(image.expand(-1, len(k[0]), -1, -1), k, stride=8) for k in (kernel, grey_kernel(kernel, new))
    )
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", WIDTHS)
def test_a_classifier_gives_the_logits_of_its_probe_on_extracted_features(pooling):
    mae, (weight, bias) = small_mae(), head(WIDTHS[pooling])
    classifier = export_classifier(mae, weight, bias, LABELS, pooling=pooling)
    for size in GRIDS:
        grey = pixels(limb(*size), limb(*size, seed=1))
        batch = {"pixel_values": grey, "index": torch.arange(2)}
        features = extract_features(mae, [batch], poolings=[pooling])[pooling]
        with torch.no_grad():
            logits = classifier(grey.expand(-1, 3, -1, -1), interpolate_pos_encoding=True).logits
        np.testing.assert_allclose(logits, features @ weight.T + bias, rtol=0, atol=1e-4)


@pytest.mark.parametrize("pooling", WIDTHS)
def test_a_saved_classifier_comes_back_whole_with_its_labels(pooling, repositories):
    classifier = export_classifier(small_mae(), *head(WIDTHS[pooling]), LABELS, pooling=pooling)
    loaded, info = type(classifier).from_pretrained(repositories / pooling, output_loading_info=True)
    assert not any(info.values()), info
    assert all(map(torch.equal, loaded.state_dict().values(), classifier.state_dict().values()))
    assert list(loaded.config.id2label.values()) == LABELS
    assert loaded.config.label2id == {label: number for number, label in enumerate(LABELS)}


def test_the_files_name_no_place_on_this_machine(repositories):
    for path in repositories.rglob("*"):
        if path.is_file():
            for place in (str(repositories), os.path.expanduser("~"), os.getcwd()):
                assert place.encode() not in path.read_bytes(), path


def test_a_class_that_the_probe_never_saw_is_never_predicted():
    weight, bias = head(32)
    bias[1] = -np.inf
    with torch.no_grad():
        logits = export_classifier(small_mae(), weight, bias, LABELS)(pixels(limb()).expand(-1, 3, -1, -1)).logits
    assert logits.softmax(-1)[0, 1] == 0
    assert logits.softmax(-1).sum().item() == pytest.approx(1)


def test_what_cannot_be_exported_is_refused(tmp_path):
    mae = small_mae()
    with pytest.raises(ValueError, match="unknown pooling 'median': choose from cls, mean, max"):
        export_classifier(mae, *head(32), LABELS, pooling="median")
    with pytest.raises(ValueError, match=r"a head of \(3, 32\) .* width 1568 \(flat\): expected \(3, 1568\)"):
        export_classifier(mae, *head(32), LABELS, pooling="flat")
    with pytest.raises(ValueError, match="the labels repeat hand"):
        export_classifier(mae, *head(32), ["hand", "knee", "hand"])
    with pytest.raises(ValueError, match="RadMAEForPreTraining is no ViT or ResNet that was fine-tuned"):
        export_fine_tuned(mae)
    mae.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a vit_mae: only ViTs and ResNets"):
        load_fine_tuned(tmp_path)


@pytest.mark.parametrize("kind", ["vit", "resnet50"])
def test_a_fine_tuned_network_of_one_channel_gives_its_own_logits_in_three(kind, tmp_path):
    labels = Labels(("part",), "single_label_classification", tuple(LABELS))
    trained = build_classifier(kind, labels, image_size=SIDE, patch_size=PATCH, num_channels=1).eval()
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    trained.save_pretrained(tmp_path / "trained")
    exported = export_fine_tuned(load_fine_tuned(tmp_path / "trained"))
    exported.save_pretrained(tmp_path / "exported")
    loaded = load_fine_tuned(tmp_path / "exported").eval()
    grey = pixels(limb(48, 80), limb(48, 80, seed=1))
    with torch.no_grad():
        for model in (exported, loaded):
            logits = model(grey.expand(-1, 3, -1, -1)).logits
            torch.testing.assert_close(logits, trained(grey).logits, rtol=1e-4, atol=1e-4)
    assert loaded.config.num_channels == 3 and Labels.of(loaded.config) == labels


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_score_of_an_exported_probe_is_that_of_its_pipeline(pooling):
    labels = [LABELS[number % 3] for number in range(54)]
    pictures = [encode(limb(*GRIDS[number % 3], seed=number), "PNG") for number in range(54)]  # a shape for each label
    pictures[50] = b"no image"
    rows = make_rows(pictures, columns={"body_part": labels})
    splits = {
        "train": rows.select(range(30)),
        "validation": rows.select(range(30, 42)),
        "test": rows.select(range(42, 54)),
    }
    processor = RadiographImageProcessor(size={"height": SIDE, "width": SIDE})
    encoder = export_encoder(small_mae(), num_channels=None)
    classifier, results = probe_classifier(encoder, processor, splits, "body_part", pooling=pooling)
    assert results["classes"] == sorted(LABELS)
    assert results["left_out"] == {"train": 0, "validation": 0, "test": 1}
    classify = RadiographClassificationPipeline(
        model=classifier, image_processor=export_processor(processor, classifier.config), device="cpu"
    )
    kept = [number for number in range(42, 54) if number != 50]
    right = [classify(pictures[number])[0]["label"] == labels[number] for number in kept]
    assert results["test"]["accuracy"] == pytest.approx(np.mean(right))
    assert results["test"]["accuracy_low"] <= results["test"]["accuracy"] <= results["test"]["accuracy_high"]


@pytest.mark.parametrize("head", ["linear", "propagated"])
def test_an_exported_head_is_the_one_that_was_solved_on_its_features(head):
    """Six labels on 28 readable training images: the others are used by the propagated head only."""
    labels = [LABELS[number % 3] if number < 6 or number >= 30 else None for number in range(42)]
    pictures = [encode(limb(*GRIDS[number % 3], seed=number), "PNG") for number in range(42)]
    pictures[20] = pictures[21] = b"no image"
    rows = make_rows(pictures, columns={"body_part": labels})
    splits = {"train": rows.select(range(30)), "validation": rows.select([]), "test": rows.select(range(30, 42))}
    processor = RadiographImageProcessor(size={"height": SIDE, "width": SIDE}, num_channels=1)
    encoder = export_encoder(small_mae(), num_channels=None)
    features = extract_features(encoder, _batches(splits["train"], processor, 1, lambda _: None), poolings=["mean"])
    truth = np.array(labels, dtype=object)[features.rows]
    solved = {"linear": linear_probe, "propagated": propagated_probe}[head](features["mean"], truth)
    classifier, results = probe_classifier(encoder, processor, splits, "body_part", head=head, num_channels=1)
    unlabelled = 22 if head == "propagated" else 0
    assert (results["head"], results["unlabelled"]) == (head, unlabelled)
    assert results["images"]["train"] == 6 and results["left_out"] == {
        "train": 24 - unlabelled,
        "validation": 0,
        "test": 0,
    }
    batch = {"pixel_values": pixels(limb(48, 80), limb(48, 80, seed=1)), "index": torch.arange(2)}
    expected = solved.logits(extract_features(encoder, [batch], poolings=["mean"])["mean"])[0]
    with torch.no_grad():
        np.testing.assert_allclose(classifier(batch["pixel_values"]).logits, expected, rtol=1e-4, atol=1e-4)
    kept = json.loads(rewritten_json("results.json", json.dumps(results).encode(), Private(frozenset()))[0])
    assert (kept["head"], kept["unlabelled"]) == (head, unlabelled)
    text = render_card(results | {"name": "x"}, TEMPLATES["classifier"])
    assert ("to 22 unlabelled training images" in text) is (head == "propagated")


def test_a_head_is_refused_where_none_is_solved():
    run = ExportArguments(model="x", output_dir="y", encoder=True, head="propagated")
    with pytest.raises(ValueError, match="--head propagated: an encoder alone has no head"):
        export(run, DataArguments())


def test_an_unknown_head_is_refused():
    with pytest.raises(ValueError, match="head='trained': expected linear or propagated"):
        probe_classifier(None, None, {}, "column", head="trained")


def test_without_this_package_logits_and_scores_are_ours(repositories, tmp_path):
    """A file, a picture and a URL, of 8 bits and full range; the pooled ones with the code in their repository."""
    picture = limb()
    (tmp_path / "scan.png").write_bytes(encode(picture, "PNG"))
    code = """
import json
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, pipeline

folder, url = sys.argv[1:3]
found = {}
for pooling in sys.argv[3:]:
    trust = pooling != "cls"
    if trust:
        try:
            AutoModelForImageClassification.from_pretrained(f"{folder}/{pooling}", trust_remote_code=False)
        except ValueError:
            found["refused"] = True
    classify = pipeline("image-classification", f"{folder}/{pooling}", device="cpu", trust_remote_code=trust)
    processor = AutoImageProcessor.from_pretrained(f"{folder}/{pooling}")
    inputs = processor(Image.open("scan.png"), return_tensors="pt")
    found[pooling] = {
        "logits": classify.model(**inputs).logits[0].tolist(),
        "scores": [classify("scan.png"), classify(Image.open("scan.png")), classify(url)],
    }
print(json.dumps(found))
"""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/scan.png"
        run = subprocess.run(
            [sys.executable, "-c", WITHOUT_PACKAGE + code, str(repositories), url, *WIDTHS],
            capture_output=True,
            cwd=tmp_path,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")},
        )
        server.shutdown()
    assert run.returncode == 0, run.stderr.decode()
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["refused"]
    mae, grey = small_mae(), pixels(picture)
    batch = {"pixel_values": grey, "index": torch.arange(1)}
    for pooling, width in WIDTHS.items():
        weight, bias = head(width)
        expected = extract_features(mae, [batch], poolings=[pooling])[pooling][0] @ weight.T + bias
        np.testing.assert_allclose(found[pooling]["logits"], expected, rtol=0, atol=1e-4)
        probabilities = dict(zip(LABELS, torch.tensor(expected).softmax(0).tolist(), strict=True))
        for scores in found[pooling]["scores"]:
            assert {entry["label"]: pytest.approx(entry["score"], abs=1e-4) for entry in scores} == probabilities


def test_the_stock_class_reads_a_checkpoint_of_pre_training_and_the_auto_class_refuses_it(tmp_path):
    """Hence the export."""
    small_mae().save_pretrained(tmp_path)
    assert ViTMAEForPreTraining.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        AutoModelForImageClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize(("values", "kind"), [([0.5, -1.5, 2.0], "regression"), ([["a"], ["b"], []], "multi label")])
def test_a_probe_of_what_is_no_class_is_refused(values, kind):
    rows = datasets.Dataset.from_dict({"column": values})
    with pytest.raises(ValueError, match=f"column column is a {kind}.*finetune.py"):
        probe_classifier(None, None, {"train": rows}, "column")
