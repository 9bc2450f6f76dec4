"""Requests to stop, two runs in one folder, full disks, long paths, and numbers that are none."""

import errno
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import datasets
import pytest
import torch
from safetensors.torch import load_file
from test_trainer import PATCH, ROWS, make_model, make_trainer
from transformers import TrainerCallback

from hf_radmae.cli.replay import main as replay_command
from hf_radmae.models.mae import RadMAEForPreTraining
from hf_radmae.pretraining import run_folder
from hf_radmae.pretraining.checkpoints import DiskFullError, checkpoints_in, damage, last_complete_checkpoint
from hf_radmae.pretraining.devices import available_cores, check_ranks
from hf_radmae.pretraining.divergence import DivergedError, check_finite, replay
from hf_radmae.pretraining.interrupts import EXIT_CODE, SIGNALS, StopOnRequest, Stopped
from hf_radmae.pretraining.run_folder import FolderInUseError, RunFolder, check_temporary_folder


class At(TrainerCallback):
    """Does something at the end of a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(checkpoints_in(folder)[0] / "model.safetensors")


OPTIONS = {"num_train_epochs": 2, "eval_strategy": "no", "logging_steps": 3, "save_total_limit": 1}


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> dict[str, torch.Tensor]:
    """The weights of a run that nobody asked to stop."""
    folder = tmp_path_factory.mktemp("straight")
    make_trainer(folder, **OPTIONS).train()
    return weights(folder)


STEPS = [(signal.SIGTERM, 9), (signal.SIGUSR1, 2)]  # of 8 in each epoch
STEPS += [pytest.param(*rest, marks=pytest.mark.slow) for rest in [(signal.SIGTERM, 0), (signal.SIGUSR1, 9)]]


@pytest.mark.parametrize(("number", "step"), STEPS)
def test_a_request_saves_at_the_step_and_the_run_resumes_to_the_same_bits(tmp_path, straight, number, step):
    trainer = make_trainer(tmp_path / "stopped", **OPTIONS)
    trainer.add_callback(At(step, lambda: os.kill(os.getpid(), number)))
    handler = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped:
        trainer.train()
    assert stopped.value.code == EXIT_CODE == 75
    assert stopped.value.reason == number.name
    assert trainer.state.global_step == step + 1
    assert signal.getsignal(number) == handler
    resumed = make_trainer(tmp_path / "stopped", **OPTIONS)
    resumed.train(last_complete_checkpoint(tmp_path / "stopped"))
    found = weights(tmp_path / "stopped")
    assert {name for name in found if not torch.equal(found[name], straight[name])} == set()


def test_loader_workers_outlive_a_signal_to_the_whole_job_and_end_with_their_process(tmp_path):
    trainer = make_trainer(tmp_path, num_train_epochs=1, eval_strategy="no", dataloader_num_workers=2)

    def signal_all():
        children = [str(child.pid) for child in multiprocessing.active_children()]
        for number in SIGNALS:  # from another process: its own may end a worker
            subprocess.run(["kill", f"-{int(number)}", *children], check=True)

    trainer.add_callback(At(2, signal_all))
    trainer.train()
    assert trainer.state.global_step == 8
    loader = trainer.get_train_dataloader()
    next(batches := iter(loader))
    workers = multiprocessing.active_children()
    assert len(workers) >= 2
    for worker in workers:
        worker.terminate()
        worker.join(30)
        assert worker.exitcode is not None
    del batches


@pytest.mark.slow
def test_a_batch_that_shared_memory_has_no_room_for_ends_the_run(tmp_path, capfd):
    """A limit on the size of files, which workers inherit, stands for a full /dev/shm."""
    options = {"eval_strategy": "no", "dataloader_num_workers": 2, "per_device_train_batch_size": 32}
    trainer = make_trainer(tmp_path, num_train_epochs=1, **options)  # batches of more bytes than the limit
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, before[1]))
    try:
        with pytest.raises(RuntimeError, match=r"worker.* exited unexpectedly"):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "Is shared memory (/dev/shm) full?" in capfd.readouterr().err


DUE = [("epoch", "epoch", 7), ("steps", "steps", 5), ("epoch", "epoch", 15)]
DUE += [pytest.param(*rest, marks=pytest.mark.slow) for rest in [("steps", "steps", 15), ("epoch", "best", 7)]]


@pytest.mark.parametrize(("evaluated", "saved", "step"), DUE)
def test_an_evaluation_that_was_due_when_the_run_stopped_is_made_by_the_resumed_run(tmp_path, evaluated, saved, step):
    """The 8 steps of an epoch end at step 7 and 15; its evaluation comes after the checkpoint of the request."""
    options = {"num_train_epochs": 2, "eval_strategy": evaluated, "save_strategy": saved, "eval_steps": 3}
    options |= {"save_steps": 3, "load_best_model_at_end": True, "save_total_limit": 4}
    runs = {}
    for name in ("straight", "stopped"):
        trainer = make_trainer(tmp_path / name, **options)
        if name == "stopped":
            trainer.add_callback(At(step, lambda: os.kill(os.getpid(), signal.SIGTERM)))
            with pytest.raises(Stopped):
                trainer.train()
            trainer = make_trainer(tmp_path / name, **options)
            trainer.train(last_complete_checkpoint(tmp_path / name))
        else:
            trainer.train()
        history = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
        evaluations = [(entry["step"], entry["epoch"], entry["eval_loss"]) for entry in history]
        state, best = trainer.model.state_dict(), trainer.state.best_global_step
        runs[name] = evaluations, best, {key: value.clone() for key, value in state.items()}
    (evaluations, best, state), found = runs["straight"], runs["stopped"]
    assert found[0] == evaluations and found[1] == best
    assert all(torch.equal(found[2][name], state[name]) for name in state)


def test_patience_that_ends_with_the_evaluation_that_was_due_takes_no_further_step(tmp_path):
    options = {"num_train_epochs": 3, "early_stopping_patience": 1, "learning_rate": 0.0}
    trainer = make_trainer(tmp_path, **options)
    trainer.add_callback(At(15, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(Stopped):
        trainer.train()
    resumed = make_trainer(tmp_path, **options)
    resumed.train(last_complete_checkpoint(tmp_path))
    assert resumed.state.global_step == 16
    assert len([entry for entry in resumed.state.log_history if "eval_loss" in entry]) == 2
    assert resumed.state.best_global_step == 8


@pytest.mark.parametrize("saved", ["epoch", "no"])
@pytest.mark.parametrize("event", ["on_evaluate", "on_train_end"])
def test_a_request_after_the_last_step_saves_it_and_ends_the_run_with_the_same_code(tmp_path, saved, event):
    trainer = make_trainer(tmp_path, num_train_epochs=1, save_strategy=saved, load_best_model_at_end=False)
    late = TrainerCallback()
    setattr(late, event, lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    trainer.callback_handler.callbacks.insert(0, late)
    with pytest.raises(Stopped, match=r"stopped by SIGTERM, saved .*checkpoint-8"):
        trainer.train()
    found = weights(tmp_path)
    assert all(torch.equal(found[name], tensor) for name, tensor in trainer.model.state_dict().items())
    resumed = make_trainer(tmp_path, num_train_epochs=1, save_strategy=saved, load_best_model_at_end=False)
    resumed.train(last_complete_checkpoint(tmp_path))
    assert resumed.state.global_step == 8
    assert all(torch.equal(found[name], tensor) for name, tensor in resumed.model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_mount_that_is_taken_away_ends_the_run_which_resumes_to_the_same_bits(tmp_path, workers):
    images, options = tmp_path / "mount" / "images", OPTIONS | {"save_strategy": "steps", "save_steps": 3}
    options |= {"dataloader_num_workers": workers}
    images.mkdir(parents=True)
    for number, row in enumerate(ROWS):
        (images / f"{number}.png").write_bytes(row["image"]["bytes"])
    paths = [{"bytes": None, "path": str(images / f"{number}.png")} for number in range(len(ROWS))]
    columns = {"image": paths, "height": ROWS["height"], "width": ROWS["width"]}
    image = datasets.Features(image=datasets.Image(decode=False), **{n: ROWS.features[n] for n in ("height", "width")})
    rows = datasets.Dataset.from_dict(columns, features=image)
    make_trainer(tmp_path / "straight", rows, **options).train()
    trainer = make_trainer(tmp_path / "cut", rows, **options)
    trainer.add_callback(At(5, lambda: images.rename(tmp_path / "away")))
    began = time.monotonic()
    with pytest.raises(OSError, match="the storage does not answer"):
        trainer.train()
    assert time.monotonic() - began < 60
    assert not (tmp_path / "cut" / "skipped.csv").exists()
    (tmp_path / "away").rename(images)
    resumed = make_trainer(tmp_path / "cut", rows, **options)
    resumed.train(last_complete_checkpoint(tmp_path / "cut"))
    found, expected = weights(tmp_path / "cut"), weights(tmp_path / "straight")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("votes", "stops"), [(None, False), (0.0, False), (1.0, True)])
def test_a_rank_that_is_asked_during_the_last_save_stops_only_where_all_ranks_do(votes, stops):
    """The ranks vote at the start of a step: a request that comes after it reaches some of them before others."""
    args, state = SimpleNamespace(world_size=2, output_dir="run"), SimpleNamespace(global_step=3)
    control, asked = SimpleNamespace(should_training_stop=True), StopOnRequest()
    asked._request(signal.SIGTERM, None)
    asked.votes = None if votes is None else torch.tensor(votes)
    if not stops:
        asked.on_save(args, state, control)
    else:
        with pytest.raises(Stopped, match="stopped by SIGTERM, saved run/checkpoint-3"):
            asked.on_save(args, state, control)


def test_two_runs_do_not_share_a_folder_and_the_lock_goes_with_its_process(tmp_path):
    code = "import sys, time; from hf_radmae.pretraining.run_folder import RunFolder\n"
    code += "with RunFolder(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    holder = rf"in use by another run \(process {other.pid}, since 20\d\d-\d\d-\d\d \d\d:\d\d [+-]\d{{4}}\)"
    with pytest.raises(FolderInUseError, match=holder), RunFolder(tmp_path):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    with RunFolder(tmp_path), RunFolder(tmp_path / "inner"):
        assert (tmp_path / ".lock").is_file()
    assert not (tmp_path / ".lock").exists()
    with RunFolder(tmp_path):  # and once more
        pass


def test_a_forked_child_does_not_hold_the_lock(tmp_path):
    with RunFolder(tmp_path):
        child = os.fork()
        if not child:
            time.sleep(20)
            os._exit(0)
    try:
        with RunFolder(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_in_a_warning(tmp_path, monkeypatch, caplog, number):
    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(run_folder.fcntl, "flock", refuse)
    with RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run"):
        assert f"the file system of {tmp_path / 'run'} has no locks" in caplog.text


@pytest.mark.parametrize("inside", ["", "run"])
def test_an_output_folder_that_is_a_file_is_named(tmp_path, inside):
    (tmp_path / "file").touch()
    found = "cannot be written in: it or a folder above it is a file"
    with pytest.raises(OSError, match=found), RunFolder(tmp_path / "file" / inside):
        pass


def test_a_folder_that_was_made_and_left_empty_is_removed(tmp_path):
    with pytest.raises(ValueError, match="no such option"), RunFolder(tmp_path / "run"):
        raise ValueError("no such option")
    assert not (tmp_path / "run").exists()


def test_a_number_of_processes_that_no_launcher_gave_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="WORLD_SIZE is 4 in the environment and RANK is not set"):
        check_ranks(use_cpu=True)
    monkeypatch.setenv("RANK", "0")
    check_ranks(use_cpu=True)


@pytest.mark.parametrize("length", [60, 75, 76, 120])
def test_a_long_temporary_folder_is_refused_at_the_start(monkeypatch, length):
    monkeypatch.setattr(run_folder.tempfile, "gettempdir", lambda: "/" + "x" * (length - 1))
    check_temporary_folder(0)
    if length <= 75:
        check_temporary_folder(2)
    else:
        with pytest.raises(ValueError, match=rf"{length} bytes it is too long.*TMPDIR"):
            check_temporary_folder(2)


def test_a_full_disk_is_named_and_leaves_the_checkpoint_before(tmp_path):
    """A limit on the size of files stands for a full disk: the optimiser's file is the largest."""
    options = {"num_train_epochs": 3, "save_total_limit": None}
    trainer = make_trainer(tmp_path, **options)
    steps = len(trainer.get_train_dataloader())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        size = max(path.stat().st_size for path in checkpoints_in(tmp_path)[0].iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))

    trainer.add_callback(At(steps, fill))
    try:
        with pytest.raises(DiskFullError, match=r"no space left for a checkpoint.*Free some: checkpoints there are"):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in checkpoints_in(tmp_path)] == [f"checkpoint-{steps}"]
    assert damage(checkpoints_in(tmp_path)[0]) is None
    assert trainer.state.global_step == 2 * steps
    assert errno.ENOSPC


