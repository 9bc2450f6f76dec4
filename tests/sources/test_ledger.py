"""Every file that goes in is a row or is listed with a reason, whatever its name, folder, container or table."""

import errno
import itertools
import json
import os
import shutil
import unicodedata
import zipfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damaged import encode, radiograph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_dicom import tiny_dicom

from hf_radmae.images.storage import StorageError
from hf_radmae.sources.folder import read_folder
from hf_radmae.sources.load import load_radiographs
from hf_radmae.sources.scan import scan
from hf_radmae.sources.table_file import TableError

pytestmark = pytest.mark.usefixtures("own_cache")

FOLDERS = (
    *("", "a", "train", "Test", "val", "dev", "other", "a/b/c", "my_train_data", "patient001/study1", "test set"),
    *("träin", "x" * 100, "with space", "evaluation/normal"),
)
NAMES = ("1", "train_1", "my-test-2", "VAL", "x.dev", "latest", "1.2.840.113", "scan (1)", "ü", "eval")
KINDS = ("png", "PNG", "jpg", "JPEG", "tif", "dcm", "DCM", "", "dicom", "img")
_content = itertools.count()


def picture(kind: str) -> bytes:
    """A radiograph that no other file holds: DICOM where the suffix is none of Pillow's."""
    seed = next(_content)
    pixels = radiograph(24, 20, seed=seed)
    kind = kind.lower()
    if kind in ("png", "jpg", "jpeg", "tif"):
        return encode(pixels, {"png": "PNG", "tif": "TIFF"}.get(kind, "JPEG"))
    return tiny_dicom(pixels, SOPInstanceUID=f"1.2.{seed}", PatientID=f"P{seed}", StudyInstanceUID=f"1.3.{seed}")


