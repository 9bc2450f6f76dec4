"""Leaving patches out: the loss and gradients of a plain loop over images, few graphs, little memory, no NaN."""

import subprocess
import sys

import pytest
import torch
from test_mae import P, small_config

from hf_radmae.models.mae import RadMAEForPreTraining, reconstruction_loss
from hf_radmae.models.masking import count_predicted, token_counts
from hf_radmae.models.positions import table_on_grid


def plain_loss(model, images, noise, patch_mask, num_tokens):
    """One image after the other, one patch after the other, from the weights: mean squared error of predicted patches.

    The informative patches by their noise: a quarter (say) is seen, and flat ones after them, until the encoder has
    what it has of every image; the next are predicted, flat ones again if there are too few, which do not count.
    """
    config, errors = model.config, []
    ratio = config.prediction_ratio if model.training else 1.0
    visible, predicted = token_counts(num_tokens or noise.shape[1], config.mask_ratio, ratio if num_tokens else 1.0)
    for image, row, informative in zip(images, noise.tolist(), patch_mask.tolist(), strict=True):
        rows, columns = image.shape[1] // P, image.shape[2] // P
        ranked = sorted(range(len(row)), key=row.__getitem__)
        good, flat = [p for p in ranked if informative[p]], [p for p in ranked if not informative[p]]
        share = int(len(good) * (1 - config.mask_ratio))
        share = min(visible, max(share, 1) if len(good) > 1 else share)
        seen = good[:share] + flat[: visible - share]
        chosen = (good[share:] + flat[visible - share :])[:predicted]

        def pixels(patch, image=image, columns=columns):
            top, left = patch // columns * P, patch % columns * P
            return image[:, top : top + P, left : left + P]

        embeddings, decoder = model.vit.embeddings, model.decoder
        table = table_on_grid(embeddings.position_embeddings, (rows, columns))[0]
        project = embeddings.patch_embeddings.projection
        tokens = [embeddings.cls_token[0, 0] + table[0]]
        tokens += [project(pixels(patch)[None])[0, :, 0, 0] + table[1 + patch] for patch in seen]
        hidden = torch.stack(tokens)[None]
        for layer in model.vit.layers:
            hidden = layer(hidden)
        hidden = decoder.decoder_embed(model.vit.layernorm(hidden))[0]
        table = table_on_grid(decoder.decoder_pos_embed, (rows, columns))[0]
        tokens = [hidden[0] + table[0]]
        tokens += [state + table[1 + patch] for state, patch in zip(hidden[1:], seen, strict=True)]
        tokens += [decoder.mask_token[0, 0] + table[1 + patch] for patch in chosen]
        hidden = torch.stack(tokens)[None]
        for layer in decoder.decoder_layers:
            hidden = layer(hidden)
        guesses = decoder.decoder_pred(decoder.decoder_norm(hidden))[0, 1 + len(seen) :]
        for guess, patch in zip(guesses, chosen, strict=True):
            if informative[patch]:
                target = pixels(patch).permute(1, 2, 0).flatten()
                if config.norm_pix_loss:
                    target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
                errors.append((guess - target).square().mean())
    return sum(errors) / len(errors), len(errors)


