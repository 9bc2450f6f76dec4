"""What the processes of these tests do: train a very small model on images of mixed sizes and write down the steps."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env
from torch.distributed.tensor import DTensor

from hf_radmae.batching.binning import fit_bins
from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.batching.streaming import open_shards
from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
from hf_radmae.pretraining.trainer import RadMAETrainer, RadMAETrainingArguments, last_complete_checkpoint
from hf_radmae.shards.prepare import prepare
from hf_radmae.shards.shrink import PrepareOptions

PATCH = 8


def make_rows(folder: Path, images: int = 60) -> str:
    """Saves a data set of smooth images of many sizes, and as prepared shards too, and returns its folder."""
    rng = np.random.default_rng(0)
    rows: dict[str, list] = {"image": [], "height": [], "width": []}
    for _ in range(images):
        height, width = (int(side) for side in rng.integers(32, 97, 2))
        y, x = np.mgrid[0:height, 0:width] / 96
        waves = np.sin(rng.uniform(2, 9) * x + rng.uniform(0, 6)) * np.cos(rng.uniform(2, 9) * y)
        rows["image"].append(((waves + 1) * 120 + rng.uniform(0, 10, waves.shape)).astype(np.uint8))
        rows["height"].append(height)
        rows["width"].append(width)
    features = datasets.Features(image=datasets.Image(), height=datasets.Value("int32"), width=datasets.Value("int32"))
    dataset = datasets.Dataset.from_dict(rows, features=features).cast_column("image", datasets.Image(decode=False))
    dataset.save_to_disk(str(folder))
    splits = {"train": dataset, "validation": dataset.select(range(9)), "test": dataset.select(range(9))}
    prepare(splits, folder / "shards", PrepareOptions(images_per_shard=5), key=b"x")
    return str(folder)


def recipe_environment(name: str) -> dict[str, str]:
    """What `accelerate launch` with a recipe of this name sets in the environment."""
    recipe = Path(__file__).parents[2] / "scripts" / "recipes" / name
    words = ["--config_file", str(recipe), "script.py"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
    return prepare_multi_gpu_env(arguments)


class TracingTrainer(RadMAETrainer):
    """Appends a line per micro-step: epoch, optimiser step, shape and rows of the batch; it survives a kill."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        line = {"step": self.state.global_step, "shape": list(inputs["grid"])}
        line |= {"epoch": int(self.state.epoch or 0), "rows": inputs["index"].tolist()}
        line["sharded"] = isinstance(next(self.model.parameters()), DTensor)
        with Path(self.args.output_dir, f"trace-{self.args.process_index}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return super().training_step(model, inputs, num_items_in_batch)


def train(
    data: str,
    output_dir: str,
    *,
    batch_size: int = 4,
    resume: bool = False,
    streaming: bool = False,
    sharded: bool = False,
    **options: Any,
) -> None:
    """Trains, sharded or not, on the rows saved in `data`, or streams their shards; the model ends in `output_dir`."""
    torch.set_num_threads(1)
    if sharded:
        os.environ |= recipe_environment("fsdp.yaml") | {"ACCELERATE_MIXED_PRECISION": "no"}
    rows = open_shards(Path(data, "shards"))["train"] if streaming else datasets.load_from_disk(data)
    bins = fit_bins(np.stack([rows["height"], rows["width"]], axis=1), num_bins=3, patch_size=PATCH, max_tokens=36)
    args = RadMAETrainingArguments(
        **{
            "output_dir": output_dir,
            "use_cpu": True,
            "ddp_backend": "gloo" if "RANK" in os.environ else None,
            "per_device_train_batch_size": batch_size,
            "num_train_epochs": 2,
            "eval_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_num_workers": 0,
            "logging_steps": 5,
            "figure_images": 0,  # which take longer than the training
            **options,
        }
    )
    if sharded:  # Accelerate shards on GPUs only: let it take these processes for some
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "decoder_hidden_size": 16}
    sizes |= {"decoder_intermediate_size": 32, "decoder_num_hidden_layers": 1}
    model = RadMAEForPreTraining(preset_config("tiny", patch_size=PATCH, image_size=6 * PATCH, **sizes))
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    trainer = TracingTrainer(
        model,
        args,
        train_dataset=RadiographDataset(rows, bins, train=True, crop_scale=0.5),
        eval_dataset=RadiographDataset(rows, bins),
    )
    trainer.evaluate()
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(output_dir) if resume else None)
    metrics = trainer.evaluate()
    trainer.save_model()
    if args.process_index == 0:
        Path(output_dir, "eval.json").write_text(json.dumps(metrics))
        trainer.state.save_to_json(str(Path(output_dir, "history.json")))


if __name__ == "__main__":
    train(sys.argv[1], sys.argv[2], num_train_epochs=int(sys.argv[3]) if sys.argv[3:] else 1)
