"""What is taken for background, measured and drawn: share of patches kept per group, the rule's time, and a picture.

    python scripts/benchmarks/background.py --data_dir RADIOGRAPHS --column body_region --figure out/background.png

draws twelve images drawn at random from all groups; --worst draws those of which least is kept. Beside the rule of
`hf_radmae.images.background` stands contrast alone: a patch is kept where its standard deviation exceeds 0.01.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from hf_radmae.batching.grids import target_sizes
from hf_radmae.images.background import informative_patches
from hf_radmae.images.fitting import as_tensor, fit_image
from hf_radmae.images.image import read_image
from hf_radmae.pretraining.figures import save_figure
from hf_radmae.sources.load import load_radiographs

DETAIL = 4  # pixels across a patch in the picture: enough to see what it is of, too few to be a copy


def look(row: dict, patch_size: int, max_tokens: int) -> dict:
    """One image at training size: its patches' mask, contrast alone, and a small picture of it."""
    image = as_tensor(read_image(row["image"]))
    size = target_sizes([image.shape[1:]], patch_size=patch_size, max_tokens=max_tokens)[0]
    rows, columns = (max(1, round(side / patch_size)) for side in size)
    pixels = fit_image(image, (rows * patch_size, columns * patch_size))
    started = time.process_time()
    kept = informative_patches(pixels[None], patch_size)[0].view(rows, columns)
    seconds = time.process_time() - started
    patches = pixels[0].unflatten(1, (columns, patch_size)).unflatten(0, (rows, patch_size))
    contrast = patches.std((1, 3)) > 0.01
    small = torch.nn.functional.interpolate(pixels[None], (rows * DETAIL, columns * DETAIL), mode="area")[0, 0]
    return {"kept": kept.numpy(), "contrast": contrast.numpy(), "picture": small.numpy(), "seconds": seconds}


def draw(looks: list[dict], names: list[str]) -> Figure:
    """Images with their background in red."""
    figure = Figure(figsize=(12, 5.2), dpi=70, layout="constrained")
    for axis, found, name in zip(figure.subplots(2, -(-len(looks) // 2)).flat, looks, names, strict=False):
        colours = np.repeat(found["picture"][..., None], 3, axis=2)
        background = np.kron(~found["kept"], np.ones((DETAIL, DETAIL), bool))
        colours[background] = 0.55 * colours[background] + np.array([0.35, 0, 0])
        axis.imshow(colours.clip(0, 1))
        axis.set_title(f"{name}: {found['kept'].mean():.0%}", fontsize=9)
    for axis in figure.axes:
        axis.axis("off")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="An imagefolder.")
    parser.add_argument("--column", help="Column of groups to report apart.")
    parser.add_argument("--patch_size", type=int, default=16)
    parser.add_argument("--max_tokens", type=int, default=256)
    parser.add_argument("--figure", help="Draw twelve images to this PNG.")
    parser.add_argument("--worst", action="store_true", help="Draw the images of which least is kept.")
    parser.add_argument("--json", help="Write the figures here.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    splits, _ = load_radiographs("imagefolder", args.data_dir, num_proc=2)
    rows = [row for part in splits.values() for row in tqdm(part, desc="rows")]
    groups = np.array([str(row[args.column]) if args.column else "all" for row in rows])
    looks = [look(row, args.patch_size, args.max_tokens) for row in tqdm(rows, desc="images", unit="image")]
    kept, contrast = (np.array([found[name].mean() for found in looks]) for name in ("kept", "contrast"))
    report = {"milliseconds per image": 1e3 * float(np.mean([found["seconds"] for found in looks]))}
    for group in [*np.unique(groups), "all"] if args.column else ["all"]:
        own = (groups == group) | (group == "all")
        lowest = np.quantile(kept[own], [0, 0.05, 0.5])
        report[str(group)] = {
            "images": int(own.sum()),
            "kept": float(kept[own].mean()),
            "kept by contrast alone": float(contrast[own].mean()),
            "least, 5th percentile, median": lowest.tolist(),
        }
        shares = f"kept {kept[own].mean():6.1%}, by contrast alone {contrast[own].mean():6.1%}; of one image at least"
        print(f"{group:18} {own.sum():6} images  {shares} {lowest[0]:.0%}, 5th percentile {lowest[1]:.0%}")
    print(f"{report['milliseconds per image']:.2f} ms per image on one thread")
    if args.figure:
        rng = np.random.default_rng(4)
        shuffled = rng.permutation(len(rows))
        _, first = np.unique(groups[shuffled], return_index=True)
        mixed = list(dict.fromkeys([*shuffled[first], *shuffled]))
        chosen = np.argsort(kept) if args.worst else np.array(mixed)
        save_figure(draw([looks[i] for i in chosen[:12]], [groups[i] for i in chosen[:12]]), args.figure)
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
