"""The fine-tuning script from end to end, from a masked autoencoder's checkpoint: what it leaves behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
from hf_radmae.models.modeling_radiograph_vit import RadiographViTForImageClassification

pytestmark = pytest.mark.slow  # starts of the script, each of which imports for seconds

SCRIPT = Path(__file__).parents[2] / "scripts" / "finetune.py"
PHANTOM = "--num_images 80 --phantom_scale 0.04 --max_tokens 36 --num_train_epochs 2 --dataloader_num_workers 0"


def start(folder: Path, *options: str) -> subprocess.CompletedProcess:
    """Runs the script on one core without the network, its caches beside `folder`."""
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["HF_DATASETS_CACHE"] = str(folder.parent / "cache")
    words = [sys.executable, str(SCRIPT), "--output_dir", str(folder), "--disable_tqdm", "true", *options]
    return subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, timeout=500, check=False)


def test_a_mae_becomes_a_classifier_with_scores_and_predictions_and_goes_on_when_started_again(tmp_path):
    mae, out = tmp_path / "mae", tmp_path / "out"
    RadMAEForPreTraining(preset_config("tiny", patch_size=8, image_size=48)).save_pretrained(mae)
    options = [*PHANTOM.split(), "--model", str(mae), "--layer_decay", "0.75"]
    run = start(out, *options)
    assert run.returncode == 0, run.stderr[-3000:]
    text = (out / "results.json").read_text()
    results = json.loads(text)
    assert results["label"] == "body_region" and 0 <= results["test"]["balanced_accuracy"] <= 1
    assert str(tmp_path) not in text

    model = RadiographViTForImageClassification.from_pretrained(out)
    processor = RadiographImageProcessor.from_pretrained(out)
    pixels = processor(torch.rand(1, 40, 60), return_tensors="pt")["pixel_values"]
    assert model(pixels).logits.shape == (1, len(results["classes"]))
    table = pq.read_table(out / "predictions-test.parquet")
    assert table.num_rows == results["images"]["test"] and not {"patient", "image_id"} & set(table.column_names)

    assert "holds this run, finished: test balanced_accuracy" in start(out, *options).stdout
    assert (out / "results.json").read_text() == text
    (out / "results.json").unlink()
    again = start(out, *options)
    assert "Resuming from" in again.stdout
    assert json.loads((out / "results.json").read_text())["test"] == results["test"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label", "organ"], "there is no column organ; the columns are image, "),
        (["--where", "body_region=foot"], "no image has body_region=foot; body_region holds abdomen"),
        (["--model", "mae"], "--model mae: fine-tuning starts from a checkpoint"),
    ],
)
def test_what_does_not_exist_is_named(tmp_path, options, message):
    run = start(tmp_path / "out", *PHANTOM.split(), *options)
    assert run.returncode != 0 and message in run.stderr
