"""IRMA (ImageCLEFmed 2009: 12,677 radiographs with a four-axis code) from a local folder, as a `datasets` builder.

    builder = IRMA(config_name="body_region", data_dir="/data/IRMA")
    builder.download_and_prepare()
    splits = builder.as_dataset()  # train, validation, test; test_2009 where the official test files are there too

Every row of the tables is checked before the first image is read, and images are copied as encoded bytes: only their
headers are looked at.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets.fingerprint import Hasher

from hf_radmae.batching.skipped import skipped_image
from hf_radmae.images.image import ImageError, image_size
from hf_radmae.sources.irma.code import BODY_REGIONS, IRMACode, axis_name, parse_code
from hf_radmae.sources.irma.files import MISSING, PARTS, IRMADataError, Part, Row, find_part, read_part

logger = logging.getLogger(__name__)

LABEL_YEARS = {
    "05": ("05_class", "05_irma_code_submask"),
    "06": ("06_class", "06_irma_code"),
    "07": ("07_irma_code",),
    "08": ("08_irma_code",),
}
"""The labels of the earlier ImageCLEF tasks: year -> columns of the tables."""
PAPER_SIZES = (8_000, 2_000, 2_671)
"""Images to train, validate and test on; the last is what remains."""
SPLITS = ("train", "validation", "test")

_WHERE = (
    "IRMA is not downloaded: its licence forbids redistribution. Ask RWTH Aachen for it (doi:10.18154/RWTH-2016-06143) "
    "and pass the folder that holds ImageCLEFmed2009_train_codes.02.csv and ImageCLEFmed2009_train.02/ as data_dir"
)


def split_sizes(count: int) -> tuple[int, int, int]:
    """The paper's 8,000 / 2,000 / rest; of 10,000 images or fewer the same shares, scaled from `PAPER_SIZES`.

    Raises:
        ValueError: a split would be empty.
    """
    if count > sum(PAPER_SIZES[:2]):
        train, validation = PAPER_SIZES[:2]
    else:
        train, validation = (round(count * size / sum(PAPER_SIZES)) for size in PAPER_SIZES[:2])
    sizes = train, validation, count - train - validation
    if min(sizes) < 1:
        raise ValueError(f"{count} images cannot be split into train, validation and test: at least 5 are needed")
    return sizes


def paper_split(count: int, seed: int) -> list[list[int]]:
    """Indices of train, validation and test, as `torch.utils.data.random_split` deals them."""
    generator = torch.Generator().manual_seed(seed)
    subsets: list[torch.utils.data.Subset] = torch.utils.data.random_split(
        range(count),  # type: ignore[arg-type]  # it needs a length and nothing else
        split_sizes(count),
        generator,
    )
    return [list(subset.indices) for subset in subsets]


def stratified_split(labels: Sequence[str], seed: int) -> list[list[int]]:
    """Indices of train, validation and test in the sizes of `split_sizes`, each class within 2 images of its share.

    Class after class, in random order within each, every image goes to the split that lags most behind its share.
    """
    sizes = split_sizes(len(labels))
    parts: list[list[int]] = [[], [], []]
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist()
    for dealt, index in enumerate(sorted(shuffled, key=lambda index: labels[index]), start=1):
        lags = [size * dealt / len(labels) - len(part) for size, part in zip(sizes, parts, strict=True)]
        parts[lags.index(max(lags))].append(index)
    return [sorted(part) for part in parts]


@dataclass
class IRMAConfig(datasets.BuilderConfig):
    """Options of `IRMA`.

    Args:
        split: "paper" (random_split over the table's order) or "stratified" (by the configuration's label).
        seed: of the split; the paper's is 42.
        label_years: which of "05", "06", "07", "08" to add as label columns, null where an image had none that year.
            Their values are taken as they stand, `C` (clutter: no class of that year) included.
    """

    split: str = "paper"
    seed: int = 42
    label_years: tuple[str, ...] = ()

    @property
    def label_columns(self) -> list[str]:
        """The columns of `label_years`."""
        return [column for year in self.label_years for column in LABEL_YEARS[year]]

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """Checks the options, and names the cache by them and by the files, so that changed files are read again."""
        if self.data_dir is None:
            raise ValueError(f"data_dir is missing. {_WHERE}")
        if self.split not in ("paper", "stratified"):
            raise ValueError(f"split={self.split!r} is unknown: expected 'paper' or 'stratified'")
        if unknown := [year for year in self.label_years if year not in LABEL_YEARS]:
            raise ValueError(f"label_years {unknown} are unknown: expected some of {list(LABEL_YEARS)}, as a tuple")
        state = (self.data_dir, self.split, self.seed, tuple(self.label_years), self._fingerprint())
        return f"{self.name}-{Hasher.hash((*map(str, state), custom_features))}"

    def parts(self) -> dict[str, Part]:
        """The tables and images in `data_dir`: "train", and "test_2009" where it is there.

        Raises:
            FileNotFoundError: there is no training table, or a table without its images.
        """
        data_dir = Path(str(self.data_dir)).expanduser()
        found = {name: part for name in PARTS if (part := find_part(data_dir, name)) is not None}
        if "train" not in found:
            names = sorted(os.listdir(data_dir))[:10] if data_dir.is_dir() else "no such folder"
            raise FileNotFoundError(f"{data_dir / PARTS['train'][0]} is missing ({data_dir}: {names}). {_WHERE}")
        return found

    def _fingerprint(self) -> str:
        """Contents of the tables; names, sizes and times of the images."""
        state = hashlib.sha256()
        for part in self.parts().values():
            state.update(part.table.read_bytes())
            for file in (file for files in part.images.values() for file in files):
                status = file.stat()
                state.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        return state.hexdigest()


class IRMA(datasets.GeneratorBasedBuilder):
    """IRMA with its labels; see `IRMAConfig` for the options.

    Configurations: `body_region` (the paper's task: eight classes; the whole body and unspecified regions are left
    out) and `irma_code` (every image; the classes are the codes that the tables hold, 193 of them in 2009).
    Both give the same columns with the same class ids; `body_region` is null where it is none of the eight.

    Attributes:
        dropped: part -> reason -> number of images left out.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = IRMAConfig
    BUILDER_CONFIGS = [  # noqa: RUF012 (the name and the type are those of datasets)
        IRMAConfig(name="body_region", version=VERSION),
        IRMAConfig(name="irma_code", version=VERSION),
    ]
    DEFAULT_CONFIG_NAME = "body_region"

    def _info(self) -> datasets.DatasetInfo:
        self.dropped: dict[str, dict[str, int]] = {}
        self._rows: dict[str, list[Row]] = {}
        self._left_out: list[tuple[str, str]] = []
        codes: set[str] = set()
        values: dict[str, set[str]] = {column: set() for column in self.config.label_columns}
        for name, part in self.config.parts().items():
            rows, left_out = read_part(part, self.config.label_columns)
            codes.update(row.code for row in rows)
            for column, seen in values.items():
                seen.update(label for row in rows if (label := row.labels[column]) is not None)
            self._rows[name], self.dropped[name] = self._select(rows)
            self.dropped[name]["unlabelled"] = sum(MISSING in reason for _, reason in left_out)
            used = {row.path for row in self._rows[name]}
            left_out += [(row.path, _why_not(row)) for row in rows if row.path not in used]
            self._left_out += left_out
            logger.info("%s: %d images kept, left out: %s", part.table, len(self._rows[name]), self.dropped[name])
        features: dict[str, Any] = {
            "image": datasets.Image(),
            "image_id": datasets.Value("string"),
            "height": datasets.Value("int32"),
            "width": datasets.Value("int32"),
            "body_region": datasets.ClassLabel(names=list(BODY_REGIONS.values())),
            "irma_code": datasets.ClassLabel(names=sorted(codes)),
        }
        for axis in IRMACode._fields:
            features |= {axis: datasets.Value("string"), f"{axis}_name": datasets.Value("string")}
        for column, seen in values.items():
            names = sorted(seen, key=lambda value: (not value.isdecimal(), value.zfill(4)))  # 1, 2, .. 57, then C
            features[column] = datasets.ClassLabel(names=names)
        return datasets.DatasetInfo(
            description=f"IRMA, ImageCLEFmed 2009. Images left out: {self.dropped}.",
            features=datasets.Features(features),
            homepage="https://doi.org/10.18154/RWTH-2016-06143",
            citation="Deserno, Ott: 15,363 IRMA images of 193 categories for ImageCLEFmed 2009, RWTH Aachen, 2009",
            license="No redistribution. Courtesy of T. M. Deserno, Department of Medical Informatics, RWTH Aachen.",
        )

    def skipped(self) -> list[dict[str, Any]]:
        """The images that are no row, each with its reason."""
        return [skipped_image(path, reason) for path, reason in self._left_out]

    def _select(self, rows: list[Row]) -> tuple[list[Row], dict[str, int]]:
        """The rows that the configuration uses, and how many it leaves out and why."""
        if self.config.name == "irma_code":
            return rows, {}
        parsed = [parse_code(row.code) for row in rows]
        kept = [row for row, code in zip(rows, parsed, strict=True) if code.body_region is not None]
        whole_body = sum(code.is_whole_body for code in parsed)
        return kept, {"whole body": whole_body, "no body region": len(rows) - len(kept) - whole_body}

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        rows = self._rows["train"]
        if self.config.split == "paper":
            parts = paper_split(len(rows), self.config.seed)
        elif self.config.name == "irma_code":
            parts = stratified_split([row.code for row in rows], self.config.seed)
        else:
            parts = stratified_split([str(parse_code(row.code).body_region) for row in rows], self.config.seed)
        splits = {name: [rows[index] for index in part] for name, part in zip(SPLITS, parts, strict=True)}
        if "test_2009" in self._rows:
            splits["test_2009"] = self._rows["test_2009"]
        return [datasets.SplitGenerator(name, gen_kwargs={"rows": found}) for name, found in splits.items()]

    def _generate_examples(self, rows: list[Row]) -> Iterator[tuple[str, dict[str, Any]]]:
        problems: list[str] = []
        for row, data in _read_ahead(rows):
            try:
                height, width = image_size(data, row.path)
            except ImageError as error:
                problems.append(f"{error}: restore the image, or remove its line from the table")
                continue
            code = parse_code(row.code)
            example: dict[str, Any] = {
                "image": {"bytes": data, "path": Path(row.path).name},
                "image_id": row.image_id,
                "height": height,
                "width": width,
                "body_region": code.body_region,
                "irma_code": row.code,
                **row.labels,
            }
            for axis, value in code._asdict().items():
                example |= {axis: value, f"{axis}_name": axis_name(axis, value)}
            yield row.image_id, example
        if problems:
            raise IRMADataError(problems)


def _read_ahead(rows: list[Row]) -> Iterator[tuple[Row, bytes]]:
    """The rows with their files, in order; threads hide the latency of network storage."""
    with ThreadPoolExecutor(16) as pool:
        for start in range(0, len(rows), 128):
            part = rows[start : start + 128]
            yield from zip(part, pool.map(lambda row: Path(row.path).read_bytes(), part), strict=True)


def _why_not(row: Row) -> str:
    """Why the eight body regions leave a row out."""
    return "shows the whole body" if parse_code(row.code).is_whole_body else "has no body region"
