"""`pipeline` with this package imported: any depth and shape, hostile inputs refused, other models left as they are."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from damaged import encode
from exported import LABELS, PATCH, SIDE, head, limb, small_mae
from PIL import Image
from tiny_dicom import tiny_dicom
from transformers import ViTImageProcessor, pipeline
from transformers.pipelines.image_classification import ImageClassificationPipeline
from transformers.pipelines.pt_utils import KeyDataset

from hf_radmae.batching.binning import fit_bins
from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.images.image import ImageError
from hf_radmae.inference.pipelines import RadiographClassificationPipeline, RadiographFeatureExtractionPipeline
from hf_radmae.publishing.export import export_classifier, export_encoder, export_processor

SIZES = [(64, 64), (96, 40), (40, 96)]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """An exported classifier whose processor has three bins."""
    folder = tmp_path_factory.mktemp("classifier")
    bins = fit_bins(np.array(SIZES), num_bins=3, patch_size=PATCH, max_tokens=64, min_images=1)
    weight, bias = head(32)
    classifier = export_classifier(small_mae(), 20 * weight, bias, LABELS)  # decided, as a trained one
    classifier.save_pretrained(folder)
    export_processor(RadiographImageProcessor(bins=bins.to_dict()), classifier.config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classify(repository):
    return pipeline("image-classification", str(repository), device="cpu")


def by_label(scores: list[dict]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in scores}


def test_a_repository_of_ours_gets_our_pipeline_and_keeps_the_aspect(classify):
    assert type(classify) is RadiographClassificationPipeline
    for height, width in SIZES:
        shape = classify.preprocess(limb(height, width))["pixel_values"].shape
        assert shape[:2] == (1, 3)
        assert shape[2] / shape[3] == pytest.approx(height / width, rel=0.15)


def test_dicom_deep_png_and_shallow_png_get_the_same_label_and_scores_where_stock_saturates(classify, tmp_path):
    shallow = limb(96, 40)
    deep = shallow.astype(np.uint16) * 257
    files = {"deep.dcm": tiny_dicom(deep), "deep.png": encode(deep, "PNG"), "shallow.png": encode(shallow, "PNG")}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    scores = [by_label(classify(str(tmp_path / name))) for name in files]
    scores += [
        by_label(classify(source)) for source in (Image.open(tmp_path / "deep.png"), deep, torch.tensor(shallow))
    ]
    for found in scores:
        assert max(found, key=found.get) == max(scores[0], key=scores[0].get)
        assert found == pytest.approx(scores[0], abs=0.02)
    stock = ImageClassificationPipeline(
        model=classify.model, image_processor=ViTImageProcessor.from_dict(classify.image_processor.to_dict())
    )
    saturated = [stock.preprocess(str(tmp_path / name))["pixel_values"] == 1 for name in ("deep.png", "shallow.png")]
    assert saturated[0].float().mean() > 0.4 > 0.1 > saturated[1].float().mean()


def test_several_images_of_several_shapes_in_one_call(classify):
    pictures = [limb(*size) for size in SIZES]
    assert classify(pictures) == [classify(picture) for picture in pictures]


def _close(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert by_label(one) == pytest.approx(by_label(other), abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 64])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_collection_and_batch_size_gives_the_results_of_single_images_in_order(classify, count, batch_size):
    pictures = [limb(*SIZES[number % 3]) // (1 + number // 3) for number in range(count)]
    rows = datasets.Dataset.from_dict({"image": [Image.fromarray(picture) for picture in pictures]})
    expected = [classify(picture) for picture in pictures]
    collections = [pictures, tuple(pictures), (picture for picture in pictures), iter(pictures)]
    collections += [KeyDataset(rows, "image"), rows["image"]]
    for images in collections:
        _close(list(classify(images, batch_size=batch_size)), expected)


@pytest.mark.parametrize("images", [[], (), iter(())], ids=["list", "tuple", "iterator"])
def test_no_image_has_no_result(classify, images):
    assert list(classify(images)) == []


def test_an_open_file_is_refused_and_not_taken_for_several_images(classify):
    with pytest.raises(ImageError, match="expected a path, bytes"):
        classify(io.BytesIO(encode(limb(64, 64), "PNG")))


def test_features_of_several_shapes_in_one_batch(tmp_path):
    mae = small_mae()
    mae.save_pretrained(tmp_path)
    bins = fit_bins(np.array(SIZES), num_bins=3, patch_size=PATCH, max_tokens=64, min_images=1)
    RadiographImageProcessor(bins=bins.to_dict()).save_pretrained(tmp_path)
    extract = pipeline("image-feature-extraction", str(tmp_path), device="cpu")
    pictures = [limb(*size) for size in SIZES] * 2
    for found, picture in zip(extract(pictures, batch_size=4, return_tensors=True), pictures, strict=True):
        torch.testing.assert_close(found, extract(picture, return_tensors=True), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [np.stack, lambda pictures: torch.tensor(np.stack(pictures))])
def test_a_stack_of_images_is_as_many_images(classify, kind):
    pictures = [np.repeat(limb(64, 64)[..., None], 3, axis=2) // (1 + number) for number in range(3)]
    _close(classify(kind(pictures)), [classify(picture) for picture in pictures])
    with pytest.raises(ImageError):
        classify([np.stack(pictures)])


def test_a_data_url_is_read_as_its_file(classify):
    import base64

    content = encode(limb(), "PNG")
    assert classify(f"data:image/png;base64,{base64.b64encode(content).decode()}") == classify(content)


def test_features_of_an_encoder_and_of_a_checkpoint_are_those_of_encode(tmp_path):
    mae, processor = small_mae(), RadiographImageProcessor(size={"height": 48, "width": 80})
    mae.save_pretrained(tmp_path / "mae")
    processor.save_pretrained(tmp_path / "mae")
    encoder = export_encoder(mae)
    encoder.save_pretrained(tmp_path / "encoder")
    three = RadiographImageProcessor.from_dict(processor.to_dict() | {"num_channels": 3})
    three.save_pretrained(tmp_path / "encoder")
    with torch.no_grad():
        expected = mae.encode(processor(limb(), return_tensors="pt")["pixel_values"])
    for folder in ("mae", "encoder"):
        extract = pipeline("image-feature-extraction", str(tmp_path / folder), device="cpu")
        assert type(extract) is RadiographFeatureExtractionPipeline
        torch.testing.assert_close(extract(limb(), return_tensors=True), expected, rtol=0, atol=1e-5)


def test_a_pooled_classifier_needs_no_trust_in_remote_code_and_no_error_is_logged(tmp_path, caplog):
    classifier = export_classifier(small_mae(), *head(32), LABELS, pooling="mean")
    classifier.save_pretrained(tmp_path)
    export_processor(RadiographImageProcessor(), classifier.config).save_pretrained(tmp_path)
    classify = pipeline("image-classification", str(tmp_path), device="cpu")
    assert set(by_label(classify(limb()))) == set(LABELS)
    assert "not supported" not in caplog.text


def test_other_models_go_the_way_of_transformers(repository, tmp_path):
    """A processor that is not ours: the picture is cut to RGB as without this package."""
    (tmp_path / "scan.png").write_bytes(encode(limb().astype(np.uint16) * 257, "PNG"))
    model = export_classifier(small_mae(), *head(32), LABELS)
    processor = ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    ours = pipeline("image-classification", model=model, image_processor=processor, device="cpu")
    stock = ImageClassificationPipeline(model=model, image_processor=processor)
    assert ours.image_processor is processor
    assert ours(str(tmp_path / "scan.png")) == stock(str(tmp_path / "scan.png"))


def test_more_than_an_image_can_have_is_not_read(classify, monkeypatch, tmp_path):
    monkeypatch.setattr("hf_radmae.inference.pipelines.MAX_BYTES", 100)
    (tmp_path / "scan.png").write_bytes(encode(limb(), "PNG"))
    with pytest.raises(ImageError, match=r"scan\.png: has [\d,]+ bytes: more than 100 are not read"):
        classify(str(tmp_path / "scan.png"))


def test_importing_the_package_changes_nothing_and_importing_the_pipelines_registers_them():
    """In a process of its own, where nothing else has imported anything."""
    code = """
