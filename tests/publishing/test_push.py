"""Pushes over real HTTP are whole or not at all, private, repeatable, and clear when they fail."""

import logging
import signal
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from clients import pusher, start
from huggingface_hub import HfApi
from safetensors.numpy import save_file
from server import OWNER, READ_ONLY

from hf_radmae.publishing.card import write_card
from hf_radmae.publishing.push import Pusher, PushError

MODEL = "models/user/m"


def small_model(folder: Path, shards: int = 2, seed: int = 0) -> Path:
    """A folder like a model's, its weights in several files."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for shard in range(1, shards + 1):
        name = f"model-{shard:05}-of-{shards:05}.safetensors"
        save_file({"classifier.weight": rng.random((2, 99))}, folder / name, {"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "vit"}')
    (folder / "training_args.bin").write_bytes(b"pickle")
    write_card({"name": folder.name}, folder)
    return folder


def test_what_arrives_is_what_may_go_in_one_private_commit(hub, tmp_path):
    folder = small_model(tmp_path / "run")
    push = pusher(hub)
    assert push.open() == f"{OWNER}/m"
    push.push(folder, "first")
    repo = hub.repos[MODEL]
    assert repo.private
    assert [set(files) - {".gitattributes"} for _, files in repo.commits] == [
        set(),
        {path.name for path in folder.iterdir()} - {"training_args.bin"},
    ]
    for name, content in repo.files.items():
        if name not in (".gitattributes", "README.md"):
            assert content == (folder / name).read_bytes()
    card = repo.files["README.md"].decode()
    assert '"user/m"' in card  # the code on it loads the repository
    assert '"run"' not in card


@pytest.mark.parametrize("step, status", [("create", 503), ("upload", 0), ("commit", 500), ("commit", 0)])
def test_a_failure_that_passes_is_tried_again(step, status, hub, tmp_path):
    hub.faults[step] = [status]
    push = pusher(hub)
    push.open()
    push.push(small_model(tmp_path / "run"), "x")
    assert hub.counts[step] >= 2
    assert len(hub.repos[MODEL].files) == 5


@pytest.mark.parametrize(
    "step, status, says",
    [
        ("batch", 507, "no room left"),
        ("upload", 507, "no room left"),
        ("commit", 507, "no room left"),
        ("commit", 403, "may not write"),
        ("commit", 401, "refuses the token"),
        ("commit", 500, "answers 500"),
        ("commit", 0, "cannot be reached"),
    ],
)
def test_a_push_that_fails_leaves_the_repository_as_it_was_and_can_be_repeated(step, status, says, hub, tmp_path):
    push = pusher(hub)
    push.open()
    push.push(small_model(tmp_path / "run"), "first")
    before = list(hub.repos[MODEL].commits)
    folder = small_model(tmp_path / "run", seed=1)
    hub.faults[step] = [status] * 9
    with pytest.raises(PushError, match=says) as failure:
        push.push(folder, "second")
    assert "user/m" in str(failure.value)
    assert hub.repos[MODEL].commits == before
    hub.faults.clear()
    push.push(folder, "second")
    assert len(hub.repos[MODEL].commits) == len(before) + 1
    assert (
        hub.repos[MODEL].files["model-00001-of-00002.safetensors"] != before[-1][1]["model-00001-of-00002.safetensors"]
    )


@pytest.mark.parametrize("token, says", [("hf_" + "x" * 34, "refuses the token"), (READ_ONLY, "may not write")])
def test_a_token_that_is_refused_is_said_so_before_anything_goes(token, says, hub, tmp_path):
    with pytest.raises(PushError, match=says):
        pusher(hub, token=token).open()
    assert not hub.repos


def test_without_a_token_it_says_how_to_get_one(hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(PushError, match="hf auth login"):
        Pusher("m", api=HfApi(endpoint=hub.url), attempts=1).open()


def test_a_full_disk_of_this_machine_is_said_so(hub, tmp_path):
    push = pusher(hub)

    def full():
        with open("/dev/full", "w") as file:
            file.write("x")

    with pytest.raises(PushError, match="disk of this machine is full"):
        push._try(full)


def test_a_public_repository_takes_no_private_push(hub, tmp_path):
    pusher(hub, private=False).open()
    assert not hub.repos[MODEL].private
    with pytest.raises(PushError, match="public"):
        pusher(hub).open()


def test_what_the_gate_refuses_asks_the_hub_nothing(hub, tmp_path, caplog):
    folder = small_model(tmp_path / "run")
    (folder / "README.md").write_text(f"trained in {tmp_path}")
    with pytest.raises(PushError, match=r"README.md: the text holds an absolute path[^$]*stays"):
        pusher(hub).push(folder, "x")
    with caplog.at_level(logging.ERROR):
        pusher(hub).push_in_background(folder, "x")
    assert "absolute path" in caplog.text
    assert not hub.counts


def test_files_of_an_earlier_push_that_would_be_read_with_the_new_ones_go(hub, tmp_path):
    push = pusher(hub)
    push.open()
    push.push(small_model(tmp_path / "a", shards=3), "three")
    push.push(small_model(tmp_path / "b", shards=2), "two")
    weights = sorted(name for name in hub.repos[MODEL].files if name.startswith("model-"))
    assert weights == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]


def test_a_push_in_the_background_outlives_its_folder_and_says_when_it_fails(hub, tmp_path, caplog):
    push = pusher(hub)
    push.open()
    folder = small_model(tmp_path / "a")
    push.push_in_background(folder, "x")
    for path in folder.iterdir():
        path.unlink()
    push.finish()
    assert len(hub.repos[MODEL].files) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    hub.faults["commit"] = [507]
    push.push_in_background(small_model(tmp_path / "b", seed=3), "x")
    push.finish()
    assert "no room left" in caplog.text
    assert not push.is_busy


def test_a_push_killed_half_way_leaves_the_repository_as_it_was_and_sends_the_rest_when_repeated(hub, tmp_path):
    folder = small_model(tmp_path / "run", shards=3)
    command = [str(folder), "m", "--message", "by script"]
    hub.hold = 1
    killed = start("push.py", *command, folder=tmp_path)
    assert hub.held.wait(400), killed.communicate()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert [set(files) for _, files in hub.repos[MODEL].commits] == [{".gitattributes"}]
    hub.hold, sent, already = None, hub.counts["upload"], len(hub.objects)
    assert already == 1
    repeated = start("push.py", *command, folder=tmp_path)
    said, errors = repeated.communicate(timeout=400)
    assert repeated.returncode == 0, errors
    assert "Pushed to user/m, private" in said
    assert "stays" in said
    assert hub.counts["upload"] - sent == 3 - already
    assert len(hub.repos[MODEL].files) == 6
