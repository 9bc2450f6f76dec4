"""The one ViT classifier: each pooling by its definition, and what its folders are to bare transformers."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import adaptive_avg_pool2d
from transformers import AutoModelForImageClassification, ViTForImageClassification

from hf_radmae.models.modeling_radiograph_vit import (
    POOLINGS,
    RadiographViTConfig,
    RadiographViTForImageClassification,
    pool_tokens,
    pooled_width,
)

CODE = "modeling_radiograph_vit.py"
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
SMALL |= {"image_size": 32, "patch_size": 8, "num_channels": 3}


def make(pooling: str, **options) -> RadiographViTForImageClassification:
    torch.manual_seed(0)
    return RadiographViTForImageClassification(RadiographViTConfig(**SMALL | options, pooling=pooling)).eval()


def by_definition(hidden: torch.Tensor, part: str, shape: tuple[int, int]) -> torch.Tensor:
    patches = hidden[:, 1:]
    if part in ("cls", "mean", "max", "std"):
        return {
            "cls": hidden[:, 0],
            "mean": patches.mean(1),
            "max": patches.max(1).values,
            "std": patches.std(1, unbiased=False),
        }[part]
    cells = {"grid": 3, "flat": 7}.get(part) or int(part.removeprefix("grid"))
    return adaptive_avg_pool2d(patches.unflatten(1, shape).permute(0, 3, 1, 2), cells).permute(0, 2, 3, 1).flatten(1)


@given(
    parts=st.lists(st.sampled_from([*POOLINGS, "grid1", "grid2", "grid5"]), min_size=1, max_size=6, unique=True),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_a_pooling_is_its_parts_side_by_side_on_any_grid(parts, shape):
    hidden = torch.randn(2, 1 + shape[0] * shape[1], 4, generator=torch.Generator().manual_seed(shape[0] + shape[1]))
    pooling = "+".join(parts)
    expected = torch.cat([by_definition(hidden, part, shape) for part in parts], dim=1)
    found = pool_tokens(hidden, pooling, shape)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.shape[1] == pooled_width(pooling, 4)


def test_cells_of_a_square_need_no_shape_and_others_do():
    hidden = torch.randn(1, 1 + 9, 4)
    torch.testing.assert_close(pool_tokens(hidden, "grid"), hidden[:, 1:].flatten(1))
    with pytest.raises(ValueError, match="8 patches are no grid of 2 x 2: give their shape"):
        pool_tokens(hidden[:, :9], "grid")


def test_equal_patches_have_a_finite_gradient():
    hidden = torch.ones(2, 5, 3, requires_grad=True)
    pool_tokens(hidden, "mean+max+std").sum().backward()
    assert hidden.grad is not None and hidden.grad.isfinite().all()


@pytest.mark.parametrize("pooling", ["", "median", "mean+", "mean+mean", "grid3+grid", "flat+grid7", "grid0", None])
def test_what_is_no_pooling_is_refused(pooling):
    with pytest.raises(ValueError, match=r"unknown pooling|twice"):
        make(pooling)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "std", "grid", "flat", "mean+max+std", "std+cls"])
def test_a_saved_folder_is_stock_for_cls_and_remote_code_for_all_else(pooling, tmp_path):
    model, images = make(pooling, num_labels=3), torch.rand(2, 3, 24, 40)
    model.save_pretrained(tmp_path / "mean" if pooling == "cls" else tmp_path)
    if pooling == "cls":  # over one with code
        make("mean").save_pretrained(tmp_path)
        model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    stock = pooling == "cls"
    assert config["model_type"] == ("vit" if stock else "radiograph_vit")
    assert ("auto_map" in config, (tmp_path / CODE).exists(), "pooling" in config) == (not stock,) * 3
    bare = AutoModelForImageClassification.from_pretrained(tmp_path, trust_remote_code=not stock).eval()
    ours, info = RadiographViTForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()) and ours.config.pooling == pooling
    with torch.no_grad():
        for loaded in (bare, ours.eval()):
            torch.testing.assert_close(loaded(images, interpolate_pos_encoding=True).logits, model(images).logits)
    bare.save_pretrained(tmp_path / "again")  # by a colleague, who fine-tuned it
    again = RadiographViTForImageClassification.from_pretrained(tmp_path / "again").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(images).logits, model(images).logits)


def test_with_cls_loss_and_logits_are_the_stock_classs():
    model, images, labels = make("cls", num_labels=3), torch.rand(2, 3, 32, 32), torch.tensor([0, 2])
    stock = ViTForImageClassification(RadiographViTConfig(**SMALL, num_labels=3)).eval()
    stock.load_state_dict(model.state_dict())
    ours, theirs = model(images, labels=labels), stock(images, labels=labels)
    torch.testing.assert_close((ours.loss, ours.logits), (theirs.loss, theirs.logits))
