"""What a run writes down is finite, names no machine, and its pictures and probes are of what the network saw."""

import getpass
import importlib.metadata
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from damaged import encode, radiograph
from matplotlib.figure import Figure
from PIL import Image
from rows import SIZES, make_rows
from transformers import BitImageProcessor, ResNetConfig, ResNetModel

import hf_radmae
from hf_radmae.batching.binning import fit_bins
from hf_radmae.batching.collator import BucketCollator
from hf_radmae.batching.dataset import RadiographDataset
from hf_radmae.cli.results import probe_text, save_results
from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
from hf_radmae.pretraining.figures import COLUMNS, reconstruct, reconstruction_figure, save_figure
from hf_radmae.pretraining.results import environment
from hf_radmae.publishing.json_files import rewritten_json
from hf_radmae.publishing.private import Private
from hf_radmae.study.pretrained import probe_against_rivals

PATCH = 8
BINS = fit_bins(np.array(SIZES), num_bins=3, patch_size=PATCH, max_tokens=36, min_images=1)
ROW = {
    "labels": "all",
    "model": "pre-trained",
    "balanced_accuracy": 0.8125,
    "balanced_accuracy_low": 0.75,
    "balanced_accuracy_high": 0.9,
    "accuracy": 0.5,
    "accuracy_low": 0.4,
    "accuracy_high": 0.6,
}
RESULTS = {
    "name": "run",
    "environment": environment(),
    "data": {
        "dataset": "imagefolder",
        "data_dir": "/home/someone/secret/scans",
        "binning": "smart",
        "scaling": "minmax",
        "images": {"train": 80, "validation": 10, "test": 10},
        "skipped": 3,
        "bins": [[64, 48], [48, 48]],
    },
    "model": {
        "model": "/home/someone/weights",
        "num_channels": 1,
        "patch_size": 16,
        "image_size": 160,
        "parameters": 970_816,
        "mask_ratio": 0.75,
        "norm_pix_loss": True,
    },
    "training": {"epochs": 2.0, "steps": 10, "seconds": 90.0},
    "losses": {"before": 1.0, "validation": 0.61237, "test": 0.62},
    "probe": {"column": "body_region", "rows": [ROW]},
}


def make_model(seed: int = 0, **options) -> RadMAEForPreTraining:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "decoder_hidden_size": 16}
    sizes |= {"decoder_intermediate_size": 32, "decoder_num_hidden_layers": 1, "image_size": 48, "patch_size": PATCH}
    return RadMAEForPreTraining(preset_config("tiny", **(sizes | options)))


def batch_of(size: tuple[int, int], channels: int = 1) -> dict:
    dataset = RadiographDataset(make_rows([encode(radiograph(*size, seed=s), "PNG") for s in range(2)]), BINS)
    return BucketCollator(PATCH, channels)([dataset[0], dataset[1]])


def test_the_environment_names_versions_and_no_machine():
    text = json.dumps(environment())
    assert environment()["torch"] == torch.__version__.split("+")[0] or environment()["torch"] == torch.__version__
    for private in (socket.gethostname(), getpass.getuser(), str(Path.home()), os.getcwd()):
        assert len(private) < 4 or private not in text


def test_results_come_back_without_the_folders_that_the_run_was_given(tmp_path):
    path = save_results(RESULTS, tmp_path)
    found = json.loads(path.read_text())
    assert path.name == "results.json"
    assert "someone" not in path.read_text()
    assert (found["data"].pop("data_dir"), found["model"].pop("model")) == ("scans", "weights")
    assert found == {
        key: {k: v for k, v in value.items() if k not in ("data_dir", "model")} if isinstance(value, dict) else value
        for key, value in RESULTS.items()
    }
    assert RESULTS["data"]["data_dir"] == "/home/someone/secret/scans"  # the caller's stays as it was


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("norm_pix_loss", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (40, 24)])
def test_a_reconstruction_is_the_input_where_it_is_visible(size, norm_pix_loss, channels):
    model = make_model(norm_pix_loss=norm_pix_loss, num_channels=channels).train()
    batch = batch_of(size, channels)
    pictures = reconstruct(model, batch)
    assert model.training
    assert tuple(pictures) == COLUMNS
    grey = batch["pixel_values"][:, 0]
    assert all(picture.shape == grey.shape for picture in pictures.values())
    torch.testing.assert_close(pictures["input"], grey)
    masked = pictures["masked input"].isnan()
    visible_patches = int(grey[0].numel() / PATCH**2 * 0.25)
    assert ((~masked).flatten(1).sum(1) == visible_patches * PATCH**2).all()
    for name in ("masked input", "reconstruction"):
        torch.testing.assert_close(pictures[name][~masked], grey[~masked])
    assert not pictures["error"][~masked].any()
    assert pictures["error"][masked].mean() > 0.01
    assert pictures["reconstruction"].min() >= 0
    assert pictures["reconstruction"].max() <= 1


