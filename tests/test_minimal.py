"""The method in one file runs, learns, and computes the loss of the package with the package's weights."""

import runpy
from pathlib import Path

import pytest
import torch

from hf_radmae.models.mae import RadMAEForPreTraining, preset_config

SCRIPT = Path(__file__).parents[1] / "scripts" / "minimal.py"
NAMES = {"linear1": "mlp.fc1", "linear2": "mlp.fc2", "norm1": "layernorm_before", "norm2": "layernorm_after"}


@pytest.fixture(scope="module")
def minimal():
    return runpy.run_path(str(SCRIPT))


def blocks(transformer, ours: str, norm: str) -> dict:
    """The weights of a torch transformer under the names of a ViT's layers."""
    found = {}
    for index, layer in enumerate(transformer.layers):
        for name, tensor in layer.state_dict().items():
            part, kind = name.rsplit(".", 1)
            if part == "self_attn":  # in_proj: queries, keys and values in one
                for letter, rows in zip("qkv", tensor.chunk(3), strict=True):
                    found[f"{ours}.{index}.attention.{letter}_proj.{kind.removeprefix('in_proj_')}"] = rows
            elif part == "self_attn.out_proj":
                found[f"{ours}.{index}.attention.o_proj.{kind}"] = tensor
            else:
                found[f"{ours}.{index}.{NAMES[part]}.{kind}"] = tensor
    return found | {f"{norm}.{kind}": tensor for kind, tensor in transformer.norm.state_dict().items()}


@pytest.mark.parametrize("grid", [(8, 8), (4, 12), (13, 4)])
def test_it_computes_the_loss_of_the_package(minimal, grid):
    torch.manual_seed(0)
    plain = minimal["MAE"](width=96, layers=2, heads=3, narrow=48).eval()
    torch.nn.init.normal_(plain.cls)
    options = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 3}
    decoder = {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 1, "num_attention_heads": 3}
    options |= {f"decoder_{name}": value for name, value in decoder.items()}
    fast = RadMAEForPreTraining(preset_config("tiny", patch_size=8, image_size=64, **options)).eval()
    weights = blocks(plain.encoder, "vit.layers", "vit.layernorm")
    weights |= blocks(plain.decoder, "decoder.decoder_layers", "decoder.decoder_norm")
    for ours, theirs in (("decoder.decoder_embed", plain.narrow), ("decoder.decoder_pred", plain.predict)):
        weights |= {f"{ours}.{kind}": tensor for kind, tensor in theirs.state_dict().items()}
    weights |= {"vit.embeddings.cls_token": plain.cls[None, None], "decoder.mask_token": plain.mask[None, None]}
    projection = "vit.embeddings.patch_embeddings.projection"
    weights |= {f"{projection}.weight": plain.embed.weight.reshape(96, 1, 8, 8), f"{projection}.bias": plain.embed.bias}
    missing = fast.load_state_dict(weights, strict=False)
    assert set(missing.missing_keys) == {"vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"}
    assert not missing.unexpected_keys

    images = torch.rand(3, 1, 8 * grid[0], 8 * grid[1])
    noise = torch.rand(3, grid[0] * grid[1])
    with torch.no_grad():
        loss, _, mask = plain(images, noise)
        found = fast(images, noise=noise)
    assert torch.equal(mask, found.mask)
    assert loss.item() == pytest.approx(found.loss.item(), rel=1e-5)


def test_it_runs_and_is_short(minimal, tmp_path, capsys):
    scores = minimal["main"](count=48, epochs=3, output=str(tmp_path / "minimal.png"))
    losses = [float(line.rsplit(" ", 1)[1]) for line in capsys.readouterr().out.splitlines() if "loss" in line]
    assert losses[-1] < losses[0] and all(0 <= score <= 1 for score in scores.values())
    assert (tmp_path / "minimal.png").stat().st_size > 1000
    assert len(SCRIPT.read_text().splitlines()) <= 130
