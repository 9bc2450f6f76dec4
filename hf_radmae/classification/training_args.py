"""`TrainingArguments` with the defaults of supervised training on radiographs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from hf_radmae.pretraining.training_args import RadMAETrainingArguments, check_ranges
from hf_radmae.probing.class_weights import CLASS_WEIGHTS

RANGES = {
    "layer_decay": (lambda x: 0 < x <= 1, "more than 0 and at most 1"),
    "label_smoothing_factor": (lambda x: 0 <= x < 1, "at least 0 and below 1"),
    "rotation": (lambda x: 0 <= x <= 180, "degrees between 0 and 180"),
    "zoom": (lambda x: 0 <= x < 1, "at least 0 and below 1"),
    "shift": (lambda x: 0 <= x < 1, "at least 0 and below 1"),
    "contrast": (lambda x: x >= 0, "0 or more"),
    "report_label_weight": (lambda x: 0 <= x <= 1, "between 0 and 1"),
}


@dataclass
class ClassifierTrainingArguments(RadMAETrainingArguments):
    """`RadMAETrainingArguments` with the defaults of supervised training, and what is new about it.

    The best model is the one at the end in any case. With `save_strategy="no"` it is kept in memory and nothing is
    written, which suits many short runs; else it is the best checkpoint, and an interrupted run resumes from the last.

    Args:
        class_weights: weight of a class in the loss, see `fit_class_weights`.
        layer_decay: learning rate of a ViT's layer as a share of that of the next one up, below 1 for networks that
            start from a checkpoint (Clark et al. 2020, ELECTRA; 0.75 in MAE's fine-tuning). A ResNet takes only 1.
        report_label_weight: weight in the loss of a label whose `<label>_source` is "report"; one by hand weighs 1.
        rotation, zoom, shift, contrast, flip: see `Augmentation`.
    """

    output_dir: str = field(default="out/classifier", metadata={"help": "Folder of checkpoints, results, predictions."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of AdamW, of the last layer."})
    adam_beta2: float = field(default=0.999, metadata={"help": "Beta2 of AdamW."})
    num_train_epochs: str = field(default="50", metadata={"help": "Times that every image is seen, at most."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Images per device and step, of one bin."})
    metric_for_best_model: str | None = field(
        default=None, metadata={"help": "Validation score of the best model; balanced_accuracy, for regression loss."}
    )
    greater_is_better: bool | None = field(default=None, metadata={"help": "Leave as it is."})
    figure_images: int = field(default=0, metadata={"help": "Leave as it is: there are no reconstructions."})

    class_weights: str = field(
        default="none", metadata={"help": "Weight of a class in the loss.", "choices": list(CLASS_WEIGHTS)}
    )
    layer_decay: float = field(default=1.0, metadata={"help": "Learning rate of a layer as a share of the next's."})
    report_label_weight: float = field(
        default=1.0, metadata={"help": "Weight in the loss of a label read from a report; one by hand weighs 1."}
    )
    rotation: float = field(default=10.0, metadata={"help": "Training images are turned by up to so many degrees."})
    zoom: float = field(default=0.15, metadata={"help": "Training images are scaled by up to this share, both ways."})
    shift: float = field(default=0.05, metadata={"help": "Training images are moved by up to this share of a side."})
    contrast: float = field(default=0.2, metadata={"help": "Gamma of training images is within 1 / (1 + x) and 1 + x."})
    flip: bool = field(default=False, metadata={"help": "Mirror left and right; not where laterality is a label."})

    refused: ClassVar[dict[str, tuple[tuple[Any, ...], str]]] = {
        **{name: rule for name, rule in RadMAETrainingArguments.refused.items() if name != "label_smoothing_factor"},
        "streaming": ((False,), "only pre-training reads its shards in order; fine-tuning opens them as rows"),
    }
    meaning: ClassVar[tuple[str, ...]] = (
        *RadMAETrainingArguments.meaning,
        *("label_smoothing_factor", "class_weights", "report_label_weight", "layer_decay"),
        *("rotation", "zoom", "shift", "contrast", "flip"),
    )

    def __post_init__(self):
        check_ranges(self, RANGES)
        if self.save_strategy == "no":
            self.load_best_model_at_end = False  # from a checkpoint, that is
        chosen = self.metric_for_best_model, self.greater_is_better
        super().__post_init__()
        self.metric_for_best_model, self.greater_is_better = chosen  # what is left open depends on the task

    @property
    def keeps_best_in_memory(self) -> bool:
        """Whether the best weights are kept in memory, since there are no checkpoints."""
        return self.save_strategy == "no" and self.eval_strategy != "no"
