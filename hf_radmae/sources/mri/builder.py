"""An archive of clinical radiographs (Klinikum rechts der Isar, Munich: DICOM X-ray) as a `datasets` builder.

    builder = MRI(data_dir="/data/MRI")
    builder.download_and_prepare()
    splits = builder.as_dataset()  # train, validation, test
    builder.report()  # what was indexed, dropped, kept, and how the audit of the splits came out

Rows hold the path of a file, its size and its labels: no pixel is decoded, and none is copied. Patient and exam ids are
replaced by keyed hashes; the paths in the local cache are what they are, so that a prepared data set, not this one, is
what may leave the machine.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from datasets.fingerprint import Hasher

from hf_radmae.batching.skipped import read_skipped, skipped_image, write_skipped
from hf_radmae.sources.mri.body_parts import BodyParts
from hf_radmae.sources.mri.cleaning import CleaningRules
from hf_radmae.sources.mri.index import Counts, Verify, build_index, find_table, read_report
from hf_radmae.sources.mri.table import ANSWERS, HEADER_ANSWERS, LABELS
from hf_radmae.sources.pseudonyms import load_key, pseudonyms
from hf_radmae.sources.splits import FRACTIONS, audit_splits, split_by_patient

logger = logging.getLogger(__name__)

ROWS_PER_SHARD = 20_000


@dataclass
class MRIConfig(datasets.BuilderConfig):
    """Options of `MRI`.

    Args:
        table: path below `data_dir` of the table; "auto" takes table.csv or table.parquet where there is one, and else,
            like None, the folders `<PART>/<patient>/<exam>/<series>/<SOP uid>` and every header.
        verify: with a table, what to look at in the files: "none", "files" (that each exists) or "headers" (which
            then correct the table: sizes, inversion, drawings, missing body parts).
        cleaning: the rules that drop images, or those that differ from the default as a mapping, {"width": None}.
        reports: folder below `data_dir` of the reports `<exam>.txt`; they fill labels that the table does not have.
        include_reports: adds the column `report` with the text, which names the patient.
        body_parts: a table like `body_parts.csv` with other spellings or classes.
        fractions: name of the split -> share of the patients.
        seed: of the split.
        hash_key: secret of the hashes; drawn once and kept beside the cache if it is not given.
        threads: files that are read at once.
    """

    table: str | None = "auto"
    verify: Verify = "files"
    cleaning: CleaningRules = field(default_factory=CleaningRules)
    reports: str | None = "reports"
    include_reports: bool = False
    body_parts: str | None = None
    fractions: Mapping[str, float] = field(default_factory=lambda: dict(FRACTIONS))
    seed: int = 42
    hash_key: str | None = None
    threads: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.cleaning, Mapping):  # as a command line or a recipe gives it
            self.cleaning = CleaningRules.from_dict(self.cleaning)

    @property
    def folder(self) -> Path:
        """The archive.

        Raises:
            ValueError, FileNotFoundError: `data_dir` is not given, or no folder.
        """
        if self.data_dir is None:
            raise ValueError("data_dir is missing: MRI reads a local archive, say where it is")
        folder = Path(str(self.data_dir)).expanduser().absolute()
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: there is no such folder; check data_dir")
        return folder

    @property
    def report_folder(self) -> Path | None:
        """The folder of the reports, None where there is none."""
        folder = self.folder / self.reports if self.reports else None
        return folder if folder and folder.is_dir() else None

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """Name the cache by the options and by the times of the table (or of the parts' folders) and of the reports.

        What changed deeper in the tree is not seen: prepare with `download_mode="force_redownload"` then.
        """
        if self.verify not in ("none", "files", "headers"):
            raise ValueError(f"verify={self.verify!r}: expected 'none', 'files' or 'headers'")
        table = find_table(self.folder, self.table)
        watched = [table, self.report_folder] if table else sorted(self.folder.iterdir())
        times = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in watched if path is not None]
        key = hashlib.blake2b((self.hash_key or "").encode()).hexdigest()
        options = [(name, str(value)) for name, value in vars(self).items() if name not in ("hash_key", "threads")]
        spellings = BodyParts(self.body_parts).digest
        return f"{self.name}-{Hasher.hash((times, key, sorted(options), spellings, str(custom_features)))}"


class MRI(datasets.ArrowBasedBuilder):
    """The archive's radiographs; see `MRIConfig` for the options.

    Beside the rows, `cache_dir` holds archive.json (see `report`), splits.csv (the split of every hashed patient), and
    skipped.csv (see `skipped`), which as the rows do names files of the archive: it stays where they are.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = MRIConfig
    config: MRIConfig

    def _info(self) -> datasets.DatasetInfo:
        answer = datasets.ClassLabel(names=list(ANSWERS))
        features = {
            "image": datasets.Image(decode=False),
            "height": datasets.Value("int32"),
            "width": datasets.Value("int32"),
            "body_part": datasets.ClassLabel(names=BodyParts(self.config.body_parts).names),
            "fracture": answer,
            "foreign_material": answer,
            **{f"{name}_source": datasets.Value("string") for name in LABELS.values()},
            "inverted": datasets.Value("bool"),
            **{name: datasets.Value("string") for name in HEADER_ANSWERS},
            "patient": datasets.Value("string"),
            "exam": datasets.Value("string"),
            "image_id": datasets.Value("string"),
        }
        if self.config.include_reports:
            features["report"] = datasets.Value("string")
        return datasets.DatasetInfo(
            description="Clinical radiographs by path, with sizes, labels and hashed ids.",
            features=datasets.Features(features),
        )

    def report(self) -> dict[str, Any]:
        """Return what was counted while the data set was prepared.

        Raises:
            FileNotFoundError: it was not prepared yet.
        """
        path = Path(self.cache_dir) / "archive.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: call download_and_prepare() first")
        return json.loads(path.read_text(encoding="utf-8"))

    def skipped(self) -> list[dict[str, Any]]:
        """Return the files of the archive that are no row, each with its reason: unreadable, or dropped by a rule."""
        return read_skipped(Path(self.cache_dir) / "skipped.csv")

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        config = self.config
        index, counts = build_index(
            config.folder,
            find_table(config.folder, config.table),
            body_parts=BodyParts(config.body_parts),
            rules=config.cleaning,
            verify=config.verify,
            reports=config.report_folder,
            threads=config.threads,
        )
        labels = [index[name].fill_null(-1).to_numpy() for name in ("body_part", *LABELS.values())]
        owners = pc.coalesce(index["patient"], pc.binary_join_element_wise("exam", index["exam"], " "))
        patients = _ranks(owners)
        splits = split_by_patient(patients, np.stack(labels, 1), config.fractions, config.seed)
        audit = audit_splits(patients, splits)
        rows = self._rows(index)
        self._write_records(counts, audit, rows, splits)
        generators = []
        for name in config.fractions:
            part = rows.filter(pa.array(splits == name))
            shards = [part.slice(start, ROWS_PER_SHARD) for start in range(0, len(part), ROWS_PER_SHARD)]
            generators.append(datasets.SplitGenerator(name, gen_kwargs={"shards": shards}))
        return generators

    def _generate_tables(self, shards: list[pa.Table]) -> Iterator[tuple[tuple[int, int], pa.Table]]:
        for number, shard in enumerate(shards):
            yield (number, 0), shard

    def _rows(self, index: pa.Table) -> pa.Table:
        """Return the columns of the data set, ids hashed."""
        key = self._key()
        paths = pc.binary_join_element_wise(str(self.config.folder), index["path"], "/").combine_chunks()
        exams = pc.binary_join_element_wise(index["patient"].fill_null(""), index["exam"], "/")
        columns = {
            "image": pa.StructArray.from_arrays([pa.nulls(len(index), pa.binary()), paths], names=["bytes", "path"]),
            **{name: index[name] for name in ("height", "width", "body_part", *LABELS.values(), "inverted")},
            **{name: index[name] for name in (*(f"{label}_source" for label in LABELS.values()), *HEADER_ANSWERS)},
            "patient": pseudonyms(index["patient"], key, b"patient"),
            "exam": pseudonyms(exams, key, b"exam"),
            "image_id": pseudonyms(index["path"], key, b"image_id"),
        }
        if self.config.include_reports:
            folder = self.config.report_folder
            if folder is None:
                raise FileNotFoundError(
                    f"{self.config.folder}: include_reports, but no folder reports={self.config.reports!r}"
                )
            encoded = index["exam"].combine_chunks().dictionary_encode()
            texts = pa.array([read_report(folder, exam) for exam in encoded.dictionary.to_pylist()], pa.string())
            columns["report"] = texts.take(encoded.indices)
        return pa.table(columns).select(list(self.info.features)).cast(self.info.features.arrow_schema)

    def _key(self) -> bytes:
        """Return the secret of the hashes, drawn once per cache and readable by its owner only."""
        if self.config.hash_key is not None:
            return hashlib.blake2b(self.config.hash_key.encode()).digest()
        return load_key(Path(self._cache_dir_root) / "mri_hash.key")

    def _write_records(self, counts: Counts, audit: dict, rows: pa.Table, splits: np.ndarray) -> None:
        """Write beside the rows: the counts, the split of each patient (hashed), and the files that are no row."""
        folder = Path(self._output_dir)
        if not folder.is_dir():  # streaming: nothing is written
            return
        record = {**asdict(counts), "listed": len(counts.listed), "splits": audit}
        record["known_patients"] = 1 - rows["patient"].null_count / max(1, len(rows))
        (folder / "archive.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
        owners = (
            pa.table({"patient": rows["patient"], "split": pa.array(splits)})
            .group_by(["patient", "split"])
            .aggregate([])
        )
        pa.csv.write_csv(owners.sort_by("patient"), folder / "splits.csv")
        root = str(self.config.folder)
        write_skipped(folder / "skipped.csv", [skipped_image(f"{root}/{name}", why) for name, why in counts.listed])
        logger.info("archive: %s", json.dumps(record))
        if counts.inverted_mismatches or counts.size_mismatches:
            logger.warning(
                "table and headers differ in the inversion of %d images and the size of %d; the headers are believed",
                counts.inverted_mismatches,
                counts.size_mismatches,
            )


def _ranks(ids: pa.ChunkedArray) -> np.ndarray:
    """Return the place of each id among the sorted ones, so that the split does not depend on the order of rows."""
    encoded = ids.combine_chunks().dictionary_encode()
    order = pc.array_sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[encoded.indices.to_numpy()]
