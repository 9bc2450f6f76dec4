"""Archives on remote storage: the rows, bytes and lists of a local folder, by a real SFTP server and by memory."""

import multiprocessing as mp
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import fsspec
import pytest
from damaged import encode, radiograph
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import PASSWORD, USER, sftp_store, stopped_for

from hf_radmae.batching.streaming import open_shards
from hf_radmae.cli.embed import EmbedArguments
from hf_radmae.cli.parse import parse
from hf_radmae.cli.prepare import RunArguments, main
from hf_radmae.images import remote
from hf_radmae.images.image import image_size, read_image
from hf_radmae.images.remote import RemotePath, locate, redacted, without_credentials
from hf_radmae.images.storage import StorageError
from hf_radmae.inference.embeddings import folder_parts, shard_parts
from hf_radmae.inference.search import pictures
from hf_radmae.pretraining.training_args import RadMAETrainingArguments
from hf_radmae.shards.prepare import prepare
from hf_radmae.shards.shrink import PrepareOptions
from hf_radmae.sources.load import load_radiographs
from hf_radmae.sources.parquet import holds_parquet
from hf_radmae.sources.pseudonyms import key_path
from hf_radmae.sources.scan import scan

NAMES = ("p1/a b.png", "p1/ü.PNG", "p2/c#1?x=%20&y.png", "p2/deep/er/[d]*.png", "p3/no suffix")
OPTIONS = PrepareOptions(longest_side=32, images_per_shard=2)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """A server's folder, in it `archive`: images with every kind of name, a table, and what cannot be used."""
    root = tmp_path_factory.mktemp("served")
    folder = root / "archive"
    for split, names in {"train": NAMES, "test": ["p8/1.png"], "validation": ["p9/1.png"]}.items():
        for number, name in enumerate(names):
            path = folder / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(radiograph(40, 48, seed=hash_of(name) + number), "PNG"))
    (folder / "train" / "p1" / "empty.png").touch()
    (folder / "train" / "p1" / "text.png").write_text("no image")
    (folder / "train" / "p1" / "notes.txt").write_text("no image")
    rows = [f'"{path.relative_to(folder).as_posix()}",{number % 2}' for number, path in enumerate(files_of(folder))]
    (folder / "metadata.csv").write_text("\n".join(["file_name,fracture", *rows, "gone.png,1"]), encoding="utf-8")
    return root


def hash_of(name: str) -> int:
    return sum(name.encode())


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".txt", ".csv"))


@pytest.fixture(scope="module")
def store(archive):
    with sftp_store(archive) as found:
        yield found


@pytest.fixture(params=["sftp", "memory"])
def url(request, archive, store) -> str:
    """The root of the same folder on two kinds of storage."""
    if request.param == "sftp":
        return store.url
    memory = fsspec.filesystem("memory")
    for path in (archive / "archive").rglob("*"):
        if path.is_file():
            memory.pipe_file(f"/served/{path.relative_to(archive).as_posix()}", path.read_bytes())
    return "memory://served"


def named(splits) -> dict[str, list]:
    return {
        split: sorted((Path(row["image"]["path"]).name, row["height"], row["width"], row["patient"]) for row in rows)
        for split, rows in splits.items()
    }


