"""Accelerate's config files under scripts/recipes start what they say, here on processors in place of GPUs."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import runs
import yaml
from runs import make_rows, train
from safetensors.torch import load_file
from test_training import assert_equal, trace, weights
from transformers import ViTMAEForPreTraining
from world import World

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

RECIPES = Path(__file__).parents[2] / "scripts" / "recipes"


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> str:
    return make_rows(tmp_path_factory.mktemp("rows") / "data", 30)


def launch(recipe: str, folder: Path, rows: str, processes: int, *, machines: int = 1) -> None:
    """Runs `accelerate launch` with a recipe, once for each machine, on the CPU and in full precision."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = yaml.safe_load((RECIPES / recipe).read_text())
    config |= {"use_cpu": True, "mixed_precision": "no", "num_processes": processes, "main_process_port": port}
    path = folder / recipe
    path.write_text(yaml.safe_dump(config))
    words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(path)]
    script, pipes = [runs.__file__, rows, str(folder)], {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    ranks = [["--machine_rank", str(rank)] if machines > 1 else [] for rank in range(machines)]
    started = [subprocess.Popen([*words, *rank, *script], text=True, **pipes) for rank in ranks]
    for process in started:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said[-3000:]


def test_one_gpu_several_gpus_and_several_nodes_train_the_same(rows, tmp_path):
    one, two, nodes = (tmp_path / name for name in ("one", "two", "nodes"))
    for folder in (one, two, nodes):
        folder.mkdir()
    launch("one_gpu.yaml", one, rows, 1)
    launch("ddp.yaml", two, rows, 2)
    launch("nodes.yaml", nodes, rows, 2, machines=2)
    assert len(trace(two, 0)) == len(trace(two, 1)) == len(trace(nodes, 1)) > 0
    assert_equal(weights(nodes), weights(two))
    for name in ("two", "nodes"):
        assert (tmp_path / name / "eval.json").is_file()
    assert not (one / "trace-1.jsonl").exists()


def test_a_sharded_model_trains_like_copies_and_its_checkpoint_resumes_and_loads(rows, tmp_path):
    options = {"data": rows, "save_strategy": "steps", "save_steps": 2, "num_train_epochs": 1, "save_total_limit": None}
    options |= {"eval_strategy": "steps", "eval_steps": 2}
    plain = {"optim": "sgd", "learning_rate": 0.05}
    one, copies, sharded, resumed = (tmp_path / name for name in ("one", "copies", "sharded", "resumed"))
    World(train, 2, output_dir=str(one), sharded=True, **options, **plain).wait()
    World(train, 2, output_dir=str(copies), **options, **plain).wait()
    assert all(line["sharded"] for line in trace(one, 1))
    assert not any(line["sharded"] for line in trace(copies, 1))
    assert_equal(weights(one), weights(copies), tolerance=1e-5)
    losses = [json.loads((folder / "eval.json").read_text())["eval_loss"] for folder in (one, copies)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)

    # With AdamW: torch cannot load the sharded state of an optimiser that has none.
    World(train, 2, output_dir=str(sharded), sharded=True, **options).wait()
    shutil.copytree(sharded / "checkpoint-2", resumed / "checkpoint-2")
    World(train, 2, output_dir=str(resumed), sharded=True, resume=True, **options).wait()
    assert_equal(weights(resumed), weights(sharded))
    assert trace(resumed, 0) == trace(sharded, 0)[2:]
    stock = ViTMAEForPreTraining.from_pretrained(sharded / "checkpoint-2").state_dict()
    assert_equal(stock, load_file(sharded / "checkpoint-2" / "model.safetensors"))
