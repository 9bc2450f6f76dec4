"""Any source becomes three splits with known sizes, unopened pixels, and no patient in two of them."""

import csv

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from damaged import encode, radiograph, write_damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import SIZES, make_rows
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from hf_radmae.images.image import image_size
from hf_radmae.sources.load import load_radiographs
from hf_radmae.sources.parquet import FOOTER
from hf_radmae.sources.patients import connected_groups, image_groups

pytestmark = pytest.mark.usefixtures("own_cache")

HEADER_DAMAGE = {"empty.png", "text.png", "header.png", "pixel.png", "long.png", "bomb.png", "larger_bomb.png"} | {
    "frames.tif"
}
"""The damaged files that have no readable size; the others show when their pixels are decoded."""


def write_folder(folder, images: int = 40, first: int = 0, **metadata) -> list[str]:
    """An imagefolder: PNG, JPEG and deep TIFF in turn, with a metadata.csv where there are columns for it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for i in range(images):
        picture = radiograph(*SIZES[i % len(SIZES)], seed=first + i)
        kind, suffix = (("PNG", "png"), ("JPEG", "jpg"), ("TIFF", "tif"))[i % 3]
        names.append(f"{i:03}.{suffix}")
        deep = picture.astype(np.uint16) * 257 if kind == "TIFF" else picture
        (folder / names[-1]).write_bytes(encode(deep, kind))
    if metadata:
        with open(folder / "metadata.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file_name", *metadata])
            writer.writerows(zip(names, *metadata.values(), strict=True))
    return names


def write_shard(path, rows: datasets.Dataset, *, ours: bool) -> None:
    """A Parquet file, with this package's mark in its footer or without."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = rows.data.table
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        if ours:
            writer.add_key_value_metadata({FOOTER: b"{}"})


def names_of(rows: datasets.Dataset) -> list[str]:
    return [image["path"].rsplit("/", 1)[-1] for image in rows["image"]]


def test_a_folder_becomes_three_splits_with_sizes_and_closed_images(tmp_path):
    names = write_folder(tmp_path / "scans")
    splits, skipped = load_radiographs("imagefolder", str(tmp_path / "scans"))
    assert skipped == []
    assert list(splits) == ["train", "validation", "test"]
    assert sorted(name for rows in splits.values() for name in names_of(rows)) == names
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 32, "validation": 4, "test": 4}
    for rows in splits.values():
        assert rows.features["image"] == datasets.Image(decode=False)
        for row in rows:
            assert (row["height"], row["width"]) == image_size(row["image"])


def test_unreadable_headers_are_left_out_and_listed_with_the_reason(tmp_path):
    names = write_folder(tmp_path / "scans")
    damaged = {path.name for path in write_damaged(tmp_path / "scans")}
    splits, skipped = load_radiographs("imagefolder", str(tmp_path / "scans"))
    assert {record["image"].rsplit("/", 1)[-1] for record in skipped} == HEADER_DAMAGE
    assert all(record["reason"] and record["image"] not in record["reason"] for record in skipped)
    left = sorted(name for rows in splits.values() for name in names_of(rows))
    assert left == sorted([*names, *(damaged - HEADER_DAMAGE)])


def test_a_folder_without_one_readable_image_is_an_error(tmp_path):
    (tmp_path / "scans").mkdir()
    for i in range(4):
        (tmp_path / "scans" / f"{i}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 4 images can be read; the first: .*is empty"):
        load_radiographs("imagefolder", str(tmp_path / "scans"))


@pytest.mark.parametrize("seed", [0, 1])
def test_images_of_a_patient_or_of_near_duplicates_stay_in_one_split(tmp_path, seed):
    rng = np.random.default_rng(seed)
    patient = [f"p{number}" for number in rng.integers(15, size=60)]
    duplicates = [f"d{number}" if number < 5 else "" for number in rng.integers(20, size=60)]
    write_folder(tmp_path / "scans", 60, patient=patient, near_dup_group=duplicates)
    splits, _ = load_radiographs("imagefolder", str(tmp_path / "scans"), seed=seed)
    assert all(len(rows) for rows in splits.values())
    for column in ("patient", "near_dup_group"):
        values = [{value for value in rows[column] if value} for rows in splits.values()]
        assert sum(map(len, values)) == len(set.union(*values))


def test_the_split_repeats_with_its_seed_and_changes_with_another(tmp_path):
    write_folder(tmp_path / "scans")
    first, again, other = (
        names_of(load_radiographs("imagefolder", str(tmp_path / "scans"), seed=seed)[0]["test"]) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_splits_of_the_source_stay_and_missing_ones_come_from_train(tmp_path):
    for split, images, first in (("train", 30, 0), ("test", 5, 30)):
        write_folder(tmp_path / "scans" / split, images, first)
    splits, _ = load_radiographs("imagefolder", str(tmp_path / "scans"))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 27, "validation": 3, "test": 5}
    assert all("/test/" in image["path"] for image in splits["test"]["image"])
    assert all("/train/" in image["path"] for image in splits["validation"]["image"])


