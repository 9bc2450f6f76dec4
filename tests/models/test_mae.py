"""The model: equal to the stock class where that is right; right tables, grids and losses where it is not."""

import pytest
import safetensors.torch
import torch
from transformers import (
    AutoModelForPreTraining,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTModel,
)
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEDecoder, ViTMAEEmbeddings

from hf_radmae.models.mae import PRESETS, RadMAEForPreTraining, preset_config, reconstruction_loss
from hf_radmae.models.masking import count_predicted
from hf_radmae.models.positions import sincos_table, table_on_grid

P = 8  # patch size; the base grid is 4 x 4


def small_config(**overrides) -> ViTMAEConfig:
    options = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 4 * P,
        "patch_size": P,
        "num_channels": 1,
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
        "norm_pix_loss": True,
    }
    return ViTMAEConfig(**options | overrides)


@pytest.fixture
def model() -> RadMAEForPreTraining:
    torch.manual_seed(0)
    return RadMAEForPreTraining(small_config()).eval()


def stock_checkpoint(folder, **overrides) -> ViTMAEForPreTraining:
    """A stock checkpoint in `folder` whose every tensor, the position tables too, is random and not a default."""
    torch.manual_seed(1)
    stock = ViTMAEForPreTraining(small_config(**overrides)).eval()
    with torch.no_grad():
        for tensor in stock.parameters():
            tensor.normal_(std=0.2)
    stock.save_pretrained(folder)
    return stock


def tables(model) -> tuple[torch.Tensor, torch.Tensor]:
    return model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed


def assert_tables(model, side: int) -> None:
    for table in tables(model):
        assert torch.equal(table, sincos_table(side, table.shape[-1])) and not table.requires_grad


# Equal to the stock class


