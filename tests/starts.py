"""Small checkpoints in the layouts in which transformers' models are published: names of files, tensors and keys."""

from pathlib import Path

import torch
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    DeiTModel,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTMAEModel,
    ViTModel,
)

ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
ENCODER |= {"image_size": 224, "patch_size": 16, "num_channels": 3}
DECODER = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
DECODER |= {"decoder_intermediate_size": 32}
# facebook/vit-mae-base and google/vit-base-patch16-224 as they are published: 8 bits, means of photographs.
PHOTOGRAPHS = """{"do_normalize": true, "do_resize": true, "feature_extractor_type": "ViTFeatureExtractor",
"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3, "size": 224}"""


def random(model: PreTrainedModel) -> PreTrainedModel:
    """The model with every tensor drawn, position tables too, as a training leaves them."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point() and not tensor.any():
                tensor.normal_(std=0.02)
    return model.eval()


def stock(kind: str, **options) -> PreTrainedModel:
    """A small stock model of a kind: mae, mae_encoder, vit, vit_classifier, deit, deit_classifier or resnet."""
    if kind == "resnet":
        sizes = {"embedding_size": 8, "hidden_sizes": [16, 16, 16, 16], "depths": [1, 1, 1, 1]}
        return random(ResNetForImageClassification(ResNetConfig(**sizes, layer_type="basic")))
    config, model = {
        "mae": (ViTMAEConfig, ViTMAEForPreTraining),
        "mae_encoder": (ViTMAEConfig, ViTMAEModel),
        "vit": (ViTConfig, ViTModel),
        "vit_classifier": (ViTConfig, ViTForImageClassification),
        "deit": (DeiTConfig, DeiTModel),
        "deit_classifier": (DeiTConfig, DeiTForImageClassificationWithTeacher),
    }[kind]
    return random(model(config(**ENCODER, **(DECODER if kind.startswith("mae") else {}), **options)))


def publish(model: PreTrainedModel, folder: Path, layout: str = "v4") -> Path:
    """Saves a model as it is published.

    Args:
        model: of `stock`.
        folder: to be made.
        layout: "v4", tensor names of transformers 4; "v5", of version 5; "sharded"; or "bin", a PyTorch file.
    """
    options = {"save_original_format": layout != "v5"} | ({"max_shard_size": "20KB"} if layout == "sharded" else {})
    model.save_pretrained(folder, **options)
    if layout == "bin":
        from safetensors.torch import load_file

        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    (folder / "preprocessor_config.json").write_text(PHOTOGRAPHS)
    return folder