def test_sizes_of_a_folders_table_are_not_believed(tmp_path):
    write_folder(tmp_path / "scans", height=[3000] * 40, width=[2000] * 40)
    splits, _ = load_radiographs("imagefolder", str(tmp_path / "scans"))
    assert {(row["height"], row["width"]) for rows in splits.values() for row in rows} == set(SIZES)


def test_sizes_of_prepared_shards_are_believed_and_the_image_column_is_found_by_its_type(tmp_path):
    """Rows whose pixels cannot be read at all pass: nothing was opened."""
    rows = make_rows([b"not an image"] * 30, columns={"body_region": ["chest"] * 30}).rename_column("image", "scan")
    (tmp_path / "shards").mkdir()
    write_shard(tmp_path / "shards" / "train-0.parquet", rows, ours=True)
    splits, skipped = load_radiographs("parquet", str(tmp_path / "shards"))
    assert skipped == []
    assert sum(map(len, splits.values())) == 30
    assert set(splits["train"].column_names) == {"image", "image_id", "height", "width", "body_region"}


def test_images_that_no_path_tells_apart_are_named_by_split_and_row_of_the_source(tmp_path):
    """Also those that are left out, and those of a split that was taken from another."""
    for first, split in ((0, "train"), (30, "test")):
        pictures = [encode(radiograph(40, 30, seed=first + i), "PNG") for i in range(30)]
        images = [{"bytes": picture, "path": "1.png"} for picture in pictures]
        rows = datasets.Dataset.from_dict({"image": [*images, {"bytes": b"", "path": ""}]})
        rows.cast_column("image", datasets.Image()).to_parquet(str(tmp_path / "scans" / f"{split}.parquet"))
    splits, skipped = load_radiographs("parquet", str(tmp_path / "scans"))
    assert [(record["index"], record["image"]) for record in skipped] == [(30, "train/30"), (30, "test/30")]
    names = sorted(name for rows in splits.values() for name in rows["image_id"])
    assert names == sorted(f"{split}/{row}" for split in ("train", "test") for row in range(30))
    assert sum(name.startswith("train/") for name in splits["validation"]["image_id"]) == len(splits["validation"]) > 0


def test_further_splits_of_the_source_stay_behind_the_three(tmp_path):
    for split, images, first in (("hospital_b", 4, 40), ("train", 30, 0), ("test", 5, 30)):
        write_folder(tmp_path / "scans" / split, images, first)
    files = {split: str(tmp_path / "scans" / split / "*") for split in ("hospital_b", "train", "test")}
    splits, _ = load_radiographs("imagefolder", str(tmp_path / "scans"), data_files=files)
    assert list(splits) == ["train", "validation", "test", "hospital_b"]
    assert [len(rows) for rows in splits.values()] == [27, 3, 5, 4]


def test_the_phantom_comes_with_its_own_splits(tmp_path):
    splits, skipped = load_radiographs("phantom", num_images=24, scale=0.02, cache_dir=str(tmp_path))
    assert skipped == []
    assert sum(map(len, splits.values())) == 24
    groups = [set(rows["patient"]) for rows in splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))
    for row in splits["train"]:
        assert (row["height"], row["width"]) == image_size(row["image"])


@pytest.mark.parametrize("name", ["imagefolder", "parquet", "irma", "mri"])
def test_a_missing_folder_is_asked_for_and_a_wrong_one_named(name, tmp_path):
    with pytest.raises(ValueError, match=f"--dataset {name} reads a local folder: say which with --data_dir"):
        load_radiographs(name)
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        load_radiographs(name, str(tmp_path / "nowhere"))


def test_a_source_without_images_or_without_train_is_refused(tmp_path):
    table = datasets.Dataset.from_dict({"height": [3], "width": [4]})
    (tmp_path / "table").mkdir()
    table.to_parquet(str(tmp_path / "table" / "train.parquet"))
    with pytest.raises(ValueError, match="no column holds images; the columns are height, width"):
        load_radiographs("parquet", str(tmp_path / "table"))
    write_folder(tmp_path / "scans" / "test", 3)
    with pytest.raises(ValueError, match="no split 'train', only test"):
        load_radiographs("imagefolder", str(tmp_path / "scans"))


@given(st.integers(1, 30).flatmap(lambda n: st.lists(st.lists(st.integers(0, 12), min_size=n, max_size=n), max_size=3)))
@settings(max_examples=60, deadline=None)
def test_groups_are_the_connected_components_of_shared_values(columns):
    """0 stands for a missing value, which joins nothing. The reference is SciPy's."""
    length = len(columns[0]) if columns else 7
    named = [[(None, "", float("nan"))[i % 3] if value == 0 else value for i, value in enumerate(c)] for c in columns]
    groups = connected_groups(named, length)
    pairs = [(i, j) for c in columns for i in range(length) for j in range(length) if c[i] == c[j] != 0]
    edges = coo_matrix((np.ones(len(pairs)), tuple(zip(*pairs, strict=True)) or ([], [])), shape=(length, length))
    _, expected = connected_components(edges, directed=False)
    assert groups.shape == (length,)
    assert ((groups[:, None] == groups) == (expected[:, None] == expected)).all()


def test_images_without_any_group_are_groups_of_their_own():
    assert len(set(image_groups(make_rows(images=9)))) == 9
