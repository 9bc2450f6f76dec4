"""A classifier's run: what it learns from, what it leaves out, and that neither a cut nor a kill changes it."""

import json
import shutil
import signal

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from damaged import damaged_files
from patterns import KINDS, make_parts, picture, small
from transformers import TrainerCallback

from hf_radmae.batching.skipped import read_skipped
from hf_radmae.classification import (
    ClassifierTrainingArguments,
    Labels,
    Predictions,
    fit_labels,
    score,
    train_classifier,
)
from hf_radmae.classification.train import labelled_parts
from hf_radmae.classification.trainer import ClassifierTrainer
from hf_radmae.metrics import balanced_accuracy
from hf_radmae.pretraining.checkpoints import OtherOptionsError
from hf_radmae.pretraining.interrupts import Stopped
from hf_radmae.pretraining.trainer import last_complete_checkpoint

SPLITS = {"train": 45, "validation": 20, "test": 25}
TOTAL = sum(SPLITS.values())


def arguments(folder, **options) -> ClassifierTrainingArguments:
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "dataloader_num_workers": 0}
    quick = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "save_strategy": "no"}
    return ClassifierTrainingArguments(**{"output_dir": str(folder), **quiet, **quick, **options})


def train(
    parts,
    folder,
    *,
    label="kind",
    network="vit",
    draw=None,
    resume=None,
    task=None,
    bootstrap=0,
    callbacks=(),
    **options,
):
    model = small(network, fit_labels(parts["train"].rows, label, task))
    given = {"draw": draw, "bootstrap": bootstrap, "resume_from_checkpoint": resume, "callbacks": callbacks}
    return train_classifier(model, parts, label, arguments(folder, **options), **given)


def weights(run) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def same(first, second, tolerance=0.0) -> bool:
    return all((first[name].float() - second[name].float()).abs().max() <= tolerance for name in first)


@pytest.fixture(scope="module")
def parts():
    return make_parts(SPLITS)


