"""A radiograph of any kind and depth becomes the same grey values in 0..1, and nothing of its range is lost."""

import numpy as np
import pytest
import torch
from damaged import encode, radiograph
from PIL import Image
from tiny_dicom import tiny_dicom
from torchvision.transforms.v2 import functional as tvF
from transformers import AutoImageProcessor, ViTImageProcessor

from hf_radmae.batching.binning import Bins, fit_bins
from hf_radmae.batching.processing import RadiographImageProcessor, place
from hf_radmae.images.fitting import fit_image
from hf_radmae.images.image import ImageError

GREY = radiograph(48, 40)
SIZES = [(48, 40), (40, 48), (64, 64), (30, 90)]


def bins(strategy: str = "smart", **options) -> Bins:
    options = {"num_bins": 3, "patch_size": 8, "max_tokens": 48, "min_images": 1, **options}
    return fit_bins(np.array(SIZES), strategy=strategy, **options)


def deep(seed: int = 0, top: float = 40_000.0) -> torch.Tensor:
    """A float32 picture (1, 48, 40) whose range is 300 to `top`."""
    grey = torch.from_numpy(radiograph(48, 40, seed).astype(np.float32))[None]
    return 300 + grey / 255 * (top - 300)


def processed(source, **options) -> torch.Tensor:
    return RadiographImageProcessor(**options)(source, return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("scaling", ["minmax", "percentile"])
@pytest.mark.parametrize("box", [None, (10, 5, 20, 30)])
@pytest.mark.parametrize("kind", ["8 bit", "deep", "negative"])
def test_values_are_in_0_to_1_at_the_shape_asked_for(kind, box, scaling):
    image = {"8 bit": torch.from_numpy(GREY)[None], "deep": deep(), "negative": deep(top=-9000)}[kind]
    for shape, content in (((32, 24), None), ((64, 96), None), ((64, 96), (64, 50)), ((64, 96), (31, 96))):
        fitted = fit_image(image, shape, content, scaling=scaling, box=box)
        assert fitted.dtype == torch.float32
        assert fitted.shape == (1, *shape)
        assert fitted.min() >= 0
        assert fitted.max() <= 1
        height, width = content or shape
        assert not fitted[:, height:].any()
        assert not fitted[:, :, width:].any()
        assert fitted[:, :height, :width].std() > 0.05


def test_min_max_scaling_is_that_of_the_original_range():
    """Exact where the size stays, for eight bits and for deep images; the darkest pixel is 0, the brightest 1."""
    for image in (torch.from_numpy(GREY // 2 + 30)[None], deep()):
        wide = image.double()
        expected = (wide - wide.min()) / (wide.max() - wide.min())
        fitted = fit_image(image, (48, 40))
        torch.testing.assert_close(fitted.double(), expected, rtol=0, atol=1e-6)
        assert (fitted.min(), fitted.max()) == (0, 1)


def test_the_range_is_taken_before_crop_and_resize():
    image = deep()
    image[0, 0, 0], image[0, -1, -1] = 0, 65_535  # outside of the crop
    whole = fit_image(image, (48, 40))
    cropped = fit_image(image, (20, 30), box=(10, 5, 20, 30))
    torch.testing.assert_close(cropped, whole[:, 10:30, 5:35])
    resized = tvF.resize((image / 65_535)[:, 10:30, 5:35], [40, 16], antialias=True)
    torch.testing.assert_close(fit_image(image, (40, 16), box=(10, 5, 20, 30)), resized, rtol=0, atol=1e-6)


def test_an_eight_bit_image_of_full_range_is_torchvisions_own_resize():
    image = torch.from_numpy(GREY)[None]
    for shape in ((32, 24), (96, 80), (24, 64)):
        expected = tvF.resize(image, list(shape), antialias=True) / 255
        torch.testing.assert_close(fit_image(image, shape), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("top", [4095, 65_535])
def test_a_deep_ramp_is_not_saturated_and_equals_itself_in_eight_bits(top):
    ramp = np.linspace(0, top, 96 * 96).reshape(96, 96).round().astype(np.uint16)
    shallow = (ramp / top * 255).round().astype(np.uint8)
    options = {"size": {"height": 48, "width": 64}}
    fitted = processed(encode(ramp, "PNG"), **options)
    assert len(fitted.unique()) > 2000
    assert (fitted > 0.99).float().mean() < 0.02
    torch.testing.assert_close(fitted, processed(encode(shallow, "PNG"), **options), rtol=0, atol=1 / 255)


def test_percentile_scaling_is_not_moved_by_a_marker_and_min_max_is():
    image = deep()
    marked = image.clone()
    marked[0, 0, 0] = 65_535
    for scaling, moved in (("percentile", False), ("minmax", True)):
        change = fit_image(image, (48, 40), scaling=scaling) - fit_image(marked, (48, 40), scaling=scaling)
        change[0, 0, 0] = 0
        assert (change.abs().max() > 0.1) == moved


def test_percentile_scaling_of_two_grey_values_is_min_max():
    image = torch.zeros(1, 64, 64, dtype=torch.uint8)
    image[0, 3, 3] = 200
    assert fit_image(image, (64, 64), scaling="percentile").max() == 1


@pytest.mark.parametrize("strategy", ["mixed", "pad", "round_up"])
def test_where_the_strategy_pads_the_image_keeps_its_aspect_and_the_rest_is_0(strategy):
    chosen = bins(strategy)
    padded = 0
    for height, width in SIZES:
        picture = radiograph(height, width)
        shape, content = place((height, width), chosen)
        fitted = processed(picture, bins=chosen.to_dict())[0]
        assert tuple(fitted.shape[1:]) == shape
        assert content[0] / content[1] == pytest.approx(height / width, rel=0.05)
        assert not fitted[:, content[0] :].any()
        assert not fitted[:, :, content[1] :].any()
        expected = fit_image(torch.from_numpy(picture)[None], content)
        torch.testing.assert_close(fitted[:, : content[0], : content[1]], expected)
        padded += content != shape
    assert padded


def test_array_picture_bytes_paths_and_tensors_agree(tmp_path):
    picture = (radiograph(48, 40).astype(np.uint16) + 3) * 200
    (tmp_path / "scan.png").write_bytes(encode(picture, "PNG"))
    (tmp_path / "scan.dcm").write_bytes(tiny_dicom(picture))
    sources = [
        picture[None],
        picture[..., None].astype(np.float32),
        np.stack([picture] * 3, axis=-1),
        np.ascontiguousarray(picture[:, ::-1])[:, ::-1],
        Image.open(tmp_path / "scan.png"),
        tmp_path / "scan.png",
        str(tmp_path / "scan.dcm"),
        encode(picture, "PNG"),
        tiny_dicom(picture),
        {"bytes": None, "path": str(tmp_path / "scan.png")},
        torch.from_numpy(picture.astype(np.int32)),
        torch.from_numpy(picture.astype(np.float32))[None].expand(3, -1, -1),
    ]
    expected = processed(picture)
    for source in sources:
        torch.testing.assert_close(processed(source), expected, rtol=0, atol=1e-6)
    together = processed(sources)
    torch.testing.assert_close(together, expected.expand(len(sources), -1, -1, -1), rtol=0, atol=1e-6)


def test_a_mirrored_eight_bit_view_is_read_like_its_copy():
    view = GREY[:, ::-1]
    assert torch.equal(processed(view), processed(view.copy()))


def test_three_channels_are_the_grey_image_three_times():
    grey, colour = processed(GREY), processed(GREY, num_channels=3)
    assert colour.shape == (1, 3, 224, 224)
    assert torch.equal(colour, grey.expand(-1, 3, -1, -1))


def test_images_of_one_bin_are_stacked_and_of_different_bins_refused_with_the_way_out():
    processor = RadiographImageProcessor(bins=bins().to_dict())
    pictures = [radiograph(*size) for size in SIZES]
    assert len(processor([pictures[0], pictures[0]], return_tensors="pt")["pixel_values"]) == 2
    with pytest.raises(ValueError, match=r"different bins .* call the processor once per image, or leave return_ten"):
        processor(pictures, return_tensors="pt")
    shapes = [tuple(image.shape[1:]) for image in processor(pictures)["pixel_values"]]
    assert shapes == [place(size, bins())[0] for size in SIZES]


def test_a_size_that_strict_binning_does_not_know_is_refused():
    strict = bins("strict", batch_size=1)
    assert place(SIZES[0], strict)
    with pytest.raises(ImageError, match="no bin takes 50x41 pixels"):
        RadiographImageProcessor(bins=strict.to_dict())(radiograph(50, 41))


@pytest.mark.parametrize("strategy", ["smart", "mixed", "strict"])
def test_a_saved_processor_comes_back_with_its_bins(strategy, tmp_path):
    chosen = bins(strategy, batch_size=1).to_dict()
    processor = RadiographImageProcessor(bins=chosen, scaling="percentile", num_channels=3)
    processor.save_pretrained(tmp_path)
    loaded = RadiographImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert (loaded.bins, loaded.scaling, loaded.num_channels) == (chosen, "percentile", 3)
    for size in SIZES:
        picture = radiograph(*size)
        assert torch.equal(*(p(picture, return_tensors="pt")["pixel_values"] for p in (processor, loaded)))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"do_resize": False}, "do_resize=False: RadiographImageProcessor knows do_resize=True only"),
        ({"do_rescale": False}, "do_rescale=False"),
        ({"do_center_crop": True, "crop_size": {"height": 8, "width": 8}}, "do_center_crop=True"),
        ({"resample": Image.Resampling.NEAREST}, "by BILINEAR only"),
        ({"size": {"shortest_edge": 224}}, "expected 'height' and 'width', or bins"),
        ({"scaling": "window"}, "scaling='window' is unknown"),
    ],
)
def test_what_it_does_not_do_is_refused_at_once_and_in_a_call(option, message):
    with pytest.raises(ValueError, match=message):
        RadiographImageProcessor(**option)
    with pytest.raises(ValueError, match=message):
        RadiographImageProcessor()(GREY, **option)