import sys
import six  # has a finder of its own, and pandas imports it where nothing else did
from transformers import AutoConfig, pipelines
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING as models

def state():
    tasks = {task: dict(entry) for task, entry in pipelines.PIPELINE_REGISTRY.supported_tasks.items()}
    registered = dict(CONFIG_MAPPING._extra_content), dict(models._extra_content)
    return list(sys.meta_path), list(sys.path_hooks), tasks, *registered

before = state()
import hf_radmae
for name in hf_radmae.__all__:
    getattr(hf_radmae, name)
assert state() == before
import hf_radmae.inference.pipelines
assert state()[:2] == before[:2]
changed = {task for task, entry in state()[2].items() if entry != before[2][task]}
assert changed == {"image-classification", "image-feature-extraction"}, changed
assert state()[2].keys() == before[2].keys() and set(state()[3]) == {"radiograph_vit"}
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "already registered" not in run.stderr


def test_importing_the_pipelines_is_enough_and_two_hundred_hostile_inputs_are_refused(repository, tmp_path):
    """In a process of its own: transformers comes later, each input gets a named error, and memory stays bounded."""
    code = """
import json, resource, sys
from pathlib import Path
import hf_radmae.inference.pipelines
from transformers import pipeline
from hf_radmae.images.image import ImageError
from hf_radmae.images.storage import StorageError
from damaged import radiograph
from hostile import hostile_inputs

classify = pipeline("image-classification", sys.argv[1], device="cpu")
before = classify(radiograph(64, 64))
start, outcomes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}
for name, source in hostile_inputs(Path(sys.argv[2])):
    try:
        outcomes[name] = f"accepted: {classify(source)}"
    except (ImageError, FileNotFoundError, StorageError) as error:
        outcomes[name] = "" if 10 < len(str(error)) < 6000 else f"says {str(error)!r}"
    except Exception as error:
        outcomes[name] = f"escaped: {type(error).__name__}: {error}"
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024
json.dump({"outcomes": outcomes, "grown": grown, "same": classify(radiograph(64, 64)) == before}, sys.stdout)
"""
    tests = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", code, str(repository), str(tmp_path)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])},
    )
    assert run.returncode == 0, run.stderr.decode()
    found = json.loads(run.stdout)
    assert len(found["outcomes"]) >= 200
    assert not {name: outcome for name, outcome in found["outcomes"].items() if outcome}
    assert found["grown"] < 1024  # MB; the largest honest image takes as much
    assert found["same"]
