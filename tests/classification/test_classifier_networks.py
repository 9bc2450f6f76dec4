"""The networks that are compared: where they start, what they compute, and that nothing of them is lost on the way."""

import pytest
import safetensors.torch
import torch
from transformers import ResNetForImageClassification, ViTMAEForPreTraining, ViTModel

from hf_radmae.classification import Labels, build_classifier
from hf_radmae.classification.networks import fold_scale, parameter_groups
from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
from hf_radmae.models.modeling_radiograph_vit import RadiographViTForImageClassification
from hf_radmae.models.positions import sincos_table

LABELS = Labels(("c",), "single_label_classification", ("a", "b", "c"))
SIZE = {"image_size": 48, "patch_size": 8, "num_channels": 1}


@pytest.fixture(scope="module")
def mae() -> RadMAEForPreTraining:
    torch.manual_seed(0)
    return RadMAEForPreTraining(preset_config("tiny", **SIZE)).eval()


@pytest.fixture
def images() -> torch.Tensor:
    """Of another grid than the base one."""
    return torch.rand(2, 1, 32, 64, generator=torch.Generator().manual_seed(0))


def with_head(model, seed: int = 0):
    """The model with a head that tells images apart, as after training."""
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.classifier.weight)
    return model.eval()


def test_a_vit_from_scratch_has_the_size_and_the_start_of_the_mae(mae):
    vit = build_classifier("vit", LABELS, **SIZE)
    shapes = {name: tensor.shape for name, tensor in vit.vit.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in mae.vit.state_dict().items()}
    assert torch.equal(vit.vit.embeddings.position_embeddings, sincos_table(6, 128))
    for name in ("layers.0.attention.q_proj.weight", "layers.3.mlp.fc1.weight"):  # as wide as Xavier makes them
        weight = vit.vit.state_dict()[name]
        assert weight.std().item() == pytest.approx((2 / sum(weight.shape)) ** 0.5, rel=0.05)
    assert not vit.classifier.weight.any()


def test_a_network_depends_on_its_seed_alone():
    first, again, other = (build_classifier("vit", LABELS, **SIZE, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["vit.layers.0.mlp.fc1.weight"], other["vit.layers.0.mlp.fc1.weight"])


@pytest.mark.parametrize("source", ["ours", "stock", "memory"])
def test_fine_tuning_starts_from_the_features_of_the_mae(mae, images, tmp_path, source):
    if source == "ours":
        mae.save_pretrained(tmp_path)
    elif source == "stock":
        stock = ViTMAEForPreTraining(mae.config)
        stock.load_state_dict(mae.state_dict())
        stock.save_pretrained(tmp_path)
    model = build_classifier("mae", LABELS, checkpoint=mae if source == "memory" else tmp_path, num_channels=1).eval()
    features = model.vit(images, interpolate_pos_encoding=True).last_hidden_state
    assert torch.allclose(features, mae.encode(images), atol=1e-5)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_training_a_copy_of_a_mae_in_memory_leaves_the_mae_alone(mae):
    before = mae.vit.layernorm.weight.clone()
    with torch.no_grad():
        build_classifier("mae", LABELS, checkpoint=mae).vit.layernorm.weight.add_(1)
    assert torch.equal(mae.vit.layernorm.weight, before)


@pytest.mark.parametrize("pooling", ["mean+std", "cls"])
def test_a_saved_file_holds_every_tensor_under_the_models_own_name(tmp_path, pooling):
    model = with_head(build_classifier("vit", LABELS, pooling=pooling, **SIZE))
    model.save_pretrained(tmp_path)
    saved = safetensors.torch.load_file(tmp_path / "model.safetensors")
    build_classifier("vit", LABELS, pooling=pooling, **SIZE, seed=1).load_state_dict(saved, strict=True)
    loaded = RadiographViTForImageClassification.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


def test_a_vit_checkpoint_keeps_its_encoder_and_gets_a_new_head(tmp_path, images):
    saved = build_classifier("vit", Labels(("x",), "single_label_classification", ("p", "q")), **SIZE)
    saved.save_pretrained(tmp_path)
    model = build_classifier("vit", LABELS, checkpoint=tmp_path, num_channels=1).eval()
    encoder = ViTModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    features = [m(images, interpolate_pos_encoding=True).last_hidden_state for m in (model.vit, encoder)]
    assert torch.allclose(*features, atol=1e-5) and model(images).logits.shape == (2, 3)


def test_a_resnet_takes_any_size_and_goes_on_from_a_checkpoint(tmp_path, images):
    model = build_classifier("resnet50", LABELS, num_channels=1).eval()
    assert tuple(model.config.depths) == (3, 4, 6, 3) and model(images).logits.shape == (2, 3)
    model.save_pretrained(tmp_path)
    other = Labels(("x",), "single_label_classification", ("p", "q"))
    again = build_classifier("resnet50", other, checkpoint=tmp_path, num_channels=1).eval()
    assert isinstance(again, ResNetForImageClassification) and again(images).logits.shape == (2, 2)
    assert torch.allclose(again.resnet(images).pooler_output, model.resnet(images).pooler_output, atol=1e-5)


def test_each_parameter_is_in_one_group_and_a_layers_rate_is_a_share_of_the_nexts():
    model = build_classifier("vit", LABELS, **SIZE)
    groups = parameter_groups(model, 1.0, 0.05, layer_decay=0.5)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    expected = {"classifier.weight": 1, "vit.layernorm.bias": 1, "vit.layers.3.mlp.fc1.bias": 0.5}
    expected |= {"vit.layers.0.mlp.fc1.bias": 0.5**4, "vit.embeddings.cls_token": 0.5**5}
    assert {name: rates[id(p)] for name, p in model.named_parameters() if name in expected} == expected
    assert groups[0]["lr"] == 1  # the one that Trainer logs


def test_only_matrices_decay():
    model = build_classifier("vit", LABELS, **SIZE)
    names = {id(p): name for name, p in model.named_parameters()}
    decay = {names[id(p)] for g in parameter_groups(model, 1.0, 0.05) if g["weight_decay"] for p in g["params"]}
    assert decay == {n for n in names.values() if n.endswith("weight") and "norm" not in n}


def test_layer_decay_of_a_resnet_is_refused():
    with pytest.raises(ValueError, match=r"layer_decay=0\.5 is for vision transformers"):
        parameter_groups(build_classifier("resnet50", LABELS), 1.0, 0.05, layer_decay=0.5)


@pytest.mark.parametrize("kind", ["vit", "resnet50"])
def test_a_folded_regression_gives_the_numbers_themselves(kind, images):
    model = build_classifier(kind, Labels(("age",), "regression", ("age",), mean=50.0, std=20.0), **SIZE).eval()
    before = model(images).logits
    fold_scale(model)
    assert torch.allclose(model(images).logits, before * 20 + 50, atol=1e-4) and model.config.label_scale == [0.0, 1.0]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("densenet", {}, "expected one of vit, resnet50, mae"),
        ("vit", {"pooling": "median"}, "cls, mean, max, std, grid, flat"),
        ("mae", {}, "say which"),
        ("vit", {"preset": "huge"}, "unknown preset"),
    ],
)
def test_what_does_not_exist_is_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        build_classifier(kind, LABELS, **options)
