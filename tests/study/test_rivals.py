"""Rivals see what they say they see, and encoders from elsewhere get the pixels that they were made for."""

import datasets
import numpy as np
import pytest
import torch
from damaged import encode, radiograph
from rows import SIZES, make_rows
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ResNetConfig,
    ResNetModel,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTModel,
    YolosConfig,
    YolosModel,
)

from hf_radmae.batching.binning import fit_bins
from hf_radmae.batching.dataset import RadiographDataset, pixel_values
from hf_radmae.classification import fit_labels
from hf_radmae.study.networks import StudyImages
from hf_radmae.study.pretrained import short_names
from hf_radmae.study.rivals import hub_features, majority_features, metadata_features, thumbnail_features
from hf_radmae.study.rivals.supervised import label_columns, labelled_parts
from hf_radmae.study.tasks import Task, TaskLabels

BINS = fit_bins(np.array(SIZES), num_bins=3, patch_size=8, max_tokens=36, min_images=1)
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


WORDS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 9}
SIGLIP2 = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8, "num_patches": 16}
WITHOUT_CLASS = {"resnet", "convnext", "siglip", "siglip images"}


@pytest.fixture(scope="module")
def parts() -> dict[str, RadiographDataset]:
    contents = [encode(radiograph(*size, seed=i), "PNG") for i, size in enumerate(SIZES)]
    return {split: RadiographDataset(make_rows(contents), BINS) for split in ("train", "validation", "test")}


def checkpoint(kind: str, folder) -> str:
    torch.manual_seed(0)
    models = {
        "vit": lambda: ViTModel(ViTConfig(**SMALL), add_pooling_layer=False),
        "grey vit": lambda: ViTModel(ViTConfig(**SMALL, num_channels=1), add_pooling_layer=False),
        "registers": lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SMALL, num_register_tokens=3)),
        "mae": lambda: ViTMAEForPreTraining(ViTMAEConfig(**SMALL, decoder_hidden_size=16, decoder_num_hidden_layers=1)),
        "dinov2": lambda: Dinov2Model(Dinov2Config(**SMALL)),
        "half": lambda: ViTModel(ViTConfig(**SMALL), add_pooling_layer=False).half(),
        "clip": lambda: CLIPModel(CLIPConfig(text_config=WORDS, vision_config=SMALL | {"intermediate_size": 16})),
        "clip images": lambda: CLIPVisionModel(CLIPVisionConfig(**SMALL, intermediate_size=16)),
        "siglip": lambda: SiglipModel(SiglipConfig(text_config=WORDS, vision_config=SMALL | {"intermediate_size": 16})),
        "siglip images": lambda: SiglipVisionModel(SiglipVisionConfig(**SMALL, intermediate_size=16)),
        "convnext": lambda: ConvNextModel(ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)),
        "swin": lambda: SwinModel(
            SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4)
        ),
        "yolos": lambda: YolosModel(YolosConfig(**SMALL | {"image_size": [32, 32]}, intermediate_size=16)),
        "siglip2": lambda: Siglip2VisionModel(Siglip2VisionConfig(**SIGLIP2)),
        "resnet": lambda: ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])),
    }
    models[kind]().save_pretrained(folder)
    size = {"height": 32, "width": 32}
    BitImageProcessor(
        size={"shortest_edge": 32}, crop_size=size, image_mean=[0.3] * 3, image_std=[0.2] * 3
    ).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    "kind",
    [
        *("vit", "grey vit", "registers", "mae", "resnet", "dinov2", "half", "convnext"),
        *("clip", "clip images", "siglip", "siglip images"),
    ],
)
def test_an_encoder_from_elsewhere_is_read_whole_and_in_order(kind, parts, tmp_path):
    found = hub_features(checkpoint(kind, tmp_path), parts)
    again = hub_features(str(tmp_path), parts)
    assert set(found["train"]) == {"mean", "max", "std", "grid"} | (set() if kind in WITHOUT_CLASS else {"cls"})
    for pooling, values in found["train"].items():
        assert values.shape == (len(SIZES), 144 if pooling == "grid" else 16) and np.isfinite(values).all()
        np.testing.assert_array_equal(values, again["train"][pooling])  # nothing is masked or drawn
        np.testing.assert_array_equal(values, found["test"][pooling])
    cells = found["train"]["grid"].reshape(len(SIZES), 9, 16).mean(1)
    assert np.abs(cells - found["train"]["mean"]).max() < 1, "means of parts of the image"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("swin", r"16 tokens are no grid of 8 x 8 patches"),
        ("yolos", r"117 tokens are no grid of 4 x 4 patches of 8 pixels after at most 16 others"),
        ("siglip2", "expected an encoder of pixel_values .*3, 32, 32"),
    ],
)
def test_an_encoder_whose_pixels_or_tokens_are_others_is_refused_by_its_name(kind, message, parts, tmp_path):
    with pytest.raises(ValueError, match=f"--rivals {tmp_path}.*{message}"):
        hub_features(checkpoint(kind, tmp_path), parts)


