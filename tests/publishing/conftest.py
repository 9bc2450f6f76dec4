"""A Hub on loopback for every test that asks for one."""

import huggingface_hub
import pytest
from server import HubServer


@pytest.fixture
def hub(monkeypatch):
    """A Hub that this process and its children talk to."""
    with HubServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)  # read at import
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        yield server
