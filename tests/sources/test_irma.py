"""IRMA: what its rows hold in every layout, that its splits are the paper's, and what each fault in it says."""

import csv
import io
import os
import random
from collections import Counter
from itertools import chain
from pathlib import Path

import datasets
import pytest
import torch
from datasets.exceptions import DatasetGenerationError
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hf_radmae.images.image import image_size
from hf_radmae.sources.irma.builder import IRMA, LABEL_YEARS, SPLITS, paper_split, split_sizes, stratified_split
from hf_radmae.sources.irma.code import BODY_REGIONS, IRMACode, axis_name, parse_code
from hf_radmae.sources.irma.files import IRMADataError
from hf_radmae.sources.load import load_radiographs
from hf_radmae.sources.phantom import irma_code, write_irma

TRAIN = "ImageCLEFmed2009_train_codes.02.csv", "ImageCLEFmed2009_train.02"
TEST = "ImageCLEFmed2009_test_codes.03.csv", "ImageCLEFmed2009_test.03"
HEADER = "image_id;irma_code;05_class;05_irma_code_submask;06_class;06_irma_code;07_irma_code;08_irma_code"
CHEST, HAND, KNEE, WHOLE = "1123-127-500-000", "1121-110-414-700", "1121-230-942-700", "1121-125-110-000"
CODES = [CHEST, HAND, KNEE, CHEST, WHOLE, HAND, CHEST, KNEE, "1124-410-620-625", CHEST, HAND, "1121-4a0-310-700"]
IDS = [1880 + 7 * row for row in range(len(CODES))]


def png(width: int, height: int, value: int = 100) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height), value).save(buffer, "PNG")
    return buffer.getvalue()


def years_of(code: str) -> str:
    """The labels of 2005 to 2008, none of them in 2005 and 2006 for the hand."""
    early = "\\N;\\N;\\N;\\N" if code == HAND else f"{code[9:10]};11-1-50-0;2;{code}"
    return f"{early};{code};{code}"


def write(
    folder: Path, codes: list[str] = CODES, part=TRAIN, ids=IDS, doubled=False, padded_files=False, padded_ids=False
):
    """Writes one part of IRMA: image number i is 20 + i wide and 30 high."""
    table, images = folder / part[0], folder / part[1] / (part[1] if doubled else "")
    images.mkdir(parents=True)
    lines = [HEADER]
    for row, (image_id, code) in enumerate(zip(ids, codes, strict=True)):
        name = f"{image_id:08d}" if padded_files else image_id
        (images / f"{name}.png").write_bytes(png(20 + row, 30, row))
        lines.append(f"{f'{image_id:08d}' if padded_ids else image_id};{code};{years_of(code)}")
    table.write_text("\n".join(lines) + "\n")
    return folder


def build(folder: Path, cache: Path, **options) -> datasets.DatasetDict:
    builder = IRMA(data_dir=str(folder), cache_dir=str(cache), **options)
    builder.download_and_prepare()
    return builder.as_dataset()


def rows_of(splits: datasets.DatasetDict) -> dict[str, list[dict]]:
    """Every row with the encoded image bytes."""
    return {name: list(rows.cast_column("image", datasets.Image(decode=False))) for name, rows in splits.items()}


def by_id(splits: datasets.DatasetDict) -> dict[str, dict]:
    return {row["image_id"]: row for rows in rows_of(splits).values() for row in rows}


@pytest.mark.parametrize("doubled", [False, True], ids=["rwth", "kaggle"])
@pytest.mark.parametrize("padded_files", [False, True])
@pytest.mark.parametrize("padded_ids", [False, True])
def test_every_layout_gives_the_same_rows(tmp_path, doubled, padded_files, padded_ids):
    splits = build(write(tmp_path / "irma", CODES, TRAIN, IDS, doubled, padded_files, padded_ids), tmp_path / "cache")
    rows = by_id(splits)
    assert set(rows) == {str(i) for i, code in zip(IDS, CODES, strict=True) if code != WHOLE}
    for place, (image_id, code) in enumerate(zip(IDS, CODES, strict=True)):
        if code == WHOLE:
            continue
        row = rows[str(image_id)]
        assert row["image"]["bytes"] == png(20 + place, 30, place)
        assert (row["height"], row["width"]) == (30, 20 + place)
        assert splits["train"].features["irma_code"].int2str(row["irma_code"]) == code
        assert "-".join(row[axis] for axis in IRMACode._fields) == code
        assert splits["train"].features["body_region"].int2str(row["body_region"]) == BODY_REGIONS[code[9]]
        assert row["anatomical_name"] == axis_name("anatomical", code[9:12])


