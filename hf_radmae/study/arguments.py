"""Options of a study beside those of data, network and pre-training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hf_radmae.classification.search import LEARNING_RATES
from hf_radmae.models.modeling_radiograph_vit import pooling_parts
from hf_radmae.pretraining.arguments import option
from hf_radmae.pretraining.training_args import check_ranges
from hf_radmae.probing.class_weights import CLASS_WEIGHTS
from hf_radmae.study.heads import NETWORK_POOLINGS
from hf_radmae.study.tasks import Share, Task

RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    **dict.fromkeys(("search_fraction", "layer_decay"), (lambda x: 0 < x <= 1, "more than 0 and at most 1")),
    **dict.fromkeys(
        ("min_test_images", "supervised_min_steps", "supervised_patience"), (lambda x: x >= 0, "0 or more")
    ),
    **dict.fromkeys(
        [f"supervised_{name}" for name in ("epochs", "steps", "evaluations", "batch_size")],
        (lambda x: x >= 1, "at least 1"),
    ),
    **dict.fromkeys(("search_steps", "search_finalists"), (lambda x: x >= 1, "at least 1")),
    "draws": (lambda x: x >= 2, "at least 2, for an interval over draws"),
}

SUPERVISED = {"resnet50": "ResNet, supervised", "vit": "ViT, supervised", "mae": "MAE, fine-tuned"}
"""Networks that can be trained on labels, and what they are called in tables."""


@dataclass
class StudyArguments:
    """Tasks, shares of the labels, and the networks that are compared."""

    tasks: list[str] = option(
        ["body_region"], "COLUMN, NAME=COLUMN, or NAME=A,B (several labels); [COLUMN=VALUE] behind: of which images."
    )
    protocol: str = option(
        "fixed",
        "paper: the rate of the masked autoencoder, by validation loss, and of heads in rows of their own is the best "
        "of --learning_rates; fixed: --learning_rate, and heads with one penalty alone.",
        choices=["fixed", "paper"],
    )
    test_split: str = option("test", "Split that is scored: test_2009 is IRMA's official list.")
    low_fraction: float = option(0.01, "Share of the labels in the tables of few labels.")
    curve: list[float] = option(
        [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5], "Shares of the label-efficiency curve, beside all labels."
    )
    draws: int = option(5, "Draws of each share, and trainings of each network on them.")
    mae_checkpoint: str | None = option(None, "Take this encoder, local or on the Hub, and pre-train nothing.")
    poolings: list[str] = option(
        [*NETWORK_POOLINGS],
        "Of a network's tokens: cls, mean, max, std, grid (3 x 3), gridN, flat; several joined by +. From "
        "grid4 on a grid has an attentive head too.",
    )
    kinds: list[str] = option(
        ["balanced", "plain"], "Draws of the tables of few labels: balanced over classes, plain as they come, or both."
    )
    min_test_images: int = option(10, "Classes with fewer test images are dropped, where two or more stay.")
    metadata: list[str] = option(["source", "body_part"], "Columns of the rival that sees metadata alone.")
    more_checkpoints: list[str] = option([], "The same pre-training from other seeds: with the first, its runs.")
    fold_curve: list[str] = option([], "Names of tasks of two classes for the AUROC of five folds by labels.")
    error_maps: list[str] = option([], "Names of tasks of two classes to score reconstruction errors on.")
    supervised: list[str] = option(
        [*SUPERVISED], "Networks that are trained on the labels: resnet50, vit, mae (fine-tuned), or none."
    )
    vit_checkpoint: str | None = option(None, "The ViT starts from this; by default from scratch, of the MAE's size.")
    resnet50_checkpoint: str | None = option(None, "The ResNet starts from this; by default from scratch.")
    supervised_curve: list[float] = option([], "Further shares of the curve on which these are trained.")
    supervised_epochs: int = option(50, "Most passes over the labels.")
    supervised_min_steps: int = option(800, "Fewest steps of a training that is not ended early, for few labels.")
    supervised_steps: int = option(20_000, "Most steps of a training.")
    supervised_evaluations: int = option(20, "Looks at the validation images in a training; the best one is kept.")
    supervised_patience: int = option(10, "Looks without a better score after which a training ends; 0: never early.")
    supervised_batch_size: int = option(32, "Images per step.")
    class_weights: str = option(
        "none",
        "Weight of a class in the losses of networks and linear heads; propagated labels are always even.",
        choices=list(CLASS_WEIGHTS),
    )
    layer_decay: float = option(0.75, "mae: learning rate of a layer as a share of that of the next one up.")
    learning_rates: list[float] = option([*LEARNING_RATES], "Rates of the search.")
    search_steps: int | None = option(None, "Most steps of a training that searches; by default those of any other.")
    search_finalists: int = option(2, "Best rates of shortened trainings that are then trained in full.")
    search_fraction: float = option(1.0, "Rates are searched on at most this share; larger ones take what it found.")

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)
        for pooling in self.poolings:
            pooling_parts(pooling)
        between = {"low_fraction": [self.low_fraction], "curve": self.curve, "supervised_curve": self.supervised_curve}
        for name, shares in between.items():
            if bad := [share for share in shares if not 0 < share < 1]:
                raise ValueError(f"--{name} {bad[0]}: expected shares between 0 and 1; all labels are used in any case")
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ValueError(f"--learning_rates {self.learning_rates}: expected one or more, above 0")
        names = [task.name for task in self.parsed_tasks()]
        choices = {"kinds": ["balanced", "plain"], "supervised": [*SUPERVISED, "none"]}
        for name, known in (choices | {"fold_curve": names, "error_maps": names}).items():
            if unknown := set(getattr(self, name)) - set(known):
                raise ValueError(f"--{name} {' '.join(sorted(unknown))}: choose from {', '.join(known)}")
        self.supervised = [name for name in dict.fromkeys(self.supervised) if name != "none"]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two --tasks are named {', '.join(twice)}: write NAME=COLUMN")

    def parsed_tasks(self) -> list[Task]:
        """The tasks in order."""
        return [Task.parse(text) for text in self.tasks]

    def shares(self) -> list[Share]:
        """All labels, then few of them, balanced and plain: those of the tables."""
        return [Share(1.0, "all"), *(Share(self.low_fraction, kind) for kind in self.kinds)]  # type: ignore[arg-type]

    def curve_shares(self) -> list[Share]:
        """Those of the curve, from few to all."""
        fractions = sorted({*self.curve, *self.supervised_curve, self.low_fraction})
        return [*(Share(fraction, "balanced") for fraction in fractions), Share(1.0, "all")]

    def supervised_shares(self) -> list[Share]:
        """Those that networks are trained on."""
        return list(dict.fromkeys([*self.shares(), *(Share(part, "balanced") for part in self.supervised_curve)]))

    def steps_of(self, images: int) -> int:
        """Steps of a training on so many images, the same for every network."""
        steps = self.supervised_epochs * -(-images // self.supervised_batch_size)
        return min(self.supervised_steps, max(self.supervised_min_steps, steps))

    def search_share(self, share: Share) -> Share:
        """The share on which the rate of a training on `share` is searched."""
        if share.fraction <= self.search_fraction and share.kind != "plain":
            return share
        return Share(min(share.fraction, self.search_fraction), "balanced")
