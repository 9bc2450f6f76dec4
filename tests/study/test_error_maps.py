"""Reconstruction errors: every patch has one, whatever the masks' order, and a disturbed image has more of them."""

import numpy as np
import pytest
import torch

from hf_radmae.models.mae import RadMAEForPreTraining, preset_config
from hf_radmae.study.error_maps import SUMMARIES, error_figure, error_maps, error_scores


@pytest.fixture(scope="module")
def network() -> RadMAEForPreTraining:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "decoder_num_hidden_layers": 1}
    return RadMAEForPreTraining(preset_config("tiny", image_size=32, patch_size=8, norm_pix_loss=False, **sizes))


def batch(count: int, height: int = 40, width: int = 24, first: int = 0) -> dict[str, torch.Tensor]:
    pixels = torch.full((count, 1, height, width), 0.5)
    pixels[count // 2 :, :, 8:24, 8:16] = torch.rand(count - count // 2, 1, 16, 8) * 4  # unlike anything around it
    mask = torch.ones(count, height * width // 64, dtype=torch.bool)
    mask[:, 0] = False
    return {"pixel_values": pixels, "patch_mask": mask, "index": torch.arange(first, first + count)}


def test_every_informative_patch_has_an_error_and_the_network_stays_as_it_was(network):
    ratio = network.config.mask_ratio
    network.train()
    maps = error_maps(network, [batch(6), batch(2, 32, 48, first=6)])
    assert network.training and network.config.mask_ratio == ratio
    assert sorted(maps) == list(range(8)) and maps[0].shape == (5, 3) and maps[7].shape == (4, 6)
    for found in maps.values():
        assert np.isnan(found).ravel().tolist() == [True] + [False] * (found.size - 1)
    again = error_maps(network, [batch(6)])
    np.testing.assert_array_equal(maps[0], again[0])


def test_what_is_unlike_its_surroundings_scores_high(network):
    maps, labels = error_maps(network, [batch(40)]), np.repeat([0, 1], 20)
    rows = {row["summary"]: row for row in error_scores(maps, labels, np.arange(40))}
    assert tuple(rows) == SUMMARIES and rows["maximum"]["auroc"] == 1
    assert all(row["auroc_low"] <= row["auroc"] <= row["auroc_high"] for row in rows.values())
    labels[::2] = -1
    assert error_scores(maps, labels, np.arange(40))[2]["auroc"] == 1, "images without a label are left out"
    figure = error_figure(lambda row: np.zeros((40, 24)), maps, np.repeat([0, 1], 20))
    assert sum(bool(axis.get_title()) for axis in figure.axes) == 24
    shown = [axis.images[-1] for axis in figure.axes[12:24]]
    assert len({image.norm.vmax for image in shown}) == 1 and figure.axes[-1].get_ylabel(), "one scale, and its bar"
    with pytest.raises(ValueError, match="they hold 40 images of the first one and 0 of the second"):
        error_scores(maps, np.zeros(40, int), np.arange(40))