@pytest.mark.parametrize("norm_pix_loss", [True, False])
@pytest.mark.parametrize("mask_ratio", [0.3, 0.75])
def test_loss_and_logits_on_the_base_grid_equal_the_stock_class(tmp_path, norm_pix_loss, mask_ratio):
    stock = stock_checkpoint(tmp_path, norm_pix_loss=norm_pix_loss, mask_ratio=mask_ratio)
    ours = RadMAEForPreTraining.from_pretrained(tmp_path)
    images, noise = torch.rand(3, 1, 4 * P, 4 * P), torch.rand(3, 16)
    expected = stock(images, noise=noise)
    for patch_mask in (None, torch.ones(3, 16, dtype=torch.bool)):
        output = ours(images, noise=noise, patch_mask=patch_mask)
        torch.testing.assert_close(output.logits, expected.logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(output.loss, expected.loss, atol=1e-5, rtol=0)
        assert torch.equal(output.mask, expected.mask) and torch.equal(output.ids_restore, expected.ids_restore)


def test_a_stock_call_with_positions_and_outputs_works(model):
    output = model(torch.rand(2, 1, 4 * P, 4 * P), torch.rand(2, 16), True, output_hidden_states=True)
    assert len(output.hidden_states) == 3
    as_tuple = model(torch.rand(2, 1, 4 * P, 4 * P), return_dict=False)
    assert isinstance(as_tuple, tuple) and as_tuple[0].ndim == 0


@pytest.mark.parametrize("rows, columns", [(4, 4), (2, 8), (8, 2), (3, 5), (7, 6), (1, 1)])
def test_encode_equals_vit_on_any_grid(model, tmp_path, rows, columns):
    model.save_pretrained(tmp_path)
    vit = ViTModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    images = torch.rand(2, 1, rows * P, columns * P)
    expected = vit(images, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(model.encode(images), expected, atol=1e-4, rtol=0)


def test_the_stock_model_inside_still_masks_at_random(model):
    output = model.vit(torch.rand(2, 1, 3 * P, 8 * P))
    assert output.last_hidden_state.shape == (2, 1 + 6, 32) and output.mask.sum() == 2 * 18


# Position tables


def test_the_table_is_that_of_the_published_weights():
    decoder = ViTMAEDecoder(small_config(decoder_hidden_size=24), num_patches=36)  # alone it is not zeroed afterwards
    torch.testing.assert_close(sincos_table(6, 24), decoder.decoder_pos_embed.data)


def test_the_width_comes_before_the_height_in_a_table():
    table = sincos_table(5, 16)[0, 1:].unflatten(0, (5, 5))
    assert (table[:, :, :8] == table[:1, :, :8]).all() and (table[:, :, 8:] == table[:, :1, 8:]).all()
    with pytest.raises(ValueError, match="18"):
        sincos_table(5, 18)


@pytest.mark.parametrize("rows, columns", [(3, 9), (4, 4), (8, 2), (11, 11)])
def test_a_table_on_another_grid_is_that_of_the_stock_encoder(rows, columns):
    embeddings = ViTMAEEmbeddings(small_config())
    embeddings.position_embeddings.data.normal_()
    tokens = torch.zeros(1, 1 + rows * columns, 32)
    expected = embeddings.interpolate_pos_encoding(tokens, rows * P, columns * P)
    torch.testing.assert_close(table_on_grid(embeddings.position_embeddings, (rows, columns)), expected)


def test_the_decoder_knows_rows_from_columns():
    """A decoder without layers predicts a masked patch from its table alone: the grid must show in two dimensions."""
    model = RadMAEForPreTraining(small_config(decoder_num_hidden_layers=0, mask_ratio=1.0)).eval()
    logits = model(torch.rand(1, 1, 2 * P, 6 * P)).logits
    table = table_on_grid(model.decoder.decoder_pos_embed, (2, 6))[:, 1:]
    expected = model.decoder.decoder_pred(model.decoder.decoder_norm(model.decoder.mask_token + table))
    torch.testing.assert_close(logits, expected)


def test_a_new_model_has_the_right_frozen_tables_and_drawn_tokens(model):
    assert_tables(model, side=4)
    assert model.vit.embeddings.cls_token.std() > 0.01 and model.decoder.mask_token.std() > 0.01


def test_a_model_can_be_built_without_memory():
    with torch.device("meta"):
        assert RadMAEForPreTraining(small_config()).device.type == "meta"


def test_a_loaded_model_keeps_the_tables_of_the_checkpoint_frozen(tmp_path):
    stock = stock_checkpoint(tmp_path)
    for ours, theirs in zip(tables(RadMAEForPreTraining.from_pretrained(tmp_path)), tables(stock), strict=True):
        assert torch.equal(ours, theirs) and not ours.requires_grad


@pytest.mark.parametrize("how", ["resize", "from_pretrained", "config"])
def test_another_base_grid_gets_exact_tables_and_keeps_every_other_weight(tmp_path, how):
    stock = stock_checkpoint(tmp_path)
    if how == "resize":
        model = RadMAEForPreTraining.from_pretrained(tmp_path)
        model.resize(7 * P)
    elif how == "from_pretrained":
        model = RadMAEForPreTraining.from_pretrained(tmp_path, image_size=7 * P)
    else:
        config = small_config(image_size=7 * P)
        model = RadMAEForPreTraining.from_pretrained(tmp_path, config=config, ignore_mismatched_sizes=True)
    assert_tables(model, side=7)
    kept, weights = model.state_dict(), stock.state_dict()
    assert all(torch.equal(kept[name], weights[name]) for name in weights if "pos" not in name)
    model.save_pretrained(tmp_path / "resized")
    again, info = ViTMAEForPreTraining.from_pretrained(tmp_path / "resized", output_loading_info=True)
    assert not any(info.values()) and again.config.image_size == 7 * P
    images, noise = torch.rand(1, 1, 7 * P, 7 * P), torch.rand(1, 49)
    torch.testing.assert_close(again(images, noise=noise).loss, model.eval()(images, noise=noise).loss)


@pytest.mark.parametrize("image_size", [20, (32, 64)])
def test_a_base_grid_that_is_no_square_of_patches_is_refused(model, image_size):
    with pytest.raises(ValueError, match="base grid is square"):
        RadMAEForPreTraining(small_config(image_size=image_size))
    with pytest.raises(ValueError, match="base grid is square"):
        model.resize(image_size)


# Channels


@pytest.mark.parametrize("old, new", [(3, 1), (1, 3)])
def test_grey_images_give_the_same_after_a_change_of_channels(tmp_path, old, new):
    stock_checkpoint(tmp_path, num_channels=old, norm_pix_loss=False)
    before = RadMAEForPreTraining.from_pretrained(tmp_path)
    after = RadMAEForPreTraining.from_pretrained(tmp_path, num_channels=new)
    grey, noise = torch.rand(2, 1, 3 * P, 5 * P), torch.rand(2, 15)
    pixels = {channels: grey.expand(-1, channels, -1, -1) for channels in (old, new)}
    torch.testing.assert_close(after.encode(pixels[new]), before.encode(pixels[old]), atol=1e-5, rtol=0)
    predicted = {
        channels: model.unpatchify(model(pixels[channels], noise=noise).logits, (3 * P, 5 * P)).mean(1)
        for channels, model in ((old, before), (new, after))
    }
    torch.testing.assert_close(predicted[new], predicted[old], atol=1e-5, rtol=0)
    after.save_pretrained(tmp_path / "converted")
    again, info = ViTMAEForPreTraining.from_pretrained(tmp_path / "converted", output_loading_info=True)
    assert not any(info.values()) and again.config.num_channels == new


def test_one_channel_to_three_and_back_changes_no_weight(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.convert_channels(3)
    model.convert_channels(1)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name])


# Checkpoints


def published_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the tensors of transformers 5 to those of the checkpoints on the Hub, written by version 4."""
    renamed = {
        "vit.layers.": "vit.encoder.layer.",
        "attention.o_proj": "attention.output.dense",
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    for new, old in renamed.items():
        state = {name.replace(new, old): tensor for name, tensor in state.items()}
    return state


@pytest.mark.parametrize("names", ["as saved", "of the model", "published"])
def test_a_stock_checkpoint_loads_with_nothing_missing(tmp_path, names):
    stock = stock_checkpoint(tmp_path)
    if names != "as saved":
        state = stock.state_dict() if names == "of the model" else published_names(stock.state_dict())
        safetensors.torch.save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model, info = RadMAEForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, stock.state_dict()[name])


def test_a_saved_model_loads_in_bare_transformers_with_nothing_missing_but_the_classifier(model, tmp_path):
    model.save_pretrained(tmp_path)
    mae, info = AutoModelForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert type(mae) is ViTMAEForPreTraining and mae.config.architectures == ["ViTMAEForPreTraining"]
    assert not any(info.values())
    vit, info = ViTModel.from_pretrained(tmp_path, add_pooling_layer=False, output_loading_info=True)
    assert not info["missing_keys"] and all(name.startswith("decoder.") for name in info["unexpected_keys"])
    _, info = ViTForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(tensor, model.state_dict()[f"vit.{name}"]) for name, tensor in vit.state_dict().items())


def test_a_saved_file_holds_the_names_of_the_model_as_trainer_needs_them_to_resume(model, tmp_path):
    model.save_pretrained(tmp_path)
    model.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))


# Loss


def test_losses_of_unequal_batches_add_up_when_divided_by_the_number_of_all_items(model):
    images, noise, patch_mask = torch.rand(4, 1, 3 * P, 4 * P), torch.rand(4, 12), torch.rand(4, 12) < 0.5
    whole = model(images, noise=noise, patch_mask=patch_mask).loss
    total = count_predicted(patch_mask, model.config.mask_ratio)
    for items in (total, int(total)):
        parts = [
            model(images[part], noise=noise[part], patch_mask=patch_mask[part], num_items_in_batch=items).loss
            for part in (slice(0, 1), slice(1, 4))
        ]
        torch.testing.assert_close(sum(parts), whole)


def test_what_is_in_patches_without_information_does_not_count_as_target():
    logits, target = torch.rand(2, 6, 4), torch.rand(2, 6, 4)
    predicted = (torch.rand(2, 6) < 0.5).float()
    predicted[0, 0] = 1
    other = torch.where(predicted.bool()[..., None], target, torch.rand(2, 6, 4))
    assert torch.equal(reconstruction_loss(logits, target, predicted), reconstruction_loss(logits, other, predicted))


def test_an_image_of_one_patch_is_predicted_from_nothing(model):
    output = model(torch.rand(1, 1, P, P))
    assert output.mask.tolist() == [[1.0]] and output.loss.isfinite()


def test_every_weight_but_the_tables_is_trained(model):
    """DistributedDataParallel with find_unused_parameters=False hangs or raises otherwise."""
    model.train()(torch.rand(2, 1, 2 * P, 3 * P)).loss.backward()
    untrained = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert untrained == {"vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"}


# What is learned and how it is asked


def test_shuffling_the_patches_changes_the_features(model):
    images = torch.rand(1, 1, 4 * P, 6 * P)
    order = torch.randperm(24)
    patches = model.patchify(images)
    shuffled = model.unpatchify(patches[:, order], (4 * P, 6 * P))
    difference = model.encode(shuffled)[:, 1:] - model.encode(images)[:, 1:][:, order]
    assert difference.abs().mean() > 0.01


@pytest.mark.parametrize("rows, columns", [(4, 4), (3, 7)])
def test_predictions_over_masked_patches_differ(model, rows, columns):
    output = model(torch.rand(1, 1, rows * P, columns * P))
    distances = torch.cdist(output.logits[output.mask.bool()], output.logits[output.mask.bool()])
    distances.fill_diagonal_(torch.inf)
    assert distances.min() > 1e-3


def test_evaluation_masks_repeat_and_training_masks_do_not(model):
    images = torch.rand(2, 1, 3 * P, 7 * P)
    first, second = model(images), model(images[:1])
    assert torch.equal(first.mask[0], first.mask[1]) and torch.equal(first.mask[:1], second.mask)
    model.train()
    assert len({tuple(model(images).mask[image].tolist()) for image in (0, 1) for _ in range(3)}) == 6


def test_features_with_a_patch_mask_are_those_of_the_informative_patches_alone(model):
    images, patch_mask = torch.rand(2, 1, 3 * P, 5 * P), torch.ones(2, 15, dtype=torch.bool)
    patch_mask[0, :5] = patch_mask[1].view(3, 5)[:, 2:] = False
    features = model.encode(images, patch_mask)
    images[0, :, :P] = 0.5
    images[1, :, :, 2 * P :] = 0
    torch.testing.assert_close(model.encode(images, patch_mask), features)
    assert (features[:, 1:][~patch_mask] == 0).all() and (features[:, 1:][patch_mask].abs().sum(-1) > 0).all()
    kept = patch_mask[0].nonzero().T
    alone = model.vit(images[:1], noise=kept).last_hidden_state[0, 1:]
    torch.testing.assert_close(features[0, 1:][patch_mask[0]], alone, atol=1e-5, rtol=1e-5)


def test_an_image_off_the_patch_grid_is_refused(model):
    for call in (model, model.encode):
        with pytest.raises(ValueError, match="30x32"):
            call(torch.rand(1, 1, 30, 32))


# Ways to run


def test_bfloat16_autocast_gives_nearly_the_same_loss(model):
    images = torch.rand(2, 1, 3 * P, 5 * P)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(images).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, model(images).loss, rtol=0.02, atol=0)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable:FutureWarning")
def test_gradient_checkpointing_changes_no_gradient(model):
    images, noise = torch.rand(2, 1, 3 * P, 5 * P), torch.rand(2, 15)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train().zero_grad()
        model(images, noise=noise).loss.backward()
        gradients.append([weight.grad.clone() for weight in model.parameters() if weight.requires_grad])
    assert all(torch.equal(first, second) for first, second in zip(*gradients, strict=True))


def test_attention_kernels_agree(model):
    images = torch.rand(2, 1, 3 * P, 5 * P)
    assert model.config._attn_implementation == "sdpa"
    fast = model(images).logits
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(images).logits, fast, atol=1e-5, rtol=1e-5)


# Presets


def test_the_preset_base_is_the_published_one():
    config = preset_config("base", num_channels=3, norm_pix_loss=False)
    assert config.to_dict() == ViTMAEConfig().to_dict() | {"prediction_ratio": 1.0}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_builds_for_one_grey_channel_with_the_overrides_given(name):
    with torch.device("meta"):
        model = RadMAEForPreTraining(preset_config(name, patch_size=32, decoder_num_hidden_layers=1))
    assert model(torch.rand(1, 1, 96, 64, device="meta"), noise=torch.rand(1, 6, device="meta")).logits.shape[1:] == (
        6,
        32 * 32,
    )
    assert model.config.norm_pix_loss and model.config.mask_ratio == 0.75 and len(model.decoder.decoder_layers) == 1


def test_an_unknown_preset_or_option_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"huge.*tiny, small, base, large"):
        preset_config("huge")
    with pytest.raises(ValueError, match=r"patchsize.*patch_size"):
        preset_config("tiny", patchsize=8)
