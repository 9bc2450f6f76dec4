"""Who talks to the Hub of the tests: pushers in this process, and scripts in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

from huggingface_hub import HfApi
from server import TOKEN, HubServer

from hf_radmae.publishing.push import Pusher

SCRIPTS = Path(__file__).parents[2] / "scripts"


def pusher(hub: HubServer, name: str = "m", token: str = TOKEN, **options) -> Pusher:
    return Pusher(name, api=HfApi(endpoint=hub.url, token=token), **{"attempts": 3, "pause": 0.01} | options)


def start(script: str, *options: str, folder: Path) -> subprocess.Popen:
    """Starts a script with caches of its own; the hub's variables are in the environment."""
    environment = {"HF_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, *([str(SCRIPTS / script)] if script.endswith(".py") else ["-c", script]), *options]
    return subprocess.Popen(
        words, env=os.environ | environment, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
