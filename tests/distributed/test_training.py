"""Training with real processes: the same gradients and weights, however it is split and whenever it is killed."""

import json
import random
import shutil
import time
from pathlib import Path

import pytest
import torch
from runs import make_rows, train
from safetensors.torch import load_file
from world import World

pytestmark = pytest.mark.distributed
IMAGES = 60


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> str:
    return make_rows(tmp_path_factory.mktemp("rows") / "data", IMAGES)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def trace(folder: Path, rank: int) -> list[dict]:
    return [json.loads(line) for line in (folder / f"trace-{rank}.jsonl").read_text().splitlines()]


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    assert first.keys() == second.keys()
    worst = max((first[name] - second[name]).abs().max().item() for name in first)
    assert worst <= tolerance, f"weights differ by {worst}"


@pytest.fixture(scope="module")
def one_process(rows, tmp_path_factory) -> Path:
    """One epoch of plain gradient descent with batches of 8 on one process: what every split must repeat."""
    folder = tmp_path_factory.mktemp("one")
    World(train, data=rows, output_dir=str(folder), batch_size=8, **SGD).wait()
    return folder


SGD = {"optim": "sgd", "learning_rate": 0.05, "num_train_epochs": 1, "weight_decay": 0.0, "max_grad_norm": 0.0}


@pytest.mark.parametrize(
    ("world_size", "batch_size", "accumulation"), [(2, 4, 1), (4, 2, 1), (1, 4, 2), (1, 2, 4), (2, 2, 2)]
)
def test_ranks_and_accumulation_do_not_change_the_gradient(
    one_process, rows, tmp_path, world_size, batch_size, accumulation
):
    World(
        train,
        world_size,
        data=rows,
        output_dir=str(tmp_path),
        batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        **SGD,
    ).wait()
    assert_equal(weights(tmp_path), weights(one_process), tolerance=1e-5)
    loss = [json.loads((folder / "eval.json").read_text())["eval_loss"] for folder in (tmp_path, one_process)]
    assert loss[0] == pytest.approx(loss[1], abs=1e-5)


def test_the_weights_of_the_reference_moved(one_process, rows, tmp_path):
    World(train, data=rows, output_dir=str(tmp_path), batch_size=8, **(SGD | {"learning_rate": 1e-12})).wait()
    with pytest.raises(AssertionError, match="weights differ"):
        assert_equal(weights(tmp_path), weights(one_process), tolerance=1e-4)


@pytest.mark.parametrize("streaming", [False, True])
def test_two_ranks_share_each_epoch_bin_by_bin(rows, tmp_path, streaming):
    World(train, 2, data=rows, output_dir=str(tmp_path), batch_size=4, num_train_epochs=2, streaming=streaming).wait()
    ranks = [trace(tmp_path, rank) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1])
    assert all(first["shape"] == second["shape"] for first, second in zip(*ranks, strict=True))
    steps = len(ranks[0]) // 2
    for epoch in range(2):
        seen = [row for rank in ranks for line in rank[epoch * steps : (epoch + 1) * steps] for row in line["rows"]]
        assert sorted(seen if not streaming else {*seen}) == list(range(IMAGES))  # a stream repeats a few


def test_a_run_goes_on_over_more_ranks_where_the_global_batch_stays_and_is_refused_where_it_does_not(rows, tmp_path):
    straight, split, other = (tmp_path / name for name in ("straight", "split", "other"))
    options = {"data": rows, "save_strategy": "steps", "save_steps": 3, "save_total_limit": None, **SGD}
    World(train, output_dir=str(straight), batch_size=8, **options).wait()
    for folder in (split, other):
        shutil.copytree(straight / "checkpoint-3", folder / "checkpoint-3")
    World(train, 2, output_dir=str(split), batch_size=4, resume=True, **options).wait()
    assert_equal(weights(split), weights(straight), tolerance=1e-5)
    ranks = [[line["rows"] for line in trace(split, rank)] for rank in range(2)]
    assert [first + second for first, second in zip(*ranks, strict=True)] == [
        line["rows"] for line in trace(straight, 0)[3:]
    ]
    with pytest.raises(AssertionError, match=r"exit codes \[1, 1\]"):
        World(train, 2, output_dir=str(other), batch_size=8, resume=True, **options).wait()
    assert not (other / "trace-0.jsonl").exists()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("world_size", "workers"),
    [*[pytest.param(*way, marks=pytest.mark.slow) for way in ((1, 0), (1, 2), (2, 0))], (2, 2)],
)
def test_a_killed_run_resumes_to_the_same_bits(rows, tmp_path, world_size, workers, streaming):
    options = {"data": rows, "save_strategy": "steps", "save_steps": 3, "dataloader_num_workers": workers}
    options |= {"streaming": streaming}
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    World(train, world_size, output_dir=str(straight), **options).wait()

    world = World(train, world_size, output_dir=str(killed), **options)
    deadline = time.monotonic() + 120
    while not list(killed.glob("checkpoint-*/checkpoint.json")):
        assert time.monotonic() < deadline, "no checkpoint after two minutes"
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    world.kill()
    before = len(trace(killed, 0))
    World(train, world_size, output_dir=str(killed), resume=True, **options).wait()

    assert_equal(weights(killed), weights(straight))
    for rank in range(world_size):
        resumed = trace(killed, rank)[before if rank == 0 else -1 :]
        whole = trace(straight, rank)
        assert resumed == whole[len(whole) - len(resumed) :]  # of a run that was killed after its last step: nothing
