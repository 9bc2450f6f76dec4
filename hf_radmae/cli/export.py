"""Exports a classifier, or an encoder, that bare transformers loads.

A probe on a pre-trained encoder, solved here on frozen features with a fixed penalty; `accelerate launch` computes the
features on several processes:

    python scripts/export.py --model out/phantom --probe_column body_region --output_dir out/classifier

Where few training images have labels, `--head propagated` uses the others too.

A fine-tuned model needs no data, and an encoder neither:

    python scripts/export.py --model out/finetuned --output_dir out/classifier
    python scripts/export.py --model out/phantom --encoder --output_dir out/encoder

Then, in any Python that has transformers:

    pipeline("image-classification", model="out/classifier")("radiograph.png")

With `--pooling cls` that is all. A head on the mean of the patches is a class of ours, whose code is saved beside it:
bare transformers asks for `trust_remote_code=True`, after `import hf_radmae` nothing does. `--onnx` writes
model.onnx too, for images of any size (pip install hf_radmae[onnx]).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, ViTModel

from hf_radmae.batching.ranks import is_main, main_first, this_process
from hf_radmae.cli.command import command
from hf_radmae.cli.parse import parse
from hf_radmae.cli.results import save_results
from hf_radmae.models.modeling_radiograph_vit import POOLINGS, pooling_parts
from hf_radmae.models.starts import config_values, is_classifier, load_encoder
from hf_radmae.pretraining.arguments import DataArguments
from hf_radmae.pretraining.results import environment
from hf_radmae.pretraining.run_folder import RunFolder
from hf_radmae.pretraining.setup import load_processor
from hf_radmae.publishing.card import TEMPLATES, write_card
from hf_radmae.publishing.export import (
    export_encoder,
    export_fine_tuned,
    export_processor,
    load_fine_tuned,
    save_encoder,
)
from hf_radmae.publishing.onnx import export_onnx, largest_difference
from hf_radmae.publishing.probe import HEADS, probe_classifier
from hf_radmae.sources.load import PROCESSES, load_radiographs
from hf_radmae.sources.patients import count_patients
from hf_radmae.study.steps import data_fingerprint


@dataclass
class ExportArguments:
    """What is exported, and where to."""

    model: str = field(metadata={"help": "Folder or Hub id of a pre-trained checkpoint or a fine-tuned ViT."})
    output_dir: str = field(metadata={"help": "Folder of the repository."})
    pooling: str = field(
        default="mean", metadata={"help": f"What a probe looks at: {', '.join(POOLINGS)}, or several joined by +."}
    )
    head: str = field(
        default="linear",
        metadata={
            "help": "How a probe is solved: on the labelled training images, or on labels that are propagated from "
            "them to those without one, where few have labels.",
            "choices": list(HEADS),
        },
    )
    encoder: bool = field(default=False, metadata={"help": "Export the encoder alone."})
    num_channels: int = field(default=3, metadata={"help": "Input channels; bare transformers gives 3."})
    license: str | None = field(default=None, metadata={"help": "Licence of the weights, as apache-2.0 or other."})
    onnx: bool = field(default=False, metadata={"help": "Write model.onnx too."})


def results_beside(model: str) -> dict[str, Any]:
    """The results of the run whose folder a model is in, empty for one of the Hub."""
    path = Path(model, "results.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


@command(many=True)
def main() -> None:
    run, data = parse((ExportArguments, DataArguments), description=__doc__)
    with RunFolder(run.output_dir, owner=is_main()):
        export(run, data)


def export(run: ExportArguments, data: DataArguments) -> None:
    """One model into its folder."""
    pooling_parts(run.pooling)  # an unknown one ends the run here
    folder = Path(run.output_dir)
    made = _made(run, data)
    if made is None:
        return
    model, results = made
    if isinstance(model, ViTModel):
        save_encoder(model, folder)
    else:
        model.save_pretrained(folder)
    export_processor(load_processor(run.model), model.config).save_pretrained(folder)
    save_results(results | {"name": folder.name}, folder)
    template = TEMPLATES["classifier" if "classes" in results else "model"]
    write_card(results | {"name": folder.name}, folder, template, license=run.license)
    if "test" in results:
        print(json.dumps(results["test"], indent=1))
    if run.onnx:
        path = export_onnx(model, folder / "model.onnx")
        print(f"{path}: at most {largest_difference(model, path):.1e} from torch on five grids.")
    print(f"{type(model).__name__} in {folder}.")


def _made(run: ExportArguments, data: DataArguments) -> tuple[PreTrainedModel, dict[str, Any]] | None:
    """What is exported, and what is known of it, on the first process; on any other None."""
    if not run.encoder and config_values(run.model).get("model_type") != "resnet" and not is_classifier(run.model):
        device = this_process().device
        if data.probe_column is None:
            raise ValueError("say with --probe_column which column the probe learns, or export the --encoder alone")
        splits, _ = main_first(lambda: load_radiographs(**data.source()))
        encoder = load_encoder(run.model).to(device)  # type: ignore[arg-type]  # upstream's wrapper
        options: dict[str, Any] = {"head": run.head, "pooling": run.pooling, "num_channels": run.num_channels}
        made = probe_classifier(
            encoder, load_processor(run.model), splits, data.probe_column, threads=PROCESSES, **options
        )
        counted = count_patients(splits)
        known = {"fingerprint": data_fingerprint(splits)} | ({} if counted is None else {"patients": counted})
        facts = {"environment": environment(), "model": {"model": run.model}, "data": vars(data) | known}
        return made and (made[0], made[1] | facts)
    if run.head != "linear":
        raise ValueError(f"--head {run.head}: an encoder alone has no head, and a fine-tuned model has its own")
    if not is_main():
        return None
    if run.encoder:
        encoder = export_encoder(load_encoder(run.model), run.num_channels)
        return encoder, {} if is_classifier(run.model) else results_beside(run.model)
    model = export_fine_tuned(load_fine_tuned(run.model), run.num_channels)
    return model, results_beside(run.model) or {"classes": list((model.config.id2label or {}).values())}
