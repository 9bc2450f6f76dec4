"""Prepares an archive of radiographs once for fast training: Parquet shards at training resolution.

    python scripts/prepare.py --dataset mri --data_dir MRI --output_dir prepared --num_proc 16

then trains from them, on this machine or another, with nothing of the archive at hand:

    accelerate launch scripts/pretrain.py --dataset parquet --data_dir prepared

Interrupted, even by kill -9, it resumes when it is started again; at most one shard per process is made anew. On
several machines: --dask_scheduler, as in scripts/recipes/prepare_slurm.py and prepare_kubernetes.yaml. Options may come
from a recipe (.yaml or .json), named first. Bare `datasets.load_dataset("prepared")` reads the result.

Archive (imagefolder, parquet) and output may be URLs such as s3://bucket/folder or sftp://user@host/folder, after
`pip install "hf_radmae[remote]"`. A store that does not answer is waited for, a minute at least. Keys and passwords
come from the places of each storage (AWS_ENDPOINT_URL and ~/.aws, ~/.ssh, FSSPEC_SFTP_PASSWORD); those in a URL are
used and written nowhere. The host key of an SFTP server is checked if FSSPEC_SFTP_KNOWN_HOSTS names a file.

The output folder holds data/*.parquet, manifest.json (options, counts, what was dropped, versions) and quarantine.csv
(what is in no shard: its split, its row there, a hash, the reason; of the split "none" is what was no row of the
source, listed with its path in skipped.csv in the cache of the builder). Ids are hashed with the key in --key_file, by
default in ~/.config/hf_radmae/keys and never in the output folder or beside it: whoever has the key can link the shards
with the archive, so keep it, and keep it apart.
"""

import ctypes
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from hf_radmae.cli.command import command
from hf_radmae.cli.parse import parse
from hf_radmae.pretraining.run_folder import RunFolder
from hf_radmae.shards.prepare import prepare
from hf_radmae.shards.shrink import PrepareOptions
from hf_radmae.sources.irma.builder import IRMA
from hf_radmae.sources.load import load_radiographs
from hf_radmae.sources.mri.builder import MRI
from hf_radmae.sources.mri.cleaning import CleaningRules
from hf_radmae.sources.pseudonyms import key_path, load_key
from hf_radmae.sources.scan import absolute

RETRIES = 3
"""How often Dask makes a shard again whose task failed."""
M_TRIM_THRESHOLD = -1  # of glibc's mallopt


@dataclass
class RunArguments:
    """Source, output folder and processes."""

    URLS = ("data_dir", "dataset", "output_dir")

    dataset: str = field(metadata={"help": "mri, irma, imagefolder, phantom (generated), or a data set on the Hub."})
    output_dir: str = field(metadata={"help": "Folder of the shards, or a URL."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder or URL of the archive; phantom needs none."})
    builder: list[str] = field(
        default_factory=list,
        metadata={"help": "Options of the data set, as in num_images=500 'cleaning={width: null}'."},
    )
    patient_column: str | None = field(default=None, metadata={"help": "Column that holds the patient."})
    allow_shared_patients: bool = field(
        default=False, metadata={"help": "Take splits of the source that share patients or files; say so."}
    )
    near_duplicates: bool = field(default=False, metadata={"help": "Keep images that look alike in one split."})
    report_labels: str | None = field(
        default=None,
        metadata={"help": "Output of hf-radmae label-reports, or a column of texts: fills missing labels."},
    )
    key_file: str | None = field(
        default=None, metadata={"help": "Key of the hashes, apart from them; by default in ~/.config/hf_radmae/keys."}
    )
    num_proc: int = field(default=1, metadata={"help": "Processes that decode, one per core."})
    threads: int = field(default=16, metadata={"help": "Files that each process reads at once."})
    dask_scheduler: str | None = field(
        default=None, metadata={"help": "Address of a Dask scheduler, or its .json file: its workers do the work."}
    )

    def __post_init__(self) -> None:
        if wrong := [option for option in self.builder if "=" not in option]:
            raise ValueError(f"--builder {' '.join(wrong)}: expected name=value")

    @property
    def grouping(self) -> dict[str, Any]:
        """The arguments of `load_radiographs` by which images are kept together."""
        names = ("patient_column", "allow_shared_patients", "near_duplicates", "report_labels")
        return {name: getattr(self, name) for name in names}

    @property
    def options(self) -> dict[str, Any]:
        """What `builder` says, values read as YAML."""
        return {name: yaml.safe_load(value) for name, _, value in (option.partition("=") for option in self.builder)}


def source_record(name: str, data_dir: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """What a data set counted and dropped while it was built."""
    if name == "irma":
        return {"dropped": IRMA(data_dir=data_dir, **options).dropped}
    return MRI(data_dir=data_dir, **options).report() if name == "mri" else {}


def keep_freed_memory() -> None:
    """Lets glibc keep up to 128 MB of freed memory for the next image, where it was told to return it at once.

    Dask starts its workers with MALLOC_TRIM_THRESHOLD_=65536; the page faults that follow double the time of an image.
    """
    with suppress(AttributeError, OSError):  # another libc
        ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 128 * 2**20)


@contextmanager
def dask_executor(address: str | None) -> Iterator[Executor | None]:
    """The workers of a Dask cluster as an executor, None without an address.

    Args:
        address: of the scheduler, as tcp://HOST:8786, or the file that `dask scheduler --scheduler-file` writes.

    Raises:
        ImportError: `distributed` is not installed.
        OSError: there is no scheduler at this address.
    """
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError('--dask_scheduler needs distributed: pip install "hf_radmae[cluster]"') from error
    place = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
    with Client(**place, set_as_default=False) as client:
        client.register_worker_callbacks(setup=keep_freed_memory)
        # Each shard is a task of its own, whatever its arguments: what exists is known by the files and not by Dask.
        yield client.get_executor(retries=RETRIES, pure=False)


@command
def main() -> None:
    run, options = parse((RunArguments, PrepareOptions), description=__doc__)
    with RunFolder(run.output_dir):
        prepare_source(run, options)


def prepare_source(run: RunArguments, options: PrepareOptions) -> None:
    """One archive into its folder."""
    key = load_key(key_path(run.output_dir, run.key_file))
    builder = run.options
    if run.dataset == "mri":
        rules = CleaningRules.from_dict(builder.get("cleaning") or {})
        unset = {name: getattr(rules, name) for name in ("maximum", "mean") if getattr(options, name) is None}
        options = replace(options, **unset, drawing=rules.drawing)
        builder.setdefault("hash_key", key.hex())
    splits, unreadable = load_radiographs(run.dataset, run.data_dir, **run.grouping, **builder)
    record = source_record(run.dataset, run.data_dir, builder)
    with dask_executor(run.dask_scheduler) as executor:
        manifest = prepare(
            splits,
            absolute(run.output_dir),
            options,
            key=key,
            root=run.data_dir,
            source={"dataset": run.dataset, **record},
            unreadable=unreadable,
            num_proc=run.num_proc,
            threads=run.threads,
            executor=executor,
        )
    for split, count in manifest["counts"].items():
        dropped = ", ".join(f"{number} by {rule}" for rule, number in count["dropped"].items()) or "none"
        print(
            f"{split}: {count['images']} images in {manifest['shards'][split]} shards, {count['bytes'] / 1e6:.1f} MB; "
            f"dropped: {dropped}; quarantined: {count['quarantined']}"
        )
    print(f"\n    accelerate launch scripts/pretrain.py --dataset parquet --data_dir {run.output_dir}")
