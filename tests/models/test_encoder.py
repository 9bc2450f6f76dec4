"""Exact changes of a first layer, and the input that published checkpoints were trained on."""

import json

import pytest
import torch
from exported import PATCH, SIDE, limb, pixels, small_mae
from transformers import (
    AutoModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEForPreTraining,
    ViTModel,
)

from hf_radmae.batching.processing import RadiographImageProcessor
from hf_radmae.classification import Labels, build_classifier
from hf_radmae.models.mae import RadMAEForPreTraining
from hf_radmae.models.starts import load_encoder, photograph_normalisation, whole_mae
from hf_radmae.publishing.export import lay_out_run

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
LABELS = Labels(("part",), "single_label_classification", ("a", "b"))
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"image_size": SIDE, "patch_size": PATCH}


def of_photographs(model, folder, **options):
    """Saves a checkpoint whose processor normalises, as the published ones do."""
    model.save_pretrained(folder)
    processor = {"image_processor_type": "ViTImageProcessor", "image_mean": MEAN, "image_std": STD} | options
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def normalised(grey: torch.Tensor) -> torch.Tensor:
    return (grey.expand(-1, 3, -1, -1) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@pytest.fixture
def grey() -> torch.Tensor:
    return pixels(limb(48, 80), limb(48, 80, seed=1))


@torch.no_grad()
def test_a_vit_of_imagenet_gets_the_pixels_that_it_was_trained_on_and_keeps_its_cls_head(grey, tmp_path):
    torch.manual_seed(0)
    stock = ViTForImageClassification(ViTConfig(**SMALL)).eval()
    of_photographs(stock, tmp_path)
    expected = stock.vit(normalised(grey), interpolate_pos_encoding=True).last_hidden_state
    for channels in (3, 1):
        model = build_classifier("vit", LABELS, checkpoint=tmp_path, num_channels=channels).eval()
        found = model.vit(grey.expand(-1, channels, -1, -1), interpolate_pos_encoding=True).last_hidden_state
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        assert model.config.pooling == "cls"
    assert build_classifier("vit", LABELS, checkpoint=tmp_path, pooling="mean").config.pooling == "mean"


@torch.no_grad()
@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_a_mae_of_imagenet_reconstructs_pixels_in_0_to_1(norm_pix_loss, grey, tmp_path):
    config = small_mae(num_channels=3).config
    config.norm_pix_loss = norm_pix_loss
    stock = ViTMAEForPreTraining(config).eval()
    stock.vit.embeddings.position_embeddings.normal_()
    of_photographs(stock, tmp_path)
    ours = RadMAEForPreTraining.from_pretrained(tmp_path).eval()
    square, noise = grey[:, :, :48, :48], torch.rand(2, 36)
    square = torch.nn.functional.interpolate(square, (SIDE, SIDE))
    noise = torch.rand(2, 64)
    theirs = stock(normalised(square), noise=noise).logits
    if not norm_pix_loss:
        theirs = theirs * torch.tensor(STD).repeat(PATCH**2) + torch.tensor(MEAN).repeat(PATCH**2)
    found = ours(square.expand(-1, 3, -1, -1), noise=noise).logits
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_a_resnet_of_imagenet_keeps_its_normalisation_in_the_processor(grey, tmp_path):
    torch.manual_seed(0)
    stock = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])).eval()
    of_photographs(stock, tmp_path)
    model = build_classifier("resnet50", LABELS, checkpoint=tmp_path).eval()
    options = {"do_normalize": True, "image_mean": model.config.image_mean, "image_std": model.config.image_std}
    size = {"height": 48, "width": 80}
    processor = RadiographImageProcessor(size=size, num_channels=3, **options)
    processor.save_pretrained(tmp_path / "ours")
    loaded = RadiographImageProcessor.from_pretrained(tmp_path / "ours")
    for found in (processor, loaded):
        seen = found(limb(48, 80), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(seen, normalised(grey[:1]), rtol=0, atol=1e-5)
    torch.testing.assert_close(model.resnet(seen).pooler_output, stock.resnet(normalised(grey[:1])).pooler_output)


def test_pixels_of_our_own_processors_are_taken_as_they_are(tmp_path):
    assert photograph_normalisation(tmp_path) is None
    RadiographImageProcessor().save_pretrained(tmp_path)
    assert photograph_normalisation(tmp_path) is None
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert (saved["image_mean"], saved["image_std"], saved["do_normalize"]) == ([0.0], [1.0], False)


@torch.no_grad()
@pytest.mark.parametrize("in_place", [True, False])
def test_a_repository_of_a_run_is_the_encoder_with_its_mae_below(in_place, grey, tmp_path):
    mae, source = small_mae(), tmp_path / "run"
    mae.save_pretrained(source)
    RadiographImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(source)
    target = source if in_place else tmp_path / "repository"
    lay_out_run(source, target)
    encoder, info = AutoModel.from_pretrained(target, output_loading_info=True)
    assert type(encoder) is ViTModel and not any(info.values()) and encoder.config.num_channels == 3
    found = encoder.eval()(grey.expand(-1, 3, -1, -1), interpolate_pos_encoding=True)
    torch.testing.assert_close(found.last_hidden_state, mae.encode(grey), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.pooler_output, mae.encode(grey)[:, 0], rtol=0, atol=1e-4)
    assert whole_mae(target) == {"subfolder": "mae"}
    again = RadMAEForPreTraining.from_pretrained(target)
    assert all(map(torch.equal, again.state_dict().values(), mae.state_dict().values()))
    features = load_encoder(target)(grey.expand(-1, 3, -1, -1), interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(features, mae.encode(grey), rtol=0, atol=1e-4)
    assert RadiographImageProcessor.from_pretrained(target).num_channels == 3
    assert RadiographImageProcessor.from_pretrained(target / "mae").num_channels == 1
