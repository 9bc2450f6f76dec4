"""The folder of real radiographs is assembled from folders shaped like the sources, and loads with its labels."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from damaged import radiograph
from PIL import Image

from hf_radmae.sources.load import load_radiographs

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmarks" / "radiographs.py"


def picture(path: Path, seed: int, size: tuple[int, int] = (60, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 80, size)
    Image.fromarray((radiograph(*size, seed=seed) // 2 + noise).astype(np.uint8)).save(path)


def table(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_a_folder_is_assembled_and_loads(tmp_path):
    flags = [("1000", 0), ("0100", 1), ("0110", 0), ("1100", 0), ("0000", 0), ("0001", 1)]
    rows = []
    for i, (parts, fractured) in enumerate(flags):
        picture(tmp_path / "f" / "images" / ("Fractured" if fractured else "Non_fractured") / f"IMG{i}.jpg", i)
        rows.append({"image_id": f"IMG{i}.jpg"} | dict(zip(("hand", "leg", "hip", "shoulder"), parts, strict=True)))
        rows[-1]["fractured"] = fractured
    (tmp_path / "f" / "images" / "Fractured" / "IMG5.jpg").write_bytes(b"\xff\xd8 cut")
    table(tmp_path / "f" / "dataset.csv", rows)
    findings = [("COVID-19", "CC BY"), ("todo", "CC BY-NC-SA"), ("Pneumonia", "CC BY-NC-ND"), ("Pneumonia", "")]
    for i in range(4):
        picture(tmp_path / "c" / "images" / f"{i}.png", 20 + i, (700, 500))
    columns = ("filename", "finding", "license", "patientid", "modality")
    covid = [dict(zip(columns, (f"{i}.png", *f, 7, "X-ray"), strict=True)) for i, f in enumerate(findings)]
    table(tmp_path / "c" / "metadata.csv", covid)
    picture(tmp_path / "s" / "N1.jpg", 40)
    picture(tmp_path / "s" / "N2.jpg", 40)
    out = tmp_path / "out"
    options = ["--fracatlas", tmp_path / "f", "--covid", tmp_path / "c", "--scoliosis", tmp_path / "s"]
    run = [sys.executable, str(SCRIPT), *map(str, options), "--output_dir", str(out)]
    said = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    assert "8 images, 1 that cannot be read: IMG5.jpg" in said
    sources = json.loads((out / "sources.json").read_text())
    assert {name: part["images"] for name, part in sources.items()} == {"fracatlas": 4, "covid": 2, "scoliosis": 2}
    assert all(part["sha256"] in said and part["address"].startswith("https://") for part in sources.values())
    loaded, skipped = load_radiographs("imagefolder", str(out), seed=0)
    found = [row for part in loaded.values() for row in part]
    assert not skipped and len(found) == 8
    regions = sorted((row["body_region"], row["body_part"]) for row in found if row["source"] == "FracAtlas")
    assert regions == [
        ("lower_extremity", "knee_lowerleg_ankle_foot"),
        ("lower_extremity", "leg+hip"),
        ("mixed", "hand+leg"),
        ("upper_extremity", "hand_wrist_forearm_elbow"),
    ]
    chest = {row["license"]: row for row in found if row["body_region"] == "chest"}
    assert set(chest) == {"CC BY", "CC BY-NC-SA"} and chest["CC BY"]["height"] == 512
    assert [chest[name]["label"] for name in ("CC BY", "CC BY-NC-SA")] == [1, None]
    assert len({row["near_dup_group"] for row in found if row["body_region"] == "spine"}) == 1, "they are one image"