@pytest.mark.slow
def test_a_small_disk_that_is_full_ends_a_run_and_a_larger_one_resumes_it_to_the_same_bits(tmp_path, straight):
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*options):
        return subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "none", disk], check=False).returncode

    if mount("size=50m"):
        pytest.skip("this user may not mount a disk")
    try:
        trainer = make_trainer(disk / "run", **OPTIONS)
        # half of a further checkpoint fits: the one before is deleted when the new one is complete
        trainer.add_callback(At(9, lambda: mount("remount", f"size={int(1.5 * shutil.disk_usage(disk).used)}")))
        with pytest.raises(DiskFullError, match=r"no space left for a checkpoint.*checkpoints there are checkpoint-8,"):
            trainer.train()
        assert mount("remount", "size=50m") == 0
        make_trainer(disk / "run", **OPTIONS).train(last_complete_checkpoint(disk / "run"))
        found = {name: tensor.clone() for name, tensor in weights(disk / "run").items()}
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
    assert all(torch.equal(found[name], straight[name]) for name in straight)


def spoil(trainer, step: int) -> None:
    """Makes the weights so large at a step that the next forward pass overflows."""

    def act():
        with torch.no_grad():
            trainer.model.decoder.decoder_pred.weight.fill_(1e30)

    trainer.add_callback(At(step, act))