def test_bare_transformers_loads_it_and_does_the_same_to_eight_bits_of_full_range(tmp_path):
    size = {"height": 64, "width": 32}
    ours = RadiographImageProcessor(size=size, bins=bins().to_dict(), num_channels=3, do_convert_rgb=True)
    ours.save_pretrained(tmp_path)
    stock = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(stock) is ViTImageProcessor
    square = processed(GREY, size=size, num_channels=3)
    for source in (Image.fromarray(GREY), GREY[None], Image.fromarray(GREY).convert("RGB")):
        torch.testing.assert_close(stock(source, return_tensors="pt")["pixel_values"], square, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "top"),
    [
        *((dtype, 255) for dtype in (torch.uint8, torch.float16, torch.bfloat16)),
        *((dtype, top) for dtype in (torch.uint16, torch.int32, torch.float64) for top in (255, 4095, 65_535)),
    ],
)
def test_tensors_of_any_type_are_scaled_by_their_own_range(dtype, top):
    picture = torch.from_numpy(GREY.astype(np.float64) / 255 * top).round().to(dtype)
    for tensor in (picture, picture[None], picture.expand(3, -1, -1)):
        torch.testing.assert_close(processed(tensor), processed(GREY), rtol=0, atol=0.006)


@pytest.mark.parametrize("source", [None, 3, True, {1, 2}])
def test_what_is_no_image_is_refused(source):
    with pytest.raises(ImageError, match="is no image: expected a path, bytes"):
        processed([source])


def test_a_damaged_image_is_named(tmp_path):
    path = tmp_path / "empty.png"
    path.write_bytes(b"")
    with pytest.raises(ImageError, match=r"empty\.png: is empty"):
        processed([GREY, path])
