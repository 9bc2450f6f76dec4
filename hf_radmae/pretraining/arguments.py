"""The options of data and network as dataclasses: from a recipe file, the command line, or both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hf_radmae.batching.binning import STRATEGIES
from hf_radmae.models.mae import PRESETS
from hf_radmae.pretraining.checkpoints import checkpoints_in
from hf_radmae.pretraining.training_args import RadMAETrainingArguments, check_ranges

DATA_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "num_images": (lambda x: x >= 3, "at least 3, one for each split"),
    "phantom_scale": (lambda x: 0 < x <= 1, "more than 0 and at most 1"),
    "num_bins": (lambda x: x >= 1, "at least 1"),
    "max_tokens": (lambda x: x >= 1, "at least 1"),
    "token_levels": (lambda x: x >= 1, "at least 1"),
    "crop_scale": (lambda x: 0 < x <= 1, "more than 0 and at most 1"),
}
DEFAULT_PRESET = "tiny"
MODEL_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "patch_size": (lambda x: x >= 1, "at least 1"),
    "mask_ratio": (lambda x: 0 < x < 1, "a share between 0 and 1, as 0.75"),
    "prediction_ratio": (lambda x: 0 < x <= 1, "more than 0 and at most 1"),
}


def option(default: Any, help: str, **metadata: Any) -> Any:
    """A field of a dataclass of options, with the text that `--help` shows; each object has its own copy of a list."""
    if isinstance(default, list):
        return field(default_factory=lambda: [*default], metadata={"help": help, **metadata})
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class DataArguments:
    """Which radiographs, and how they are batched."""

    RARE: ClassVar[tuple[str, ...]] = ("allow_shared_patients", "near_duplicates", "token_levels")
    """Options that `--help` leaves to `--help_all`."""

    dataset: str = option("phantom", "phantom (generated), irma, mri, imagefolder, parquet, or a data set on the Hub.")
    data_dir: str | None = option(None, "Folder of the data set, or its URL; phantom needs none.")
    num_images: int = option(3000, "phantom: radiographs to generate.")
    phantom_scale: float = option(0.0625, "phantom: size of the images, 1 is the archive's (up to 3072 pixels).")
    patient_column: str | None = option(None, "Column that holds the patient, where its name does not say so.")
    allow_shared_patients: bool = option(False, "Take splits of the source that share patients or files; say so.")
    near_duplicates: bool = option(False, "Keep images that look alike in one split; decodes every image once.")
    report_labels: str | None = option(
        None,
        "Output of hf-radmae label-reports, or a column of texts, to fill missing labels; <label>_source says which.",
    )
    split_seed: int = option(42, "Draws the split where a source has none; --seed draws weights, order and masks.")
    binning: str = option("smart", "How sizes become batches.", choices=list(STRATEGIES))
    num_bins: int = option(8, "Shapes that smart binning may use.")
    max_tokens: int = option(256, "Most patches of an image; larger images are scaled down to it.")
    background: str = option(
        "drop", "Patches outside the patient: leave them out, or train on them too.", choices=["drop", "keep"]
    )
    token_levels: int = option(6, "Counts of patches of the patient per shape that smart binning may tell apart.")
    crop_to_content: bool = option(False, "Cut each image to the box around the patient first.")
    crop_scale: float = option(1.0, "Training crops keep at least this share of an image's area; 1 crops nothing.")
    scaling: str = option("minmax", "How grey values become 0..1 per image.", choices=["minmax", "percentile"])
    probe_column: str | None = option(None, "Column of labels to probe at the end; phantom and irma: body_region.")
    rivals: list[str] = option([], "Encoders of the Hub, or folders, to compare the probe with, by id.")

    def __post_init__(self) -> None:
        check_ranges(self, DATA_RANGES)
        if self.probe_column is None and self.dataset in ("phantom", "irma"):
            self.probe_column = "body_region"

    def buckets(self, patch_size: int, args: RadMAETrainingArguments) -> dict[str, Any]:
        """The arguments of `bucketed` for a network of this patch and a training, but the processes that measure."""
        names = ("binning", "num_bins", "max_tokens", "background", "token_levels", "crop_to_content")
        options = {name: getattr(self, name) for name in (*names, "crop_scale", "scaling")}
        options |= {"patch_size": patch_size, "seed": args.seed, "batch_size": args.images_per_update(self.max_tokens)}
        resumes = args.resume not in ("none", "weights") and bool(checkpoints_in(args.output_dir))
        return options | {"retry": not resumes}

    def source(self) -> dict[str, Any]:
        """The arguments of `load_radiographs`."""
        phantom = {"num_images": self.num_images, "scale": self.phantom_scale} if self.dataset == "phantom" else {}
        names = ("data_dir", "patient_column", "allow_shared_patients", "near_duplicates", "report_labels")
        return {"name": self.dataset, **{name: getattr(self, name) for name in names}, **phantom}


@dataclass
class ModelArguments:
    """Which network: a preset from scratch, or a checkpoint to start from."""

    preset: str | None = option(None, "Size of a network from scratch; by default tiny.", choices=list(PRESETS))
    model: str | None = option(None, "Start from this checkpoint, a folder or an id on the Hub, in place of a preset.")
    num_channels: int = option(
        1, "Input channels, 1 or 3; a checkpoint's kernels are converted exactly.", choices=[1, 3]
    )
    patch_size: int | None = option(
        None, "Side of a patch in pixels; by default 8 for tiny, 16 else. A checkpoint keeps its own."
    )
    mask_ratio: float = option(0.75, "Share of the patches that is masked.")
    prediction_ratio: float = option(0.5, "Share of the masked patches that is predicted in training.")
    norm_pix_loss: bool = option(True, "Predict patches normalised to mean 0 and variance 1.")

    def __post_init__(self) -> None:
        check_ranges(self, MODEL_RANGES)
        if self.preset is None and self.model is None:
            self.preset = DEFAULT_PRESET
        if self.patch_size is None:
            self.patch_size = 8 if self.preset in (None, "tiny") else 16

    def check_start(self) -> None:
        """Refuse a preset beside a checkpoint, of which only one can be the start of a pre-training.

        Raises:
            ValueError: both are given.
        """
        if self.model and self.preset:
            raise ValueError(f"--preset {self.preset} beside --model {self.model}: the checkpoint has its own sizes")
