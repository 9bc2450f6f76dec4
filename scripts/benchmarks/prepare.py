"""Times the preparation of an archive from a local disk and from slow storage.

    OMP_NUM_THREADS=1 python scripts/benchmarks/prepare.py --json prepare.json

generates an archive of 16-bit radiographs and prepares it by one process, in turns from this machine's disk and with a
wait of 50 ms before each file is opened, as on network storage. `slow_storage_share` is the share of its speed that is
left, of the faster of two runs each: reader threads wait while the process decodes. Expected: 0.8 or more.
"""

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path

import datasets

from hf_radmae.shards.prepare import prepare
from hf_radmae.shards.shrink import PrepareOptions
from hf_radmae.shards.writer import read_bytes
from hf_radmae.sources.load import load_radiographs
from hf_radmae.sources.phantom import write_archive


def read_slowly(path: str, wait: float) -> bytes:
    """The content of a file, after a wait in seconds."""
    time.sleep(wait)
    return read_bytes(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--images", type=int, default=200, help="radiographs to generate (default: 200)")
    option("--scale", type=float, default=1.0, help="of their size; 1 is the archive's (default: 1)")
    option("--side", type=int, default=512, help="longest side of the prepared images in pixels (default: 512)")
    option("--wait", type=float, default=0.05, help="seconds before a file opens (default: 0.05)")
    option("--repeats", type=int, default=2, help="runs of each kind, in turns; the fastest counts (default: 2)")
    option("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_archive(folder / "archive", args.images, scale=args.scale)
        splits, _ = load_radiographs("mri", str(folder / "archive"), cache_dir=str(folder / "cache"))
        rows = datasets.concatenate_datasets(list(splits.values()))
        seconds: dict[float, list[float]] = {0.0: [], args.wait: []}
        for turn in range(args.repeats):
            for wait, times in seconds.items():
                start = time.perf_counter()
                options, read = PrepareOptions(longest_side=args.side), partial(read_slowly, wait=wait)
                prepare({"train": rows}, folder / f"{wait}-{turn}", options, key=b"benchmark", read=read)
                times.append(time.perf_counter() - start)
    local, slow = map(min, seconds.values())
    print(f"{len(rows) / local:.1f} files/s, {len(rows) / slow:.1f} with {args.wait} s before each opens")
    print(f"slow_storage_share {local / slow:.2f}")
    if args.json:
        figures = {"slow_storage_share": local / slow, "seconds": {"local": local, "slow": slow}}
        figures["arguments"] = {**vars(args), "json": None}
        args.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