def test_a_folder_gives_the_rows_the_list_and_the_shards_of_the_local_one(url, archive, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    local, remote = f"{archive}/archive", f"{url}/archive/"
    splits, listed = load_radiographs("imagefolder", local)
    found, also_listed = load_radiographs("imagefolder", remote)
    assert named(found) == named(splits)
    assert [found[split].features for split in found] == [splits[split].features for split in splits]
    place = without_credentials(remote)
    assert [{**e, "image": e["image"].replace(f"{place}/", "")} for e in also_listed] == [
        {**entry, "image": entry["image"].replace(f"{local}/", "")} for entry in listed
    ]
    prepare(splits, tmp_path / "out", OPTIONS, key=b"key", root=local, unreadable=listed)
    for _ in range(2):  # the second finds everything there
        prepare(found, f"{url}/out", OPTIONS, key=b"key", root=remote, unreadable=also_listed)
    expected = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    out = locate(url) / "out"
    assert {f"out/{name}": (out / name).read_bytes() for name, _, _ in out.files()} == expected
    assert holds_parquet(out) and not holds_parquet(locate(url) / "archive")
    stream, rows = open_shards(f"{url}/out"), open_shards(tmp_path / "out")
    assert [stream["train"][i] for i in range(len(NAMES))] == [rows["train"][i] for i in range(len(NAMES))]
    copied, _ = load_radiographs("parquet", f"{url}/out", cache_dir=str(tmp_path / "cache"))
    assert sorted(copied["train"]["image_id"]) == sorted(rows["train"]["image_id"])
    for ours, theirs in ((folder_parts(remote, b"k"), folder_parts(local, b"k")), (shard_parts(f"{url}/out"), None)):
        theirs = theirs or shard_parts(tmp_path / "out")
        assert [(p.name, p.identity, p.images) for p in ours] == [(p.name, p.identity, p.images) for p in theirs]
    assert pictures(["train/p1/a b.png", "none.png"], remote).keys() == {"train/p1/a b.png"}
    shutil.rmtree(archive / "out", ignore_errors=True)


def test_the_password_goes_to_other_processes_and_into_no_text(store, archive, tmp_path, monkeypatch, capsys, caplog):
    place = locate(f"{store.url}/archive/train/{NAMES[0]}")
    with ProcessPoolExecutor(1, mp.get_context("spawn")) as pool:
        content = pool.submit(RemotePath.read_bytes, place).result()
    assert content == (archive / "archive" / "train" / NAMES[0]).read_bytes()
    words = ["--dataset", "imagefolder", "--data_dir", f"{store.url}/archive", "--output_dir", f"{store.url}/said"]
    monkeypatch.setattr("sys.argv", ["prepare.py", *words, "--longest_side", "32"])
    main()
    said = "".join([str(place), repr(place), *capsys.readouterr(), caplog.text])
    said += "".join(path.read_bytes().decode("latin-1") for path in (archive / "said").rglob("*.*"))
    for secret in (PASSWORD, "pass%2Fword", "word@1"):
        assert secret not in said
    assert redacted(f"cannot read {store.url}/x of {store.url}") == (
        f"cannot read sftp://127.0.0.1:{store.port}/x of sftp://127.0.0.1:{store.port}"
    )
    shutil.rmtree(archive / "said")


def test_a_server_that_restarts_is_waited_for_and_told_of_once(store, archive, caplog):
    place = locate(f"{store.url}/archive/train")
    expected = {path.name: path.read_bytes() for path in (archive / "archive" / "train" / "p1").iterdir()}
    found: list[dict[str, bytes]] = []
    with stopped_for(store, 2, lambda: len(found) >= 3) as times:
        while len(found) < 6 or len(times) < 2:
            found.append({name: (place / "p1" / name).read_bytes() for name in expected})
            assert image_size(place / "p1" / "a b.png") == (40, 48)
    assert all(content == expected for content in found)
    texts = [record.getMessage() for record in caplog.records if "answer" in record.getMessage()]
    assert len(texts) == 2 and "does not answer" in texts[0] and texts[1].endswith("answers again")


def test_a_server_that_does_not_come_back_ends_with_its_name(monkeypatch):
    monkeypatch.setattr("hf_radmae.images.storage.REMOTE_PAUSES", (0.01,))
    with pytest.raises(StorageError, match=r"does not answer .* after 2 attempts .*'sftp://reader@127\.0\.0\.1:1/a'"):
        locate(f"sftp://{USER}:{PASSWORD.replace('/', '%2F')}@127.0.0.1:1/a").exists()


@pytest.mark.parametrize(
    ("path", "error", "match"),
    [
        ("/archive/none.png", FileNotFoundError, "no such file or folder: 'sftp://reader@127.*none.png'"),
        ("/none", FileNotFoundError, "none: there is no such folder"),
        ("", PermissionError, "Permission denied.*'sftp://nobody@127"),
    ],
)
def test_what_waiting_does_not_mend_ends_at_once_with_the_url(store, path, error, match):
    url = store.url if path else store.url.replace(USER, "nobody")
    with pytest.raises(error, match=match):
        read_image(f"{url}{path}") if path.endswith("png") else load_radiographs("imagefolder", f"{url}{path}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a/b", "/a/b"),
        ("relative/x", "relative/x"),
        ("C:\\archive", "C:\\archive"),
        ("user/model", "user/model"),
        ("file:///a%20b/ü", "/a b/ü"),
        ("file://localhost/a", "/a"),
        ("file:/a", "/a"),
        ("s3://bucket", "s3://bucket"),
        ("S3://bucket/a b#?%/", "s3://bucket/a b#?%"),
        ("s3://key:se%2Fcret@bucket/x", "s3://bucket/x"),
        ("sftp://u:p%40@h:22/x/", "sftp://u@h:22/x"),
        ("sftp://u:p@x@h/x", "sftp://u@h/x"),
        ("hf://datasets/u/r@main/x", "hf://datasets/u/r@main/x"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("memory://a/b", "memory://a/b"),
        ("file://relative/x", None),
        ("s3:/bucket/x", None),
        ("s3:\\bucket\\x", None),
        ("s3://", None),
        ("s3://key:se/cret@bucket/x", None),
        ("sftp://u:se/cret@h/x", None),
        ("https://h/x?X-Amz-Signature=cret", None),
        ("abfs://c@a/x?sig=cret", None),
        ("ftp://u:cret@h/x", None),
        ("simplecache::s3://key:cret@bucket/x", None),
        ("nonsense://x", None),
    ],
)
def test_urls_of_every_kind_are_taken_without_password_or_refused_without_it(text, expected):
    if expected is not None:
        assert without_credentials(text) == expected
        return
    with pytest.raises(ValueError) as caught:
        without_credentials(text)
    assert "cret" not in str(caught.value)


