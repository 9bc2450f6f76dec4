"""Quality against compute: pre-trainings of several lengths, each against the best rival on the same draws.

    python scripts/benchmarks/evidence.py --data_dir RADIOGRAPHS --runs 12=out/12 24=out/a,out/b,out/c \
        --tasks body_region "part=body_part[source=FracAtlas]" "fracture=label[label_task=fracture]"

A run is NAME=FOLDER of scripts/pretrain.py, or NAME=FOLDER,FOLDER,... of several seeds. The rivals are those of every
table: majority, metadata, thumbnail and HOG, and the untrained network, of as many seeds as the longest list. For each
task and share of the labels it prints the rivals, then each run with its difference to the best rival and the interval.

--views says what each network sees of an image, LAYERS/PATCHES: `4/144` is an image of 144 patches after four layers,
after fewer without the last norm. Several make poolings of each; joined by + they are one: `--views 4/144+3/1024`.
"""

import argparse
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import set_seed

from hf_radmae.batching.bucketing import bucketed
from hf_radmae.models.mae import RadMAEForPreTraining
from hf_radmae.pretraining.results import environment
from hf_radmae.sources.load import load_radiographs
from hf_radmae.sources.patients import resampled
from hf_radmae.study.heads import candidates, parts_of
from hf_radmae.study.pretrained import metadata_model, rival_models
from hf_radmae.study.report import described, score
from hf_radmae.study.rivals import network_features
from hf_radmae.study.seen import check_unseen
from hf_radmae.study.steps import data_fingerprint
from hf_radmae.study.tables import score_table
from hf_radmae.study.tasks import Share, Task, draw_labels, patients, read_labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="An imagefolder.")
    parser.add_argument("--runs", nargs="+", required=True, help="NAME=FOLDER, or NAME=FOLDER,FOLDER of several seeds.")
    parser.add_argument("--tasks", nargs="+", default=["body_region"], help="As scripts/study.py takes them.")
    parser.add_argument("--poolings", nargs="+", default=["mean", "mean+max+std", "grid+max+std"])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--low_fraction", type=float, default=0.01)
    parser.add_argument("--views", nargs="+", help="LAYERS/PATCHES, by default all layers and the first run's grid.")
    parser.add_argument("--json", help="Write the tables here.")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    runs = {name: folders.split(",") for name, _, folders in (run.partition("=") for run in args.runs)}
    first = RadMAEForPreTraining.from_pretrained(runs[next(iter(runs))][0])
    config, parts = first.config, parts_of(args.poolings)
    views = args.views or [f"{config.num_hidden_layers}/{(config.image_size // config.patch_size) ** 2}"]
    sizes: dict[int, set[int]] = {}
    for view in parts_of(views):
        if not (match := re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", view)) or int(match[1]) > config.num_hidden_layers:
            parser.error(f"--views {view}: expected LAYERS/PATCHES, of 1 to {config.num_hidden_layers} layers")
        sizes.setdefault(int(match[2]), set()).add(int(match[1]))
    rows, _ = load_radiographs("imagefolder", args.data_dir, num_proc=1)
    for folder in (folder for folders in runs.values() for folder in folders):
        if not check_unseen(folder, rows["test"]):
            print(f"{folder} has no list of the images it was trained on: it may have seen the test images")
    options = {"background": "keep", "token_levels": 1, "batch_size": 32}
    images = {
        size: bucketed(rows, patch_size=config.patch_size, max_tokens=size, **options).parts for size in sorted(sizes)
    }
    models = rival_models(images[min(sizes)], poolings=args.poolings)
    poolings = [
        "+".join(f"{part}@{view}" for view in joined.split("+") for part in pooling.split("+"))
        for pooling in args.poolings
        for joined in views
    ]

    def features(load: Callable[[], RadMAEForPreTraining]) -> dict[str, dict[str, np.ndarray]]:
        found: dict[str, dict[str, np.ndarray]] = {split: {} for split in rows}
        for size, layers in sizes.items():
            network = load()
            for number in sorted(layers, reverse=True):
                if number < len(network.vit.layers):  # what comes out of a layer, as `output_hidden_states` gives it
                    network.vit.layers, network.vit.layernorm = network.vit.layers[:number], torch.nn.Identity()
                for split, pooled in network_features(network, images[size], parts).items():
                    found[split] |= {f"{part}@{number}/{size}": values for part, values in pooled.items()}
        return found

    def untrained(seed: int) -> RadMAEForPreTraining:
        set_seed(seed)
        return RadMAEForPreTraining(config)

    seeds = range(max(map(len, runs.values())))
    models["untrained"] = ("rival", [features(partial(untrained, seed)) for seed in seeds], poolings)
    for name, folders in runs.items():
        trained = [features(partial(RadMAEForPreTraining.from_pretrained, folder)) for folder in folders]
        models[name] = ("ours", trained, poolings)
    groups, tables = patients(rows), []
    for text in args.tasks:
        labels = read_labels(rows, Task.parse(text)).without_rare(10)
        for share in (Share(args.low_fraction, "balanced"), Share(1.0, "all")):
            draws = draw_labels(labels, groups["train"], share, args.draws)
            found = {
                name: candidates(name, kind, features, labels, draws, poolings, propagate=share.kind != "all")
                for name, (kind, features, poolings) in {
                    **metadata_model(rows, labels, ["source", "body_part"]),
                    **models,
                }.items()
            }
            rivals = [c for part in found.values() for c in part if c.kind == "rival"]
            for name in runs:
                table = score_table([*rivals, *found[name]], labels, groups["test"], details=False)
                metric = table["metrics"][0]
                if name == next(iter(runs)):
                    print(f"\n{text}, {share}, {len(draws[0])} labels, {metric}; dropped: {labels.dropped}")
                    shown = table["rows"]
                else:
                    shown = [row for row in table["rows"] if row["model"] == name]
                for row in shown:
                    print("  " + "  ".join([*described(row), score(row, metric)]))
                best = table["headline"]
                print(f"  {best['ours']} minus {best['rival']}: {score(best, metric)}", flush=True)
                tables.append({"task": text, "share": str(share), "run": name, "images": len(draws[0]), **table})
    if args.json:
        about = {"environment": environment(), "options": vars(args), "fingerprint": data_fingerprint(rows)}
        about["resampled"] = resampled(rows["test"])
        Path(args.json).write_text(json.dumps({**about, "tables": tables}, indent=1))


if __name__ == "__main__":
    main()
