"""What is taken for background, measured and drawn: share of patches kept per group, the rule's time, and pictures.

    python scripts/benchmarks/background.py --data_dir RADIOGRAPHS --column body_region --figure out/background.png

draws twelve images from all groups on the 64 x 64 grid, what is left out in red; --worst draws those of which least is
kept. With --hard out/hard.png the same images are drawn again, each with a clip, a shutter or a turned field.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from tqdm.auto import tqdm

from hf_radmae.images.background import patch_mask
from hf_radmae.images.image import read_image
from hf_radmae.pretraining.figures import save_figure
from hf_radmae.sources.load import load_radiographs

GRID = (64, 64)


def harder(image: np.ndarray, index: int) -> np.ndarray:
    """The image with a clip, a shutter of a fifth, or a field turned by 3 to 15 degrees, in turns."""
    height, width = image.shape
    if index % 3 == 0:
        changed, side = image.astype(np.float32), max(2, round((image.size * 3e-4) ** 0.5))
        changed[height // 3 :, width // 2 :][:side, :side] = 2 * changed.max()
        return changed
    y, x = np.mgrid[:height, :width].astype(float)
    y, x, angle = y - height / 2, x - width / 2, np.radians(0 if index % 3 == 1 else 3 + index)
    across, down = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    field = (abs(across) < 0.45 * width) & (abs(down) < 0.45 * height)
    return np.where(field, image, 0 if index % 2 else image.max())


def draw(images: list[np.ndarray], names: list[str]) -> Figure:
    """Images with what is left out in red."""
    figure = Figure(figsize=(14, 5.2), dpi=80, layout="constrained")
    for axis, image, name in zip(figure.subplots(2, -(-len(images) // 2)).flat, images, names, strict=False):
        kept = patch_mask(image, GRID)
        low, high = np.percentile(image, (0.5, 99.5))
        grey = ((image - low) / max(high - low, 1e-6)).clip(0, 1).astype(np.float32)
        small = np.asarray(Image.fromarray(grey).resize((256, 256), Image.Resampling.BOX)) ** 0.7
        colours = np.repeat(small[..., None], 3, axis=2)
        left_out = np.kron(~kept, np.ones((4, 4), bool))
        colours[left_out] = 0.55 * colours[left_out] + np.array([0.35, 0, 0])
        axis.imshow(colours.clip(0, 1), aspect=image.shape[0] / image.shape[1])
        axis.set_title(f"{name}: {kept.mean():.0%}", fontsize=9)
        axis.axis("off")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="An imagefolder.")
    parser.add_argument("--column", help="Column of groups to report apart.")
    parser.add_argument("--images", type=int, help="Look at so many of them only, drawn at random.")
    parser.add_argument("--figure", help="Draw twelve images to this PNG.")
    parser.add_argument("--hard", help="Draw them with clips, shutters and turned fields to this PNG.")
    parser.add_argument("--worst", action="store_true", help="Draw the images of which least is kept.")
    parser.add_argument("--json", help="Write the figures here.")
    args = parser.parse_args()
    splits, _ = load_radiographs("imagefolder", args.data_dir, num_proc=2)
    places = [(part, index) for part in splits.values() for index in range(len(part))]
    order = np.random.default_rng(4).permutation(len(places))[: args.images]
    rows = [places[place][0][places[place][1]] for place in order]
    groups = np.array([str(row[args.column]) if args.column else "all" for row in rows])
    shares, seconds = [], []
    for row in tqdm(rows, desc="images", unit="image"):
        image = read_image(row["image"])
        started = time.process_time()
        shares.append(patch_mask(image, GRID).mean())
        seconds.append(time.process_time() - started)
    kept, report = np.array(shares), {"milliseconds per image": 1e3 * float(np.mean(seconds))}
    for group in [*np.unique(groups), "all"] if args.column else ["all"]:
        own = kept[(groups == group) | (group == "all")]
        report[str(group)] = {"images": len(own), "kept": float(own.mean()), "least": float(own.min())}
        print(f"{group:18} {len(own):6} images  kept {own.mean():6.1%}, of one image at least {own.min():.0%}")
    print(f"{report['milliseconds per image']:.1f} ms per image")
    _, first = np.unique(groups, return_index=True)
    chosen = np.argsort(kept)[:12] if args.worst else np.array(list(dict.fromkeys([*first, *range(len(rows))]))[:12])
    images, names = [read_image(rows[index]["image"]) for index in chosen], [str(groups[index]) for index in chosen]
    if args.figure:
        save_figure(draw(images, names), args.figure)
    if args.hard:
        save_figure(draw([harder(image, index) for index, image in enumerate(images)], names), args.hard)
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