@pytest.mark.parametrize("seed", range(12))
def test_the_loss_and_its_gradients_equal_a_plain_loop_over_images_and_patches(seed):
    draw = torch.Generator().manual_seed(seed)

    def number(low, high):
        return int(torch.randint(low, high + 1, (), generator=draw))

    rows, columns, channels = number(1, 6), number(2, 6), 1 + 2 * number(0, 1)
    mask_ratio, prediction_ratio = (0.3, 0.75, 0.9)[number(0, 2)], (0.25, 0.5, 1.0)[number(0, 2)]
    config = small_config(mask_ratio=mask_ratio, norm_pix_loss=bool(number(0, 1)), num_channels=channels)
    config.prediction_ratio = prediction_ratio
    torch.manual_seed(seed)
    model = RadMAEForPreTraining(config).double().train(bool(number(0, 1)))
    images = torch.rand(3, channels, rows * P, columns * P, dtype=torch.float64, generator=draw)
    noise = torch.rand(3, rows * columns, generator=draw)
    patch_mask = torch.rand(3, rows * columns, generator=draw) < torch.tensor([[0.9], [0.5], [0.3]])
    patch_mask[0, :2] = True
    num_tokens = None if seed % 4 == 0 else number((rows * columns + 1) // 2, rows * columns)

    output = model(images, noise=noise, patch_mask=patch_mask, num_tokens=num_tokens)
    expected, count = plain_loss(model, images, noise, patch_mask, num_tokens)
    torch.testing.assert_close(output.loss, expected)
    ratio = prediction_ratio if model.training and num_tokens else 1.0
    assert count_predicted(patch_mask, mask_ratio, num_tokens, ratio) == count
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    found = torch.autograd.grad(output.loss, weights)
    plain = torch.autograd.grad(expected, weights, allow_unused=True, materialize_grads=True)
    for ours, theirs in zip(found, plain, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_batch_scores_as_its_images_do_one_by_one():
    torch.manual_seed(0)
    model = RadMAEForPreTraining(small_config()).double().eval()
    images, noise = torch.rand(4, 1, 3 * P, 5 * P, dtype=torch.float64), torch.rand(4, 15)
    patch_mask = torch.rand(4, 15) < torch.linspace(0.2, 1, 4)[:, None]
    options = {"num_tokens": 9, "num_items_in_batch": 10}
    whole = model(images, noise=noise, patch_mask=patch_mask, **options).loss
    parts = [model(images[[i]], noise=noise[[i]], patch_mask=patch_mask[[i]], **options).loss for i in range(4)]
    torch.testing.assert_close(whole, sum(parts))


def test_what_is_left_out_does_not_matter():
    torch.manual_seed(0)
    model = RadMAEForPreTraining(small_config()).eval()
    images, noise = torch.rand(2, 1, 4 * P, 4 * P), torch.rand(2, 16)
    patch_mask = noise < 2
    patch_mask[:, 8:] = False
    first = model(images, noise=noise, patch_mask=patch_mask, num_tokens=8)
    images[:, :, 2 * P :] = 0.3
    second = model(images, noise=noise, patch_mask=patch_mask, num_tokens=8)
    assert torch.equal(first.loss, second.loss) and torch.equal(first.logits, second.logits)
    assert first.mask[:, 8:].sum() == 0 and first.logits.shape[1] == 6


def test_a_share_of_the_masked_patches_is_predicted_in_training_and_all_in_evaluation():
    config = small_config()
    config.prediction_ratio = 0.5
    model, images = RadMAEForPreTraining(config), torch.rand(2, 1, 4 * P, 4 * P)
    assert model.train()(images, num_tokens=16).mask.sum(1).tolist() == [6, 6]
    assert model.eval()(images, num_tokens=16).mask.sum(1).tolist() == [12, 12]
    assert model.train()(images).mask.sum(1).tolist() == [12, 12]  # pictures need every patch


def test_the_share_that_is_predicted_is_kept_in_the_checkpoint(tmp_path):
    config = small_config()
    config.prediction_ratio = 0.25
    RadMAEForPreTraining(config).save_pretrained(tmp_path)
    assert RadMAEForPreTraining.from_pretrained(tmp_path).config.prediction_ratio == 0.25


@pytest.mark.parametrize("case", ["none informative", "three informative", "one patch", "nothing masked", "all masked"])
def test_images_with_hardly_anything_to_predict_give_finite_losses_and_gradients(case):
    config = small_config(mask_ratio={"nothing masked": 0.0, "all masked": 1.0}.get(case, 0.75))
    model = RadMAEForPreTraining(config).train()
    grid = (1, 1) if case == "one patch" else (4, 4)
    images, patch_mask = torch.rand(2, 1, grid[0] * P, grid[1] * P), torch.ones(2, grid[0] * grid[1], dtype=torch.bool)
    if "informative" in case:
        patch_mask[1, 3 if "three" in case else 0 :] = False
    if case == "none informative":
        patch_mask[:] = False
    for num_tokens in (None, 1, grid[0] * grid[1]):
        model.zero_grad()
        loss = model(images, patch_mask=patch_mask, num_tokens=num_tokens).loss
        loss.backward()
        nothing = case in ("none informative", "nothing masked")
        assert loss == 0 if nothing else loss.isfinite() and loss > 0
        for weight in model.parameters():
            assert weight.grad is None or (weight.grad.isfinite().all() and not (nothing and weight.grad.any()))


def test_what_is_in_patches_without_information_does_not_count_as_target():
    logits, target = torch.rand(2, 6, 4), torch.rand(2, 6, 4)
    counts = (torch.rand(2, 6) < 0.5).float()
    counts[0, 0] = 1
    other = torch.where(counts.bool()[..., None], target, torch.rand(2, 6, 4))
    assert torch.equal(reconstruction_loss(logits, target, counts), reconstruction_loss(logits, other, counts))


def test_more_tokens_than_patches_are_refused():
    with pytest.raises(ValueError, match="num_tokens=17 exceeds the 4 x 4 patches"):
        RadMAEForPreTraining(small_config())(torch.rand(1, 1, 4 * P, 4 * P), num_tokens=17)


GRIDS = [(4, 4), (2, 8), (8, 2), (3, 5), (7, 7), (5, 12), (12, 5), (6, 6), (9, 4), (4, 9), (10, 11), (13, 3)]


def test_twelve_bins_compile_to_at_most_four_graphs_without_falling_back():
    torch._dynamo.reset()
    config = small_config(num_hidden_layers=1, decoder_num_hidden_layers=1)
    config.prediction_ratio = 0.5
    model, graphs = RadMAEForPreTraining(config).train(), []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=count)
    for turn in range(2):
        for rows, columns in GRIDS:
            images, noise = torch.rand(2 + turn, 1, rows * P, columns * P), torch.rand(2 + turn, rows * columns)
            inputs = {"noise": noise, "patch_mask": noise < 0.8, "num_items_in_batch": torch.tensor(20.0)}
            inputs["num_tokens"] = rows * columns * (3 + turn) // 5
            before = len(graphs)
            torch.testing.assert_close(compiled(images, **inputs).loss, model(images, **inputs).loss)
            assert turn == 0 or len(graphs) == before
    assert len(graphs) <= 4


MEMORY = """
import resource, torch
from hf_radmae.images.background import patch_mask
from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
from hf_radmae.images.fitting import fit_image
torch.manual_seed(0)
config = preset_config("base", patch_size=48, image_size=3072)
config.prediction_ratio = 0.5
model = RadMAEForPreTraining(config).train()
depth = torch.randint(0, 65536, (2, 1, 96, 96)).float()
images = torch.stack([fit_image(image, (3072, 3072)) for image in depth])
mask = torch.stack([torch.from_numpy(patch_mask(image[0], (64, 64))).flatten() for image in images])
output = model(images, patch_mask=mask, num_tokens=4096)
output.loss.backward()
assert output.loss.isfinite()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_a_batch_of_the_largest_images_fits_into_eight_gigabytes():
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 8 * 2**30
