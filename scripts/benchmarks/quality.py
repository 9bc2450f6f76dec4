"""What each device that saves compute costs in quality: networks pre-trained with it on and off, probed alike.

    python scripts/benchmarks/quality.py --data_dir RADIOGRAPHS --out out/quality \
        --tasks body_region "fracture=label[label_task=fracture]"

`off` lets every patch take part, `on` leaves background out and predicts half of the masked patches, `on, same compute`
is `on` for as many epochs as fit into the training time of `off`, and `square` is `off` with every image resized to one
square. Each is trained by scripts/pretrain.py, from several seeds on the same split, and
skipped where its results are there.

The table gives linear heads on frozen features, scored on the test split, for all labels and for ten balanced draws of
1 %, and differences to `off` with 95 % intervals over test patients, draws and seeds. --json PATH writes it.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from hf_radmae.batching.bucketing import bucketed
from hf_radmae.models.mae import RadMAEForPreTraining
from hf_radmae.sources.load import load_radiographs
from hf_radmae.study.heads import candidates
from hf_radmae.study.rivals import network_features
from hf_radmae.study.tables import score_table
from hf_radmae.study.tasks import Share, Task, draw_labels, patients, read_labels

PRETRAIN = Path(__file__).parents[1] / "pretrain.py"
ARMS: dict[str, dict[str, object]] = {
    "off": {"background": "keep", "prediction_ratio": 1.0},
    "on": {"prediction_ratio": 0.5},
    "on, same compute": {"prediction_ratio": 0.5},
    "square": {"background": "keep", "prediction_ratio": 1.0, "binning": "square"},
}


def train(args: argparse.Namespace, arm: str, seed: int, epochs: float) -> Path:
    """The folder of a finished run."""
    folder = Path(args.out) / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}"
    if not (folder / "results.json").is_file():
        options = {"dataset": "imagefolder", "data_dir": args.data_dir, "num_train_epochs": epochs, "seed": seed}
        options |= {"output_dir": folder, "dataloader_num_workers": args.workers, "figure_images": 0} | ARMS[arm]
        command = [sys.executable, str(PRETRAIN), *(str(part) for k, v in options.items() for part in (f"--{k}", v))]
        subprocess.run(command, check=True)
    return folder


def seconds(folder: Path) -> float:
    return json.loads((folder / "results.json").read_text())["training"]["seconds"]


def features(folder: Path, rows, arm: str, workers: int) -> dict[str, dict[str, np.ndarray]]:
    """Features of each split, over all patches, as bare transformers computes them."""
    model = RadMAEForPreTraining.from_pretrained(folder)
    shape = {"binning": ARMS[arm].get("binning", "smart"), "patch_size": model.config.patch_size, "max_tokens": 256}
    data = bucketed(rows, batch_size=32, background="keep", **shape)
    return network_features(model, data.parts, num_workers=workers)


def table(found: dict[str, list[dict]], rows, task: Task, pooling: str) -> list[dict]:
    """Scores of each arm over its seeds, and differences to `off`, at both shares of the labels."""
    labels = read_labels(rows, task).without_rare(10)
    groups = patients(rows)
    shown = []
    for share, count in ((Share(1.0, "all"), 1), (Share(0.01, "balanced"), 10)):
        draws = draw_labels(labels, groups["train"], share, count)
        models = {
            arm: candidates(arm, "rival" if arm == "off" else "ours", runs, labels, draws, [pooling], propagate=False)
            for arm, runs in found.items()
        }
        for arm in models:
            pair = [*models["off"], *models[arm]] if arm != "off" else models["off"]
            scored = score_table(pair, labels, groups["test"], details=False)
            head = {"task": task.name, "labels": str(share), "pooling": pooling}
            shown.append(head | scored["rows"][-1])
            if scored["headline"]:
                shown.append(head | scored["headline"] | {"model": f"{arm} - off"})
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="An imagefolder.")
    parser.add_argument("--tasks", nargs="+", default=["body_region"], help="Labels to probe, as study.py takes them.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--pooling", default="mean+max+std", help="Of tokens; several are joined by +.")
    parser.add_argument("--workers", type=int, default=1, help="Processes that read images.")
    parser.add_argument("--out", default="out/quality")
    parser.add_argument("--json", help="Write the rows here.")
    args = parser.parse_args()
    rows, _ = load_radiographs("imagefolder", args.data_dir, num_proc=2)
    networks: dict[str, list[dict]] = {arm: [] for arm in args.arms}
    runs = []
    for seed in args.seeds:
        for arm in args.arms:
            epochs = args.epochs
            if "compute" in arm:
                off, on = (seconds(train(args, name, seed, epochs)) for name in ("off", "on"))
                epochs = round(args.epochs * off / on)
            folder = train(args, arm, seed, epochs)
            runs.append({"arm": arm, "seed": seed, "epochs": epochs, "seconds": seconds(folder)})
            networks[arm].append(features(folder, rows, arm, args.workers))
    found = [row for task in args.tasks for row in table(networks, rows, Task.parse(task), args.pooling)]
    for row in found:
        score = "  ".join(
            f"{name} {100 * row[name]:5.1f} ({100 * row[f'{name}_low']:.1f} to {100 * row[f'{name}_high']:.1f})"
            for name in ("balanced_accuracy", "accuracy")
        )
        print(f"{row['task']:12} {row['labels']:4} {row['model']:24} {score}")
    if args.json:
        Path(args.json).write_text(json.dumps({"runs": runs, "rows": found}, indent=1))


if __name__ == "__main__":
    main()
