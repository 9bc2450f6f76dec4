"""A run resumes whole, or says what is missing or changed and what to do."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_trainer import logged, make_trainer

from hf_radmae.pretraining.checkpoints import (
    MANIFEST,
    CheckpointError,
    OtherOptionsError,
    archive,
    checkpoints_in,
    choose_checkpoint,
    complete,
    damage,
    discard_newer,
    last_complete_checkpoint,
    read_manifest,
)

EPOCHS = {"num_train_epochs": 3, "save_total_limit": None, "logging_steps": 5}


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A finished run of three epochs, with a checkpoint after each."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    make_trainer(folder, **EPOCHS).train()
    return folder


def interrupted(straight: Path, folder: Path, kept: int = 2) -> Path:
    """The folder of a run that ended after its first checkpoints."""
    for checkpoint in checkpoints_in(straight)[::-1][:kept]:
        shutil.copytree(checkpoint, folder / checkpoint.name)
    return folder


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def equal(trainer, straight: Path) -> bool:
    expected = load_file(checkpoints_in(straight)[0] / "model.safetensors")
    last = load_file(checkpoints_in(trainer.args.output_dir)[0] / "model.safetensors")
    return all(torch.equal(last[name], expected[name]) for name in expected)


def test_a_checkpoint_knows_every_file_by_size_and_hash(straight):
    for folder in checkpoints_in(straight):
        manifest = read_manifest(folder)
        assert {*manifest["files"]} == {p.name for p in folder.iterdir() if p.name != MANIFEST}
        assert damage(folder) is None
        assert str(straight.parent) not in (folder / MANIFEST).read_text() + (folder / "trainer_state.json").read_text()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer_state.json", "batches.json", MANIFEST])
@pytest.mark.parametrize("how", ["empty", "cut", "changed", "missing"])
def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning_and_the_one_before_is_taken(
    straight, tmp_path, caplog, name, how
):
    interrupted(straight, tmp_path)
    newest, before = checkpoints_in(tmp_path)
    file = newest / name
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    else:
        half = len(content) // 2
        changed = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        file.write_bytes({"empty": b"", "cut": content[:half], "changed": changed}[how])
    with caplog.at_level(logging.WARNING):
        found = last_complete_checkpoint(tmp_path)
    if name == MANIFEST and how == "changed" and found == str(newest):
        return  # a digit of a fact that is no file's
    assert found == str(before)
    assert f"{newest} is skipped" in caplog.text


def test_the_newest_complete_checkpoint_counts(tmp_path):
    assert last_complete_checkpoint(tmp_path / "nowhere") is None
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-best", "checkpoint-11", "other-99"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").touch()
    assert last_complete_checkpoint(tmp_path) is None
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-best", "other-99"):
        complete(tmp_path / name)
    assert last_complete_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-10")


def test_a_checkpoint_without_its_optimiser_is_refused_where_no_other_is_complete(straight, tmp_path):
    interrupted(straight, tmp_path, kept=1)
    (checkpoints_in(tmp_path)[0] / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"optimizer.pt is missing.*--resume weights"):
        last_complete_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_that_never_had_a_state_is_refused(straight, tmp_path, name):
    interrupted(straight, tmp_path, kept=1)
    (folder,) = checkpoints_in(tmp_path)
    facts = {key: value for key, value in read_manifest(folder).items() if key != "files"}
    (folder / name).unlink()
    complete(folder, **facts)
    with pytest.raises(CheckpointError, match=f"has no {name}.*--resume weights"):
        make_trainer(tmp_path, **EPOCHS).train(str(folder))


def test_a_resumed_run_ends_as_the_straight_one_from_a_moved_folder_too(straight, tmp_path, monkeypatch):
    """With the log of the interval that was cut, the best step and the time of all starts."""
    folder = interrupted(straight, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    trainer = make_trainer(Path("moved"), **EPOCHS)
    trainer.train(last_complete_checkpoint("moved"))
    assert equal(trainer, straight)
    state = json.loads((checkpoints_in(straight)[0] / "trainer_state.json").read_text())
    assert logged(trainer, "loss") == [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert trainer.state.best_global_step == state["best_global_step"]
    assert trainer.seconds > read_manifest(checkpoints_in(folder)[-1])["seconds"] > 0


def test_the_best_checkpoint_is_found_wherever_the_folder_is(straight, tmp_path, caplog):
    folder = interrupted(straight, tmp_path / "renamed", kept=3)
    trainer = make_trainer(folder, **EPOCHS)
    before = weights(trainer)
    with caplog.at_level(logging.WARNING):
        trainer.train(last_complete_checkpoint(folder))
    best = folder / f"checkpoint-{trainer.state.best_global_step}"
    assert trainer.state.best_model_checkpoint == str(best)
    found, expected = weights(trainer), load_file(best / "model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert any(not torch.equal(found[name], before[name]) for name in before)
    assert "does not exist" not in caplog.text


CHANGED = {
    "learning_rate": 1e-5,
    "weight_decay": 0.5,
    "adam_beta2": 0.9,
    "max_grad_norm": 0.1,
    "warmup_steps": 3,
    "lr_scheduler_type": "constant",
    "num_train_epochs": 9,
    "optim": "sgd",
}


@pytest.mark.parametrize("name", CHANGED)
def test_an_option_that_alters_what_is_learned_is_refused_with_both_values(straight, tmp_path, name):
    folder = interrupted(straight, tmp_path)
    trainer = make_trainer(folder, **EPOCHS | {name: CHANGED[name]})
    old = read_manifest(checkpoints_in(folder)[0])["options"][name]
    with pytest.raises(OtherOptionsError, match=f"{name} was {old}, now "):
        trainer.train(last_complete_checkpoint(folder))


def test_targets_masks_and_network_are_refused_too(straight, tmp_path):
    folder = interrupted(straight, tmp_path)
    trainer = make_trainer(folder, **EPOCHS)
    trainer.model.config.mask_ratio, trainer.model.config.norm_pix_loss = 0.5, False
    trainer.train_dataset.scaling = "percentile"
    trainer.data_collator.background = "keep"
    with pytest.raises(OtherOptionsError) as refused:
        trainer.train(last_complete_checkpoint(folder))
    for found in (
        "mask_ratio was 0.75, now 0.5",
        "norm_pix_loss was True, now False",
        "scaling was minmax, now percent",
    ):
        assert found in str(refused.value)
    assert "background was drop, now keep" in str(refused.value)


def test_the_loss_of_a_resumed_run_is_of_its_own_steps(straight, tmp_path):
    """A checkpoint in the middle of a log interval holds losses of steps before it, which its log line needs."""
    newest = checkpoints_in(straight)[0]
    assert read_manifest(newest)["pending"]["loss"][0] > 0
    assert make_trainer(tmp_path, **EPOCHS).train(str(newest)).training_loss == pytest.approx(0, abs=1e-9)
    found = make_trainer(tmp_path, **EPOCHS).train(str(checkpoints_in(straight)[1])).training_loss
    whole, before = (json.loads((c / "trainer_state.json").read_text()) for c in checkpoints_in(straight)[:2])
    logs = [entry["loss"] for entry in whole["log_history"] if "loss" in entry]
    assert min(logs) * 0.9 < found < max(logs) and before["global_step"] < whole["global_step"]


def test_an_option_that_may_change_is_used_and_recorded(straight, tmp_path):
    folder = interrupted(straight, tmp_path)
    trainer = make_trainer(folder, **EPOCHS, early_stopping_patience=33)
    trainer.train(last_complete_checkpoint(folder))
    state = json.loads((checkpoints_in(folder)[0] / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["EarlyStopping"]["args"]["early_stopping_patience"] == 33
    assert trainer.changed == {"early_stopping_patience": [10, 33]}
    assert equal(trainer, straight)


@pytest.mark.slow
def test_a_run_that_early_stopping_ended_takes_no_further_step(tmp_path):
    options = {"learning_rate": 0.0, "early_stopping_patience": 2, "num_train_epochs": 9}
    first = make_trainer(tmp_path, **options)
    first.train()
    again = make_trainer(tmp_path, **options)
    again.train(last_complete_checkpoint(tmp_path))
    assert again.state.global_step == first.state.global_step
    assert again.state.epoch == 3
    patient = make_trainer(tmp_path, **options | {"early_stopping_patience": 4})
    patient.train(last_complete_checkpoint(tmp_path))
    assert patient.state.epoch == 5


@pytest.mark.parametrize(
    ("resume", "found"),
    [
        ("nowhere", "there is no such folder"),
        (".", "is no checkpoint: trainer_state.json is missing.*holds checkpoint-"),
        ("weights", "holds no complete checkpoint"),
    ],
)
def test_a_path_that_is_no_checkpoint_is_named(straight, tmp_path, resume, found):
    folder = tmp_path / "run"
    folder.mkdir()
    if resume == ".":
        resume = str(interrupted(straight, folder))
    with pytest.raises(CheckpointError, match=found):
        choose_checkpoint(resume, folder)


def test_what_resume_means(straight, tmp_path):
    folder = interrupted(straight, tmp_path)
    newest, before = checkpoints_in(folder)
    assert choose_checkpoint("auto", folder) == choose_checkpoint("weights", folder) == str(newest)
    assert choose_checkpoint("none", folder) is None
    assert choose_checkpoint(str(before), folder) == str(before)
    (newest / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"not complete, model\.safetensors has 1 bytes"):
        choose_checkpoint(str(newest), folder)
    discard_newer(choose_checkpoint("auto", folder), folder)
    assert checkpoints_in(folder) == [before]
    assert (folder / f"damaged-{newest.name}").is_dir()
    moved = archive(folder)
    assert moved.name == "previous"
    assert checkpoints_in(folder) == []
    assert [path.name for path in checkpoints_in(moved)] == [before.name]
    assert archive(folder) is None


def test_only_weights_are_taken_for_a_new_schedule(straight, tmp_path):
    newest = checkpoints_in(straight)[0]
    trainer = make_trainer(tmp_path, **EPOCHS | {"learning_rate": 1e-4})
    trainer.load_weights(newest)
    assert all(torch.equal(v, weights(trainer)[k]) for k, v in load_file(newest / "model.safetensors").items())
    trainer.train()
    assert trainer.state.epoch == 3
    assert logged(trainer, "learning_rate")[0] <= 1e-4
