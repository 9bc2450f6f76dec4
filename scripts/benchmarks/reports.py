"""What labels of reports are worth: n labels by hand a class, against the same and the labels of all reports.

    python scripts/benchmarks/reports.py --model out/mae --json out/reports.json

On the generated archive's long bones: images, their true labels ("by hand") and a German report per exam, which the
rules of hf_radmae.reports read. A linear probe on frozen features is solved on n hand-labelled images of each class,
and on the same images and all other training images of whose exam a report says yes or no. Both are scored on the same
hand-labelled test images of other patients; intervals of the difference are over test patients and draws. At
--noise_at labels a class the labels of reports are also flipped at random, exam by exam.

The encoder, --model, is a checkpoint of hf-radmae pretrain, or "untrained" for the tiny one before training. It sees
each image in a square; the features are the mean, maximum, minimum and spread of each of its outputs over the patches.
"""

import argparse
import json
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import set_seed

from hf_radmae.metrics import auroc
from hf_radmae.metrics.bootstrap import bootstrap_interval, paired_interval
from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
from hf_radmae.models.modeling_radiograph_vit import pool_tokens
from hf_radmae.pretraining.results import environment
from hf_radmae.probing.heads import linear_probe
from hf_radmae.reports.evaluation import evaluate, evaluation_text
from hf_radmae.reports.labels import label_reports
from hf_radmae.sources.phantom.anatomy import PARTS
from hf_radmae.sources.phantom.cohort import generate, split_of
from hf_radmae.sources.phantom.people import person, visit
from hf_radmae.sources.phantom.reports import findings, write_report

LABELS = ("fracture", "foreign_material")


class Drawn(Dataset):
    """Generated radiographs, each drawn by a loader's worker, as float32 (1, side, side) from -1 to 1."""

    def __init__(self, images: list, side: int):
        self.images, self.side = images, side

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        pixels = self.images[index].pixels().astype(np.float32)
        low, high = np.percentile(pixels, [0.5, 99.8])
        return square(((pixels - low) / max(high - low, 1)).clip(0, 1), self.side)


def square(image: np.ndarray, side: int) -> torch.Tensor:
    """Float32 (1, side, side) about 0, what a shorter side leaves black."""
    pixels, scale = torch.from_numpy(image)[None, None], side / max(image.shape)
    size = [max(1, round(length * scale)) for length in image.shape]
    small = torch.nn.functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)[0]
    placed = torch.full((1, side, side), -1.0)
    placed[:, : size[0], : size[1]] = small * 2 - 1
    return placed


def archive(args: argparse.Namespace) -> tuple[list, list[dict[str, str]], list[dict[str, str | None]], list[str]]:
    """Images; of each the labels by hand, those of its exam's report, and the exam."""
    images, hand, texts, exams = [], [], [], []
    regions = {PARTS[part].region: 1.0 for part in args.parts}
    cohort = generate(args.cohort, seed=args.seed, scale=args.scale, frequencies=regions)
    for patient, group in groupby(cohort, key=lambda image: image.patient):
        before, was_broken = None, False
        for number, same in groupby(group, key=lambda image: image.exam):
            exam, when = list(same), visit(args.seed, patient, number)
            text, true = write_report(exam, was_broken, person(args.seed, patient), when, before), findings(exam[0])
            before, was_broken = when, true.fracture == "YES"
            if exam[0].part not in args.parts:
                continue
            texts.append(text)
            images += exam
            hand += [{name: getattr(true, name).lower() for name in LABELS}] * len(exam)
            exams += [len(texts) - 1] * len(exam)
    read = label_reports(texts, LABELS)
    return images, hand, [{name: read[exam][name] for name in LABELS} for exam in exams], exams


