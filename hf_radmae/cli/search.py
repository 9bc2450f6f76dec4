"""Finds the images that are closest to a query among embeddings, as a table and as a contact sheet.

    hf-radmae search --embeddings out/embeddings --query knee.dcm --model out/phantom --data_dir RADIOGRAPHS

A query is a file, which --model embeds as the others were, or the `image_id` of one of the embeddings. Images are
compared by the cosine of their embeddings less the mean of all. The table is printed, and written with --output_dir as
neighbours.csv; with --data_dir, the folder or the shards that were embedded, the pictures go to neighbours.png, the
query first. Both show patients' images: keep them where the archive is.
"""

import csv
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from hf_radmae.cli.command import command
from hf_radmae.cli.parse import parse
from hf_radmae.images.image import ImageSource
from hf_radmae.images.remote import locate
from hf_radmae.inference.embeddings import Embedder
from hf_radmae.inference.search import EmbeddingIndex, contact_sheet, embed_query, pictures
from hf_radmae.models.starts import load_encoder
from hf_radmae.pretraining.setup import load_processor
from hf_radmae.sources.pseudonyms import key_path, load_key


@dataclass
class SearchArguments:
    """What is searched for, and where."""

    URLS = ("embeddings", "query", "data_dir")

    embeddings: str = field(metadata={"help": "Folder of scripts/embed.py."})
    query: str = field(metadata={"help": "A file, or the image_id of an embedding."})
    model: str | None = field(default=None, metadata={"help": "Checkpoint of the embeddings, for a query file."})
    neighbours: int = field(default=10, metadata={"help": "Images that are returned."})
    column: str | None = field(default=None, metadata={"help": "Vectors, if there are several; the first by default."})
    data_dir: str | None = field(default=None, metadata={"help": "What was embedded, for the contact sheet."})
    key_file: str | None = field(
        default=None, metadata={"help": "Key of the hashes, where embed was given one with --key_file."}
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of neighbours.csv and .png; with --data_dir, search by default."},
    )

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ValueError(f"--neighbours {self.neighbours}: expected 1 or more")
        if self.data_dir and not self.output_dir:
            self.output_dir = "search"


@command
def main() -> None:
    (args,) = parse((SearchArguments,), description=__doc__)
    index = EmbeddingIndex.load(args.embeddings, args.column)
    if locate(args.query).is_file():
        if not args.model:
            raise ValueError(f"--query {args.query} is a file: give the checkpoint of the embeddings with --model")
        made = index.options["columns"][index.column]
        embedder = Embedder(
            load_encoder(args.model), load_processor(args.model), made["pooling"], (made["layer"],), batch_size=1
        )
        rows, similarities = index.search(embed_query(index, embedder, args.query), args.neighbours)
    else:
        rows, similarities = index.search_row(index.row(args.query), args.neighbours)
    ids = [index.ids[row].as_py() for row in rows.tolist()]
    table = [
        {"rank": rank, "similarity": f"{similarity:.4f}", "image_id": name}
        for rank, (name, similarity) in enumerate(zip(ids, similarities.tolist(), strict=True), 1)
    ]
    _write(table, sys.stdout)
    if args.output_dir:
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "neighbours.csv").open("w", newline="", encoding="utf-8") as file:
            _write(table, file)
        if args.data_dir:
            _sheet(args, table).save(folder / "neighbours.png")
            print(f"\nPictures: {folder / 'neighbours.png'}")


def _write(table: list[dict[str, Any]], file: TextIO) -> None:
    writer = csv.DictWriter(file, ["rank", "similarity", "image_id"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)


def _sheet(args: SearchArguments, table: list[dict[str, Any]]) -> Image.Image:
    ids = [args.query, *(row["image_id"] for row in table)]
    query: dict[str, ImageSource] = {args.query: args.query} if locate(args.query).is_file() else {}
    path = key_path(args.embeddings, args.key_file)
    wanted = [name for name in ids if name not in query]
    found = pictures(wanted, args.data_dir or "", load_key(path) if path.exists() else None) | query
    if not set(found).intersection(ids[1:]):
        raise ValueError(
            f"no picture of the neighbours is in --data_dir {args.data_dir}: give the folder that was embedded, and "
            "the key of its hashes with --key_file"
        )
    captions = ["query", *(f"{row['rank']}: {row['similarity']}\n{row['image_id'][-30:]}" for row in table)]
    return contact_sheet([(caption, found.get(name)) for caption, name in zip(captions, ids, strict=True)])
