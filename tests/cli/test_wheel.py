"""The wheel holds what its commands need: templates of cards and reports, tables, and the console command."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel in a virtual environment of its own, which borrows the dependencies of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "hf_radmae", folder / "hf_radmae", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", folder, folder], check=True, timeout=300)
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True, timeout=300)
    site = next(folder.glob("env/lib/*/site-packages"))
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed))
    return folder / "env" / "bin"


def run(installed: Path, *words: object, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "HF_DATASETS_CACHE": str(cwd / "cache")}
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_file_beside_the_code_is_in_the_wheel(installed):
    site = next(installed.parent.glob("lib/*/site-packages/hf_radmae"))
    beside = [path.relative_to(ROOT / "hf_radmae") for path in (ROOT / "hf_radmae").rglob("*") if path.is_file()]
    beside = [path for path in beside if "__pycache__" not in path.parts]
    assert any(path.suffix == ".j2" for path in beside) and any(path.suffix == ".csv" for path in beside)
    assert not [path for path in beside if not (site / path).is_file()]


def test_a_card_is_rendered_by_the_installed_package(installed, tmp_path):
    code = (
        "import hf_radmae; from hf_radmae.publishing.card import render_card;"
        "print(hf_radmae.__file__); print(render_card({'name': 'mine'}))"
    )
    found = run(installed, installed / "python", "-c", code, cwd=tmp_path)
    assert str(installed.parent) in found.splitlines()[0] and "Not for diagnosis" in found
    assert "pretrain" in run(installed, installed / "hf-radmae", "--help", cwd=tmp_path)


@pytest.mark.slow
def test_the_installed_command_pre_trains_and_writes_its_card(installed, tmp_path):
    options = ["--num_images", 60, "--max_tokens", 36, "--num_train_epochs", 1, "--dataloader_num_workers", 0]
    run(installed, installed / "hf-radmae", "pretrain", "--output_dir", "out", *options, cwd=tmp_path)
    assert "Not for diagnosis" in (tmp_path / "out" / "README.md").read_text()