def features_of(images: list, args: argparse.Namespace) -> np.ndarray:
    """Float32 (images, width)."""
    set_seed(args.seed)
    if args.model == "untrained":
        config = preset_config("tiny")
        config.patch_size, config.num_channels = 8, 1
        model = RadMAEForPreTraining(config)
    else:
        model = RadMAEForPreTraining.from_pretrained(args.model)
    grid = (args.side // model.config.patch_size,) * 2
    found = []
    with torch.no_grad():
        for pixels in DataLoader(Drawn(images, args.side), 32, num_workers=args.workers):
            tokens = model.eval().encode(pixels.expand(-1, model.config.num_channels, -1, -1))
            pooled = [pool_tokens(tokens, pooling, grid) for pooling in ("mean", "max", "std")]
            found.append(torch.cat([*pooled, -pool_tokens(-tokens, "max", grid)], 1))
    return torch.cat(found).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", type=int, default=10_000, help="Images of the regions, of which --parts are used.")
    parser.add_argument("--parts", nargs="+", default=["upper_arm", "forearm", "thigh", "lower_leg"], choices=PARTS)
    parser.add_argument("--scale", type=float, default=0.12, help="1 is the archive's size, up to 3072 pixels.")
    parser.add_argument("--model", required=True, help='A checkpoint of hf-radmae pretrain, or "untrained".')
    parser.add_argument("--side", type=int, default=128, help="Longest side in pixels that the encoder sees.")
    parser.add_argument("--label", nargs="+", default=list(LABELS), choices=LABELS)
    parser.add_argument("--counts", type=int, nargs="+", default=[5, 10, 20, 50, 100])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.1, 0.2, 0.4])
    parser.add_argument("--noise_at", type=int, default=20)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--features", type=Path, help="Keep the features here, and take them from here.")
    parser.add_argument("--json", type=Path, help="Write the tables here.")
    args = parser.parse_args()
    images, hand, read, exams = archive(args)
    if args.features and args.features.is_file():
        features = np.load(args.features)
    else:
        features = features_of(images, args)
        if args.features:
            np.save(args.features, features)
    test = np.array([split_of(image.patient) == "test" for image in images])
    patients = np.array([image.patient for image in images])
    by_exam = [dict(zip(exams, labels, strict=True)) for labels in (hand, read)]
    labeller = evaluate(*by_exam, list(LABELS))
    print(f"{len(images)} images, {len(by_exam[0])} exams, {test.sum()} test images\n\n{evaluation_text(labeller)}")
    results = {"environment": environment(), "options": {k: str(v) for k, v in vars(args).items()}}
    results |= {"labeller": labeller, "rows": {}}
    codes = {"yes": 1, "no": 0}
    for name in args.label:
        true, said = (np.array([codes.get(row[name], -1) for row in labels]) for labels in (hand, read))
        results["rows"][name] = curve(features, true, said, np.array(exams), test, patients, args)
        show(name, results["rows"][name])
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=1) + "\n")


def curve(
    features: np.ndarray,
    true: np.ndarray,
    said: np.ndarray,
    exams: np.ndarray,
    test: np.ndarray,
    patients: np.ndarray,
    args: argparse.Namespace,
) -> list[dict]:
    """A row per number of labels and share of noise; `true` and `said` are 1, 0 or -1 (images,)."""
    scored, train = np.flatnonzero(test & (true >= 0)), np.flatnonzero(~test)
    options = {"groups": patients[scored], "strata": true[scored], "runs": 1, "n": 500}
    alone: dict[int, np.ndarray] = {}
    rows = []
    for count, noise in [(count, 0.0) for count in args.counts] + [(args.noise_at, share) for share in args.noise]:
        probabilities: list[list[np.ndarray]] = [[], []]
        for draw in range(args.draws):
            rng = np.random.default_rng([args.seed, count, draw])
            chosen = np.concatenate([rng.choice(train[true[train] == kind], count, replace=False) for kind in (0, 1)])
            flipped = rng.random(exams.max() + 1) < noise
            labels = np.where((said >= 0) & flipped[exams], 1 - said, said)
            labels[chosen] = true[chosen]  # what is by hand stays by hand
            for place, used in enumerate((chosen, train[labels[train] >= 0])):
                if place == 0 and count in alone:
                    continue
                probe = linear_probe(features, labels, [used])
                probabilities[place].append(probe.probabilities(features[scored])[0])
        alone.setdefault(count, np.stack(probabilities[0]) if probabilities[0] else np.empty(0))
        both = np.stack(probabilities[1])
        row = {"labels_a_class": count, "noise": noise, "of_reports": int((said[train] >= 0).sum())}
        row |= bootstrap_interval(auroc, true[scored], alone[count], **options).named("by_hand")
        row |= bootstrap_interval(auroc, true[scored], both, **options).named("with_reports")
        rows.append(row | paired_interval(auroc, true[scored], both, alone[count], **options).named("difference"))
    return rows


def show(name: str, rows: list[dict]) -> None:
    """AUROC in per cent, with 95 % intervals."""
    print(
        f"\n{name}, AUROC x 100\n\n| labels by hand a class | by hand alone | + {rows[0]['of_reports']} of reports |",
        end="",
    )
    print(" difference |\n|---|---|---|---|")
    for row in rows:
        cells = (
            f"{100 * row[key]:.1f} ({100 * row[f'{key}_low']:.1f} to {100 * row[f'{key}_high']:.1f})"
            for key in ("by_hand", "with_reports", "difference")
        )
        noise = f", {100 * row['noise']:.0f} % of exams flipped" if row["noise"] else ""
        print(f"| {row['labels_a_class']}{noise} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