@pytest.mark.parametrize("network", ["vit", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_a_network_learns_what_is_there_to_learn(parts, tmp_path, network):
    epochs = 5 if network == "vit" else 15  # batch norm's running means lag behind
    run = train(parts, tmp_path, network=network, num_train_epochs=epochs, learning_rate=3e-3, bootstrap=50)
    test = run.results["test"]
    assert test["balanced_accuracy_low"] <= test["balanced_accuracy"] <= test["balanced_accuracy_high"]
    assert test["balanced_accuracy"] > 0.8
    json.dumps(run.results, allow_nan=False)


def test_predictions_are_those_that_the_scores_are_of(parts, tmp_path):
    run = train(parts, tmp_path)
    found = run.predictions["test"]
    assert found.rows.tolist() == list(range(25)) and found.truth.tolist() == parts["test"].rows["kind"]
    assert balanced_accuracy(found.truth.astype(str), found.predicted)[0] == run.results["test"]["balanced_accuracy"]
    found.save(tmp_path / "p.parquet")
    table = pq.read_table(tmp_path / "p.parquet").to_pydict()
    assert list(table) == ["row", "truth", "predicted", *(f"score_{kind}" for kind in sorted(KINDS))]
    assert table["predicted"] == found.predicted.tolist()


def test_intervals_keep_the_number_of_images_of_each_class():
    """A resample that holds the rare class more or less often would be another test set."""
    labels = Labels(("c",), "single_label_classification", ("common", "rare"))
    truth = np.array(["common"] * 48 + ["rare"] * 2, dtype=object)
    scores = np.repeat([[0.9, 0.1]], 50, axis=0)  # everything is called common
    found = score(Predictions(labels, np.arange(50), truth, scores), bootstrap=200)
    assert found["accuracy"] == found["accuracy_low"] == found["accuracy_high"] == pytest.approx(0.96)


def test_labels_outside_of_the_draw_make_no_difference(tmp_path):
    draw = np.arange(0, 45, 2)
    other = ["top" if 0 <= i < 45 and i % 2 else KINDS[i % 3] for i in range(TOTAL)]
    runs = [
        train(make_parts(SPLITS, {"known": known}), tmp_path, label="known", draw=draw)
        for known in ([KINDS[i % 3] for i in range(TOTAL)], other)
    ]
    assert same(*map(weights, runs)) and runs[0].results["images"]["train"] == len(draw)


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
@pytest.mark.parametrize("label", ["kind", "a,b"])
def test_accumulation_does_not_change_the_gradient(tmp_path, label, class_weights):
    rng = np.random.default_rng(0)
    answers = {name: rng.choice([0, 1, -1], TOTAL, p=[0.5, 0.3, 0.2]).tolist() for name in "ab"}
    parts = make_parts(SPLITS, answers)
    sgd = {"optim": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, "max_grad_norm": 0.0, "num_train_epochs": 1}
    sgd |= {"eval_strategy": "no", "class_weights": class_weights}
    runs = [
        train(parts, tmp_path, label=label, **sgd, per_device_train_batch_size=8 // n, gradient_accumulation_steps=n)
        for n in (1, 4)
    ]
    start = small("vit", fit_labels(parts["train"].rows, label)).state_dict()
    assert same(*map(weights, runs), tolerance=1e-5) and not same(start, weights(runs[0]), tolerance=1e-3)


def test_a_resumed_run_ends_with_the_straight_runs_weights(parts, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3}
    saving |= {"save_total_limit": None, "load_best_model_at_end": False}
    straight = train(parts, tmp_path / "straight", **saving)
    shutil.copytree(tmp_path / "straight" / "checkpoint-9", tmp_path / "killed" / "checkpoint-9")
    resumed = train(parts, tmp_path / "killed", resume=last_complete_checkpoint(tmp_path / "killed"), **saving)
    assert resumed.results["training"]["steps"] == straight.results["training"]["steps"] > 9
    assert same(weights(straight), weights(resumed))


def test_images_and_labels_that_changed_are_refused_on_resume(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "no", "max_steps": 3}
    labels = [KINDS[i % 3] for i in range(TOTAL)]
    train(make_parts(SPLITS, {"label": labels}), tmp_path, label="label", **saving)
    checkpoint = last_complete_checkpoint(tmp_path)
    other = make_parts(SPLITS, {"label": labels})
    other["train"].scaling = "percentile"
    with pytest.raises(OtherOptionsError, match="other options: scaling was minmax, now percentile"):
        train(other, tmp_path, label="label", resume=checkpoint, **saving)
    labels[7] = KINDS[2]
    with pytest.raises(OtherOptionsError, match="other options: checksum of labels was "):
        train(make_parts(SPLITS, {"label": labels}), tmp_path, label="label", resume=checkpoint, **saving)


def test_the_best_model_is_the_one_at_the_end_from_memory_as_from_a_checkpoint(parts, tmp_path):
    # A learning rate that ruins what it first found, so that the best is not the last.
    options = {"num_train_epochs": 4, "learning_rate": 0.02, "lr_scheduler_type": "constant", "warmup_steps": 0}
    memory = train(parts, tmp_path / "memory", **options)
    disk = train(parts, tmp_path / "disk", save_strategy="epoch", **options)
    assert same(weights(memory), weights(disk))
    for run in (memory, disk):
        assert run.results["validation"]["balanced_accuracy"] == pytest.approx(run.results["training"]["best"])
    assert not (tmp_path / "memory").exists() or not list((tmp_path / "memory").glob("checkpoint-*"))


@pytest.mark.parametrize("event", ["on_step_begin", "on_evaluate", "on_train_end"])
def test_a_request_to_stop_never_ends_in_another_best_model(parts, tmp_path, event):
    """With the best weights in memory nothing is saved: a run that resumed would have lost them."""
    request = TrainerCallback()
    setattr(request, event, lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    options = {"num_train_epochs": 4, "learning_rate": 0.02, "lr_scheduler_type": "constant", "warmup_steps": 0}
    with pytest.raises(Stopped, match="stopped by SIGTERM, nothing was saved"):
        train(parts, tmp_path / "memory", callbacks=[request], **options)
    assert not list((tmp_path / "memory").glob("*"))
    straight = train(parts, tmp_path / "straight", save_strategy="epoch", **options)
    with pytest.raises(Stopped, match="stopped by SIGTERM, saved "):
        train(parts, tmp_path / "disk", save_strategy="epoch", callbacks=[request], **options)
    resume = last_complete_checkpoint(tmp_path / "disk")
    assert same(
        weights(train(parts, tmp_path / "disk", save_strategy="epoch", resume=resume, **options)), weights(straight)
    )


def test_training_stops_when_it_no_longer_gets_better(parts, tmp_path):
    run = train(parts, tmp_path, num_train_epochs=30, learning_rate=1e-12, early_stopping_patience=3)
    assert run.results["training"]["epochs"] == 4


def test_images_without_a_label_are_left_out_and_counted(tmp_path):
    label = [None if i % 5 == 0 else KINDS[i % 3] for i in range(TOTAL)]
    run = train(make_parts(SPLITS, {"label": label}), tmp_path, label="label")
    assert run.results["left_out"] == {"train": 9, "validation": 4, "test": 5}
    assert run.results["images"] == {"train": 36, "validation": 16, "test": 20}
    assert not np.isin(np.arange(0, 25, 5), run.predictions["test"].rows).any()


def test_a_class_that_training_lacks_is_always_wrong(tmp_path, caplog):
    label = [KINDS[i % 2] for i in range(65)] + ["rare"] * 5 + [KINDS[i % 2] for i in range(20)]
    run = train(make_parts(SPLITS, {"label": label}), tmp_path, label="label")
    found = run.predictions["test"]
    recalls = [np.mean(found.predicted[found.truth == name] == name) for name in (*KINDS[:2], "rare")]
    assert recalls[2] == 0 and run.results["test"]["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert "no training image has the class rare" in caplog.text


def test_a_class_of_one_image_is_learned_with_the_others(tmp_path):
    label = ["lone", *(KINDS[i % 2] for i in range(1, TOTAL))]
    run = train(make_parts(SPLITS, {"label": label}), tmp_path, label="label", class_weights="sqrt")
    assert run.results["classes"] == ["left", "lone", "top"] and run.results["test"]["balanced_accuracy"] > 0


def test_one_class_in_the_draw_is_refused(parts, tmp_path):
    with pytest.raises(ValueError, match="all 15 training images are of class top"):
        train(parts, tmp_path, draw=np.arange(0, 45, 3))


def test_a_split_without_labels_is_refused(tmp_path):
    label = [KINDS[i % 3] if i < 65 else None for i in range(TOTAL)]
    with pytest.raises(ValueError, match="split test: none of 25 images has a label in column label"):
        train(make_parts(SPLITS, {"label": label}), tmp_path, label="label")


def test_an_unreadable_image_has_no_prediction_and_no_label_of_another(tmp_path):
    contents = [picture(KINDS[i % 3], i) for i in range(TOTAL)]
    contents[3] = contents[70] = next(iter(damaged_files().values()))[0]
    parts = make_parts(SPLITS, contents=contents)
    run = train(parts, tmp_path, max_skipped_share=0.5)
    assert 5 not in run.predictions["test"].rows and len(run.predictions["test"].rows) == 24
    listed = {(row["split"], row["index"]) for row in read_skipped(tmp_path / "skipped.csv")}
    assert {index for _, index in listed} == {3, 5}  # that of the test split, which is read after training, too


def test_several_labels_and_numbers_are_scored_where_they_are_known(tmp_path):
    top = [{"top": "yes", "left": "no", "middle": None}[KINDS[i % 3]] for i in range(TOTAL)]
    number = [None if i % 7 == 0 else 10.5 + 5 * (i % 3) for i in range(TOTAL)]
    parts = make_parts(SPLITS, {"top": top, "odd": [i % 2 for i in range(TOTAL)], "number": number})
    several = train(parts, tmp_path, label="top,odd", bootstrap=20, num_train_epochs=6)
    assert set(several.results["test"]) >= {"accuracy", "balanced_accuracy", "auroc", "auroc_low"}
    known = ~np.isnan(several.predictions["test"].truth)
    assert known[:, 1].all() and not known[:, 0].all()
    run = train(parts, tmp_path, label="number", bootstrap=20, num_train_epochs=10, learning_rate=3e-3)
    assert run.results["training"]["criterion"] == "loss" and run.results["test"]["r2"] > 0.3
    assert 8 < run.predictions["test"].predicted.mean() < 23


def test_a_single_image_in_a_batch_does_not_stop_a_batch_norm(parts, tmp_path):
    run = train(parts, tmp_path, network="resnet50", per_device_train_batch_size=1, num_train_epochs=1)
    assert np.isfinite(run.predictions["test"].scores).all()


def test_the_augmentation_changes_with_the_epoch_in_a_run(parts, tmp_path):
    seen: dict[int, list[float]] = {}

    class Watching(ClassifierTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            for row, image in zip(inputs["index"].tolist(), inputs["pixel_values"], strict=True):
                seen.setdefault(row, []).append(image.sum().item())
            return super().training_step(model, inputs, num_items_in_batch)

    labels = fit_labels(parts["train"].rows, "kind")
    args = arguments(tmp_path)
    data = labelled_parts(parts, labels, args)
    Watching(small("vit", labels), args, train_dataset=data["train"], eval_dataset=data["validation"]).train()
    assert len(seen) == 45 and all(first != second for first, second in seen.values())


def test_the_loss_weighs_labels_of_reports(tmp_path):
    sizes = {"train": 12, "validation": 6, "test": 6}
    sources = ["report", "hand", "hand", "hand"] * 3 + ["hand"] * 12
    parts = make_parts(sizes, {"kind_source": sources})
    first = np.array(parts["train"].rows["kind"])

    def run(weight: float, wrong: bool):
        data = dict(parts)
        if wrong:  # labels of reports are all wrong: with no weight nothing changes
            kinds = [first[1] if s == "report" else k for k, s in zip(first, sources, strict=False)]
            data["train"] = make_parts(sizes, {"kind_source": sources})["train"]
            data["train"].rows = data["train"].rows.remove_columns("kind").add_column("kind", kinds)
        return train(data, tmp_path, num_train_epochs=1, report_label_weight=weight)

    true, false = run(0.0, False), run(0.0, True)
    assert true.results["label_sources"]["train"] == {"hand": 9, "report": 3}
    assert true.results["label_sources"]["test"] == {"hand": 6, "report": 0}
    found = [weights(each) for each in (true, false, run(1.0, True))]
    assert same(found[0], found[1]) and not same(found[0], found[2])