def put(root: Path, name: str, content: bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def accounted(root: Path, name: str = "imagefolder") -> tuple[int, int, list[dict]]:
    splits, skipped = load_radiographs(name, str(root), num_proc=1, allow_shared_patients=True)
    assert all(entry["reason"] and entry["image"] for entry in skipped)
    return sum(len(rows) for rows in splits.values()), len(skipped), skipped


files = st.lists(
    st.tuples(st.sampled_from(FOLDERS), st.sampled_from(NAMES), st.sampled_from(KINDS)),
    min_size=3,
    max_size=9,
    unique=True,
)


@given(files)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_files_are_called_and_wherever_they_lie_none_is_lost(tmp_path_factory, found):
    root = tmp_path_factory.mktemp("tree")
    for folder, name, kind in found:
        put(root, f"{folder}/{name}.{kind}".strip("/") if kind else f"{folder}/{name}".strip("/"), picture(kind))
    put(root, "notes.txt", b"no image")
    source = read_folder(root)
    assert source.files + len(source.listed) == source.found == len(found)
    assert sum(len(rows) for rows in source.splits.values()) == source.files
    assert source.others == {".txt": 1}
    used = {name for names in source.names.values() for name in names}
    assert used.isdisjoint({entry["image"] for entry in source.listed})


@given(files, st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_of_a_table_and_files_are_all_accounted_for(tmp_path_factory, found, data):
    """Some files are in no row, some rows name no file or nothing, some files have several rows."""
    root = tmp_path_factory.mktemp("tree")
    names = [f"{folder}/{name}.{kind}".strip("/") for folder, name, kind in found if kind]
    if not names:
        return
    for name in names:
        put(root, name, picture(name.rsplit(".", 1)[1]))
    rows = data.draw(st.lists(st.sampled_from([*names, "", "missing.png", "../out.png"]), min_size=1, max_size=12))
    if not {*rows} & {*names}:
        return
    table = "\n".join(["file_name,y", *(f'"{row}",{number}' for number, row in enumerate(rows))])
    (root / "metadata.csv").write_text(table, encoding="utf-8")
    try:
        source = read_folder(root)
    except FileNotFoundError as error:
        assert "there is no image" in str(error)  # those that have a row are in no split's folder
        return
    whole = sum(len(part) for part in source.splits.values())
    listed_rows = [entry for entry in source.listed if "metadata.csv" in entry["image"] + entry["reason"]]
    in_no_split = {e["image"] for e in source.listed if "in no split" in e["reason"]}
    assert source.files + len(source.listed) == source.found
    assert whole + len(listed_rows) == len(rows) - sum(row in in_no_split for row in rows) + sum(
        "names it" in e["reason"] and e["image"] in in_no_split for e in source.listed
    )
    for split, names_of in source.names.items():
        for name, y in zip(names_of, source.splits[split]["y"], strict=True):
            assert rows[y] == name


def test_a_table_above_split_folders_keeps_its_columns(tmp_path):
    names = [f"{split}/{n}.png" for split in ("train", "validation", "test") for n in range(4)]
    for name in names:
        put(tmp_path / "set", name, picture("png"))
    (tmp_path / "set" / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": name, "finding": f"of {name}"}) for name in names)
    )
    splits, skipped = load_radiographs("imagefolder", str(tmp_path / "set"))
    assert skipped == [] and {split: len(rows) for split, rows in splits.items()} == dict.fromkeys(splits, 4)
    for split, rows in splits.items():
        for row in rows:
            assert row["finding"] == f"of {split}/{Path(row['image']['path']).name}"


@pytest.mark.parametrize("inside", ["", "scans", "train"])
@pytest.mark.parametrize("beside", [0, 3])
def test_images_in_a_zip_are_rows(tmp_path, inside, beside):
    root = tmp_path / "set"
    for number in range(beside):
        put(root, f"{inside}/{number}.png" if inside else f"{number}.png", picture("png"))
    root.mkdir(exist_ok=True)
    with zipfile.ZipFile(root / "more.zip", "w") as archive:
        for number, kind in enumerate(("png", "dcm", "", "jpg", "png")):
            archive.writestr(f"{inside}/z{number}.{kind}" if inside else f"z{number}.{kind}", picture(kind))
        archive.writestr("readme.txt", "no image")
        nested = tmp_path / "nested.zip"
        with zipfile.ZipFile(nested, "w") as inner:
            inner.writestr(f"{inside}/deep.png" if inside else "deep.png", picture("png"))
        archive.write(nested, "nested.zip")
    assert accounted(root)[:2] == (6 + beside, 0)
    assert accounted(root / "more.zip")[:2] == (6, 0)


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("number", [0, 3, 5])
def test_of_a_zip_only_what_is_damaged_is_listed(tmp_path, kind, number):
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w", kind) as archive:
        for n in range(6):
            archive.writestr(f"{n}.png", picture("png"))
        member = archive.infolist()[number]
    content = bytearray(path.read_bytes())
    start = member.header_offset + 30 + len(member.filename) + 9 * (kind == zipfile.ZIP_LZMA)  # behind the headers
    end = member.header_offset + 30 + len(member.filename) + member.compress_size
    content[start:end] = bytes(byte ^ 0x5A for byte in content[start:end])
    path.write_bytes(content)
    source = read_folder(tmp_path)
    assert len(source.splits["train"]) == 5
    assert [entry["image"] for entry in source.listed] == [f"z.zip/{number}.png"]


def test_names_in_a_zip_may_be_long_in_any_script(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for name in ("a" * 250, "語" * 130, "ü" * 200):
            archive.writestr(f"{name}.png", picture("png"))
    source = read_folder(tmp_path)
    assert (len(source.splits["train"]), source.listed) == (3, [])


def test_a_full_disk_lists_no_image_of_a_zip(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("a.png", picture("png"))

    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        read_folder(tmp_path)


def test_a_table_in_a_zip_and_one_beside_it_name_its_images(tmp_path):
    for number, (inside, text) in enumerate(
        ((True, "file_name,y\n0.png,a\n1.png,b\n"), (False, "file_name,y\nz/0.png,a\n"))
    ):
        root = tmp_path / str(number)
        root.mkdir()
        with zipfile.ZipFile(root / "z.zip", "w") as archive:
            for n in range(2):
                archive.writestr(f"{n}.png", picture("png"))
            if inside:
                archive.writestr("metadata.csv", text)
        if not inside:
            (root / "metadata.csv").write_text(text)
        source = read_folder(root)
        assert (source.files, len(source.listed)) == ((2, 0) if inside else (1, 1))
        assert source.splits["train"]["y"][0] == "a"


def test_names_of_windows_and_of_zips_that_it_wrote_are_read(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    with zipfile.ZipFile(root / "z.zip", "w") as archive:
        for name in ("train\\", *(f"{split}\\{n}.png" for split in ("train", "test") for n in range(9))):
            member = zipfile.ZipInfo("x")
            member.filename = name  # `ZipInfo` itself would replace the separator only on Windows
            archive.writestr(member, picture("png") if "png" in name else b"")
    rows = "\n".join(f"z\\{split}\\{n}.png,{n}" for split in ("train", "test") for n in range(9))
    (root / "metadata.csv").write_text(f"File Name,y\n{rows}\n")
    source = read_folder(root)
    assert {split: len(rows) for split, rows in source.splits.items()} == {"train": 9, "test": 9}
    assert source.listed == []


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_table_names_files_by_whole_paths_and_in_either_form_of_unicode(tmp_path, form, absolute):
    root = tmp_path / "set"
    for number in range(4):
        put(root, unicodedata.normalize("NFD", f"Hüfte/{number}.png"), picture("png"))
    start = f"{root}/" if absolute else ""
    rows = [unicodedata.normalize(form, f"{start}Hüfte/{number}.png,{number}") for number in range(4)]
    (root / "metadata.csv").write_text("\n".join(["file_name,y", *rows]), encoding="utf-8")
    source = read_folder(root)
    assert source.listed == [] and source.splits["train"]["y"] == [0, 1, 2, 3]


@pytest.mark.parametrize(("spelled", "expected"), [(("True", "False"), "True"), (("1.0", "0.0"), "1.0")])
def test_a_column_that_is_text_in_one_table_keeps_its_spelling_in_all(tmp_path, spelled, expected):
    for split, values in (("train", spelled), ("test", (*spelled, "unsure"))):
        lines = [f"{number}.png,{value}" for number, value in enumerate(values)]
        for number in range(len(values)):
            put(tmp_path / "set", f"{split}/{number}.png", picture("png"))
        (tmp_path / "set" / split / "metadata.csv").write_text("\n".join(["file_name,y", *lines]))
    source = read_folder(tmp_path / "set")
    assert source.splits["train"]["y"][0] == source.splits["test"]["y"][0] == expected


def test_tables_that_contradict_each_other_are_refused_and_a_column_image_is_kept(tmp_path):
    put(tmp_path / "set", "train/1.png", picture("png"))
    (tmp_path / "set" / "metadata.csv").write_text("file_name,y,image\ntrain/1.png,0,x17\n")
    assert read_folder(tmp_path / "set").splits["train"]["image_of_source"] == ["x17"]
    (tmp_path / "set" / "train" / "metadata.csv").write_text("file_name,y\n1.png,1\n")
    with pytest.raises(TableError, match=r"metadata.csv: .*1.png has the values 0 and 1 of y; keep one"):
        read_folder(tmp_path / "set")


def test_a_file_in_two_splits_of_data_files_is_refused(tmp_path):
    for number in range(4):
        put(tmp_path / "set", f"{number}.png", picture("png"))
    files = {"train": str(tmp_path / "set" / "*.png"), "test": str(tmp_path / "set" / "1.png")}
    with pytest.raises(ValueError, match=r"1.png is in train and in test; name each file once"):
        read_folder(tmp_path / "set", data_files=files)


def test_links_are_followed_once_and_broken_ones_are_listed(tmp_path):
    outside = tmp_path / "elsewhere"
    for number in range(4):
        put(outside, f"deep/{number}.png", picture("png"))
    root = tmp_path / "set"
    put(root, "own/1.png", picture("png"))
    (root / "linked").symlink_to(outside)
    (root / "again").symlink_to(outside)
    (root / "loop").symlink_to(root)
    (root / "file.png").symlink_to(put(tmp_path, "single.png", picture("png")))
    (root / "broken.png").symlink_to(tmp_path / "nowhere.png")
    rows, listed, skipped = accounted(root)
    assert (rows, listed) == (6, 1) and "link to nothing" in skipped[0]["reason"]


def test_names_that_are_not_utf8_hidden_empty_and_odd_files_are_listed_and_the_rest_is_read(tmp_path):
    root = tmp_path / "set"
    for number in range(4):
        put(root, f"{number}.png", picture("png"))
    with open(os.fsencode(root) + b"/r\xf6ntgen.png", "wb") as file:
        file.write(picture("png"))
    for name in ("empty", "empty.png", ".hidden.png", "__MACOSX/._1.png", ".DS_Store", "volume.nii.gz", "odd.xyz"):
        put(root, name, b"" if "empty" in name else b"something else" if "." in name[1:] or "DS" in name else b"")
    rows, listed, skipped = accounted(root)
    reasons = {entry["image"].rsplit("/", 1)[-1]: entry["reason"] for entry in skipped}
    assert (rows, listed) == (4, 6)
    assert {*reasons} == {r"r\xf6ntgen.png", "empty", "empty.png", ".hidden.png", "volume.nii.gz", "odd.xyz"}


def test_a_very_deep_tree_is_read_and_what_is_too_deep_is_listed(tmp_path):
    root = tmp_path / "set"
    for number in range(3):
        put(root, f"{number}.png", picture("png"))
    put(root, "/".join(["folder"] * 60) + "/deep.png", picture("png"))
    here = os.open(root, os.O_RDONLY)
    for _ in range(25):  # 5,000 bytes of path, which no system call takes at once
        os.mkdir("d" * 200, dir_fd=here)
        here = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
    with os.fdopen(os.open("1.png", os.O_CREAT | os.O_WRONLY, dir_fd=here), "wb") as file:
        file.write(picture("png"))
    rows, listed, skipped = accounted(root)
    assert (rows, listed) == (4, 1) and "too long" in skipped[0]["reason"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_listed(tmp_path):
    put(tmp_path / "set", "1.png", picture("png"))
    put(tmp_path / "set", "closed/2.png", picture("png"))
    (tmp_path / "set" / "closed").chmod(0)
    rows, listed, skipped = accounted(tmp_path / "set")
    assert (rows, listed) == (1, 1) and "cannot be listed" in skipped[0]["reason"]


@pytest.mark.parametrize(("number", "ends"), [(errno.EACCES, False), (errno.EPERM, False), (errno.EIO, True)])
@pytest.mark.parametrize("where", ["closed", "file"])
def test_a_folder_or_file_that_is_refused_is_listed_and_storage_that_fails_ends_the_run(
    tmp_path, monkeypatch, number, ends, where
):
    put(tmp_path / "set", "1.png", picture("png"))
    target = put(tmp_path / "set", "closed/2", picture(""))
    target = target.parent if where == "closed" else target
    real = os.scandir if where == "closed" else open

    def refuse(path, *args, **options):
        if str(path) == str(target):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *args, **options)

    monkeypatch.setattr("hf_radmae.images.storage.PAUSES", (0, 0))
    monkeypatch.setattr("os.scandir" if where == "closed" else "builtins.open", refuse)
    if ends:
        with pytest.raises(StorageError, match="does not answer"):
            scan(tmp_path / "set")
    else:
        found = scan(tmp_path / "set")
        assert len(found.images) + len(found.listed) == 2 and len(found.listed) == 1


NULLS = {
    "null": None,
    "empty struct": {"bytes": None, "path": None},
    "empty bytes": {"bytes": b"", "path": None},
    "no file": {"bytes": None, "path": "/nowhere/1.png"},
    "text": {"bytes": b"not an image", "path": "1.png"},
}


@pytest.mark.parametrize("odd", NULLS)
@pytest.mark.parametrize("sizes", ["none", "right", "null", "wrong"])
@pytest.mark.parametrize("name", ["train", "train-00000-of-00001", "data/train/part0", "odd name"])
def test_rows_of_parquet_without_an_image_or_a_size_are_listed_or_measured(tmp_path, odd, sizes, name):
    images = [{"bytes": picture("png"), "path": None} for _ in range(12)] + [NULLS[odd]]
    features = {"image": datasets.Image(decode=False)}
    rows = [{"image": image} for image in images]
    if sizes != "none":
        features |= {axis: datasets.Value("int32") for axis in ("height", "width")}
        given = {"right": (24, 20), "null": (None, None), "wrong": (3000, 2000)}[sizes]
        rows = [{**row, "height": given[0], "width": given[1]} for row in rows]
    path = tmp_path / "set" / f"{name}.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=datasets.Features(features).arrow_schema), path)
    splits, skipped = load_radiographs("parquet", str(tmp_path / "set"))
    assert sum(len(part) for part in splits.values()) == 12 and len(skipped) == 1
    assert {(row["height"], row["width"]) for part in splits.values() for row in part} == {(24, 20)}


def test_parquet_files_beside_those_of_splits_are_listed(tmp_path):
    for name in ("train-0", "test-0", "extra"):
        rows = datasets.Dataset.from_dict({"image": [{"bytes": picture("png"), "path": None} for _ in range(9)]})
        (tmp_path / "set").mkdir(exist_ok=True)
        rows.cast_column("image", datasets.Image()).to_parquet(str(tmp_path / "set" / f"{name}.parquet"))
    splits, skipped = load_radiographs("parquet", str(tmp_path / "set"))
    assert sum(len(part) for part in splits.values()) == 18
    assert [entry["image"] for entry in skipped] == ["extra.parquet"]


@pytest.mark.parametrize("names", [("train", "test"), ("set_train", "set_test"), ("partial-train/0", "partial-test/0")])
def test_images_beside_parquet_files_are_listed_and_any_word_of_a_name_says_its_split(tmp_path, names):
    for name in names:
        rows = datasets.Dataset.from_dict({"image": [{"bytes": picture("png"), "path": None} for _ in range(9)]})
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        rows.cast_column("image", datasets.Image()).to_parquet(str(tmp_path / "set" / f"{name}.parquet"))
    put(tmp_path / "set", "beside.png", picture("png"))
    put(tmp_path / "set", "metadata.csv", b"file_name\n")
    splits, skipped = load_radiographs(str(tmp_path / "set"), num_proc=2)
    assert len(splits["test"]) == 9 and sum(len(part) for part in splits.values()) == 18
    assert [entry["image"] for entry in skipped] == ["beside.png"]


def test_one_parquet_file_is_read_and_another_file_is_no_folder(tmp_path):
    rows = datasets.Dataset.from_dict({"image": [{"bytes": picture("png"), "path": None} for _ in range(9)]})
    rows.cast_column("image", datasets.Image()).to_parquet(str(tmp_path / "a.parquet"))
    for name, folder in (("parquet", str(tmp_path / "a.parquet")), (str(tmp_path / "a.parquet"), None)):
        assert sum(len(part) for part in load_radiographs(name, folder)[0].values()) == 9
    files = {"train": str(tmp_path / "*.parquet")}
    assert sum(len(p) for p in load_radiographs("parquet", str(tmp_path), data_files=files)[0].values()) == 9
    with pytest.raises(ValueError, match=r"1.png is a file: give the folder that holds it"):
        load_radiographs("imagefolder", str(put(tmp_path, "1.png", picture("png"))))
