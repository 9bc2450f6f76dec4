"""Times the preparation of radiographs on a local Dask cluster against the built-in processes, on the same cores.

    OMP_NUM_THREADS=1 python scripts/benchmarks/prepare_engines.py --data_dir RADIOGRAPHS --json engines.json

prepares the same images by as many processes of each kind, in turns, and compares the shards byte by byte. `dask_share`
is the throughput on Dask over that of the built-in processes, the median over the pairs of runs that follow each other.
`cpu_share` is the same of the CPU seconds of all processes, which other load of the machine changes less: what the
engine costs on the same cores. The start of the cluster does not count, as it serves many archives; that of the
built-in processes does. Expected: 0.9 or more.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from distributed import LocalCluster

from hf_radmae.cli.prepare import dask_executor
from hf_radmae.shards.prepare import prepare
from hf_radmae.shards.shrink import PrepareOptions
from hf_radmae.sources.load import load_radiographs


def cpu_seconds() -> float:
    """Seconds of CPU of this process and those that it started, ended or not."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    living = [psutil.Process().cpu_times(), *(child.cpu_times() for child in psutil.Process().children(recursive=True))]
    return ended.ru_utime + ended.ru_stime + sum(times.user + times.system for times in living)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--data_dir", required=True, help="folder of radiographs")
    option("--images", type=int, default=1200, help="of them (default: 1200)")
    option("--side", type=int, default=256, help="longest side of the prepared images in pixels (default: 256)")
    option("--images_per_shard", type=int, default=50, help="a task of the engine (default: 50)")
    option("--workers", type=int, default=2, help="processes of each kind (default: 2)")
    option("--repeats", type=int, default=5, help="pairs of runs (default: 5)")
    option("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()

    splits, _ = load_radiographs("imagefolder", args.data_dir, allow_shared_patients=True)
    rows = {"train": splits["train"].select(range(args.images))}
    options = PrepareOptions(longest_side=args.side, images_per_shard=args.images_per_shard)
    seconds: dict[str, list[float]] = {"built-in": [], "dask": []}
    cpu: dict[str, list[float]] = {"built-in": [], "dask": []}
    with (
        tempfile.TemporaryDirectory() as name,
        LocalCluster(
            args.workers, threads_per_worker=1, dashboard_address=None, local_directory=f"{name}/dask"
        ) as cluster,
        dask_executor(cluster.scheduler_address) as executor,
    ):
        engines: dict[str, dict[str, Any]] = {"built-in": {"num_proc": args.workers}, "dask": {"executor": executor}}
        some = {"train": splits["train"].select(range(2 * args.workers * args.images_per_shard))}
        for engine, arguments in engines.items():  # both import what they need
            prepare(some, Path(name, f"warm-{engine}"), options, key=b"benchmark", **arguments)
        for turn in range(args.repeats):
            order = list(engines)[:: 1 if turn % 2 else -1]
            for engine in order:
                start, before = time.perf_counter(), cpu_seconds()
                prepare(rows, Path(name, f"{engine}-{turn}"), options, key=b"benchmark", **engines[engine])
                seconds[engine].append(time.perf_counter() - start)
                cpu[engine].append(cpu_seconds() - before)
        files = [{p.name: p.read_bytes() for p in Path(name, f"{e}-0", "data").iterdir()} for e in engines]
    if files[0] != files[1]:
        raise RuntimeError("the shards of the two engines differ")
    shares = [ours / theirs for ours, theirs in zip(seconds["built-in"], seconds["dask"], strict=True)]
    cpu_shares = [ours / theirs for ours, theirs in zip(cpu["built-in"], cpu["dask"], strict=True)]
    for engine, times in seconds.items():
        used = 1000 * statistics.median(cpu[engine]) / args.images
        print(
            f"{engine}: {args.images / statistics.median(times):.1f} images/s, {used:.0f} ms of CPU an image, medians"
        )
    print(f"dask_share {statistics.median(shares):.3f}, from {min(shares):.3f} to {max(shares):.3f}; the same bytes")
    print(f"cpu_share {statistics.median(cpu_shares):.3f}, from {min(cpu_shares):.3f} to {max(cpu_shares):.3f}")
    if args.json:
        figures = {
            "dask_share": statistics.median(shares),
            "shares": shares,
            "seconds": seconds,
            "cpu_shares": cpu_shares,
            "cpu": cpu,
        }
        args.json.write_text(json.dumps({**figures, "arguments": {**vars(args), "json": None}}, indent=2))


if __name__ == "__main__":
    main()
