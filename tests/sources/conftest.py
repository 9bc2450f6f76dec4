"""What tests of sources share."""

import datasets
import pytest


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache of `datasets` that no other test has written to."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()
