"""Times what a training step waits for: batches from DICOM files, from prepared shards, and from a folder of PNGs.

    OMP_NUM_THREADS=1 python scripts/benchmarks/loading.py --json loading.json

generates an archive of 16-bit radiographs (median 2002 x 1417 pixels), prepares it, and reads batches of one shape in
this process with one thread: images per second of one core, the best of some epochs taken in turns. `shards_vs_dicom`
is the gain over decoding the DICOM files on the fly by the same path; `shards_vs_imagefolder` that over torchvision's
ImageFolder (grey, resized, 0..1), which reads the same pixels from PNG files. Our batches also hold the map of
informative patches and the noise of the mask. (loader.py compares two versions of our own loader.)
Expected: 15 times or more, and 1.3 times or more.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import datasets
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from hf_radmae.batching.binning import fit_bins
from hf_radmae.batching.collator import BucketCollator
from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.batching.loader import bucket_loader
from hf_radmae.shards.prepare import prepare
from hf_radmae.shards.shrink import PrepareOptions
from hf_radmae.sources.load import load_radiographs
from hf_radmae.sources.phantom import write_archive

PATCH = 16


def images_per_second(loader: DataLoader) -> float:
    """Images per second of this process's own time, over one epoch."""
    start, images = time.process_time(), 0
    for batch in loader:
        images += len(batch["pixel_values"] if isinstance(batch, dict) else batch[0])
    return images / (time.process_time() - start)


def loaders(folder: Path, images: int, scale: float, side: int, shape: int, batch_size: int) -> dict[str, DataLoader]:
    """Shuffled loaders of the same images: the archive, its shards, the shards' images as PNG files."""
    write_archive(folder / "archive", images, scale=scale)
    splits, _ = load_radiographs("mri", str(folder / "archive"), cache_dir=str(folder / "cache"))
    rows = datasets.concatenate_datasets(list(splits.values()))
    prepare({"train": rows}, folder / "shards", PrepareOptions(longest_side=side), key=b"benchmark")
    shards = datasets.load_dataset(str(folder / "shards"), split="train", cache_dir=str(folder / "cache"))
    (folder / "png" / "class").mkdir(parents=True)
    for index, image in enumerate(shards["image"]):
        image.save(folder / "png" / "class" / f"{index}.png")
    steps = [v2.Grayscale(), v2.Resize((shape, shape)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    pngs = ImageFolder(str(folder / "png"), v2.Compose(steps))
    bins = fit_bins([(shape, shape)], strategy="square", patch_size=PATCH, max_tokens=(shape // PATCH) ** 2)
    shards = shards.cast_column("image", datasets.Image(decode=False))
    ours = {name: RadiographDataset(part, bins, train=True) for name, part in (("dicom", rows), ("shards", shards))}
    collate = BucketCollator(PATCH)
    return {
        **{name: bucket_loader(part, collate, batch_size, shuffle=True) for name, part in ours.items()},
        "imagefolder": DataLoader(pngs, batch_size, shuffle=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--images", type=int, default=200, help="radiographs to generate (default: 200)")
    option("--scale", type=float, default=1.0, help="of their size; 1 is the archive's (default: 1)")
    option("--side", type=int, default=256, help="longest side of the prepared images in pixels (default: 256)")
    option("--shape", type=int, default=224, help="height and width of a batch in pixels (default: 224)")
    option("--batch_size", type=int, default=32, help="images of a batch (default: 32)")
    option("--repeats", type=int, default=5, help="epochs of each, in turns; the fastest counts (default: 5)")
    option("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        parts = loaders(Path(folder), args.images, args.scale, args.side, args.shape, args.batch_size)
        images_per_second(parts["shards"])  # imports, and the pages of the files
        turns = [{name: images_per_second(loader) for name, loader in parts.items()} for _ in range(args.repeats)]
    rates = {name: max(turn[name] for turn in turns) for name in turns[0]}
    ratios = {f"shards_vs_{name}": rates["shards"] / rates[name] for name in ("dicom", "imagefolder")}
    for name, rate in rates.items():
        print(f"{name:12s} {rate:8.1f} images/s of one core")
    for name, ratio in ratios.items():
        print(f"{name} {ratio:.2f}")
    if args.json:
        figures = {**ratios, "images_per_second": rates, "arguments": {**vars(args), "json": None}}
        args.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
