"""The list of the images that a checkpoint has seen holds those images, wherever they lie, and no others."""

import datasets
import numpy as np
import pytest

from hf_radmae.study.seen import check_unseen, image_hashes, save_seen


def rows(*images: dict) -> datasets.Dataset:
    features = {"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
    return datasets.Dataset.from_list([{"image": image} for image in images], datasets.Features(features))


@pytest.mark.parametrize("place", [0, 100_000, 199_999])
def test_uncompressed_images_with_the_same_border_are_two(tmp_path, place):
    """Of detectors that leave their first lines black the files begin alike."""
    first, second = np.zeros(200_000, np.uint8), np.zeros(200_000, np.uint8)
    second[place : place + 10] = 7
    one, two = (rows({"bytes": image.tobytes(), "path": None}) for image in (first, second))
    save_seen([one], tmp_path)
    assert check_unseen(tmp_path, two)
    with pytest.raises(ValueError, match="was trained on 1 of the 1 test images"):
        check_unseen(tmp_path, one)


@pytest.mark.parametrize("size", [0, 10, 40_000, 200_000])
def test_a_file_and_its_bytes_are_one_image_and_a_file_that_is_gone_is_none(tmp_path, size):
    data = np.random.default_rng(size).bytes(size)
    (tmp_path / "a.png").write_bytes(data)
    found = rows(
        {"bytes": None, "path": str(tmp_path / "a.png")},
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(tmp_path / "gone.png")},
    )
    first, second = image_hashes(found)
    assert first == second
