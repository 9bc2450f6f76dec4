"""Features, exports and studies on several real processes: what one process gives."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from threading import Timer
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from optuna import get_all_study_summaries
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from safetensors.numpy import load_file
from world import CONTEXT, World

from hf_radmae.batching import ranks
from hf_radmae.batching.ranks import wait_until_seen
from hf_radmae.pretraining import devices

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(1800)]
CONTEXT.set_forkserver_preload(["hf_radmae.cli.study"])  # where no test before has started it
PATIENCE = 900  # seconds for a study on a busy machine
TESTS = str(Path(__file__).parents[1])
IMAGES = 30


def extract(folder: Path) -> None:
    """Features of images of three shapes, of which one is damaged; and again from what was kept on the disk."""
    sys.path[:0] = [TESTS]
    from damaged import encode
    from exported import PATCH, limb, small_mae
    from rows import make_rows

    from hf_radmae.batching.binning import fit_bins
    from hf_radmae.batching.collator import BucketCollator
    from hf_radmae.batching.dataset import RadiographDataset
    from hf_radmae.batching.loader import bucket_loader
    from hf_radmae.batching.ranks import rank_and_size
    from hf_radmae.probing import extract_features

    torch.set_num_threads(1)
    sizes = [[(64, 64), (96, 40), (40, 96)][number % 3] for number in range(IMAGES)]
    contents = [encode(limb(*size, seed=number), "PNG") for number, size in enumerate(sizes)]
    contents[7] = b"no image"
    bins = fit_bins(np.array(sizes), num_bins=3, patch_size=PATCH, max_tokens=64, min_images=1)
    data, network = RadiographDataset(make_rows(contents), bins), small_mae()
    seen: list[int] = []
    network.encode, encode_batch = lambda pixels: (seen.append(len(pixels)), encode_batch(pixels))[1], network.encode
    loader = bucket_loader(data, BucketCollator(PATCH, background="keep"), 4, rank=0, world_size=1)
    options = {"cache_dir": folder / "cache", "data_fingerprint": "images", "poolings": ["cls", "mean", "std"]}
    found, again = (extract_features(network, loader, **options) for _ in range(2))
    arrays = [part for features in (found, again) for part in (features.rows, *features.pooled.values())]
    rank = rank_and_size()[0]
    np.savez(folder / f"rank-{rank}.npz", *arrays)
    (folder / f"seen-{rank}.json").write_text(json.dumps(sum(seen)))


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> list[np.ndarray]:
    folder = tmp_path_factory.mktemp("one")
    World(extract, folder=folder).wait()
    return [*np.load(folder / "rank-0.npz").values()]


@pytest.mark.parametrize("processes", [2, pytest.param(11, marks=pytest.mark.slow)])
def test_features_of_many_processes_are_those_of_one_bit_for_bit_and_each_image_is_encoded_once(
    one, tmp_path, processes
):
    """Of eleven processes some have no batch at all."""
    World(extract, processes, folder=tmp_path).wait()
    for rank in range(processes):
        found = [*np.load(tmp_path / f"rank-{rank}.npz").values()]
        assert all(np.array_equal(first, second) for first, second in zip(found, one, strict=True))
    assert one[0].tolist() == [row for row in range(IMAGES) if row != 7]
    seen = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(processes)]
    assert sum(seen) == IMAGES and max(seen) < IMAGES


def test_a_file_that_storage_shows_late_is_waited_for(tmp_path, monkeypatch):
    late = tmp_path / "folder" / "config.json"

    def write() -> None:
        late.parent.mkdir()
        late.touch()

    Timer(0.4, write).start()
    wait_until_seen(late)
    monkeypatch.setattr(ranks, "VISIBLE", 0.1)
    with pytest.raises(FileNotFoundError, match=r"process 0 does not see .*other 0\.1 s after it was written"):
        wait_until_seen(tmp_path / "other")


def test_processes_of_a_machine_share_its_cores_unless_the_user_says_how_many_threads(monkeypatch):
    given: list[int] = []
    monkeypatch.setattr(devices.torch, "set_num_threads", given.append)
    monkeypatch.setattr(devices, "available_cores", lambda: 9)
    for name, value in {"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    for launcher_was_told in (False, True):
        monkeypatch.setattr(devices, "_launcher_was_given_threads", lambda told=launcher_was_told: told)
        for size in (1, 2):
            devices.use_available_cores(SimpleNamespace(device=torch.device("cpu"), world_size=size))
    assert given == [9, 4]


# A study

PHANTOM = ["--num_images", "60", "--phantom_scale", "0.03"]
SMALL = PHANTOM + shlex.split(
    "--max_tokens 16 --num_bins 2 --num_train_epochs 2 --draws 2 "
    "--low_fraction 0.3 --curve 0.5 --poolings cls mean --supervised vit --supervised_epochs 1 --supervised_steps 2 "
    "--supervised_evaluations 1 --learning_rates 1e-3 1e-2 --search_fraction 0.3 --disable_tqdm true --report_to none "
    "--dataloader_num_workers 0 --use_cpu true --figure_images 0 --min_test_images 1 --tasks body_region"
)
TIMES = ("seconds", "images_per_second", "tokens_per_second", "device_hours_per_100k_images", "hours_left")


def study(output: Path, words: list[str], cache: Path, dies: tuple[int, str] | None = None) -> None:
    """The command of a study; rank `dies[0]` kills itself with SIGKILL before it takes the first step named so."""
    import os
    import signal

    import datasets

    from hf_radmae.batching.ranks import rank_and_size
    from hf_radmae.cli.study import main
    from hf_radmae.study.steps import Steps

    torch.set_num_threads(1)
    datasets.config.HF_DATASETS_CACHE = cache
    sys.argv = ["study.py", *SMALL, "--output_dir", str(output), *words]
    run = Steps._run

    def run_or_die(self, step):
        if dies is not None and dies[0] == rank_and_size()[0] and step.name.startswith(dies[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        return run(self, step)

    Steps._run = run_or_die
    main()


def run(module: str, words: list[str], cache: Path) -> None:
    """A command of this package, on the generated images of the studies."""
    import datasets

    torch.set_num_threads(1)
    datasets.config.HF_DATASETS_CACHE = cache
    sys.argv = [module, *words, *PHANTOM]
    import_module(f"hf_radmae.cli.{module}").main()


def results(output: Path) -> dict:
    """What has to be the same: all but times, the folder's name and what the batches were split into."""
    dropped = {*TIMES, "name", "options"}
    text = (output / "results.json").read_text()
    return json.loads(text, object_hook=lambda d: {k: v for k, v in d.items() if k not in dropped})


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """A study of one process, with a pre-training; its data is in a cache that the others read."""
    folder = tmp_path_factory.mktemp("first")
    words = ["--per_device_train_batch_size", "12"]
    World(study, output=folder / "out", words=words, cache=folder / "cache").wait(PATIENCE)
    return folder


