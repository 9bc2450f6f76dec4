"""Properties of generated radiographs: reproducible, sized like the archive, dense parts bright, labels local."""

import hashlib
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import datasets
import numpy as np
import pytest

from hf_radmae.sources.phantom import REGIONS, Phantom, PhantomImage, generate, split_of
from hf_radmae.sources.phantom.anatomy import PARTS
from hf_radmae.sources.phantom.cohort import HEIGHTS, WIDTHS
from hf_radmae.sources.phantom.injuries import HARDWARE, choose_site
from hf_radmae.sources.phantom.xray import line_integrals

BREAKABLE = [part for part, entry in PARTS.items() if entry.region not in ("breast", "abdomen", "whole_body")]


def image_of(part: str, view: str = "", **changes) -> PhantomImage:
    """An image of a part, its bones whole and without metal unless `changes` say otherwise."""
    entry = PARTS[part]
    fields = {"seed": 5, "patient": 3, "exam": 0, "image": 1, "laterality": "L" if entry.paired else ""}
    fields |= {"fracture": False, "foreign_material": False, "follow_up": False, "height": 150, "width": 120}
    return PhantomImage(part=part, view=view or next(iter(entry.views)), **fields | changes)


def digest(image: PhantomImage) -> str:
    return hashlib.sha256(image.pixels().tobytes()).hexdigest()


def test_the_same_image_has_the_same_bytes_in_every_process_and_order():
    images = generate(12, seed=3, scale=0.04)
    expected = [digest(image) for image in images]
    with ProcessPoolExecutor(2) as pool:
        assert list(pool.map(digest, reversed(images))) == expected[::-1]


def test_seeds_differ():
    first, second = (generate(1, seed=seed, scale=0.05)[0] for seed in (0, 1))
    assert digest(first) != digest(replace(first, seed=1))
    assert first != second


def test_fewer_images_are_the_beginning_of_more():
    assert generate(70, seed=2) == generate(200, seed=2)[:70]


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_sizes_follow_the_archives_quantiles(scale):
    images = generate(3000, scale=scale)
    for sides, expected in (([i.height for i in images], HEIGHTS), ([i.width for i in images], WIDTHS)):
        assert np.quantile(sides, [0.25, 0.5, 0.75]) == pytest.approx(np.array(expected[1:4]) * scale, rel=0.04)
        assert min(sides) >= round(expected[0] * scale) and max(sides) <= round(expected[4] * scale)


def test_patients_have_one_to_six_images_in_exams_of_up_to_three_with_one_set_of_labels():
    patients, exams = Counter(), defaultdict(list)
    for image in generate(1500)[:-6]:
        patients[image.patient] += 1
        exams[image.patient, image.exam].append(image)
    assert set(patients.values()) == {1, 2, 3, 4, 5, 6}
    assert {len(images) for images in exams.values()} == {1, 2, 3}
    for images in exams.values():
        assert len({(i.part, i.laterality, i.fracture, i.foreign_material, i.follow_up) for i in images}) == 1


def test_all_regions_occur_unevenly_and_frequencies_can_be_set():
    counts = Counter(image.region for image in generate(2000))
    assert set(counts) == set(REGIONS) and 1.5 < max(counts.values()) / min(counts.values()) < 5
    assert {image.region for image in generate(50, frequencies={"chest": 2, "spine": 1})} == {"chest", "spine"}


def test_no_patient_is_in_two_splits_and_the_splits_keep_their_shares():
    shares = Counter(split_of(image.patient) for image in generate(4000))
    assert shares["train"] / 4000 == pytest.approx(0.7, abs=0.02)
    assert shares["validation"] / 4000 == pytest.approx(0.15, abs=0.02)


@pytest.mark.parametrize("part", PARTS)
def test_dense_parts_are_bright_in_every_view(part):
    """The rays that were attenuated most are stored brighter than those that were attenuated least."""
    for view in PARTS[part].views:
        image = image_of(part, view)
        pixels = image.pixels()
        assert pixels.shape == (150, 120) and pixels.dtype == np.uint16
        assert 1000 < pixels.max() < 2**image.bits and pixels.mean() > 100
        body = image.body()
        density = line_integrals([*body.skin, *body.soft, *body.fine], image.camera)
        inside = (pixels > pixels.min()) & (pixels < pixels.max())  # not the collimator, not the marker
        low, high = np.quantile(density[inside], [0.15, 0.85])
        assert pixels[inside & (density >= high)].mean() > 1.15 * pixels[inside & (density <= low)].mean()


