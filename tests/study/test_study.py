"""The whole study on a few generated radiographs: it resumes where it was interrupted and repeats what has to be."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path

import datasets
import pytest
from PIL import Image

from hf_radmae import label_reports
from hf_radmae.cli.parse import parse
from hf_radmae.pretraining.arguments import DataArguments, ModelArguments
from hf_radmae.pretraining.training_args import RadMAETrainingArguments
from hf_radmae.sources.phantom import write_irma
from hf_radmae.sources.phantom.cohort import generate
from hf_radmae.sources.phantom.people import person, visit
from hf_radmae.sources.phantom.reports import findings
from hf_radmae.sources.phantom.reports import write_report as report_of
from hf_radmae.study import Study, StudyArguments, steps, terminal_text, write_report
from hf_radmae.study.seen import check_unseen, save_seen

pytestmark = pytest.mark.slow  # trains real networks, small as they are; the killed run starts the script several times

SCRIPT = Path(__file__).parents[2] / "scripts" / "study.py"
SMALL = shlex.split(
    "--num_images 120 --phantom_scale 0.04 --max_tokens 25 --num_bins 2 --num_train_epochs 2 --draws 2 "
    "--low_fraction 0.3 --per_device_train_batch_size 16 --curve 0.5 --poolings cls mean --supervised vit "
    "--supervised_epochs 1 --supervised_steps 2 --supervised_evaluations 1 --learning_rates 1e-3 1e-2 "
    "--search_fraction 0.3 --disable_tqdm true --report_to none --dataloader_num_workers 0 --use_cpu true "
    "--figure_images 0 --min_test_images 1"
)


def run(folder: Path, *options: str) -> tuple[Study, dict]:
    words = [*SMALL, "--output_dir", str(folder), *options]
    study = Study(folder, *parse((DataArguments, ModelArguments, StudyArguments, RadMAETrainingArguments), words))
    return study, study.run()


def without_times(results: dict) -> dict:
    """What has to repeat: all but seconds and speeds."""
    timed = (
        "seconds",
        "images_per_second",
        "tokens_per_second",
        "loader_images_per_second",
        "device_hours_per_100k_images",
    )
    return json.loads(json.dumps(results), object_hook=lambda d: {k: v for k, v in d.items() if k not in timed})


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Study, dict]:
    folder = tmp_path_factory.mktemp("phantom") / "out"
    return folder, *run(folder)


def test_a_finished_study_runs_nothing_again_and_tells_the_same(finished):
    folder, first, results = finished
    study, again = run(folder)
    assert study.steps.ran == [] and len(first.steps.ran) == len(first.steps.seconds)
    assert first.steps.seconds.items() <= results["seconds"].items()
    assert {"heads, pre-trained, body_region", "tables, body_region"} <= results["seconds"].keys()
    assert without_times(again) == without_times(results)
    assert all(path.is_file() and path.stat().st_size for path in write_report(results, folder))


def test_a_changed_option_repeats_what_depends_on_it_and_nothing_else(finished):
    folder, _, results = finished
    study, changed = run(folder, "--supervised_steps", "1")
    assert {name.split(",")[0] for name in study.steps.ran} == {"train"}
    rows = [
        {(row["model"], row["head"]): row for row in r["tasks"][0]["tables"][0]["rows"]} for r in (results, changed)
    ]
    assert rows[0]["pre-trained", "linear"] == rows[1]["pre-trained", "linear"]
    study, _ = run(folder, "--tasks", "view", "--supervised", "none")
    assert study.steps.ran == [], "features serve every task"


def test_another_version_of_the_package_repeats_every_step(finished, monkeypatch):
    _, first, _ = finished
    before = first.steps.path("a step", seed=1)
    monkeypatch.setattr(steps, "__version__", "99.0")
    assert first.steps.path("a step", seed=1) != before


def test_a_checkpoint_that_has_seen_test_images_is_refused(finished, tmp_path):
    folder, first, _ = finished
    (checkpoint,) = (path for path in (folder / "steps").glob("pretrain-*") if path.is_dir())
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    assert check_unseen(copy, first.images.rows["test"])
    save_seen([first.images.rows["train"], first.images.rows["test"]], copy)
    for options in (["--mae_checkpoint"], ["--model"], ["--more_checkpoints"], ["--rivals"], ["--vit_checkpoint"]):
        with pytest.raises(ValueError, match=r"was trained on \d+ of the \d+ test images"):
            run(tmp_path / "other", *options, str(copy), "--supervised", "none")


def test_an_encoder_that_is_there_is_taken(finished, tmp_path):
    folder, _, results = finished
    (checkpoint,) = (path for path in (folder / "steps").glob("pretrain-*") if path.is_dir())
    study, found = run(tmp_path / "other", "--mae_checkpoint", str(checkpoint), "--supervised", "none")
    assert not any(name.startswith("pretrain") for name in study.steps.ran)
    assert found["pretraining"] == {"checkpoint": checkpoint.name, "unseen": True}
    rows = [{(row["model"], row["head"]): row for row in r["tasks"][0]["tables"][1]["rows"]} for r in (results, found)]
    first, second = (part["pre-trained", "linear"] for part in rows)
    assert first == second | {"pretraining_views": 2 * results["data"]["images"]["train"]}, "of a checkpoint unknown"
    write_report(found, tmp_path / "other")
    with pytest.raises(ValueError, match=r"another size .* --preset small .*: give the preset of the checkpoint"):
        run(tmp_path / "mixed", "--mae_checkpoint", str(checkpoint), "--preset", "small")


def test_the_papers_protocol_the_fold_curve_and_error_maps_are_in_results_and_report(tmp_path):
    write_irma(tmp_path / "irma", 60, num_test=30, scale=0.03, whole_body=2)
    words = ["--dataset", "irma", "--data_dir", str(tmp_path / "irma"), "--tasks", "irma_code", "side=directional"]
    words += ["--num_train_epochs", "1", "--protocol", "paper", "--test_split", "test_2009", "--min_test_images", "0"]
    words += ["--supervised", "none", "--kinds", "plain", "--norm_pix_loss", "false", "--binning", "square"]
    with pytest.raises(ValueError, match="--error_maps irma_code: it needs a task of two classes, not of "):
        run(tmp_path / "out", *words, "--error_maps", "irma_code")
    assert not (tmp_path / "out" / "results.json").exists()
    study, results = run(tmp_path / "out", *words)
    assert results["data"]["images"]["test"] == 30 and "test_2009" not in results["data"]["images"]
    records = [json.loads(path.read_text()) for path in study.steps.folder.glob("pretrain*.json")]
    losses = [record["result"]["losses"]["validation"] for record in records]
    assert len(losses) == 2 and results["pretraining"]["losses"]["validation"] == min(losses)
    rows = {(row["model"], row["head"]): row for row in results["tasks"][0]["tables"][0]["rows"]}
    for name in ("pre-trained", "untrained", "no network"):
        assert 0 <= rows[name, "searched"]["irma_error"] <= 1
    text = write_report(results, tmp_path / "out")[1].read_text()
    assert "linear, best learning rate" in text and "grey values 0 to 1." in text and "IRMA error" in text
    assert "Features of the masked autoencoder are of each image at" in text and "trained on labels" not in text


def test_folds_and_error_maps_of_a_task_of_two_classes(finished):
    folder, _, _ = finished
    _, results = run(
        folder, "--tasks", "fracture", "--supervised", "none", "--fold_curve", "fracture", "--error_maps", "fracture"
    )
    (task,) = results["tasks"]
    folds = task["folds"]
    assert folds["published"] == [] and folds["seen"] is True and 100 < folds["images"] <= 120 and folds["groups"] > 5
    assert {row["pooling"] for row in folds["rows"] if row["model"] == "pre-trained"} == {"mean"}
    assert task["refused"] == {} and task["kept_rare"] == {}
    assert {row["labels"] for row in task["folds"]["rows"]} >= {10, 25, 50, "all"}
    assert all(0 <= row["auroc_low"] <= row["auroc_high"] <= 1 for row in task["error_maps"]["rows"])
    assert (folder / "figures" / task["error_maps"]["picture"]).stat().st_size > 10_000
    html, markdown, *_ = (path.read_text() for path in write_report(results, folder))
    assert "Five folds" in markdown and "Reconstruction errors as a score" in html


@pytest.mark.parametrize("task", ["body_region", "chest=fracture[body_region=chest]"])
def test_the_neighbours_accuracy_may_choose_the_model_where_the_first_task_has_it(task, tmp_path):
    words = ["--metric_for_best_model", "eval_knn_accuracy", "--tasks", task, "--supervised", "none"]
    if "[" in task:
        with pytest.raises(ValueError, match=r"eval_knn_accuracy: no evaluation gives it, only .* without a condition"):
            run(tmp_path, *words)
        return
    _, results = run(tmp_path, *words)
    watch = results["pretraining"]["watch"]
    assert results["pretraining"]["watch_column"] == task and {entry["epoch"] for entry in watch} == {1, 2}
    assert all(0 <= entry["knn_accuracy"] <= 1 and entry["rank"] >= 1 for entry in watch)


def test_parts_that_a_task_cannot_have_are_refused_before_anything_is_trained(tmp_path):
    chest = "chest=fracture[body_region=chest]"  # one test image
    for option, task, message in (
        ("--fold_curve", "body_region", "it needs a task of two classes, not of"),
        ("--error_maps", "body_region", "it needs a task of two classes, not of"),
        ("--error_maps", chest, "an AUROC of the test images needs both classes, and they hold 1 images of the first"),
    ):
        name = task.partition("=")[0]
        with pytest.raises(ValueError, match=f"{option} {name}: {message}.*leave the task out of {option}"):
            run(tmp_path, "--tasks", task, option, name)
    assert not (tmp_path / "steps").exists()


def test_a_column_that_is_missing_is_told_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match=r"no column colour; the columns are .*body_region"):
        run(tmp_path, "--tasks", "colour")
    assert not (tmp_path / "steps").exists()


def test_killed_at_any_point_it_ends_with_the_same_results_and_repeats_no_finished_step(finished, tmp_path):
    _, _, straight = finished
    folder = tmp_path / "out"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    written: dict[Path, int] = {}
    for patience in ("pretrain-*/checkpoint-*", "features-*.json", "train-*.json", None):
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *SMALL, "--output_dir", str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while patience and process.poll() is None and not list((folder / "steps").glob(patience)):
            time.sleep(0.05)
        if patience:
            os.killpg(process.pid, signal.SIGKILL)
        said = process.communicate()[0].decode()
        for path, when in written.items():
            assert path.stat().st_mtime_ns == when, f"{path.name} was done again"
        written = {path: path.stat().st_mtime_ns for path in (folder / "steps").glob("*.json")}
    assert process.returncode == 0, said[-3000:]
    assert without_times(json.loads((folder / "results.json").read_text())) == without_times(straight)
    assert (folder / "report.html").is_file() and "steps were run now" in said


def test_labels_of_reports_train_a_study_and_are_measured_and_score_nothing(tmp_path):
    texts, hand = {}, []
    for patient, images in groupby(generate(160, seed=5, scale=0.04), key=lambda image: image.patient):
        for number, exam in groupby(images, key=lambda image: image.exam):
            taken, when = list(exam), visit(5, patient, number)
            texts[when.exam] = report_of(taken, False, person(5, patient), when, None)
            place = Path(f"patient{patient}") / when.exam
            (tmp_path / "images" / place).mkdir(parents=True)
            for image in taken:
                Image.fromarray(image.pixels()).save(tmp_path / "images" / place / f"{image.image}.png")
                said = findings(image).fracture.lower() if patient % 3 else ""
                hand.append({"file_name": f"{place}/{image.image}.png", "fracture": said})
    datasets.Dataset.from_list(hand).to_csv(tmp_path / "images" / "metadata.csv")
    read = label_reports(texts.values(), ["fracture"])
    table = [{"id": exam, **row} for exam, row in zip(texts, read, strict=True)]
    datasets.Dataset.from_list(table).to_parquet(tmp_path / "labels.parquet")
    source = (
        f"--dataset imagefolder --data_dir {tmp_path}/images --tasks fracture --num_train_epochs 1 --supervised none"
    )
    study, results = run(tmp_path / "out", *source.split(), "--report_labels", f"{tmp_path}/labels.parquet")
    sources = {split: set(rows["fracture_source"]) for split, rows in study.images.rows.items()}
    assert {"hand", "report"} <= sources["train"] and not {"report"} & (sources["validation"] | sources["test"])
    measured = results["report_labels"]["labels"]["fracture"]
    assert measured["compared"] > 50 and measured["right"] > 0.9
    write_report(results, tmp_path / "out")
    assert "Labels of reports" in terminal_text(results)
    assert f"{measured['compared']}" in (tmp_path / "out" / "report.md").read_text()
