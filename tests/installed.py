"""The package as `pip install` of its wheel leaves it, in a virtual environment of its own."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def install(folder: Path) -> Path:
    """Build and install the wheel; returns the environment's `bin`, which borrows the dependencies of this one."""
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "hf_radmae", folder / "hf_radmae", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", folder, folder], check=True, timeout=300)
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    pip = [
        python,
        "-I",
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        wheel,
    ]  # -I: what is on PYTHONPATH counts as installed
    subprocess.run(pip, check=True, timeout=300)
    site = next(folder.glob("env/lib/*/site-packages"))
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed))
    return folder / "env" / "bin"


def run(*words: object, cwd: Path, **more: str) -> str:
    """What a command of that environment prints; it sees no checkout, and the network only where `more` lets it."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "HF_DATASETS_CACHE": str(cwd / "cache")} | more
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    return done.stdout