def given(first: Path, processes: int) -> list[str]:
    """The options of a study from the encoder of the first, with the same images in an update."""
    (mae,) = (path for path in (first / "out" / "steps").glob("pretrain-*") if path.is_dir())
    return ["--mae_checkpoint", str(mae), "--per_device_train_batch_size", str(12 // processes)]


@pytest.fixture(scope="module")
def straight(first) -> Path:
    """A study of one process, from the encoder of the first."""
    output = first / "straight"
    World(study, output=output, words=given(first, 1), cache=first / "cache").wait(PATIENCE)
    return output


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_a_study_of_a_given_encoder_is_that_of_one_process(first, straight, tmp_path, processes):
    options = {"words": given(first, processes), "cache": first / "cache"}
    World(study, processes, output=tmp_path / "out", **options).wait(PATIENCE)
    assert results(tmp_path / "out") == results(straight)
    done = [
        [path.name for path in sorted((output / "steps").glob("*.json"))] for output in (straight, tmp_path / "out")
    ]
    assert done[0] == done[1]
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.slow
def test_a_study_that_pre_trains_on_two_processes_is_that_of_one_up_to_rounding(first, tmp_path):
    """Half the batch on each process: bins, batches, draws and rates are the same."""
    words = ["--per_device_train_batch_size", "6"]
    World(study, 2, output=tmp_path / "out", words=words, cache=first / "cache").wait(PATIENCE)
    (ours,), (theirs,) = ([*path.glob("out/steps/pretrain-*/model.safetensors")] for path in (tmp_path, first))
    weights, others = load_file(ours), load_file(theirs)
    assert max(np.abs(weights[name] - others[name]).max() for name in others) < 1e-3
    found, expected = results(tmp_path / "out"), results(first / "out")
    assert found["pretraining"]["losses"] == pytest.approx(expected["pretraining"]["losses"], abs=1e-4)
    for both in zip(found["tasks"][0]["tables"], expected["tasks"][0]["tables"], strict=True):
        rows, known = ([row for row in table["rows"] if row["model"] != "pre-trained"] for table in both)
        assert rows == known and len(rows) >= 5
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "out", again)  # the same global batches on one process: nothing is left to do
    written = {path.name for path in (again / "steps").glob("*.json")}
    World(study, output=again, words=["--per_device_train_batch_size", "12"], cache=first / "cache").wait(PATIENCE)
    assert {path.name for path in (again / "steps").glob("*.json")} == written


@pytest.mark.slow
@pytest.mark.parametrize(("dies", "again"), [((1, "features, pre-trained"), 2), ((0, "train"), 3)])
def test_a_rank_that_was_killed_costs_its_own_step_alone(first, straight, tmp_path, dies, again):
    options = {"output": tmp_path / "out", "cache": first / "cache"}
    world = World(study, 2, words=given(first, 2), dies=dies, **options)
    world.processes[dies[0]].join(PATIENCE)
    assert world.processes[dies[0]].exitcode == -signal.SIGKILL
    world.processes[1 - dies[0]].join(120)  # without a launcher it ends by itself, as soon as it needs the other one
    assert world.processes[1 - dies[0]].exitcode == 1
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "steps").glob("*.json")}
    World(study, again, words=given(first, again), **options).wait(PATIENCE)
    assert all(path.stat().st_mtime_ns == when for path, when in written.items())
    assert results(tmp_path / "out") == results(straight)


