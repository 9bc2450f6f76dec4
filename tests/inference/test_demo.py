"""The page to try a model on: what it shows, what it refuses, that it keeps to this machine; in a browser too."""

import os
import resource
import runpy
import shutil
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
from damaged import encode, radiograph
from exported import LABELS, PATCH, head, limb, small_mae
from hostile import contents, hostile_inputs
from PIL import Image
from tiny_dicom import tiny_dicom

from hf_radmae.batching.binning import fit_bins
from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.cli import demo as demo_command
from hf_radmae.images.background import patch_mask
from hf_radmae.images.image import ImageError
from hf_radmae.inference.demo import MAX_UPLOAD, Viewer, read_upload
from hf_radmae.inference.pipelines import RadiographClassificationPipeline
from hf_radmae.publishing.export import export_classifier, export_processor
from hf_radmae.sources.phantom import generate

SCRIPT = Path(__file__).parents[2] / "scripts" / "demo.py"
SIZES = [(64, 64), (96, 40), (40, 96)]
OF_ENCODER = ["as the model sees it", "informative patches", "attention of the CLS token"]
OF_DECODER = ["masked input", "reconstruction"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of pre-training, and classifiers of its CLS token and of the mean of its patches."""
    folder = tmp_path_factory.mktemp("models")
    bins = fit_bins(np.array(SIZES), num_bins=3, patch_size=PATCH, max_tokens=64, min_images=1)
    processor, mae = RadiographImageProcessor(bins=bins.to_dict()), small_mae()
    mae.save_pretrained(folder / "mae")
    processor.save_pretrained(folder / "mae")
    for pooling in ("cls", "mean"):
        weight, bias = head(32)
        classifier = export_classifier(mae, 20 * weight, bias, LABELS, pooling=pooling)
        classifier.save_pretrained(folder / pooling)
        export_processor(processor, classifier.config).save_pretrained(folder / pooling)
    return folder


@pytest.fixture(scope="module")
def viewer(folders):
    return Viewer(folders / "mae", folders / "cls")


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_label_is_that_of_the_pipeline_and_probabilities_add_up(folders, pooling):
    viewer = Viewer(folders / "mae", folders / pooling)
    view, image = viewer(limb(96, 40)), limb(96, 40)
    assert isinstance(viewer.classify, RadiographClassificationPipeline)
    expected = {entry["label"]: entry["score"] for entry in viewer.classify(image)}
    assert view.scores == pytest.approx(expected, abs=1e-5)
    assert sum(view.scores.values()) == pytest.approx(1)
    assert list(view.pictures) == OF_ENCODER + OF_DECODER


def test_each_model_alone_shows_what_it_can(folders):
    alone = Viewer(pretrained=folders / "mae")(limb())
    assert (alone.scores, list(alone.pictures)) == ({}, OF_ENCODER + OF_DECODER)
    assert list(Viewer(classifier=folders / "cls")(limb()).pictures) == OF_ENCODER


def test_pictures_have_the_shape_of_the_bin_and_depth_and_container_do_not_matter(viewer):
    shallow = limb(96, 40)
    deep = shallow.astype(np.uint16) * 257
    first = viewer(encode(shallow, "PNG"))
    assert {picture.shape for picture in first.pictures.values()} == {(96, 40, 3)}
    for content in (encode(deep, "PNG"), tiny_dicom(deep), deep, Image.fromarray(shallow)):
        view = viewer(content)
        assert view.scores == pytest.approx(first.scores, abs=0.02)
        for name in OF_ENCODER:
            assert np.abs(view.pictures[name].astype(int) - first.pictures[name]).mean() < 2


def test_background_is_dimmed_and_information_is_left_as_it_is(viewer):
    pictures = viewer(limb()).pictures
    plain, tinted = pictures["as the model sees it"], pictures["informative patches"]
    patches = patch_mask(limb(), (8, 8))
    assert patches.any() and not patches[:, :1].any()
    shown = np.kron(patches, np.ones((PATCH, PATCH), bool))
    assert (plain == tinted).all(axis=2)[shown].all()
    assert not (plain == tinted).all(axis=2)[~shown].any()


def test_visible_patches_are_the_input_and_masked_ones_are_predicted(viewer):
    pictures = viewer(limb()).pictures
    masked = (pictures["masked input"] == [38, 64, 115]).all(axis=2)
    assert masked.reshape(8, PATCH, 8, PATCH).mean(axis=(1, 3)).mean() == pytest.approx(0.75, abs=0.02)
    np.testing.assert_array_equal(pictures["reconstruction"][~masked], pictures["as the model sees it"][~masked])
    assert (pictures["reconstruction"][masked] != pictures["as the model sees it"][masked]).any()


@pytest.mark.parametrize("number", range(3))
def test_phantoms_are_shown(viewer, number):
    view = viewer(generate(3, seed=1, scale=0.05)[number].pixels())
    assert set(view.scores) == set(LABELS)


def test_without_a_model_the_error_holds_the_commands_that_make_one():
    with pytest.raises(ValueError, match=r"(?s)scripts/pretrain\.py .*scripts/export\.py .*scripts/demo\.py --model"):
        Viewer()


def test_a_model_of_another_kind_is_refused(folders):
    with pytest.raises(ValueError, match=r"'vit_mae': expected a classifier \(scripts/export\.py\)"):
        Viewer(classifier=folders / "mae")
    with pytest.raises(ValueError, match=r"'vit': expected a checkpoint of pre-training"):
        Viewer(pretrained=folders / "cls")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "scan.dcm").open("wb") as file:
        file.truncate(MAX_UPLOAD + 1)
    with pytest.raises(ImageError, match=f"too large: more than {MAX_UPLOAD:,} bytes"):
        read_upload(tmp_path / "scan.dcm")


def test_hostile_inputs_get_a_reason_without_a_path_memory_stays_bounded_and_the_next_image_works(viewer, tmp_path):
    before, start = viewer(radiograph(64, 64)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    inputs = hostile_inputs(tmp_path)
    assert len(inputs) >= 200
    for name, source in inputs:
        with pytest.raises(ImageError) as refused:
            pytest.fail(f"{name} was accepted: {viewer(source)}")
        assert 10 < len(refused.value.reason) < 1000, name
        assert str(tmp_path) not in str(refused.value)
        assert "/etc" not in str(refused.value)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024 < 1024  # MB
    assert viewer(radiograph(64, 64)).scores == before.scores


@pytest.fixture(scope="module")
def served(viewer, tmp_path_factory):
    """The address of a running page, and the folder of its uploads."""
    pytest.importorskip("gradio")
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("uploads")
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        patch.setattr("hf_radmae.inference.demo.MAX_UPLOAD", 2**20)
        patch.setattr(demo_command, "MAX_UPLOAD", 2**20)
        blocks = demo_command.page(viewer)
        yield demo_command.launch(blocks, None, prevent_thread_lock=True, quiet=True), folder
        blocks.close(verbose=False)


@pytest.fixture(scope="module")
def predict(served):
    """The page's function over HTTP: what it says of a file's content."""
    gradio_client = pytest.importorskip("gradio_client")
    client = gradio_client.Client(served[0], verbose=False, download_files=False, analytics_enabled=False)

    def of(path):
        return client.predict(gradio_client.handle_file(path), api_name="/predict")

    yield of
    client.close()


def left(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]


def test_an_upload_is_answered_and_removed_and_no_path_comes_back(served, predict, viewer, tmp_path):
    address, folder = served
    (tmp_path / "Mustermann.dcm").write_bytes(tiny_dicom(limb().astype(np.uint16) * 257))
    emptied, label, pictures, message = predict(tmp_path / "Mustermann.dcm")
    found = {entry["label"]: entry["confidence"] for entry in label["confidences"]}
    assert found == pytest.approx(viewer(limb()).scores, abs=0.02)
    assert pictures.count("data:image/png;base64,") == len(OF_ENCODER + OF_DECODER)
    assert (emptied, message) == (None, "")
    assert str(folder) not in pictures + str(label)
    assert urlparse(address).hostname == "127.0.0.1"
    assert not left(folder)


def test_bad_uploads_get_a_message_and_are_removed_and_the_page_lives(served, predict, viewer, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    uploads = list(contents())
    assert len(uploads) >= 200
    for name, content in uploads:
        (tmp_path / name).write_bytes(content)
        _, label, pictures, message = predict(tmp_path / name)
        assert not label and not pictures, name
        assert message.startswith('<p role="alert">This image '), name
        assert str(tmp_path) not in message
        assert str(served[1]) not in message
    assert not left(served[1])
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 1024  # MB
    (tmp_path / "good.png").write_bytes(encode(limb(), "PNG"))
    scores = viewer(limb()).scores
    assert predict(tmp_path / "good.png")[1]["label"] == max(scores, key=scores.__getitem__)


def test_files_of_the_machine_and_large_ones_are_not_taken(served):
    import requests

    file = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    begun = requests.post(f"{served[0]}gradio_api/call/predict", json={"data": [file]}, timeout=30).json()
    answer = requests.get(f"{served[0]}gradio_api/call/predict/{begun['event_id']}", timeout=30).text
    assert "event: error" in answer
    assert "root:" not in answer
    assert requests.get(f"{served[0]}gradio_api/file=/etc/passwd", timeout=30).status_code == 403
    large = {"files": ("large.dcm", bytes(2**20 + 1))}
    assert requests.post(f"{served[0]}gradio_api/upload", files=large, timeout=30).status_code == 413
    assert not left(served[1])


def test_the_script_without_a_model_says_how_to_make_one(monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.setattr("sys.argv", [str(SCRIPT)])
    with pytest.raises(SystemExit, match=r"scripts/export\.py --model"):
        runpy.run_path(str(SCRIPT), run_name="__main__")


def test_in_a_browser_files_and_examples_show_their_label_and_no_other_machine_is_asked(served, viewer, tmp_path):
    api = pytest.importorskip("playwright.sync_api")
    if (chromium := shutil.which("chromium") or shutil.which("google-chrome")) is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    address, folder = served
    (tmp_path / "scan.dcm").write_bytes(tiny_dicom(limb().astype(np.uint16) * 257))
    (tmp_path / "text.png").write_bytes(b"no image")
    asked: set[str | None] = set()
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.set_default_timeout(180_000)
        api.expect.set_options(timeout=180_000)
        tab.on("request", lambda request: asked.add(urlparse(request.url).hostname))
        tab.goto(address)
        tab.set_input_files("#upload input[type=file]", tmp_path / "scan.dcm")
        api.expect(tab.locator("#pictures img")).to_have_count(len(OF_ENCODER + OF_DECODER))
        scores = viewer(limb()).scores
        api.expect(tab.locator("#label")).to_contain_text(max(scores, key=scores.__getitem__))
        assert str(folder) not in tab.content()
        if picture := os.environ.get("DEMO_SCREENSHOT"):
            tab.screenshot(path=picture, full_page=True)
        tab.set_input_files("#upload input[type=file]", tmp_path / "text.png")
        api.expect(tab.get_by_role("alert")).to_contain_text("is no image of a known format")
        tab.get_by_role("button", name="chest").click()
        api.expect(tab.locator("#pictures img")).to_have_count(len(OF_ENCODER + OF_DECODER))
        if picture:
            tab.screenshot(path=picture.replace(".png", "_chest.png"), full_page=True)
        browser.close()
    assert asked <= {"127.0.0.1", None, ""}
    assert not left(folder)
