"""Writes the embedding of every radiograph of a folder, or of prepared shards, to Parquet.

    python scripts/embed.py --model out/phantom --data_dir RADIOGRAPHS --output_dir out/embeddings

RADIOGRAPHS holds images or DICOM files in any tree, or the shards of scripts/prepare.py; both folders may be URLs. On
several GPUs or machines:

    accelerate launch scripts/embed.py ...      or      torchrun --nproc_per_node 8 scripts/embed.py ...

Each process writes whole parts. After any of them is killed, the same command resumes and writes the parts that are
missing, on any number of processes; at most one part per process is computed again. In float32 the vectors are the
same bit for bit for any number of processes with the same device and OMP_NUM_THREADS. Any Parquet reader takes the
result; with `datasets`:

    load_dataset("out/embeddings", split="train").with_format("numpy")["embedding"]

Beside the vector stands `image_id`: of a file a keyed hash of its path, as scripts/prepare.py writes it with the same
--key_file, or the path relative to RADIOGRAPHS with --keep_names, if the names of your files identify nobody; of a
shard all its columns but the image. Several poolings or layers make columns such as embedding_layer12_mean. The files
are in data/, their footers (key hf_radmae_embedding) hold the options; what could not be used is in skipped.csv.
"""

from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from hf_radmae.batching.ranks import from_main
from hf_radmae.batching.skipped import skipped_image, write_skipped
from hf_radmae.cli.command import command
from hf_radmae.cli.parse import parse
from hf_radmae.images.remote import locate
from hf_radmae.inference.embeddings import Embedder, Part, folder_parts, shard_parts
from hf_radmae.models.modeling_radiograph_vit import POOLINGS, pooled_width
from hf_radmae.models.starts import load_encoder
from hf_radmae.pretraining.run_folder import RunFolder
from hf_radmae.pretraining.setup import load_processor
from hf_radmae.pretraining.training_args import check_ranges
from hf_radmae.sources.parquet import holds_parquet
from hf_radmae.sources.pseudonyms import key_path, load_key


@dataclass
class EmbedArguments:
    """What is embedded, and how."""

    URLS = ("data_dir", "output_dir")

    model: str = field(metadata={"help": "Folder or Hub id of a pre-trained checkpoint, an encoder or a classifier."})
    data_dir: str = field(metadata={"help": "Folder of images or DICOM files, or of prepared shards; or its URL."})
    output_dir: str = field(metadata={"help": "Folder of the result, or a URL."})
    pooling: list[str] = field(
        default_factory=lambda: ["mean"],
        metadata={"help": f"One or several columns: {', '.join(POOLINGS)}, or some of them joined by + to one vector."},
    )
    layers: list[int] = field(
        default_factory=lambda: [-1], metadata={"help": "Layers that are pooled, from 1, or from -1, the last, back."}
    )
    bf16: bool = field(default=False, metadata={"help": "Compute in bfloat16; the vectors are written as float32."})
    pattern: str = field(default="**/*", metadata={"help": "Which files of a folder, as in '**/*.dcm'."})
    keep_names: bool = field(default=False, metadata={"help": "Write relative paths in place of their hashes."})
    key_file: str | None = field(
        default=None, metadata={"help": "Key of the hashes, apart from them; by default in ~/.config/hf_radmae/keys."}
    )
    images_per_part: int = field(default=1000, metadata={"help": "Images of a file, lost at most by a kill."})
    batch_size: int = field(default=32, metadata={"help": "Images of one shape at once."})
    threads: int = field(default=4, metadata={"help": "Images that are read at once."})

    def __post_init__(self) -> None:
        counts = ("images_per_part", "batch_size", "threads")
        check_ranges(self, dict.fromkeys(counts, (lambda x: x >= 1, "at least 1")))


@command(many=True)
def main() -> None:
    (args,) = parse((EmbedArguments,), description=__doc__)
    for pooling in args.pooling:
        pooled_width(pooling, 1)  # an unknown one ends the run here
    accelerator = Accelerator(mixed_precision="bf16" if args.bf16 else None)
    with RunFolder(args.output_dir, owner=accelerator.is_main_process):
        embed(args, accelerator)


def embed(args: EmbedArguments, accelerator: Accelerator) -> None:
    """One archive into its folder."""
    parts = from_main(lambda: _parts(args))
    embedder = Embedder(
        load_encoder(args.model).to(accelerator.device),  # type: ignore[arg-type]  # upstream's wrapper
        load_processor(args.model),
        args.pooling,
        args.layers,
        args.batch_size,
        args.threads,
        {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision),
    )
    images, folder = sum(part.images for part in parts), locate(args.output_dir)
    with tqdm(total=images, unit="image", desc="embeddings", disable=not accelerator.is_main_process) as bar:
        skipped = embedder.write(parts, folder / "data", bar.update)
    if accelerator.is_main_process:
        entries = [skipped_image(entry["image_id"], entry["reason"], "train", -1) for entry in skipped]
        write_skipped(folder / "skipped.csv", entries)
        size = embedder.encoder.config.hidden_size
        width = " and ".join(str(pooled_width(pooling, size)) for pooling in args.pooling)
        print(f"{images - len(skipped)} embeddings of width {width} in {len(parts)} files.")
        if skipped:
            print(f"{len(skipped)} of {images} images were skipped: see skipped.csv. The first: {skipped[0]['reason']}")
    accelerator.end_training()


def _parts(args: EmbedArguments) -> list[Part]:
    if holds_parquet(args.data_dir):
        return shard_parts(args.data_dir)
    key = None if args.keep_names else load_key(key_path(args.output_dir, args.key_file))
    return folder_parts(args.data_dir, key, pattern=args.pattern, images_per_part=args.images_per_part)
