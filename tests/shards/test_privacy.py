"""Nothing that names a patient, a device or a file of the archive reaches what a lab hands on."""

import logging
import runpy
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_radmae.sources.phantom import Archive, write_archive

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def leaks(texts: set[str], folder: Path, *more: str) -> set[str]:
    """Which of the texts are anywhere in the files of a folder, columns of Parquet unpacked, or in more texts."""
    contents = [text.encode() for text in more]
    for path in folder.rglob("*"):
        contents.append(str(path.relative_to(folder)).encode())
        if path.is_file():
            contents.append(path.read_bytes())
        if path.suffix == ".parquet":
            contents += buffers(pq.read_table(path))
    whole = b"\n".join(contents)
    return {text for text in texts for coding in ("utf-8", "latin-1", "utf-16-le") if text.encode(coding) in whole}


def buffers(table: pa.Table) -> list[bytes]:
    chunks = [chunk for column in table.columns for chunk in column.chunks]
    return [buffer.to_pybytes() for chunk in chunks for buffer in chunk.buffers() if buffer is not None]


def run(script: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(SCRIPTS / script), run_name="__main__")


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Archive:
    """A clinical archive with files that break on the way: cut short, no DICOM at all, and a missing one."""
    archive = write_archive(tmp_path_factory.mktemp("archive"), 60, seed=8, scale=0.04, dirt=0.1)
    good = [archive.folder / file.path for file in archive.files if not file.dirt]
    good[0].write_bytes(good[0].read_bytes()[:-200])
    good[1].write_bytes(b"no DICOM" + str(good[1]).encode())
    good[2].unlink()
    good[2].symlink_to("nowhere")
    return archive


@pytest.mark.parametrize("table", ["auto", "null"])
def test_no_identifier_is_in_shards_manifest_logs_or_checkpoints(archive, table, tmp_path, monkeypatch, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    source = ["--dataset", "mri", "--data_dir", str(archive.folder), "--builder", f"table={table}", "verify=none"]
    run("prepare.py", *source, "--output_dir", "out/shards", "--longest_side", "48", monkeypatch=monkeypatch)
    if table == "auto":
        training = ["--max_tokens", "9", "--num_train_epochs", "1", "--per_device_train_batch_size", "8"]
        training += ["--dataloader_num_workers", "0", "--use_cpu", "true", "--figure_images", "1", "--patch_size", "8"]
        shards = ["--dataset", "parquet", "--data_dir", "out/shards", "--output_dir", "out/model"]
        run("pretrain.py", *shards, *training, monkeypatch=monkeypatch)
        assert list(Path("out/model").glob("checkpoint-*/model.safetensors"))
    assert list(Path("out/shards/data").glob("train-*.parquet"))
    assert len(Path("out/shards/quarantine.csv").read_text().splitlines()) > 1
    texts = {*archive.identifiers, str(archive.folder)}
    printed = capfd.readouterr()
    assert leaks(texts, Path("out"), printed.out, printed.err, caplog.text) == set()


def test_the_search_finds_what_is_there(archive, tmp_path):
    """Else the test above could not fail: nearly all identifiers are in the archive, also within compressed Parquet."""
    found = leaks({*archive.identifiers}, archive.folder)
    assert len(found) > 0.95 * len(archive.identifiers)
    name = max(archive.identifiers, key=len)
    pq.write_table(pa.table({"x": [f"x {name}"] * 1000}), tmp_path / "x.parquet", compression="zstd")
    assert leaks({name}, tmp_path) == {name}
