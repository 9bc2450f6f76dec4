"""The wheel holds what its commands need: templates of cards and reports, tables, and the console command."""

import pytest
from installed import ROOT, install, run


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The programs of an environment that has the wheel."""
    return install(tmp_path_factory.mktemp("wheel"))


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
    found = run(installed / "python", "-c", code, cwd=tmp_path)
    assert str(installed.parent) in found.splitlines()[0] and "Not for diagnosis" in found
    assert "pretrain" in run(installed / "hf-radmae", "--help", cwd=tmp_path)


@pytest.mark.slow
def test_the_installed_command_pre_trains_and_writes_its_card(installed, tmp_path):
    options = ["--num_images", 60, "--max_tokens", 36, "--num_train_epochs", 1, "--dataloader_num_workers", 0]
    run(installed / "hf-radmae", "pretrain", "--output_dir", "out", *options, cwd=tmp_path)
    assert "Not for diagnosis" in (tmp_path / "out" / "README.md").read_text()
