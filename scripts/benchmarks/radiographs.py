"""Assembles the folder of real radiographs that the measurements use, from copies of three public data sets.

    python scripts/benchmarks/radiographs.py --fracatlas FOLDER --covid FOLDER --scoliosis FOLDER --output_dir OUT

Download them yourself and mind their licences; any of the three may be left out:

* FracAtlas, https://doi.org/10.6084/m9.figshare.22363012, CC BY 4.0: the folder with `dataset.csv` and `images/`.
* covid-chestxray-dataset, https://github.com/ieee8023/covid-chestxray-dataset, a licence for each image: the folder
  with `metadata.csv` and `images/`. Only images under CC BY, CC BY-SA or CC BY-NC-SA are taken.
* Fraiwan et al., scoliosis, https://doi.org/10.17632/xkt857dsxk.1, CC BY 4.0: a folder of images.

Images become grey JPEGs of at most 512 pixels; metadata.csv has body_region, body_part, label and label_task,
patient_id where the source has one, source and license. Images that look alike share a `near_dup_group`, so that they
stay in one split. Copies of a source differ, and no publisher states a digest of its images: the script prints for each
source its address, the number of images and a digest of their files, and writes them to sources.json. Two folders whose
digests are equal hold the same images.
"""

import argparse
import csv
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from hf_radmae.sources.near import near_duplicate_groups

SIDE = 512  # pixels
ADDRESSES = {
    "fracatlas": "https://doi.org/10.6084/m9.figshare.22363012",
    "covid": "https://github.com/ieee8023/covid-chestxray-dataset",
    "scoliosis": "https://doi.org/10.17632/xkt857dsxk.1",
}
PARTS = {
    "hand": ("upper_extremity", "hand_wrist_forearm_elbow"),
    "leg": ("lower_extremity", "knee_lowerleg_ankle_foot"),
    "hip": ("pelvis", "hip_pelvis"),
    "shoulder": ("upper_extremity", "shoulder"),
}
COLUMNS = [
    "file_name",
    "body_region",
    "body_part",
    "label",
    "label_task",
    "patient_id",
    "source",
    "license",
    "near_dup_group",
]
IMAGES = {".jpg", ".jpeg", ".png"}


def fracatlas(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Images with what `dataset.csv` says of them."""
    files = {path.name: path for path in sorted((folder / "images").rglob("*")) if path.suffix.lower() in IMAGES}
    for row in read_table(folder / "dataset.csv"):
        flags = [name for name in PARTS if row.get(name, "0") == "1"]
        if row["image_id"] not in files or not flags:
            continue
        regions = {PARTS[name][0] for name in flags}
        region = regions.pop() if len(regions) == 1 else {"leghip": "lower_extremity"}.get("".join(flags), "mixed")
        part = PARTS[flags[0]][1] if len(flags) == 1 else "+".join(flags)
        found = {"body_region": region, "body_part": part, "label": row["fractured"], "label_task": "fracture"}
        yield files[row["image_id"]], found | {"source": "FracAtlas", "license": "CC BY 4.0"}


def covid(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """X-rays with a licence that allows sharing; a finding that is not known gives no label."""
    for row in read_table(folder / "metadata.csv"):
        path, licence = folder / "images" / row["filename"], row.get("license", "").upper()
        if (
            row.get("modality", "X-ray") != "X-ray"
            or not path.is_file()
            or not licence.startswith("CC BY")
            or "ND" in licence
        ):
            continue
        unknown = row["finding"].lower() in ("", "todo", "unknown")
        label = "" if unknown else str(int("COVID-19" in row["finding"]))
        found = {"body_region": "chest", "body_part": "chest", "label": label, "label_task": "covid19"}
        yield path, found | {"source": "covid-chestxray", "license": licence, "patient_id": f"covid-{row['patientid']}"}


def scoliosis(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """All images of the folder: whole spines."""
    found = {"body_region": "spine", "body_part": "whole_spine", "source": "Fraiwan scoliosis", "license": "CC BY 4.0"}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGES:
            yield path, found


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sources = {"fracatlas": fracatlas, "covid": covid, "scoliosis": scoliosis}
    for name in sources:
        parser.add_argument(f"--{name}", type=Path, help="Folder of the copy.")
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()
    rows: list[dict[str, str]] = []
    digests: dict[str, list[str]] = {}
    broken = []
    for name, read in sources.items():
        folder = getattr(args, name)
        for path, found in read(folder) if folder else ():
            try:
                image = Image.open(path).convert("L")
            except OSError:
                broken.append(path.name)  # truncated copies exist: see the table of each source for what is whole
                continue
            image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            stem = re.sub(r"[^A-Za-z0-9]+", "_", path.stem)
            target = Path("images", found["body_region"], f"{name}_{len(rows):05d}_{stem}.jpg")
            (args.output_dir / target).parent.mkdir(parents=True, exist_ok=True)
            image.save(args.output_dir / target, quality=95)
            rows.append({"file_name": target.as_posix(), **found})
            digests.setdefault(name, []).append(hashlib.sha256(path.read_bytes()).hexdigest())
    if not rows:
        parser.error("no image was found: give a folder of at least one source, as --help describes it")
    images = ({"bytes": None, "path": str(args.output_dir / row["file_name"])} for row in rows)
    for row, group in zip(rows, near_duplicate_groups(images), strict=True):
        row["near_dup_group"] = group or ""
    with (args.output_dir / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, restval="")
        table.writeheader()
        table.writerows(rows)
    found = {
        name: {
            "address": ADDRESSES[name],
            "images": len(part),
            "sha256": hashlib.sha256("".join(sorted(part)).encode()).hexdigest(),  # whatever the files are called
        }
        for name, part in digests.items()
    }
    (args.output_dir / "sources.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name, part in found.items():
        print(name, *part.values())
    for key in ("source", "body_region"):
        names, counts = np.unique([row[key] for row in rows], return_counts=True)
        print(key, dict(zip(names.tolist(), counts.tolist(), strict=True)))
    print(f"{len(rows)} images, {len(broken)} that cannot be read: {', '.join(broken[:10])}")


if __name__ == "__main__":
    main()
