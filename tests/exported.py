"""A small masked autoencoder with weights that make its outputs tell images apart, and pictures with background.

And what a process begins with that has transformers and not this package.
"""

import numpy as np
import torch
from damaged import radiograph

from hf_radmae.models.mae import RadMAEForPreTraining, preset_config

PATCH, SIDE = 8, 64
LABELS = ["hand", "knee", "chest"]

# Runs a text with what follows, in a process that cannot import this package.
WITHOUT_PACKAGE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_radmae":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def small_mae(num_channels: int = 1) -> RadMAEForPreTraining:
    """Two layers of width 32, its base grid 8 by 8 patches of 8 pixels."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = preset_config("tiny", image_size=SIDE, patch_size=PATCH, num_channels=num_channels, **size)
    return RadMAEForPreTraining(config).eval()


def head(width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weight (3, width) and bias (3,) of a linear head whose logits are of the order of 1."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(len(LABELS), width)) / np.sqrt(width)
    return weight.astype(np.float32), rng.normal(size=len(LABELS)).astype(np.float32)


def limb(height: int = SIDE, width: int = SIDE, seed: int = 0) -> np.ndarray:
    """A picture of full range, uint8, with air on its left and right."""
    picture = radiograph(height, width, seed)
    air = width // 4
    picture[:, :air], picture[:, -air:] = 0, 0
    picture[height // 2, width // 2] = 255
    return picture


def pixels(*pictures: np.ndarray) -> torch.Tensor:
    """Grey images (batch, 1, height, width) in 0..1 of pictures of one shape."""
    return torch.from_numpy(np.stack(pictures)).float()[:, None] / 255
