"""Several real ranks: each evaluation image counts once, and a run killed in its second epoch resumes bit for bit."""

import json
import time

import numpy as np
import pytest
from runs import make_rows, train
from test_training import assert_equal, trace, weights
from world import World

from hf_radmae.batching.sampler import BucketBatchSampler, Repeat
from hf_radmae.batching.streaming import StreamBatchSampler

pytestmark = pytest.mark.distributed
IMAGES = 21  # few a bin, so that ranks repeat images


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> str:
    return make_rows(tmp_path_factory.mktemp("rows") / "data", IMAGES)


@pytest.mark.parametrize("streaming", [False, True])
def test_the_evaluation_loss_is_that_of_one_rank_with_any_batch_size(rows, tmp_path, streaming):
    """The learning rate is 0. With one image a batch nothing is repeated; with large ones most ranks repeat images."""
    losses = {}
    for world_size, size in [(1, 1), (2, 16), (3, 16)]:
        folder = tmp_path / f"{world_size}"
        options = {"learning_rate": 0.0, "max_steps": 1, "per_device_eval_batch_size": size, "streaming": streaming}
        World(train, world_size, data=rows, output_dir=str(folder), **options).wait()
        losses[world_size] = json.loads((folder / "eval.json").read_text())["eval_loss"]
    assert losses[2] == pytest.approx(losses[1], rel=1e-5)
    assert losses[3] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (2, 2)])
def test_a_run_killed_in_the_middle_of_its_second_epoch_resumes_to_the_same_bits(
    rows, tmp_path, world_size, workers, streaming
):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    options = {"data": rows, "num_train_epochs": 4, "dataloader_num_workers": workers, "streaming": streaming}
    options |= {"batch_size": 2}
    World(train, world_size, output_dir=str(straight), **options).wait()
    steps = len(trace(straight, 0)) // 4
    options |= {"save_strategy": "steps", "save_steps": steps + steps // 2}
    world = World(train, world_size, output_dir=str(killed), **options)
    deadline = time.monotonic() + 200
    while not list(killed.glob("checkpoint-*/checkpoint.json")):
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.01)
    world.kill()
    before = len(trace(killed, 0))
    World(train, world_size, output_dir=str(killed), resume=True, **options).wait()
    assert_equal(weights(killed), weights(straight))
    resumed = trace(killed, 0)[before:]
    assert resumed[0]["epoch"] == 1 and resumed == trace(straight, 0)[-len(resumed) :]


@pytest.mark.parametrize("world_size", [1, 3, 8, 64])
@pytest.mark.parametrize("streaming", [False, True])
def test_each_image_of_an_evaluation_counts_once_on_any_number_of_ranks(world_size, streaming):
    """Few images, a rare bin of one, and none at all for some bins."""
    ids = np.r_[np.zeros(150, int), np.full(37, 2), [3], np.full(12, -1)]
    seen: list[int] = []
    steps = set()
    for rank in range(world_size):
        options: dict = {"rank": rank, "world_size": world_size, "shuffle": False}
        groups = [*range(0, 200, 23), 200]
        stream = StreamBatchSampler(ids, groups, 16, **options)
        batches = list(stream if streaming else BucketBatchSampler(ids, 16, **options))
        steps.add(len(batches))
        seen += [row for batch in batches for row in batch if not isinstance(row, Repeat)]
    assert sorted(seen) == np.flatnonzero(ids >= 0).tolist()
    assert len(steps) == 1