@settings(max_examples=200)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=20))
def test_keys_of_any_letters_are_read_as_they_are(name):
    if name.strip(".") == "" or name != name.strip():
        return
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pipe_file(f"/any/{name}", b"content")
    place = locate("memory://any")
    assert [found for found, _, _ in place.files()] == [name]
    assert (place / name).read_bytes() == b"content" and (place / name).exists() and (place / name).is_file()
    assert (place / name).parent == place and (place / name).name == name


@pytest.mark.parametrize("objects", [False, True])
def test_names_that_read_as_tokens_are_listed_and_the_others_read(objects, monkeypatch):
    if objects:  # the listing of storages without folders
        monkeypatch.setattr(remote, "_OBJECTS", (*remote._OBJECTS, "memory"))
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for name in ("a.png", "b?x=1.png", "c?key=3.png", "sig?sig=x/d.png", "e&token=.png"):
        memory.pipe_file(f"/tokens/{name}", encode(radiograph(40, 48, seed=hash_of(name)), "PNG"))
    found = scan("memory://tokens")
    assert [file.name for file in found.images] == ["a.png", "b?x=1.png"]
    listed = {"c?key=3.png", "sig?sig=x/d.png" if objects else "sig?sig=x", "e&token=.png"}
    assert {name for name, reason in found.listed if "token" in reason} == listed


@pytest.mark.parametrize("form", ["file:{}", "file://{}", "FILE://localhost{}"])
def test_a_local_url_is_a_data_set_by_itself(archive, form):
    rows, _ = load_radiographs(form.format(archive / "archive"))
    assert sum(map(len, rows.values())) == len(NAMES) + 2


@pytest.mark.parametrize(
    ("classes", "words", "match"),
    [
        ((RadMAETrainingArguments,), ["--output_dir", "s3://b/x"], "--output_dir s3://b/x: give a local path"),
        ((EmbedArguments,), ["--model", "s3://k:cret@b/x", "--data_dir", "a", "--output_dir", "b"], "--model s3://b/x"),
        (
            (RunArguments, PrepareOptions),
            ["--dataset", "imagefolder", "--output_dir", "x", "--key_file", "sftp://h/key"],
            "a URL is taken by --data_dir, --dataset, --output_dir",
        ),
    ],
)
def test_options_that_take_no_url_refuse_it_by_name(classes, words, match, capsys):
    with pytest.raises(SystemExit):
        parse(classes, words)
    said = capsys.readouterr().err
    assert match in said and "cret" not in said


@pytest.mark.parametrize("source", ["mri", "irma", "phantom", "somebody/data"])
def test_sources_that_need_a_local_folder_say_so(source):
    with pytest.raises(ValueError, match=f"s3://bucket/x: {source} reads a local folder"):
        load_radiographs(source, "s3://bucket/x")


def test_a_package_that_is_missing_is_named():
    with pytest.raises(ImportError, match=r"gs:// needs a package .*gcsfs"):
        locate("gs://bucket/x").exists()


def test_keys_of_hashes_belong_to_the_url_wherever_a_run_starts(tmp_path, monkeypatch):
    before = key_path("s3://bucket/out/")
    monkeypatch.chdir(tmp_path)
    assert key_path("s3://bucket/out") == before != key_path("s3://bucket/other")


def test_links_are_followed_to_files_and_listed_where_they_lead_nowhere(store, archive):
    folder = archive / "links"
    folder.mkdir()
    (folder / "real.png").write_bytes(encode(radiograph(40, 48), "PNG"))
    (folder / "link.png").symlink_to("real.png")
    (folder / "nowhere.png").symlink_to("none.png")
    (folder / "folder").symlink_to("../archive")
    found = {name: problem for name, _, problem in locate(f"{store.url}/links").files()}
    assert found.pop("nowhere.png") == "is a link to nothing"
    assert "is not followed" in found.pop("folder")
    assert found == {"real.png": "", "link.png": ""}
    shutil.rmtree(folder)


def test_zips_and_tables_are_read_from_remote_storage(store, archive, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    shutil.make_archive(str(archive / "packed"), "zip", archive / "archive")
    splits, _ = load_radiographs("imagefolder", f"{store.url}/packed.zip")
    expected, _ = load_radiographs("imagefolder", str(archive / "archive"))
    assert {split: len(rows) for split, rows in splits.items()} == {s: len(rows) for s, rows in expected.items()}
    (archive / "packed.zip").unlink()
