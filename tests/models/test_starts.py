"""Every published encoder is a start, whole, in whatever layout; anything else is refused with what is missing."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from starts import ENCODER, publish, stock
from transformers import ViTMAEForPreTraining, ViTModel

from hf_radmae.models.mae import RadMAEForPreTraining
from hf_radmae.models.starts import StartError, load_encoder, read_config

LAYOUTS = ["v4", "v5", "sharded", "bin"]
PIXELS = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["mae", "mae_encoder", "vit", "vit_classifier", "deit", "deit_classifier"])
@torch.no_grad()
def test_every_encoder_starts_a_masked_autoencoder(tmp_path, caplog, kind, layout):
    original = stock(kind)
    with caplog.at_level(logging.WARNING):
        model = RadMAEForPreTraining.from_pretrained(publish(original, tmp_path / "c", layout), prediction_ratio=0.5)
    loaded = load_encoder(tmp_path / "c")
    expected = getattr(original, original.base_model_prefix, original).state_dict()
    found = model.vit.state_dict()
    assert model.config.prediction_ratio == 0.5
    for name, tensor in found.items():
        if ".projection." in name:  # holds the processor's mean and deviation, see test_encoder.py
            continue
        wanted = expected[name]
        if kind.startswith("deit") and name == "embeddings.position_embeddings":
            wanted = torch.cat([wanted[:, :1], wanted[:, 2:]], dim=1)
        assert torch.equal(tensor, wanted), name
        assert torch.equal(loaded.state_dict()[name], wanted), name
    assert not model.vit.embeddings.position_embeddings.requires_grad
    assert ("initialised anew" in caplog.text) == (kind != "mae")
    output = model.train()(PIXELS, num_tokens=100)
    assert output.loss.isfinite() and model.decoder.decoder_pos_embed.std() > 0


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_a_published_autoencoder_gives_what_the_stock_class_gives(tmp_path, layout):
    folder = publish(stock("mae"), tmp_path / "c", layout)
    (folder / "preprocessor_config.json").unlink()
    ours, theirs = (kind.from_pretrained(folder).eval() for kind in (RadMAEForPreTraining, ViTMAEForPreTraining))
    noise = torch.rand(2, 196, generator=torch.Generator().manual_seed(1))
    found, expected = (model(PIXELS, noise=noise) for model in (ours, theirs))
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=0)


def test_what_an_encoder_leaves_out_is_not_reported_and_other_tensors_are_named(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    folder = publish(stock("vit_classifier"), tmp_path / "c")
    load_encoder(folder)
    assert not caplog.text
    ViTModel.from_pretrained(folder, add_pooling_layer=False)
    assert "LOAD REPORT" in caplog.text, "the report of others stays"
    weights = load_file(folder / "model.safetensors") | {"vit.strange": torch.zeros(1)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    caplog.clear()
    load_encoder(folder)
    assert "strange" in caplog.text and "classifier" not in caplog.text


def test_half_precision_is_loaded_in_full(tmp_path):
    publish(stock("mae").half(), tmp_path / "c")
    assert {p.dtype for p in RadMAEForPreTraining.from_pretrained(tmp_path / "c").parameters()} == {torch.float32}


def test_a_start_saves_and_loads_as_our_own_checkpoint(tmp_path):
    RadMAEForPreTraining.from_pretrained(publish(stock("deit"), tmp_path / "c"), num_channels=1).save_pretrained(
        tmp_path / "own"
    )
    _, info = RadMAEForPreTraining.from_pretrained(tmp_path / "own", output_loading_info=True)
    assert not any(info.values())


@torch.no_grad()
def test_a_learned_position_table_is_interpolated_when_the_base_grid_changes(tmp_path):
    model = RadMAEForPreTraining.from_pretrained(publish(stock("vit"), tmp_path / "c"))
    features = model.encode(PIXELS)
    model.resize(256)
    assert model.vit.embeddings.position_embeddings.shape[1] == 257
    assert (model.encode(PIXELS) - features).abs().mean() < 0.2 * features.abs().mean()


def damaged(folder, what):
    """Breaks a published checkpoint in one way; returns what the refusal must name."""
    weights, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    if what == "no config":
        (folder / "config.json").unlink()
        return "config.json is missing"
    if what == "no weights":
        weights.unlink()
        return "no weights: expected one of model.safetensors"
    if what == "layer missing":
        kept = {name: tensor for name, tensor in load_file(weights).items() if "layer.1.attention" not in name}
        save_file(kept, weights, {"format": "pt"})
        return "no whole encoder: missing are .*layers.1.attention"
    if what == "part of a decoder":
        kept = {name: tensor for name, tensor in load_file(weights).items() if "decoder_pred" not in name}
        save_file(kept, weights, {"format": "pt"})
        return "part of a decoder: missing are decoder.decoder_pred"
    if what == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
        return "cannot be read"
    if what == "empty":
        weights.write_bytes(b"")
        return "cannot be read"
    if what == "pickle":
        weights.unlink()
        torch.save({"vit.embeddings.cls_token": print}, folder / "pytorch_model.bin")
        return "cannot be read"
    if what == "other shapes":
        (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
        return "do not fit"
    if what == "rectangle":
        (folder / "config.json").write_text(json.dumps(config | {"image_size": [224, 160]}))
        return "no square"
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "swin"}))
    return "model type swin: expected vit_mae, vit, deit"


@pytest.mark.parametrize(
    "what",
    [
        *("no config", "no weights", "layer missing", "part of a decoder", "cut", "empty"),
        *("pickle", "other shapes", "rectangle", "type"),
    ],
)
def test_anything_else_is_refused_with_what_is_missing(tmp_path, what):
    folder = publish(stock("mae"), tmp_path / "c")
    wanted = damaged(folder, what)
    with pytest.raises(StartError, match=wanted):
        RadMAEForPreTraining.from_pretrained(folder)


def test_a_network_of_another_kind_and_a_missing_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(StartError, match="model type resnet"):
        load_encoder(publish(stock("resnet"), tmp_path / "c"))
    with pytest.raises(StartError, match="nowhere is neither a folder"):
        read_config(tmp_path / "nowhere")


def test_pairs_of_equal_sides_are_one_side(tmp_path):
    folder = publish(stock("vit"), tmp_path / "c")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"image_size": [224, 224], "patch_size": [16, 16]}))
    assert RadMAEForPreTraining.from_pretrained(folder).config.image_size == 224
    assert ENCODER["patch_size"] == read_config(folder).patch_size
