"""The list of images that a checkpoint has seen holds those, however they are stored and named, and no others."""

import io

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_radmae.study.seen import FILE, check_unseen, image_hashes, save_seen


def picture(seed: int, side: int = 90) -> Image.Image:
    """Shapes at random places, as unlike as two radiographs are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 8), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side * 2, side * 2 + 20), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rows(*images: bytes | str) -> datasets.Dataset:
    features = {"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
    cells = [{"bytes": i, "path": None} if isinstance(i, bytes) else {"bytes": None, "path": i} for i in images]
    return datasets.Dataset.from_list([{"image": cell} for cell in cells], datasets.Features(features))


CHANGES = {
    "as it is": lambda image: encoded(image),
    "JPEG": lambda image: encoded(image, "JPEG", quality=40),
    "TIFF": lambda image: encoded(image, "TIFF"),
    "half": lambda image: encoded(image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)),
    "double": lambda image: encoded(
        image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC), "JPEG"
    ),
    "16 bits": lambda image: encoded(Image.fromarray(np.asarray(image).astype(np.uint16) * 200 + 500)),
    "another window": lambda image: encoded(Image.fromarray((np.asarray(image) * 0.6 + 40).astype(np.uint8))),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("place", ["", "mae", "checkpoint-20"])
def test_an_image_is_known_again_however_it_is_stored(change, place, tmp_path):
    save_seen([rows(*(encoded(picture(seed)) for seed in range(10)))], tmp_path)
    test = [CHANGES[change](picture(seed)) for seed in (3, 7)]
    (tmp_path / "renamed.png").write_bytes(test[0])
    others = [CHANGES[change](picture(seed)) for seed in range(20, 30)]
    checkpoint = tmp_path / place
    assert check_unseen(checkpoint, rows(*others))
    with pytest.raises(ValueError, match="was trained on 2 of the 12 test images"):
        check_unseen(checkpoint, rows(str(tmp_path / "renamed.png"), test[1], *others))


def test_what_the_start_of_a_training_has_seen_is_seen_too(tmp_path):
    first, second, third = (rows(encoded(picture(seed))) for seed in range(3))
    for name in ("start", "run"):
        (tmp_path / name).mkdir()
    save_seen([first], tmp_path / "start")
    save_seen([second], tmp_path / "run", start=tmp_path / "start")
    for test in (first, second):
        with pytest.raises(ValueError, match="was trained on 1 of the 1 test images"):
            check_unseen(tmp_path / "run", test)
    assert check_unseen(tmp_path / "run", third) and not check_unseen(tmp_path / "elsewhere", first)


def test_a_file_that_is_gone_or_damaged_is_no_image(tmp_path):
    data = encoded(picture(0))
    (tmp_path / "a.png").write_bytes(data)
    found = image_hashes(rows(str(tmp_path / "a.png"), data, str(tmp_path / "gone.png"), b"cut"))
    assert len(found) == 2 and (found[0] == found[1]).all()
    assert not save_seen([rows(b"cut")], tmp_path).read_text() and check_unseen(tmp_path, rows(data))
    (tmp_path / FILE).write_text("0123456789abcdef\n")  # of another version of the package
    assert not check_unseen(tmp_path, rows(data)), "it cannot be compared"
