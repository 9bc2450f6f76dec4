"""The MAE of the package lightly, put together as its documentation does it."""

from typing import Any

from lightly.models import utils
from lightly.models.modules import MaskedVisionTransformerDecoderTIMM, MaskedVisionTransformerTIMM
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class LightlyMAE(nn.Module):
    """Masked autoencoder for grey squares of `config.image_size` pixels, of the size that a `ViTMAEConfig` says."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.patch_size, self.mask_ratio = config.patch_size, config.mask_ratio
        vit = VisionTransformer(
            img_size=config.image_size,
            patch_size=config.patch_size,
            in_chans=1,
            num_classes=0,
            embed_dim=config.hidden_size,
            depth=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
        )
        self.encoder = MaskedVisionTransformerTIMM(vit)
        self.embed = nn.Linear(config.hidden_size, config.decoder_hidden_size)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            vit.patch_embed.num_patches,
            config.decoder_hidden_size,
            config.decoder_num_hidden_layers,
            config.decoder_num_attention_heads,
        )
        self.head = nn.Linear(config.decoder_hidden_size, config.patch_size**2)

    def forward(self, images: Tensor) -> Tensor:
        """The loss on images (batch, 1, image_size, image_size)."""
        size = (len(images), self.encoder.sequence_length)
        keep, masked = utils.random_token_mask(size, self.mask_ratio, device=images.device)
        encoded = self.embed(self.encoder.encode(images, idx_keep=keep))
        tokens = utils.repeat_token(self.decoder.mask_token, size)
        tokens = utils.set_at_index(tokens.type_as(encoded), keep, encoded)
        predicted = self.head(utils.get_at_index(self.decoder(tokens), masked))
        target = utils.get_at_index(utils.patchify(images, self.patch_size), masked - 1)
        return nn.functional.mse_loss(predicted, utils.normalize_mean_var(target))
