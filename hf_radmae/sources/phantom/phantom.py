"""`Phantom`: generated radiographs as a `datasets` builder, split by patient."""

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import datasets
from PIL import Image

from hf_radmae.batching.processes import Map, in_this_process, processes
from hf_radmae.sources.phantom.anatomy import REGIONS
from hf_radmae.sources.phantom.cohort import generate, split_of
from hf_radmae.sources.phantom.positioning import VIEW_ANGLE
from hf_radmae.sources.phantom.radiograph import PhantomImage

CHUNK = 64
"""Radiographs that the processes draw at once."""


@dataclass
class PhantomConfig(datasets.BuilderConfig):
    """Options of `Phantom`: how many images, which `seed`, and the `scale` of the archive's sizes (1: 2002 x 1417)."""

    num_images: int = 2000
    scale: float = 0.0625
    seed: int = 0


class Phantom(datasets.GeneratorBasedBuilder):
    """Generated radiographs of eight body regions; 14 of 20 patients train, 3 validate, 3 test.

    >>> builder = Phantom(num_images=100, seed=1)
    >>> builder.download_and_prepare(num_proc=2)
    >>> dataset = builder.as_dataset()
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = PhantomConfig
    config: PhantomConfig
    _in_processes: Map = staticmethod(in_this_process)

    def download_and_prepare(self, *args: Any, num_proc: int | None = None, **options: Any) -> None:
        """As that of `datasets`, but `num_proc` processes draw, which are not forked."""
        with processes(num_proc or 1) as self._in_processes:
            super().download_and_prepare(*args, **options)

    def _info(self) -> datasets.DatasetInfo:
        """Declare the columns: a 16-bit PNG, its size, ids and labels."""
        flag = datasets.ClassLabel(names=["no", "yes"])
        return datasets.DatasetInfo(
            description="Generated radiographs: X-ray attenuation through analytic bones and soft tissue.",
            features=datasets.Features(
                {
                    "image": datasets.Image(),
                    "image_id": datasets.Value("string"),
                    "patient": datasets.Value("string"),
                    "height": datasets.Value("int32"),
                    "width": datasets.Value("int32"),
                    "spacing": datasets.Value("float32"),
                    "body_region": datasets.ClassLabel(names=list(REGIONS)),
                    "view": datasets.ClassLabel(names=list(VIEW_ANGLE)),
                    "laterality": datasets.ClassLabel(names=["none", "left", "right"]),
                    "fracture": flag,
                    "foreign_material": flag,
                }
            ),
        )

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        """Deal the patients to the three splits; nothing is downloaded."""
        cohort = generate(self.config.num_images, seed=self.config.seed, scale=self.config.scale)
        generators = []
        for split in ("train", "validation", "test"):
            rows = [radiograph for radiograph in cohort if split_of(radiograph.patient) == split]
            generators.append(datasets.SplitGenerator(name=split, gen_kwargs={"rows": rows}))
        return generators

    def _generate_examples(self, rows: list[PhantomImage]) -> Iterator[tuple[str, dict]]:
        """Yield (image id, row)."""
        chunks = (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
        drawn = (zip(chunk, self._in_processes(encode_png, chunk), strict=True) for chunk in chunks)
        for radiograph, png in chain.from_iterable(drawn):
            yield (
                radiograph.image_id,
                {
                    "image": {"bytes": png, "path": f"{radiograph.image_id}.png"},
                    "image_id": radiograph.image_id,
                    "patient": f"{radiograph.patient:06d}",
                    "height": radiograph.height,
                    "width": radiograph.width,
                    "spacing": radiograph.spacing,
                    "body_region": radiograph.region,
                    "view": radiograph.view,
                    "laterality": {"": "none", "L": "left", "R": "right"}[radiograph.laterality],
                    "fracture": int(radiograph.fracture),
                    "foreign_material": int(radiograph.foreign_material),
                },
            )


def encode_png(radiograph: PhantomImage) -> bytes:
    """Draw a radiograph and return it as a 16-bit grey PNG, run-length coded: noise deflates no better, only slower."""
    buffer = io.BytesIO()
    Image.fromarray(radiograph.pixels()).save(buffer, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return buffer.getvalue()
