"""ViTMAE's embeddings and decoder with position tables that are right on every grid, from the first step on.

The stock classes leave the tables of a new model at zero, and interpolate the decoder's over the flattened grid, as if
an image were one row. Here tables are two-dimensional sin-cos, stored for a square base grid as in the published
checkpoints, and interpolated over both axes for any other.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import initialization as init
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEDecoder, ViTMAEDecoderOutput, ViTMAEEmbeddings

from hf_radmae.models.masking import order_patches, patch_grid, patches_at, token_counts


def sincos_table(side: int, dim: int) -> Tensor:
    """The fixed position table of a square grid, a row of zeros for the CLS token first.

    The layout is that of the published weights, the width's half before the height's: [sin x, cos x, sin y, cos y].

    Args:
        side: rows, and columns, of the grid.
        dim: width of a token, a multiple of 4.

    Returns:
        float32 (1, 1 + side * side, dim), patches row by row.
    """
    if dim % 4:
        raise ValueError(f"a sin-cos table of two dimensions needs a token width that is a multiple of 4, not {dim}")
    frequencies = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = torch.arange(side, dtype=torch.float64).outer(frequencies)
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    table = torch.cat([axis.repeat(side, 1), axis.repeat_interleave(side, dim=0)], dim=1)
    return F.pad(table, (0, 0, 1, 0))[None].float()


def table_on_grid(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """A position table of a square grid on another one, by bicubic interpolation over both axes, as ViT does it.

    Args:
        table: (1, 1 + side * side, dim), the CLS token first.
        grid: rows and columns wanted.

    Returns:
        (1, 1 + rows * columns, dim): the table itself where the grid is its own.
    """
    side = int((table.shape[1] - 1) ** 0.5)
    if grid == (side, side):
        return table
    square = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


class RadMAEEmbeddings(ViTMAEEmbeddings):
    """ViTMAE's embeddings on any grid, with a choice of patches from outside, and an initialisation that is reached."""

    patch_size: int  # upstream allows a pair, the model does not

    def initialize_weights(self) -> None:
        """Fill what no checkpoint filled. The stock method fills nothing: it returns once the kernel is initialised."""
        side = int(self.patch_embeddings.num_patches**0.5)
        init.copy_(self.position_embeddings, sincos_table(side, self.position_embeddings.shape[-1]))
        kernel = self.patch_embeddings.projection.weight
        if not getattr(kernel, "_is_hf_initialized", False):  # a view of a loaded tensor does not carry its mark
            init.xavier_uniform_(kernel.view(kernel.shape[0], -1))
        init.normal_(self.cls_token, std=self.config.initializer_range)

    def forward(  # type: ignore[override]  # upstream annotates a lone tensor and returns these three
        self,
        pixel_values: Tensor,
        noise: Tensor | None = None,
        interpolate_pos_encoding: bool | tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Embed the patches and keep some.

        `ViTMAEModel` hands on these three arguments alone, so that what training has of an image comes in them too.

        Args:
            pixel_values: float (batch, channels, height, width). Or patches that were cut out already, (batch, kept,
                channels, patch_size, patch_size).
            noise: float (batch, patches): the smallest are kept, as in the stock class. Or int64 (batch, kept): keep
                these patches in this order; patches that were cut out are those.
            interpolate_pos_encoding: of patches that were cut out, rows and columns of the whole image's; else not
                needed.

        Returns:
            Tokens (batch, 1 + kept, width), and mask and ids_restore as the stock class gives them, for float noise.
        """
        mask = ids_restore = None
        if pixel_values.ndim == 5 and noise is not None and isinstance(interpolate_pos_encoding, tuple):
            grid, patches = interpolate_pos_encoding, pixel_values
        else:
            grid = patch_grid(pixel_values, self.patch_size)
            if noise is None:
                noise = torch.rand(len(pixel_values), grid[0] * grid[1], device=pixel_values.device)
            if noise.is_floating_point():
                visible, _ = token_counts(noise.shape[1], self.config.mask_ratio)
                order = order_patches(noise, None, visible, self.config.mask_ratio)
                ids_restore = order.argsort(dim=1)
                mask, noise = (ids_restore >= visible).float(), order[:, :visible]
            patches = patches_at(pixel_values, self.patch_size, noise)
        table = table_on_grid(self.position_embeddings, grid)[0]
        kernel = self.patch_embeddings.projection
        # The convolution of the kept patches alone; upstream's embeds all of them, and in older releases refuses
        # grids other than the base one.
        patches = patches.flatten(2).to(kernel.weight.dtype)
        tokens = F.linear(patches, kernel.weight.flatten(1), kernel.bias) + table[1:][noise]
        cls_token = (self.cls_token + table[:1]).expand(len(tokens), -1, -1)
        return torch.cat([cls_token, tokens], dim=1), mask, ids_restore


class RadMAEDecoder(ViTMAEDecoder):
    """ViTMAE's decoder, with position tables of two dimensions on any grid."""

    def initialize_weights(self, num_patches: int) -> None:
        """Fill what no checkpoint filled."""
        init.copy_(self.decoder_pos_embed, sincos_table(int(num_patches**0.5), self.decoder_pos_embed.shape[-1]))
        init.normal_(self.mask_token, std=self.config.initializer_range)

    def forward(  # type: ignore[override]  # only the model calls it, and it knows the grid
        self, hidden_states: Tensor, ids: Tensor, grid: tuple[int, int], skip: int = 0
    ) -> ViTMAEDecoderOutput:
        """Predict patches from the seen ones.

        Args:
            hidden_states: (batch, 1 + seen, width) of the encoder.
            ids: int64 (batch, seen + predicted): the places of the seen patches, then of those to predict.
            grid: rows and columns of patches of the whole image.
            skip: how many places to leave out of the prediction, from the first.

        Returns:
            logits (batch, seen + predicted - skip, patch_size ** 2 * channels), in the order of `ids`.
        """
        tokens = self.decoder_embed(hidden_states)
        masked = self.mask_token.expand(len(tokens), ids.shape[1] + 1 - tokens.shape[1], -1)
        table = table_on_grid(self.decoder_pos_embed, grid)[0]
        tokens = torch.cat([tokens, masked], dim=1) + table[F.pad(ids + 1, (1, 0))]
        for layer in self.decoder_layers:
            tokens = layer(tokens)
        return ViTMAEDecoderOutput(logits=self.decoder_pred(self.decoder_norm(tokens[:, 1 + skip :])))