def test_encoders_of_one_last_name_are_two_models():
    names = ["a/mae", "b/mae", "c/vit", "a/mae", "mae (2)", "d/mae"]
    found = short_names(names)
    assert list(found) == ["a/mae", "b/mae", "c/vit", "mae (2)", "d/mae"]
    assert found["a/mae"] == "mae" and len({*found.values()}) == 5


def test_a_column_of_metadata_may_have_any_name():
    rows = datasets.Dataset.from_dict({"height": [9] * 4, "width": [9] * 4, "a+b": list("abab")})
    found = metadata_features({"train": rows}, np.array([0, 0, 1, 1]), ["a+b"])
    assert list(found["train"]) == ["size and a b"], "which is one pooling"


def test_pixels_are_normalised_as_the_encoder_was_trained(parts, tmp_path):
    found = hub_features(checkpoint("vit", tmp_path), parts)["train"]
    model = ViTModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    pixels = torch.nn.functional.interpolate(
        pixel_values(parts["train"][0])[None], (32, 32), mode="bicubic", antialias=True
    ).clamp(0, 1)
    with torch.no_grad():
        tokens = model((pixels.expand(-1, 3, -1, -1) - 0.3) / 0.2).last_hidden_state[0]
    np.testing.assert_allclose(found["cls"][0], tokens[0], atol=1e-5)
    np.testing.assert_allclose(found["max"][0], tokens[1:].amax(0), atol=1e-5)


def test_an_image_that_cannot_be_read_has_no_features(parts):
    contents = [encode(radiograph(*size, seed=i), "PNG") for i, size in enumerate(SIZES)]
    contents[1] = b"no image"
    broken = {"train": RadiographDataset(make_rows(contents), BINS)}
    found = thumbnail_features(broken)["train"]
    assert np.isnan(found["HOG"][1]).all() and np.isfinite(found["HOG"][0]).all()


def test_a_thumbnail_is_pixels_and_hog_is_blind_to_brightness(parts):
    found = thumbnail_features(parts)["train"]
    assert found["thumbnail"].shape[1] == 256 and found["HOG"].shape[1] == 144
    pixels = pixel_values(parts["train"][0])
    assert found["thumbnail"][0].mean() == pytest.approx(float(pixels.mean()), abs=0.02)
    assert all(len(np.unique(part["nothing"])) == 1 for part in majority_features(parts).values())


def test_metadata_leaves_out_the_label_by_another_name():
    rows = datasets.Dataset.from_dict(
        {
            "height": [10, 20, 30, 40],
            "width": [10, 10, 10, 10],
            "source": ["a", "a", "b", None],
            "body_part": ["hand", "foot", "hand", "foot"],
            "name": [f"image {i}" for i in range(4)],
        }
    )
    splits = dict.fromkeys(("train", "validation", "test"), rows)
    by_source = metadata_features(splits, np.array([0, 1, 0, -1]), ("source", "body_part", "missing"))
    assert list(by_source["train"]) == ["size and source"], "each body part has one class only"
    by_part = metadata_features(splits, np.array([0, 0, 1, 1]), ("body_part", "name"))["train"]["size and body_part"]
    np.testing.assert_allclose(by_part[:, 2], np.log([1, 2, 3, 4]), atol=1e-6)
    assert set(by_part[:, 3:].ravel().tolist()) == {0, 1}, "steps of the sizes, then a column for each text"
    assert by_part[:, -2:].tolist() == [[0, 1], [1, 0], [0, 1], [1, 0]]


def test_metadata_leaves_out_a_column_that_is_any_of_several_labels():
    rows = datasets.Dataset.from_dict(
        {"height": [9] * 4, "width": [9] * 4, "source": list("abab"), "part": list("ccdd")}
    )
    splits = dict.fromkeys(("train", "validation", "test"), rows)
    for several in (np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([[0, 0], [1, 0], [0, 1], [1, 1]])):
        assert list(metadata_features(splits, several, ("source", "part"))["train"]) == ["size"]
    lone = np.array([[0, -1], [1, -1], [0, -1], [-1, 1]])  # a label of one class alone is decided by anything
    assert list(metadata_features(splits, lone, ("source", "part"))["train"]) == ["size and part"]


def test_a_task_may_be_named_as_a_column_of_the_images_and_as_another_task_with_its_label(parts):
    values = np.arange(len(SIZES)) % 3 - 1
    names = ("image", "image_id", "height", "width", "label")
    tasks = [TaskLabels(Task(name, "part"), ["a", "b"], dict.fromkeys(parts, values)) for name in names]
    for name, classes in (("x", ["y z, y", "y"]), ("x y", ["z", "y"])):
        several = np.stack([values, np.roll(values, 1)], 1)
        tasks.append(TaskLabels(Task(name, "list"), classes, dict.fromkeys(parts, several)))
    for part in labelled_parts(StudyImages(None, None, parts, [], "images"), tasks).values():
        for task in tasks:
            read = fit_labels(part.rows, ",".join(label_columns(task)))
            assert read.encode(read.read(part.rows)).nan_to_num(-1).tolist() == task.values["train"].tolist()
        assert pixel_values(part[0]).isfinite().all()
