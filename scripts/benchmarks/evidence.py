"""Quality against compute: pre-trainings of several lengths, each against the best rival on the same draws.

    python scripts/benchmarks/evidence.py --data_dir RADIOGRAPHS --runs 12=out/12 24=out/a,out/b,out/c \
        --tasks body_region "part=body_part[source=FracAtlas]" "fracture=label[label_task=fracture]"

A run is NAME=FOLDER of scripts/pretrain.py, or NAME=FOLDER,FOLDER,... of several seeds. The rivals are those of every
table: majority, metadata, thumbnail and HOG, and the untrained network, of as many seeds as the longest list. For each
task and share of the labels it prints the rivals, then each run with its difference to the best rival and the interval.
With --layers 3 4 what comes out of the third layer is a pooling too, `mean@3`, for the untrained network as well.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from transformers import ViTMAEConfig, set_seed

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


def named(pooling: str, layers: int, config: ViTMAEConfig) -> str:
    """A pooling of the patches after some of the layers; all of them go without saying."""
    return pooling if layers == config.num_hidden_layers else f"{pooling}@{layers}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="An imagefolder.")
    parser.add_argument("--runs", nargs="+", required=True, help="NAME=FOLDER, or NAME=FOLDER,FOLDER of several seeds.")
    parser.add_argument("--tasks", nargs="+", default=["body_region"], help="As scripts/study.py takes them.")
    parser.add_argument("--poolings", nargs="+", default=["mean", "mean+max+std", "grid+max+std"])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--low_fraction", type=float, default=0.01)
    parser.add_argument(
        "--max_tokens", type=int, help="Patches of an image, by default the base grid of the first run."
    )
    parser.add_argument(
        "--layers", type=int, nargs="+", help="Features after so many layers, as poolings of their own; by default all."
    )
    parser.add_argument("--json", help="Write the tables here.")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    runs = {name: folders.split(",") for name, _, folders in (run.partition("=") for run in args.runs)}
    first = RadMAEForPreTraining.from_pretrained(runs[next(iter(runs))][0])
    config, parts = first.config, parts_of(args.poolings)
    tokens = args.max_tokens or (config.image_size // config.patch_size) ** 2
    rows, _ = load_radiographs("imagefolder", args.data_dir, num_proc=1)
    for folder in (folder for folders in runs.values() for folder in folders):
        if not check_unseen(folder, rows["test"]):
            print(f"{folder} has no list of the images it was trained on: it may have seen the test images")
    options = {"background": "keep", "token_levels": 1, "batch_size": 32, "max_tokens": tokens}
    images = bucketed(rows, patch_size=config.patch_size, **options).parts
    models = rival_models(images, poolings=args.poolings)
    layers = args.layers or [config.num_hidden_layers]
    if unknown := [number for number in layers if not 1 <= number <= config.num_hidden_layers]:
        parser.error(f"--layers {unknown[0]}: the first run has 1 to {config.num_hidden_layers} layers")
    poolings = ["+".join(named(part, n, config) for part in p.split("+")) for p in args.poolings for n in layers]

    def features(network: RadMAEForPreTraining) -> dict[str, dict[str, np.ndarray]]:
        found: dict[str, dict[str, np.ndarray]] = {split: {} for split in images}
        for number in sorted(layers, reverse=True):
            if number < len(network.vit.layers):  # what comes out of a layer, as `output_hidden_states` gives it
                network.vit.layers, network.vit.layernorm = network.vit.layers[:number], torch.nn.Identity()
            for split, pooled in network_features(network, images, parts).items():
                found[split] |= {named(part, number, config): values for part, values in pooled.items()}
        return found

    def untrained(seed: int) -> RadMAEForPreTraining:
        set_seed(seed)
        return RadMAEForPreTraining(config)

    seeds = range(max(map(len, runs.values())))
    models["untrained"] = ("rival", [features(untrained(seed)) for seed in seeds], poolings)
    for name, folders in runs.items():
        trained = [features(RadMAEForPreTraining.from_pretrained(folder)) for folder in folders]
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