DIVERGED = [{}, {"optim": "sgd"}]
DIVERGED += [
    pytest.param(o, marks=pytest.mark.slow) for o in ({"gradient_accumulation_steps": 2}, {"logging_steps": 100})
]


@pytest.mark.parametrize("options", DIVERGED)
def test_a_diverged_run_ends_with_an_error_that_can_be_run_again(tmp_path, options, monkeypatch, capsys):
    trainer = make_trainer(tmp_path, num_train_epochs=3, **options)
    steps = len(trainer.get_train_dataloader()) // options.get("gradient_accumulation_steps", 1)
    spoil(trainer, steps + 1)
    with pytest.raises(
        DivergedError, match=rf"diverged at step {steps + 1}: .*hf-radmae replay .*checkpoint-{steps}\."
    ):
        trainer.train()
    kept = last_complete_checkpoint(tmp_path)
    assert kept == str(tmp_path / f"checkpoint-{steps}")
    assert all(torch.isfinite(tensor).all() for tensor in load_file(f"{kept}/model.safetensors").values())
    found = replay(tmp_path / "diverged", make_model())
    assert found["step"] == steps + 1
    make_model().config.save_pretrained(tmp_path)  # as a run has it that was finished before and diverged when resumed
    monkeypatch.setattr(sys, "argv", ["hf-radmae replay", str(tmp_path)])
    replay_command()
    assert f"Step {steps + 1}, " in capsys.readouterr().out
    assert not all(map(torch.isfinite, map(torch.tensor, found["losses"])))
    assert found["gradients"]
    saved = load_file(tmp_path / "diverged" / "model.safetensors")
    start = saved["decoder.decoder_pred.weight"]  # that from which the step started
    assert (start == 1e30).all() if "optim" not in options else (start > 9e29).all()
    assert not [file for file in (tmp_path / "diverged").iterdir() if file.suffix in (".pt", ".bin", ".pth")]


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    trainer = make_trainer(tmp_path)
    with torch.no_grad():
        trainer.model.decoder.mask_token.fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"decoder\.mask_token are not finite"):
        trainer.save_model()
    assert not (tmp_path / "model.safetensors").exists()
    with pytest.raises(DivergedError, match="eval_loss is nan"):
        trainer.evaluate()


