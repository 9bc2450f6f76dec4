"""Retrieval: how many of the ten closest images share a column with the query, and how long a search takes.

    python scripts/benchmarks/retrieval.py --data_dir RADIOGRAPHS --runs pre-trained=out/a,out/b --column body_region
    python scripts/benchmarks/retrieval.py --rows 1000000 --width 128

Every image of the folder (metadata.csv with `file_name` and the column) is the query once, and all others are searched.
The rivals are the same network before training and the pixels of the image at 16 x 16. Images of the
query's patient or near-duplicate group do not count. Without --data_dir generated embeddings are written, loaded and
searched, and the time and the peak of memory are printed.
"""

import argparse
import csv
import json
import resource
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.nn.functional import interpolate
from transformers import ViTModel, set_seed

from hf_radmae.inference.embeddings import EMBEDDING_FOOTER, Embedder
from hf_radmae.inference.search import EmbeddingIndex
from hf_radmae.models.mae import RadMAEForPreTraining
from hf_radmae.models.starts import load_encoder
from hf_radmae.pretraining.setup import load_processor
from hf_radmae.publishing.export import export_encoder


def precision(vectors: np.ndarray, labels: np.ndarray, groups: np.ndarray, neighbours: int = 10) -> dict[str, float]:
    """Share of the closest images with the query's label: mean over images, and over classes of their means."""
    mean = vectors.mean(0)
    centred = vectors - mean
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    index = EmbeddingIndex(pa.array([]), unit.astype(np.float32), mean, "embedding", {})
    hits = np.empty(len(labels))
    for row in range(len(labels)):
        same = np.flatnonzero(groups == groups[row])
        closest, _ = index.search(vectors[row], neighbours, same.tolist())
        hits[row] = (labels[closest] == labels[row]).mean()
    return {"images": hits.mean(), **{name: hits[labels == name].mean() for name in sorted({*labels.tolist()})}}


def embed(encoder: ViTModel, processor: Any, folder: Path, names: list[str], pooling: str) -> np.ndarray:
    skipped: list[dict[str, str]] = []
    rows = [({"image_id": name}, str(folder / name)) for name in names]
    found = Embedder(encoder, processor, pooling, batch_size=64).vectors(rows, skipped)
    if skipped:
        raise ValueError(f"{len(skipped)} images cannot be read, the first: {skipped[0]}")
    return np.stack([vectors["embedding"] for _, vectors in found])


def compare(args: argparse.Namespace) -> None:
    folder = Path(args.data_dir)
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row[args.column]]
    if args.images and args.images < len(rows):
        rows = [rows[place] for place in np.sort(np.random.default_rng(0).permutation(len(rows))[: args.images])]
    names, labels = [row["file_name"] for row in rows], np.array([row[args.column] for row in rows])
    owners = [row.get("patient_id") or row.get("near_dup_group") or row["file_name"] for row in rows]
    groups = np.unique(owners, return_inverse=True)[1]
    runs = {name: paths.split(",") for name, _, paths in (run.partition("=") for run in args.runs)}
    processor: Any = cache(load_processor(next(iter(runs.values()))[0]))  # the runs see the same pixels, read once
    small = [
        interpolate(processor(str(folder / name))["pixel_values"][0][None], (16, 16), mode="area") for name in names
    ]
    vectors = {("raw pixels, 16 x 16", ""): [torch.cat(small).flatten(1).numpy()]}
    for pooling in args.poolings:
        for name, paths in runs.items():
            config = RadMAEForPreTraining.from_pretrained(paths[0]).config
            untrained = []
            for seed in range(len(paths)):
                set_seed(seed)
                untrained.append(export_encoder(RadMAEForPreTraining(config).eval(), num_channels=None))
            for title, encoders in (("untrained", untrained), (name, map(load_encoder, paths))):
                if (title, pooling) not in vectors:
                    made = [embed(encoder, processor, folder, names, pooling) for encoder in encoders]
                    vectors[title, pooling] = made
    chance = np.mean([((labels == label).sum() - 1) / (len(labels) - 1) for label in labels])
    print(f"{len(names)} images, chance {100 * chance:.1f}")
    for (title, pooling), seeds in vectors.items():
        scores = [precision(found, labels, groups) for found in seeds]
        text = ", ".join(f"{key} {100 * np.mean([s[key] for s in scores]):.1f}" for key in scores[0])
        spread = ", ".join(f"{100 * s['images']:.1f}" for s in scores)
        print(f"{title} {pooling}: {text} (seeds: {spread})", flush=True)


def measure(rows: int, width: int) -> None:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        footer = {
            "columns": {"embedding": {"layer": 1, "pooling": "mean"}},
            "dtype": "float32",
            "encoder": "",
            "skipped": [],
        }
        for part, start in enumerate(range(0, rows, 100_000)):
            count = min(100_000, rows - start)
            values = pa.array(rng.standard_normal(count * width, dtype=np.float32))
            vectors = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * width, values)
            ids = pa.array([f"{number:032x}" for number in range(start, start + count)])
            table = pa.table({"image_id": ids, "embedding": vectors})
            table = table.replace_schema_metadata({EMBEDDING_FOOTER: json.dumps(footer).encode()})
            pq.write_table(table, Path(folder, f"train-{part:05}.parquet"), compression="zstd")
        started = time.perf_counter()
        index = EmbeddingIndex.load(folder)
        print(f"{rows} x {width}: loaded in {time.perf_counter() - started:.2f} s")
        times = []
        for _ in range(20):
            started = time.perf_counter()
            index.search(rng.standard_normal(width))
            times.append(time.perf_counter() - started)
        print(f"a search takes {np.median(times):.3f} s, at most {max(times):.3f} s")
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="An imagefolder.")
    parser.add_argument("--runs", nargs="+", help="NAME=FOLDER, or NAME=FOLDER,FOLDER of several seeds.")
    parser.add_argument("--column", default="body_region")
    parser.add_argument("--poolings", nargs="+", default=["mean", "mean+max+std"])
    parser.add_argument("--images", type=int, help="A random part of the folder, drawn with seed 0; all by default.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=128)
    args = parser.parse_args()
    compare(args) if args.data_dir else measure(args.rows, args.width)


if __name__ == "__main__":
    main()
