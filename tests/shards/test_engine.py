"""Preparing on a Dask cluster of three worker processes, one of them killed: the bytes of the built-in run."""

import os
import runpy
import signal
import time
from pathlib import Path

import dask
import pytest
import yaml
from rows import make_rows

from hf_radmae.cli.parse import parse
from hf_radmae.cli.prepare import RunArguments, dask_executor
from hf_radmae.images.storage import StorageError
from hf_radmae.shards.prepare import prepare
from hf_radmae.shards.shrink import PrepareOptions

distributed = pytest.importorskip("distributed")

KEY = bytes(range(32))
OPTIONS = PrepareOptions(longest_side=48, images_per_shard=3)


class Files:
    """Reads files slowly; the first process that reads `deadly` is killed in the midst, and `stalled` fails twice."""

    def __init__(self, deadly: str, stalled: str, notes: Path):
        self.deadly, self.stalled, self.notes = deadly, stalled, notes

    def __call__(self, path: str) -> bytes:
        time.sleep(0.02)
        if Path(path).name == self.deadly and self.count("killed") < 1:
            self.note("killed")
            os.kill(os.getpid(), signal.SIGKILL)
        if Path(path).name == self.stalled and self.count("stalled") < 2:
            self.note("stalled")
            raise StorageError(5, "the storage does not answer")
        return Path(path).read_bytes()

    def note(self, kind: str) -> None:
        (self.notes / f"{kind}-{os.getpid()}-{time.monotonic_ns()}").touch()

    def count(self, kind: str) -> int:
        return len(list(self.notes.glob(f"{kind}-*")))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.distributed
def test_a_killed_worker_and_failing_storage_cost_nothing_and_double_nothing(tmp_path, monkeypatch):
    images = tmp_path / "images"
    images.mkdir()

    def on_disk(row: dict, number: int) -> dict:
        (images / f"{number:02}").write_bytes(row["image"]["bytes"])
        return {"image": {"bytes": None, "path": str(images / f"{number:02}")}}

    rows = make_rows(images=30)
    rows = rows.map(on_disk, with_indices=True, features=rows.features)
    splits = {"train": rows.select(range(24)), "test": rows.select(range(24, 30))}
    prepare(splits, tmp_path / "built-in", OPTIONS, key=KEY, root=images, num_proc=2)
    (tmp_path / "notes").mkdir()
    read = Files("07", "15", tmp_path / "notes")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    with (
        distributed.LocalCluster(
            3, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=str(tmp_path / "dask")
        ) as cluster,
        dask_executor(cluster.scheduler_address) as executor,
    ):
        prepare(splits, tmp_path / "dask-run", OPTIONS, key=KEY, root=images, executor=executor, threads=1, read=read)
    assert (read.count("killed"), read.count("stalled")) == (1, 2)
    assert contents(tmp_path / "dask-run") == contents(tmp_path / "built-in")


def test_an_address_without_a_scheduler_is_named():
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(OSError, match=r"127\.0\.0\.1:1"),
        dask_executor("tcp://127.0.0.1:1"),
    ):
        pass


def test_the_recipes_start_workers_of_one_thread():
    """Slurm's job script and the pods of Kubernetes, as far as they can be read without a cluster."""
    recipes = Path(__file__).parents[2] / "scripts" / "recipes"
    slurm = runpy.run_path(str(recipes / "prepare_slurm.py"))
    with slurm["SLURMCluster"](**slurm["CLUSTER"]) as cluster:
        script = cluster.job_script()
    assert "#SBATCH --cpus-per-task=1" in script and "--nthreads 1" in script
    parts = list(yaml.safe_load_all((recipes / "prepare_kubernetes.yaml").read_text()))
    service, scheduler, worker, job = parts
    address = f"tcp://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (pod,) = worker["spec"]["template"]["spec"]["containers"]
    assert address in pod["command"] and address in container["args"]
    assert service["spec"]["selector"] == scheduler["spec"]["template"]["metadata"]["labels"]
    words = [*container["command"][2:], *container["args"]]
    run, _ = parse((RunArguments, PrepareOptions), words)
    assert run.dask_scheduler == address
