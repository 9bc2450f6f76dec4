"""The pre-training script from end to end: what it leaves behind, how it resumes, and what damaged images do to it."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from damaged import damaged_files, encode, radiograph
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import ViTMAEForPreTraining, ViTModel

from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.batching.skipped import SkippedImages
from hf_radmae.models.mae import RadMAEForPreTraining

pytestmark = pytest.mark.slow  # four starts of the script, each of which imports for seconds

SCRIPT = Path(__file__).parents[2] / "scripts" / "pretrain.py"
PHANTOM = ["--num_images", "80", "--phantom_scale", "0.04", "--per_device_train_batch_size", "16"]


def start(folder: Path, *options: str) -> subprocess.CompletedProcess:
    """Runs the script on one core without the network, its caches beside `folder`."""
    environment = {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder.parent / "cache"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    words = [sys.executable, str(SCRIPT), "--output_dir", str(folder), "--disable_tqdm", "true", *options]
    return subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, timeout=500, check=False)


def state(folder: Path) -> dict:
    """The state of the newest checkpoint."""
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return json.loads((newest / "trainer_state.json").read_text())


def results(folder: Path) -> dict:
    """`results.json`, in which NaN and infinity are no numbers."""

    def refuse(constant: str) -> float:
        raise AssertionError(f"results.json holds {constant}")

    return json.loads((folder / "results.json").read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a run of two epochs on generated radiographs, and what it said."""
    folder = tmp_path_factory.mktemp("phantom") / "out"
    run = start(folder, *PHANTOM, "--num_train_epochs", "2")
    assert run.returncode == 0, run.stderr[-3000:]
    return folder, run.stdout


def test_the_output_folder_holds_what_is_promised(finished):
    folder, said = finished
    files = {path.name for path in folder.iterdir() if path.is_file()}
    assert files == {
        "model.safetensors",
        "config.json",
        "preprocessor_config.json",
        "results.json",
        "reconstructions.png",
        "README.md",
        "bins.txt",
        "before.json",
        "seen_images.txt",
    }
    assert list((folder / "runs").glob("events.out.tfevents.*"))
    for promise in ("smart binning", "other ways to batch", "body_region, labels: all", f"{folder}: see "):
        assert promise in said


def test_the_results_hold_every_figure_and_all_are_finite(finished):
    folder, _ = finished
    found = results(folder)
    assert sum(found["data"]["images"].values()) == 80
    assert found["data"]["skipped"] == 0
    assert found["training"]["epochs"] == 2
    assert found["training"]["steps"] == state(folder)["global_step"]
    assert all(math.isfinite(loss) for loss in found["losses"].values())
    assert 0 < found["losses"]["validation"] < found["losses"]["before"]
    assert {row["model"] for row in found["probe"]["rows"]} >= {"majority class", "untrained", "pre-trained"}
    assert all(math.isfinite(value) for row in found["probe"]["rows"] for value in row.values() if type(value) is float)


def test_the_best_model_may_follow_the_features_which_tensorboard_shows(tmp_path):
    run = start(tmp_path / "none", *PHANTOM, "--metric_for_best_model", "accuracy")
    assert run.returncode != 0 and "eval_alignment, eval_knn_accuracy" in run.stderr and "Traceback" not in run.stderr
    run = start(
        tmp_path / "out", *PHANTOM, *["--num_train_epochs", "3", "--metric_for_best_model", "eval_knn_accuracy"]
    )
    assert run.returncode == 0, run.stderr[-3000:]
    watched = results(tmp_path / "out")["features"]
    scores = [entry["knn_accuracy"] for entry in watched]
    assert len(scores) >= 4 and all(set(entry) == {"epoch", "knn_accuracy", "rank", "alignment"} for entry in watched)
    assert state(tmp_path / "out")["best_metric"] == max(scores[1:4]), "one at the end of each epoch, larger is better"
    (folder,) = {path.parent for path in (tmp_path / "out" / "runs").rglob("events*")}
    shown = EventAccumulator(str(folder)).Reload().Tags()["scalars"]
    assert {"eval/knn_accuracy", "eval/rank", "eval/alignment"} <= set(shown)