@pytest.mark.parametrize("delimiter", [",", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_of_other_tools_give_the_same_rows(tmp_path, delimiter, encoding):
    write(tmp_path / "irma")
    text = (tmp_path / "irma" / TRAIN[0]).read_text()
    (tmp_path / "irma" / TRAIN[0]).write_bytes(text.replace(";", delimiter).encode(encoding))
    assert len(by_id(build(tmp_path / "irma", tmp_path / "cache"))) == sum(code != WHOLE for code in CODES)


def test_every_image_is_a_row_or_is_listed_and_copies_in_two_splits_are_said(tmp_path, caplog):
    folder = write(tmp_path / "irma")
    images = folder / TRAIN[1]
    for number in range(5):
        (images / f"{90000 + number}.png").write_bytes(png(50, 50 + number, number))
    same = (images / f"{IDS[0]}.png").read_bytes()
    for number in IDS[1:]:
        (images / f"{number}.png").write_bytes(same)
    with caplog.at_level("WARNING"):
        splits, skipped = load_radiographs("irma", str(folder), cache_dir=str(tmp_path / "cache"))
    assert sum(map(len, splits.values())) + len(skipped) == len(IDS) + 5 == len([*images.iterdir()])
    assert {entry["reason"] for entry in skipped} == {f"is in no line of {TRAIN[0]}", "shows the whole body"}
    assert "share patients or files, as allowed: 1 copies of one file" in caplog.text


@pytest.mark.parametrize("config", ["body_region", "irma_code"])
@pytest.mark.parametrize(("doubled", "digits"), [(True, 0), (False, 8)], ids=["kaggle", "rwth, zero-padded"])
def test_generated_radiographs_load_as_four_splits_with_the_labels_of_every_year(tmp_path, config, doubled, digits):
    folder, years = tmp_path / "irma", {"label_years": tuple(LABEL_YEARS)}
    images = write_irma(folder, 40, num_test=6, scale=0.03, doubled=doubled, digits=digits)
    splits, skipped = load_radiographs("irma", str(folder), config_name=config, cache_dir=str(tmp_path), **years)
    kept = [image for image in images if image.region != "whole_body" or config == "irma_code"]
    assert list(splits) == [*SPLITS, "test_2009"] and len(splits["test_2009"]) == 6
    assert [entry["reason"] for entry in skipped] == ["shows the whole body"] * (len(images) - len(kept))
    rows = by_id(splits)
    assert len(rows) == len(kept) == (37 if config == "body_region" else 40) + 6
    features = splits["train"].features
    for image, (_, row) in zip(kept, sorted(rows.items(), key=lambda item: int(item[0])), strict=True):
        assert features["irma_code"].int2str(row["irma_code"]) == irma_code(image)
        region = row["body_region"]
        assert image.region == ("whole_body" if region is None else features["body_region"].int2str(region))
        assert (row["height"], row["width"]) == image_size(row["image"]["bytes"])
        for column in ("05_irma_code_submask", "06_irma_code", "07_irma_code", "08_irma_code"):
            assert row[column] is None or features[column].int2str(row[column]) == irma_code(image)
        assert (row["05_class"] is None) == (row["05_irma_code_submask"] is None)


def test_the_image_feature_decodes_to_the_picture(tmp_path):
    row = build(write(tmp_path / "irma"), tmp_path / "cache")["train"][0]
    assert row["image"].size == (row["width"], row["height"])


def test_body_region_counts_what_it_drops_and_irma_code_drops_nothing(tmp_path, caplog):
    codes = [*CODES[:-2], "1121-127-000-400", "\\N"]
    folder = write(tmp_path / "irma", codes)
    with caplog.at_level("INFO", logger="hf_radmae"):
        regions = IRMA(config_name="body_region", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
    assert regions.dropped == {"train": {"whole body": 1, "no body region": 1, "unlabelled": 1}}
    assert "'whole body': 1" in caplog.text
    assert "'whole body': 1" in regions.info.description
    codes_builder = IRMA(config_name="irma_code", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
    assert codes_builder.dropped == {"train": {"unlabelled": 1}}
    assert codes_builder.info.features == regions.info.features, "class ids must mean the same in both"
    codes_builder.download_and_prepare()
    rows = by_id(codes_builder.as_dataset())
    assert len(rows) == 11
    assert [rows[str(IDS[place])]["body_region"] for place in (4, 10)] == [None, None]
    assert codes_builder.info.features["body_region"].names == list(BODY_REGIONS.values())
    assert codes_builder.info.features["irma_code"].names == sorted(set(codes) - {"\\N"})


def test_label_years_are_columns_that_are_null_where_an_image_had_none(tmp_path):
    splits = build(write(tmp_path / "irma"), tmp_path / "cache", label_years=("05", "06", "07", "08"))
    features = splits["train"].features
    assert features["05_class"].names == ["1", "3", "5", "6", "9"], "of every row in the table"
    for row in by_id(splits).values():
        code = features["irma_code"].int2str(row["irma_code"])
        for column in ("07_irma_code", "08_irma_code"):
            assert features[column].int2str(row[column]) == code
        for column in ("05_class", "05_irma_code_submask", "06_class", "06_irma_code"):
            assert (row[column] is None) == (code == HAND)


def test_class_numbers_sort_as_numbers_and_clutter_comes_last(tmp_path):
    folder = write(tmp_path / "irma")
    table = (folder / TRAIN[0]).read_text().splitlines()
    for line, value in enumerate(["C", "10", "9", "2"], start=1):
        table[line] = table[line].replace(years_of(CODES[line - 1]), f"{value};\\N;\\N;\\N;\\N;\\N")
    (folder / TRAIN[0]).write_text("\n".join(table))
    builder = IRMA(data_dir=str(folder), cache_dir=str(tmp_path / "cache"), label_years=("05",))
    assert builder.info.features["05_class"].names == ["1", "2", "3", "5", "6", "9", "10", "C"]


def test_the_official_test_part_is_a_split_of_its_own(tmp_path):
    folder = write(write(tmp_path / "irma"), [KNEE, WHOLE, "1121-120-800-700"], TEST, [5, 6, 7], doubled=True)
    splits = build(folder, tmp_path / "cache")
    assert list(splits) == [*SPLITS, "test_2009"]
    assert splits["test_2009"]["image_id"] == ["5", "7"]
    assert "1121-120-800-700" in splits["train"].features["irma_code"].names, "a code of the test table is a class too"


@pytest.mark.parametrize("config", ["body_region", "irma_code"])
def test_the_paper_split_is_random_split_over_the_table_after_the_drop(tmp_path, config):
    kept = [i for i, code in zip(IDS, CODES, strict=True) if code != WHOLE or config == "irma_code"]
    splits = build(write(tmp_path / "irma"), tmp_path / "cache", config_name=config)
    expected = torch.utils.data.random_split(kept, split_sizes(len(kept)), torch.Generator().manual_seed(42))
    assert [splits[name]["image_id"] for name in SPLITS] == [[str(i) for i in part] for part in expected]


def test_the_paper_split_has_the_papers_sizes_on_the_whole_of_irma():
    parts = paper_split(12_668, seed=42)
    assert [len(part) for part in parts] == [8_000, 2_000, 2_668]
    order = torch.randperm(12_668, generator=torch.Generator().manual_seed(42)).tolist()
    assert [*chain(*parts)] == order, "random_split deals a permutation"
    assert split_sizes(10_001) == (8_000, 2_000, 1)


@given(count=st.integers(5, 10_000))
def test_smaller_data_keep_the_papers_shares(count):
    sizes = split_sizes(count)
    assert sum(sizes) == count
    assert all(abs(size - count * share / 12_671) <= 1 for size, share in zip(sizes, (8000, 2000, 2671), strict=True))


@given(labels=st.lists(st.sampled_from("abcdef"), min_size=5, max_size=200), seed=st.integers(0, 5))
def test_a_stratified_split_keeps_every_class_within_two_images_of_its_share(labels, seed):
    parts = stratified_split(labels, seed)
    sizes = split_sizes(len(labels))
    assert sorted(chain(*parts)) == list(range(len(labels)))
    assert tuple(len(part) for part in parts) == sizes
    for label, count in Counter(labels).items():
        for part, size in zip(parts, sizes, strict=True):
            assert abs(sum(labels[i] == label for i in part) - count * size / len(labels)) <= 2
    assert parts == stratified_split(labels, seed)


def test_a_stratified_split_is_by_the_label_of_the_configuration(tmp_path):
    codes = [f"1121-120-{region}{part}0-700" for region in "29" for part in "123456" for _ in range(10)]
    random.Random(0).shuffle(codes)
    folder = write(tmp_path / "irma", codes, ids=range(120))
    for config, column, per_class in (("body_region", "body_region", 60), ("irma_code", "irma_code", 10)):
        splits = build(folder, tmp_path / "cache", config_name=config, split="stratified")
        counts = Counter(splits["train"][column])
        assert all(abs(count - per_class * 76 / 120) <= 2 for count in counts.values())
        assert len(splits["train"]) == 76


def test_streaming_gives_the_same_rows(tmp_path):
    folder = write(tmp_path / "irma")
    streamed = IRMA(data_dir=str(folder), cache_dir=str(tmp_path / "cache")).as_streaming_dataset(split="validation")
    stored = build(folder, tmp_path / "cache")["validation"]
    assert [row["image_id"] for row in streamed] == stored["image_id"]


def test_sizes_are_read_without_decoding(tmp_path):
    """Every image is cut off where its pixels begin; header and bytes are kept as they are."""
    folder = write(tmp_path / "irma")
    for file in (folder / TRAIN[1]).iterdir():
        file.write_bytes(file.read_bytes()[:45])
        with pytest.raises(OSError), Image.open(file) as image:
            image.load()
    rows = by_id(build(folder, tmp_path / "cache"))
    assert {row["width"] for row in rows.values()} <= set(range(20, 32))
    for image_id, row in rows.items():
        assert row["image"]["bytes"] == (folder / TRAIN[1] / f"{image_id}.png").read_bytes()


def test_images_without_a_readable_header_are_listed_together(tmp_path):
    folder = write(tmp_path / "irma")
    for image_id, content in ((IDS[0], b""), (IDS[1], b"not a png"), (IDS[2], png(3, 3))):
        (folder / TRAIN[1] / f"{image_id}.png").write_bytes(content)
    with pytest.raises(DatasetGenerationError) as raised:
        build(folder, tmp_path / "cache", config_name="irma_code", seed=next(_seeds_with_first_three_in_train()))
    assert isinstance(raised.value.__cause__, IRMADataError)
    text = str(raised.value.__cause__)
    assert "3 problem(s)" in text
    assert all(f"{image_id}.png" in text for image_id in IDS[:3])
    assert "restore the image, or remove its line" in text


def _seeds_with_first_three_in_train():
    return (seed for seed in range(100) if {0, 1, 2} <= set(paper_split(len(CODES), seed)[0]))


def edit(line: int, old: str, new: str):
    """A fault: replaces text in one line of the training table (the header is line 1)."""

    def apply(folder: Path) -> None:
        lines = (folder / TRAIN[0]).read_text().splitlines()
        assert old in lines[line - 1]
        lines[line - 1] = lines[line - 1].replace(old, new, 1)
        (folder / TRAIN[0]).write_text("\n".join(lines))

    return apply


def everywhere(old: str, new: str):
    def apply(folder: Path) -> None:
        (folder / TRAIN[0]).write_text((folder / TRAIN[0]).read_text().replace(old, new))

    return apply


def files(action):
    return lambda folder: action(folder / TRAIN[1])


MALFORMED = {
    "short axis": (
        edit(3, HAND, "1121-110-41-700"),
        "line 3: irma_code '1121-110-41-700' does not read TTTT-DDD-AAA-BBB",
    ),
    "capital letter": (edit(2, CHEST, "1123-12A-500-000"), "line 2: irma_code '1123-12A-500-000' does not read"),
    "no dashes": (edit(2, CHEST, "1123127500000"), "'1123127500000' does not read TTTT-DDD-AAA-BBB in the characters"),
    "five axes": (edit(2, CHEST, CHEST + "-1"), "line 2: irma_code '1123-127-500-000-1' does not read"),
    "empty code": (edit(2, CHEST, ""), "line 2: irma_code '' does not read"),
    "continues after 0": (
        edit(4, KNEE, "1121-230-902-700"),
        r"continues after a 0 \(unspecified\) on its anatomical axis, 902",
    ),
    "id is a word": (edit(5, "1901", "img1901"), "line 5: image_id 'img1901' is not a number: restore the id"),
    "id is a fraction": (edit(5, "1901", "1901.0"), "image_id '1901.0' is not a number"),
    "duplicate id": (edit(4, "1894", "1880"), "line 4: image_id 1880 is there already, on line 2: keep one of the two"),
    "duplicate padded": (edit(4, "1894", "001880"), "image_id 001880 is there already, on line 2"),
    "missing image": (
        files(lambda images: (images / "1887.png").unlink()),
        "line 3: no image 1887.png, zero-padded or",
    ),
    "image of another kind": (
        files(lambda images: (images / "1887.png").rename(images / "1887.jpg")),
        r"no image 1887.png, .* put it there, or remove the line",
    ),
    "image twice": (
        files(lambda images: (images / "0001887.png").write_bytes(png(9, 9))),
        "image 1887 is there as 0001887.png and 1887.png: keep one of them",
    ),
    "value missing": (edit(3, f";{HAND};", ";"), "line 3: 7 values between ';', the header has 8: restore it"),
    "value too many": (edit(3, HAND, f"{HAND};x"), "line 3: 9 values between ';', the header has 8"),
    "column renamed": (edit(1, "irma_code", "code"), "no column irma_code between ';' in the header"),
    "empty table": (lambda folder: (folder / TRAIN[0]).write_text(""), r"no column image_id, irma_code .* header \[\]"),
}


@pytest.mark.parametrize(("fault", "text"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_table_is_refused_before_any_image_is_read(tmp_path, fault, text):
    folder = write(tmp_path / "irma")
    fault(folder)
    with pytest.raises(IRMADataError, match=text) as raised:
        IRMA(data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
    assert str(folder / TRAIN[0]) in str(raised.value)


def test_one_error_lists_the_first_ten_faults_and_counts_all(tmp_path):
    folder = write(tmp_path / "irma")
    everywhere("-", "_")(folder)
    with pytest.raises(IRMADataError) as raised:
        IRMA(data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
    lines = str(raised.value).splitlines()
    assert lines[0] == f"IRMA has {len(CODES)} problem(s):"
    assert [f"line {2 + row}:" in line for row, line in enumerate(lines[1:11])] == [True] * 10
    assert lines[11:] == [f"  and {len(CODES) - 10} more"]


def test_a_fault_in_the_test_table_names_that_table(tmp_path):
    folder = write(write(tmp_path / "irma"), [KNEE, "?"], TEST, [5, 6])
    with pytest.raises(IRMADataError, match=r"ImageCLEFmed2009_test_codes.03.csv, line 3: irma_code '\?'"):
        IRMA(data_dir=str(folder), cache_dir=str(tmp_path / "cache"))


OPTIONS = {
    "no data_dir": ({"data_dir": None}, ValueError, "data_dir is missing. IRMA is not downloaded: its licence forbids"),
    "no such folder": (
        {"data_dir": "nowhere"},
        FileNotFoundError,
        "no such folder.* its licence forbids redistribution",
    ),
    "another split": ({"split": "random"}, ValueError, "split='random' is unknown: expected 'paper' or 'stratified'"),
    "another year": (
        {"label_years": ("04",)},
        ValueError,
        r"label_years \['04'\] are unknown: expected some of \['05'",
    ),
    "a year as text": ({"label_years": "05"}, ValueError, "as a tuple"),
    "another option": ({"fold": 1}, ValueError, "doesn't have a 'fold' key"),
    "another configuration": ({"config_name": "view"}, ValueError, r"'view' not found. Available: \['body_region'"),
}


@pytest.mark.parametrize(("options", "error", "text"), OPTIONS.values(), ids=OPTIONS)
def test_a_wrong_option_is_refused(tmp_path, monkeypatch, options, error, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=text):
        IRMA(**{"data_dir": str(write(tmp_path / "irma")), "cache_dir": str(tmp_path / "cache"), **options})


def test_a_folder_without_the_table_says_what_is_there(tmp_path):
    (tmp_path / "train.zip").touch()
    with pytest.raises(FileNotFoundError, match=r"train_codes.02.csv is missing .*'train.zip'"):
        IRMA(data_dir=str(tmp_path), cache_dir=str(tmp_path / "cache"))


def test_a_table_without_its_images_is_refused(tmp_path):
    folder = write(tmp_path / "irma")
    (folder / TEST[0]).write_text(HEADER)
    with pytest.raises(
        FileNotFoundError, match=r"ImageCLEFmed2009_test.03 is missing, but .*test_codes.03.csv is there"
    ):
        IRMA(data_dir=str(folder), cache_dir=str(tmp_path / "cache"))


def test_too_few_images_to_split_are_refused(tmp_path):
    folder = write(tmp_path / "irma", CODES[:4], ids=IDS[:4])
    with pytest.raises(ValueError, match=r"4 images cannot be split .* at least 5 are needed"):
        build(folder, tmp_path / "cache")


def test_the_cache_depends_on_options_and_on_the_files(tmp_path):
    folder = write(tmp_path / "irma")

    def cache(**options) -> str:
        return IRMA(data_dir=str(folder), cache_dir=str(tmp_path / "cache"), **options).cache_dir

    def touch(file: Path) -> None:
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1_000_000))

    plain = cache()
    assert cache(split="paper", seed=42) == plain, "a default spelled out is the same data"
    others = [cache(seed=1), cache(split="stratified"), cache(label_years=("05",)), cache(config_name="irma_code")]
    touch(folder / TRAIN[1] / f"{IDS[0]}.png")
    others.append(cache())
    edit(2, CHEST, "1123-110-500-000")(folder)
    others.append(cache())
    write(folder, [KNEE], TEST, [5])
    others.append(cache())
    assert len({plain, *others}) == 1 + len(others)


AXIS = st.text("123456789abcdefghijklmnopqrstuvwxyz", max_size=4)


@given(parts=st.tuples(AXIS, AXIS, AXIS, AXIS))
def test_a_code_is_the_sum_of_its_axes(parts):
    values = [part[:length].ljust(length, "0") for part, length in zip(parts, (4, 3, 3, 3), strict=True)]
    assert parse_code("-".join(values)) == tuple(values)


def test_names_go_from_the_general_to_the_special_and_keep_unknown_digits():
    """The two codes that the overviews of the ImageCLEF tasks explain, and values beyond the published tables."""
    assert axis_name("technical", "1123") == "x-ray, plain radiography, analog, high beam energy"
    assert axis_name("directional", "127") == "coronal, anteroposterior (AP), supine"
    assert axis_name("biological", "3a0") == "respiratory system, lung"
    assert axis_name("anatomical", "430") == "upper extremity, forearm"
    assert axis_name("anatomical", "91b") == "lower extremity, foot, 91b"
    assert axis_name("directional", "4b1") == "other orientation, 4b1"
    assert axis_name("biological", "000") == "unspecified"
    with pytest.raises(ValueError, match="'colour' is no axis of the IRMA code: expected one of technical"):
        axis_name("colour", "100")


def test_the_table_of_names_is_a_tree_of_valid_values():
    """Every value fits its axis, has a named parent, and stands there once; the regions are those of the builder."""
    table = Path(__file__).parents[2] / "hf_radmae" / "sources" / "irma" / "irma_codes.csv"
    with table.open(encoding="utf-8", newline="") as file:
        rows = [(row["axis"], row["code"], row["name"]) for row in csv.DictReader(file)]
    named = {(axis, code): name for axis, code, name in rows}
    assert len(named) == len(rows)
    for (axis, code), name in named.items():
        template = dict(zip(IRMACode._fields, ["0000", "000", "000", "000"], strict=True))
        template[axis] = code.ljust(len(template[axis]), "0")
        parse_code("-".join(template.values()))
        assert name == name.strip() != ""
        assert len(code) == 1 or (axis, code[:-1]) in named
    for character, region in BODY_REGIONS.items():
        assert named["anatomical", character] == region.replace("_", " ")
