"""Times the training loader of this version against that of another checkout, on one core, at the archive's sizes.

    git worktree add ../before COMMIT
    OMP_NUM_THREADS=1 python scripts/benchmarks/loader.py --data RADIOGRAPHS --against ../before --json loader.json

brings radiographs (without --data, generated ones) to the median size of a hospital archive (2002 x 1417) and to its
largest (3072 x 3072), with the noise of a detector (1.2 of 255 grey values), and lets each version prepare shards of
them at its bins' own shapes and read them by its trainer's loader: patch 48, at most 4,096 patches, three quarters
masked and half of these predicted. Both versions take their epochs in turns; images per second are those of the
processor time, so that other work on the machine counts less. "map" rows are copied by `datasets` first, "stream" rows
stay in the shards.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZES = {"2002x1417": (2002, 1417), "3072x3072": (3072, 3072)}
PATCH, TOKENS, BATCH = 48, 4096, 4


def write_images(folder: Path, count: int, data: Path | None) -> None:
    """`count` radiographs of each size as 16-bit PNG files, in splits."""
    import numpy as np
    from PIL import Image

    from hf_radmae.images.image import read_image
    from hf_radmae.sources.phantom import generate

    rng = np.random.default_rng(0)
    if data is None:
        pictures = [radiograph.pixels() for radiograph in generate(count, scale=1.0)]
    else:
        files = sorted(file for file in data.rglob("*") if file.suffix.lower() in (".png", ".jpg", ".jpeg"))
        pictures = [read_image(file) for file in rng.choice(np.array(files, dtype=object), count, replace=False)]
    for name, (height, width) in SIZES.items():
        for number, picture in enumerate(pictures):
            split = ("train", "validation", "test")[max(0, number - count + 3)]
            file = folder / name / split / "class" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            resized = Image.fromarray(picture.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
            grey = np.asarray(resized) / max(float(picture.max()), 1.0) * 60000
            noisy = grey + rng.normal(0, 60000 * 1.2 / 255, grey.shape)
            Image.fromarray(np.rint(noisy.clip(0, 65535)).astype(np.uint16)).save(file, compress_level=1)


def serve(images: Path, folder: Path, bits: int, kind: str) -> None:
    """Prepare shards, then read an epoch for every line of the input and answer with its figures."""
    import torch

    from hf_radmae.batching.bucketing import bucketed
    from hf_radmae.batching.streaming import open_shards
    from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
    from hf_radmae.pretraining.trainer import RadMAETrainer, RadMAETrainingArguments
    from hf_radmae.shards.prepare import prepare
    from hf_radmae.shards.shrink import PrepareOptions
    from hf_radmae.sources.load import load_radiographs

    torch.set_num_threads(1)
    loaded: dict[str, Any] = {"cache_dir": str(folder / "cache")}
    if not (folder / "shards").exists():
        rows, _ = load_radiographs("imagefolder", str(images), **loaded)
        options = PrepareOptions(max_tokens=TOKENS, patch_size=PATCH, num_bins=1, bits=bits)
        prepare(rows, folder / "shards", options, key=b"benchmark")
    size = sum(file.stat().st_size for file in (folder / "shards" / "data").iterdir())
    rows = (
        open_shards(folder / "shards")
        if kind == "stream"
        else load_radiographs("parquet", str(folder / "shards"), **loaded)[0]
    )
    data = bucketed(rows, patch_size=PATCH, max_tokens=TOKENS, batch_size=BATCH, num_bins=1)
    model = RadMAEForPreTraining(preset_config("tiny", patch_size=PATCH, image_size=3072, prediction_ratio=0.5))
    args = RadMAETrainingArguments(
        output_dir=str(folder / "run"),
        per_device_train_batch_size=BATCH,
        dataloader_num_workers=0,
        report_to="none",
        use_cpu=True,
    )
    trainer = RadMAETrainer(model, args, train_dataset=data.train, eval_dataset=data.parts["validation"])
    answer: dict[str, Any] = {"mb_per_image_in_shards": size / sum(len(part) for part in rows.values()) / 1e6}
    answer["share_of_patches"] = float(
        data.bins.tokens[data.train.bin_ids].sum() / data.bins.patches[data.train.bin_ids].sum()
    )
    print(json.dumps(answer), flush=True)
    for epoch, _ in enumerate(sys.stdin):
        loader = trainer.get_train_dataloader()
        loader.set_epoch(epoch)
        start, images_read, sent = time.process_time(), 0, 0
        for batch in loader:
            images_read += len(batch["index"])
            sent += sum(value.nbytes for value in batch.values() if torch.is_tensor(value))
        found = {
            "images_per_second": images_read / (time.process_time() - start),
            "bytes_per_image": sent / images_read,
        }
        print(json.dumps(found), flush=True)


def start(checkout: Path, *words: str) -> subprocess.Popen:
    """This script with the package of a checkout."""
    path = os.pathsep.join([str(checkout.resolve()), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(Path(__file__).resolve()), "--serve", *words]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def answer_of(process: subprocess.Popen) -> dict[str, float]:
    for line in process.stdout:  # type: ignore[union-attr]
        if line.startswith("{"):
            return json.loads(line)
    raise RuntimeError(f"the process of a version ended: {process.wait()}")


def compare(versions: dict[str, Path], images: Path, folder: Path, bits: int, kind: str, epochs: int) -> dict[str, Any]:
    """The figures of each version, medians over the epochs, and the ratios of the first to the second."""
    processes, found = {}, {}
    for name, checkout in versions.items():
        processes[name] = start(checkout, str(images), str(folder / name), str(bits), kind)
        found[name] = [answer_of(processes[name])]
    for turn in range(epochs + 1):
        for name, process in processes.items():
            process.stdin.write("\n")
            process.stdin.flush()
            answer = answer_of(process)
            if turn:  # the first epoch imports and fills caches
                found[name].append(answer)
    for process in processes.values():
        process.stdin.close()
        process.wait()
    results: dict[str, Any] = {}
    for name, (facts, *answers) in found.items():
        results[name] = facts | {key: statistics.median(answer[key] for answer in answers) for key in answers[0]}
    now, *before = results.values()
    if before:
        results["times_images_per_second"] = now["images_per_second"] / before[0]["images_per_second"]
        results["times_fewer_bytes"] = before[0]["bytes_per_image"] / now["bytes_per_image"]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--data", type=Path, help="a folder of radiographs; without it they are generated")
    option("--against", type=Path, help="a checkout of the version to compare with")
    option("--images", type=int, default=27, help="radiographs to generate of each size (default: 27)")
    option("--epochs", type=int, default=5, help="epochs of each version (default: 5)")
    option("--sizes", nargs="+", default=[*SIZES], choices=[*SIZES], help="default: both")
    option("--bits", nargs="+", type=int, default=[8, 16], choices=[8, 16], help="default: 8 16")
    option("--kinds", nargs="+", default=["map", "stream"], choices=["map", "stream"], help="default: both")
    option("--json", type=Path, help="where to write the figures")
    option("--serve", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        images, folder, bits, kind = args.serve
        serve(Path(images), Path(folder), int(bits), kind)
        return
    versions = {"now": Path(__file__).parents[2]} | ({"before": args.against} if args.against else {})
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", args.images, args.data)
        for size in args.sizes:
            for bits in args.bits:
                for kind in args.kinds:
                    place = folder / f"{size}-{bits}"
                    found = compare(versions, folder / "images" / size, place, bits, kind, args.epochs)
                    results[f"{size}, {bits} bit, {kind}"] = found
                    print(f"{size}, {bits} bit, {kind}: {json.dumps(found)}", flush=True)
                    if args.json:
                        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