@pytest.mark.slow
def test_an_export_on_two_processes_is_that_of_one(first, tmp_path):
    for processes in (1, 2):
        words = ["--model", given(first, 1)[1], "--probe_column", "body_region"]
        words += ["--output_dir", str(tmp_path / str(processes) / "out")]
        World(run, processes, module="export", words=words, cache=first / "cache").wait(PATIENCE)
    one, two = (tmp_path / name / "out" for name in ("1", "2"))
    assert results(one) == results(two)
    files = {path.name: path.read_bytes() for path in one.iterdir() if path.is_file()}
    assert files == {path.name: path.read_bytes() for path in two.iterdir() if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["pretrain", "finetune"])
def test_a_search_on_two_processes_tries_the_rates_of_one_and_no_rate_twice(first, tmp_path, what):
    short = "--max_tokens 16 --num_bins 2 --num_train_epochs 1 --dataloader_num_workers 0 --report_to none"
    short += " --disable_tqdm true --use_cpu true --rates 1e-4 1e-3"
    found = []
    for processes in (1, 2, 2):
        output, size = tmp_path / str(processes), str(12 // processes)
        words = [what, "--output_dir", str(output), "--per_device_train_batch_size", size, *short.split()]
        World(run, processes, module="search_lr", words=words, cache=first / "cache").wait(PATIENCE)
        found.append(json.loads((output / "search.json").read_text()))
    assert found[1] == found[2]
    for trial, other in zip(found[0]["trials"], found[1]["trials"], strict=True):
        assert trial["learning_rate"] == other["learning_rate"]
        assert trial["score"] == pytest.approx(other["score"], abs=0.01)
    journal = JournalStorage(JournalFileBackend(str(tmp_path / "2" / "search.journal")))
    assert [search.n_trials for search in get_all_study_summaries(journal)] == [2]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["first", "second", "all", "killed"])
def test_an_error_ends_all_processes_within_a_minute_and_is_told_once(way, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "3"]
    words = [str(Path(__file__).with_name("failing.py")), way, str(tmp_path / "failing")]
    run = subprocess.run([*torchrun, *words], capture_output=True, text=True, timeout=300)
    assert run.returncode != 0 and time.time() - (tmp_path / "failing").stat().st_mtime < 60
    told = [line for line in run.stderr.splitlines() if line.startswith("failing.py: ")]
    who = "the first" if way == "first" else way
    assert told == ([f"failing.py: error: {who} cannot"] if way != "killed" else [])
    assert "Signal 9" in run.stderr or way != "killed"
