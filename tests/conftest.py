"""Where the real radiographs are, and one thread per test process so that timings and sums repeat."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported, here and in the processes that tests start: their networks are so small that a second thread
# only waits for the first, and on a busy machine for a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("radmae", deadline=None)  # a busy machine is no reason to fail
settings.load_profile("radmae")

DATA = Path(os.environ.get("HF_RADMAE_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def _folder(name: str) -> Path:
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: set HF_RADMAE_TEST_DATA to the folder that holds {name}/")
    return folder


@pytest.fixture(scope="session")
def radiographs() -> Path:
    """The folder of 4,044 real radiographs (an imagefolder with metadata.csv)."""
    return _folder("radiographs")


@pytest.fixture(scope="session")
def dicoms() -> Path:
    """The folder of real DICOM files in many transfer syntaxes."""
    return _folder("dicom")


@pytest.fixture(autouse=True)
def nothing_of_the_users(tmp_path_factory, monkeypatch):
    """Keys of pseudonyms and caches in folders of the tests, not of whoever runs them."""
    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(base / "config"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(base / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", base / "cache")
