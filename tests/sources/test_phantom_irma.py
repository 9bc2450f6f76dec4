"""Generated files in IRMA's layouts: table, codes and images belong together."""

import csv

import numpy as np
import pytest
from PIL import Image

from hf_radmae.sources.irma.code import parse_code
from hf_radmae.sources.phantom import irma_code, write_irma


def read(table):
    with table.open(newline="") as file:
        return list(csv.DictReader(file, delimiter=";"))


@pytest.mark.parametrize(("doubled", "digits"), [(True, 0), (False, 5)])
def test_every_row_has_its_image_and_a_code_of_its_region(tmp_path, doubled, digits):
    images = write_irma(tmp_path, 20, num_test=6, seed=1, scale=0.03, doubled=doubled, digits=digits)
    rows = []
    for part, version, count in (("train", "02", 20), ("test", "03", 6)):
        name = f"ImageCLEFmed2009_{part}.{version}"
        found = read(tmp_path / f"ImageCLEFmed2009_{part}_codes.{version}.csv")
        folder = tmp_path / name / name if doubled else tmp_path / name
        assert len(found) == count == len(list(folder.iterdir()))
        rows += [(row, folder / f"{int(row['image_id']):0{digits}d}.png") for row in found]
    for image, (row, file) in zip(images, rows, strict=True):
        assert row["irma_code"] == irma_code(image)
        expected = None if image.region == "whole_body" else image.region
        assert parse_code(row["irma_code"]).body_region == expected
        with Image.open(file) as png:
            assert png.mode == "L"
            assert np.array_equal(np.asarray(png), image.pixels() >> (image.bits - 8))
    assert sum(image.region == "whole_body" for image in images[:20]) == 3


def test_labels_of_earlier_years_are_there_or_missing_as_a_whole(tmp_path):
    write_irma(tmp_path, 60, whole_body=0, scale=0.01)
    rows = read(tmp_path / "ImageCLEFmed2009_train_codes.02.csv")
    missing = [(row["05_class"] == r"\N", row["05_irma_code_submask"] == r"\N") for row in rows]
    assert set(missing) == {(True, True), (False, False)}
    assert len({row["image_id"] for row in rows}) == 60


def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path):
    for processes in (1, 2):
        write_irma(tmp_path / str(processes), 10, scale=0.02, num_proc=processes)
    files = [{p.relative_to(root): p.read_bytes() for p in root.rglob("*.*g")} for root in tmp_path.iterdir()]
    assert files[0] == files[1] and len(files[0]) == 10


def test_more_whole_bodies_than_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="whole_body=3"):
        write_irma(tmp_path, 2)