def test_a_normalised_prediction_is_put_back_to_the_patchs_own_mean_and_contrast():
    """A network that predicts exactly the normalised patch reconstructs the image."""

    class Perfect(RadMAEForPreTraining):
        def forward(self, pixel_values, **kwargs):
            output = super().forward(pixel_values, **kwargs)
            target = self.patchify(pixel_values)
            variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
            output.logits = (target - mean) / (variance + 1e-6).sqrt()
            return output

    pictures = reconstruct(Perfect(make_model().config), batch_of((48, 30)))
    assert pictures["error"].max() < 1e-5


def test_a_figure_has_a_row_per_batch_and_the_file_is_the_array(tmp_path):
    figure = reconstruction_figure(make_model(), [batch_of(size) for size in SIZES[:3]])
    assert isinstance(figure, Figure)
    assert len(figure.axes) == 3 * len(COLUMNS)
    assert [axis.get_title() for axis in figure.axes[: len(COLUMNS)]] == list(COLUMNS)
    array = save_figure(figure, tmp_path / "new" / "figure.png")
    assert array.dtype == np.uint8
    with Image.open(tmp_path / "new" / "figure.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), array)
        assert not picture.info.keys() & {"Software", "Author", "Creation Time"}


def probed_parts(images: int) -> dict[str, RadiographDataset]:
    """Three splits of two classes, light from the left and light from above, which any network tells apart."""
    parts = {}
    for split, count in {"train": images, "validation": 12, "test": 12}.items():
        labels = [("left", "above")[i % 2] for i in range(count)]
        pictures = [radiograph(*SIZES[i % len(SIZES)], seed=i).astype(float) for i in range(count)]
        ramps = [np.indices(picture.shape)[i % 2] for i, picture in enumerate(pictures)]
        contents = [
            encode(np.clip(40 * ramp / ramp.max() * 5 + picture / 5, 0, 255).astype(np.uint8), "PNG")
            for ramp, picture in zip(ramps, pictures, strict=True)
        ]
        rows = make_rows(contents, columns={"light": labels, "patient": [f"{split}{i // 2}" for i in range(count)]})
        parts[split] = RadiographDataset(rows, BINS)
    return parts


def test_a_network_is_compared_with_every_rival(tmp_path):
    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])).save_pretrained(
        tmp_path / "resnet"
    )
    BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        tmp_path / "resnet"
    )
    trained, untrained = make_model(2), make_model(1)
    options = {"rivals": [str(tmp_path / "resnet")], "draws": 2, "low_fraction": 0.2}
    probe = probe_against_rivals(trained, untrained, probed_parts(60), "light", **options)
    assert probe["column"] == "light" and "patients" in probe["resampled"]
    rows = {(row["model"], row["labels"], row["head"]): row for row in probe["rows"]}
    names = {"majority class", "no network", "metadata alone", "untrained", "pre-trained", "resnet"}
    assert {row["model"] for row in probe["rows"]} == names
    assert rows["majority class", "all", "linear"]["balanced_accuracy"] == 0.5
    assert rows["pre-trained", "all", "linear"]["balanced_accuracy"] > 0.8
    assert rows["pre-trained", "20 %, balanced draw", "propagated"]["unlabelled"] == 60 - 12
    assert next(row["pooling"] for row in probe["rows"] if row["model"] == "resnet") != "cls"
    text = probe_text(probe)
    assert "pre-trained" in text and " minus " in text and "resnet" in text
    results = json.loads(
        save_results({"name": "run", "environment": environment(), "probe": probe}, tmp_path).read_text()
    )
    written, left_out, _ = rewritten_json("results.json", json.dumps(results).encode(), Private(frozenset()))
    assert left_out == ["refused"]  # by the gate, which knows every model, pooling and head
    titles = {table["elsewhere"]["rival"] for table in json.loads(written)["probe"]["tables"]}
    assert titles == {table["elsewhere"]["rival"] for table in probe["tables"]}


def test_a_probe_without_one_per_cent_says_so_and_keeps_the_rest():
    probe = probe_against_rivals(make_model(1), make_model(2), probed_parts(20), "light", draws=2)
    assert {row["labels"] for row in probe["rows"]} == {"all"}
    assert "not possible: 1.00% of 20 labelled images leave" in probe_text(probe)


def test_an_unknown_column_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="no column dark; the columns are image, height, width, light, patient"):
        probe_against_rivals(make_model(1), make_model(2), probed_parts(4), "dark")


def test_versions_are_told_where_the_package_itself_is_not_installed(monkeypatch):
    """A checkout on PYTHONPATH has no metadata, which was met after a whole `prepare`."""

    def missing(name):
        if name == "hf_radmae":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    real = importlib.metadata.distribution
    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert environment()["hf_radmae"] == hf_radmae.__version__
