"""A masked autoencoder that is right on every grid of patches, and stays a `vit_mae` checkpoint for bare transformers.

`RadMAEForPreTraining` is transformers' `ViTMAEForPreTraining` with the same weights under the same names. Beyond that,
position tables are right and frozen however the model came to be, images of any grid are taken, the loss leaves out
patches without information, and evaluation masks repeat. On the base square grid, with the same weights and mask, loss
and predictions equal the stock class.
"""

import logging
from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ViTMAEConfig, ViTMAEForPreTraining
from transformers import initialization as init
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEForPreTrainingOutput
from transformers.utils.generic import can_return_tuple

from hf_radmae.models.encoder import ENCODER_OPTIONS, fold_normalisation, grey_kernel
from hf_radmae.models.masking import (
    gather_tokens,
    keyed_noise,
    order_patches,
    patch_grid,
    patches_at,
    scaled,
    token_counts,
)
from hf_radmae.models.positions import RadMAEDecoder, RadMAEEmbeddings, sincos_table, table_on_grid
from hf_radmae.models.starts import (
    StartError,
    load_encoder,
    load_whole,
    photograph_normalisation,
    read_config,
    whole_mae,
)

logger = logging.getLogger(__name__)

# Width, layers and heads of the encoder, then of the decoder. base and large are those of He et al., "Masked
# Autoencoders Are Scalable Vision Learners", 2022, and of the published checkpoints.
PRESETS: dict[str, tuple[int, int, int, int, int, int]] = {
    "tiny": (128, 4, 4, 64, 2, 4),
    "small": (384, 12, 6, 256, 4, 8),
    "base": (768, 12, 12, 512, 8, 16),
    "large": (1024, 24, 16, 512, 8, 16),
}