@pytest.mark.parametrize("part", BREAKABLE)
def test_a_fracture_changes_pixels_at_one_place(part):
    whole, broken = image_of(part).pixels(), image_of(part, fracture=True).pixels()
    assert 0 < np.mean(whole != broken) < 0.5


@pytest.mark.parametrize("part", [part for part in PARTS if PARTS[part].region in HARDWARE])
def test_foreign_material_is_bright_and_leaves_the_rest_alone(part):
    without, metal = image_of(part).pixels().astype(int), image_of(part, foreign_material=True).pixels().astype(int)
    changed = without != metal
    assert 0 < changed.mean() < 0.5
    assert (metal - without)[changed].mean() > 0


def test_fractures_lie_within_the_image():
    inside = []
    for image in generate(100, seed=8, scale=0.04):
        if image.fracture:
            body, rng = image.body(), np.random.default_rng(0)
            points = np.stack([choose_site(body.sites, image.camera, rng).point for _ in range(5)])
            places = image.camera.pixels(points)[:, :2] / [image.width, image.height]
            inside += ((places >= 0) & (places < 1)).all(axis=1).tolist()
    assert len(inside) > 50 and np.mean(inside) > 0.95


def test_the_two_sides_of_the_body_are_mirror_images():
    """Only limbs: the field of the left hand, seen by a mirrored camera, shows the right hand."""
    left, right = (image_of("hand", laterality=side).camera for side in "LR")
    assert np.linalg.det(left.rotation) == pytest.approx(1)
    assert np.linalg.det(right.rotation) == pytest.approx(-1)


def test_spacing_is_the_size_of_a_pixel_on_the_patient():
    small, large = image_of("hand"), image_of("hand", height=300, width=240)
    assert large.spacing == pytest.approx(small.spacing / 2, rel=1e-6)
    assert 100 < small.spacing * 150 < 600  # a hand's field in mm


def test_wrong_options_are_refused():
    for options in ({"num_images": 0}, {"num_images": 5, "scale": 0}, {"num_images": 5, "frequencies": {"hand": 1}}):
        with pytest.raises(ValueError, match=r"positive|unknown regions"):
            generate(**options)


def test_the_builder_gives_the_same_rows_for_any_number_of_processes(tmp_path):
    rows = []
    for processes in (None, 2):
        builder = Phantom(num_images=90, scale=0.02, seed=4, cache_dir=str(tmp_path / str(processes)))
        builder.download_and_prepare(num_proc=processes)
        raw = builder.as_dataset()
        rows.append({split: raw[split].cast_column("image", datasets.Image(decode=False))[:] for split in raw})
    assert rows[0] == rows[1]
    patients = [set(columns["patient"]) for columns in rows[0].values()]
    assert sum(map(len, patients)) == len(set.union(*patients))


def test_the_builders_images_are_the_generated_pixels(tmp_path):
    builder = Phantom(num_images=25, scale=0.03, cache_dir=str(tmp_path))
    builder.download_and_prepare()
    rows = {row["image_id"]: row for split in builder.as_dataset().values() for row in split}
    cohort = generate(25, scale=0.03)
    assert rows.keys() == {image.image_id for image in cohort}
    for image in cohort:
        row = rows[image.image_id]
        assert np.array_equal(np.asarray(row["image"]), image.pixels())
        assert (row["height"], row["width"]) == (image.height, image.width)
        assert REGIONS[row["body_region"]] == image.region
        assert (row["fracture"], row["foreign_material"]) == (image.fracture, image.foreign_material)


def test_other_options_are_another_cache(tmp_path):
    options = [{}, {"num_images": 7}, {"seed": 7}, {"scale": 0.7}]
    assert len({Phantom(cache_dir=str(tmp_path), **option).cache_dir for option in options}) == 4