def test_the_model_loads_in_stock_classes_with_nothing_missing(finished):
    folder, _ = finished
    stock, info = ViTMAEForPreTraining.from_pretrained(folder / "mae", output_loading_info=True)
    assert not any(info.values())
    encoder, info = ViTModel.from_pretrained(folder, add_pooling_layer=False, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    ours = RadMAEForPreTraining.from_pretrained(folder).eval()
    processor = RadiographImageProcessor.from_pretrained(folder)
    pixels = processor(radiograph(120, 80), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        features = encoder.eval()(pixels, interpolate_pos_encoding=True).last_hidden_state
        torch.testing.assert_close(features, ours.encode(pixels[:, :1]), rtol=0, atol=1e-4)
    assert stock.config.architectures == ["ViTMAEForPreTraining"]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_that_is_moved_and_started_again_reports_and_changes_nothing(finished, tmp_path):
    folder, _ = finished
    again = tmp_path / "moved" / "out"
    shutil.copytree(folder, again)
    before = content(again)
    run = start(again, *PHANTOM, "--num_train_epochs", "2")
    assert run.returncode == 0, run.stderr[-3000:]
    assert f"{again} holds this run, finished: evaluation loss" in run.stdout
    assert content(again) == before
    run = start(again, *PHANTOM, "--num_train_epochs", "3", "--mask_ratio", "0.5")
    assert run.returncode == 1
    assert "mask_ratio was 0.75, now 0.5; num_train_epochs was 2.0, now 3.0" in run.stderr
    assert content(again) == before


def test_started_again_before_its_end_it_resumes_and_says_so(finished, tmp_path):
    folder, _ = finished
    again = tmp_path / "out"
    shutil.copytree(folder, again)
    (again / "results.json").unlink()
    newest = max(again.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    (newest / "optimizer.pt").write_bytes(b"")
    run = start(again, *PHANTOM, "--num_train_epochs", "2")
    assert run.returncode == 0, run.stderr[-3000:]
    assert f"{newest} is skipped: optimizer.pt has 0 bytes" in run.stderr
    assert "Resuming from" in run.stdout
    expected, found = results(folder), results(again)
    assert found["losses"] == expected["losses"]
    assert found["status"] == expected["status"] == "finished"


@pytest.fixture(scope="module")
def damaged_folder(tmp_path_factory) -> tuple[Path, set[str]]:
    """An imagefolder of 1,985 small radiographs of two kinds and 15 damaged files, and the names of these."""
    folder = tmp_path_factory.mktemp("damaged") / "scans"
    for kind in ("chest", "hand"):
        (folder / kind).mkdir(parents=True)
    for i in range(1985):
        picture = radiograph(32 + 4 * (i % 9), 32 + 4 * (i // 9 % 9), seed=i)
        image_format, suffix = (("PNG", "png"), ("JPEG", "jpg"))[i % 2]
        path = folder / ("chest", "hand")[i % 3 == 0] / f"{i:04}.{suffix}"
        path.write_bytes(encode(picture, image_format))
    files = {name: content for name, (content, _) in damaged_files().items()}
    files |= {"second_half.jpg": files["half.jpg"], "second_empty.png": b""}
    assert len(files) == 15
    for i, (name, content) in enumerate(files.items()):
        (folder / ("chest", "hand")[i % 2] / name).write_bytes(content)
    return folder, set(files)


def test_damaged_images_are_listed_and_do_not_end_the_run(damaged_folder, tmp_path):
    scans, damaged = damaged_folder
    options = ["--dataset", "imagefolder", "--data_dir", str(scans), "--probe_column", "label"]
    run = start(tmp_path / "out", *options, "--max_tokens", "36", "--num_train_epochs", "1")
    assert run.returncode == 0, run.stderr[-3000:]
    listed = SkippedImages(tmp_path / "out" / "skipped.csv", 2000).rows()
    assert sorted(Path(row["image"]).name for row in listed) == sorted(damaged)
    assert len((tmp_path / "out" / "skipped.csv").read_text().splitlines()) == 16
    reasons = {Path(row["image"]).name: row["reason"] for row in listed}
    assert all(reasons.values())
    assert len(set(reasons.values())) >= 10
    found = results(tmp_path / "out")
    assert found["data"]["skipped"] == 15
    assert found["training"]["epochs"] == 1
    assert found["losses"]["validation"] < found["losses"]["before"]
    assert str(scans.parent) not in (tmp_path / "out" / "results.json").read_text()
    assert str(scans.parent) not in (tmp_path / "out" / "README.md").read_text()


def test_too_many_damaged_images_end_the_run_with_one_clear_error(damaged_folder, tmp_path):
    scans, _ = damaged_folder
    options = ["--dataset", "imagefolder", "--data_dir", str(scans), "--max_skipped_share", "0.001"]
    run = start(tmp_path / "out", *options, "--max_tokens", "36", "--num_train_epochs", "1")
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert "of 2000 images cannot be used: more than the accepted share of 0.001" in last
    assert str(tmp_path / "out" / "skipped.csv") in last
    assert "Traceback" not in run.stderr