def preset_config(name: str, **overrides: Any) -> ViTMAEConfig:
    """The configuration of a preset: one grey channel, normalised targets, three quarters of the patches masked.

    Args:
        name: a key of `PRESETS`.
        **overrides: any option of `ViTMAEConfig`, `image_size` (of the base grid) and `patch_size` among them.

    Raises:
        ValueError: the preset or an option is unknown.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    known = ViTMAEConfig().to_dict() | {"prediction_ratio": 1.0}
    if unknown := overrides.keys() - known.keys():
        raise ValueError(f"ViTMAEConfig has no option {', '.join(sorted(unknown))}; it has {', '.join(known)}")
    width, layers, heads, decoder_width, decoder_layers, decoder_heads = PRESETS[name]
    options: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "decoder_hidden_size": decoder_width,
        "decoder_intermediate_size": 4 * decoder_width,
        "decoder_num_hidden_layers": decoder_layers,
        "decoder_num_attention_heads": decoder_heads,
        "num_channels": 1,
        "norm_pix_loss": True,
        "mask_ratio": 0.75,
        "prediction_ratio": 1.0,
    }
    return ViTMAEConfig(**(options | overrides))


def reconstruction_loss(
    logits: Tensor, target: Tensor, predicted: Tensor, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    """Mean squared error of the predicted patches, 0 with a gradient of 0 where there are none.

    Args:
        logits, target: (batch, patches, values).
        predicted: float (batch, patches), 1 where a patch counts and 0 where it does not.
        num_items_in_batch: what the sum over patches is divided by; the number of those that count where None.
    """
    total = ((logits - target).square().mean(dim=-1) * predicted).sum()
    count = predicted.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=total.device)
    return total / count.clamp(min=1)


def _base_side(image_size: Any, patch_size: Any) -> int:
    """Rows, and columns, of patches of the base grid."""
    if not isinstance(image_size, int) or not isinstance(patch_size, int) or image_size % patch_size:
        raise ValueError(
            f"image_size={image_size} with patch_size={patch_size}: the base grid is square, so give one side in "
            "pixels that is a multiple of the patch's. Images of any other shape are taken all the same"
        )
    return image_size // patch_size


def _set_options(config: ViTMAEConfig, options: dict[str, Any]) -> None:
    """Put options on a configuration: transformers hands one that the checkpoint's lacks on to the model's class."""
    known = ViTMAEConfig().to_dict().keys() | {"prediction_ratio", "attn_implementation"}
    if unknown := options.keys() - known:
        raise ValueError(f"ViTMAEConfig has no option {', '.join(sorted(unknown))}")
    for name, value in options.items():
        setattr(config, "_attn_implementation" if name == "attn_implementation" else name, value)


class RadMAEForPreTraining(ViTMAEForPreTraining):
    """Masked autoencoder for radiographs of any size whose sides are multiples of the patch.

    `config.image_size` is the side in pixels of the base grid, for which the position tables are stored. They are
    interpolated for every other grid, and never trained. `config.prediction_ratio` is the share of the masked patches
    that is predicted in training, where `num_tokens` is given; evaluation predicts all of them.
    """

    accepts_loss_kwargs = True  # Trainer then hands on `num_items_in_batch`

    def __init__(self, config: ViTMAEConfig):
        side = _base_side(config.image_size, config.patch_size)
        if not hasattr(config, "prediction_ratio"):
            config.prediction_ratio = 1.0  # a stock configuration has no such option
        super().__init__(config)
        self.vit.embeddings = RadMAEEmbeddings(config)
        self.decoder = RadMAEDecoder(config, num_patches=side**2)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, RadMAEDecoder):  # the stock method fills its table and mask token with zeros
            module.initialize_weights(module.decoder_pos_embed.shape[1] - 1)
        elif isinstance(module, nn.Linear):
            # The decoder's, as the original code of He et al. does; with transformers' normal(0.02) a narrow decoder
            # takes many epochs to wake up. ViTMAEModel has initialised the encoder's by then, by that very rule; with
            # Xavier there too, a tiny network learned no faster.
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # upstream's further arguments go by name
        cls,
        name_or_path: str | PathLike[str],
        *,
        config: ViTMAEConfig | None = None,
        image_size: int | None = None,
        num_channels: int | None = None,
        output_loading_info: bool = False,
        **options: Any,
    ) -> Any:
        """Load any start in float32 and then fit it to other images.

        A `vit_mae` checkpoint of this class or the stock one is loaded whole. Of an encoder (`vit`, `deit`, a
        classifier of this package, or a `vit_mae` saved without its decoder) the decoder is initialised anew, in the
        size that `ViTMAEConfig` gives it unless `options` say otherwise, and a warning says so.

        Where the start's processor normalises pixels, its mean and deviation are folded into the first layer, and into
        the last where that predicts pixels: the model takes pixels in 0..1, and computes what it was trained to.

        Args:
            name_or_path: a folder or a Hub id, see `hf_radmae.models.starts`. Where the folder of a run holds an
                encoder, its masked autoencoder is taken from the sub-folder `mae`.
            config: of a `vit_mae`, in place of the checkpoint's; with another `image_size` the tables are exact.
            image_size: see `resize`; the checkpoint's own where None.
            num_channels: see `convert_channels`; the checkpoint's own where None.
            output_loading_info: return the loading info of transformers too.
            **options: of the configuration, such as `mask_ratio`, in place of the checkpoint's; and `dtype`.
                `ignore_mismatched_sizes` changes nothing: tables alone may be of another size, by `config`.

        Raises:
            StartError: the checkpoint is of another type, or its encoder is not whole; with what is missing.
        """
        options.pop("ignore_mismatched_sizes", None)
        where = whole_mae(name_or_path)
        found, dtype = read_config(name_or_path, **where), options.pop("dtype", torch.float32)
        info: dict[str, Any] = {"missing_keys": set()}
        is_mae = isinstance(found, ViTMAEConfig)
        tables = () if config is None else ("position_embeddings", "decoder_pos_embed")
        if config is None:
            shared: dict[str, Any] = {name: getattr(found, name) for name in ENCODER_OPTIONS}
            config = found if isinstance(found, ViTMAEConfig) else ViTMAEConfig(**shared | {"learned_positions": True})
        _set_options(config, options)
        if is_mae:
            model, info = load_whole(cls, name_or_path, tables, config=config, dtype=dtype, **where)
            if missing := sorted(key for key in info["missing_keys"] if not key.startswith("decoder.")):
                raise StartError(f"{name_or_path} has no whole encoder: missing are {', '.join(missing[:8])}")
            new, decoder = sorted(info["missing_keys"]), [f"decoder.{name}" for name in model.decoder.state_dict()]
            if new and {*new} != {*decoder}:
                raise StartError(f"{name_or_path} has a part of a decoder: missing are {', '.join(new[:8])}")
            if not where and (normalisation := photograph_normalisation(name_or_path)):
                model._fold(*normalisation)
        else:
            model = cls(config)
            model.vit.load_state_dict(load_encoder(name_or_path).state_dict())
            model = model.to(dtype).eval()
        if not is_mae or info["missing_keys"]:
            logger.warning("%s has no decoder of a masked autoencoder: it is initialised anew", name_or_path)
        model.vit.embeddings.position_embeddings.requires_grad_(False)  # loading makes every tensor trainable
        model.decoder.decoder_pos_embed.requires_grad_(False)
        if image_size is not None:
            model.resize(image_size)
        if num_channels is not None:
            model.convert_channels(num_channels)
        return (model, info) if output_loading_info else model

    def save_pretrained(  # type: ignore[override]  # the stock method's further arguments go by name
        self, save_directory: str | PathLike[str], is_main_process: bool = True, **kwargs: Any
    ) -> None:
        """Save as transformers does, but under the model's own tensor names and the stock class's name.

        By default transformers gives tensors the names of its version 4. Trainer, when it resumes or loads the best
        model, does not translate them back, and skips every layer with a warning. `from_pretrained` reads both.
        """
        super().save_pretrained(save_directory, is_main_process, **{"save_original_format": False} | kwargs)
        self.config.architectures = [ViTMAEForPreTraining.__name__]
        if is_main_process:
            self.config.save_pretrained(save_directory)

    @torch.no_grad()
    def _fold(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take pixels in 0..1 in place of (pixels - mean) / std, and predict them unless targets are normalised."""
        fold_normalisation(self.vit.embeddings.patch_embeddings.projection, mean, std)
        if not self.config.norm_pix_loss:
            head, channels = self.decoder.decoder_pred, self.config.num_channels  # channels are the innermost
            means, stds = (
                torch.tensor(values).expand(channels).to(head.weight).repeat(head.out_features // channels)
                for values in (mean, std)
            )
            head.weight *= stds[:, None]
            head.bias.mul_(stds).add_(means)

    def resize(self, image_size: int) -> None:
        """Make a square of `image_size` pixels the base grid; every weight but the position tables stays.

        The tables are the exact sin-cos ones of the new grid; one that a `vit` or `deit` has learned is interpolated.

        Raises:
            ValueError: `image_size` is not a multiple of the patch size.
        """
        if image_size == self.config.image_size:
            return
        side = _base_side(image_size, self.config.patch_size)
        embeddings, decoder = self.vit.embeddings, self.decoder
        for module, name in ((embeddings, "position_embeddings"), (decoder, "decoder_pos_embed")):
            table = getattr(module, name).detach()
            learned = module is embeddings and getattr(self.config, "learned_positions", False)
            new = table_on_grid(table, (side, side)) if learned else sincos_table(side, table.shape[-1]).to(table)
            setattr(module, name, nn.Parameter(new, requires_grad=False))
        embeddings.image_size = embeddings.patch_embeddings.image_size = (image_size, image_size)
        embeddings.patch_embeddings.num_patches = side**2
        self.config.image_size = decoder.config.image_size = image_size

    @torch.no_grad()
    def convert_channels(self, num_channels: int) -> None:
        """Take images of `num_channels` channels, in such a way that nothing changes for grey ones.

        The patch kernel is summed over its channels and spread evenly over the new ones, which leaves the encoder's
        output for a grey image as it was; each new channel is predicted as the mean of the old ones.
        """
        old, embeddings, decoder = self.config.num_channels, self.vit.embeddings.patch_embeddings, self.decoder
        if num_channels == old:
            return
        projection, head = embeddings.projection, decoder.decoder_pred
        projection.weight = nn.Parameter(grey_kernel(projection.weight, num_channels))
        for name in ("weight", "bias"):
            grey = getattr(head, name).unflatten(0, (-1, old)).mean(dim=1)  # channels are the innermost of a patch
            setattr(head, name, nn.Parameter(grey.repeat_interleave(num_channels, dim=0)))
        projection.in_channels, head.out_features = num_channels, len(head.bias)
        embeddings.num_channels = self.config.num_channels = decoder.config.num_channels = num_channels

    def grid(self, pixel_values: Tensor) -> tuple[int, int]:
        """Rows and columns of patches of images (batch, channels, height, width)."""
        return patch_grid(pixel_values, self.config.patch_size)  # type: ignore[arg-type]  # one number, see __init__

    def patchify(self, pixel_values: Tensor, interpolate_pos_encoding: bool = True) -> Tensor:
        """Cut images of any grid into patches (batch, patches, patch_size ** 2 * channels), channels innermost."""
        return super().patchify(pixel_values, interpolate_pos_encoding=True)

    def encode(self, pixel_values: Tensor, patch_mask: Tensor | None = None) -> Tensor:
        """Features of whole images: nothing is masked and the patches stay in order.

        Args:
            pixel_values: float (batch, channels, height, width), grey values 0..1.
            patch_mask: bool (batch, patches). Patches that are False are not attended to, and their features are 0.

        Returns:
            (batch, 1 + patches, hidden_size), the CLS token first.
        """
        rows, columns = self.grid(pixel_values)
        everything = torch.arange(rows * columns, device=pixel_values.device).expand(len(pixel_values), -1)
        attended = None if patch_mask is None else F.pad(patch_mask, (1, 0), value=True)
        features = self.vit(pixel_values, noise=everything, attention_mask=attended).last_hidden_state
        return features if attended is None else features * attended.unsqueeze(-1)

    @can_return_tuple
    def forward(  # type: ignore[override]  # attention_mask is passed on among kwargs
        self,
        pixel_values: Tensor | None = None,
        noise: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,  # taken for callers of the stock class; any grid works without
        patch_mask: Tensor | None = None,
        num_tokens: int | None = None,
        num_items_in_batch: Tensor | int | None = None,
        *,
        patches: Tensor | None = None,
        places: Tensor | None = None,
        grid: tuple[int, int] | None = None,
        grey_range: Tensor | None = None,
        **kwargs: Any,
    ) -> ViTMAEForPreTrainingOutput:
        """Mask, encode, decode, and score the masked patches that carry information.

        Images come whole, or as the patches that are used, as `PatchCollator` cuts them out. The loss is the same.

        Args:
            pixel_values: float (batch, channels, height, width), grey values 0..1, sides multiples of the patch.
            noise: float (batch, patches); the smallest stay visible. Where None, it is drawn at random in training,
                and in evaluation it is the same for all images of a size, so that two evaluations agree.
            patch_mask: bool (batch, patches), True where a patch carries information; None where all do. The mask
                ratio is of these: see `order_patches`.
            num_tokens: how many patches of each image take part, informative ones first; the encoder sees the
                unmasked share of them, the decoder these and what it predicts. All where None, as in the stock class.
            num_items_in_batch: what the summed error is divided by, in place of this batch's `count_predicted`: the
                count over all processes and accumulation steps. A tensor, for a number recompiles a compiled model.
            patches: (batch, used, patch_size, patch_size) grey values of any depth in place of `pixel_values`, first
                those that are seen of `num_tokens`, then those to predict. `patch_mask` is then one of these.
            places: int64 (batch, used), the numbers of `patches` in the image, row by row.
            grid: rows and columns of patches of the image that `patches` are of.
            grey_range: float (batch, 2), the grey value of `patches` that becomes 0, and how many above it become 1.

        Returns:
            loss, mask (batch, patches; 1 where a patch is predicted), ids_restore (batch, patches), the place of each
            patch in the order of use, and logits: without `num_tokens` those of all patches, in place, as the stock
            class; with it (batch, predicted, patch_size ** 2 * channels) in the order of use behind the seen ones.
            The loss is 0, with a graph, where no predicted patch is informative. With `patches`, mask and ids_restore
            are None.

        Raises:
            ValueError: a side is not a multiple of the patch, `num_tokens` exceeds the number of patches, or `patches`
                come without what they need.
        """
        config, whole = self.config, num_tokens is None
        size: Any = config.patch_size  # one number, see __init__
        order = None
        if pixel_values is not None:
            grid = self.grid(pixel_values)
            order, visible, used = self._order(pixel_values, grid, noise, patch_mask, num_tokens)
            places = order[:, :used]
            patch_mask = None if patch_mask is None else patch_mask.gather(1, places)
            seen, target = (patches_at(pixel_values, size, own) for own in (places[:, :visible], places[:, visible:]))
        elif patches is None or places is None or grid is None or grey_range is None or num_tokens is None:
            raise ValueError("give pixel_values, or patches with places, grid, grey_range and num_tokens")
        else:
            visible, _ = token_counts(num_tokens, config.mask_ratio)
            grid = (grid[0], grid[1])  # a list where it was written down as JSON
            low, span = grey_range[:, :, None, None, None].unbind(1)
            seen, target = (
                scaled(part, low, span).unsqueeze(2).expand(-1, -1, config.num_channels, -1, -1)
                for part in (patches[:, :visible], patches[:, visible:])
            )
        encoded = self.vit(seen, noise=places[:, :visible], interpolate_pos_encoding=grid, **kwargs)
        logits = self.decoder(encoded.last_hidden_state, places, grid, 0 if whole else visible).logits
        target = target.permute(0, 1, 3, 4, 2).flatten(2)
        if config.norm_pix_loss:
            variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
            target = (target - mean) / (variance + 1e-6).sqrt()
        counts = torch.ones_like(places) if patch_mask is None else patch_mask
        guesses = logits[:, visible:] if whole else logits
        loss = reconstruction_loss(guesses, target, counts[:, visible:].to(logits.dtype), num_items_in_batch)
        mask = ids_restore = None
        if order is not None:
            ids_restore = order.argsort(dim=1)
            mask = ((ids_restore >= visible) & (ids_restore < places.shape[1])).float()
            if whole:
                logits = gather_tokens(logits, ids_restore)
        # Upstream types mask and ids_restore as LongTensor, of which mask is none there either.
        return ViTMAEForPreTrainingOutput(loss, logits, mask, ids_restore, encoded.hidden_states, encoded.attentions)  # type: ignore[arg-type]

    def _order(
        self,
        pixel_values: Tensor,
        grid: tuple[int, int],
        noise: Tensor | None,
        patch_mask: Tensor | None,
        num_tokens: int | None,
    ) -> tuple[Tensor, int, int]:
        """The order in which the patches of whole images are used, how many are seen, and how many are used in all."""
        config, batch, patches = self.config, len(pixel_values), grid[0] * grid[1]
        if num_tokens is not None and num_tokens > patches:
            raise ValueError(f"num_tokens={num_tokens} exceeds the {grid[0]} x {grid[1]} patches of an image")
        if noise is None and self.training:
            noise = torch.rand(batch, patches, device=pixel_values.device)
        elif noise is None:
            noise = keyed_noise(0, None, 0, patches).to(pixel_values.device).expand(batch, -1)
        ratio = config.prediction_ratio if self.training and num_tokens is not None else 1.0
        visible, predicted = token_counts(num_tokens or patches, config.mask_ratio, ratio)
        return order_patches(noise, patch_mask, visible, config.mask_ratio), visible, visible + predicted