def test_what_is_finite():
    check_finite({"loss": 1.0, "name": "nan", "steps": 3}, "the log")
    with pytest.raises(DivergedError, match="the log: loss is nan, norm is inf"):
        check_finite({"loss": float("nan"), "norm": float("inf")}, "the log")


def test_a_replay_says_which_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape("step.json is missing")):
        replay(tmp_path, make_model())


@pytest.mark.parametrize("flag", ["bf16_full_eval", "fp16_full_eval"])
def test_a_cast_evaluation_leaves_the_weights_as_they_were(tmp_path, flag):
    plain, trainer = make_trainer(tmp_path / "a"), make_trainer(tmp_path / "b", **{flag: True})
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    losses = [run.evaluate()["eval_loss"] for run in (plain, trainer)]
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.02)
    after = trainer.model.state_dict()
    assert all(after[name].dtype == before[name].dtype and torch.equal(after[name], before[name]) for name in before)
    trainer.train()
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


def test_cores_are_those_of_the_process():
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, cores)
    assert 1 <= available_cores() <= len(cores)


def test_the_record_is_of_a_model_that_loads(tmp_path):
    trainer = make_trainer(tmp_path, logging_steps=1)
    spoil(trainer, 1)
    with pytest.raises(DivergedError):
        trainer.train()
    facts = json.loads((tmp_path / "diverged" / "step.json").read_text())
    assert facts["step"] == 1
    assert RadMAEForPreTraining.from_pretrained(tmp_path / "diverged").config.patch_size == PATCH
