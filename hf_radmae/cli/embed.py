"""Writes the embedding of every radiograph of a folder, or of prepared shards, to Parquet.

    python scripts/embed.py --model out/phantom --data_dir RADIOGRAPHS --output_dir out/embeddings

RADIOGRAPHS holds images or DICOM files in any tree, or the shards of scripts/prepare.py. Ended, even by kill -9, it
goes on when it is started again. Any Parquet reader takes the result; with `datasets`:

    load_dataset("out/embeddings", split="train").with_format("numpy")["embedding"]

Beside the vector stands `image_id`: of a file a keyed hash of its path, as scripts/prepare.py writes it with the same
--key_file, or the path relative to RADIOGRAPHS with --keep_names, if the names of your files identify nobody; of a
shard all its columns but the image. The files are in data/; what could not be used is in skipped.csv, with the reason.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm.auto import tqdm

from hf_radmae.batching.skipped import skipped_image, write_skipped
from hf_radmae.cli.command import command
from hf_radmae.cli.parse import parse
from hf_radmae.inference.embeddings import Embedder, folder_parts, shard_parts
from hf_radmae.models.modeling_radiograph_vit import POOLINGS, pooled_width
from hf_radmae.models.starts import load_encoder
from hf_radmae.pretraining.setup import load_processor
from hf_radmae.sources.pseudonyms import key_path, load_key


@dataclass
class EmbedArguments:
    """What is embedded, and how."""

    model: str = field(metadata={"help": "Folder or Hub id of a pre-trained checkpoint, an encoder or a classifier."})
    data_dir: str = field(metadata={"help": "Folder of images or DICOM files, or of prepared shards."})
    output_dir: str = field(metadata={"help": "Folder of the result."})
    pooling: str = field(
        default="mean",
        metadata={"help": f"What is taken of the tokens: {', '.join(POOLINGS)}, or several joined by +."},
    )
    pattern: str = field(default="**/*", metadata={"help": "Which files of a folder, as in '**/*.dcm'."})
    keep_names: bool = field(default=False, metadata={"help": "Write relative paths in place of their hashes."})
    key_file: str | None = field(
        default=None, metadata={"help": "Key of the hashes, apart from them; by default in ~/.config/hf_radmae/keys."}
    )
    images_per_part: int = field(default=1000, metadata={"help": "Images of a file, lost at most by a kill."})
    batch_size: int = field(default=32, metadata={"help": "Images of one shape at once."})
    threads: int = field(default=4, metadata={"help": "Images that are read at once."})


@command
def main() -> None:
    (args,) = parse((EmbedArguments,), description=__doc__)
    width = pooled_width(args.pooling, 1)  # an unknown pooling ends the run here
    if any(Path(args.data_dir).glob("**/*.parquet")):
        parts = shard_parts(args.data_dir)
    else:
        key = None if args.keep_names else load_key(key_path(args.output_dir, args.key_file))
        parts = folder_parts(args.data_dir, key, pattern=args.pattern, images_per_part=args.images_per_part)
    encoder = load_encoder(args.model).to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]  # upstream's wrapper
    processor = load_processor(args.model)
    embedder = Embedder(encoder, processor, args.pooling, batch_size=args.batch_size, threads=args.threads)
    images = sum(part.images for part in parts)
    with tqdm(total=images, unit="image", desc="embeddings") as bar:
        skipped = embedder.write(parts, Path(args.output_dir, "data"), bar.update)
    entries = [skipped_image(entry["image_id"], entry["reason"], "train", -1) for entry in skipped]
    write_skipped(Path(args.output_dir, "skipped.csv"), entries)
    print(f"{images - len(skipped)} embeddings of width {width * encoder.config.hidden_size} in {len(parts)} files.")
    if skipped:
        print(f"{len(skipped)} of {images} images were skipped: see skipped.csv. The first: {skipped[0]['reason']}")
